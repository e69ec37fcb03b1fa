// `lode eval`: how good a model is on a text (perplexity), and how near its logits are to a reference.
#include "tools/command.h"
#include "tools/divergence.h"
#include "tools/ids.h"
#include "tools/interrupt.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/model_plan.h"
#include "tools/options.h"
#include "tools/perplexity.h"
#include "tools/progress.h"
#include "tools/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "lode eval";
enum { DEFAULT_CHUNK = 512, DEFAULT_BATCH = 512, LOGITS_STEP_BYTES = 64 << 20 };

static const char usage[] =
    "Usage: lode eval [MODEL] -f TEXT [-c N] [--chunks N]\n"
    "       lode eval [MODEL] --tokens IDS [--logits OUT] [--compare REF]\n"
    "\n"
    "The first form prints the perplexity of a text and its standard error, as llama-perplexity\n"
    "defines them. The second computes the logits of every token of a list, float32 [n][vocab],\n"
    "writes them, and compares them with a reference: KL(REF || ours), differences, agreement.\n"
    "\n"
    "  -f, --file TEXT     the text; - is stdin\n"
    "  -c, --context N     tokens of a chunk (512); with --tokens the context (what the ids need)\n"
    "  --chunks N          only the first N chunks\n"
    "  --tokens IDS        file of token ids separated by commas, spaces or newlines\n"
    "  --logits OUT        file to write the logits to\n"
    "  --compare REF       file of reference logits\n"
    "  --json              one JSON object;  -m, --model FILE  the same as MODEL\n" MODEL_PLAN_USAGE
        ROUTING_USAGE MODEL_GPU_USAGE MODEL_USAGE
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted, 143 terminated.\n"
    "Examples:\n"
    "  lode eval m.gguf -f wiki.test.raw --chunks 20\n"
    "  lode eval m-q4_0.gguf --tokens ids.txt --kv f32 --compare m-f32.logits\n";

struct eval {
    struct model_options model;
    struct model_plan plan;
    const char *text_path, *tokens_path, *logits_path, *compare_path;
    uint32_t max_chunks;
    bool json;

    struct lode_engine *engine;
    struct lode_session *session;
    struct text input;
    int32_t *ids;
    size_t n_ids;
    FILE *logits_file;
    struct divergence_meter meter;
    float *logits;
};

// ---- the command line
// ----------------------------------------------------------------------------------------

static const char *contradiction(const struct eval *eval)
{
    if (eval->text_path && eval->tokens_path)
        return "-f and --tokens are two measurements; give one of them";
    if (!eval->text_path && !eval->tokens_path)
        return "nothing to evaluate: give -f TEXT or --tokens IDS";
    if (eval->text_path && (eval->logits_path || eval->compare_path))
        return "--logits and --compare go with --tokens";
    if (eval->tokens_path && eval->max_chunks)
        return "--chunks goes with -f";
    if (eval->tokens_path && !eval->logits_path && !eval->compare_path)
        return "--tokens needs --logits OUT, --compare REF or both";
    if (eval->text_path && eval->model.context && eval->model.context < 4)
        return "-c must be 4 or more: half a chunk is scored";
    return NULL;
}

static bool parse(struct eval *eval, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        MODEL_OPTIONS(eval->model),
        SESSION_OPTIONS(eval->model),
        ROUTING_OPTIONS(eval->model),
        MODEL_PLAN_OPTION(eval->plan),
        MODEL_GPU_OPTIONS(eval->model.gpus),
        OPTION_IS_TEXT("file", 'f', &eval->text_path),
        OPTION_IS_COUNT("chunks", 0, &eval->max_chunks, 1, UINT32_MAX),
        OPTION_IS_TEXT("tokens", 0, &eval->tokens_path),
        OPTION_IS_TEXT("logits", 0, &eval->logits_path),
        OPTION_IS_TEXT("compare", 0, &eval->compare_path),
        OPTION_IS_FLAG("json", 0, &eval->json),
    };
    const char *operand = NULL;
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .operands = &operand,
                                   .max_operands = 1};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    const char *wrong = operand && eval->model.path ? "the model is given twice" : contradiction(eval);
    if (wrong) {
        *exit_code = message_usage(command, "%s", wrong);
        return false;
    }
    if (operand)
        eval->model.path = operand;
    return true;
}

