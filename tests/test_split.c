// Dividing a model between GPUs by rule: whole groups, what fits, and never more than fits.
#include "placement/split.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define MOST_LAYERS 24
#define MOST_GPUS 3

struct model {
    struct world w;
    uint32_t n_layers, kv_layer[MOST_LAYERS], group[MOST_LAYERS]; // group: its lowest layer
    uint64_t kv_bytes[MOST_LAYERS];
};

// A table of rows, a head, and layers of two dense units and experts; layers may read K and V of lower ones.
static void make(struct model *m, uint32_t seed, bool shared)
{
    world_set_up(&m->w, true);
    m->w.random = seed;
    m->n_layers = 1 + world_random(&m->w, MOST_LAYERS);
    const uint32_t n_experts = world_random(&m->w, 2) ? world_random(&m->w, 8) : 0;
    world_add_unit(&m->w, UNIT_ROWS, UNIT_NO_LAYER, 0);
    world_append_part(&m->w, 50000);
    world_add_unit(&m->w, UNIT_FIXED, UNIT_NO_LAYER, 0);
    world_append_part(&m->w, 1 + world_random(&m->w, 40000));
    for (uint32_t l = 0; l < m->n_layers; l++) {
        world_add_unit(&m->w, UNIT_FIXED, l, 0);
        world_append_part(&m->w, 1 + world_random(&m->w, 1000));
        world_add_unit(&m->w, UNIT_DENSE, l, 0);
        world_append_part(&m->w, 1 + world_random(&m->w, 20000));
        for (uint32_t e = 0; e < n_experts; e++) {
            world_add_unit(&m->w, UNIT_EXPERT, l, e);
            world_append_part(&m->w, 3000);
        }
        m->kv_layer[l] = shared && l > 2 && world_random(&m->w, 2) ? m->kv_layer[world_random(&m->w, l)] : l;
        m->kv_bytes[l] = m->kv_layer[l] == l ? 1 + world_random(&m->w, 5000) : 0;
        m->group[l] = m->kv_layer[l]; // the one that is read is the lowest
    }
}

static uint64_t bytes_of(const struct model *m, uint32_t group, bool experts)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < m->n_layers; l++)
        bytes += group != UNIT_NO_LAYER && m->group[l] == group ? m->kv_bytes[l] : 0;
    for (uint32_t u = 0; u < m->w.table.n_units; u++) {
        const struct unit *unit = &m->w.table.units[u];
        if (unit->class == UNIT_ROWS || (unit->class == UNIT_EXPERT && !experts))
            continue;
        const uint32_t its = unit->layer == UNIT_NO_LAYER ? UNIT_NO_LAYER : m->group[unit->layer];
        bytes += its == group ? world_slot_bytes(&m->w.table, u, false) : 0;
    }
    return bytes;
}

static uint8_t place_of(const struct model *m, const uint8_t *unit_gpu, uint32_t group)
{
    for (uint32_t u = 0; u < m->w.table.n_units; u++) {
        const struct unit *unit = &m->w.table.units[u];
        if (unit->class == UNIT_DENSE && m->group[unit->layer] == group)
            return unit_gpu[u];
        if (unit->class == UNIT_FIXED && unit->layer == UNIT_NO_LAYER && group == UNIT_NO_LAYER)
            return unit_gpu[u];
    }
    cr_assert_fail("no group %u", group);
    return 0;
}

static void check(const struct model *m, const struct split_request *r, const uint8_t *unit_gpu)
{
    const bool by_layer = r->rule == SPLIT_BY_LAYER;
    uint64_t used[MOST_GPUS] = {0};
    for (uint32_t u = 0; u < m->w.table.n_units; u++) {
        const struct unit *unit = &m->w.table.units[u];
        cr_assert_leq(unit_gpu[u], r->n_gpus);
        if (unit->class == UNIT_ROWS || (unit->class == UNIT_EXPERT && !by_layer)) {
            cr_assert_eq(unit_gpu[u], 0);
            continue;
        }
        const uint32_t group = unit->layer == UNIT_NO_LAYER ? UNIT_NO_LAYER : m->group[unit->layer];
        cr_assert_eq(unit_gpu[u], place_of(m, unit_gpu, group), "unit %u is apart from its group", u);
    }
    for (uint32_t i = 0; i <= m->n_layers; i++) {
        const uint32_t group = i == m->n_layers ? UNIT_NO_LAYER : i;
        if (i < m->n_layers && m->group[i] != i)
            continue;
        const uint8_t place = place_of(m, unit_gpu, group);
        const uint64_t bytes = bytes_of(m, group, by_layer) + (i == m->n_layers ? r->outer_bytes : 0);
        if (place)
            used[place - 1] += bytes;
    }
    for (uint32_t g = 0; g < r->n_gpus; g++)
        cr_assert_leq(used[g], r->gpu_bytes[g], "GPU %u", g);
    // Of what earlier GPUs have left, nothing fits on an empty one, nor the next behind the last one of it.
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        uint32_t lowest = m->n_layers;
        for (uint32_t l = m->n_layers; l-- > 0;)
            if (m->group[l] == l && place_of(m, unit_gpu, l) == 1 + g)
                lowest = l;
        for (uint32_t l = lowest; l-- > 0;) {
            if (m->group[l] != l || (place_of(m, unit_gpu, l) && place_of(m, unit_gpu, l) <= g))
                continue;
            cr_assert_gt(used[g] + bytes_of(m, l, by_layer), r->gpu_bytes[g], "layer %u would fit on GPU %u",
                         l, g);
            if (lowest < m->n_layers)
                break;
        }
    }
}

