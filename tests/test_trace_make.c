// Made-up traces show, in the summary that recordings have, what was asked for; they are the same everywhere.
#include "placement/trace_make.h"
#include "placement/trace_popularity.h"
#include "placement/trace_summary.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char path[] = "/tmp/lode-trace-make-XXXXXX";

static void make_file(void)
{
    close(mkstemp(path));
}

static void remove_file(void)
{
    unlink(path);
}

TestSuite(trace_make, .init = make_file, .fini = remove_file);

static const struct trace_make plain = {
    .n_layers = 4,
    .n_experts = 128,
    .n_used = 8,
    .n_tokens = 2000,
    .n_prompt_tokens = 700, // two steps
    .n_conversations = 1,
    .n_topics = 1,
    .skew = 0.97,
    .reuse = -1,
    .guess_precision = -1,
    .expert_bytes = 3345408,
    .seed = 1,
    .lode_version = "1.2.3",
};

static struct trace made(const struct trace_make *make)
{
    struct trace trace;
    struct lode_error error = {0};
    cr_assert_eq(trace_make(path, make, &error), 0, "%s", error.text);
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    return trace;
}

static struct trace_summary summarise(const struct trace *trace)
{
    struct trace_summary summary;
    struct lode_error error = {0};
    cr_assert_eq(trace_summarise(&summary, trace, 1, &error), 0, "%s", error.text);
    return summary;
}

static void expect_refused(struct trace_make make, const char *why)
{
    struct lode_error error = {0};
    cr_assert_eq(trace_make(path, &make, &error), LODE_ERR_ARGUMENT, "%s", why);
    cr_assert(strstr(error.text, why), "'%s' lacks '%s'", error.text, why);
}

// ---- numbers
// -------------------------------------------------------------------------------------------------

Test(trace_make, powers_are_those_of_the_mathematics_library)
{
    static const uint32_t exponents[] = {0, 1, 655, 32768, 63570, 65536, 131072, 200000, 8 * 65536};
    for (size_t i = 0; i < sizeof exponents / sizeof *exponents; i++)
        for (uint32_t rank = 0; rank < TRACE_MAX_EXPERTS; rank += 1 + rank / 8) {
            const double got = ldexp((double)trace_popularity_power(rank, exponents[i]), -62);
            const double wanted = pow(rank + 1.0, -(double)exponents[i] / 65536);
            cr_assert_float_eq(got, wanted, 1e-7 * wanted + ldexp(1, -61), "(%u + 1)^-%g: %g, not %g", rank,
                               exponents[i] / 65536.0, got, wanted);
        }
}

// Each of the 6 pairs of 4 ranks comes up as often as the product of its weights says.
Test(trace_make, sets_come_up_by_the_product_of_their_weights)
{
    enum { N = 400000 };
    uint64_t before[] = {0, 8, 12, 14, 15}, random = 5;
    struct trace_popularity popularity = {.n_experts = 4, .n_used = 2, .before = before};
    static const double weights[] = {8, 4, 2, 1};
    for (uint32_t keep = 0; keep <= 32768; keep += 32768) {
        struct trace_chosen chosen = {0};
        uint32_t counts[4][4] = {{0}};
        popularity.keep = keep;
        for (int i = 0; i < N; i++) {
            trace_popularity_choose(&chosen, &popularity, i == 0, &random);
            cr_assert(chosen.sorted[0] < chosen.sorted[1] && chosen.sorted[1] < 4);
            counts[chosen.sorted[0]][chosen.sorted[1]]++;
        }
        for (int a = 0; a < 4; a++)
            for (int b = a + 1; b < 4; b++)
                cr_expect_float_eq(counts[a][b] / (double)N, weights[a] * weights[b] / 70, 0.006,
                                   "%d and %d, kept %u", a, b, keep);
    }
}

// ---- what was asked for
// --------------------------------------------------------------------------------------

Test(trace_make, skew_and_reuse_are_those_of_the_summary)
{
    static const struct {
        double skew, reuse;
    } wanted[] = {{0, -1}, {0.5, -1}, {0.97, -1}, {1.2, -1}, {0.5, 0.6}, {0.97, 0.356}, {1.2, 0.8}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        struct trace_make make = plain;
        make.skew = wanted[i].skew;
        make.reuse = wanted[i].reuse;
        make.n_tokens = 6000;
        struct trace t = made(&make);
        struct trace_summary s = summarise(&t);
        // Counts that are sorted look skewed by chance; with experts that stay there are fewer draws.
        const double by_chance = wanted[i].reuse > 0.5 ? 0.12 : 0.06;
        cr_expect_geq(s.mean.zipf, wanted[i].skew - 0.05, "skew %g: %g", wanted[i].skew, s.mean.zipf);
        cr_expect_leq(s.mean.zipf, wanted[i].skew + by_chance, "skew %g: %g", wanted[i].skew, s.mean.zipf);
        if (wanted[i].reuse >= 0)
            cr_expect_float_eq(s.mean.reuse, wanted[i].reuse, 0.01, "skew %g: reuse %g", wanted[i].skew,
                               s.mean.reuse);
        else
            cr_expect_float_eq(s.mean.reuse, s.mean.reuse_by_chance, 0.01);
        trace_summary_free(&s);
        trace_free(&t);
    }
}

