#!/bin/bash
# `lode tune`: measured, kept, shown, interrupted and gone on with; and the options that it turns: never another text.
. "$(dirname "$0")/lib.sh"
kept=$XDG_CONFIG_HOME/lode/tuned

# ---- wrong questions

expect_refusal 2 "contradict each other" "--show --forget" tune --show --forget
expect_refusal 2 "shows nothing" "--forget --json" tune --forget --json
expect_refusal 2 "of measuring" "--show --restart" tune --show --restart
expect_refusal 2 "two files" "two models" tune -m a.gguf b.gguf
expect_refusal 2 "must be" "--seconds 0" tune --seconds 0
expect_refusal 2 "must be" "-n 1" tune -n 1
expect_refusal 1 "absent.gguf" "an absent model" tune "$WORK/absent.gguf"
expect_refusal 1 "nothing is kept of .*lode tune writes $kept" "--show of nothing" tune --show "$MODEL"
lode tune --forget "$MODEL"
expect_code 0 "--forget of nothing"
expect_match "$ERR" "nothing is kept" "--forget of nothing"
[ ! -e "$kept" ] || fail "questions left something"

# ---- too little time: nothing is stored

lode tune --seconds 1 -p 400 -n 100 "$MODEL"
case $CODE in
1) expect_match "$ERR" "too few to say anything: a turn takes" "one second" ;;
*) expect_code 0 "one second on a fast machine" ;;
esac
[ "$CODE" = 0 ] || [ -z "$(find "$kept" -name '*.json' 2>/dev/null)" ] || fail "too little time stored something"
rm -rf "$kept"

# ---- measured

begin=$(date +%s)
lode tune --seconds 20 -p 48 -n 4 --no-repack "$MODEL"
taken=$(($(date +%s) - begin))
expect_code 0 "a small model"
[ "$taken" -le 25 ] || fail "20 seconds took $taken"
expect_match "$ERR" "at most 20 seconds" "told beforehand"
expect_match "$OUT" "^threads " "a line for the threads"
expect_match "$OUT" "^prefetch +left out: +all experts stay in memory" "prefetch is left out"
expect_match "$OUT" "^ring +left out: +no weights are streamed" "the ring is left out"
expect_match "$OUT" "^batch +left out: .*-p" "the batch is left out"
expect_match "$OUT" "defaults" "before and after, or that the defaults stay"
file=$(find "$kept" -name '*-auto.json')
[ -f "$file" ] || fail "nothing was kept: $ERR"
expect_equal "$(stat -c %a "$file")" 600 "its mode"
expect_match "$ERR" "written to $file" "where it is kept"
expect_equal "$(find "$kept" -type f | wc -l)" 1 "nothing unfinished stays"
lode tune --show "$MODEL"
expect_code 0 "--show"
expect_match "$OUT" "^settings " "--show"
expect_match "$OUT" "^measured +20[0-9][0-9]-" "--show: when"
expect_refusal 1 "nothing is kept of .*under this ceiling" "another ceiling" tune --show --ram 1G "$MODEL"

# The command line fixes what it names.
lode tune --seconds 20 -p 48 -n 4 -t 1 --json "$MODEL"
expect_code 0 "-t 1"
expect_match "$OUT" '"knob": ?"threads", ?"why": ?"it is fixed by the command line"' "-t 1"
if have_json; then
    cp "$WORK/out" "$WORK/json"
    expect_equal "$(json_get "$WORK/json" outcome)" "nothing to tune" "--json, outcome"
    lode tune --show --json "$MODEL"
    cp "$WORK/out" "$WORK/json"
    expect_equal "$(json_get "$WORK/json" model)" "$MODEL" "--show --json"
fi

lode tune --seconds 20 -p 48 -n 4 -t 1 --restart "$MODEL"
expect_code 0 "nothing to tune"
expect_match "$ERR" "nothing to tune" "nothing to tune"

