// The inside of an engine, for the sessions that run on it.
#ifndef LODE_ENGINE_H
#define LODE_ENGINE_H

#include "core/forward.h"
#include "core/lode.h"
#include "core/tokenizer_api.h"

struct lode_engine {
    struct gemma_model model;
    struct lode_shape shape;
    struct lode_tokenizer *tokenizer;
    struct io *io;
    struct lode_device *device;
    struct residency *residency;
    struct forward_weights weights;
    struct lode_logit_bias *suppressed; // tokens that the file says must never be sampled
    size_t n_suppressed;
    double load_s;
};

// Memory that an allocation may still take, and what stays free for the rest of the system. 0 where the
// machine does not tell: then nothing is refused.
uint64_t engine_available_bytes(void);

#endif
