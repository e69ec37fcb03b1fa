#!/bin/bash
# Planned runs: what is expected and how good that was, profiles that are of no use, what runs teach, and that
# small models are never worth a measurement. No machine is measured here: THIS_MACHINE writes a profile of this
# one with the figures of a described one.
. "$(dirname "$0")/lib.sh"
: "${THIS_MACHINE:?path of the program this_machine}"
profile=$XDG_CONFIG_HOME/lode/machine.json

store() { # a profile of this machine and the drive of a model
    rm -rf "$XDG_CONFIG_HOME"
    "$THIS_MACHINE" "${1:-$MODEL}" "ram=16G@40,cores=4,drive=2" "$profile" || fail "no profile"
}
run() { lode run -m "$MODEL" -p "Once upon a time there was a king who" -n 24 --temp 0 --ignore-eos "$@"; }
expect_quiet() { # WHAT: nothing but the last line
    expect_equal "$(printf '%s\n' "$ERR" | wc -l)" 1 "$1: $ERR"
}

# Without a profile: the demo model is not worth a measurement.
run
expect_code 0 "no profile"
expect_quiet "no profile"
text=$OUT
case $ERR in *predicted*) fail "something is predicted without a profile" ;; esac
[ ! -e "$XDG_CONFIG_HOME" ] || fail "a profile was made for the demo model"
expect_refusal 2 "must be one of auto, on, off" "--plan maybe" run -p x --plan maybe
lode bench --plan on
expect_code 2 "bench is not planned"

# With one: figures in the last line, a note at the start only when asked for.
store
run
expect_code 0 "a profile"
expect_quiet "a small model, no note"
expect_match "$ERR" 'prefill [0-9]+ tokens at [0-9.]+ tok/s \(predicted [0-9.]+\), decode 24 at [0-9.]+ tok/s \(predicted [0-9.]+\), TTFT' "the last line"
expect_equal "$OUT" "$text" "the text as planned"
run --plan on
expect_code 0 "--plan on"
expect_match "$ERR" 'expected: decode [0-9.]+ tok/s \([0-9.]+ - [0-9.]+\), prefill [0-9.]+ tok/s$' "--plan on, the note"
run --plan off
expect_quiet "--plan off"
case $ERR in *predicted*) fail "--plan off predicts" ;; esac
expect_equal "$OUT" "$text" "--plan off, text"
for given in "-t 1" "-b 16" "-c 256" "--kv q8_0" "--no-prefetch" "--ram 1G" "--cold"; do
    # shellcheck disable=SC2086
    run -n 8 --plan on $given
    expect_code 0 "$given"
    expect_match "$ERR" "expected: decode" "$given is planned around"
done
run -n 8 --plan on --isa portable
measured=$(sed -n 's/.*"isa": "\(.*\)".*/\1/p' "$profile" | head -n 1)
if [ "$measured" != portable ]; then
    expect_code 1 "--plan on with other kernels"
    expect_match "$ERR" "measured with the kernels for $measured" "--plan on with other kernels"
    run -n 8 --isa portable
    expect_code 0 "other kernels"
    expect_match "$ERR" "not planned: .*kernels for $measured" "other kernels are told"
fi
printf 'Tell me a story.\nGo on.\n/stats\n' | lode chat -m "$MODEL" -n 12 --temp 0 --plan on
expect_code 0 "chat"
expect_match "$ERR" 'expected: decode' "chat, the note"
expect_match "$ERR" 'decode [0-9]+ at [0-9.]+ tok/s \(predicted [0-9.]+\)' "chat, /stats"
for i in $(seq 300); do echo "The sea was calm and the king was $i years old."; done >"$WORK/text"
lode eval "$MODEL" -f "$WORK/text" -c 64 --chunks 2 --plan on
expect_code 0 "eval"
planned=$OUT
lode eval "$MODEL" -f "$WORK/text" -c 64 --chunks 2 --plan off
expect_equal "$OUT" "$planned" "eval, planned or not"