# With GPUs: measured with them, and kept for them, their ceiling and the placement alone.
expect_refusal 1 "this run has none; leave it out" "--vram without a GPU" tune --devices cpu --vram 1G "$MODEL"
expect_refusal 2 "--placement 'no': must be" "a placement that there is not" tune --placement no "$MODEL"
expect_refusal 2 "no option|unknown|--timeline" "--timeline of many runs" tune --timeline "$WORK/t.json" "$MODEL"
if "$LODE" devices | grep -q '^  simt0 '; then
    gpus="--devices simt0,cpu --vram 8M --placement by-layer"
    # shellcheck disable=SC2086
    lode tune --seconds 30 -p 8 -n 2 -c 16 $gpus "$MODEL"
    expect_code 0 "tune with simt0"
    expect_match "$ERR" "with simt0 .*beside the CPU, placed by layers; tokens are not compared" "tune with simt0, what it measures"
    expect_match "$OUT" "^threads " "tune with simt0, a line for the threads"
    [ -n "$(find "$kept" -name '*-auto-simt0-*-8388608-by-layer.json')" ] || fail "tune with simt0 kept nothing: $ERR"
    # shellcheck disable=SC2086
    lode tune --show $gpus "$MODEL"
    expect_code 0 "--show with simt0"
    expect_match "$OUT" "^GPUs +simt0 " "--show with simt0: the GPU"
    expect_match "$OUT" "^of their memory +8.0 MiB$" "--show with simt0: the ceiling"
    expect_match "$OUT" "^placement +by-layer$" "--show with simt0: the placement"
    expect_refusal 1 "nothing is kept of .*with these GPUs" "another placement" tune --show --devices simt0,cpu --vram 8M "$MODEL"
    # What was found is used by runs with the same devices alone.
    found=$(find "$kept" -name '*-by-layer.json')
    sed -i 's/"threads": *[0-9]*/"threads": 1/' "$found"
    # shellcheck disable=SC2086
    lode run -m "$MODEL" -p "Once upon a time" -n 2 --temp 0 $gpus
    expect_match "$ERR" "tuned settings: threads 1" "a run with the same devices"
    lode run -m "$MODEL" -p "Once upon a time" -n 2 --temp 0 --devices simt0,cpu --vram 8M
    [[ $ERR != *"threads 1"* ]] || fail "a run with another placement takes what was tuned for this one"
    # shellcheck disable=SC2086
    lode tune --forget $gpus "$MODEL"
    expect_equal "$OUT" "removed $found" "--forget with simt0"
    [ -f "$file" ] || fail "--forget with simt0 removed what is of the CPU"
else
    echo "note: this build executes no GPU's kernels on the CPU; tuning with GPUs is not checked"
fi

# Damaged.
cp "$file" "$WORK/good.json"
sed 's/"threads": *[0-9]*/"threads": -1/' "$WORK/good.json" >"$file"
expect_refusal 1 "$file: threads must be from 0 to" "an absurd number of threads" tune --show "$MODEL"
head -c 60 "$WORK/good.json" >"$file"
expect_refusal 1 "$file, line" "half a file" tune --show "$MODEL"
lode tune --forget "$MODEL"
expect_equal "$OUT" "removed $file" "--forget"
[ ! -e "$file" ] || fail "--forget left it"

# ---- interrupted, and gone on with

"$LODE" tune --seconds 300 -p 400 -n 64 "$MODEL" >"$WORK/out" 2>"$WORK/err" &
process=$!
for _ in $(seq 300); do
    [ -n "$(find "$kept" -name '*.unfinished' 2>/dev/null)" ] && break
    kill -0 $process 2>/dev/null || break
    sleep 0.05
done
kill -INT $process 2>/dev/null
wait $process
code=$?
if [ "$code" != 0 ]; then # else it was faster than the signal
    expect_equal "$code" 130 "interrupted"
    expect_match "$(cat "$WORK/err")" "interrupted; nothing is stored" "interrupted"
    [ -n "$(find "$kept" -name '*.unfinished')" ] || fail "an interruption lost what was measured"
    lode tune --seconds 30 -p 400 -n 63 "$MODEL"
    expect_match "$ERR" "left out: it had other options" "other options"
    "$LODE" tune --seconds 60 -p 400 -n 64 "$MODEL" >"$WORK/out" 2>"$WORK/err"
    expect_equal "$?" 0 "gone on with"
fi
rm -rf "$kept"

