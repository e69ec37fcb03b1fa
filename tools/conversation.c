// Messages in and out of JSON.
#include "tools/conversation.h"

#include "tools/json_out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int out_of_memory(struct lode_error *error)
{
    return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the conversation");
}

int conversation_begin(struct conversation *conversation, struct lode_error *error)
{
    conversation->messages = json_array();
    return conversation->messages ? LODE_OK : out_of_memory(error);
}

void conversation_free(struct conversation *conversation)
{
    json_decref(conversation->messages);
    conversation->messages = NULL;
}

static json_t *message_new(const char *role, const char *text, size_t len)
{
    json_t *content = json_out_text(text, len);
    return content ? json_pack("{s:s,s:o}", "role", role, "content", content) : NULL;
}

static const char *role_at(const struct conversation *conversation, size_t index)
{
    const char *role =
        json_string_value(json_object_get(json_array_get(conversation->messages, index), "role"));
    return role ? role : "";
}

static bool has_system(const struct conversation *conversation)
{
    return strcmp(role_at(conversation, 0), "system") == 0;
}

int conversation_set_system(struct conversation *conversation, const char *text, struct lode_error *error)
{
    if (has_system(conversation))
        json_array_remove(conversation->messages, 0);
    if (!text[0])
        return LODE_OK;
    json_t *message = message_new("system", text, strlen(text));
    return json_array_insert_new(conversation->messages, 0, message) == 0 ? LODE_OK : out_of_memory(error);
}

int conversation_add(struct conversation *conversation, const char *role, const char *text, size_t len,
                     struct lode_error *error)
{
    json_t *message = message_new(role, text, len);
    return json_array_append_new(conversation->messages, message) == 0 ? LODE_OK : out_of_memory(error);
}

// The reply may hold half characters, as when Ctrl-C fell between two byte tokens.
int conversation_add_reply(struct conversation *conversation, const char *reply, size_t len,
                           bool starts_thinking, struct lode_error *error)
{
    json_t *clean = json_out_text(reply, len);
    if (!clean)
        return out_of_memory(error);
    char *parsed = NULL;
    int code =
        lode_chat_parse(&parsed, json_string_value(clean), json_string_length(clean), starts_thinking, error);
    json_decref(clean);
    if (code)
        return code;
    json_t *message = json_loads(parsed, JSON_ALLOW_NUL, NULL);
    free(parsed);
    return json_array_append_new(conversation->messages, message) == 0 ? LODE_OK : out_of_memory(error);
}

void conversation_drop_last(struct conversation *conversation)
{
    size_t count = json_array_size(conversation->messages);
    if (count)
        json_array_remove(conversation->messages, count - 1);
}

void conversation_clear(struct conversation *conversation)
{
    size_t keep = has_system(conversation) ? 1 : 0;
    while (json_array_size(conversation->messages) > keep)
        conversation_drop_last(conversation);
}

size_t conversation_turns(const struct conversation *conversation)
{
    size_t turns = 0;
    for (size_t i = 0; i < json_array_size(conversation->messages); i++)
        turns += strcmp(role_at(conversation, i), "user") == 0;
    return turns;
}

bool conversation_drop_oldest(struct conversation *conversation)
{
    if (conversation_turns(conversation) < 2)
        return false;
    size_t first = has_system(conversation) ? 1 : 0;
    do
        json_array_remove(conversation->messages, first);
    while (strcmp(role_at(conversation, first), "user") != 0);
    return true;
}

int conversation_encode(const struct conversation *conversation, const struct lode_tokenizer *tokenizer,
                        const struct lode_chat_options *options, int32_t **out_ids, size_t *out_count,
                        bool *out_starts_thinking, struct lode_error *error)
{
    json_t *object = json_pack("{s:O}", "messages", conversation->messages);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return out_of_memory(error);
    int code = lode_chat_encode(tokenizer, text, options, out_ids, out_count, out_starts_thinking, error);
    free(text);
    return code;
}

int conversation_save(const struct conversation *conversation, const char *path, struct lode_error *error)
{
    FILE *file = fopen(path, "we");
    if (!file)
        return lode_fail(error, LODE_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    int failed = json_out_print(file, json_pack("{s:O}", "messages", conversation->messages));
    if (fclose(file) != 0)
        failed = 1;
    return failed ? lode_fail(error, LODE_ERR_IO, "cannot write %s: %s", path, strerror(errno)) : LODE_OK;
}
