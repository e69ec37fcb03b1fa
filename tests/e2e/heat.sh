#!/bin/bash
# `lode heat`: nothing yet, after a run, as JSON, damaged, forgotten.
. "$(dirname "$0")/lib.sh"
export XDG_CACHE_HOME=$WORK/cache

lode heat "$MODEL"
expect_code 0 "no heat yet"
expect_equal "$OUT" "" "no heat yet, stdout"
expect_match "$ERR" "nothing is kept of .* yet; runs will write $XDG_CACHE_HOME/lode/heat/[0-9a-f]{16}\.heat" "no heat yet"
[ ! -e "$XDG_CACHE_HOME" ] || fail "looking made folders"
lode heat --clear "$MODEL"
expect_code 0 "--clear of nothing"
expect_match "$ERR" "nothing is kept" "--clear of nothing"

lode run -m "$MODEL" -p "Once upon a time" -n 40 --temp 0
expect_code 0 "a run"
set -- "$XDG_CACHE_HOME"/lode/heat/*.heat
heat=$1
[ -f "$heat" ] || fail "a run left no heat file"
expect_equal "$(stat -c %a "$XDG_CACHE_HOME/lode/heat")" 700 "mode of the folder"

lode heat "$MODEL"
expect_code 0 "heat"
expect_equal "$ERR" "" "heat, stderr"
expect_match "$OUT" "^heat +[0-9]+ tokens, in $heat$" "tokens and file"
expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^ +[0-7] ( +[0-9]+\.[0-9]%){3} +[0-9.]+ of 32 +( +[0-9]+: [01]\.[0-9]{2}){5}$')" 8 "a line for each layer"
expect_match "$OUT" "^ +all( +[0-9]+\.[0-9]%){3} +[0-9.]+ of 256 +( +[0-7]/[0-9]+: [01]\.[0-9]{2}){5}$" "all layers"
tokens=$(printf '%s\n' "$OUT" | sed -n 's/^heat *\([0-9]*\) tokens.*/\1/p')
lode heat -m "$MODEL" --layer 3 --top 2
expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^ +3 .* of 32 +( +[0-9]+: [01]\.[0-9]{2}){2}$')" 1 "--layer 3 --top 2"
expect_equal "$(printf '%s\n' "$OUT" | wc -l)" 4 "--layer shows one layer"

if have_json; then
    lode heat --json "$MODEL"
    expect_code 0 "--json"
    expect_equal "$(json_get "$WORK/out" heat_file)" "$heat" "heat_file"
    expect_equal "$(json_get "$WORK/out" tokens)" "$tokens" "tokens"
    if command -v jq >/dev/null; then
        expect_equal "$(jq '.layers | length' "$WORK/out")" 8 "layers"
        expect_equal "$(jq '[.layers[].rates | length] | unique' -c "$WORK/out")" "[32]" "rates of all experts"
        # Each token chooses 4 experts of a layer.
        expect_equal "$(jq '[.layers[] | .choices_per_token | (. * 1000 | round)] | unique' -c "$WORK/out")" "[4000]" "choices"
        expect_equal "$(jq '[.layers[] | (.rates | add) as $sum | .share_quarter - ((.rates | sort | reverse)[:8] | add) / $sum | fabs < 1e-5] | all' "$WORK/out")" true "share_quarter"
        expect_equal "$(jq '[.layers[] | (.rates | add) as $sum | .effective_experts - ([.rates[] | . / $sum | select(. > 0) | -. * log] | add | exp) | fabs < 1e-3] | all' "$WORK/out")" true "effective_experts"
        expect_equal "$(jq '[.layers[] | .hottest[0].rate == (.rates | max)] | all' "$WORK/out")" true "hottest"
    fi
    lode heat --json --layer 2 "$MODEL"
    expect_equal "$(json_get "$WORK/out" overall)" absent "overall only with all layers"
fi

# A second run adds to the first; a cold one does not.
lode run -m "$MODEL" -p "Once upon a time" -n 40 --temp 0
lode heat "$MODEL"
expect_match "$OUT" "^heat +$((2 * tokens)) tokens" "a second run adds"
lode run -m "$MODEL" -p "Once upon a time" -n 40 --temp 0 --cold
lode heat "$MODEL"
expect_match "$OUT" "^heat +$((2 * tokens)) tokens" "--cold adds nothing"
cp "$MODEL" "$WORK/renamed.gguf"
lode heat "$WORK/renamed.gguf"
expect_match "$OUT" "^heat +$((2 * tokens)) tokens" "a copy of the model has its heat"

# Wrong questions.
expect_refusal 2 "the layers of this model are 0 to 7" "--layer 8" heat "$MODEL" --layer 8
expect_refusal 2 "two files" "two files" heat -m "$MODEL" "$MODEL"
expect_refusal 2 "give it alone" "--clear --json" heat --clear --json "$MODEL"
expect_refusal 1 "absent.gguf.*No such file" "no such model" heat "$WORK/absent.gguf"

# Damage: told, not used, replaced by the next run.
head -c 500 "$heat" >"$WORK/half" && cp "$WORK/half" "$heat"
expect_refusal 1 "is no usable heat file" "a damaged file" heat "$MODEL"
lode run -m "$MODEL" -p "Once upon a time" -n 40 --temp 0
expect_code 0 "a run beside a damaged file"
expect_match "$ERR" "no usable heat file" "a run tells of a damaged file"
lode heat "$MODEL"
expect_match "$OUT" "^heat +$tokens tokens" "a run replaces a damaged file"

lode heat --clear "$MODEL"
expect_code 0 "--clear"
expect_equal "$OUT" "removed $heat" "--clear"
[ ! -e "$heat" ] || fail "--clear left the file"

# Where it is kept.
XDG_CACHE_HOME=relative lode heat "$MODEL"
expect_match "$ERR" "runs will write $HOME/.cache/lode/heat/" "a relative XDG_CACHE_HOME is ignored"
(
    unset XDG_CACHE_HOME
    HOME=nowhere
    lode heat "$MODEL"
    expect_code 1 "no absolute folder"
    expect_match "$ERR" "neither XDG_CACHE_HOME nor HOME is an absolute path" "no absolute folder"
    lode run -m "$MODEL" -p x -n 2
    expect_code 0 "a run without a folder for heat"
    expect_equal "$(printf '%s\n' "$ERR" | grep -c "neither XDG_CACHE_HOME")" 1 "said once"
    [ "$failures" = 0 ]
) || failures=$((failures + 1))

lode synth tiny-31b -o "$WORK/dense.gguf"
lode heat "$WORK/dense.gguf"
expect_code 0 "a dense model"
expect_match "$ERR" "has no experts" "a dense model"
finish
