"""The steps of bench/gpu: building, suites, kernels, a model under ceilings of the GPU's memory, a timeline. Each
returns figures for the report; one that could not be made has an `error` instead of its figures."""

import glob
import json
import os
import random
import re
import shutil
import statistics

import common_machine as machine
from common_arms import LodeProgram, run_process
from common_machine import Trouble
from common_main import say
from offload_arms import Lode

SYNTH = ["26b-a4b", "--type", "q4_0", "--skew", "1.2"]
SUITES_TIMEOUT_S = 1800
# Suites that say nothing of memory errors on the device, or take hours under the sanitizer.
NOT_SANITIZED = {"test_gpu_mixes"}
QUICK_SUITES = {"test_gpu_against_cpu", "test_gpu_device", "test_gpu_memory", "test_gpu_router"}


class Run:
    """What all steps need."""

    def __init__(self, options, root, program, device, is_real, work):
        self.options, self.root, self.program, self.device = options, root, program, device
        self.is_real, self.work = is_real, work
        self.threads = options.threads or machine.physical_cores()
        self.copy_gbps = None  # of the device's memory, once the kernels have been timed

    def process(self, command, timeout_s=None, environment=None):
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            return run_process(command, timeout_s or self.options.timeout, self.work)
        finally:
            os.environ.clear()
            os.environ.update(before)


def last_words(result):
    lines = [line for line in (result["stderr"] + "\n" + result["stdout"]).splitlines() if line.strip()]
    if result["timed_out"]:
        return "it took too long"
    return lines[-1][:300] if lines else f"exit {result['exit_code']}"


def failures(figures):
    """Of a step's figures: how many things in it failed."""
    if isinstance(figures, dict):
        return int(bool(figures.get("error"))) + sum(failures(value) for value in figures.values())
    return sum(failures(value) for value in figures) if isinstance(figures, list) else 0


# ---- building


def build(root, folder, device):
    """With CUDA where nvcc is, with HIP where that is wished for; configured once."""
    if not os.path.isfile(os.path.join(folder, "build.ninja")):
        has_nvcc = shutil.which("nvcc") or os.path.exists("/usr/local/cuda/bin/nvcc")
        wants_hip = (device or "").startswith("hip")
        command = ["meson", "setup", folder, root, "-Dtests=enabled",
                   "-Dcuda=" + ("enabled" if has_nvcc and not wants_hip else "auto")]
        run_visibly(command)
    run_visibly(["ninja", "-C", folder, "all", "bench/gpu_kernels"])


def run_visibly(command):
    say(" ".join(command))
    if os.spawnvp(os.P_WAIT, command[0], command):
        raise Trouble(f"{' '.join(command)} failed")


# ---- suites


def suites_of(folder):
    """The programs of GPU suites; each runs on all GPUs that it finds, beside simt0."""
    found = sorted(path for path in glob.glob(os.path.join(folder, "tests", "test_gpu_*"))
                   if os.access(path, os.X_OK) and os.path.isfile(path))
    return found + [path for path in [os.path.join(folder, "tests", "test_probe_gpu")] if os.access(path, os.X_OK)]


def run_suite(run, path, sanitizer):
    command = [path, "-j1", "--short-filename"]
    if sanitizer:
        command = [sanitizer, "--tool", "memcheck", "--target-processes", "all", "--error-exitcode", "99"] + command
    # Where whole models are divided, the device stands for simt0.
    result = run.process(command, SUITES_TIMEOUT_S, {"LODE_TEST_GPU": run.device.split(":")[0]})
    summary = [line for line in (result["stderr"] + result["stdout"]).splitlines() if "Synthesis" in line]
    figures = {"name": os.path.basename(path), "sanitized": bool(sanitizer), "seconds": result["wall_s"],
               "told": summary[-1].split("Synthesis:")[-1].strip().replace(" |", ",") if summary else ""}
    if result["exit_code"] or not summary:
        figures["error"] = last_words(result)
    say(f"  {figures['name']}{' under compute-sanitizer' if sanitizer else ''}: {figures.get('error') or figures['told']}")
    return figures


