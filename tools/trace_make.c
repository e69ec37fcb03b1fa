// A made-up trace of the options.
#include "tools/trace_make.h"

#include "core/lode.h"
#include "tools/command.h"
#include "tools/message.h"

#include <inttypes.h>

int trace_make_run(const struct trace_make_options *options, const char *command, uint64_t seed)
{
    struct lode_error error = {0};
    struct trace_make make = options->make;
    make.skew = (double)options->skew;
    make.reuse = options->reuse_given ? (double)options->reuse : -1;
    make.guess_precision = options->precision_given ? (double)options->precision : -1;
    make.n_conversations = options->conversations_given ? make.n_conversations : make.n_topics;
    make.seed = seed;
    make.lode_version = lode_version();
    const int code = trace_make(options->path, &make, &error);
    if (code == LODE_ERR_ARGUMENT)
        return message_usage(command, "%s", error.text);
    if (code)
        return message_failed(command, &error);
    message_note(command, "%s: %u conversation%s, %" PRIu64 " tokens", options->path, make.n_conversations,
                 make.n_conversations == 1 ? "" : "s",
                 (uint64_t)make.n_conversations * ((uint64_t)make.n_prompt_tokens + make.n_tokens));
    return EXIT_OK;
}
