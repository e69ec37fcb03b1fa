#!/bin/bash
# Closed and full outputs, readers that leave, Ctrl-C and SIGTERM.
. "$(dirname "$0")/lib.sh"

run_story() { "$LODE" run -m "$MODEL" -p "Once upon a time" -t 1 --temp 0 "$@"; }

for what in "--version" "help run" "info $MODEL" "run -m $MODEL -t 1 -p x -n 4" "run -m $MODEL -t 1 -p x -n 4 --json"; do
    # shellcheck disable=SC2086
    timeout 20 "$LODE" $what >&- 2>"$WORK/err"
    CODE=$?
    expect_code 1 "stdout closed: $what"
    grep -q 'cannot write the output' "$WORK/err" || fail "stdout closed: $what says nothing"
    [ -w /dev/full ] || continue
    # shellcheck disable=SC2086
    timeout 20 "$LODE" $what >/dev/full 2>"$WORK/err"
    CODE=$?
    expect_code 1 "full disk: $what"
    expect_equal "$(grep -c 'cannot write the output' "$WORK/err")" 1 "full disk is told once: $what"
done
echo 1,2,3 | "$LODE" tokenize -m "$MODEL" --decode --show-special >/dev/full 2>/dev/null && fail "decode into a full disk"

# The statistics must not land in the text's place, nor the other way round.
run_story -n 4 --stats "$WORK/stats" >&- 2>/dev/null
grep -q '"stop"' "$WORK/stats" || fail "no statistics with a closed stdout"
"$LODE" tokenize -m "$MODEL" <&- >"$WORK/out" 2>"$WORK/err" && fail "stdin closed"
grep -q 'cannot read stdin' "$WORK/err" || fail "a closed stdin is not told"

# A reader that leaves.
run_story -n 400 --ignore-eos 2>"$WORK/err" | head -c 10 >"$WORK/out"
status=("${PIPESTATUS[@]}")
expect_equal "$(wc -c <"$WORK/out")" 10 "ten bytes"
expect_equal "${status[0]}" 141 "SIGPIPE"
grep -qi 'error\|cannot' "$WORK/err" && fail "SIGPIPE is not quiet: $(cat "$WORK/err")"

# Ctrl-C: the text so far, the last line, 130. Background jobs of a script ignore SIGINT, hence the python.
if command -v python3 >/dev/null; then
    cat >"$WORK/interrupt.py" <<'PYTHON'
import signal, subprocess, sys
out = open(sys.argv[1], "wb")
err = open(sys.argv[2], "wb")
child = subprocess.Popen(sys.argv[4:], stdout=subprocess.PIPE, stderr=err, stdin=subprocess.DEVNULL,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
out.write(child.stdout.read(8))
child.send_signal(getattr(signal, sys.argv[3]))
out.write(child.stdout.read())
sys.exit(child.wait())
PYTHON
    for case in "SIGINT 130" "SIGTERM 143"; do
        name=${case% *}
        rm -f "$WORK/stats"
        python3 "$WORK/interrupt.py" "$WORK/out" "$WORK/err" "$name" "$LODE" run -m "$MODEL" -t 1 -p "Once" -n 500 \
            --ignore-eos --stats "$WORK/stats"
        CODE=$?
        expect_code "${case#* }" "$name during decode"
        grep -q 'interrupted$' "$WORK/err" || fail "$name: the last line is missing: $(cat "$WORK/err")"
        grep -q '"stop": "interrupted"' "$WORK/stats" || fail "$name: the statistics are missing"
        [ "$(wc -c <"$WORK/out")" -ge 8 ] || fail "$name: the text is missing"
    done
else
    echo "note: no python3; signals are not checked"
fi
finish
