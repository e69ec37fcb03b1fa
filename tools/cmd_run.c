// `lode run`: completes one prompt. Only the generated text goes to stdout; the figures go to stderr, to
// --stats, or with the text into one object of --json.
#include "tools/command.h"
#include "tools/conversation.h"
#include "tools/ids.h"
#include "tools/interrupt.h"
#include "tools/json_out.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/model_plan.h"
#include "tools/options.h"
#include "tools/reply.h"
#include "tools/report.h"
#include "tools/sampling.h"
#include "tools/stalls.h"
#include "tools/stats_file.h"
#include "tools/text.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char command[] = "lode run";

static const char usage[] =
    "Usage: lode run [-m MODEL] [-p PROMPT | -f FILE] [OPTION]...      (else the prompt is stdin)\n"
    "  -p, --prompt TEXT  -f, --file FILE      the prompt, or a file that holds it, - is stdin\n"
    "  -n, --tokens N        generate at most N tokens (256)\n"
    "  -c, --context N       tokens of the timeline (what prompt and -n need)\n"
    "  --chat                the prompt is a user's turn; with --think, and --system TEXT\n"
    "  --temp T  --top-k N  --top-p P  --min-p P       sampling (1, 64, 0.95, 0); --temp 0 is greedy\n"
    "  --repeat-penalty X  --repeat-window N           of tokens in the last N (1, 0: all)\n"
    "  --seed N              repeat a run (random, told in the last line)\n"
    "  --logit-bias ID=X     add X to a token's logit, -inf bans it; may be repeated\n"
    "  --ignore-eos  --special    go on after the model's end; show control tokens in the text\n"
    "  --no-special --no-bos special tokens in the prompt are plain text; no <bos> in front of it\n"
    "  --json                one JSON object with text, ids and figures instead of streamed text\n"
    "  --stats FILE  --explain-stalls    the figures as JSON; what the slowest tokens waited "
    "for\n" MODEL_PLAN_USAGE ROUTING_USAGE MODEL_GPU_USAGE MODEL_USAGE
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted (Ctrl-C), 143 terminated.\n"
    "Examples:\n"
    "  lode run -p 'Once upon a time' -n 100 --temp 0\n"
    "  lode run -m gemma-4-26B-A4B-it-Q4_0.gguf --ram 8G --chat -p 'Why is the sky blue?'\n"
    "  lode run -m m.gguf -f notes.txt --json | jq -r .text\n";

struct run {
    struct model_options model;
    struct model_plan plan;
    struct sampling_options sampling;
    const char *prompt_text, *prompt_path, *system, *stats_path;
    uint32_t max_tokens;
    bool prompt_given, path_given, system_given;
    bool chat, think, ignore_end, show_special, plain_prompt, no_bos, json, explain_stalls;

    FILE *stats_file;
    struct text prompt;
    struct lode_engine *engine;
    struct lode_session *session;
    int32_t *ids;
    size_t n_ids;
    bool starts_thinking;
    struct reply reply;
    enum lode_stop stop;
};

// ---- the command line
// ----------------------------------------------------------------------------------------

static const char *contradiction(const struct run *run)
{
    if (run->prompt_given && run->path_given)
        return "-p and -f are two prompts; give one of them";
    if (run->think && !run->chat)
        return "--think goes with --chat";
    if (run->system_given && !run->chat)
        return "--system goes with --chat";
    if (run->chat && run->no_bos)
        return "--no-bos does not go with --chat, whose format begins with <bos>";
    return NULL;
}

