"""What bench/offload prints: where and on what it ran, the table of medians with the bounds of the drive and of
the processor, and the ratios."""

import statistics

from common_report import aligned, median_of, number, percent, range_of, three_digits

GIB = float(1 << 30)


def ceiling_text(ceiling_bytes):
    if ceiling_bytes is None:
        return "unlimited"
    return f"{ceiling_bytes / GIB:.4g} GiB" if ceiling_bytes >= GIB else f"{ceiling_bytes / 2**20:.4g} MiB"


def is_whole(run, n_tokens):
    return run.get("failure") is None and run.get("generated_tokens", 0) >= n_tokens


# ---- figures


def summarise_row(arm, ceiling_bytes, runs):
    good = [run for run in runs if not run["failure"]]
    row = {"ceiling_bytes": ceiling_bytes, "arm": arm, "runs": len(runs), "good_runs": len(good),
           "failures": sorted({run["failure"] for run in runs if run["failure"]}),
           "cut_short": [run["generated_tokens"] for run in good if run["timed_out"]]}
    for key in ("prefill_tok_s", "decode_tok_s", "bytes_per_token", "prefill_bytes", "decode_bytes", "load_bytes",
                "load_s", "group_peak_bytes", "drive_read_bytes", "process_read_bytes", "drive_written_bytes",
                "hit_rate", "stall_share", "prompt_tokens"):
        row[key] = median_of(good, key)
    for key in ("prefill_tok_s", "decode_tok_s"):
        row[key + "_range"] = range_of(good, key)
    return row


def add_bounds(rows, drive_gbps):
    """bound: tokens/s if nothing but the drive or the processor, whichever takes longer, took time. What the
    processor takes is what Lode took with everything in memory, where that was measured."""
    whole = next((row for row in rows if row["arm"] == "lode" and row["ceiling_bytes"] is None), {})
    for row in rows:
        n_prompt = row["prompt_tokens"] or 0
        phases = (("decode", row["bytes_per_token"], 1), ("prefill", row["prefill_bytes"], n_prompt))
        for phase, row_bytes, tokens in phases:
            row[phase + "_bound_tok_s"] = row[phase + "_of_bound"] = row[phase + "_bound_by"] = None
            achieved = row[phase + "_tok_s"]
            if not achieved or row_bytes is None:
                continue
            best = whole.get(phase + "_tok_s")
            times = {"compute": tokens / best if best else 0,
                     "drive": row_bytes / (drive_gbps * 1e9) if drive_gbps else 0}
            slowest = max(times, key=times.get)
            if times[slowest] > 0:
                row[phase + "_bound_tok_s"] = tokens / times[slowest]
                row[phase + "_of_bound"] = achieved * times[slowest] / tokens
                row[phase + "_bound_by"] = slowest


def summarise(runs, drive_gbps):
    rows, seen = [], set()
    for run in runs:
        key = (run["ceiling_bytes"], run["arm"])
        if key not in seen:
            seen.add(key)
            rows.append(summarise_row(run["arm"], run["ceiling_bytes"],
                                      [r for r in runs if (r["ceiling_bytes"], r["arm"]) == key]))
    # Widest ceiling first; Lode above its baselines and its peer.
    order = ("lode", "lode by-layer", "lode static", "lode lru", "lode mmap", "llama.cpp")
    rows.sort(key=lambda row: (-(row["ceiling_bytes"] or float("inf")), order.index(row["arm"])))
    add_ratios(rows, runs)
    add_bounds(rows, drive_gbps)
    return rows


def add_ratios(rows, runs):
    """vs_*: lode's speed over this row's, median, least and most of the pairs of one round."""
    speeds = {(run["ceiling_bytes"], run["arm"], run["repeat"]): run for run in runs if not run["failure"]}
    for row in rows:
        for key in ("prefill_tok_s", "decode_tok_s"):
            pairs = []
            for (ceiling_bytes, arm, repeat), run in speeds.items():
                lode = speeds.get((ceiling_bytes, "lode", repeat))
                if lode and arm == row["arm"] != "lode" and ceiling_bytes == row["ceiling_bytes"]:
                    if lode.get(key) and run.get(key):
                        pairs.append(lode[key] / run[key])
            row["lode_over_" + key] = [statistics.median(pairs), min(pairs), max(pairs)] if pairs else None


# ---- text


def megabytes(value):
    if value is None:
        return "-"
    return f"{value / 1e6:.0f}" if value >= 10e6 else f"{value / 1e6:.1f}"


HEADINGS = ("ceiling", "arm", "prefill", "bound", "of it", "decode", "min-max", "bound", "of it", "MB/token",
            "peak GiB", "written MB", "hits", "stalled")


