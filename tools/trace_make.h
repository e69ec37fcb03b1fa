// `lode trace --make`: its options and what it does.
#ifndef LODE_TOOLS_TRACE_MAKE_H
#define LODE_TOOLS_TRACE_MAKE_H

#include "placement/trace_make.h"
#include "tools/options.h"

struct trace_make_options {
    const char *path; // NULL: nothing is made
    bool given;       // one of the options that go with it
    bool reuse_given, precision_given, conversations_given;
    float skew, reuse, precision;
    struct trace_make make;
};

// What holds without options: the shape of 26B-A4B at Q4_0 and the skew of its recording.
#define TRACE_MAKE_DEFAULTS                                                                                  \
    {                                                                                                        \
        .skew = 0.97f, .make = {                                                                             \
            .n_layers = 30,                                                                                  \
            .n_experts = 128,                                                                                \
            .n_used = 8,                                                                                     \
            .n_tokens = 512,                                                                                 \
            .n_prompt_tokens = 32,                                                                           \
            .n_topics = 1,                                                                                   \
            .expert_bytes = 3345408                                                                          \
        }                                                                                                    \
    }

// The options of the table, for a pointer to struct trace_make_options. --seed is the command's.
#define TRACE_MAKE_COUNT(long_name, pointer, low, high, m)                                                   \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_COUNT, .target = (pointer), .min = (low), .max = (high),         \
        .given = &(m)->given                                                                                 \
    }
#define TRACE_MAKE_SHARE(long_name, pointer, low, high, flag)                                                \
    {                                                                                                        \
        .name = (long_name), .kind = OPTION_NUMBER, .target = (pointer), .min = (low), .max = (high),        \
        .given = (flag)                                                                                      \
    }
#define TRACE_MAKE_OPTIONS(m)                                                                                \
    OPTION_IS_TEXT("make", 0, &(m)->path),                                                                   \
        TRACE_MAKE_COUNT("layers", &(m)->make.n_layers, 1, TRACE_MAX_LAYERS, m),                             \
        TRACE_MAKE_COUNT("experts", &(m)->make.n_experts, 2, TRACE_MAX_EXPERTS, m),                          \
        TRACE_MAKE_COUNT("used", &(m)->make.n_used, 1, TRACE_MAX_USED, m),                                   \
        TRACE_MAKE_COUNT("tokens", &(m)->make.n_tokens, 0, 16777216, m),                                     \
        TRACE_MAKE_COUNT("prompt", &(m)->make.n_prompt_tokens, 0, 16777216, m),                              \
        {.name = "conversations",                                                                            \
         .kind = OPTION_COUNT,                                                                               \
         .target = &(m)->make.n_conversations,                                                               \
         .min = 1,                                                                                           \
         .max = 65536,                                                                                       \
         .given = &(m)->conversations_given},                                                                \
        TRACE_MAKE_COUNT("topics", &(m)->make.n_topics, 1, TRACE_MAKE_MAX_TOPICS, m),                        \
        TRACE_MAKE_SHARE("skew", &(m)->skew, 0, 4, &(m)->given),                                             \
        TRACE_MAKE_SHARE("reuse", &(m)->reuse, 0, 0.99, &(m)->reuse_given),                                  \
        TRACE_MAKE_SHARE("guess-precision", &(m)->precision, 0, 1, &(m)->precision_given),                   \
    {                                                                                                        \
        .name = "expert-bytes", .kind = OPTION_BYTES, .target = &(m)->make.expert_bytes,                     \
        .given = &(m)->given                                                                                 \
    }

// Whether any option but --make itself was given.
static inline bool trace_make_asked(const struct trace_make_options *m)
{
    return m->given || m->reuse_given || m->precision_given || m->conversations_given;
}

// Makes the trace and says so, or why not. Returns an exit code.
int trace_make_run(const struct trace_make_options *options, const char *command, uint64_t seed);

#endif
