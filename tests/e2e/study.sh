#!/bin/bash
# bench/study end to end with little of everything: a recording and its simulations, made-up traces, the recorded 26B,
# a run on this machine, and the document.
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || skip "there is no python3"

study() {
    timeout 300 python3 "$SOURCE/bench/study" --lode "$LODE" --out "$WORK/studies" "$@" >"$WORK/out" 2>"$WORK/err"
    CODE=$?
    ERR=$(cat "$WORK/err")
    DOCUMENT=$(cat "$WORK/studies/offload-policies.md" 2>/dev/null)
}

# What stands between the markers of a section.
section() { # KEY
    printf '%s\n' "$DOCUMENT" | sed -n "/<!-- study: $1 -->/,/<!-- end: $1 -->/p" | grep '^|'
}

study --kinds demo --machine ram=16G@40,cores=2,drive=0.5 --share 12,50 --policy heat,lru --predict heat,previous \
    --tokens 12 --conversations 2 --json "$WORK/all.json" --html
expect_code 0 "the demo model"
expect_match "$DOCUMENT" '^# Policies and predictors' "a document where there was none"
expect_match "$(section traces)" '^\| demo model, held-out text \| 1 \| [0-9]+ \| 1 \| [0-9.]+ ' "its trace"
expect_equal "$(section speeds | sed 1,2d | cut -d'|' -f2 | sort | tr '\n' ',')" \
    " heat , heat + heat , heat + previous , lru , oracle ," "what was simulated"
expect_match "$(section speeds)" '^\| lru \| [0-9.]+ \([0-9.]+\) \| [0-9.]+ \([0-9.]+\) \|$' "speed and hit rate at both budgets"
expect_match "$(section policy)" '^\| demo model, held-out text \| drive 0.5 GB/s \| [0-9.]+ \| [0-9.]+ \|$' "a ratio"
expect_match "$(section oracle)" '\| 0\.[0-9]+ \| (0\.[0-9]+|1\.00) \|$' "the oracle is not beaten"
expect_match "$DOCUMENT" '^- command: `bench/study .*--kinds demo' "the command"
expect_match "$DOCUMENT" '^- machine: `ram=16G@40,cores=2,drive=0.5`$' "the machine"
expect_match "$DOCUMENT" '^- program: lode [0-9.]+, commit ' "the commit"
expect_equal "$(python3 -c 'import json; r = json.load(open("'"$WORK"'/all.json"))["results"]; print(len(r), all(x["results"][0]["fits"] for x in r))')" \
    "12 True" "every simulation"
grep -q '<svg' "$WORK/studies/offload-policies-demo-1.html" 2>/dev/null || fail "no page"

# Text by hand stays, tables of other kinds are replaced; the same command says the same.
sed -i 's/^## Speeds$/&\n\nBy hand./' "$WORK/studies/offload-policies.md"
once=$(section speeds)
study --kinds demo --machine ram=16G@40,cores=2,drive=0.5 --share 12,50 --policy heat,lru --predict heat,previous \
    --tokens 12 --conversations 2
expect_code 0 "again"
expect_match "$DOCUMENT" '^By hand\.$' "text by hand"
expect_equal "$(section speeds)" "$once" "the same simulations"

# The recorded trace, which has no guesses of the gate, and made-up ones that have.
study --kinds real,made --machine ram=16G@40,cores=2,drive=2 --share 25 --slots 16,32 --policy heat,lru \
    --predict gate-auto,previous --tokens 4 --seeds 1
expect_code 0 "recorded and made up"
expect_match "$(section slots)" '^\| lru \| 6[01]\.[0-9] \| 77\.4 \|$' "the published hit rates"
expect_match "$(section traces)" '^\| 26B-A4B, recorded \| 1 \| 157 \| 1 \| 0\.97 \| 36 \| 23 \| - \|$' "the recorded trace"
expect_match "$(section traces)" '^\| four topics: .* \| 78 \|$|^\| four topics: .* \| 7[5-9] \|$|^\| four topics: .* \| 8[01] \|$' "made-up guesses"
expect_match "$(section default-prefetch)" '^\| steep: skew 1.2 \| drive 2 GB/s \| [0-9.]+ \|$' "prefetch of a made-up trace"
expect_match "$(section default-prefetch)" '^\| 26B-A4B, recorded \| drive 2 GB/s \| - \|$' "no guesses, no prefetch by the gate"

# A run on this machine, under a ceiling between what it needs and what it would take (both vary with the machine).
for ceiling in 66 68 70 72 74 76 78 80; do
    study --kinds none --model "$MODEL" --ram ${ceiling}M --device-tokens 8 --device-machine ram=16G@40,cores=2,drive=2 \
        --policy heat,lru --predict gate-auto,previous
    [ "$CODE" = 0 ] && break
done
expect_code 0 "a run on this machine"
expect_match "$(section device)" "^\| ${ceiling}M \| heat \+ gate-auto \| [0-9.]+ \| [0-9.]+ \| [+-][0-9.]+% \| [0-9.]+ : [0-9.]+ \|" "measured and replayed"
expect_match "$(section device)" '^\| lru \| [0-9.]+ \| [0-9.]+ \| [0-9.]+ \|$' "others on its trace"

# What cannot be.
study --kinds colour
expect_code 2 "unknown kinds"
study --kinds none
expect_code 1 "nothing to do"
study --kinds real --trace "$WORK/absent"
expect_code 2 "an absent trace"
expect_match "$ERR" 'no trace .*absent' "what failed"
study --kinds demo --conversations 1
expect_code 2 "one conversation"
study --kinds none --model "$WORK/absent"
expect_code 2 "an absent model"
sed -i '/end: speeds/d' "$WORK/studies/offload-policies.md"
study --kinds none
expect_code 2 "a document without its markers"
expect_match "$ERR" "needs the lines '<!-- study: speeds -->'" "which"
finish
