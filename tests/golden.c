#include "tests/golden.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int32_t *golden_read_ids(const char *path, size_t *out_count)
{
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "cannot open %s", path);
    size_t capacity = 64, n = 0;
    int32_t *ids = malloc(capacity * sizeof *ids), id;
    while (fscanf(file, "%d%*[,\n ]", &id) == 1) {
        if (n == capacity)
            ids = realloc(ids, (capacity *= 2) * sizeof *ids);
        ids[n++] = id;
    }
    fclose(file);
    cr_assert_gt(n, 0, "%s holds no ids", path);
    *out_count = n;
    return ids;
}

// Mean KL of llama.cpp on the quantised file against the exact logits.
const struct golden_model golden_quantised[] = {
    {"k-31b-BF16", 5.367e-05},     {"k-31b-F16", 1.050e-06},  {"k-31b-IQ4_NL", 7.900e-04},
    {"k-31b-IQ4_XS", 1.452e-03},   {"k-31b-Q2_K", 1.066e-03}, {"k-31b-Q3_K_S", 1.203e-03},
    {"k-31b-Q4_0", 5.813e-04},     {"k-31b-Q4_1", 6.355e-04}, {"k-31b-Q4_K_S", 1.231e-03},
    {"k-31b-Q5_0", 6.986e-04},     {"k-31b-Q5_1", 6.406e-04}, {"k-31b-Q5_K_S", 1.204e-03},
    {"k-31b-Q6_K", 1.171e-03},     {"k-31b-Q8_0", 7.138e-04}, {"k-moe-IQ4_NL", 1.412e-03},
    {"k-moe-Q4_K_S", 1.389e-03},   {"k-moe-Q6_K", 1.884e-03}, {"m-26b-a4b-q4_0", 3.543e-02},
    {"m-26b-a4b-q8_0", 4.594e-02}, {"m-31b-q4_0", 3.547e-03}, {"m-31b-q8_0", 3.858e-03},
    {"m-e2b-q4_0", 4.848e-03},     {"m-e2b-q8_0", 4.873e-03}, {"m-e4b-q4_0", 6.038e-03},
    {"m-e4b-q8_0", 7.351e-03},
};
const size_t golden_n_quantised = sizeof golden_quantised / sizeof *golden_quantised;

bool golden_find(struct golden *out, const char *name)
{
    char file[128], ids[512];
    snprintf(file, sizeof file, "golden/%s.gguf", name);
    bool found = test_data_find(out->model, sizeof out->model, file);
    snprintf(file, sizeof file, "golden/%s.exact.bin", name);
    found = test_data_find(out->exact, sizeof out->exact, file) && found;
    snprintf(file, sizeof file, "golden/%c-tokens.txt", name[0]);
    found = test_data_find(ids, sizeof ids, file) && found;
    if (found)
        out->ids = golden_read_ids(ids, &out->count);
    return found;
}

float *golden_read_floats(const char *path, size_t n)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "cannot open %s", path);
    float *floats = malloc(n * sizeof *floats);
    cr_assert_eq(fread(floats, sizeof *floats, n, file), n, "%s is shorter than %zu floats", path, n);
    cr_assert_eq(fgetc(file), EOF, "%s is longer than %zu floats", path, n);
    fclose(file);
    return floats;
}

float *golden_logits(const char *model_path, const int32_t *ids, size_t count, const struct golden_run *run,
                     size_t *out_vocab)
{
    struct lode_error error = {0};
    struct lode_engine_options engine_options = lode_engine_options_default();
    engine_options.threads = run->threads;
    engine_options.isa = run->isa;
    struct lode_engine *engine;
    cr_assert_eq(lode_engine_open(&engine, model_path, &engine_options, &error), 0, "%s", error.text);
    struct lode_session_options session_options = {
        .context = (uint32_t)count, .batch = run->batch ? run->batch : (uint32_t)count, .kv = run->kv};
    struct lode_session *session;
    cr_assert_eq(lode_session_open(&session, engine, &session_options, &error), 0, "%s", error.text);
    const size_t vocab = lode_engine_shape(engine)->vocab, step = session_options.batch;
    float *logits = malloc(count * vocab * sizeof *logits);
    for (size_t at = 0; at < count; at += step) {
        size_t n = count - at < step ? count - at : step;
        int rc = lode_session_eval(session, ids + at, n, n, logits + at * vocab, &error);
        cr_assert_eq(rc, 0, "%s", error.text);
    }
    lode_session_close(session);
    lode_engine_close(engine);
    *out_vocab = vocab;
    return logits;
}

static double log_sum_exp(const float *row, size_t n)
{
    double largest = row[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        largest = fmax(largest, row[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp(row[i] - largest);
    return largest + log(sum);
}

static size_t top1(const float *row, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (row[i] > row[best])
            best = i;
    return best;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct distance golden_distance(const float *reference, const float *ours, size_t rows, size_t vocab)
{
    struct distance d = {0};
    double *kl = calloc(rows, sizeof *kl);
    for (size_t r = 0; r < rows; r++) {
        const float *p = reference + r * vocab, *q = ours + r * vocab;
        const double p_norm = log_sum_exp(p, vocab), q_norm = log_sum_exp(q, vocab);
        for (size_t i = 0; i < vocab; i++) {
            d.max_difference = fmax(d.max_difference, fabs((double)p[i] - q[i]));
            kl[r] += exp(p[i] - p_norm) * ((p[i] - p_norm) - (q[i] - q_norm));
            if (!isfinite(q[i]))
                d.max_difference = INFINITY;
        }
        d.mean_kl += kl[r] / (double)rows;
        d.same_top1 += top1(p, vocab) == top1(q, vocab);
    }
    d.same_top1 /= (double)rows;
    qsort(kl, rows, sizeof *kl, ascending);
    d.p99_kl = kl[(size_t)(0.99 * (double)(rows - 1) + 0.5)];
    free(kl);
    return d;
}
