// Cells of the routed experts: 8 of 128 for each token, as 26B-A4B has them. For one token the eight come
// from a ring of experts; a prefill step of 512 tokens goes through all 128, 32 tokens each.
#include "bench/cell.h"

#include "backends/cpu/dequantize.h"

#include <math.h>
#include <stdio.h>

#define N_EXPERTS 128
#define N_USED 8
#define HIDDEN 2816
#define WIDTH 704
#define MAX_TOKENS 512
#define ERROR_SAMPLES 6

struct expert_spec {
    enum lode_type type, down_type;
    uint32_t tokens;
};

struct experts {
    struct lode_matrix gate, up, down;
    uint32_t n_distinct; // experts that have weights of their own
    struct lode_rows x, out;
    int32_t tokens[N_EXPERTS][MAX_TOKENS * N_USED / N_EXPERTS],
        slots[N_EXPERTS][MAX_TOKENS * N_USED / N_EXPERTS];
    struct lode_expert_job jobs[N_EXPERTS];
    uint32_t n_jobs;
};

// Which expert a token's choice of a rank is: all different for a token, and each chosen equally often.
static uint32_t chosen_expert(uint32_t token, uint32_t rank)
{
    return (token * N_USED + rank) * 37 % N_EXPERTS;
}

static void assign_tokens(struct experts *e, uint32_t n_tokens)
{
    uint32_t counts[N_EXPERTS] = {0};
    for (uint32_t token = 0; token < n_tokens; token++)
        for (uint32_t rank = 0; rank < N_USED; rank++) {
            uint32_t job = n_tokens == 1 ? rank : chosen_expert(token, rank);
            e->tokens[job][counts[job]] = (int32_t)token;
            e->slots[job][counts[job]++] = (int32_t)(token * N_USED + rank);
        }
    e->n_jobs = n_tokens == 1 ? N_USED : N_EXPERTS;
    for (uint32_t j = 0; j < e->n_jobs; j++)
        e->jobs[j] = (struct lode_expert_job){.tokens = e->tokens[j], .slots = e->slots[j], .n = counts[j]};
}

static void point_jobs(struct experts *e, uint32_t first_expert)
{
    for (uint32_t j = 0; j < e->n_jobs; j++) {
        uint32_t expert = (first_expert + j) % e->n_distinct;
        e->jobs[j].gate = matrix_at(&e->gate, expert);
        e->jobs[j].up = matrix_at(&e->up, expert);
        e->jobs[j].down = matrix_at(&e->down, expert);
    }
}

static double type_bytes(enum lode_type type, double elements)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    return elements / traits->block_elems * traits->block_bytes;
}

static void make_experts(struct cell *cell)
{
    const struct expert_spec *spec = cell->spec;
    struct experts *e = cell->state = cell_memory(cell, sizeof *e);
    const double elements = (double)HIDDEN * WIDTH;
    const double bytes = type_bytes(spec->type, 2 * elements) + type_bytes(spec->down_type, elements);
    assign_tokens(e, spec->tokens);

    cell->n_copies = 1;
    e->x = cell_rows(cell, spec->tokens, HIDDEN, 1);
    e->out = cell_rows(cell, spec->tokens * N_USED, HIDDEN, 1);
    const uint32_t groups = ring_copies(bytes * N_USED);
    e->n_distinct = groups * N_USED < N_EXPERTS ? groups * N_USED : N_EXPERTS;
    e->gate = cell_matrix(cell, spec->type, WIDTH, HIDDEN, e->n_distinct);
    e->up = cell_matrix(cell, spec->type, WIDTH, HIDDEN, e->n_distinct);
    e->down = cell_matrix(cell, spec->down_type, HIDDEN, WIDTH, e->n_distinct);
    cell->n_copies = e->n_distinct / N_USED;
    cell->cost.memory_bytes = bytes * e->n_jobs;
    cost_matmul(&cell->cost, spec->type, 2 * elements * N_USED * spec->tokens);
    cost_matmul(&cell->cost, spec->down_type, elements * N_USED * spec->tokens);
}

