// A conversation to the text that the model was trained on.
//
// The conversation is checked first, message by message, so that rendering itself cannot fail. The output is
// that of the reference template (2026-07) byte for byte, with these exceptions, where the template writes
// what no model has seen: a prompt for a reply never ends in a closed turn; a tool without a type of its
// parameters gets OBJECT; a list of types becomes its first one and `nullable`; arguments may be a string
// that holds a JSON object; a tool result without ids and names takes the name of the call at its place; a
// message that would vanish is an error.

#include "core/chat_internal.h"

#include <stdlib.h>
#include <string.h>

enum role { ROLE_SYSTEM, ROLE_DEVELOPER, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL };

struct render {
    struct chat_builder out;
    const struct lode_chat_options *options;
    struct lode_error *error;
    json_t *messages, *tools;
    size_t n_messages;
    size_t first; // 1 if the first message went into the system turn
};

static const char *string_of(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

static bool find_role(enum role *out, const json_t *message)
{
    static const struct {
        const char *name;
        enum role role;
    } roles[] = {{"system", ROLE_SYSTEM},       {"developer", ROLE_DEVELOPER}, {"user", ROLE_USER},
                 {"assistant", ROLE_ASSISTANT}, {"model", ROLE_ASSISTANT},     {"tool", ROLE_TOOL}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(string_of(message, "role"), roles[i].name)) {
            *out = roles[i].role;
            return true;
        }
    return false;
}

static enum role role_at(const struct render *r, size_t index)
{
    enum role role = ROLE_USER;
    find_role(&role, json_array_get(r->messages, index));
    return role;
}

static const char *placeholder_of(const json_t *part)
{
    static const char *const placeholders[][2] = {{"image", "<|image|>"},
                                                  {"image_url", "<|image|>"},
                                                  {"audio", "<|audio|>"},
                                                  {"input_audio", "<|audio|>"},
                                                  {"video", "<|video|>"}};
    for (size_t i = 0; i < sizeof placeholders / sizeof *placeholders; i++)
        if (!strcmp(string_of(part, "type"), placeholders[i][0]))
            return placeholders[i][1];
    return NULL;
}

// ---- checking ----

static int check_part(struct render *r, size_t index, size_t n, const json_t *part, bool text_only)
{
    const char *type = string_of(part, "type");
    if (!json_is_object(part) || !*type)
        return lode_fail(r->error, LODE_ERR_ARGUMENT, "messages[%zu].content[%zu] is no object with a type",
                         index, n);
    if (!strcmp(type, "text")) {
        if (!json_is_string(json_object_get(part, "text")))
            return lode_fail(r->error, LODE_ERR_ARGUMENT,
                             "messages[%zu].content[%zu] has no text, or one that is no string", index, n);
        return 0;
    }
    if (!placeholder_of(part))
        return lode_fail(
            r->error, LODE_ERR_ARGUMENT,
            "messages[%zu].content[%zu] has type \"%.40s\"; text, image, image_url, audio, input_audio "
            "and video are known",
            index, n, type);
    if (text_only)
        return lode_fail(r->error, LODE_ERR_ARGUMENT,
                         "messages[%zu].content[%zu] is %.40s: the system message holds text only", index, n,
                         type);
    return 0;
}

static int check_content(struct render *r, size_t index, const json_t *message, enum role role)
{
    const json_t *content = json_object_get(message, "content"), *part;
    const bool in_system_turn = !index && (role == ROLE_SYSTEM || role == ROLE_DEVELOPER);
    size_t n;
    int rc = 0;
    const bool may_be_other = role == ROLE_TOOL || (role == ROLE_ASSISTANT && is_absent(content));
    if (!json_is_string(content) && !json_is_array(content) && !may_be_other)
        return lode_fail(r->error, LODE_ERR_ARGUMENT,
                         "messages[%zu] (%s) has no content that is a string or a list of parts", index,
                         string_of(message, "role"));
    json_array_foreach(content, n, part)
    {
        rc = rc ? rc : check_part(r, index, n, part, in_system_turn);
    }
    return rc;
}

// Clients of the usual APIs send the arguments as a string; the tree gets the object that it holds.
static int check_arguments(struct render *r, size_t index, size_t n, json_t *function)
{
    json_t *arguments = json_object_get(function, "arguments");
    if (json_is_object(arguments) || is_absent(arguments))
        return 0;
    const char *text = json_string_value(arguments);
    size_t len = json_string_length(arguments);
    if (text)
        chat_trim(&text, &len);
    json_t *parsed = text && len ? json_loadb(text, len, JSON_ALLOW_NUL, NULL) : text ? json_object() : NULL;
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return lode_fail(
            r->error, LODE_ERR_ARGUMENT,
            "messages[%zu].tool_calls[%zu]: arguments must be an object, or a string that holds one", index,
            n);
    }
    if (json_object_set_new(function, "arguments", parsed))
        return lode_fail(r->error, LODE_ERR_MEMORY, "no memory to render the conversation");
    return 0;
}

