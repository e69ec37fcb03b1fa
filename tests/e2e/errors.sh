#!/bin/bash
# Wrong input of every kind: exit codes, and messages that say what to do.
. "$(dirname "$0")/lib.sh"

# The command line.
expect_refusal 2 "must be a whole number between 1 and" "-n 0" run -p x -n 0
expect_refusal 2 "must be a whole number between 1 and" "-n -1" run -p x -n -1
expect_refusal 2 "must be a whole number" "-n with rubbish behind" run -p x -n 5x
expect_refusal 2 "must be a whole number" "-n beyond 32 bits" run -p x -n 99999999999999999999
expect_refusal 2 "must be a number between 0 and 1" "--top-p 2" run -p x --top-p 2
expect_refusal 2 "must be a number between" "--temp nan" run -p x --temp nan
expect_refusal 2 "must be a number between" "--temp -1" run -p x --temp -1
expect_refusal 2 "must be one of f16, q8_0, f32" "--kv f8" run -p x --kv f8
expect_refusal 2 "must be one of auto" "--isa mmx" run -p x --isa mmx
expect_refusal 2 "must be a whole number between 0" "--seed -1" run -p x --seed -1
expect_refusal 2 "must be ID=VALUE" "--logit-bias 5" run -p x --logit-bias 5
expect_refusal 2 "'tpu0': .*is no device" "--devices tpu0" run -p x --devices tpu0
expect_refusal 2 "simt0 is named twice" "--devices with one twice" run -p x --devices simt0,cpu,simt0
expect_refusal 2 "simt0.*memory" "--devices with a size that is none" run -p x --devices simt0:memory=much
expect_refusal 2 "must be at least 1M" "--vram 0" run -p x --vram 0
expect_refusal 2 "must be auto or a size" "--vram much" run -p x --vram much
expect_refusal 2 "must be one of auto, by-layer" "--placement nonsense" run -p x --placement nonsense
expect_refusal 2 "needs a value" "-p without a value" run -p
expect_refusal 2 "needs a value" "--temp without a value" run --temp
expect_refusal 2 "takes no value" "--json=1" run -p x --json=1
expect_refusal 2 "one argument too many" "an argument too many" run -p x y
expect_refusal 2 "one argument too many" "-- ends the options" run -p x -- -n
expect_refusal 2 "unknown option '-x'" "an unknown letter" run -x
expect_refusal 2 "did you mean '--temp'" "a misspelt option" run -p x --tmep 0
expect_refusal 2 "Try 'lode run --help'" "where the help is" run --tmep 0

# Contradictions.
expect_refusal 2 "two prompts" "-p with -f" run -p x -f y
expect_refusal 2 "goes with --chat" "--think without --chat" run -p x --think
expect_refusal 2 "goes with --chat" "--system without --chat" run -p x --system y
expect_refusal 2 "does not go with --chat" "--no-bos with --chat" run -p x --chat --no-bos
expect_refusal 2 "goes with --decode" "--show-special without --decode" tokenize --show-special
expect_refusal 2 "not with --decode" "--records with --decode" tokenize --decode --records
expect_refusal 2 "nothing to evaluate" "eval of nothing" eval
expect_refusal 2 "two measurements" "eval of both" eval -f x --tokens y
expect_refusal 2 "go with --tokens" "--logits with -f" eval -f x --logits y
expect_refusal 2 "needs --logits" "--tokens without a purpose" eval --tokens x
expect_refusal 2 "two files" "info of two files" info -m x y
expect_refusal 2 "is empty" "an empty name" run -m "" -p x

