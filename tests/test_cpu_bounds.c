// The error bounds that backends/cpu/vector.h states, on more than a thousand random shapes: every operation
// over the vector kernels, of every instruction set, against double precision.
//
// A shape is a seed: sizes, strides, magnitudes and threads follow from it, and all instruction sets get the
// same. Bounds are in units of U, the rounding of a float of magnitude 1.
#include "tests/cpu_variants.h"

#include <stdio.h>

#define U 0x1p-24
#define EPS 1e-6f
#define MOST_COLS 3000

enum {
    NORM_SHAPES = 120,
    ADD_NORM_SHAPES = 120,
    ADD_SHAPES = 80,
    SCALE_SHAPES = 80,
    GEGLU_SHAPES = 120,
    SOFTCAP_SHAPES = 100,
    ROPE_SHAPES = 120,
    EXP_SHAPES = 100,
    ROUTER_SHAPES = 120,
    COMBINE_SHAPES = 100,
    STORE_SHAPES = 90,
    ATTENTION_SHAPES = 210, // 70 of each KV format
};

_Static_assert(NORM_SHAPES + ADD_NORM_SHAPES + ADD_SHAPES + SCALE_SHAPES + GEGLU_SHAPES + SOFTCAP_SHAPES +
                       ROPE_SHAPES + EXP_SHAPES + ROUTER_SHAPES + COMBINE_SHAPES + STORE_SHAPES +
                       ATTENTION_SHAPES >=
                   1000,
               "the contract is tested on 1,000 shapes at least");

// One shape on one instruction set, and the largest share of the bound that was seen.
struct trial {
    const struct variant *variant;
    struct cpu_device device;
    uint64_t state;
    unsigned seed;
    double worst;
};

static void check_within(struct trial *trial, double got, double want, double bound)
{
    double difference = fabs(got - want);
    if (!(difference <= bound))
        cr_assert_fail("%s, shape %u: got %.9g, want %.9g, %.3g apart, allowed %.3g", trial->variant->name,
                       trial->seed, got, want, difference, bound);
    if (bound > 0)
        trial->worst = fmax(trial->worst, difference / bound);
}

static void run_trials(const char *op, unsigned n_shapes, const struct lode_limits *limits,
                       void (*check)(struct trial *trial))
{
    double worst = 0;
    for (unsigned seed = 0; seed < n_shapes; seed++) {
        FOR_VARIANTS(variant)
        {
            struct trial trial = {.variant = variant, .state = seed * 7919 + 1, .seed = seed};
            trial.device = make_device(variant, 1 + seed % 3, limits);
            check(&trial);
            worst = fmax(worst, trial.worst);
            cpu_vector_release(&trial.device.vector_scratch);
        }
    }
    fprintf(stderr, "  %-12s %3u shapes, at most %.2f of the bound\n", op, n_shapes, worst);
    cr_expect_gt(worst, 0, "nothing was compared, or the reference is what it is compared with");
}

static const struct lode_limits few = {.rows = 8, .n_heads = 8, .head_size = 512};

static uint32_t random_cols(struct trial *trial)
{
    return 1 + random_below(&trial->state, random_below(&trial->state, 3) ? 200 : MOST_COLS);
}

static uint32_t random_count(struct trial *trial)
{
    return 1 + random_below(&trial->state, 6);
}

static float random_size(struct trial *trial) // 2^-8 .. 2^8
{
    return ldexpf(1, (int)random_below(&trial->state, 17) - 8);
}

static double inverse_rms(struct lode_rows x, uint32_t row)
{
    double sum = 0;
    for (uint32_t j = 0; j < x.cols; j++)
        sum += (double)at(x, row, j) * (double)at(x, row, j);
    return 1 / sqrt(sum / x.cols + (double)EPS);
}

// ---- norms ----