static int check_calls(struct render *r, size_t index, const json_t *message)
{
    const json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t n;
    if (!is_absent(calls) && !json_is_array(calls))
        return lode_fail(r->error, LODE_ERR_ARGUMENT, "messages[%zu].tool_calls is no list", index);
    json_array_foreach(calls, n, call)
    {
        json_t *function = chat_function_of(call);
        if (!*string_of(function, "name"))
            return lode_fail(r->error, LODE_ERR_ARGUMENT,
                             "messages[%zu].tool_calls[%zu] has no function name", index, n);
        int rc = check_arguments(r, index, n, function);
        if (rc)
            return rc;
    }
    return 0;
}

static int check_assistant(struct render *r, size_t index, const json_t *message)
{
    static const char *const texts[] = {"reasoning", "reasoning_content"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *text = json_object_get(message, texts[i]);
        if (!is_absent(text) && !json_is_string(text))
            return lode_fail(r->error, LODE_ERR_ARGUMENT, "messages[%zu].%s is no string", index, texts[i]);
    }
    const json_t *responses = json_object_get(message, "tool_responses"), *response;
    size_t n;
    if (!is_absent(responses) && !json_is_array(responses))
        return lode_fail(r->error, LODE_ERR_ARGUMENT, "messages[%zu].tool_responses is no list", index);
    json_array_foreach(responses, n, response)
    {
        if (!json_is_object(response))
            return lode_fail(r->error, LODE_ERR_ARGUMENT, "messages[%zu].tool_responses[%zu] is no object",
                             index, n);
    }
    return check_calls(r, index, message);
}

// A result belongs to the calls of the assistant message before it; only other results may stand between.
static int check_tool(struct render *r, size_t index)
{
    size_t before = index;
    while (before > 0 && role_at(r, before - 1) == ROLE_TOOL)
        before--;
    const json_t *caller = before ? json_array_get(r->messages, before - 1) : NULL;
    if (!caller || role_at(r, before - 1) != ROLE_ASSISTANT ||
        !json_array_size(json_object_get(caller, "tool_calls")))
        return lode_fail(
            r->error, LODE_ERR_ARGUMENT,
            "messages[%zu] is a tool's result, but no assistant message with tool_calls stands before it",
            index);
    if (json_array_size(json_object_get(caller, "tool_responses")))
        return lode_fail(
            r->error, LODE_ERR_ARGUMENT,
            "messages[%zu] is a tool's result, but messages[%zu] has its results in tool_responses", index,
            before - 1);
    return 0;
}

static int check_message(struct render *r, size_t index)
{
    const json_t *message = json_array_get(r->messages, index);
    enum role role;
    if (!json_is_object(message))
        return lode_fail(r->error, LODE_ERR_ARGUMENT, "messages[%zu] is no object", index);
    if (!find_role(&role, message))
        return lode_fail(
            r->error, LODE_ERR_ARGUMENT,
            "messages[%zu] has role \"%.40s\"; system, developer, user, assistant and tool are known", index,
            string_of(message, "role"));
    int rc = check_content(r, index, message, role);
    if (!rc && role == ROLE_ASSISTANT)
        rc = check_assistant(r, index, message);
    if (!rc && role == ROLE_TOOL)
        rc = check_tool(r, index);
    return rc;
}

