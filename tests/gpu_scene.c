// The scene of the tests of residency with GPUs; see gpu_scene.h.
#include "tests/gpu_scene.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

void scene_set_up(struct gpu_scene *s, uint32_t n_gpus)
{
    memset(s, 0, sizeof *s);
    world_set_up(&s->w, true);
    for (uint32_t g = 0; g < GPUS; g++) {
        fake_gpu_init(&s->gpus[g], g ? "fake1" : "fake0", UINT64_MAX);
        s->options[g] = (struct residency_gpu){.device = &s->gpus[g].base};
    }
    s->w.options.gpus = s->options;
    s->w.options.n_gpus = n_gpus;
}

void scene_place(struct gpu_scene *s)
{
    s->unit_gpu = calloc(s->w.table.n_units + 1, 1);
    s->w.options.unit_gpu = s->unit_gpu;
}

void scene_heat_up(struct gpu_scene *s, uint32_t n_layers, uint32_t n_experts)
{
    cr_assert_eq(heat_open(&s->heat, n_layers, n_experts, 1, &s->w.error), 0);
    for (uint32_t e = 0; e < n_experts; e++)
        s->heat.mean[e] = (float)(1 + world_random(&s->w, 10000)) / 10001;
    s->heat.n_tokens = 1000;
    s->w.options.heat = &s->heat;
}

void scene_add_hot_experts(struct gpu_scene *s)
{
    world_add_experts(&s->w);
    scene_heat_up(s, WORLD_LAYERS, N_EXPERTS);
}

void scene_set_room(struct gpu_scene *s, uint64_t n_experts)
{
    for (uint32_t g = 0; g < s->w.options.n_gpus; g++)
        s->options[g].budget_bytes =
            residency_gpu_dense_bytes(&s->w.table, s->unit_gpu, g) + n_experts * SLOT;
}

void scene_open(struct gpu_scene *s, uint64_t host_experts)
{
    world_open_file(&s->w, NULL, 0);
    world_open(&s->w, host_experts ? IO_ALIGN_BYTES + host_experts * 2 * IO_ALIGN_BYTES : 0);
}

void scene_set_up_and_open(struct gpu_scene *s, uint64_t n_experts, uint64_t host_experts)
{
    scene_set_up(s, 1);
    scene_add_hot_experts(s);
    scene_set_room(s, n_experts);
    scene_open(s, host_experts);
}

void scene_tear_down(struct gpu_scene *s)
{
    world_tear_down(&s->w);
    for (uint32_t g = 0; g < GPUS; g++)
        fake_gpu_check_empty(&s->gpus[g]);
    heat_close(&s->heat);
    free(s->unit_gpu);
}

static void check_part(const struct gpu_scene *s, const unsigned char *data, uint32_t unit, uint32_t part)
{
    const struct extent *extent = &s->w.table.parts[s->w.table.units[unit].first_part + part];
    cr_assert_eq((uintptr_t)data % LODE_DEVICE_ALIGN, 0);
    for (uint64_t b = 0; b < extent->bytes; b++)
        if (data[b] != world_content_at(extent->offset + b))
            cr_assert_fail("byte %llu of part %u of unit %u is wrong on a GPU", (unsigned long long)b, part,
                           unit);
    volatile unsigned char last = data[extent->bytes + LODE_DEVICE_SLACK - 1];
    (void)last;
}

bool scene_has_copy(const struct gpu_scene *s, uint32_t g, uint32_t unit)
{
    return residency_gpu_part(s->w.residency, g, unit, 0) != NULL;
}

