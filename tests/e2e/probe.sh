#!/bin/bash
# `lode probe`: measured, kept, shown, foreign, interrupted, forgotten.
. "$(dirname "$0")/lib.sh"
export XDG_CONFIG_HOME=$WORK/config
profile=$XDG_CONFIG_HOME/lode/machine.json
place=$(mktemp -d -p /var/tmp lode-probe-XXXXXX)
trap 'rm -rf "$WORK" "$place"' EXIT
[ "$(stat -f -c %T "$place")" != tmpfs ] || skip "/var/tmp is no drive"

# Before anything was measured.
expect_refusal 1 "nothing is kept yet; lode probe writes $profile" "--show of nothing" probe --show
lode probe --forget
expect_code 0 "--forget of nothing"
expect_match "$ERR" "nothing is kept in $profile" "--forget of nothing"

# Wrong questions.
expect_refusal 2 "contradict each other" "--quick --thorough" probe --quick --thorough
expect_refusal 2 "two drives" "--drive and -m" probe --drive . -m "$MODEL"
expect_refusal 2 "contradict each other" "--show --forget" probe --show --forget
expect_refusal 2 "measures nothing" "--show --quick" probe --show --quick
expect_refusal 2 "shows nothing" "--forget --json" probe --forget --json
expect_refusal 2 "needs a path" "an empty path" probe --drive ''
expect_refusal 1 "$place/absent.*No such file" "an absent drive" probe --drive "$place/absent"
expect_refusal 1 "cannot write .*$place/absent" "a profile that cannot be written" probe -o "$place/absent/pc.json"
[ ! -e "$XDG_CONFIG_HOME" ] || fail "a failed probe left something"

# Interrupted: nothing kept, nothing left.
"$LODE" probe --thorough --drive "$place" >"$WORK/out" 2>"$WORK/err" &
process=$!
sleep 1.5
expect_equal "$(find "$place" -mindepth 1)" "" "the file that is measured has no name"
kill -INT $process
wait $process
expect_equal $? 130 "interrupted"
expect_match "$(cat "$WORK/err")" "interrupted" "interrupted"
expect_equal "$(find "$place" -mindepth 1)" "" "after an interruption"
[ ! -e "$profile" ] || fail "an interrupted probe kept a profile"

# Measured.
begin=$(date +%s)
lode probe --quick --drive "$place"
expect_code 0 "--quick"
taken=$(($(date +%s) - begin))
[ "$taken" -le 30 ] || fail "--quick took $taken s" # 10 on a machine of its own
expect_match "$ERR" "written to $profile" "--quick"
expect_match "$OUT" "^measured .*, quick" "--quick: when"
for line in "  read  " "  Q4_0  " "  Q6_K  " "  BF16  " "  decode GB/s " "  prefill GFLOP/s " "  direct  " "  buffered  "; do
    expect_match "$OUT" "^$line.* [0-9.]+K?: [0-9.]+" "--quick: $line"
done
expect_match "$OUT" "^drive +[^ ]" "--quick: the drive"
expect_equal "$(find "$place" -mindepth 1)" "" "after a measurement"
table=$OUT
[ -f "$profile" ] || fail "no profile was kept"

lode probe --show
expect_code 0 "--show"
expect_equal "$OUT" "$table" "--show prints what was measured"
expect_match "$ERR" "is of this machine" "--show"
lode probe --show --json
expect_equal "$OUT" "$(cat "$profile")" "--show --json"
if have_json; then
    expect_equal "$(json_get "$profile" origin)" measured "origin"
    expect_equal "$(json_get "$profile" mode)" quick "mode"
    expect_match "$(json_get "$profile" fingerprint)" '^[0-9a-f]{16}$' "fingerprint"
fi

# Of another machine, and damaged.
sed 's/"fingerprint": *"[0-9a-f]*"/"fingerprint": "0123456789abcdef"/' "$profile" >"$WORK/foreign.json"
lode probe --show -o "$WORK/foreign.json"
expect_code 0 "a foreign profile"
expect_match "$ERR" "is of another machine" "a foreign profile"
head -c 200 "$profile" >"$WORK/half.json"
expect_refusal 1 "half.json" "a damaged profile" probe --show -o "$WORK/half.json"

lode probe --forget
expect_code 0 "--forget"
expect_equal "$OUT" "removed $profile" "--forget"
[ ! -e "$profile" ] || fail "--forget left the profile"

# Where it is kept.
XDG_CONFIG_HOME=relative lode probe --show
expect_match "$ERR" "writes $HOME/.config/lode/machine.json" "a relative XDG_CONFIG_HOME is ignored"
(
    unset XDG_CONFIG_HOME
    HOME=nowhere
    expect_refusal 1 "neither XDG_CONFIG_HOME nor HOME is an absolute path" "no absolute folder" probe --quick
    [ "$failures" = 0 ]
) || failures=$((failures + 1))
finish
