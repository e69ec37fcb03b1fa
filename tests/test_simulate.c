// Simulations of made-up traces: what they add up to, what is the same again, and what is refused.
#include "tests/cost_subject.h"
#include "tests/simulate_world.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct scene {
    struct trace trace;
    struct machine_profile *profile;
    struct simulation_model *model;
    struct simulation_question question;
    struct lode_error error;
};

static void open_scene(struct scene *s, const struct simulate_shape *shape, double share)
{
    memset(s, 0, sizeof *s);
    simulate_world_trace(&s->trace, shape);
    s->profile = simulate_world_machine();
    s->model = simulate_world_model("tiny-moe", &s->trace);
    s->question = (struct simulation_question){.profile = s->profile,
                                               .weights_bytes = simulation_share_bytes(s->model, share)};
}

static void close_scene(struct scene *s)
{
    simulation_model_close(s->model);
    free(s->profile);
    trace_free(&s->trace);
}

static void ask(struct simulation_result *out, struct scene *s)
{
    simulate_world_ask(out, s->model, &s->trace, &s->question);
}

static double stalls(const struct simulation_phase *phase)
{
    double sum = 0;
    for (int i = 0; i < SIMULATION_STALLS; i++)
        sum += phase->stall_s[i];
    return sum;
}

// ---- what it adds up to
// --------------------------------------------------------------------------------------

Test(simulate, counts_are_those_of_the_trace)
{
    struct scene s;
    struct simulation_result r;
    struct simulate_shape shape = simulate_world_tiny(20, 50, 1);
    shape.n_conversations = 3;
    open_scene(&s, &shape, 0.3);
    ask(&r, &s);
    cr_expect_eq(r.prefill.passes, 3);
    cr_expect_eq(r.prefill.tokens, 60);
    cr_expect_eq(r.decode.passes, 150);
    cr_expect_eq(r.decode.tokens, 150);
    cr_expect_eq(r.decode.choices, 150u * 4 * 8);
    cr_expect_eq(r.n_experts, 4u * 128);
    const uint64_t one = r.decode.choice_bytes / r.decode.choices;
    cr_expect_eq(one * r.decode.choices, r.decode.choice_bytes);
    cr_expect(r.decode.hits > 0 && r.decode.hits < r.decode.choices);
    // Without guesses what is missing is read, once.
    cr_expect_eq(r.decode.demand_bytes, (r.decode.choices - r.decode.hits) * one);
    cr_expect_eq(r.decode.hit_bytes, r.decode.hits * one);
    cr_expect_geq(r.prefill.demand_bytes, (r.prefill.choices - r.prefill.hits) * one);
    cr_expect_eq(r.decode.prefetch_bytes + r.decode.useful_bytes + r.decode.wasted_bytes, 0);
    cr_expect_eq(r.decode.streamed_bytes, 0);
    const double busy_s = r.decode.kernels_s + r.decode.attention_s + stalls(&r.decode);
    cr_expect(busy_s > 0 && busy_s < r.decode.seconds);
    cr_expect_gt(r.decode.stall_s[SIMULATION_STALL_DEMAND], 0);
    cr_expect(r.decode.p50_ms > 0 && r.decode.p50_ms <= r.decode.p95_ms &&
              r.decode.p95_ms <= r.decode.p99_ms);
    cr_expect(r.load_s > 0 && r.load_bytes > 0);
    close_scene(&s);
}

Test(simulate, with_all_in_memory_nothing_is_read_or_waited_for)
{
    struct scene s;
    struct simulation_result r;
    const struct simulate_shape shape = simulate_world_tiny(20, 30, 2);
    open_scene(&s, &shape, 1);
    s.question.weights_bytes = 0;
    ask(&r, &s);
    cr_expect_eq(r.decode.hits, r.decode.choices);
    cr_expect_eq(r.prefill.hits, r.prefill.choices);
    cr_expect_eq(r.decode.demand_bytes + r.prefill.demand_bytes, 0);
    cr_expect_eq(r.decode.drive_busy_s, 0);
    cr_expect_eq(stalls(&r.decode) + stalls(&r.prefill), 0);
    cr_expect_eq(r.decode.p50_ms > 0, true);
    close_scene(&s);
}

Test(simulate, more_memory_is_never_slower_with_the_least_recently_used)
{
    static const double shares[] = {0.1, 0.3, 0.6, 1};
    struct scene s;
    struct simulation_result r;
    const struct simulate_shape shape = simulate_world_tiny(10, 80, 3);
    double before_s = INFINITY;
    uint64_t before_hits = 0;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        open_scene(&s, &shape, shares[i]);
        s.question.policy = policy_find("lru");
        ask(&r, &s);
        cr_expect_geq(r.decode.hits, before_hits);
        cr_expect_leq(r.decode.seconds, before_s * 1.001);
        before_hits = r.decode.hits;
        before_s = r.decode.seconds;
        close_scene(&s);
    }
}