def step_tests(run):
    suites = suites_of(run.options.build)
    if not suites:
        raise Trouble(f"no suites in {run.options.build}/tests; are the tests built?")
    if run.options.quick or not run.is_real:
        suites = [path for path in suites if os.path.basename(path) in QUICK_SUITES]
    if not suites:
        return {"error": f"none of {', '.join(sorted(QUICK_SUITES))} is built", "suites": [], "sanitizer": "not asked"}
    figures = [run_suite(run, path, None) for path in suites]
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if run.options.sanitize == "auto" and run.device.startswith("cuda") and sanitizer:
        figures += [run_suite(run, path, sanitizer) for path in suites if os.path.basename(path) not in NOT_SANITIZED]
    return {"suites": figures, "sanitizer": sanitizer or "compute-sanitizer is not installed"}


# ---- kernels


def step_kernels(run):
    path = os.path.join(run.work, "kernels.json")
    command = [os.path.join(run.options.build, "bench", "gpu_kernels"), "--device", run.device, "--seconds",
               str(run.options.seconds), "--json", path]
    result = run.process(command + (["--filter", run.options.filter] if run.options.filter else []))
    if result["exit_code"]:
        return {"error": last_words(result)}
    with open(path, encoding="utf-8") as file:
        figures = json.load(file)
    run.copy_gbps = figures["copy_gbps"]
    return figures


# ---- a model


def make_model(run):
    if run.options.model:
        return run.options.model
    path = os.path.join(run.work, "26b-q4_0.gguf")
    if not os.path.exists(path):
        result = run.process([run.program, "synth", *SYNTH, "-o", path], 7200)
        if result["exit_code"]:
            raise Trouble(f"lode synth: {last_words(result)}")
    return path


