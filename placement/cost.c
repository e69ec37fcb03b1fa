// Predictions with their ranges, and opening a model; the formulas stand in cost.h.
#include "placement/cost_internal.h"

#include <math.h>

// How far the model itself is off, as a share of a part's time, beside the spread of the curves: what 30
// predictions of bench/predict were off, 26B and E2B on two cores of a virtual machine, of which two in
// three lie within. The second set is for profiles that nobody measured.
struct model_error {
    double kernels, attention, operations, stall;
};
static const struct model_error measured_error = {0.15, 0.15, 0.50, 0.35};
static const struct model_error estimated_error = {0.25, 0.35, 0.50, 0.30};

// No GPU has been compared with this model yet, whoever measured its profile.
#define GPU_ERROR 0.35
#define LINK_ERROR 0.30

#define EXTRAPOLATION_ERROR 0.5 // of kernels beyond the rows that were measured
#define PASSES 3                // of decode: the last is the usual one
#define INTERFERENCE_ROUNDS 3

// ---- whole predictions
// -----------------------------------------------------------------------------------------

struct question {
    uint32_t context, n_tokens, batch;
    uint32_t warm; // passes before that are not counted
    uint32_t repeats;
};

static void run_question(struct pipeline *p, const struct question *question, struct pipeline *out_start)
{
    *out_start = *p;
    for (uint32_t r = 0; r < question->repeats; r++) {
        if (r == question->warm)
            *out_start = *p;
        for (uint32_t done = 0; done < question->n_tokens;) {
            const uint32_t left = question->n_tokens - done;
            const uint32_t n = left < question->batch ? left : question->batch;
            const struct pass pass = {.rows = n, .wanted = n == left, .context = question->context + done};
            pipeline_run(p, &pass);
            done += n;
        }
    }
}

// The longer both lanes are busy together, the slower each is.
static double slowdown(double rate, double busy)
{
    return 1 / (1 - fmin(1, fmax(0, busy)) * (1 - fmin(1, fmax(rate, 0.05))));
}

static void take(struct cost *out, const struct pipeline *p, const struct pipeline *start)
{
    *out = (struct cost){
        .seconds = p->now - start->now,
        .kernels_s = p->kernels_s - start->kernels_s,
        .attention_s = p->attention_s - start->attention_s,
        .operations_s = p->operations_s - start->operations_s,
        .stall_s = p->stall_s - start->stall_s,
        .gpu_s = p->gpu_s - start->gpu_s,
        .link_s = p->link_s - start->link_s,
        .drive_s = p->busy_s[PROFILE_LANE_DRIVE] - start->busy_s[PROFILE_LANE_DRIVE],
        .drive_bytes = p->drive_bytes - start->drive_bytes,
        .hit_rate = p->chance.hit_rate,
        .gpu_share = 1 - p->chance.off_gpu,
        .slow_s = p->spread_s - start->spread_s, // for the moment
    };
}

// How the drive slows the other lanes and they slow it. True where that is not what it was taken for.
static bool interfere(double factor[PROFILE_LANES], const struct machine_profile *profile,
                      const struct pipeline *p, const struct pipeline *start)
{
    const double(*rates)[PROFILE_LANES] = profile->interference;
    const double seconds = p->now - start->now;
    double next[PROFILE_LANES] = {1, 1, 1, 1};
    bool changed = false;
    for (int lane = 0; lane < PROFILE_LANES; lane++) {
        const double busy = (p->busy_s[lane] - start->busy_s[lane]) / seconds;
        for (int other = 0; other < PROFILE_LANES; other++)
            if (other != lane && (lane == PROFILE_LANE_DRIVE || other == PROFILE_LANE_DRIVE))
                next[other] *= slowdown(rates[other][lane], busy);
    }
    for (int lane = 0; lane < PROFILE_LANES; lane++) {
        changed = changed || next[lane] != factor[lane];
        factor[lane] = next[lane];
    }
    return changed;
}

