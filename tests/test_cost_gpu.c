// The cost model with GPUs, on machines of round figures: closed forms where there are some, and what must
// hold anyway.
#include "tests/cost_subject.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct answers {
    struct cost decode, prefill;
    struct cost_model model; // only the figures are used
};

static void check(const struct cost *c, const char *what)
{
    const double parts[] = {c->kernels_s, c->attention_s, c->operations_s, c->stall_s, c->gpu_s, c->link_s};
    double sum = 0;
    for (int i = 0; i < 6; i++) {
        cr_expect(isfinite(parts[i]) && parts[i] >= 0, "%s: part %d is %g", what, i, parts[i]);
        sum += parts[i];
    }
    cr_expect(isfinite(c->seconds) && c->seconds > 0, "%s takes %g", what, c->seconds);
    cr_expect_float_eq(sum, c->seconds, 1e-9 + 1e-6 * c->seconds, "%s", what);
    cr_expect(c->fast_s > 0 && c->fast_s <= c->seconds && c->seconds <= c->slow_s, "%s: %g %g %g", what,
              c->fast_s, c->seconds, c->slow_s);
    cr_expect(c->hit_rate >= 0 && c->hit_rate <= 1 && c->gpu_share >= 0 && c->gpu_share <= 1 + 1e-12);
    cr_expect(isfinite(c->drive_s) && c->drive_s >= 0 && isfinite(c->drive_bytes));
}

// gpu: 1 + g by the unit, as in homes_request. Budget 0: all the rest in memory.
static struct answers ask(const struct subject *s, const uint8_t *gpu, uint64_t budget,
                          const struct cost_options *options)
{
    const struct cost_options defaults = {.batch = 512};
    struct homes_request request = {.budget_bytes = budget, .host_memory = true, .gpu = gpu};
    struct homes homes;
    struct answers a;
    struct cost mean;
    struct lode_error error;
    if (!budget)
        request.budget_bytes = homes_bounds(&s->model.units, &request).full_bytes;
    cr_assert_eq(homes_divide(&homes, &s->model.units, &request, &error), 0, "%s", error.text);
    cr_assert_eq(cost_open(&a.model, &s->work, &homes, &s->profile, options ? options : &defaults, &error), 0,
                 "%s", error.text);
    cr_assert_eq(cost_decode(&a.decode, &a.model, 0, &error), 0, "%s", error.text);
    cr_assert_eq(cost_prefill(&a.prefill, &a.model, 0, 512, &error), 0, "%s", error.text);
    check(&a.decode, "decode");
    check(&a.prefill, "prefill");
    cr_assert_eq(cost_decode_mean(&mean, &a.model, 0, &error), 0, "%s", error.text);
    cr_expect_float_eq(mean.seconds, a.decode.seconds, 1e-9 * mean.seconds);
    cr_assert_eq(cost_prefill_mean(&mean, &a.model, 0, 512, &error), 0, "%s", error.text);
    cr_expect_float_eq(mean.seconds, a.prefill.seconds, 1e-9 * mean.seconds);
    cost_close(&a.model);
    homes_free(&homes);
    return a;
}

// Dense units of the layers from .. to - 1 to GPU g; UNIT_NO_LAYER: of what lies outside of them.
static void put_dense(uint8_t *gpu, const struct subject *s, uint32_t from, uint32_t to, uint8_t g)
{
    const struct unit_table *table = &s->model.units;
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        const bool there =
            from == UNIT_NO_LAYER ? unit->layer == UNIT_NO_LAYER : unit->layer >= from && unit->layer < to;
        if (there && (unit->class == UNIT_DENSE || unit->class == UNIT_FIXED))
            gpu[u] = (uint8_t)(1 + g);
    }
}

// Experts from .. to - 1 of each layer.
static void put_experts(uint8_t *gpu, const struct subject *s, uint32_t from, uint32_t to, uint8_t g)
{
    for (uint32_t u = 0; u < s->model.units.n_units; u++)
        if (s->model.units.units[u].class == UNIT_EXPERT && s->model.units.units[u].index >= from &&
            s->model.units.units[u].index < to)
            gpu[u] = (uint8_t)(1 + g);
}

static uint8_t *nothing_on_gpus(const struct subject *s)
{
    return calloc(s->model.units.n_units + 1, 1);
}

