// Policies in shared objects: opened, checked, and tried before a model depends on them.
//
// The handle is closed with the engine, but the pages stay mapped (RTLD_NODELETE): names of policies are
// handed out to statistics that outlive an engine, as those of the table may be.
#include "placement/policy_plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { NAME_MAX_BYTES = 31 }; // it stands in tables and files

struct policy_plugin {
    void *handle;
    const struct policy_ops *ops;
};

bool policy_is_path(const char *name)
{
    const size_t length = strlen(name);
    return strchr(name, '/') || (length > 3 && strcmp(name + length - 3, ".so") == 0);
}

static int check_file(const char *path, struct lode_error *error)
{
    struct stat status;
    if (stat(path, &status))
        return lode_fail(error, LODE_ERR_IO, "policy %s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return lode_fail(error, LODE_ERR_IO, "policy %s: not a file", path);
    return 0;
}

// dlopen looks for a bare name in the system's folders and not here.
static void *open_object(const char *path, struct lode_error *error)
{
    char *here = NULL;
    if (!strchr(path, '/') && asprintf(&here, "./%s", path) < 0) {
        lode_fail(error, LODE_ERR_MEMORY, "no memory to open the policy %s", path);
        return NULL;
    }
    void *handle = dlopen(here ? here : path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    free(here);
    if (!handle)
        lode_fail(error, LODE_ERR_FORMAT, "policy %s: not a shared object that can be opened: %s", path,
                  dlerror());
    return handle;
}

static const void *find_symbol(void *handle, const char *path, const char *symbol, struct lode_error *error)
{
    const void *found = dlsym(handle, symbol);
    if (!found)
        lode_fail(error, LODE_ERR_FORMAT,
                  "policy %s: it has no symbol %s; a policy exports lode_policy_abi and lode_policy", path,
                  symbol);
    return found;
}

// ---- what it exports
// ----------------------------------------------------------------------------------------

static bool is_name(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_";
    const size_t length = strlen(name);
    return length > 0 && length <= NAME_MAX_BYTES && strspn(name, allowed) == length;
}

static bool is_line(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return false;
    return true;
}

static int check_ops(const struct policy_ops *ops, const char *path, struct lode_error *error)
{
    const struct {
        const char *what;
        bool there;
    } needed[] = {
        {"name", ops->name},   {"summary", ops->summary}, {"open", ops->open},
        {"close", ops->close}, {"chosen", ops->chosen},   {"pass_end", ops->pass_end},
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].there)
            return lode_fail(error, LODE_ERR_FORMAT, "policy %s: lode_policy.%s is NULL", path,
                             needed[i].what);
    if (!is_name(ops->name))
        return lode_fail(error, LODE_ERR_FORMAT,
                         "policy %s: its name must be 1 to %d small letters, digits, '-' and '_'", path,
                         NAME_MAX_BYTES);
    if (policy_find(ops->name))
        return lode_fail(error, LODE_ERR_FORMAT, "policy %s: its name '%s' is that of a built-in policy",
                         path, ops->name);
    if (!is_line(ops->summary))
        return lode_fail(error, LODE_ERR_FORMAT, "policy %s: its summary must be one line of text", path);
    return 0;
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
    if (rc)
        return lode_fail(error, rc < 0 && rc >= LODE_ERR_CANCELLED ? rc : LODE_ERR_FORMAT,
                         "policy %s: its open has failed: %.200s", path,
                         cause.text[0] ? cause.text : "it does not say why");
    if (!policy)
        return lode_fail(error, LODE_ERR_FORMAT, "policy %s: its open has made no policy", path);
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
    int rc = check_file(path, error);
    if (rc)
        return rc;
    plugin->handle = open_object(path, error);
    if (!plugin->handle)
        return error->code;
    const uint32_t *abi = find_symbol(plugin->handle, path, "lode_policy_abi", error);
    if (!abi)
        return error->code;
    if (*abi != POLICY_ABI)
        return lode_fail(
            error, LODE_ERR_UNSUPPORTED,
            "policy %s: made for version %u of policy.h, this program has version %u: compile it "
            "anew",
            path, (unsigned)*abi, (unsigned)POLICY_ABI);
    plugin->ops = find_symbol(plugin->handle, path, "lode_policy", error);
    if (!plugin->ops)
        return error->code;
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
    if (plugin->handle)
        dlclose(plugin->handle);
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
