"""What the plan's choices are worth: each alternative is measured between two runs of the plan's own settings, so that
a machine that drifts does not choose. The best of several is the luckiest of them as well; it is therefore measured
anew beside the plan, and only that counts."""

import argparse
import statistics

from common_machine import physical_cores
from common_main import say
from common_report import aligned, three_digits
from predict_measure import GENERATED_TOKENS, PROMPT_TOKENS, CannotRun

TARGET = 0.05
KNOBS = ("threads", "batch", "ring", "prefetch")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


# ---- the alternatives


def size(text):
    """Bytes of 256M, 1G; 0 of auto."""
    number = text.upper()
    unit = UNITS.get(number[-1:], 1)
    digits = number[:-1] if unit > 1 else number
    if number != "AUTO" and not digits.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 256M, and not auto")
    return 0 if number == "AUTO" else int(digits) * unit


def count(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def switch(text):
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return text == "on"


READERS = {"threads": count, "batch": count, "ring": size, "prefetch": switch}
FIELDS = {"threads": "threads", "batch": "batch", "ring": "ring_bytes", "prefetch": "prefetch"}


def values(text):
    """'batch=64,256;prefetch=on,off' into lists by name."""
    found = {}
    for part in text.split(";"):
        name, _, list_text = part.partition("=")
        if name.strip() not in KNOBS:
            raise argparse.ArgumentTypeError(f"{name.strip()!r} is none of {', '.join(KNOBS)}")
        found[name.strip()] = [READERS[name.strip()](word.strip()) for word in list_text.split(",")]
    return found


def has_home(plan, home):
    """Whether a dense unit, or an expert, has that home."""
    return any(home in layer["dense"].values() or home in layer["experts"] for layer in plan["layers"])


def usual_values(plan):
    """What may matter: a ring where something is streamed, prefetch where experts come and go."""
    own = plan["settings"]
    cores = physical_cores()
    found = {"threads": [1, max(cores // 2, 1), cores], "batch": [64, 128, 256, 512]}
    if has_home(plan, "stream"):
        base = own["ring_bytes"] or plan["memory"]["buffer_bytes"]
        found["ring"] = [0, base * 2, base * 4]
    if has_home(plan, "pool"):
        found["prefetch"] = [True, False]
    return found


def alternatives(plan, asked):
    """Settings that differ from the plan's in one point, each once."""
    own, found = plan["settings"], []
    for knob, list_of_values in (asked or usual_values(plan)).items():
        for value in list_of_values:
            settings = {**own, FIELDS[knob]: value}
            if settings != own and settings not in found:
                found.append(settings)
    return found


def in_words(settings):
    ring = f"ring {settings['ring_bytes'] / (1 << 20):.0f} MiB" if settings["ring_bytes"] else "least ring"
    plural = "s" if settings["threads"] > 1 else ""
    return (f"{settings['threads']} thread{plural}, batch {settings['batch']}, {ring}, "
            f"prefetch {'on' if settings['prefetch'] else 'off'}")


def difference(settings, own):
    both = zip(in_words(settings).split(", "), in_words(own).split(", "))
    return ", ".join(words for words, own_words in both if words != own_words)


# ---- measuring


def turn_of(bench):
    """Seconds of the turn that is planned for, by the speeds of its two phases."""
    speed = {result["phase"]: result["tok_s"] for result in bench["results"]}
    return {"prefill_tok_s": speed["prefill"], "decode_tok_s": speed["decode"],
            "turn_s": PROMPT_TOKENS / speed["prefill"] + GENERATED_TOKENS / speed["decode"]}


class Sweep:
    """One plan and its alternatives; `measure` is a function of settings that returns a turn."""

    def __init__(self, own, others, measure):
        self.own, self.others, self.measure = own, list(others), measure
        self.own_turns = []
        self.turns = [[] for _ in others]   # of each alternative
        self.ratios = [[] for _ in others]  # to the mean of the plan's before and after
        self.failures = {}

    def round(self, indices):
        """The plan, an alternative, the plan, the next, …, the plan."""
        before = self._own()
        for index in indices:
            try:
                turn = self.measure(self.others[index])
            except CannotRun as why:
                self.failures[index] = str(why)
                continue
            after = self._own()
            self.turns[index].append(turn)
            self.ratios[index].append(2 * turn["turn_s"] / (before["turn_s"] + after["turn_s"]))
            before = after

    def _own(self):
        self.own_turns.append(self.measure(self.own))
        return self.own_turns[-1]

    def working(self):
        return [index for index in range(len(self.others)) if index not in self.failures]

    def best(self):
        """The index of the alternative that is quickest by the median of its ratios; None without any."""
        return min((index for index in self.working() if self.ratios[index]), default=None,
                   key=lambda index: statistics.median(self.ratios[index]))


def median_turn(turns):
    return {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}


def rows_of(sweep):
    rows = [{"what": "the plan: " + in_words(sweep.own), **median_turn(sweep.own_turns), "ratio": 1.0}]
    for index, settings in enumerate(sweep.others):
        row = {"what": difference(settings, sweep.own), "settings": settings}
        if index in sweep.failures:
            row["failure"] = sweep.failures[index]
        elif sweep.turns[index]:
            row.update(median_turn(sweep.turns[index]), ratio=statistics.median(sweep.ratios[index]))
        rows.append(row)
    return rows


def measure(lode, setting, options, results):
    """Adds the regret of one model and ceiling to the results, after each round what is known of it."""
    try:
        setting.plan = lode.plan(setting)
    except CannotRun as why:
        results.leave_out(setting, why)
        return
    own = setting.plan["settings"]

    def turn(settings):
        say(f"{setting.title()}: {in_words(settings)}")
        return turn_of(lode.bench(setting, options.tokens, options.repeats, settings))

    sweep = Sweep(own, alternatives(setting.plan, options.regret_values), turn)
    entry = {"setting": setting.title(), "rows": [], "best": None, "regret": None}
    try:
        results.regrets.append(entry)
        for number in range(options.rounds):
            sweep.round(sweep.working()[::1 if number % 2 == 0 else -1])
            entry["rows"] = rows_of(sweep)
            results.keep()
        entry.update(confirm(sweep, options.rounds))
    except CannotRun as why:  # the plan's own settings
        results.regrets.remove(entry)
        results.leave_out(setting, why)
    results.keep()


def confirm(sweep, rounds):
    """Measures the best anew, if it was quicker than the plan."""
    best = sweep.best()
    if best is None or statistics.median(sweep.ratios[best]) >= 1:
        return {"best": "the plan", "regret": 0.0}
    sweep.ratios[best] = []
    for _ in range(rounds):
        sweep.round([best])
    if not sweep.ratios[best]:
        raise CannotRun(f"{in_words(sweep.others[best])} worked at first: {sweep.failures[best]}")
    ratio = statistics.median(sweep.ratios[best])
    return {"best": difference(sweep.others[best], sweep.own), "confirmed_ratio": ratio, "regret": max(1 / ratio - 1, 0.0)}


# ---- the report


def table(entry):
    lines = [["settings", "turn s", "to the plan's", "prefill tok/s", "decode tok/s"]]
    for row in entry["rows"]:
        if "failure" in row:
            lines.append([row["what"], f"does not run: {row['failure']}"])
        elif "turn_s" in row:
            lines.append([row["what"], three_digits(row["turn_s"]), f"{row['ratio']:.3f}",
                          three_digits(row["prefill_tok_s"]), three_digits(row["decode_tok_s"])])
    return aligned(lines, 1)


def report(entries):
    lines = []
    for entry in [each for each in entries if each["rows"]]:
        lines += [f"{entry['setting']}, a turn of {PROMPT_TOKENS} + {GENERATED_TOKENS} tokens", *table(entry)]
        confirmed = f"; measured anew: {entry['confirmed_ratio']:.3f}" if "confirmed_ratio" in entry else ""
        lines += [f"best found: {entry['best']}{confirmed}; regret {100 * entry['regret']:.1f}%"
                  if entry["best"] else "interrupted: no regret", ""]
    regrets = [entry["regret"] for entry in entries if entry["best"]]
    if regrets:
        lines.append(f"regret: {len(regrets)} plans, median {100 * statistics.median(regrets):.1f}%, worst "
                     f"{100 * max(regrets):.1f}% (wanted: {100 * TARGET:.0f}%)")
        lines.append("")
    return lines
