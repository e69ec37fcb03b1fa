// Least frequently used over a long window, counted by blocks of tokens: the oldest block leaves as a whole.
//
//     score(e) = choices of e in the block that fills and the BLOCKS - 1 before it
//
// `lfu` counts its 64 tokens exactly, for which it keeps every choice; a block keeps one number an expert
// whatever its length, so that the window can be long. What is counted is between BLOCKS - 1 and BLOCKS
// blocks. The more recent use breaks ties. As in policy_heat.c, n tokens of a pass count as the root of n, in
// weight and in time: a prompt fills no more than a few blocks.
//
// Measured without time (docs/learned.md, "Policies"): windows of 64, 128 and 256 tokens, and blocks of 8 to
// 64, are within 0.3 points of each other.
#include "placement/policy_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 4, BLOCK_TOKENS = 32 };

struct window_lfu {
    struct policy base;
    uint32_t n_units;
    uint64_t n_uses;
    uint32_t block;      // the one that fills
    double block_tokens; // in it so far, a prompt's damped
    float *count;        // [BLOCKS][n_units]
    double *recency;     // [n_units] of the last use; 0: never
};

static void window_lfu_close(struct policy *policy)
{
    struct window_lfu *window = (struct window_lfu *)policy;
    if (window) {
        free(window->count);
        free(window->recency);
    }
    policy_free(policy);
}

static int window_lfu_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct window_lfu *window;
    *out = NULL;
    int rc = policy_alloc(&window, sizeof *window, &policy_window_lfu, setup, error);
    if (rc)
        return rc;
    window->n_units = setup->n_units;
    window->count = calloc(((size_t)setup->n_units + 1) * BLOCKS, sizeof *window->count);
    window->recency = calloc((size_t)setup->n_units + 1, sizeof *window->recency);
    if (!window->count || !window->recency) {
        window_lfu_close(&window->base);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy 'window-lfu' over %u experts",
                         setup->n_units);
    }
    *out = &window->base;
    return 0;
}

// Summed anew each time: what leaves is not subtracted, so nothing is left of it by rounding.
static void set_score(struct window_lfu *window, uint32_t unit)
{
    double sum = 0;
    for (uint32_t b = 0; b < BLOCKS; b++)
        sum += (double)window->count[(size_t)b * window->n_units + unit];
    window->base.score[unit] = sum + window->recency[unit];
}

static void window_lfu_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct window_lfu *window = (struct window_lfu *)policy;
    window->count[(size_t)window->block * window->n_units + unit] += sqrtf((float)n_tokens);
    window->recency[unit] = policy_recency(++window->n_uses);
    set_score(window, unit);
}

static void window_lfu_pass_end(struct policy *policy, uint32_t n_tokens)
{
    struct window_lfu *window = (struct window_lfu *)policy;
    window->block_tokens += sqrt((double)n_tokens);
    if (window->block_tokens < BLOCK_TOKENS)
        return;
    window->block_tokens = 0;
    window->block = (window->block + 1) % BLOCKS;
    memset(window->count + (size_t)window->block * window->n_units, 0,
           window->n_units * sizeof *window->count);
    for (uint32_t u = 0; u < window->n_units; u++)
        if (window->recency[u] > 0)
            set_score(window, u);
}

const struct policy_ops policy_window_lfu = {
    .name = "window-lfu",
    .summary = "evicts what was chosen least in the last 128 tokens, counted by blocks of 32",
    .open = window_lfu_open,
    .close = window_lfu_close,
    .chosen = window_lfu_chosen,
    .pass_end = window_lfu_pass_end,
};
