// The sampler against a slow one written from the definitions: full sort, cumulative sums, and Pearson's
// chi-square of the draws.
#include "core/sampler.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct lode_sampling neutral(void)
{
    return (struct lode_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 1};
}

static struct sampler *create(const struct lode_sampling *options, uint32_t vocab)
{
    struct sampler *sampler = NULL;
    struct lode_error error = {0};
    cr_assert_eq(sampler_create(&sampler, options, vocab, &error), 0, "%s", error.text);
    return sampler;
}

static int32_t next_once(const struct lode_sampling *options, const float *logits, uint32_t vocab)
{
    struct sampler *sampler = create(options, vocab);
    int32_t id = sampler_next(sampler, logits);
    sampler_free(sampler);
    return id;
}

static uint64_t lcg_state = 1;

static double lcg(void)
{
    lcg_state = lcg_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(lcg_state >> 11) * 0x1p-53;
}

static float gaussian(void)
{
    return (float)(sqrt(-2 * log(1 - lcg())) * cos(2 * M_PI * lcg()));
}

// ---- the slow sampler ----

struct ranked {
    double logit;
    int32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

// Writes the probability of every token.
static void expected_probabilities(double *out, const float *logits, uint32_t vocab,
                                   const struct lode_sampling *o)
{
    struct ranked *ranked = malloc(vocab * sizeof *ranked);
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > -INFINITY)
            ranked[n++] = (struct ranked){logits[i], (int32_t)i};
    qsort(ranked, n, sizeof *ranked, by_rank);
    if (o->top_k && o->top_k < n)
        n = o->top_k;
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        total += exp(ranked[i].logit - ranked[0].logit);
    uint32_t kept = 0;
    while (kept < n && (kept == 0 || sum < (double)o->top_p * total))
        sum += exp(ranked[kept++].logit - ranked[0].logit);
    while (kept > 1 && exp(ranked[kept - 1].logit - ranked[0].logit) < (double)o->min_p)
        kept--;
    memset(out, 0, vocab * sizeof *out);
    sum = 0;
    for (uint32_t i = 0; i < kept; i++)
        sum += out[ranked[i].id] = exp((ranked[i].logit - ranked[0].logit) / (double)o->temperature);
    for (uint32_t i = 0; i < kept; i++)
        out[ranked[i].id] /= sum;
    free(ranked);
}

// Draws must be possible and frequent as expected: chi-square, normalised to a standard normal
// (Wilson-Hilferty).
static void check_draws(const struct lode_sampling *options, const float *logits, uint32_t vocab,
                        unsigned draws)
{
    double *expected = malloc(vocab * sizeof *expected);
    unsigned *seen = calloc(vocab, sizeof *seen);
    struct sampler *sampler = create(options, vocab);
    expected_probabilities(expected, logits, vocab, options);
    for (unsigned i = 0; i < draws; i++) {
        int32_t id = sampler_next(sampler, logits);
        cr_assert(id >= 0 && (uint32_t)id < vocab);
        cr_assert_gt(expected[id], 0, "token %d is filtered out, yet drawn", id);
        seen[id]++;
    }
    double chi = 0, rest_expected = 0, rest_seen = 0;
    int cells = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        double e = expected[i] * draws;
        if (e >= 5) {
            chi += (seen[i] - e) * (seen[i] - e) / e;
            cells++;
        } else {
            rest_expected += e;
            rest_seen += seen[i];
        }
    }
    if (rest_expected >= 5) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
        cells++;
    }
    if (cells > 1) {
        double df = cells - 1, v = 2 / (9 * df), z = (cbrt(chi / df) - (1 - v)) / sqrt(v);
        cr_assert_lt(z, 4.0, "chi-square %.1f with %d cells", chi, cells);
        cr_assert_gt(z, -4.5, "chi-square %.1f with %d cells: too even to be random", chi, cells);
    }
    sampler_free(sampler);
    free(expected);
    free(seen);
}

static void fill(float *logits, uint32_t vocab, float spread)
{
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = spread * gaussian();
}

// ---- greedy ----

Test(sampler, is_greedy_at_temperature_zero_and_takes_the_lowest_id_on_ties)
{
    struct lode_sampling o = neutral();
    o.temperature = 0;
    o.top_k = 3; // has no effect
    cr_assert_eq(next_once(&o, (float[]){-3, 2, 5, 5, 1}, 5), 2);
    cr_assert_eq(next_once(&o, (float[]){7, 7, 7}, 3), 0);
}

