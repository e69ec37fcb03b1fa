// Products for tests; see product_reference.h.
#include "tests/product_reference.h"

#include "backends/cpu/quantize.h"
#include "tests/ops_reference.h"

bool product_is_quantised(enum lode_type type)
{
    return lode_type_find(type)->block_elems > 1;
}

static bool has_minimum(enum lode_type type)
{
    return type == LODE_Q4_1 || type == LODE_Q5_1 || type == LODE_Q4_K || type == LODE_Q5_K ||
           type == LODE_Q2_K;
}

struct test_matrix random_matrix(enum lode_type type, uint32_t rows, uint32_t cols, size_t gap,
                                 uint64_t *state)
{
    struct test_random random = {random_bits(state)};
    return test_matrix_make(&random, type, rows, cols, gap);
}

struct random_expert random_expert_make(const enum lode_type types[3], uint32_t hidden, uint32_t width,
                                        size_t gap, uint64_t *state)
{
    struct random_expert out;
    out.gate = random_matrix(types[0], width, hidden, gap, state);
    out.up = random_matrix(types[1], width, hidden, gap, state);
    out.down = random_matrix(types[2], hidden, width, gap, state);
    out.job = (struct lode_expert_job){.gate = out.gate.matrix, .up = out.up.matrix, .down = out.down.matrix};
    return out;
}

void random_expert_free(struct random_expert *expert)
{
    test_matrix_free(&expert->gate);
    test_matrix_free(&expert->up);
    test_matrix_free(&expert->down);
}

struct product_matrix product_matrix_make(const struct lode_matrix *matrix)
{
    const size_t n = (size_t)matrix->rows * matrix->cols;
    struct product_matrix out = {matrix->type, matrix->rows, matrix->cols, malloc(n * sizeof(double)),
                                 malloc(n * sizeof(double))};
    cr_assert(out.value && out.magnitude);
    for (size_t i = 0; i < n; i++) {
        const struct test_weight weight =
            test_matrix_at(matrix, (uint32_t)(i / matrix->cols), (uint32_t)(i % matrix->cols));
        out.value[i] = weight.product + weight.addend;
        out.magnitude[i] = fabs(weight.product) + fabs(weight.addend);
    }
    return out;
}

void product_matrix_free(struct product_matrix *matrix)
{
    free(matrix->value);
    free(matrix->magnitude);
}

void product_round(double *out, enum lode_type type, const float *x, uint32_t cols)
{
    for (uint32_t c = 0; c < cols; c++)
        out[c] = x[c];
    for (uint32_t c = 0; product_is_quantised(type) && c < cols; c += CPU_BLOCK) {
        struct cpu_block block;
        cpu_quantize_portable(&block, x + c, 1);
        for (uint32_t i = 0; i < CPU_BLOCK; i++)
            out[c + i] = (double)block.scale * block.q[i];
    }
}

static uint32_t roundings(enum lode_type type, uint32_t cols, enum product_sums sums)
{
    if (product_is_quantised(type))
        return cols / CPU_BLOCK * (has_minimum(type) ? 2 : 1) + 8;
    return sums == PRODUCT_LANES ? cols / 8 + 24 : 32 + (cols + 31) / 32 + 2;
}

struct product_value product_of(const struct product_matrix *matrix, uint32_t row, const double *rounded,
                                enum product_sums sums)
{
    const double *value = matrix->value + (size_t)row * matrix->cols,
                 *magnitude = matrix->magnitude + (size_t)row * matrix->cols;
    struct product_value out = {0, 0};
    for (uint32_t c = 0; c < matrix->cols; c++) {
        out.value += value[c] * rounded[c];
        out.allowed += magnitude[c] * fabs(rounded[c]);
    }
    out.allowed *= roundings(matrix->type, matrix->cols, sums) * PRODUCT_UNIT;
    return out;
}

// The slope of gelu_tanh is at most 1.13. In float it is off by 6 units of the last place of its argument,
// and by less than 1e-5 of itself.
struct product_value product_geglu(struct product_value gate, struct product_value up)
{
    const double x = gate.value;
    const double gelu = gelu_tanh(x);
    const double gelu_allowed = 1.13 * gate.allowed + fmin(12 * PRODUCT_UNIT * fabs(x), 1e-5 * fabs(gelu));
    return (struct product_value){
        gelu * up.value,
        gelu_allowed * (fabs(up.value) + up.allowed) + fabs(gelu) * up.allowed +
            2 * PRODUCT_UNIT * fabs(gelu * up.value) + 1e-37,
    };
}

// ---- whole results

static double *round_rows(enum lode_type type, struct lode_rows x)
{
    double *rounded = malloc((size_t)x.n * x.cols * sizeof *rounded);
    cr_assert_not_null(rounded);
    for (uint32_t i = 0; i < x.n; i++)
        product_round(rounded + (size_t)i * x.cols, type, row_of(x, i), x.cols);
    return rounded;
}

