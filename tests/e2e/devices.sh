#!/bin/bash
# `lode devices`, and runs that name devices: what is there, what is not and why, wrong lists, and the same text
# with a GPU's kernels executed on the CPU.
. "$(dirname "$0")/lib.sh"

# ---- what there is

lode devices
expect_code 0 "devices"
expect_equal "$ERR" "" "devices, stderr"
expect_match "$OUT" '^  name +memory free +architecture device$' "the head of the table"
expect_match "$OUT" '^\* cpu +[0-9.]+ of [0-9.]+ [GM]iB +[a-z0-9-]+ +.+' "the CPU"
for backend in cuda hip; do # a device, or why there is none
    expect_match "$OUT" "^([* ] ${backend}[0-9]+ +[0-9.]+ of|  ${backend} +[^ ]+ .*)" "$backend, or why not"
done
table=$OUT
lode devices --json
expect_code 0 "--json"
if command -v jq >/dev/null; then
    query() { jq -r "$1" "$WORK/out"; }
    expect_equal "$(query '.devices[0] | [.name, .usable, .default, .gpu, .emulated] | map(tostring) | join(" ")')" \
        "cpu true true false false" "--json, the CPU"
    expect_equal "$(query '[.devices[] | select(.usable == (.why != null))] | length')" 0 "--json, a reason where it is not usable"
    expect_equal "$(query '[.devices[] | select(.usable and ((.memory_bytes // 0) < (.free_bytes // 0) or (.free_bytes // 0) == 0))] | length')" \
        0 "--json, memory"
    expect_equal "$(query '[.devices[] | select(.emulated and .default)] | length')" 0 "--json, no emulation by default"
    expect_equal "$(query '[.devices[].name | sub("[0-9]+$"; "")] | index("cuda") != null and index("hip") != null')" true \
        "--json, both vendors"
    while read -r name; do
        grep -Eq "^[* ] $name " <<<"$table" || fail "$name is in the JSON, but not in the table"
    done < <(query '.devices[].name')
elif have_json; then
    [ "$(json_get "$WORK/out" devices)" != absent ] || fail "--json has no devices"
fi
expect_refusal 2 "one argument too many" "devices of something" devices cuda0

# ---- wrong lists

for command in "run -p x -n 1" "chat" "eval --tokens $MODEL --logits $WORK/l" "bench -p 4 -n 2 -r 1"; do
    # shellcheck disable=SC2086
    expect_refusal 2 "--devices 'tpu0': .*is no device" "${command%% *}, no such device" $command -m "$MODEL" --devices tpu0 </dev/null
    # shellcheck disable=SC2086
    expect_refusal 2 "--vram '0': must be at least 1M" "${command%% *}, --vram 0" $command -m "$MODEL" --vram 0 </dev/null
    # shellcheck disable=SC2086
    expect_refusal 1 "ceiling for GPUs, and this run has none" "${command%% *}, a ceiling without a GPU" \
        $command -m "$MODEL" --devices cpu --vram 1G </dev/null
done
for list in "" "," "cpu," ",cpu" "cpu,,cpu" "cuda" "cuda-1" "cuda0x" "CPU" "simt0:" "simt0:size=1M" "simt0:memory" "simt0:memory=" \
    "simt0:memory=0" "simt0:memory=-1" "simt0:memory=1X" "simt0:link=0" "simt0:link=fast" "simt0:latency=-5" \
    "simt0:memory=64M:" "simt0 cpu" "cuda0:memory=1G" "cpu:memory=1G" "$(printf 'x%.0s' $(seq 3000))"; do
    expect_refusal 2 "--devices '.*':" "--devices '${list:0:40}'" run -m "$MODEL" -p x -n 1 --devices "$list"
done
expect_refusal 1 "--devices: (cuda99 cannot be used: .|there is no device cuda99; there are cpu)" "a GPU that is not there" \
    run -m "$MODEL" -p x -n 1 --devices cuda99,cpu

# ---- the CPU alone

run() { lode run -m "$MODEL" -p "Once upon a time there was a king" -n 24 -t 2 --temp 0 --ignore-eos --plan off --cold "$@"; }
run --devices cpu --stats "$WORK/stats"
expect_code 0 "--devices cpu"
text=$OUT
[ -n "$text" ] || fail "--devices cpu says nothing"
have_json && expect_equal "$(json_get "$WORK/stats" gpus)" "[]" "--devices cpu, no GPUs in the figures"
expect_refusal 1 "by-layer puts layers on GPUs, and this run has none" "--placement by-layer on the CPU" \
    run -m "$MODEL" -p x -n 1 --devices cpu --placement by-layer
expect_refusal 1 "gpu-layers puts whole layers on GPUs, and this run has none" "gpu-layers on the CPU" \
    bench -m "$MODEL" -p 8 -n 4 -r 1 --devices cpu --against gpu-layers
expect_refusal 2 "gpu-layers and --placement by-layer are the same" "gpu-layers twice" \
    bench -m "$MODEL" -p 8 -n 4 -r 1 --placement by-layer --against gpu-layers

# ---- with the kernels of a GPU on the CPU

if ! grep -q '^  simt0 ' <<<"$table"; then
    echo "note: this build executes no GPU's kernels on the CPU; runs with simt0 are not checked"
    finish
