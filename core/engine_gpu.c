// The GPUs of an engine: which of them are used and how much of their memory, and which units lie there.
//
// A GPU's ceiling is divided in this order: scratch of the device and of the session, K and V of the layers
// that are there, their dense weights, and what is left for copies of experts. Only those can give way later.
#include "core/engine.h"

#include "base/bytes_text.h"
#include "core/executor.h"
#include "core/kv_cache.h"
#include "placement/layout.h"
#include "placement/split.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// What is left of a GPU's free memory to others: on a card with a display, windows and the desktop's effects
// come and go; elsewhere the runtime itself allocates a little for kernels.
#define DISPLAY_SHARE 16
#define DISPLAY_LEAST_BYTES ((uint64_t)512 << 20)
#define RUNTIME_BYTES ((uint64_t)128 << 20)

// Allocations of the engine itself that nobody counts one by one: tables of frequencies, rounding up.
#define SMALL_BYTES ((uint64_t)1 << 20)

// ---- opening
// -------------------------------------------------------------------------------------------------

static bool is_emulation(const struct lode_device *device)
{
    return strncmp(device->name, "simt", 4) == 0;
}

static int settle_gpu_ceiling(struct lode_engine *engine, uint32_t g, const struct lode_gpu *gpu,
                              struct lode_error *error)
{
    struct lode_device *device = engine->gpus.devices[g];
    const uint64_t asked = engine->options.vram_bytes;
    uint64_t free_bytes, total_bytes;
    int rc = device->ops->memory(device, &free_bytes, &total_bytes, error);
    if (rc)
        return rc;
    if (asked > total_bytes)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s has %s of memory, less than the ceiling of %s",
                         device->name, bytes_text(total_bytes).text, bytes_text(asked).text);
    uint64_t headroom = is_emulation(device) ? 0 : RUNTIME_BYTES;
    if (gpu->has_display)
        headroom = total_bytes / DISPLAY_SHARE > DISPLAY_LEAST_BYTES ? total_bytes / DISPLAY_SHARE
                                                                     : DISPLAY_LEAST_BYTES;
    engine->gpus.ceiling_bytes[g] = free_bytes > headroom ? free_bytes - headroom : 0;
    if (asked && asked > free_bytes)
        engine_note(engine, "%s: %s of the %s that are allowed are free now", device->name,
                    bytes_text(free_bytes).text, bytes_text(asked).text);
    if (asked)
        engine->gpus.ceiling_bytes[g] = asked < free_bytes ? asked : free_bytes;
    return 0;
}

static int open_device(struct lode_engine *engine, uint32_t i, struct lode_error *error)
{
    struct engine_gpus *gpus = &engine->gpus;
    struct lode_device **device = &gpus->devices[gpus->n];
    int rc = devices_open(device, gpus->list, &gpus->choice.wishes[i], error);
    if (rc)
        return rc;
    const struct device_found *found = &gpus->list->found[gpus->choice.found[i]];
    rc = settle_gpu_ceiling(engine, gpus->n, &found->gpu, error);
    if (rc) {
        (*device)->ops->close(*device);
        *device = NULL;
        return rc;
    }
    if (is_emulation(*device))
        engine_note(engine, "%s executes the kernels of GPUs on the CPU, for tests; its time is not a GPU's",
                    (*device)->name);
    gpus->n++;
    return 0;
}

// A placement that was made for more GPUs than there are now says nothing.
static void forget_placement(struct lode_engine *engine)
{
    if (!engine->options.unit_gpu)
        return;
    free((uint8_t *)engine->options.unit_gpu);
    engine->options.unit_gpu = NULL;
    engine_note(engine, "the plan counted on a GPU that is not used: placed by rule");
}

static int check_gpu_options(const struct lode_engine *engine, struct lode_error *error)
{
    const struct lode_engine_options *options = &engine->options;
    const char *placement = options->placement;
    if (placement && strcmp(placement, "auto") != 0 && strcmp(placement, "by-layer") != 0)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "there is no placement called '%s'; there are auto and by-layer", placement);
    if (engine->gpus.n)
        return 0;
    if (options->vram_bytes)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a ceiling for GPUs, but none is used; `lode devices` tells which there are");
    if (placement && strcmp(placement, "auto") != 0)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "placement '%s' divides a model between GPUs and the CPU, but no GPU is used",
                         placement);
    return 0;
}