static uint32_t vocab_of(const struct eval *eval)
{
    return lode_engine_shape(eval->engine)->vocab;
}

static uint32_t batch_of(const struct eval *eval)
{
    return eval->model.batch ? eval->model.batch : DEFAULT_BATCH;
}

// ---- perplexity
// ----------------------------------------------------------------------------------------------

// The text is ordinary text: special tokens that it mentions are not recognised.
static int encode_text(struct eval *eval, int32_t *bos, struct lode_error *error)
{
    const struct lode_tokenizer *tokenizer = lode_engine_tokenizer(eval->engine);
    int code = lode_encode(tokenizer, eval->input.bytes, eval->input.len, LODE_ENCODE_BOS, &eval->ids,
                           &eval->n_ids, error);
    if (code)
        return code;
    int32_t *only_bos = NULL;
    size_t count = 0;
    code = lode_encode(tokenizer, "", 0, LODE_ENCODE_BOS, &only_bos, &count, error);
    if (!code && count != 1)
        code =
            lode_fail(error, LODE_ERR_UNSUPPORTED, "the vocabulary has no <bos>, which begins every chunk");
    if (!code)
        *bos = only_bos[0];
    free(only_bos);
    return code;
}

static int print_perplexity(const struct eval *eval, const struct perplexity *result, uint32_t n_ctx)
{
    if (!eval->json) {
        printf("perplexity %.4f +/- %.5f (%zu chunks of %u, %zu tokens scored)\n", result->ppl,
               result->standard_error, result->n_chunks, n_ctx, result->n_scored);
        return LODE_OK;
    }
    json_t *object = json_object();
    json_object_set_new(object, "model", json_out_text(eval->model.path, strlen(eval->model.path)));
    json_object_set_new(object, "perplexity", json_out_number(result->ppl));
    json_object_set_new(object, "standard_error", json_out_number(result->standard_error));
    json_object_set_new(object, "nll_mean", json_out_number(result->nll_mean));
    json_object_set_new(object, "chunks", json_integer((json_int_t)result->n_chunks));
    json_object_set_new(object, "context", json_integer(n_ctx));
    json_object_set_new(object, "tokens", json_integer((json_int_t)eval->n_ids));
    json_object_set_new(object, "tokens_scored", json_integer((json_int_t)result->n_scored));
    json_out_print(stdout, object);
    return LODE_OK;
}

static int eval_text(struct eval *eval, struct lode_error *error)
{
    const uint32_t n_ctx = eval->model.context ? eval->model.context : DEFAULT_CHUNK;
    int32_t bos = -1;
    int code = encode_text(eval, &bos, error);
    if (!code)
        code = model_session_open(&eval->session, eval->engine, &eval->model, n_ctx, error);
    if (code)
        return code;
    struct progress progress;
    progress_begin(&progress);
    const struct perplexity_input input = {.ids = eval->ids,
                                           .n_ids = eval->n_ids,
                                           .bos = bos,
                                           .n_ctx = n_ctx,
                                           .max_chunks = eval->max_chunks,
                                           .vocab = vocab_of(eval),
                                           .batch = batch_of(eval),
                                           .on_progress = progress_show,
                                           .user = &progress};
    struct perplexity result;
    code = perplexity_measure(&result, eval->session, &input, error);
    progress_end(&progress);
    return code ? code : print_perplexity(eval, &result, n_ctx);
}

// ---- logits
// --------------------------------------------------------------------------------------------------

