// A predictor that is compiled many times, each with one thing wrong, for tests/test_predictor_plugin.c.
#include "predictor.h"

#include <stdlib.h>
#include <string.h>

const struct predictor_ops lode_predictor;

struct broken {
    struct predictor base;
    uint32_t n_experts[3]; // the trial has as many layers
};

static void broken_close(struct predictor *predictor)
{
    free(predictor);
}

static int broken_open(struct predictor **out, const struct predictor_setup *setup, struct lode_error *error)
{
    *out = NULL;
#if defined(OPEN_NOTHING)
    return 0;
#elif defined(OPEN_SILENT)
    return LODE_ERR_MEMORY;
#elif defined(OPEN_FAILS)
    error->code = LODE_ERR_UNSUPPORTED;
    strcpy(error->text, "a few experts are not enough");
    return error->code;
#elif defined(NEEDS_HOST)
    return lode_fail(error, LODE_ERR_ARGUMENT, "a function of the program");
#endif
    struct broken *broken = calloc(1, sizeof *broken);
    if (!broken) {
        strcpy(error->text, "no memory");
        return error->code = LODE_ERR_MEMORY;
    }
#ifndef NO_OPS
    broken->base.ops = &lode_predictor;
#endif
    for (uint32_t l = 0; l < setup->n_layers && l < 3; l++)
        broken->n_experts[l] = setup->n_experts[l];
    *out = &broken->base;
    return 0;
}

#ifndef NO_GUESS
// All experts of the layer in their order, as far as they may be.
static uint32_t broken_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                             uint32_t max)
{
    (void)gate;
    const uint32_t n_experts = ((const struct broken *)predictor)->n_experts[layer];
    uint32_t n = n_experts < max ? n_experts : max;
#ifdef WRITES_BEYOND
    out[max] = 0;
#endif
    for (uint32_t i = 0; i < n; i++)
        out[i] = (int32_t)i;
#if defined(TOO_MANY)
    return max + 1;
#elif defined(TWICE)
    if (n > 1)
        out[n - 1] = 0;
#elif defined(OTHER_LAYERS)
    if (layer == 2 && n == 4) // which the first layer has
        out[3] = 4;
#elif defined(BELOW)
    if (n > 0)
        out[n - 1] = -1;
#endif
    return n;
}
#endif

#ifndef NO_PREDICTOR
__attribute__((visibility("default")))
#else
__attribute__((visibility("hidden"), used))
#endif
const struct predictor_ops lode_predictor = {
#if defined(BAD_NAME)
    .name = "Two Words",
#elif defined(TAKEN_NAME)
    .name = "cooccur",
#elif defined(NONE_NAME)
    .name = "none",
#elif !defined(NO_NAME)
    .name = "broken",
#endif
#ifdef BAD_SUMMARY
    .summary = "one line\nand another",
#else
    .summary = "all of them",
#endif
#ifdef BAD_GATE
    .gate = (enum predictor_gate)(PREDICTOR_GATE_AUTO + 1),
#endif
    .open = broken_open,
    .close = broken_close,
#ifndef NO_GUESS
    .guess = broken_guess,
#endif
};

#if defined(OLD_ABI)
const uint32_t lode_predictor_abi = PREDICTOR_ABI + 41;
#elif !defined(NO_ABI)
const uint32_t lode_predictor_abi = PREDICTOR_ABI;
#endif
