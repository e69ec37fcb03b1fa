// The chosen experts are computed, each by the executor that has it: GPUs are set to work first, the CPU goes
// on with its share meanwhile, and what it has it takes in order of arrival. An executor sums what it
// computed in the order of the ranks, and the executors' sums are added in their order, so that the result
// does not depend on which expert was at hand first.
#include "core/forward_internal.h"

#include <string.h>

// Experts that the host takes at once where some are copied to a GPU: few, so that copies go on beside
// computing.
#define TAKEN_BESIDE_UPLOADS 16

enum place { PLACE_HOST, PLACE_GPU, PLACE_UPLOADED };

static const void *part_of(const struct forward *f, enum place place, uint32_t executor, uint32_t unit,
                           uint32_t part)
{
    const struct residency *residency = f->weights->residency;
    if (place == PLACE_HOST)
        return residency_part(residency, unit, part);
    return place == PLACE_GPU ? residency_gpu_part(residency, executor - 1, unit, part)
                              : residency_upload_part(residency, executor - 1, unit, part);
}

static struct lode_matrix matrix_of(const struct forward *f, enum place place, uint32_t executor,
                                    uint32_t unit, uint32_t part)
{
    const uint32_t index = f->weights->model->units.units[unit].first_part + part;
    struct lode_matrix matrix = f->weights->matrices->parts[index];
    matrix.data = part_of(f, place, executor, unit, part);
    if (place != PLACE_HOST)
        matrix.layout = LODE_LAYOUT_FILE;
    return matrix;
}

static void describe_job(const struct forward *f, const struct gemma_layer *layer, enum place place,
                         uint32_t executor, uint32_t unit, struct lode_expert_job *job)
{
    job->gate = matrix_of(f, place, executor, unit, 0);
    if (layer->fused_gate_up) {
        const uint32_t width = f->weights->model->hparams.expert_width;
        job->gate.rows = width;
        job->up = job->gate;
        job->up.data = (const char *)job->gate.data + width * job->gate.row_bytes;
    } else {
        job->up = matrix_of(f, place, executor, unit, 1);
    }
    job->down = matrix_of(f, place, executor, unit, layer->fused_gate_up ? 1 : 2);
}

// Computes some experts, one row of the executor's slots for each choice.
static void compute(struct forward *f, const struct executor *e, const struct gemma_layer *layer,
                    enum place place, const uint32_t *units, uint32_t n, uint32_t n_rows)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    struct expert_batch *batch = &f->experts;
    const struct lode_rows input = executor_rows(e, BUFFER_EXPERT_INPUT, n_rows, h->hidden);
    const struct lode_rows slots =
        executor_rows(e, BUFFER_EXPERT_SLOTS, n_rows * h->n_experts_used, h->hidden);
    for (uint32_t j = 0; j < n; j++) {
        const uint32_t id = units[j] - layer->first_expert_unit;
        struct lode_expert_job *job = &batch->jobs[j];
        describe_job(f, layer, place, e->index, units[j], job);
        job->tokens = batch->tokens + batch->begin[id];
        job->slots = batch->slots + batch->begin[id];
        job->n = batch->begin[id + 1] - batch->begin[id];
        if (batch->executor)
            batch->executor[id] = (uint8_t)e->index;
    }
    e->device->ops->experts(e->device, slots, input, batch->jobs, n);
}

// ---- the input

// n = RMS(x) * pre_ffw_norm_2
static void make_input(struct forward *f, const struct pass *pass, const struct gemma_layer *layer)
{
    const struct executor *e = pass->at;
    const struct gemma_hparams *h = &f->weights->model->hparams;
    const struct lode_rows input = executor_rows(e, BUFFER_EXPERT_INPUT, pass->x.n, h->hidden);
    e->device->ops->rms_norm(e->device, input, pass->x, forward_vector(f, &layer->pre_ffw_norm_2), h->rms_eps,
                             1.0f);
}

