// Models and runs of the simulator's tests; see sim_run.h.
#include "tests/sim_run.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/stat.h>

static void load(struct sim_model *out, const char *path)
{
    struct lode_error error;
    struct stat status;
    cr_assert_eq(stat(path, &status), 0);
    out->file_bytes = (uint64_t)status.st_size;
    cr_assert_eq(gguf_open(&out->gguf, path, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_model_load(&out->model, out->gguf, &error), 0, "%s", error.text);
    for (uint32_t u = 0; u < out->model.units.n_units; u++)
        if (out->model.units.units[u].class == UNIT_EXPERT)
            out->expert_bytes += out->model.units.units[u].bytes;
}

void sim_model_open_shape(struct sim_model *out, const char *shape, const char *type)
{
    struct lode_synth_options options = lode_synth_options_default();
    struct lode_error error;
    options.shape = shape;
    options.type = type;
    *out = (struct sim_model){0};
    cr_assert_eq(shape_file_open(&out->shape, &options, &error), 0, "%s", error.text);
    load(out, out->shape.path);
}

void sim_model_open_file(struct sim_model *out, const char *path)
{
    *out = (struct sim_model){.shape = {.fd = -1}};
    load(out, path);
}

void sim_model_close(struct sim_model *model)
{
    gemma_model_free(&model->model);
    gguf_close(model->gguf);
    shape_file_close(&model->shape);
}

// 20 GB/s of weights and caches; 2 us an operation, and a little for each row.
static double seconds(void *user, const struct sim_work *work)
{
    const struct sim_run *run = user;
    if (run->times)
        return sim_times_seconds(run->times, work);
    const double rows = work->op == SIM_EMBED || work->op == SIM_ATTENTION ? 0 : work->n_rows;
    return 2e-6 + 5e-8 * rows + (double)work->bytes / 20e9;
}

static int choose(void *user, const struct sim_route *route, int32_t *ids, float *weights,
                  struct lode_error *error)
{
    const struct sim_run *run = user;
    return run->choose(run->user, route, ids, weights, error);
}

void sim_run_open_on(struct sim_run *run, const struct sim_model *model,
                     const struct sim_run_options *options)
{
    const struct gemma_model *gemma = &model->model;
    const struct forward_options forward = {
        .context = options->context, .batch = options->batch, .format = LODE_CACHE_F16};
    const struct residency_options residency = {
        .budget_bytes = options->budget_bytes,
        .policy = options->policy ? policy_find(options->policy) : NULL,
        .used_per_layer = gemma->hparams.n_experts_used,
        .no_prefetch = options->no_prefetch,
        .on_part = weight_matrices_arrange,
        .part_user = &run->matrices,
    };
    run->model = model;
    run->logits = malloc(gemma->hparams.vocab * sizeof *run->logits);
    run->weights = (struct forward_weights){.model = gemma, .device = run->device};
    int rc = weight_matrices_open(&run->matrices, gemma, run->device, &run->error);
    if (!rc)
        rc = forward_open(&run->forward, &run->weights, &forward, &run->error);
    if (!rc)
        rc = residency_open(&run->residency, &gemma->units, run->io, run->device, &residency, &run->error);
    if (!rc)
        rc = forward_weights_open(&run->weights, gemma, &run->matrices, run->residency, &run->error);
    cr_assert(run->logits && rc == 0, "%s", run->error.text);
}

void sim_run_open(struct sim_run *run, const struct sim_model *model, const struct sim_run_options *options)
{
    *run = (struct sim_run){.clock = {SIM_CLOCK_START_NS},
                            .times = options->times,
                            .choose = options->choose,
                            .user = options->user};
    const struct io_sim_options io = {.drive = options->drive, .clock = &run->clock};
    const struct sim_device_options device = {
        .clock = &run->clock, .seconds = seconds, .choose = options->choose ? choose : NULL, .user = run};
    int rc = io_sim_open(&run->io, &model->file_bytes, 1, &io, &run->error);
    if (!rc)
        rc = sim_device_open(&run->device, &device, &run->error);
    cr_assert_eq(rc, 0, "%s", run->error.text);
    sim_run_open_on(run, model, options);
}

void sim_run_close(struct sim_run *run)
{
    forward_weights_close(&run->weights);
    residency_close(run->residency);
    forward_close(run->forward);
    weight_matrices_close(&run->matrices);
    run->device->ops->close(run->device);
    io_close(run->io);
    free(run->logits);
}

int sim_run_step(struct sim_run *run, const int32_t *ids, uint32_t n)
{
    return forward_step(run->forward, ids, n, 1, run->logits, &run->error);
}

struct residency_figures sim_run_figures(const struct sim_run *run)
{
    struct residency_figures figures;
    residency_count(run->residency, &figures);
    return figures;
}