static void check_norm(struct trial *trial)
{
    const uint32_t n = random_count(trial), cols = random_cols(trial);
    const float scale = random_size(trial);
    struct lode_rows x = make_rows(n, cols, random_size(trial), &trial->state), out = copy_rows(x);
    struct lode_rows weight = make_rows(1, cols, 2, &trial->state);
    const float *weights = trial->seed % 4 ? weight.data : NULL;
    cpu_rms_norm(&trial->device.base, out, x, weights, EPS, scale);
    for (uint32_t i = 0; i < n; i++) {
        double squares = 0;
        for (uint32_t j = 0; j < cols; j++)
            squares += (double)at(x, i, j) * (double)at(x, i, j);
        check_within(trial, trial->variant->kernels->sum_squares(x.data + i * x.stride, cols), squares,
                     4 * U * squares);
        const double factor = inverse_rms(x, i) * (double)scale;
        for (uint32_t j = 0; j < cols; j++) {
            double want = (double)at(x, i, j) * factor * (weights ? (double)weights[j] : 1);
            check_within(trial, (double)at(out, i, j), want, 5 * U * fabs(want));
        }
    }
    check_gaps(out, trial->variant->name);
    free(x.data), free(out.data), free(weight.data);
}

Test(cpu_bounds, rms_norm)
{
    run_trials("rms_norm", NORM_SHAPES, &few, check_norm);
}

static void check_add_norm(struct trial *trial)
{
    const uint32_t n = random_count(trial), cols = random_cols(trial);
    const float scale = random_size(trial);
    struct lode_rows x = make_rows(n, cols, random_size(trial), &trial->state);
    struct lode_rows old = make_rows(n, cols, random_size(trial), &trial->state), out = copy_rows(old);
    struct lode_rows weight = make_rows(1, cols, 2, &trial->state);
    const float *weights = trial->seed % 4 ? weight.data : NULL;
    cpu_add_rms_norm(&trial->device.base, out, x, weights, EPS, scale);
    for (uint32_t i = 0; i < n; i++) {
        const double factor = inverse_rms(x, i);
        for (uint32_t j = 0; j < cols; j++) {
            double term = (double)at(x, i, j) * factor * (weights ? (double)weights[j] : 1);
            double sum = (double)at(old, i, j) + term;
            check_within(trial, (double)at(out, i, j), sum * (double)scale,
                         (5 * fabs(term) + 2.01 * fabs(sum)) * U * (double)scale);
        }
    }
    check_gaps(out, trial->variant->name);
    free(x.data), free(old.data), free(out.data), free(weight.data);
}

Test(cpu_bounds, add_rms_norm)
{
    run_trials("add_rms_norm", ADD_NORM_SHAPES, &few, check_add_norm);
}

// ---- single values ----

static void check_add(struct trial *trial)
{
    const uint32_t n = random_count(trial), cols = random_cols(trial);
    const float scale = random_size(trial) * 1.3f;
    struct lode_rows a = make_rows(n, cols, random_size(trial), &trial->state);
    struct lode_rows b = make_rows(n, cols, random_size(trial), &trial->state), out = copy_rows(a);
    cpu_add(&trial->device.base, out, a, b, scale);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < cols; j++) {
            double want = ((double)at(a, i, j) + (double)at(b, i, j)) * (double)scale;
            check_within(trial, (double)at(out, i, j), want, 2.01 * U * fabs(want));
        }
    check_gaps(out, trial->variant->name);
    free(a.data), free(b.data), free(out.data);
}

Test(cpu_bounds, add)
{
    run_trials("add", ADD_SHAPES, &few, check_add);
}

static void check_scale(struct trial *trial)
{
    const float scale = random_size(trial) * -1.7f;
    struct lode_rows x =
        make_rows(random_count(trial), random_cols(trial), random_size(trial), &trial->state);
    struct lode_rows out = copy_rows(x);
    cpu_scale(&trial->device.base, out, scale);
    for (uint32_t i = 0; i < x.n; i++)
        for (uint32_t j = 0; j < x.cols; j++) {
            double want = (double)at(x, i, j) * (double)scale;
            check_within(trial, (double)at(out, i, j), want, U * fabs(want));
        }
    check_gaps(out, trial->variant->name);
    free(x.data), free(out.data);
}