fi
expect_match "$table" "simt0 executes a GPU's kernels on the CPU, for tests: its time is not a GPU's" "what simt0 is"
expect_refusal 2 "simt0 is named twice" "a device twice" run -m "$MODEL" -p x -n 1 --devices simt0,cpu,simt0
expect_refusal 1 "there is no device simt9; there are cpu, .*simt0.*; name others, or none" "an emulation too many" \
    run -m "$MODEL" -p x -n 1 --devices simt9
expect_refusal 1 "--vram 65.0 MiB is more than the 64.0 MiB of simt0; .*leave it out" "a ceiling above the card" \
    run -m "$MODEL" -p x -n 1 --devices simt0:memory=64M,cpu --vram 65M
expect_refusal 1 "--vram 65.0 MiB is more than the 64.0 MiB of simt1" "chat, a ceiling above the second card" \
    chat -m "$MODEL" --devices simt0,simt1:memory=64M --vram 65M </dev/null
expect_refusal 1 "--io mmap leaves the weights .*simt0 cannot use; leave it out" "mapped files and a GPU" \
    run -m "$MODEL" -p x -n 1 --devices simt0,cpu --io mmap
expect_refusal 1 "simt0: .*scratch.*--devices leaves it out" "a ceiling below the scratch" \
    run -m "$MODEL" -p x -n 1 --devices simt0,cpu --vram 1M

same_text() { # WHAT OPTION...
    local what=$1
    shift
    run --stats "$WORK/stats" "$@"
    expect_code 0 "$what"
    expect_equal "$OUT" "$text" "$what, the text"
}
# Where experts of one layer are on both, sums are made in another order; the logits stay near, whatever token a tie
# then goes to.
expect_near() { # WHAT OPTION...
    local what=$1
    shift
    lode eval -m "$MODEL" --tokens "$WORK/ids" --compare "$WORK/reference" -t 2 --plan off "$@"
    expect_code 0 "$what"
    kl=$(sed -n 's/^KL mean \([0-9.e+-]*\),.*/\1/p' <<<"$OUT")
    awk -v kl="${kl:-1}" -v most="$MOST_KL" 'BEGIN { exit !(kl + 0 < most) }' || fail "$what: other logits: $OUT"
}
MOST_KL=2e-3
printf 'Once upon a time there was a king%s' "$text" | "$LODE" tokenize -m "$MODEL" >"$WORK/ids" 2>"$WORK/err" || fail "no ids"
lode eval -m "$MODEL" --tokens "$WORK/ids" --logits "$WORK/reference" -t 2 --plan off --devices cpu
expect_code 0 "the reference"

if command -v jq >/dev/null; then
    stat() { jq -r "$1" "$WORK/stats"; }
else
    stat() { echo skipped; }
fi
expect_stat() { # QUERY WHAT
    case $(stat "$1") in true | skipped) ;; *) fail "$2: $(stat .gpus)" ;; esac
}

same_text "simt0" --devices simt0,cpu
expect_match "$ERR" '^lode run: simt0: [0-9.]+ [KMG]iB of weights' "the line about a GPU"
expect_stat '.gpus | length == 1 and .[0].name == "simt0" and .[0].pinned_bytes > 0 and .[0].kv_bytes > 0' "simt0 has weights and K and V"
expect_stat '.gpus[0] | .pool_used <= .pool_slots and .hits > 0 and .hit_rate > 0' "simt0 has experts"
[[ $ERR != *"names no cpu"* ]] || fail "simt0,cpu: the note of a list without cpu"
same_text "two GPUs" --devices simt1,simt0
expect_match "$ERR" "--devices names no cpu, which computes all the same" "a list without cpu"
expect_stat '[.gpus[].name] == ["simt1", "simt0"]' "two GPUs, in the order of the list"
same_text "a GPU with little memory" --devices simt0:memory=6M,cpu
expect_stat '.gpus[0] | .pinned_bytes + .pool_bytes + .kv_bytes + .scratch_bytes <= 6291456' "within the device's memory"
run --stats "$WORK/stats" --devices simt0 --vram 7M
expect_code 0 "--vram"
expect_stat '.gpus[0] | .pinned_bytes + .pool_bytes + .kv_bytes + .scratch_bytes <= 7340032' "within --vram"
expect_near "--vram" --devices simt0 --vram 7M
same_text "a link with a rate and a latency" --devices simt0:link=2:latency=20,cpu
run --stats "$WORK/stats" --devices simt0 --vram 7M --placement by-layer
expect_code 0 "--placement by-layer"
expect_stat '.gpus[0].pinned_bytes > 0' "by-layer, weights"
expect_near "--placement by-layer" --devices simt0 --vram 7M --placement by-layer
expect_near "--placement by-layer on two GPUs" --devices simt0,simt1 --vram 6M --placement by-layer

printf 'Tell me a story.\n/stats\n' | lode chat -m "$MODEL" -n 8 --temp 0 --plan off --devices simt0,cpu
expect_code 0 "chat"
expect_match "$ERR" '^lode chat: simt0: ' "chat, /stats tells of the GPU"
lode bench -m "$MODEL" -t 2 -p 16 -n 4 -r 1 --devices simt0 --vram 7M --against gpu-layers --json
expect_code 0 "bench --against gpu-layers"
if command -v jq >/dev/null; then
    expect_equal "$(jq -r '[.arms[].arm] | join(" ")' "$WORK/out")" "chosen gpu-layers" "gpu-layers, the arms"
    expect_equal "$(jq -r '.arms[1].settings | test("devices=simt0 vram=7340032 placement=by-layer")' "$WORK/out")" true "gpu-layers, its settings"
fi
finish
