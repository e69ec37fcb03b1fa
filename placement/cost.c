// Predictions with their ranges, and opening a model; the formulas stand in cost.h.
#include "placement/cost_internal.h"

#include <math.h>

// How far the model itself is off, as a share of a part's time, beside the spread of the curves. The second
// set is for profiles that nobody measured.
struct model_error {
    double kernels, attention, operations, stall;
};
static const struct model_error measured_error = {0.06, 0.15, 0.30, 0.15};
static const struct model_error estimated_error = {0.25, 0.35, 0.50, 0.30};

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
        .drive_s = p->drive_s - start->drive_s,
        .drive_bytes = p->drive_bytes - start->drive_bytes,
        .hit_rate = p->hit_rate,
        .slow_s = p->spread_s - start->spread_s, // for the moment
    };
}

static int predict(struct cost *out, const struct cost_model *model, const struct question *question,
                   double hit_rate, struct lode_error *error)
{
    const double(*shares)[PROFILE_LANES] = model->profile->interference;
    double cpu_factor = 1, drive_factor = 1;
    for (int round = 0; round < INTERFERENCE_ROUNDS; round++) {
        struct pipeline p, start;
        int rc = pipeline_open(&p, model, hit_rate, cpu_factor, drive_factor, error);
        if (!rc) {
            run_question(&p, question, &start);
            take(out, &p, &start);
        }
        pipeline_close(&p);
        if (rc)
            return rc;
        if (!(out->seconds > 0) || out->drive_s <= 0)
            break;
        cpu_factor = slowdown(shares[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE], out->drive_s / out->seconds);
        drive_factor =
            slowdown(shares[PROFILE_LANE_DRIVE][PROFILE_LANE_CPU], 1 - out->stall_s / out->seconds);
    }
    return 0;
}

static double square(double x)
{
    return x * x;
}

static int answer(struct cost *out, const struct cost_model *model, const struct question *question,
                  struct lode_error *error)
{
    struct cost low, high;
    int rc = predict(out, model, question, model->hit_rate, error);
    if (rc)
        return rc;
    low = high = *out;
    if (model->hit_low < model->hit_high && ((rc = predict(&low, model, question, model->hit_low, error)) ||
                                             (rc = predict(&high, model, question, model->hit_high, error))))
        return rc;
    const struct model_error *e =
        model->profile->origin == PROFILE_MEASURED ? &measured_error : &estimated_error;
    const bool guessed = question->batch > 1 && model->measured_rows < COST_ENOUGH_ROWS;
    const double kernels_error = guessed ? fmax(e->kernels, EXTRAPOLATION_ERROR) : e->kernels;
    const double drive_spread =
        model->drive ? profile_curve_spread_at(&model->drive->direct_gbps, IO_QUEUE_DEPTH) / 2 : 0;
    const double own = square(out->slow_s) + square(out->kernels_s * kernels_error) +
                       square(out->attention_s * e->attention) + square(out->operations_s * e->operations) +
                       square(out->stall_s * (e->stall + drive_spread));
    out->slow_s = out->seconds + sqrt(own + square(fmax(0, low.seconds - out->seconds)));
    // As a rate it lies as far above as the other below: a time has no room for that.
    const double faster_s = sqrt(own + square(fmax(0, out->seconds - high.seconds)));
    out->fast_s = out->seconds * out->seconds / (out->seconds + faster_s);
    return 0;
}

int cost_decode(struct cost *out, const struct cost_model *model, uint32_t context, struct lode_error *error)
{
    const struct question question = {
        .context = context, .n_tokens = 1, .batch = 1, .warm = PASSES - 1, .repeats = PASSES};
    return answer(out, model, &question, error);
}

int cost_prefill(struct cost *out, const struct cost_model *model, uint32_t context, uint32_t n_tokens,
                 struct lode_error *error)
{
    const struct question question = {
        .context = context, .n_tokens = n_tokens, .batch = model->options.batch, .repeats = 1};
    return answer(out, model, &question, error);
}

// ---- opening
// -------------------------------------------------------------------------------------------------

