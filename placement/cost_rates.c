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

// How much faster `threads` are than those of the measurement; of a GPU there are none. What reads as fast as
// memory goes by the memory's curve, what computes by the cores, and what lies between by both.
static double thread_factor(const struct cost_model *model, uint32_t device, double gbps)
{
    const struct profile_device *cpu = &model->profile->cpu;
    if (device != COST_CPU)
        return 1;
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

static double memory_gbps(const struct cost_model *model, uint32_t device)
{
    return profile_curve_at(&cost_device(model, device)->read_gbps, device == COST_CPU ? model->threads : 1);
}

struct product cost_multiply(const struct cost_model *model, uint32_t device,
                             const struct work_matrix *matrix, double rows, bool expert)
{
    struct product product = {0};
    if (rows <= 0 || matrix->rows < 2)
        return product;
    const uint32_t type = model->nearest_on[device][matrix->type];
    const struct profile_kernels *kernels = &cost_device(model, device)->kernels[type];
    const struct profile_curve *curve = expert ? &kernels->expert_gbps : &kernels->dense_gbps;
    const struct profile_curve *other = expert ? &kernels->dense_gbps : &kernels->expert_gbps;
    if (!curve->n_points)
        curve = other;
    const uint32_t library_rows = expert || device == COST_CPU ? 0 : profile_library_rows(kernels);
    if (library_rows && rows >= library_rows)
        curve = &kernels->library_gbps;
    const double a_gb = seconds_a_gb(curve, rows, other);
    const double gb = (double)matrix->bytes * 1e-9;
    product.seconds = gb * a_gb / thread_factor(model, device, 1 / a_gb);
    if (type != matrix->type) { // as many weights a second, but none faster than memory
        product.seconds *= cost_bytes_a_weight(type) / cost_bytes_a_weight(matrix->type);
        const double gbps = memory_gbps(model, device);
        if (gbps > 0)
            product.seconds = fmax(product.seconds, gb / gbps);
    }
    product.spread_s = product.seconds * profile_curve_spread_at(curve, rows) / 2;
    return product;
}

struct product cost_operate(const struct cost_model *model, uint32_t device, double calls, double rows)
{
    const struct profile_device *d = cost_device(model, device);
    double call_s = d->operation_us * 1e-6;
    if (rows <= 0)
        return (struct product){0};
    if (device == COST_CPU) // one row is the calling thread's alone
        call_s *= fmax(1, rows / model->threads);
    else if (memory_gbps(model, device) > 0) // one launch for all rows, which are read and written
        call_s = fmax(call_s, 2 * rows * model->workload->hidden * 4e-9 / memory_gbps(model, device));
    return (struct product){.seconds = calls * call_s};
}

// ---- copies and reads
// -------------------------------------------------------------------------------------------

static double copy_seconds(const struct profile_curve *curve, double bytes)
{
    return bytes * 1e-9 / profile_curve_at(curve, bytes);
}

double cost_copy(const struct cost_model *model, uint32_t from, uint32_t to, double bytes)
{
    const struct profile_device *source = cost_device(model, from), *target = cost_device(model, to);
    double seconds = 0;
    if (from == to || bytes <= 0)
        return 0;
    if (from != COST_CPU && !source->shares_memory)
        seconds += copy_seconds(&source->download_pinned_gbps, bytes);
    if (to != COST_CPU && !target->shares_memory)
        seconds += copy_seconds(&target->upload_pinned_gbps, bytes);
    return seconds;
}

double cost_sync(const struct cost_model *model, uint32_t from, uint32_t to)
{
    double us = 0;
    if (from != to)
        us = (from != COST_CPU ? cost_device(model, from)->sync_us : 0) +
             (to != COST_CPU ? cost_device(model, to)->sync_us : 0);
    return us * 1e-6;
}

void cost_find_drive_rates(struct cost_model *model)
{
    const struct profile_drive *drive = model->drive;
    for (uint32_t depth = 1; drive && depth <= IO_QUEUE_DEPTH; depth++)
        model->drive_gbps[depth] = profile_drive_gbps(drive, depth) / model->learned[PROFILE_PART_DRIVE];
}

double cost_drive_gbps(const struct cost_model *model, double read_bytes)
{
    const double pieces = ceil(read_bytes / (double)IO_PIECE_BYTES);
    return model->drive_gbps[(uint32_t)fmin(fmax(pieces, 1), IO_QUEUE_DEPTH)];
}

// ---- attention
// -----------------------------------------------------------------------------------------------

// Time beside that of an F16 cache. On the CPU Q8_0 is read as floats and took three quarters
// (docs/learned.md); F32 is between as many products and twice the bytes. A GPU is bound by the bytes in
// decode and by the products in prefill.
static double kv_factor(uint32_t device, enum lode_kv_format format, uint32_t head_size, bool prefill)
{
    if (device == COST_CPU)
        return format == LODE_CACHE_Q8_0 ? 0.75 : format == LODE_CACHE_F32 ? 1.5 : 1;
    if (prefill || !head_size)
        return 1;
    return (double)lode_kv_row_bytes(format, head_size) /
           (double)lode_kv_row_bytes(LODE_CACHE_F16, head_size);
}

// A byte of K and V takes time to read and time for each query head that shares it: one Zen 3 core computes
// 8 GB/s with eight of them, as profiles have it, and 12.5 with two (docs/learned.md: 44 to 80 GFLOP/s in the
// global layers of 26B, 20 to 31 in the local ones). A GPU waits for the bytes alone.
static double sharing_factor(uint32_t device, const struct work_layer *layer)
{
    const double heads = (double)layer->q_heads / layer->kv_heads;
    return device == COST_CPU ? (0.065 + 0.0075 * heads) / (0.065 + 0.0075 * 8) : 1;
}

// Positions that rows at first .. first + rows - 1 see, in all.
static double positions_seen(const struct work_layer *layer, double first, double rows)
{
    const double window = layer->window ? layer->window : INFINITY;
    const double growing = fmin(fmax(window - first, 0), rows); // rows whose window is not full
    const double grown = growing * first + growing * (growing + 1) / 2;
    return grown + (rows > growing ? (rows - growing) * window : 0);
}

struct product cost_attend(const struct cost_model *model, uint32_t device, const struct work_layer *layer,
                           double first, double rows)
{
    struct product product = {0};
    if (rows <= 0 || !layer->kv_heads)
        return product;
    const struct profile_device *d = cost_device(model, device);
    const double seen = positions_seen(layer, first, rows), mean = seen / rows;
    const struct profile_curve *curve = rows > 1 ? &d->attention_prefill_gflops : &d->attention_decode_gbps;
    double work, rate = profile_curve_at(curve, mean) * thread_factor(model, device, 0);
    if (rows > 1) {
        work = 4.0 * layer->q_heads * layer->head_size * seen * 1e-9;
        rate = rate > 0 ? rate : memory_gbps(model, device) * ATTENTION_FLOP_A_BYTE;
    } else {
        const double row_bytes = (double)lode_kv_row_bytes(LODE_CACHE_F16, layer->head_size);
        work = 2.0 * layer->kv_heads * row_bytes * seen * 1e-9 * sharing_factor(device, layer);
        rate = rate > 0 ? rate : memory_gbps(model, device) * ATTENTION_OF_MEMORY;
    }
    product.seconds = work / rate * kv_factor(device, model->options.kv, layer->head_size, rows > 1);
    product.spread_s = product.seconds * profile_curve_spread_at(curve, mean) / 2;
    return product;
}