static void run_experts(struct cell *cell, uint32_t copy)
{
    struct experts *e = cell->state;
    point_jobs(e, copy * N_USED);
    cell->device->ops->experts(cell->device, e->out, e->x, e->jobs, e->n_jobs);
}

// All experts have the same weights (copies), so the exact gated row of a token serves all its outputs.
static double experts_error(struct cell *cell)
{
    const struct experts *e = cell->state;
    const struct lode_matrix filed_gate = matrix_as_filed(&e->gate, e->n_distinct);
    const struct lode_matrix filed_up = matrix_as_filed(&e->up, e->n_distinct);
    const struct lode_matrix filed_down = matrix_as_filed(&e->down, e->n_distinct);
    float *decoded = cell_memory(cell, HIDDEN * sizeof *decoded);
    struct exact *gated = cell_memory(cell, WIDTH * sizeof *gated);
    double worst = 0;
    uint32_t token = test_random_u32(&cell->random) % e->x.n;
    const float *x = e->x.data + token * e->x.stride;
    for (uint32_t w = 0; w < WIDTH; w++) {
        struct exact gate = exact_dot(&filed_gate, w, x, decoded), up = exact_dot(&filed_up, w, x, decoded);
        double g = gelu_tanh(gate.value);
        gated[w] =
            (struct exact){g * up.value, 1.13 * gate.magnitude * fabs(up.value) + fabs(g) * up.magnitude};
    }
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t row = test_random_u32(&cell->random) % HIDDEN;
        cpu_dequantize(decoded, filed_down.type,
                       (const uint8_t *)filed_down.data + row * filed_down.row_bytes, WIDTH);
        struct exact want = {0};
        for (uint32_t w = 0; w < WIDTH; w++) {
            want.value += (double)decoded[w] * gated[w].value;
            want.magnitude += fabs((double)decoded[w]) * gated[w].magnitude;
        }
        uint32_t slot = token * N_USED + test_random_u32(&cell->random) % N_USED;
        worst = fmax(worst, error_of((double)e->out.data[slot * e->out.stride + row], want));
    }
    return worst;
}

static const struct cell_ops experts_ops = {make_experts, run_experts, experts_error};

// 704 columns are no whole number of the K-quants' blocks of 256: their files have another type there.
static enum lode_type down_type_of(enum lode_type type)
{
    if (WIDTH % lode_type_find(type)->block_elems == 0)
        return type;
    switch (type) {
    case LODE_Q2_K:
    case LODE_Q3_K:
    case LODE_IQ4_XS:
        return LODE_IQ4_NL;
    case LODE_Q4_K:
        return LODE_Q5_0;
    case LODE_Q5_K:
        return LODE_Q5_1;
    default:
        return LODE_Q8_0;
    }
}

static void list_experts(struct bench *bench)
{
    static const uint32_t tokens[] = {1, MAX_TOKENS};
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned n = 0; n < 2; n++) {
            const struct expert_spec spec = {test_types[t], down_type_of(test_types[t]), tokens[n]};
            char type[24], shape[64];
            snprintf(type, sizeof type, "%s%s%s", lode_type_name(spec.type),
                     spec.type == spec.down_type ? "" : "+",
                     spec.type == spec.down_type ? "" : lode_type_name(spec.down_type));
            snprintf(shape, sizeof shape, "26b 8-of-128 rows=%u", spec.tokens);
            bench_offer(bench, "experts", type, shape, &experts_ops, &spec);
        }
}

const struct family expert_family = {"experts",
                                     {.rows = MAX_TOKENS,
                                      .cols = HIDDEN,
                                      .ffn_width = WIDTH,
                                      .n_heads = 1,
                                      .head_size = 32,
                                      .expert_rows = MAX_TOKENS * N_USED},
                                     list_experts};
