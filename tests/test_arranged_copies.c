// Experts that the CPU has put into an order of its own, and what of them reaches GPUs: the order of the
// file, in whatever way they come there. With the CPU's own functions, and fake GPUs.
#include "backends/cpu/cpu.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/rows8.h"
#include "core/weight_matrices.h"
#include "placement/layout.h"
#include "tests/gpu_scene.h"
#include "tests/weights.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 3
#define EXPERTS 24
#define EXPERT_PARTS 3
#define DENSE_UNITS 2 // of the host, and of a GPU
#define MAX_PARTS (DENSE_UNITS + LAYERS * EXPERTS * EXPERT_PARTS)

// Of each layer's experts: such that all matrices are arranged (and by several threads), one of them, none,
// not even 24 rows that are twice 12.
static const uint32_t rows_of[LAYERS][EXPERT_PARTS] = {{64, 64, 48}, {17, 24, 15}, {24, 1, 7}};
static const bool fused_of[LAYERS][EXPERT_PARTS] = {{true}, {false}, {true}};
static const uint32_t cols_of[LAYERS] = {512, 256, 256};

struct arranged_scene {
    struct gpu_scene s;
    struct lode_device *cpu;
    bool cpu_arranges, in_pool;
    struct lode_matrix parts[MAX_PARTS];
    bool is_fused[MAX_PARTS];
    struct weight_matrices matrices;
};

// ---- set-up
// ------------------------------------------------------------------------------------------------------

static void add_matrix(struct arranged_scene *a, enum lode_type type, uint32_t rows, uint32_t cols)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    const size_t row_bytes = (size_t)cols / traits->block_elems * traits->block_bytes;
    cr_assert_lt(a->s.w.table.n_parts, MAX_PARTS);
    a->parts[a->s.w.table.n_parts] =
        (struct lode_matrix){.type = type, .rows = rows, .cols = cols, .row_bytes = row_bytes};
    world_append_part(&a->s.w, rows * row_bytes); // at odd addresses
}

static void add_units(struct arranged_scene *a, enum lode_type type)
{
    struct world *w = &a->s.w;
    for (uint32_t i = 0; i < DENSE_UNITS; i++) {
        world_add_unit(w, UNIT_DENSE, 0, 0);
        add_matrix(a, type, 32, 256);
    }
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            for (uint32_t i = 0; i < EXPERT_PARTS; i++) {
                a->is_fused[w->table.n_parts] = fused_of[l][i];
                add_matrix(a, type, rows_of[l][i], cols_of[l]);
            }
        }
}

// The weights of the type as an engine has them: all in memory, or experts in a pool that is too small.
static void set_up(struct arranged_scene *a, enum lode_type type, const char *isa, bool in_pool)
{
    struct gpu_scene *s = &a->s;
    struct world *w = &s->w;
    const struct cpu_options options = {.threads = 2, .isa = isa};
    memset(a, 0, sizeof *a);
    scene_set_up(s, GPUS);
    cr_assert_eq(cpu_open(&a->cpu, &options, &w->error), 0, "%s", w->error.text);
    a->cpu_arranges = strcmp(cpu_isa(a->cpu), cpu_isa_name(CPU_ISA_PORTABLE)) != 0;
    a->in_pool = in_pool;
    a->matrices = (struct weight_matrices){.device = a->cpu, .parts = a->parts, .is_fused = a->is_fused};
    add_units(a, type);
    scene_heat_up(s, LAYERS, LAYERS * EXPERTS);
    scene_set_rates(s);
    scene_place(s);
    s->unit_gpu[1] = 1;
    uint64_t bytes = 0;
    for (uint32_t u = DENSE_UNITS; u < w->table.n_units; u++)
        bytes += layout_unit_bytes(&w->table, u, false);
    s->options[0].budget_bytes = residency_gpu_dense_bytes(&w->table, s->unit_gpu, 0) + bytes / 16 * 9;
    s->options[1].budget_bytes = bytes / 16 * 6;
    w->options.on_part = weight_matrices_arrange;
    w->options.copy_part = weight_matrices_restore;
    w->options.part_user = &a->matrices;
    const uint64_t floor = residency_floor_bytes_beside(&w->table, &w->device.base, s->unit_gpu),
                   full = residency_full_bytes_beside(&w->table, &w->device.base, s->unit_gpu);
    world_open_file(w, NULL, 0);
    world_open(w, in_pool ? floor + (full - floor) / 4 : 0);
    cr_assert_eq(world_figures(w).pool_bytes > 0, in_pool);
    cr_assert_eq(world_figures(w).streamed_bytes, 0, "the dense unit stays");
    for (uint32_t g = 0; g < GPUS; g++)
        cr_assert_gt(scene_figures(s, g).pool_used, 0);
}

static void tear_down(struct arranged_scene *a)
{
    scene_tear_down(&a->s);
    a->cpu->ops->close(a->cpu);
}

// ---- checks
// ------------------------------------------------------------------------------------------------------

static bool is_arranged(const struct arranged_scene *a, uint32_t unit, uint32_t part)
{
    const struct lode_matrix *matrix = &a->parts[part];
    const bool stays = a->s.w.table.units[unit].class == UNIT_DENSE || !a->in_pool;
    const uint32_t rows = a->is_fused[part] ? matrix->rows / 2 : matrix->rows;
    return a->cpu_arranges && stays && rows % CPU_ROWS8 == 0 && cpu_rows8_format(matrix->type);
}

