// Least frequently used over the last 64 tokens, counted exactly: each pass takes back what leaves the
// window. The more recent use breaks ties.
//
// A prompt's pass that is longer than the window fills it alone, scaled down to 64 tokens; which of its
// tokens chose what is not known.
#include "placement/policy_internal.h"

#include <stdlib.h>

enum { WINDOW_TOKENS = 64, COUNT_ONE = 1024 }; // counts are integers, so that what leaves cancels exactly

struct choice {
    uint32_t unit, n_tokens;
    uint32_t counted; // what it added to the unit's count
};

struct pass {
    uint32_t n_tokens, n_choices;
};

struct lfu {
    struct policy base;
    uint64_t n_uses;
    uint32_t *count; // [n_units]
    double *recency; // [n_units] of the last use

    struct choice *choices; // ring: the passes of the window, oldest first, then the pass that runs
    uint32_t capacity, first_choice, n_choices;

    struct pass passes[WINDOW_TOKENS + 1]; // ring; the last one runs
    uint32_t first_pass, n_passes, window_tokens;
};

static void lfu_close(struct policy *policy)
{
    struct lfu *lfu = (struct lfu *)policy;
    if (lfu) {
        free(lfu->count);
        free(lfu->recency);
        free(lfu->choices);
    }
    policy_free(policy);
}

static int lfu_open(struct policy **out, const struct policy_setup *setup, struct lode_error *error)
{
    struct lfu *lfu;
    *out = NULL;
    int rc = policy_alloc(&lfu, sizeof *lfu, &policy_lfu, setup, error);
    if (rc)
        return rc;
    // Room for 64 tokens of decode and one pass that uses everything.
    const uint64_t per_token = setup->used_per_pass < setup->n_units ? setup->used_per_pass : setup->n_units;
    const uint64_t capacity = WINDOW_TOKENS * per_token + setup->n_units + 1;
    lfu->capacity = (uint32_t)capacity;
    lfu->n_passes = 1;
    lfu->count = calloc((size_t)setup->n_units + 1, sizeof *lfu->count);
    lfu->recency = calloc((size_t)setup->n_units + 1, sizeof *lfu->recency);
    lfu->choices = capacity <= UINT32_MAX ? calloc((size_t)capacity, sizeof *lfu->choices) : NULL;
    if (lfu->count && lfu->recency && lfu->choices) {
        *out = &lfu->base;
        return 0;
    }
    lfu_close(&lfu->base);
    return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy 'lfu' over %u experts",
                     setup->n_units);
}

static void count_add(struct lfu *lfu, uint32_t unit, uint32_t added, uint32_t removed)
{
    lfu->count[unit] += added - removed;
    lfu->base.score[unit] = lfu->count[unit] + lfu->recency[unit];
}

static struct pass *running_pass(struct lfu *lfu)
{
    return &lfu->passes[(lfu->first_pass + lfu->n_passes - 1) % (WINDOW_TOKENS + 1)];
}

static struct choice *choice_at(struct lfu *lfu, uint32_t index)
{
    return &lfu->choices[((uint64_t)lfu->first_choice + index) % lfu->capacity];
}

static void forget_oldest_pass(struct lfu *lfu)
{
    const struct pass *oldest = &lfu->passes[lfu->first_pass];
    for (uint32_t i = 0; i < oldest->n_choices; i++)
        count_add(lfu, choice_at(lfu, i)->unit, 0, choice_at(lfu, i)->counted);
    lfu->first_choice = (uint32_t)(((uint64_t)lfu->first_choice + oldest->n_choices) % lfu->capacity);
    lfu->n_choices -= oldest->n_choices;
    lfu->window_tokens -= oldest->n_tokens;
    lfu->first_pass = (lfu->first_pass + 1) % (WINDOW_TOKENS + 1);
    lfu->n_passes--;
}

static void lfu_chosen(struct policy *policy, uint32_t unit, uint32_t n_tokens)
{
    struct lfu *lfu = (struct lfu *)policy;
    lfu->recency[unit] = policy_recency(++lfu->n_uses);
    while (lfu->n_choices == lfu->capacity && lfu->n_passes > 1)
        forget_oldest_pass(lfu);
    if (lfu->n_choices == lfu->capacity) { // one pass with more choices than there are units
        count_add(lfu, unit, 0, 0);
        return;
    }
    const uint32_t counted = (n_tokens < WINDOW_TOKENS ? n_tokens : WINDOW_TOKENS) * COUNT_ONE;
    *choice_at(lfu, lfu->n_choices++) = (struct choice){unit, n_tokens, counted};
    running_pass(lfu)->n_choices++;
    count_add(lfu, unit, counted, 0);
}

// Only now is it known of how many tokens the counts of a long pass were.
static void scale_down(struct lfu *lfu, const struct pass *pass, uint32_t n_tokens)
{
    for (uint32_t i = lfu->n_choices - pass->n_choices; i < lfu->n_choices; i++) {
        struct choice *choice = choice_at(lfu, i);
        const uint64_t share = (uint64_t)choice->n_tokens * WINDOW_TOKENS * COUNT_ONE / n_tokens;
        const uint32_t counted = share < choice->counted ? (uint32_t)share : choice->counted;
        count_add(lfu, choice->unit, counted, choice->counted);
        choice->counted = counted;
    }
}

static void lfu_pass_end(struct policy *policy, uint32_t n_tokens)
{
    struct lfu *lfu = (struct lfu *)policy;
    if (n_tokens == 0)
        return;
    struct pass *pass = running_pass(lfu);
    if (n_tokens > WINDOW_TOKENS)
        scale_down(lfu, pass, n_tokens);
    pass->n_tokens = n_tokens < WINDOW_TOKENS ? n_tokens : WINDOW_TOKENS;
    lfu->window_tokens += pass->n_tokens;
    while (lfu->window_tokens > WINDOW_TOKENS)
        forget_oldest_pass(lfu);
    lfu->n_passes++;
    *running_pass(lfu) = (struct pass){0};
}

const struct policy_ops policy_lfu = {
    .name = "lfu",
    .summary = "evicts what was chosen least in the last 64 tokens",
    .open = lfu_open,
    .close = lfu_close,
    .chosen = lfu_chosen,
    .pass_end = lfu_pass_end,
};
