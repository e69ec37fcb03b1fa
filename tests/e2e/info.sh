#!/bin/bash
# `lode info`: the demo model's figures, as text and as JSON; and the processor, this one and made-up ones.
. "$(dirname "$0")/lib.sh"

lode info "$MODEL"
expect_code 0 "info"
expect_match "$OUT" '^parameters +17\.1 M' "parameters"
expect_match "$OUT" '^layers +8: 6 local \(window 128\), 2 global' "layers"
expect_match "$OUT" '^experts +32 a layer, 4 used, width 64' "experts"
expect_match "$OUT" '^vocabulary +4096$' "vocabulary"
expect_match "$OUT" '^context +512$' "context"
expect_match "$OUT" '^KV cache .* at 512$' "KV cache"
expect_match "$OUT" 'expert +256 ' "256 experts in the table of units"
text=$OUT

lode info -m "$MODEL"
expect_equal "$OUT" "$text" "-m"
lode info
expect_equal "$OUT" "$text" "the demo model"

lode info --tensors "$MODEL"
expect_match "$OUT" '^token_embd\.weight +Q[0-9A-Z_]+ +256 x 4096 ' "--tensors"
expect_match "$OUT" 'blk\.7\.' "--tensors, the last layer"

if have_json; then
    lode info --json "$MODEL"
    expect_code 0 "--json"
    expect_equal "$(json_get "$WORK/out" runnable)" true "--json"
    json_get "$WORK/out" shape >"$WORK/shape"
    expect_equal "$(json_get "$WORK/shape" n_layers)" 8 "n_layers"
    expect_equal "$(json_get "$WORK/shape" parameters)" 17057608 "parameters"
    expect_equal "$(json_get "$WORK/shape" n_experts)" 32 "n_experts"
    [ "$(json_get "$WORK/out" groups)" != absent ] || fail "--json lacks groups"
    expect_equal "$(json_get "$WORK/out" tensors)" absent "tensors only where asked for"
    lode info --json --tensors "$MODEL"
    [ "$(json_get "$WORK/out" tensors)" != absent ] || fail "--json --tensors lacks tensors"
fi

# The processor.
allowed=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
lode info --cpu
expect_code 0 "--cpu"
expect_equal "$ERR" "" "--cpu, stderr"
expect_match "$OUT" '^cores +[0-9]+ physical, [0-9]+ hardware thread' "--cpu, cores"
expect_match "$OUT" "^affinity .* $allowed of [0-9]+ hardware threads: [0-9]" "--cpu, affinity"
expect_match "$OUT" '^NUMA nodes +[0-9]+: ' "--cpu, nodes"
expect_match "$OUT" '^huge pages +[a-z]' "--cpu, huge pages"
expect_match "$OUT" '^threads +[0-9]+, (one for each core|as many as the quota)' "--cpu, threads"
expect_match "$OUT" '^places +[0-9,-]+ for the caller' "--cpu, places"
expect_equal "$(printf '%s\n' "$OUT" | grep -c '^\* .*(chosen)$')" 1 "--cpu, kernels that are chosen"
expect_match "$OUT" '^[ *] portable ' "--cpu, portable kernels"

threads=$(printf '%s\n' "$OUT" | sed -n 's/^threads *\([0-9]*\),.*/\1/p')
chosen=$(printf '%s\n' "$OUT" | sed -n 's/^\* \([^ ]*\).*/\1/p')
lode run -m "$MODEL" -p x -n 1 --temp 0
expect_match "$ERR" " $threads threads?, $chosen, " "a run uses what --cpu tells"

expect_refusal 2 "does not go with a file" "--cpu with a file" info --cpu "$MODEL"
expect_refusal 2 "does not go with a file" "--cpu with --tensors" info --cpu --tensors
expect_refusal 2 "goes with --cpu" "-t without --cpu" info -t 2 "$MODEL"
expect_refusal 2 "between 1 and 1024" "-t 1025" info --cpu -t 1025
LODE_MODEL=$WORK/absent lode info --cpu
expect_code 0 "--cpu needs no model"

# hwloc makes up other machines.
HWLOC_SYNTHETIC="package:2 numa:1 l3:1 core:16 pu:2" lode info --cpu
expect_code 0 "two sockets"
expect_match "$OUT" '^cores +32 physical, 64 hardware threads$' "two sockets, cores"
expect_match "$OUT" '^ +L3 .* one for 16 cores$|^caches +L3 .* one for 16 cores$' "two sockets, caches"
expect_match "$OUT" '^ +1: 16 cores, ' "two sockets, nodes"
HWLOC_SYNTHETIC="numa:2 core:2 pu:2" lode info --cpu -t 6
expect_match "$OUT" '^threads +6, as asked for' "siblings"
expect_match "$OUT" '^places +0 for the caller; workers on 4 2-3 6-7 1 5$' "siblings, places"
HWLOC_SYNTHETIC="core:1 pu:1" lode info --cpu -t 2
expect_match "$OUT" '^threads +2, as asked for; they take turns on 1 processor$' "too many threads"
expect_match "$OUT" '^places +none' "too many threads, places"
HWLOC_COMPONENTS=stop lode info --cpu
expect_code 0 "a machine that tells nothing"
expect_match "$OUT" "^affinity .*: [0-9]" "a machine that tells nothing, affinity"

if have_json; then
    HWLOC_SYNTHETIC="numa:2 core:2 pu:2" lode info --cpu --json -t 3
    expect_code 0 "--cpu --json"
    for key in cores:4 hardware_threads:8 cores_allowed:4 threads:3; do
        expect_equal "$(json_get "$WORK/out" ${key%:*})" ${key#*:} "--cpu --json, ${key%:*}"
    done
    expect_equal "$(json_get "$WORK/out" places | tr -d ' ')" '["0-1","4-5","2-3"]' "--cpu --json, places"
    for key in model affinity quota_processors kinds caches numa_nodes huge_pages features kernels; do
        [ "$(json_get "$WORK/out" $key)" != absent ] || fail "--cpu --json lacks $key"
    done
fi
finish
