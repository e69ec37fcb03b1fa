// The engine under virtual time: whole passes of real shapes, deterministic and with every nanosecond
// accounted for; and choices that were recorded in a run on the processor, which under the simulator give the
// hits, the misses and the bytes of that run.
#include "backends/cpu/cpu.h"
#include "base/half.h"
#include "profiles/host_memory.h"
#include "tests/sim_run.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define MOST_LAYERS 64
#define MOST_RANKS 128

// A drive of 2.8 GB/s.
static const struct io_sim_drive drive = {
    .n_points = 3, .points = {{1, 1.5}, {4, 2.6}, {16, 2.8}}, .latency_ns = 90000, .align_bytes = 4096};

// ---- choices that follow a rule

struct rule {
    uint32_t first_position, n_tokens; // of the pass
    uint64_t n_choices, n_guesses;
};

static uint32_t scramble(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// Some experts are chosen much more often than others, and half of the ranks stay for 16 tokens.
static void rule_choice(int32_t *out, uint32_t position, uint32_t layer, uint32_t k, uint32_t n_experts)
{
    bool taken[MOST_RANKS] = {0};
    for (uint32_t r = 0; r < k; r++) {
        const uint32_t when = r % 2 ? position : position / 16;
        const double u = scramble(scramble(when * 131 + r) ^ layer) / 4294967296.0;
        uint32_t e = ((uint32_t)(u * u * u * n_experts) + 29 * layer) % n_experts;
        while (taken[e])
            e = (e + 1) % n_experts;
        taken[e] = true;
        out[r] = (int32_t)e;
    }
}

static int choose_by_rule(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                          struct lode_error *error)
{
    struct rule *rule = user;
    const bool guess = route->n_attended == 0 || route->n_routed > 0;
    const uint32_t layer = guess ? route->n_attended : route->n_attended - 1;
    if (route->n_experts > MOST_RANKS)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "%u experts", route->n_experts);
    for (uint32_t row = 0; row < route->n_rows; row++) {
        const uint32_t position = rule->first_position + rule->n_tokens - route->n_rows + row;
        const bool wrong = guess && position % 3 == 0; // in the ranks that change with every token
        rule_choice(ids + row * route->k, position + wrong, layer, route->k, route->n_experts);
    }
    for (uint32_t i = 0; i < route->n_rows * route->k; i++)
        weights[i] = 1.0f / (float)route->k;
    *(guess ? &rule->n_guesses : &rule->n_choices) += (uint64_t)route->n_rows * route->k;
    return 0;
}

// ---- a run, and all that can be said of it

struct result {
    uint64_t clock_ns, device_ns, stall_ns, load_ns;
    uint64_t choices, hits, reused, pool_slots, streamed_bytes;
    uint64_t load_bytes, prefill_bytes, decode_bytes, read_bytes, busy_ns;
    uint64_t decode_ns, decode_stall_ns, prefill_stall_ns, useful_bytes, wasted_bytes;
    struct residency_layer_figures layers[MOST_LAYERS];
};

static void step(struct sim_run *run, struct rule *rule, struct result *result, uint32_t n)
{
    static const int32_t ids[64];
    struct sim_device_figures before, after;
    const uint64_t start_ns = run->clock.now_ns;
    rule->first_position = forward_position(run->forward);
    rule->n_tokens = n;
    sim_device_count(run->device, &before);
    cr_assert_eq(sim_run_step(run, ids, n), 0, "%s", run->error.text);
    sim_device_count(run->device, &after);
    const uint64_t device_ns = after.total_ns - before.total_ns;
    const uint64_t stall_ns = residency_last_stall(run->residency).total_ns;
    cr_assert_eq(run->clock.now_ns - start_ns, device_ns + stall_ns, "all time is somebody's");
    result->device_ns += device_ns;
    result->stall_ns += stall_ns;
}

