"""Asking lode for traces and simulations, and keeping what it says: of every policy, predictor and budget the speed on
each trace, so that ratios are taken trace by trace."""

import dataclasses
import json
import os
import statistics

from common_arms import run_process
from common_machine import Trouble

NONE = "none"  # as lode sim calls running without prefetch
ORACLE = ("oracle", "oracle")
PERFECT = "perfect"  # a predictor that looks into the trace: a bound, not a choice


@dataclasses.dataclass
class Sample:
    """Traces to measure on, and what may be learned from before, of the same model."""
    tests: list
    fit: list


@dataclasses.dataclass
class Subject:
    """A question's traces: several samples where there are several of a kind, and the model they are of."""
    key: str
    title: str
    model: list  # arguments of lode sim
    samples: list
    guesses: bool  # whether the traces have what the next layer's router said
    facts: list = dataclasses.field(default_factory=list)  # lode trace --json of each sample


class Lode:
    """The program, in processes of their own."""

    def __init__(self, program, timeout_s, folder):
        self.program, self.timeout_s, self.folder = program, timeout_s, folder
        if not os.access(program, os.X_OK):
            raise Trouble(f"no program at {program}; build it (ninja -C build lode) or name it with --lode")

    def run(self, *arguments):
        result = run_process([self.program, *arguments], self.timeout_s, self.folder)
        asked = "lode " + " ".join(arguments)
        if result["timed_out"]:
            raise Trouble(f"{asked}: took longer than {self.timeout_s:g} s")
        if result["exit_code"]:
            said = [line for line in result["stderr"].splitlines() if line.strip() and not line.startswith("Try ")]
            raise Trouble(f"{asked}: exit {result['exit_code']}" + (": " + said[-1] if said else ""))
        return result["stdout"]

    def asked(self, *arguments):
        return json.loads(self.run(*arguments, "--json"))

    def version(self):
        return self.run("--version").strip()

    def names(self, command, option):
        """What there is of an option's names; the first is the default."""
        told = [line.split()[0] for line in self.run(command, option, "help").splitlines() if line.strip()]
        return [name for name in told if name != NONE]


class Cells:
    """Simulations by (policy, predictor) and budget: lists of results, trace by trace in one order."""

    def __init__(self):
        self.results, self.budgets = {}, []

    def add(self, told):
        fresh = {}
        for result in told["results"]:
            if result["fits"]:
                pair = ORACLE if result["kind"] == "oracle" else (result["policy"], result.get("predict") or NONE)
                fresh.setdefault((pair, result["budget"]), []).append(result)
        self.budgets += [each["budget"] for each in told["budgets"] if each["budget"] not in self.budgets]
        return fresh

    def keep(self, sweeps):
        """What several sweeps of the same traces say; the oracle, which is in all of them, once."""
        together = {}
        for told in sweeps:
            for key, results in self.add(told).items():
                together.setdefault(key, results)
        for key, results in together.items():
            self.results.setdefault(key, []).extend(results)

    def pairs(self):
        return list(dict.fromkeys(pair for pair, _ in self.results))

    def of(self, pair, budget, figure="tok_s"):
        return [result[figure] for result in self.results.get((pair, budget), [])]

    def median(self, pair, budget, figure="tok_s"):
        values = [value for value in self.of(pair, budget, figure) if value is not None]
        return statistics.median(values) if values else None

    def ratios(self, pair, other, budget):
        """tok/s of one to the other on each trace."""
        mine, others = self.of(pair, budget), self.of(other, budget)
        return [a / b for a, b in zip(mine, others) if a and b] if len(mine) == len(others) else []

    def best(self, budget, policy=None, predicted=None):
        """The fastest pair that an engine could have: of one policy, with or without a predictor."""
        known = [pair for pair in self.pairs() if pair != ORACLE and pair[1] != PERFECT and self.median(pair, budget)
                 and policy in (None, pair[0]) and predicted in (None, pair[1] != NONE)]
        return max(known, key=lambda pair: self.median(pair, budget)) if known else None


class Simulator:
    def __init__(self, lode, policies, predictors, shares):
        self.lode, self.policies, self.predictors, self.shares = lode, policies, predictors, shares

    def predictors_for(self, subject):
        return [name for name in self.predictors if subject.guesses or not name.startswith("gate")]

    def default(self, subject):
        """What the engine does by itself; without guesses in the trace that is as far as its policy."""
        return (self.policies[0], self.predictors[0] if self.predictors and subject.guesses else NONE)

    def _sweep(self, subject, sample, machine, policies, predictors, html):
        return self.lode.asked("sim", *(word for test in sample.tests for word in ("--trace", test)),
                               *(word for fit in sample.fit for word in ("--fit", fit)), *subject.model,
                               "--machine", machine, "--share", ",".join(self.shares), "--policy", ",".join(policies),
                               "--predict", ",".join(predictors), *(["--html", html] if html else []))

    def speeds(self, subject, machine, html=None):
        """Every policy without prefetch and with the default predictor, and the default policy with every predictor."""
        cells, known = Cells(), self.predictors_for(subject)
        first = [NONE] + known[:1]
        for number, sample in enumerate(subject.samples):
            sweeps = [self._sweep(subject, sample, machine, self.policies, first, html if number == 0 else None)]
            if known[1:]:
                sweeps.append(self._sweep(subject, sample, machine, self.policies[:1], known[1:], None))
            cells.keep(sweeps)
        return cells

    def hits(self, subject, slots):
        """Hit rates with slots for each layer: {name: {slots: rate}}."""
        told = self.lode.asked("sim", *(word for test in subject.samples[0].tests for word in ("--trace", test)),
                               "--slots", ",".join(map(str, slots)), "--policy", ",".join(self.policies))
        rates = {}
        for result in told["results"]:
            if result["fits"]:
                name = "belady" if result["kind"] == "belady" else result["policy"]
                rates.setdefault(name, {})[result["slots"]] = result["hit_rate"]
        return rates
