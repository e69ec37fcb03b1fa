// Policies: which unit of a pool leaves when another must come in.
//
// A policy keeps one score for each unit of the pool's table; the residency evicts the resident unit with the
// lowest score that nobody uses. A unit that comes in with the lowest score of all is therefore the next to
// leave: refusing admission needs no rule of its own. Scores change only in the calls below, so that a victim
// is found by one walk over an array.
//
// A policy is one C file with one struct policy_ops, listed in policy.c. It knows layers and units, not
// files, models or devices, and is called from one thread. No call but open allocates.
#ifndef LODE_POLICY_H
#define LODE_POLICY_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Units of the pool are numbered from 0, layer after layer.
struct policy_setup {
    uint32_t n_units, n_layers, n_slots; // slots: how many units the pool can hold
    const uint32_t *layer;               // [n_units]
    uint32_t used_per_pass;              // units that one token uses: layers * k
    const float *heat; // [n_units] from earlier runs, the mean number of choices a token; NULL: unknown
};

struct policy;

struct policy_ops {
    const char *name;
    const char *summary; // one line: the rule and its source
    bool by_layer;       // victims come from the layer that needs the slot once it has its equal share

    int (*open)(struct policy **out, const struct policy_setup *setup, struct lode_error *error);
    void (*close)(struct policy *policy);

    // The router chose the unit for n_tokens of the pass, whether it is resident or not.
    void (*chosen)(struct policy *policy, uint32_t unit, uint32_t n_tokens);
    // All layers have been through a pass of n_tokens.
    void (*pass_end)(struct policy *policy, uint32_t n_tokens);
    // The unit has come into the pool, or left it. May be NULL.
    void (*admitted)(struct policy *policy, uint32_t unit);
    void (*evicted)(struct policy *policy, uint32_t unit);
};

// A policy embeds this as its first member.
struct policy {
    const struct policy_ops *ops;
    double *score; // [n_units], the policy's; read by the residency
};

// By name, NULL when there is none; and all of them in the order of the table, which ends with NULL. The
// first is the default.
const struct policy_ops *policy_find(const char *name);
extern const struct policy_ops *const policy_table[];

#endif