# ---- the options

synth() { # NAME SHAPE-AND-OPTIONS
    # shellcheck disable=SC2086
    "$LODE" synth $2 --type f32 -o "$WORK/$1.gguf" 2>"$WORK/err" || skip "no $1 model: $(cat "$WORK/err")"
}
generate() { # MODEL OPTION...
    local model=$1
    shift
    lode run -m "$WORK/$model.gguf" -p "Once upon a time" -n 24 -t 2 --temp 0 --ignore-eos --stats "$WORK/stats" "$@"
}
expect_same_text() { # MODEL WHAT
    expect_code 0 "$2"
    cmp -s "$WORK/out" "$WORK/$1.text" || fail "$2: another text: '$(head -c 60 "$WORK/out")'"
}

expect_refusal 2 "must be" "--prefetch-ranks 0" run -p x --prefetch-ranks 0
expect_refusal 2 "must be" "--queue-depth 0" run -p x --queue-depth 0
expect_refusal 2 "must be" "--queue-depth 257" run -p x --queue-depth 257
expect_refusal 2 "must be" "--ring 1" run -p x --ring 1
expect_refusal 2 "must be" "--ring much" run -p x --ring much
expect_refusal 1 "4000 ranks: a layer of this model has [0-9]+ experts" "more ranks than experts" \
    run -m "$MODEL" -p x --prefetch-ranks 4000
expect_refusal 1 "contradict each other" "--no-prefetch --prefetch-ranks" \
    run -m "$MODEL" -p x --no-prefetch --prefetch-ranks 1

lode run -m "$MODEL" -p "Once upon a time" -n 24 --temp 0 --ignore-eos -t 2
cp "$WORK/out" "$WORK/demo.text"
for options in "--prefetch-ranks 1" "--prefetch-ranks 4" "--queue-depth 1" "--queue-depth 256" "--ring 64M"; do
    # shellcheck disable=SC2086
    lode run -m "$MODEL" -p "Once upon a time" -n 24 --temp 0 --ignore-eos -t 2 $options
    expect_same_text demo "the demo model, $options"
done

synth moe "tiny-moe --layers 16 --skew 1" # 225 MiB
synth dense "tiny-31b --layers 40"        # 162 MiB
for model in moe dense; do
    generate $model
    cp "$WORK/out" "$WORK/$model.text"
done
ranks=$("$LODE" info "$WORK/moe.gguf" | sed -n 's/.*experts[^0-9]*\([0-9][0-9]*\).*/\1/p' | head -n 1)
for options in "--prefetch-ranks 1" "--prefetch-ranks 3" "--prefetch-ranks ${ranks:-8}" "--queue-depth 1" \
    "--queue-depth 2" "--queue-depth 256" "--queue-depth 64 --io threads" "--ring 8M"; do
    # shellcheck disable=SC2086
    generate moe --ram 96M $options
    expect_same_text moe "--ram 96M $options"
done
for options in "--queue-depth 1" "--queue-depth 256" "--ring 4096" "--ring 16M" "--ring 24M --queue-depth 64" \
    "--ring 1T" "--ring auto"; do
    # shellcheck disable=SC2086
    generate dense --ram 112M $options
    expect_same_text dense "--ram 112M $options"
done
if have_json; then
    generate dense --ram 112M
    streamed=$(json_get "$WORK/stats" streamed_bytes)
    generate dense --ram 112M --ring 24M
    more=$(json_get "$WORK/stats" streamed_bytes)
    [ "$more" -gt "$streamed" ] || fail "a larger ring takes nothing from what stays: $more after $streamed"
fi

# Under a ceiling all knobs matter.
lode tune --seconds 25 -p 16 -n 4 --ram 96M "$WORK/moe.gguf"
case $CODE in 0 | 1) ;; *) expect_code 0 "tune under a ceiling" ;; esac
for knob in prefetch "queue depth" policy; do
    expect_match "$OUT" "^$knob " "tune under a ceiling: $knob"
    expect_match "$(grep "^$knob " <<<"$OUT" | head -n 1)" "ranks|off|[0-9]|lfu" "tune under a ceiling: $knob is tried"
done

finish