// A prompt of 32 tokens in two steps, then single tokens.
static void run_rule(struct result *out, const struct sim_model *model, struct sim_run_options options,
                     uint32_t n_tokens)
{
    struct sim_run run;
    struct rule rule = {0};
    memset(out, 0, sizeof *out);
    options.choose = choose_by_rule;
    options.user = &rule;
    const uint64_t before_bytes = host_rss_bytes();
    sim_run_open(&run, model, &options);
    out->load_ns = run.clock.now_ns - SIM_CLOCK_START_NS;
    step(&run, &rule, out, 20);
    step(&run, &rule, out, 12);
    for (uint32_t i = 0; i < n_tokens; i++)
        step(&run, &rule, out, 1);
    cr_assert_lt(host_rss_bytes(), before_bytes + 48 * MIB, "%lu MiB", host_rss_bytes() / MIB);
    // In the last layer of a step only the row whose logits are wanted is left.
    const struct gemma_hparams *h = &model->model.hparams;
    const uint64_t n_rows = (uint64_t)(20 + 12 + n_tokens) * (h->n_layers - 1) + 2 + n_tokens;
    cr_assert_eq(rule.n_choices, n_rows * h->n_experts_used);
    cr_assert_eq(rule.n_guesses > 0, h->n_experts_used > 0 && !options.no_prefetch && options.budget_bytes);
    const struct residency_figures f = sim_run_figures(&run);
    out->clock_ns = run.clock.now_ns;
    out->choices = f.choices;
    out->hits = f.hits;
    out->reused = f.reused;
    out->pool_slots = f.pool_slots;
    out->streamed_bytes = f.streamed_bytes;
    out->load_bytes = f.load_bytes;
    out->prefill_bytes = f.prefill_bytes;
    out->decode_bytes = f.decode_bytes;
    out->read_bytes = f.read_bytes;
    out->busy_ns = f.busy_ns;
    out->decode_ns = f.decode_ns;
    out->decode_stall_ns = f.decode_stall_ns;
    out->prefill_stall_ns = f.prefill_stall_ns;
    out->useful_bytes = f.prefetch_useful_bytes;
    out->wasted_bytes = f.prefetch_wasted_bytes;
    for (uint32_t l = 0; l < model->model.hparams.n_layers; l++)
        residency_count_layer(run.residency, l, &out->layers[l]);
    for (uint32_t i = 0; i < model->model.hparams.vocab; i += 1000)
        cr_assert_eq(run.logits[i], 0);
    sim_run_close(&run);
    // Load, passes and nothing else.
    cr_assert_eq(out->clock_ns, SIM_CLOCK_START_NS + out->load_ns + out->device_ns + out->stall_ns);
    cr_assert_eq(out->stall_ns, out->decode_stall_ns + out->prefill_stall_ns);
    cr_assert_gt(out->device_ns, 0);
}

// A budget that leaves room for a share of the experts beside everything else.
static uint64_t budget_for(const struct sim_model *model, double share)
{
    const struct lode_device host = {.host_memory = true};
    return residency_full_bytes(&model->model.units, &host) -
           (uint64_t)((1 - share) * (double)model->expert_bytes);
}

Test(sim_run, a_hundred_tokens_of_26b_add_up_and_come_out_the_same_again)
{
    static const double shares[] = {0.08, 0.4};
    struct sim_model model;
    struct result first, again;
    sim_model_open_shape(&model, "26b-a4b", "q4_0");
    const struct gemma_hparams *h = &model.model.hparams;
    for (int i = 0; i < 4; i++) {
        const struct sim_run_options options = {.context = 4096,
                                                .batch = 512,
                                                .budget_bytes = budget_for(&model, shares[i / 2]),
                                                .no_prefetch = i % 2 == 0,
                                                .drive = drive};
        run_rule(&first, &model, options, 100);
        run_rule(&again, &model, options, 100);
        cr_assert_eq(memcmp(&first, &again, sizeof first), 0, "case %d", i);
        cr_assert_eq(first.choices, 100ull * h->n_layers * h->n_experts_used);
        cr_assert(first.hits > 0 && first.hits < first.choices);
        cr_assert_gt(first.stall_ns, 0);
        cr_assert_gt(first.busy_ns, 0);
        if (!options.no_prefetch) {
            cr_assert_gt(first.useful_bytes, 0);
            continue;
        }
        cr_assert_eq(first.useful_bytes + first.wasted_bytes, 0);
        for (uint32_t l = 0; l < h->n_layers; l++) {
            const uint64_t expert = model.model.layers[l].first_expert_unit;
            const struct residency_layer_figures *layer = &first.layers[l];
            const uint64_t misses = layer->bytes / model.model.units.units[expert].bytes;
            cr_assert_eq(layer->bytes % model.model.units.units[expert].bytes, 0);
            cr_assert_eq(layer->hits + misses, layer->choices, "layer %u", l);
        }
    }
    sim_model_close(&model);
}

Test(sim_run, with_all_in_memory_there_is_nothing_to_wait_for)
{
    struct sim_model model;
    struct result result;
    sim_model_open_shape(&model, "26b-a4b", "q4_0");
    const struct sim_run_options options = {.context = 4096, .batch = 512, .drive = drive};
    run_rule(&result, &model, options, 10);
    cr_assert_eq(result.hits, result.choices);
    cr_assert_eq(result.stall_ns, 0);
    cr_assert_eq(result.read_bytes, result.load_bytes);
    cr_assert_geq(result.load_bytes, unit_table_bytes(&model.model.units));
    const double load_s = (double)result.load_bytes / 2.8e9; // at full depth
    cr_assert_float_eq((double)result.load_ns * 1e-9, load_s, 0.02 * load_s);
    sim_model_close(&model);
}

