#!/bin/bash
# `lode bench --against`: a configuration beside baselines of the same memory. The same tokens, the memory that was
# really given, ratios of pairs, where a result is from; and `--io mmap`, within a control group where one can be made.
. "$(dirname "$0")/lib.sh"

# As in ram.sh: 225 MiB, of which 33 are no experts. Below 112M some experts fit, most do not.
"$LODE" synth tiny-moe --layers 16 --skew 1 --type f32 -o "$WORK/moe.gguf" 2>"$WORK/err" || skip "no model: $(cat "$WORK/err")"
CEILING=112M
LONGEST_S=20 # from a signal to the end of all processes

against() { timeout 300 "$LODE" bench -m "$WORK/moe.gguf" -t 2 -p 16 -n 6 "$@" >"$WORK/out" 2>"$WORK/err"; CODE=$?; OUT=$(cat "$WORK/out"); ERR=$(cat "$WORK/err"); }
query() { jq -r "$1" "$WORK/out"; }

# ---- policies: identical tokens, equal memory, a ratio each

against --ram $CEILING --against by-layer,static,lru -r 2
expect_code 0 "three baselines"
for arm in chosen by-layer static lru; do
    expect_match "$OUT" "^$arm +[0-9.]+ +[0-9.]+% +[0-9.]+ +[0-9.]+ +[0-9.]+% +[0-9.]+ +[0-9.]+% +[0-9.]+ MiB$" "the row of $arm"
done
for arm in by-layer static lru; do
    expect_match "$OUT" "^chosen / $arm +prefill [0-9.]+x \([0-9.]+ to [0-9.]+\), decode [0-9.]+x \([0-9.]+ to [0-9.]+\), 2 pairs$" \
        "the ratio to $arm"
done
expect_match "$OUT" '^tokens: the same in all runs' "the same tokens"
expect_match "$OUT" '^memory for weights: (equal|[0-9.]+ [KM]iB apart, [01]\.[0-9]%)' "the same memory, within 2%"
expect_match "$OUT" '^start: cold' "a cold start"
expect_match "$OUT" '^lode +[0-9.]+, commit [^,]+, 20[0-9-]+T[0-9:]+Z$' "where it is from: program"
expect_match "$OUT" '^model +moe.gguf, fingerprint [0-9a-f]{16}, plan [0-9a-f]{16}$' "where it is from: model"
expect_match "$OUT" '^machine +.*, Linux .*, profile ' "where it is from: machine"
expect_match "$OUT" '^drive +' "where it is from: drive"
expect_match "$OUT" '^runs +2 of each, in turns' "where it is from: runs"
expect_match "$OUT" '^settings arm=chosen ram=117440512 policy=' "where it is from: settings"
expect_equal "$(find "$XDG_CACHE_HOME" -type f 2>/dev/null)" "" "no heat is kept"

against --ram $CEILING --against lru,by-layer -r 2 --seed 3 --json --stats "$WORK/stats"
expect_code 0 "--json"
cmp -s "$WORK/out" "$WORK/stats" || fail "--stats is not what --json says"
if command -v jq >/dev/null; then
    expect_equal "$(query '[.arms[] | "\(.arm) \(.policy)"] | .[1:] | join(", ")')" "lru lru, by-layer by-layer" "--json, arms"
    expect_equal "$(query '.arms[0].policy')" "$("$LODE" run --policy help | awk 'NR == 1 { print $1 }')" "--json, the chosen policy"
    expect_equal "$(query '[.start, .offloaded, .same_tokens, .interrupted, .ram_bytes, .prefill, .decode, .seed] | map(tostring) | join(" ")')" \
        "cold true true false 117440512 16 6 3" "--json, the question"
    # The program is not equally large in each run, by some hundred KiB; an expert of this model has 108.
    expect_equal "$(query '.memory_apart_bytes < 0.02 * .arms[0].weights_bytes.median')" true "--json, equal memory"
    expect_equal "$(query 'all(.arms[]; (.runs | length) == 2)')" true "--json, runs"
    expect_equal "$(query 'all(.arms[]; .decode_tok_s.median - ([.runs[].decode_tok_s] | add / 2) | fabs < 1e-6)')" true "--json, medians"
    # The ratio is of pairs: the chosen run over the baseline's of the same round.
    expect_equal "$(query '. as $all | [range(1; 3) as $arm | ([range(2) as $round | $all.arms[0].runs[$round].decode_tok_s /
        $all.arms[$arm].runs[$round].decode_tok_s] | add / 2) / $all.ratios[$arm - 1].decode.median - 1 | fabs < 1e-6] | all')" true "--json, ratios"
    expect_equal "$(query '[.arms[] | select(.decode_bytes_per_token.median <= 0 or .hit_rate.median >= 1)] | length')" 0 "--json, all arms read"
    expect_equal "$(query '.provenance | [.version, .commit, .date, .model, .fingerprint, .plan_hash, .cpu, .kernel, .order, .settings] | all(. != null)')" \
        true "--json, provenance"
    expect_equal "$(query '.provenance.repeats')" 2 "--json, repeats"
    expect_equal "$(query '.provenance.drive | has("temperature_c") and has("read_ahead_kb")')" true "--json, the drive"
    # The same question again has the same setup.
    hash=$(query '.provenance.fingerprint')
    "$LODE" bench -m "$WORK/moe.gguf" -t 2 -p 4 -n 2 -r 1 --ram $CEILING --json >"$WORK/out" 2>"$WORK/err"
    expect_equal "$(query '.provenance.fingerprint')" "$hash" "provenance of a bench without --against"
    expect_equal "$(query '.provenance.plan_hash | length')" 16 "the plan of a bench without --against"