static double expert_bytes(const struct subject *s)
{
    return (double)workload_expert_bytes(&s->work, &s->work.layers[0]);
}

// The mean of the longest of three devices' times when each of 8 choices falls on them with these shares.
static double longest(const double share[3], const double one_s[3])
{
    double mean = 0;
    for (int fall = 0; fall < 6561; fall++) {
        double probability = 1, s[3] = {0};
        for (int i = 0, rest = fall; i < 8; i++, rest /= 3) {
            probability *= share[rest % 3];
            s[rest % 3] += one_s[rest % 3];
        }
        mean += probability * fmax(s[0], fmax(s[1], s[2]));
    }
    return mean;
}

Test(cost_gpu, what_lies_on_a_gpu_takes_its_bytes_by_the_rate)
{
    static const char *const shapes[] = {"26b-a4b", "31b", "12b"};
    for (int i = 0; i < 3; i++) {
        struct subject *s = open_subject(shapes[i], "q4_0");
        uint8_t *gpu = nothing_on_gpus(s);
        struct profile_device *device = add_gpu(&s->profile, 400, 10);
        device->sync_us = 30;
        put_dense(gpu, s, 0, UINT32_MAX, 0);
        put_dense(gpu, s, UNIT_NO_LAYER, 0, 0);
        put_experts(gpu, s, 0, UINT32_MAX, 0);
        const struct cost c = ask(s, gpu, 0, NULL).decode;
        // Half a percent of 26B are the rows that small operations pass over.
        expect_near(c.gpu_s, (double)workload_bytes_per_token(&s->work) / 400e9, 8e-3, shapes[i]);
        expect_near(c.link_s, (s->work.hidden + s->work.vocab) * 4.0 / 10e9 + 2 * 30e-6, 1e-6, "there, back");
        cr_expect_eq(c.kernels_s + c.attention_s, 0);
        cr_expect_float_eq(c.gpu_share, i == 0, 1e-12);
        // Launches, and the error of what nobody compared.
        const double operations = 1e6 * s->work.n_layers * s->work.layers[0].operations;
        device->operation_us = 5;
        const struct cost launched = ask(s, gpu, 0, NULL).decode;
        cr_expect_geq((launched.gpu_s - c.gpu_s) * 1e12, 0.9 * 5 * operations);
        cr_expect_leq((launched.gpu_s - c.gpu_s) * 1e12, 1.1 * 5 * operations + 5 * 400e6);
        cr_expect_geq(c.slow_s, 1.3 * c.seconds);
        free(gpu);
        close_subject(s);
    }
}

