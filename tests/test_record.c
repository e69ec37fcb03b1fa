// What runs record: under a ceiling with experts that come and go, against the run's own figures; and what
// happens when recording fails, or the run ends in the middle.
#include "core/session_internal.h"
#include "placement/trace.h"
#include "placement/trace_settings.h"
#include "tests/demo.h"
#include "tests/synth_files.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONTEXT = 512, PROMPT_MAX = 64, GENERATED = 48 };

static char path[256];

static void make_folder(void)
{
    synth_make_directory();
    strcpy(path, synth_path_of("run.trace"));
}

TestSuite(record, .init = make_folder, .fini = synth_remove_directory, .timeout = 120);

// ---- runs
// ----------------------------------------------------------------------------------------------------

struct notes {
    uint32_t n;
    char last[512];
};

static void take_note(void *user, const char *text)
{
    struct notes *notes = user;
    notes->n++;
    snprintf(notes->last, sizeof notes->last, "%s", text);
}

// The demo model with memory for a share of its weights beyond the least that works; 1 is enough for all.
static struct lode_engine *open_engine(const struct lode_engine_options *asked, double share, uint32_t batch)
{
    char model[512];
    struct lode_error error = {0};
    test_project_path(model, sizeof model, "models/tiny-moe-q4_0.gguf");
    struct lode_engine_options options = *asked;
    options.threads = 2;
    options.ram_bytes = UINT64_C(2) << 30;
    struct lode_engine *engine;
    cr_assert_eq(lode_engine_open(&engine, model, &options, &error), 0, "%s", error.text);
    if (share >= 1)
        return engine;
    // What a session takes, from one of another engine.
    struct lode_engine *other = demo_engine(2);
    struct lode_session *session = demo_session(other, CONTEXT, batch);
    const uint64_t session_bytes = session->needs.kv_bytes + session->needs.scratch_bytes;
    lode_session_close(session);
    lode_engine_close(other);
    const uint64_t floor = residency_floor_bytes(&engine->model.units, engine->device);
    const uint64_t full = residency_full_bytes(&engine->model.units, engine->device);
    engine->ceiling_bytes =
        engine->base_bytes + session_bytes + floor + (uint64_t)(share * (double)(full - floor));
    return engine;
}

struct said {
    int32_t ids[GENERATED];
    uint32_t n;
};

static bool listen(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    struct said *said = user;
    (void)part, (void)text, (void)len;
    if (id >= 0 && said->n < GENERATED)
        said->ids[said->n++] = id;
    return true;
}

static void generate(struct lode_session *session, uint32_t n, struct said *said)
{
    struct lode_generate_options options = lode_generate_options_default();
    struct said ignored;
    options.sampling.temperature = 0;
    options.max_tokens = n;
    options.ignore_end = true;
    options.on_token = listen;
    options.user = said ? said : &ignored;
    ignored.n = 0;
    enum lode_stop stop;
    struct lode_error error = {0};
    cr_assert_eq(lode_session_generate(session, &options, &stop, &error), 0, "%s", error.text);
}

static void tell_story(struct lode_engine *engine, struct lode_session *session)
{
    int32_t *ids;
    const size_t n = demo_encode(engine, demo_story, &ids);
    cr_assert_leq(n, PROMPT_MAX);
    demo_feed(session, ids, n);
    free(ids);
}

// A prompt and what follows; the figures are those of the run.
static void run(const struct lode_engine_options *options, double share, struct said *said,
                struct residency_figures *figures)
{
    struct lode_engine *engine = open_engine(options, share, 32);
    struct lode_session *session = demo_session(engine, CONTEXT, 32);
    tell_story(engine, session);
    said->n = 0;
    generate(session, GENERATED, said);
    residency_count(engine->residency, figures);
    lode_session_close(session);
    lode_engine_close(engine);
}

static void load(struct trace *trace)
{
    struct lode_error error = {0};
    cr_assert_eq(trace_load(trace, path, 0, &error), 0, "%s", error.text);
}

struct counts {
    uint64_t choices, hits; // of decode: each choice; of prefill: different experts of a pass in a layer
};

static size_t row_at(const struct trace *trace, uint32_t token, uint32_t m)
{
    return (size_t)token * trace->n_moe + m;
}

