// Residency with GPUs: units with a home there, experts that have copies there beside the pool of the host,
// and every way to fail at the start.
#include "placement/layout.h"
#include "tests/gpu_scene.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- homes and copies
// --------------------------------------------------------------------------------------------

// A table of rows, a head, and layers of attention, FFN and experts of sizes that differ by layer.
static uint32_t add_model(struct world *w)
{
    const uint32_t n_layers = 1 + world_random(w, 6),
                   n_experts = world_random(w, 4) ? 4 + world_random(w, 20) : 0;
    w->end = world_random(w, 5000);
    world_add_unit(w, UNIT_ROWS, UNIT_NO_LAYER, 0);
    world_append_part(w, 40000);
    world_add_unit(w, UNIT_FIXED, UNIT_NO_LAYER, 0);
    world_append_part(w, world_random(w, 8) ? 1 + world_random(w, 40000) : 5 * MIB + world_random(w, 9000));
    for (uint32_t l = 0; l < n_layers; l++) {
        world_add_unit(w, UNIT_FIXED, l, 0);
        world_append_part(w, 1 + world_random(w, 300));
        world_append_part(w, 1 + world_random(w, 300));
        world_add_unit(w, UNIT_DENSE, l, 0);
        world_append_part(w, 1 + world_random(w, 30000));
        const uint32_t bytes = 1 + world_random(w, 12000);
        for (uint32_t e = 0; e < n_experts; e++) {
            world_add_unit(w, UNIT_EXPERT, l, e);
            world_append_part(w, bytes);
            world_append_part(w, 1 + bytes / 2);
        }
    }
    return n_experts;
}

static uint32_t draw_choice(struct world *w, uint32_t *units, uint32_t n_experts)
{
    uint32_t first = 0, n = 0;
    const uint32_t layer = world_random(w, (w->table.n_units - 2) / (2 + n_experts));
    first = 2 + layer * (2 + n_experts) + 2;
    for (uint32_t e = 0; e < n_experts; e++)
        if (world_random(w, 3) == 0)
            units[n++] = first + e;
    return n;
}

