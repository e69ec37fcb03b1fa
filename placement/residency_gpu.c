// What GPUs have: memory for the units with a home there, the experts that begin there, and which device
// computes what of a choice.
#include "base/bytes_text.h"
#include "placement/layout.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_MAX_BYTES ((uint64_t)1 << 30)

static uint64_t largest_expert_bytes(const struct unit_table *table)
{
    uint64_t largest = 0;
    for (uint32_t u = 0; u < table->n_units; u++) {
        const uint64_t bytes = table->units[u].class == UNIT_EXPERT ? layout_unit_bytes(table, u, false) : 0;
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static struct homes_bounds bounds_beside(const struct unit_table *table, const struct lode_device *device,
                                         const uint8_t *unit_gpu)
{
    const struct homes_request request = {
        .host_memory = device->host_memory, .gpu = unit_gpu, .gpu_has_copies = true};
    return homes_bounds(table, &request);
}

uint64_t residency_floor_bytes_beside(const struct unit_table *table, const struct lode_device *device,
                                      const uint8_t *unit_gpu)
{
    return bounds_beside(table, device, unit_gpu).floor_bytes;
}

uint64_t residency_full_bytes_beside(const struct unit_table *table, const struct lode_device *device,
                                     const uint8_t *unit_gpu)
{
    return bounds_beside(table, device, unit_gpu).full_bytes;
}

uint64_t residency_gpu_dense_bytes(const struct unit_table *table, const uint8_t *unit_gpu, uint32_t g)
{
    uint64_t sum = 0;
    for (uint32_t u = 0; unit_gpu && u < table->n_units; u++) {
        const enum unit_class class = table->units[u].class;
        if (unit_gpu[u] != 1 + g || class == UNIT_EXPERT || class == UNIT_ROWS)
            continue;
        const uint64_t bytes = layout_unit_bytes(table, u, false);
        sum = sum > UINT64_MAX - bytes ? UINT64_MAX : sum + bytes;
    }
    return sum;
}

uint64_t residency_gpu_host_bytes(const struct unit_table *table, uint32_t n_gpus)
{
    const uint64_t staging = n_gpus ? residency_staging_bytes() : 0;
    const uint64_t pinned = n_gpus * RESIDENCY_UPLOADS * largest_expert_bytes(table);
    return staging > pinned ? staging : pinned; // one after the other
}

// ---- units with a home there
// -------------------------------------------------------------------------------------

static uint64_t home_bytes(const struct residency *residency, uint32_t g, uint32_t unit)
{
    return residency_executor(residency, unit) == 1 + g ? layout_unit_bytes(residency->table, unit, false)
                                                        : 0;
}

static int allocate_block(struct residency *residency, uint32_t g, char **out, uint32_t unit, uint64_t bytes,
                          struct lode_error *error)
{
    struct gpu *gpu = &residency->gpus[g];
    struct residency_block *blocks = realloc(gpu->blocks, (gpu->n_blocks + 1) * sizeof *blocks);
    if (!blocks)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to list %u blocks", gpu->n_blocks + 1);
    gpu->blocks = blocks;
    void *memory;
    struct lode_error cause;
    char name[128];
    const int code = gpu->device->ops->alloc(gpu->device, &memory, bytes, &cause);
    if (code != 0)
        return lode_fail(error, code,
                         "%s and what follows: no room for %s of the %s that are placed on %s: %s",
                         unit_table_name(residency->table, unit, name, sizeof name), bytes_text(bytes).text,
                         bytes_text(residency->homes.gpu_bytes[g]).text, gpu->device->name, cause.text);
    gpu->blocks[gpu->n_blocks++] = (struct residency_block){memory, bytes};
    *out = memory;
    return 0;
}

static int allocate_homes(struct residency *residency, uint32_t g, struct lode_error *error)
{
    const struct unit_table *table = residency->table;
    const struct gpu *gpu = &residency->gpus[g];
    const uint64_t wanted = residency->homes.gpu_bytes[g];
    if (wanted > gpu->budget_bytes)
        return lode_fail(
            error, LODE_ERR_MEMORY,
            "the weights that are placed on %s take %s, but it has %s for them; place less there",
            gpu->device->name, bytes_text(wanted).text, bytes_text(gpu->budget_bytes).text);
    for (uint32_t first = 0, end; first < table->n_units; first = end) {
        uint64_t bytes = 0;
        for (end = first; end < table->n_units; end++) {
            const uint64_t one = home_bytes(residency, g, end);
            if (bytes && one && bytes + one > BLOCK_MAX_BYTES)
                break;
            if (!bytes)
                first = end; // for the text of an error
            bytes += one;
        }
        char *memory = NULL;
        const int code = bytes ? allocate_block(residency, g, &memory, first, bytes, error) : 0;
        if (code != 0)
            return code;
        for (uint32_t u = first; bytes && u < end; u++) {
            if (!home_bytes(residency, g, u))
                continue;
            layout_place(residency->parts, table, u, memory, false);
            memory += home_bytes(residency, g, u);
        }
    }
    return 0;
}

// ---- experts that begin there
// ------------------------------------------------------------------------------------

static void note_copy(struct residency *residency, uint32_t g, uint32_t unit, bool has)
{
    const uint8_t before = residency->on_gpu[unit], bit = (uint8_t)(1u << g);
    residency->on_gpu[unit] = (uint8_t)(has ? before | bit : before & ~bit);
    if (before == residency->on_gpu[unit])
        return;
    uint32_t *in_layer = &residency->gpus[g].in_layer[residency->table->units[unit].layer];
    *in_layer = has ? *in_layer + 1 : *in_layer - 1;
    if (residency->pool && residency->homes.home[unit] == HOME_POOL && !before != !residency->on_gpu[unit])
        pool_copied(residency->pool, unit, has);
}

bool gpu_take(struct residency *residency, uint32_t g, uint32_t unit)
{
    if (!vram_take(residency->gpus[g].vram, unit))
        return false;
    note_copy(residency, g, unit, true);
    return true;
}

void gpu_drop(struct residency *residency, uint32_t g, uint32_t unit)
{
    vram_drop(residency->gpus[g].vram, unit);
    note_copy(residency, g, unit, false);
}

void gpu_recount(struct residency *residency, uint32_t g)
{
    for (uint32_t u = 0; u < residency->table->n_units; u++)
        if (residency_copies(residency, u) >> g & 1 && !vram_has(residency->gpus[g].vram, u))
            note_copy(residency, g, u, false);
}

const float *gpus_heat(struct residency *residency)
{
    const struct heat *heat = residency->options.heat;
    if (!heat || !heat->n_tokens)
        return NULL;
    for (uint32_t u = 0; u < residency->table->n_units; u++)
        residency->unit_heat[u] =
            residency->table->units[u].class == UNIT_EXPERT ? heat->mean[residency->expert_index[u]] : 0;
    return residency->unit_heat;
}

struct candidate {
    float heat;
    uint32_t index, unit; // index in its layer
};

// The hottest first; what is not known is spread over the layers.
static int by_heat(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->heat != y->heat)
        return x->heat < y->heat ? 1 : -1;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return (x->unit > y->unit) - (x->unit < y->unit);
}

static bool names_experts(const struct residency *residency)
{
    const uint8_t *unit_gpu = residency->options.unit_gpu;
    for (uint32_t u = 0; unit_gpu && u < residency->table->n_units; u++)
        if (unit_gpu[u] && residency->table->units[u].class == UNIT_EXPERT)
            return true;
    return false;
}

static int choose_copies(struct residency *residency, struct lode_error *error)
{
    struct candidate *candidates = calloc(residency->n_experts + 1, sizeof *candidates);
    if (!candidates)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to order %u experts", residency->n_experts);
    const float *heat = gpus_heat(residency);
    const bool named = names_experts(residency);
    uint32_t n = 0;
    for (uint32_t u = 0; u < residency->table->n_units; u++)
        if (residency->table->units[u].class == UNIT_EXPERT)
            candidates[n++] = (struct candidate){heat ? heat[u] : 0, residency->table->units[u].index, u};
    qsort(candidates, n, sizeof *candidates, by_heat);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t unit = candidates[i].unit;
        bool taken = false;
        for (uint32_t g = 0; g < residency->n_gpus && !taken; g++)
            if (!named || residency->options.unit_gpu[unit] == 1 + g)
                taken = gpu_take(residency, g, unit);
    }
    free(candidates);
    return 0;
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static int open_tables(struct residency *residency, struct lode_error *error)
{
    const struct unit_table *table = residency->table;
    const uint32_t n_layers = residency->n_layers;
    residency->on_gpu = calloc(table->n_units + 1, sizeof *residency->on_gpu);
    residency->upload_to = calloc(table->n_units + 1, sizeof *residency->upload_to);
    residency->unit_heat = calloc(table->n_units + 1, sizeof *residency->unit_heat);
    residency->layer_experts = calloc(n_layers + 1, sizeof *residency->layer_experts);
    residency->layer_gpu = calloc(n_layers + 1, sizeof *residency->layer_gpu);
    bool there = residency->on_gpu && residency->upload_to && residency->unit_heat &&
                 residency->layer_experts && residency->layer_gpu;
    for (uint32_t u = 0; there && u < table->n_units; u++) {
        const uint32_t executor = residency_executor(residency, u);
        if (executor && table->units[u].layer < n_layers)
            residency->layer_gpu[table->units[u].layer] = executor - 1;
        if (table->units[u].class != UNIT_EXPERT)
            continue;
        const uint32_t n = ++residency->layer_experts[table->units[u].layer];
        residency->layer_max = n > residency->layer_max ? n : residency->layer_max;
    }
    const uint32_t n = residency->layer_max + 1;
    residency->host_units = calloc(n, sizeof *residency->host_units);
    residency->host_tokens = calloc(n, sizeof *residency->host_tokens);
    residency->order = calloc(n, sizeof *residency->order);
    residency->order_tokens = calloc(n, sizeof *residency->order_tokens);
    there = there && residency->host_units && residency->host_tokens && residency->order &&
            residency->order_tokens;
    for (uint32_t g = 0; g < residency->n_gpus; g++) {
        struct gpu *gpu = &residency->gpus[g];
        gpu->in_layer = calloc(n_layers + 1, sizeof *gpu->in_layer);
        gpu->chosen = calloc(n, sizeof *gpu->chosen);
        there = there && gpu->in_layer && gpu->chosen;
    }
    return there ? 0
                 : lode_fail(error, LODE_ERR_MEMORY, "no memory for what %u GPUs have", residency->n_gpus);
}

// Whether some experts will be on no GPU.
static bool some_are_left(const struct residency *residency)
{
    const struct unit_table *table = residency->table;
    uint64_t room = 0, wanted = 0;
    for (uint32_t g = 0; g < residency->n_gpus; g++)
        room += residency->gpus[g].budget_bytes - residency->homes.gpu_bytes[g];
    for (uint32_t u = 0; u < table->n_units; u++)
        wanted += table->units[u].class == UNIT_EXPERT ? layout_unit_bytes(table, u, false) : 0;
    return room < wanted;
}

static int open_pool(struct residency *residency, uint32_t g, bool with_uploads, struct lode_error *error)
{
    struct gpu *gpu = &residency->gpus[g];
    uint64_t left = gpu->budget_bytes - residency->homes.gpu_bytes[g], uploads = 0;
    gpu->slot_bytes = largest_expert_bytes(residency->table);
    if (with_uploads)
        uploads_open(residency, gpu, left, &uploads);
    const int code = vram_open(&gpu->vram, residency->table, gpu->device, left - uploads, error);
    gpu->figures.pinned_bytes = residency->homes.gpu_bytes[g];
    return code;
}

int gpus_check(const struct residency *residency, struct lode_error *error)
{
    const struct residency_options *options = &residency->options;
    const struct unit_table *table = residency->table;
    if (options->n_gpus > HOME_GPUS)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "%u GPUs; at most %d are used together",
                         options->n_gpus, HOME_GPUS);
    if (options->n_gpus && options->on_part && !options->copy_part)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "weights are put into another order, but not back for copies on %s",
                         options->gpus[0].device->name);
    if (options->n_gpus && !residency->device->host_memory)
        return lode_fail(error, LODE_ERR_ARGUMENT, "GPUs beside %s, which is no device of the host",
                         residency->device->name);
    for (uint32_t u = 0; options->unit_gpu && u < table->n_units; u++) {
        char name[128];
        if (options->unit_gpu[u] > options->n_gpus)
            return lode_fail(error, LODE_ERR_ARGUMENT, "%s is placed on GPU %u of %u",
                             unit_table_name(table, u, name, sizeof name), options->unit_gpu[u] - 1u,
                             options->n_gpus);
    }
    return 0;
}

