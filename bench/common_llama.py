"""What the workers that run llama.cpp have in common, in the Python that llama-cpp-python is installed in: they
call its native library through ctypes. Options that an older or newer one has not are left as they are."""

import ctypes
import os
import sys


def read_bytes():
    """What this process has fetched from the drive; page faults of a mapping and their read-ahead count."""
    with open("/proc/self/io", encoding="ascii") as file:
        return int(dict(line.split(": ") for line in file)["read_bytes"])


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


def open_model(llama, path, mmap=True, repack=False):
    """Through mmap, or read into memory. `repack`: a copy of weights in a faster layout, in anonymous memory."""
    params = llama.llama_model_default_params()
    names = {field[0] for field in params._fields_}
    params.n_gpu_layers = 0
    if "load_mode" in names:
        params.load_mode = llama.LLAMA_LOAD_MODE_MMAP if mmap else llama.LLAMA_LOAD_MODE_NONE
    else:
        params.use_mmap = mmap
    if "use_extra_bufts" in names:
        params.use_extra_bufts = repack
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit("llama.cpp does not load the model")
    return model


def context_params(llama, n_ctx, n_threads):
    params = llama.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_threads = params.n_threads_batch = n_threads
    if "swa_full" in {field[0] for field in params._fields_}:
        params.swa_full = False  # as the programs of llama.cpp do: no KV cache beyond the sliding window
    return params


def open_context(llama, model, params):
    context = llama.llama_init_from_model(model, params)
    if not context:
        sys.exit("llama.cpp makes no context")
    return context


def decode(llama, context, ids):
    array = (llama.llama_token * len(ids))(*ids)
    code = llama.llama_decode(context, llama.llama_batch_get_one(array, len(ids)))
    if code:
        sys.exit(f"llama_decode failed with code {code}")
    llama.llama_synchronize(context)