// What streams is read once in each pass, ahead of its use: the drive is never idle.
Test(sim_run, a_dense_model_that_streams_runs_at_the_speed_of_the_drive)
{
    struct sim_model model;
    struct result few, more;
    sim_model_open_shape(&model, "31b", "q4_0");
    const uint64_t weights = unit_table_bytes(&model.model.units);
    const struct sim_run_options options = {
        .context = 4096, .batch = 512, .budget_bytes = weights / 2, .drive = drive};
    run_rule(&few, &model, options, 5);
    run_rule(&more, &model, options, 15);
    cr_assert_gt(few.streamed_bytes, weights / 3);
    const double pass_s = (double)(more.clock_ns - few.clock_ns) * 1e-10;
    const double drive_s = (double)few.streamed_bytes / 2.8e9;
    cr_assert_geq(pass_s, 0.999 * drive_s);
    cr_assert_leq(pass_s, 1.1 * drive_s);
    cr_assert_float_eq((double)(more.read_bytes - few.read_bytes), 10.0 * (double)few.streamed_bytes,
                       0.05 * (double)few.streamed_bytes);
    sim_model_close(&model);
}

Test(sim_run, rows_of_a_table_are_fetched_and_waited_for)
{
    struct sim_model model;
    struct result first, again;
    sim_model_open_shape(&model, "e2b", "q4_0");
    const struct sim_run_options options = {
        .context = 1024, .batch = 64, .budget_bytes = budget_for(&model, 1), .drive = drive};
    run_rule(&first, &model, options, 10);
    run_rule(&again, &model, options, 10);
    cr_assert_eq(memcmp(&first, &again, sizeof first), 0);
    cr_assert_gt(first.stall_ns, 0, "the first row is not in any cache");
    sim_model_close(&model);
}

static int fail_to_choose(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                          struct lode_error *error)
{
    (void)user, (void)route, (void)ids, (void)weights;
    return lode_fail(error, LODE_ERR_FORMAT, "the trace ends at token 7");
}

Test(sim_run, a_trace_that_ends_ends_the_step)
{
    struct sim_model model;
    struct sim_run run;
    const int32_t id = 1;
    sim_model_open_shape(&model, "tiny-moe", "q4_0");
    const struct sim_run_options options = {
        .context = 64, .batch = 8, .drive = drive, .choose = fail_to_choose};
    sim_run_open(&run, &model, &options);
    cr_assert_eq(sim_run_step(&run, &id, 1), LODE_ERR_FORMAT);
    cr_assert(strstr(run.error.text, "the trace ends at token 7"), "%s", run.error.text);
    sim_run_close(&run);
    sim_model_close(&model);
}

// ---- replay equals live

// What routers chose, call by call: the rows, the ranks, the ids, the weights as half floats. A trace keeps
// no more.
struct recording {
    int32_t *data;
    size_t n, capacity, at;
};

static void append(struct recording *r, const int32_t *values, size_t n)
{
    while (r->n + n > r->capacity) {
        r->capacity = 2 * r->capacity + 4096;
        r->data = realloc(r->data, r->capacity * sizeof *r->data);
        cr_assert(r->data);
    }
    memcpy(r->data + r->n, values, n * sizeof *values);
    r->n += n;
}

// Between the forward pass and the processor; an operation has no place for a caller's pointer.
static const struct lode_device_ops *inner;
static struct recording *recorded;

static void recording_router(struct lode_device *device, int32_t *ids, float *weights,
                             struct lode_rows logits, uint32_t k, const float *expert_scale)
{
    inner->router(device, ids, weights, logits, k, expert_scale);
    append(recorded, (int32_t[]){(int32_t)logits.n, (int32_t)k}, 2);
    append(recorded, ids, (size_t)logits.n * k);
    for (size_t i = 0; i < (size_t)logits.n * k; i++)
        append(recorded, (int32_t[]){lode_f32_to_f16(weights[i])}, 1);
}

static int choose_as_recorded(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                              struct lode_error *error)
{
    struct recording *r = user;
    const size_t n = (size_t)route->n_rows * route->k;
    const int32_t *data = r->data + r->at;
    if (r->at + 2 + 2 * n > r->n || data[0] != (int32_t)route->n_rows || data[1] != (int32_t)route->k)
        return lode_fail(error, LODE_ERR_FORMAT, "the recording does not go on like this at %zu", r->at);
    memcpy(ids, data + 2, n * sizeof *ids);
    for (size_t i = 0; i < n; i++)
        weights[i] = lode_f16_to_f32((uint16_t)data[2 + n + i]);
    r->at += 2 + 2 * n;
    return 0;
}

enum { PROMPT = 20, GENERATED = 60, BATCH = 16 };

