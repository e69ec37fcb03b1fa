#!/bin/bash
# `lode eval`: perplexity, logits, comparison.
. "$(dirname "$0")/lib.sh"

cat >"$WORK/text" <<'TEXT'
There was once a king who had three daughters, and the youngest of them was so fair that the sun himself, who has seen
so much, wondered whenever it shone in her face. Close by the castle lay a great dark forest, and under an old tree in
the forest was a well, and when the day was very warm, the king's child went out into the forest and sat down by the
side of the cool fountain; and when she was bored she took a golden ball, and threw it up on high and caught it; and
this ball was her favourite plaything. Now it happened on one occasion that the ball did not fall into the little hand
which she was holding up for it, but on to the ground beyond, and rolled straight into the water. The king's daughter
followed it with her eyes, but it vanished, and the well was deep, so deep that the bottom could not be seen.
TEXT

lode eval "$MODEL" -f "$WORK/text" -c 64 --threads 2
expect_code 0 "perplexity"
expect_match "$OUT" '^perplexity [0-9]+\.[0-9]{4} \+/- [0-9]+\.[0-9]{5} \([0-9]+ chunks of 64, [0-9]+ tokens scored\)$' "perplexity"
result=$OUT
ppl=$(printf '%s' "$OUT" | sed 's/perplexity \([0-9]*\).*/\1/')
{ [ "$ppl" -ge 5 ] && [ "$ppl" -le 200 ]; } || fail "a story has a perplexity of $ppl"
lode eval "$MODEL" -f "$WORK/text" -c 64 --threads 1
expect_equal "$OUT" "$result" "perplexity with one thread and with two"
lode eval -m "$MODEL" -t 1 -f - -c 64 <"$WORK/text"
expect_equal "$OUT" "$result" "perplexity of stdin"
lode eval "$MODEL" -f "$WORK/text" -t 1 -c 64 --chunks 2
expect_match "$OUT" '\(2 chunks of 64, 62 tokens scored\)$' "--chunks"
expect_refusal 1 "the text has [0-9]+ tokens; two chunks of 512 need at least 1024" "a text too short" \
    eval "$MODEL" -f "$WORK/text"

"$LODE" tokenize -m "$MODEL" --bos <"$WORK/text" | cut -d, -f1-100 >"$WORK/ids"
lode eval "$MODEL" --tokens "$WORK/ids" --logits "$WORK/logits" --kv f32
expect_code 0 "--logits"
expect_equal "$OUT" "" "--logits, stdout"
expect_equal "$(wc -c <"$WORK/logits")" $((100 * 4096 * 4)) "size of the logits"
lode eval "$MODEL" --tokens "$WORK/ids" --compare "$WORK/logits" --kv f32
expect_code 0 "--compare"
expect_match "$OUT" '^KL mean -?[0-9.]+e-(0[7-9]|[1-9][0-9])|^KL mean 0\.0' "the same logits"
expect_match "$OUT" 'largest difference 0\.00000; top-1 agreement 100\.00 %' "the same logits"
lode eval "$MODEL" --tokens "$WORK/ids" --compare "$WORK/logits" --kv q8_0 --logits "$WORK/other"
expect_match "$OUT" 'top-1 agreement (9[0-9]|100)' "nearly the same logits"
case $OUT in *"difference 0.00000"*) fail "another cache type made no difference" ;; esac
lode eval "$MODEL" --tokens "$WORK/ids" --compare "$WORK/logits" --kv f32 --threads 1
expect_match "$OUT" 'largest difference 0\.00000;' "one thread gives the same logits"

cut -d, -f1-99 "$WORK/ids" >"$WORK/fewer"
expect_refusal 1 "bytes, but logits of 99 tokens" "reference of another size" \
    eval "$MODEL" --tokens "$WORK/fewer" --compare "$WORK/logits"
expect_refusal 1 "absent: No such file" "no reference" eval "$MODEL" --tokens "$WORK/ids" --compare "$WORK/absent"
expect_refusal 1 "holds 100 tokens, the context 50" "more tokens than context" \
    eval "$MODEL" --tokens "$WORK/ids" --logits "$WORK/l" -c 50
[ -w /dev/full ] && expect_refusal 1 "cannot write /dev/full" "a full disk" \
    eval "$MODEL" --tokens "$WORK/ids" --logits /dev/full

if have_json; then
    lode eval "$MODEL" -f "$WORK/text" -c 64 --json
    expect_match "$(json_get "$WORK/out" perplexity)" "^$ppl\\." "--json"
    expect_equal "$(json_get "$WORK/out" context)" 64 "--json, context"
    lode eval "$MODEL" --tokens "$WORK/ids" --compare "$WORK/logits" --kv f32 --json
    expect_match "$(json_get "$WORK/out" top1_agreement)" '^1(\.0)?$' "--compare --json"
fi
finish