static void works_as_a_whole(uint32_t seed, bool by_unit)
{
    struct gpu_scene s;
    struct world *w = &s.w;
    scene_set_up(&s, 1 + seed % GPUS);
    w->random = seed;
    const uint32_t n_experts = add_model(w);
    const uint32_t n_layers = (w->table.n_units - 2) / (2 + n_experts);
    if (n_experts && world_random(w, 2))
        scene_heat_up(&s, n_layers, n_layers * n_experts);
    scene_place(&s);
    for (uint32_t u = 0; u < w->table.n_units; u++)
        if ((by_unit || w->table.units[u].class != UNIT_EXPERT) && world_random(w, 2))
            s.unit_gpu[u] = (uint8_t)world_random(w, 1 + w->options.n_gpus);
    uint64_t expert_bytes = 0;
    for (uint32_t u = 0; u < w->table.n_units; u++)
        expert_bytes += w->table.units[u].class == UNIT_EXPERT ? layout_unit_bytes(&w->table, u, false) : 0;
    for (uint32_t g = 0; g < w->options.n_gpus; g++)
        s.options[g].budget_bytes = residency_gpu_dense_bytes(&w->table, s.unit_gpu, g) +
                                    world_random(w, 1 + (uint32_t)expert_bytes) * 5 / 4;
    world_open_file(w, NULL, 0);
    const uint64_t floor = residency_floor_bytes_beside(&w->table, &w->device.base, s.unit_gpu);
    const uint64_t full = residency_full_bytes_beside(&w->table, &w->device.base, s.unit_gpu);
    cr_assert(floor <= full && full <= residency_full_bytes(&w->table, &w->device.base));
    cr_assert(floor <= residency_floor_bytes(&w->table, &w->device.base));
    world_open(w, floor + (full - floor) / 4 * world_random(w, 5));

    uint32_t n_copies = 0, n_hits = 0, n_gpu_hits = 0;
    for (uint32_t u = 0; u < w->table.n_units; u++) {
        const enum unit_class class = w->table.units[u].class;
        const bool may = class != UNIT_EXPERT && class != UNIT_ROWS;
        cr_assert_eq(residency_executor(w->residency, u), may ? s.unit_gpu[u] : 0);
        cr_assert_eq(residency_has_rows(w->residency, u), class == UNIT_ROWS);
        if (!may || s.unit_gpu[u])
            continue;
        cr_assert_eq(residency_acquire(w->residency, &u, 1, &w->error), 0, "%s", w->error.text);
        world_check_unit(w, u);
        residency_release(w->residency, &u, 1);
    }
    for (uint32_t g = 0; g < w->options.n_gpus; g++) {
        const struct residency_gpu_figures figures = scene_figures(&s, g);
        cr_assert_eq(figures.pinned_bytes, residency_gpu_dense_bytes(&w->table, s.unit_gpu, g));
        cr_assert_leq(figures.pinned_bytes + figures.pool_bytes, s.options[g].budget_bytes);
        cr_assert_eq(s.gpus[g].live_bytes, figures.pinned_bytes + figures.pool_bytes);
        cr_assert_leq(s.gpus[g].most_bytes, s.options[g].budget_bytes);
        n_copies += figures.pool_used;
    }
    cr_assert_eq(scene_check_gpus(&s), n_copies);
    for (uint32_t pass = 0; n_experts && pass < 30; pass++) {
        const bool decodes = pass % 3 > 0;
        uint32_t units[64];
        residency_pass_begin(w->residency, decodes ? 1 : 5, NULL, NULL);
        const uint32_t n = draw_choice(w, units, n_experts);
        for (uint32_t i = 0; decodes && i < n; i++) {
            n_hits++;
            n_gpu_hits +=
                scene_has_copy(&s, 0, units[i]) || (w->options.n_gpus > 1 && scene_has_copy(&s, 1, units[i]));
        }
        scene_use(&s, units, n, 1 + world_random(w, 8));
        residency_pass_end(w->residency, true);
    }
    const struct residency_figures figures = world_figures(w);
    uint64_t gpu_hits = 0;
    for (uint32_t g = 0; g < w->options.n_gpus; g++)
        gpu_hits += scene_figures(&s, g).hits;
    cr_assert_eq(figures.choices, n_hits);
    cr_assert_eq(gpu_hits, n_gpu_hits);
    cr_assert(figures.hits >= gpu_hits && figures.hits <= figures.choices);
    cr_assert(figures.prefill_hits <= figures.prefill_choices);
    scene_check_gpus(&s);
    scene_tear_down(&s);
}

Test(residency_gpu, any_placement_of_any_model_has_its_weights_where_it_says)
{
    for (uint32_t seed = 1; seed <= 120; seed++)
        works_as_a_whole(seed, seed % 3 == 0);
}

Test(residency_gpu, hot_experts_lie_on_the_first_gpu_then_on_the_next)
{
    struct gpu_scene s;
    scene_set_up(&s, 2);
    scene_add_hot_experts(&s);
    s.options[0].budget_bytes = 20 * SLOT;
    s.options[1].budget_bytes = 31 * SLOT + 5;
    scene_open(&s, 0);
    cr_assert_eq(scene_check_gpus(&s), 51);
    for (uint32_t a = 0; a < N_EXPERTS; a++)
        for (uint32_t b = 0; b < N_EXPERTS; b++) {
            const uint32_t place_a = scene_has_copy(&s, 0, 1 + a) ? 0 : scene_has_copy(&s, 1, 1 + a) ? 1 : 2;
            const uint32_t place_b = scene_has_copy(&s, 0, 1 + b) ? 0 : scene_has_copy(&s, 1, 1 + b) ? 1 : 2;
            cr_assert(s.heat.mean[a] <= s.heat.mean[b] || place_a <= place_b);
        }
    scene_tear_down(&s);
}

