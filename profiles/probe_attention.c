// Attention over a cache of F16, of the shape of a global layer of 26B-A4B; and what an operation costs that
// computes next to nothing.
#include "profiles/probe_internal.h"

#include "base/clock.h"

#define DECODE_BYTES ((size_t)16 << 20) // K and V that a repeat reads at least
#define OPERATIONS 256

struct attention_cell {
    struct probe *probe;
    uint32_t context, n_rows, n_copies, copy, n_calls;
    size_t copy_bytes; // of K, and of V
};

static void run_attention(void *user)
{
    struct attention_cell *cell = user;
    struct probe *probe = cell->probe;
    const uint32_t cols = PROBE_HEADS * PROBE_HEAD_SIZE;
    const struct lode_rows q = {probe->x, cell->n_rows, cols, cols};
    const struct lode_rows out = {probe->out, cell->n_rows, cols, cols};
    for (uint32_t i = 0; i < cell->n_calls; i++) {
        uint8_t *k = probe->arena + cell->copy * cell->copy_bytes;
        const struct lode_kv kv = {.k = k,
                                   .v = k + cell->n_copies * cell->copy_bytes,
                                   .format = LODE_CACHE_F16,
                                   .n_heads = PROBE_KV_HEADS,
                                   .head_size = PROBE_HEAD_SIZE,
                                   .capacity = cell->context};
        probe->device->ops->attention(probe->device, out, q, PROBE_HEADS, &kv, cell->context - cell->n_rows,
                                      0);
        cell->copy = (cell->copy + 1) % cell->n_copies;
    }
}

static bool make_cell(struct attention_cell *out, struct probe *probe, uint32_t context, uint32_t n_rows)
{
    const size_t copy_bytes =
        lode_kv_row_bytes(LODE_CACHE_F16, PROBE_HEAD_SIZE) * PROBE_KV_HEADS * (size_t)context;
    *out = (struct attention_cell){.probe = probe,
                                   .context = context,
                                   .n_rows = n_rows,
                                   .copy_bytes = copy_bytes,
                                   .n_copies = (uint32_t)(probe->arena_bytes / 2 / copy_bytes),
                                   .n_calls = 1};
    if (n_rows == 1 && 2 * copy_bytes < DECODE_BYTES)
        out->n_calls = (uint32_t)(DECODE_BYTES / (2 * copy_bytes));
    return out->n_copies > 0;
}

static const uint32_t contexts[] = {512, 4096, 32768};
enum { N_CONTEXTS = sizeof contexts / sizeof *contexts };

static int measure_decode(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    struct probe_group group = {end_ns, N_CONTEXTS};
    for (uint32_t i = 0; i < N_CONTEXTS; i++) {
        struct attention_cell cell;
        if (!make_cell(&cell, probe, contexts[i], 1))
            break;
        const struct probe_figure figure = probe_time(probe, &group, run_attention, &cell);
        int code = probe_stopped(probe, error);
        if (code)
            return code;
        if (figure.median > 0)
            probe_add_point(&probe->figures->attention_decode_gbps, contexts[i],
                            2.0 * (double)cell.copy_bytes * cell.n_calls / figure.median / 1e9,
                            figure.spread);
    }
    return LODE_OK;
}

// A multiply-add of a query with a key, and one of a weight with a value, for each element: 4 operations.
static double prefill_flop(const struct attention_cell *cell)
{
    const double first = cell->context - cell->n_rows + 1, last = cell->context;
    return 4 * (first + last) / 2 * cell->n_rows * PROBE_HEADS * PROBE_HEAD_SIZE;
}

#define FEW_ROWS 32

// 256 of a short context, 64 of a long one: more would take seconds on a processor. On a device that is
// slower than that, which a few rows tell, those few are all.
static uint32_t prefill_rows(struct probe *probe, const struct probe_group *group)
{
    struct attention_cell cell;
    if (probe->most_rows < 256 || !make_cell(&cell, probe, contexts[0], FEW_ROWS))
        return FEW_ROWS;
    if (probe->device->host_memory)
        return 256;
    struct probe_group pilot = {.end_ns = 0};
    const struct probe_figure figure = probe_time(probe, &pilot, run_attention, &cell);
    return probe_has_time(group, figure.median * 256 / FEW_ROWS * N_CONTEXTS) ? 256 : FEW_ROWS;
}