Test(cpu_bounds, scale)
{
    run_trials("scale", SCALE_SHAPES, &few, check_scale);
}

static void check_geglu(struct trial *trial)
{
    const uint32_t n = random_count(trial), cols = random_cols(trial);
    struct lode_rows gate = make_rows(n, cols, trial->seed % 2 ? 3 : 15, &trial->state);
    struct lode_rows up = make_rows(n, cols, random_size(trial), &trial->state), out = copy_rows(up);
    cpu_geglu(&trial->device.base, out, gate, up);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < cols; j++) {
            double x = (double)at(gate, i, j), y = (double)at(up, i, j);
            double gelu = 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
            check_within(trial, (double)at(out, i, j), gelu * y, (5 * fabs(gelu) + 1) * U * fabs(y));
        }
    check_gaps(out, trial->variant->name);
    free(gate.data), free(up.data), free(out.data);
}

Test(cpu_bounds, geglu)
{
    run_trials("geglu", GEGLU_SHAPES, &few, check_geglu);
}

static void check_softcap(struct trial *trial)
{
    const float cap = random_size(trial) * 1.2f;
    struct lode_rows x =
        make_rows(random_count(trial), random_cols(trial), cap * random_size(trial), &trial->state);
    struct lode_rows out = copy_rows(x);
    cpu_softcap(&trial->device.base, out, cap);
    for (uint32_t i = 0; i < x.n; i++)
        for (uint32_t j = 0; j < x.cols; j++) {
            double want = (double)cap * tanh((double)at(x, i, j) / (double)cap);
            check_within(trial, (double)at(out, i, j), want, 5 * U * fabs(want));
        }
    check_gaps(out, trial->variant->name);
    free(x.data), free(out.data);
}

Test(cpu_bounds, softcap)
{
    run_trials("softcap", SOFTCAP_SHAPES, &few, check_softcap);
}

// ---- rotation ----

static void check_rope(struct trial *trial)
{
    const uint32_t head_size = 2 * (1 + random_below(&trial->state, 256)), half = head_size / 2;
    const uint32_t n_heads = 1 + random_below(&trial->state, 4), n = random_count(trial);
    const uint32_t first = random_below(&trial->state, trial->seed % 2 ? 262144 - 8 : 2000);
    const double base = trial->seed % 3 ? 1e4 : 1e6;
    float frequency[256];
    for (uint32_t j = 0; j < half; j++)
        frequency[j] = j % 7 == 6 ? 0 : (float)pow(base, -2.0 * j / head_size);
    struct lode_rows x = make_rows(n, n_heads * head_size, random_size(trial), &trial->state);
    struct lode_rows out = copy_rows(x);
    cpu_rope(&trial->device.base, out, n_heads, head_size, first, frequency);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < x.cols; c++) {
            const uint32_t j = c % head_size;
            const double angle = (double)(first + i) * (double)frequency[j % half];
            const double own = (double)at(x, i, c) * cos(angle);
            const double other =
                j < half ? -(double)at(x, i, c + half) * sin(angle) : (double)at(x, i, c - half) * sin(angle);
            // 1e-10: the angle's own error, where its sine or cosine is nearly 0.
            const double size =
                fabs((double)at(x, i, c)) + fabs((double)at(x, i, j < half ? c + half : c - half));
            check_within(trial, (double)at(out, i, c), own + other,
                         3 * U * (fabs(own) + fabs(other)) + 1e-10 * size);
        }
    check_gaps(out, trial->variant->name);
    free(x.data), free(out.data);
}

Test(cpu_bounds, rope)
{
    run_trials("rope", ROPE_SHAPES, &few, check_rope);
}

// ---- powers of e ----

