// Residency with GPUs in motion: memory that is given back, copies that are exchanged for hotter ones, and
// experts that are uploaded for a pass of many rows.
#include "tests/gpu_scene.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

// ---- giving back and exchanging
// -----------------------------------------------------------------------------------

Test(residency_upload, gives_back_what_is_coldest_and_goes_on)
{
    for (uint32_t in_pool = 0; in_pool < 2; in_pool++) {
        struct gpu_scene s;
        scene_set_up_and_open(&s, 60, in_pool ? 20 : 0);
        uint64_t all = 0;
        for (uint32_t round = 0; all < 60 * SLOT; round++) {
            bool had[N_EXPERTS];
            for (uint32_t e = 0; e < N_EXPERTS; e++)
                had[e] = scene_has_copy(&s, 0, 1 + e);
            const uint64_t generation = residency_gpu_generation(s.w.residency, 0);
            uint64_t given;
            cr_assert_eq(
                residency_yield(s.w.residency, 0, 1 + world_random(&s.w, 9 * SLOT), &given, &s.w.error), 0);
            cr_assert_gt(given, 0);
            all += given;
            cr_assert_neq(residency_gpu_generation(s.w.residency, 0), generation);
            cr_assert_eq(scene_figures(&s, 0).yielded_bytes, all);
            cr_assert_eq(scene_figures(&s, 0).pool_bytes, 60 * SLOT - all);
            cr_assert_eq(scene_check_gpus(&s), 60 - all / SLOT);
            for (uint32_t a = 0; a < N_EXPERTS; a++)
                for (uint32_t b = 0; scene_has_copy(&s, 0, 1 + a) && b < N_EXPERTS; b++)
                    cr_assert(!had[b] || scene_has_copy(&s, 0, 1 + b) || s.heat.mean[b] <= s.heat.mean[a]);
            if (in_pool)
                scene_check_missing(&s);
            residency_pass_begin(s.w.residency, 1, NULL, NULL);
            for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
                uint32_t units[16];
                world_draw(&s.w, units, 16, l);
                scene_use(&s, units, 16, 4);
            }
            residency_pass_end(s.w.residency, true);
            world_settle(&s.w);
            if (in_pool)
                scene_check_missing(&s);
        }
        uint64_t given;
        cr_assert_eq(residency_yield(s.w.residency, 0, 1, &given, &s.w.error), 0);
        cr_assert_eq(given, 0);
        scene_tear_down(&s);
    }
}

static double heat_on_gpus(const struct gpu_scene *s)
{
    double sum = 0;
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        for (uint32_t g = 0; g < s->w.options.n_gpus; g++)
            sum += scene_has_copy(s, g, 1 + e) ? (double)s->heat.mean[e] : 0;
    return sum;
}

Test(residency_upload, exchanges_what_has_become_hotter_within_its_bounds)
{
    for (uint32_t seed = 1; seed <= 20; seed++) {
        struct gpu_scene s;
        const bool in_pool = seed % 2;
        scene_set_up(&s, 2);
        s.w.random = seed;
        scene_add_hot_experts(&s);
        s.options[0].budget_bytes = 20 * SLOT;
        s.options[1].budget_bytes = 15 * SLOT;
        s.gpus[0].fail_pinned = seed % 3 == 0;
        scene_open(&s, in_pool ? 30 : 0);
        world_settle(&s.w);
        uint64_t bytes;
        cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), 0);
        cr_assert_eq(bytes, 0, "the hottest are there");
        for (uint32_t e = 0; e < N_EXPERTS; e++)
            s.heat.mean[e] = (float)(1 + world_random(&s.w, 10000)) / 10001;
        const double before = heat_on_gpus(&s);
        cr_assert_eq(residency_replace(s.w.residency, 3 * SLOT + 1, &bytes, &s.w.error), 0);
        cr_assert_leq(bytes, 3 * SLOT);
        cr_assert_gt(heat_on_gpus(&s), before);
        cr_assert_eq(scene_check_gpus(&s), 35);
        bool hosts[N_EXPERTS];
        for (uint32_t e = 0; e < N_EXPERTS; e++)
            hosts[e] = residency_has(s.w.residency, 1 + e) && !scene_has_copy(&s, 0, 1 + e) &&
                       !scene_has_copy(&s, 1, 1 + e);
        uint64_t more;
        cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &more, &s.w.error), 0);
        cr_assert_eq(scene_check_gpus(&s), 35);
        cr_assert_eq(scene_figures(&s, 0).replaced_bytes + scene_figures(&s, 1).replaced_bytes, bytes + more);
        for (uint32_t a = 0; a < N_EXPERTS; a++) {
            if (!scene_has_copy(&s, 0, 1 + a) && !scene_has_copy(&s, 1, 1 + a))
                continue;
            for (uint32_t b = 0; b < N_EXPERTS; b++)
                cr_assert(!hosts[b] || scene_has_copy(&s, 0, 1 + b) || scene_has_copy(&s, 1, 1 + b) ||
                              s.heat.mean[b] <= s.heat.mean[a] * 1.1001f,
                          "expert %u of the host is much hotter than %u", b, a);
        }
        cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &more, &s.w.error), 0);
        cr_assert(more == 0 || in_pool, "what gains little is left where it is");
        for (uint32_t pass = 0; pass < 5; pass++)
            scene_decode(&s, pass % WORLD_LAYERS, 12, 4);
        if (in_pool)
            scene_check_missing(&s);
        scene_tear_down(&s);
    }
}

