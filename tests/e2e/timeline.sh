#!/bin/bash
# --timeline: a file of Chrome's trace format that is valid, whose spans lie within the run and have lanes with
# names; one of a run on a GPU's kernels shows that devices work at the same time.
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || skip "no python3 to read timelines with"

run() { lode run -m "$MODEL" -p "Once upon a time there was a king" -n 16 -t 2 --temp 0 --ignore-eos --plan off --cold "$@"; }
file=$WORK/run.json

# Exits with what is wrong with a timeline, else prints its lanes and how many spans each has: "cpu 12".
check_timeline() { # FILE
    python3 - "$1" <<'PYTHON'
import collections, json, sys
trace = json.load(open(sys.argv[1]))
assert isinstance(trace["traceEvents"], list)
names, spans, last = {}, collections.defaultdict(list), {}
for event in trace["traceEvents"]:
    assert event["ph"] in "MX", event
    assert event["pid"] == 1
    if event["ph"] == "M":
        if event["name"] == "thread_name":
            assert event["tid"] not in names, "a lane has two names"
            names[event["tid"]] = event["args"]["name"]
        continue
    assert event["tid"] in names, "a span on a lane without a name"
    assert event["name"] and event["ts"] >= 0 and event["dur"] >= 0, event
    assert set(event["args"]) <= {"layer", "bytes"}, event
    assert event["ts"] >= last.get(event["tid"], 0), "spans of a lane are in order"
    last[event["tid"]] = event["ts"]
    spans[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
assert len(set(names.values())) == len(names), "two lanes of one name"
assert spans, "no spans"
assert min(start for lane in spans.values() for start, _ in lane) == 0, "times are since the first span"
assert trace["otherData"]["dropped"] == 0
for tid, name in sorted(names.items()):
    print(name, len(spans[tid]))
PYTHON
}

expect_lane() { # REGEX WHAT: a lane with spans
    grep -Eq "^$1 [1-9][0-9]*$" "$WORK/lanes" || fail "$2: no lane $1 with spans in: $(tr '\n' ';' <"$WORK/lanes")"
}

run
text=$OUT
run --timeline "$file"
expect_code 0 "--timeline"
expect_equal "$OUT" "$text" "--timeline, the text"
check_timeline "$file" >"$WORK/lanes" 2>"$WORK/why" || fail "--timeline: $(tail -n 1 "$WORK/why")"
expect_lane cpu "the CPU"
expect_lane drive "the drive"
if command -v jq >/dev/null; then
    jq -e '[.traceEvents[] | select(.ph == "X")] | length > 0' "$file" >/dev/null || fail "jq finds no spans"
fi
cp "$file" "$WORK/before"
run --io mmap --timeline "$file"
expect_code 0 "--io mmap"
check_timeline "$file" >"$WORK/lanes" 2>"$WORK/why" || fail "--io mmap: $(tail -n 1 "$WORK/why")"
! grep -q '^drive' "$WORK/lanes" || fail "--io mmap: the kernel reads, and a lane says that we do"
run --timeline "$file"
expect_code 0 "--timeline, again"
check_timeline "$file" >/dev/null 2>&1 || fail "an older timeline is not replaced"
lode bench -m "$MODEL" -t 2 -p 8 -n 4 -r 1 --timeline "$WORK/bench.json"
expect_code 0 "bench --timeline"
check_timeline "$WORK/bench.json" >/dev/null 2>"$WORK/why" || fail "bench --timeline: $(tail -n 1 "$WORK/why")"
expect_equal "$(find "$WORK" -name '*.partial-*')" "" "nothing is left beside it"

# ---- the drive

# Under a ceiling experts are read while others are computed: rows of reads, none of which has two at a time, whose
# layers and bytes are told, and some of which are seen above the CPU's work. The sanitizers' own memory breaks ceilings.
"$LODE" synth tiny-moe --layers 16 --skew 1 --type f32 -o "$WORK/moe.gguf" 2>"$WORK/err" || skip "no model: $(cat "$WORK/err")"
if ! nm "$LODE" 2>/dev/null | grep -q __asan_init; then
    lode run -m "$WORK/moe.gguf" -p "Once upon a time" -n 24 -t 2 --temp 0 --ignore-eos --plan off --cold --ram 112M \
        --timeline "$file" --stats "$WORK/stats"
    expect_code 0 "under a ceiling"
    check_timeline "$file" >"$WORK/lanes" 2>"$WORK/why" || fail "under a ceiling: $(tail -n 1 "$WORK/why")"
    expect_lane drive "under a ceiling"
    python3 - "$file" "$WORK/stats" >"$WORK/said" 2>&1 <<'PYTHON' || fail "reads under a ceiling: $(tail -n 1 "$WORK/said")"
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
stats = json.load(open(sys.argv[2]))
lanes = {e["tid"]: e["args"]["name"].split()[0] for e in events if e["name"] == "thread_name"}
cpu = [e for e in events if e["ph"] == "X" and lanes[e["tid"]] == "cpu"]
reads = [e for e in events if e["ph"] == "X" and lanes[e["tid"]] == "drive"]
end = lambda e: e["ts"] + e["dur"]
kinds = {e["name"] for e in reads}
assert "read" in kinds and kinds <= {"read", "read ahead", "read on a guess"}, kinds
assert all(e["args"]["bytes"] > 0 for e in reads), "a read without bytes"
for tid in {e["tid"] for e in reads}:
    row = [e for e in reads if e["tid"] == tid]
    assert all(end(a) <= b["ts"] + 1e-6 for a, b in zip(row, row[1:])), "two reads in one row at once"
reads = [e for e in reads if e["ts"] >= cpu[0]["ts"]] # without those of loading
layers = {e["args"]["layer"] for e in reads if "layer" in e["args"]}
assert len(layers) > 4, "layers of reads: %s" % layers
# The figures count what the drive delivered, whole blocks; spans tell what was asked for.
told, counted = sum(e["args"]["bytes"] for e in reads), stats["prefill_bytes"] + stats["decode_bytes"]
assert counted > 0 and 0.8 * counted <= told <= 1.1 * counted, "%d bytes in the timeline, %d in the figures" % (told, counted)
both = sum(max([0] + [min(end(c), end(r)) - max(c["ts"], r["ts"]) for r in reads]) for c in cpu)
assert both > 0, "nothing is read while the CPU computes"
PYTHON
fi

# ---- a GPU's kernels, executed on the CPU

if "$LODE" devices | grep -q '^  simt0 '; then
    run --devices simt0:link=5:latency=10,cpu --vram 8M --timeline "$file"
    expect_code 0 "--timeline with simt0"
    expect_equal "$OUT" "$text" "--timeline with simt0, the text"
    check_timeline "$file" >"$WORK/lanes" 2>"$WORK/why" || fail "--timeline with simt0: $(tail -n 1 "$WORK/why")"
    expect_lane cpu "simt0, the CPU"
    expect_lane simt0 "simt0, its operations"
    # Experts that are on the GPU and others of the same layer on the CPU are computed at the same time.
    python3 - "$file" >"$WORK/both" <<'PYTHON' || fail "the overlap cannot be computed"
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
lanes = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
def busy(lane): # stretches that do not touch
    out = []
    for e in events:
        if e["ph"] != "X" or e["tid"] != lanes[lane]:
            continue
        start, end = e["ts"], e["ts"] + e["dur"]
        if out and start <= out[-1][1]:
            out[-1][1] = max(out[-1][1], end)
        else:
            out.append([start, end])
    return out
cpu, gpu = busy("cpu"), busy("simt0")
print(sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a in cpu for b in gpu))
PYTHON
    awk '{ exit !($1 > 0) }' "$WORK/both" || fail "the CPU and the GPU never work at the same time"
else
    echo "note: this build executes no GPU's kernels on the CPU; a timeline with a GPU is not checked"
fi

# ---- where it cannot be written

expect_refusal 1 "cannot write $WORK/absent/t.json: No such file" "into a missing folder" \
    run -m "$MODEL" -p x -n 1 --timeline "$WORK/absent/t.json"
expect_refusal 1 "it is a folder" "a folder" run -m "$MODEL" -p x -n 1 --timeline "$WORK"
expect_refusal 1 "cannot write" "no name" run -m "$MODEL" -p x -n 1 --timeline ""
expect_refusal 2 "needs a value" "without a value" run -p x --timeline
expect_refusal 2 "leave out --against" "of a comparison" bench -m "$MODEL" --against lru --timeline "$file"
run --timeline /dev/full
expect_code 0 "a full disk ends no run"
expect_equal "$OUT" "$text" "a full disk, the text"
expect_match "$ERR" "cannot write the timeline /dev/full: .*make room" "a full disk is told"
finish