Test(sampler, takes_nan_as_impossible_and_infinity_as_the_largest)
{
    struct lode_sampling o = neutral();
    for (int greedy = 0; greedy < 2; greedy++) {
        o.temperature = greedy ? 0 : 1;
        cr_assert_eq(next_once(&o, (float[]){NAN, -INFINITY, -50, NAN}, 4), 2);
        cr_assert_eq(next_once(&o, (float[]){3, NAN, INFINITY, 4}, 4), 2);
        cr_assert_eq(next_once(&o, (float[]){NAN, NAN}, 2), 0, "nothing is possible: token 0");
        cr_assert_eq(next_once(&o, (float[]){-INFINITY, -INFINITY}, 2), 0);
    }
    o.top_k = 3;
    o.top_p = 0.9f;
    o.min_p = 0.1f;
    cr_assert_eq(next_once(&o, (float[]){NAN, -INFINITY, -50, NAN}, 4), 2, "fewer are possible than top-k");
    cr_assert_eq(next_once(&o, (float[]){NAN, NAN, NAN, NAN, NAN}, 5), 0);
}

Test(sampler, leaves_the_logits_unchanged)
{
    float logits[64], before[64];
    fill(logits, 64, 3);
    memcpy(before, logits, sizeof logits);
    struct lode_logit_bias bias = {3, 5};
    struct lode_sampling o = neutral();
    o.biases = &bias;
    o.n_biases = 1;
    o.repetition_penalty = 1.5f;
    o.top_k = 8;
    struct sampler *sampler = create(&o, 64);
    for (int i = 0; i < 10; i++)
        sampler_accept(sampler, sampler_next(sampler, logits));
    sampler_free(sampler);
    cr_assert_eq(memcmp(logits, before, sizeof logits), 0);
}

// ---- draws ----

Test(sampler, draws_follow_the_distribution_of_every_filter)
{
    static const struct {
        float temperature;
        uint32_t top_k;
        float top_p, min_p;
    } cases[] = {{1, 0, 1, 0},
                 {0.5f, 0, 1, 0},
                 {2, 0, 1, 0},
                 {1, 10, 1, 0},
                 {1, 0, 0.8f, 0},
                 {1, 0, 1, 0.1f},
                 {1, 64, 0.95f, 0},
                 {0.7f, 40, 0.9f, 0.05f},
                 {1.5f, 0, 0.5f, 0.3f},
                 {1, 1, 1, 0},
                 {1, 0, 0, 0},
                 {1, 0, 1, 1},
                 {3, 199, 0.99f, 0},
                 {3, 200, 0.99f, 0},
                 {1, 4000000000u, 0.9f, 0.01f},
                 {100, 0, 0.999f, 0},
                 {0.01f, 0, 0.999f, 0}};
    float logits[200];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (unsigned seed = 0; seed < 2; seed++) {
            struct lode_sampling o = neutral();
            o.temperature = cases[c].temperature;
            o.top_k = cases[c].top_k;
            o.top_p = cases[c].top_p;
            o.min_p = cases[c].min_p;
            o.seed = 1000 * c + seed;
            fill(logits, 200, seed == 1 ? 0.5f : 2.5f);
            logits[17] = -INFINITY;
            logits[18] = NAN;
            check_draws(&o, logits, 200, 10000);
        }
}

Test(sampler, breaks_ties_in_the_filters_by_the_lower_id)
{
    float logits[100];
    for (int i = 0; i < 100; i++)
        logits[i] = (float)(i % 4); // 25 each of 0, 1, 2, 3
    struct lode_sampling o = neutral();
    o.top_k = 30;
    check_draws(&o, logits, 100, 5000);
    o.top_k = 0;
    o.top_p = 0.4f;
    check_draws(&o, logits, 100, 5000);
    o.top_k = 7;
    o.top_p = 0.6f;
    check_draws(&o, logits, 100, 5000);
}

