// Times of single operations; see sim_times.h.
#include "placement/sim_times.h"

#include "placement/cost_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Products of a pass that differ: of decode two dozen; of prefill one for each number of rows that an expert
// meets. What does not fit is computed again.
#define PRODUCTS 1024
#define ATTENTIONS 8 // a model has two kinds of layers

#define LEAST_RATE 0.05 // as the cost model has it

#define UNKNOWN_DRIVE_GBPS 1

struct product_key {
    uint32_t rows, cols, n_rows;
    uint32_t kind; // type, expert, prefill
};

struct attention_key {
    uint32_t first_position, n_rows, window, n_heads, kv_heads, head_size;
};

struct sim_times {
    const struct workload *workload;
    struct homes homes;
    struct cost_model cost;
    double operation_s; // one of one row
    double slow;        // a time beside reads over one without
    struct io_sim *drive;
    bool prefill;
    uint32_t rows; // of the pass at this point: those of the last product
    struct {
        struct product_key key; // n_rows 0: none
        double seconds;
    } products[PRODUCTS];
    struct {
        struct attention_key key;
        double seconds;
    } attentions[ATTENTIONS];
};

int sim_times_open(struct sim_times **out, const struct workload *workload,
                   const struct machine_profile *profile, const struct sim_times_options *options,
                   struct lode_error *error)
{
    struct sim_times *times = *out = calloc(1, sizeof *times);
    if (!times)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the times of operations");
    times->workload = workload;
    const uint64_t full_bytes = homes_full_bytes(workload->table, true);
    const struct homes_request request = {.budget_bytes =
                                              options->budget_bytes ? options->budget_bytes : full_bytes,
                                          .host_memory = true,
                                          .ring_bytes = options->ring_bytes};
    const struct cost_options cost = {.threads = options->threads, .kv = options->kv};
    int rc = homes_divide(&times->homes, workload->table, &request, error);
    if (!rc)
        rc = cost_open(&times->cost, workload, &times->homes, profile, &cost, error);
    if (rc) {
        sim_times_close(times);
        *out = NULL;
        return rc;
    }
    times->operation_s =
        cost_operate(&times->cost, COST_CPU, 1, 1).seconds * times->cost.learned[PROFILE_PART_OPERATIONS];
    const double rate = profile->interference[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE];
    times->slow = 1 / fmin(1, fmax(rate, LEAST_RATE));
    return 0;
}

void sim_times_close(struct sim_times *times)
{
    if (!times)
        return;
    cost_close(&times->cost);
    homes_free(&times->homes);
    free(times);
}

const struct homes *sim_times_homes(const struct sim_times *times)
{
    return &times->homes;
}

// ---- the drive
// -----------------------------------------------------------------------------------------------

bool sim_times_drive(struct io_sim_drive *out, const struct sim_times *times)
{
    const struct profile_drive *drive = times->cost.drive;
    const double learned = times->cost.learned[PROFILE_PART_DRIVE];
    *out = (struct io_sim_drive){
        .n_points = 1, .points = {{1, UNKNOWN_DRIVE_GBPS}}, .align_bytes = (uint32_t)IO_ALIGN_BYTES};
    if (!drive)
        return false;
    const struct profile_curve *curve =
        drive->direct_gbps.n_points ? &drive->direct_gbps : &drive->buffered_gbps;
    out->n_points = 0;
    for (uint32_t i = 0; i < curve->n_points && i < IO_SIM_POINTS; i++) {
        const double reads = curve->points[i].x;
        out->points[out->n_points++] =
            (struct io_sim_point){reads, profile_drive_gbps(drive, reads) / learned};
    }
    out->latency_ns = (uint64_t)llround(fmax(0, drive->latency_us) * learned * 1e3);
    return true;
}

double sim_times_drive_share(const struct sim_times *times)
{
    const double rate = times->cost.profile->interference[PROFILE_LANE_DRIVE][PROFILE_LANE_CPU];
    return fmin(1, fmax(rate, LEAST_RATE));
}

void sim_times_beside(struct sim_times *times, struct io_sim *drive)
{
    times->drive = drive;
}

