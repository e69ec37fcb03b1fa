// `lode chat`: a conversation. Before each answer the whole conversation is rendered anew, because the format
// drops old reasoning; of the tokens only what differs from the session's timeline is fed.
#include "tools/chat_commands.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/message.h"
#include "tools/options.h"
#include "tools/report.h"

#include <stdlib.h>
#include <string.h>

static const char command[] = "lode chat";

static const char usage[] =
    "Usage: lode chat [-m MODEL] [OPTION]...\n"
    "Talks with a model. /help inside tells the commands; a trailing \\ or a block in \"\"\" makes a turn\n"
    "of several lines; Ctrl-C stops an answer, Ctrl-D leaves. Without a terminal every line of stdin is\n"
    "a turn, and only the answers go to stdout.\n"
    "\n"
    "  --system TEXT      instructions for the model\n"
    "  --think            let the model think before it answers (shown dimmed, on a terminal only)\n"
    "  -n, --tokens N     at most N tokens an answer (until the model ends)\n"
    "  -c, --context N    tokens of the conversation (the model's limit, or what memory allows)\n"
    "  --drop-oldest      when the context is full, forget the oldest turns instead of stopping\n"
    "  --temp T  --top-k N  --top-p P  --min-p P       sampling (1, 64, 0.95, 0); --temp 0 is greedy\n"
    "  --repeat-penalty X  --repeat-window N  --seed N  --logit-bias ID=X\n" MODEL_PLAN_USAGE ROUTING_USAGE
        MODEL_GPU_USAGE MODEL_USAGE
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted (without a terminal), 143 terminated.\n"
    "Examples:\n"
    "  lode chat -m gemma-4-26B-A4B-it-Q4_0.gguf --think --ram 8G\n"
    "  printf 'Hello!\\nWhat did I say?\\n' | lode chat -m gemma-4-E2B-it-Q4_0.gguf --temp 0\n";

static bool parse(struct chat *chat, int argc, char **argv, int *exit_code)
{
    const struct option options[] = {
        MODEL_OPTIONS(chat->model),
        SESSION_OPTIONS(chat->model),
        ROUTING_OPTIONS(chat->model),
        SAMPLING_OPTIONS(chat->sampling),
        MODEL_GPU_OPTIONS(chat->model.gpus),
        MODEL_PLAN_OPTION(chat->plan),
        OPTION_IS_TEXT("system", 0, &chat->system),
        OPTION_IS_COUNT("tokens", 'n', &chat->max_tokens, 1, UINT32_MAX),
        OPTION_IS_FLAG("think", 0, &chat->think),
        OPTION_IS_FLAG("drop-oldest", 0, &chat->drop_oldest),
    };
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options};
    return options_parse(&parser, argc, argv, exit_code);
}

// ---- one answer
// ----------------------------------------------------------------------------------------------

static size_t common_prefix(const struct chat *chat, const int32_t *ids, size_t count)
{
    size_t same = 0;
    while (same < count && same < chat->n_timeline && chat->timeline[same] == ids[same])
        same++;
    return same;
}

// Rewinds to what the timeline and the new ids share and feeds the rest, at least one token, for the logits'
// sake.
static int feed(struct chat *chat, const int32_t *ids, size_t count, struct lode_error *error)
{
    size_t keep = common_prefix(chat, ids, count);
    if (keep == count)
        keep--;
    keep = lode_session_rewind(chat->session, (uint32_t)keep);
    memcpy(chat->timeline, ids, count * sizeof *ids);
    prediction_begin_turn(&chat->plan.prediction, chat->session);
    int code = model_feed(chat->session, ids + keep, count - keep, error);
    chat->n_timeline = lode_session_position(chat->session);
    return code;
}

// What was generated joins our copy of the timeline, as far as the session took it.
static void extend_timeline(struct chat *chat, const struct reply *reply, uint64_t generated)
{
    const size_t position = lode_session_position(chat->session);
    if (reply->n_ids != generated) // our copy would be wrong; without it the next turn is only slower
        return;
    for (size_t i = 0; i < reply->n_ids && chat->n_timeline < position; i++)
        chat->timeline[chat->n_timeline++] = reply->ids[i];
}

