// The simulated device: what it asks, what time it takes, what the host finds in its memory, and its faults.
#include "backends/sim/sim_device.h"
#include "profiles/host_memory.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((size_t)1 << 30)
#define MOST_WORKS 64

// Who says what things take: here a nanosecond a byte, and 10 an operation.
struct teller {
    struct sim_clock clock;
    struct sim_work works[MOST_WORKS];
    struct lode_matrix matrices[MOST_WORKS]; // of the works
    uint32_t n_works;
    struct sim_route routes[MOST_WORKS];
    uint32_t n_routes;
    double answer;       // instead, when it is not 0
    uint32_t n_experts;  // that choose counts through
    const char *failure; // of choose
    struct lode_device *device;
    struct lode_error error;
};

static double tell_seconds(void *user, const struct sim_work *work)
{
    struct teller *t = user;
    cr_assert_lt(t->n_works, MOST_WORKS);
    t->works[t->n_works] = *work;
    if (work->matrix)
        t->matrices[t->n_works] = *work->matrix;
    t->n_works++;
    return t->answer != 0 ? t->answer : 1e-9 * (double)(work->bytes + 10);
}

static int tell_choice(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                       struct lode_error *error)
{
    struct teller *t = user;
    if (t->failure)
        return lode_fail(error, LODE_ERR_FORMAT, "%s", t->failure);
    cr_assert_lt(t->n_routes, MOST_WORKS);
    t->routes[t->n_routes++] = *route;
    for (uint32_t i = 0; i < route->n_rows * route->k; i++) {
        ids[i] = (int32_t)(t->n_experts++ % route->n_experts);
        weights[i] = 0.5f;
    }
    return 0;
}

static void set_up(struct teller *t)
{
    *t = (struct teller){.clock = {SIM_CLOCK_START_NS}};
    const struct sim_device_options options = {.clock = &t->clock,
                                               .seconds = tell_seconds,
                                               .choose = tell_choice,
                                               .user = t,
                                               .scratch_bytes = 12345};
    cr_assert_eq(sim_device_open(&t->device, &options, &t->error), 0, "%s", t->error.text);
}

static void tear_down(struct teller *t)
{
    t->device->ops->close(t->device);
}

static uint64_t passed_ns(const struct teller *t)
{
    return t->clock.now_ns - SIM_CLOCK_START_NS;
}

// Memory that may not be touched.
static void *take(struct teller *t, size_t bytes)
{
    void *memory;
    cr_assert_eq(t->device->ops->alloc(t->device, &memory, bytes, &t->error), 0, "%s", t->error.text);
    cr_assert_eq((uintptr_t)memory % LODE_DEVICE_ALIGN, 0);
    return memory;
}

static struct lode_rows take_rows(struct teller *t, uint32_t n, uint32_t cols)
{
    return (struct lode_rows){take(t, (size_t)n * cols * sizeof(float)), n, cols, cols};
}

static struct lode_matrix take_matrix(struct teller *t, uint32_t rows, uint32_t cols, size_t row_bytes)
{
    return (struct lode_matrix){take(t, rows * row_bytes), LODE_Q4_0, rows, cols, row_bytes,
                                LODE_LAYOUT_FILE};
}

static const struct sim_work *last_work(const struct teller *t)
{
    return &t->works[t->n_works - 1];
}

// ---- time

Test(sim_device, a_product_takes_what_its_matrices_take)
{
    struct teller t;
    set_up(&t);
    struct lode_device_times times = {0};
    t.device->times = &times;
    const struct lode_rows x = take_rows(&t, 3, 64), outs[] = {take_rows(&t, 3, 100), take_rows(&t, 3, 50)};
    const struct lode_matrix weights[] = {take_matrix(&t, 100, 64, 36), take_matrix(&t, 50, 64, 40)};
    t.device->ops->matmul(t.device, outs, weights, 2, x);
    cr_assert_eq(t.n_works, 2);
    cr_assert_eq(t.works[0].op, SIM_MATMUL);
    cr_assert_eq(t.works[0].n_rows, 3);
    cr_assert_eq(t.works[0].cols, 64);
    cr_assert_eq(t.works[0].bytes, 3600);
    cr_assert_eq(t.matrices[0].rows, 100);
    cr_assert_eq(t.matrices[0].type, LODE_Q4_0);
    cr_assert_eq(t.works[1].bytes, 2000);
    cr_assert_eq(passed_ns(&t), 5620);
    t.device->ops->matmul_geglu(t.device, outs[0], &weights[0], &weights[0], x);
    cr_assert_eq(passed_ns(&t), 5620 + 7220);
    cr_assert_eq(times.kernels_ns, passed_ns(&t));
    struct sim_device_figures figures;
    sim_device_count(t.device, &figures);
    cr_assert_eq(figures.calls[SIM_MATMUL], 1);
    cr_assert_eq(figures.ns[SIM_MATMUL], 5620);
    cr_assert_eq(figures.ns[SIM_MATMUL_GEGLU], 7220);
    cr_assert_eq(figures.total_ns, passed_ns(&t));
    tear_down(&t);
}

