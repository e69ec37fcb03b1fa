#!/bin/bash
# `lode sim`: hits by slots, times by memory, learning apart from measuring, replay, all outputs, wrong input.
. "$(dirname "$0")/lib.sh"
GEMMA=$SOURCE/tests/data/traces/gemma4-26b-a4b-first.route.csv.zst
TINY=$SOURCE/tests/data/traces/tiny-moe-first.bin.zst
MACHINE=ram=32G@60,cores=8,drive=3.5
[ -r "$GEMMA" ] && [ -r "$TINY" ] || skip "the traces are not there"

width() { wc -L <"$WORK/out"; }

# Slots.
lode sim --slots 8,16,32 --policy all "$GEMMA"
expect_code 0 "--slots"
expect_equal "$ERR" "" "--slots, stderr"
expect_match "$OUT" "^\| policy +\| +8 slots +\| +16 slots +\| +32 slots +\|$" "the table's head"
expect_match "$OUT" "^\| lru +\| +[0-9.]+\*? +\| +[0-9.]+\*? +\| +[0-9.]+\*? +\|$" "a line of the table"
expect_match "$OUT" "^\| belady +\|" "the bound"
expect_match "$OUT" "30 layers of 128 experts" "the model"
[ "$(width)" -le 100 ] || fail "the table of --slots is too wide"
table=$OUT
lode sim --slots 8,16,32 --policy all --jobs 1 --trace "$GEMMA"
expect_equal "$OUT" "$table" "one job at a time, and --trace"
lode sim --slots 8,16,32 --policy all --no-bounds "$GEMMA"
expect_equal "$(printf '%s\n' "$OUT" | grep -c belady)" 0 "--no-bounds"
lode sim --slots 16 --policy lru --csv - "$GEMMA"
expect_equal "$(printf '%s\n' "$OUT" | wc -l)" 3 "lines of the CSV"
expect_match "$OUT" "^policy,lru,none,.*,16 slots,16,,,,1,7020," "a line of the CSV: 39 tokens, 30 layers, 6 experts"
lode sim --slots 16 --policy lru --csv - --first 30 --tokens 35 "$GEMMA"
expect_match "$OUT" "^policy,lru,none,.*,16 slots,16,,,,1,900," "--first and --tokens: 5 tokens count"
lode sim --slots 128 --policy lru --csv - "$TINY"
expect_code 0 "the tiny model's trace"

# Memory: the shape is found, times come out, and more memory is not slower.
lode sim --share 10,50,100 --policy lru,heat --machine "$MACHINE" "$GEMMA"
expect_code 0 "--share"
expect_match "$ERR" "the trace is of 26b-a4b" "the shape that was found"
expect_match "$ERR" "nothing is prefetched: the trace .* has no guesses" "no guesses in a CSV"
expect_match "$OUT" "^machine +.*\(described in words\)$" "the machine"
expect_match "$OUT" "^decode, tokens a second$" "speeds"
expect_match "$OUT" "^\| oracle +\|" "the oracle"
[ "$(width)" -le 100 ] || fail "the table of --share is too wide: $(width)"
lode sim --ram 256M,8G --policy lru --shape 26b-a4b --type q4_0 --machine "$MACHINE" "$GEMMA"
expect_code 0 "--ram"
expect_match "$OUT" "^256 MiB does not fit: .* needs at least" "a memory that is too small does not end the sweep"
expect_match "$OUT" "^8 GiB: read for a decoded token" "details of what fits"
[ "$(width)" -le 100 ] || fail "the table of --ram is too wide: $(width)"
expect_refusal 1 "256 MiB: .* needs at least" "nothing fits" sim --ram 256M --policy lru --shape 26b-a4b --machine "$MACHINE" "$GEMMA"

