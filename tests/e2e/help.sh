#!/bin/bash
# Help, version, the way into the subcommands, and that help, man page and parser know the same options.
. "$(dirname "$0")/lib.sh"

lode --version
expect_code 0 "--version"
expect_match "$OUT" '^lode [0-9]+\.[0-9]+' "--version"

lode --help
expect_code 0 "--help"
for sub in run chat info tokenize eval; do
    expect_match "$OUT" "^  $sub " "--help names $sub"
done
subcommands=$(printf '%s\n' "$OUT" | sed -n 's/^  \([a-z]*\)   .*/\1/p')

lode
expect_code 2 "no subcommand"
expect_equal "$OUT" "" "no subcommand, stdout"
expect_match "$ERR" '^Usage:' "no subcommand"

expect_refusal 2 "did you mean 'tokenize'" "a misspelt subcommand" tokenise
expect_refusal 2 "unknown subcommand" "no subcommand at all" xyzzy
expect_refusal 2 "unknown subcommand" "help of nothing" help xyzzy
expect_refusal 2 "options follow the subcommand" "an option in front" --temp 0 run

for sub in $subcommands; do
    lode "$sub" --help
    expect_code 0 "$sub --help"
    help=$OUT
    lode help "$sub"
    expect_equal "$OUT" "$help" "help $sub and $sub --help"
    [ "$(printf '%s\n' "$help" | wc -l)" -le 24 ] || fail "$sub --help is longer than a screen"
    [ "$(printf '%s\n' "$help" | awk '{ if (length > max) max = length } END { print max }')" -le 100 ] ||
        fail "$sub --help is wider than 100 columns"
    expect_match "$help" "^Exit: 0 done" "$sub --help tells the exit codes"
    expect_match "$help" "^Examples?:" "$sub --help has examples"

    expect_refusal 2 "unknown option '--bogus-thing'" "$sub, unknown option" "$sub" --bogus-thing
    option=$(printf '%s\n' "$help" | grep -Eo -- '--[a-z][a-z-]+' | head -n 1)
    expect_refusal 2 "did you mean '$option'" "$sub, misspelt option" "$sub" "${option}x"

    # What the help names, the parser knows and the man page explains.
    for option in $(printf '%s\n' "$help" | grep -v '^  lode' | grep -Eo -- '--[a-z][a-z-]+' | sort -u); do
        [ "$option" = --help ] && continue
        lode "$sub" "$option" --bogus-thing --bogus-thing # the parser answers, nothing is run
        case $ERR in *"unknown option '$option'"*) fail "$sub --help names $option, but the parser does not know it" ;; esac
        grep -q -- "${option//-/\\\\-}" "$SOURCE/docs/man/lode.1" || fail "lode.1 does not explain $option"
    done </dev/null
done

# What the parser knows, a help page names.
for file in "$SOURCE"/tools/*.[ch]; do
    sub=$(basename "$file" | sed -n 's/^cmd_\(.*\)\.c$/\1/p')
    [ -z "$sub" ] || grep -qx "$sub" <<<"$subcommands" || continue # not in this program
    sed -n 's/.*OPTION_IS_[A-Z]*("\([a-z-]*\)".*/\1/p; s/.*{\.name = "\([a-z-]*\)".*/\1/p' "$file"
done | sort -u >"$WORK/known"
for sub in $subcommands; do "$LODE" help "$sub"; done >"$WORK/pages"
while read -r option; do
    grep -q -- "--$option" "$WORK/pages" || fail "no help page names --$option"
done <"$WORK/known"
[ "$(wc -l <"$WORK/known")" -gt 20 ] || fail "the options were not found in the sources"

finish
