// `lode bench`: how fast a model reads a prompt and generates, at given lengths and depths of context; or a
// configuration beside baselines of the same memory.
#include "tools/against.h"
#include "tools/bench.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/model_settings.h"
#include "tools/options.h"
#include "tools/stats_file.h"

#include "profiles/read_bandwidth.h"

#include <inttypes.h>
#include <stdlib.h>

static const char command[] = "lode bench";
enum { DEFAULT_BATCH = 512, DEFAULT_PREFILL = 512 };

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
    "  -r, --repeats N       rounds (3); --seed N  other random tokens (0)\n"
    "  --real-context        contexts are computed from tokens; else they are noise, which is quick\n"
    "  --against LIST   whole runs beside baselines of equal memory: by-layer,static,lru,mmap,gpu-layers\n"
    "  --warm                those begin with the heat of earlier runs; --against-run ARM:N  one of them\n"
    "  --json                one JSON object instead of the table; --stats FILE  writes it to a "
    "file\n" ROUTING_USAGE MODEL_GPU_USAGE MODEL_USAGE
    "Exit: 0 done, 1 failed, 2 usage, 130 interrupted (what was measured is told), 143 terminated.\n"
    "Examples:\n"
    "  lode bench -m gemma-4-26B-A4B-it-Q4_0.gguf -p 512,4K -d 0,32K\n"
    "  lode bench -n 0 --json | jq '.results[].tok_s'\n"
    "  lode bench -m gemma-4-26B-A4B-it-Q4_0.gguf --ram 8G --against lru,by-layer -r 5\n";

struct command_state {
    struct model_options model;
    struct bench bench;
    bool json;
    const char *stats_path;
    struct against_list baselines;
    struct against_turn turn; // of a child
    struct against against;
    bool against_given, warm, prefill_given, depth_given;

    FILE *stats_file;
    struct lode_engine *engine;
    struct lode_session *session;
    struct bench_setting setting;
};

static bool has_work(const struct bench *bench)
{
    return bench->decode || bench->prefills.values[bench->prefills.count - 1];
}

static bool has_arm(const struct command_state *state, enum against_arm arm)
{
    for (uint32_t i = 0; i < state->baselines.n; i++)
        if (state->baselines.arms[i] == arm)
            return true;
    return false;
}

// What would not be the same work or the same footing for all arms is refused.
static int check_against(const struct command_state *state)
{
    const struct model_options *model = &state->model;
    const bool maps = state->turn.arm == AGAINST_MMAP || has_arm(state, AGAINST_MMAP);
    if (state->depth_given || state->bench.real_context)
        return message_usage(command, "--against begins with the prompt: leave out -d and --real-context");
    if (state->bench.prefills.count != 1 || !state->bench.prefills.values[0])
        return message_usage(command, "--against takes one -p, of at least one token");
    if (state->bench.decode < 2)
        return message_usage(command, "--against takes -n of at least 2: the first token is the prompt's");
    if (state->warm && model->cold)
        return message_usage(command, "--warm and --cold contradict each other");
    if (model->trace)
        return message_usage(command, "--trace records one run: leave out --against");
    if (model->gpus.timeline)
        return message_usage(command, "--timeline is of one run: leave out --against");
    if (has_arm(state, AGAINST_GPU_LAYERS) && model->gpus.placement == MODEL_PLACEMENT_BY_LAYER)
        return message_usage(command, "gpu-layers and --placement by-layer are the same");
    if (maps && model->mirror)
        return message_usage(command, "mapped files are read from one copy: leave out --mirror");
    return EXIT_OK;
}