lode trace --merge "$WORK/set" "$TINY" "$TINY" --split 0.5 --seed 3
if command -v jq >/dev/null; then
    get() { jq -r "$1" "$WORK/out"; }
    holds() { expect_equal "$(get "$1")" true "$2"; }
    lode sim --slots 16,32,64 --policy all --json "$GEMMA"
    expect_code 0 "--json"
    holds '[.results[] | .hit_rate - .hits / .choices | fabs < 1e-9] | all' "hit rates"
    holds '.results as $r | [$r[] | select(.kind == "policy") as $p | $r[] | select(.kind == "belady" and .slots == $p.slots and .hits < $p.hits)] | length == 0' "no policy beats Belady"
    holds '.machine == null and (.command | startswith("lode sim --slots 16,32,64 ")) and .version != "" and .commit != ""' "where it comes from"

    lode sim --share 10,25,50,100 --policy all --predict none,previous,perfect --json --machine "$MACHINE" "$GEMMA"
    expect_code 0 "--json of memories"
    holds '[.results[] | .tok_s > 0 and .hit_rate <= 1 and .p50_ms <= .p95_ms] | all' "times"
    holds '.results as $r | [$r[] | select(.kind == "policy") as $p | $r[] | select(.kind == "oracle" and .share == $p.share and .tok_s < $p.tok_s * 0.999999)] | length == 0' "no policy and no guess beats the oracle"
    holds '[.results[] | select(.kind == "policy" and .share == 1) | .demand_bytes == 0 and .hit_rate == 1] | all' "with everything in memory nothing is read"
    holds '[.results[] | select(.predict == "none") | .prefetch_bytes == 0] | all' "without guesses nothing is read ahead"
    holds '[.results[] | select(.predict == "perfect" and .share == 0.1) | .prefetch_bytes > 0 and .wasted_bytes == 0] | all' "perfect guesses waste nothing"
    holds '[.results[] | .stall_s | add] as $s | ($s | length) > 0 and ([$s[] >= 0] | all)' "waits by cause"
    holds '(.medians | length) == (.results | length) and .machine.source == "described in words"' "medians of one trace"
    cp "$WORK/out" "$WORK/first.json"
    lode sim --share 10,25,50,100 --policy all --predict none,previous,perfect --json --jobs 3 --machine "$MACHINE" "$GEMMA"
    expect_equal "$(get 'del(.elapsed_s, .command) | tostring' | cksum)" "$(jq -r 'del(.elapsed_s, .command) | tostring' "$WORK/first.json" | cksum)" "any number of jobs says the same"
    lode sim --share 25 --policy lru --json --machine "$MACHINE" --trace "$GEMMA,$GEMMA" "$GEMMA"
    holds '(.traces | length) == 3 and (.medians[0].decode_tok_s | .least == .most and .median == .most)' "three times the same trace"
    lode sim --share 25 --policy lru --json --machine "ram=32G@60,cores=8,drive=7" "$GEMMA"
    holds ".medians[0].decode_tok_s.median > 1.2 * $(jq '[.results[] | select(.policy == "lru" and .predict == "none" and .share == 0.25)][0].tok_s' "$WORK/first.json")" "a faster drive"

    # Learning: what is marked to fit is never counted.
    lode sim --slots 16 --policy static --json --fit "$WORK/set.fit" "$WORK/set.test"
    expect_code 0 "--fit"
    holds '.fit_tokens == 600 and .results[0].choices == 600 * 8 * 4 and (.fit | length) == 1' "--fit"
    warm=$(get '.results[0].hits')
    lode sim --slots 16 --policy static --json "$WORK/set.test"
    holds '.fit_tokens == 0' "without --fit nothing is learned"
    holds ".results[0].hits < $warm" "what was learned helps"
fi
lode sim --share 25 --policy heat --predict heat,cooccur --fit "$WORK/set.fit" "$WORK/set.test" --machine "$MACHINE" -m "$MODEL"
expect_code 0 "predictors that are fitted"
expect_match "$OUT" "^learned +from 600 other tokens$" "what was learned from"
expect_refusal 1 "set.fit can be measured: all of it is marked to fit; give it with --fit" "a trace to fit on" sim --slots 16 "$WORK/set.fit"
expect_refusal 1 "set.test can be learned from" "a trace to test on" sim --slots 16 --fit "$WORK/set.test" "$TINY"
expect_refusal 1 "would be learned from and measured" "the same trace twice" sim --slots 16 --fit "$TINY" "$TINY"