static int check_context(const struct eval *eval, struct lode_error *error)
{
    const uint32_t limit = lode_engine_shape(eval->engine)->context_limit;
    const uint32_t context = eval->model.context ? eval->model.context : limit;
    if (eval->n_ids == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s holds no token ids", eval->tokens_path);
    if (eval->n_ids <= context)
        return LODE_OK;
    return lode_fail(error, LODE_ERR_CONTEXT,
                     "%s holds %zu tokens, the context %u (the model's limit is %u); take fewer tokens%s",
                     eval->tokens_path, eval->n_ids, context, limit, context < limit ? " or raise -c" : "");
}

static int open_logits(struct eval *eval, struct lode_error *error)
{
    if (eval->compare_path) {
        int code = divergence_begin(&eval->meter, eval->compare_path, eval->n_ids, vocab_of(eval), error);
        if (code)
            return code;
    }
    if (!eval->logits_path)
        return LODE_OK;
    eval->logits_file = fopen(eval->logits_path, "we");
    return eval->logits_file
               ? LODE_OK
               : lode_fail(error, LODE_ERR_IO, "cannot write %s: %s", eval->logits_path, strerror(errno));
}

static int take_rows(struct eval *eval, size_t count, struct lode_error *error)
{
    const uint32_t vocab = vocab_of(eval);
    if (eval->logits_file &&
        fwrite(eval->logits, sizeof(float), count * vocab, eval->logits_file) != count * vocab)
        return lode_fail(error, LODE_ERR_IO, "cannot write %s: %s", eval->logits_path, strerror(errno));
    int code = LODE_OK;
    for (size_t i = 0; eval->meter.file && i < count && !code; i++)
        code = divergence_add(&eval->meter, eval->logits + i * vocab, error);
    return code;
}

static size_t step_tokens(const struct eval *eval)
{
    const size_t fits = LOGITS_STEP_BYTES / ((size_t)vocab_of(eval) * sizeof(float));
    const size_t step = fits < batch_of(eval) ? fits : batch_of(eval);
    return step ? step : 1;
}

static int compute_logits(struct eval *eval, struct progress *progress, struct lode_error *error)
{
    const size_t step = step_tokens(eval);
    eval->logits = malloc(step * vocab_of(eval) * sizeof(float));
    if (!eval->logits)
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the logits of %zu tokens", step);
    for (size_t at = 0; at < eval->n_ids; at += step) {
        const size_t count = eval->n_ids - at < step ? eval->n_ids - at : step;
        if (!progress_show(progress, "tokens", at, eval->n_ids))
            return lode_fail(error, LODE_ERR_CANCELLED, "stopped after %zu of %zu tokens", at, eval->n_ids);
        int code = lode_session_eval(eval->session, eval->ids + at, count, count, eval->logits, error);
        if (!code)
            code = take_rows(eval, count, error);
        if (code)
            return code;
    }
    return LODE_OK;
}

static int close_logits(struct eval *eval, struct lode_error *error)
{
    if (!eval->logits_file)
        return LODE_OK;
    int failed = fclose(eval->logits_file);
    eval->logits_file = NULL;
    return failed ? lode_fail(error, LODE_ERR_IO, "cannot write %s: %s", eval->logits_path, strerror(errno))
                  : LODE_OK;
}

static void print_divergence(const struct eval *eval, const struct divergence *result)
{
    if (!eval->json) {
        printf("KL mean %.4e, p99 %.4e; largest difference %.5f; top-1 agreement %.2f %% (%zu tokens)\n",
               result->kl_mean, result->kl_p99, result->max_difference, 100 * result->top1_agreement,
               eval->n_ids);
        return;
    }
    json_t *object = json_object();
    json_object_set_new(object, "model", json_out_text(eval->model.path, strlen(eval->model.path)));
    json_object_set_new(object, "kl_mean", json_out_number(result->kl_mean));
    json_object_set_new(object, "kl_p99", json_out_number(result->kl_p99));
    json_object_set_new(object, "max_difference", json_out_number(result->max_difference));
    json_object_set_new(object, "top1_agreement", json_out_number(result->top1_agreement));
    json_object_set_new(object, "tokens", json_integer((json_int_t)eval->n_ids));
    json_out_print(stdout, object);
}

static void print_written(const struct eval *eval)
{
    if (eval->json)
        json_out_print(stdout,
                       json_pack("{s:o,s:I,s:I}", "logits",
                                 json_out_text(eval->logits_path, strlen(eval->logits_path)), "tokens",
                                 (json_int_t)eval->n_ids, "vocab", (json_int_t)vocab_of(eval)));
    else
        message_note(command, "wrote the logits of %zu tokens to %s", eval->n_ids, eval->logits_path);
}

static int eval_tokens(struct eval *eval, struct lode_error *error)
{
    int code = ids_parse(&eval->ids, &eval->n_ids, &eval->input, vocab_of(eval), error);
    eval->plan.prompt_tokens = (uint32_t)eval->n_ids; // checked against the context below
    if (code)
        return lode_fail_in(error, "%s", eval->tokens_path);
    code = check_context(eval, error);
    if (!code)
        code = open_logits(eval, error);
    const uint32_t context = eval->model.context ? eval->model.context : (uint32_t)eval->n_ids;
    if (!code)
        code = model_session_open(&eval->session, eval->engine, &eval->model, context, error);
    if (code)
        return code;
    struct progress progress;
    progress_begin(&progress);
    code = compute_logits(eval, &progress, error);
    progress_end(&progress);
    if (!code)
        code = close_logits(eval, error);
    if (code)
        return code;
    if (eval->compare_path) {
        const struct divergence result = divergence_result(&eval->meter);
        print_divergence(eval, &result);
    } else {
        print_written(eval);
    }
    return LODE_OK;
}

// ---- the command
// ---------------------------------------------------------------------------------------------

// Prompts only. Logits of many tokens are beyond what a plan counts, so it predicts nothing here; and steps
// of another size round otherwise, so that figures of two machines could not be compared. What is planned is
// how the weights are read.
static void plan_chunk(struct eval *eval)
{
    const size_t guess = eval->input.len / 4 + 1;
    eval->plan.is_silent = eval->plan.keeps_batch = true;
    eval->plan.generated_tokens = 1;
    if (eval->text_path)
        eval->plan.prompt_tokens = eval->model.context ? eval->model.context - 1 : DEFAULT_CHUNK - 1;
    else
        eval->plan.prompt_tokens = guess < UINT32_MAX ? (uint32_t)guess : UINT32_MAX;
}

static int execute(struct eval *eval)
{
    interrupt_watch(true);
    int code = model_find(&eval->model, command);
    if (code)
        return code;
    struct lode_error error = {0};
    code = text_read(&eval->input, eval->text_path ? eval->text_path : eval->tokens_path, &error);
    plan_chunk(eval);
    if (!code)
        code = model_open(&eval->engine, &eval->model, command, &error);
    if (!code)
        code = eval->text_path ? eval_text(eval, &error) : eval_tokens(eval, &error);
    return code ? message_failed(command, &error) : EXIT_OK;
}

static void release(struct eval *eval)
{
    if (eval->logits_file)
        fclose(eval->logits_file);
    divergence_end(&eval->meter);
    free(eval->logits);
    free(eval->ids);
    lode_session_close(eval->session);
    lode_engine_close(eval->engine);
    model_plan_close(&eval->plan);
    text_free(&eval->input);
}

int cmd_eval(int argc, char **argv)
{
    struct eval eval = {0};
    eval.model.plan = &eval.plan;
    int code;
    if (parse(&eval, argc, argv, &code))
        code = execute(&eval);
    release(&eval);
    return code;
}
