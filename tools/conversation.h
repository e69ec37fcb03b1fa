// The messages of a chat, as the JSON that the library renders.
#ifndef LODE_TOOLS_CONVERSATION_H
#define LODE_TOOLS_CONVERSATION_H

#include "core/lode.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conversation {
    json_t *messages; // array; a system message, if there is one, is the first
};

int conversation_begin(struct conversation *conversation, struct lode_error *error);
void conversation_free(struct conversation *conversation);

// Puts the system message in front, replaces it, or removes it where the text is empty.
int conversation_set_system(struct conversation *conversation, const char *text, struct lode_error *error);

int conversation_add(struct conversation *conversation, const char *role, const char *text, size_t len,
                     struct lode_error *error);

// Adds the model's reply: complete, special tokens shown.
int conversation_add_reply(struct conversation *conversation, const char *reply, size_t len,
                           bool starts_thinking, struct lode_error *error);

void conversation_drop_last(struct conversation *conversation);
void conversation_clear(struct conversation *conversation); // the system message stays

// Removes the oldest question with all that answered it; false when only the last question is left.
bool conversation_drop_oldest(struct conversation *conversation);

size_t conversation_turns(const struct conversation *conversation); // messages of the user

int conversation_encode(const struct conversation *conversation, const struct lode_tokenizer *tokenizer,
                        const struct lode_chat_options *options, int32_t **out_ids, size_t *out_count,
                        bool *out_starts_thinking, struct lode_error *error);

// Writes {"messages":[…]} to a file.
int conversation_save(const struct conversation *conversation, const char *path, struct lode_error *error);

#endif