// From the pass's executor to another that computes experts. Through the host, which has it from then on.
static int bring_input(struct forward *f, const struct pass *pass, uint32_t executor,
                       struct lode_error *error)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    const struct executor *host = forward_host(f), *to = &f->executors[executor], *from = pass->at;
    uint32_t *has = &f->input_at;
    struct lode_rows rows = executor_rows(from, BUFFER_EXPERT_INPUT, pass->x.n, h->hidden);
    if (*has >> executor & 1)
        return 0;
    if (*has & 1) {
        from = host;
        rows = executor_rows(host, BUFFER_EXPERT_INPUT, pass->x.n, h->hidden);
    }
    *has |= 1u << executor | 1u;
    return executor_copy(&rows, to, BUFFER_EXPERT_INPUT, from, rows, host, &f->gpu_wait_ns, error);
}

// ---- shares of GPUs

int experts_start(struct forward *f, const struct pass *pass, uint32_t l, struct lode_error *error)
{
    const struct gemma_layer *layer = &f->weights->model->layers[l];
    struct expert_batch *batch = &f->experts;
    struct residency *residency = f->weights->residency;
    if (f->n_executors == 1 || experts_may_route(f, pass, l))
        return 0;
    f->input_at = 1u << pass->at->index;
    f->shares = 0;
    make_input(f, pass, layer);
    // The host's share is told by what GPUs do not have; its input comes before they are set to work, or it
    // would wait for that.
    uint32_t n_left = batch->n_units, taken[HOME_GPUS], n_taken = 0;
    for (uint32_t g = 0; g + 1 < f->n_executors; g++) {
        taken[g] = residency_take_gpu(residency, g, batch->at_hand + n_taken, batch->n_units - n_taken);
        n_taken += taken[g];
    }
    n_left -= n_taken;
    int rc = n_left ? bring_input(f, pass, 0, error) : 0;
    for (uint32_t g = 0, at = 0; g + 1 < f->n_executors && !rc; at += taken[g++]) {
        if (!taken[g])
            continue;
        rc = bring_input(f, pass, g + 1, error);
        if (rc)
            return rc;
        compute(f, &f->executors[g + 1], layer, PLACE_GPU, batch->at_hand + at, taken[g], pass->x.n);
        f->shares |= 2u << g;
    }
    f->left_to_host = n_left;
    return rc;
}

// Of experts in the memory of the host, those that the GPU of the layer (or the first one) computes sooner
// are copied there and computed; the others come to the front of `units`.
static int upload_some(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                       uint32_t *units, uint32_t *n, struct lode_error *error)
{
    struct expert_batch *batch = &f->experts;
    struct residency *residency = f->weights->residency;
    const uint32_t all = *n, g = pass->at->index ? pass->at->index - 1 : 0;
    if (f->n_executors == 1 || pass->x.n == 1)
        return 0;
    for (uint32_t i = 0; i < all; i++) {
        const uint32_t id = units[i] - layer->first_expert_unit;
        batch->n_tokens[i] = batch->begin[id + 1] - batch->begin[id]; // the choice has been told
    }
    int rc = residency_upload(residency, g, units, batch->n_tokens, all, n, error);
    if (rc || *n == all)
        return rc;
    rc = bring_input(f, pass, g + 1, error);
    if (!rc) {
        compute(f, &f->executors[g + 1], layer, PLACE_UPLOADED, units + *n, all - *n, pass->x.n);
        f->shares |= 2u << g;
    }
    residency_upload_end(residency, g);
    return rc;
}

static int run_host_share(struct forward *f, const struct pass *pass, const struct gemma_layer *layer,
                          struct lode_error *error)
{
    struct expert_batch *batch = &f->experts;
    struct residency *residency = f->weights->residency;
    const bool shared = f->n_executors > 1 && pass->x.n > 1;
    const uint32_t most = shared ? TAKEN_BESIDE_UPLOADS : f->weights->model->hparams.n_experts;
    const uint32_t all = f->n_executors == 1 ? batch->n_units : f->left_to_host;
    for (uint32_t done = 0, n; done < all; done += n) {
        int rc = residency_take(residency, batch->at_hand, &n, most, true, error);
        uint32_t own = n;
        if (!rc)
            rc = upload_some(f, pass, layer, batch->at_hand, &own, error);
        if (rc)
            return rc;
        if (own) {
            compute(f, forward_host(f), layer, PLACE_HOST, batch->at_hand, own, pass->x.n);
            f->shares |= 1;
        }
        residency_release(residency, batch->at_hand, n);
    }
    return 0;
}

