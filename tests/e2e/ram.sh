#!/bin/bash
# Models under a memory ceiling: the same text whatever stays in memory, the ceiling holds, the figures are there,
# and what goes wrong is told. The files are small, but larger than the ceilings.
. "$(dirname "$0")/lib.sh"

# 225, 162 and 177 MiB of F32; without its experts the mixture has 33 MiB, without its table the PLE one 137. The
# program itself counts as some 55 MiB.
MOE_SHAPE="tiny-moe --layers 16 --skew 1"
DENSE_SHAPE="tiny-31b --layers 40"
PLE_SHAPE="tiny-e2b --layers 40"
MOE_CEILINGS="80M 112M 0.15625G 200M"
DENSE_CEILINGS="80M 128M"
PLE_CEILINGS="96M 128M 160M"
TIGHT=96M       # some experts of the mixture fit, most do not
TIGHT_LONG=160M # the same with the KV cache and the scratch of a context of thousands of tokens
TIGHT_STEP=200M # and with those of prefill steps of 1024 tokens, for the dense model
ROOMY=2G        # everything fits
FLOOR_CONTEXT="-c 4096 --kv f32" # a KV cache of 135 MiB for the dense model
BELOW_FLOOR=64M
LONGEST_S=2 # from a signal to the end; all layers of a prefill step take that long on two slow cores

# ---- the option

for size in 0 1 63M 65535K 8GB 8X 8.5 8. .5G -1 +8G 8e9 "8 G" "" G nan 0x80000000 99999999T 99999999999999999999 \
    18446744073709551616 8Gi8; do
    expect_refusal 2 "--ram '.*': must be (at least 64M|auto or a size)" "--ram '$size'" run -p x --ram "$size"
done
expect_refusal 2 "must be auto or a size" "--ram of chat" chat --ram much
expect_refusal 2 "must be at least 64M" "--ram of eval" eval -f x --ram 1M
expect_refusal 2 "needs a value" "--ram without a size" run -p x --ram
expect_refusal 2 "must be one of auto, uring, threads" "--io fast" run -p x --io fast
expect_refusal 2 "must be one of [a-z]" "--policy best" run -p x --policy best
lode run --policy help
expect_code 0 "--policy help"
expect_equal "$ERR" "" "--policy help, stderr"
policies=$(printf '%s\n' "$OUT" | awk 'NF >= 2 { print $1 }')
[ "$(printf '%s\n' "$policies" | wc -l)" -ge 2 ] || fail "--policy help lists '$OUT'"

# ---- models

synth() { # NAME SHAPE-AND-OPTIONS
    # shellcheck disable=SC2086
    "$LODE" synth $2 --type f32 -o "$WORK/$1.gguf" 2>"$WORK/err" || skip "no $1 model: $(cat "$WORK/err")"
}
synth moe "$MOE_SHAPE"
synth dense "$DENSE_SHAPE"
synth ple "$PLE_SHAPE"

generate() { # MODEL OPTION...
    local model=$1
    shift
    lode run -m "$WORK/$model.gguf" -p "Once upon a time" -n 32 -t 2 --temp 0 --ignore-eos --stats "$WORK/stats" "$@"
}
stat_of() { json_get "$WORK/stats" "$1"; }
expect_less() { # A B WHAT: A < B, numbers
    awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 < b + 0) }' || fail "$3: $1 is not less than $2"
}
expect_same_text() { # MODEL WHAT
    expect_code 0 "$2"
    cmp -s "$WORK/out" "$WORK/$1.text" || fail "$2: another text: '$(head -c 60 "$WORK/out")'"
}
expect_within() { # WHAT: the peak of memory is not above the ceiling
    have_json && expect_less "$(stat_of peak_rss_bytes)" "$(($(stat_of ceiling_bytes) + 1))" "$1, peak within the ceiling"
}

# ---- the same text under every ceiling

for model in moe dense ple; do
    generate $model
    expect_code 0 "$model without a ceiling"
    cp "$WORK/out" "$WORK/$model.text"
    [ -s "$WORK/$model.text" ] || fail "$model says nothing"
    generate $model --ram $ROOMY
    expect_same_text $model "$model, --ram $ROOMY"
    case $ERR in *"of the time;"*) fail "$model, --ram $ROOMY tells of reading: $ERR" ;; esac
    generate $model --ram auto
    expect_same_text $model "$model, --ram auto"
