"""One run of llama.cpp for bench/offload, in the Python that llama-cpp-python is installed in: loads the model
through mmap, prefills the prompt, decodes step by step and prints one JSON line. Each phase is begun with a line
on stderr, so that whoever kills the process knows how far it came. SIGINT ends decode early, with the figures
of the steps that were done."""

import argparse
import ctypes
import json
import os
import signal
import sys
import time

stop_early = False


def on_interrupt(*_):
    global stop_early
    stop_early = True


def begin_phase(name):
    print(f"phase: {name}", file=sys.stderr, flush=True)


def read_bytes():
    """What this process has fetched from the drive; page faults of a mapping and their read-ahead count."""
    with open("/proc/self/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["read_bytes"])


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


def ggml_version():
    """The versions in ggml itself, where this build has them."""
    import llama_cpp

    folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    try:
        ggml = ctypes.CDLL(os.path.join(folder, "libggml-base.so"))
        ggml.ggml_version.restype = ggml.ggml_commit.restype = ctypes.c_char_p
        return f"{ggml.ggml_version().decode()} ({ggml.ggml_commit().decode()})"
    except (OSError, AttributeError):
        return None


def about(llama):
    return {"llama_cpp_python": llama.__version__, "ggml": ggml_version(),
            "system_info": llama.llama_print_system_info().decode().strip().strip("|").strip()}


def open_model(llama, options):
    params = llama.llama_model_default_params()
    names = {field[0] for field in params._fields_}
    params.n_gpu_layers = 0
    if "load_mode" in names:
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP
    else:
        params.use_mmap = True
    # Repacked weights are a copy in anonymous memory, which cannot be dropped and read again.
    if "use_extra_bufts" in names:
        params.use_extra_bufts = options.repack
    model = llama.llama_model_load_from_file(options.model.encode(), params)
    if not model:
        sys.exit("llama.cpp does not load the model")
    return model


def open_context(llama, model, options, n_ctx):
    params = llama.llama_context_default_params()
    names = {field[0] for field in params._fields_}
    params.n_ctx = n_ctx
    params.n_threads = params.n_threads_batch = options.threads
    if options.batch:
        params.n_batch = params.n_ubatch = options.batch
    if "swa_full" in names:
        params.swa_full = False  # as the programs of llama.cpp do: no KV cache beyond the sliding window
    context = llama.llama_init_from_model(model, params)
    if not context:
        sys.exit("llama.cpp makes no context")
    return context, params.n_batch


def decode(llama, context, ids):
    array = (llama.llama_token * len(ids))(*ids)
    code = llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids)))
    if code:
        sys.exit(f"llama_decode failed with code {code}")
    llama.llama_synchronize(context)


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
    model = open_model(llama, options)
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
