// Where a chat's turns come from: a terminal with line editing and history, or plain lines of a pipe.
//
// A turn is one line. A backslash at its end goes on in the next line; a line that begins with """ opens a
// block that a line ending in """ closes.
#ifndef LODE_TOOLS_CHAT_INPUT_H
#define LODE_TOOLS_CHAT_INPUT_H

#include "core/lode.h"
#include "tools/text.h"

#include <stdbool.h>

struct chat_input;

enum chat_input_event {
    CHAT_INPUT_TURN,
    CHAT_INPUT_END,         // Ctrl-D, or the end of the file
    CHAT_INPUT_INTERRUPTED, // Ctrl-C, with something typed that is now dropped
    CHAT_INPUT_BORED,       // Ctrl-C at an empty prompt
    CHAT_INPUT_FAILED,
};

// With a terminal on stdin and stdout, lines are edited there. That the history cannot be kept is only a
// note.
int chat_input_open(struct chat_input **out, const char *command, struct lode_error *error);
void chat_input_close(struct chat_input *input); // writes the history

bool chat_input_is_terminal(const struct chat_input *input);

// Reads a turn. *out_literal: it came from a block, so that it is no command even if it begins with a slash.
enum chat_input_event chat_input_next(struct chat_input *input, struct text *out, bool *out_literal);

#endif