static bool parse(struct run *run, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        MODEL_OPTIONS(run->model),
        SESSION_OPTIONS(run->model),
        ROUTING_OPTIONS(run->model),
        SAMPLING_OPTIONS(run->sampling),
        MODEL_GPU_OPTIONS(run->model.gpus),
        MODEL_PLAN_OPTION(run->plan),
        {.name = "prompt",
         .letter = 'p',
         .kind = OPTION_TEXT,
         .target = &run->prompt_text,
         .given = &run->prompt_given},
        {.name = "file",
         .letter = 'f',
         .kind = OPTION_TEXT,
         .target = &run->prompt_path,
         .given = &run->path_given},
        {.name = "system", .kind = OPTION_TEXT, .target = &run->system, .given = &run->system_given},
        OPTION_IS_COUNT("tokens", 'n', &run->max_tokens, 1, UINT32_MAX),
        OPTION_IS_FLAG("chat", 0, &run->chat),
        OPTION_IS_FLAG("think", 0, &run->think),
        OPTION_IS_FLAG("ignore-eos", 0, &run->ignore_end),
        OPTION_IS_FLAG("special", 0, &run->show_special),
        OPTION_IS_FLAG("no-special", 0, &run->plain_prompt),
        OPTION_IS_FLAG("no-bos", 0, &run->no_bos),
        OPTION_IS_FLAG("json", 0, &run->json),
        OPTION_IS_TEXT("stats", 0, &run->stats_path),
        OPTION_IS_FLAG("explain-stalls", 0, &run->explain_stalls),
    };
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    const char *wrong = contradiction(run);
    if (!wrong)
        return true;
    *exit_code = message_usage(command, "%s", wrong);
    return false;
}

// ---- the prompt
// ----------------------------------------------------------------------------------------------

static int read_prompt(struct run *run, struct lode_error *error)
{
    if (run->prompt_text)
        return text_append(&run->prompt, run->prompt_text, strlen(run->prompt_text))
                   ? LODE_OK
                   : lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the prompt");
    if (!run->prompt_path && isatty(STDIN_FILENO))
        message_note(command, "reading the prompt from the terminal; Ctrl-D ends it");
    return text_read(&run->prompt, run->prompt_path ? run->prompt_path : "-", error);
}

static int encode_chat(struct run *run, struct lode_error *error)
{
    struct conversation conversation;
    int code = conversation_begin(&conversation, error);
    if (!code && run->system)
        code = conversation_set_system(&conversation, run->system, error);
    if (!code)
        code = conversation_add(&conversation, "user", run->prompt.bytes, run->prompt.len, error);
    const struct lode_chat_options options = model_chat_options(run->engine, run->think);
    if (!code)
        code = conversation_encode(&conversation, lode_engine_tokenizer(run->engine), &options, &run->ids,
                                   &run->n_ids, &run->starts_thinking, error);
    conversation_free(&conversation);
    return code;
}

static int encode_prompt(struct run *run, struct lode_error *error)
{
    if (run->chat)
        return encode_chat(run, error);
    unsigned flags = (run->plain_prompt ? 0 : LODE_ENCODE_SPECIAL) | (run->no_bos ? 0 : LODE_ENCODE_BOS);
    int code = lode_encode(lode_engine_tokenizer(run->engine), run->prompt.bytes, run->prompt.len, flags,
                           &run->ids, &run->n_ids, error);
    if (!code && run->n_ids == 0)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "the prompt is empty and --no-bos leaves nothing to start from; give a prompt or allow <bos>");
    return code;
}

// Without -c the context is what the run can use and no more: the cache of the model's whole context may be
// gigabytes.
static int settle_context(const struct run *run, uint32_t *out, struct lode_error *error)
{
    uint32_t limit = lode_engine_shape(run->engine)->context_limit;
    uint64_t needed = (uint64_t)run->n_ids + run->max_tokens;
    *out = run->model.context ? run->model.context : needed < limit ? (uint32_t)needed : 0;
    uint32_t room = run->model.context ? run->model.context : limit;
    if (run->n_ids <= room)
        return LODE_OK;
    if (room < limit)
        return lode_fail(
            error, LODE_ERR_CONTEXT,
            "the prompt has %zu tokens, the context %u; shorten the prompt or raise -c (the model's limit "
            "is %u)",
            run->n_ids, room, limit);
    return lode_fail(error, LODE_ERR_CONTEXT,
                     "the prompt has %zu tokens, the model's context is limited to %u; shorten the prompt",
                     run->n_ids, limit);
}

// ---- generating
// ----------------------------------------------------------------------------------------------

// A token of the prompt is some four bytes; how many it has is known when the model is open.
static int open_all(struct run *run, struct lode_error *error)
{
    const size_t guess = run->prompt.len / 4 + 1;
    run->plan.prompt_tokens = guess < UINT32_MAX ? (uint32_t)guess : UINT32_MAX;
    run->plan.generated_tokens = run->max_tokens;
    int code = model_open(&run->engine, &run->model, command, error);
    if (!code)
        code = encode_prompt(run, error);
    uint32_t context = 0;
    if (!code)
        code = settle_context(run, &context, error);
    run->plan.prompt_tokens = (uint32_t)run->n_ids;
    if (!code)
        code = model_session_open(&run->session, run->engine, &run->model, context, error);
    if (!code && !reply_begin(&run->reply, lode_session_context(run->session), !run->json, run->json))
        code = lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the reply");
    return code;
}

