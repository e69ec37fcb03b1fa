// What there is to compute with, as people are told of it, and what a list of names chooses of it.
#include "core/devices.h"

#include "profiles/host_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- a choice
// ------------------------------------------------------------------------------------------------

static bool is_emulated(const char *name)
{
    return strncmp(name, "simt", 4) == 0;
}

static int add_wish(struct device_choice *choice, const char *text, size_t length, struct lode_error *error)
{
    struct device_wish wish;
    int code = device_wish_parse(&wish, text, length, error);
    if (code || strcmp(wish.name, "cpu") == 0)
        return code;
    for (uint32_t i = 0; i < choice->n; i++)
        if (strcmp(choice->wishes[i].name, wish.name) == 0)
            return lode_fail(error, LODE_ERR_ARGUMENT, "%s is named twice in the list of devices", wish.name);
    if (choice->n == LODE_PLAN_GPUS)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "more than %d GPUs in the list of devices; leave out %s or another", LODE_PLAN_GPUS,
                         wish.name);
    choice->wishes[choice->n++] = wish;
    return LODE_OK;
}

int device_choice_parse(struct device_choice *out, const char *text, struct lode_error *error)
{
    *out = (struct device_choice){.by_default = !text};
    for (const char *at = text; at;) {
        const size_t length = strcspn(at, ",");
        if (!length)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "'%.100s' is no list of devices: a name is missing; lode devices tells what "
                             "there is, as in cuda0,cpu",
                             text);
        int code = add_wish(out, at, length, error);
        if (code)
            return code;
        at = at[length] ? at + length + 1 : NULL;
    }
    return LODE_OK;
}

static bool has_entry(const struct device_list *list, uint32_t backend)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->found[i].backend == backend)
            return true;
    return false;
}

// "cuda" of "cuda0".
static bool is_of_backend(const char *device, const char *backend)
{
    const size_t length = strlen(backend);
    return strncmp(device, backend, length) == 0 &&
           strspn(device + length, "0123456789") == strlen(device + length);
}

static int fail_absent(const char *name, const struct device_list *list, struct lode_error *error)
{
    char there[256] = "cpu";
    size_t used = strlen(there);
    for (uint32_t i = 0; i < list->n; i++) {
        const struct device_found *found = &list->found[i];
        if (!found->usable && is_of_backend(name, found->name))
            return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s cannot be used: %s", name, found->why);
        if (found->usable && used < sizeof there)
            used += (size_t)snprintf(there + used, sizeof there - used, ", %s", found->name);
    }
    for (uint32_t i = 0; i < DEVICES_BACKENDS; i++)
        if (list->backends[i].name && !has_entry(list, i) && is_of_backend(name, list->backends[i].name))
            return lode_fail(error, LODE_ERR_UNSUPPORTED, "%s cannot be used: %s", name,
                             list->backends[i].why);
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "there is no device %s; there are %s (lode devices)", name,
                     there);
}

static int find_wish(uint32_t *out, const char *name, const struct device_list *list,
                     struct lode_error *error)
{
    for (uint32_t i = 0; i < list->n; i++) {
        if (strcmp(list->found[i].name, name) != 0)
            continue;
        *out = i;
        return list->found[i].usable ? LODE_OK
                                     : lode_fail(error, LODE_ERR_UNSUPPORTED, "%s cannot be used: %s", name,
                                                 list->found[i].why);
    }
    return fail_absent(name, list, error);
}

int device_choice_find(struct device_choice *choice, const struct device_list *list, struct lode_error *error)
{
    for (uint32_t i = 0; i < choice->n; i++) {
        int code = find_wish(&choice->found[i], choice->wishes[i].name, list, error);
        if (code)
            return code;
    }
    for (uint32_t i = 0; choice->by_default && i < list->n && choice->n < LODE_PLAN_GPUS; i++) {
        const struct device_found *found = &list->found[i];
        if (!found->usable || is_emulated(found->name))
            continue;
        struct device_wish *wish = &choice->wishes[choice->n];
        *wish = (struct device_wish){0};
        snprintf(wish->name, sizeof wish->name, "%s", found->name);
        choice->found[choice->n++] = i;
    }
    return LODE_OK;
}

