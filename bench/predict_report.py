"""Tables of predictions: how far from what was measured, and which part of the time is off."""

import statistics

from common_report import aligned, three_digits
from predict_measure import LANES

TARGETS = {"decode": (0.10, 0.25), "prefill": (0.15, None)}  # median and worst


def speeds(rows):
    lines = [["model", "phase", "limited by", "ram", "threads", "context", "predicted", "from - to", "measured", "spread",
              "error"]]
    for row in rows:
        lines.append([row["model"], row["phase"], row["limiter"], row["ram"], str(row["threads"]), str(row["context"]),
                      three_digits(row["predicted"]), f"{three_digits(row['low'])} - {three_digits(row['high'])}",
                      three_digits(row["measured"]), f"{100 * row['spread']:.0f}%", f"{100 * row['error']:+.0f}%"])
    return aligned(lines, 3)


def parts(rows):
    """Milliseconds of a token in each part, predicted and measured."""
    lines = [["model", "phase", "ms a token", "ram", "threads", "context"] + [lane[:-2] for lane in LANES]]
    for row in rows:
        pairs = [f"{three_digits(1e3 * row['predicted_parts'][lane])} : {three_digits(1e3 * row['measured_parts'][lane])}"
                 for lane in LANES]
        lines.append([row["model"], row["phase"], "plan : bench", row["ram"], str(row["threads"]), str(row["context"])]
                     + pairs)
    return aligned(lines, 3)


def lane_errors(rows):
    """How much of the measured time each part is predicted too long, in the median."""
    return {lane: statistics.median((row["predicted_parts"][lane] - row["measured_parts"][lane]) * row["measured"]
                                    for row in rows) for lane in LANES}


def summary(phase, rows):
    median_target, worst_target = TARGETS[phase]
    errors = [abs(row["error"]) for row in rows]
    inside = sum(row["low"] <= row["measured"] <= row["high"] for row in rows)
    return [f"{phase}: {len(errors)} settings, median error {100 * statistics.median(errors):.0f}% "
            f"(wanted: {100 * median_target:.0f}%), worst {100 * max(errors):.0f}%"
            + (f" (wanted: {100 * worst_target:.0f}%)" if worst_target else "")
            + f", within the range {inside} ({100 * inside / len(errors):.0f}%)",
            f"{phase}, predicted less measured in parts of the time, medians: "
            + ", ".join(f"{lane[:-2]} {100 * error:+.0f}%" for lane, error in lane_errors(rows).items())]


def predictions(rows):
    lines = []
    for phase in TARGETS:
        chosen = [row for row in rows if row["phase"] == phase]
        if chosen:
            lines += speeds(chosen) + [""] + parts(chosen) + [""] + summary(phase, chosen) + [""]
    return lines


def left_out(entries):
    return [f"left out: {entry['setting']}: {entry['why']}" for entry in entries] + ([""] if entries else [])
