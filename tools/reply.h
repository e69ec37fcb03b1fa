// What a model says while it says it: shown on stdout as it comes, and kept for whoever needs it afterwards.
//
// Reasoning is shown dimmed on a terminal and left out elsewhere, so that a pipe carries the answer alone.
#ifndef LODE_TOOLS_REPLY_H
#define LODE_TOOLS_REPLY_H

#include "core/lode.h"
#include "tools/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reply {
    int32_t *ids; // every generated token, an end token included
    size_t n_ids, capacity;
    struct text content, reasoning; // with `collect`
    bool show, collect;
    bool terminal; // of stdout
    int failure;   // errno of what stopped the showing or keeping; 0: nothing did
    enum lode_part part;
    char last_shown;
};

// `capacity`: the most tokens that can come, the size of the context. False: out of memory.
bool reply_begin(struct reply *reply, size_t capacity, bool show, bool collect);
void reply_free(struct reply *reply);

// A lode_token_fn whose user is a struct reply; an id of -1 brings text without a token. Stops the generation
// on Ctrl-C, on SIGTERM and when stdout cannot be written.
bool reply_on_token(void *user, int32_t id, enum lode_part part, const char *text, size_t len);

// Tells what stopped the showing, if anything did, and takes the mark off stdout, so that it is told once.
// Returns the exit code.
int reply_tell_failure(const struct reply *reply, const char *command);

// Leaves a terminal at the beginning of a line in its normal colours. A pipe gets a newline only where the
// caller has several answers to keep apart.
void reply_finish(struct reply *reply, bool several);

#endif