static void check_powers(struct trial *trial)
{
    const uint32_t n = random_cols(trial);
    struct lode_rows x = make_rows(1, n, trial->seed % 2 ? 5 : 42, &trial->state), out = copy_rows(x);
    double sum = 0;
    float max = trial->variant->kernels->max(x.data, n);
    for (uint32_t j = 0; j < n; j++)
        cr_assert_leq(x.data[j], max, "%s, shape %u", trial->variant->name, trial->seed);
    const double got_sum = trial->variant->kernels->exp_sum(out.data, x.data, max, n);
    for (uint32_t j = 0; j < n; j++) {
        const double distance = (double)x.data[j] - (double)max, want = exp(distance);
        sum += want;
        check_within(trial, (double)out.data[j], want, (4 + fabs(distance)) * U * want);
    }
    check_within(trial, got_sum, sum, 12 * U * sum);
    check_gaps(out, trial->variant->name);
    free(x.data), free(out.data);
}

Test(cpu_bounds, exp_sum)
{
    run_trials("exp_sum", EXP_SHAPES, &few, check_powers);
}

// ---- experts ----

static void check_router(struct trial *trial)
{
    const uint32_t n_experts = 1 + random_below(&trial->state, 256), n = random_count(trial);
    const uint32_t k = 1 + random_below(&trial->state, n_experts < 16 ? n_experts : 16);
    struct lode_rows logits = make_rows(n, n_experts, trial->seed % 2 ? 3 : 30, &trial->state);
    struct lode_rows scales = make_rows(1, n_experts, 2, &trial->state);
    const float *scale = trial->seed % 3 ? scales.data : NULL;
    int32_t ids[6 * 16];
    float weights[6 * 16];
    cpu_router(&trial->device.base, ids, weights, logits, k, scale);
    for (uint32_t i = 0; i < n; i++) {
        const int32_t *id = ids + i * k;
        double chosen = 0, all = 0;
        uint32_t above = 0;
        for (uint32_t e = 0; e < n_experts; e++) {
            all += exp((double)at(logits, i, e) - (double)at(logits, i, (uint32_t)id[0]));
            above += at(logits, i, e) > at(logits, i, (uint32_t)id[k - 1]);
        }
        cr_assert_lt(above, k, "%s, shape %u: a larger logit was not chosen", trial->variant->name,
                     trial->seed);
        for (uint32_t r = 0; r < k; r++)
            chosen += exp((double)at(logits, i, (uint32_t)id[r]) - (double)at(logits, i, (uint32_t)id[0]));
        chosen = fmax(chosen, all * 0x1p-14);
        for (uint32_t r = 0; r < k; r++) {
            double distance = (double)at(logits, i, (uint32_t)id[r]) - (double)at(logits, i, (uint32_t)id[0]);
            double want = exp(distance) / chosen * (scale ? (double)scale[id[r]] : 1);
            // The rounding of the distance to the largest logit becomes the power's.
            check_within(trial, (double)weights[i * k + r], want,
                         (8 + fabs(distance)) * U * fabs(want) + 1e-37);
        }
    }
    free(logits.data), free(scales.data);
}

Test(cpu_bounds, router)
{
    run_trials("router", ROUTER_SHAPES, &few, check_router);
}

static void check_combine(struct trial *trial)
{
    const uint32_t n = random_count(trial), k = 1 + random_below(&trial->state, 10);
    const uint32_t cols = random_cols(trial);
    struct lode_rows slots = make_rows(n * k, cols, random_size(trial), &trial->state);
    struct lode_rows out = make_rows(n, cols, 1, &trial->state),
                     weights = make_rows(1, n * k, 1, &trial->state);
    cpu_experts_combine(&trial->device.base, out, slots, weights.data, k);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < cols; j++) {
            double want = 0, magnitude = 0;
            for (uint32_t r = 0; r < k; r++) {
                double term = (double)weights.data[i * k + r] * (double)at(slots, i * k + r, j);
                want += term;
                magnitude += fabs(term);
            }
            check_within(trial, (double)at(out, i, j), want, k * U * magnitude);
        }
    check_gaps(out, trial->variant->name);
    free(slots.data), free(out.data), free(weights.data);
}

Test(cpu_bounds, experts_combine)
{
    run_trials("combine", COMBINE_SHAPES, &few, check_combine);
}

// ---- KV cache ----

