#!/bin/bash
# `lode plan`: a shape without weights, a file, machines in words and in files, GPUs, pictures, what does not fit, wrong
# questions.
. "$(dirname "$0")/lib.sh"
machine=ram=32G@60,cores=8,drive=3.5

lode plan --shape 26b-a4b --machine "$machine" --ram 8G
expect_code 0 "a shape"
expect_equal "$ERR" "" "a shape, stderr"
expect_match "$OUT" "^model    synthetic 26b-a4b, Q4_0, 13\.3 GiB$" "model"
expect_match "$OUT" "^machine  .*not measured" "machine"
expect_match "$OUT" "^settings 8 threads, prefill in steps of [0-9]+ tokens" "settings"
expect_match "$OUT" "^group +units +weights +RAM +NVMe$" "no GPU, no column"
expect_match "$OUT" "^expert +3840 +[0-9.]+ GiB +[0-9.]+ GiB +[0-9.]+ GiB$" "experts on both"
expect_match "$OUT" "^ceiling +- +8\.0 GiB +-$" "ceiling"
expect_match "$OUT" "^attention +30 +[0-9.]+ MiB +[0-9.]+ MiB +-$" "attention stays"
for context in 0 8192 32768; do
    expect_match "$OUT" "^ *$context decode +[0-9.]+ +[0-9.]+ - [0-9.]+  (cpu kernels|drive|attention) [0-9]+%" "decode at $context"
    expect_match "$OUT" "^ *$context prefill +[0-9.]+ +[0-9.]+ - [0-9.]+  " "prefill at $context"
done
expect_match "$OUT" "A token reads [0-9.]+ MiB from the drive; [0-9]+% of its experts are in memory" "reads"
expect_match "$OUT" "^what would help most$" "advice"
expect_match "$OUT" "^  --ram auto \([0-9.]+ GiB\): [0-9.]+ -> [0-9.]+ tok/s \(\+[0-9]+%\)" "memory that is there"
[ -z "$(printf '%s' "$OUT" | grep 'GB RAM')" ] || fail "RAM is to be bought that is there"
expect_match "$OUT" "^considered and refused" "alternatives"
[ "$(printf '%s\n' "$OUT" | wc -l)" -le 46 ] || fail "more than a screen"

lode plan --shape 26b-a4b --machine "$machine,gpu=12G@360" --ram 8G
expect_match "$OUT" "^group +units +weights +GPU0 +RAM +NVMe$" "a column for the GPU"
expect_match "$OUT" "^GPU0  " "the GPU's name"
[ "$(printf '%s\n' "$OUT" | wc -l)" -le 48 ] || fail "more than a screen with a GPU"
[ "$(printf '%s\n' "$OUT" | awk '{ if (length > max) max = length } END { print max }')" -le 80 ] || fail "wider than 80"
lode plan --shape 26b-a4b --machine "$machine,gpu=12G@360" --ram 8G --vram 0
expect_match "$OUT" "^group +units +weights +RAM +NVMe$" "--vram 0"
lode plan --shape e2b --machine "$machine" --ram 64G
expect_match "$OUT" "^warning: the ceiling of 64.00 GiB is more than the machine has" "swap"

# Without a machine: the one that was measured, and there is none.
expect_refusal 1 "run .lode probe. first" "no profile" plan --shape e2b

# A profile of another machine is not taken for this one.
mkdir -p "$XDG_CONFIG_HOME/lode"
lode plan --shape e2b --machine desktop-ddr4
expect_code 0 "a sample"
cp "$SOURCE/profiles/machines/desktop-ddr4.json" "$XDG_CONFIG_HOME/lode/machine.json"
expect_refusal 1 "not of this machine: .*lode probe" "a foreign profile" plan --shape e2b
rm "$XDG_CONFIG_HOME/lode/machine.json"

