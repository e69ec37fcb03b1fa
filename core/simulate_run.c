// A run under the virtual clock: a session's forward pass and its weights, as core/session.c and
// core/engine.c make them, on the simulated device beside the simulated drive.
#include "core/simulate_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const enum lode_kv_format kv_formats[] = {
    [LODE_KV_F16] = LODE_CACHE_F16, [LODE_KV_Q8_0] = LODE_CACHE_Q8_0, [LODE_KV_F32] = LODE_CACHE_F32};

int simulation_times_open(struct sim_times **out, const struct simulation_model *model,
                          const struct simulation_question *q, struct lode_error *error)
{
    *out = NULL;
    if (!q->profile)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a simulation needs a machine profile");
    if (q->kv < 0 || (size_t)q->kv >= sizeof kv_formats / sizeof *kv_formats)
        return lode_fail(error, LODE_ERR_ARGUMENT, "there is no KV cache type %d", q->kv);
    const struct sim_times_options options = {.threads = q->threads,
                                              .kv = kv_formats[q->kv],
                                              .budget_bytes = q->weights_bytes,
                                              .ring_bytes = q->ring_bytes};
    return sim_times_open(out, &model->workload, q->profile, &options, error);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static int check_question(const struct simulation_run *run, struct lode_error *error)
{
    const struct simulation_question *q = run->question;
    const struct gemma_hparams *h = &run->model->model.hparams;
    if (q->context > h->context_limit)
        return lode_fail(error, LODE_ERR_CONTEXT,
                         "a context of %" PRIu32 " tokens is beyond the model's limit of %" PRIu32,
                         q->context, h->context_limit);
    if (q->context && q->context < run->steps.context)
        return lode_fail(error, LODE_ERR_CONTEXT,
                         "the trace needs a context of %" PRIu32 " tokens, not %" PRIu32, run->steps.context,
                         q->context);
    if (q->prefetch_ranks > h->n_experts)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "prefetch of %" PRIu32 " ranks: a layer of this model has %" PRIu32 " experts",
                         q->prefetch_ranks, h->n_experts);
    return 0;
}

// Where everything is in memory nobody is asked.
static int check_guesses(const struct simulation_run *run, const struct trace *trace,
                         struct lode_error *error)
{
    const struct simulation_question *q = run->question;
    const bool asks = q->predictor && q->predictor->gate != PREDICTOR_NO_GATE;
    if (asks && sim_times_homes(run->times)->pool_bytes && run->steps.n_decode && !run->steps.has_guesses)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the predictor %s asks the next layer's router, and the trace%s%s has not recorded "
                         "what it says; others are previous, heat and cooccur",
                         q->predictor->name, trace->header.model[0] ? " of " : "", trace->header.model);
    return 0;
}

static double seconds(void *user, const struct sim_work *work)
{
    const struct simulation_run *run = user;
    return sim_times_seconds(run->times, work);
}

static int choose(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                  struct lode_error *error)
{
    struct simulation_run *run = user;
    return simulation_route(&run->routes, route, ids, weights, error);
}

static int open_machine(struct simulation_run *run, struct lode_error *error)
{
    const struct simulation_model *m = run->model;
    const struct simulation_question *q = run->question;
    struct io_sim *drive = NULL;
    int rc = simulation_times_open(&run->times, m, q, error);
    if (rc)
        return rc;
    struct io_sim_options io = {.clock = &run->clock,
                                .queue_depth = q->queue_depth,
                                .share_beside = sim_times_drive_share(run->times),
                                .out_drive = &drive};
    run->has_drive = sim_times_drive(&io.drive, run->times);
    rc = io_sim_open(&run->io, m->file_bytes, m->n_files, &io, error);
    if (rc)
        return rc;
    sim_times_beside(run->times, drive);
    const struct sim_device_options device = {
        .clock = &run->clock, .seconds = seconds, .choose = choose, .user = run};
    rc = sim_device_open(&run->device, &device, error);
    return rc ? rc : weight_matrices_open(&run->matrices, &m->model, run->device, error);
}

static int open_heat(struct simulation_run *run, struct lode_error *error)
{
    const struct simulation_model *m = run->model;
    uint32_t n_layers = 0;
    for (uint32_t l = 0; l < m->model.hparams.n_layers; l++)
        n_layers += m->model.layers[l].moe;
    if (!run->question->heat || !n_layers)
        return 0;
    int rc = heat_open(&run->heat, n_layers, m->n_experts, 0, error);
    if (rc)
        return rc;
    memcpy(run->heat.mean, run->question->heat, m->n_experts * sizeof *run->heat.mean);
    run->heat.n_tokens = HEAT_TOKENS;
    for (uint32_t l = 0; l < n_layers; l++)
        run->heat.layer_tokens[l] = HEAT_TOKENS;
    return 0;
}

static bool on_progress(void *user, uint64_t done_bytes, uint64_t total_bytes)
{
    (void)done_bytes, (void)total_bytes;
    const struct simulation_question *q = user;
    return !q->keep_going || q->keep_going(q->user);
}

static int open_residency(struct simulation_run *run, struct lode_error *error)
{
    const struct simulation_question *q = run->question;
    const struct residency_options options = {
        .budget_bytes = q->weights_bytes,
        .policy = q->policy,
        .used_per_layer = run->model->model.hparams.n_experts_used,
        .heat = run->heat.mean ? &run->heat : NULL,
        .no_prefetch = !q->predictor,
        .prefetch_ranks = q->prefetch_ranks,
        .ring_bytes = q->ring_bytes,
        .on_progress = on_progress,
        .user = (void *)q,
    };
    const uint64_t start_ns = run->clock.now_ns;
    int rc = residency_open(&run->residency, &run->model->model.units, run->io, run->device, &options, error);
    run->load_ns = run->clock.now_ns - start_ns;
    return rc;
}