int gpus_open(struct residency *residency, struct lode_error *error)
{
    const struct residency_options *options = &residency->options;
    if (options->n_gpus == 0)
        return 0;
    residency->gpus = calloc(options->n_gpus, sizeof *residency->gpus);
    if (!residency->gpus)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for what %u GPUs have", options->n_gpus);
    residency->n_gpus = options->n_gpus;
    for (uint32_t g = 0; g < residency->n_gpus; g++) {
        residency->gpus[g].device = options->gpus[g].device;
        residency->gpus[g].budget_bytes = options->gpus[g].budget_bytes;
        residency->gpus[g].rates = options->gpus[g].rates;
    }
    int code = open_tables(residency, error);
    for (uint32_t g = 0; g < residency->n_gpus && code == 0; g++)
        code = allocate_homes(residency, g, error);
    const bool with_uploads = code == 0 && some_are_left(residency);
    for (uint32_t g = 0; g < residency->n_gpus && code == 0; g++)
        code = open_pool(residency, g, with_uploads, error);
    if (code == 0)
        code = choose_copies(residency, error);
    return code;
}

void gpus_close(struct residency *residency)
{
    for (uint32_t g = 0; g < residency->n_gpus; g++) {
        struct gpu *gpu = &residency->gpus[g];
        uploads_close(gpu);
        vram_close(gpu->vram);
        for (uint32_t i = 0; i < gpu->n_blocks; i++)
            gpu->device->ops->free(gpu->device, gpu->blocks[i].memory, gpu->blocks[i].bytes);
        free(gpu->blocks);
        free(gpu->in_layer);
        free(gpu->chosen);
    }
    free(residency->gpus);
    free(residency->on_gpu);
    free(residency->upload_to);
    free(residency->unit_heat);
    free(residency->layer_experts);
    free(residency->layer_gpu);
    free(residency->host_units);
    free(residency->host_tokens);
    free(residency->order);
    free(residency->order_tokens);
}