int engine_gpus_open(struct lode_engine *engine, struct lode_error *error)
{
    struct engine_gpus *gpus = &engine->gpus;
    int rc = device_choice_parse(&gpus->choice, engine->options.devices, error);
    if (rc)
        return rc;
    const bool wanted =
        gpus->choice.by_default ? !engine->mapped && devices_have_driver() : gpus->choice.n > 0;
    if (!wanted)
        return check_gpu_options(engine, error);
    gpus->list = malloc(sizeof *gpus->list);
    if (!gpus->list)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the list of devices");
    devices_find(gpus->list);
    rc = device_choice_find(&gpus->choice, gpus->list, error);
    for (uint32_t i = 0; i < gpus->choice.n && !rc; i++) {
        struct lode_error cause;
        const int code = open_device(engine, i, &cause);
        if (!code)
            continue;
        if (!gpus->choice.by_default) {
            rc = lode_fail(error, code, "%s", cause.text);
            break;
        }
        engine_note(engine, "%s is not used: %s", gpus->choice.wishes[i].name, cause.text);
        forget_placement(engine);
    }
    return rc ? rc : check_gpu_options(engine, error);
}

void engine_gpus_close(struct lode_engine *engine)
{
    struct engine_gpus *gpus = &engine->gpus;
    for (uint32_t g = 0; g < gpus->n; g++)
        gpus->devices[g]->ops->close(gpus->devices[g]);
    if (gpus->list)
        devices_close(gpus->list);
    free(gpus->list);
    free(gpus->unit_gpu);
    memset(gpus, 0, sizeof *gpus);
}

// ---- room
// ----------------------------------------------------------------------------------------------------

// Of a GPU's ceiling, beside everything that has been allocated there and what rounding up takes.
static uint64_t left_bytes(const struct lode_engine *engine, uint32_t g)
{
    const uint64_t used = engine->gpus.devices[g]->allocated_bytes + SMALL_BYTES;
    return engine->gpus.ceiling_bytes[g] > used ? engine->gpus.ceiling_bytes[g] - used : 0;
}

// Copies of experts give way to K and V.
static bool make_room(void *owner, const struct lode_device *device, uint64_t bytes, bool failed)
{
    struct lode_engine *engine = owner;
    uint32_t g = 0;
    while (g < engine->gpus.n && engine->gpus.devices[g] != device)
        g++;
    if (g == engine->gpus.n || !engine->residency)
        return false;
    // An allocation that fails within the ceiling tells that others have taken memory since.
    const uint64_t left = failed ? 0 : left_bytes(engine, g);
    uint64_t given = 0;
    if (bytes <= left)
        return true;
    if (residency_yield(engine->residency, g, bytes - left, &given, NULL) || !given)
        return false;
    engine_note(engine, "%s: %s of experts give way to %s", device->name, bytes_text(given).text,
                failed ? "the KV cache, for others use the card's memory too" : "the KV cache, which grows");
    return true;
}

// ---- placing
// -------------------------------------------------------------------------------------------------

// Units of a layer, and of layers that share K and V, are computed by one device; so are those outside of
// layers.
static int check_groups(const struct lode_engine *engine, struct lode_error *error)
{
    const struct gemma_model *model = &engine->model;
    const struct unit_table *table = &model->units;
    const uint8_t *unit_gpu = engine->gpus.unit_gpu;
    const uint8_t outer = unit_gpu[model->output_norm.unit];
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        char name[64];
        if (unit->class == UNIT_EXPERT)
            continue;
        const uint8_t own = unit->class == UNIT_ROWS ? 0
                            : unit->layer == UNIT_NO_LAYER
                                ? outer
                                : unit_gpu[model->layers[model->layers[unit->layer].kv_layer].attn_norm.unit];
        if (unit_gpu[u] == own)
            continue;
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the placement has %s on another device than the units that it works with",
                         unit_table_name(table, u, name, sizeof name));
    }
    return 0;
}

