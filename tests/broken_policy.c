// A policy that is compiled many times, each with one thing wrong, for tests/test_plugin.c; and once with
// nothing wrong, to count what it is told.
#include "policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct policy_ops lode_policy;

#ifdef COUNTS
// Of the process. A choice is weighed when `scored` told of its unit before, in the same turn.
uint64_t counted_scored, counted_chosen, counted_weighed;
double counted_weight;
static uint32_t waiting[4096];

static void count_scored(struct policy *policy, uint32_t unit, float weight)
{
    (void)policy;
    waiting[unit]++;
    counted_scored++;
    counted_weight += (double)weight;
}
#endif

static void broken_close(struct policy *policy)
{
    free(policy->score);
    free(policy);
}

static int broken_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    *out = NULL;
#if defined(OPEN_NOTHING)
    return 0;
#elif defined(OPEN_SILENT)
    return LODE_ERR_MEMORY;
#elif defined(OPEN_FAILS)
    error->code = LODE_ERR_UNSUPPORTED;
    strcpy(error->text, "six experts are not enough");
    return error->code;
#elif defined(NEEDS_HOST)
    return lode_fail(error, LODE_ERR_ARGUMENT, "a function of the program");
#endif
    struct policy *policy = calloc(1, sizeof *policy);
    double *score = calloc(setup->n_units + 1u, sizeof *score);
    if (!policy || !score) {
        free(policy);
        free(score);
        strcpy(error->text, "no memory");
        return error->code = LODE_ERR_MEMORY;
    }
#ifndef NO_OPS
    policy->ops = &lode_policy;
#endif
#ifdef NO_SCORE
    free(score);
#else
    policy->score = score;
#endif
    *out = policy;
    return 0;
}

#ifndef NO_CHOSEN
static void broken_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
#ifdef NOT_FINITE
    policy->score[unit] = log(-(double)n_tokens);
#else
    policy->score[unit] += n_tokens;
#endif
#ifdef COUNTS
    counted_chosen++;
    counted_weighed += waiting[unit] == 1;
    waiting[unit] = 0;
#endif
}
#endif

static void broken_pass_end(struct policy *policy, uint32_t n_tokens)
{
    (void)policy, (void)n_tokens;
}

#ifndef NO_POLICY
__attribute__((visibility("default")))
#else
__attribute__((visibility("hidden"), used))
#endif
const struct policy_ops lode_policy = {
#if defined(BAD_NAME)
    .name = "Two Words",
#elif defined(TAKEN_NAME)
    .name = "heat",
#elif !defined(NO_NAME)
    .name = "broken",
#endif
#ifdef BAD_SUMMARY
    .summary = "one line\nand another",
#else
    .summary = "a count",
#endif
    .open = broken_open,
    .close = broken_close,
#ifndef NO_CHOSEN
    .chosen = broken_chosen,
#endif
    .pass_end = broken_pass_end,
#ifdef COUNTS
    .scored = count_scored,
#endif
};

#if defined(OLD_ABI)
const uint32_t lode_policy_abi = POLICY_ABI + 41;
#elif !defined(NO_ABI)
const uint32_t lode_policy_abi = POLICY_ABI;
#endif