Test(residency_upload, what_moves_to_a_gpu_leaves_its_slot_to_others)
{
    struct gpu_scene s;
    scene_set_up_and_open(&s, 10, 30);
    world_settle(&s.w);
    bool before[N_EXPERTS];
    uint32_t n_moved = 0;
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        before[e] = scene_has_copy(&s, 0, 1 + e);
        if (!before[e] && residency_has(s.w.residency, 1 + e))
            s.heat.mean[e] += 1;
    }
    uint64_t bytes;
    cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), 0);
    cr_assert_eq(bytes, 10 * SLOT);
    scene_check_gpus(&s);
    scene_check_missing(&s);
    bool moved[N_EXPERTS];
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        moved[e] = !before[e] && scene_has_copy(&s, 0, 1 + e);
    cr_assert_eq(residency_yield(s.w.residency, 0, 10 * SLOT, &bytes, &s.w.error), 0);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        n_moved += moved[e];
        cr_assert(!moved[e] || !residency_has(s.w.residency, 1 + e));
    }
    cr_assert_eq(n_moved, 10);
    scene_check_missing(&s);
    scene_tear_down(&s);
}

Test(residency_upload, what_is_nowhere_is_known_through_exchanges)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    scene_add_hot_experts(&s);
    memset(s.heat.mean, 0, N_EXPERTS * sizeof *s.heat.mean);
    for (uint32_t e = 0; e < 8; e++)
        s.heat.mean[2 * WORLD_EXPERTS + e] = 0.5f;
    s.options[0].budget_bytes = 8 * SLOT;
    scene_open(&s, 60);
    uint32_t units[WORLD_EXPERTS];
    for (uint32_t e = 0; e < WORLD_EXPERTS; e++)
        units[e] = world_expert(2, e);
    residency_pass_begin(s.w.residency, 2, NULL, NULL);
    cr_assert(residency_wants_guess(s.w.residency, 2));
    scene_use(&s, units, WORLD_EXPERTS, 8);
    cr_assert_not(residency_wants_guess(s.w.residency, 2));
    residency_pass_end(s.w.residency, false);
    for (uint32_t e = 8; e < 16; e++)
        s.heat.mean[2 * WORLD_EXPERTS + e] = 0.9f;
    uint64_t bytes;
    cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), 0);
    cr_assert_eq(bytes, 8 * SLOT);
    scene_check_missing(&s);
    residency_pass_begin(s.w.residency, 2, NULL, NULL);
    cr_assert(residency_wants_guess(s.w.residency, 2), "what made room is in the files only");
    scene_use(&s, units, WORLD_EXPERTS, 8);
    cr_assert_not(residency_wants_guess(s.w.residency, 2));
    residency_pass_end(s.w.residency, false);
    scene_check_missing(&s);
    scene_tear_down(&s);
}

Test(residency_upload, equal_heat_and_no_heat_exchange_nothing)
{
    struct gpu_scene s;
    scene_set_up_and_open(&s, 20, 0);
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        s.heat.mean[e] = 0.5f + 0.04f * (float)(e % 2);
    uint64_t bytes = 1;
    cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), 0);
    cr_assert_eq(bytes, 0);
    s.heat.n_tokens = 0;
    s.heat.mean[0] = 1;
    cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), 0);
    cr_assert_eq(bytes, 0);
    scene_tear_down(&s);
}