static void count_pass(const struct trace *trace, const struct trace_pass *pass, struct counts *out)
{
    static uint8_t seen[TRACE_MAX_EXPERTS];
    for (uint32_t m = 0; m < trace->n_moe; m++) {
        memset(seen, 0, sizeof seen);
        for (uint32_t t = 0; t < pass->n_tokens; t++) {
            const size_t row = row_at(trace, pass->first_token + t, m);
            for (uint32_t i = 0; i < trace->n_used; i++) {
                const uint16_t expert = trace->experts[row * trace->n_used + i];
                if (expert == TRACE_NO_EXPERT || seen[expert]++)
                    continue;
                out->choices++;
                out->hits += trace->resident[row] >> i & 1;
            }
        }
    }
}

static void count(const struct trace *trace, struct counts out[N_TRACE_PHASES])
{
    memset(out, 0, N_TRACE_PHASES * sizeof *out);
    for (uint32_t p = 0; p < trace->n_passes; p++)
        count_pass(trace, &trace->passes[p], &out[trace->passes[p].phase]);
}

static uint64_t bytes_of(const struct trace *trace, enum trace_read_kind kind, uint64_t *out_n)
{
    uint64_t bytes = 0;
    *out_n = 0;
    for (uint64_t i = 0; i < trace->n_reads; i++)
        if (trace->reads[i].kind == kind) {
            cr_assert_leq(trace->reads[i].t_submit_ns, trace->reads[i].t_done_ns);
            bytes += trace->reads[i].bytes;
            ++*out_n;
        }
    return bytes;
}

// ---- what is in it
// -------------------------------------------------------------------------------------------

Test(record, residency_and_reads_add_up_to_the_figures_of_the_run)
{
    static const double shares[] = {0, 0.1, 0.5, 0.9, 1};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        for (int p = 0; policy_table[p]; p++)
            for (int prefetch = 0; prefetch < 2; prefetch++) {
                if (p > 0 && (i != 1 || !prefetch))
                    continue;
                const struct lode_engine_options options = {
                    .trace_path = path, .no_prefetch = !prefetch, .policy = policy_table[p]->name};
                struct said said;
                struct residency_figures figures;
                run(&options, shares[i], &said, &figures);
                struct trace trace;
                load(&trace);
                struct counts counts[N_TRACE_PHASES];
                count(&trace, counts);
                cr_expect_eq(trace.cut[0], '\0');
                cr_expect_gt(counts[TRACE_DECODE].choices, 0);
                cr_expect_eq(counts[TRACE_DECODE].choices, figures.choices);
                cr_expect_eq(counts[TRACE_DECODE].hits, figures.hits, "share %g, %s, prefetch %d", shares[i],
                             policy_table[p]->name, prefetch);
                cr_expect_eq(counts[TRACE_PREFILL].choices, figures.prefill_choices);
                cr_expect_eq(counts[TRACE_PREFILL].hits, figures.prefill_hits);
                uint64_t n_demand, n_guess, n_fill;
                cr_expect_eq(bytes_of(&trace, TRACE_READ_DEMAND, &n_demand), figures.demand_bytes);
                // What had been begun of a guess that was withdrawn is read and wasted, but no expert came.
                const uint64_t guessed_bytes = bytes_of(&trace, TRACE_READ_GUESS, &n_guess);
                cr_expect_leq(guessed_bytes, figures.guess_bytes);
                cr_expect_leq(figures.guess_bytes - guessed_bytes, figures.prefetch_wasted_bytes);
                bytes_of(&trace, TRACE_READ_FILL, &n_fill);
                cr_expect_eq(n_fill, 0);
                const uint64_t misses = counts[TRACE_DECODE].choices - counts[TRACE_DECODE].hits +
                                        counts[TRACE_PREFILL].choices - counts[TRACE_PREFILL].hits;
                if (shares[i] >= 1)
                    cr_expect_eq(misses + n_demand + n_guess, 0);
                else
                    cr_expect_gt(misses, 0);
                if (prefetch) {
                    cr_expect_leq(n_demand, misses);
                } else { // what is missing is read once, and nothing else
                    cr_expect_eq(n_demand, misses);
                    cr_expect_eq(n_guess, 0);
                    const uint64_t counted =
                        figures.demand_bytes + figures.ring_read_bytes + figures.row_read_bytes;
                    const uint64_t read = figures.read_bytes - figures.load_bytes;
                    if (shares[i] > 0 && shares[i] < 1) // no ring that reads on when the run has ended
                        cr_expect(counted <= read && read <= counted + n_demand * 4 * 8192,
                                  "%llu of %llu bytes", (unsigned long long)counted,
                                  (unsigned long long)read);
                }
                uint64_t stall_ns = 0;
                for (int kind = 0; kind < N_WAITS; kind++)
                    stall_ns += figures.stall_ns[kind];
                cr_expect_eq(stall_ns, figures.prefill_stall_ns + figures.decode_stall_ns);
                uint64_t told_ns = 0;
                for (uint32_t n = 0; n < trace.n_passes; n++)
                    told_ns += trace.passes[n].stall_ns;
                cr_expect_eq(told_ns, stall_ns);
                cr_expect_leq(figures.prefetch_late_bytes, figures.prefetch_useful_bytes);
                trace_free(&trace);
            }
}

