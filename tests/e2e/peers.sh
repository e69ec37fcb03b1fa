#!/bin/bash
# bench/peers: its arithmetic on a made-up llama-bench, and what stands in its way. Speeds are nobody's here.
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || skip "no python3"

# Tokens of a prompt take 1 ms and decoded ones 10 ms, half of that when repacked; the first time twice as long.
mkdir -p "$WORK/ik/bin" "$WORK/broken/bin"
cat >"$WORK/ik/bin/llama-bench" <<'PYTHON'
#!/usr/bin/env python3
import itertools, json, sys
lists = {}
for name, value in zip(sys.argv[1::2], sys.argv[2::2]):
    lists.setdefault(name, []).append(value)
numbers = lambda name: [int(word) for word in lists.get(name, ["0"])[0].split(",")]
pace = 0.5e6 if lists["-rtr"] == ["1"] else 1e6
tests = [(p, 0, p) for p in numbers("-p") if p] + [(0, n, 10 * n) for n in numbers("-n") if n]
for pair in lists.get("-gp", []):
    depth, n = map(int, pair.split(","))
    tests.append((depth, n, 10 * n))
print(json.dumps([{"n_ubatch": ubatch, "n_prompt": p, "n_gen": n, "samples_ns": [2 * pace * t, pace * t]}
                  for (p, n, t), ubatch in itertools.product(tests, numbers("-ub"))]))
PYTHON
printf '#!/bin/sh\necho "no such architecture" >&2\nexit 3\n' >"$WORK/broken/bin/llama-bench"
chmod +x "$WORK/ik/bin/llama-bench" "$WORK/broken/bin/llama-bench"

peers() {
    timeout 120 "$SOURCE/bench/peers" --lode "$LODE" --no-peer --read-ahead 0 "$@" >"$WORK/out" 2>"$WORK/err"
    CODE=$?
    OUT=$(cat "$WORK/out")
    ERR=$(cat "$WORK/err")
}

# One value of the row of a program: ROW FIELD PHASE TOKENS CONTEXT ARM
row() {
    python3 - "$WORK/result" "$@" <<'PYTHON'
import json, sys
path, field, phase, tokens, context, arm = sys.argv[1:]
for row in json.load(open(path))["models"][0]["rows"]:
    if (row["phase"], str(row["tokens"]), str(row["context"]), row["arm"]) == (phase, tokens, context, arm):
        value = row[field]
        print(f"{value:.6g}" if isinstance(value, float) else value)
PYTHON
}

peers -m "$MODEL" -p 64 -n 4 -d 0,32 -r 2 -t 1 --ik "$WORK/ik/bin" --json "$WORK/result"
expect_code 0 "a whole run"
expect_equal "$(row tok_s prefill 64 0 ik_llama.cpp)" 2000 "a prompt, when repacked"
expect_equal "$(row tok_s prefill 64 32 ik_llama.cpp)" 2000 "a prompt at a depth: both less the first"
expect_equal "$(row tok_s decode 4 0 ik_llama.cpp)" 200 "decode"
expect_equal "$(row tok_s decode 4 32 ik_llama.cpp)" 200 "decode at a depth"
expect_equal "$(row setting decode 4 0 ik_llama.cpp)" "repack, fa on" "the best setting of the trial"
expect_equal "$(row rounds decode 4 0 ik_llama.cpp)" 2 "rounds"
expect_match "$(row tok_s decode 4 0 lode)" '^[0-9.e+]+$' "lode's own speed"
expect_match "$(row share decode 4 0 lode)" '^[0-9.e+-]+$' "the share of the read bandwidth"
expect_equal "$(python3 -c 'import sys; lode, ik, ratio = map(float, sys.argv[1:]); print(abs(lode / ik / ratio - 1) < 1e-4)' \
    "$(row tok_s decode 4 0 lode)" 200 "$(row lode_ratio decode 4 0 ik_llama.cpp)")" True "the ratio"
expect_match "$OUT" '^ik_llama.cpp +no mmap, fa on +1000 +100' "the trial's table"
expect_match "$OUT" 'in that order' "provenance"
order=$(grep -o 'round [0-9] of 2, [a-z_.]*' "$WORK/err" | cut -d' ' -f2,5 | tr '\n' ' ')
expect_equal "$order" "1 lode 1 ik_llama.cpp 2 lode 2 ik_llama.cpp " "programs in turns"

peers -m "$MODEL" -p 0 -n 4 -r 1 -t 1 --settings all --ik "$WORK/ik/bin" --json "$WORK/result"
expect_code 0 "all settings"
expect_equal "$(row setting decode 4 0 ik_llama.cpp)" "repack, fa on" "the best of all settings"
expect_match "$OUT" '^ik_llama.cpp +mmap, fa on +100' "the rounds' table"

peers -m "$MODEL" -p 0 -n 4 -r 1 -t 1 --settings "no mmap, fa on; another" --ik "$WORK/ik/bin" --json "$WORK/result"
expect_code 0 "a named setting"
expect_equal "$(row setting decode 4 0 ik_llama.cpp)" "no mmap, fa on" "the setting that was named"
expect_equal "$(row tok_s decode 4 0 ik_llama.cpp)" 100 "measured in it, not in the best"
peers -m "$MODEL" -p 0 -n 4 -r 1 -t 1 --settings "another" --ik "$WORK/ik/bin" --json "$WORK/result"
expect_code 2 "an unknown setting"
expect_match "$ERR" 'names none of ik_llama.cpp.s, which are: mmap, fa on; no mmap, fa on' "which there are"

peers -m "$MODEL" -p 1K -n 0 -d 0 -r 1 -t 1 --ik "$WORK/ik/bin" --lode-args=--bogus --json "$WORK/result"
expect_code 1 "a program that fails"
expect_match "$OUT" 'lode +failed: exit 2: .*bogus' "why it failed"
expect_match "$OUT" 'ik_llama.cpp +2000 .*repack, fa on, ub' "the other one goes on, with micro-batches told"

peers -m "$MODEL" -p 16 -n 4 -r 1 -t 1 --ik "$WORK/broken/bin" --json "$WORK/result"
expect_code 1 "a peer that fails"
expect_match "$OUT" 'ik_llama.cpp +failed: exit 3: no such architecture' "what it said"
expect_match "$(row tok_s decode 4 0 lode)" '^[0-9.e+]+$' "lode is measured all the same"

peers -m "$WORK/none.gguf" --ik "$WORK/ik/bin"
expect_code 2 "no model"
expect_match "$ERR" 'no model file' "no model"
peers -m "$MODEL" --ik "$WORK"
expect_code 2 "no llama-bench"
expect_match "$ERR" 'no llama-bench in' "no llama-bench"
peers -m "$MODEL" -p 5x
expect_code 2 "a malformed list"
peers -m "$MODEL" -p 0 -n 0
expect_code 2 "nothing to measure"
finish