done
for case in "moe $MOE_CEILINGS" "dense $DENSE_CEILINGS" "ple $PLE_CEILINGS"; do
    model=${case%% *}
    for ceiling in ${case#* }; do
        generate "$model" --ram "$ceiling"
        expect_same_text "$model" "$model, --ram $ceiling"
        expect_within "$model, --ram $ceiling"
    done
done
generate moe --ram $TIGHT
expect_match "$ERR" 'experts [0-9.]+% in memory, [0-9.]+ MB a token read, stalled [0-9.]+% of the time; peak [0-9]+ of 96 MiB$' \
    "the line about reading"
expect_match "$ERR" 'length reached$' "the last line under a ceiling"
generate dense --ram 80M
expect_match "$ERR" 'of weights in memory, [0-9]+ MB a token read' "the line about reading, dense"
lode run -m "$WORK/moe.gguf" -p "Once upon a time" -n 1 --temp 0 --ram $TIGHT
expect_match "$ERR" 'prefill read .*, stalled .* s; peak' "the line about reading, prefill alone"

# A long prompt, in steps larger than the pool can serve at once.
for i in $(seq 100); do printf 'word %d and ' "$i"; done >"$WORK/long"
for model in moe dense ple; do
    long() { lode run -m "$WORK/$model.gguf" -f "$WORK/long" -n 8 -b 128 --temp 0 --ignore-eos "$@"; }
    long
    cp "$WORK/out" "$WORK/$model.long"
    long --ram $TIGHT_LONG
    expect_code 0 "$model, a long prompt"
    cmp -s "$WORK/out" "$WORK/$model.long" || fail "$model, a long prompt: another text"
done

# Steps of the usual size: a ceiling must not change it, for in another step a token may round otherwise.
lode run -m "$WORK/dense.gguf" -f "$WORK/long" -n 8 --temp 0 --ignore-eos
cp "$WORK/out" "$WORK/steps"
lode run -m "$WORK/dense.gguf" -f "$WORK/long" -n 8 --temp 0 --ignore-eos --ram $TIGHT_LONG
expect_code 0 "a prompt of several steps"
cmp -s "$WORK/out" "$WORK/steps" || fail "a prompt of several steps: another text under a ceiling"

# ---- policies, engines, prefetch, threads: never another text

for policy in $policies; do
    generate moe --ram $TIGHT --policy "$policy"
    expect_same_text moe "--policy $policy"
    have_json && expect_equal "$(stat_of policy)" "$policy" "policy of --stats"
done
for model in moe dense; do
    generate $model --ram $TIGHT --io auto
    expect_same_text $model "$model, --io auto"
    generate $model --ram $TIGHT --io threads
    expect_same_text $model "$model, --io threads"
    have_json && expect_equal "$(stat_of io)" threads "io of --stats"
    generate $model --ram $TIGHT --io uring
    if [ "$CODE" = 0 ]; then
        expect_same_text $model "$model, --io uring"
    else
        expect_code 1 "--io uring where it is not allowed"
        expect_match "$ERR" 'io_uring' "--io uring where it is not allowed"
    fi
    generate $model --ram $TIGHT --no-prefetch
    expect_same_text $model "$model, --no-prefetch"
    generate $model --ram $TIGHT --threads 1
    expect_same_text $model "$model, one thread"
done
if have_json; then
    generate moe --ram $TIGHT --no-prefetch
    expect_equal "$(stat_of prefetch_on)" false "--no-prefetch, prefetch_on"
    expect_equal "$(stat_of prefetch_useful_bytes)" 0 "--no-prefetch, prefetch_useful_bytes"
    expect_equal "$(stat_of prefetch_wasted_bytes)" 0 "--no-prefetch, prefetch_wasted_bytes"
fi
generate moe --ram $TIGHT --cold
expect_same_text moe "--cold"

cp "$WORK/moe.gguf" "$WORK/copy.gguf"
generate moe --ram $TIGHT --mirror "$WORK/copy.gguf"
expect_same_text moe "--mirror"
generate moe --ram $TIGHT --mirror "$WORK/dense.gguf"
expect_code 1 "a mirror that is another file"
expect_match "$ERR" 'dense.gguf' "a mirror that is another file"
generate moe --ram $TIGHT --mirror "$WORK/absent.gguf"
expect_code 1 "no such mirror"
expect_match "$ERR" 'absent.gguf.*No such file' "no such mirror"

# ---- eval and chat

"$LODE" tokenize -m "$WORK/moe.gguf" --bos <"$WORK/long" | cut -d, -f1-48 >"$WORK/ids"
lode eval "$WORK/moe.gguf" --tokens "$WORK/ids" --logits "$WORK/logits"
expect_code 0 "eval without a ceiling"
rm -rf "$XDG_CACHE_HOME"
lode eval "$WORK/moe.gguf" --tokens "$WORK/ids" --logits "$WORK/logits-ram" --ram $TIGHT
expect_code 0 "eval under a ceiling"
cmp -s "$WORK/logits" "$WORK/logits-ram" || fail "eval: other logits under a ceiling"
expect_equal "$(find "$XDG_CACHE_HOME" -type f 2>/dev/null)" "" "eval keeps no heat"
talk() { printf 'Hello\nGo on\n' | lode chat -m "$WORK/moe.gguf" --temp 0 -n 16 -c 512 "$@"; }
talk
expect_code 0 "chat without a ceiling"
cp "$WORK/out" "$WORK/chat"
talk --ram $TIGHT
expect_code 0 "chat under a ceiling"
cmp -s "$WORK/out" "$WORK/chat" || fail "chat: another text under a ceiling"

# ---- a ceiling that is too low

# shellcheck disable=SC2086
generate dense --ram $BELOW_FLOOR $FLOOR_CONTEXT
expect_code 1 "a ceiling below the floor"
expect_match "$ERR" 'floor|at least' "a ceiling below the floor"
expect_match "$ERR" '[0-9.]+ [KMG]iB' "a ceiling below the floor tells sizes"
expect_match "$ERR" '(context|-c).*(--kv|q8_0|-b|quantisation)' "a ceiling below the floor tells what would lower it"
expect_equal "$OUT" "" "a ceiling below the floor, stdout"

# ---- figures

if have_json; then
    keys="hit_rate nvme_bytes_per_token stall_share peak_rss_bytes prefetch_useful_bytes prefetch_wasted_bytes prefetch_on
        reuse ceiling_bytes pinned_bytes pool_bytes streamed_bytes pool_slots load_bytes prefill_bytes decode_bytes
        prefill_stall_s stall_s disk_busy_share disk_gbps policy io layers slow_tokens offloaded"
    generate moe
    for key in $keys; do
        [ "$(stat_of "$key")" != absent ] || fail "--stats lacks $key without a ceiling"
    done
    expect_match "$(stat_of hit_rate)" '^1(\.0)?$' "hit_rate, all resident"
    expect_equal "$(stat_of offloaded)" false "offloaded, all resident"
    for key in nvme_bytes_per_token prefill_bytes decode_bytes streamed_bytes stall_s stall_share; do
        expect_match "$(stat_of $key)" '^0(\.0)?$' "$key, all resident"
    done
    generate moe --ram $TIGHT --cold --json
    expect_code 0 "--json under a ceiling"
    cp "$WORK/out" "$WORK/json"
    for key in $keys; do
        [ "$(stat_of "$key")" != absent ] || fail "--stats lacks $key under a ceiling"
        [ "$(json_get "$WORK/json" "$key")" != absent ] || fail "--json lacks $key under a ceiling"
    done
    expect_equal "$(stat_of offloaded)" true "offloaded"
    expect_equal "$(stat_of ceiling_bytes)" $((96 << 20)) "ceiling_bytes"
    expect_less "$(stat_of hit_rate)" 1 "hit_rate"
    expect_less 0 "$(stat_of hit_rate)" "hit_rate"
    for key in pinned_bytes pool_bytes pool_slots load_bytes decode_bytes nvme_bytes_per_token disk_gbps; do
        expect_less 0 "$(stat_of $key)" "$key"
    done
    # The layers add up to the whole: 31 passes of 16 layers that choose 8 experts each.
    if command -v python3 >/dev/null; then
        python3 - "$WORK/stats" >"$WORK/sums" 2>&1 <<'PYTHON' || fail "layers and slow tokens: $(cat "$WORK/sums")"
import json, sys
stats = json.load(open(sys.argv[1]))
layers = stats["layers"]
assert len(layers) == 16, len(layers)
choices, hits = (sum(layer[key] for layer in layers) for key in ("choices", "hits"))
assert choices == 31 * 16 * 8, choices
assert abs(hits / choices - stats["hit_rate"]) < 1e-6, (hits, choices, stats["hit_rate"])
for layer in layers:
    assert set(layer) == {"choices", "hits", "hit_rate", "bytes", "stall_s"}, layer
for token in stats["slow_tokens"]:
    assert set(token) == {"index", "ms", "stall_ms", "worst_stall_ms", "worst"}, token
    assert token["ms"] >= stats["token_ms_p99"] > 0, token
    assert token["stall_ms"] <= token["ms"] and token["worst_stall_ms"] <= token["stall_ms"], token
PYTHON
    fi
    generate dense --ram 80M
    expect_less 0 "$(stat_of streamed_bytes)" "streamed_bytes of a dense model"
    expect_match "$(stat_of hit_rate)" '^1(\.0)?$' "hit_rate of a dense model"
fi
generate moe --ram $TIGHT -n 200 --explain-stalls
expect_code 0 "--explain-stalls"
expect_match "$ERR" 'no token was slower than the p99|waited for' "--explain-stalls"

# The peak as the system saw it, not as we count it.
if command -v python3 >/dev/null; then
    peak=$(python3 -c '
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' "$LODE" run -m "$WORK/moe.gguf" -f "$WORK/long" -n 32 -b 128 --ram $TIGHT_LONG)
    expect_less "$peak" $((160 * 1024 + 1)) "KiB of the process under a ceiling of 160 MiB"
fi

# ---- heat

heat_files() { find "$XDG_CACHE_HOME" -type f -name '*.heat' 2>/dev/null; }
rm -rf "$XDG_CACHE_HOME"
generate moe --ram $TIGHT_LONG --cold
expect_equal "$(heat_files)" "" "--cold writes no heat"
cold_rate=$(stat_of hit_rate)
generate moe --ram $TIGHT_LONG
expect_same_text moe "the first run"
expect_equal "$(heat_files | wc -l)" 1 "one heat file"
check_heat() { # FILE
    local heat=$1 broken warm_rate
    cp "$heat" "$WORK/heat"
    generate moe --ram $TIGHT_LONG --cold
    expect_same_text moe "--cold with heat there"
    cmp -s "$heat" "$WORK/heat" || fail "--cold changed the heat"
    generate moe --ram $TIGHT_LONG
    expect_same_text moe "a warm start"
    cmp -s "$heat" "$WORK/heat" && fail "a second run added nothing to the heat"
    if have_json; then
        warm_rate=$(stat_of hit_rate)
        # The pool is filled while the run goes on, so how much better a short one gets depends on the drive.
        expect_less "$(awk -v rate="$cold_rate" 'BEGIN { print rate - 0.05 }')" "$warm_rate" "hit rate of a warm start"
    fi
    lode heat "$WORK/moe.gguf"
    expect_code 0 "lode heat"
    expect_match "$OUT" '[0-9]' "lode heat shows what the runs left"
    for broken in rubbish half empty; do
        case $broken in
        rubbish) printf 'this is no heat' >"$heat" ;;
        half) head -c $(($(wc -c <"$WORK/heat") / 2)) "$WORK/heat" >"$heat" ;;
        empty) : >"$heat" ;;
        esac
        generate moe --ram $TIGHT_LONG
        expect_same_text moe "heat: $broken"
        expect_equal "$(printf '%s\n' "$ERR" | grep -c "$(basename "$heat")")" 1 "heat: $broken is told once"
    done
    generate moe --ram $TIGHT_LONG
    expect_same_text moe "after broken heat"
    case $ERR in *"$(basename "$heat")"*) fail "broken heat was not replaced: $ERR" ;; esac
}
[ -n "$(heat_files)" ] && check_heat "$(heat_files)"
echo >"$WORK/file"
XDG_CACHE_HOME=$WORK/file generate moe --ram $TIGHT_LONG
expect_same_text moe "a cache folder that is a file"
(unset XDG_CACHE_HOME HOME; "$LODE" run -m "$WORK/moe.gguf" -p x -n 4 --ram $TIGHT_LONG >/dev/null 2>"$WORK/err") ||
    fail "neither HOME nor XDG_CACHE_HOME: $(cat "$WORK/err")"