Test(record, rows_have_weights_times_and_guesses)
{
    const struct lode_engine_options options = {.trace_path = path, .prefetch_ranks = 7};
    struct said said;
    struct residency_figures figures;
    run(&options, 0.1, &said, &figures);
    struct trace trace;
    load(&trace);
    uint32_t n_guessed[2] = {0}, n_rows = 0;
    for (uint32_t t = 0; t < trace.n_tokens; t++)
        for (uint32_t m = 0; m < trace.n_moe; m++) {
            const size_t row = row_at(&trace, t, m);
            const struct trace_pass *pass = &trace.passes[trace.tokens[t].pass];
            const bool decodes = pass->phase == TRACE_DECODE;
            cr_assert_eq(decodes, pass->n_tokens == 1);
            const uint16_t *guess;
            const uint32_t ranks = trace_row_guess(&trace, row, &guess);
            if (ranks)
                cr_assert_eq(ranks, decodes ? 7 : trace.n_used);
            n_guessed[decodes] += ranks > 0;
            if (trace.experts[row * trace.n_used] == TRACE_NO_EXPERT)
                continue;
            n_rows++;
            double sum = 0;
            for (uint32_t i = 0; i < trace.n_used; i++) {
                cr_assert_neq(trace.experts[row * trace.n_used + i], TRACE_NO_EXPERT);
                cr_assert_gt(trace.weights[row * trace.n_used + i], 0);
                sum += trace.weights[row * trace.n_used + i];
            }
            cr_assert(sum > 0.1 && sum < 10, "weights add up to %g", sum); // 1, but for the experts' scales
            cr_assert_geq(trace.times[row], pass->t_ns);
            cr_assert_leq(trace.times[row], pass->t_ns + (int64_t)pass->pass_ns);
            if (m)
                cr_assert_leq(trace.times[row - 1], trace.times[row]);
        }
    cr_expect_gt(n_rows, GENERATED * trace.n_moe / 2);
    cr_expect_gt(n_guessed[true], 0, "no token was guessed");
    cr_expect_gt(n_guessed[false], 0, "no prompt was guessed");
    trace_free(&trace);
}

