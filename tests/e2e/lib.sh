# shellcheck shell=bash
# Helper of the end-to-end scripts. They take LODE (the program) and SOURCE (the project) from the environment,
# print one line for each failed expectation and end with `finish`. Exit 77: skipped, with the reason.
set -u
shopt -s lastpipe # so that `… | lode` sets CODE, OUT and ERR here
: "${LODE:?path of the lode program}" "${SOURCE:?root of the project}"
LODE=$(realpath "$LODE")
MODEL=$SOURCE/models/tiny-moe-q4_0.gguf
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
unset LODE_MODEL
export HOME=$WORK XDG_STATE_HOME=$WORK/state XDG_CACHE_HOME=$WORK/cache XDG_CONFIG_HOME=$WORK/config LC_ALL=C.UTF-8
failures=0

skip() {
    echo "skipped: $*"
    exit 77
}

[ -x "$LODE" ] || skip "no program at $LODE"
[ -r "$MODEL" ] || skip "the demo model is not there: $MODEL"

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# Runs lode; afterwards $CODE, $OUT and $ERR tell what came of it. Stdin is the caller's.
lode() {
    timeout 60 "$LODE" "$@" >"$WORK/out" 2>"$WORK/err"
    CODE=$?
    OUT=$(tr -d '\0' <"$WORK/out")
    ERR=$(tr -d '\0' <"$WORK/err")
}

expect_code() { # CODE WHAT
    [ "$CODE" = "$1" ] || fail "$2: exit $CODE instead of $1; stderr: $(head -c 300 "$WORK/err")"
}

expect_equal() { # GOT WANTED WHAT
    [ "$1" = "$2" ] || fail "$3: '$(printf %s "$1" | head -c 200)' instead of '$(printf %s "$2" | head -c 200)'"
}

expect_match() { # TEXT EXTENDED-REGEX WHAT
    printf '%s\n' "$1" | grep -Eq -- "$2" || fail "$3: no /$2/ in '$(printf %s "$1" | head -c 300)'"
}

# Runs lode with the arguments after the first three and expects a code and a message, and an empty stdout.
expect_refusal() { # CODE REGEX WHAT ARGUMENT...
    local code=$1 regex=$2 what=$3
    shift 3
    lode "$@"
    expect_code "$code" "$what"
    expect_match "$ERR" "$regex" "$what"
    expect_equal "$OUT" "" "$what, stdout"
}

# The value of a key of the JSON object in a file, by jq or python3.
json_get() { # FILE KEY
    if command -v jq >/dev/null; then
        jq -r --arg key "$2" 'if has($key) then .[$key] | tostring else "absent" end' "$1"
    else
        python3 -c 'import json,sys; v=json.load(open(sys.argv[1])).get(sys.argv[2],"absent"); print(v if isinstance(v,str) else json.dumps(v))' "$1" "$2"
    fi
}

have_json() {
    command -v jq >/dev/null || command -v python3 >/dev/null
}

finish() {
    [ "$failures" = 0 ] || { echo "$failures expectation(s) failed"; exit 1; }
    exit 0
}