static int measure_prefill(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    struct probe_group group = {end_ns, N_CONTEXTS};
    const uint32_t rows = prefill_rows(probe, &group);
    double last_s = 0, last_flop = 1;
    for (uint32_t i = 0; i < N_CONTEXTS; i++) {
        struct attention_cell cell;
        if (!make_cell(&cell, probe, contexts[i], contexts[i] > 4096 && rows > 64 ? 64 : rows))
            break;
        if (i && !probe_has_time(&group, last_s * prefill_flop(&cell) / last_flop))
            break;
        const struct probe_figure figure = probe_time(probe, &group, run_attention, &cell);
        int code = probe_stopped(probe, error);
        if (code)
            return code;
        last_s = figure.median;
        last_flop = prefill_flop(&cell);
        if (figure.median > 0)
            probe_add_point(&probe->figures->attention_prefill_gflops, contexts[i],
                            last_flop / figure.median / 1e9, figure.spread);
    }
    return LODE_OK;
}

int probe_attention(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    probe_put_blocks(probe, 0, LODE_F16, probe->arena_bytes);
    const uint64_t now_ns = clock_now_ns();
    const uint64_t half_ns = end_ns > now_ns ? now_ns + (end_ns - now_ns) / 3 : now_ns;
    int code = measure_decode(probe, half_ns, error);
    return code ? code : measure_prefill(probe, end_ns, error);
}

// ---- small operations

static void run_operations(void *user)
{
    struct probe *probe = user;
    const struct lode_rows row = {probe->x, 1, PROBE_HIDDEN, PROBE_HIDDEN};
    const struct lode_rows out = {probe->out, 1, PROBE_HIDDEN, PROBE_HIDDEN};
    for (int i = 0; i < OPERATIONS; i++)
        probe->device->ops->rms_norm(probe->device, out, row, NULL, 1e-6f, 1);
}

static void do_nothing(void *user)
{
    (void)user;
}

static void do_one(void *user)
{
    struct probe *probe = user;
    const struct lode_rows row = {probe->x, 1, PROBE_HIDDEN, PROBE_HIDDEN};
    probe->device->ops->rms_norm(probe->device, row, row, NULL, 1e-6f, 1);
}

// What a pass costs by itself: to gather the threads, to let them go, and to wait until all is done. A GPU
// that has nothing to do answers at once, so it is given one operation, whose time is taken off again.
static int measure_sync(struct probe *probe, struct probe_group *group, struct lode_error *error)
{
    const bool is_cpu = probe->device->host_memory;
    struct probe_samples samples = {.n = 0};
    const double slice_s = probe_slice_s(group);
    const uint64_t start_ns = clock_now_ns();
    do {
        const uint64_t begin_ns = clock_now_ns();
        probe->device->ops->pass(probe->device, is_cpu ? do_nothing : do_one, probe);
        int code = probe->device->ops->sync(probe->device, error);
        if (code)
            return code;
        probe_sample(&samples, clock_seconds_since(begin_ns));
        if (!probe_goes_on(probe))
            return probe_cancelled(error);
    } while (samples.n < PROBE_SAMPLES && clock_seconds_since(start_ns) < slice_s);
    const double us = probe_median(&samples).median * 1e6;
    probe->figures->sync_us = probe_rounded(is_cpu ? us : us - probe->figures->operation_us);
    return LODE_OK;
}

int probe_operations(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    struct probe_group group = {end_ns, 2};
    const struct probe_figure figure = probe_time(probe, &group, run_operations, probe);
    int code = probe_stopped(probe, error);
    if (code)
        return code;
    probe->figures->operation_us = probe_rounded(figure.median / OPERATIONS * 1e6);
    return measure_sync(probe, &group, error);
}
