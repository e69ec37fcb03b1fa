// Figures of traces against ones worked out by hand.
#include "placement/trace_summary.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/lode-trace-summary-XXXXXX";

static void make_file(void)
{
    close(mkstemp(path));
}

static void remove_file(void)
{
    unlink(path);
}

TestSuite(trace_summary, .init = make_file, .fini = remove_file);

static struct trace_writer *writer;

static void begin(uint32_t n_layers, uint32_t n_experts, uint32_t k)
{
    struct trace_header header;
    struct lode_error error = {0};
    trace_world_header(&header, n_layers, n_experts, k);
    cr_assert_eq(trace_writer_open(&writer, path, &header, &error), 0, "%s", error.text);
}

static struct trace end(void)
{
    struct trace trace;
    struct lode_error error = {0};
    cr_assert_eq(trace_writer_close(writer, &error), 0, "%s", error.text);
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    return trace;
}

static struct trace_summary summarise(const struct trace *traces, uint32_t n)
{
    struct trace_summary summary;
    struct lode_error error = {0};
    cr_assert_eq(trace_summarise(&summary, traces, n, &error), 0, "%s", error.text);
    return summary;
}

// One token of one layer, two experts.
static void token(uint32_t position, int32_t a, int32_t b, float weight_a, float weight_b, uint64_t resident)
{
    const int32_t experts[] = {a, b};
    const float weights[] = {weight_a, weight_b};
    trace_pass_begin(writer, TRACE_DECODE, position, 1, 1000 * (uint64_t)position);
    trace_choice(writer, 0, 0, experts, weights, 2, resident, 1000 * (uint64_t)position);
    trace_pass_end(writer, 500, 100);
}

Test(trace_summary, of_five_tokens_is_what_a_pencil_says)
{
    begin(1, 4, 2);
    token(0, 0, 1, 0.75f, 0.25f, 0);
    token(1, 0, 2, 0.5f, 0.5f, 1);
    token(2, 0, 1, 1.5f, 0.5f, 3);   // weights need not sum to 1
    token(0, 0, 3, 0.75f, 0.25f, 1); // another conversation
    token(1, 0, 3, 0.75f, 0.25f, 3);
    struct trace trace = end();
    struct trace_summary s = summarise(&trace, 1);
    const struct trace_layer_summary *layer = &s.layers[0];
    // Counts 5, 2, 1, 2 of 10.
    cr_assert(s.n_tokens == 5 && s.n_conversations == 2 && layer->n_choices == 10 && layer->n_chosen == 4);
    cr_assert(s.counts[0] == 5 && s.counts[1] == 2 && s.counts[2] == 1 && s.counts[3] == 2);
    cr_assert_float_eq(layer->spread.hot[0], 0.5, 1e-12, "10%% of 4, rounded up, is 1");
    cr_assert_float_eq(layer->spread.hot[1], 0.5, 1e-12);
    cr_assert_float_eq(layer->spread.hot[2], 0.7, 1e-12);
    cr_assert_float_eq(layer->spread.entropy_bits, 0.5 + 0.4 * log2(5) + 0.1 * log2(10), 1e-12);
    // Three tokens have one before: 1, 1 and 2 of 2 again.
    cr_assert_float_eq(layer->spread.reuse, 4.0 / 6, 1e-12);
    cr_assert_float_eq(layer->spread.reuse_by_chance, (25 + 4 + 1 + 4) / 50.0, 1e-12);
    cr_assert_float_eq(s.mass_by_rank[0], (4 * 0.75 + 0.5) / 5, 1e-6);
    cr_assert_float_eq(layer->spread.lower_half, 1 - s.mass_by_rank[0], 1e-6);
    cr_assert_float_eq(layer->spread.hit_rate, 0.6, 1e-12);
    // Windows of 2: {0,1,2}, {0,2,1}, {0,3}; of 4: none.
    cr_assert_float_eq(layer->window[0], 2, 1e-12);
    cr_assert_float_eq(layer->window[1], 8.0 / 3, 1e-12);
    cr_assert(isnan(layer->window[2]));
    cr_assert_float_eq(s.window_bytes[1], 1000 * 8.0 / 3, 1e-9);
    cr_assert(layer->hottest[0] == 0 && layer->hottest[1] == 1 && layer->hottest[2] == 3);
    const struct trace_phase_summary *decode = &s.phases[TRACE_DECODE];
    cr_assert(decode->n_tokens == 5 && decode->n_passes == 5 && decode->pass_ns == 2500 &&
              decode->stall_ns == 500);
    cr_assert_eq(s.phases[TRACE_PREFILL].n_tokens, 0);
    cr_assert_eq(s.n_ranks, 0);
    trace_summary_free(&s);
    trace_free(&trace);
}