# ---- the file ends while it is read; signals

command -v python3 >/dev/null || { echo "note: no python3; broken files and signals are not checked"; finish; }
cat >"$WORK/disturb.py" <<'PYTHON'
# disturb.py OUT ERR WHEN WHAT COMMAND...: starts a command; when it decodes (WHEN decode: has written something) or
# computes a prefill (WHEN prefill: has used a second of processor time), sends the signal WHAT, or truncates the file
# WHAT to half; prints how long the end took, and exits as the command does, 128 + number for a signal.
import os, signal, subprocess, sys, time

out, err = open(sys.argv[1], "wb"), open(sys.argv[2], "wb")
when, what, command = sys.argv[3], sys.argv[4], sys.argv[5:]
child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, stdin=subprocess.DEVNULL,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

signal.signal(signal.SIGALRM, lambda *_: child.kill())
signal.alarm(100)

def used_s():
    fields = open("/proc/%d/stat" % child.pid).read().rsplit(")", 1)[1].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")

if when == "decode":
    out.write(child.stdout.read(8))
else:
    while child.poll() is None and used_s() < 1:
        time.sleep(0.01)
start = time.time()
if what.startswith("SIG"):
    child.send_signal(getattr(signal, what))
else:
    os.truncate(what, os.path.getsize(what) // 2)
out.write(child.stdout.read())
code = child.wait()
print("%.2f" % (time.time() - start))
sys.exit(code if code >= 0 else 128 - code)
PYTHON
disturb() { # WHEN WHAT ARGUMENT...: sets CODE, ERR and TOOK
    local when=$1 what=$2
    shift 2
    TOOK=$(python3 "$WORK/disturb.py" "$WORK/out" "$WORK/err" "$when" "$what" "$LODE" "$@")
    CODE=$?
    ERR=$(tr -d '\0' <"$WORK/err")
}

disturb decode "$WORK/copy.gguf" run -m "$WORK/copy.gguf" -p x -n 1000 --ignore-eos --ram $TIGHT -b 64 --cold
expect_code 1 "a file that is truncated"
expect_match "$ERR" 'copy.gguf.*(offset|byte) [0-9]+' "a file that is truncated"
[ "$(wc -c <"$WORK/out")" -ge 8 ] || fail "a file that is truncated: the text before is missing"

for i in $(seq 600); do printf 'word%d' "$i"; done >"$WORK/longest"
expect_stopped() { # CODE WHAT
    expect_code "$1" "$2"
    expect_less "$TOOK" $LONGEST_S "$2, seconds to the end"
    expect_match "$ERR" 'prefill .* seed [0-9]+, interrupted$' "$2, the last line"
    have_json && expect_equal "$(stat_of stop)" interrupted "$2, stop of --stats"
}
for case in "SIGINT 130" "SIGTERM 143"; do
    name=${case% *} code=${case#* }
    for model in moe dense; do
        for ceiling in $TIGHT_LONG $ROOMY; do
            rm -f "$WORK/stats"
            disturb decode "$name" run -m "$WORK/$model.gguf" -p x -n 4000 -c 4096 -b 64 --ignore-eos --ram "$ceiling" \
                --stats "$WORK/stats"
            expect_stopped "$code" "$name in decode of $model, --ram $ceiling"
        done
    done
    for ceiling in $TIGHT_STEP $ROOMY; do
        rm -f "$WORK/stats"
        disturb prefill "$name" run -m "$WORK/dense.gguf" -f "$WORK/longest" -c 4096 -b 1024 -n 4 --ram "$ceiling" \
            --stats "$WORK/stats"
        expect_stopped "$code" "$name in prefill, --ram $ceiling"
        have_json && expect_equal "$(stat_of generated_tokens)" 0 "$name in prefill, --ram $ceiling, tokens"
    done
done
disturb prefill SIGTERM eval "$WORK/dense.gguf" -f "$WORK/longest" -c 1024 --ram $TIGHT_LONG
expect_code 143 "SIGTERM in eval"
expect_less "$TOOK" $LONGEST_S "SIGTERM in eval, seconds to the end"
expect_equal "$(find "$XDG_CACHE_HOME" -type f ! -name '*.heat')" "" "left over in the cache folder"

finish