struct kv_shape {
    uint32_t n_heads, n_kv_heads, head_size, rows, first_position, window;
    enum lode_kv_format format;
};

static struct lode_kv make_cache(const struct kv_shape *shape, uint32_t capacity)
{
    size_t bytes = lode_kv_row_bytes(shape->format, shape->head_size) * shape->n_kv_heads * capacity;
    struct lode_kv kv = {NULL, NULL, shape->format, shape->n_kv_heads, shape->head_size, capacity};
    kv.k = aligned_alloc(LODE_DEVICE_ALIGN, (bytes + 2 * LODE_DEVICE_SLACK) / 64 * 64);
    kv.v = aligned_alloc(LODE_DEVICE_ALIGN, (bytes + 2 * LODE_DEVICE_SLACK) / 64 * 64);
    memset(kv.k, 0xff, bytes); // NaN in every format
    memset(kv.v, 0xff, bytes);
    return kv;
}

// What a format may lose of a value in a block of 32 with this largest magnitude.
static double format_bound(enum lode_kv_format format, double value, double largest)
{
    if (format == LODE_CACHE_F32)
        return 0;
    if (format == LODE_CACHE_F16)
        return fabs(value) * 0x1p-11 + 0x1p-25; // half of the last bit, or of the smallest half
    double scale = largest / 127;
    return 0.501 * scale + largest * 0x1p-11 +
           127 * 0x1p-25; // the code's rounding, and the scale's to a half
}

// A query that sees one position gets its V back, whatever the scores: what the cache holds, in any layout.
static void check_store(struct trial *trial)
{
    struct kv_shape shape = {.head_size = 32 * (1 + random_below(&trial->state, 16)),
                             .rows = random_count(trial),
                             .first_position = random_below(&trial->state, 1000),
                             .format = trial->seed % CPU_KV_FORMATS};
    shape.n_heads = shape.n_kv_heads = 1 + random_below(&trial->state, 3);
    const uint32_t cols = shape.n_kv_heads * shape.head_size;
    struct lode_rows k = make_rows(shape.rows, cols, 1, &trial->state);
    struct lode_rows v = make_rows(shape.rows, cols, random_size(trial), &trial->state);
    struct lode_rows q = make_rows(shape.rows, cols, 0.1f, &trial->state), out = copy_rows(q);
    struct lode_kv kv = make_cache(&shape, shape.rows + random_below(&trial->state, 9));
    cpu_kv_store(&trial->device.base, &kv, k, v, shape.first_position);
    cpu_attention(&trial->device.base, out, q, shape.n_heads, &kv, shape.first_position, 1);
    for (uint32_t i = 0; i < shape.rows; i++)
        for (uint32_t c = 0; c < cols; c++) {
            double largest = 0, value = (double)at(v, i, c);
            for (uint32_t j = c / 32 * 32; j < c / 32 * 32 + 32; j++)
                largest = fmax(largest, fabs((double)at(v, i, j)));
            check_within(trial, (double)at(out, i, c), value, format_bound(shape.format, value, largest));
        }
    free(k.data), free(v.data), free(q.data), free(out.data), free(kv.k), free(kv.v);
}

Test(cpu_bounds, kv_store_in_every_format)
{
    run_trials("kv_store", STORE_SHAPES, &few, check_store);
}

// ---- attention ----

// Values that every format holds exactly: whole numbers over 128, 127 of them once in a block of 32.
static struct lode_rows exact_rows(uint32_t n, uint32_t cols, uint64_t *state)
{
    struct lode_rows rows = make_rows(n, cols, 1, state);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < cols; c++)
            rows.data[i * rows.stride + c] =
                (c % 32 == 0 ? 127 : (float)((int)random_below(state, 255) - 127)) / 128;
    return rows;
}

