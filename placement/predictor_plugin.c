// Predictors in shared objects: opened, checked, and tried before a model depends on them.
#include "placement/predictor_plugin.h"

#include "placement/plugin.h"

#include <stdlib.h>
#include <string.h>

struct predictor_plugin {
    void *handle;
    const struct predictor_ops *ops;
};

// "none" is what prefetch that is switched off is called.
static bool is_taken(const char *name)
{
    return predictor_find(name) != NULL || strcmp(name, "none") == 0;
}

static const struct plugin_kind predictor_kind = {
    .noun = "predictor",
    .header = "predictor.h",
    .abi_symbol = "lode_predictor_abi",
    .ops_symbol = "lode_predictor",
    .abi = PREDICTOR_ABI,
    .is_taken = is_taken,
};

bool predictor_is_path(const char *name)
{
    return plugin_is_path(name);
}

static int check_ops(const struct predictor_ops *ops, const char *path, struct lode_error *error)
{
    const struct plugin_member needed[] = {
        {"name", ops->name},   {"summary", ops->summary}, {"open", ops->open},
        {"close", ops->close}, {"guess", ops->guess},
    };
    int rc = plugin_check(path, &predictor_kind, needed, sizeof needed / sizeof *needed, ops->name,
                          ops->summary, error);
    if (!rc && (unsigned)ops->gate > PREDICTOR_GATE_AUTO)
        rc = lode_fail(error, LODE_ERR_FORMAT, "predictor %s: lode_predictor.gate is none of predictor.h",
                       path);
    return rc;
}

// ---- a trial
// ------------------------------------------------------------------------------------------------

// Layer 1 has no experts. A guess for more experts than there are must still name each of them once.
enum {
    TRIAL_LAYERS = 3,
    TRIAL_EXPERTS = 5,
    TRIAL_USED = 2,
    TRIAL_ROOM = 32,
    TRIAL_TOKENS = 4,
    UNTOUCHED = -77
};
static const uint32_t trial_experts[TRIAL_LAYERS] = {TRIAL_EXPERTS, 0, 4};

static int check_guess(const int32_t *named, uint32_t n, uint32_t n_experts, uint32_t max, const char *path,
                       struct lode_error *error)
{
    if (n > max)
        return lode_fail(error, LODE_ERR_FORMAT, "predictor %s: its guess names %u experts of at most %u",
                         path, n, max);
    for (uint32_t i = max; i < TRIAL_ROOM; i++)
        if (named[i] != UNTOUCHED)
            return lode_fail(error, LODE_ERR_FORMAT, "predictor %s: its guess writes beyond max", path);
    for (uint32_t i = 0; i < n; i++) {
        if (named[i] < 0 || (uint32_t)named[i] >= n_experts)
            return lode_fail(error, LODE_ERR_FORMAT,
                             "predictor %s: its guess names expert %d of a layer with %u", path,
                             (int)named[i], n_experts);
        for (uint32_t j = 0; j < i; j++)
            if (named[j] == named[i])
                return lode_fail(error, LODE_ERR_FORMAT, "predictor %s: its guess names expert %d twice",
                                 path, (int)named[i]);
    }
    return 0;
}

// With every `max` from none to one more than there are experts; without a gate, all have none to offer.
static int try_guesses(struct predictor *predictor, uint32_t layer, const char *path,
                       struct lode_error *error)
{
    static const int32_t gate[TRIAL_EXPERTS] = {3, 0, 2, 1, 4};
    const uint32_t n_experts = trial_experts[layer];
    const bool gated = predictor->ops->gate != PREDICTOR_NO_GATE;
    int rc = 0;
    for (uint32_t max = 0; max <= n_experts + !gated && !rc; max++) {
        int32_t named[TRIAL_ROOM];
        for (uint32_t i = 0; i < TRIAL_ROOM; i++)
            named[i] = UNTOUCHED;
        const uint32_t n = predictor->ops->guess(predictor, layer, gated && max ? gate : NULL, named, max);
        rc = check_guess(named, n, n_experts, max, path, error);
    }
    return rc;
}

