// Memory by threads, and products of matrices that stay in memory: a chain of them over weights that no cache
// holds, within a pass, arranged as an engine arranges what stays.
#include "profiles/probe_internal.h"

#include "base/clock.h"
#include "profiles/read_bandwidth.h"

// ---- memory

// One reading takes about this long.
#define READ_SECONDS 0.36

static uint32_t thread_counts(uint32_t *out, uint32_t threads, bool few)
{
    static const uint32_t counts[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128};
    uint32_t n = 0;
    for (uint32_t i = 0; i < sizeof counts / sizeof *counts && counts[i] < threads; i++)
        if (!few || counts[i] <= 2 || counts[i] == 4)
            out[n++] = counts[i];
    out[n++] = threads;
    return n;
}

int probe_memory(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    uint32_t counts[PROFILE_CURVE_POINTS];
    const uint32_t n =
        thread_counts(counts, probe->profile->cpu.threads, probe->options->mode == PROBE_QUICK);
    struct probe_group group = {end_ns, n};
    for (uint32_t i = 0; i < n; i++) {
        struct probe_samples samples = {.n = 0};
        const double slice_s = probe_slice_s(&group);
        const uint64_t start_ns = clock_now_ns();
        do {
            double gbps;
            if (!probe_goes_on(probe))
                return probe_cancelled(error);
            int code = read_bandwidth_measure(&gbps, counts[i], probe->memory_bytes, error);
            if (code == LODE_ERR_MEMORY && i > 0) { // each thread wants some to read
                probe_note(probe, "too little memory is free to measure how %u threads read it", counts[i]);
                return LODE_OK;
            }
            if (code)
                return code;
            probe_sample(&samples, gbps);
        } while (clock_seconds_since(start_ns) + READ_SECONDS <= slice_s);
        const struct probe_figure figure = probe_median(&samples);
        probe_add_point(&probe->profile->cpu.read_gbps, counts[i], figure.median, figure.spread);
    }
    return LODE_OK;
}

// ---- the chain

