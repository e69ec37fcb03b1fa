// Replay equals live: runs of the demo model are recorded and simulated again as their traces say they were
// set; hits, misses and bytes are the same, row by row.
#include "core/session_internal.h"
#include "placement/trace.h"
#include "tests/demo.h"
#include "tests/simulate_world.h"
#include "tests/synth_files.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 512, BATCH = 16 };

static char path[256];

static void make_folder(void)
{
    synth_make_directory();
    strcpy(path, synth_path_of("run.trace"));
}

TestSuite(simulate_replay, .init = make_folder, .fini = synth_remove_directory, .timeout = 250);

struct setting {
    double share; // of the weights beyond the least that works, in memory
    size_t prompt_tokens;
    uint32_t generated;
    const char *policy, *predictor;
};

static void find_model(char out[512])
{
    test_project_path(out, 512, "models/tiny-moe-q4_0.gguf");
}

// What a session takes is known when one has been opened.
static uint64_t session_bytes(void)
{
    struct lode_engine *engine = demo_engine(1);
    struct lode_session *session = demo_session(engine, CONTEXT, BATCH);
    const uint64_t bytes = session->needs.kv_bytes + session->needs.scratch_bytes;
    lode_session_close(session);
    lode_engine_close(engine);
    return bytes;
}

static struct lode_engine *open_engine(const struct setting *setting)
{
    char model[512];
    struct lode_error error = {0};
    struct lode_engine *engine;
    find_model(model);
    const struct lode_engine_options options = {.threads = 1,
                                                .ram_bytes = UINT64_C(2) << 30,
                                                .trace_path = path,
                                                .policy = setting->policy,
                                                .predictor = setting->predictor};
    cr_assert_eq(lode_engine_open(&engine, model, &options, &error), 0, "%s", error.text);
    const uint64_t floor = residency_floor_bytes(&engine->model.units, engine->device);
    const uint64_t full = residency_full_bytes(&engine->model.units, engine->device);
    engine->ceiling_bytes =
        engine->base_bytes + session_bytes() + floor + (uint64_t)(setting->share * (double)(full - floor));
    return engine;
}

static void record(struct residency_figures *out, const struct setting *setting)
{
    struct lode_engine *engine = open_engine(setting);
    struct lode_session *session = demo_session(engine, CONTEXT, BATCH);
    struct lode_generate_options options = lode_generate_options_default();
    struct lode_error error = {0};
    enum lode_stop stop;
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(session, ids, n < setting->prompt_tokens ? n : setting->prompt_tokens);
    free(ids);
    options.sampling.temperature = 0;
    options.max_tokens = setting->generated;
    options.ignore_end = true;
    cr_assert_eq(lode_session_generate(session, &options, &stop, &error), 0, "%s", error.text);
    residency_count(engine->residency, out);
    lode_session_close(session);
    lode_engine_close(engine);
}

static void replay(struct simulation_replay *out)
{
    char file[512];
    struct trace trace;
    struct simulation_model *model;
    struct lode_error error = {0};
    const char *note;
    find_model(file);
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    cr_assert_eq(simulation_model_open(&model, file, NULL, NULL, &trace, &note, &error), 0, "%s", error.text);
    cr_expect_null(note);
    struct machine_profile *profile = simulate_world_machine();
    cr_assert_eq(simulate_replay(out, model, &trace, profile, &error), 0, "%s", error.text);
    free(profile);
    simulation_model_close(model);
    trace_free(&trace);
}