static int check(struct render *r, const json_t *conversation)
{
    r->messages = json_object_get(conversation, "messages");
    r->tools = json_object_get(conversation, "tools");
    if (!json_is_array(r->messages) || !json_array_size(r->messages))
        return lode_fail(r->error, LODE_ERR_ARGUMENT,
                         "the conversation has no list \"messages\", or an empty one");
    r->n_messages = json_array_size(r->messages);
    if (!is_absent(r->tools) && !json_is_array(r->tools))
        return lode_fail(r->error, LODE_ERR_ARGUMENT, "\"tools\" of the conversation is no list");
    for (size_t i = 0; i < json_array_size(r->tools); i++)
        if (!*string_of(chat_function_of(json_array_get(r->tools, i)), "name"))
            return lode_fail(r->error, LODE_ERR_ARGUMENT, "tools[%zu] has no function name", i);
    int rc = 0;
    for (size_t i = 0; i < r->n_messages && !rc; i++)
        rc = check_message(r, i);
    return rc;
}

// ---- messages ----

static void put_trimmed(struct chat_builder *out, const char *text, size_t len)
{
    chat_trim(&text, &len);
    chat_put_plain(out, text, len);
}

// Earlier thoughts that a client left in the text of a reply are not shown to the model again.
static void put_without_thoughts(struct chat_builder *out, const char *text, size_t len)
{
    struct chat_builder kept = {0};
    const char *end = text + len;
    while (text < end) {
        const char *stop = memmem(text, (size_t)(end - text), CHAT_CHANNEL_END, strlen(CHAT_CHANNEL_END));
        const char *part_end = stop ? stop : end;
        const char *thought = memmem(text, (size_t)(part_end - text), CHAT_CHANNEL, strlen(CHAT_CHANNEL));
        chat_put_bytes(&kept, text, (size_t)((thought ? thought : part_end) - text));
        text = stop ? stop + strlen(CHAT_CHANNEL_END) : end;
    }
    if (kept.text)
        put_trimmed(out, kept.text, kept.len);
    out->failed |= kept.failed;
    chat_builder_free(&kept);
}

static void put_message_text(struct chat_builder *out, const json_t *string, enum role role)
{
    const char *text = json_string_value(string);
    if (role == ROLE_ASSISTANT)
        put_without_thoughts(out, text, json_string_length(string));
    else
        put_trimmed(out, text, json_string_length(string));
}

static void put_content(struct chat_builder *out, const json_t *content, enum role role)
{
    if (json_is_string(content))
        put_message_text(out, content, role);
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i);
        const char *placeholder = placeholder_of(part);
        if (placeholder)
            chat_put(out, placeholder);
        else
            put_message_text(out, json_object_get(part, "text"), role);
    }
}

static void put_system_turn(struct render *r)
{
    const bool has_system = role_at(r, 0) <= ROLE_DEVELOPER;
    r->first = has_system;
    if (!has_system && !r->options->thinking && !json_array_size(r->tools))
        return;
    chat_put(&r->out, "<|turn>system\n");
    if (r->options->thinking)
        chat_put(&r->out, "<|think|>\n");
    const json_t *content = has_system ? json_object_get(json_array_get(r->messages, 0), "content") : NULL;
    if (json_is_string(content))
        put_message_text(&r->out, content, ROLE_SYSTEM);
    for (size_t i = 0; i < json_array_size(content); i++) {
        put_message_text(&r->out, json_object_get(json_array_get(content, i), "text"), ROLE_SYSTEM);
        chat_put(&r->out, " ");
    }
    for (size_t i = 0; i < json_array_size(r->tools); i++)
        chat_put_declaration(&r->out, chat_function_of(json_array_get(r->tools, i)));
    chat_put(&r->out, CHAT_TURN_END "\n");
}

static void put_calls(struct chat_builder *out, const json_t *calls)
{
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *function = chat_function_of(json_array_get(calls, i));
        const json_t *arguments = json_object_get(function, "arguments");
        chat_put(out, CHAT_TOOL_CALL "call:");
        chat_put_text(out, json_object_get(function, "name"));
        if (json_is_object(arguments))
            chat_put_value(out, arguments, false);
        else
            chat_put(out, "{}");
        chat_put(out, CHAT_TOOL_CALL_END);
    }
}

