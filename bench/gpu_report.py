"""The report of bench/gpu: Markdown, as far as the steps have come."""

from common_report import percent, three_digits


def table(heading, lines, n_left=1):
    rule = ["---"] * n_left + ["---:"] * (len(heading) - n_left)
    return ["| " + " | ".join(line) + " |" for line in [heading, rule] + lines] + [""]


def head(figures):
    lines = ["# A GPU, measured", ""]
    if figures.get("skipped"):
        lines += [f"**Skipped: no GPU can be used here** ({figures['skipped']}). The same steps were run quickly on simt0, "
                  "which executes the kernels on the CPU: this shows that they work; its speeds are those of no GPU.", ""]
    return lines + table(["", ""], [[name, str(value)] for name, value in figures["provenance"].items()], 2)


def tests(figures):
    lines = [[suite["name"], "yes" if suite["sanitized"] else "", f"{suite['seconds']:.0f}",
              ("**failed**: " + suite["error"]) if suite.get("error") else suite["told"]] for suite in figures["suites"]]
    failed = [f"**failed**: {figures['error']}", ""] if figures.get("error") else []
    return ["## Suites", "", f"compute-sanitizer: {figures['sanitizer']}", "", *failed] + table(
        ["suite", "sanitizer", "s", "result"], lines, 2)


def cell_line(cell):
    return [cell["op"], cell["type"], cell["shape"], f"{cell['seconds'] * 1e6:.1f}", three_digits(cell["gbps"]),
            percent(cell["share"]), three_digits(cell["tflops"])]


def is_decode(cell):
    return cell["gbps"] > 0 and (cell["shape"].endswith("rows=1"))


def kernels(figures):
    if figures.get("error"):
        return ["## Kernels", "", f"**failed**: {figures['error']}", ""]
    cells, heading = figures["cells"], ["operation", "type", "shape", "us", "GB/s", "of a copy", "TFLOP/s"]
    groups = [("One row: what decode does", [cell for cell in cells if is_decode(cell)]),
              ("Many rows: what prefill does", [cell for cell in cells if not is_decode(cell) and cell["tflops"] > 0]),
              ("Small operations", [cell for cell in cells if not cell["gbps"] and not cell["tflops"]])]
    lines = ["## Kernels", "",
             f"Copies within its memory reach {figures['copy_gbps']:.1f} GB/s, both ways counted: what *of a copy* is a "
             "share of. GB/s are those of weights, or of K and V.", ""]
    for title, group in groups:
        if group:
            lines += [f"### {title}", ""] + table(heading, [cell_line(cell) for cell in group], 3)
    return lines


def predicted(row):
    """Of a run that was planned."""
    told = row.get("predicted")
    if not told or "decode_tok_s" not in told:
        return ["-", "-"]
    error = told["decode_tok_s"] / row["decode_tok_s"] - 1 if row.get("decode_tok_s") else None
    return [f"{three_digits(told['decode_tok_s'])} ({three_digits(told['low'])} - {three_digits(told['high'])})",
            "-" if error is None else f"{100 * error:+.0f}%"]


def model_line(row):
    if "decode_tok_s" not in row:
        return [row["vram"], row["placement"], f"**failed**: {row['error']}", "", "", "", "", ""]
    there = sum(gpu["pinned_bytes"] + gpu["pool_used"] * (gpu["pool_bytes"] / gpu["pool_slots"] if gpu["pool_slots"] else 0)
                for gpu in row["gpus"])
    hits = sum(gpu["hit_rate"] for gpu in row["gpus"])
    return [row["vram"], row["placement"], three_digits(row["decode_tok_s"]), percent(row["spread"]), *predicted(row),
            three_digits(row["prefill_tok_s"]), f"{there / 2**30:.2f}", percent(hits)]


def model(figures):
    whole = figures["whole"]
    lines = ["## A model", "", f"{figures['model']}, {figures['bytes'] / 1e9:.2f} GB; the machine's profile: "
             f"{figures['profile']}", ""]
    if whole.get("error"):
        lines += [f"Wholly on the GPU: **failed**: {whole['error']}", ""]
    else:
        lines += ["As much on the GPU as it holds (`lode bench`, random tokens): decode "
                  f"{three_digits(whole['decode_tok_s'])} tok/s (spread {percent(whole['spread'])}), prefill "
                  f"{three_digits(whole['prefill_tok_s'])} tok/s."]
        if whole.get("share"):
            lines[-1] += (f" A token reads {whole['bytes_per_token'] / 1e6:.0f} MB: at the rate of copies "
                          f"{three_digits(whole['roofline_tok_s'])} tok/s, of which this is {percent(whole['share'])}.")
        lines += [""]
    heading = ["--vram", "placement", "decode tok/s", "spread", "predicted", "error", "prefill tok/s", "GiB there",
               "choices there"]
    lines += table(heading, [line + [""] * (len(heading) - len(line)) for line in map(model_line, figures["rows"])], 2)
    if any(row.get("same_text") is False for row in figures["rows"]):
        lines += ["**Runs of one setting said different things.**", ""]
    return lines


def timeline(figures):
    lines = ["## Timeline", "", "Shares of the time from the first span to the last.", ""]
    for name, told in figures.items():
        lines += [f"### --vram {name}", ""]
        if told.get("error"):
            lines += [f"**failed**: {told['error']}", ""]
            continue
        rows = [[lane, percent(share)] for lane, share in told["busy"].items()]
        rows += [[" and ".join(pair["lanes"]), percent(pair["share"])] for pair in told["both"]]
        lines += table(["busy", "share"], rows)
        if told["dropped"]:
            lines += [f"{told['dropped']} spans were dropped: the timeline is of the beginning.", ""]
    return lines


PARTS = {"tests": tests, "kernels": kernels, "model": model, "timeline": timeline}


def whole(figures):
    lines = head(figures)
    for step in figures.get("steps", []):
        lines += PARTS[step](figures[step]) if step in figures else [f"## {step}", "", "not done yet", ""]
    return lines
