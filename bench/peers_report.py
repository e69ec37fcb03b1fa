"""What bench/peers prints: of every case the median of each program in its best setting, held against Lode and
against the bandwidth at which the threads read memory."""

import statistics

from common_report import aligned, percent, three_digits

QUIET_SHARE = 0.05  # of the processors, that other programs may take
CASE = ("phase", "tokens", "context")


def case_key(figure):
    return tuple(figure[name] for name in CASE)


def samples(runs):
    """{(arm, setting, case): tokens/s of the rounds}, in the order in which they came."""
    found = {}
    for run in runs:
        for figure in run["figures"]:
            found.setdefault((run["arm"], figure["setting"], case_key(figure)), []).append(figure["tok_s"])
    return found


def best_setting(found, arm, case):
    """(setting, its tokens/s) with the best median among those with the most rounds, or None."""
    choices = [(len(speeds), statistics.median(speeds), setting, speeds)
               for (name, setting, key), speeds in found.items() if name == arm and key == case]
    return max(choices, key=lambda choice: choice[:2])[2:] if choices else None


def failures_of(runs, arm):
    return sorted({run["failure"] for run in runs if run["arm"] == arm and run["failure"]})


# ---- figures


def told_by_lode(runs):
    """(GB/s that the threads read at best, {case: bytes that a decoded token reads}) as `lode bench` says."""
    gbps = [run["told"].get("read_gbps") for run in runs if run.get("told")]
    bytes_of = {case_key(figure): figure["bytes_per_token"] for run in runs for figure in run["figures"]
                if figure.get("bytes_per_token")}
    return max((value for value in gbps if value), default=None), bytes_of


def summarise(runs, arms, cases):
    """A row for each case and arm, Lode's first."""
    found = samples(runs)
    read_gbps, bytes_of = told_by_lode(runs)
    rows = []
    for case in map(case_key, cases):
        lode_tok_s = None
        for arm in arms:
            row = {**dict(zip(CASE, case)), "arm": arm, "setting": None, "tok_s": None,
                   "failures": failures_of(runs, arm)}
            best = best_setting(found, arm, case)
            if best:
                setting, speeds = best
                row |= {"setting": setting, "tok_s": statistics.median(speeds), "range": (min(speeds), max(speeds)),
                        "rounds": len(speeds), "gbps": None, "share": None, "lode_ratio": None}
                if arm == "lode":
                    lode_tok_s = row["tok_s"]
                elif lode_tok_s:
                    row["lode_ratio"] = lode_tok_s / row["tok_s"]
                if case in bytes_of:
                    row["gbps"] = row["tok_s"] * bytes_of[case] / 1e9
                    row["share"] = row["gbps"] / read_gbps if read_gbps else None
            rows.append(row)
    return rows


# ---- text


def speed(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


HEADINGS = ("phase", "tokens", "context", "program", "tokens/s", "min-max", "lode / it", "GB/s", "of read", "setting")


def cells(row):
    head = [row["phase"], str(row["tokens"]), str(row["context"]), row["arm"]]
    if row["tok_s"] is None:
        return head + ["failed: " + ("; ".join(row["failures"]) or "no figures")]
    return head + [speed(row["tok_s"]), "-".join(map(speed, row["range"])),
                   f"{row['lode_ratio']:.2f}" if row["lode_ratio"] else "",
                   three_digits(row["gbps"]) if row["gbps"] else "", percent(row["share"]) if row["share"] else "",
                   "  " + row["setting"]]


def table(rows):
    lines = [list(HEADINGS)]
    previous = None
    for row in rows:
        case = case_key(row)
        line = cells(row)
        lines.append([""] * 3 + line[3:] if case == previous else line)
        previous = case
    widest = max(len(line[-1]) for line in lines if len(line) == len(HEADINGS))
    for line in lines:  # what is last is read from the left
        if len(line) == len(HEADINGS):
            line[-1] = line[-1].ljust(widest) if line[0] != "phase" else ("  " + line[-1]).ljust(widest)
    return aligned(lines, 4)


def case_text(case):
    phase, tokens, context = case
    return f"{phase} {tokens}" + (f" at {context}" if context else "")


def settings_table(runs):
    """Every setting that was measured, a column for each case; empty where no program had a choice."""
    found = samples(runs)
    choices = [key for key in dict.fromkeys(key[:2] for key in found) if key[1]]
    if len(choices) == len({arm for arm, _ in choices}):
        return []
    cases = list(dict.fromkeys(case for _, setting, case in found if setting))
    lines = [["program", "setting"] + [case_text(case) for case in cases]]
    for arm, setting in choices:
        speeds = [found.get((arm, setting, case)) for case in cases]
        lines.append([arm, setting] + [speed(statistics.median(values)) if values else "-" for values in speeds])
    return aligned(lines, 2)


def remarks(runs, isa, features):
    texts = []
    for arm in dict.fromkeys(run["arm"] for run in runs):
        failed = [run for run in runs if run["arm"] == arm and run["failure"]]
        for failure in failures_of(runs, arm):
            texts.append(f"{arm}: {sum(run['failure'] == failure for run in failed)} of "
                         f"{sum(run['arm'] == arm for run in runs)} processes failed: {failure}")
    for run in runs:
        if run.get("told", {}).get("offloaded"):
            texts.append("lode kept only a part of the weights in memory: this is no comparison in RAM")
        read_bytes = sum(figure.get("timed_read_bytes", 0) for figure in run["figures"])
        if read_bytes > 1e6:
            texts.append(f"{run['arm']}: {read_bytes / 1e6:.0f} MB came from the drive in timed passes "
                         f"({', '.join(run['settings'])})")
    shares = [run["others_share"] for run in runs if run["others_share"] > QUIET_SHARE]
    if shares:
        texts.append(f"other programs took more than {percent(QUIET_SHARE)} of the processors in {len(shares)} of "
                     f"{len(runs)} runs, at worst {percent(max(shares))}: threads that wait by spinning suffer most")
    if isa == "avx2":
        texts += [f"{arm} was built for more than AVX2: --isa avx2 holds for lode alone"
                  for arm, told in features.items()
                  if any(f"{name} = 1" in told for name in ("AVX512", "AVX512F", "AVX_VNNI", "AMX_INT8"))]
    return list(dict.fromkeys(texts))


def describe_bandwidth(runs):
    read_gbps, _ = told_by_lode(runs)
    return f"read bandwidth  {read_gbps:.1f} GB/s, the best that lode's threads measured" if read_gbps else None


LEGEND = (
    "tokens/s: medians of the rounds, each a process of its own; every other program in its best setting of that row.",
    "GB/s: weights and KV cache that a token reads, as lode counts them, by the time of a token; of read: its share.",
)