# Replay: the recorded run again.
record() { lode run -m "$MODEL" -p "Once upon a time" -n 48 -t 2 --temp 0 --ignore-eos --cold "$@"; }
record --no-prefetch --trace "$WORK/run.trace" --ram 66M
ceiling=$CODE # the sanitizers' own memory breaks it
[ "$CODE" = 0 ] || record --no-prefetch --trace "$WORK/run.trace"
expect_code 0 "recording"
lode sim --replay --machine "$MACHINE" "$WORK/run.trace"
expect_code 0 "--replay"
expect_match "$OUT" "run.trace: equal$" "--replay"
expect_match "$OUT" "decode +[0-9.]+ tok/s recorded, [0-9.]+ simulated" "--replay, speeds"
lode sim --replay --json --machine "$MACHINE" "$WORK/run.trace"
if command -v jq >/dev/null; then
    holds '.replays[0] | .equal and .must_be_equal and .live_hits == .replay_hits and .live_bytes == .replay_bytes and .first_difference == null' "--replay --json"
fi
lode sim --share 25 --policy lru --predict all --machine "$MACHINE" "$WORK/run.trace"
expect_code 0 "a recorded run"
expect_match "$ERR" "no model given; using the demo model" "the demo model's trace"
if [ "$ceiling" = 0 ]; then
    record --trace "$WORK/guess.trace" --ram 66M
    lode sim --share 25 --policy lru --predict all --machine "$MACHINE" "$WORK/guess.trace"
    expect_code 0 "a run with guesses"
    expect_match "$OUT" "^\| lru \+ gate-dense +\| +[0-9]" "guesses of the next layer's router"
    lode sim --replay --machine "$MACHINE" "$WORK/guess.trace"
    expect_code 0 "--replay of a run with prefetch"
    expect_match "$OUT" "guess.trace: (equal|close)" "--replay of a run with prefetch"
fi

# Files: whole or not there.
lode sim --slots 16 --csv "$WORK/a.csv" --html "$WORK/a.html" "$GEMMA"
expect_code 0 "--csv and --html"
expect_match "$OUT" "^\| belady" "the table as well"
expect_equal "$(wc -l <"$WORK/a.csv")" 3 "--csv FILE"
expect_match "$(head -c 300 "$WORK/a.html")" "<!DOCTYPE html>" "--html"
if command -v xmllint >/dev/null; then
    xmllint --noout "$WORK/a.html" || fail "the page is no XML"
fi
expect_refusal 1 "absent/a.csv: .*; name a file in a folder" "no such folder" sim --slots 16 --csv "$WORK/absent/a.csv" "$GEMMA"
expect_refusal 1 "/dev/full: No space left" "a full disk" sim --slots 16 --csv /dev/full "$GEMMA"
cp "$GEMMA" "$WORK/in.zst"
expect_refusal 2 "in.zst is read; write to another file" "a trace as output" sim --slots 16 --csv "$WORK/in.zst" "$WORK/in.zst"
cmp -s "$GEMMA" "$WORK/in.zst" || fail "the trace was written over"
expect_refusal 2 "the same file" "two outputs in one" sim --slots 16 --csv "$WORK/x" --html "$WORK/x" "$GEMMA"
expect_refusal 2 "both write to stdout" "two results on stdout" sim --slots 16 --csv - --json "$GEMMA"
expect_equal "$(echo "$WORK"/*.partial-*)" "$WORK/*.partial-*" "temporary files"

# Names.
lode sim --policy help
expect_code 0 "--policy help"
expect_match "$OUT" "^lru +" "--policy help"
lode sim --predict help
expect_match "$OUT" "^perfect +" "--predict help"
expect_refusal 2 "--policy 'best': must be one of heat,.* all, or a file ending in .so" "an unknown policy" sim --slots 16 --policy best "$GEMMA"
expect_refusal 2 "--predict 'luck': must be one of .*none, all" "an unknown predictor" sim --share 25 --predict luck --machine "$MACHINE" "$GEMMA"
expect_refusal 1 "asks the next layer's router, and the trace .* has no guesses" "guesses that are not there" sim --share 25 --predict gate --machine "$MACHINE" "$GEMMA"
expect_refusal 1 "nowhere.so: No such file" "a policy that is not there" sim --slots 16 --policy ./nowhere.so "$GEMMA"
expect_refusal 2 "is no file, no sample" "an unknown machine" sim --share 25 --machine nonsense "$GEMMA"
expect_refusal 1 "this machine has not been measured yet" "no profile" sim --share 25 "$GEMMA"
lode sim --share 25 --machine laptop-rtx4060-8gb "$GEMMA"
expect_code 0 "a sample machine"
expect_match "$ERR" "GPUs are not simulated yet" "a machine with a GPU"