else
    echo "note: no jq; the results of --json are not checked"
fi

# Nothing to compare is told, and done.
lode bench -m "$MODEL" -t 2 -p 16 -n 4 -r 1 --against lru
expect_code 0 "without a ceiling"
expect_match "$ERR" 'no --ram: .*nothing to compare' "without a ceiling"
expect_match "$OUT" '^everything is in memory' "without a ceiling"
expect_match "$OUT" '^chosen / lru' "without a ceiling, still acts"
lode bench -m "$MODEL" -t 2 -r 1 -n 4 --against lru # the default prompt is cut to the model's 512 tokens
expect_code 0 "the default prompt"
expect_match "$OUT" 'context=512' "the default prompt"

# ---- warm starts: the same heat for all, and it stays as it is

against --ram $CEILING --against static -r 1 --warm
expect_code 1 "--warm without heat"
expect_match "$ERR" 'no heat of earlier runs is kept' "--warm without heat"
"$LODE" run -m "$WORK/moe.gguf" -p "Once upon a time" -n 64 -t 2 --temp 0 --ignore-eos --ram $CEILING >/dev/null 2>&1
heat=$(find "$XDG_CACHE_HOME" -name '*.heat' 2>/dev/null)
[ -s "$heat" ] || fail "a run keeps no heat"
cp "$heat" "$WORK/heat"
against --ram $CEILING --against static,lru -r 2 --warm
expect_code 0 "--warm"
expect_match "$OUT" '^start: each run from the same heat' "--warm"
cmp -s "$heat" "$WORK/heat" || fail "--warm changed the heat"
left=$(find /tmp -maxdepth 1 -name 'lode-bench-*' -newer "$WORK/heat" 2>/dev/null)
expect_equal "$left" "" "--warm leaves nothing behind"

# ---- mapped files

for model in "$MODEL" "$WORK/moe.gguf"; do
    lode run -m "$model" -p "Once upon a time" -n 24 -t 2 --temp 0 --ignore-eos --cold
    cp "$WORK/out" "$WORK/text"
    lode run -m "$model" -p "Once upon a time" -n 24 -t 2 --temp 0 --ignore-eos --cold --io mmap --stats "$WORK/stats"
    expect_code 0 "--io mmap"
    cmp -s "$WORK/out" "$WORK/text" || fail "--io mmap: another text"
    have_json && expect_equal "$(json_get "$WORK/stats" io)" mmap "--io mmap, io of --stats"
done
lode run -m "$MODEL" -p x -n 1 --io mmap --mirror "$MODEL"
expect_code 1 "--io mmap with a mirror"
expect_match "$ERR" 'leave out the mirror' "--io mmap with a mirror"

limit=$(grep -h . "/sys/fs/cgroup/memory$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)/memory.limit_in_bytes" \
    "/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/memory.max" 2>/dev/null | grep -E '^[0-9]+$' | sort -n | head -1)
if [ "${limit:-9223372036854771712}" -gt $((112 << 20)) ]; then
    lode run -m "$WORK/moe.gguf" -p x -n 1 --ram $CEILING --io mmap
    expect_code 1 "--io mmap under a ceiling that nothing binds"
    expect_match "$ERR" 'control group.*MemoryMax=117440512' "--io mmap under a ceiling that nothing binds"