Test(trace_make, guesses_come_true_as_often_as_asked_in_every_rank)
{
    struct trace_make make = plain;
    make.guess_precision = 0.78;
    struct trace t = made(&make);
    struct trace_summary s = summarise(&t);
    cr_assert_eq(s.n_ranks, 8);
    cr_assert_eq(s.n_guesses, 4u * 2700);
    for (int r = 0; r < 8; r++)
        cr_expect_float_eq(s.precision_by_rank[r], 0.78, 0.02, "rank %d: %g", r, s.precision_by_rank[r]);
    trace_summary_free(&s);
    trace_free(&t);
    make.guess_precision = 1;
    t = made(&make);
    for (size_t row = 0; row < (size_t)t.n_tokens * t.n_moe; row++) {
        const uint16_t *guess;
        cr_assert_eq(trace_row_guess(&t, row, &guess), 8);
        cr_assert_arr_eq(guess, t.experts + row * 8, 8 * sizeof *guess);
    }
    trace_free(&t);
    make.guess_precision = 0;
    t = made(&make);
    s = summarise(&t);
    cr_expect_eq(s.recall_by_rank[7], 0);
    trace_summary_free(&s);
    trace_free(&t);
}

Test(trace_make, guesses_leave_the_choices_as_they_are)
{
    struct trace_make make = plain;
    struct trace without = made(&make);
    make.guess_precision = 0.5;
    struct trace with = made(&make);
    cr_assert_eq(without.n_tokens, with.n_tokens);
    cr_assert_arr_eq(without.experts, with.experts,
                     (size_t)with.n_tokens * with.n_moe * 8 * sizeof *with.experts);
    trace_free(&without);
    trace_free(&with);
}

Test(trace_make, weights_fall_by_rank_as_in_the_recording)
{
    static const double mass[] = {0.317, 0.199, 0.152, 0.126, 0.109, 0.097};
    struct trace_make make = plain;
    make.n_used = 6;
    struct trace t = made(&make);
    struct trace_summary s = summarise(&t);
    for (int r = 0; r < 6; r++)
        cr_expect_float_eq(s.mass_by_rank[r], mass[r], 0.002, "rank %d: %g", r, s.mass_by_rank[r]);
    trace_summary_free(&s);
    trace_free(&t);
}

Test(trace_make, conversations_take_the_topics_in_turn)
{
    struct trace_make make = plain;
    make.n_topics = 2;
    make.n_conversations = 4;
    make.n_tokens = 400;
    make.skew = 1.2;
    struct trace t = made(&make);
    uint32_t counts[4][128] = {{0}};
    cr_assert_eq(t.n_conversations, 4);
    cr_assert_eq(t.n_passes, 4 * (2 + 400));
    for (uint32_t c = 0; c < 4; c++) {
        const struct trace_conversation *one = &t.conversations[c];
        cr_assert_str_eq(one->domain, c % 2 ? "topic-2" : "topic-1");
        cr_assert_eq(one->n_tokens, 1100);
        for (uint32_t i = one->first_token; i < one->first_token + one->n_tokens; i++)
            for (int k = 0; k < 8; k++)
                counts[c][t.experts[(size_t)i * 4 * 8 + k]]++;
    }
    // How alike two conversations' counts are: 1 for the same.
    double alike[4];
    for (int c = 0; c < 4; c++) {
        double product = 0, first = 0, other = 0;
        for (int e = 0; e < 128; e++) {
            product += (double)counts[0][e] * counts[c][e];
            first += (double)counts[0][e] * counts[0][e];
            other += (double)counts[c][e] * counts[c][e];
        }
        alike[c] = product / sqrt(first * other);
    }
    cr_expect(alike[2] > 0.97, "of one topic: %g", alike[2]);
    cr_expect(alike[1] < 0.7 && alike[3] < 0.7, "of different topics: %g, %g", alike[1], alike[3]);
    trace_free(&t);
}