Test(trace_summary, of_guesses_counts_what_came_true)
{
    static const int32_t guesses[3][3] = {{0, 5, 1}, {2, 3, 0}, {7, 6, 5}};
    static const int32_t choices[3][2] = {{0, 1}, {2, 3}, {0, 1}};
    const float weights[] = {0.5f, 0.5f};
    begin(1, 8, 2);
    trace_pass_begin(writer, TRACE_PREFILL, 0, 4, 0);
    for (uint32_t t = 0; t < 3; t++) {
        trace_guess(writer, 0, t, guesses[t], 3);
        trace_choice(writer, 0, t, choices[t], weights, 2, 0, 0);
    }
    trace_guess(writer, 0, 3, guesses[0], 1); // the token did not choose
    trace_pass_end(writer, 1, 0);
    trace_read(writer, 0, 5, 100, TRACE_READ_GUESS, 10, 30);
    trace_read(writer, 0, 6, 100, TRACE_READ_GUESS, 10, 50);
    struct trace trace = end();
    struct trace_summary s = summarise(&trace, 1);
    cr_assert(s.n_ranks == 3 && s.n_guesses == 3);
    cr_assert_float_eq(s.precision_by_rank[0], 2.0 / 3, 1e-12);
    cr_assert_float_eq(s.precision_by_rank[1], 1.0 / 3, 1e-12);
    cr_assert_float_eq(s.precision_by_rank[2], 1.0 / 3, 1e-12);
    cr_assert_float_eq(s.recall_by_rank[0], 2.0 / 6, 1e-12);
    cr_assert_float_eq(s.recall_by_rank[2], 4.0 / 6, 1e-12);
    const struct trace_phase_summary *prefill = &s.phases[TRACE_PREFILL];
    cr_assert(prefill->n_read[TRACE_READ_GUESS] == 2 && prefill->read_bytes[TRACE_READ_GUESS] == 200);
    cr_assert_float_eq(prefill->read_ns[TRACE_READ_GUESS], 30, 1e-12);
    trace_summary_free(&s);
    trace_free(&trace);
}

Test(trace_summary, of_two_traces_is_that_of_both)
{
    struct trace_header header;
    struct trace_world world;
    struct trace traces[2];
    struct lode_error error = {0};
    trace_world_header(&header, 3, 16, 3);
    for (int i = 0; i < 2; i++) {
        trace_world_make(&world, &header, (uint64_t)i, 50);
        trace_world_write(&world, path);
        cr_assert_eq(trace_load(&traces[i], path, 0, &error), 0, "%s", error.text);
        trace_world_free(&world);
    }
    struct trace_summary both = summarise(traces, 2), one = summarise(&traces[0], 1),
                         other = summarise(&traces[1], 1);
    cr_assert_eq(both.n_tokens, one.n_tokens + other.n_tokens);
    for (uint32_t i = 0; i < both.n_moe * both.max_experts; i++)
        cr_assert_eq(both.counts[i], one.counts[i] + other.counts[i]);
    cr_assert_eq(both.n_guesses, one.n_guesses + other.n_guesses);
    trace_summary_free(&both);
    trace_summary_free(&one);
    trace_summary_free(&other);
    traces[1].header.fingerprint++;
    cr_assert_eq(trace_summarise(&both, traces, 2, &error), LODE_ERR_ARGUMENT);
    trace_free(&traces[0]);
    trace_free(&traces[1]);
}

// Sliding windows against counting each one anew.
Test(trace_summary, of_windows_agrees_with_counting)
{
    struct trace_header header;
    struct trace_world world;
    struct trace t;
    struct lode_error error = {0};
    trace_world_header(&header, 4, 40, 3);
    trace_world_make(&world, &header, 11, 200);
    trace_world_write(&world, path);
    cr_assert_eq(trace_load(&t, path, 0, &error), 0, "%s", error.text);
    struct trace_summary s = summarise(&t, 1);
    for (uint32_t m = 0; m < t.n_moe; m++)
        for (uint32_t w = 0; w < 5; w++) {
            double sum = 0, n = 0;
            for (uint32_t first = 0; first + (1u << w) <= t.n_tokens; first++) {
                bool seen[40] = {false}, whole = true;
                uint32_t distinct = 0;
                for (uint32_t i = first; i < first + (1u << w); i++) {
                    const uint16_t *e = t.experts + ((size_t)i * t.n_moe + m) * t.n_used;
                    whole &= e[0] != TRACE_NO_EXPERT &&
                             t.tokens[i].conversation == t.tokens[first].conversation &&
                             t.tokens[i].position - t.tokens[first].position == i - first;
                    for (uint32_t k = 0; k < t.n_used && e[k] != TRACE_NO_EXPERT; k++)
                        seen[e[k]] = true;
                }
                for (int e = 0; e < 40; e++)
                    distinct += seen[e];
                sum += whole ? distinct : 0;
                n += whole;
            }
            if (n > 0)
                cr_assert_float_eq(s.layers[m].window[w], sum / n, 1e-9, "layer %u, window %u", m, 1u << w);
            else
                cr_assert(isnan(s.layers[m].window[w]));
        }
    trace_summary_free(&s);
    trace_free(&t);
    trace_world_free(&world);
}

Test(trace_summary, zipf_finds_the_exponent_that_made_the_counts)
{
    for (double s = 0; s < 2.5; s += 0.4) {
        uint64_t counts[128];
        for (uint32_t r = 0; r < 128; r++)
            counts[r] = (uint64_t)llround(1e9 * pow(r + 1, -s));
        cr_assert_float_eq(trace_zipf(counts, 128), s, 1e-4, "%f: %f", s, trace_zipf(counts, 128));
    }
    const uint64_t one[] = {5, 0, 0}, none[] = {0, 0, 0};
    cr_assert_float_eq(trace_zipf(one, 3), 10, 1e-6, "the steepest there is");
    cr_assert_eq(trace_zipf(none, 3), 0);
}
