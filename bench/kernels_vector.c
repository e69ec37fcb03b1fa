// Cells of the operations on rows of floats: norms, sums, gates, soft cap and rotation.
#include "bench/cell.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ERROR_SAMPLES 200
#define EPS 1e-6f
#define SCALE 0.5f
#define CAP 30.0f
#define FIRST_POSITION 30000

struct operands;

struct vector_op {
    const char *name;
    uint32_t arrays;  // of rows x cols floats that are read or written
    double float_ops; // for an element; a power of e counts as 20
    void (*run)(struct lode_device *device, const struct operands *o, struct lode_rows a, struct lode_rows b,
                struct lode_rows out);
    struct exact (*want)(const struct operands *o, uint32_t row, uint32_t col);
};

struct vector_spec {
    const struct vector_op *op;
    uint32_t rows, cols, head_size; // head_size: rope only
};

struct operands {
    struct lode_rows a, b, out; // out begins as a, for operations in place
    float *weight, *frequency;
    uint32_t head_size;
};

static double element(struct lode_rows rows, uint32_t row, uint32_t col)
{
    return (double)rows.data[row * rows.stride + col];
}

static double inverse_rms(struct lode_rows x, uint32_t row)
{
    double sum = 0;
    for (uint32_t i = 0; i < x.cols; i++)
        sum += element(x, row, i) * element(x, row, i);
    return 1 / sqrt(sum / x.cols + (double)EPS);
}

static void run_rms_norm(struct lode_device *device, const struct operands *o, struct lode_rows a,
                         struct lode_rows b, struct lode_rows out)
{
    (void)b;
    device->ops->rms_norm(device, out, a, o->weight, EPS, SCALE);
}

static struct exact want_rms_norm(const struct operands *o, uint32_t row, uint32_t col)
{
    double value = element(o->a, row, col) * inverse_rms(o->a, row) * (double)o->weight[col] * (double)SCALE;
    return (struct exact){value, fabs(value)};
}

static void run_add_rms_norm(struct lode_device *device, const struct operands *o, struct lode_rows a,
                             struct lode_rows b, struct lode_rows out)
{
    (void)a;
    device->ops->add_rms_norm(device, out, b, o->weight, EPS, SCALE);
}

static struct exact want_add_rms_norm(const struct operands *o, uint32_t row, uint32_t col)
{
    double old = element(o->a, row, col);
    double term = element(o->b, row, col) * inverse_rms(o->b, row) * (double)o->weight[col];
    return (struct exact){(old + term) * (double)SCALE, (fabs(old) + fabs(term)) * (double)SCALE};
}

static void run_add(struct lode_device *device, const struct operands *o, struct lode_rows a,
                    struct lode_rows b, struct lode_rows out)
{
    (void)o;
    device->ops->add(device, out, a, b, SCALE);
}

static struct exact want_add(const struct operands *o, uint32_t row, uint32_t col)
{
    double a = element(o->a, row, col), b = element(o->b, row, col);
    return (struct exact){(a + b) * (double)SCALE, (fabs(a) + fabs(b)) * (double)SCALE};
}

static void run_geglu(struct lode_device *device, const struct operands *o, struct lode_rows a,
                      struct lode_rows b, struct lode_rows out)
{
    (void)o;
    device->ops->geglu(device, out, a, b);
}

static struct exact want_geglu(const struct operands *o, uint32_t row, uint32_t col)
{
    double value = gelu_tanh(element(o->a, row, col)) * element(o->b, row, col);
    return (struct exact){value, fabs(value)};
}

static void run_scale(struct lode_device *device, const struct operands *o, struct lode_rows a,
                      struct lode_rows b, struct lode_rows out)
{
    (void)o, (void)a, (void)b;
    device->ops->scale(device, out, -1);
}

static struct exact want_scale(const struct operands *o, uint32_t row, uint32_t col)
{
    double value = -element(o->a, row, col);
    return (struct exact){value, fabs(value)};
}

static void run_softcap(struct lode_device *device, const struct operands *o, struct lode_rows a,
                        struct lode_rows b, struct lode_rows out)
{
    (void)o, (void)a, (void)b;
    device->ops->softcap(device, out, CAP);
}

static struct exact want_softcap(const struct operands *o, uint32_t row, uint32_t col)
{
    double value = (double)CAP * tanh(element(o->a, row, col) / (double)CAP);
    return (struct exact){value, fabs(value)};
}

static void run_rope(struct lode_device *device, const struct operands *o, struct lode_rows a,
                     struct lode_rows b, struct lode_rows out)
{
    (void)a, (void)b;
    device->ops->rope(device, out, out.cols / o->head_size, o->head_size, FIRST_POSITION, o->frequency);
}

static struct exact want_rope(const struct operands *o, uint32_t row, uint32_t col)
{
    const uint32_t half = o->head_size / 2, j = col % o->head_size;
    const double angle = (double)(FIRST_POSITION + row) * (double)o->frequency[j % half];
    const double own = element(o->a, row, col) * cos(angle);
    const double other =
        j < half ? -element(o->a, row, col + half) * sin(angle) : element(o->a, row, col - half) * sin(angle);
    return (struct exact){own + other, fabs(own) + fabs(other)};
}