static void begin_response(struct chat_builder *out, const json_t *name)
{
    chat_put(out, CHAT_TOOL_RESPONSE "response:");
    if (json_string_length(name))
        chat_put_text(out, name);
    else
        chat_put(out, "unknown");
}

static void put_response(struct chat_builder *out, const json_t *name, const json_t *result)
{
    begin_response(out, name);
    if (!json_is_object(result))
        chat_put(out, "{value:");
    chat_put_value(out, result, false);
    chat_put(out, json_is_object(result) ? CHAT_TOOL_RESPONSE_END : "}" CHAT_TOOL_RESPONSE_END);
}

// A result in parts: its texts are the value, its media follow.
static void put_response_parts(struct chat_builder *out, const json_t *name, const json_t *parts)
{
    begin_response(out, name);
    chat_put(out, "{value:" CHAT_QUOTE);
    for (size_t i = 0; i < json_array_size(parts); i++)
        chat_put_text(out, json_object_get(json_array_get(parts, i), "text"));
    chat_put(out, CHAT_QUOTE "}" CHAT_TOOL_RESPONSE_END);
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const char *placeholder = placeholder_of(json_array_get(parts, i));
        if (placeholder)
            chat_put(out, placeholder);
    }
}

// Which function a result is of: by the id of the call, by its own name, by its place.
static const json_t *name_of_result(const json_t *calls, const json_t *result, size_t place)
{
    const json_t *id = json_object_get(result, "tool_call_id"), *name = json_object_get(result, "name"),
                 *found = NULL;
    for (size_t i = 0; i < json_array_size(calls) && json_is_string(id); i++) {
        const json_t *call = json_array_get(calls, i);
        if (json_equal(json_object_get(call, "id"), id))
            found = json_object_get(chat_function_of(call), "name");
    }
    if (found || json_string_length(name) || json_is_string(id))
        return found ? found : name;
    return json_object_get(chat_function_of(json_array_get(calls, place)), "name");
}

// The results that belong to the assistant message at `index`; tells whether there are any.
static bool put_responses(struct render *r, size_t index, const json_t *message)
{
    const json_t *own = json_object_get(message, "tool_responses"),
                 *calls = json_object_get(message, "tool_calls");
    for (size_t i = 0; i < json_array_size(own); i++) {
        const json_t *response = json_array_get(own, i);
        put_response(&r->out, json_object_get(response, "name"), json_object_get(response, "response"));
    }
    size_t next = index + 1;
    for (; next < r->n_messages && role_at(r, next) == ROLE_TOOL; next++) {
        const json_t *result = json_array_get(r->messages, next),
                     *content = json_object_get(result, "content");
        const json_t *name = name_of_result(calls, result, next - index - 1);
        if (json_is_array(content))
            put_response_parts(&r->out, name, content);
        else
            put_response(&r->out, name, content);
    }
    return next > index + 1 || json_array_size(own);
}

static void put_reasoning(struct render *r, size_t index, const json_t *message)
{
    const json_t *reasoning = json_object_get(message, "reasoning");
    if (!json_string_length(reasoning))
        reasoning = json_object_get(message, "reasoning_content");
    bool shown = r->options->preserve_thinking && json_array_size(json_object_get(message, "tool_calls"));
    if (!shown) {
        shown = true;
        for (size_t later = index + 1; later < r->n_messages && shown; later++)
            shown = role_at(r, later) != ROLE_USER;
    }
    if (!shown || !json_string_length(reasoning))
        return;
    chat_put(&r->out, CHAT_CHANNEL CHAT_CHANNEL_LEAD);
    chat_put_text(&r->out, reasoning);
    chat_put(&r->out, "\n" CHAT_CHANNEL_END);
}

enum turn { TURN_CLOSED, TURN_AWAITS_RESULT, TURN_AFTER_RESULT, TURN_CONTINUES };