// That a unit lies in the memory of the host as the CPU likes it, and comes out of it as it is in the file.
static void check_host(struct arranged_scene *a, uint32_t unit)
{
    const struct unit_table *table = &a->s.w.table;
    for (uint32_t i = 0; i < table->units[unit].n_parts; i++) {
        const uint32_t part = table->units[unit].first_part + i;
        const struct extent *extent = &table->parts[part];
        const unsigned char *memory = residency_part(a->s.w.residency, unit, i);
        unsigned char *file = malloc(2 * extent->bytes), *restored = file + extent->bytes;
        for (uint64_t b = 0; b < extent->bytes; b++)
            file[b] = world_content_at(extent->offset + b);
        const bool arranged = is_arranged(a, unit, part);
        cr_assert_eq(a->parts[part].layout, arranged ? LODE_LAYOUT_ROWS8 : LODE_LAYOUT_FILE);
        cr_assert_eq(memcmp(memory, file, extent->bytes) != 0, arranged, "unit %u part %u", unit, i);
        weight_matrices_restore(&a->matrices, part, restored, memory);
        cr_assert_eq(memcmp(restored, file, extent->bytes), 0, "unit %u part %u", unit, i);
        free(file);
    }
}

static void check_all(struct arranged_scene *a)
{
    scene_check_gpus(&a->s);
    check_host(a, 0);
    cr_assert_eq(a->parts[1].layout, LODE_LAYOUT_FILE, "the dense unit of a GPU");
    for (uint32_t u = DENSE_UNITS; u < a->s.w.table.n_units && !a->in_pool; u++)
        check_host(a, u);
}

// A pass of many rows over a layer; returns how many experts were copied for it.
static uint32_t run_layer(struct arranged_scene *a, uint32_t layer)
{
    struct gpu_scene *s = &a->s;
    struct world *w = &s->w;
    uint32_t units[EXPERTS], n_tokens[EXPERTS], taken[EXPERTS], n, n_host, n_uploads = 0;
    for (uint32_t e = 0; e < EXPERTS; e++) {
        units[e] = DENSE_UNITS + layer * EXPERTS + e;
        n_tokens[e] = 90;
    }
    cr_assert_eq(residency_choose(w->residency, units, n_tokens, EXPERTS, &w->error), 0);
    for (uint32_t g = 0; g < GPUS; g++)
        residency_take_gpu(w->residency, g, taken, EXPERTS);
    for (;;) {
        cr_assert_eq(residency_take(w->residency, taken, &n, 4, true, &w->error), 0);
        if (n == 0)
            return n_uploads;
        for (uint32_t i = 0; i < n; i++)
            check_host(a, taken[i]);
        cr_assert_eq(residency_upload(w->residency, 0, taken, n_tokens, n, &n_host, &w->error), 0);
        residency_release(w->residency, taken, n);
        n_uploads += n - n_host;
        for (uint32_t i = n_host; i < n; i++)
            for (uint32_t p = 0; p < EXPERT_PARTS; p++) {
                const struct extent *extent = &w->table.parts[w->table.units[taken[i]].first_part + p];
                fake_gpu_read(&s->gpus[0], residency_upload_part(w->residency, 0, taken[i], p),
                              extent->offset, extent->bytes);
            }
        residency_upload_end(w->residency, 0);
    }
}

static void comes_as_it_is_in_the_file(enum lode_type type, const char *isa, bool in_pool)
{
    struct arranged_scene *a = malloc(sizeof *a);
    set_up(a, type, isa, in_pool);
    struct world *w = &a->s.w;
    check_all(a); // at the start
    uint32_t n_uploads = 0;
    residency_pass_begin(w->residency, 200, NULL, NULL);
    for (uint32_t l = 0; l < LAYERS; l++)
        n_uploads += run_layer(a, l);
    residency_pass_end(w->residency, true);
    cr_assert_gt(n_uploads, 0);
    cr_assert_eq(scene_figures(&a->s, 0).uploads, n_uploads);
    for (uint32_t e = 0; e < LAYERS * EXPERTS; e++) {
        const uint32_t unit = DENSE_UNITS + e;
        a->s.heat.mean[e] = scene_has_copy(&a->s, 0, unit) || scene_has_copy(&a->s, 1, unit) ? 0.1f : 0.9f;
    }
    uint64_t bytes;
    cr_assert_eq(residency_replace(w->residency, UINT64_MAX, &bytes, &w->error), 0);
    cr_assert_gt(bytes, 0);
    check_all(a); // after an exchange
    cr_assert_eq(residency_yield(w->residency, 0, UINT64_MAX, &bytes, &w->error), 0);
    residency_pass_begin(w->residency, 200, NULL, NULL);
    for (uint32_t l = 0; l < LAYERS; l++)
        cr_assert_eq(run_layer(a, l), 0); // what has left the GPU is the host's
    residency_pass_end(w->residency, true);
    check_all(a);
    tear_down(a);
    free(a);
}

Test(arranged_copies, every_type_reaches_gpus_as_it_is_in_the_file)
{
    for (unsigned t = 0; t < test_n_types; t++)
        if (cpu_rows8_format(test_types[t]))
            comes_as_it_is_in_the_file(test_types[t], NULL, false);
    comes_as_it_is_in_the_file(LODE_BF16, NULL, false);
}

Test(arranged_copies, every_instruction_set_reaches_gpus_as_it_is_in_the_file)
{
    for (int isa = 0; isa < CPU_ISA_END; isa++)
        if (cpu_isa_available(isa)) {
            comes_as_it_is_in_the_file(LODE_Q4_0, cpu_isa_name(isa), false);
            comes_as_it_is_in_the_file(LODE_Q5_1, cpu_isa_name(isa), false);
        }
}

// A pool is read into again and again: nothing is arranged there.
Test(arranged_copies, a_pool_stays_as_it_is_in_the_file)
{
    comes_as_it_is_in_the_file(LODE_Q4_0, NULL, true);
    comes_as_it_is_in_the_file(LODE_Q5_K, NULL, true);
}