# The parser's own machines, wrong ones and wrong questions.
expect_refusal 2 "no file, no sample" "no such machine" plan --shape e2b --machine nowhere
lode plan --shape e2b --machine "bogus=1"
[ "$CODE" != 0 ] || fail "a machine of unknown words was taken"
expect_match "$ERR" "bogus" "unknown word"
expect_refusal 2 "there is no shape .*26b-a4b" "no such shape" plan --shape 27b --machine "$machine"
expect_refusal 2 "no tensor type" "no such type" plan --shape e2b --type q9 --machine "$machine"
expect_refusal 2 "two models" "a file and a shape" plan --shape e2b "$MODEL" --machine "$machine"
expect_refusal 2 "of a --shape" "--type of a file" plan --type q4_0 "$MODEL" --machine "$machine"
expect_refusal 2 "has none" "--vram without a GPU" plan --shape e2b --machine "$machine" --vram 8G
for wrong in '--vram x' '--vram 1M' '--drive 0' '--drive fast' '--drive 1000' '--ring 1K' '--prompt 0' '--prompt few' \
    '--generate 0' '--svg -'; do
    # shellcheck disable=SC2086
    expect_refusal 2 "${wrong%% *}" "$wrong" plan --shape e2b --machine "$machine" $wrong
done
expect_refusal 2 "two files" "two files" plan -m "$MODEL" "$MODEL" --machine "$machine"
expect_refusal 1 "needs at least .* but has 1\.00 GiB" "too little memory" plan --shape 31b --ram 1G --machine "$machine"
expect_refusal 1 "beyond the model's limit" "beyond the limit" plan --shape e2b -c 1M --machine "$machine"
expect_refusal 1 "No such file" "no such model" plan "$WORK/absent.gguf" --machine "$machine"
printf 'GGUF but not really' >"$WORK/broken.gguf"
lode plan "$WORK/broken.gguf" --machine "$machine"
expect_code 1 "a broken model"
printf '{"version":' >"$WORK/broken.json"
lode plan --shape e2b --machine "$WORK/broken.json"
expect_code 1 "a broken profile"
expect_match "$ERR" "broken.json" "a broken profile"

# A file, and the header of its shape, are the same to it.
lode synth tiny-moe -o "$WORK/tiny.gguf"
lode plan "$WORK/tiny.gguf" --machine "$machine" --ram 1G
expect_code 0 "a file"
file=$OUT
lode plan --shape tiny-moe --machine "$machine" --ram 1G
expect_equal "$OUT" "$file" "a file and its shape"
lode plan "$MODEL" --machine "$machine"
expect_code 0 "the demo model"

# A picture: whole or not there, and nothing beside it.
lode plan --shape tiny-moe --machine "$machine" --ram 1G --svg "$WORK/plan.svg"
expect_code 0 "--svg"
expect_match "$(head -c 200 "$WORK/plan.svg")" "^<svg xmlns=" "a picture"
expect_equal "$(tail -n 1 "$WORK/plan.svg")" "</svg>" "the end of a picture"
if command -v xmllint >/dev/null; then
    xmllint --noout "$WORK/plan.svg" || fail "the picture is no XML"
fi
expect_refusal 1 "/dev/full: No space left on device; make room" "a full disk" \
    plan --shape tiny-moe --machine "$machine" --ram 1G --svg /dev/full
expect_refusal 1 "absent/plan.svg: .*; name a file in a folder that is there" "no such folder" \
    plan --shape tiny-moe --machine "$machine" --ram 1G --svg "$WORK/absent/plan.svg"
expect_equal "$(echo "$WORK"/*.partial-*)" "$WORK/*.partial-*" "temporary files"

