#!/bin/bash
# `lode trace`: the summary as text and JSON, merging and splitting, CSV out and in, damage.
. "$(dirname "$0")/lib.sh"
GEMMA=$SOURCE/tests/data/traces/gemma4-26b-a4b-first.route.csv.zst
TINY=$SOURCE/tests/data/traces/tiny-moe-first.bin.zst
[ -r "$GEMMA" ] && [ -r "$TINY" ] || skip "the traces are not there"

# Summary.
lode trace "$GEMMA"
expect_code 0 "summary"
expect_equal "$ERR" "" "summary, stderr"
expect_match "$OUT" "^trace +$GEMMA \(csv, 39 tokens\)$" "file"
expect_match "$OUT" "30 layers, 6 of 128 experts for a token, of 3.4 MiB to 4.1 MiB" "model"
expect_match "$OUT" "^prefill +29 tokens in 1 pass, reuse 35.5%" "prefill"
expect_match "$OUT" "^decode +10 tokens in 10 passes" "decode"
expect_match "$OUT" "^gate mass +34.2 19.7 14.6 12.0 10.4 9.2 % by rank" "gate mass"
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
    expect_equal "$(jq -c '[.tokens, .conversations, (.layers | length), (.phases | keys_unsorted)]' "$WORK/out")" '[39,1,30,["prefill","decode"]]' "--json"
    expect_equal "$(jq '[.layers[] | (.counts | add) == 39 * 6] | all' "$WORK/out")" true "every choice is counted"
    expect_equal "$(jq '[.layers[] | .share_hottest_25 - ((.counts | sort | reverse)[:32] | add) / 234 | fabs < 1e-9] | all' "$WORK/out")" true "share of the hottest quarter"
    expect_equal "$(jq '[.layers[] | .entropy_bits + ([.counts[] | select(. > 0) / 234 | . * log2] | add) | fabs < 1e-9] | all' "$WORK/out")" true "entropy"
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
expect_match "$ERR" "a.trace: 1 conversation, 39 tokens$" "--merge of one"
lode trace --export-csv - "$WORK/a.trace"
expect_equal "$(printf '%s\n' "$OUT" | grep -v '^#' | cut -d, -f1-6,8,9)" "$(grep -v '^#' "$WORK/a.csv" | cut -d, -f1-6,8,9)" \
    "the CSV of the trace of the CSV"
if command -v zstd >/dev/null; then
    expect_equal "$(zstd -dc "$GEMMA" | grep -v '^#' | cmp - <(grep -v '^#' "$WORK/a.csv") && echo same)" same "the CSV of the CSV"
    [ "$(zstd -dc "$WORK/a.trace" | wc -c)" -gt 20000 ] || fail "zstd does not give the records"
fi
[ "$(stat -c %s "$WORK/a.trace")" -lt 40000 ] || fail "a trace of 39 tokens has $(stat -c %s "$WORK/a.trace") bytes"
expect_equal "$(stat -c %a "$WORK/a.trace")" 600 "mode of a trace"

# Sets.
cp "$WORK/a.trace" "$WORK/chat.trace"
cp "$WORK/a.trace" "$WORK/code.x.trace"
lode trace --merge "$WORK/set" "$WORK/chat.trace" "$WORK/code.x.trace"
expect_match "$ERR" "set: 2 conversations, 78 tokens" "a set"
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