static size_t next_spoken(const struct render *r, size_t index)
{
    while (++index < r->n_messages && role_at(r, index) == ROLE_TOOL)
        ;
    return index;
}

static enum turn put_assistant(struct render *r, size_t index, const json_t *message)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    put_reasoning(r, index, message);
    put_calls(&r->out, calls);
    const bool answered = put_responses(r, index, message);
    const size_t before = r->out.len;
    put_content(&r->out, json_object_get(message, "content"), ROLE_ASSISTANT);
    const bool spoke = r->out.len > before;
    const size_t next = next_spoken(r, index);
    if (json_array_size(calls) && !answered) {
        chat_put(&r->out, CHAT_TOOL_RESPONSE);
        return TURN_AWAITS_RESULT;
    }
    if (next < r->n_messages && role_at(r, next) == ROLE_ASSISTANT)
        return TURN_CONTINUES;
    if (answered && !spoke && next == r->n_messages)
        return TURN_AFTER_RESULT;
    chat_put(&r->out, CHAT_TURN_END "\n");
    return TURN_CLOSED;
}

static enum turn put_messages(struct render *r)
{
    static const char *const openings[] = {[ROLE_SYSTEM] = "<|turn>system\n",
                                           [ROLE_DEVELOPER] = "<|turn>developer\n",
                                           [ROLE_USER] = "<|turn>user\n",
                                           [ROLE_ASSISTANT] = "<|turn>model\n"};
    enum turn turn = TURN_CLOSED;
    enum role before = ROLE_USER;
    for (size_t i = r->first; i < r->n_messages; i = next_spoken(r, i)) {
        const json_t *message = json_array_get(r->messages, i);
        const enum role role = role_at(r, i);
        if (role != ROLE_ASSISTANT || before != ROLE_ASSISTANT)
            chat_put(&r->out, openings[role]);
        if (role == ROLE_ASSISTANT) {
            turn = put_assistant(r, i, message);
        } else {
            put_content(&r->out, json_object_get(message, "content"), role);
            chat_put(&r->out, CHAT_TURN_END "\n");
            turn = TURN_CLOSED;
        }
        before = role;
    }
    return turn;
}

// Tells whether the prompt has opened the thinking channel for the reply.
static bool put_generation_prompt(struct render *r, enum turn turn)
{
    if (turn == TURN_CLOSED) {
        chat_put(&r->out, "<|turn>model\n");
        if (r->options->empty_thought && !r->options->thinking)
            chat_put(&r->out, CHAT_CHANNEL CHAT_CHANNEL_LEAD CHAT_CHANNEL_END);
    }
    const bool opens = turn == TURN_AFTER_RESULT && r->options->thinking;
    if (opens)
        chat_put(&r->out, CHAT_CHANNEL CHAT_CHANNEL_LEAD);
    return opens;
}

int chat_render(struct chat_text *out, const char *conversation_json, const struct lode_chat_options *options,
                struct lode_error *error)
{
    *out = (struct chat_text){0};
    json_error_t json_error;
    json_t *conversation = json_loads(conversation_json, JSON_ALLOW_NUL, &json_error);
    if (!conversation)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the conversation is not JSON: line %d, column %d: %s",
                         json_error.line, json_error.column, json_error.text);
    struct render r = {.options = options, .error = error};
    int rc = check(&r, conversation);
    if (!rc) {
        chat_put(&r.out, "<bos>");
        put_system_turn(&r);
        const enum turn turn = put_messages(&r);
        out->opens_thinking = options->add_generation_prompt && put_generation_prompt(&r, turn);
        if (r.out.failed)
            rc = lode_fail(error, LODE_ERR_MEMORY, "no memory to render the conversation");
    }
    json_decref(conversation);
    if (rc) {
        chat_builder_free(&r.out);
        *out = (struct chat_text){0};
        return rc;
    }
    out->text = r.out.text;
    out->len = r.out.len;
    out->plain = r.out.plain;
    out->n_plain = r.out.n_plain;
    return 0;
}

void chat_text_free(struct chat_text *text)
{
    free(text->text);
    free(text->plain);
    *text = (struct chat_text){0};
}