static int predict(struct cost *out, struct works *works, const struct question *question,
                   struct chance chance, struct lode_error *error)
{
    double factor[PROFILE_LANES] = {1, 1, 1, 1};
    bool changed = true;
    for (int round = 0; round < INTERFERENCE_ROUNDS && changed; round++) {
        struct pipeline p, start;
        int rc = pipeline_open(&p, works, chance, factor, error);
        if (!rc) {
            run_question(&p, question, &start);
            take(out, &p, &start);
            changed = out->seconds > 0 && out->drive_s > 0 &&
                      interfere(factor, works->of[0].model->profile, &p, &start);
        }
        pipeline_close(&p);
        if (rc)
            return rc;
    }
    return 0;
}

static double square(double x)
{
    return x * x;
}

// Takes the ranges from the cost at worse and at better chances; out->slow_s holds the spread.
static void set_range(struct cost *out, const struct cost *low, const struct cost *high,
                      const struct cost_model *model, bool prefill)
{
    const struct model_error *e =
        model->profile->origin == PROFILE_MEASURED ? &measured_error : &estimated_error;
    const bool guessed = prefill && model->measured_rows < COST_ENOUGH_ROWS;
    const double kernels_error = guessed ? fmax(e->kernels, EXTRAPOLATION_ERROR) : e->kernels;
    const double drive_spread =
        model->drive ? profile_curve_spread_at(&model->drive->direct_gbps, IO_QUEUE_DEPTH) / 2 : 0;
    const double own = square(out->slow_s) + square(out->kernels_s * kernels_error) +
                       square(out->attention_s * e->attention) + square(out->operations_s * e->operations) +
                       square(out->stall_s * (e->stall + drive_spread)) + square(out->gpu_s * GPU_ERROR) +
                       square(out->link_s * LINK_ERROR);
    out->slow_s = out->seconds + sqrt(own + square(fmax(0, low->seconds - out->seconds)));
    // As a rate it lies as far above as the other below: a time has no room for that.
    const double faster_s = sqrt(own + square(fmax(0, out->seconds - high->seconds)));
    out->fast_s = out->seconds * out->seconds / (out->seconds + faster_s);
}

static int answer(struct cost *out, const struct cost_model *model, const struct question *question,
                  bool mean, struct lode_error *error)
{
    struct works works;
    struct cost low, high;
    int rc = works_open(&works, model, error);
    if (!rc)
        rc = predict(out, &works, question, (struct chance){model->hit_rate, model->off_gpu}, error);
    if (!rc && mean)
        out->fast_s = out->slow_s = out->seconds;
    if (!rc && !mean) {
        low = high = *out;
        if (model->hit_low < model->hit_high || model->off_low > model->off_high) {
            rc = predict(&low, &works, question, (struct chance){model->hit_low, model->off_low}, error);
            if (!rc)
                rc = predict(&high, &works, question, (struct chance){model->hit_high, model->off_high},
                             error);
        }
        if (!rc)
            set_range(out, &low, &high, model, question->batch > 1);
    }
    works_close(&works);
    return rc;
}

static int decode(struct cost *out, const struct cost_model *model, uint32_t context, bool mean,
                  struct lode_error *error)
{
    // Without reads each pass is like the first.
    const bool reads = model->homes->streamed_bytes || model->homes->pool_bytes || model->homes->rows_bytes;
    const uint32_t passes = reads ? PASSES : 1;
    const struct question question = {
        .context = context, .n_tokens = 1, .batch = 1, .warm = passes - 1, .repeats = passes};
    return answer(out, model, &question, mean, error);
}

int cost_decode(struct cost *out, const struct cost_model *model, uint32_t context, struct lode_error *error)
{
    return decode(out, model, context, false, error);
}

int cost_decode_mean(struct cost *out, const struct cost_model *model, uint32_t context,
                     struct lode_error *error)
{
    return decode(out, model, context, true, error);
}

static int prefill(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                   bool mean, struct lode_error *error)
{
    const struct question question = {
        .context = context, .n_tokens = n_tokens, .batch = model->options.batch, .repeats = 1};
    return answer(out, model, &question, mean, error);
}

int cost_prefill(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                 struct lode_error *error)
{
    return prefill(out, model, context, n_tokens, false, error);
}

int cost_prefill_mean(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                      struct lode_error *error)
{
    return prefill(out, model, context, n_tokens, true, error);
}
