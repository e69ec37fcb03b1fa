// Cells of the matrix products: single ones, the gated pair, and the head.
#include "bench/cell.h"

#include <math.h>
#include <stdio.h>

#define ERROR_SAMPLES 24

struct product_spec {
    enum lode_type type;
    uint32_t rows, cols, tokens;
};

struct product {
    struct lode_matrix gate, up; // a single product has only `up`
    struct lode_rows x, out;
};

static void make_operands(struct cell *cell, uint32_t n_matrices)
{
    const struct product_spec *spec = cell->spec;
    struct product *p = cell->state = cell_memory(cell, sizeof *p);
    cell->n_copies = 1;
    p->x = cell_rows(cell, spec->tokens, spec->cols, 1);
    p->out = cell_rows(cell, spec->tokens, spec->rows, 1);

    const struct lode_type_traits *traits = lode_type_find(spec->type);
    cell->cost.memory_bytes =
        (double)spec->rows * spec->cols / traits->block_elems * traits->block_bytes * n_matrices;
    cell->n_copies = ring_copies(cell->cost.memory_bytes);
    p->up = cell_matrix(cell, spec->type, spec->rows, spec->cols, cell->n_copies);
    if (n_matrices == 2)
        p->gate = cell_matrix(cell, spec->type, spec->rows, spec->cols, cell->n_copies);
    cost_matmul(&cell->cost, spec->type, (double)spec->rows * spec->cols * spec->tokens * n_matrices);
}

// ---- one product ----

static void make_matmul(struct cell *cell)
{
    make_operands(cell, 1);
}

static void run_matmul(struct cell *cell, uint32_t copy)
{
    struct product *p = cell->state;
    struct lode_matrix weight = matrix_at(&p->up, copy);
    cell->device->ops->matmul(cell->device, &p->out, &weight, 1, p->x);
}

static double matmul_error(struct cell *cell)
{
    const struct product *p = cell->state;
    const struct lode_matrix filed = matrix_as_filed(&p->up, cell->n_copies);
    float *decoded = cell_memory(cell, p->x.cols * sizeof *decoded);
    double worst = 0;
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t row = test_random_u32(&cell->random) % p->up.rows;
        uint32_t token = test_random_u32(&cell->random) % p->x.n;
        struct exact dot = exact_dot(&filed, row, p->x.data + token * p->x.stride, decoded);
        worst = fmax(worst, error_of((double)p->out.data[token * p->out.stride + row], dot));
    }
    return worst;
}

static const struct cell_ops matmul_ops = {make_matmul, run_matmul, matmul_error};

// ---- gate and up ----

static void make_geglu(struct cell *cell)
{
    make_operands(cell, 2);
}

static void run_geglu(struct cell *cell, uint32_t copy)
{
    struct product *p = cell->state;
    struct lode_matrix gate = matrix_at(&p->gate, copy), up = matrix_at(&p->up, copy);
    cell->device->ops->matmul_geglu(cell->device, p->out, &gate, &up, p->x);
}

static double geglu_error(struct cell *cell)
{
    const struct product *p = cell->state;
    const struct lode_matrix filed_gate = matrix_as_filed(&p->gate, cell->n_copies);
    const struct lode_matrix filed_up = matrix_as_filed(&p->up, cell->n_copies);
    float *decoded = cell_memory(cell, p->x.cols * sizeof *decoded);
    double worst = 0;
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t row = test_random_u32(&cell->random) % p->up.rows;
        uint32_t token = test_random_u32(&cell->random) % p->x.n;
        const float *x = p->x.data + token * p->x.stride;
        struct exact gate = exact_dot(&filed_gate, row, x, decoded),
                     up = exact_dot(&filed_up, row, x, decoded);
        double gated = gelu_tanh(gate.value);
        // GELU's slope is at most 1.13.
        struct exact want = {gated * up.value,
                             1.13 * gate.magnitude * fabs(up.value) + fabs(gated) * up.magnitude};
        worst = fmax(worst, error_of((double)p->out.data[token * p->out.stride + row], want));
    }
    return worst;
}

static const struct cell_ops geglu_ops = {make_geglu, run_geglu, geglu_error};

// ---- what there is ----

struct shape {
    const char *name;
    uint32_t rows, cols;
};

static void offer(struct bench *bench, const char *op, const struct cell_ops *ops, struct shape shape,
                  enum lode_type type, uint32_t tokens)
{
    if (shape.cols % lode_type_find(type)->block_elems)
        return;
    char text[64];
    snprintf(text, sizeof text, "%s %ux%u rows=%u", shape.name, shape.rows, shape.cols, tokens);
    const struct product_spec spec = {type, shape.rows, shape.cols, tokens};
    bench_offer(bench, op, lode_type_name(type), text, ops, &spec);
}

static void list_matmul(struct bench *bench)
{
    static const struct shape shapes[] = {{"26b-dense-up", 2112, 2816},
                                          {"26b-expert-up", 1408, 2816},
                                          {"26b-expert-down", 2816, 704},
                                          {"e2b-down", 1536, 6144},
                                          {"31b-dense-down", 5376, 21504}};
    static const uint32_t tokens[] = {1, 2, 4, 8, 32, 128, 512};
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (unsigned n = 0; n < sizeof tokens / sizeof *tokens; n++)
                offer(bench, "matmul", &matmul_ops, shapes[s], test_types[t], tokens[n]);

    static const struct shape heads[] = {{"e2b-head", 262144, 1536}, {"26b-head", 262144, 2816}};
    static const enum lode_type head_types[] = {LODE_Q4_0, LODE_Q6_K, LODE_Q8_0};
    for (unsigned t = 0; t < sizeof head_types / sizeof *head_types; t++)
        for (unsigned s = 0; s < sizeof heads / sizeof *heads; s++)
            offer(bench, "matmul", &matmul_ops, heads[s], head_types[t], 1);
}

static void list_geglu(struct bench *bench)
{
    static const struct shape shapes[] = {
        {"26b-dense", 2112, 2816}, {"e2b", 6144, 1536}, {"31b", 21504, 5376}};
    static const uint32_t tokens[] = {1, 32, 512};
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (unsigned n = 0; n < sizeof tokens / sizeof *tokens; n++)
                offer(bench, "matmul_geglu", &geglu_ops, shapes[s], test_types[t], tokens[n]);
}

const struct family matmul_family = {
    "matmul",
    {.rows = 512, .cols = 21504, .ffn_width = 32, .n_heads = 1, .head_size = 32, .expert_rows = 1},
    list_matmul};
const struct family geglu_family = {
    "matmul_geglu",
    {.rows = 512, .cols = 5376, .ffn_width = 32, .n_heads = 1, .head_size = 32, .expert_rows = 1},
    list_geglu};