def cells(row):
    head = [ceiling_text(row["ceiling_bytes"]), row["arm"]]
    if not row["good_runs"]:
        return head + ["failed: " + "; ".join(row["failures"])]
    low_high = row["decode_tok_s_range"]
    bounds = {phase: three_digits(row[phase + "_bound_tok_s"]) + {"drive": " d", "compute": " c", None: ""}
              [row[phase + "_bound_by"]] for phase in ("prefill", "decode")}
    return head + [
        three_digits(row["prefill_tok_s"]), bounds["prefill"], percent(row["prefill_of_bound"]),
        three_digits(row["decode_tok_s"]), "-".join(map(three_digits, low_high)), bounds["decode"],
        percent(row["decode_of_bound"]), megabytes(row["bytes_per_token"]),
        number(row["group_peak_bytes"] and row["group_peak_bytes"] / GIB, ".2f"),
        megabytes(row["drive_written_bytes"]), number(row["hit_rate"] and 100 * row["hit_rate"], ".1f"),
        percent(row["stall_share"])]


def table(rows):
    return aligned([list(HEADINGS)] + [cells(row) for row in rows], 2)


def ratios(rows):
    texts = []
    for ceiling_bytes in dict.fromkeys(row["ceiling_bytes"] for row in rows):
        under = {row["arm"]: row for row in rows if row["ceiling_bytes"] == ceiling_bytes}
        if "lode" not in under:
            continue
        for arm, row in under.items():
            if arm == "lode":
                continue
            failed = [r["arm"] for r in (under["lode"], row) if not r["good_runs"]]
            words = []
            for phase in ("prefill", "decode"):
                ratio = row[f"lode_over_{phase}_tok_s"]
                if ratio:
                    words.append(f"{phase} {ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})")
            texts.append(f"{ceiling_text(ceiling_bytes):<10}  {arm:<13}  "
                         + (", ".join(words) or " and ".join(failed) + " failed"))
    return texts


def remarks(rows, runs, n_tokens):
    texts = []
    for row in rows:
        where = f"{ceiling_text(row['ceiling_bytes'])}, {row['arm']}"
        if row["good_runs"] and row["failures"]:
            texts.append(f"{where}: {row['runs'] - row['good_runs']} of {row['runs']} runs failed: "
                         + "; ".join(row["failures"]))
        if row["cut_short"]:
            texts.append(f"{where}: stopped at the time limit after "
                         f"{', '.join(map(str, row['cut_short']))} of {n_tokens} tokens")
        # Lode counts its own reads; the kernel's count of them must say the same.
        parts = [row[key] for key in ("load_bytes", "prefill_bytes", "decode_bytes")]
        if row["arm"] == "lode" and row["good_runs"] and row["process_read_bytes"] and None not in parts:
            own, counted = sum(parts), row["process_read_bytes"]
            if abs(own - counted) > 0.05 * counted + 64e6:
                texts.append(f"{where}: says it read {own / 1e9:.2f} GB, the kernel counts {counted / 1e9:.2f} GB")
    # Its baselines are the same program and must say the same.
    ids = {tuple(run["ids"]) for run in runs if run["arm"].split()[0] == "lode" and is_whole(run, n_tokens)}
    if len(ids) > 1:
        texts.append(f"lode's greedy tokens DIFFER between its runs: {len(ids)} sequences")
    elif ids:
        texts.append("lode's greedy tokens are the same in all its runs")
    if any(row["arm"] == "lode static" for row in rows):
        texts.append("lode static: runs start cold, so it counts what the run itself chooses")
    return texts


LEGEND = (
    "prefill, decode: tokens/s, medians; ceilings in GiB = 2^30 bytes, MB and GB decimal.",
    "bound: what the drive (d) at its measured bandwidth, or the processor (c) as in lode's unlimited runs, allows",
    "for the bytes that this row read; the slower of the two.",
    "MB/token: read from the drive in decode; lode's own count (- of mmap), for llama.cpp /proc/self/io.",
    "written MB: to the drive, by anyone, from the start of a run to its end (/sys/block/*/stat).",
    "peak GiB: of the memory control group, page cache included. hits, stalled: lode --stats, decode.",
)


def describe_measured(measured):
    texts = [f"{m['block_bytes'] / 2**10:.0f} KiB {m['gbps']:.2f} GB/s" for m in measured]
    return f"{', '.join(texts)}, direct, by {measured[0]['how']}"


def describe_drive(measured, drive_gbps):
    if not measured:
        return f"{drive_gbps:.2f} GB/s, as told"
    return f"{describe_measured(measured)}; the bounds take {drive_gbps:.2f} GB/s"


def full_report(rows, runs, n_tokens, drive):
    lines = table(rows) + [""]
    if ratios(rows):
        lines += ["lode's speed over that of (median of pairs, min-max)", *("  " + text for text in ratios(rows)), ""]
    if drive.get("after"):
        lines.append(f"random reads after the runs: {describe_measured(drive['after'])}")
    return lines + remarks(rows, runs, n_tokens) + [""] + list(LEGEND)