Test(cost_gpu, layers_on_both_add_up_and_hand_over)
{
    struct subject *s = open_subject("31b", "q4_0");
    add_gpu(&s->profile, 200, 8)->sync_us = 20;
    add_gpu(&s->profile, 200, 4)->sync_us = 50;
    const double per_token = (double)workload_bytes_per_token(&s->work), row = s->work.hidden * 4.0;
    const double head = (double)s->work.matrices[0].bytes;
    uint8_t *gpu = nothing_on_gpus(s);
    put_dense(gpu, s, 0, s->work.n_layers / 2, 0);
    const struct cost half = ask(s, gpu, 0, NULL).decode;
    expect_near(half.gpu_s, (per_token - head) / 2 / 200e9, 0.03, "half of the layers");
    expect_near(half.kernels_s, ((per_token - head) / 2 + head) / 20e9, 0.03, "the others");
    expect_near(half.gpu_s * 200e9 + half.kernels_s * 20e9, per_token, 3e-3, "no byte is lost");
    expect_near(half.link_s, 2 * (row / 8e9 + 20e-6), 1e-6, "two hand-overs");
    // From GPU to GPU over both links.
    put_dense(gpu, s, s->work.n_layers / 2, UINT32_MAX, 1);
    const struct cost both = ask(s, gpu, 0, NULL).decode;
    expect_near(both.link_s, 2 * row / 8e9 + 2 * row / 4e9 + 140e-6, 1e-6, "three");
    expect_near(both.gpu_s, (per_token - head) / 200e9, 3e-3, "all layers");
    // Each second layer; of a prompt the rows pass.
    for (uint32_t l = 0; l < s->work.n_layers; l++)
        put_dense(gpu, s, l, l + 1, l % 2 ? 0 : (uint8_t)-1);
    const struct answers combed = ask(s, gpu, 0, NULL);
    expect_near(combed.decode.link_s, s->work.n_layers * (row / 8e9 + 20e-6), 1e-6, "a comb");
    cr_expect_geq(combed.prefill.link_s, 0.9 * s->work.n_layers * (512 * row / 8e9 + 20e-6));
    cr_expect_leq(combed.prefill.link_s, s->work.n_layers * (512 * row / 8e9 + 20e-6));
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, experts_are_computed_at_the_same_time)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    struct profile_device *device = add_gpu(&s->profile, 80, 1e3);
    uint8_t *gpu = nothing_on_gpus(s);
    const double dense_s = ask(s, gpu, 0, NULL).decode.kernels_s - 240 * expert_bytes(s) / 20e9;
    const double cpu_s = expert_bytes(s) / 20e9, row = s->work.hidden * 4.0;
    static const uint32_t counts[] = {16, 64, 96, 112};
    for (int i = 0; i < 4; i++) {
        memset(gpu, 0, s->model.units.n_units);
        put_experts(gpu, s, 0, counts[i], 0);
        const double share = counts[i] / 128.0;
        const double mean_s =
            longest((double[]){1 - share, share, 0}, (double[]){cpu_s, expert_bytes(s) / 80e9, 0});
        const struct cost c = ask(s, gpu, 0, NULL).decode;
        expect_near(c.kernels_s + c.gpu_s, dense_s + 30 * mean_s, 1e-6, "the longer of both");
        expect_near(c.link_s, 30 * (1 - pow(1 - share, 8)) * 2 * row / 1e12, 1e-6, "there and back");
        cr_expect_float_eq(c.gpu_share, share, 1e-12);
        // Heat that says the same, and heat that says otherwise.
        float heat[3840];
        for (int e = 0; e < 3840; e++)
            heat[e] = 0.0625f;
        const struct cost_options options = {.batch = 512, .heat = heat};
        expect_near(ask(s, gpu, 0, &options).decode.seconds, c.seconds, 1e-9, "all alike");
        for (int e = 0; e < 3840; e++)
            heat[e] = (uint32_t)e % 128 < counts[i] ? 1 : 0;
        const struct cost hot = ask(s, gpu, 0, &options).decode;
        cr_expect_float_eq(hot.gpu_share, 1, 1e-12);
        expect_near(hot.gpu_s, 240 * expert_bytes(s) / 80e9, 1e-6, "all that are chosen");
    }
    // Two GPUs and the CPU: a little less than the mean of all ways to fall.
    add_gpu(&s->profile, 40, 1e3);
    memset(gpu, 0, s->model.units.n_units);
    put_experts(gpu, s, 0, 56, 0);
    put_experts(gpu, s, 56, 96, 1);
    const double three_s = longest((double[]){32 / 128.0, 56 / 128.0, 40 / 128.0},
                                   (double[]){cpu_s, expert_bytes(s) / 80e9, expert_bytes(s) / 40e9});
    const struct cost c = ask(s, gpu, 0, NULL).decode;
    cr_expect_leq(c.kernels_s + c.gpu_s, (dense_s + 30 * three_s) * 1.000001);
    cr_expect_geq(c.kernels_s + c.gpu_s, dense_s + 30 * three_s * 0.95);
    // Where the CPU holds them all but the dense units are elsewhere, rows come to it in each layer.
    memset(gpu, 0, s->model.units.n_units);
    put_dense(gpu, s, 0, UINT32_MAX, 0);
    device->sync_us = 10;
    const struct cost cpu = ask(s, gpu, 0, NULL).decode;
    expect_near(cpu.link_s, 30 * (2 * row / 1e12 + 10e-6) + 2 * (row / 1e12 + 10e-6), 1e-6, "30 round trips");
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, an_integrated_gpu_has_no_link_and_shares_the_memory)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    struct profile_device *device = add_gpu(&s->profile, 20, 1);
    uint8_t *gpu = nothing_on_gpus(s);
    put_experts(gpu, s, 0, 64, 0);
    const double before_s = ask(s, gpu, 0, NULL).decode.seconds;
    device->upload_pinned_gbps.n_points = device->download_pinned_gbps.n_points = 0;
    device->shares_memory = true;
    device->sync_us = 10;
    const struct cost alone = ask(s, gpu, 0, NULL).decode;
    expect_near(alone.link_s, 30 * (1 - pow(0.5, 8)) * 10e-6, 1e-6, "only waiting");
    cr_expect_lt(alone.seconds, before_s);
    // Both at half of the rate while both work: as long as one after the other.
    s->profile.interference[PROFILE_LANE_CPU][PROFILE_LANE_GPU] = 0.5;
    s->profile.interference[PROFILE_LANE_GPU][PROFILE_LANE_CPU] = 0.5;
    const struct cost shared = ask(s, gpu, 0, NULL).decode;
    const double bytes = (double)workload_bytes_per_token(&s->work);
    expect_near(shared.kernels_s + shared.gpu_s, bytes / 20e9, 2e-3, "one memory");
    cr_expect_gt(shared.seconds, alone.seconds * 1.05);
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, faster_parts_and_more_experts_on_them_are_never_slower)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    uint8_t *gpu = nothing_on_gpus(s);
    const uint64_t budget = 8 * GIB;
    float heat[3840];
    for (int e = 0; e < 3840; e++)
        heat[e] = 1.0f / (1 + (float)(e * 37 % 128));
    const struct cost_options options = {.batch = 512, .heat = heat};
    for (int with_heat = 0; with_heat < 2; with_heat++) {
        const struct cost_options *o = with_heat ? &options : NULL;
        struct cost last = {.seconds = INFINITY}, last_prefill = last;
        for (uint32_t n = 0; n <= 128; n += 16) { // all on the GPU take less than one on the CPU
            make_machine(&s->profile, 20, 2);
            add_gpu(&s->profile, 400, 50);
            memset(gpu, 0, s->model.units.n_units);
            put_dense(gpu, s, 0, UINT32_MAX, 0);
            put_experts(gpu, s, 0, n, 0);
            const struct answers a = ask(s, gpu, budget, o);
            cr_expect_leq(a.decode.seconds, last.seconds, "%u experts", n);
            cr_expect_leq(a.prefill.seconds, last_prefill.seconds * (1 + 1e-9), "%u experts, prefill", n);
            cr_expect(n == 0 || a.decode.gpu_share > last.gpu_share, "%u experts", n);
            last = a.decode;
            last_prefill = a.prefill;
        }
        cr_expect_float_eq(last.gpu_share, 1, 1e-12);
    }
    memset(gpu, 0, s->model.units.n_units);
    put_dense(gpu, s, 0, 20, 0);
    put_experts(gpu, s, 0, 40, 0);
    for (int what = 0; what < 3; what++) {
        double last_s = INFINITY, last_prefill_s = INFINITY;
        for (double factor = 0.25; factor < 100; factor *= 1.7) {
            make_machine(&s->profile, what == 2 ? 20 * factor : 20, 2);
            add_gpu(&s->profile, what == 0 ? 100 * factor : 100, what == 1 ? 2 * factor : 2)->sync_us = 20;
            const struct answers a = ask(s, gpu, budget, &options);
            cr_expect_leq(a.decode.seconds, last_s * (1 + 1e-9), "%d by %g", what, factor);
            cr_expect_leq(a.prefill.seconds, last_prefill_s * (1 + 1e-9), "%d by %g, prefill", what, factor);
            last_s = a.decode.seconds;
            last_prefill_s = a.prefill.seconds;
        }
    }
    free(gpu);
    close_subject(s);
}

