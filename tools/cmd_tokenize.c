// `lode tokenize`: stdin to token ids, and ids back to bytes. Needs the tokenizer section of a model file
// only.
#include "tools/command.h"
#include "tools/ids.h"
#include "tools/interrupt.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"
#include "tools/text.h"

#include <stdlib.h>
#include <string.h>

static const char command[] = "lode tokenize";
enum { RECORD_SEPARATOR = 0x1e };

static const char usage[] =
    "Usage: lode tokenize [-m FILE] [OPTION]...      (reads stdin)\n"
    "\n"
    "Turns bytes into token ids, one line such as 1,2,3, or ids back into bytes. Every byte of stdin\n"
    "counts, the last newline too. The file may hold nothing but a vocabulary.\n"
    "\n"
    "  -m, --model FILE   the GGUF file whose tokenizer is used\n"
    "  --bos              <bos> in front\n"
    "  --no-special       special tokens in the text are plain text\n"
    "  --records          stdin holds records that end in the byte 0x1E; one line of ids for each\n"
    "  --decode           ids, separated by commas, spaces or newlines, to bytes\n"
    "  --show-special     with --decode: control tokens appear as text\n"
    "  --json             ids (or the decoded text) as a JSON object\n"
    "\n"
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted, 143 terminated.\n"
    "\n"
    "Examples:\n"
    "  printf 'Hello world' | lode tokenize -m gemma-4-E2B-it-Q4_0.gguf\n"
    "  printf 'Hello world' | lode tokenize | lode tokenize --decode\n";

struct tokenize {
    struct model_options model;
    bool bos, no_special, records, decode, show_special, json;
    struct lode_tokenizer *tokenizer;
    struct text input;
    json_t *lines; // with --json: an array of arrays of ids
};

static const char *contradiction(const struct tokenize *job)
{
    if (job->decode && job->records)
        return "--records goes with text, not with --decode";
    if (job->decode && job->bos)
        return "--bos goes with text, not with --decode";
    if (job->decode && job->no_special)
        return "--no-special goes with text, not with --decode";
    if (job->show_special && !job->decode)
        return "--show-special goes with --decode";
    return NULL;
}

static bool parse(struct tokenize *job, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        OPTION_IS_TEXT("model", 'm', &job->model.path),
        OPTION_IS_FLAG("bos", 0, &job->bos),
        OPTION_IS_FLAG("no-special", 0, &job->no_special),
        OPTION_IS_FLAG("records", 0, &job->records),
        OPTION_IS_FLAG("decode", 'd', &job->decode),
        OPTION_IS_FLAG("show-special", 0, &job->show_special),
        OPTION_IS_FLAG("json", 0, &job->json),
    };
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    const char *wrong = contradiction(job);
    if (!wrong)
        return true;
    *exit_code = message_usage(command, "%s", wrong);
    return false;
}

static int encode_line(struct tokenize *job, const char *text, size_t len, struct lode_error *error)
{
    unsigned flags = (job->no_special ? 0 : LODE_ENCODE_SPECIAL) | (job->bos ? LODE_ENCODE_BOS : 0);
    int32_t *ids = NULL;
    size_t count = 0;
    int code = lode_encode(job->tokenizer, text, len, flags, &ids, &count, error);
    if (code)
        return code;
    if (job->json)
        json_array_append_new(job->lines, ids_json(ids, count));
    else
        ids_print(stdout, ids, count);
    free(ids);
    return LODE_OK;
}

// A separator ends a record, so one at the very end starts no further record.
static int encode_records(struct tokenize *job, struct lode_error *error)
{
    const char *at = job->input.bytes, *end = at + job->input.len;
    while (at < end) {
        const char *stop = memchr(at, RECORD_SEPARATOR, (size_t)(end - at));
        if (!stop)
            stop = end;
        int code = encode_line(job, at, (size_t)(stop - at), error);
        if (code)
            return code;
        at = stop + 1;
    }
    return LODE_OK;
}

static int encode(struct tokenize *job, struct lode_error *error)
{
    job->lines = job->json ? json_array() : NULL;
    int code =
        job->records ? encode_records(job, error) : encode_line(job, job->input.bytes, job->input.len, error);
    if (code || !job->json)
        return code;
    json_t *ids = job->records ? json_incref(job->lines) : json_incref(json_array_get(job->lines, 0));
    json_out_print(stdout, json_pack("{s:o}", job->records ? "records" : "ids", ids));
    return LODE_OK;
}

static int decode_ids(struct tokenize *job, const int32_t *ids, size_t count, struct lode_error *error)
{
    struct text decoded = {0};
    for (size_t i = 0; i < count; i++) {
        size_t len;
        const char *piece = lode_piece(job->tokenizer, ids[i], job->show_special, &len);
        if (!job->json && len)
            fwrite(piece, 1, len, stdout);
        else if (job->json && !text_append(&decoded, piece, len))
            return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the decoded text");
    }
    if (job->json)
        json_out_print(stdout, json_pack("{s:o}", "text", json_out_text(decoded.bytes, decoded.len)));
    text_free(&decoded);
    return LODE_OK;
}

static int decode(struct tokenize *job, struct lode_error *error)
{
    int32_t *ids = NULL;
    size_t count = 0;
    int code = ids_parse(&ids, &count, &job->input, lode_vocab_size(job->tokenizer), error);
    if (!code)
        code = decode_ids(job, ids, count, error);
    free(ids);
    return code;
}

static int execute(struct tokenize *job)
{
    interrupt_watch(true);
    int code = model_find(&job->model, command);
    if (code)
        return code;
    struct lode_error error = {0};
    code = lode_tokenizer_open(&job->tokenizer, job->model.path, &error);
    if (!code)
        code = text_read(&job->input, "-", &error);
    if (!code)
        code = job->decode ? decode(job, &error) : encode(job, &error);
    return code ? message_failed(command, &error) : EXIT_OK;
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize job = {0};
    int code;
    if (parse(&job, argc, argv, &code))
        code = execute(&job);
    json_decref(job.lines);
    lode_tokenizer_close(job.tokenizer);
    text_free(&job.input);
    return code;
}
