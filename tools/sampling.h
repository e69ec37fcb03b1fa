// The options that say how the next token is drawn, common to `run` and `chat`.
#ifndef LODE_TOOLS_SAMPLING_H
#define LODE_TOOLS_SAMPLING_H

#include "core/lode.h"
#include "tools/options.h"

struct sampling_options {
    struct lode_sampling sampling; // its biases are `biases`
    struct lode_logit_bias *biases;
    bool seed_given;
};

// Entries of an option table; `s` is a struct sampling_options.
#define SAMPLING_OPTIONS(s)                                                                                  \
    OPTION_IS_NUMBER("temp", &(s).sampling.temperature, 0, 100),                                             \
        OPTION_IS_COUNT("top-k", 0, &(s).sampling.top_k, 0, UINT32_MAX),                                     \
        OPTION_IS_NUMBER("top-p", &(s).sampling.top_p, 0, 1),                                                \
        OPTION_IS_NUMBER("min-p", &(s).sampling.min_p, 0, 1),                                                \
        OPTION_IS_NUMBER("repeat-penalty", &(s).sampling.repetition_penalty, 0.01, 100),                     \
        OPTION_IS_COUNT("repeat-window", 0, &(s).sampling.repetition_window, 0, UINT32_MAX),                 \
        {.name = "seed", .kind = OPTION_SEED, .target = &(s).sampling.seed, .given = &(s).seed_given},       \
    {                                                                                                        \
        .name = "logit-bias", .kind = OPTION_CALL, .target = &(s), .parse = sampling_parse_bias              \
    }

void sampling_begin(struct sampling_options *options); // the model's defaults
void sampling_free(struct sampling_options *options);
bool sampling_parse_bias(void *target, const char *value, char *reason, size_t capacity); // ID=VALUE

// Draws a seed where none was given. 32 bits, so that it can be read aloud and typed again.
void sampling_settle_seed(struct sampling_options *options);

#endif
