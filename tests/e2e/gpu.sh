#!/bin/bash
# `--devices`, `--vram`, `--placement`, `--timeline`: the text of the CPU alone, whatever lies on a GPU; and
# `lode probe` of one. GPUs are executed on the CPU here (simt).
. "$(dirname "$0")/lib.sh"

lode devices --json
expect_code 0 "lode devices"
printf '%s' "$OUT" | grep -q '"simt0"' || skip "this build has no simt device"

# After this prompt no router chooses between experts that are equal but for rounding.
greedy() {
    lode run -m "$MODEL" -p "There was once a miller who had a daughter, and" -n 24 -t 2 --temp 0 --ignore-eos --plan off \
        --stats "$WORK/stats" "$@"
}
stat_of() { json_get "$WORK/stats" "$1"; }
expect_text() { # WHAT
    expect_code 0 "$1"
    expect_equal "$OUT" "$text" "$1: the text of the CPU alone"
}

greedy --devices cpu
expect_code 0 "the CPU alone"
text=$OUT
[ ${#text} -gt 40 ] || fail "24 tokens gave only '$text'"
case $ERR in *simt*) fail "the CPU alone tells of a GPU: $ERR" ;; esac

# ---- everything, some and little of the model on one GPU; two GPUs

for vram in 1G 256M 16M 12M 9M 8M; do
    for placement in auto by-layer; do
        greedy --devices simt0,cpu --vram $vram --placement $placement
        expect_text "--vram $vram --placement $placement"
        expect_match "$ERR" '^lode run: simt0: .* of weights' "--vram $vram --placement $placement: what lies there"
    done
done
greedy --devices simt0
expect_text "--devices simt0"
greedy --devices cpu,simt1
expect_text "--devices cpu,simt1"
expect_match "$ERR" '^lode run: simt1: ' "--devices cpu,simt1"
for placement in auto by-layer; do
    greedy --devices simt0,simt1,cpu --vram 9M --placement $placement
    expect_text "two GPUs, $placement"
    expect_match "$ERR" '^lode run: simt0: ' "two GPUs, the first"
    expect_match "$ERR" '^lode run: simt1: ' "two GPUs, the second"
done
greedy --devices simt0:memory=16M:link=4:latency=20,cpu
expect_text "a small GPU behind a link"

# The same for prompts in steps, for a cache in Q8_0, and with RAM so tight that experts come and go.
for option in "-b 3" "-b 1" "--kv q8_0 -c 64" "--kv f32"; do
    # shellcheck disable=SC2086
    greedy --devices cpu $option
    alone=$OUT
    # shellcheck disable=SC2086
    greedy --devices simt0,cpu --vram 10M $option
    expect_code 0 "$option"
    expect_equal "$OUT" "$alone" "$option: the text of the CPU alone"
done

# ---- a timeline

greedy --devices simt0,cpu --timeline "$WORK/timeline.json"
expect_text "--timeline"
[ -s "$WORK/timeline.json" ] || fail "--timeline wrote nothing"
if command -v python3 >/dev/null; then
    python3 - "$WORK/timeline.json" <<'EOF' || fail "--timeline: no trace of events on the GPU's lane"
import json, sys
trace = json.load(open(sys.argv[1]))
events = trace["traceEvents"] if isinstance(trace, dict) else trace
names = [e["args"]["name"] for e in events if e.get("ph") == "M" and e.get("name") == "thread_name"]
spans = [e for e in events if e.get("ph") == "X"]
assert any("simt0" in name for name in names), names
assert spans and all(e["dur"] >= 0 and e["ts"] >= 0 for e in spans)
EOF
fi

# ---- wrong wishes

expect_refusal 2 "vulkan0" "an unknown device" run -p x --devices vulkan0
expect_refusal 2 "simt0" "a setting that there is not" run -p x --devices simt0:color=red
expect_refusal 2 "must be one of auto, by-layer" "--placement best" run -p x --devices simt0 --placement best
expect_refusal 1 "cuda7" "a GPU that is not there" run -m "$MODEL" -p x --devices cuda7
lode run -m "$MODEL" -p x --devices cpu --vram 1G
[ "$CODE" = 1 ] || [ "$CODE" = 2 ] || fail "--vram without a GPU: exit $CODE"
expect_equal "$OUT" "" "--vram without a GPU, stdout"

# ---- lode probe

profile=$XDG_CONFIG_HOME/lode/machine.json
expect_refusal 2 "simt0 is no GPU of this machine.*-o" "simt0 in the machine's own profile" probe --quick --devices simt0
[ ! -e "$profile" ] || fail "a profile with simt0 was kept"
expect_refusal 2 "vulkan0" "--devices vulkan0" probe --quick --devices vulkan0
expect_refusal 2 "--show measures nothing" "--show --devices" probe --show --devices cpu
finish
