// Fills a synthetic model's tensors and hands them to the file, 16 MiB at a time.
//
// A tensor is drawn in stripes of 65,536 weights. Each has a generator of its own, so that any thread may
// draw any stripe and the file is the same for all numbers of threads.
#include "core/synth.h"
#include "core/synth_draw.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define STRIPE_WEIGHTS 65536u
#define CHUNK_BYTES (16u << 20)
#define MAX_EXPERTS 128
#define MAX_THREADS 256

// The shared direction as it goes through the layers: one element of it, and the mean square of all elements.
struct stream {
    double lane, energy;
};

struct filler {
    const struct synth_model *model;
    struct synth_quantiles quantiles;
    struct synth_draw draw;
    struct stream stream;
    float popularity[MAX_EXPERTS]; // what a router's rows have in the lanes
    int threads;
    uint8_t *chunk;
};

// ---- skew ---------------------------------------------------------------------------------------

static void start_stream(struct filler *filler)
{
    const double to_stream = sqrt((double)filler->model->shape.hidden);
    const double lane = filler->draw.lane * to_stream;
    filler->stream = (struct stream){lane, (SYNTH_LANE - 1 + lane * lane) / SYNTH_LANE};
}

static void leave_layer(struct filler *filler, float output_scale)
{
    const struct synth_shape *shape = &filler->model->shape;
    const double branch = synth_post_norm(shape);
    struct stream *stream = &filler->stream;
    stream->energy += synth_branches(shape) * branch * branch;
    stream->lane *= output_scale;
    stream->energy *= (double)output_scale * output_scale;
}

// The routers see the stream after the attention, normalised; their own scale is about 1 there.
static double lane_at_router(const struct filler *filler)
{
    const double branch = synth_post_norm(&filler->model->shape);
    return filler->stream.lane / sqrt(filler->stream.energy + branch * branch);
}

static void draw_ranks(uint32_t *ranks, uint32_t n, uint64_t seed, uint32_t layer)
{
    struct synth_random random = synth_random_of(seed, "ranks of experts", layer);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t other = (uint32_t)(synth_random_next(&random) % (i + 1));
        ranks[i] = ranks[other];
        ranks[other] = i + 1;
    }
}

static void set_popularity(struct filler *filler, const struct synth_tensor *router)
{
    const struct synth_model *model = filler->model;
    const uint32_t n = model->shape.n_experts, n_lanes = model->shape.hidden / SYNTH_LANE;
    const double per_lane = model->skew / (n_lanes * lane_at_router(filler));
    uint32_t ranks[MAX_EXPERTS];
    draw_ranks(ranks, n, model->seed, router->layer);
    double mean = 0;
    for (uint32_t rank = 1; rank <= n; rank++)
        mean += log(rank) / n;
    for (uint32_t e = 0; e < n; e++)
        filler->popularity[e] = (float)((mean - log(ranks[e])) * per_lane);
}

// In place of the random weights, which would give every expert a random popularity on top.
static void put_popularity(const struct filler *filler, float *weights, uint64_t first, size_t n)
{
    const uint64_t cols = filler->model->shape.hidden;
    for (size_t i = 0; i < n; i += SYNTH_LANE)
        weights[i] = filler->popularity[(first + i) / cols];
}

// ---- tensors ------------------------------------------------------------------------------------

// Quantised rows and stripes begin on lanes: all their lengths are multiples of 32.
static void fill_stripe(const struct filler *filler, const struct synth_tensor *tensor, uint64_t stripe,
                        uint8_t *out, size_t n)
{
    struct synth_random random = synth_random_of(filler->model->seed, tensor->name, stripe);
    synth_draw_fill(&filler->draw, out, n, &random);
    if (tensor->fill == SYNTH_FILL_ROUTER && filler->model->skew > 0)
        put_popularity(filler, (float *)out, stripe * STRIPE_WEIGHTS, n);
}

static void fill_rope(float *factors, size_t n)
{
    for (size_t i = 0; i < n; i++)
        factors[i] = i < n / 4 ? 1.0f : 1e30f; // dividing the angle by 1e30 leaves the pair as it is
}

