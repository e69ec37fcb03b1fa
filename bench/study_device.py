"""The simulator held against the device: a run of a real model is recorded under each ceiling, and the same run is
simulated on this machine's profile; then other policies on the trace of that run."""

import json
import os

from common_machine import Trouble, available_bytes, cpu_name, load_average, physical_cores
from common_main import say
from common_report import three_digits
from study_simulate import NONE, ORACLE, Cells
from study_tables import pair_name, percent, speed, table

PROMPT = ("Write a story about a lighthouse keeper who finds a map in a bottle. Then explain, step by step, how the keeper "
          "could work out from the stars where the map was drawn, and what could go wrong.")
LANES = ("kernels", "attention", "operations", "drive")


class DeviceRun:
    """One recorded run and what the simulator makes of it."""

    def __init__(self, lode, model, ram, tokens, folder):
        self.model, self.ram = model, ram
        self.trace = os.path.join(folder, f"device-{ram}.trace")
        stats = os.path.join(folder, f"device-{ram}.json")
        say(f"running {os.path.basename(model)} under {ram}")
        lode.run("run", "-m", model, "--ram", ram, "-p", PROMPT, "-n", str(tokens), "--temp", "0", "--ignore-eos", "--cold",
                 "--trace", self.trace, "--stats", stats)
        with open(stats, encoding="utf-8") as file:
            self.told = json.load(file)

    def simulate(self, lode, machine, policies, predictors):
        """The run again, and all policies and predictors on its trace under its ceiling."""
        say(f"simulating the run under {self.ram}")
        where = ["--trace", self.trace, "-m", self.model, *(["--machine", machine] if machine else [])]
        self.replay = lode.asked("sim", "--replay", *where)["replays"][0]
        self.own = (self.replay["policy"] or policies[0], self.replay["predict"] or NONE)
        self.cells = Cells()
        self.cells.keep([lode.asked("sim", *where, "--ram", self.ram, "--policy", ",".join(policies), "--predict",
                                    ",".join([NONE, *predictors]))])

    def measured_lanes(self):
        """Seconds of a decoded token in each lane."""
        return self.told["measured_parts"]["decode"]

    def replayed_lanes(self):
        """The same of the replay, where the program tells it."""
        replay = self.replay
        if "kernels_s" not in replay:
            return None
        known = {"kernels": replay["kernels_s"], "attention": replay["attention_s"], "drive": replay["stall_s"]}
        known["operations"] = replay["seconds"] - sum(known.values())
        return {lane: seconds / replay["tokens"] for lane, seconds in known.items()}

    def widest_lane(self):
        """The lane with most of the difference between replayed and measured."""
        replayed, measured = self.replayed_lanes(), self.measured_lanes()
        if replayed is None:
            return "-"
        lane = max(LANES, key=lambda lane: abs(replayed[lane] - measured[lane]))
        return f"{lane}, {1e3 * (replayed[lane] - measured[lane]):+.1f} ms"


def agreement(runs):
    def row(run):
        replay, measured, replayed = run.replay, run.measured_lanes(), run.replayed_lanes()
        return [run.ram, pair_name(run.own), speed(replay["live_tok_s"]), speed(replay["tok_s"]),
                f"{100 * (replay['tok_s'] / replay['live_tok_s'] - 1):+.1f}%",
                f"{percent(replay['live_hits'] / replay['live_choices'])} : "
                f"{percent(replay['replay_hits'] / replay['live_choices'])}",
                *(f"{three_digits(1e3 * measured[lane])} : {three_digits(replayed and 1e3 * replayed[lane])}"
                  for lane in LANES), run.widest_lane()]
    return table(["ceiling", "policy + predictor", "tok/s measured", "replayed", "difference", "hits %, measured : replayed",
                  *(f"{lane}, ms a token" for lane in LANES), "most of the difference"], [row(run) for run in runs], 2)


def alternatives(run, policies, predictors):
    """What the simulator makes of all pairs on the trace of this run."""
    budget = run.cells.budgets[0]
    rows = [[policy] + [speed(run.cells.median((policy, each), budget)) for each in [NONE, *predictors]]
            for policy in policies]
    bound = run.cells.median(ORACLE, budget)
    return table([f"tok/s simulated under {run.ram}", "no prefetch", *predictors], rows) + [
        "", f"The oracle: {speed(bound)} tok/s."]


def study(lode, options, simulator, folder):
    if not os.path.isfile(options.model):
        raise Trouble(f"no model file {options.model}")
    lines = [f"{os.path.basename(options.model)} on {cpu_name()}, {physical_cores()} cores, "
             f"{available_bytes() / 2**30:.1f} GiB available; load {load_average()}.", ""]
    runs = []
    for ram in options.ram:
        run = DeviceRun(lode, options.model, ram, options.device_tokens, folder)
        run.simulate(lode, options.device_machine, simulator.policies, simulator.predictors)
        runs.append(run)
    lines += agreement(runs)
    for run in runs:
        lines += ["", *alternatives(run, simulator.policies, simulator.predictors)]
    return lines