static int generate(struct run *run, struct lode_error *error)
{
    prediction_begin_turn(&run->plan.prediction, run->session);
    int code = model_feed(run->session, run->ids, run->n_ids, error);
    if (code == LODE_ERR_CANCELLED) { // an end like that of a generation: the figures are still told
        run->stop = LODE_STOP_CALLER;
        return LODE_OK;
    }
    if (code)
        return code;
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling = run->sampling.sampling;
    options.max_tokens = run->max_tokens;
    options.ignore_end = run->ignore_end;
    options.show_special = run->show_special;
    options.split_reply = run->chat && !run->show_special;
    options.starts_thinking = run->starts_thinking;
    options.on_token = reply_on_token;
    options.user = &run->reply;
    code = model_generate(run->session, &options, &run->stop, error);
    reply_finish(&run->reply, false);
    return code;
}

// ---- results
// -------------------------------------------------------------------------------------------------

static struct report make_report(const struct run *run)
{
    return (struct report){.model_path = run->model.path,
                           .engine = run->engine,
                           .session = run->session,
                           .seed = run->sampling.sampling.seed,
                           .stop = run->stop,
                           .prediction = &run->plan.prediction,
                           .interrupted = interrupt_pending()};
}

static void print_json(const struct run *run, const struct report *report)
{
    const struct reply *reply = &run->reply;
    json_t *object = json_object();
    json_object_set_new(object, "text", json_out_text(reply->content.bytes, reply->content.len));
    if (reply->reasoning.len)
        json_object_set_new(object, "reasoning", json_out_text(reply->reasoning.bytes, reply->reasoning.len));
    json_object_set_new(object, "ids", ids_json(reply->ids, reply->n_ids));
    json_t *figures = report_json(report);
    json_object_update(object, figures);
    json_decref(figures);
    json_out_print(stdout, object); // main notices a failing stdout
}

static int write_stats(struct run *run, const struct report *report)
{
    if (!run->stats_file)
        return EXIT_OK;
    const int failed = json_out_print(run->stats_file, report_json(report));
    return stats_file_close(&run->stats_file, failed, run->stats_path, command);
}

static int tell_results(struct run *run)
{
    const bool stopped = run->stop == LODE_STOP_CALLER || interrupt_pending();
    prediction_end_turn(&run->plan.prediction, run->session, stopped);
    const struct report report = make_report(run);
    if (run->json)
        print_json(run, &report);
    int code = write_stats(run, &report);
    if (run->explain_stalls)
        stalls_explain(command, run->session);
    report_line(command, &report);
    model_plan_learn(&run->plan, run->session, command);
    if (reply_tell_failure(&run->reply, command))
        code = EXIT_FAILED;
    return report.interrupted ? interrupt_exit_code() : code;
}

static void release(struct run *run)
{
    if (run->stats_file)
        fclose(run->stats_file);
    reply_free(&run->reply);
    free(run->ids);
    lode_session_close(run->session);
    lode_engine_close(run->engine);
    model_plan_close(&run->plan);
    text_free(&run->prompt);
    sampling_free(&run->sampling);
}

static int execute(struct run *run)
{
    interrupt_watch(true);
    int code = model_find(&run->model, command);
    if (code)
        return code;
    code = stats_file_open(&run->stats_file, run->stats_path, command);
    if (code)
        return code;
    sampling_settle_seed(&run->sampling);
    struct lode_error error = {0};
    if (read_prompt(run, &error) || open_all(run, &error) || generate(run, &error))
        return message_failed(command, &error);
    return tell_results(run);
}

int cmd_run(int argc, char **argv)
{
    struct run run = {.model.keeps_heat = true, .max_tokens = 256};
    run.model.plan = &run.plan;
    sampling_begin(&run.sampling);
    int code;
    if (parse(&run, argc, argv, &code))
        code = execute(&run);
    release(&run);
    return code;
}
