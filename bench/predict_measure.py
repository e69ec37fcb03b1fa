"""Asking lode plan and measuring with lode bench, for the same model, memory and settings."""

import dataclasses
import json
import os
import statistics

from common_arms import run_process
from common_machine import Trouble

PROMPT_TOKENS, GENERATED_TOKENS = 512, 128  # of the turn that is planned for
LEAST_RING_BYTES = 4096
# As lode bench calls the parts of a token's time, and as lode plan calls its shares.
LANES = {"kernels_s": "cpu_kernels", "attention_s": "attention", "operations_s": "small_operations", "drive_s": "drive"}


class CannotRun(Exception):
    """A setting that the program refuses, in its own words."""


@dataclasses.dataclass
class Setting:
    """A model under a ceiling. What is None is the plan's choice."""
    model: str
    ram: str
    depths: list
    threads: int = None
    plan: dict = None
    measured: list = dataclasses.field(default_factory=list)  # lode bench's objects

    def name(self):
        return os.path.basename(self.model)

    def title(self):
        return f"{self.name()}, ceiling {self.ram}" + (f", threads {self.threads}" if self.threads else "")

    def rows(self):
        """One of each phase at each depth that was planned and measured."""
        found = [(expected, phase, result) for expected in self.plan["expected"] for phase in ("decode", "prefill")
                 for result in [merged(self.measured, phase, expected["context"])]
                 if result and (phase == "decode" or expected["prefill_tokens"] == PROMPT_TOKENS)]
        return [{"model": self.name(), "ram": self.ram, "threads": self.plan["settings"]["threads"],
                 "context": expected["context"], "phase": phase, **prediction(expected, phase), **result,
                 "error": prediction(expected, phase)["predicted"] / result["measured"] - 1}
                for expected, phase, result in found]


def prediction(expected, phase):
    speed, low, high = (("decode_tok_s", "low", "high") if phase == "decode" else
                        ("prefill_tok_s", "prefill_low", "prefill_high"))
    shares = expected[phase]
    return {"predicted": expected[speed], "low": expected[low], "high": expected[high], "limiter": shares["limiter"],
            "predicted_parts": {lane: shares[name] / expected[speed] for lane, name in LANES.items()}}


def merged(benches, phase, context):
    """The median of all runs, and the means of their parts; None where nothing was measured."""
    results = [result for bench in benches for result in bench["results"]
               if (result["phase"], result["context"]) == (phase, context)]
    runs = [run for result in results for run in result["runs"]]
    if not runs:
        return None
    median = statistics.median(runs)
    return {"measured": median, "runs": runs, "spread": (max(runs) - min(runs)) / median,
            "measured_parts": {lane: statistics.mean(result["parts"][lane] for result in results) for lane in LANES}}


def settings_arguments(settings):
    """The plan's settings as options of lode bench; a ring of 0 bytes is the least that works."""
    arguments = ["-t", str(settings["threads"]), "-b", str(settings["batch"])]
    if settings["ring_bytes"] >= LEAST_RING_BYTES:
        arguments += ["--ring", str(settings["ring_bytes"])]
    return arguments + ([] if settings["prefetch"] else ["--no-prefetch"])


class Lode:
    """The program, asked and measured in processes of their own."""

    def __init__(self, program, machine, timeout_s, folder):
        self.program, self.machine, self.timeout_s, self.folder = program, machine, timeout_s, folder

    def _told(self, command, *arguments):
        result = run_process([self.program.program, command, *arguments, "--json"], self.timeout_s, self.folder)
        if result["timed_out"]:
            raise CannotRun(f"lode {command} took longer than {self.timeout_s:g} s")
        said = [line for line in result["stderr"].splitlines() if line.strip()]
        if result["exit_code"] == 1:  # it does not fit, or goes beyond the model
            raise CannotRun(said[-1] if said else f"lode {command} failed")
        if result["exit_code"]:
            raise Trouble(f"lode {command} {' '.join(arguments)}: exit {result['exit_code']}"
                          + (": " + said[-1] if said else ""))
        return json.loads(result["stdout"])

    def plan(self, setting):
        """For the context that lode bench will have: that of the deepest."""
        if not setting.depths:
            raise CannotRun(f"the model has no room for a prompt of {PROMPT_TOKENS} tokens")
        plan = self._told("plan", "-m", setting.model, "--ram", setting.ram,
                          "-c", str(max(setting.depths) + PROMPT_TOKENS),
                          *(["-t", str(setting.threads)] if setting.threads else []),
                          *(["--machine", self.machine] if self.machine else []))
        told = {expected["context"] for expected in plan["expected"]}
        setting.depths = [depth for depth in setting.depths if depth in told]
        if not setting.depths:
            raise CannotRun(f"the plan tells of contexts of {', '.join(map(str, sorted(told)))} tokens only")
        return plan

    def bench(self, setting, tokens, repeats, settings=None):
        """With settings other than the plan's where they are given."""
        return self._told("bench", "-m", setting.model, "--ram", setting.ram, "-p", str(PROMPT_TOKENS), "-n", str(tokens),
                          "-d", ",".join(map(str, setting.depths)), "-r", str(repeats),
                          *settings_arguments(settings or setting.plan["settings"]))