# What cannot be planned is a note, or the end of --plan on.
run -c 1M
expect_code 1 "a context beyond the limit"
lode run -m "$WORK/absent.gguf" -p x --plan on
expect_code 1 "no such model"
expect_match "$ERR" "absent.gguf.*No such file" "no such model"

# A profile of no use is said, with the reason, and not used.
expect_not_used() { # REGEX WHAT
    local before=$(cat "$profile")
    run -n 4
    expect_code 0 "$2"
    expect_match "$ERR" "$1" "$2"
    expect_equal "$(printf '%s\n' "$ERR" | wc -l)" 2 "$2: one note"
    case $ERR in *predicted*) fail "$2 is trusted" ;; esac
    expect_equal "$(cat "$profile")" "$before" "$2 is left alone"
}
sed -i 's/"fingerprint": "[0-9a-f]*"/"fingerprint": "0123456789abcdef"/' "$profile"
expect_not_used "stored profile is not of this machine: .*fingerprint.*lode probe" "a foreign profile"
store
sed -i '0,/"cores": [0-9]*/s//"cores": 4001/' "$profile"
expect_not_used "stored profile is not of this machine: .*not that of its own figures" "a profile with other figures"
cp "$SOURCE/profiles/machines/desktop-ddr4.json" "$profile"
expect_not_used "stored profile is not of this machine: .*not measured" "a sample"
store
head -c 400 "$profile" >"$WORK/half"
cp "$WORK/half" "$profile"
expect_not_used "of no use: .*machine.json: is no JSON" "half a profile"
store
sed -i 's/"operation_us": [0-9.]*/"operation_us": -1/' "$profile"
expect_not_used "of no use: .*machine.json: cpu.operation_us is -1 and must be" "an absurd profile"
rm "$profile"
mkdir "$profile"
run
expect_match "$ERR" "of no use: .*machine.json: is no regular file" "a folder in its place"

# Another drive than the one that was measured: nothing is read from it here, so it does not matter; what is
# gone is said.
store
sed -i 's/"device": "[^"]*"/"device": "nvme77n7"/; /"drives"/,$s/"name": "[^"]*"/"name": "a drive that is gone"/' "$profile"
if grep -q nvme77n7 "$profile" && have_json && command -v python3 >/dev/null; then
    python3 - "$profile" <<'PYTHON'
import json, sys
def fnv(texts):
    h = 0xcbf29ce484222325
    for text in texts:
        for byte in text.encode() + b"\xff":
            h = (h ^ byte) * 0x100000001b3 % 2**64
    return "%016x" % h
p = json.load(open(sys.argv[1]))
cpu = p["cpu"]
gib = (cpu["memory_bytes"] + 2**29) // 2**30
p["fingerprint"] = fnv([cpu["name"], "%d %d" % (cpu["cores"], gib), cpu["isa"], p["drives"][0]["name"]])
json.dump(p, open(sys.argv[1], "w"))
PYTHON
    run --plan on
    expect_code 0 "a drive that is gone"
    expect_match "$ERR" "the drive nvme77n7 .a drive that is gone. is not there; planned without it" "a drive that is gone"
    expect_match "$ERR" "expected: decode" "a drive that is gone"
    run
    expect_quiet "a drive that a small model does not need"
fi

# What runs teach.
command -v python3 >/dev/null || { echo "note: no python3; learning is not checked"; finish; }
store
sed -i 's/"threads": [0-9]*/"threads": 1/' "$profile" # one is disturbed the least by what else there is
before=$(cat "$profile")
run -t 1 -n 31 --stats "$WORK/stats"
expect_equal "$(cat "$profile")" "$before" "a short run teaches nothing"
expect_equal "$(python3 -c 'import json,sys; p=json.load(open(sys.argv[1]))
predicted, measured = p["predicted"], p["measured_parts"]
assert predicted["low"] <= predicted["decode_tok_s"] <= predicted["high"], predicted
for phase in "decode", "prefill":
    assert set(predicted[phase]) == set(measured[phase]) == {"kernels", "attention", "operations", "drive", "gpu"}
    assert all(x >= 0 for x in list(predicted[phase].values()) + list(measured[phase].values()))
    total = sum(predicted[phase].values())
    assert abs(total * predicted[phase + "_tok_s"] - 1) < 1e-6, (phase, total, predicted)
