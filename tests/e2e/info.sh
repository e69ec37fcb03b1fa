#!/bin/bash
# `lode info`: the demo model's figures, as text and as JSON.
. "$(dirname "$0")/lib.sh"

lode info "$MODEL"
expect_code 0 "info"
expect_match "$OUT" '^parameters +17\.1 M' "parameters"
expect_match "$OUT" '^layers +8: 6 local \(window 128\), 2 global' "layers"
expect_match "$OUT" '^experts +32 a layer, 4 used, width 64' "experts"
expect_match "$OUT" '^vocabulary +4096$' "vocabulary"
expect_match "$OUT" '^context +512$' "context"
expect_match "$OUT" '^KV cache .* at 512$' "KV cache"
expect_match "$OUT" 'expert +256 ' "256 experts in the table of units"
text=$OUT

lode info -m "$MODEL"
expect_equal "$OUT" "$text" "-m"
lode info
expect_equal "$OUT" "$text" "the demo model"

lode info --tensors "$MODEL"
expect_match "$OUT" '^token_embd\.weight +Q[0-9A-Z_]+ +256 x 4096 ' "--tensors"
expect_match "$OUT" 'blk\.7\.' "--tensors, the last layer"

if have_json; then
    lode info --json "$MODEL"
    expect_code 0 "--json"
    expect_equal "$(json_get "$WORK/out" runnable)" true "--json"
    json_get "$WORK/out" shape >"$WORK/shape"
    expect_equal "$(json_get "$WORK/shape" n_layers)" 8 "n_layers"
    expect_equal "$(json_get "$WORK/shape" parameters)" 17057608 "parameters"
    expect_equal "$(json_get "$WORK/shape" n_experts)" 32 "n_experts"
    [ "$(json_get "$WORK/out" groups)" != absent ] || fail "--json lacks groups"
    expect_equal "$(json_get "$WORK/out" tensors)" absent "tensors only where asked for"
    lode info --json --tensors "$MODEL"
    [ "$(json_get "$WORK/out" tensors)" != absent ] || fail "--json --tensors lacks tensors"
fi
finish
