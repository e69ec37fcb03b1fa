// A GPU's pool of copies: slots of experts of several sizes, allocations that fail, and blocks that are given
// back, coldest first.
#include "placement/layout.h"
#include "placement/vram.h"
#include "tests/fake_gpu.h"
#include "tests/placement_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

struct scene {
    struct world w;
    struct fake_gpu gpu;
    struct vram *vram;
};

static void set_up(struct scene *s, uint32_t n_layers, uint32_t n_experts, const uint32_t *layer_bytes)
{
    world_set_up(&s->w, true);
    world_add_unit(&s->w, UNIT_DENSE, 0, 0);
    world_append_part(&s->w, 1000);
    for (uint32_t l = 0; l < n_layers; l++)
        for (uint32_t e = 0; e < n_experts; e++) {
            world_add_unit(&s->w, UNIT_EXPERT, l, e);
            world_append_part(&s->w, layer_bytes[l]);
            world_append_part(&s->w, layer_bytes[l] / 2);
        }
    fake_gpu_init(&s->gpu, "fake0", UINT64_MAX);
}

static void open_with(struct scene *s, uint64_t bytes)
{
    cr_assert_eq(vram_open(&s->vram, &s->w.table, &s->gpu.base, bytes, &s->w.error), 0, "%s",
                 s->w.error.text);
    cr_assert_leq(vram_bytes(s->vram), bytes);
    cr_assert_eq(s->gpu.live_bytes, vram_bytes(s->vram));
}

static void tear_down(struct scene *s)
{
    vram_close(s->vram);
    fake_gpu_check_empty(&s->gpu);
    world_tear_down(&s->w);
}

static uint64_t slot_of(const struct scene *s, uint32_t unit)
{
    return layout_unit_bytes(&s->w.table, unit, false);
}

// Writes the unit's number all over its place.
static void fill(struct scene *s, uint32_t unit)
{
    for (uint32_t i = 0; i < s->w.table.units[unit].n_parts; i++) {
        char *part = vram_part(s->vram, unit, i);
        cr_assert_eq((uintptr_t)part % LODE_DEVICE_ALIGN, 0);
        memset(part, (int)(unit % 251),
               s->w.table.parts[s->w.table.units[unit].first_part + i].bytes + LODE_DEVICE_SLACK);
    }
}

static void check(struct scene *s)
{
    uint32_t n = 0;
    for (uint32_t u = 0; u < s->w.table.n_units; u++) {
        cr_assert_eq(vram_part(s->vram, u, 0) != NULL, vram_has(s->vram, u));
        if (!vram_has(s->vram, u))
            continue;
        n++;
        for (uint32_t i = 0; i < s->w.table.units[u].n_parts; i++) {
            const unsigned char *part = vram_part(s->vram, u, i);
            const uint64_t bytes = s->w.table.parts[s->w.table.units[u].first_part + i].bytes;
            for (uint64_t b = 0; b < bytes + LODE_DEVICE_SLACK; b++)
                if (part[b] != u % 251)
                    cr_assert_fail("unit %u has been written over", u);
        }
    }
    cr_assert_eq(vram_used(s->vram), n);
    cr_assert_leq(n, vram_slots(s->vram));
    cr_assert_eq(s->gpu.live_bytes, vram_bytes(s->vram));
}

static uint32_t take_all(struct scene *s)
{
    uint32_t n = 0;
    for (uint32_t u = 1; u < s->w.table.n_units; u++)
        if (!vram_has(s->vram, u) && vram_take(s->vram, u)) {
            fill(s, u);
            n++;
        }
    return n;
}

Test(vram, holds_as_many_experts_as_there_is_memory_for)
{
    const uint32_t bytes[] = {4000, 4000, 4000};
    for (uint32_t n = 0; n <= 100; n += n < 8 ? 1 : 23) {
        struct scene s;
        set_up(&s, 3, 32, bytes);
        open_with(&s, n * slot_of(&s, 1) + 77);
        const uint32_t room = n < 96 ? n : 96;
        cr_assert_eq(vram_slots(s.vram), room);
        cr_assert_eq(take_all(&s), room);
        cr_assert_eq(vram_used(s.vram), room);
        cr_assert_eq(vram_bytes(s.vram), room * slot_of(&s, 1), "no more than experts fill");
        check(&s);
        tear_down(&s);
    }
}