// ---- operations
// ----------------------------------------------------------------------------------------------

void sim_times_pass(struct sim_times *times, uint32_t n_tokens)
{
    times->prefill = n_tokens > 1;
    times->rows = n_tokens;
}

static double product_seconds(struct sim_times *times, const struct sim_work *work, bool expert)
{
    const struct lode_matrix *m = work->matrix;
    const struct product_key key = {m->rows, m->cols, work->n_rows,
                                    (uint32_t)m->type << 2 | (uint32_t)expert << 1 |
                                        (uint32_t)times->prefill};
    const uint32_t hash =
        (key.rows * 0x9e3779b1u ^ key.cols * 0x85ebca6bu ^ key.n_rows * 0xc2b2ae35u ^ key.kind * 0x27d4eb2fu);
    const uint32_t at = (hash ^ hash >> 15) % PRODUCTS;
    if (memcmp(&times->products[at].key, &key, sizeof key) == 0)
        return times->products[at].seconds;
    const struct work_matrix matrix = {
        .type = m->type, .rows = m->rows, .cols = m->cols, .bytes = work->bytes};
    const enum profile_part part =
        times->prefill ? PROFILE_PART_KERNELS_PREFILL : PROFILE_PART_KERNELS_DECODE;
    const double seconds = cost_multiply(&times->cost, COST_CPU, &matrix, work->n_rows, expert).seconds *
                           times->cost.learned[part];
    times->products[at].key = key;
    times->products[at].seconds = seconds;
    return seconds;
}

static double attention_seconds(struct sim_times *times, const struct sim_work *work)
{
    const struct attention_key key = {work->first_position, work->n_rows,      work->window,
                                      work->n_heads,        work->kv->n_heads, work->kv->head_size};
    const uint32_t at = (key.window % 7 + key.head_size / 64 + key.kv_heads) % ATTENTIONS;
    if (memcmp(&times->attentions[at].key, &key, sizeof key) == 0)
        return times->attentions[at].seconds;
    const struct work_layer layer = {.q_heads = work->n_heads,
                                     .kv_heads = work->kv->n_heads,
                                     .head_size = work->kv->head_size,
                                     .window = work->window};
    const enum profile_part part =
        times->prefill ? PROFILE_PART_ATTENTION_PREFILL : PROFILE_PART_ATTENTION_DECODE;
    const double seconds =
        cost_attend(&times->cost, COST_CPU, &layer, work->first_position, work->n_rows).seconds *
        times->cost.learned[part];
    times->attentions[at].key = key;
    times->attentions[at].seconds = seconds;
    return seconds;
}

// A row of heads, or of ranks, is part of a row of the pass.
static double operation_seconds(const struct sim_times *times, uint32_t calls)
{
    const double rows = fmax(1, (double)times->rows / times->cost.threads);
    return calls * times->operation_s * rows;
}

static double alone_seconds(struct sim_times *times, const struct sim_work *work)
{
    switch (work->op) {
    case SIM_MATMUL:
    case SIM_MATMUL_GEGLU:
        times->rows = work->n_rows;
        return product_seconds(times, work, false);
    case SIM_EXPERTS:
        return product_seconds(times, work, true);
    case SIM_ATTENTION:
        return attention_seconds(times, work);
    case SIM_SYNC:
        return times->cost.profile->cpu.sync_us * 1e-6;
    case SIM_UPLOAD: // the memory is the host's own
    case SIM_DOWNLOAD:
        return 0;
    case SIM_EMBED:
        times->rows = work->n_rows;
        return operation_seconds(times, 1);
    case SIM_SOFTCAP: // of a row as long as the vocabulary
        return operation_seconds(times, work->cols / times->workload->hidden);
    default:
        return work->n_rows ? operation_seconds(times, 1) : 0;
    }
}

double sim_times_seconds(void *user, const struct sim_work *work)
{
    struct sim_times *times = user;
    const double seconds = alone_seconds(times, work);
    if (times->slow > 1 && times->drive && seconds > 0 && io_sim_reads(times->drive) > 0)
        return seconds * times->slow;
    return seconds;
}