Test(sampler, keeps_the_right_tokens_of_a_full_vocabulary)
{
    const uint32_t vocab = 262144;
    float *logits = malloc(vocab * sizeof *logits);
    struct lode_sampling o = neutral();
    fill(logits, vocab, 3);
    for (int i = 0; i < 3000; i += 3)
        logits[i * 87] = logits[i * 87 + 1]; // ties
    o.top_p = 0.3f;
    check_draws(&o, logits, vocab, 60);
    o.top_k = 64;
    o.top_p = 0.95f;
    check_draws(&o, logits, vocab, 60);
    o.top_k = 5000;
    check_draws(&o, logits, vocab, 30);
    o.top_k = 0;
    o.min_p = 0.05f;
    o.top_p = 1;
    check_draws(&o, logits, vocab, 30);
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = 0; // the worst for a selection
    o.top_p = 0.5f;
    o.min_p = 0;
    check_draws(&o, logits, vocab, 10);
    free(logits);
}

// The expected tokens are those of an independent implementation of splitmix64 and xoshiro256**.
Test(sampler, draws_the_published_generators_numbers)
{
    static const struct {
        uint64_t seed;
        int32_t ids[10];
    } cases[] = {
        {0u, {601, 747, 103, 416, 732, 999, 422, 535, 855, 918}},
        {42u, {83, 378, 680, 924, 991, 769, 719, 850, 761, 583}},
        {18446744073709551615u, {559, 767, 507, 747, 567, 731, 370, 767, 626, 614}},
    };
    float logits[1000] = {0};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct lode_sampling o = neutral();
        o.seed = cases[c].seed;
        struct sampler *sampler = create(&o, 1000);
        for (int i = 0; i < 10; i++)
            cr_assert_eq(sampler_next(sampler, logits), cases[c].ids[i]);
        sampler_free(sampler);
    }
}

Test(sampler, repeats_itself_by_seed_and_after_a_reset)
{
    float logits[300];
    int32_t first[50], other[50];
    fill(logits, 300, 1);
    struct lode_sampling o = neutral();
    o.top_p = 0.9f;
    o.repetition_penalty = 1.3f;
    struct sampler *a = create(&o, 300), *b = create(&o, 300);
    o.seed = 2;
    struct sampler *c = create(&o, 300);
    for (int i = 0; i < 50; i++) {
        first[i] = sampler_next(a, logits);
        sampler_accept(a, first[i]);
        cr_assert_eq(sampler_next(b, logits), first[i]);
        sampler_accept(b, first[i]);
        other[i] = sampler_next(c, logits);
        sampler_accept(c, other[i]);
    }
    cr_assert_neq(memcmp(first, other, sizeof first), 0, "another seed, another text");
    sampler_reset(a);
    for (int i = 0; i < 50; i++) {
        cr_assert_eq(sampler_next(a, logits), first[i]);
        sampler_accept(a, first[i]);
    }
    sampler_free(a);
    sampler_free(b);
    sampler_free(c);
}

// ---- bias and penalty ----

Test(sampler, adds_biases_and_bans_tokens)
{
    struct lode_logit_bias biases[] = {{1, 2}, {1, 2}, {2, -INFINITY}};
    struct lode_sampling o = neutral();
    o.temperature = 0;
    o.biases = biases;
    o.n_biases = 3;
    const float logits[] = {3, 0, 9, 2};
    struct sampler *sampler = create(&o, 4);
    memset(biases, 0, sizeof biases); // the sampler has its own copy
    cr_assert_eq(sampler_next(sampler, logits), 1);
    cr_assert_eq(sampler_next(sampler, (float[]){3, -2, INFINITY, 2}), 0, "a banned token stays banned");
    sampler_free(sampler);
}

Test(sampler, applies_the_bias_before_the_penalty)
{
    struct lode_logit_bias bias = {0, 4};
    struct lode_sampling o = neutral();
    o.temperature = 0;
    o.biases = &bias;
    o.n_biases = 1;
    o.repetition_penalty = 2;
    struct sampler *sampler = create(&o, 2);
    sampler_accept(sampler, 0);
    // (2 + 4) / 2 = 3; the other order would give 2 / 2 + 4 = 5
    cr_assert_eq(sampler_next(sampler, (float[]){2, 4}), 1);
    cr_assert_eq(sampler_next(sampler, (float[]){2, 2.5f}), 0);
    sampler_free(sampler);
}