void product_check(struct lode_rows got, const struct lode_matrix *weight, struct lode_rows x,
                   enum product_sums sums, const char *what)
{
    struct product_matrix matrix = product_matrix_make(weight);
    double *rounded = round_rows(weight->type, x);
    for (uint32_t i = 0; i < x.n; i++)
        for (uint32_t r = 0; r < weight->rows; r++) {
            const struct product_value want = product_of(&matrix, r, rounded + (size_t)i * x.cols, sums);
            check_close(at(got, i, r), want.value, 0, want.allowed, "%s %s %ux%u, %u rows: [%u][%u]", what,
                        lode_type_name(weight->type), weight->rows, weight->cols, x.n, i, r);
        }
    check_gaps(got, what);
    free(rounded);
    product_matrix_free(&matrix);
}

void product_check_geglu(struct lode_rows got, const struct lode_matrix *gate, const struct lode_matrix *up,
                         struct lode_rows x, enum product_sums sums, const char *what)
{
    struct product_matrix gates = product_matrix_make(gate), ups = product_matrix_make(up);
    double *for_gate = round_rows(gate->type, x), *for_up = round_rows(up->type, x);
    for (uint32_t i = 0; i < x.n; i++)
        for (uint32_t r = 0; r < gate->rows; r++) {
            const struct product_value want =
                product_geglu(product_of(&gates, r, for_gate + (size_t)i * x.cols, sums),
                              product_of(&ups, r, for_up + (size_t)i * x.cols, sums));
            check_close(at(got, i, r), want.value, 0, want.allowed, "geglu %s %s, %u rows: [%u][%u]", what,
                        lode_type_name(gate->type), x.n, i, r);
        }
    check_gaps(got, what);
    free(for_gate);
    free(for_up);
    product_matrix_free(&gates);
    product_matrix_free(&ups);
}

// ---- experts

struct product_expert product_expert_make(const struct lode_expert_job *expert)
{
    return (struct product_expert){product_matrix_make(&expert->gate), product_matrix_make(&expert->up),
                                   product_matrix_make(&expert->down)};
}

void product_expert_free(struct product_expert *expert)
{
    product_matrix_free(&expert->gate);
    product_matrix_free(&expert->up);
    product_matrix_free(&expert->down);
}

// The middle row of a choice, with what rounding may cost.
static void middle_of(struct product_value *out, const struct product_expert *expert, const float *x,
                      enum product_sums sums)
{
    const uint32_t hidden = expert->gate.cols;
    double *for_gate = malloc(hidden * sizeof(double)), *for_up = malloc(hidden * sizeof(double));
    product_round(for_gate, expert->gate.type, x, hidden);
    product_round(for_up, expert->up.type, x, hidden);
    for (uint32_t r = 0; r < expert->gate.rows; r++)
        out[r] = product_geglu(product_of(&expert->gate, r, for_gate, sums),
                               product_of(&expert->up, r, for_up, sums));
    free(for_gate);
    free(for_up);
}

// The middle row as down takes it. slack[c] is how far the device's may be from it: as the row itself, or, of
// a block that is rounded, by what that does to the scale, and by a code where it may fall to the other side.
static void round_middle(double *rounded, double *slack, const struct product_value *middle, uint32_t width,
                         enum lode_type type)
{
    float *values = malloc(width * sizeof *values);
    for (uint32_t c = 0; c < width; c++)
        values[c] = (float)middle[c].value;
    product_round(rounded, type, values, width);
    for (uint32_t c = 0; c < width; c++)
        slack[c] = middle[c].allowed + PRODUCT_UNIT * fabs(middle[c].value);
    for (uint32_t b = 0; product_is_quantised(type) && b < width; b += 32) {
        double largest = 0, off = 0;
        for (uint32_t c = b; c < b + 32; c++) {
            largest = fmax(largest, fabs(middle[c].value));
            off = fmax(off, slack[c]);
        }
        const double scale = largest / 127;
        for (uint32_t c = b; c < b + 32; c++) {
            const double code = scale > 0 ? fabs(middle[c].value) / scale : 0;
            const double from_tie = fabs(code - floor(code) - 0.5);
            const bool near_tie = scale > 0 && from_tie <= 2 * off / scale + 1e-4;
            slack[c] = off * 1.01 + (near_tie ? scale * (1 + 2 * off / fmax(scale, 1e-30)) : 0);
        }
    }
    free(values);
}

void product_check_expert(const float *got, const struct product_expert *expert, const float *x,
                          enum product_sums sums, const char *what)
{
    const struct product_matrix *down = &expert->down;
    const uint32_t width = down->cols;
    struct product_value *middle = malloc(width * sizeof *middle);
    double *rounded = malloc(width * sizeof *rounded), *slack = malloc(width * sizeof *slack);
    middle_of(middle, expert, x, sums);
    round_middle(rounded, slack, middle, width, down->type);
    for (uint32_t r = 0; r < down->rows; r++) {
        struct product_value want = product_of(down, r, rounded, sums);
        for (uint32_t c = 0; c < width; c++)
            want.allowed += fabs(down->value[(size_t)r * width + c]) * slack[c] +
                            down->magnitude[(size_t)r * width + c] * slack[c] * 1e-4;
        check_close(got[r], want.value, 0, want.allowed, "%s: output %u", what, r);
    }
    free(middle);
    free(rounded);
    free(slack);
}