// ---- telling
// -------------------------------------------------------------------------------------------------

static void describe_cpu(struct lode_device_info *out)
{
    struct host_memory memory;
    struct lode_cpu *cpu = malloc(sizeof *cpu);
    *out = (struct lode_device_info){.name = "cpu", .usable = true};
    if (cpu && lode_cpu_describe(cpu, 0, NULL) == 0) {
        snprintf(out->description, sizeof out->description, "%s", cpu->model);
        for (uint32_t i = 0; i < cpu->n_isas && i < LODE_CPU_ISAS; i++)
            if (cpu->isas[i].chosen)
                snprintf(out->architecture, sizeof out->architecture, "%s", cpu->isas[i].name);
    }
    free(cpu);
    if (host_memory_read(&memory, "/", NULL) == 0) {
        out->memory_bytes = memory.limit_bytes < memory.total_bytes ? memory.limit_bytes : memory.total_bytes;
        out->free_bytes = memory.available_bytes;
    }
}

static void describe_toolkit(struct lode_device_info *out, const struct lode_gpu_backend *table)
{
    if (!table)
        return;
    snprintf(out->toolkit, sizeof out->toolkit, "%s", table->toolkit);
    snprintf(out->built_for, sizeof out->built_for, "%s", table->architectures);
}

static void describe_found(struct lode_device_info *out, const struct device_list *list, uint32_t index)
{
    const struct device_found *found = &list->found[index];
    *out = (struct lode_device_info){.memory_bytes = found->gpu.memory_bytes,
                                     .free_bytes = found->gpu.free_bytes,
                                     .usable = found->usable,
                                     .is_gpu = true,
                                     .is_emulated = is_emulated(found->name),
                                     .has_display = found->gpu.has_display};
    snprintf(out->name, sizeof out->name, "%s", found->name);
    snprintf(out->description, sizeof out->description, "%s", found->gpu.name);
    snprintf(out->architecture, sizeof out->architecture, "%s", found->gpu.architecture);
    snprintf(out->why, sizeof out->why, "%s", found->why);
    if (found->backend < DEVICES_BACKENDS)
        describe_toolkit(out, list->backends[found->backend].table);
}

static void describe_backend(struct lode_device_info *out, const struct device_list *list, uint32_t backend)
{
    *out =
        (struct lode_device_info){.is_gpu = true, .is_emulated = is_emulated(list->backends[backend].name)};
    snprintf(out->name, sizeof out->name, "%s", list->backends[backend].name);
    snprintf(out->why, sizeof out->why, "%s", list->backends[backend].why);
    describe_toolkit(out, list->backends[backend].table);
}

size_t lode_devices(struct lode_device_info *out, size_t max)
{
    struct device_list list;
    size_t n = 0;
    devices_find(&list);
    if (n < max)
        describe_cpu(&out[n++]);
    for (uint32_t i = 0; i < list.n && n < max; i++)
        describe_found(&out[n++], &list, i);
    for (uint32_t i = 0; i < DEVICES_BACKENDS && n < max; i++)
        if (list.backends[i].name && !has_entry(&list, i))
            describe_backend(&out[n++], &list, i);
    devices_close(&list);
    return n;
}

int lode_devices_used(struct lode_device_info *out, size_t *out_n, size_t max, const char *devices,
                      struct lode_error *error)
{
    struct device_list list;
    struct device_choice choice;
    *out_n = 0;
    int code = device_choice_parse(&choice, devices, error);
    if (code || (choice.by_default ? !devices_have_driver() : !choice.n))
        return code;
    devices_find(&list);
    code = device_choice_find(&choice, &list, error);
    for (uint32_t i = 0; i < choice.n && *out_n < max && !code; i++) {
        struct lode_device_info *info = &out[(*out_n)++];
        describe_found(info, &list, choice.found[i]);
        if (choice.wishes[i].options.memory_bytes)
            info->memory_bytes = info->free_bytes = choice.wishes[i].options.memory_bytes;
    }
    devices_close(&list);
    return code;
}
