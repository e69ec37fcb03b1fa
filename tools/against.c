// The arms of a comparison, whose turn it is, and figures of their runs.
#include "tools/against.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[AGAINST_ARMS] = {
    [AGAINST_CHOSEN] = "chosen", [AGAINST_BY_LAYER] = "by-layer", [AGAINST_STATIC] = "static",
    [AGAINST_LRU] = "lru",       [AGAINST_MMAP] = "mmap",         [AGAINST_GPU_LAYERS] = "gpu-layers",
};

// ---- arms
// ----------------------------------------------------------------------------------------------------

const char *against_arm_name(enum against_arm arm)
{
    return names[arm];
}

// AGAINST_ARMS where no arm is called that.
static enum against_arm find_arm(const char *name, size_t len)
{
    int arm = 0;
    while (arm < AGAINST_ARMS && (strlen(names[arm]) != len || memcmp(names[arm], name, len) != 0))
        arm++;
    return (enum against_arm)arm;
}

static bool holds(const struct against_list *list, enum against_arm arm)
{
    for (uint32_t i = 0; i < list->n; i++)
        if (list->arms[i] == arm)
            return true;
    return false;
}

bool against_list_parse(void *target, const char *value, char *reason, size_t capacity)
{
    struct against_list list = {.n = 0};
    for (const char *at = value;; at++) {
        const size_t len = strcspn(at, ",");
        const enum against_arm arm = find_arm(at, len);
        if (arm == AGAINST_ARMS || arm == AGAINST_CHOSEN) {
            snprintf(reason, capacity,
                     "must be by-layer, static, lru or mmap, or gpu-layers, or several with commas between");
            return false;
        }
        if (!holds(&list, arm))
            list.arms[list.n++] = arm;
        at += len;
        if (!*at)
            break;
    }
    *(struct against_list *)target = list;
    return true;
}

bool against_turn_parse(void *target, const char *value, char *reason, size_t capacity)
{
    const size_t len = strcspn(value, ":");
    struct against_turn turn = {.given = true, .arm = find_arm(value, len)};
    uint32_t round = 0;
    if (turn.arm == AGAINST_ARMS || value[len] != ':' || !options_read_count(&round, value + len + 1) ||
        round >= AGAINST_MAX_REPEATS) {
        snprintf(reason, capacity, "must be an arm and a round, as lru:2");
        return false;
    }
    turn.round = round;
    *(struct against_turn *)target = turn;
    return true;
}

uint32_t against_turn_at(uint32_t round, uint32_t position, uint32_t n_arms)
{
    return round % 2 == 0 ? position : n_arms - 1 - position;
}

void against_free(struct against *against)
{
    for (uint32_t i = 0; against->runs && i < against->repeats * against->n_arms; i++)
        free(against->runs[i].ids);
    free(against->runs);
    against->runs = NULL;
}

// ---- figures
// -------------------------------------------------------------------------------------------------

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct against_figure against_figure_of(double *values, uint32_t n)
{
    if (!n)
        return (struct against_figure){0};
    qsort(values, n, sizeof *values, ascending);
    return (struct against_figure){.median = (values[(n - 1) / 2] + values[n / 2]) / 2,
                                   .least = values[0],
                                   .most = values[n - 1],
                                   .n = n};
}

static bool value_of(double *out, const struct against *against, const struct against_run *run,
                     enum against_measure m)
{
    if (!run->done)
        return false;
    switch (m) {
    case AGAINST_PREFILL_TOK_S:
        *out = against->prefill / run->prefill_s;
        return true;
    case AGAINST_DECODE_TOK_S:
        *out = (against->decode - 1) / run->decode_s;
        return true;
    case AGAINST_PREFILL_BYTES:
        *out = (double)run->prefill_bytes / against->prefill;
        return true;
    case AGAINST_DECODE_BYTES:
        *out = (double)run->decode_bytes / (against->decode - 1);
        return true;
    case AGAINST_HIT_RATE:
        *out = run->hit_rate;
        return run->counts_hits;
    case AGAINST_WEIGHTS_BYTES:
        *out = (double)run->weights_bytes;
        return run->weights_bytes > 0;
    case AGAINST_MEASURES:
        break;
    }
    return false;
}

struct against_figure against_arm_figure(const struct against *against, uint32_t arm, enum against_measure m)
{
    double values[AGAINST_MAX_REPEATS];
    uint32_t n = 0;
    for (uint32_t round = 0; round < against->repeats; round++)
        n += value_of(&values[n], against, against_run_at(against, round, arm), m);
    return against_figure_of(values, n);
}

struct against_figure against_ratio(const struct against *against, uint32_t arm, enum against_measure m)
{
    double values[AGAINST_MAX_REPEATS];
    uint32_t n = 0;
    for (uint32_t round = 0; round < against->repeats; round++) {
        double chosen, other;
        if (value_of(&chosen, against, against_run_at(against, round, 0), m) &&
            value_of(&other, against, against_run_at(against, round, arm), m) && other > 0)
            values[n++] = chosen / other;
    }
    return against_figure_of(values, n);
}

bool against_memory_is_equal(const struct against *against, uint64_t *out_apart_bytes,
                             uint64_t *out_allowed_bytes)
{
    uint64_t least = UINT64_MAX, most = 0, allowed = 0;
    for (uint32_t i = 0; i < against->repeats * against->n_arms; i++) {
        const struct against_run *run = &against->runs[i];
        if (!run->done || against->arms[i % against->n_arms] == AGAINST_MMAP)
            continue;
        least = run->weights_bytes < least ? run->weights_bytes : least;
        most = run->weights_bytes > most ? run->weights_bytes : most;
        allowed = run->expert_bytes > allowed ? run->expert_bytes : allowed;
    }
    *out_apart_bytes = most > least ? most - least : 0;
    *out_allowed_bytes = allowed;
    return *out_apart_bytes <= allowed;
}

bool against_is_offloaded(const struct against *against)
{
    for (uint32_t i = 0; i < against->repeats * against->n_arms; i++)
        if (against->runs[i].done && against->runs[i].offloaded)
            return true;
    return false;
}