Test(record, header_says_what_ran_and_how)
{
    char model[512];
    test_project_path(model, sizeof model, "models/tiny-moe-q4_0.gguf");
    struct lode_file *file;
    struct lode_error error = {0};
    uint64_t fingerprint, hashes[3];
    cr_assert_eq(lode_file_open(&file, model, &error), 0);
    cr_assert_eq(lode_file_fingerprint(file, &fingerprint, &error), 0);
    lode_file_close(file);
    for (int i = 0; i < 3; i++) {
        const struct lode_engine_options options = {.trace_path = path,
                                                    .devices = "cpu",
                                                    .policy = i ? "lru" : NULL,
                                                    .predictor = i == 2 ? "none" : NULL,
                                                    .prefetch_ranks = i == 1 ? 5 : 0,
                                                    .queue_depth = i == 1 ? 3 : 0};
        struct said said;
        struct residency_figures figures;
        run(&options, i ? 0.3 : 1, &said, &figures);
        struct trace trace;
        load(&trace);
        struct trace_settings settings;
        cr_assert_eq(trace_settings_read(&settings, trace.header.options, &error), 0, "%s", error.text);
        cr_expect_eq(trace.header.fingerprint, fingerprint);
        cr_expect_eq(trace.header.known, TRACE_HAS_ALL);
        cr_expect_str_eq(trace.header.lode_version, lode_version());
        cr_expect_neq(trace.header.machine[0], '\0');
        cr_expect_eq(settings.context, CONTEXT);
        cr_expect_eq(settings.batch, 32);
        cr_expect_eq(settings.threads, 2);
        cr_expect_str_eq(settings.kv, "f16");
        cr_expect_str_eq(settings.policy, i ? "lru" : policy_table[0]->name);
        cr_expect_str_eq(settings.predictor, i == 2 ? "none" : predictor_table[0]->name);
        cr_expect_eq(settings.prefetch_ranks, i == 1 ? 5 : 0);
        cr_expect_eq(settings.queue_depth, i == 1 ? 3 : 16);
        cr_expect_not(settings.warm);
        cr_expect_eq(settings.weights_bytes > 0, i > 0);
        cr_expect_str_eq(settings.devices, "cpu");
        cr_expect_eq(settings.n_vram, 0);
        cr_expect_str_empty(settings.placement);
        hashes[i] = trace.header.plan_hash;
        trace_free(&trace);
    }
    cr_expect(hashes[0] && hashes[0] != hashes[1] && hashes[1] != hashes[2]);
}

// The tokens of a prompt choose what they choose one at a time, under the same positions; of the last layer,
// which need not compute the others, only the last has a row.
Test(record, rows_of_a_prompt_stand_at_their_tokens)
{
    struct trace traces[2];
    for (int i = 0; i < 2; i++) {
        const struct lode_engine_options options = {.trace_path = path};
        struct lode_engine *engine = open_engine(&options, 0.5, 32);
        struct lode_session *session = demo_session(engine, CONTEXT, 32);
        int32_t *ids;
        const size_t n = demo_encode(engine, demo_story, &ids);
        for (size_t at = 0; i && at < n; at++)
            demo_feed(session, ids + at, 1);
        if (!i)
            demo_feed(session, ids, n);
        free(ids);
        lode_session_close(session);
        lode_engine_close(engine);
        load(&traces[i]);
        cr_assert_eq(traces[i].n_tokens, n);
        cr_assert_eq(traces[i].n_passes, i ? n : 1);
        cr_assert_eq(traces[i].n_conversations, 1);
    }
    const struct trace *prompt = &traces[0], *single = &traces[1];
    uint32_t n_same = 0, n_rows = 0;
    for (uint32_t t = 0; t < prompt->n_tokens; t++)
        for (uint32_t m = 0; m < prompt->n_moe; m++) {
            const size_t row = row_at(prompt, t, m) * prompt->n_used;
            cr_assert_eq(prompt->tokens[t].position, t);
            const bool last_layer = m + 1 == prompt->n_moe, last_token = t + 1 == prompt->n_tokens;
            cr_assert_eq(prompt->experts[row] == TRACE_NO_EXPERT, last_layer && !last_token);
            cr_assert_neq(single->experts[row], TRACE_NO_EXPERT);
            if (last_layer && !last_token)
                continue;
            n_rows++;
            n_same += memcmp(prompt->experts + row, single->experts + row,
                             prompt->n_used * sizeof *prompt->experts) == 0;
        }
    // Kernels for one row and for many may round differently, and of near ties another wins.
    cr_expect_geq(n_same, n_rows * 9 / 10, "%u of %u rows", n_same, n_rows);
    trace_free(&traces[0]);
    trace_free(&traces[1]);
}