Test(simulate, a_token_behind_a_long_context_attends_longer)
{
    struct scene s;
    struct simulation_result near, far;
    struct simulate_shape shape = simulate_world_tiny(0, 20, 4);
    open_scene(&s, &shape, 0.4);
    ask(&near, &s);
    close_scene(&s);
    shape.first_position = 3000;
    open_scene(&s, &shape, 0.4);
    ask(&far, &s);
    close_scene(&s);
    cr_expect_gt(far.decode.attention_s, 4 * near.decode.attention_s);
    cr_expect_eq(far.decode.hits, near.decode.hits);
}

Test(simulate, prompts_longer_than_the_batch_take_several_steps)
{
    struct scene s;
    struct simulation_result r;
    const struct simulate_shape shape = simulate_world_tiny(50, 5, 5);
    open_scene(&s, &shape, 0.5);
    s.question.batch = 16;
    ask(&r, &s);
    cr_expect_eq(r.prefill.passes, 4);
    cr_expect_eq(r.prefill.tokens, 50);
    close_scene(&s);
}

// A phone's run of a prompt of 29 tokens, whose beginning is here.
Test(simulate, a_recorded_trace_runs_on_the_real_shape)
{
    static const double shares[] = {0.125, 0.25, 0.5};
    char path[512];
    struct scene s = {.profile = simulate_world_machine()};
    cr_assert(test_data_find(path, sizeof path, "traces/gemma4-26b-a4b-first.route.csv.zst"));
    cr_assert_eq(trace_load(&s.trace, path, 0, &s.error), 0, "%s", s.error.text);
    s.model = simulate_world_model("26b-a4b", &s.trace);
    double before = 0;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        struct simulation_result r;
        s.question =
            (struct simulation_question){.profile = s.profile,
                                         .policy = policy_find("lru"),
                                         .weights_bytes = simulation_share_bytes(s.model, shares[i])};
        ask(&r, &s);
        const double hits = (double)r.decode.hits / (double)r.decode.choices;
        cr_expect_eq(r.decode.tokens + r.prefill.tokens, s.trace.n_tokens);
        cr_expect_eq(r.decode.choices, r.decode.tokens * 30 * 6);
        cr_expect(hits > before + 0.02 && hits > shares[i] && hits < 1, "%g of %g", hits, shares[i]);
        before = hits;
    }
    close_scene(&s);
}

// ---- the same again
// ------------------------------------------------------------------------------------------

struct twin {
    pthread_t thread;
    struct scene *scene;
    struct simulation_result result;
};

static void *run_twin(void *user)
{
    struct twin *twin = user;
    ask(&twin->result, twin->scene);
    return NULL;
}

