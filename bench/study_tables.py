"""The study's tables, as Markdown. Figures of several traces are medians, with the least and the most."""

import statistics

from study_simulate import NONE, ORACLE

LRU = ("lru", NONE)
AS_GOOD = 1.01  # what counts as better than the default


def table(heading, rows, n_left=1):
    """Cells as Markdown; all columns but the first are numbers."""
    marks = [":---"] * n_left + ["---:"] * (len(heading) - n_left)
    return ["| " + " | ".join(cells) + " |" for cells in [heading, marks, *rows]]


def spread(values, form="{:.2f}"):
    if not values:
        return "-"
    median, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return median if low == high else f"{median} ({low} to {high})"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def speed(value):
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def pair_name(pair):
    return "oracle" if pair == ORACLE else pair[0] if pair[1] == NONE else f"{pair[0]} + {pair[1]}"


# ---- what the traces are


def traces(subjects):
    def row(subject):
        def of(figure):
            return [figure(facts) for facts in subject.facts]
        first = subject.facts[0]
        precision = of(lambda facts: statistics.mean(facts["guess_precision_by_rank"][:len(facts["mass_by_rank"] or [1])])
                       if facts["guess_precision_by_rank"] else None)
        return [subject.title, str(len(subject.samples)), str(first["tokens"]), str(first["conversations"]),
                spread(of(lambda facts: facts["mean"]["zipf"])),
                spread(of(lambda facts: 100 * facts["mean"]["reuse"]), "{:.0f}"),
                spread(of(lambda facts: 100 * facts["mean"]["reuse_by_chance"]), "{:.0f}"),
                "-" if None in precision else spread([100 * value for value in precision], "{:.0f}")]
    return table(["trace", "samples", "tokens", "conversations", "skew", "reuse %", "by chance %", "guesses right %"],
                 [row(subject) for subject in subjects])


def hits(rates, slots):
    def row(name):
        return [name] + [percent(rates[name].get(each)) for each in slots]
    names = sorted(rates, key=lambda name: (name == "belady", list(rates).index(name)))
    return table(["hit rate, %, slots for each layer"] + [str(each) for each in slots], [row(name) for name in names])


# ---- speeds


def speeds(cells, default_policy):
    """tok/s and hit rates of every policy without prefetch, of the default policy with every predictor, and of the oracle."""
    budgets = cells.budgets
    def cell(pair, budget):
        rate, hit = cells.median(pair, budget), cells.median(pair, budget, "hit_rate")
        return "-" if rate is None else f"{speed(rate)} ({percent(hit)})"
    shown = [pair for pair in cells.pairs() if pair == ORACLE or pair[1] == NONE or pair[0] == default_policy]
    pairs = sorted(shown, key=lambda pair: (pair == ORACLE, pair[1] != NONE))
    return table(["tok/s (hit rate %)"] + [f"{budget} of the experts" for budget in budgets],
                 [[pair_name(pair)] + [cell(pair, budget) for budget in budgets] for pair in pairs])


class Questions:
    """Tables with a line for each trace and machine and a column for each budget."""

    def __init__(self, studied, simulator):
        self.studied, self.simulator = studied, simulator  # [(subject, machine, cells)]
        self.budgets = list(dict.fromkeys(budget for _, _, cells in studied for budget in cells.budgets))

    def _table(self, what, answer):
        rows = [[subject.title, machine] + [answer(subject, cells, budget) for budget in self.budgets]
                for subject, machine, cells in self.studied]
        return table([what, "machine"] + [str(budget) for budget in self.budgets], rows, 2)

    def _without(self, subject):
        return (self.simulator.default(subject)[0], NONE)

    def policy_gain(self):
        """The default policy to LRU, both without prefetch."""
        return self._table("default policy / LRU", lambda subject, cells, budget: spread(
            cells.ratios(self._without(subject), LRU, budget)))

    def best_policy(self):
        def answer(subject, cells, budget):
            mine = self._without(subject)
            best = cells.best(budget, predicted=False)
            if best is None:
                return "-"
            ratios = cells.ratios(best, mine, budget)
            return f"{best[0]} {spread(ratios)}" if ratios and statistics.median(ratios) > AS_GOOD else "default"
        return self._table("best policy / default, without prefetch", answer)

    def prefetch_gain(self):
        """The best predictor with the default policy, to none."""
        def answer(subject, cells, budget):
            mine = self._without(subject)
            best = cells.best(budget, policy=mine[0], predicted=True)
            return "-" if best is None else f"{best[1]} {spread(cells.ratios(best, mine, budget))}"
        return self._table("best predictor / none, default policy", answer)

    def default_prefetch(self):
        def answer(subject, cells, budget):
            pair = self.simulator.default(subject)
            return "-" if pair[1] == NONE else spread(cells.ratios(pair, self._without(subject), budget))
        return self._table("default predictor / none", answer)

    def best_pair(self):
        """Where something else is faster than the default by more than one percent."""
        def answer(subject, cells, budget):
            mine = self.simulator.default(subject)
            best = cells.best(budget)
            if best is None:
                return "-"
            ratios = cells.ratios(best, mine, budget)
            return f"{pair_name(best)} {spread(ratios)}" if ratios and statistics.median(ratios) > AS_GOOD else "default"
        return self._table("best of all / default", answer)

    def oracle_share(self):
        return self._table("default / oracle", lambda subject, cells, budget: spread(
            cells.ratios(self.simulator.default(subject), ORACLE, budget)))

    def prefetched(self):
        """Where the bytes of the default predictor go."""
        def answer(subject, cells, budget):
            pair = self.simulator.default(subject)
            read = cells.median(pair, budget, "prefetch_bytes")
            if pair[1] == NONE or not read:
                return "-"
            parts = [cells.median(pair, budget, name) / read for name in ("useful_bytes", "late_bytes", "wasted_bytes")]
            return " / ".join(f"{100 * part:.0f}" for part in parts)
        return self._table("prefetched bytes, %: useful / late / wasted", answer)
