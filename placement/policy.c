// The table of policies. A new one is a file of its own and a line here.
#include "placement/policy.h"

#include "placement/policy_internal.h"

#include <stdlib.h>
#include <string.h>

const struct policy_ops *const policy_table[] = {
    &policy_heat,      &policy_lfu, &policy_window_lfu, &policy_lfru,     &policy_mrs, &policy_least_stale,
    &policy_layer_lru, &policy_lru, &policy_static,     &policy_by_layer, NULL,
};

const struct policy_ops *policy_find(const char *name)
{
    for (size_t i = 0; policy_table[i]; i++)
        if (strcmp(policy_table[i]->name, name) == 0)
            return policy_table[i];
    return NULL;
}

int policy_alloc(void *out, size_t size_bytes, const struct policy_ops *ops, const struct policy_setup *setup,
                 struct lode_error *error)
{
    struct policy **result = out;
    *result = NULL;
    struct policy *policy = calloc(1, size_bytes);
    double *score = calloc((size_t)setup->n_units + 1, sizeof *score); // calloc(0) may be NULL
    if (!policy || !score) {
        free(policy);
        free(score);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the policy '%s' over %u experts", ops->name,
                         setup->n_units);
    }
    for (uint32_t u = 0; u < setup->n_units; u++)
        score[u] = setup->heat ? (double)setup->heat[u] - 1 : -1;
    policy->ops = ops;
    policy->score = score;
    *result = policy;
    return 0;
}

void policy_free(struct policy *policy)
{
    if (!policy)
        return;
    free(policy->score);
    free(policy);
}
