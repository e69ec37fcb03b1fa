"""The processes of a benchmark: running one to its end, its time limit or our own interruption; the program
of Lode; and llama.cpp through llama-cpp-python in an environment of its own, which is installed where it is
missing."""

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from common_machine import Trouble, cpu_flags, output_of, read_text

POLL_S = 0.02
INTERRUPT_GRACE_S = 30  # to finish the token at hand and tell the figures, under a limit that slows everything
PEER_CMAKE_ARGS = ("-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "
                   "-DLLAMA_BUILD_TOOLS=OFF -DLLAVA_BUILD=OFF")


# ---- a process


def process_io(pid):
    """read_bytes and write_bytes of a process; readable until it is reaped."""
    lines = read_text(f"/proc/{pid}/io", "").splitlines()
    fields = dict(line.split(": ") for line in lines)
    return {name: int(fields[name]) for name in ("read_bytes", "write_bytes") if name in fields}


def has_ended(pid):
    """Whether it has ended; leaves it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def wait_for_end(pid, timeout_s):
    stop = time.monotonic() + timeout_s
    while not has_ended(pid):
        if time.monotonic() >= stop:
            return False
        time.sleep(POLL_S)
    return True


def run_process(command, timeout_s, folder, enter=None, where=""):
    """Runs a command to its end, to the time limit or to our own interruption. `enter` is called in the child
    before it starts; `where` says for an error what it was to enter."""
    paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
    process = None
    started = time.monotonic()
    try:
        with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                       start_new_session=True, preexec_fn=enter,
                                       env={**os.environ, "LC_ALL": "C.UTF-8"})
        timed_out = not wait_for_end(process.pid, timeout_s)
        if timed_out:
            process.send_signal(signal.SIGINT)
            if not wait_for_end(process.pid, INTERRUPT_GRACE_S):
                process.kill()
                wait_for_end(process.pid, 60)
        counts = process_io(process.pid)
    except (OSError, subprocess.SubprocessError) as error:
        raise Trouble(f"cannot start {command[0]}{where}: {error}") from error
    finally:
        if process and process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process:  # LLVM's OpenMP leaves it behind when it is killed
            for path in glob.glob(f"/dev/shm/__KMP_REGISTERED_LIB_{process.pid}_*"):
                os.remove(path)
    out, err = (read_text(path, "") for path in paths)
    return {"exit_code": process.returncode, "timed_out": timed_out, "wall_s": time.monotonic() - started,
            "process_read_bytes": counts.get("read_bytes"), "process_written_bytes": counts.get("write_bytes"),
            "stdout": out, "stderr": err}


@contextlib.contextmanager
def scratch_folder():
    # In memory, so that what the harness writes is not taken for writes of an arm.
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lode-bench-", dir=home) as folder:
        yield folder


# ---- Lode


class LodeProgram:
    """The program that is measured, and what it says of a model file."""

    def __init__(self, program):
        self.program = program
        if not os.access(program, os.X_OK):
            raise Trouble(f"no program at {program}; build it (ninja -C build lode) or name it with --lode")

    def info(self, model):
        try:
            return json.loads(output_of([self.program, "info", "--json", "--tensors", model]) or "")
        except ValueError as error:
            raise Trouble(f"{self.program} info cannot read {model}") from error


# ---- llama.cpp


class LlamaPython:
    """llama-cpp-python in an environment; `worker` is a script for its Python that knows --about."""

    def __init__(self, venv, worker):
        self.venv = venv
        self.python = os.path.join(venv, "bin", "python")
        self.command = [self.python, "-B", worker]  # no __pycache__ in the sources
        self.about = None

    def prepare(self):
        """Installs llama-cpp-python where it is missing, and asks it what it is."""
        self.about = self._ask()
        if not self.about:
            install_peer(self.venv)
            self.about = self._ask()
        if not self.about:
            raise Trouble(f"llama-cpp-python in {self.venv} does not start: "
                          f"try {self.python} -c 'import llama_cpp'")
        self.about["build"] = read_text(build_note_path(self.venv), "flags unknown: not installed by this script")

    def _ask(self):
        with contextlib.suppress(ValueError):
            return json.loads(output_of(self.command + ["--about"]) or "")
        return None


def build_note_path(venv):
    return os.path.join(venv, "lode-bench-build")


def peer_compiler():
    """gcc 12 may build AMX code that dies of SIGILL, so clang builds where the CPU has AMX."""
    if "amx_tile" not in cpu_flags():
        return {}
    if not shutil.which("clang") or not shutil.which("clang++"):
        raise Trouble("this CPU has AMX and llama.cpp needs clang for it; install clang, or install "
                      "llama-cpp-python yourself and name its environment with --peer-venv")
    return {"CC": "clang", "CXX": "clang++"}


def run_family(command, log, environment):
    """Runs a command whose children, compilers among them, end with it when we are interrupted."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                               start_new_session=True)
    try:
        return process.wait()
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def install_peer(venv):
    compiler = peer_compiler()
    print(f"installing the newest llama-cpp-python in {venv}, built for this CPU; this takes minutes",
          file=sys.stderr)
    os.makedirs(venv, exist_ok=True)
    log_path = os.path.join(venv, "install.log")
    flags = {"CMAKE_ARGS": PEER_CMAKE_ARGS, **compiler}
    steps = ([sys.executable, "-m", "venv", venv],
             [os.path.join(venv, "bin", "python"), "-m", "pip", "install", "--no-cache-dir", "--upgrade",
              "--no-binary", "llama-cpp-python", "llama-cpp-python"])
    with open(log_path, "wb") as log:
        for step in steps:
            if run_family(step, log, {**os.environ, **flags}):
                raise Trouble(f"installing llama-cpp-python failed; {log_path} tells why")
    with open(build_note_path(venv), "w", encoding="utf-8") as note:
        note.write(" ".join(f"{name}={value!r}" for name, value in flags.items()))