// Dense products of a prompt, and nothing else: experts have kernels of their own, and a token one row.
Test(cost_gpu, a_library_takes_the_dense_products_of_prompts)
{
    struct subject *s = open_subject("31b", "q4_0");
    struct profile_device *device = add_gpu(&s->profile, 100, 1e3);
    uint8_t *gpu = nothing_on_gpus(s);
    put_dense(gpu, s, 0, UINT32_MAX, 0);
    put_dense(gpu, s, UNIT_NO_LAYER, 0, 0);
    device->attention_prefill_gflops = device->read_gbps = flat(1e6); // take no time
    const struct answers own = ask(s, gpu, 0, NULL);
    for (int type = 0; type < LODE_TYPE_END; type++)
        if (device->kernels[type].known)
            device->kernels[type].library_gbps = (struct profile_curve){2, {{64, 150, 0}, {512, 400, 0}}};
    const struct answers library = ask(s, gpu, 0, NULL);
    cr_expect_eq(library.decode.seconds, own.decode.seconds);
    // A quarter but for the head, which is of one row.
    cr_expect_lt(library.prefill.gpu_s, own.prefill.gpu_s * 0.3);
    cr_expect_gt(library.prefill.gpu_s, own.prefill.gpu_s * 0.2);
    // One that is no faster is not used.
    for (int type = 0; type < LODE_TYPE_END; type++)
        device->kernels[type].library_gbps = (struct profile_curve){2, {{64, 150, 0}, {512, 102, 0}}};
    cr_expect_eq(ask(s, gpu, 0, NULL).prefill.seconds, own.prefill.seconds);
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, the_pool_holds_what_no_gpu_does)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    add_gpu(&s->profile, 400, 10);
    uint8_t *gpu = nothing_on_gpus(s);
    float heat[3840]; // of each layer: 32 hot ones, 32 warm ones, 64 that are never chosen
    for (int e = 0; e < 3840; e++)
        heat[e] = e % 128 < 32 ? 0.1875f : e % 128 < 64 ? 0.0625f : 0;
    const struct cost_options options = {.batch = 512, .heat = heat};
    put_experts(gpu, s, 0, 32, 0);
    const struct homes_request request = {.budget_bytes = 1, .host_memory = true, .gpu = gpu};
    const uint64_t full = homes_bounds(&s->model.units, &request).full_bytes;
    const uint64_t expert = (uint64_t)expert_bytes(s);
    // Slots for all the warm ones, and for half of them, as far as paddings let it be said.
    const struct answers all = ask(s, gpu, full - 30 * 62 * expert, &options);
    cr_expect_float_eq(all.decode.gpu_share, 0.75, 1e-6);
    cr_expect_float_eq(all.decode.hit_rate, 1, 1e-9);
    const struct answers half = ask(s, gpu, full - 30 * 80 * expert, &options);
    const double slots = half.model.n_slots;
    cr_expect_eq(half.model.n_pooled, 30 * 96);
    cr_expect(slots > 30 * 12 && slots < 30 * 18, "%g", slots);
    expect_near(1 - half.decode.hit_rate, (1 - slots / (30 * 32)) * 16 / 17, 1e-6, "of the rest");
    const double missed = (1 - half.decode.hit_rate) * 240 * 0.25 * expert_bytes(s);
    cr_expect_geq(half.decode.drive_bytes, missed * 0.999);
    cr_expect_leq(half.decode.drive_bytes, missed * 1.12);
    // Heat of other topics: more falls beside the GPU.
    cr_expect(half.model.off_high < half.model.off_gpu && half.model.off_gpu < half.model.off_low);
    // Without heat each expert is as likely.
    const struct answers prior = ask(s, gpu, full - 30 * 80 * expert, NULL);
    cr_expect_float_eq(prior.decode.gpu_share, 0.25, 1e-12);
    put_experts(gpu, s, 0, 64, 0);
    cr_expect_gt(ask(s, gpu, full - 30 * 80 * expert, NULL).decode.hit_rate, prior.decode.hit_rate);
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, prompts_are_computed_where_the_weights_are_or_copied)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    uint8_t *gpu = nothing_on_gpus(s);
    put_dense(gpu, s, 0, UINT32_MAX, 0);
    put_dense(gpu, s, UNIT_NO_LAYER, 0, 0);
    // Experts that 512 rows choose in a layer: all. The last layer is met by one row.
    const double experts = 29 * 128 * expert_bytes(s), row = s->work.hidden * 4.0;
    double last_s = INFINITY;
    for (double link = 2.5; link <= 2000; link *= 2) {
        make_machine(&s->profile, 20, 2);
        add_gpu(&s->profile, 400, link);
        const struct cost c = ask(s, gpu, 0, NULL).prefill;
        cr_expect_leq(c.seconds, last_s * (1 + 1e-9), "link of %g", link);
        last_s = c.seconds;
        const double rows_s = 512 * row / (link * 1e9), logits_s = s->work.vocab * 4 / (link * 1e9);
        if (link < 20) { // slower than the CPU
            expect_near(c.kernels_s, (experts + 8 * expert_bytes(s)) / 20e9, 0.01, "computed by the CPU");
            expect_near(c.link_s, 59 * rows_s + logits_s, 0.01, "rows on their way");
        } else if (link > 20 && link < 400) {
            expect_near(c.kernels_s, 8 * expert_bytes(s) / 20e9, 0.01, "the last layer");
            expect_near(c.link_s, experts / (link * 1e9) + rows_s + logits_s, 0.01, "copied");
        } else if (link > 400) {
            expect_near(c.link_s, rows_s + logits_s, 0.03, "copied meanwhile");
        }
    }
    // Without a unit of the layer on a GPU nothing is copied.
    memset(gpu, 0, s->model.units.n_units);
    cr_expect_eq(ask(s, gpu, 0, NULL).prefill.link_s, 0);
    // While it is copied to, the GPU is slower.
    put_dense(gpu, s, 0, UINT32_MAX, 0);
    make_machine(&s->profile, 20, 2);
    add_gpu(&s->profile, 100, 100);
    const double calm_s = ask(s, gpu, 0, NULL).prefill.seconds;
    s->profile.interference[PROFILE_LANE_GPU][PROFILE_LANE_LINK] = 0.5;
    const double busy_s = ask(s, gpu, 0, NULL).prefill.seconds;
    expect_near(busy_s - calm_s, experts / 100e9 / 2, 0.01, "half of the copies' time");
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, the_drive_and_the_gpu_disturb_each_other)
{
    struct subject *s = open_subject("31b", "q4_0");
    add_gpu(&s->profile, 40, 10);
    uint8_t *gpu = nothing_on_gpus(s);
    put_dense(gpu, s, 0, s->work.n_layers / 2, 0);
    const struct homes_request request = {.budget_bytes = 1, .host_memory = true, .gpu = gpu};
    const uint64_t budget = homes_bounds(&s->model.units, &request).full_bytes / 2;
    const double calm_s = ask(s, gpu, budget, NULL).decode.seconds;
    s->profile.interference[PROFILE_LANE_DRIVE][PROFILE_LANE_GPU] = 0.5;
    const double drive_s = ask(s, gpu, budget, NULL).decode.seconds;
    s->profile.interference[PROFILE_LANE_GPU][PROFILE_LANE_DRIVE] = 0.5;
    cr_expect_gt(drive_s, calm_s * 1.01);
    cr_expect_gt(ask(s, gpu, budget, NULL).decode.gpu_s, 0);
    cr_expect_geq(ask(s, gpu, budget, NULL).decode.seconds, drive_s);
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, what_a_used_gpu_lacks_is_told)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    struct profile_device *device = add_gpu(&s->profile, 100, 10);
    const struct profile_device whole = *device;
    uint8_t *gpu = nothing_on_gpus(s);
    put_experts(gpu, s, 0, 4, 0);
    const struct homes_request request = {.budget_bytes = 64 * GIB, .host_memory = true, .gpu = gpu};
    const struct cost_options options = {.batch = 512};
    struct homes homes;
    struct cost_model model;
    struct lode_error error = {0};
    cr_assert_eq(homes_divide(&homes, &s->model.units, &request, &error), 0, "%s", error.text);
    memset(device->kernels, 0, sizeof device->kernels);
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cr_expect_not_null(strstr(error.text, "gpus[0].kernels"), "%s", error.text);
    cost_close(&model);
    *device = whole;
    device->download_pinned_gbps.n_points = 0;
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cr_expect_not_null(strstr(error.text, "gpus[0].download_pinned_gbps"), "%s", error.text);
    cost_close(&model);
    *device = whole;
    device->read_gbps.n_points = device->attention_decode_gbps.n_points = 0;
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cr_expect_not_null(strstr(error.text, "gpus[0].read_gbps"), "%s", error.text);
    cost_close(&model);
    s->profile.n_gpus = 0;
    cr_expect_lt(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
    cr_expect_not_null(strstr(error.text, "GPU 0"), "%s", error.text);
    cost_close(&model);
    // A type that it does not know is stood in for, and told.
    s->profile.n_gpus = 1;
    *device = whole;
    device->kernels[LODE_Q4_0].known = false;
    cr_assert_eq(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0, "%s", error.text);
    cr_expect(model.assumed >> LODE_Q4_0 & 1);
    cost_close(&model);
    // A GPU that nothing lies on may lack anything.
    homes_free(&homes);
    memset(device->kernels, 0, sizeof device->kernels);
    memset(gpu, 0, s->model.units.n_units);
    ask(s, gpu, 0, NULL);
    free(gpu);
    close_subject(s);
}

