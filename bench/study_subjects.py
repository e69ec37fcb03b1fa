"""The traces of the study: the recorded 26B-A4B, the demo model on text that it was not trained on, and made-up ones of
the 26B's size that differ in one thing each."""

import os

from common_machine import Trouble, read_text
from common_main import say
from study_simulate import Sample, Subject

REAL = "tests/data/traces/gemma4-26b-a4b.route.csv.zst"
DEMO = "models/tiny-moe-q4_0.gguf"
HELD_OUT = "tests/data/tiny/heldout.txt"
SHAPE = ["--shape", "26b-a4b", "--type", "q4_0"]
PROMPT_BYTES = 600
CONTEXT = 512  # of the demo model
CEILINGS_MIB = range(64, 128, 2)
GUESS_PRECISION = 0.78  # of the 26B's next gate, as colibri measured it on a small sample

# Skew, reuse (None: what the skew makes), topics. The middle one has the figures of the recording.
MADE = [("flat", "flat: skew 0.5", 0.5, None, 1), ("like", "as recorded: skew 0.97, reuse 36%", 0.97, 0.356, 1),
        ("steep", "steep: skew 1.2", 1.2, None, 1), ("sticky", "sticky: skew 0.97, reuse 60%", 0.97, 0.6, 1),
        ("topics", "four topics: skew 0.97", 0.97, None, 4)]


def facts_of(lode, subject):
    """Fills in what the summaries say, and whether the traces have guesses."""
    subject.facts = [lode.asked("trace", *sample.tests) for sample in subject.samples]
    subject.guesses = all(facts["guess_precision_by_rank"] for facts in subject.facts)
    return subject


def real(lode, options, root, _):
    path = options.trace or os.path.join(root, REAL)
    if not os.path.isfile(path):
        raise Trouble(f"no trace {path}; name one of 26B-A4B with --trace")
    return [facts_of(lode, Subject("real", "26B-A4B, recorded", SHAPE, [Sample([path], [])], False))]


# ---- the demo model


def passages(text, n):
    """n prompts from all over the text, each from the beginning of a paragraph."""
    found = []
    for number in range(n):
        start = text.find("\n\n", len(text) * (2 * number + 1) // (2 * n))
        passage = text[start:].strip()[:PROMPT_BYTES] if start >= 0 else ""
        if len(passage) < PROMPT_BYTES // 2:
            raise Trouble(f"the held-out text of {len(text)} characters is too short for {n} conversations")
        found.append(passage.rsplit(" ", 1)[0])
    return found


def record(lode, model, prompt, tokens, path):
    """Records under the lowest ceiling that the run starts with: the next layer's router is only asked ahead, and its
    guesses recorded, where not all experts are in memory. The ceiling has no say in the text."""
    for ceiling_mib in CEILINGS_MIB:
        try:
            lode.run("run", "-m", model, "-p", prompt, "-n", str(tokens), "-c", str(CONTEXT), "--temp", "0", "--ignore-eos",
                     "--cold", "--plan", "off", "--ram", f"{ceiling_mib}M", "--trace", path)
            return
        except Trouble as trouble:
            why = trouble
    raise why


def demo(lode, options, root, folder):
    """Conversations recorded one by one; the first half is for learning, the rest for measuring."""
    model, text = os.path.join(root, DEMO), read_text(os.path.join(root, HELD_OUT))
    if text is None:
        raise Trouble(f"no text {os.path.join(root, HELD_OUT)}")
    traces = []
    for number, prompt in enumerate(passages(text, options.conversations)):
        say(f"recording conversation {number + 1} of {options.conversations} of the demo model")
        traces.append(os.path.join(folder, f"demo-{number + 1}.trace"))
        record(lode, model, prompt, options.tokens, traces[-1])
    half = len(traces) // 2
    fit = os.path.join(folder, "demo.fit")
    lode.run("trace", "--merge", fit, *traces[:half])
    subject = Subject("demo", "demo model, held-out text", ["-m", model], [Sample(traces[half:], [fit])], False)
    return [facts_of(lode, subject)]


# ---- made up


def make(lode, options, folder, key, skew, reuse, topics, seed):
    """A trace of which half the conversations of each topic are learned from. A seed has orders of popularity of its
    own, so each seed's trace is fitted on its own half."""
    path = os.path.join(folder, f"{key}-{seed}")
    conversations = 2 * max(topics, 2)
    lode.run("trace", "--make", path + ".trace", "--tokens", str(options.tokens), "--prompt", "32", "--topics", str(topics),
             "--conversations", str(conversations), "--skew", str(skew), "--guess-precision", str(GUESS_PRECISION),
             "--seed", str(seed), *(["--reuse", str(reuse)] if reuse is not None else []))
    lode.run("trace", "--merge", path, "--split", "0.5", path + ".trace")
    return Sample([path + ".test"], [path + ".fit"])


def made(lode, options, _, folder):
    subjects = []
    for key, title, skew, reuse, topics in MADE:
        say(f"making traces: {title}")
        samples = [make(lode, options, folder, key, skew, reuse, topics, seed) for seed in range(1, options.seeds + 1)]
        subjects.append(facts_of(lode, Subject(key, title, SHAPE, samples, True)))
    return subjects


KINDS = {"real": real, "demo": demo, "made": made}