Test(residency_gpu, without_heat_all_layers_have_alike)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    s.options[0].budget_bytes = 42 * SLOT;
    scene_open(&s, 0);
    cr_assert_eq(scene_check_gpus(&s), 42);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++)
        for (uint32_t e = 0; e < WORLD_EXPERTS; e++)
            cr_assert_eq(scene_has_copy(&s, 0, world_expert(l, e)), e < 10 || (e == 10 && l < 2));
    scene_tear_down(&s);
}

Test(residency_gpu, a_placement_that_names_experts_is_kept_to)
{
    struct gpu_scene s;
    scene_set_up(&s, 2);
    scene_add_hot_experts(&s);
    scene_place(&s);
    for (uint32_t e = 0; e < WORLD_EXPERTS; e++) {
        s.unit_gpu[world_expert(3, e)] = 1;
        s.unit_gpu[world_expert(2, e)] = 2;
    }
    s.options[0].budget_bytes = s.options[1].budget_bytes = 40 * SLOT;
    scene_open(&s, 0);
    cr_assert_eq(scene_check_gpus(&s), 64);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
        cr_assert_eq(residency_all_on_gpu(s.w.residency, 0, l), l == 3);
        cr_assert_eq(residency_all_on_gpu(s.w.residency, 1, l), l == 2);
    }
    cr_assert_not(residency_all_on_gpu(s.w.residency, 2, 2));
    cr_assert_not(residency_all_on_gpu(s.w.residency, 0, WORLD_LAYERS));
    scene_tear_down(&s);
}

Test(residency_gpu, a_choice_that_is_told_later_counts_alike)
{
    struct residency_figures told[2];
    float means[2][N_EXPERTS];
    for (uint32_t later = 0; later < 2; later++) {
        struct gpu_scene s;
        scene_set_up_and_open(&s, N_EXPERTS, 0);
        for (uint32_t pass = 0; pass < 20; pass++) {
            residency_pass_begin(s.w.residency, 1, NULL, NULL);
            for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
                uint32_t units[4];
                static const uint32_t n_tokens[] = {1, 1, 1, 1};
                cr_assert(residency_all_on_gpu(s.w.residency, 0, l));
                world_draw(&s.w, units, 4, l);
                if (later)
                    residency_note_choice(s.w.residency, units, n_tokens, 4);
                else
                    scene_use(&s, units, 4, 8);
            }
            residency_pass_end(s.w.residency, true);
        }
        told[later] = world_figures(&s.w);
        memcpy(means[later], s.heat.mean, sizeof means[later]);
        cr_assert_eq(scene_figures(&s, 0).hits, 20 * 4 * WORLD_LAYERS);
        uint32_t none;
        cr_assert_eq(residency_take_gpu(s.w.residency, 0, &none, 1), 0);
        scene_tear_down(&s);
    }
    cr_assert_eq(told[0].choices, 20 * 4 * WORLD_LAYERS);
    cr_assert_eq(told[0].hits, told[0].choices);
    cr_assert(told[0].choices == told[1].choices && told[0].hits == told[1].hits &&
              told[0].reused == told[1].reused && told[0].reused > 0);
    cr_assert_arr_eq(means[0], means[1], sizeof means[0]);
}

// ---- beside the pool
// ---------------------------------------------------------------------------------------------

Test(residency_gpu, the_pool_is_for_what_gpus_do_not_have)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    scene_add_hot_experts(&s);
    s.options[0].budget_bytes = 30 * SLOT;
    world_open_file(&s.w, NULL, 0);
    const uint64_t loaded = IO_ALIGN_BYTES + 30 * 2 * IO_ALIGN_BYTES;
    world_open(&s.w, IO_ALIGN_BYTES + 40 * 2 * IO_ALIGN_BYTES);
    cr_assert_eq(world_figures(&s.w).pool_slots, 40);
    cr_assert_eq(world_figures(&s.w).load_bytes, loaded, "each copy is read once");
    world_settle(&s.w);
    cr_assert_eq(world_read_bytes(&s.w), loaded + 40 * 2 * IO_ALIGN_BYTES);
    uint32_t n_has = 0;
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        n_has += residency_has(s.w.residency, 1 + e);
    cr_assert_eq(n_has, 70, "the hottest on the GPU, the next ones in the pool");
    scene_tear_down(&s);
}