static struct kv_shape random_attention(struct trial *trial)
{
    static const uint32_t head_sizes[] = {32, 64, 96, 128, 256, 512}, groups[] = {1, 2, 3, 4, 8};
    struct kv_shape shape = {.n_kv_heads = 1 + random_below(&trial->state, 3),
                             .head_size = head_sizes[random_below(&trial->state, 6)],
                             .rows = 1 + random_below(&trial->state, trial->seed % 2 ? 3 : 40),
                             .first_position = random_below(&trial->state, trial->seed % 4 ? 100 : 600),
                             .window = trial->seed % 5 < 2 ? 1 + random_below(&trial->state, 150) : 0,
                             .format = trial->seed % CPU_KV_FORMATS};
    shape.n_heads = shape.n_kv_heads * groups[random_below(&trial->state, 5)];
    return shape;
}

struct attention_case {
    struct kv_shape shape;
    uint32_t begin; // position of the first row of k and v
    struct lode_rows k, v, q, out;
};

// One query: the bound has a part for each rounding of the sum over the keys, and one for the scores, whose
// error is that of the power of e.
static void check_query(struct trial *trial, const struct attention_case *c, uint32_t row, uint32_t head)
{
    const struct kv_shape *s = &c->shape;
    const uint32_t position = s->first_position + row;
    const uint32_t begin = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
    const uint32_t kv_col = head / (s->n_heads / s->n_kv_heads) * s->head_size;
    double p[1024], max = -INFINITY, sum = 0, largest_score = 0;
    for (uint32_t key = begin; key <= position; key++) {
        double score = 0, magnitude = 0;
        for (uint32_t j = 0; j < s->head_size; j++) {
            double term =
                (double)at(c->q, row, head * s->head_size + j) * (double)at(c->k, key - c->begin, kv_col + j);
            score += term;
            magnitude += fabs(term);
        }
        p[key - begin] = score;
        max = fmax(max, score);
        largest_score = fmax(largest_score, magnitude);
    }
    const uint32_t n_keys = position - begin + 1;
    for (uint32_t i = 0; i < n_keys; i++)
        sum += p[i] = exp(p[i] - max);
    for (uint32_t j = 0; j < s->head_size; j++) {
        double want = 0, magnitude = 0;
        for (uint32_t i = 0; i < n_keys; i++) {
            double term = p[i] / sum * (double)at(c->v, begin + i - c->begin, kv_col + j);
            want += term;
            magnitude += fabs(term);
        }
        check_within(trial, (double)at(c->out, row, head * s->head_size + j), want,
                     (4 + sqrt(n_keys) / 4 + largest_score) * U * magnitude);
    }
}

static void check_attention(struct trial *trial)
{
    struct attention_case c = {.shape = random_attention(trial)};
    const struct kv_shape *s = &c.shape;
    const uint32_t end = s->first_position + s->rows, cols = s->n_kv_heads * s->head_size;
    c.begin = s->window && s->first_position + 1 > s->window ? s->first_position + 1 - s->window : 0;
    c.k = exact_rows(end - c.begin, cols, &trial->state);
    c.v = exact_rows(end - c.begin, cols, &trial->state);
    c.q = make_rows(s->rows, s->n_heads * s->head_size, trial->seed % 7 ? 0.4f : 4, &trial->state);
    c.out = copy_rows(c.q);
    struct lode_kv kv = make_cache(s, end - c.begin + random_below(&trial->state, 20));
    cpu_kv_store(&trial->device.base, &kv, c.k, c.v, c.begin);
    cpu_attention(&trial->device.base, c.out, c.q, s->n_heads, &kv, s->first_position, s->window);
    for (uint32_t i = 0; i < 3; i++)
        check_query(trial, &c, random_below(&trial->state, s->rows), random_below(&trial->state, s->n_heads));
    check_query(trial, &c, s->rows - 1, s->n_heads - 1);
    check_gaps(c.out, trial->variant->name);
    free(c.k.data), free(c.v.data), free(c.q.data), free(c.out.data), free(kv.k), free(kv.v);
}

Test(cpu_bounds, attention_in_every_format)
{
    const struct lode_limits limits = {.rows = 40, .n_heads = 24, .head_size = 512};
    run_trials("attention", ATTENTION_SHAPES, &limits, check_attention);
}
