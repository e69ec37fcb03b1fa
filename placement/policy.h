// Policies: which unit of a pool leaves when another must come in.
//
// A policy keeps one score for each unit of the pool's table; the residency evicts the resident unit with the
// lowest score that nobody uses. A unit that comes in with the lowest score of all is therefore the next to
// leave: refusing admission needs no rule of its own. Scores change only in the calls below, so that a victim
// is found by one walk over an array.
//
// A policy is one C file with one struct policy_ops, listed in policy.c, or a shared object that is opened at
// run time (policy_plugin.h; docs/writing-a-policy.md). It knows layers and units, not files, models or
// devices, and is called from one thread. No call but open allocates.
//
// This header and lode_error.h are all that a shared object needs; it links nothing of the program.
#ifndef LODE_POLICY_H
#define LODE_POLICY_H

#include "lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Grows with every change of what stands below. A shared object exports
//     const uint32_t lode_policy_abi = POLICY_ABI;
//     const struct policy_ops lode_policy = {…};
#define POLICY_ABI 1

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

    // 0, or a negative code of lode_error.h, and then `error` is filled, which is never NULL, and *out is
    // NULL. What `setup` points to is gone when the call returns.
    int (*open)(struct policy **out, const struct policy_setup *setup, struct lode_error *error);
    void (*close)(struct policy *policy);

    // The router chose the unit for n_tokens of the pass, whether it is resident or not.
    void (*chosen)(struct policy *policy, uint32_t unit, uint32_t n_tokens);
    // All layers have been through a pass of n_tokens.
    void (*pass_end)(struct policy *policy, uint32_t n_tokens);
    // The unit has come into the pool, or left it. May be NULL.
    void (*admitted)(struct policy *policy, uint32_t unit);
    void (*evicted)(struct policy *policy, uint32_t unit);
    // What the router thinks of the unit, before it is `chosen`: the sum of its weights over the tokens of
    // the pass that choose it, in their order, each rounded to a half float as traces keep it, so that a
    // replay tells the same. Not called where the weights are unknown. May be NULL.
    void (*scored)(struct policy *policy, uint32_t unit, float weight);
};

// A policy embeds this as its first member.
struct policy {
    const struct policy_ops *ops;
    double *score; // [n_units], the policy's, finite; read by the residency
};

// By name, NULL when there is none; and all of them in the order of the table, which ends with NULL. The
// first is the default.
const struct policy_ops *policy_find(const char *name);
extern const struct policy_ops *const policy_table[];

#endif
