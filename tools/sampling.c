// Sampling options: logit biases and seeds; the rest is in the table.
#include "tools/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

void sampling_begin(struct sampling_options *options)
{
    options->sampling = lode_sampling_default();
    options->biases = NULL;
    options->seed_given = false;
}

void sampling_free(struct sampling_options *options)
{
    free(options->biases);
    options->biases = NULL;
}

static bool append_bias(struct sampling_options *options, struct lode_logit_bias bias)
{
    size_t count = options->sampling.n_biases;
    struct lode_logit_bias *grown = realloc(options->biases, (count + 1) * sizeof *grown);
    if (!grown)
        return false;
    grown[count] = bias;
    options->biases = grown;
    options->sampling.biases = grown;
    options->sampling.n_biases = count + 1;
    return true;
}

bool sampling_parse_bias(void *target, const char *value, char *reason, size_t capacity)
{
    struct sampling_options *options = target;
    char *end = NULL;
    long id = value[0] >= '0' && value[0] <= '9' ? strtol(value, &end, 10) : -1;
    if (id < 0 || id > INT32_MAX || *end != '=') {
        snprintf(reason, capacity, "must be ID=VALUE, a token id and what is added to its logit");
        return false;
    }
    const char *number = end + 1;
    float bias = strtof(number, &end);
    if (end == number || *end || isnan(bias) || (isinf(bias) && bias > 0)) {
        snprintf(reason, capacity, "the value behind '=' must be a finite number, or -inf to ban the token");
        return false;
    }
    if (append_bias(options, (struct lode_logit_bias){.id = (int32_t)id, .bias = bias}))
        return true;
    snprintf(reason, capacity, "not enough memory");
    return false;
}

void sampling_settle_seed(struct sampling_options *options)
{
    if (options->seed_given)
        return;
    uint32_t seed;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = (uint32_t)time(NULL) * 2654435761u;
    options->sampling.seed = seed;
}
