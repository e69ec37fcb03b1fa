#!/bin/bash
# More threads than processors act, with a note; and the text stays the same.
. "$(dirname "$0")/lib.sh"

say() { lode run -m "$MODEL" -p "Once upon a time" -n 8 --temp 0 "$@"; }

allowed=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # knows the affinity
say -t 1
expect_code 0 "-t 1"
text=$OUT
[[ $ERR != *"take turns"* ]] || fail "a note for one thread: $ERR"
say
[[ $ERR != *"take turns"* ]] || fail "a note for the default: $ERR"
expect_equal "$OUT" "$text" "the default"

say -t $((allowed + 3))
expect_code 0 "more threads than processors"
expect_match "$ERR" "^lode run: $((allowed + 3)) threads on [0-9]+ processors? take turns; as many" "the note"
expect_match "$ERR" " $((allowed + 3)) threads, " "it acts all the same"
expect_equal "$OUT" "$text" "more threads than processors, the text"

if command -v taskset >/dev/null; then
    first=$(taskset -pc $$ | sed 's/.*: *\([0-9]*\).*/\1/')
    LODE_ALONE=$LODE
    LODE=$WORK/alone
    printf '#!/bin/sh\nexec taskset -c %s "%s" "$@"\n' "$first" "$LODE_ALONE" >"$LODE"
    chmod +x "$LODE"
    say -t 2
    expect_code 0 "two threads on one processor"
    expect_match "$ERR" "2 threads on 1 processor take turns; .*affinity" "the note of the affinity"
    expect_equal "$OUT" "$text" "two threads on one processor, the text"
    say
    expect_match "$ERR" " 1 threads?, " "the default on one processor"
    [[ $ERR != *"take turns"* ]] || fail "a note for the default on one processor: $ERR"
    LODE=$LODE_ALONE
fi
finish
