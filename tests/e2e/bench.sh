#!/bin/bash
# `lode bench`: its table, its JSON, what it refuses.
. "$(dirname "$0")/lib.sh"

lode bench -m "$MODEL" -t 2 -p 16,64 -n 4 -d 0,96 -r 2
expect_code 0 "a table"
expect_equal "$ERR" "" "a table, stderr"
expect_match "$OUT" '^tiny-moe \(custom\), Q4_0, 9\.7 MiB of weights, of which a token reads 3\.[0-9] MiB$' "the model"
expect_match "$OUT" '^2 threads, [a-z0-9-]+, KV cache f16, batch 160, medians of 2$' "the settings"
expect_match "$OUT" '^phase +tokens +context +tok/s +spread +ms/token +GB/s +of peak +w/a/o/d %$' "the head"
parts='[0-9]+/[0-9]+/[0-9]+/0' # nothing is waited for
for row in "prefill +16 +0" "prefill +64 +0" "prefill +16 +96" "prefill +64 +96"; do
    expect_match "$OUT" "^$row +[0-9.]+ +[0-9.]+% +[0-9.]+ +- +- +$parts$" "row $row"
done
for row in "decode +4 +0" "decode +4 +96"; do
    expect_match "$OUT" "^$row +[0-9.]+ +[0-9.]+% +[0-9.]+ +[0-9.]+ +[0-9.]+% +$parts$" "row $row"
done
expect_match "$OUT" 'peak: the [0-9.]+ GB/s that 2 threads read$' "the peak"
expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^(prefill|decode)')" 6 "rows"

# Below this ceiling the peak is not measured, which takes most of the time of these runs.
quick() { lode bench -m "$MODEL" -t 2 --ram 250M "$@"; }
quick -p 0 -n 2 -r 1
expect_match "$OUT" '^decode +2 +0 .* - +[0-9/]+$' "no peak under a small ceiling"
case $OUT in *peak:*) fail "a peak under a small ceiling" ;; esac

# Nothing of a phase, lists in any order, suffixes, contexts beyond the window, computed contexts.
quick -p 0 -n 2 -r 1 -d 0
expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^prefill')" 0 "-p 0"
quick -n 0 -p 8,4,8 -r 1
expect_code 0 "-n 0"
expect_equal "$(printf '%s\n' "$OUT" | sed -n 's/^prefill *\([0-9]*\) .*/\1/p' | tr '\n' ' ')" "4 8 " "a list out of order"
expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^decode|GB/s:')" 0 "-n 0, decode"
for more in "--real-context -b 8" "--kv q8_0 --seed 5" "--kv f32 --isa portable -t 1"; do
    # shellcheck disable=SC2086
    quick -p 20 -n 2 -d 0,300 -r 1 $more
    expect_code 0 "$more"
    expect_equal "$(printf '%s\n' "$OUT" | grep -Ec '^(prefill|decode)')" 4 "$more, rows"
done

quick -p 16 -n 4 -r 1 --stats "$WORK/stats"
expect_match "$OUT" '^decode' "--stats leaves the table"
have_json && expect_equal "$(json_get "$WORK/stats" repeats)" 1 "--stats"
lode bench -m "$MODEL" -t 2 -p 16 -n 4 -d 0,200 -r 3 --json
expect_code 0 "--json"
if command -v jq >/dev/null; then
    for pair in "version=$("$LODE" --version | sed 's/lode //')" "model=$MODEL" "type=Q4_0" "threads=2" "kv=f16" "repeats=3" \
        "offloaded=false" "real_context=false" "interrupted=false" "weight_bytes=10153248" "batch=216"; do
        expect_equal "$(json_get "$WORK/out" "${pair%%=*}")" "${pair#*=}" "--json, ${pair%%=*}"
    done
    query() { jq -r "$1" "$WORK/out"; }
    expect_equal "$(query '[.results[] | "\(.phase) \(.tokens) \(.context)"] | join(", ")')" \
        "prefill 16 0, prefill 16 200, decode 4 0, decode 4 200" "--json, the results"
    expect_equal "$(query 'all(.results[]; (.runs | length) == 3)')" true "--json, runs"
    expect_equal "$(query 'all(.results[]; .tok_s == (.runs | sort)[1])')" true "--json, tok_s is the median"
    expect_equal "$(query 'all(.results[]; (.spread - ((.runs | max) - (.runs | min)) / .tok_s | fabs) < 1e-6)')" true \
        "--json, spread"
    expect_equal "$(query 'all(.results[]; (.ms_per_token * .tok_s - 1000 | fabs) < 1e-3)')" true "--json, ms_per_token"
    expect_equal "$(query 'all(.results[]; (.parts | all(.[]; . >= 0) and .kernels_s > 0 and .attention_s > 0 and .drive_s == 0))')" \
        true "--json, parts"
    expect_equal "$(query 'all(.results[]; ([.parts[]] | add) * 1000 / .ms_per_token - 1 | fabs < 1e-6)')" true \
        "--json, the parts add up"
    # The cache of the demo model: 6 local layers of 2 heads of 64, window 128; 2 global ones of a head of 128.
    expect_equal "$(query '.weight_bytes_per_token as $w | [.results[] | select(.phase == "decode") | .bytes_per_token - $w |
        tostring] | join(" ")')" "10240 600576" "--json, cache bytes of a token after 0 and 200"
    expect_equal "$(query '.read_gbps as $peak | all(.results[] | select(.phase == "decode");
        (.read_gbps - .bytes_per_token * .tok_s / 1e9 | fabs) < 1e-6 and (.read_share - .read_gbps / $peak | fabs) < 1e-6)')" \
        true "--json, bandwidth"