Test(sim_device, experts_are_asked_about_one_by_one)
{
    struct teller t;
    set_up(&t);
    struct lode_device_times times = {0};
    t.device->times = &times;
    const int32_t tokens[] = {0, 1, 2}, slots[] = {0, 2, 4};
    const struct lode_matrix in = take_matrix(&t, 8, 64, 36), down = take_matrix(&t, 64, 32, 18);
    const struct lode_expert_job jobs[] = {{in, in, down, tokens, slots, 1},
                                           {in, in, down, tokens, slots, 3}};
    t.device->ops->experts(t.device, take_rows(&t, 6, 64), take_rows(&t, 3, 64), jobs, 2);
    cr_assert_eq(t.n_works, 6);
    for (uint32_t i = 0; i < 6; i++) {
        cr_assert_eq(t.works[i].op, SIM_EXPERTS);
        cr_assert_eq(t.works[i].n_rows, i < 3 ? 1 : 3);
        cr_assert_eq(t.works[i].bytes, i % 3 < 2 ? 8 * 36 : 64 * 18);
    }
    cr_assert_eq(passed_ns(&t), 2 * (2 * 8 * 36 + 64 * 18) + 60);
    cr_assert_eq(times.kernels_ns, passed_ns(&t));
    tear_down(&t);
}

Test(sim_device, attention_counts_the_positions_that_are_seen)
{
    struct teller t;
    set_up(&t);
    struct lode_device_times times = {0};
    t.device->times = &times;
    struct lode_kv kv = {take(&t, GIB), take(&t, GIB), LODE_CACHE_F16, 2, 64, 4096};
    const struct lode_rows q = take_rows(&t, 70, 8 * 64), out = take_rows(&t, 70, 8 * 64);
    static const uint32_t firsts[] = {0, 3, 31, 100, 4000}, windows[] = {0, 1, 32, 64, 1024};
    for (int i = 0; i < 25; i++) {
        const uint32_t first = firsts[i / 5], window = windows[i % 5];
        uint64_t positions = 0;
        for (uint32_t p = first; p < first + q.n; p++)
            positions += window && p + 1 > window ? window : p + 1;
        const uint64_t before_ns = passed_ns(&t);
        t.device->ops->attention(t.device, out, q, 8, &kv, first, window);
        cr_assert_eq(last_work(&t)->positions, positions, "from %u, window %u", first, window);
        cr_assert_eq(last_work(&t)->bytes, 2 * positions * 2 * 128);
        cr_assert_eq(last_work(&t)->n_heads, 8);
        cr_assert_eq(last_work(&t)->kv, &kv);
        cr_assert_eq(passed_ns(&t) - before_ns, last_work(&t)->bytes + 10);
    }
    cr_assert_eq(times.attention_ns, passed_ns(&t));
    cr_assert_eq(times.kernels_ns, 0);
    tear_down(&t);
}