Test(residency_gpu, guesses_are_for_what_is_nowhere)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    scene_place(&s);
    for (uint32_t e = 0; e < WORLD_EXPERTS; e++)
        s.unit_gpu[world_expert(1, e)] = 1;
    for (uint32_t e = 0; e < 8; e++)
        s.unit_gpu[world_expert(2, e)] = 1;
    s.options[0].budget_bytes = 40 * SLOT;
    scene_open(&s, 60);
    residency_pass_begin(s.w.residency, 1, NULL, NULL);
    cr_assert(residency_wants_guess(s.w.residency, 0));
    cr_assert_not(residency_wants_guess(s.w.residency, 1), "all of its experts are on the GPU");
    cr_assert(residency_wants_guess(s.w.residency, 2));
    const uint64_t before = world_read_bytes(&s.w);
    uint32_t units[12];
    for (uint32_t i = 0; i < 12; i++)
        units[i] = world_expert(2, i);
    residency_guess(s.w.residency, units, 12, true);
    world_settle(&s.w);
    cr_assert_eq(world_read_bytes(&s.w) - before, 4 * 2 * IO_ALIGN_BYTES, "8 are on the GPU");
    scene_use(&s, units, 12, 8);
    cr_assert_eq(world_read_bytes(&s.w) - before, 4 * 2 * IO_ALIGN_BYTES);
    cr_assert_eq(world_figures(&s.w).hits, 12);
    cr_assert_eq(world_figures(&s.w).prefetch_useful_bytes, 4 * 2 * IO_ALIGN_BYTES);
    // The rest of layer 2 comes; then nothing is missing there.
    for (uint32_t first = 12; first < WORLD_EXPERTS; first += 10) {
        for (uint32_t i = 0; i < 10; i++)
            units[i] = world_expert(2, first + i);
        scene_use(&s, units, 10, 8);
    }
    cr_assert_not(residency_wants_guess(s.w.residency, 2));
    residency_pass_end(s.w.residency, true);
    uint64_t given;
    cr_assert_eq(residency_yield(s.w.residency, 0, 40 * SLOT, &given, &s.w.error), 0);
    cr_assert_eq(given, 40 * SLOT);
    cr_assert(residency_wants_guess(s.w.residency, 1) && residency_wants_guess(s.w.residency, 2));
    scene_tear_down(&s);
}

Test(residency_gpu, a_choice_that_gpus_have_ends_what_was_guessed)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    scene_place(&s);
    for (uint32_t e = 0; e < 8; e++)
        s.unit_gpu[world_expert(2, e)] = 1;
    s.options[0].budget_bytes = 8 * SLOT;
    scene_open(&s, 40);
    residency_pass_begin(s.w.residency, 1, NULL, NULL);
    const uint32_t guessed[] = {world_expert(2, 20), world_expert(2, 21)},
                   chosen[] = {world_expert(2, 0), world_expert(2, 1)};
    residency_guess(s.w.residency, guessed, 2, true);
    world_settle(&s.w);
    scene_use(&s, chosen, 2, 8);
    residency_pass_end(s.w.residency, true);
    cr_assert_eq(world_figures(&s.w).prefetch_wasted_bytes, 2 * 2 * IO_ALIGN_BYTES);
    scene_tear_down(&s);
}

// ---- failures
// ------------------------------------------------------------------------------------------------------