Test(record, sessions_that_take_turns_are_conversations_of_their_own)
{
    const struct lode_engine_options options = {.trace_path = path};
    struct lode_engine *engine = open_engine(&options, 1, 32);
    struct lode_session *a = demo_session(engine, CONTEXT, 32), *b = demo_session(engine, CONTEXT, 32);
    int32_t *ids;
    struct lode_error error = {0};
    const size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(a, ids, n);      // 0: begins
    generate(a, 5, NULL);      // goes on
    demo_feed(b, ids, 4);      // 1: begins
    demo_feed(a, ids, 3);      // 2: back to the first, whose last sampled token comes before
    demo_feed(a, ids, 2);      // goes on
    lode_session_rewind(a, 0); //
    demo_feed(a, ids, 6);      // 3: begins anew
    cr_assert_eq(lode_session_fill(b, 10, 1, &error), 0, "%s", error.text);
    demo_feed(b, ids, 2); // 4: after noise
    lode_session_close(b);
    struct lode_session *c = demo_session(engine, CONTEXT, 32); // may lie where the other was
    cr_assert_eq(lode_session_fill(c, 7, 1, &error), 0, "%s", error.text);
    demo_feed(c, ids, 2); // 5
    free(ids);
    lode_session_close(a);
    lode_session_close(c);
    lode_engine_close(engine);
    struct trace trace;
    load(&trace);
    const struct {
        uint32_t n_tokens, position;
    } expected[] = {{(uint32_t)n + 4, 0}, {4, 0}, {1 + 3 + 2, (uint32_t)n + 4}, {6, 0}, {2, 14}, {2, 7}};
    const uint32_t n_expected = sizeof expected / sizeof *expected;
    cr_assert_eq(trace.n_conversations, n_expected);
    for (uint32_t i = 0; i < n_expected; i++) {
        const struct trace_conversation *conversation = &trace.conversations[i];
        cr_expect_eq(conversation->n_tokens, expected[i].n_tokens, "conversation %u", i);
        cr_expect_eq(trace.tokens[conversation->first_token].position, expected[i].position);
    }
    trace_free(&trace);
}

// ---- what guesses
// --------------------------------------------------------------------------------------------

Test(record, text_is_the_same_with_every_predictor_recorded_or_not)
{
    struct said expected = {0}, said;
    struct residency_figures figures;
    run(&(struct lode_engine_options){0}, 1, &expected, &figures);
    cr_assert_eq(expected.n, GENERATED);
    const char *name;
    for (size_t p = 0; (name = lode_predictor_name(p, NULL)); p++)
        for (int traced = 0; traced < 2; traced++)
            for (int share = 0; share < 2; share++) {
                const struct lode_engine_options options = {.predictor = name,
                                                            .trace_path = traced ? path : NULL};
                run(&options, share / 2.0, &said, &figures);
                cr_expect_arr_eq(said.ids, expected.ids, sizeof said.ids, "%s, traced %d, share %d of 2",
                                 name, traced, share);
                cr_expect(strcmp(name, "none") != 0 || (!figures.guess_bytes && !figures.prefetch_on));
            }
    cr_expect_null(lode_predictor_name(100, NULL));
}

struct spy {
    struct predictor base;
    const struct forward_weights *weights;
    uint32_t n_restarts, n_ends, n_prompt_ends, n_asked, n_with_gate, most, next_layer, n_layers;
    bool in_order, nonsense;
};

static void spy_restart(struct predictor *predictor)
{
    ((struct spy *)predictor)->n_restarts++;
}

static void spy_chosen(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n)
{
    struct spy *spy = (struct spy *)predictor;
    const struct gemma_hparams *h = &spy->weights->model->hparams;
    spy->in_order &= layer == spy->next_layer || (spy->next_layer > 0 && layer == spy->next_layer - 1);
    spy->in_order &= n == h->n_experts_used && (uint32_t)experts[n - 1] < h->n_experts;
    spy->next_layer = (layer + 1) % spy->n_layers;
}

static void spy_pass_end(struct predictor *predictor, uint32_t n_tokens)
{
    struct spy *spy = (struct spy *)predictor;
    spy->n_ends++;
    spy->n_prompt_ends += n_tokens > 1;
}

static uint32_t spy_guess(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                          uint32_t max)
{
    struct spy *spy = (struct spy *)predictor;
    (void)layer;
    spy->n_asked++;
    spy->n_with_gate += gate != NULL;
    spy->most = max;
    for (uint32_t i = 0; i < max; i++)
        out[i] = spy->nonsense ? (i % 3 == 0 ? -1 : i % 3 == 1 ? INT32_MAX : 3) : (int32_t)(max - i);
    return spy->nonsense ? UINT32_MAX : max;
}

