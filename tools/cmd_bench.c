// `lode bench`: how fast a model reads a prompt and generates, at given lengths and depths of context.
#include "tools/bench.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/options.h"
#include "tools/stats_file.h"

#include "profiles/read_bandwidth.h"

#include <stdlib.h>

static const char command[] = "lode bench";
enum { DEFAULT_BATCH = 512 };

// Of a smaller buffer a good part may stay in the caches.
#define LEAST_PEAK_BYTES ((uint64_t)128 << 20)

static const char usage[] =
    "Usage: lode bench [-m MODEL] [-p LIST] [-n N] [-d LIST] [OPTION]...\n"
    "\n"
    "Measures prefill and decode at depths of context, in turns, and prints medians. Decode is held\n"
    "against the rate at which the threads read memory. A LIST is numbers with commas, as 0,4K,32K.\n"
    "\n"
    "  -p, --prefill LIST    prompts of so many tokens (512); 0: none\n"
    "  -n, --decode N        decode N tokens (32); 0: none\n"
    "  -d, --depth LIST      each of it after a context of so many tokens (0)\n"
    "  -r, --repeats N       rounds (3)\n"
    "  --real-context        contexts are computed from tokens; else they are noise, which is quick\n"
    "  --seed N              other random tokens (0)\n"
    "  --json                one JSON object instead of the table\n"
    "  --stats FILE          write that object to a file\n" MODEL_USAGE
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted (what was measured is told), 143 terminated.\n"
    "Examples:\n"
    "  lode bench -m gemma-4-26B-A4B-it-Q4_0.gguf -p 512,4K -d 0,32K\n"
    "  lode bench -n 0 --json | jq '.results[].tok_s'\n";

struct command_state {
    struct model_options model;
    struct bench bench;
    bool json;
    const char *stats_path;

    FILE *stats_file;
    struct lode_engine *engine;
    struct lode_session *session;
    struct bench_setting setting;
};

static bool has_work(const struct bench *bench)
{
    return bench->decode || bench->prefills.values[bench->prefills.count - 1];
}

static bool parse(struct command_state *state, int argc, char **argv, int *exit_code)
{
    struct bench *bench = &state->bench;
    const struct option options[] = {
        MODEL_OPTIONS(state->model),
        OPTION_IS_COUNT("batch", 'b', &state->model.batch, 1, 64 << 10),
        OPTION_IS_CHOICE("kv", &state->model.kv, model_kv_choices),
        {.name = "prefill",
         .letter = 'p',
         .kind = OPTION_CALL,
         .target = &bench->prefills,
         .parse = bench_list_parse},
        OPTION_IS_COUNT("decode", 'n', &bench->decode, 0, 16 << 20),
        {.name = "depth",
         .letter = 'd',
         .kind = OPTION_CALL,
         .target = &bench->depths,
         .parse = bench_list_parse},
        OPTION_IS_COUNT("repeats", 'r', &bench->repeats, 1, BENCH_MAX_REPEATS),
        OPTION_IS_FLAG("real-context", 0, &bench->real_context),
        {.name = "seed", .kind = OPTION_SEED, .target = &bench->seed},
        OPTION_IS_FLAG("json", 0, &state->json),
        OPTION_IS_TEXT("stats", 0, &state->stats_path),
    };
    struct option_parser parser = {.command = command,
                                   .usage = usage,
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options};
    if (!options_parse(&parser, argc, argv, exit_code))
        return false;
    if (has_work(bench))
        return true;
    *exit_code = message_usage(command, "nothing to measure: -p and -n are both 0");
    return false;
}

// Twice, before the weights come and after they have gone, for another program may be busy at one of the
// times; the better one counts. Its memory is within the ceiling.
static int measure_peak(struct command_state *state, struct lode_error *error)
{
    const uint64_t most_bytes = state->model.ram_bytes / 2;
    double gbps;
    if (!state->bench.decode || (most_bytes && most_bytes < LEAST_PEAK_BYTES))
        return LODE_OK;
    int code = read_bandwidth_measure(&gbps, state->setting.threads, most_bytes, error);
    if (!code && gbps > state->setting.read_gbps)
        state->setting.read_gbps = gbps;
    return code;
}

static int open_all(struct command_state *state, struct lode_error *error)
{
    struct bench_setting *setting = &state->setting;
    uint32_t context = 0;
    int code = model_open(&state->engine, &state->model, command, error);
    if (!code) {
        setting->shape = *lode_engine_shape(state->engine);
        setting->threads = lode_engine_threads(state->engine);
        setting->kv = model_kv_choices[state->model.kv];
        snprintf(setting->isa, sizeof setting->isa, "%s", lode_engine_isa(state->engine));
        code = bench_plan(&state->bench, &setting->shape, &context, error);
    }
    if (!code)
        code = measure_peak(state, error);
    if (!code)
        code = model_session_open(&state->session, state->engine, &state->model, context, error);
    setting->batch = state->model.batch ? state->model.batch : DEFAULT_BATCH;
    if (setting->batch > context)
        setting->batch = context;
    return code;
}

static void note_offload(struct command_state *state)
{
    struct lode_offload_stats offload;
    lode_session_offload(state->session, &offload);
    state->setting.offloaded = offload.offloaded;
    if (offload.offloaded)
        message_note(command, "the weights do not all fit in memory: the figures hold the waiting for reads");
}

static void close_model(struct command_state *state)
{
    lode_session_close(state->session);
    lode_engine_close(state->engine);
    state->session = NULL;
    state->engine = NULL;
}

static int measure(struct command_state *state, struct lode_error *error)
{
    int code = open_all(state, error);
    if (code)
        return code;
    note_offload(state);
    code = bench_measure(&state->bench, state->engine, state->session, error);
    close_model(state);
    return code || state->bench.interrupted ? code : measure_peak(state, error);
}

static int write_stats(struct command_state *state)
{
    if (!state->stats_file)
        return EXIT_OK;
    const int failed = bench_print_json(state->stats_file, &state->bench, &state->setting);
    return stats_file_close(&state->stats_file, failed, state->stats_path, command);
}

static int tell_results(struct command_state *state)
{
    if (state->json)
        bench_print_json(stdout, &state->bench, &state->setting); // main notices a failing stdout
    else
        bench_print_table(stdout, &state->bench, &state->setting);
    int code = write_stats(state);
    if (!state->bench.interrupted)
        return code;
    message_note(command, "interrupted; the figures are those of the runs so far");
    return interrupt_exit_code();
}

static int execute(struct command_state *state)
{
    interrupt_watch(true);
    int code = model_find(&state->model, command);
    if (code)
        return code;
    code = stats_file_open(&state->stats_file, state->stats_path, command);
    if (code)
        return code;
    state->setting.path = state->model.path;
    struct lode_error error = {0};
    if (measure(state, &error))
        return message_failed(command, &error);
    return tell_results(state);
}

static void release(struct command_state *state)
{
    if (state->stats_file)
        fclose(state->stats_file);
    close_model(state);
    bench_free(&state->bench);
}

int cmd_bench(int argc, char **argv)
{
    struct command_state state = {
        .bench = {.prefills = {{512}, 1}, .depths = {{0}, 1}, .decode = 32, .repeats = 3}};
    int code;
    if (parse(&state, argc, argv, &code))
        code = execute(&state);
    release(&state);
    return code;
}
