#!/bin/bash
# --trace and --predict: what a run records is what it did, the text stays the same, and what cannot be recorded is told.
. "$(dirname "$0")/lib.sh"

run() { # OPTION...
    lode run -p "Once upon a time" -n 40 --temp 0 --ignore-eos --seed 1 "$@"
}

# The same text with a trace, and a trace of all tokens: the last one that is sampled is not computed.
run
expect_code 0 "no trace"
cp "$WORK/out" "$WORK/text"
run --trace "$WORK/run.trace"
expect_code 0 "--trace"
cmp -s "$WORK/out" "$WORK/text" || fail "--trace: another text"
expect_equal "$(stat -c %a "$WORK/run.trace")" 600 "the trace is its owner's alone"
lode trace --summary "$WORK/run.trace"
expect_code 0 "summary"
expect_match "$OUT" '^model +tiny-moe, fingerprint [0-9a-f]{16}$' "model"
expect_match "$OUT" '^ +8 layers, 4 of 32 experts for a token' "layers"
expect_match "$OUT" '^recorded +on .*, by lode [0-9.]+$' "machine"
expect_match "$OUT" '^options +weights=0 .*kv=f16 policy=[a-z]+ predictor=[a-z-]+ .*threads=[0-9]+$' "options"
expect_match "$OUT" '^options .* devices=cpu ' "the devices"
expect_match "$OUT" '^decode +39 tokens in 39 passes,.* in memory 100.0%$' "decode"

# Every command that runs a model.
printf 'Once upon a time\nAnd then\n' | lode chat -n 8 --temp 0 --trace "$WORK/chat.trace"
expect_code 0 "chat --trace"
printf 'Once upon a time there was a king who had three sons, and the youngest of them was a good man.' >"$WORK/words"
lode eval "$MODEL" -f "$WORK/words" -c 8 --trace "$WORK/eval.trace"
expect_code 0 "eval --trace"
lode bench -m "$MODEL" -p 8 -n 8 -r 1 --trace "$WORK/bench.trace"
expect_code 0 "bench --trace"
for from in chat eval bench; do
    lode trace "$WORK/$from.trace"
    expect_code 0 "the trace of $from"
    expect_equal "$ERR" "" "the trace of $from, stderr"
done

# Under a ceiling, with every predictor: the same text, and residency as the figures have it. The sanitizers' memory
# breaks ceilings.
"$LODE" synth tiny-moe --layers 16 --skew 1 --type f32 -o "$WORK/moe.gguf" 2>"$WORK/err" || skip "no model: $(cat "$WORK/err")"
tight() { # OPTION...
    lode run -m "$WORK/moe.gguf" -p "Once upon a time" -n 24 -t 2 --temp 0 --ignore-eos --cold --stats "$WORK/stats" "$@"
}
lode run --predict help
expect_code 0 "--predict help"
predictors=$(printf '%s\n' "$OUT" | awk 'NF >= 2 { print $1 }')
expect_equal "$(printf '%s\n' "$predictors" | tail -n 1)" none "the last of --predict help"
expect_refusal 2 "must be one of" "--predict best" run -p x --predict best
expect_refusal 1 "nowhere.so" "--predict of a file that is not there" run -p x --predict ./nowhere.so
expect_refusal 1 "contradict" "--predict and --no-prefetch" run -p x --no-prefetch --predict "${predictors%%$'\n'*}"
if ! nm "$LODE" 2>/dev/null | grep -q __asan_init; then
    tight
    expect_code 0 "without a ceiling"
    cp "$WORK/out" "$WORK/text"
    for predictor in $predictors; do
        tight --ram 112M --predict "$predictor" --trace "$WORK/tight.trace"
        expect_code 0 "--predict $predictor"
        cmp -s "$WORK/out" "$WORK/text" || fail "--predict $predictor: another text"
        if have_json; then
            rate=$(json_get "$WORK/stats" hit_rate)
            lode trace "$WORK/tight.trace"
            expect_match "$OUT" "predictor=$predictor " "the trace names $predictor"
            told=$(printf '%s\n' "$OUT" | sed -n 's/^decode.* in memory \([0-9.]*\)%.*$/\1/p')
            awk -v rate="$rate" -v told="$told" 'BEGIN { d = 100 * rate - told; exit !(d < 0.051 && d > -0.051) }' ||
                fail "--predict $predictor: $rate of the choices were in memory, the trace says $told%"
        fi
    done
fi

# With a GPU: which, how much of it, and how the model was divided; what is not simulated is not replayed.
MACHINE=ram=32G@60,cores=8,drive=3.5
if "$LODE" devices | grep -q '^  simt0 '; then
    run --devices simt1:memory=9M,simt0,cpu --vram 8M --plan off --trace "$WORK/gpu.trace"
    expect_code 0 "--trace with two GPUs"
    lode trace "$WORK/gpu.trace"
    expect_match "$OUT" '^options .* devices=simt1\+simt0 vram=8388608\+8388608 placement=auto ' "two GPUs, the settings"
    expect_refusal 1 "gpu.trace: simt1\+simt0 computed beside the CPU, and GPUs are not simulated" "replay of a run with GPUs" \
        sim --replay --machine "$MACHINE" -m "$MODEL" "$WORK/gpu.trace"
    run --devices simt0,cpu --vram 8M --placement by-layer --plan off --trace "$WORK/gpu.trace"
    expect_code 0 "--trace, by layers"
    lode trace "$WORK/gpu.trace"
    expect_match "$OUT" '^options .* devices=simt0 vram=8388608 placement=by-layer ' "by layers, the settings"
else
    echo "note: this build executes no GPU's kernels on the CPU; traces of runs with GPUs are not checked"
fi

# What cannot be recorded.
expect_refusal 1 "nowhere/x.trace: No such file" "a folder that is not there" run -p x --trace /nowhere/x.trace
[ ! -c /dev/full ] || expect_refusal 1 "/dev/full: No space left" "a full disk" run -p x --trace /dev/full
"$LODE" synth tiny-31b -o "$WORK/dense.gguf" 2>"$WORK/err" || fail "no dense model: $(cat "$WORK/err")"
expect_refusal 1 "which experts are chosen; this model has none" "a dense model" run -m "$WORK/dense.gguf" -p x --trace "$WORK/no.trace"
[ ! -e "$WORK/no.trace" ] || fail "a dense model left a trace"

# A disk that fills up: the run goes on and says so.
(
    ulimit -f 2 # 2 KiB
    trap '' XFSZ
    exec timeout 60 "$LODE" run -p "Once upon a time" -n 200 --temp 0 --ignore-eos --trace "$WORK/big.trace" >"$WORK/pipe.out" 2>"$WORK/big.err"
) 2>/dev/null
expect_equal $? 0 "a disk that fills up, exit"
grep -q "big.trace: File too large" "$WORK/big.err" ||
    fail "a disk that fills up: '$(head -c 300 "$WORK/big.err")'"

# Killed: what was written is there.
"$LODE" bench -p 0 -n 400 -r 100 --trace "$WORK/killed.trace" >/dev/null 2>&1 &
pid=$!
for _ in $(seq 100); do
    [ "$(stat -c %s "$WORK/killed.trace" 2>/dev/null || echo 0)" -gt 4000 ] && break
    sleep 0.1
done
kill -9 $pid
wait $pid 2>/dev/null
lode trace "$WORK/killed.trace"
expect_code 0 "the trace of a run that was killed"
expect_match "$OUT$ERR" "ends|cut" "the trace of a run that was killed says that it is cut"

finish