Test(cost_gpu, any_placement_on_any_machine_takes_a_time)
{
    static const char *const shapes[] = {"tiny-moe", "tiny-31b", "e2b", "26b-a4b"};
    srand(7);
    for (int round = 0; round < 160; round++) {
        struct subject *s = open_subject(shapes[round % 4], "q4_0");
        make_machine(&s->profile, 1 + rand() % 200, 0.1 + rand() % 10);
        const uint32_t n_gpus = 1 + (uint32_t)rand() % 4;
        for (uint32_t g = 0; g < n_gpus; g++) {
            struct profile_device *device = add_gpu(&s->profile, 10 + rand() % 1000, 0.5 + rand() % 60);
            device->operation_us = rand() % 10;
            device->sync_us = rand() % 60;
            device->shares_memory = rand() % 4 == 0;
        }
        for (int i = 0; i < PROFILE_LANES * PROFILE_LANES; i++)
            if (rand() % 2)
                s->profile.interference[i / PROFILE_LANES][i % PROFILE_LANES] = rand() % 130 / 100.0;
        const uint32_t n_units = s->model.units.n_units, n_experts = workload_experts(&s->work);
        uint8_t *gpu = nothing_on_gpus(s);
        const int some = 1 + rand() % 12;
        for (uint32_t u = 0; u < n_units; u++)
            if (s->model.units.units[u].class != UNIT_ROWS && rand() % some == 0)
                gpu[u] = (uint8_t)(1 + (uint32_t)rand() % n_gpus);
        float *heat = calloc(n_experts + 1, sizeof *heat);
        for (uint32_t e = 0; e < n_experts; e++)
            heat[e] = rand() % 3 ? (float)rand() / (float)RAND_MAX / 4 : 0;
        const struct homes_request request = {.budget_bytes = 1, .host_memory = true, .gpu = gpu};
        const struct homes_bounds bounds = homes_bounds(&s->model.units, &request);
        const uint64_t more = (bounds.full_bytes - bounds.floor_bytes) / 8 * (uint64_t)(rand() % 9);
        const struct cost_options options = {.batch = 1 + (uint32_t)rand() % 600,
                                             .heat = rand() % 2 ? heat : NULL,
                                             .kv = (enum lode_kv_format)(rand() % 3),
                                             .no_prefetch = rand() % 2};
        ask(s, gpu, bounds.floor_bytes + more, &options);
        free(heat);
        free(gpu);
        close_subject(s);
    }
}

