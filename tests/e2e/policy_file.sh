#!/bin/bash
# A policy in a shared object: the same text under a low ceiling as without one, its name in the figures, and what is
# told when it cannot be used.
. "$(dirname "$0")/lib.sh"
: "${POLICY:?path of the example policy}"
[ -r "$POLICY" ] || skip "the example policy is not built: $POLICY"

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

expect_refusal 1 "nowhere.so: No such file" "a file that is not there" run -m "$MODEL" -p x --policy ./nowhere.so
expect_refusal 1 "not a shared object" "a text" run -m "$MODEL" -p x --policy "$SOURCE/LICENSE"
expect_refusal 1 "not a file" "a folder" run -m "$MODEL" -p x --policy "$WORK/"
expect_refusal 2 "must be one of heat,.* or a file ending in .so" "a name that is none" run -p x --policy best

finish