static void prepare(struct filler *filler, const struct synth_tensor *tensor)
{
    const bool lanes = tensor->fill == SYNTH_FILL_EMBEDDING && filler->model->skew > 0;
    synth_draw_init(&filler->draw, &filler->quantiles, tensor->type, tensor->mean, tensor->deviation,
                    tensor->fill == SYNTH_FILL_SIGNED, lanes);
    if (tensor->fill == SYNTH_FILL_EMBEDDING)
        start_stream(filler);
    if (tensor->fill == SYNTH_FILL_ROUTER && filler->model->skew > 0)
        set_popularity(filler, tensor);
}

static uint64_t bytes_of(const struct synth_tensor *tensor, uint64_t n_weights)
{
    const struct lode_type_traits *traits = lode_type_find(tensor->type);
    return n_weights / traits->block_elems * traits->block_bytes;
}

// Draws stripes `first` to `first + count` of the tensor into the chunk; returns their bytes.
static size_t fill_chunk(struct filler *filler, const struct synth_tensor *tensor, uint64_t first,
                         uint64_t count, uint64_t n_weights)
{
    const size_t stripe_bytes = bytes_of(tensor, STRIPE_WEIGHTS);
    const uint64_t begin = first * STRIPE_WEIGHTS;
    const uint64_t n =
        count * STRIPE_WEIGHTS < n_weights - begin ? count * STRIPE_WEIGHTS : n_weights - begin;
    if (tensor->fill == SYNTH_FILL_ROPE)
        fill_rope((float *)filler->chunk, n);
    else {
#pragma omp parallel for num_threads(filler->threads) schedule(dynamic) if (count > 1)
        for (uint64_t i = 0; i < count; i++) {
            const uint64_t left = n - i * STRIPE_WEIGHTS;
            fill_stripe(filler, tensor, first + i, filler->chunk + i * stripe_bytes,
                        left < STRIPE_WEIGHTS ? left : STRIPE_WEIGHTS);
        }
    }
    if (tensor->fill == SYNTH_FILL_SCALE)
        leave_layer(filler, *(float *)filler->chunk);
    return bytes_of(tensor, n);
}

struct progress {
    lode_progress_fn report;
    void *user;
    uint64_t done, total;
};

static int write_tensor(struct gguf_write *file, struct filler *filler, const struct synth_tensor *tensor,
                        struct progress *progress, struct lode_error *error)
{
    const uint64_t n_weights = tensor->ne[0] * tensor->ne[1] * tensor->ne[2];
    const uint64_t n_stripes = (n_weights + STRIPE_WEIGHTS - 1) / STRIPE_WEIGHTS;
    const uint64_t chunk_stripes = CHUNK_BYTES / bytes_of(tensor, STRIPE_WEIGHTS);
    prepare(filler, tensor);
    for (uint64_t at = 0; at < n_stripes; at += chunk_stripes) {
        const uint64_t left = n_stripes - at;
        const size_t bytes =
            fill_chunk(filler, tensor, at, left < chunk_stripes ? left : chunk_stripes, n_weights);
        int rc = gguf_write_data(file, filler->chunk, bytes, error);
        if (rc)
            return rc;
        progress->done += bytes;
        if (progress->report &&
            !progress->report(progress->user, "writing weights", progress->done, progress->total))
            return lode_fail(error, LODE_ERR_CANCELLED, "cancelled");
    }
    return 0;
}

static int default_threads(uint32_t asked)
{
    const int threads = asked ? (int)(asked < MAX_THREADS ? asked : MAX_THREADS) : omp_get_num_procs();
    return threads < 1 ? 1 : threads;
}

int synth_write_weights(struct gguf_write *file, const struct synth_model *model,
                        lode_progress_fn on_progress, void *user, struct lode_error *error)
{
    struct filler *filler = calloc(1, sizeof *filler);
    if (!filler || !(filler->chunk = aligned_alloc(64, CHUNK_BYTES))) {
        free(filler);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to draw weights");
    }
    filler->model = model;
    filler->threads = default_threads(model->threads);
    synth_quantiles_init(&filler->quantiles);
    struct progress progress = {on_progress, user, 0, 0};
    for (size_t t = 0; t < model->n_tensors; t++)
        progress.total += bytes_of(&model->tensors[t], model->tensors[t].ne[0] * model->tensors[t].ne[1] *
                                                           model->tensors[t].ne[2]);
    int rc = 0;
    for (size_t t = 0; t < model->n_tensors && !rc; t++)
        rc = write_tensor(file, filler, &model->tensors[t], &progress, error);
    free(filler->chunk);
    free(filler);
    return rc;
}
