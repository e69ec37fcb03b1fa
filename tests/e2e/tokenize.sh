#!/bin/bash
# `lode tokenize`: to ids and back, records, special tokens, JSON.
. "$(dirname "$0")/lib.sh"

encode() { lode tokenize -m "$MODEL" "$@"; }
decode() { lode tokenize -m "$MODEL" --decode "$@"; }

encode <<<"The king had three daughters."
expect_code 0 "encode"
expect_match "$OUT" '^[0-9]+(,[0-9]+)*$' "one line of ids"
ids=$OUT
decode <<<"$ids"
expect_equal "$OUT" "The king had three daughters." "decode"
decode <<<"${ids//,/ }"
expect_equal "$OUT" "The king had three daughters." "decode, spaces"
decode <<<"${ids//,/$'\n'}"
expect_equal "$OUT" "The king had three daughters." "decode, newlines"
decode <<<"${ids//,/, }"
expect_equal "$OUT" "The king had three daughters." "decode, commas and spaces"

# Every byte survives: all 256 values, no newline at the end, zeros, half characters.
for i in $(seq 0 255); do printf "\\x$(printf %02x "$i")"; done >"$WORK/bytes"
head -c 5000 /dev/urandom >>"$WORK/bytes"
encode <"$WORK/bytes"
cp "$WORK/out" "$WORK/ids"
decode <"$WORK/ids"
cmp -s "$WORK/bytes" "$WORK/out" || fail "random bytes do not come back"

encode </dev/null
expect_equal "$(od -An -c "$WORK/out" | tr -d ' ')" '\n' "nothing gives an empty line"
decode </dev/null
expect_equal "$(wc -c <"$WORK/out")" 0 "no ids give no bytes"

# <bos> is 2, <|turn> 105, <turn|> 106.
encode --bos </dev/null
expect_equal "$OUT" 2 "--bos"
printf "<bos>" | encode --bos
expect_equal "$OUT" 2 "--bos, once"
printf '<|turn><turn|>' >"$WORK/turns"
encode <"$WORK/turns"
expect_equal "$OUT" "105,106" "special tokens"
encode --no-special <"$WORK/turns"
case ,$OUT, in *,105,* | *,106,*) fail "--no-special gave $OUT" ;; esac
decode <<<"$OUT"
expect_equal "$OUT" "<|turn><turn|>" "--no-special and back"
decode <<<"2,105,106"
expect_equal "$OUT" "" "control tokens are invisible"
decode --show-special <<<"2,105,106"
expect_equal "$OUT" "<bos><|turn><turn|>" "--show-special"

# Records: a line each; a separator at the end makes no further one.
printf 'one\036\036two\nlines' | encode --records
expect_equal "$(wc -l <"$WORK/out")" 3 "three records"
expect_equal "$(sed -n 2p "$WORK/out")" "" "an empty record"
cp "$WORK/out" "$WORK/three"
printf 'one\036\036two\nlines\036' | encode --records
cmp -s "$WORK/out" "$WORK/three" || fail "a trailing separator made a difference"
encode --records </dev/null
expect_equal "$(wc -c <"$WORK/out")" 0 "no records"
printf 'one' | encode
expect_equal "$OUT" "$(sed -n 1p "$WORK/three")" "a record is encoded like a text"
printf '\036' | encode --records
expect_equal "$(wc -l <"$WORK/out")" 1 "one empty record"

if have_json; then
    printf 'one' | encode --json
    expect_equal "$(json_get "$WORK/out" ids | tr -d '[] ')" "$(sed -n 1p "$WORK/three")" "--json"
    printf 'one\036\036' | encode --records --json
    expect_equal "$(json_get "$WORK/out" records | tr -d ' ')" "[[$(sed -n 1p "$WORK/three")],[]]" "--records --json"
    decode --json <<<"$ids"
    expect_equal "$(json_get "$WORK/out" text)" "The king had three daughters." "--decode --json"
fi

# A file with a vocabulary only, and the vectors of the real one, where they are there.
shared=${LODE_TEST_SHARED:-$SOURCE/../shared}/vocab
if [ -r "$shared/gemma4-vocab.gguf.zst" ] && command -v zstd >/dev/null; then
    zstd -qdc "$shared/gemma4-vocab.gguf.zst" >"$WORK/vocab.gguf"
    lode tokenize -m "$WORK/vocab.gguf" --records <"$shared/vectors.txt"
    expect_code 0 "a vocabulary-only file"
    cmp -s "$WORK/out" "$shared/vectors.ids" || fail "the vectors of the real vocabulary differ"
    lode info "$WORK/vocab.gguf"
    expect_code 0 "info of a vocabulary-only file"
    expect_match "$OUT" '^vocabulary +262144$' "info of a vocabulary-only file"
    expect_match "$ERR" 'no model' "info says what is missing"
    expect_refusal 1 "vocab.gguf" "run needs weights" run -m "$WORK/vocab.gguf" -p x
fi
finish