static int remember_reply(struct chat *chat, const struct reply *reply, bool starts_thinking,
                          struct lode_error *error)
{
    struct text raw = {0};
    int code = LODE_OK;
    for (size_t i = 0; i < reply->n_ids && !code; i++) {
        size_t len;
        const char *piece = lode_piece(lode_engine_tokenizer(chat->engine), reply->ids[i], true, &len);
        if (!text_append(&raw, piece, len))
            code = lode_fail(error, LODE_ERR_MEMORY, "not enough memory to remember the answer");
    }
    if (!code)
        code = conversation_add_reply(&chat->conversation, raw.bytes ? raw.bytes : "", raw.len,
                                      starts_thinking, error);
    text_free(&raw);
    return code;
}

static uint64_t generated_so_far(const struct chat *chat)
{
    struct lode_stats stats;
    lode_session_stats(chat->session, &stats);
    return stats.generated_tokens;
}

static int generate(struct chat *chat, bool starts_thinking, struct lode_error *error)
{
    struct reply reply;
    if (!reply_begin(&reply, lode_session_context(chat->session), true, false))
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the answer");
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling = chat->sampling.sampling;
    options.sampling.seed += chat->n_answers++; // or equal turns would draw the same numbers
    options.max_tokens = chat->max_tokens;
    options.split_reply = true;
    options.starts_thinking = starts_thinking;
    options.on_token = reply_on_token;
    options.user = &reply;
    const uint64_t before = generated_so_far(chat);
    int code = model_generate(chat->session, &options, &chat->stop, error);
    prediction_end_turn(&chat->plan.prediction, chat->session, code || chat->stop == LODE_STOP_CALLER);
    reply_finish(&reply, true);
    if (reply_tell_failure(&reply, command))
        chat->output_failed = true;
    extend_timeline(chat, &reply, generated_so_far(chat) - before);
    if (!code)
        code = remember_reply(chat, &reply, starts_thinking, error);
    reply_free(&reply);
    return code;
}

struct prompt {
    int32_t *ids;
    size_t count;
    bool starts_thinking;
};

static int encode(const struct chat *chat, struct prompt *prompt, struct lode_error *error)
{
    const struct lode_chat_options options = model_chat_options(chat->engine, chat->think);
    free(prompt->ids);
    *prompt = (struct prompt){0};
    return conversation_encode(&chat->conversation, lode_engine_tokenizer(chat->engine), &options,
                               &prompt->ids, &prompt->count, &prompt->starts_thinking, error);
}

// A conversation that fills the context leaves no room to answer. With --drop-oldest an answer is given a
// quarter.
static int encode_within_context(struct chat *chat, struct prompt *prompt, struct lode_error *error)
{
    const uint32_t context = lode_session_context(chat->session);
    int code = encode(chat, prompt, error);
    bool dropped = false;
    while (!code && chat->drop_oldest && prompt->count > context - context / 4 &&
           conversation_drop_oldest(&chat->conversation)) {
        dropped = true;
        code = encode(chat, prompt, error);
    }
    if (dropped)
        message_note(command, "the context is full; the oldest turns are forgotten");
    if (code || prompt->count < context)
        return code;
    return lode_fail(
        error, LODE_ERR_CONTEXT,
        "the conversation now has %zu tokens, the context holds %u; the last turn is taken back. /clear "
        "starts afresh; -c sets a larger context, --drop-oldest forgets old turns",
        prompt->count, context);
}

static int answer(struct chat *chat, struct lode_error *error)
{
    struct prompt prompt = {0};
    int code = encode_within_context(chat, &prompt, error);
    if (!code)
        code = feed(chat, prompt.ids, prompt.count, error);
    if (code)
        conversation_drop_last(&chat->conversation);
    else
        code = generate(chat, prompt.starts_thinking, error);
    free(prompt.ids);
    return code;
}

static void tell_stop(const struct chat *chat)
{
    if (interrupt_pending())
        message_note(command, "stopped");
    else if (chat->stop == LODE_STOP_CONTEXT)
        message_note(command, "the context of %u tokens is full; /clear starts afresh",
                     lode_session_context(chat->session));
    else if (chat->stop == LODE_STOP_LENGTH && chat_is_terminal(chat))
        message_note(command, "stopped after %u tokens (-n)", chat->max_tokens);
}

