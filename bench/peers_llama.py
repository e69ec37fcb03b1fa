"""Measures llama.cpp for bench/peers, in the Python that llama-cpp-python is installed in: loads the model once and
times every case in every context's setting. Prints a JSON line for each as it is done, so that what was measured
before a failure counts. A warm pass goes before, so that no timed pass is the first to touch anything."""

import argparse
import json
import random
import resource
import sys
import time

from common_llama import about, context_params, decode, open_context, open_model, read_bytes

GGML_TYPE_F16 = 1
BOS = 2
FIRST_WORD_SHARE = 4  # control tokens and bytes lie in the first quarter of a small vocabulary,
FIRST_WORD_LIMIT = 1000  # or below this id of a large one
WARM_DECODE_TOKENS = 4
MIN_BATCH_TOKENS = 2048  # llama.cpp's own; a prompt comes in batches and is computed in micro-batches


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--about", action="store_true", help="print version and build, load nothing")
    parser.add_argument("--job", type=json.loads, help="what to measure, as JSON")
    return parser.parse_args()


def draw_ids(n_vocab, n_tokens):
    chance = random.Random(4)
    first = min(FIRST_WORD_LIMIT, n_vocab // FIRST_WORD_SHARE)
    return [BOS] + [chance.randrange(first, n_vocab) for _ in range(n_tokens - 1)]


def set_flash_attention(llama, params, flash):
    if "flash_attn_type" in {field[0] for field in params._fields_}:
        params.flash_attn_type = (llama.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash
                                  else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    else:
        params.flash_attn = flash


class Timeline:
    """A context with the ids that fill it."""

    def __init__(self, llama, model, job, setting):
        self.llama = llama
        n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
        n_tokens = max(case["context"] + case["tokens"] for case in job["cases"])
        self.n_warm = min(job["warm_tokens"], n_tokens)
        self.ids = draw_ids(n_vocab, n_tokens + WARM_DECODE_TOKENS)
        params = context_params(llama, len(self.ids), job["threads"])
        params.n_ubatch = setting["ubatch"]
        params.n_batch = self.n_batch = max(MIN_BATCH_TOKENS, setting["ubatch"])
        params.type_k = params.type_v = GGML_TYPE_F16
        set_flash_attention(llama, params, setting["flash"])
        self.context = open_context(llama, model, params)

    def close(self):
        self.llama.llama_free(self.context)

    def clear(self):
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), False)

    def prefill(self, first, end):
        for start in range(first, end, self.n_batch):
            decode(self.llama, self.context, self.ids[start:min(start + self.n_batch, end)])

    def step(self, first, end):
        for at in range(first, end):
            decode(self.llama, self.context, [self.ids[at]])

    def warm(self):
        self.prefill(0, self.n_warm)
        self.step(self.n_warm, self.n_warm + WARM_DECODE_TOKENS)

    def measure(self, case):
        """At a depth the tokens before are computed, untimed: llama.cpp has no other way to fill its cache."""
        depth, end = case["context"], case["context"] + case["tokens"]
        self.clear()
        self.prefill(0, depth)
        before_bytes = read_bytes()
        before_faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        started = time.perf_counter()
        (self.prefill if case["phase"] == "prefill" else self.step)(depth, end)
        seconds = time.perf_counter() - started
        return {**case, "tok_s": case["tokens"] / seconds, "timed_read_bytes": read_bytes() - before_bytes,
                "timed_major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before_faults}


def run(llama, job):
    model = open_model(llama, job["model"], job["mmap"], job["repack"])
    for setting in job["contexts"]:
        timeline = Timeline(llama, model, job, setting)
        timeline.warm()
        for case in job["cases"]:
            print(json.dumps({**timeline.measure(case), "setting": setting["name"]}), flush=True)
        timeline.close()


def main():
    options = parse()
    import llama_cpp as llama

    if options.about:
        print(json.dumps(about(llama)), flush=True)
    else:
        run(llama, options.job)
    return 0


sys.exit(main())