static void compare(const struct setting *setting, bool partly)
{
    struct residency_figures live;
    struct simulation_replay again;
    record(&live, setting);
    replay(&again);
    const char *policy = setting->policy;
    const struct simulation_phase *prefill = &again.result.prefill, *decode = &again.result.decode;
    cr_expect_eq(live.hits < live.choices, partly, "%s", policy);
    cr_expect_eq(again.live_hits, live.hits + live.prefill_hits, "%s: what the trace tells", policy);
    cr_expect_eq(again.live_choices, live.choices + live.prefill_choices, "%s", policy);
    cr_expect_eq(again.live_bytes, live.demand_bytes + live.guess_bytes, "%s", policy);
    cr_expect_eq(again.result.pool_slots, live.pool_slots, "%s", policy);
    cr_expect_eq(decode->choices, live.choices, "%s", policy);
    cr_expect_eq(decode->hits, live.hits, "%s: %lu hits live, %lu again", policy, live.hits, decode->hits);
    cr_expect_eq(prefill->choices, live.prefill_choices, "%s", policy);
    cr_expect_eq(prefill->hits, live.prefill_hits, "%s", policy);
    cr_expect_eq(again.replay_hits, again.live_hits, "%s", policy);
    cr_expect_eq(again.replay_bytes, again.live_bytes, "%s", policy);
    cr_expect_eq(again.first_difference, UINT64_MAX, "%s: row %lu", policy, again.first_difference);
    cr_expect(again.live_decode_s > 0 && again.replay_decode_s > 0);
    cr_expect_eq(again.replay_decode_s, decode->seconds);
}

// Every layer's experts have room at once, so that none waits for a slot: what is read then does not depend
// on the order of arrival.
Test(simulate_replay, a_run_without_prefetch_is_the_same_for_every_policy)
{
    static const struct setting runs[] = {
        {.share = 0.3, .prompt_tokens = 20, .generated = 40},
        {.share = 0.5, .prompt_tokens = 7, .generated = 60},
        {.share = 0.8, .prompt_tokens = 40, .generated = 30},
    };
    for (uint32_t p = 0; policy_table[p]; p++)
        for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
            struct setting setting = runs[i];
            setting.policy = policy_table[p]->name;
            setting.predictor = "none";
            compare(&setting, true);
        }
}

Test(simulate_replay, with_all_in_memory_even_prefetch_changes_nothing)
{
    const struct setting setting = {.share = 2, .prompt_tokens = 20, .generated = 20, .policy = "lru"};
    compare(&setting, false);
}

// With prefetch arrivals decide, and the clocks differ: close, not equal.
Test(simulate_replay, a_run_with_prefetch_is_close)
{
    struct residency_figures live;
    struct simulation_replay again;
    const struct setting setting = {
        .share = 0.5, .prompt_tokens = 20, .generated = 60, .policy = "lru", .predictor = "previous"};
    record(&live, &setting);
    replay(&again);
    cr_expect_eq(again.result.decode.choices, live.choices);
    cr_expect_float_eq((double)again.result.decode.hits, (double)live.hits, 0.25 * (double)live.choices);
}

Test(simulate_replay, a_trace_that_does_not_tell_its_settings_is_refused)
{
    struct trace trace;
    struct simulation_replay again;
    struct lode_error error = {0};
    const struct simulate_shape shape = simulate_world_tiny(0, 4, 1);
    simulate_world_trace(&trace, &shape);
    struct simulation_model *model = simulate_world_model("tiny-moe", &trace);
    struct machine_profile *profile = simulate_world_machine();
    cr_expect_eq(simulate_replay(&again, model, &trace, profile, &error), LODE_ERR_ARGUMENT);
    strcpy(trace.header.options, "weights=some");
    cr_expect_eq(simulate_replay(&again, model, &trace, profile, &error), LODE_ERR_FORMAT);
    strcpy(trace.header.options, "policy=nobody predictor=none");
    cr_expect_eq(simulate_replay(&again, model, &trace, profile, &error), LODE_ERR_ARGUMENT);
    strcpy(trace.header.options, "kv=f9");
    cr_expect_eq(simulate_replay(&again, model, &trace, profile, &error), LODE_ERR_FORMAT);
    free(profile);
    simulation_model_close(model);
    trace_free(&trace);
}