# Models.
expect_refusal 1 "absent.gguf.*No such file" "no such model" run -m "$WORK/absent.gguf" -p x
expect_refusal 1 "absent.gguf.*No such file" "no such model, info" info "$WORK/absent.gguf"
expect_refusal 1 "absent.gguf.*No such file" "no such model, tokenize" tokenize -m "$WORK/absent.gguf" </dev/null
expect_refusal 1 "absent.gguf.*No such file" "no such model, chat" chat -m "$WORK/absent.gguf" </dev/null
echo "this is no model" >"$WORK/text.gguf"
expect_refusal 1 "GGUF" "not a GGUF" run -m "$WORK/text.gguf" -p x
expect_refusal 1 "GGUF" "not a GGUF, info" info "$WORK/text.gguf"
expect_refusal 1 "GGUF" "not a GGUF, tokenize" tokenize -m "$WORK/text.gguf" </dev/null
: >"$WORK/empty.gguf"
expect_refusal 1 "empty.gguf" "an empty file" run -m "$WORK/empty.gguf" -p x
head -c 100000 "$MODEL" >"$WORK/short.gguf"
expect_refusal 1 "short.gguf" "a truncated model" run -m "$WORK/short.gguf" -p x
head -c 9000000 "$MODEL" >"$WORK/short2.gguf"
expect_refusal 1 "short2.gguf" "a model truncated in its weights" run -m "$WORK/short2.gguf" -p x
expect_refusal 1 "directory|regular file" "a directory as model" run -m "$WORK" -p x

# Prompts.
expect_refusal 1 "absent.txt: No such file" "no such prompt" run -m "$MODEL" -f "$WORK/absent.txt"
expect_refusal 1 "directory" "a directory as prompt" run -m "$MODEL" -f "$WORK"
if [ "$(id -u)" != 0 ]; then
    echo secret >"$WORK/secret"
    chmod 0 "$WORK/secret"
    expect_refusal 1 "Permission denied" "an unreadable prompt" run -m "$MODEL" -f "$WORK/secret"
fi
for i in $(seq 200); do printf 'word%d and ' "$i"; done >"$WORK/long"
expect_refusal 1 "the prompt has [0-9]+ tokens, the model's context is limited to 512" "a prompt beyond the model" \
    run -m "$MODEL" -f "$WORK/long" -n 5
expect_refusal 1 "the prompt has [0-9]+ tokens, the context 16; .*raise -c" "a prompt beyond -c" \
    run -m "$MODEL" -p "a prompt that does not fit into sixteen tokens, however short they may be cut" -c 16
expect_refusal 1 "512" "a context beyond the model" run -m "$MODEL" -p x -c 8K
expect_refusal 1 "empty" "nothing to start from" run -m "$MODEL" -p "" --no-bos
expect_refusal 1 "99999" "a bias of a token that does not exist" run -m "$MODEL" -p x -n 1 --logit-bias 99999=1

# Files to write.
expect_refusal 1 "cannot write .*absent/stats" "statistics into nowhere" run -m "$MODEL" -p x --stats "$WORK/absent/stats"
expect_refusal 1 "cannot write .*absent/t.json" "a timeline into nowhere" run -m "$MODEL" -p x --timeline "$WORK/absent/t.json"

# Lists of ids.
printf '1,2,x' >"$WORK/ids"
expect_refusal 1 "id 3 of the list, 'x', is not a whole number" "a word among ids" tokenize -m "$MODEL" --decode <"$WORK/ids"
printf '4096' >"$WORK/ids"
expect_refusal 1 "4096, is outside the vocabulary of 4096" "an id beyond the vocabulary" tokenize -m "$MODEL" --decode <"$WORK/ids"
printf -- '-1' >"$WORK/ids"
expect_refusal 1 "not a whole number" "a negative id" tokenize -m "$MODEL" --decode <"$WORK/ids"
printf '99999999999999999999999' >"$WORK/ids"
expect_refusal 1 "outside the vocabulary" "an id beyond 64 bits" eval -m "$MODEL" --tokens "$WORK/ids" --logits "$WORK/l"
printf ' \n' >"$WORK/ids"
expect_refusal 1 "holds no token ids" "no ids" eval -m "$MODEL" --tokens "$WORK/ids" --logits "$WORK/l"

finish