// ---- the sum

// What the choices that this executor computed add up to, into its own buffer.
static int sum_share(struct forward *f, const struct executor *e, uint32_t n_rows, struct lode_error *error)
{
    const struct gemma_hparams *h = &f->weights->model->hparams;
    const struct expert_batch *batch = &f->experts;
    const uint32_t k = h->n_experts_used;
    const size_t n_choices = (size_t)n_rows * k;
    for (size_t i = 0; i < n_choices; i++)
        batch->share[i] = batch->executor[batch->chosen[i]] == e->index ? batch->weights[i] : 0;
    int rc = e->device->ops->upload(e->device, e->buffers[BUFFER_SHARE_WEIGHT], batch->share,
                                    n_choices * sizeof *batch->share, error);
    if (!rc)
        e->device->ops->experts_combine(e->device, executor_rows(e, BUFFER_EXPERT_SUM, n_rows, h->hidden),
                                        executor_rows(e, BUFFER_EXPERT_SLOTS, n_rows * k, h->hidden),
                                        e->buffers[BUFFER_SHARE_WEIGHT], k);
    return rc;
}

// Adds the sums of the others to that of the pass's executor, or begins with the first of theirs.
static int gather(struct forward *f, const struct pass *pass, struct lode_rows sum, struct lode_error *error)
{
    const struct executor *e = pass->at;
    const uint32_t hidden = f->weights->model->hparams.hidden;
    bool begun = f->shares >> e->index & 1;
    int rc = 0;
    for (uint32_t i = 0; i < f->n_executors && !rc; i++) {
        const struct executor *other = &f->executors[i];
        if (other == e || !(f->shares >> i & 1))
            continue;
        const enum buffer to = begun ? BUFFER_OTHERS_SUM : BUFFER_EXPERT_SUM;
        struct lode_rows rows = executor_rows(other, BUFFER_EXPERT_SUM, pass->x.n, hidden);
        rc = executor_copy(&rows, e, to, other, rows, forward_host(f), &f->gpu_wait_ns, error);
        if (!rc && begun)
            e->device->ops->add(e->device, sum, sum, rows, 1.0f);
        begun = true;
    }
    return rc;
}

// sum = sum over the chosen e of weight_e * down_e (gelu(gate_e n) * (up_e n))
int experts_run(struct forward *f, const struct pass *pass, uint32_t l, struct lode_rows sum,
                struct lode_error *error)
{
    const struct gemma_layer *layer = &f->weights->model->layers[l];
    const struct gemma_hparams *h = &f->weights->model->hparams;
    const struct executor *e = pass->at;
    const uint32_t k = h->n_experts_used;
    if (experts_may_route(f, pass, l))
        return experts_run_routed(f, pass, l, sum);
    if (f->n_executors == 1)
        make_input(f, pass, layer);
    int rc = run_host_share(f, pass, layer, error);
    if (rc)
        return rc;
    if (f->n_executors == 1 || f->shares == 1u << e->index) {
        e->device->ops->experts_combine(e->device, sum,
                                        executor_rows(e, BUFFER_EXPERT_SLOTS, pass->x.n * k, h->hidden),
                                        e->buffers[BUFFER_CHOSEN_WEIGHT], k);
        return 0;
    }
    // GPUs first: they work while the host adds up its own.
    for (uint32_t i = f->n_executors; i-- > 0 && !rc;)
        if (f->shares >> i & 1)
            rc = sum_share(f, &f->executors[i], pass->x.n, error);
    return rc ? rc : gather(f, pass, sum, error);
}