Test(sampler, divides_positive_and_multiplies_negative_logits_of_repeated_tokens)
{
    struct lode_sampling o = neutral();
    o.temperature = 0;
    o.repetition_penalty = 2;
    struct sampler *sampler = create(&o, 3);
    sampler_accept(sampler, 0);
    sampler_accept(sampler, 0); // counts once
    cr_assert_eq(sampler_next(sampler, (float[]){4, 1.9f, 0}), 0);
    cr_assert_eq(sampler_next(sampler, (float[]){4, 2.1f, 0}), 1);
    cr_assert_eq(sampler_next(sampler, (float[]){-1, -1.9f, -9}), 1);
    cr_assert_eq(sampler_next(sampler, (float[]){-1, -2.1f, -9}), 0);
    sampler_accept(sampler, -1);
    sampler_accept(sampler, 3); // no tokens of this vocabulary
    cr_assert_eq(sampler_next(sampler, (float[]){4, 2.1f, 0}), 1);
    sampler_free(sampler);
}

Test(sampler, penalises_exactly_the_tokens_of_the_window)
{
    enum { VOCAB = 12, STEPS = 400 };
    for (uint32_t window = 0; window <= 9; window++) {
        int32_t history[STEPS];
        struct lode_sampling o = neutral();
        o.temperature = 0;
        o.repetition_penalty = 1.7f;
        o.repetition_window = window;
        struct sampler *sampler = create(&o, VOCAB);
        for (int step = 0; step < STEPS; step++) {
            float logits[VOCAB], expected[VOCAB];
            bool repeated[VOCAB] = {false};
            fill(logits, VOCAB, 1);
            int first = window && step > (int)window ? step - (int)window : 0;
            for (int i = first; i < step; i++)
                repeated[history[i]] = true;
            int best = 0;
            for (int i = 0; i < VOCAB; i++) {
                expected[i] = !repeated[i] ? logits[i] : logits[i] > 0 ? logits[i] / 1.7f : logits[i] * 1.7f;
                best = expected[i] > expected[best] ? i : best;
            }
            cr_assert_eq(sampler_next(sampler, logits), best, "window %u, step %d", window, step);
            history[step] = (int32_t)(lcg() * VOCAB);
            sampler_accept(sampler, history[step]);
        }
        sampler_free(sampler);
    }
}

// ---- errors ----

static void expect_error(struct lode_sampling options, uint32_t vocab, const char *option, const char *range)
{
    struct sampler *sampler = (struct sampler *)1;
    struct lode_error error = {0};
    cr_assert_eq(sampler_create(&sampler, &options, vocab, &error), LODE_ERR_ARGUMENT);
    cr_assert_null(sampler);
    cr_assert(strstr(error.text, option) && strstr(error.text, range), "'%s' does not say '%s' and '%s'",
              error.text, option, range);
}

Test(sampler, names_the_option_that_is_out_of_range)
{
    const struct lode_sampling good = neutral();
    struct lode_sampling o;
#define EXPECT(field, value, option, range) (o = good, o.field = (value), expect_error(o, 10, option, range))
    EXPECT(temperature, -0.1f, "temperature", "from 0");
    EXPECT(temperature, NAN, "temperature", "from 0");
    EXPECT(temperature, INFINITY, "temperature", "to 100");
    EXPECT(top_p, 1.01f, "top-p", "from 0 to 1");
    EXPECT(top_p, -0.01f, "top-p", "from 0 to 1");
    EXPECT(top_p, NAN, "top-p", "from 0 to 1");
    EXPECT(min_p, 1.5f, "min-p", "to 1");
    EXPECT(min_p, NAN, "min-p", "to 1");
    EXPECT(repetition_penalty, 0, "repetition penalty", "above 0");
    EXPECT(repetition_penalty, -1, "repetition penalty", "above 0");
    EXPECT(repetition_penalty, NAN, "repetition penalty", "at most 100");
    EXPECT(repetition_window, 1u << 21, "repetition window", "1048576");
    EXPECT(n_biases, 1, "biases", "none");
#undef EXPECT
    expect_error(good, 0, "vocabulary", "0");
    const struct lode_logit_bias bad[] = {{10, 0}, {-1, 0}, {2, NAN}, {2, INFINITY}};
    const char *texts[][2] = {
        {"token 10", "0 to 9"}, {"token -1", "0 to 9"}, {"token 2", "finite"}, {"token 2", "finite"}};
    for (int i = 0; i < 4; i++) {
        o = good;
        o.biases = &bad[i];
        o.n_biases = 1;
        expect_error(o, 10, texts[i][0], texts[i][1]);
    }
    sampler_free(NULL);
}
