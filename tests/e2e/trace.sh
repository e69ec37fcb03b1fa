#!/bin/bash
# `lode trace`: the summary as text and JSON, merging and splitting, CSV out and in, damage.
. "$(dirname "$0")/lib.sh"
GEMMA=$SOURCE/tests/data/traces/gemma4-26b-a4b.route.csv.zst
TINY=$SOURCE/tests/data/traces/tiny-moe-first.bin.zst
[ -r "$GEMMA" ] && [ -r "$TINY" ] || skip "the traces are not there"

# Summary.
lode trace "$GEMMA"
expect_code 0 "summary"
expect_equal "$ERR" "" "summary, stderr"
expect_match "$OUT" "^trace +$GEMMA \(csv, 157 tokens\)$" "file"
expect_match "$OUT" "30 layers, 6 of 128 experts for a token, of 3.4 MiB to 4.1 MiB" "model"
expect_match "$OUT" "^prefill +29 tokens in 1 pass, reuse 35.5%" "prefill"
expect_match "$OUT" "^decode +128 tokens in 128 passes, reuse 35.7%" "decode"
expect_match "$OUT" "^gate mass +31.7 19.9 15.2 12.6 10.9 9.7 % by rank" "gate mass"
expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^ +[0-9]+( +[0-9]+\.[0-9]){3} +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +[0-9]+ ( [0-9]+: [0-9]+){3}$')" 30 "a line for each layer"
[ "$(printf '%s\n' "$OUT" | awk '{ if (length > max) max = length } END { print max }')" -le 120 ] || fail "the summary is too wide"
summary=$OUT
lode trace --summary "$GEMMA"
expect_equal "$OUT" "$summary" "--summary is the default"
lode trace "$TINY"
expect_match "$OUT" "^tokens +600 in 2 conversations" "the tiny model's"
expect_match "$OUT" "^unknown +600 tokens" "the tiny model's phase"

if command -v jq >/dev/null; then
    lode trace --json "$GEMMA"
    expect_code 0 "--json"
    expect_equal "$(jq -c '[.tokens, .conversations, (.layers | length), (.phases | keys_unsorted)]' "$WORK/out")" '[157,1,30,["prefill","decode"]]' "--json"
    expect_equal "$(jq '[.layers[] | (.counts | add) == 157 * 6] | all' "$WORK/out")" true "every choice is counted"
    expect_equal "$(jq '[.layers[] | .share_hottest_25 - ((.counts | sort | reverse)[:32] | add) / 942 | fabs < 1e-9] | all' "$WORK/out")" true "share of the hottest quarter"
    expect_equal "$(jq '[.layers[] | .entropy_bits + ([.counts[] | select(. > 0) / 942 | . * log2] | add) | fabs < 1e-9] | all' "$WORK/out")" true "entropy"
    expect_equal "$(jq '.mass_by_rank | add | . - 1 | fabs < 1e-9' "$WORK/out")" true "gate mass"
    # Rows of the CSV, added up by other means.
    if command -v zstd >/dev/null; then
        expect_equal "$(jq '[.phases[].reads.demand.bytes] | add' "$WORK/out")" \
            "$(zstd -dc "$GEMMA" | grep -v '^[#t]' | awk -F, '{ sum += $9 } END { printf "%.0f", sum }')" "bytes read"
        expect_equal "$(jq '[.layers[].counts[102]] | add' "$WORK/out")" \
            "$(zstd -dc "$GEMMA" | grep -v '^[#t]' | awk -F, '$6 == 102' | wc -l)" "choices of expert 102"
    fi
fi

# CSV out, in lode's own format, and out again.
lode trace --export-csv "$WORK/a.csv" "$GEMMA"
expect_code 0 "--export-csv"
lode trace --merge "$WORK/a.trace" "$WORK/a.csv"
expect_code 0 "--merge of one"
expect_match "$ERR" "a.trace: 1 conversation, 157 tokens$" "--merge of one"
lode trace --export-csv - "$WORK/a.trace"
expect_equal "$(printf '%s\n' "$OUT" | grep -v '^#' | cut -d, -f1-6,8,9)" "$(grep -v '^#' "$WORK/a.csv" | cut -d, -f1-6,8,9)" \
    "the CSV of the trace of the CSV"