# Wrong numbers and combinations.
expect_refusal 2 "which trace" "no trace" sim --slots 16
expect_refusal 2 "how much memory" "no memory" sim "$GEMMA"
expect_refusal 2 "ask one" "two questions" sim --slots 16 --ram 8G "$GEMMA"
expect_refusal 2 "--slots 4: a token chooses 6 experts" "too few slots" sim --slots 8,4 "$GEMMA"
expect_refusal 2 "--slots 'x': must be a whole number" "slots that are none" sim --slots 8,x "$GEMMA"
expect_refusal 2 "--slots '0': must be" "no slots" sim --slots 0 "$GEMMA"
expect_refusal 2 "nothing behind a comma" "an empty slot" sim --slots 8, "$GEMMA"
expect_refusal 2 "--ram '4X': must be" "a size that is none" sim --ram 4X --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "--ram '1M': must be at least 64M" "a size that is nothing" sim --ram 1M --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "--share '101': must be a number between 0 and 100" "more than all" sim --share 101 --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "--share 'nan'" "not a number" sim --share nan --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "GPUs are not simulated yet" "--vram" sim --ram 8G --vram 8G --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "--slots counts hits and nothing else" "a machine for slots" sim --slots 16 --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "--slots counts hits and nothing else" "a batch for slots" sim --slots 16 -b 64 "$GEMMA"
expect_refusal 2 "go with --slots" "--first without slots" sim --share 25 --first 3 --machine "$MACHINE" "$GEMMA"
expect_refusal 2 "takes all settings from the trace" "--replay with a policy" sim --replay --policy lru "$GEMMA"
expect_refusal 2 "-c 8: the longest conversation of the traces has 39 tokens" "a context that is too short" sim --share 25 -c 8 --machine "$MACHINE" "$GEMMA"
expect_refusal 1 "nothing is left to count|no token is left|left" "nothing to count" sim --slots 16 --first 39 "$GEMMA"
expect_refusal 1 "the trace is of a model of 30 layers" "another model's trace" sim --share 25 -m "$MODEL" --machine "$MACHINE" "$GEMMA"
expect_refusal 1 "different models" "traces of two models" sim --slots 16 "$GEMMA" "$TINY"
expect_refusal 1 "cannot open|No such file" "a trace that is not there" sim --slots 16 "$WORK/nowhere"
head -c 5000 "$TINY" >"$WORK/cut"
lode sim --slots 16 "$WORK/cut"
case $CODE in 0) expect_match "$ERR" "cut off" "a trace that is cut" ;; 1) expect_match "$ERR" "byte|damaged|cut" "a trace that is cut" ;; *) fail "a trace that is cut: exit $CODE" ;; esac
printf 'lode' >"$WORK/noise"
expect_refusal 1 "noise" "no trace at all" sim --slots 16 "$WORK/noise"

# Ctrl-C ends a sweep, and leaves no file.
traces=()
for _ in $(seq 40); do traces+=("$GEMMA"); done
timeout --preserve-status --signal=INT 1 "$LODE" sim --share 5,10,15,20,25,30,35,40,45,50,55,60,65,70,75,80,85,90,95 --policy all --jobs 1 --predict all \
    --machine "$MACHINE" --csv "$WORK/stopped.csv" "${traces[@]}" >"$WORK/out" 2>"$WORK/err"
expect_equal "$?" 130 "Ctrl-C, exit"
expect_equal "$(tail -n 1 "$WORK/err")" "lode sim: interrupted" "Ctrl-C"
[ -e "$WORK/stopped.csv" ] && fail "Ctrl-C leaves a file"
expect_equal "$(echo "$WORK"/*.partial-*)" "$WORK/*.partial-*" "temporary files after Ctrl-C"

finish