static int take_placement(struct lode_engine *engine, struct lode_error *error)
{
    const struct lode_engine_options *options = &engine->options;
    const uint32_t n_units = engine->model.units.n_units;
    if (options->n_unit_gpu != n_units)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the placement is of %" PRIu32 " units, the model has %" PRIu32, options->n_unit_gpu,
                         n_units);
    for (uint32_t u = 0; u < n_units; u++) {
        if (options->unit_gpu[u] > engine->gpus.n)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "the placement has units on GPU %u, but %" PRIu32 " %s used",
                             options->unit_gpu[u] - 1u, engine->gpus.n, engine->gpus.n == 1 ? "is" : "are");
        engine->gpus.unit_gpu[u] = options->unit_gpu[u];
    }
    return check_groups(engine, error);
}

// Memory of each GPU for weights, and K and V.
static int split(struct lode_engine *engine, const uint64_t *gpu_bytes, uint32_t context, uint32_t batch,
                 enum lode_kv_format format, struct lode_error *error)
{
    const struct gemma_model *model = &engine->model;
    const uint32_t n_layers = model->hparams.n_layers;
    uint32_t *kv_layer = malloc(n_layers * sizeof *kv_layer);
    uint64_t *kv_bytes = malloc(n_layers * sizeof *kv_bytes);
    if (!kv_layer || !kv_bytes) {
        free(kv_layer);
        free(kv_bytes);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to place %" PRIu32 " layers", n_layers);
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        kv_layer[l] = model->layers[l].kv_layer;
        kv_bytes[l] = kv_cache_layer_bytes(model, l, context, batch, format);
    }
    const char *placement = engine->options.placement;
    const struct split_request request = {
        .table = &model->units,
        .n_layers = n_layers,
        .kv_layer = kv_layer,
        .kv_bytes = kv_bytes,
        .n_gpus = engine->gpus.n,
        .gpu_bytes = gpu_bytes,
        .rule = placement && strcmp(placement, "by-layer") == 0 ? SPLIT_BY_LAYER : SPLIT_DENSE_FIRST,
    };
    split_units(engine->gpus.unit_gpu, &request);
    free(kv_layer);
    free(kv_bytes);
    return 0;
}

static uint64_t gpu_kv_bytes(const struct lode_engine *engine, uint32_t g, uint32_t context, uint32_t batch,
                             enum lode_kv_format format)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < engine->model.hparams.n_layers; l++)
        if (engine->gpus.unit_gpu[engine->model.layers[l].attn_norm.unit] == g + 1)
            bytes += kv_cache_layer_bytes(&engine->model, l, context, batch, format);
    return bytes;
}

// What a session takes of a GPU's ceiling beside K and V. The device's own scratch is there already.
static uint64_t session_scratch_bytes(const struct lode_engine *engine, uint32_t batch)
{
    return executor_needed_bytes(&engine->model, batch, false, true) +
           (uint64_t)engine->model.hparams.n_layers * engine->model.hparams.n_experts *
               sizeof(struct lode_expert_entry) +
           SMALL_BYTES;
}

int engine_gpu_reserve(struct lode_engine *engine, uint32_t g, uint32_t batch, struct lode_error *error)
{
    struct lode_device *device = engine->gpus.devices[g];
    const struct lode_limits limits = executor_limits(&engine->model, batch);
    return device->ops->reserve(device, &limits, error);
}

// A GPU that nobody named and that is too small to work with is left out.
static void leave_out(struct lode_engine *engine, uint32_t g, const char *why)
{
    struct engine_gpus *gpus = &engine->gpus;
    struct lode_device *device = gpus->devices[g];
    engine_note(engine, "%s is not used: %s", device->name, why);
    device->ops->close(device);
    gpus->n--;
    for (uint32_t i = g; i < gpus->n; i++) {
        gpus->devices[i] = gpus->devices[i + 1];
        gpus->ceiling_bytes[i] = gpus->ceiling_bytes[i + 1];
        gpus->by_library[i] = gpus->by_library[i + 1];
    }
    forget_placement(engine);
}

