// Slow tokens as a table. A mean hides them: at nine tokens a second one that takes half a second is what a
// reader notices.
#include "tools/stalls.h"

#include "tools/message.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { TABLE_ROWS = 20 };

// Of n latencies at most n / 100, rounded up, lie above the p99.
static size_t most_slow_tokens(const struct lode_stats *stats)
{
    return (size_t)(stats->generated_tokens / 100 + 1);
}

struct lode_slow_token *stalls_slow_tokens(const struct lode_session *session, size_t *out_count)
{
    struct lode_stats stats;
    lode_session_stats(session, &stats);
    const size_t most = most_slow_tokens(&stats);
    struct lode_slow_token *tokens = calloc(most, sizeof *tokens);
    *out_count = tokens ? lode_session_slow_tokens(session, tokens, most) : 0;
    if (*out_count)
        return tokens;
    free(tokens);
    return NULL;
}

static void print_row(const struct lode_slow_token *token)
{
    if (token->worst[0])
        fprintf(stderr, "%8" PRIu64 " %9.1f %9.1f %9.1f  %s\n", token->index, token->ms, token->stall_ms,
                token->worst_stall_ms, token->worst);
    else
        fprintf(stderr, "%8" PRIu64 " %9.1f %9.1f %9s  nothing\n", token->index, token->ms, token->stall_ms,
                "-");
}

void stalls_explain(const char *command, const struct lode_session *session)
{
    struct lode_stats stats;
    lode_session_stats(session, &stats);
    size_t count;
    struct lode_slow_token *tokens = stalls_slow_tokens(session, &count);
    if (!count) {
        message_note(command, "no token was slower than the p99 of %.1f ms", stats.token_ms_p99);
        return;
    }
    message_note(command, "tokens slower than the p99 of %.1f ms, and what they waited for longest:",
                 stats.token_ms_p99);
    fprintf(stderr, "%8s %9s %9s %9s  %s\n", "token", "ms", "stall ms", "worst ms", "waited for");
    for (size_t i = 0; i < count && i < TABLE_ROWS; i++)
        print_row(&tokens[i]);
    if (count > TABLE_ROWS)
        message_note(command, "and %zu more; --stats has them all", count - TABLE_ROWS);
    free(tokens);
}