Test(residency_upload, an_exchange_that_fails_leaves_no_wrong_copy)
{
    struct gpu_scene s;
    scene_set_up_and_open(&s, 20, 0);
    for (uint32_t e = 0; e < N_EXPERTS; e++)
        s.heat.mean[e] = 1 - s.heat.mean[e];
    s.gpus[0].fail_upload = s.gpus[0].n_uploads + 2;
    uint64_t bytes;
    cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), LODE_ERR_IO);
    cr_assert(strstr(s.w.error.text, "unit ") && strstr(s.w.error.text, "the fake link is cut"), "%s",
              s.w.error.text);
    cr_assert_eq(bytes, 2 * SLOT);
    cr_assert_eq(scene_check_gpus(&s), 19);
    cr_assert_eq(residency_replace(s.w.residency, UINT64_MAX, &bytes, &s.w.error), 0);
    cr_assert_eq(scene_check_gpus(&s), 20);
    scene_tear_down(&s);
}

// ---- uploads
// -----------------------------------------------------------------------------------------------------

static void read_on_gpu(struct gpu_scene *s, uint32_t g, uint32_t unit, bool uploaded)
{
    for (uint32_t i = 0; i < s->w.table.units[unit].n_parts; i++) {
        const struct extent *extent = &s->w.table.parts[s->w.table.units[unit].first_part + i];
        const void *data = uploaded ? residency_upload_part(s->w.residency, g, unit, i)
                                    : residency_gpu_part(s->w.residency, g, unit, i);
        cr_assert_not_null(data);
        cr_assert_eq((uintptr_t)data % LODE_DEVICE_ALIGN, 0);
        fake_gpu_read(&s->gpus[g], data, extent->offset, extent->bytes);
    }
}

// A layer of a pass of many rows, `most` experts at a time; out_to[unit]: 1 on the GPU, 2 uploaded, 3 host.
static void run_layer(struct gpu_scene *s, uint32_t g, const uint32_t *units, const uint32_t *n_tokens,
                      uint32_t n, uint32_t most, uint8_t *out_to)
{
    uint32_t taken[WORLD_EXPERTS], sorted[WORLD_EXPERTS], tokens[WORLD_EXPERTS], n_taken, n_host;
    cr_assert_eq(residency_choose(s->w.residency, units, n_tokens, n, &s->w.error), 0);
    n_taken = residency_take_gpu(s->w.residency, g, taken, WORLD_EXPERTS);
    for (uint32_t i = 0; i < n_taken; i++) {
        read_on_gpu(s, g, taken[i], false);
        out_to[taken[i]] = 1;
    }
    for (;;) {
        cr_assert_eq(residency_take(s->w.residency, taken, &n_taken, most, true, &s->w.error), 0);
        if (n_taken == 0)
            break;
        memcpy(sorted, taken, sizeof taken);
        for (uint32_t i = 0; i < n_taken; i++)
            for (uint32_t j = 0; j < n; j++)
                if (units[j] == taken[i])
                    tokens[i] = n_tokens[j];
        cr_assert_eq(residency_upload(s->w.residency, g, taken, tokens, n_taken, &n_host, &s->w.error), 0,
                     "%s", s->w.error.text);
        cr_assert(n_taken - n_host <= RESIDENCY_UPLOADS);
        for (uint32_t i = 0; i < n_taken; i++) { // the same units in another order
            bool found = false;
            for (uint32_t j = 0; j < n_taken; j++)
                found |= taken[j] == sorted[i];
            cr_assert(found);
            cr_assert_eq(residency_upload_part(s->w.residency, g, taken[i], 0) != NULL, i >= n_host);
        }
        residency_release(s->w.residency, taken, n_taken);
        for (uint32_t i = 0; i < n_taken; i++) {
            cr_assert_eq(out_to[taken[i]], 0);
            out_to[taken[i]] = i < n_host ? 3 : 2;
            if (i >= n_host)
                read_on_gpu(s, g, taken[i], true);
        }
        residency_upload_end(s->w.residency, g);
        for (uint32_t i = 0; i < n_taken; i++)
            cr_assert_null(residency_upload_part(s->w.residency, g, taken[i], 0));
    }
}