// What each GPU has beside scratch.
static int find_room(uint64_t *room, struct lode_engine *engine, uint32_t batch, struct lode_error *error)
{
    struct engine_gpus *gpus = &engine->gpus;
    for (uint32_t g = 0; g < gpus->n;) {
        const struct lode_device *device = gpus->devices[g];
        struct lode_error cause;
        int rc = engine_gpu_reserve(engine, g, batch, &cause);
        const uint64_t scratch = device->ops->scratch_bytes(device) + session_scratch_bytes(engine, batch);
        if (!rc && scratch > gpus->ceiling_bytes[g])
            rc = lode_fail(&cause, LODE_ERR_MEMORY, "a step's scratch takes %s, of which %s may be used",
                           bytes_text(scratch).text, bytes_text(gpus->ceiling_bytes[g]).text);
        if (!rc) {
            room[g] = gpus->ceiling_bytes[g] - scratch;
            g++;
        } else if (rc == LODE_ERR_MEMORY && gpus->choice.by_default) {
            leave_out(engine, g, cause.text);
        } else if (rc == LODE_ERR_MEMORY) {
            return lode_fail(error, rc,
                             "%s: no scratch for steps of %" PRIu32
                             " tokens: %s; smaller steps (-b) need less, and --devices leaves it out",
                             device->name, batch, cause.text);
        } else {
            return lode_fail(error, rc, "%s", cause.text);
        }
    }
    return 0;
}

int engine_gpus_place(struct lode_engine *engine, uint32_t context, uint32_t batch,
                      enum lode_kv_format format, struct lode_error *error)
{
    struct engine_gpus *gpus = &engine->gpus;
    uint64_t room[HOME_GPUS] = {0};
    if (!gpus->n || engine->residency)
        return 0;
    const struct unit_table *table = &engine->model.units;
    if (!gpus->unit_gpu)
        gpus->unit_gpu = calloc(table->n_units + 1, 1);
    if (!gpus->unit_gpu)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the places of %" PRIu32 " units",
                         table->n_units);
    int rc = engine_library_choose(engine, batch, error);
    if (!rc)
        rc = find_room(room, engine, batch, error);
    if (rc)
        return rc;
    rc = engine->options.unit_gpu ? take_placement(engine, error)
                                  : split(engine, room, context, batch, format, error);
    for (uint32_t g = 0; g < gpus->n && !rc; g++) {
        const uint64_t kv_bytes =
            gpu_kv_bytes(engine, g, kv_cache_first_context(context, batch), batch, format);
        gpus->weights_bytes[g] = room[g] > kv_bytes ? room[g] - kv_bytes : 0;
    }
    engine->weights.unit_gpu = gpus->unit_gpu;
    engine->weights.n_gpus = gpus->n;
    engine->weights.make_room = make_room;
    engine->weights.owner = engine;
    memcpy(engine->weights.gpus, gpus->devices, sizeof engine->weights.gpus);
    return rc;
}

// ---- memory
// --------------------------------------------------------------------------------------------------

uint64_t engine_host_kv_bytes(const struct lode_engine *engine, uint32_t context, uint32_t batch,
                              enum lode_kv_format format)
{
    uint64_t bytes = kv_cache_needed_bytes(&engine->model, context, batch, format);
    for (uint32_t g = 0; g < engine->gpus.n && engine->gpus.unit_gpu; g++)
        bytes -= gpu_kv_bytes(engine, g, context, batch, format);
    return bytes;
}

// Of experts; a pool of fewer slots works, but finds nothing.
#define LEAST_POOL_SLOTS 16

// Bytes of experts: those of which GPUs have copies, all, and the largest one.
struct expert_bytes {
    uint64_t on_gpus, all, largest;
};

static struct expert_bytes count_experts(const struct lode_engine *engine)
{
    const struct unit_table *table = &engine->model.units;
    struct expert_bytes out = {0};
    for (uint32_t g = 0; g < engine->gpus.n; g++) {
        const uint64_t dense = residency_gpu_dense_bytes(table, engine->gpus.unit_gpu, g);
        const uint64_t room = engine->gpus.weights_bytes[g];
        out.on_gpus += room > dense ? room - dense : 0;
    }
    for (uint32_t u = 0; u < table->n_units; u++)
        if (table->units[u].class == UNIT_EXPERT) {
            const uint64_t bytes = layout_unit_bytes(table, u, true);
            out.all += bytes;
            out.largest = bytes > out.largest ? bytes : out.largest;
        }
    out.on_gpus = out.on_gpus < out.all ? out.on_gpus : out.all;
    return out;
}

// Experts of which GPUs have copies need no room in the memory of the host, but for a small pool: copies give
// way to K and V.
static uint64_t experts_beside_gpus(const struct lode_engine *engine)
{
    const struct expert_bytes experts = count_experts(engine);
    const uint64_t least_bytes = LEAST_POOL_SLOTS * experts.largest;
    return experts.on_gpus > least_bytes ? experts.on_gpus - least_bytes : 0;
}

