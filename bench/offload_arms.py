"""The arms of bench/offload: Lode and llama.cpp, each run as a fresh process in a fresh memory control group with
nothing in the page cache. A run comes back as one flat dictionary, a failed one with the reason."""

import contextlib
import json
import os
import signal
import subprocess

from common_arms import LlamaPython, LodeProgram, run_process
from common_machine import Trouble
from offload_machine import MemoryGroup, drop_page_cache

HERE = os.path.dirname(os.path.abspath(__file__))


# ---- a process in a group


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
        result = run_process(command, timeout_s, folder, group.enter, f" in {group.path}")
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


# Lode's own baselines: what `lode bench --against` compares with, as options of lode run.
BASELINES = {
    "by-layer": ["--policy", "by-layer", "--no-prefetch"],
    "static": ["--policy", "static", "--no-prefetch"],
    "lru": ["--policy", "lru", "--no-prefetch"],
    "mmap": ["--io", "mmap", "--no-prefetch"],
}


class Lode(LodeProgram):
    name = "lode"

    def __init__(self, program, model, extra_arguments, baseline=None):
        """A baseline is one of BASELINES: its options stand behind the extra ones, so that they win."""
        super().__init__(program)
        self.model, self.extra = model, extra_arguments + BASELINES.get(baseline, [])
        self.maps = baseline == "mmap"
        if baseline:
            self.name = f"lode {baseline}"

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

    def run(self, job, limit_bytes):
        stats_path = os.path.join(job.folder, "stats.json")
        with contextlib.suppress(FileNotFoundError):
            os.remove(stats_path)
        command = [self.program, "run", "-m", self.model, "-f", job.prompt_path, "-n", str(job.n_tokens),
                   "-t", str(job.n_threads), "--temp", "0", "--ignore-eos", "--cold", "--plan", "off", "--json",
                   "--stats", stats_path]
        if job.batch:
            command += ["-b", str(job.batch)]
        if limit_bytes is not None:
            command += ["--ram", str(limit_bytes)]

        def figures_of(stdout):
            with open(stats_path, encoding="utf-8") as file:
                figures = json.load(file)
            figures["bytes_per_token"] = figures.get("nvme_bytes_per_token")
            if self.maps:  # what the page cache reads and holds, the program cannot count
                for name in ("bytes_per_token", "hit_rate", "stall_share", "load_bytes", "prefill_bytes",
                             "decode_bytes"):
                    figures[name] = None
            figures["ids"] = json.loads(stdout)["ids"]
            return figures

        return measure(command + self.extra, job.drive, limit_bytes, job.timeout_s, job.folder, figures_of)


# ---- llama.cpp


class Peer(LlamaPython):
    name = "llama.cpp"

    def __init__(self, venv, model, weight_bytes, repack):
        super().__init__(venv, os.path.join(HERE, "offload_peer.py"))
        self.model, self.weight_bytes, self.repack = model, weight_bytes, repack
        self.forced_path = None

    def repacks(self, limit_bytes):
        """Repacking makes the weights a copy that is never dropped, so it is for limits that hold them all."""
        if self.repack != "auto":
            return self.repack == "on"
        return limit_bytes is None or limit_bytes > self.weight_bytes + (2 << 30)

    def run(self, job, limit_bytes):
        command = [*self.command, "--model", self.model,
                   "--ids", job.ids_path, "--tokens", str(job.n_tokens), "--threads", str(job.n_threads)]
        if job.batch:
            command += ["--batch", str(job.batch)]
        if self.repacks(limit_bytes):
            command += ["--repack"]
        if self.forced_path:
            command += ["--forced", self.forced_path]
        return measure(command, job.drive, limit_bytes, job.timeout_s, job.folder,
                       lambda stdout: json.loads(stdout.splitlines()[-1]))