Test(record, predictor_is_told_and_asked_and_what_it_says_is_checked)
{
    struct said expected = {0};
    struct residency_figures figures;
    run(&(struct lode_engine_options){0}, 1, &expected, &figures);
    for (int gate = PREDICTOR_NO_GATE; gate <= PREDICTOR_GATE_AUTO; gate++)
        for (int nonsense = 0; nonsense < 2; nonsense++) {
            const struct lode_engine_options options = {.trace_path = path, .prefetch_ranks = 6};
            struct lode_engine *engine = open_engine(&options, 0.1, 32);
            struct lode_session *session = demo_session(engine, CONTEXT, 32);
            const struct predictor_ops ops = {.name = "spy",
                                              .gate = (enum predictor_gate)gate,
                                              .restart = spy_restart,
                                              .chosen = spy_chosen,
                                              .pass_end = spy_pass_end,
                                              .guess = spy_guess};
            struct spy spy = {.base.ops = &ops,
                              .weights = &engine->weights,
                              .n_layers = engine->model.hparams.n_layers,
                              .in_order = true,
                              .nonsense = nonsense};
            engine->weights.predictor = &spy.base;
            engine->weights.skips_prompts = true;
            tell_story(engine, session);
            cr_expect_eq(spy.n_asked, 0, "of prompts the router is asked");
            struct said said = {0};
            generate(session, GENERATED, &said);
            cr_expect_arr_eq(said.ids, expected.ids, sizeof said.ids);
            cr_expect_eq(spy.n_restarts, 1);
            cr_expect_eq(spy.n_ends, GENERATED); // the last sampled token is not computed
            cr_expect_eq(spy.n_prompt_ends, 1);
            cr_expect_gt(spy.n_asked, 0);
            cr_expect_eq(spy.n_with_gate, gate == PREDICTOR_NO_GATE ? 0 : spy.n_asked);
            cr_expect_eq(spy.most, 6);
            cr_expect(spy.in_order, "choices were not told layer by layer");
            lode_session_rewind(session, 0);
            tell_story(engine, session);
            cr_expect_eq(spy.n_restarts, 2);
            lode_session_close(session);
            engine->weights.predictor = NULL;
            lode_engine_close(engine);
            struct trace trace;
            load(&trace);
            uint32_t n_guesses = 0;
            for (uint32_t t = 0; t < trace.n_tokens; t++)
                for (uint32_t m = 0; m < trace.n_moe; m++) {
                    const uint16_t *guess;
                    const uint32_t n = trace_row_guess(&trace, row_at(&trace, t, m), &guess);
                    n_guesses += n > 0;
                    cr_assert(n == 0 || trace.passes[trace.tokens[t].pass].phase == TRACE_DECODE);
                    cr_assert(n == 0 || n == (nonsense ? 1 : 6));
                    for (uint32_t i = 0; i < n; i++)
                        cr_assert_eq(guess[i], nonsense ? 3 : 6 - i);
                }
            cr_expect_eq(n_guesses, spy.n_asked);
            trace_free(&trace);
        }
}