static const struct vector_op rms_norm = {"rms_norm", 2, 4, run_rms_norm, want_rms_norm};
static const struct vector_op add_rms_norm = {"add_rms_norm", 3, 6, run_add_rms_norm, want_add_rms_norm};
static const struct vector_op add = {"add", 3, 2, run_add, want_add};
static const struct vector_op geglu = {"geglu", 3, 30, run_geglu, want_geglu};
static const struct vector_op scale = {"scale", 2, 1, run_scale, want_scale};
static const struct vector_op softcap = {"softcap", 2, 40, run_softcap, want_softcap};
static const struct vector_op rope = {"rope", 2, 3, run_rope, want_rope};

static void make_vector(struct cell *cell)
{
    const struct vector_spec *spec = cell->spec;
    struct operands *o = cell->state = cell_memory(cell, sizeof *o);
    const double bytes = (double)spec->rows * spec->cols * spec->op->arrays * sizeof(float);
    const bool cached = bytes <= (double)CACHED_LIMIT_BYTES;
    cell->cost = (struct cost){.writes = true,
                               .memory_bytes = cached ? 0 : bytes,
                               .cached_bytes = cached ? bytes : 0,
                               .float_ops = spec->op->float_ops * spec->rows * spec->cols};

    cell->n_copies = 1;
    o->weight = cell_rows(cell, 1, spec->cols, 2).data;
    o->head_size = spec->head_size ? spec->head_size : spec->cols;
    const uint32_t half = o->head_size / 2;
    o->frequency = cell_memory(cell, half * sizeof(float));
    for (uint32_t j = 0; j < half; j++)
        o->frequency[j] = (float)pow(1e4, -(double)j / half);

    cell->n_copies = cached ? 1 : ring_copies(bytes);
    o->a = cell_rows(cell, spec->rows, spec->cols, 4);
    o->b = cell_rows(cell, spec->rows, spec->cols, 3);
    o->out = cell_rows(cell, spec->rows, spec->cols, 4);
}

static void run_vector(struct cell *cell, uint32_t copy)
{
    const struct operands *o = cell->state;
    ((const struct vector_spec *)cell->spec)
        ->op->run(cell->device, o, rows_of_copy(o->a, copy), rows_of_copy(o->b, copy),
                  rows_of_copy(o->out, copy));
}

static double vector_error(struct cell *cell)
{
    const struct operands *o = cell->state;
    const struct vector_spec *spec = cell->spec;
    memcpy(o->out.data, o->a.data, (size_t)o->a.n * o->a.stride * sizeof(float));
    run_vector(cell, 0);
    double worst = 0;
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t row = test_random_u32(&cell->random) % o->out.n;
        uint32_t col = test_random_u32(&cell->random) % o->out.cols;
        worst = fmax(worst, error_of(element(o->out, row, col), spec->op->want(o, row, col)));
    }
    return worst;
}

static const struct cell_ops vector_ops = {make_vector, run_vector, vector_error};

static void offer(struct bench *bench, const struct vector_op *op, const char *model, uint32_t rows,
                  uint32_t cols, uint32_t head_size)
{
    const struct vector_spec spec = {op, rows, cols, head_size};
    char shape[64], heads[32] = "";
    if (head_size)
        snprintf(heads, sizeof heads, "%ux", cols / head_size);
    snprintf(shape, sizeof shape, "%s %s%u rows=%u", model, heads, head_size ? head_size : cols, rows);
    bench_offer(bench, op->name, "F32", shape, &vector_ops, &spec);
}

static void list_vector(struct bench *bench)
{
    static const struct {
        const char *name;
        uint32_t hidden, ffn, n_heads;
    } models[] = {{"e2b", 1536, 6144, 8}, {"26b", 2816, 2112, 16}, {"31b", 5376, 21504, 32}};
    static const struct vector_op *const of_hidden[] = {&rms_norm, &add_rms_norm, &add, &scale};
    for (uint32_t rows = 1; rows <= 512; rows += 511)
        for (unsigned m = 0; m < sizeof models / sizeof *models; m++) {
            for (unsigned i = 0; i < sizeof of_hidden / sizeof *of_hidden; i++)
                offer(bench, of_hidden[i], models[m].name, rows, models[m].hidden, 0);
            offer(bench, &geglu, models[m].name, rows, models[m].ffn, 0);
            for (uint32_t head_size = 256; head_size <= 512; head_size += 256)
                offer(bench, &rope, models[m].name, rows, models[m].n_heads * head_size, head_size);
        }
    offer(bench, &softcap, "head", 1, 262144, 0);
}

const struct family vector_family = {
    "vector",
    {.rows = 512, .cols = 32, .ffn_width = 32, .n_heads = 1, .head_size = 512, .expert_rows = 1},
    list_vector};
