"""One run of llama.cpp for bench/offload, in the Python that llama-cpp-python is installed in: loads the model
through mmap, prefills the prompt, decodes step by step and prints one JSON line. Each phase is begun with a line
on stderr, so that whoever kills the process knows how far it came. SIGINT ends decode early, with the figures
of the steps that were done."""

import argparse
import json
import os
import signal
import sys
import time

import common_llama
from common_llama import about, context_params, decode, open_model, read_bytes

stop_early = False


def on_interrupt(*_):
    global stop_early
    stop_early = True


def begin_phase(name):
    print(f"phase: {name}", file=sys.stderr, flush=True)


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--about", action="store_true", help="print version and build, load nothing")
    parser.add_argument("--model")
    parser.add_argument("--ids", help="file with the prompt's token ids")
    parser.add_argument("--forced", help="file with ids to decode instead of the model's own choice")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, help="tokens of a prefill step, default llama.cpp's")
    parser.add_argument("--repack", action="store_true")
    return parser.parse_args()


def read_ids(path):
    with open(path, encoding="ascii") as file:
        return [int(word) for word in file.read().replace(",", " ").split()]


def open_context(llama, model, options, n_ctx):
    params = context_params(llama, n_ctx, options.threads)
    if options.batch:
        params.n_batch = params.n_ubatch = options.batch
    return common_llama.open_context(llama, model, params), params.n_batch


def best_token(llama, numpy, context, n_vocab):
    logits = llama.llama_get_logits_ith(context, -1)
    return int(numpy.ctypeslib.as_array(logits, shape=(n_vocab,)).argmax())


def run(llama, options):
    import numpy

    ids = read_ids(options.ids)
    forced = read_ids(options.forced) if options.forced else None
    figures = {"interpreter_bytes": resident_bytes(), "repack": options.repack}
    marks = [(time.monotonic(), read_bytes())]

    begin_phase("load")
    # Repacked weights are a copy in anonymous memory, which cannot be dropped and read again.
    model = open_model(llama, options.model, mmap=True, repack=options.repack)
    n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    context, n_batch = open_context(llama, model, options, len(ids) + options.tokens)
    marks.append((time.monotonic(), read_bytes()))

    begin_phase("prefill")
    for start in range(0, len(ids), n_batch):
        decode(llama, context, ids[start:start + n_batch])
    token = best_token(llama, numpy, context, n_vocab)
    marks.append((time.monotonic(), read_bytes()))

    begin_phase("decode")
    own, step_s = [token], []
    while len(own) < options.tokens and not stop_early:
        started = time.monotonic()
        decode(llama, context, [forced[len(own) - 1] if forced else own[-1]])
        own.append(best_token(llama, numpy, context, n_vocab))
        step_s.append(time.monotonic() - started)
    marks.append((time.monotonic(), read_bytes()))

    for name, (before, after) in zip(("load", "prefill", "decode"), zip(marks, marks[1:])):
        figures[name + "_s"] = after[0] - before[0]
        figures[name + "_bytes"] = after[1] - before[1]
    figures["prompt_tokens"], figures["generated_tokens"] = len(ids), len(own)
    figures["prefill_tok_s"] = len(ids) / figures["prefill_s"]
    figures["decode_tok_s"] = len(step_s) / sum(step_s) if step_s else None
    figures["bytes_per_token"] = figures["decode_bytes"] / len(step_s) if step_s else None
    figures["step_ms"] = [round(s * 1e3, 3) for s in step_s]
    figures["ids"], figures["stopped_early"] = own, stop_early
    return figures


def main():
    options = parse()
    signal.signal(signal.SIGINT, on_interrupt)
    import llama_cpp as llama

    print(json.dumps(about(llama) if options.about else run(llama, options)), flush=True)


main()
