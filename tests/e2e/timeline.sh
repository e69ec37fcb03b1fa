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
if command -v jq >/dev/null; then
    jq -e '[.traceEvents[] | select(.ph == "X")] | length > 0' "$file" >/dev/null || fail "jq finds no spans"
fi
cp "$file" "$WORK/before"
run --timeline "$file"
expect_code 0 "--timeline, again"
check_timeline "$file" >/dev/null 2>&1 || fail "an older timeline is not replaced"
lode bench -m "$MODEL" -t 2 -p 8 -n 4 -r 1 --timeline "$WORK/bench.json"
expect_code 0 "bench --timeline"
check_timeline "$WORK/bench.json" >/dev/null 2>"$WORK/why" || fail "bench --timeline: $(tail -n 1 "$WORK/why")"
expect_equal "$(find "$WORK" -name '*.partial-*')" "" "nothing is left beside it"

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