// FFN and attention of 26B-A4B, and the FFN's way back of E2B. All columns are whole K-quant blocks.
static const struct {
    uint32_t rows, cols;
} shapes[] = {{2112, 2816}, {4096, 2816}, {2816, 4096}, {1536, 6144}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static size_t aligned(size_t bytes)
{
    return (bytes + LODE_DEVICE_ALIGN - 1) / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
}

bool probe_chain_make(struct probe_chain *out, struct probe *probe, enum lode_type type)
{
    *out = (struct probe_chain){.probe = probe, .type = type, .n_rows = 1};
    for (uint32_t i = 0; i < N_SHAPES; i++) {
        uint64_t row_bytes;
        if (!lode_type_row_bytes(&row_bytes, type, shapes[i].cols))
            return false;
        const size_t bytes = shapes[i].rows * row_bytes;
        if (out->copy_bytes + bytes > probe->arena_bytes)
            break;
        out->matrices[i] = (struct lode_matrix){.data = probe->arena + out->copy_bytes,
                                                .type = type,
                                                .rows = shapes[i].rows,
                                                .cols = shapes[i].cols,
                                                .row_bytes = row_bytes};
        probe_put_blocks(probe, out->copy_bytes, type, bytes);
        probe->device->ops->arrange(probe->device, &out->matrices[i]);
        out->copy_bytes += aligned(bytes);
        out->n_shapes++;
    }
    if (!out->n_shapes)
        return false;
    out->n_matrices = out->n_shapes;
    out->n_copies = out->copy_bytes <= probe->arena_bytes ? probe_repeat_arena(probe, out->copy_bytes) : 1;
    if (!probe->fault) // what is copied still is not to count
        probe->fault = probe->device->ops->sync(probe->device, &probe->fault_error);
    return true;
}

double probe_chain_bytes(const struct probe_chain *chain)
{
    double bytes = 0;
    for (uint32_t i = 0; i < chain->n_matrices; i++)
        bytes += (double)chain->matrices[i].row_bytes * chain->matrices[i].rows;
    return bytes;
}

void probe_chain_run(void *user)
{
    struct probe_chain *chain = user;
    const struct lode_device_ops *ops = chain->probe->device->ops;
    for (uint32_t i = 0; i < chain->n_matrices; i++) {
        struct lode_matrix matrix = chain->matrices[i];
        matrix.data = (const uint8_t *)matrix.data + chain->copy * chain->copy_bytes;
        const struct lode_rows x = {chain->probe->x, chain->n_rows, matrix.cols, matrix.cols};
        const struct lode_rows out = {chain->probe->out, chain->n_rows, matrix.rows, matrix.rows};
        ops->matmul(chain->probe->device, &out, &matrix, 1, x);
        if (chain->between)
            chain->between(chain->user);
    }
    chain->copy = (chain->copy + 1) % chain->n_copies;
}

// ---- types by rows

// A GPU takes more rows to be busy, and other kernels by their number: 1, 2, 4, 8, and tiles.
static uint32_t row_counts(const uint32_t **out, const struct probe *probe)
{
    static const uint32_t quick[] = {1, 8, 128}, all[] = {1, 2, 4, 8, 16, 32, 64, 128, 512};
    static const uint32_t gpu_quick[] = {1, 8, 128, 512}, gpu_all[] = {1, 2, 4, 8, 32, 128, 512};
    const bool is_quick = probe->options->mode == PROBE_QUICK, is_cpu = probe->device->host_memory;
    *out = is_cpu ? (is_quick ? quick : all) : is_quick ? gpu_quick : gpu_all;
    uint32_t n = is_cpu ? (is_quick ? sizeof quick : sizeof all) / sizeof *all
                        : (is_quick ? sizeof gpu_quick : sizeof gpu_all) / sizeof *all;
    while (n > 1 && (*out)[n - 1] > probe->most_rows)
        n--;
    return n;
}

// Adds a point for each number of rows that there is time for.
static int measure_rows(struct profile_curve *curve, struct probe_chain *chain, struct probe_group *group,
                        const uint32_t *rows, uint32_t n, struct lode_error *error)
{
    struct probe *probe = chain->probe;
    double last_s = 0;
    for (uint32_t i = 0; i < n; i++) {
        chain->n_rows = rows[i];
        chain->n_matrices = rows[i] < 64 || chain->n_shapes < 2 ? chain->n_shapes : 2; // many rows take long
        if (i && !probe_has_time(group, last_s * rows[i] / rows[i - 1]))
            break;
        const struct probe_figure figure = probe_time(probe, group, probe_chain_run, chain);
        int code = probe_stopped(probe, error);
        if (code)
            return code;
        last_s = figure.median;
        if (figure.median > 0)
            probe_merge_point(curve, rows[i], probe_chain_bytes(chain) / figure.median / 1e9, figure.spread);
    }
    return LODE_OK;
}

// The same by the vendor's library. Weights of 32 bits stay with kernels that do not round them.
static int measure_library(struct profile_curve *curve, struct probe_chain *chain, struct probe_group *group,
                           const uint32_t *rows, uint32_t n, struct lode_error *error)
{
    struct lode_device *device = chain->probe->device;
    int code = device->ops->use_library(device, chain->type, PROBE_LIBRARY_ROWS, error);
    if (!code)
        code = measure_rows(curve, chain, group, rows, n, error);
    device->ops->use_library(device, chain->type, 0, NULL);
    if (device->notice) {
        probe_note(chain->probe, "%s: %s", device->name, device->notice);
        chain->probe->has_library = false;
        curve->n_points = 0; // what it refused others computed
    }
    device->notice = NULL;
    return code;
}

static int measure_type(struct probe *probe, enum lode_type type, uint64_t end_ns, struct lode_error *error)
{
    struct profile_kernels *kernels = &probe->figures->kernels[type];
    struct probe_chain chain;
    if (!probe_chain_make(&chain, probe, type))
        return LODE_OK;
    const uint32_t *rows;
    const uint32_t n = row_counts(&rows, probe);
    uint32_t few = 0;
    while (few < n && rows[few] < PROBE_LIBRARY_ROWS)
        few++;
    const bool by_library = probe->has_library && type != LODE_F32 && few < n;
    struct probe_group group = {end_ns, by_library ? n + n - few : n};
    int code = measure_rows(&kernels->dense_gbps, &chain, &group, rows, n, error);
    kernels->known = kernels->dense_gbps.n_points > 0;
    if (!code && by_library) {
        group.n_cells = n - few; // those of no time above are left out
        code = measure_library(&kernels->library_gbps, &chain, &group, rows + few, n - few, error);
    }
    return code;
}

int probe_dense(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    return probe_each_type(probe, end_ns, measure_type, error);
}
