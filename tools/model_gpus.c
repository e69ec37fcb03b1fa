#include "tools/model_gpus.h"

#include "profiles/machine_profile.h"
#include "tools/new_file.h"
#include "tools/text.h"

#include <stdio.h>
#include <string.h>

const char *const model_placement_choices[] = {"auto", "by-layer", NULL};

bool model_gpus_parse(void *target, const char *value, char *reason, size_t capacity)
{
    struct model_gpus *gpus = target;
    struct lode_error error = {0};
    gpus->devices = value;
    gpus->found = lode_devices_used(gpus->info, &gpus->n, LODE_PLAN_GPUS, value, &error) == LODE_OK;
    if (error.code != LODE_ERR_ARGUMENT)
        return true;
    snprintf(reason, capacity, "%s", error.text);
    return false;
}

bool model_gpus_are_given(const struct model_gpus *gpus)
{
    return gpus->devices || gpus->vram_bytes || gpus->placement != MODEL_PLACEMENT_AUTO;
}

int model_gpus_find(struct model_gpus *gpus, struct lode_error *error)
{
    if (gpus->found)
        return LODE_OK;
    struct lode_error cause = {0};
    int code = lode_devices_used(gpus->info, &gpus->n, LODE_PLAN_GPUS, gpus->devices, &cause);
    if (code)
        return lode_fail(error, code, "--devices: %s; name others, or none (--devices cpu)", cause.text);
    gpus->found = true;
    return LODE_OK;
}

// Hours of a run shall not end in "no such folder".
static int check_timeline(const char *path, struct lode_error *error)
{
    struct new_file file;
    if (!path[0])
        return lode_fail(error, LODE_ERR_IO, "cannot write a timeline: --timeline needs the name of a file");
    int code = new_file_open(&file, path, error);
    if (!code)
        new_file_discard(&file);
    return code;
}

static int check_ceiling(const struct model_gpus *gpus, struct lode_error *error)
{
    char asked[TEXT_NUMBER_SIZE], there[TEXT_NUMBER_SIZE];
    for (size_t i = 0; i < gpus->n; i++)
        if (gpus->info[i].memory_bytes && gpus->vram_bytes > gpus->info[i].memory_bytes)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "--vram %s is more than the %s of %s; give no more than that, or leave it out "
                             "and what is free there is used",
                             text_bytes(asked, gpus->vram_bytes),
                             text_bytes(there, gpus->info[i].memory_bytes), gpus->info[i].name);
    return LODE_OK;
}

int model_gpus_check(struct model_gpus *gpus, struct lode_error *error)
{
    int code = model_gpus_are_given(gpus) ? model_gpus_find(gpus, error) : LODE_OK;
    if (code)
        return code;
    if (gpus->vram_bytes && !gpus->n)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "--vram is a ceiling for GPUs, and this run has none; leave it out, or name one with "
            "--devices (lode devices tells which there are)");
    if (gpus->placement == MODEL_PLACEMENT_BY_LAYER && !gpus->n)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "--placement by-layer puts layers on GPUs, and this run has none; leave it out, or "
                         "name one with --devices (lode devices tells which there are)");
    code = check_ceiling(gpus, error);
    if (code)
        return code;
    return gpus->timeline ? check_timeline(gpus->timeline, error) : LODE_OK;
}

bool model_gpus_omit_cpu(const struct model_gpus *gpus)
{
    if (!gpus->devices || !gpus->n)
        return false;
    for (const char *at = gpus->devices; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strcspn(at, ",") == 3 && strncmp(at, "cpu", 3) == 0)
            return false;
    return true;
}

void model_gpus_describe(char *out, size_t capacity, const struct model_gpus *gpus)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < gpus->n && used < capacity; i++)
        used += (size_t)snprintf(out + used, capacity - used, "%s%s %s", i ? ", " : "", gpus->info[i].name,
                                 gpus->info[i].description);
    for (char *c = out; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

// ---- in a profile
// --------------------------------------------------------------------------------------------

// A profile has a name that its driver tells in plain characters alone, as the probe writes it.
static bool is_name(const char *known, const char *told)
{
    if (!told[0])
        return strcmp(known, "unknown GPU") == 0;
    for (; *known && *told; known++, told++)
        if (*known != (*told < ' ' || *told > '~' ? '?' : *told))
            return false;
    return *known == *told;
}

static bool is_same(const struct lode_device_info *info, const struct profile_device *known)
{
    const size_t len = strcspn(info->name, "0123456789"); // "cuda" of "cuda0"
    return strlen(known->backend) == len && strncmp(known->backend, info->name, len) == 0 &&
           is_name(known->name, info->description);
}

int model_gpus_match(uint32_t *out_index, const struct model_gpus *gpus,
                     const struct machine_profile *profile, struct lode_error *error)
{
    bool taken[PROFILE_GPUS] = {false};
    for (size_t i = 0; i < gpus->n; i++) {
        const struct lode_device_info *info = &gpus->info[i];
        uint32_t at = 0;
        while (at < profile->n_gpus && (taken[at] || !is_same(info, &profile->gpus[at])))
            at++;
        if (at == profile->n_gpus && info->is_emulated)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "%s executes a GPU's kernels on the CPU, which no profile knows; placed by rule",
                             info->name);
        if (at == profile->n_gpus)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "%s (%s) is not in the profile; placed by rule (lode probe measures it)",
                             info->name, info->description);
        taken[at] = true;
        out_index[i] = at;
    }
    return LODE_OK;
}