// Where a token's embedding is read by the row, the trace does not say which: each is another, so that no row
// is there already.
static int make_inputs(struct simulation_run *run, struct lode_error *error)
{
    const uint32_t vocab = run->model->model.hparams.vocab;
    run->ids = calloc(run->steps.batch, sizeof *run->ids);
    if (!run->ids)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %" PRIu32 " tokens", run->steps.batch);
    // Of the device: nobody looks at them, and there nothing needs to be cleared.
    return run->device->ops->alloc(run->device, (void **)&run->logits,
                                   (size_t)run->steps.batch * vocab * sizeof *run->logits, error);
}

int simulation_run_open(struct simulation_run *run, const struct simulation_model *model,
                        const struct trace *trace, const struct simulation_question *q,
                        simulation_chosen_fn on_chosen, void *user, struct lode_error *error)
{
    *run = (struct simulation_run){.model = model, .question = q, .clock = {SIM_CLOCK_START_NS}};
    int rc = simulation_steps_make(&run->steps, model, trace, q->batch ? q->batch : SIMULATION_BATCH, error);
    if (!rc)
        rc = check_question(run, error);
    if (rc)
        return rc;
    simulation_routes_init(&run->routes, model, trace);
    run->routes.perfect = q->predictor == &simulation_perfect_predictor;
    run->routes.end = run->steps.steps + run->steps.n_steps;
    rc = open_machine(run, error);
    if (!rc)
        rc = check_guesses(run, trace, error);
    if (rc)
        return rc;
    run->weights = (struct forward_weights){.model = &model->model, .device = run->device};
    const struct forward_options forward = {.context = q->context ? q->context : run->steps.context,
                                            .batch = run->steps.batch,
                                            .format = kv_formats[q->kv],
                                            .keep_going = q->keep_going,
                                            .user = q->user};
    rc = forward_open(&run->forward, &run->weights, &forward, error);
    if (!rc)
        rc = open_heat(run, error);
    if (!rc)
        rc = open_residency(run, error);
    if (!rc)
        rc = forward_weights_open(&run->weights, &model->model, &run->matrices, run->residency, error);
    if (!rc)
        rc = make_inputs(run, error);
    if (!rc)
        rc = simulation_predictor_open(&run->predictor, &run->routes, q, on_chosen, user, error);
    run->weights.predictor = run->predictor;
    if (!rc)
        run->device->times = &run->device_times;
    return rc;
}

void simulation_run_close(struct simulation_run *run)
{
    if (run->weights.model)
        forward_weights_close(&run->weights);
    simulation_predictor_close(run->predictor);
    residency_close(run->residency);
    heat_close(&run->heat);
    forward_close(run->forward);
    weight_matrices_close(&run->matrices);
    if (run->device)
        run->device->ops->close(run->device);
    io_close(run->io);
    sim_times_close(run->times);
    simulation_steps_free(&run->steps);
    free(run->ids);
}

// ---- steps
// ---------------------------------------------------------------------------------------------------

static uint64_t count_calls(const struct sim_device_figures *figures)
{
    uint64_t n = 0;
    for (int op = 0; op < SIM_OPS; op++)
        n += figures->calls[op];
    return n;
}

static int run_step(struct simulation_run *run, const struct simulation_step *step, struct lode_error *error)
{
    const uint32_t vocab = run->model->model.hparams.vocab;
    run->routes.step = step;
    if (step->begins)
        forward_rewind(run->forward, 0);
    if (forward_position(run->forward) != step->position)
        forward_move(run->forward, step->position);
    for (uint32_t i = 0; i < step->n_tokens; i++)
        run->ids[i] = (int32_t)((step->first_token + i) % vocab);
    run->weights.skips_prompts = !run->routes.perfect && !step->guesses;
    run->device_times = (struct lode_device_times){0};
    sim_times_pass(run->times, step->n_tokens);
    return forward_step(run->forward, run->ids, step->n_tokens, step->want, run->logits, error);
}

int simulation_run_steps(struct simulation_run *run,
                         void (*on_step)(void *user, const struct simulation_passed *passed), void *user,
                         struct lode_error *error)
{
    struct residency_figures figures[2];
    struct sim_device_figures device[2];
    int rc = 0;
    residency_count(run->residency, &figures[0]);
    sim_device_count(run->device, &device[0]);
    for (uint32_t i = 0; i < run->steps.n_steps && !rc; i++) {
        const struct simulation_question *q = run->question;
        const uint64_t start_ns = run->clock.now_ns;
        if (q->keep_going && !q->keep_going(q->user))
            return lode_fail(error, LODE_ERR_CANCELLED, "the simulation was stopped");
        rc = run_step(run, &run->steps.steps[i], error);
        if (rc)
            break;
        residency_count(run->residency, &figures[1]);
        sim_device_count(run->device, &device[1]);
        const struct simulation_passed passed = {.step = &run->steps.steps[i],
                                                 .index = i,
                                                 .ns = run->clock.now_ns - start_ns,
                                                 .device_ns = device[1].total_ns - device[0].total_ns,
                                                 .device_calls =
                                                     count_calls(&device[1]) - count_calls(&device[0]),
                                                 .before = &figures[0],
                                                 .after = &figures[1],
                                                 .times = &run->device_times};
        on_step(user, &passed);
        figures[0] = figures[1];
        device[0] = device[1];
    }
    return rc;
}