if command -v zstd >/dev/null; then
    expect_equal "$(zstd -dc "$GEMMA" | grep -v '^#' | cmp - <(grep -v '^#' "$WORK/a.csv") && echo same)" same "the CSV of the CSV"
    [ "$(zstd -dc "$WORK/a.trace" | wc -c)" -gt 100000 ] || fail "zstd does not give the records"
fi
[ "$(stat -c %s "$WORK/a.trace")" -lt 120000 ] || fail "a trace of 157 tokens has $(stat -c %s "$WORK/a.trace") bytes"
expect_equal "$(stat -c %a "$WORK/a.trace")" 600 "mode of a trace"

# Sets.
cp "$WORK/a.trace" "$WORK/chat.trace"
cp "$WORK/a.trace" "$WORK/code.x.trace"
lode trace --merge "$WORK/set" "$WORK/chat.trace" "$WORK/code.x.trace"
expect_match "$ERR" "set: 2 conversations, 314 tokens" "a set"
lode trace "$WORK/set"
expect_match "$OUT" "^domains +a 2$" "a set keeps the domains"
lode trace --merge "$WORK/set" "$TINY" "$TINY" --split 0.5 --seed 3
expect_code 0 "--split"
expect_match "$ERR" "set.fit: 2 conversations, .*set.test: 2 conversations" "--split"
lode trace "$WORK/set.fit"
expect_match "$OUT" "2 conversations \(2 to fit, 0 to test\)" "the part to fit"
expect_match "$OUT" "^domains +tiny-moe-first 2$" "the part's domain"
lode trace "$WORK/set.fit" "$WORK/set.test"
expect_match "$OUT" "^tokens +1200 in 4 conversations \(2 to fit, 2 to test\)" "both parts together"
cp "$WORK/set.fit" "$WORK/first"
lode trace --merge "$WORK/set" "$TINY" "$TINY" --split 0.5 --seed 3
cmp -s "$WORK/set.fit" "$WORK/first" || fail "the same seed gives another set"

# Made up: the summary shows what was asked for.
lode trace --make "$WORK/made.trace" --tokens 1000 --prompt 8 --skew 0.9 --reuse 0.4 --guess-precision 0.78 --topics 2
expect_code 0 "--make"
expect_match "$ERR" "made.trace: 2 conversations, 2016 tokens$" "--make"
cp "$WORK/made.trace" "$WORK/first"
lode trace --make "$WORK/made.trace" --tokens 1000 --prompt 8 --skew 0.9 --reuse 0.4 --guess-precision 0.78 --topics 2
cmp -s "$WORK/made.trace" "$WORK/first" || fail "the same options make another trace"
lode trace "$WORK/made.trace"
expect_match "$OUT" "30 layers, 8 of 128 experts for a token, of 3.2 MiB" "--make, model"
expect_match "$OUT" "^options +made-up .*tokens=1000 prompt=8 conversations=2 topics=2 skew=0.9 reuse=0.4 guess-precision=0.78 seed=0$" "--make, options"
expect_match "$OUT" "^domains +topic-1 1, topic-2 1$" "--make, topics"
expect_match "$OUT" "^reuse +(39|40)\.[0-9]% of a token's experts" "--make, reuse"
expect_match "$OUT" "^guesses +7[78]\.[0-9] 7[78]\.[0-9] .*right, by rank" "--make, guesses"
lode trace --make "$WORK/one.trace" --tokens 2000 --layers 4 --experts 64 --used 4 --skew 0.9 --seed 7
lode trace "$WORK/one.trace"
expect_match "$OUT" "Zipf exponent 0\.(8[7-9]|9[0-5])," "--make, skew"
expect_refusal 2 "goes with --make" "--skew alone" trace --skew 1 "$GEMMA"
expect_refusal 2 "reads none" "--make with a file" trace --make "$WORK/x" "$GEMMA"
expect_refusal 2 "ask for one" "--make --merge" trace --make "$WORK/x" --merge "$WORK/y" "$GEMMA"
expect_refusal 2 "out of reach where a token chooses 8 different experts of 128: 1\.3" "too much skew" trace --make "$WORK/x" --skew 2
expect_refusal 2 "less than what a skew of 1.2 makes by chance" "too little reuse" trace --make "$WORK/x" --skew 1.2 --reuse 0.1
[ ! -e "$WORK/x" ] || fail "a refused --make left a file"
expect_refusal 1 "cannot write" "--make into nowhere" trace --make "$WORK/absent/x"

