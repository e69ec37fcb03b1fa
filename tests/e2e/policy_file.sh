#!/bin/bash
# A policy and a predictor in shared objects: the same text under a low ceiling as without one, its name in the figures, and what is
# told when it cannot be used.
. "$(dirname "$0")/lib.sh"
: "${POLICY:?path of the example policy}" "${PREDICTOR:?path of the example predictor}"
[ -r "$POLICY" ] && [ -r "$PREDICTOR" ] || skip "the examples are not built: $POLICY, $PREDICTOR"

LOW=64M # the least that the option takes; most experts of the demo model do not fit

tell() { lode run -m "$MODEL" -p "Once upon a time" -n 48 -t 2 --temp 0 --ignore-eos --cold --stats "$WORK/stats" "$@"; }

tell
expect_code 0 "without a ceiling"
cp "$WORK/out" "$WORK/text"
[ -s "$WORK/text" ] || fail "no text"

for how in "" "--no-prefetch" "--io threads"; do
    # shellcheck disable=SC2086
    tell --ram $LOW --policy "$POLICY" $how
    expect_code 0 "--policy FILE $how"
    cmp -s "$WORK/out" "$WORK/text" || fail "--policy FILE $how: another text: '$(head -c 60 "$WORK/out")'"
    if have_json; then
        expect_equal "$(json_get "$WORK/stats" policy)" lru-2 "policy of --stats"
        rate=$(json_get "$WORK/stats" hit_rate)
        awk -v rate="$rate" 'BEGIN { exit !(rate > 0 && rate < 1) }' ||
            fail "--policy FILE $how: no experts come and go, the hit rate is $rate"
    fi
done

# A path of its own, and a bare name in the current folder.
cp "$POLICY" "$WORK/mine.so"
(cd "$WORK" && timeout 60 "$LODE" run -m "$MODEL" -p "Once upon a time" -n 48 -t 2 --temp 0 --ignore-eos --cold --ram $LOW \
    --policy mine.so >out 2>err) || fail "--policy mine.so: $(head -c 300 "$WORK/err")"
cmp -s "$WORK/out" "$WORK/text" || fail "--policy mine.so: another text"

# A predictor in a shared object, live; and both of them simulated.
tell --ram 68M --predict "$PREDICTOR" --trace "$WORK/run.trace"
expect_code 0 "--predict FILE"
cmp -s "$WORK/out" "$WORK/text" || fail "--predict FILE: another text"
lode trace --json "$WORK/run.trace"
expect_match "$OUT" "predictor=[^ ]*sticky.so" "the trace names the predictor"
lode sim --trace "$WORK/run.trace" --machine ram=32G@60,cores=8,drive=3.5 --share 25 --policy "lru,$POLICY" \
    --predict "none,$PREDICTOR" --csv -
expect_code 0 "lode sim with shared objects"
expect_equal "$(printf '%s\n' "$OUT" | grep -c "sticky")" 2 "rows with the predictor of the file"
expect_equal "$(printf '%s\n' "$OUT" | grep -c "lru-2")" 2 "rows with the policy of the file"

expect_refusal 1 "nowhere.so: No such file" "a file that is not there" run -m "$MODEL" -p x --policy ./nowhere.so
expect_refusal 1 "not a shared object" "a text" run -m "$MODEL" -p x --policy "$SOURCE/LICENSE"
expect_refusal 1 "not a file" "a folder" run -m "$MODEL" -p x --policy "$WORK/"
expect_refusal 2 "must be one of heat,.* or a file ending in .so" "a name that is none" run -p x --policy best

finish