static double cpu_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// A search asks some hundred times in 0.2 s: 0.3 ms were measured for all three.
Test(cost_gpu, a_question_of_3840_experts_takes_no_time)
{
    struct subject *s = open_subject("26b-a4b", "q4_0");
    add_gpu(&s->profile, 400, 10);
    uint8_t *gpu = nothing_on_gpus(s);
    put_dense(gpu, s, 0, 20, 0);
    put_experts(gpu, s, 0, 32, 0);
    float heat[3840];
    for (int e = 0; e < 3840; e++)
        heat[e] = 8.0f / (float)(1 + e * 37 % 128);
    const struct cost_options options = {.batch = 512, .heat = heat};
    const struct homes_request request = {.budget_bytes = 7 * GIB, .host_memory = true, .gpu = gpu};
    struct homes homes;
    struct cost_model model;
    struct cost cost;
    struct lode_error error;
    cr_assert_eq(homes_divide(&homes, &s->model.units, &request, &error), 0, "%s", error.text);
    const double start_s = cpu_seconds();
    for (int i = 0; i < 50; i++) {
        cr_assert_eq(cost_open(&model, &s->work, &homes, &s->profile, &options, &error), 0);
        cr_assert_eq(cost_decode_mean(&cost, &model, 4096, &error), 0);
        cr_assert_eq(cost_prefill_mean(&cost, &model, 0, 512, &error), 0);
        cost_close(&model);
    }
    const double each_s = (cpu_seconds() - start_s) / 50; // ten times as long with sanitizers
    cr_expect_lt(each_s, 6e-3, "%g ms", 1e3 * each_s);
    homes_free(&homes);
    free(gpu);
    close_subject(s);
}