assert sum(measured["decode"].values()) > 0, measured
print("good")' "$WORK/stats" 2>&1)" good "predicted and measured parts"

# The figures are made a fifth better than this machine is, which runs then find out.
python3 - "$profile" "$WORK/stats" <<'PYTHON'
import json, sys
profile, stats = json.load(open(sys.argv[1])), json.load(open(sys.argv[2]))
predicted, measured = stats["predicted"]["decode"], stats["measured_parts"]["decode"]
faster = 1.2 * predicted["kernels"] / measured["kernels"]
for kernels in profile["cpu"]["kernels"].values():
    for curve in kernels.values():
        for point in curve:
            point["y"] = min(max(point["y"] * faster, 1e-5), 1e5)
json.dump(profile, open(sys.argv[1], "w"))
PYTHON
learned() { # of products in decode, "absent" without
    python3 -c 'import json,sys; p=json.load(open(sys.argv[1])).get("learned", {}).get("kernels_decode"); print(p[sys.argv[2]] if p else "absent")' "$profile" "$1"
}
before=$(cat "$profile")
run -t 1 --plan off
run -t 1 --no-repack
run -t 2
expect_equal "$(cat "$profile")" "$before" "a run unlike the measurement teaches nothing"
for ((try = 0; try < 40; try++)); do # what else there is may disturb some of them
    run -t 1 -n 33
    [ "$(learned runs)" = absent ] || break
done
expect_equal "$(learned runs)" 1 "a run teaches"
expect_match "$(python3 -c "print(1/1.5 <= $(learned factor) <= 1.5 and $(learned factor) != 1)")" True "within bounds: $(learned factor)"
expect_equal "$(stat -c %a "$profile")" 600 "the profile stays the user's"
lode probe --show
expect_match "$OUT" "^learned from runs" "--show"
expect_match "$OUT" "^  products, decode +[01]\.[0-9]+  \(1 run\)" "--show, what was learned"

# It cannot be written: told once, and the run is what it was.
if [ "$(id -u)" != 0 ]; then
    chmod a-w "$(dirname "$profile")"
    run -t 1 -n 33
    expect_code 0 "a profile that cannot be written"
    chmod u+w "$(dirname "$profile")"
fi

# Forgotten, alone.
lode probe --forget other
expect_code 2 "--forget other"
lode probe --show learned
expect_code 2 "--show learned"
lode probe --forget learned
expect_code 0 "--forget learned"
expect_match "$OUT" "^removed what runs have taught from $profile" "--forget learned"
expect_equal "$(learned runs)" absent "--forget learned"
[ -e "$profile" ] || fail "--forget learned removed the profile"
lode probe --forget learned
expect_match "$ERR" "taught nothing yet" "--forget learned again"
rm "$profile"
lode probe --forget learned
expect_code 0 "--forget learned of nothing"
expect_match "$ERR" "nothing is kept" "--forget learned of nothing"

# --plan on measures where nothing is stored; Ctrl-C ends it, and nothing is kept.
"$LODE" run -m "$MODEL" -p x --plan on >"$WORK/out" 2>"$WORK/err" &
process=$!
sleep 1
kill -INT $process
wait $process
expect_equal $? 130 "interrupted while it measures"
expect_match "$(cat "$WORK/err")" "not been measured yet; measuring it now, once, for 10 seconds" "it is said"
expect_match "$(cat "$WORK/err")" "interrupted" "interrupted"
expect_equal "$(cat "$WORK/out")" "" "nothing is generated"
[ ! -e "$profile" ] || fail "an interrupted measurement was kept"
finish
