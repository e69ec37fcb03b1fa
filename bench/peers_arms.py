"""The arms of bench/peers: Lode, llama.cpp through llama-cpp-python, and ik_llama.cpp through its llama-bench. An arm
has settings; those that are chosen when a model is loaded make a process, and a process measures all cases in each
setting of a context. Every figure comes back as {setting, phase, tokens, context, tok_s}."""

import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys

from common_arms import LlamaPython, LodeProgram, run_process
from common_machine import Trouble, busy_s, read_text

HERE = os.path.dirname(os.path.abspath(__file__))
SHORT_UBATCH, LONG_UBATCH = 512, 2048  # llama.cpp's default, and one that longer prompts may profit from
WARM_TOKENS = 512  # choose nearly every one of 128 experts


class Setting:
    """`load` is chosen with the model, `context` with a context; each a dictionary that the arm understands. Settings
    that differ in their micro-batch (`ubatch`) alone have the same `base`."""

    def __init__(self, base, load, context, ubatch=SHORT_UBATCH, name=None):
        self.base, self.load, self.context, self.ubatch = base, load, context, ubatch
        self.name = name or base
        self.phases = ("decode", "prefill")  # that it is measured in


def by_process(settings):
    """Lists of settings that one process can measure."""
    for _, group in itertools.groupby(settings, key=lambda each: (sorted(each.load.items()), each.phases)):
        yield list(group)


def with_ubatches(base, load, context, cases):
    """A setting with each micro-batch that makes a difference to the prompts."""
    longest = max((case["tokens"] for case in cases if case["phase"] == "prefill"), default=0)
    choices = (SHORT_UBATCH, LONG_UBATCH) if longest > SHORT_UBATCH else (SHORT_UBATCH,)
    for ubatch in choices:
        yield Setting(base, load, context, ubatch, f"{base}, ub {ubatch}" if len(choices) > 1 else base)


def failure_of(result, timeout_s):
    """Why a process has no figures, in a few words; None if it ended well."""
    code = result["exit_code"]
    if result["timed_out"]:
        return f"no end after {timeout_s:g} s"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    said = [line for line in result["stderr"].splitlines() if line.strip()]
    return f"exit {code}" + (": " + " / ".join(said[-2:])[:240] if said else "") if code else None


def children_s():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(command, job, figures_of):
    """One process: figures_of(stdout) gives its figures, also of one that failed later."""
    before_s = busy_s() - children_s()
    result = run_process(command, job.timeout_s, job.folder)
    others_s = max(0, busy_s() - children_s() - before_s)
    failure = failure_of(result, job.timeout_s)
    try:
        figures = figures_of(result["stdout"])
    except (ValueError, KeyError, TypeError) as error:
        figures, failure = [], failure or f"its figures cannot be read: {error!r}"
    return {"command": command, "figures": figures, "failure": failure, "wall_s": result["wall_s"],
            "others_share": others_s / (result["wall_s"] * os.cpu_count()),
            "stderr_tail": result["stderr"][-2000:] if failure else ""}


def joined(values):
    return ",".join(map(str, values))


# ---- Lode


class Lode(LodeProgram):
    name = "lode"

    def __init__(self, program, isa, extra_arguments):
        super().__init__(program)
        self.isa, self.extra = isa, extra_arguments

    def settings(self, _):
        return [Setting("", {}, {})]

    def run(self, job, model, settings, cases):
        lengths = {phase: sorted({case["tokens"] for case in cases if case["phase"] == phase})
                   for phase in ("prefill", "decode")}
        command = [self.program, "bench", "-m", model, "-p", joined(lengths["prefill"] or [0]),
                   "-n", joined(lengths["decode"] or [0]), "-d", joined(sorted({case["context"] for case in cases})),
                   "-r", "1", "-t", str(job.n_threads), "--kv", "f16", "--json"]
        if self.isa:
            command += ["--isa", self.isa]
        machine = {}

        def figures_of(stdout):
            told = json.loads(stdout)
            machine.update((name, value) for name, value in told.items() if name != "results")
            return [{**result, "setting": settings[0].name} for result in told["results"]]

        run = measure(command + self.extra, job, figures_of)
        return {**run, "told": machine}


# ---- llama.cpp


class LlamaCpp(LlamaPython):
    name = "llama.cpp"

    def __init__(self, venv):
        super().__init__(venv, os.path.join(HERE, "peers_llama.py"))

    def features(self):
        return self.about["system_info"]

    def settings(self, cases):
        for mmap, repack, flash in itertools.product((True, False), repeat=3):
            base = (f"{'mmap' if mmap else 'no mmap'}, {'repack' if repack else 'no repack'}, "
                    f"fa {'on' if flash else 'off'}")
            yield from with_ubatches(base, {"mmap": mmap, "repack": repack}, {"flash": flash}, cases)

    def run(self, job, model, settings, cases):
        task = {"model": model, "threads": job.n_threads, "warm_tokens": WARM_TOKENS, "cases": cases,
                **settings[0].load,
                "contexts": [{"name": setting.name, "ubatch": setting.ubatch, **setting.context}
                             for setting in settings]}
        return measure(self.command + ["--job", json.dumps(task)], job,
                       lambda stdout: [json.loads(line) for line in stdout.splitlines() if line.startswith("{")])