else
    echo "note: no jq; the results of --json are not checked"
fi

# Wrong input.
expect_refusal 2 "whole numbers separated by commas" "an empty list" bench -p ""
expect_refusal 2 "whole numbers separated by commas" "a gap in a list" bench -p 1,,2
expect_refusal 2 "whole numbers separated by commas" "a list that ends in a comma" bench -d 0,
expect_refusal 2 "whole numbers separated by commas" "a word in a list" bench -d 0,x
expect_refusal 2 "whole numbers separated by commas" "a negative number" bench -d -5
expect_refusal 2 "whole numbers separated by commas" "a number with rubbish behind" bench -p 5x
expect_refusal 2 "whole numbers separated by commas" "a number beyond 32 bits" bench -p 5000M
expect_refusal 2 "whole numbers separated by commas" "a very long number" bench -p 00000000000000000000000000000001
expect_refusal 2 "more than 16 numbers" "a long list" bench -p 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
expect_refusal 2 "must be a whole number between 0" "-n x" bench -n x
expect_refusal 2 "must be a whole number between 1 and 100" "-r 0" bench -r 0
expect_refusal 2 "must be a whole number between 1 and 100" "-r 101" bench -r 101
expect_refusal 2 "nothing to measure" "-p 0 -n 0" bench -p 0 -n 0
expect_refusal 2 "one argument too many" "an argument" bench m.gguf
expect_refusal 1 "prefill of 32 tokens after a context of 500 goes beyond the model's limit of 512" "a depth beyond the model" \
    bench -m "$MODEL" -p 32 -n 4 -d 0,500
expect_refusal 1 "decode of 600 tokens after a context of 0" "a decode beyond the model" bench -m "$MODEL" -n 600
expect_refusal 1 "cannot write .*absent/stats" "statistics into nowhere" bench -m "$MODEL" --stats "$WORK/absent/stats"
expect_refusal 1 "absent.gguf.*No such file" "no such model" bench -m "$WORK/absent.gguf"
if [ -w /dev/full ]; then
    "$LODE" bench -m "$MODEL" -p 4 -n 0 -r 1 >/dev/full 2>"$WORK/err"
    CODE=$?
    expect_code 1 "a full disk"
    expect_equal "$(grep -c 'cannot write the output' "$WORK/err")" 1 "a full disk is told once"
    quick -p 4 -n 0 -r 1 --stats /dev/full
    expect_code 1 "statistics on a full disk"
    expect_match "$ERR" 'cannot write /dev/full' "statistics on a full disk"
fi

# A signal: what was measured is told. A signal that comes while the model is loaded ends the program without figures;
# a busy machine may need more time for that.
interrupt() { # SIGNAL
    local delay child
    for delay in 0.7 2 5; do
        "$LODE" bench -m "$MODEL" -t 2 --ram 250M -p 400 -n 100 -d 0,100 -r 100 --json >"$WORK/out" 2>"$WORK/err" &
        child=$!
        sleep $delay
        kill -"$1" $child
        wait $child
        CODE=$?
        [ -s "$WORK/out" ] && return
    done
}
for case in "INT 130" "TERM 143"; do
    interrupt "${case% *}"
    expect_code "${case#* }" "SIG${case% *}"
    have_json && expect_equal "$(json_get "$WORK/out" interrupted)" true "SIG${case% *}"
    expect_match "$(cat "$WORK/err")" 'interrupted; the figures are those of the runs so far$' "SIG${case% *}"
done
finish