static void uploads_what_pays(bool eager, bool in_pool, uint32_t seed)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    s.w.random = seed;
    s.gpus[0].eager = eager;
    scene_add_hot_experts(&s);
    scene_set_rates(&s);
    s.options[0].budget_bytes = (RESIDENCY_UPLOADS + 20) * SLOT;
    scene_open(&s, in_pool ? 24 : 0);
    cr_assert_eq(scene_figures(&s, 0).pool_slots, 20);
    uint64_t n_uploads = 0;
    for (uint32_t pass = 0; pass < 6; pass++) {
        residency_pass_begin(s.w.residency, 200, NULL, NULL);
        for (uint32_t l = 0; l < WORLD_LAYERS; l++) {
            uint32_t units[WORLD_EXPERTS], n_tokens[WORLD_EXPERTS], sorted[WORLD_EXPERTS], n_host = 0;
            uint8_t to[1 + N_EXPERTS] = {0};
            const uint32_t n = 1 + world_random(&s.w, WORLD_EXPERTS);
            double busy = 0;
            world_draw(&s.w, units, n, l);
            for (uint32_t i = 0; i < n; i++) {
                n_tokens[i] = 1 + world_random(&s.w, 40);
                if (scene_has_copy(&s, 0, units[i])) {
                    busy += expert_rate_ns(&s.options[0].rates, n_tokens[i]);
                    continue;
                }
                uint32_t at = n_host++;
                for (; at > 0 && sorted[at - 1] < n_tokens[i]; at--)
                    sorted[at] = sorted[at - 1];
                sorted[at] = n_tokens[i];
            }
            run_layer(&s, 0, units, n_tokens, n, RESIDENCY_UPLOADS, to);
            const uint32_t expected =
                expert_split(&s.w.options.host_rates, &s.options[0].rates, busy, sorted, n_host, n_host);
            uint32_t n_uploaded = 0, least_up = UINT32_MAX, most_host = 0;
            for (uint32_t i = 0; i < n; i++) {
                cr_assert_eq(to[units[i]] == 1, scene_has_copy(&s, 0, units[i]));
                n_uploaded += to[units[i]] == 2;
                if (to[units[i]] == 2 && n_tokens[i] < least_up)
                    least_up = n_tokens[i];
                if (to[units[i]] == 3 && n_tokens[i] > most_host)
                    most_host = n_tokens[i];
            }
            cr_assert_eq(n_uploaded, expected, "whatever arrived first");
            cr_assert(least_up >= most_host);
            n_uploads += n_uploaded;
        }
        residency_pass_end(s.w.residency, true);
    }
    cr_assert_gt(n_uploads, 100);
    cr_assert_eq(scene_figures(&s, 0).uploads, n_uploads);
    cr_assert_eq(scene_figures(&s, 0).upload_bytes, n_uploads * SLOT);
    cr_assert_eq(scene_check_gpus(&s), 20);
    scene_tear_down(&s);
}

Test(residency_upload, uploads_what_is_faster_there_and_never_too_early_or_too_late)
{
    for (uint32_t i = 0; i < 16; i++)
        uploads_what_pays(i & 1, i & 2, 1 + i);
}

Test(residency_upload, what_finds_no_room_at_once_stays_the_hosts)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    scene_set_rates(&s);
    s.options[0].budget_bytes = 3 * SLOT + 2 * SLOT; // half of it for uploads
    scene_open(&s, 0);
    cr_assert_eq(scene_figures(&s, 0).pool_slots, 3);
    uint32_t units[20], n_tokens[20], n_of[4] = {0};
    uint8_t to[1 + N_EXPERTS] = {0};
    for (uint32_t i = 0; i < 20; i++) {
        units[i] = world_expert(3, i);
        n_tokens[i] = 50 + i;
    }
    residency_pass_begin(s.w.residency, 200, NULL, NULL);
    run_layer(&s, 0, units, n_tokens, 20, WORLD_EXPERTS, to);
    for (uint32_t i = 0; i < 20; i++)
        n_of[to[units[i]]]++;
    cr_assert(n_of[2] == 2 && to[units[19]] == 2 && to[units[18]] == 2, "the two of the most rows");
    residency_pass_end(s.w.residency, true);
    uint64_t given;
    cr_assert_eq(residency_yield(s.w.residency, 0, 5 * SLOT, &given, &s.w.error), 0);
    cr_assert_eq(given, 5 * SLOT, "at last the room for uploads");
    cr_assert_eq(s.gpus[0].live_bytes, 0);
    memset(to, 0, sizeof to);
    residency_pass_begin(s.w.residency, 200, NULL, NULL);
    run_layer(&s, 0, units, n_tokens, 20, WORLD_EXPERTS, to);
    for (uint32_t i = 0; i < 20; i++)
        cr_assert_eq(to[units[i]], 3);
    residency_pass_end(s.w.residency, true);
    scene_tear_down(&s);
}