if command -v jq >/dev/null; then
    get() { jq -r "$1" "$WORK/out"; }
    holds() { expect_equal "$(get "$1")" true "$2"; }
    lode plan --shape 26b-a4b --machine "$machine" --ram 8G --json
    expect_code 0 "--json"
    expect_equal "$(get '[.expected[].context] | join(",")')" 0,8192,32768 "contexts"
    holds '[.expected[] | .low <= .decode_tok_s and .decode_tok_s <= .high and .low > 0] | all' "ranges"
    holds '[.expected[] | .prefill_low <= .prefill_tok_s and .prefill_tok_s <= .prefill_high] | all' "prefill ranges"
    holds '[.expected[] | (.decode, .prefill) | .cpu_kernels + .attention + .small_operations + .drive + .gpu + .link - 1 | fabs < 1e-6] | all' "shares"
    holds '[.groups[] | .ram_bytes + .nvme_bytes + (.gpu_bytes | add // 0) == .bytes] | all' "every byte has a place"
    holds '([.groups[].bytes] | add) == .weight_bytes' "all weights"
    holds '([.groups[].ram_bytes] | add) + .memory.buffer_bytes + .memory.kv_bytes + .memory.scratch_bytes + .memory.program_bytes <= .memory.ceiling_bytes' "under the ceiling"
    holds '.limiter == .expected[0].decode.limiter and .machine.measured == false' "limiter and machine"
    holds '(.layers | length) == 30 and ([.layers[].experts | add] | add) == 3840' "every expert of every layer"
    holds '.outside_layers["token embedding"] == "ram" and .layers[0].dense.attention == "ram"' "homes of dense units"
    holds '(.changes | length) > 0 and ([.changes[].decode_tok_s > 0] | all)' "changes"
    holds '[.refused[] | .fits == (.decode_tok_s != null)] | all' "refused"
    holds '.settings.threads == 8 and .settings.batch == .memory.batch and .settings.prefetch' "settings"
    small=$(get '.expected[0].decode_tok_s')
    lode plan --shape 26b-a4b --machine "$machine" --ram 20G --json
    holds '.expected[0].hit_rate == 1' "all experts in memory"
    large=$(get '.expected[0].decode_tok_s')
    expect_equal "$(jq -n "$large > $small")" true "more memory is faster"
    lode plan --shape 31b --machine "$machine" --ram 10G --json
    expect_equal "$(get '.expected[0].decode.limiter')" drive "a dense model beyond memory waits for the drive"
    lode plan --shape 26b-a4b --machine "$machine" --ram 20G -c 8K --kv q8_0 --json
    expect_equal "$(get '[.expected[].context] | join(",")')" 0 "-c ends the list"
    expect_equal "$(get '.memory.kv')" q8_0 "--kv"
    expect_equal "$(get '.memory.context')" 8192 "-c"

    lode plan --shape 26b-a4b --machine "$machine,gpu=12G@360,gpu=12G@360" --ram 8G --vram 4G --json --svg "$WORK/plan.svg"
    expect_code 0 "--json and --svg"
    expect_equal "$(wc -l <"$WORK/out")" 1 "--json, lines"
    holds '(.gpus | length) == 2' "two GPUs"
    holds '[.gpus[] | .ceiling_bytes <= 4294967296 and .weight_bytes > 0] | all' "--vram"
    holds '[.gpus[] | .weight_bytes + .kv_bytes + .scratch_bytes <= .ceiling_bytes] | all' "under the ceilings"
    holds '[.groups[] | .ram_bytes + .nvme_bytes + (.gpu_bytes | add) == .bytes] | all' "every byte has a place, with GPUs"
    grep -q 'class="g1"' "$WORK/plan.svg" || fail "the picture has no second GPU"
    holds "$(get '.expected[0].decode_tok_s') > $small" "GPUs are faster"

    lode plan --shape 31b --machine "$machine" --ram 10G --json
    slow=$(get '.expected[0].decode_tok_s')
    lode plan --shape 31b --machine "$machine" --ram 10G --drive 7 --json
    holds ".expected[0].decode_tok_s > 1.5 * $slow" "--drive"
    lode plan --shape 31b --machine "$machine" --ram 10G --ring 512M --json
    holds '.settings.ring_bytes == 536870912' "--ring"
    lode plan --shape 26b-a4b --machine "$machine" --ram 8G --no-prefetch --json
    holds '.settings.prefetch == false' "--no-prefetch"
    lode plan --shape 31b --machine "$machine" --ram 10G --prompt 4K --generate 1 --json
    long=$(get '.memory.batch')
    lode plan --shape 31b --machine "$machine" --ram 10G --prompt 64 --generate 1K --json
    holds ".memory.batch <= $long" "the turn decides about the batch"
fi
finish
