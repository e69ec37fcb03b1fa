#!/bin/bash
# `lode chat`: turns from a pipe, commands, a full context, and line editing on a terminal.
. "$(dirname "$0")/lib.sh"

chat() { lode chat -m "$MODEL" -t 1 --temp 0 -n 12 "$@"; }

printf 'Tell me a story.\nGo on.\n' | chat
expect_code 0 "two turns"
[ "$(wc -l <"$WORK/out")" -ge 2 ] || fail "two turns gave '$OUT'"
two=$OUT
printf 'Tell me a story.\nGo on.\n' | chat
expect_equal "$OUT" "$two" "two turns once more"

# The session is rewound, not started afresh: both ways to the second answer give the same text.
printf 'Tell me a story.\n' | chat
first=$OUT
case $two in "$first"*) ;; *) fail "the first answer depends on the second question" ;; esac
printf 'What is your name?\n/clear\nTell me a story.\n' | chat
expect_match "$OUT" "$(printf '%s' "$first" | tail -n 1 | head -c 20)" "/clear forgets"

# Turns of several lines, commands, saving.
printf '"""\none\ntwo\n"""\n/stats\nthree\\\nfour\n/system Be kind.\n/save %s\n/quit\nnever\n' "$WORK/saved" | chat
expect_code 0 "commands"
expect_match "$ERR" '2 turns, [0-9]+ of 512 tokens|1 turns, [0-9]+ of 512 tokens' "/stats"
if have_json; then
    expect_equal "$(json_get "$WORK/saved" messages | tr -d ' \n' | grep -o '"role"' | wc -l)" 5 "/save, five messages"
    grep -q 'one\\ntwo' "$WORK/saved" || fail "a block in quotes is not one turn: $(cat "$WORK/saved")"
    grep -q 'three\\nfour' "$WORK/saved" || fail "a trailing backslash does not continue"
    grep -q 'Be kind' "$WORK/saved" || fail "/system is not saved"
    grep -q 'never' "$WORK/saved" && fail "/quit did not leave"
fi
printf '/think maybe\n' | chat
expect_code 1 "/think maybe"
expect_match "$ERR" 'takes on or off' "/think maybe"
printf '/sav x\n' | chat
expect_match "$ERR" 'did you mean /save' "a misspelt command"
printf '/think on\nHello\n/think off\nHello\n' | chat
expect_code 0 "/think"
printf '' | chat
expect_code 0 "no turns"
expect_equal "$OUT" "" "no turns"

# A full context: said, with the way out; or the oldest turns go.
for i in 1 2 3 4 5 6; do echo "Tell me a long story about the sea, number $i."; done >"$WORK/turns"
chat -c 96 <"$WORK/turns"
expect_code 1 "a full context"
expect_match "$ERR" 'the context holds 96; .*/clear' "a full context"
chat -c 96 --drop-oldest <"$WORK/turns"
expect_code 0 "--drop-oldest"
expect_match "$ERR" 'oldest turns are forgotten' "--drop-oldest"

# On a terminal: editing, Ctrl-C, the history file.
command -v python3 >/dev/null || { echo "note: no python3; the terminal is not checked"; finish; }
python3 -c 'import pty; pty.openpty()' 2>/dev/null || { echo "note: no pseudo-terminals; the terminal is not checked"; finish; }
cat >"$WORK/terminal.py" <<'PYTHON'
import os, pty, select, signal, sys, time

signal.alarm(100)

seen = b""

def expect(fd, wanted, seconds=50):
    global seen
    end = time.time() + seconds
    while wanted not in seen:
        if time.time() > end:
            sys.exit("no %r in %r" % (wanted, seen[-400:]))
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:
                data = b""
            if not data:
                sys.exit("the end before %r: %r" % (wanted, seen[-400:]))
            seen += data
    seen = seen[seen.index(wanted) + len(wanted):]

pid, fd = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[1], sys.argv[1:])
expect(fd, b"> ")
os.write(fd, b"Hellp\x7fo\n")            # backspace edits
expect(fd, b"(-n)")
expect(fd, b"> ")
os.write(fd, b"\x03")                    # Ctrl-C at an empty prompt
expect(fd, b"/quit leaves")
expect(fd, b"> ")
os.write(fd, b"/stats\n")
expect(fd, b"1 turns")
expect(fd, b"> ")
if os.environ.get("LEAVE") == "SIGTERM":
    os.kill(pid, signal.SIGTERM)
else:
    os.write(fd, b"\x04")                # Ctrl-D leaves
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
PYTHON
reason=$(python3 "$WORK/terminal.py" "$LODE" chat -m "$MODEL" -t 1 -n 8 --temp 0 --logit-bias 106=-inf --logit-bias 1=-inf 2>&1) ||
    fail "on a terminal: $reason"
grep -q 'Hello' "$XDG_STATE_HOME/lode/history" || fail "the history was not written"
expect_equal "$(stat -c %a "$XDG_STATE_HOME/lode/history")" 600 "the history is private"
# SIGTERM at the prompt leaves too, and the history is kept.
rm "$XDG_STATE_HOME/lode/history"
reason=$(LEAVE=SIGTERM python3 "$WORK/terminal.py" "$LODE" chat -m "$MODEL" -t 1 -n 8 --temp 0 --logit-bias 106=-inf \
    --logit-bias 1=-inf 2>&1)
CODE=$?
[ "$CODE" = 143 ] || fail "SIGTERM on a terminal: exit $CODE instead of 143: $reason"
grep -q 'Hello' "$XDG_STATE_HOME/lode/history" || fail "the history was not written after SIGTERM"
# A history that cannot be written is a note.
echo >"$WORK/file"
reason=$(XDG_STATE_HOME=$WORK/file python3 "$WORK/terminal.py" "$LODE" chat -m "$MODEL" -t 1 -n 8 --temp 0 \
    --logit-bias 106=-inf --logit-bias 1=-inf 2>&1) || fail "without a history: $reason"
finish