static void add_dense_and_experts(struct gpu_scene *s)
{
    world_add_experts(&s->w);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
        world_add_unit(&s->w, UNIT_DENSE, l, 0);
        world_add_part(&s->w, s->w.end, 5 * IO_ALIGN_BYTES);
    }
    scene_place(s);
    for (uint32_t l = 0; l < WORLD_LAYERS; l++)
        s->unit_gpu[1 + N_EXPERTS + l] = (uint8_t)(1 + l % 2);
}

Test(residency_gpu, dense_units_that_do_not_fit_are_told)
{
    struct gpu_scene s;
    scene_set_up(&s, 2);
    add_dense_and_experts(&s);
    const uint64_t needed = residency_gpu_dense_bytes(&s.w.table, s.unit_gpu, 1);
    cr_assert_eq(needed, 2 * (5 * IO_ALIGN_BYTES + 64));
    s.options[0].budget_bytes = needed;
    s.options[1].budget_bytes = needed - 1;
    world_open_file(&s.w, NULL, 0);
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_MEMORY);
    cr_assert(strstr(s.w.error.text, "fake1") && strstr(s.w.error.text, "41088 bytes") &&
                  strstr(s.w.error.text, "41087 bytes"),
              "%s", s.w.error.text);
    cr_assert_eq(world_read_bytes(&s.w), 0);
    s.options[1].budget_bytes = needed;
    s.gpus[1].limit_bytes = needed - 1; // less than was promised
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_MEMORY);
    cr_assert(strstr(s.w.error.text, "fake1") && strstr(s.w.error.text, "unit ") &&
                  strstr(s.w.error.text, "the fake GPU is full"),
              "%s", s.w.error.text);
    s.gpus[1].limit_bytes = needed;
    cr_assert_eq(world_try_open(&s.w), 0, "%s", s.w.error.text);
    scene_check_gpus(&s);
    scene_tear_down(&s);
}

Test(residency_gpu, an_allocation_that_fails_shrinks_the_pool_or_is_told)
{
    for (uint32_t nth = 0; nth < 40; nth++) {
        struct gpu_scene s;
        scene_set_up(&s, 2);
        add_dense_and_experts(&s);
        scene_set_rates(&s);
        scene_set_room(&s, RESIDENCY_UPLOADS + 30);
        s.gpus[1].fail_alloc = nth;
        world_open_file(&s.w, NULL, 0);
        const int code = world_try_open(&s.w);
        cr_assert_eq(code, nth == 0 ? LODE_ERR_MEMORY : 0, "%s", s.w.error.text);
        if (code == 0) {
            cr_assert_eq(scene_figures(&s, 0).pool_slots, 30);
            const uint32_t n = scene_figures(&s, 1).pool_slots;
            cr_assert(nth == 1 ? n == 38 : nth == 2 ? n == 0 : n <= 30, "%u", n);
            cr_assert(n >= 30 || nth < s.gpus[1].n_allocs);
            cr_assert_eq(scene_check_gpus(&s), 30 + n);
            scene_decode(&s, 2, 16, 8);
        }
        scene_tear_down(&s);
    }
}

Test(residency_gpu, a_read_that_fails_names_the_unit)
{
    for (uint32_t what = 0; what < 2; what++) {
        struct gpu_scene s;
        scene_set_up(&s, 2);
        add_dense_and_experts(&s);
        scene_set_room(&s, 10);
        const uint32_t unit = what ? 1 + N_EXPERTS + 2 : world_expert(1, 1);
        const struct io_fault_rule rule = world_fault_at(&s.w, IO_FAULT_ERROR, unit, 0);
        char name[64];
        world_open_file(&s.w, &rule, 1);
        s.w.options.budget_bytes = residency_floor_bytes_beside(&s.w.table, &s.w.device.base, s.unit_gpu);
        cr_assert_eq(world_try_open(&s.w), LODE_ERR_IO);
        unit_table_name(&s.w.table, unit, name, sizeof name);
        cr_assert(strstr(s.w.error.text, name), "%s", s.w.error.text);
        scene_tear_down(&s);
    }
}