struct timeline {
    int32_t ids[PROMPT + GENERATED];
};

static int32_t largest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

// With `greedy` the generated tokens are chosen and put down, else they are those that stand there.
static void run_timeline(struct sim_run *run, struct timeline *t, bool greedy)
{
    for (uint32_t at = 0; at < PROMPT; at += BATCH)
        cr_assert_eq(sim_run_step(run, t->ids + at, PROMPT - at < BATCH ? PROMPT - at : BATCH), 0, "%s",
                     run->error.text);
    for (uint32_t i = PROMPT; i < PROMPT + GENERATED; i++) {
        if (greedy)
            t->ids[i] = largest(run->logits, run->model->model.hparams.vocab);
        cr_assert_eq(sim_run_step(run, &t->ids[i], 1), 0, "%s", run->error.text);
    }
}

static void run_live(struct sim_run *run, const struct sim_model *model, const char *path,
                     const struct sim_run_options *options, struct timeline *timeline)
{
    const struct io_options io = {.engine = IO_ENGINE_THREADS, .cache = IO_CACHE_POPULATE};
    const struct cpu_options cpu = {.threads = 1};
    *run = (struct sim_run){0};
    cr_assert_eq(io_open(&run->io, &path, 1, &io, &run->error), 0, "%s", run->error.text);
    cr_assert_eq(cpu_open(&run->device, &cpu, &run->error), 0, "%s", run->error.text);
    inner = run->device->ops;
    struct lode_device_ops hooked = *inner;
    hooked.router = recording_router;
    run->device->ops = &hooked;
    sim_run_open_on(run, model, options);
    run_timeline(run, timeline, true);
    run->device->ops = inner;
}

static void compare(const struct sim_run *live, const struct sim_run *replay, const char *policy)
{
    const struct residency_figures a = sim_run_figures(live), b = sim_run_figures(replay);
    cr_assert_eq(a.pool_slots, b.pool_slots);
    cr_assert_eq(a.streamed_bytes, 0);
    cr_assert(a.hits > 0 && a.hits < a.choices, "%s", policy);
    cr_assert_eq(a.choices, b.choices, "%s", policy);
    cr_assert_eq(a.hits, b.hits, "%s: %lu hits live, %lu in the replay", policy, a.hits, b.hits);
    cr_assert_eq(a.reused, b.reused, "%s", policy);
    cr_assert_eq(a.load_bytes, b.load_bytes, "%s", policy);
    cr_assert_eq(a.prefill_bytes, b.prefill_bytes, "%s", policy);
    cr_assert_eq(a.decode_bytes, b.decode_bytes, "%s", policy);
    cr_assert_eq(a.read_bytes, b.read_bytes, "%s", policy);
    for (uint32_t l = 0; l < live->model->model.hparams.n_layers; l++) {
        struct residency_layer_figures x, y;
        residency_count_layer(live->residency, l, &x);
        residency_count_layer(replay->residency, l, &y);
        cr_assert_eq(x.choices, y.choices, "%s, layer %u", policy, l);
        cr_assert_eq(x.hits, y.hits, "%s, layer %u", policy, l);
        cr_assert_eq(x.bytes, y.bytes, "%s, layer %u", policy, l);
    }
}

// Every layer's experts have room at once, so that none waits for a slot: what is read then does not depend
// on the order of arrival.
Test(sim_run, replay_equals_live)
{
    static const double shares[] = {0.2, 0.5};
    char path[512];
    struct sim_model model;
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    sim_model_open_file(&model, path);
    for (uint32_t p = 0; policy_table[p]; p++)
        for (uint32_t i = 0; i < 2; i++) {
            struct recording recording = {0};
            struct timeline timeline;
            struct sim_run live, replay;
            struct sim_run_options options = {.context = 128,
                                              .batch = BATCH,
                                              .budget_bytes = budget_for(&model, shares[i]),
                                              .policy = policy_table[p]->name,
                                              .no_prefetch = true,
                                              .drive = drive,
                                              .choose = choose_as_recorded,
                                              .user = &recording};
            options.drive.align_bytes = 0; // as the run reads: through the page cache
            for (int32_t t = 0; t < PROMPT; t++)
                timeline.ids[t] = t ? 424 + 7 * t : 2;
            recorded = &recording;
            run_live(&live, &model, path, &options, &timeline);
            sim_run_open(&replay, &model, &options);
            run_timeline(&replay, &timeline, false);
            cr_assert_eq(recording.at, recording.n, "all of it was asked for");
            cr_assert_geq(sim_run_figures(&live).pool_slots, model.model.hparams.n_experts);
            compare(&live, &replay, policy_table[p]->name);
            sim_run_close(&live);
            sim_run_close(&replay);
            free(recording.data);
        }
    sim_model_close(&model);
}