static bool parse(struct command_state *state, int argc, char **argv, int *exit_code)
{
    struct bench *bench = &state->bench;
    const struct option options[] = {
        {.name = "against",
         .kind = OPTION_CALL,
         .target = &state->baselines,
         .parse = against_list_parse,
         .given = &state->against_given},
        {.name = "against-run",
         .kind = OPTION_CALL,
         .target = &state->turn,
         .parse = against_turn_parse}, // of the children that --against starts
        OPTION_IS_FLAG("warm", 0, &state->warm),
        MODEL_OPTIONS(state->model),
        ROUTING_OPTIONS(state->model),
        MODEL_GPU_OPTIONS(state->model.gpus),
        OPTION_IS_COUNT("batch", 'b', &state->model.batch, 1, 64 << 10),
        OPTION_IS_CHOICE("kv", &state->model.kv, model_kv_choices),
        {.name = "prefill",
         .letter = 'p',
         .kind = OPTION_CALL,
         .target = &bench->prefills,
         .parse = bench_list_parse,
         .given = &state->prefill_given},
        OPTION_IS_COUNT("decode", 'n', &bench->decode, 0, 16 << 20),
        {.name = "depth",
         .letter = 'd',
         .kind = OPTION_CALL,
         .target = &bench->depths,
         .parse = bench_list_parse,
         .given = &state->depth_given},
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
    if (state->against_given || state->turn.given)
        return (*exit_code = check_against(state)) == EXIT_OK;
    if (state->warm) {
        *exit_code = message_usage(command, "--warm is for --against");
        return false;
    }
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
    // Where GPUs read weights, the rate of the threads is no measure.
    int code = model_gpus_find(&state->model.gpus, error);
    if (code || state->model.gpus.n || !state->bench.decode || (most_bytes && most_bytes < LEAST_PEAK_BYTES))
        return code;
    code = read_bandwidth_measure(&gbps, state->setting.threads, most_bytes, error);
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

// For JSON; while the session is open, which tells how the memory was divided.
static int find_provenance(struct command_state *state, struct lode_error *error)
{
    struct provenance *provenance = &state->setting.provenance;
    int code = provenance_open(provenance, state->model.path, error);
    if (code)
        return code;
    provenance->repeats = state->bench.repeats;
    snprintf(provenance->order, sizeof provenance->order, "all figures in turn, then all again");
    model_settings_write(provenance->settings, sizeof provenance->settings, &state->model, state->engine,
                         state->session);
    provenance->plan_hash = lode_engine_plan_hash(state->engine);
    return LODE_OK;
}

static void note_offload(struct command_state *state)
{
    struct lode_offload_stats offload;
    lode_session_offload(state->session, &offload);
    state->setting.offloaded = offload.offloaded;
    if (offload.offloaded)
        message_note(command, "the weights do not all fit in memory: the figures hold the waiting for reads");
}

static void take_gpus(struct command_state *state)
{
    struct bench_setting *setting = &state->setting;
    struct lode_offload_stats offload;
    lode_session_offload(state->session, &offload);
    setting->choices = offload.choices;
    setting->n_gpus = lode_session_gpus(state->session, setting->gpus, LODE_PLAN_GPUS);
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
    take_gpus(state);
    if (!code && (state->json || state->stats_file))
        code = find_provenance(state, error);
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

// ---- against baselines
// --------------------------------------------------------------------------------------

// The default prompt is cut to what the model holds.
static int settle_prefill(struct command_state *state, struct lode_error *error)
{
    struct lode_file *file;
    struct lode_shape shape;
    uint32_t *prefill = &state->bench.prefills.values[0];
    if (state->prefill_given)
        return LODE_OK;
    int code = lode_file_open(&file, state->model.path, error);
    if (code)
        return code;
    code = lode_file_shape(file, &shape, error);
    lode_file_close(file);
    if (!code && shape.context_limit < *prefill + state->bench.decode &&
        shape.context_limit > state->bench.decode)
        *prefill = shape.context_limit - state->bench.decode;
    return code;
}

static void describe_against(struct command_state *state)
{
    struct against *against = &state->against;
    against->n_arms = 1;
    for (uint32_t i = 0; i < state->baselines.n; i++)
        against->arms[against->n_arms++] = state->baselines.arms[i];
    against->prefill = state->bench.prefills.values[0];
    against->decode = state->bench.decode;
    against->repeats = state->bench.repeats;
    against->seed = state->bench.seed;
    against->ram_bytes = state->model.ram_bytes;
    against->warm = state->warm;
}

// The first run of the chosen configuration tells how it is set up.
static void complete_provenance(struct against *against)
{
    struct provenance *provenance = &against->provenance;
    provenance->repeats = against->repeats;
    snprintf(provenance->order, sizeof provenance->order, "in turns, each round the other way round");
    for (uint32_t round = 0; round < against->repeats && !provenance->plan_hash; round++) {
        const struct against_run *run = against_run_at(against, round, 0);
        if (!run->done)
            continue;
        provenance->plan_hash = run->plan_hash;
        snprintf(provenance->settings, sizeof provenance->settings, "%s", run->settings);
    }
}

static int tell_against(struct command_state *state)
{
    const struct against *against = &state->against;
    int code = EXIT_OK;
    if (state->json)
        against_print_json(stdout, against); // main notices a failing stdout
    else
        against_print_table(stdout, against);
    if (state->stats_file) {
        const int failed = against_print_json(state->stats_file, against);
        code = stats_file_close(&state->stats_file, failed, state->stats_path, command);
    }
    if (!against->interrupted)
        return code;
    message_note(command, "interrupted; the figures are those of the runs so far");
    return interrupt_exit_code();
}

// Wrong devices are told once and at once, not by the first child.
static int check_gpus(struct command_state *state, struct lode_error *error)
{
    struct model_gpus *gpus = &state->model.gpus;
    int code = model_gpus_check(gpus, error);
    if (code || !has_arm(state, AGAINST_GPU_LAYERS))
        return code;
    code = model_gpus_find(gpus, error);
    if (!code && !gpus->n)
        code = lode_fail(error, LODE_ERR_ARGUMENT,
                         "gpu-layers puts whole layers on GPUs, and this run has none (lode devices)");
    return code;
}

static int compare(struct command_state *state, int argc, char **argv)
{
    struct lode_error error = {0};
    struct against *against = &state->against;
    int code = settle_prefill(state, &error);
    describe_against(state);
    if (!code && !state->turn.given)
        code = check_gpus(state, &error);
    if (state->turn.given && !code)
        return against_make_run(&state->model, against, &state->turn, command);
    if (!code && !against->ram_bytes)
        message_note(command, "no --ram: where everything stays in memory there is nothing to compare");
    if (!code)
        code = provenance_open(&against->provenance, state->model.path, &error);
    if (!code)
        code = against_measure(against, state->model.path, argc, argv, &error);
    if (code)
        return message_failed(command, &error);
    complete_provenance(against);
    return tell_against(state);
}

static int execute(struct command_state *state, int argc, char **argv)
{
    interrupt_watch(true);
    int code = model_find(&state->model, command);
    if (code)
        return code;
    if (state->turn.given)
        return compare(state, argc, argv);
    code = stats_file_open(&state->stats_file, state->stats_path, command);
    if (code)
        return code;
    if (state->against_given)
        return compare(state, argc, argv);
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
    against_free(&state->against);
}

int cmd_bench(int argc, char **argv)
{
    struct command_state state = {
        .bench = {.prefills = {{DEFAULT_PREFILL}, 1}, .depths = {{0}, 1}, .decode = 32, .repeats = 3}};
    int code;
    if (parse(&state, argc, argv, &code))
        code = execute(&state, argc, argv);
    release(&state);
    return code;
}