Test(sim_device, every_operation_is_asked_about_and_touches_nothing)
{
    struct teller t;
    set_up(&t);
    const struct lode_device_ops *ops = t.device->ops;
    struct lode_device *d = t.device;
    const struct lode_rows a = take_rows(&t, 5, 128), b = take_rows(&t, 5, 128), s = take_rows(&t, 20, 128);
    const struct lode_matrix table = take_matrix(&t, 1000, 128, 72);
    struct lode_kv kv = {take(&t, GIB), take(&t, GIB), LODE_CACHE_Q8_0, 2, 64, 4096};
    float *vector = take(&t, 512);
    const int32_t ids[] = {999, 0, 1, 2, 3};
    ops->embed(d, a, &table, ids, 1);
    cr_assert_eq(last_work(&t)->bytes, 5 * 72);
    ops->rms_norm(d, a, b, vector, 1e-6f, 1);
    ops->add_rms_norm(d, a, b, vector, 1e-6f, 1);
    ops->add(d, a, a, b, 1);
    ops->geglu(d, a, a, b);
    ops->scale(d, a, 2);
    ops->softcap(d, a, 30);
    ops->rope(d, a, 2, 64, 7, vector);
    ops->kv_store(d, &kv, a, b, 7);
    ops->experts_combine(d, a, s, vector, 4);
    cr_assert_eq(last_work(&t)->k, 4);
    static const enum sim_op expected[] = {SIM_EMBED,    SIM_RMS_NORM,       SIM_ADD_RMS_NORM, SIM_ADD,
                                           SIM_GEGLU,    SIM_SCALE,          SIM_SOFTCAP,      SIM_ROPE,
                                           SIM_KV_STORE, SIM_EXPERTS_COMBINE};
    const uint32_t n = sizeof expected / sizeof *expected;
    cr_assert_eq(t.n_works, n);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(t.works[i].op, expected[i], "%s", sim_op_name(t.works[i].op));
        cr_assert_eq(t.works[i].n_rows, expected[i] == SIM_EXPERTS_COMBINE ? 20 : 5);
        cr_assert_eq(t.works[i].cols, 128);
    }
    cr_assert_eq(passed_ns(&t), 10 * n + 5 * 72);
    cr_assert_eq(ops->sync(d, &t.error), 0);
    cr_assert_eq(last_work(&t)->op, SIM_SYNC);
    cr_assert_eq(ops->reserve(d, &(struct lode_limits){.rows = 1}, &t.error), 0);
    cr_assert_eq(ops->scratch_bytes(d), 12345);
    struct lode_matrix kept = table;
    ops->arrange(d, &kept);
    cr_assert_eq(kept.layout, LODE_LAYOUT_FILE);
    tear_down(&t);
}

// ---- routers

struct layers {
    struct teller *t;
    struct lode_rows logits, q;
    struct lode_kv kv;
    int32_t *ids;
    float *weights;
};

static void run_layers(void *user)
{
    struct layers *l = user;
    const struct lode_device_ops *ops = l->t->device->ops;
    struct lode_device *d = l->t->device;
    ops->router(d, l->ids, l->weights, l->logits, 2, NULL); // a guess, before anything else
    for (int layer = 0; layer < 2; layer++) {
        ops->attention(d, l->q, l->q, 1, &l->kv, 0, 0);
        ops->router(d, l->ids, l->weights, l->logits, 2, NULL);
        ops->router(d, l->ids, l->weights, l->logits, 3, NULL); // a guess, of more ranks
    }
}

Test(sim_device, a_router_says_which_choice_it_makes)
{
    struct teller t;
    set_up(&t);
    struct layers l = {
        .t = &t,
        .logits = take_rows(&t, 4, 16),
        .q = take_rows(&t, 4, 32),
        .kv = {take(&t, 4096), take(&t, 4096), LODE_CACHE_F16, 1, 32, 64},
        .ids = take(&t, 4 * 16 * sizeof(int32_t)),
        .weights = take(&t, 4 * 16 * sizeof(float)),
    };
    static const struct sim_route expected[] = {
        {4, 2, 16, 0, 0}, {4, 2, 16, 1, 0}, {4, 3, 16, 1, 1}, {4, 2, 16, 2, 0}, {4, 3, 16, 2, 1}};
    for (int pass = 0; pass < 2; pass++) {
        t.n_routes = 0;
        t.device->ops->pass(t.device, run_layers, &l);
        cr_assert_eq(t.n_routes, 5);
        cr_assert_arr_eq(t.routes, expected, sizeof expected);
    }
    int32_t ids[12];
    float weights[12];
    cr_assert_eq(t.device->ops->download(t.device, ids, l.ids, sizeof ids, &t.error), 0);
    cr_assert_eq(t.device->ops->download(t.device, weights, l.weights, sizeof weights, &t.error), 0);
    for (uint32_t i = 0; i < 12; i++) {
        cr_assert_eq(ids[i], (int32_t)((t.n_experts - 12 + i) % 16));
        cr_assert_eq(weights[i], 0.5f);
    }
    tear_down(&t);
}

// ---- memory

Test(sim_device, memory_costs_nothing)
{
    struct teller t;
    set_up(&t);
    const uint64_t before_bytes = host_rss_bytes();
    void *blocks[40];
    for (uint32_t i = 0; i < 40; i++)
        blocks[i] = take(&t, GIB + i);
    for (uint32_t i = 0; i < 40; i += 2)
        t.device->ops->free(t.device, blocks[i], GIB + i);
    blocks[0] = take(&t, 40 * GIB);
    t.device->ops->free(t.device, NULL, 1);
    cr_assert_lt(host_rss_bytes(), before_bytes + (1 << 20));
    void *memory;
    cr_assert_eq(t.device->ops->alloc(t.device, &memory, SIZE_MAX - 10, &t.error), LODE_ERR_MEMORY);
    cr_assert_eq(t.device->ops->alloc(t.device, &memory, (size_t)1 << 62, &t.error), LODE_ERR_MEMORY);
    cr_assert_null(memory);
    tear_down(&t); // gives back the rest
}

