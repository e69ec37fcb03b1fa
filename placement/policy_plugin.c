// Policies in shared objects: opened, checked, and tried before a model depends on them.
#include "placement/policy_plugin.h"

#include "placement/plugin.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct policy_plugin {
    void *handle;
    const struct policy_ops *ops;
};

static bool is_taken(const char *name)
{
    return policy_find(name) != NULL;
}

static const struct plugin_kind policy_kind = {
    .noun = "policy",
    .header = "policy.h",
    .abi_symbol = "lode_policy_abi",
    .ops_symbol = "lode_policy",
    .abi = POLICY_ABI,
    .is_taken = is_taken,
};

bool policy_is_path(const char *name)
{
    return plugin_is_path(name);
}

static int check_ops(const struct policy_ops *ops, const char *path, struct lode_error *error)
{
    const struct plugin_member needed[] = {
        {"name", ops->name},   {"summary", ops->summary}, {"open", ops->open},
        {"close", ops->close}, {"chosen", ops->chosen},   {"pass_end", ops->pass_end},
    };
    return plugin_check(path, &policy_kind, needed, sizeof needed / sizeof *needed, ops->name, ops->summary,
                        error);
}

// ---- a trial
// ------------------------------------------------------------------------------------------------

enum { TRIAL_UNITS = 6, TRIAL_LAYERS = 2, TRIAL_SLOTS = 4, TRIAL_PASSES = 3 };

static bool scores_are_finite(const struct policy *policy)
{
    for (uint32_t u = 0; u < TRIAL_UNITS; u++)
        if (!isfinite(policy->score[u]))
            return false;
    return true;
}

static void run_trial(struct policy *policy)
{
    const struct policy_ops *ops = policy->ops;
    for (uint32_t pass = 0; pass < TRIAL_PASSES; pass++) {
        for (uint32_t unit = 0; unit < TRIAL_UNITS; unit += TRIAL_UNITS / TRIAL_LAYERS) {
            if (ops->scored)
                ops->scored(policy, unit, 1);
            ops->chosen(policy, unit, 1);
            if (pass == 0 && ops->admitted)
                ops->admitted(policy, unit);
        }
        ops->pass_end(policy, 1);
    }
    if (ops->evicted)
        ops->evicted(policy, 0);
}

static int check_policy(const struct policy *policy, const struct policy_ops *ops, const char *path,
                        struct lode_error *error)
{
    if (policy->ops != ops)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "policy %s: its open must set ops of struct policy to &lode_policy", path);
    if (!policy->score)
        return lode_fail(error, LODE_ERR_FORMAT, "policy %s: its open must set score of struct policy", path);
    if (!scores_are_finite(policy))
        return lode_fail(error, LODE_ERR_FORMAT, "policy %s: its scores must be finite", path);
    return 0;
}

static int try_policy(const struct policy_ops *ops, const char *path, struct lode_error *error)
{
    static const uint32_t layer[TRIAL_UNITS] = {0, 0, 0, 1, 1, 1};
    const struct policy_setup setup = {
        .n_units = TRIAL_UNITS,
        .n_layers = TRIAL_LAYERS,
        .n_slots = TRIAL_SLOTS,
        .layer = layer,
        .used_per_pass = TRIAL_LAYERS,
    };
    struct policy *policy = NULL;
    struct lode_error cause = {0};
    int rc = ops->open(&policy, &setup, &cause);
    if (rc || !policy)
        return plugin_open_failed(path, &policy_kind, rc, &cause, error);
    rc = check_policy(policy, ops, path, error);
    if (rc) {
        ops->close(policy);
        return rc;
    }
    run_trial(policy);
    rc = check_policy(policy, ops, path, error);
    ops->close(policy);
    return rc;
}

// ---- opening
// ------------------------------------------------------------------------------------------------

static int open_policy(struct policy_plugin *plugin, const char *path, struct lode_error *error)
{
    const void *ops;
    int rc = plugin_open(&plugin->handle, &ops, path, &policy_kind, error);
    if (rc)
        return rc;
    plugin->ops = ops;
    rc = check_ops(plugin->ops, path, error);
    return rc ? rc : try_policy(plugin->ops, path, error);
}

int policy_plugin_open(struct policy_plugin **out, const char *path, struct lode_error *error)
{
    struct lode_error own = {0};
    if (!error)
        error = &own;
    *out = NULL;
    struct policy_plugin *plugin = calloc(1, sizeof *plugin);
    if (!plugin)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open the policy %s", path);
    int rc = open_policy(plugin, path, error);
    if (rc) {
        policy_plugin_close(plugin);
        return rc;
    }
    *out = plugin;
    return 0;
}

void policy_plugin_close(struct policy_plugin *plugin)
{
    if (!plugin)
        return;
    plugin_close(plugin->handle);
    free(plugin);
}

const struct policy_ops *policy_plugin_ops(const struct policy_plugin *plugin)
{
    return plugin->ops;
}

int policy_open_named(const struct policy_ops **out, struct policy_plugin **out_plugin, const char *name,
                      struct lode_error *error)
{
    *out = NULL;
    *out_plugin = NULL;
    if (policy_is_path(name)) {
        int rc = policy_plugin_open(out_plugin, name, error);
        if (!rc)
            *out = policy_plugin_ops(*out_plugin);
        return rc;
    }
    *out = policy_find(name);
    return *out ? 0 : lode_fail(error, LODE_ERR_ARGUMENT, "there is no policy called '%s'", name);
}
