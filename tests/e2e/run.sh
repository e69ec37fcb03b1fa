#!/bin/bash
# `lode run`: what it generates, that it can be repeated, its figures.
. "$(dirname "$0")/lib.sh"

greedy() { lode run -m "$MODEL" -p "Once upon a time there was a king who" -n 24 --threads 1 --temp 0 "$@"; }

greedy
expect_code 0 "greedy"
text=$OUT
cp "$WORK/out" "$WORK/greedy"
[ ${#text} -gt 40 ] || fail "24 tokens gave only '$text'"
expect_match "$ERR" 'prefill [0-9]+ tokens at [0-9.]+ tok/s, decode 24 at [0-9.]+ tok/s, TTFT [0-9]+ ms, .* threads?, .*, seed [0-9]+, length reached$' "the last line"
case $text in "Once upon"*) fail "the prompt is echoed" ;; esac

greedy
expect_equal "$OUT" "$text" "greedy a second time"
expect_match "$ERR" " 1 thread," "the last line tells one thread"
greedy --threads 2
expect_equal "$OUT" "$text" "greedy with two threads"
expect_match "$ERR" " 2 threads," "the last line tells two threads"
greedy --batch 3
expect_code 0 "a batch of 3"
greedy --kv f32
expect_code 0 "a cache in F32"
greedy --kv q8_0 -c 64
expect_code 0 "a cache in Q8_0"
greedy --isa portable
expect_code 0 "portable kernels"
expect_match "$ERR" ' portable,' "the last line tells the kernels"

# The prompt from a file, stdin, the environment's model, the demo model: always the same.
printf 'Once upon a time there was a king who' >"$WORK/prompt"
lode run -m "$MODEL" -t 1 -f "$WORK/prompt" -n 24 --threads 1 --temp=0
expect_equal "$OUT" "$text" "-f"
lode run --model="$MODEL" -n24 -t1 --temp 0 <"$WORK/prompt"
expect_equal "$OUT" "$text" "stdin"
lode run -f - -n 24 -t 1 --temp 0 <"$WORK/prompt"
expect_equal "$OUT" "$text" "the demo model"
expect_match "$ERR" 'using the demo model' "a note about the demo model"
LODE_MODEL=$MODEL lode run -f - -n 24 -t 1 --temp 0 <"$WORK/prompt"
expect_equal "$OUT" "$text" "LODE_MODEL"
case $ERR in *"demo model"*) fail "LODE_MODEL, yet the demo model" ;; esac

# Sampling: a seed repeats a run, the default seed is new each time and told.
sample() { lode run -m "$MODEL" -p "The old house" -n 16 -t 1 "$@"; }
sample --seed 7
first=$OUT
sample --seed 7
expect_equal "$OUT" "$first" "the same seed"
sample --seed 8
[ "$OUT" != "$first" ] || fail "another seed gave the same text"
sample
random=$OUT
seed=$(printf '%s' "$ERR" | sed -n 's/.*seed \([0-9]*\),.*/\1/p')
sample --seed "$seed"
expect_equal "$OUT" "$random" "the seed that the last line tells"
sample --top-k 1 --seed 1
greedy_by_k=$OUT
sample --temp 0
expect_equal "$greedy_by_k" "$OUT" "top-k 1 is greedy"

# The model's end, control tokens, biases. <turn|> is 106 in the demo model.
lode run -m "$MODEL" -t 1 -p x -n 5 --temp 0 --logit-bias 106=100
expect_equal "$OUT" "" "an end token ends"
expect_match "$ERR" 'the model ended$' "an end token ends"
lode run -m "$MODEL" -t 1 -p x -n 3 --temp 0 --logit-bias 106=100 --ignore-eos --special
expect_equal "$OUT" "<turn|><turn|><turn|>" "--ignore-eos --special"
lode run -m "$MODEL" -t 1 -p x -n 3 --temp 0 --logit-bias 106=100 --logit-bias=106=-inf --ignore-eos --special
case $OUT in *"<turn|>"*) fail "a banned token was drawn" ;; esac

# A full context, an empty prompt.
lode run -m "$MODEL" -t 1 -p "A long story" -n 100 -c 32 --temp 0 --ignore-eos
expect_code 0 "a full context"
expect_match "$ERR" 'context full$' "a full context"
lode run -m "$MODEL" -t 1 -p "" -n 4 --temp 0
expect_code 0 "an empty prompt: <bos> is enough"
lode run -m "$MODEL" -t 1 -n 4 --temp 0 </dev/null
expect_code 0 "an empty stdin"

lode run -m "$MODEL" -t 1 --chat --system "You tell stories." -p "Tell me a story." -n 16 --temp 0
expect_code 0 "--chat"
[ -n "$OUT" ] || fail "--chat says nothing"
lode run -m "$MODEL" -t 1 --chat --think -p "Tell me a story." -n 16 --temp 0
expect_code 0 "--chat --think"

# JSON and statistics.
have_json || { echo "note: neither jq nor python3; JSON is not checked"; finish; }
greedy --json --stats "$WORK/stats" --seed 42
expect_code 0 "--json"
cp "$WORK/out" "$WORK/json"
expect_equal "$(json_get "$WORK/json" text)" "$(cat "$WORK/greedy")" "text of --json"
expect_equal "$(json_get "$WORK/json" stop)" length "stop of --json"
expect_equal "$(json_get "$WORK/json" ids | tr ',' '\n' | wc -l)" 24 "ids of --json"
expect_equal "$(json_get "$WORK/json" ids | tr -d '[] ' | "$LODE" tokenize -m "$MODEL" --decode)" "$text" "ids spell the text"
for key in model threads isa context seed stop prompt_tokens generated_tokens prefill_tok_s decode_tok_s load_s ttft_s \
    peak_rss_bytes token_ms_p50 token_ms_p95 token_ms_p99; do
    [ "$(json_get "$WORK/stats" $key)" != absent ] || fail "--stats lacks $key"
    [ "$(json_get "$WORK/json" $key)" != absent ] || fail "--json lacks $key"
done
expect_equal "$(json_get "$WORK/stats" seed)" 42 "seed of --stats"
expect_equal "$(json_get "$WORK/stats" generated_tokens)" 24 "generated_tokens of --stats"
for key in prefill_tok_s decode_tok_s load_s ttft_s peak_rss_bytes token_ms_p50; do
    expect_match "$(json_get "$WORK/stats" $key)" '^[0-9.e+-]+$' "$key of --stats is a number"
    expect_match "$(json_get "$WORK/stats" $key)" '[1-9]' "$key of --stats is not zero"
done

# Byte tokens that are no UTF-8 become U+FFFD. <0xFF> is 423 in the demo model.
lode run -m "$MODEL" -t 1 -p x -n 2 --temp 0 --logit-bias 423=100 --json
expect_equal "$(json_get "$WORK/out" text)" "$(printf '\357\277\275\357\277\275')" "text that is no UTF-8"

finish