def make_prompt(run, model, info):
    """The words of random tokens, about as many as were asked for."""
    chance = random.Random(4)
    vocab = info["shape"]["vocab"]
    ids = [chance.randrange(min(1000, vocab // 4), vocab) for _ in range(max(1, run.options.prompt * 4 // 5))]
    path = os.path.join(run.work, "prompt")
    with open(path, "wb") as file:
        file.write(Lode(run.program, model, []).detokenize(ids))
    return path


def profile_machine(run, model):
    """A profile to plan with, by a quick probe, in a folder of its own. One with simt0 is never kept as the machine's:
    it is a file that nothing plans with."""
    config = os.path.join(run.work, "config")
    os.makedirs(config, exist_ok=True)
    path = os.path.join(config, "lode", "machine.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    place = ["--drive", model] if run.is_real else ["--drive", model, "--devices", run.device, "-o", path]
    result = run.process([run.program, "probe", "--quick", *place], 300, {"XDG_CONFIG_HOME": config})
    return (config, path, None) if not result["exit_code"] else (config, None, last_words(result))


def run_model(run, model, prompt, config, arguments):
    stats = os.path.join(run.work, "stats.json")
    if os.path.exists(stats):
        os.remove(stats)
    result = run.process([run.program, "run", "-m", model, "-f", prompt, "-n", str(run.options.tokens), "--temp", "0",
                          "--ignore-eos", "-t", str(run.threads), "--devices", f"{run.device},cpu", "--cold",
                          "--stats", stats, *arguments], None, {"XDG_CONFIG_HOME": config})
    if result["exit_code"] or not os.path.exists(stats):
        return {"error": last_words(result)}
    with open(stats, encoding="utf-8") as file:
        told = json.load(file)
    return {"decode_tok_s": told["decode_tok_s"], "prefill_tok_s": told["prefill_tok_s"],
            "prompt_tokens": told["prompt_tokens"], "predicted": told.get("predicted"), "gpus": told.get("gpus") or [],
            "text": result["stdout"]}


def bench_wholly(run, model):
    """lode bench with everything on the GPU: bytes a token, against the rate of its memory."""
    result = run.process([run.program, "bench", "-m", model, "--devices", f"{run.device},cpu", "-p",
                          str(run.options.prompt), "-n", str(run.options.tokens), "-r", str(run.options.runs), "-t",
                          str(run.threads), "--json"])
    if result["exit_code"]:
        return {"error": last_words(result)}
    cells = {cell["phase"]: cell for cell in json.loads(result["stdout"])["results"]}
    figures = {"decode_tok_s": cells["decode"]["tok_s"], "spread": cells["decode"]["spread"],
               "prefill_tok_s": cells["prefill"]["tok_s"], "bytes_per_token": cells["decode"]["bytes_per_token"]}
    if run.copy_gbps and figures["bytes_per_token"]:
        figures["roofline_tok_s"] = run.copy_gbps * 1e9 / figures["bytes_per_token"]
        figures["share"] = figures["decode_tok_s"] / figures["roofline_tok_s"]
    return figures


def merged(runs):
    good = [each for each in runs if "error" not in each]
    if not good:
        return runs[0]
    figures = dict(good[0])
    for key in ("decode_tok_s", "prefill_tok_s"):
        figures[key] = statistics.median(each[key] for each in good)
    speeds = [each["decode_tok_s"] for each in good]
    figures["spread"] = (max(speeds) - min(speeds)) / figures["decode_tok_s"] if figures["decode_tok_s"] else 0
    figures["same_text"] = len({each.pop("text", "") for each in good}) == 1
    figures.pop("text", None)
    if len(good) < len(runs):
        figures["error"] = "some of the runs failed: " + next(each["error"] for each in runs if "error" in each)
    return figures


def step_model(run):
    model = make_model(run)
    info = LodeProgram(run.program).info(model)
    prompt = make_prompt(run, model, info)
    config, profile, why = profile_machine(run, model)
    ceilings = [None] + [word for word in run.options.vram.split(",") if word.strip() not in ("", "0")]
    arms = [("planned", ["--plan", "on"]), ("by rule", ["--plan", "off"]),
            ("by layer", ["--plan", "off", "--placement", "by-layer"])]
    if not run.is_real or not profile:
        arms = arms[1:]  # the machine's own profile has no simulated GPU
    runs = {}
    for repeat in range(run.options.runs):
        for ceiling in ceilings:
            for name, arguments in arms if repeat % 2 == 0 else arms[::-1]:
                told = run_model(run, model, prompt, config, arguments + (["--vram", ceiling] if ceiling else []))
                runs.setdefault((ceiling, name), []).append(told)
                say(f"  --vram {ceiling or 'all'}, {name}: "
                    + (told.get("error") or f"decode {told['decode_tok_s']:.1f}, prefill {told['prefill_tok_s']:.0f} tok/s"))
    rows = [{"vram": ceiling or "all", "placement": name, **merged(told)} for (ceiling, name), told in runs.items()]
    return {"model": os.path.basename(model), "bytes": os.path.getsize(model), "profile": why or "measured, quick",
            "whole": bench_wholly(run, model), "rows": rows}


# ---- a timeline


def busy(spans):
    """Spans that overlap or touch as one, in order."""
    joined = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    return joined


def length(spans):
    return sum(end - begin for begin, end in spans)


def both(a, b):
    common, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        common += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return common


def overlaps(trace):
    """Of each lane the share of the time it is busy, and of each pair in which both are. Rows of one lane ("drive",
    "drive 2") are one here."""
    events = trace["traceEvents"]
    names = {event["tid"]: re.sub(r"^drive \d+$", "drive", event["args"]["name"]) for event in events
             if event["ph"] == "M" and event["name"] == "thread_name"}
    spans = {}
    for event in events:
        if event["ph"] == "X":
            spans.setdefault(names.get(event["tid"], str(event["tid"])), []).append(
                (event["ts"], event["ts"] + event["dur"]))
    if not spans:
        return None
    lanes = {name: busy(of_lane) for name, of_lane in spans.items()}
    whole = max(of_lane[-1][1] for of_lane in lanes.values()) - min(of_lane[0][0] for of_lane in lanes.values())
    if whole <= 0:
        return None
    order = sorted(lanes)
    return {"seconds": whole * 1e-6, "dropped": trace.get("otherData", {}).get("dropped", 0),
            "busy": {name: length(lanes[name]) / whole for name in order},
            "both": [{"lanes": [a, b], "share": both(lanes[a], lanes[b]) / whole}
                     for i, a in enumerate(order) for b in order[i + 1:]]}


def step_timeline(run):
    model = make_model(run)
    prompt = make_prompt(run, model, LodeProgram(run.program).info(model))
    ceilings = [word for word in run.options.vram.split(",") if word.strip() not in ("", "0")]
    figures = {}
    for ceiling in [None] + ceilings[:1]:
        path = os.path.join(run.work, f"timeline-{ceiling or 'all'}.json")
        told = run_model(run, model, prompt, run.work,
                         ["--plan", "off", "--timeline", path] + (["--vram", ceiling] if ceiling else []))
        name = ceiling or "all"
        if "error" in told:
            figures[name] = told
            continue
        with open(path, encoding="utf-8") as file:
            figures[name] = overlaps(json.load(file)) or {"error": "the timeline has no spans"}
    return figures