Test(split, keeps_groups_whole_and_to_the_memory_of_every_gpu)
{
    uint32_t n_placed = 0;
    for (uint32_t seed = 1; seed <= 600; seed++) {
        struct model m;
        uint64_t gpu_bytes[MOST_GPUS];
        make(&m, seed, seed % 2);
        const uint64_t all = unit_table_bytes(&m.w.table);
        struct split_request r = {
            .table = &m.w.table,
            .n_layers = m.n_layers,
            .kv_layer = seed % 2 ? m.kv_layer : NULL,
            .kv_bytes = m.kv_bytes,
            .outer_bytes = world_random(&m.w, 5000),
            .n_gpus = world_random(&m.w, MOST_GPUS + 1),
            .gpu_bytes = gpu_bytes,
            .rule = seed / 2 % 2 ? SPLIT_BY_LAYER : SPLIT_DENSE_FIRST,
        };
        for (uint32_t g = 0; g < MOST_GPUS; g++)
            gpu_bytes[g] = world_random(&m.w, 4) ? world_random(&m.w, (uint32_t)all) : 0;
        uint8_t *first = malloc(m.w.table.n_units), *again = malloc(m.w.table.n_units);
        memset(first, 0xaa, m.w.table.n_units);
        memset(again, 0x55, m.w.table.n_units);
        split_units(first, &r);
        split_units(again, &r);
        cr_assert_arr_eq(first, again, m.w.table.n_units);
        check(&m, &r, first);
        for (uint32_t u = 0; u < m.w.table.n_units; u++)
            n_placed += first[u] > 0;
        // With room for everything nothing that moves is left.
        gpu_bytes[0] = 4 * all + 1000000;
        r.n_gpus = r.n_gpus ? r.n_gpus : 1;
        split_units(first, &r);
        check(&m, &r, first);
        for (uint32_t u = 0; u < m.w.table.n_units; u++) {
            const enum unit_class class = m.w.table.units[u].class;
            const bool is_moved = class != UNIT_ROWS && (class != UNIT_EXPERT || r.rule == SPLIT_BY_LAYER);
            cr_assert_eq(first[u], is_moved);
        }
        free(first);
        free(again);
        world_tear_down(&m.w);
    }
    cr_assert_gt(n_placed, 3000);
}

Test(split, takes_the_last_layers_and_goes_on_with_the_next_gpu)
{
    struct world w;
    world_set_up(&w, true);
    world_add_unit(&w, UNIT_FIXED, UNIT_NO_LAYER, 0); // the head: 64 * 10
    world_append_part(&w, 576);
    for (uint32_t l = 0; l < 6; l++) {
        world_add_unit(&w, UNIT_DENSE, l, 0); // 128
        world_append_part(&w, 64);
        world_add_unit(&w, UNIT_EXPERT, l, 0); // 256
        world_append_part(&w, 192);
    }
    uint8_t unit_gpu[13];
    uint64_t gpu_bytes[] = {640 + 300, 260};
    struct split_request r = {.table = &w.table, .n_layers = 6, .n_gpus = 2, .gpu_bytes = gpu_bytes};
    split_units(unit_gpu, &r);
    static const uint8_t dense_first[] = {1, 0, 0, 0, 0, 2, 0, 2, 0, 1, 0, 1, 0};
    cr_assert_arr_eq(unit_gpu, dense_first, 13);
    r.rule = SPLIT_BY_LAYER;
    gpu_bytes[0] = 640 + 2 * 384;
    gpu_bytes[1] = 500;
    split_units(unit_gpu, &r);
    static const uint8_t by_layer[] = {1, 0, 0, 0, 0, 0, 0, 2, 2, 1, 1, 1, 1};
    cr_assert_arr_eq(unit_gpu, by_layer, 13);
    r.outer_bytes = 1000; // the head goes without, the layers do not
    gpu_bytes[1] = 0;
    split_units(unit_gpu, &r);
    static const uint8_t no_head[] = {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1};
    cr_assert_arr_eq(unit_gpu, no_head, 13);
    world_tear_down(&w);
}