Test(vram, makes_few_blocks_of_many_experts)
{
    struct scene s;
    uint32_t bytes[30];
    for (uint32_t l = 0; l < 30; l++)
        bytes[l] = 200000;
    set_up(&s, 30, 64, bytes);
    open_with(&s, 1000 * slot_of(&s, 1));
    cr_assert_eq(take_all(&s), 1000);
    cr_assert(s.gpu.n_allocs >= 8 && s.gpu.n_allocs <= 17, "%u", s.gpu.n_allocs);
    tear_down(&s);
}

Test(vram, of_a_model_without_experts_is_empty)
{
    struct scene s;
    set_up(&s, 0, 0, NULL);
    open_with(&s, 1 << 20);
    cr_assert(vram_bytes(s.vram) == 0 && vram_slots(s.vram) == 0 && s.gpu.n_allocs == 0);
    cr_assert_not(vram_has(s.vram, 0));
    cr_assert_eq(vram_yield(s.vram, 100, NULL), 0);
    tear_down(&s);
}

Test(vram, slots_are_used_again_and_the_generation_tells)
{
    const uint32_t bytes[] = {3000, 3000};
    struct scene s;
    set_up(&s, 2, 16, bytes);
    open_with(&s, 9 * slot_of(&s, 1));
    take_all(&s);
    uint64_t generation = vram_generation(s.vram);
    for (uint32_t i = 0; i < 2000; i++) {
        const uint32_t unit = 1 + world_random(&s.w, 32);
        const bool has = vram_has(s.vram, unit);
        if (has) {
            vram_drop(s.vram, unit);
            cr_assert_not(vram_has(s.vram, unit));
        } else if (vram_take(s.vram, unit)) {
            fill(&s, unit);
        } else {
            cr_assert_eq(vram_used(s.vram), 9);
            cr_assert_eq(vram_generation(s.vram), generation);
            continue;
        }
        cr_assert_neq(vram_generation(s.vram), generation);
        generation = vram_generation(s.vram);
        check(&s);
    }
    tear_down(&s);
}

Test(vram, experts_of_unlike_sizes_share_memory_not_slots)
{
    const uint32_t bytes[] = {3000, 9000, 3100, 800};
    for (uint32_t seed = 1; seed <= 40; seed++) {
        struct scene s;
        set_up(&s, 4, 16, bytes);
        s.w.random = seed;
        uint64_t all = 0;
        for (uint32_t u = 1; u <= 64; u++)
            all += slot_of(&s, u);
        open_with(&s, world_random(&s.w, (uint32_t)all));
        cr_assert_eq(vram_class(s.vram, 1), vram_class(s.vram, 33), "3,000 and 3,100 are alike");
        cr_assert_neq(vram_class(s.vram, 1), vram_class(s.vram, 17));
        cr_assert_neq(vram_class(s.vram, 1), vram_class(s.vram, 49));
        for (uint32_t i = 0; i < 600; i++) {
            const uint32_t unit = 1 + world_random(&s.w, 64);
            if (vram_has(s.vram, unit))
                vram_drop(s.vram, unit);
            else if (vram_take(s.vram, unit))
                fill(&s, unit);
            if (i % 10 == 0)
                check(&s);
        }
        // What has been emptied may take another size.
        for (uint32_t u = 1; u <= 64; u++)
            if (vram_has(s.vram, u))
                vram_drop(s.vram, u);
        const uint64_t large = slot_of(&s, 17), bytes_now = vram_bytes(s.vram);
        uint32_t n_large = 0;
        for (uint32_t u = 17; u < 33; u++)
            n_large += vram_take(s.vram, u);
        cr_assert(n_large == 16 || n_large * large >= bytes_now / 2 || bytes_now < 4 * large,
                  "%u large ones in %llu bytes", n_large, (unsigned long long)bytes_now);
        tear_down(&s);
    }
}

Test(vram, room_for_all_is_enough_for_all)
{
    const uint32_t bytes[] = {3000, 9000, 3100, 800, 9000, 9000};
    struct scene s;
    set_up(&s, 6, 20, bytes);
    open_with(&s, UINT64_MAX / 4);
    cr_assert_eq(take_all(&s), 120);
    check(&s);
    tear_down(&s);
}