Test(record, predictors_that_make_no_sense_are_refused)
{
    char model[512];
    test_project_path(model, sizeof model, "models/tiny-moe-q4_0.gguf");
    const struct {
        struct lode_engine_options options;
        const char *text;
    } cases[] = {
        {{.predictor = "best"}, "best"},
        {{.predictor = "./nowhere.so"}, "nowhere.so"},
        {{.predictor = "none", .prefetch_ranks = 3}, "contradict"},
        {{.predictor = lode_predictor_name(0, NULL), .no_prefetch = true}, "contradict"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lode_engine *engine;
        struct lode_error error = {0};
        cr_expect_lt(lode_engine_open(&engine, model, &cases[i].options, &error), 0);
        cr_expect_not_null(strstr(error.text, cases[i].text), "%s", error.text);
    }
}

// ---- what goes wrong
// -----------------------------------------------------------------------------------------

Test(record, file_that_cannot_be_written_is_told_before_weights_are_read)
{
    const struct {
        const char *path, *text;
    } cases[] = {
        {"/nowhere/at/all.trace", "No such file"}, {"/dev/full", "No space left"}, {"/tmp", "directory"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lode_engine_options options = {.trace_path = cases[i].path};
        struct lode_engine *engine = open_engine(&options, 1, 32);
        struct lode_session *session;
        struct lode_error error = {0};
        cr_expect_eq(lode_session_open(&session, engine, NULL, &error), LODE_ERR_IO);
        cr_expect_not_null(strstr(error.text, cases[i].path), "%s", error.text);
        cr_expect_not_null(strstr(error.text, cases[i].text), "%s", error.text);
        cr_expect_null(engine->residency);
        struct io_counters counters;
        io_count(engine->io, &counters);
        cr_expect_eq(counters.read_bytes, 0);
        lode_engine_close(engine);
    }
}

Test(record, model_without_experts_is_refused)
{
    const struct lode_synth_options shape = synth_options_of("tiny-31b", "q4_0");
    char model[256];
    strcpy(model, synth_path_of("dense.gguf"));
    synth_write_model(model, &shape);
    const struct lode_engine_options options = {.trace_path = path};
    struct lode_engine *engine;
    struct lode_error error = {0};
    cr_expect_eq(lode_engine_open(&engine, model, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "has none"), "%s", error.text);
    cr_expect_neq(access(path, F_OK), 0);
}

// A full disk: the run goes on, and hears of it once.
Test(record, write_that_fails_ends_the_recording_and_not_the_run)
{
    struct said expected = {0}, said = {0};
    struct residency_figures figures;
    run(&(struct lode_engine_options){0}, 1, &expected, &figures);
    for (int early = 0; early < 2; early++) {
        struct notes notes = {0};
        const struct lode_engine_options options = {.trace_path = path, .on_note = take_note, .user = &notes};
        struct lode_engine *engine = open_engine(&options, 0.5, 32);
        struct lode_session *session = demo_session(engine, CONTEXT, 32);
        const uint32_t n_before = notes.n;
        signal(SIGXFSZ, SIG_IGN);
        synth_limit_file_size(early ? 2000 : 1500);
        said.n = 0;
        tell_story(engine, session);
        generate(session, GENERATED, &said);
        cr_expect_arr_eq(said.ids, expected.ids, sizeof said.ids);
        for (int i = 0; early && i < 60 && notes.n == n_before; i++) { // blocks are written each second
            lode_session_rewind(session, 0);
            tell_story(engine, session);
            generate(session, 300, NULL);
        }
        lode_session_close(session);
        if (early) {
            cr_expect_eq(notes.n, n_before + 1, "%u notes before the end", notes.n - n_before);
            cr_expect_not_null(strstr(notes.last, "goes on"), "%s", notes.last);
        }
        lode_engine_close(engine);
        cr_expect_eq(notes.n, n_before + 1, "%u notes", notes.n - n_before);
        cr_expect_not_null(strstr(notes.last, path), "%s", notes.last);
        cr_expect_not_null(strstr(notes.last, "File too large"), "%s", notes.last);
        synth_limit_file_size(RLIM_INFINITY);
    }
}

static void record_until_killed(void)
{
    const struct lode_engine_options options = {.trace_path = path};
    struct lode_engine *engine = open_engine(&options, 0.5, 32);
    struct lode_session *session = demo_session(engine, CONTEXT, 32);
    for (int i = 0; i < 30; i++) {
        lode_session_rewind(session, 0);
        tell_story(engine, session);
        generate(session, 20, NULL);
        usleep(50000);
    }
    raise(SIGKILL);
}

Test(record, run_that_is_killed_leaves_what_it_had_recorded)
{
    const pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        record_until_killed();
        _exit(1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", status);
    struct trace trace;
    load(&trace);
    cr_expect_neq(trace.cut[0], '\0');
    cr_expect_gt(trace.n_tokens, 100);
    cr_expect_gt(trace.n_conversations, 1);
    trace_free(&trace);
}

Test(record, writer_takes_no_more_memory_than_is_planned_for_it)
{
    const struct lode_engine_options options = {.trace_path = path};
    struct lode_engine *engine = open_engine(&options, 1, 32);
    struct lode_engine *other = open_engine(&(struct lode_engine_options){0}, 1, 32);
    cr_expect_leq(other->base_bytes + trace_writer_most_bytes() / 2, engine->base_bytes + (4 << 20));
    lode_engine_close(other);
    struct lode_session *session = demo_session(engine, CONTEXT, 32);
    tell_story(engine, session);
    generate(session, GENERATED, NULL);
    cr_expect_leq(trace_writer_memory_bytes(engine->trace), trace_writer_most_bytes());
    cr_expect_leq(trace_writer_most_bytes(), 8 << 20);
    lode_session_close(session);
    lode_engine_close(engine);
}