static void take_turn(struct chat *chat, const struct text *turn)
{
    struct lode_error error = {0};
    int code = conversation_add(&chat->conversation, "user", turn->bytes, turn->len, &error);
    if (!code)
        code = answer(chat, &error);
    if (code == LODE_ERR_CANCELLED) {
        message_note(command, "stopped before the answer began; the turn is taken back");
    } else if (code) {
        message_note(command, "%s", error.text);
        chat->failed = true;
    } else {
        tell_stop(chat);
    }
}

// ---- the loop
// ------------------------------------------------------------------------------------------------

static bool is_command(const struct text *turn, bool literal)
{
    return !literal && turn->len && turn->bytes[0] == '/';
}

static bool is_blank(const struct text *turn)
{
    return strspn(turn->bytes ? turn->bytes : "", " \t\r\n") == turn->len;
}

// False: the chat is over.
static bool handle_turn(struct chat *chat, const struct text *turn, bool literal)
{
    if (is_command(turn, literal))
        return chat_command(chat, turn->bytes);
    if (!is_blank(turn))
        take_turn(chat, turn);
    if (interrupt_is_final() || (interrupt_pending() && !chat_is_terminal(chat)))
        return false;
    interrupt_clear();
    return !chat->output_failed;
}

static int talk(struct chat *chat)
{
    struct text turn = {0};
    bool literal = false, goes_on = true;
    while (goes_on) {
        switch (chat_input_next(chat->input, &turn, &literal)) {
        case CHAT_INPUT_TURN:
            goes_on = handle_turn(chat, &turn, literal);
            break;
        case CHAT_INPUT_BORED:
            message_note(command, "Ctrl-D or /quit leaves");
            break;
        case CHAT_INPUT_INTERRUPTED:
            goes_on = chat_is_terminal(chat) && !interrupt_is_final();
            break;
        case CHAT_INPUT_FAILED:
            chat->failed = true;
            goes_on = false;
            break;
        case CHAT_INPUT_END:
            goes_on = false;
            break;
        }
    }
    text_free(&turn);
    if (interrupt_pending())
        return interrupt_exit_code();
    return chat->output_failed || (chat->failed && !chat_is_terminal(chat)) ? EXIT_FAILED : EXIT_OK;
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static int open_all(struct chat *chat, struct lode_error *error)
{
    int code = conversation_begin(&chat->conversation, error);
    if (!code && chat->system)
        code = conversation_set_system(&chat->conversation, chat->system, error);
    if (!code)
        code = model_open(&chat->engine, &chat->model, command, error);
    if (!code)
        code = model_session_open(&chat->session, chat->engine, &chat->model, chat->model.context, error);
    if (code)
        return code;
    chat->timeline = malloc((size_t)lode_session_context(chat->session) * sizeof *chat->timeline);
    if (!chat->timeline)
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the timeline");
    return chat_input_open(&chat->input, command, error);
}

static void greet(const struct chat *chat)
{
    if (!chat_is_terminal(chat))
        return;
    const struct lode_shape *shape = lode_engine_shape(chat->engine);
    char name[sizeof shape->name];
    message_note(command, "%s, context %u; /help tells the commands, Ctrl-D leaves",
                 text_printable(name, sizeof name, shape->name), lode_session_context(chat->session));
}

static void release(struct chat *chat)
{
    chat_input_close(chat->input);
    free(chat->timeline);
    lode_session_close(chat->session);
    lode_engine_close(chat->engine);
    model_plan_close(&chat->plan);
    conversation_free(&chat->conversation);
    sampling_free(&chat->sampling);
}

static int execute(struct chat *chat)
{
    interrupt_watch(true); // while loading, a second Ctrl-C may end it all
    int code = model_find(&chat->model, command);
    if (code)
        return code;
    sampling_settle_seed(&chat->sampling);
    struct lode_error error = {0};
    if (open_all(chat, &error))
        return message_failed(command, &error);
    interrupt_watch(!chat_is_terminal(chat));
    greet(chat);
    int exit_code = talk(chat);
    model_plan_learn(&chat->plan, chat->session, command);
    return exit_code;
}

int cmd_chat(int argc, char **argv)
{
    struct chat chat = {.model.keeps_heat = true};
    chat.model.plan = &chat.plan;
    sampling_begin(&chat.sampling);
    int code;
    if (parse(&chat, argc, argv, &code))
        code = execute(&chat);
    release(&chat);
    return code;
}