Test(residency_upload, a_single_token_uploads_nothing)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    scene_set_rates(&s);
    s.options[0].rates.upload_ns = 1;
    s.options[0].budget_bytes = 20 * SLOT;
    scene_open(&s, 0);
    uint32_t units[8], n_tokens[8];
    uint8_t to[1 + N_EXPERTS] = {0};
    for (uint32_t i = 0; i < 8; i++) {
        units[i] = world_expert(3, 20 + i);
        n_tokens[i] = 1;
    }
    residency_pass_begin(s.w.residency, 1, NULL, NULL);
    run_layer(&s, 0, units, n_tokens, 8, 8, to);
    for (uint32_t i = 0; i < 8; i++)
        cr_assert_eq(to[units[i]], 3);
    residency_pass_end(s.w.residency, true);
    scene_tear_down(&s);
}

Test(residency_upload, has_no_room_for_uploads_where_none_can_come)
{
    for (uint32_t way = 0; way < 4; way++) {
        struct gpu_scene s;
        scene_set_up(&s, 1);
        world_add_experts(&s.w);
        scene_set_rates(&s);
        s.options[0].budget_bytes = 20 * SLOT;
        uint64_t pool = 20 * SLOT;
        if (way == 0)
            s.options[0].rates.n_points = 0;
        else if (way == 1)
            s.w.options.host_rates.n_points = 0;
        else if (way == 2)
            pool = s.options[0].budget_bytes = N_EXPERTS * SLOT; // all are there
        else {
            s.gpus[0].fail_pinned = true; // memory has been set aside; it is given up
            pool = 12 * SLOT;
        }
        scene_open(&s, 0);
        cr_assert_eq(scene_figures(&s, 0).pool_bytes, pool);
        cr_assert_eq(s.gpus[0].live_bytes, pool);
        scene_check_gpus(&s);
        scene_tear_down(&s);
    }
}

Test(residency_upload, a_copy_that_fails_is_told_and_the_next_pass_works)
{
    struct gpu_scene s;
    scene_set_up(&s, 1);
    world_add_experts(&s.w);
    scene_set_rates(&s);
    s.options[0].budget_bytes = 20 * SLOT;
    s.gpus[0].fail_copy_in = 2;
    scene_open(&s, 0);
    uint32_t units[8], n_tokens[8], taken[8], n, n_host;
    for (uint32_t i = 0; i < 8; i++) {
        units[i] = world_expert(3, 20 + i);
        n_tokens[i] = 90;
    }
    residency_pass_begin(s.w.residency, 200, NULL, NULL);
    cr_assert_eq(residency_choose(s.w.residency, units, n_tokens, 8, &s.w.error), 0);
    cr_assert_eq(residency_take(s.w.residency, taken, &n, 8, true, &s.w.error), 0);
    cr_assert_eq(residency_upload(s.w.residency, 0, taken, n_tokens, n, &n_host, &s.w.error), LODE_ERR_IO);
    cr_assert(strstr(s.w.error.text, "unit ") && strstr(s.w.error.text, "the fake link is cut"), "%s",
              s.w.error.text);
    residency_release(s.w.residency, taken, n);
    residency_pass_end(s.w.residency, false);
    uint8_t to[1 + N_EXPERTS] = {0};
    uint32_t n_uploaded = 0;
    residency_pass_begin(s.w.residency, 200, NULL, NULL);
    run_layer(&s, 0, units, n_tokens, 8, 8, to);
    for (uint32_t i = 0; i < 8; i++)
        n_uploaded += to[units[i]] == 2;
    cr_assert_gt(n_uploaded, 5);
    residency_pass_end(s.w.residency, true);
    scene_tear_down(&s);
}