static bool has_kernels(const struct profile_device *device, uint32_t type)
{
    const struct profile_kernels *kernels = &device->kernels[type];
    return lode_type_find(type) && kernels->known &&
           (kernels->dense_gbps.n_points || kernels->expert_gbps.n_points);
}

// The type itself, or the known one that is nearest in bytes a weight; LODE_TYPE_END when there is none.
static uint32_t nearest_type(const struct profile_device *device, uint32_t type)
{
    uint32_t best = LODE_TYPE_END;
    double best_distance = INFINITY;
    for (uint32_t t = 0; t < LODE_TYPE_END; t++) {
        if (!has_kernels(device, t))
            continue;
        const double distance =
            t == type ? -1 : fabs(log(cost_bytes_a_weight(t) / cost_bytes_a_weight(type)));
        if (distance < best_distance) {
            best_distance = distance;
            best = t;
        }
    }
    return best;
}

static bool reads(const struct homes *homes)
{
    return homes->streamed_bytes || homes->pool_bytes || homes->rows_bytes;
}

// The fastest: the one that a model should lie on.
static const struct profile_drive *choose_drive(const struct machine_profile *profile)
{
    const struct profile_drive *best = NULL;
    double best_gbps = 0;
    for (uint32_t i = 0; i < profile->n_drives; i++) {
        const struct profile_drive *drive = &profile->drives[i];
        const struct profile_curve *curve =
            drive->direct_gbps.n_points ? &drive->direct_gbps : &drive->buffered_gbps;
        const double gbps = profile_curve_at(curve, IO_QUEUE_DEPTH);
        if (gbps > best_gbps) {
            best = drive;
            best_gbps = gbps;
        }
    }
    return best;
}

static double rows_measured(const struct profile_device *device, uint32_t type)
{
    if (type == LODE_TYPE_END)
        return 0;
    const struct profile_curve *dense = &device->kernels[type].dense_gbps;
    const struct profile_curve *expert = &device->kernels[type].expert_gbps;
    return fmax(dense->n_points ? dense->points[dense->n_points - 1].x : 0,
                expert->n_points ? expert->points[expert->n_points - 1].x : 0);
}

static void find_types(struct cost_model *model)
{
    model->measured_rows = INFINITY;
    const struct profile_device *cpu = &model->profile->cpu;
    for (uint32_t t = 0; t < LODE_TYPE_END; t++)
        model->nearest[t] = lode_type_find(t) ? (uint8_t)nearest_type(cpu, t) : LODE_TYPE_END;
    for (uint32_t i = 0; i < model->workload->table->n_parts; i++) {
        const struct work_matrix *matrix = &model->workload->matrices[i];
        if (matrix->rows > 1)
            model->measured_rows =
                fmin(model->measured_rows, rows_measured(cpu, model->nearest[matrix->type]));
        if (matrix->rows > 1 && model->nearest[matrix->type] != matrix->type)
            model->assumed |= 1ull << matrix->type;
    }
    model->attention_assumed =
        !cpu->attention_decode_gbps.n_points || !cpu->attention_prefill_gflops.n_points;
}

int cost_open(struct cost_model *out, const struct workload *workload, const struct homes *homes,
              const struct machine_profile *profile, const struct cost_options *options,
              struct lode_error *error)
{
    const struct profile_device *cpu = &profile->cpu;
    *out = (struct cost_model){.workload = workload, .homes = homes, .profile = profile, .options = *options};
    out->options.batch = options->batch ? options->batch : 1;
    out->threads = options->threads ? options->threads : cpu->threads ? cpu->threads : cpu->cores;
    out->threads = out->threads ? out->threads : 1;
    find_types(out);
    if (out->nearest[LODE_F32] == LODE_TYPE_END)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s knows no kernel of its CPU (cpu.kernels)", profile->name);
    if (!(profile_curve_at(&cpu->read_gbps, out->threads) > 0) && out->attention_assumed)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s knows neither how fast its memory is read (cpu.read_gbps) nor "
                         "attention (cpu.attention_decode_gbps, cpu.attention_prefill_gflops)",
                         profile->name);
    out->drive = choose_drive(profile);
    if (!out->drive && reads(homes))
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "not all weights stay in memory, but the profile of %s has no drive (drives)",
                         profile->name);
    return cost_find_hits(out, error);
}