Test(residency_gpu, fails_cleanly_wherever_reading_or_copying_fails)
{
    uint32_t n_failed = 0;
    for (uint32_t nth = 0; nth < 300; nth += 23) {
        for (uint32_t kind = 0; kind < 3; kind++) {
            struct gpu_scene s;
            struct io_fault_rule rule = {
                .kind = IO_FAULT_ERROR, .skip = nth, .times = IO_FAULT_ALWAYS, .error_number = EIO};
            scene_set_up(&s, 2);
            add_dense_and_experts(&s);
            scene_set_room(&s, 20);
            if (kind == 1)
                s.gpus[nth % 2].fail_upload = nth / 8;
            s.gpus[1].fail_sync = kind == 2;
            world_open_file(&s.w, &rule, kind == 0);
            const int code = world_try_open(&s.w);
            cr_assert(code == 0 || code == LODE_ERR_IO, "%s", s.w.error.text);
            cr_assert(code == LODE_ERR_IO || kind == 1 || nth > 260);
            n_failed += code != 0;
            if (code == 0)
                scene_check_gpus(&s);
            scene_tear_down(&s);
        }
    }
    cr_assert_gt(n_failed, 30);
}

static bool cancel_later(void *user, uint64_t done, uint64_t total)
{
    (void)total;
    return done < *(const uint64_t *)user;
}

Test(residency_gpu, loading_can_be_cancelled)
{
    for (uint32_t i = 0; i < 4; i++) {
        struct gpu_scene s;
        uint64_t after = i * 200000;
        scene_set_up(&s, 2);
        add_dense_and_experts(&s);
        scene_set_room(&s, 20);
        s.w.options.on_progress = cancel_later;
        s.w.options.user = &after;
        world_open_file(&s.w, NULL, 0);
        cr_assert_eq(world_try_open(&s.w), LODE_ERR_CANCELLED);
        scene_tear_down(&s);
    }
}

static void leave_alone(void *user, uint32_t part, void *memory)
{
    (void)user;
    (void)part;
    (void)memory;
}

Test(residency_gpu, what_makes_no_sense_is_refused)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    add_dense_and_experts(&s);
    s.options[0].budget_bytes = MIB;
    world_open_file(&s.w, NULL, 0);
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_ARGUMENT, "there is no second GPU");
    cr_assert(strstr(s.w.error.text, "GPU 1 of 1"), "%s", s.w.error.text);
    memset(s.unit_gpu, 0, s.w.table.n_units);
    s.w.device.base.host_memory = false;
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_ARGUMENT);
    s.w.device.base.host_memory = true;
    s.w.options.n_gpus = HOME_GPUS + 1;
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_UNSUPPORTED);
    s.w.options.n_gpus = 1;
    s.w.options.on_part = leave_alone;
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_ARGUMENT, "copies would be in another order");
    cr_assert(strstr(s.w.error.text, "fake0"), "%s", s.w.error.text);
    s.w.options.on_part = NULL;
    struct mapped *mapped;
    const char *path = s.w.path;
    cr_assert_eq(mapped_open(&mapped, &path, 1, &s.w.error), 0);
    s.w.options.mapped = mapped;
    cr_assert_eq(world_try_open(&s.w), LODE_ERR_UNSUPPORTED);
    cr_assert(strstr(s.w.error.text, "fake0"), "%s", s.w.error.text);
    mapped_close(mapped);
    scene_tear_down(&s);
}

Test(residency_gpu, tells_what_the_host_needs_for_copies)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    cr_assert_eq(residency_gpu_host_bytes(&s.w.table, 0), 0);
    cr_assert_geq(residency_gpu_host_bytes(&s.w.table, 1), 32 * MIB);
    world_add_unit(&s.w, UNIT_EXPERT, 0, WORLD_EXPERTS);
    world_append_part(&s.w, 10 * MIB - 64);
    cr_assert_eq(residency_gpu_host_bytes(&s.w.table, 2), 2 * RESIDENCY_UPLOADS * 10 * MIB);
    scene_tear_down(&s);
}