uint32_t scene_check_gpus(const struct gpu_scene *s)
{
    uint32_t n = 0;
    for (uint32_t u = 0; u < s->w.table.n_units; u++) {
        const struct unit *unit = &s->w.table.units[u];
        for (uint32_t i = 0; i < unit->n_parts; i++) {
            if (residency_executor(s->w.residency, u))
                check_part(s, residency_part(s->w.residency, u, i), u, i);
            for (uint32_t g = 0; unit->class == UNIT_EXPERT && g < s->w.options.n_gpus; g++)
                if (scene_has_copy(s, g, u))
                    check_part(s, residency_gpu_part(s->w.residency, g, u, i), u, i);
        }
        for (uint32_t g = 0; unit->class == UNIT_EXPERT && g < s->w.options.n_gpus; g++)
            n += scene_has_copy(s, g, u);
    }
    return n;
}

struct residency_gpu_figures scene_figures(const struct gpu_scene *s, uint32_t g)
{
    struct residency_gpu_figures figures;
    residency_count_gpu(s->w.residency, g, &figures);
    return figures;
}

void scene_use(struct gpu_scene *s, const uint32_t *units, uint32_t n, uint32_t most)
{
    uint32_t n_tokens[64], taken[64], n_taken, n_had = 0;
    bool *had = calloc(s->w.table.n_units, 1), *copied = calloc(s->w.table.n_units, 1);
    for (uint32_t i = 0; i < n; i++) {
        n_tokens[i] = 1;
        copied[units[i]] =
            scene_has_copy(s, 0, units[i]) || (s->w.options.n_gpus > 1 && scene_has_copy(s, 1, units[i]));
    }
    cr_assert_eq(residency_choose(s->w.residency, units, n_tokens, n, &s->w.error), 0, "%s", s->w.error.text);
    for (uint32_t i = 0; i < n; i++)
        cr_assert(!copied[units[i]] || residency_has(s->w.residency, units[i]));
    for (uint32_t g = 0; g < s->w.options.n_gpus; g++)
        while ((n_taken = residency_take_gpu(s->w.residency, g, taken, most)) > 0)
            for (uint32_t i = 0; i < n_taken; i++) {
                cr_assert(copied[taken[i]] && !had[taken[i]] && scene_has_copy(s, g, taken[i]));
                had[taken[i]] = true;
                n_had++;
            }
    for (;;) {
        cr_assert_eq(residency_take(s->w.residency, taken, &n_taken, most, true, &s->w.error), 0, "%s",
                     s->w.error.text);
        if (n_taken == 0)
            break;
        for (uint32_t i = 0; i < n_taken; i++) {
            cr_assert(!copied[taken[i]] && !had[taken[i]]);
            had[taken[i]] = true;
            world_check_unit(&s->w, taken[i]);
            n_had++;
        }
        residency_release(s->w.residency, taken, n_taken);
    }
    for (uint32_t i = 0; i < n; i++)
        cr_assert(had[units[i]]);
    cr_assert_eq(n_had, n);
    free(had);
    free(copied);
}

void scene_decode(struct gpu_scene *s, uint32_t layer, uint32_t n, uint32_t most)
{
    uint32_t units[WORLD_EXPERTS];
    residency_pass_begin(s->w.residency, 1, NULL, NULL);
    world_draw(&s->w, units, n, layer);
    scene_use(s, units, n, most);
    residency_pass_end(s->w.residency, true);
}

void scene_set_rates(struct gpu_scene *s)
{
    s->w.options.host_rates = (struct expert_rates){.n_points = 2, .rows = {1, 100}, .ns = {100, 10000}};
    for (uint32_t g = 0; g < GPUS; g++)
        s->options[g].rates =
            (struct expert_rates){.n_points = 2, .rows = {1, 100}, .ns = {1, 100}, .upload_ns = 150};
}

void scene_check_missing(const struct gpu_scene *s)
{
    residency_pass_begin(s->w.residency, 2, NULL, NULL); // of one token the gate may say no
    for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
        bool missing = false;
        for (uint32_t e = 0; e < WORLD_EXPERTS; e++)
            missing |= !residency_has(s->w.residency, world_expert(l, e));
        cr_assert_eq(residency_wants_guess(s->w.residency, l), missing, "layer %u", l);
    }
    residency_pass_end(s->w.residency, false);
}