# Damage.
head -c 5000 "$WORK/a.trace" >"$WORK/cut.trace"
lode trace "$WORK/cut.trace"
expect_code 1 "cut before the first block's end"
expect_match "$ERR" "ends in the middle of a block \(byte 5000\): 0 tokens are read" "a cut trace"
lode trace --merge "$WORK/long.trace" "$TINY"
head -c 20000 "$WORK/long.trace" >"$WORK/cut.trace"
lode trace "$WORK/cut.trace"
expect_code 0 "a cut trace"
expect_match "$ERR" "ends in the middle of a block \(byte 20000\): [1-9][0-9]+ tokens are read" "a cut trace"
cp "$WORK/long.trace" "$WORK/bad.trace"
printf 'x' | dd of="$WORK/bad.trace" bs=1 seek=9000 conv=notrunc 2>/dev/null
expect_refusal 1 "is damaged: the block at byte [0-9]+ has a wrong checksum" "a damaged trace" trace "$WORK/bad.trace"
expect_refusal 1 "is no trace" "a model" trace "$MODEL"
expect_refusal 1 "is empty" "an empty file" trace /dev/null
expect_refusal 1 "No such file" "an absent file" trace "$WORK/absent"
expect_refusal 1 "directory" "a folder" trace "$WORK"
expect_refusal 1 "different models: 30 layers and 8" "two models" trace "$GEMMA" "$TINY"
expect_refusal 1 "different models" "two models to merge" trace --merge "$WORK/x" "$GEMMA" "$TINY"
[ ! -e "$WORK/x" ] || fail "a merge that failed left a file"
expect_refusal 1 "is one of the traces to merge" "merging into an input" trace --merge "$WORK/a.trace" "$WORK/a.trace"
lode trace "$WORK/a.trace"
expect_code 0 "the input of a refused merge is whole"
expect_refusal 1 "is the trace itself" "CSV onto the trace" trace --export-csv "$WORK/a.trace" "$WORK/a.trace"
expect_refusal 1 "1 conversation cannot be split" "one conversation" trace --merge "$WORK/x" --split 0.5 "$GEMMA"
expect_refusal 1 "cannot write" "merging into nowhere" trace --merge "$WORK/absent/x" "$GEMMA"
expect_refusal 1 "cannot write" "CSV into nowhere" trace --export-csv "$WORK/absent/x" "$GEMMA"

# Wrong questions.
expect_refusal 2 "which trace" "no file" trace
expect_refusal 2 "ask for one" "two things" trace --summary --merge x "$GEMMA"
expect_refusal 2 "for the summary" "--json --merge" trace --json --merge x "$GEMMA"
expect_refusal 2 "goes with --merge" "--split alone" trace --split 0.5 "$GEMMA"
expect_refusal 2 "goes with --split" "--seed alone" trace --merge x --seed 1 "$GEMMA"
expect_refusal 2 "between 0.01 and 0.99" "--split 1" trace --merge x --split 1 "$GEMMA"
expect_refusal 2 "takes one FILE" "CSV of two" trace --export-csv - "$GEMMA" "$GEMMA"
finish
