"""The arms of bench/offload: Lode and llama.cpp, each run as a fresh process in a fresh memory control group with
nothing in the page cache. A run comes back as one flat dictionary, a failed one with the reason."""

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

from offload_machine import MemoryGroup, Trouble, cpu_flags, drop_page_cache, output_of, read_text

HERE = os.path.dirname(os.path.abspath(__file__))
POLL_S = 0.02
INTERRUPT_GRACE_S = 30  # to finish the token at hand and tell the figures, under a limit that slows everything
PEER_CMAKE_ARGS = ("-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "
                   "-DLLAMA_BUILD_TOOLS=OFF -DLLAVA_BUILD=OFF")


# ---- a process in a group


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


def run_limited(command, group, timeout_s, folder):
    """Runs a command in a group to its end, to the time limit or to our own interruption."""
    paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
    process = None
    started = time.monotonic()
    try:
        with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                       start_new_session=True, preexec_fn=group.enter,
                                       env={**os.environ, "LC_ALL": "C.UTF-8"})
        timed_out = not wait_for_end(process.pid, timeout_s)
        if timed_out:
            process.send_signal(signal.SIGINT)
            if not wait_for_end(process.pid, INTERRUPT_GRACE_S):
                process.kill()
                wait_for_end(process.pid, 60)
        counts = process_io(process.pid)
    except (OSError, subprocess.SubprocessError) as error:
        raise Trouble(f"cannot start {command[0]} in {group.path}: {error}") from error
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


def failure_of(result, group_figures, group, timeout_s):
    """Why a run has no figures, in a few words."""
    code = result["exit_code"]
    phases = [line[7:] for line in result["stderr"].splitlines() if line.startswith("phase: ")]
    where = f" during {phases[-1]}" if phases else ""
    if group_figures["oom_kills"]:
        return f"killed{where}: out of memory" + (" within its limit" if group.limit_bytes else "")
    if result["timed_out"]:
        return f"no end after {timeout_s:g} s{where}"
    if code < 0:
        return f"killed{where} by {signal.Signals(-code).name}, not for this group's limit"
    said = [line for line in result["stderr"].splitlines() if line.strip() and not line.startswith("phase: ")]
    return f"exit {code}{where}" + (": " + " / ".join(said[-2:])[:240] if said else "")


def measure(command, drive, limit_bytes, timeout_s, folder, figures_of):
    """One run: figures_of(stdout) gives what the arm says of itself, or raises ValueError."""
    drop_page_cache()
    with MemoryGroup(limit_bytes) as group:
        before = drive.counters()
        result = run_limited(command, group, timeout_s, folder)
        after = drive.counters()
        group_figures = group.figures()
    run = {"ceiling_bytes": limit_bytes, "command": command, **group_figures}
    for name in ("read_bytes", "written_bytes"):
        run["drive_" + name] = after[name] - before[name]
    figures, failure = {}, None
    # A run cut short tells the figures of what it did; whether that is enough shows in decode_tok_s.
    interrupted = result["timed_out"] and result["exit_code"] in (0, 130)
    if result["exit_code"] == 0 or interrupted:
        try:
            figures = figures_of(result["stdout"])
        except (ValueError, KeyError, OSError) as error:
            failure = f"exit {result['exit_code']}, but its figures cannot be read: {error!r}"
    if not figures or not figures.get("decode_tok_s"):
        failure = failure or failure_of(result, group_figures, group, timeout_s)
    for name in ("exit_code", "timed_out", "wall_s", "process_read_bytes", "process_written_bytes"):
        run[name] = result[name]
    run["failure"], run["expected_failure"] = failure, bool(group_figures["oom_kills"] or result["timed_out"])
    if failure:
        run["stderr_tail"] = result["stderr"][-2000:]
    return {**figures, **run}  # the limit of the run, not what the program made of it


# ---- Lode


class Lode:
    name = "lode"

    def __init__(self, program, model, extra_arguments):
        self.program, self.model, self.extra = program, model, extra_arguments
        if not os.access(program, os.X_OK):
            raise Trouble(f"no program at {program}; build it (ninja -C build lode) or name it with --lode")

    def tokenize(self, texts):
        """Ids of each text, <bos> in front."""
        joined = b"".join(text + b"\x1e" for text in texts)
        lines = self._tokenizer(["--bos", "--records"], joined).decode("ascii").splitlines()
        return [[int(word) for word in line.split(",")] for line in lines]

    def detokenize(self, ids):
        return self._tokenizer(["--decode"], ",".join(map(str, ids)).encode("ascii"))

    def _tokenizer(self, arguments, text):
        command = [self.program, "tokenize", "-m", self.model, *arguments]
        result = subprocess.run(command, input=text, capture_output=True, check=False)
        if result.returncode:
            raise Trouble(f"{' '.join(command)} failed: {result.stderr.decode(errors='replace').strip()}")
        return result.stdout

    def info(self):
        try:
            return json.loads(output_of([self.program, "info", "--json", "--tensors", self.model]) or "")
        except ValueError as error:
            raise Trouble(f"{self.program} info cannot read {self.model}") from error

    def run(self, job, limit_bytes):
        stats_path = os.path.join(job.folder, "stats.json")
        with contextlib.suppress(FileNotFoundError):
            os.remove(stats_path)
        command = [self.program, "run", "-m", self.model, "-f", job.prompt_path, "-n", str(job.n_tokens),
                   "-t", str(job.n_threads), "--temp", "0", "--ignore-eos", "--cold", "--json",
                   "--stats", stats_path]
        if job.batch:
            command += ["-b", str(job.batch)]
        if limit_bytes is not None:
            command += ["--ram", str(limit_bytes)]

        def figures_of(stdout):
            with open(stats_path, encoding="utf-8") as file:
                figures = json.load(file)
            figures["bytes_per_token"] = figures.get("nvme_bytes_per_token")
            figures["ids"] = json.loads(stdout)["ids"]
            return figures

        return measure(command + self.extra, job.drive, limit_bytes, job.timeout_s, job.folder, figures_of)


# ---- llama.cpp


class Peer:
    name = "llama.cpp"

    def __init__(self, venv, model, weight_bytes, repack):
        self.python, self.model = os.path.join(venv, "bin", "python"), model
        self.weight_bytes, self.repack = weight_bytes, repack
        self.venv = venv
        self.about = None
        self.forced_path = None

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
            return json.loads(output_of([self.python, os.path.join(HERE, "offload_peer.py"), "--about"]) or "")
        return None

    def repacks(self, limit_bytes):
        """Repacking makes the weights a copy that is never dropped, so it is for limits that hold them all."""
        if self.repack != "auto":
            return self.repack == "on"
        return limit_bytes is None or limit_bytes > self.weight_bytes + (2 << 30)

    def run(self, job, limit_bytes):
        command = [self.python, os.path.join(HERE, "offload_peer.py"), "--model", self.model,
                   "--ids", job.ids_path, "--tokens", str(job.n_tokens), "--threads", str(job.n_threads)]
        if job.batch:
            command += ["--batch", str(job.batch)]
        if self.repacks(limit_bytes):
            command += ["--repack"]
        if self.forced_path:
            command += ["--forced", self.forced_path]
        return measure(command, job.drive, limit_bytes, job.timeout_s, job.folder,
                       lambda stdout: json.loads(stdout.splitlines()[-1]))


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


@contextlib.contextmanager
def scratch_folder():
    # In memory, so that what the harness writes is not taken for writes of an arm.
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="lode-bench-", dir=home) as folder:
        yield folder
