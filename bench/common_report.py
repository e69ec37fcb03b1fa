"""Figures and text that the benchmarks' reports share: medians of runs, speeds in few digits, aligned tables."""

import statistics


def median_of(runs, key):
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def range_of(runs, key):
    values = [run[key] for run in runs if run.get(key) is not None]
    return (min(values), max(values)) if values else None


def number(value, form, unknown="-"):
    return unknown if value is None else format(value, form)


def three_digits(value):
    """Speeds span 0.02 to 2000 tokens/s."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def percent(value):
    return "-" if value is None else f"{100 * value:.0f}%"


def aligned(lines, n_left):
    """Lines of cells as text, the first n_left columns to the left. A line with fewer cells than the heading, such
    as a failed run's, has its columns on the left in line and the rest as it is."""
    full = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[i]) for line in full) for i in range(len(lines[0]))]
    for i in range(n_left):
        widths[i] = max(len(line[i]) for line in lines)
    texts = []
    for line in lines:
        padded = [cell.ljust(width) if i < n_left else cell.rjust(width) if len(line) == len(lines[0]) else cell
                  for i, (cell, width) in enumerate(zip(line, widths))]
        texts.append("  ".join(padded).rstrip())
    return texts


def provenance_lines(provenance):
    width = max(map(len, provenance))
    return [f"{name:<{width}}  {value}" for name, value in provenance.items()]