static int run_trial(struct predictor *predictor, const char *path, struct lode_error *error)
{
    const struct predictor_ops *ops = predictor->ops;
    int rc = 0;
    for (int32_t token = 0; token < TRIAL_TOKENS && !rc; token++) {
        if (token % 2 == 0 && ops->restart)
            ops->restart(predictor);
        for (uint32_t layer = 0; layer < TRIAL_LAYERS && !rc; layer++) {
            if (!trial_experts[layer])
                continue;
            rc = try_guesses(predictor, layer, path, error);
            const int32_t chosen[TRIAL_USED] = {3 - token % 3, 0};
            if (!rc && ops->chosen)
                ops->chosen(predictor, layer, chosen, TRIAL_USED);
        }
        if (!rc && ops->pass_end)
            ops->pass_end(predictor, 1);
    }
    return rc;
}

static int try_predictor(const struct predictor_ops *ops, const float *heat, const char *path,
                         struct lode_error *error)
{
    const struct predictor_setup setup = {
        .n_layers = TRIAL_LAYERS, .n_experts = trial_experts, .n_used = TRIAL_USED, .heat = heat};
    struct predictor *predictor = NULL;
    struct lode_error cause = {0};
    int rc = ops->open(&predictor, &setup, &cause);
    if (rc || !predictor)
        return plugin_open_failed(path, &predictor_kind, rc, &cause, error);
    if (predictor->ops == ops)
        rc = run_trial(predictor, path, error);
    else
        rc = lode_fail(error, LODE_ERR_FORMAT,
                       "predictor %s: its open must set ops of struct predictor to &lode_predictor", path);
    ops->close(predictor);
    return rc;
}

// ---- opening
// ------------------------------------------------------------------------------------------------

static int open_predictor(struct predictor_plugin *plugin, const char *path, struct lode_error *error)
{
    static const float heat[TRIAL_EXPERTS + 4] = {0.5f, 0, 1, 0.25f, 0.25f, 0, 1, 1, 0};
    const void *ops;
    int rc = plugin_open(&plugin->handle, &ops, path, &predictor_kind, error);
    if (rc)
        return rc;
    plugin->ops = ops;
    rc = check_ops(plugin->ops, path, error);
    if (!rc)
        rc = try_predictor(plugin->ops, NULL, path, error);
    return rc ? rc : try_predictor(plugin->ops, heat, path, error);
}

int predictor_plugin_open(struct predictor_plugin **out, const char *path, struct lode_error *error)
{
    struct lode_error own = {0};
    if (!error)
        error = &own;
    *out = NULL;
    struct predictor_plugin *plugin = calloc(1, sizeof *plugin);
    if (!plugin)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open the predictor %s", path);
    int rc = open_predictor(plugin, path, error);
    if (rc) {
        predictor_plugin_close(plugin);
        return rc;
    }
    *out = plugin;
    return 0;
}

void predictor_plugin_close(struct predictor_plugin *plugin)
{
    if (!plugin)
        return;
    plugin_close(plugin->handle);
    free(plugin);
}

const struct predictor_ops *predictor_plugin_ops(const struct predictor_plugin *plugin)
{
    return plugin->ops;
}

int predictor_plugin_open_named(const struct predictor_ops **out, struct predictor_plugin **out_plugin,
                                const char *name, struct lode_error *error)
{
    *out = NULL;
    *out_plugin = NULL;
    if (predictor_is_path(name)) {
        int rc = predictor_plugin_open(out_plugin, name, error);
        if (!rc)
            *out = predictor_plugin_ops(*out_plugin);
        return rc;
    }
    *out = predictor_find(name);
    return *out ? 0 : lode_fail(error, LODE_ERR_ARGUMENT, "there is no predictor called '%s'", name);
}