Test(trace_make, header_says_how_it_was_made)
{
    struct trace_make make = plain;
    make.reuse = 0.4;
    make.guess_precision = 0.78;
    struct trace t = made(&make);
    cr_assert_eq(t.header.known, TRACE_HAS_WEIGHTS);
    cr_assert_eq(t.header.fingerprint, 0);
    cr_assert_eq(t.header.layers[3].expert_bytes, 3345408);
    cr_assert_str_eq(t.header.model, "made up: 4 layers, 8 of 128 experts");
    cr_assert_str_eq(t.header.lode_version, "1.2.3");
    cr_assert_str_eq(t.header.options,
                     "made-up layers=4 experts=128 used=8 tokens=2000 prompt=700 conversations=1 "
                     "topics=1 skew=0.97 reuse=0.4 guess-precision=0.78 seed=1");
    cr_assert(t.passes[0].phase == TRACE_PREFILL && t.passes[0].n_tokens == 512 &&
              t.passes[1].n_tokens == 188);
    cr_assert(t.passes[2].phase == TRACE_DECODE && t.tokens[700].position == 700);
    trace_free(&t);
}

// FNV-1a of all choices and guesses. The numbers were written down once; no machine may give others.
static uint64_t sum_of(const struct trace *t)
{
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < (size_t)t->n_tokens * t->n_moe * t->n_used; i++)
        sum = (sum ^ t->experts[i]) * 1099511628211u;
    for (size_t row = 0; row < (size_t)t->n_tokens * t->n_moe; row++) {
        const uint16_t *guess;
        const uint32_t n = trace_row_guess(t, row, &guess);
        for (uint32_t i = 0; i < n; i++)
            sum = (sum ^ guess[i]) * 1099511628211u;
    }
    return sum;
}

Test(trace_make, a_seed_is_the_same_trace_everywhere)
{
    struct trace_make make = plain;
    make.n_tokens = 100;
    make.reuse = 0.4;
    make.guess_precision = 0.78;
    struct trace t = made(&make);
    cr_expect_eq(sum_of(&t), 0x9087bbe3324f2be9u, "0x%016llx", (unsigned long long)sum_of(&t));
    trace_free(&t);
    make.seed = 2;
    t = made(&make);
    cr_expect_eq(sum_of(&t), 0x920662142d063324u, "0x%016llx", (unsigned long long)sum_of(&t));
    trace_free(&t);
}

// ---- what is refused
// -----------------------------------------------------------------------------------------

Test(trace_make, what_cannot_be_is_refused_with_what_would_do)
{
    struct trace_make make = plain;
    make.skew = 3;
    expect_refused(make, "a skew of 3 is out of reach where a token chooses 8 different experts of 128: 1.3");
    make = plain;
    make.reuse = 0.05;
    expect_refused(make, "a reuse of 5.0% is less than what a skew of 0.97 makes by chance: ");
    make = plain;
    make.n_experts = 100;
    make.n_used = 51;
    expect_refused(make, "up to half of the experts: 50 of 100, not 51");
    make = plain;
    make.n_layers = TRACE_MAX_LAYERS + 1;
    expect_refused(make, "513 layers");
    make = plain;
    make.n_experts = TRACE_MAX_EXPERTS + 1;
    expect_refused(make, "4097 experts");
    make = plain;
    make.n_topics = 2;
    expect_refused(make, "2 topics need as many conversations");
    make = plain;
    make.n_conversations = 0;
    expect_refused(make, "0 conversations");
    make = plain;
    make.n_tokens = make.n_prompt_tokens = 0;
    expect_refused(make, "0 tokens");
    make = plain;
    make.n_tokens = 0xffffffffu;
    expect_refused(make, "make no trace");
    make = plain;
    make.guess_precision = 1.5;
    expect_refused(make, "precision of guesses up to 1");
    make = plain;
    make.skew = NAN;
    expect_refused(make, "skew is from 0");
}

Test(trace_make, a_trace_that_cannot_be_written_is_told_and_not_left)
{
    struct lode_error error = {0};
    cr_assert_eq(trace_make("/nonexistent/trace", &plain, &error), LODE_ERR_IO);
    struct stat status;
    if (stat("/dev/full", &status) != 0)
        cr_skip_test("there is no /dev/full");
    cr_assert_eq(trace_make("/dev/full", &plain, &error), LODE_ERR_IO, "%s", error.text);
    cr_assert_eq(stat("/dev/full", &status), 0, "what is no file of ours stays");
}

Test(trace_make, the_largest_shape_is_possible)
{
    struct trace_make make = plain;
    make.n_layers = 3;
    make.n_experts = TRACE_MAX_EXPERTS;
    make.n_used = TRACE_MAX_USED;
    make.skew = 0.5;
    make.n_tokens = 20;
    make.guess_precision = 0;
    struct trace t = made(&make);
    cr_assert_eq(t.n_tokens, 720);
    cr_assert_eq(t.header.layers[2].n_used, TRACE_MAX_USED);
    trace_free(&t);
}
