// The slowest tokens of a session and what they waited for.
#ifndef LODE_TOOLS_STALLS_H
#define LODE_TOOLS_STALLS_H

#include "core/lode.h"

#include <stddef.h>

// The tokens that took longer than the p99, slowest first; malloc'ed, *out_count of them. NULL when there are
// none, or no memory for them.
struct lode_slow_token *stalls_slow_tokens(const struct lode_session *session, size_t *out_count);

// A table of them on stderr.
void stalls_explain(const char *command, const struct lode_session *session);

#endif
