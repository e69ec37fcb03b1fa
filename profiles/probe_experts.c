// Experts, by the rows that each of them meets. Weights lie as in the file: experts come and go through a
// pool, which takes their bytes as they are read, and nothing is arranged there.
#include "profiles/probe_internal.h"

#define DECODE_JOBS 8 // experts of a token in 26B-A4B
#define WIDTH 704     // of its experts; no whole number of K-quant blocks, for which it is 768

struct expert_cell {
    struct probe *probe;
    struct lode_matrix gate, up, down; // of the first expert
    size_t expert_bytes;
    uint32_t n_experts, n_jobs, n_rows, first;
    int32_t tokens[PROBE_EXPERT_ROWS];
    int32_t slots[PROBE_JOBS * PROBE_EXPERT_ROWS];
};

static bool make_matrix(struct lode_matrix *out, struct expert_cell *cell, enum lode_type type, uint32_t rows,
                        uint32_t cols)
{
    uint64_t row_bytes;
    if (!lode_type_row_bytes(&row_bytes, type, cols))
        return false;
    *out = (struct lode_matrix){.data = cell->probe->arena + cell->expert_bytes,
                                .type = type,
                                .rows = rows,
                                .cols = cols,
                                .row_bytes = row_bytes,
                                .layout = LODE_LAYOUT_FILE};
    const size_t bytes = rows * row_bytes;
    if (cell->expert_bytes + bytes > cell->probe->arena_bytes)
        return false;
    probe_put_blocks(cell->probe, cell->expert_bytes, type, bytes);
    cell->expert_bytes += (bytes + LODE_DEVICE_ALIGN - 1) / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
    return true;
}

static bool make_experts(struct expert_cell *out, struct probe *probe, enum lode_type type)
{
    const uint32_t width = WIDTH % lode_type_find(type)->block_elems == 0 ? WIDTH : PROBE_FFN_WIDTH;
    *out = (struct expert_cell){.probe = probe};
    if (!make_matrix(&out->gate, out, type, width, PROBE_HIDDEN) ||
        !make_matrix(&out->up, out, type, width, PROBE_HIDDEN) ||
        !make_matrix(&out->down, out, type, PROBE_HIDDEN, width) || out->expert_bytes > probe->arena_bytes)
        return false;
    out->n_experts = probe_repeat_arena(probe, out->expert_bytes);
    return true;
}

static struct lode_matrix matrix_of(const struct expert_cell *cell, const struct lode_matrix *first,
                                    uint32_t expert)
{
    struct lode_matrix matrix = *first;
    matrix.data = (const uint8_t *)first->data + expert * cell->expert_bytes;
    return matrix;
}

// Each job: out[slots[i]] = expert(x[tokens[i]]); the jobs of a call have all rows in common.
static void run_experts(void *user)
{
    struct expert_cell *cell = user;
    struct lode_expert_job jobs[PROBE_JOBS];
    for (uint32_t j = 0; j < cell->n_jobs; j++) {
        const uint32_t expert = (cell->first + j) % cell->n_experts;
        jobs[j] = (struct lode_expert_job){.gate = matrix_of(cell, &cell->gate, expert),
                                           .up = matrix_of(cell, &cell->up, expert),
                                           .down = matrix_of(cell, &cell->down, expert),
                                           .tokens = cell->tokens,
                                           .slots = cell->slots + j * cell->n_rows,
                                           .n = cell->n_rows};
    }
    const struct lode_rows x = {cell->probe->x, cell->n_rows, PROBE_HIDDEN, PROBE_HIDDEN};
    const struct lode_rows out = {cell->probe->out, cell->n_jobs * cell->n_rows, PROBE_HIDDEN, PROBE_HIDDEN};
    cell->probe->device->ops->experts(cell->probe->device, out, x, jobs, cell->n_jobs);
    cell->first = (cell->first + cell->n_jobs) % cell->n_experts;
}

// One row is a token in decode. Several are a prompt's, whose calls have many jobs; where their rows make the
// work, fewer do.
static void set_rows(struct expert_cell *cell, uint32_t n_rows)
{
    const uint32_t most = n_rows == 1 ? DECODE_JOBS : n_rows <= 8 ? PROBE_JOBS : PROBE_JOBS / 2;
    cell->n_rows = n_rows;
    cell->n_jobs = most < cell->n_experts ? most : cell->n_experts;
    if (cell->n_jobs > cell->probe->most_choices / n_rows)
        cell->n_jobs = cell->probe->most_choices / n_rows;
    for (uint32_t i = 0; i < n_rows; i++)
        cell->tokens[i] = (int32_t)i;
    for (uint32_t i = 0; i < cell->n_jobs * n_rows; i++)
        cell->slots[i] = (int32_t)i;
}

static int measure_type(struct probe *probe, enum lode_type type, uint64_t end_ns, struct lode_error *error)
{
    static const uint32_t quick[] = {1, 4, 32}, all[] = {1, 2, 4, 8, 16, 32, 64};
    const bool few = probe->options->mode == PROBE_QUICK;
    const uint32_t *rows = few ? quick : all;
    const uint32_t n = few ? sizeof quick / sizeof *quick : sizeof all / sizeof *all;
    struct profile_kernels *kernels = &probe->figures->kernels[type];
    struct expert_cell cell;
    if (!make_experts(&cell, probe, type))
        return LODE_OK;
    struct probe_group group = {end_ns, n};
    double last_s = 0;
    for (uint32_t i = 0; i < n && rows[i] <= probe->most_rows; i++) {
        const uint32_t last_jobs = cell.n_jobs;
        set_rows(&cell, rows[i]);
        if (i && !probe_has_time(&group, last_s * rows[i] * cell.n_jobs / (rows[i - 1] * last_jobs)))
            break;
        const struct probe_figure figure = probe_time(probe, &group, run_experts, &cell);
        int code = probe_stopped(probe, error);
        if (code)
            return code;
        last_s = figure.median;
        const double bytes = ((double)cell.gate.row_bytes * cell.gate.rows * 2 +
                              (double)cell.down.row_bytes * cell.down.rows) *
                             cell.n_jobs;
        if (figure.median > 0)
            probe_merge_point(&kernels->expert_gbps, rows[i], bytes / figure.median / 1e9, figure.spread);
    }
    return LODE_OK;
}

int probe_experts(struct probe *probe, uint64_t end_ns, struct lode_error *error)
{
    return probe_each_type(probe, end_ns, measure_type, error);
}
