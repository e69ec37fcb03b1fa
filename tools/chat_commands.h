// The state of a chat, and the commands that people type into it.
#ifndef LODE_TOOLS_CHAT_COMMANDS_H
#define LODE_TOOLS_CHAT_COMMANDS_H

#include "core/lode.h"
#include "tools/chat_input.h"
#include "tools/conversation.h"
#include "tools/model.h"
#include "tools/model_plan.h"
#include "tools/reply.h"
#include "tools/sampling.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chat {
    struct model_options model;
    struct model_plan plan;
    struct sampling_options sampling;
    const char *system; // of the command line
    uint32_t max_tokens;
    bool think, drop_oldest;

    struct lode_engine *engine;
    struct lode_session *session;
    struct conversation conversation;
    struct chat_input *input;
    int32_t *timeline; // the session's tokens, as far as we know them
    size_t n_timeline;
    uint64_t n_answers;
    enum lode_stop stop; // of the last answer
    bool failed, output_failed;
};

bool chat_is_terminal(const struct chat *chat);

// Carries out a line that begins with a slash. False: the chat is over.
bool chat_command(struct chat *chat, const char *line);

#endif
