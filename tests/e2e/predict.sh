#!/bin/bash
# `bench/predict`: predictions beside measurements, the errors summed up; what fails is told.
. "$(dirname "$0")/lib.sh"
command -v python3 >/dev/null || skip "no python3"

timeout 120 "$SOURCE/bench/predict" --lode "$LODE" -m "$MODEL" --machine ram=16G@40,cores=2,drive=2 -t 1 -n 4 -r 1 \
    --json "$WORK/predict.json" >"$WORK/out" 2>"$WORK/err"
CODE=$?
OUT=$(cat "$WORK/out")
ERR=$(cat "$WORK/err")
expect_code 0 "the demo model"
expect_match "$OUT" "tiny-moe-q4_0.gguf +decode +.* auto +1 +0 +[0-9.]+ +[0-9.]+ - [0-9.]+ +[0-9.]+ +[+-][0-9]+%" "decode"
expect_match "$OUT" "^decode: [1-3] settings, median error [0-9]+% \(wanted: 10%\), worst [0-9]+%" "the errors"
[ -s "$WORK/predict.json" ] || fail "no JSON"

timeout 60 "$SOURCE/bench/predict" --lode "$LODE" -m "$WORK/absent.gguf" --machine ram=16G@40 >"$WORK/out" 2>"$WORK/err"
CODE=$?
expect_code 2 "a model that is not there"
expect_match "$(cat "$WORK/err")" "absent.gguf" "what failed"
finish