// ---- choices
// -------------------------------------------------------------------------------------------------

uint32_t residency_executor(const struct residency *residency, uint32_t unit)
{
    assert(unit < residency->table->n_units);
    const uint8_t home = residency->homes.home[unit];
    return home >= HOME_GPU ? 1u + home - HOME_GPU : 0;
}

void gpus_choose(struct residency *residency, const uint32_t *units, const uint32_t *n_tokens, uint32_t n)
{
    assert(n <= residency->layer_max);
    for (uint32_t g = 0; g < residency->n_gpus; g++) {
        residency->gpus[g].n_chosen = residency->gpus[g].chosen_at = 0;
        residency->gpus[g].busy_ns = 0;
    }
    residency->n_host = 0;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t copies = residency_copies(residency, units[i]);
        if (copies) {
            struct gpu *gpu = &residency->gpus[__builtin_ctz(copies)];
            gpu->chosen[gpu->n_chosen++] = units[i];
            gpu->busy_ns += expert_rate_ns(&gpu->rates, n_tokens[i]);
            gpu->figures.hits += residency_decodes(residency);
            continue;
        }
        residency->host_units[residency->n_host] = units[i];
        residency->host_tokens[residency->n_host++] = n_tokens[i];
    }
}

uint32_t residency_take_gpu(struct residency *residency, uint32_t g, uint32_t *out_units, uint32_t max)
{
    struct gpu *gpu = &residency->gpus[g];
    const uint32_t left = gpu->n_chosen - gpu->chosen_at, n = left < max ? left : max;
    memcpy(out_units, gpu->chosen + gpu->chosen_at, n * sizeof *out_units);
    gpu->chosen_at += n;
    return n;
}

bool residency_all_on_gpu(const struct residency *residency, uint32_t g, uint32_t layer)
{
    if (g >= residency->n_gpus || layer >= residency->n_layers)
        return false;
    const uint32_t n = residency->layer_experts[layer];
    return n > 0 && residency->gpus[g].in_layer[layer] == n;
}

void *residency_gpu_part(const struct residency *residency, uint32_t g, uint32_t unit, uint32_t part)
{
    assert(g < residency->n_gpus && part < residency->table->units[unit].n_parts);
    return vram_part(residency->gpus[g].vram, unit, part);
}

uint64_t residency_gpu_generation(const struct residency *residency, uint32_t g)
{
    return vram_generation(residency->gpus[g].vram);
}

void residency_count_gpu(const struct residency *residency, uint32_t g, struct residency_gpu_figures *out)
{
    const struct gpu *gpu = &residency->gpus[g];
    *out = gpu->figures;
    out->pool_bytes = vram_bytes(gpu->vram);
    out->pool_slots = vram_slots(gpu->vram);
    out->pool_used = vram_used(gpu->vram);
}