fi

against --ram $CEILING --against mmap,lru -r 2 --json
if [ "$CODE" = 0 ]; then
    if command -v jq >/dev/null; then
        expect_equal "$(query '.arms[1] | [.arm, .io, .hit_rate] | map(tostring) | join(" ")')" "mmap mmap null" "mmap, the arm"
        expect_equal "$(query 'all(.arms[].runs[]; .peak_bytes <= 117440512 and .peak_bytes > 0)')" true "mmap, every run within the ceiling"
        expect_equal "$(query '.arms[1].weights_bytes.median < 117440512')" true "mmap, memory for weights"
        expect_equal "$(query '.same_tokens')" true "mmap, the same tokens"
        expect_equal "$(query '.ceiling | test("control group")')" true "mmap, what held the ceiling"
    fi
    expect_equal "$(find /sys/fs/cgroup -maxdepth 6 -type d -name "lode-bench-*" 2>/dev/null)" "" "mmap leaves no group behind"
    against --ram $CEILING --against mmap -r 1
    expect_match "$OUT" '^mmap +[0-9.]+ +[0-9.]+% .* +- +[0-9.]+ MiB$' "the row of mmap"
    expect_match "$OUT" 'held to it by (its own|the present) control group' "mmap, who held it"
else
    expect_code 1 "mmap without control groups"
    expect_match "$ERR" 'control group.*root.*systemd-run --user --scope -p MemoryMax' "mmap without control groups"
    echo "skipped: mmap under a ceiling, for no control group can be made here: $ERR"
fi

# ---- wrong input, and ends before the end

expect_refusal 2 "must be by-layer, static, lru or mmap" "--against heat" bench --against heat
expect_refusal 2 "must be by-layer, static, lru or mmap" "--against nothing" bench --against ""
expect_refusal 2 "leave out -d" "--against with -d" bench --against lru -d 5
expect_refusal 2 "leave out -d" "--against with --real-context" bench --against lru --real-context
expect_refusal 2 "takes one -p" "--against with two prompts" bench --against lru -p 4,8
expect_refusal 2 "takes one -p" "--against without a prompt" bench --against lru -p 0
expect_refusal 2 "takes -n of at least 2" "--against with -n 1" bench --against lru -n 1
expect_refusal 2 "contradict" "--warm --cold" bench --against lru --warm --cold
expect_refusal 2 "leave out --mirror" "mmap and a mirror" bench --against mmap --mirror x
expect_refusal 2 "leave out --against" "--trace" bench --against lru --trace x
expect_refusal 2 "is for --against" "--warm alone" bench --warm
expect_refusal 1 "go beyond the model's limit of 512" "a prompt beyond the model" bench -m "$MODEL" --against lru -p 510 -n 8
expect_refusal 1 "the run of (chosen|lru) failed: .*(floor|at least)" "a ceiling below the floor" \
    bench -m "$WORK/moe.gguf" --against lru --ram 64M -p 16 -n 4
expect_refusal 1 "absent.gguf.*No such file" "no such model" bench -m "$WORK/absent.gguf" --against lru
expect_refusal 1 "cannot write .*absent/stats" "statistics into nowhere" bench -m "$MODEL" --against lru --stats "$WORK/absent/stats"

for signal in INT TERM; do
    "$LODE" bench -m "$WORK/moe.gguf" -t 2 --ram $CEILING -p 16 -n 40 -r 100 --against lru --json >"$WORK/out" 2>"$WORK/err" &
    child=$!
    sleep 4
    start=$SECONDS
    kill -$signal $child
    wait $child
    CODE=$?
    case $signal in INT) expect_code 130 "SIGINT" ;; TERM) expect_code 143 "SIGTERM" ;; esac
    [ $((SECONDS - start)) -le $LONGEST_S ] || fail "SIG$signal took $((SECONDS - start)) s"
    have_json && expect_equal "$(json_get "$WORK/out" interrupted)" true "SIG$signal"
    expect_match "$(cat "$WORK/err")" 'the figures are those of the runs so far$' "SIG$signal"
    sleep 0.2
    expect_equal "$(pgrep -f "$WORK/moe.gguf" | wc -l)" 0 "SIG$signal, runs that are left"
done
finish