struct homes_bounds engine_host_bounds(const struct lode_engine *engine)
{
    const struct unit_table *table = &engine->model.units;
    const uint8_t *unit_gpu = engine->gpus.unit_gpu;
    struct homes_bounds bounds = {residency_floor_bytes_beside(table, engine->device, unit_gpu),
                                  residency_full_bytes_beside(table, engine->device, unit_gpu)};
    const uint64_t spared = unit_gpu ? experts_beside_gpus(engine) : 0;
    if (spared && bounds.full_bytes != UINT64_MAX)
        bounds.full_bytes =
            bounds.full_bytes - spared > bounds.floor_bytes ? bounds.full_bytes - spared : bounds.floor_bytes;
    return bounds;
}

bool engine_spares_experts(const struct lode_engine *engine)
{
    return engine->gpus.unit_gpu && experts_beside_gpus(engine) > 0;
}

bool engine_gpus_have_most_experts(const struct lode_engine *engine)
{
    const struct expert_bytes experts = count_experts(engine);
    return experts.on_gpus > experts.all / 2;
}

// Of a ceiling, for K and V of a context that nobody asked for.
#define ROOMY_SHARE 8

bool engine_gpus_are_roomy(const struct lode_engine *engine, uint32_t context, uint32_t batch,
                           enum lode_kv_format format)
{
    for (uint32_t g = 0; g < engine->gpus.n; g++)
        if (gpu_kv_bytes(engine, g, context, batch, format) > engine->gpus.ceiling_bytes[g] / ROOMY_SHARE)
            return false;
    return true;
}

int engine_gpus_make_room(struct lode_engine *engine, uint32_t context, uint32_t batch,
                          enum lode_kv_format format, struct lode_error *error)
{
    struct engine_gpus *gpus = &engine->gpus;
    for (uint32_t g = 0; g < gpus->n && engine->residency; g++) {
        struct lode_device *device = gpus->devices[g];
        int rc = engine_gpu_reserve(engine, g, batch, error);
        if (rc)
            return rc;
        const uint64_t needed =
            session_scratch_bytes(engine, batch) +
            gpu_kv_bytes(engine, g, kv_cache_first_context(context, batch), batch, format);
        const uint64_t left = left_bytes(engine, g);
        uint64_t given = 0;
        if (needed <= left)
            continue;
        rc = residency_yield(engine->residency, g, needed - left, &given, error);
        if (rc)
            return rc;
        if (given < needed - left)
            return lode_fail(error, LODE_ERR_MEMORY,
                             "another session needs %s on %s, where %s are left beside the weights and other "
                             "sessions",
                             bytes_text(needed).text, device->name, bytes_text(left + given).text);
        engine_note(engine, "%s: %s of experts give way to another session", device->name,
                    bytes_text(given).text);
    }
    return 0;
}

// ---- notes
// ---------------------------------------------------------------------------------------------------

void engine_gpus_note(const struct lode_engine *engine)
{
    const struct gemma_model *model = &engine->model;
    for (uint32_t g = 0; g < engine->gpus.n; g++) {
        struct residency_gpu_figures figures;
        char experts[64] = "", library[64] = "";
        const struct lode_device *device = engine->gpus.devices[g];
        uint32_t n_layers = 0;
        residency_count_gpu(engine->residency, g, &figures);
        for (uint32_t l = 0; l < model->hparams.n_layers; l++)
            n_layers += engine->gpus.unit_gpu[model->layers[l].attn_norm.unit] == g + 1;
        if (model->hparams.n_experts)
            snprintf(experts, sizeof experts, ", copies of %" PRIu32 " experts", figures.pool_used);
        if (engine->gpus.by_library[g])
            snprintf(library, sizeof library, ", prefill by %s", device->ops->library_name(device));
        engine_note(engine, "%s: %" PRIu32 " of %" PRIu32 " layers%s%s, %s of weights%s", device->name,
                    n_layers, model->hparams.n_layers,
                    engine->gpus.unit_gpu[model->output_norm.unit] == g + 1 ? " and the head" : "", experts,
                    bytes_text(figures.pinned_bytes + figures.pool_bytes).text, library);
    }
}