Test(vram, an_allocation_that_fails_makes_it_smaller)
{
    const uint32_t bytes[] = {20000, 20000};
    for (uint32_t nth = 0; nth < 12; nth++) {
        struct scene s;
        set_up(&s, 2, 32, bytes);
        s.gpu.fail_alloc = nth;
        open_with(&s, 40 * slot_of(&s, 1));
        const uint32_t room = vram_slots(s.vram);
        cr_assert(room < 40 || nth >= s.gpu.n_allocs);
        cr_assert_eq(room == 0, nth == 0);
        cr_assert_eq(take_all(&s), room);
        check(&s);
        tear_down(&s);
    }
}

static double heat_of(const struct scene *s, const float *heat)
{
    double sum = 0;
    for (uint32_t u = 1; u < s->w.table.n_units; u++)
        sum += vram_has(s->vram, u) ? (double)heat[u] : 0;
    return sum;
}

Test(vram, gives_back_the_coldest_and_keeps_the_hottest)
{
    const uint32_t bytes[] = {4000, 4000, 4000, 4000};
    for (uint32_t seed = 1; seed <= 30; seed++) {
        struct scene s;
        float heat[129] = {0};
        set_up(&s, 4, 32, bytes);
        s.w.random = seed;
        for (uint32_t u = 1; u <= 128; u++)
            heat[u] = (float)world_random(&s.w, 1000) / 1000;
        open_with(&s, 100 * slot_of(&s, 1));
        take_all(&s);
        while (vram_bytes(s.vram)) {
            const uint64_t before = vram_bytes(s.vram), wanted = 1 + world_random(&s.w, 60000);
            const uint64_t generation = vram_generation(s.vram);
            bool had[129];
            for (uint32_t u = 1; u <= 128; u++)
                had[u] = vram_has(s.vram, u);
            const uint64_t given = vram_yield(s.vram, wanted, heat);
            cr_assert_eq(vram_bytes(s.vram), before - given);
            cr_assert(given >= wanted || vram_bytes(s.vram) == 0);
            cr_assert_leq(given, wanted + 8 * slot_of(&s, 1), "blocks are small");
            cr_assert_neq(vram_generation(s.vram), generation);
            check(&s); // what was moved has its content
            for (uint32_t kept = 1; kept <= 128; kept++)
                for (uint32_t gone = 1; vram_has(s.vram, kept) && gone <= 128; gone++)
                    cr_assert(!had[gone] || vram_has(s.vram, gone) || heat[gone] <= heat[kept],
                              "unit %u has left, colder %u has not", gone, kept);
            cr_assert_eq(vram_used(s.vram), vram_slots(s.vram), "no slot is left empty");
        }
        cr_assert_eq(heat_of(&s, heat), 0);
        cr_assert_eq(vram_yield(s.vram, 1, heat), 0);
        tear_down(&s);
    }
}

Test(vram, without_heat_gives_back_what_came_last)
{
    const uint32_t bytes[] = {4000, 4000};
    struct scene s;
    set_up(&s, 2, 32, bytes);
    open_with(&s, 64 * slot_of(&s, 1));
    take_all(&s);
    vram_yield(s.vram, 20 * slot_of(&s, 1), NULL);
    const uint32_t left = vram_used(s.vram);
    cr_assert(left > 32 && left <= 44);
    for (uint32_t u = 1; u <= 64; u++)
        cr_assert_eq(vram_has(s.vram, u), u <= left);
    check(&s);
    tear_down(&s);
}

Test(vram, gives_back_blocks_that_are_empty_first)
{
    const uint32_t bytes[] = {4000};
    struct scene s;
    float heat[65] = {0};
    set_up(&s, 1, 64, bytes);
    open_with(&s, 64 * slot_of(&s, 1));
    for (uint32_t u = 1; u <= 10; u++) {
        vram_take(s.vram, u);
        fill(&s, u);
    }
    vram_yield(s.vram, 48 * slot_of(&s, 1), heat);
    cr_assert_eq(vram_used(s.vram), 10);
    check(&s);
    tear_down(&s);
}