Test(sim_device, what_was_uploaded_is_there_and_what_never_was_reads_as_ones)
{
    struct teller t;
    set_up(&t);
    const struct lode_device_ops *ops = t.device->ops;
    const float table[] = {0.25f, -3, 7};
    float read[5] = {0};
    float *to = take(&t, 1 << 20), *never = take(&t, 1 << 20);
    cr_assert_eq(ops->upload(t.device, to + 1000, table, sizeof table, &t.error), 0);
    cr_assert_eq(ops->download(t.device, read, to + 1000, sizeof table, &t.error), 0);
    cr_assert_arr_eq(read, table, sizeof table);
    cr_assert_eq(ops->download(t.device, read, never + 77, sizeof read, &t.error), 0);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(read[i], 1.0f);
    cr_assert_eq(passed_ns(&t), 2 * sizeof table + sizeof read + 30);
    tear_down(&t);
}

Test(sim_device, results_in_the_host_s_own_memory_are_zero)
{
    struct teller t;
    set_up(&t);
    float logits[2][101];
    for (int i = 0; i < 202; i++)
        logits[i / 101][i % 101] = NAN;
    const struct lode_rows x = take_rows(&t, 2, 64), out = {logits[0], 2, 100, 101};
    const struct lode_matrix head = take_matrix(&t, 100, 64, 36);
    t.device->ops->matmul(t.device, &out, &head, 1, x);
    t.device->ops->softcap(t.device, out, 30);
    for (int i = 0; i < 202; i++)
        cr_assert(i % 101 == 100 ? isnan(logits[i / 101][100]) : logits[i / 101][i % 101] == 0);
    tear_down(&t);
}

// ---- faults

static void expect_fault(struct teller *t, int code, const char *text)
{
    const uint64_t before_ns = passed_ns(t);
    const uint32_t n_works = t->n_works;
    float out;
    t->answer = 0;
    t->failure = NULL;
    cr_assert_eq(t->device->ops->sync(t->device, &t->error), code);
    cr_assert(strstr(t->error.text, text), "%s", t->error.text);
    cr_assert_eq(t->device->ops->download(t->device, &out, take(t, 4), 4, &t->error), code);
    t->device->ops->scale(t->device, take_rows(t, 1, 4), 1);
    cr_assert_eq(t->device->ops->sync(t->device, NULL), code);
    cr_assert_eq(passed_ns(t), before_ns, "later operations do nothing");
    cr_assert_eq(t->n_works, n_works);
    tear_down(t);
}

Test(sim_device, times_that_make_no_sense_are_a_fault)
{
    static const double answers[] = {NAN, -1e-9, INFINITY, 1e9};
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        struct teller t;
        set_up(&t);
        t.answer = answers[i];
        t.device->ops->scale(t.device, take_rows(&t, 3, 4), 1);
        cr_assert_eq(passed_ns(&t), 0);
        expect_fault(&t, LODE_ERR_ARGUMENT, "scale of 3 rows");
    }
}

Test(sim_device, a_choice_that_fails_is_a_fault)
{
    struct teller t;
    set_up(&t);
    t.failure = "the trace ends here";
    t.device->ops->router(t.device, take(&t, 64), take(&t, 64), take_rows(&t, 1, 16), 4, NULL);
    expect_fault(&t, LODE_ERR_FORMAT, "the trace ends here");
}

Test(sim_device, a_choice_that_nobody_makes_is_a_fault)
{
    struct teller t = {.clock = {1}};
    struct sim_device_options options = {.clock = &t.clock, .seconds = tell_seconds, .user = &t};
    cr_assert_eq(sim_device_open(&t.device, &options, &t.error), 0);
    t.device->ops->router(t.device, take(&t, 64), take(&t, 64), take_rows(&t, 1, 16), 4, NULL);
    cr_assert_eq(t.device->ops->sync(t.device, &t.error), LODE_ERR_UNSUPPORTED);
    tear_down(&t);
    options.seconds = NULL;
    cr_assert_eq(sim_device_open(&t.device, &options, &t.error), LODE_ERR_ARGUMENT);
    cr_assert_null(t.device);
}