Test(simulate, the_same_question_has_the_same_answer_in_any_thread)
{
    struct scene s;
    struct simulation_result r;
    struct twin twins[3];
    struct simulate_shape shape = simulate_world_tiny(20, 60, 6);
    shape.ranks = 12;
    open_scene(&s, &shape, 0.2);
    s.question.predictor = predictor_find("gate");
    cr_assert(s.question.predictor);
    memset(&r, 0, sizeof r);
    ask(&r, &s);
    for (int i = 0; i < 3; i++) {
        twins[i] = (struct twin){.scene = &s};
        cr_assert_eq(pthread_create(&twins[i].thread, NULL, run_twin, &twins[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(twins[i].thread, NULL);
        cr_expect_eq(memcmp(&r, &twins[i].result, sizeof r), 0);
    }
    close_scene(&s);
}

// ---- guesses
// -------------------------------------------------------------------------------------------------

Test(simulate, perfect_guesses_waste_nothing)
{
    struct scene s;
    struct simulation_result none, perfect;
    const struct simulate_shape shape = simulate_world_tiny(20, 100, 7);
    open_scene(&s, &shape, 0.3);
    ask(&none, &s);
    s.question.predictor = &simulation_perfect_predictor;
    ask(&perfect, &s);
    cr_expect_gt(perfect.decode.useful_bytes + perfect.decode.late_bytes, 0);
    cr_expect_eq(perfect.decode.wasted_bytes, 0);
    cr_expect_gt(perfect.prefill.useful_bytes + perfect.prefill.late_bytes, 0);
    cr_expect_eq(perfect.prefill.wasted_bytes, 0);
    cr_expect_lt(perfect.decode.seconds, none.decode.seconds);
    close_scene(&s);
}

Test(simulate, recorded_guesses_are_what_the_gate_says)
{
    struct scene s;
    struct simulation_result right, wrong;
    struct simulate_shape shape = simulate_world_tiny(20, 100, 8);
    shape.ranks = 8;
    shape.right = true;
    open_scene(&s, &shape, 0.3);
    s.question.predictor = predictor_find("gate");
    ask(&right, &s);
    close_scene(&s);
    cr_expect_gt(right.decode.useful_bytes + right.decode.late_bytes, 0);
    cr_expect_eq(right.decode.wasted_bytes, 0);
    shape.right = false;
    open_scene(&s, &shape, 0.3);
    s.question.predictor = predictor_find("gate");
    ask(&wrong, &s);
    cr_expect_gt(wrong.decode.wasted_bytes, 0);
    close_scene(&s);
}

// What the trace does not know is not guessed: neither ranks nor layers.
Test(simulate, ranks_beyond_those_recorded_are_left_out)
{
    struct scene s;
    struct simulation_result few, many;
    struct simulate_shape shape = simulate_world_tiny(20, 60, 9);
    shape.ranks = 4;
    shape.right = true;
    open_scene(&s, &shape, 0.3);
    s.question.predictor = predictor_find("gate");
    s.question.prefetch_ranks = 4;
    ask(&few, &s);
    s.question.prefetch_ranks = 100;
    ask(&many, &s);
    cr_expect_eq(memcmp(&few.decode, &many.decode, sizeof few.decode), 0);
    cr_expect_eq(many.decode.wasted_bytes, 0);
    cr_expect_eq(many.prefill.prefetch_bytes, 0, "of prompts, as many ranks are needed as a token chooses");
    cr_expect_gt(many.decode.useful_bytes + many.decode.late_bytes, 0);
    close_scene(&s);
}

Test(simulate, a_predictor_that_asks_the_gate_needs_recorded_guesses)
{
    struct scene s;
    struct simulation_result r;
    const struct simulate_shape shape = simulate_world_tiny(0, 10, 10);
    open_scene(&s, &shape, 0.3);
    s.question.predictor = predictor_find("gate");
    cr_expect_eq(simulate(&r, s.model, &s.trace, &s.question, &s.error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(s.error.text, "gate"), "%s", s.error.text);
    close_scene(&s);
}

Test(simulate, predictors_are_fitted_on_training_traces)
{
    struct scene s;
    struct trace training;
    struct simulation_result r, fitted;
    const struct simulate_shape shape = simulate_world_tiny(0, 60, 11);
    open_scene(&s, &shape, 0.3);
    simulate_world_trace(&training, &shape);
    const struct trace *fit[] = {&training};
    s.question.predictor = predictor_find("cooccur");
    cr_assert(s.question.predictor);
    ask(&r, &s);
    s.question.fit = fit;
    s.question.n_fit = 1;
    ask(&fitted, &s);
    cr_expect_gt(fitted.decode.useful_bytes + fitted.decode.late_bytes,
                 r.decode.useful_bytes + r.decode.late_bytes);
    trace_free(&training);
    close_scene(&s);
}

Test(simulate, heat_fills_the_pool_and_starts_the_policy)
{
    struct scene s;
    struct simulation_result cold, warm;
    const struct simulate_shape shape = simulate_world_tiny(0, 60, 12);
    open_scene(&s, &shape, 0.3);
    float heat[4 * 128] = {0};
    for (uint32_t t = 0; t < s.trace.n_tokens; t++)
        for (uint32_t i = 0; i < 4 * 8; i++)
            heat[i / 8 * 128 + s.trace.experts[t * 32 + i]] += 1.0f / (float)s.trace.n_tokens;
    s.question.policy = policy_find("heat");
    ask(&cold, &s);
    s.question.heat = heat;
    ask(&warm, &s);
    cr_expect_gt(warm.decode.hits, cold.decode.hits);
    close_scene(&s);
}

// ---- parts of a trace
// ----------------------------------------------------------------------------------------

Test(simulate, conversations_for_fitting_are_left_out)
{
    struct scene s;
    struct simulation_result r;
    struct simulate_shape shape = simulate_world_tiny(5, 10, 13);
    shape.n_conversations = 4;
    open_scene(&s, &shape, 0.5);
    s.trace.conversations[0].part = s.trace.conversations[2].part = TRACE_PART_FIT;
    ask(&r, &s);
    cr_expect_eq(r.decode.tokens, 20);
    for (int i = 0; i < 4; i++)
        s.trace.conversations[i].part = TRACE_PART_FIT;
    cr_expect_eq(simulate(&r, s.model, &s.trace, &s.question, &s.error), LODE_ERR_ARGUMENT);
    close_scene(&s);
}

Test(simulate, a_row_without_choices_is_told_by_token_and_layer)
{
    struct scene s;
    struct simulation_result r;
    const struct simulate_shape shape = simulate_world_tiny(0, 10, 14);
    open_scene(&s, &shape, 0.5);
    memset(s.trace.experts + (7 * 4 + 2) * 8, 0xff, 8 * sizeof *s.trace.experts);
    cr_expect_eq(simulate(&r, s.model, &s.trace, &s.question, &s.error), LODE_ERR_FORMAT);
    cr_expect(strstr(s.error.text, "token 7") && strstr(s.error.text, "layer 2"), "%s", s.error.text);
    close_scene(&s);
}

static bool stop(void *user)
{
    int *left = user;
    return --*left > 0;
}

Test(simulate, it_can_be_stopped)
{
    struct scene s;
    struct simulation_result r;
    int left = 20;
    const struct simulate_shape shape = simulate_world_tiny(0, 40, 15);
    open_scene(&s, &shape, 0.5);
    s.question.keep_going = stop;
    s.question.user = &left;
    cr_expect_eq(simulate(&r, s.model, &s.trace, &s.question, &s.error), LODE_ERR_CANCELLED);
    close_scene(&s);
}

// ---- models
// --------------------------------------------------------------------------------------------------

Test(simulate, a_model_must_be_the_traces)
{
    struct trace trace;
    struct simulation_model *model;
    struct lode_error error;
    const char *note;
    struct simulate_shape shape = simulate_world_tiny(0, 4, 16);
    shape.n_used = 6;
    simulate_world_trace(&trace, &shape);
    cr_assert_eq(simulation_model_open(&model, NULL, "tiny-moe", NULL, &trace, &note, &error), 0, "%s",
                 error.text);
    cr_expect(note && strstr(note, "fewer"), "%s", note ? note : "");
    struct machine_profile *profile = simulate_world_machine();
    const struct simulation_question question = {.profile = profile};
    struct simulation_result r;
    cr_expect_eq(simulate(&r, model, &trace, &question, &error), 0, "%s", error.text);
    cr_expect_eq(r.decode.choices, 4u * 4 * 6);
    free(profile);
    simulation_model_close(model);
    cr_expect_eq(simulation_model_open(&model, NULL, "26b-a4b", NULL, &trace, &note, &error),
                 LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "layers"), "%s", error.text);
    trace.header.layers[1].n_experts = 64;
    cr_expect_eq(simulation_model_open(&model, NULL, "tiny-moe", NULL, &trace, &note, &error),
                 LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "layer 1"), "%s", error.text);
    trace.header.layers[1].n_experts = 128;
    trace.header.fingerprint = 1;
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    cr_expect_eq(simulation_model_open(&model, path, NULL, NULL, &trace, &note, &error), LODE_ERR_ARGUMENT);
    trace_free(&trace);
}

Test(simulate, memory_is_divided_as_the_planner_does)
{
    struct scene s;
    const struct simulate_shape shape = simulate_world_tiny(10, 10, 17);
    open_scene(&s, &shape, 0.5);
    struct simulation_model *model = simulate_world_model("26b-a4b", NULL);
    uint64_t before_bytes = 0;
    for (uint64_t ram = 6; ram <= 10; ram += 2) {
        struct simulation_question question = {.profile = s.profile};
        cr_assert_eq(simulation_plan(&question, model, ram << 30, &s.error), 0, "%s", s.error.text);
        cr_expect(question.weights_bytes > before_bytes && question.weights_bytes < ram << 30);
        cr_expect_gt(question.weights_bytes + ((uint64_t)2 << 30), ram << 30);
        cr_expect(question.context && question.batch);
        before_bytes = question.weights_bytes;
    }
    struct simulation_question question = {.profile = s.profile};
    cr_expect_eq(simulation_plan(&question, model, (uint64_t)40 << 30, &s.error), 0, "%s", s.error.text);
    cr_expect_eq(question.weights_bytes, 0);
    cr_expect_eq(simulation_plan(&question, model, (uint64_t)1 << 28, &s.error), LODE_ERR_MEMORY);
    cr_expect_leq(simulation_share_bytes(model, 0), simulation_share_bytes(model, 0.5));
    cr_expect_lt(simulation_share_bytes(model, 0.5), simulation_share_bytes(model, 1));
    simulation_model_close(model);
    close_scene(&s);
}