# ---- ik_llama.cpp


class IkLlama:
    """Its llama-bench times a test twice in a process and the second counts, for the first touches the memory.
    It has no test that prefills at a depth: that is the time of both less the time of the first."""

    name = "ik_llama.cpp"

    def __init__(self, folder, extra_arguments):
        self.program, self.extra = os.path.join(folder, "llama-bench"), extra_arguments
        self.build_folder = os.path.dirname(os.path.abspath(folder))
        if not os.access(self.program, os.X_OK):
            raise Trouble(f"no llama-bench in {folder}; build ik_llama.cpp from source and name the folder of its "
                          "programs with --ik")

    def features(self):
        """What its library says that it was built with; asked in a process of its own."""
        for path in ("src/libllama.so", "bin/libllama.so", "lib/libllama.so"):
            path = os.path.join(self.build_folder, path)
            if os.path.exists(path):
                code = ("import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); "
                        "library.llama_print_system_info.restype = ctypes.c_char_p; "
                        "print(library.llama_print_system_info().decode())")
                told = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
                return told.stdout.strip().strip("|").strip() or "not told"
        return "not told: no libllama.so beside its programs"

    def build(self):
        """Settings of its CMake cache, where that is still there."""
        cache = dict(re.findall(r"^(\w+):\w+=(.*)$", read_text(os.path.join(self.build_folder, "CMakeCache.txt"), ""),
                                re.MULTILINE))
        wanted = ("CMAKE_BUILD_TYPE", "CMAKE_C_COMPILER", "CMAKE_CXX_FLAGS", "GGML_NATIVE", "GGML_AVX2", "GGML_AVX512")
        texts = [f"{name}={cache[name]}" for name in wanted if cache.get(name)]
        if cache.get("GGML_NATIVE") == "ON":
            texts = [text for text in texts if not text.startswith("GGML_AVX")]  # not looked at then
        return " ".join(texts) or "flags unknown: no CMakeCache.txt beside its programs"

    def settings(self, cases):
        for base, load in (("mmap", {"-mmp": 1, "-rtr": 0}), ("no mmap", {"-mmp": 0, "-rtr": 0}),
                           ("repack", {"-mmp": 0, "-rtr": 1})):
            yield from with_ubatches(base + ", fa on", load, {}, cases)

    def run(self, job, model, settings, cases):
        prompts, steps, deep_steps = set(), set(), set()
        for case in cases:
            if case["phase"] == "prefill":
                prompts |= {case["context"] + case["tokens"], case["context"]} - {0}
            elif case["context"]:
                deep_steps.add((case["context"], case["tokens"]))
            else:
                steps.add(case["tokens"])
        command = [self.program, "-m", model, "-t", str(job.n_threads), "-r", "2", "-o", "json",
                   "-p", joined(sorted(prompts) or [0]), "-n", joined(sorted(steps) or [0]),
                   "-b", str(LONG_UBATCH), "-ub", joined(setting.ubatch for setting in settings),
                   "-fa", "1", "-fmoe", "1", "-ctk", "f16", "-ctv", "f16", "-ngl", "0"]
        for pair in sorted(deep_steps):
            command += ["-gp", joined(pair)]
        for name, value in settings[0].load.items():
            command += [name, str(value)]
        names = {setting.ubatch: setting.name for setting in settings}
        return measure(command + self.extra, job, lambda stdout: ik_figures(stdout, names, cases))


def ik_figures(stdout, names, cases):
    """What its JSON says of each case, in the settings of each micro-batch."""
    start, end = stdout.find("["), stdout.rfind("]")
    tests = json.loads(stdout[start:end + 1]) if start >= 0 else []
    seconds = {(test["n_ubatch"], test["n_prompt"], test["n_gen"]): test["samples_ns"][-1] / 1e9 for test in tests}
    figures = []
    for (ubatch, name), case in itertools.product(names.items(), cases):
        depth, tokens = case["context"], case["tokens"]
        if case["phase"] == "decode":
            time_s = seconds[ubatch, depth, tokens]
        else:
            time_s = seconds[ubatch, depth + tokens, 0] - (seconds[ubatch, depth, 0] if depth else 0)
        if time_s > 0:
            figures.append({**case, "setting": name, "tok_s": tokens / time_s})
    return figures
