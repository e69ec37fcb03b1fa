// Rates of a machine: products, attention and reads by the curves of its profile; see cost.h.
#include "placement/cost_internal.h"

#include <math.h>

// Rates where a profile has no curve of attention, from the rate of memory: two cores of Zen 3 reading 30
// GB/s compute 20 GB/s of K and V and 120 GFLOP/s.
#define ATTENTION_OF_MEMORY 0.67
#define ATTENTION_FLOP_A_BYTE 4

// ---- rates
// ---------------------------------------------------------------------------------------------------

// Reading bounds a product of a few rows, computing one of many: two cores of Zen 3 read Q4_0 at 28 GB/s and
// compute with it at 112 GB/s divided by the rows.
#define COMPUTE_BOUND_ROWS 4

// How much longer a product of `to` rows takes than one of `from`, both beyond what was measured.
static double growth(double from, double to)
{
    return fmax(1, to / COMPUTE_BOUND_ROWS) / fmax(1, from / COMPUTE_BOUND_ROWS);
}

// Time of a GB at so many rows, in seconds. Beyond the last point it goes on as `like`, which may be NULL,
// does.
static double seconds_a_gb(const struct profile_curve *curve, double rows, const struct profile_curve *like)
{
    const struct profile_point *p = curve->points;
    const uint32_t n = curve->n_points;
    if (rows <= p[0].x)
        return 1 / p[0].y;
    for (uint32_t i = 1; i < n; i++)
        if (rows <= p[i].x) {
            const double share = (rows - p[i - 1].x) / (p[i].x - p[i - 1].x);
            return (1 - share) / p[i - 1].y + share / p[i].y;
        }
    const double last = p[n - 1].x;
    if (like && like->n_points && like->points[like->n_points - 1].x > last)
        return seconds_a_gb(like, rows, NULL) / seconds_a_gb(like, last, NULL) / p[n - 1].y;
    return growth(last, rows) / p[n - 1].y;
}

double cost_bytes_a_weight(uint32_t type)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    return (double)traits->block_bytes / traits->block_elems;
}

// How much faster `threads` are than those of the measurement. What reads as fast as memory goes by the
// memory's curve, what computes by the cores, and what lies between by both.
static double thread_factor(const struct cost_model *model, double gbps)
{
    const struct profile_device *cpu = &model->profile->cpu;
    const double measured = cpu->threads ? cpu->threads : cpu->cores ? cpu->cores : model->threads;
    if (model->threads == (uint32_t)measured)
        return 1;
    const double cores = cpu->cores ? fmax(cpu->cores, measured) : INFINITY;
    const double by_cores = fmin(model->threads, cores) / measured;
    const double then_gbps = profile_curve_at(&cpu->read_gbps, measured);
    const double now_gbps = profile_curve_at(&cpu->read_gbps, model->threads);
    if (!(then_gbps > 0) || !(now_gbps > 0))
        return by_cores;
    const double by_memory = fmin(1, gbps / then_gbps);
    return by_memory * now_gbps / then_gbps + (1 - by_memory) * by_cores;
}

struct product cost_multiply(const struct cost_model *model, const struct work_matrix *matrix, double rows,
                             bool expert)
{
    struct product product = {0};
    if (rows <= 0 || matrix->rows < 2)
        return product;
    const struct profile_device *cpu = &model->profile->cpu;
    const uint32_t type = model->nearest[matrix->type];
    const struct profile_kernels *kernels = &cpu->kernels[type];
    const struct profile_curve *curve = expert ? &kernels->expert_gbps : &kernels->dense_gbps;
    const struct profile_curve *other = expert ? &kernels->dense_gbps : &kernels->expert_gbps;
    if (!curve->n_points)
        curve = other;
    const double a_gb = seconds_a_gb(curve, rows, other);
    const double gb = (double)matrix->bytes * 1e-9;
    product.seconds = gb * a_gb / thread_factor(model, 1 / a_gb);
    if (type != matrix->type) { // as many weights a second, but none faster than memory
        product.seconds *= cost_bytes_a_weight(type) / cost_bytes_a_weight(matrix->type);
        const double memory_gbps = profile_curve_at(&cpu->read_gbps, model->threads);
        if (memory_gbps > 0)
            product.seconds = fmax(product.seconds, gb / memory_gbps);
    }
    product.spread_s = product.seconds * profile_curve_spread_at(curve, rows) / 2;
    return product;
}

double cost_drive_gbps(const struct cost_model *model, double read_bytes)
{
    const struct profile_drive *drive = model->drive;
    const struct profile_curve *curve =
        drive->direct_gbps.n_points ? &drive->direct_gbps : &drive->buffered_gbps;
    const double pieces = ceil(read_bytes / (double)IO_PIECE_BYTES);
    return profile_curve_at(curve, fmin(fmax(pieces, 1), IO_QUEUE_DEPTH));
}

// ---- attention
// -----------------------------------------------------------------------------------------------

// Time beside that of an F16 cache. Q8_0 is read as floats and took three quarters (docs/learned.md); F32 is
// between as many products and twice the bytes.
static double kv_factor(enum lode_kv_format format)
{
    return format == LODE_CACHE_Q8_0 ? 0.75 : format == LODE_CACHE_F32 ? 1.5 : 1;
}

// A byte of K and V takes time to read and time for each query head that shares it: one Zen 3 core computes
// 8 GB/s with eight of them, as profiles have it, and 12.5 with two (docs/learned.md: 44 to 80 GFLOP/s in the
// global layers of 26B, 20 to 31 in the local ones).
static double sharing_factor(const struct work_layer *layer)
{
    const double heads = (double)layer->q_heads / layer->kv_heads;
    return (0.065 + 0.0075 * heads) / (0.065 + 0.0075 * 8);
}

// Positions that rows at first .. first + rows - 1 see, in all.
static double positions_seen(const struct work_layer *layer, double first, double rows)
{
    const double window = layer->window ? layer->window : INFINITY;
    const double growing = fmin(fmax(window - first, 0), rows); // rows whose window is not full
    const double grown = growing * first + growing * (growing + 1) / 2;
    return grown + (rows > growing ? (rows - growing) * window : 0);
}

struct product cost_attend(const struct cost_model *model, const struct work_layer *layer, double first,
                           double rows)
{
    struct product product = {0};
    if (rows <= 0)
        return product;
    const struct profile_device *cpu = &model->profile->cpu;
    const double seen = positions_seen(layer, first, rows), mean = seen / rows;
    const double memory_gbps = profile_curve_at(&cpu->read_gbps, model->threads);
    const struct profile_curve *curve =
        rows > 1 ? &cpu->attention_prefill_gflops : &cpu->attention_decode_gbps;
    double work, rate = profile_curve_at(curve, mean) * thread_factor(model, 0);
    if (rows > 1) {
        work = 4.0 * layer->q_heads * layer->head_size * seen * 1e-9;
        rate = rate > 0 ? rate : memory_gbps * ATTENTION_FLOP_A_BYTE;
    } else {
        const double row_bytes = (double)lode_kv_row_bytes(LODE_CACHE_F16, layer->head_size);
        work = 2.0 * layer->kv_heads * row_bytes * seen * 1e-9 * sharing_factor(layer);
        rate = rate > 0 ? rate : memory_gbps * ATTENTION_OF_MEMORY;
    }
    product.seconds = work / rate * kv_factor(model->options.kv);
    product.spread_s = product.seconds * profile_curve_spread_at(curve, mean) / 2;
    return product;
}
