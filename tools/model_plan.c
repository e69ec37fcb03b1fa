// Which profile a run is planned with: the stored one where it is of this machine, else a quick measurement
// where the model is large enough for that to be worth its ten seconds, else none. A run with a GPU that the
// profile does not know is not planned at all, for a plan without it would be of another run.
#include "tools/model_plan.h"

#include "profiles/host_memory.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const model_plan_choices[] = {"auto", "on", "off", NULL};

// Where a plan is worth a measurement: weights beyond this, or beyond this part of the memory there is. Less
// than the third figure is loaded before anything could be measured, and the fourth is what a measurement
// needs itself.
#define WORTH_BYTES ((uint64_t)1 << 30)
#define WORTH_SHARE 4
#define WORTH_LEAST_BYTES ((uint64_t)256 << 20)
#define WORTH_LEAST_MEMORY ((uint64_t)512 << 20)

#define DEFAULT_BATCH 512 // of a session

// What a quick measurement takes, and of that each GPU in addition.
#define MEASURE_S 10
#define MEASURE_GPU_SHARE 0.25

static bool is_worth(uint64_t weight_bytes, uint64_t memory_bytes)
{
    return weight_bytes >= WORTH_LEAST_BYTES && memory_bytes >= WORTH_LEAST_MEMORY &&
           (weight_bytes > WORTH_BYTES || weight_bytes > memory_bytes / WORTH_SHARE);
}

static uint64_t memory_bytes(const struct model_options *options)
{
    struct host_memory memory;
    if (options->ram_bytes)
        return options->ram_bytes;
    return host_memory_read(&memory, "/", NULL) ? UINT64_MAX : memory.available_bytes;
}

// 0 for what is no model: opening it will say why.
static uint64_t weight_bytes(const char *path)
{
    struct lode_file *file = NULL;
    struct lode_shape shape;
    uint64_t bytes = 0;
    if (lode_file_open(&file, path, NULL) == 0 && lode_file_shape(file, &shape, NULL) == 0)
        bytes = shape.weight_bytes;
    lode_file_close(file);
    return bytes;
}

// ---- planning
// ------------------------------------------------------------------------------------------------

// The kernels and the threads that an engine with these options takes.
static int find_engine(struct model_plan *plan, const struct model_options *options, struct lode_error *error)
{
    struct lode_cpu *cpu = malloc(sizeof *cpu);
    if (!cpu)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to look at the processor");
    const char *isa = options->isa ? model_isa_choices[options->isa] : "";
    int code = lode_cpu_describe(cpu, options->threads, error);
    if (!code) {
        plan->asked.threads = cpu->n_threads;
        for (uint32_t i = 0; i < cpu->n_isas && !options->isa; i++)
            isa = cpu->isas[i].chosen ? cpu->isas[i].name : isa;
    }
    const struct profile_device *measured = &plan->machine.profile->cpu;
    if (!code && strcmp(isa, measured->isa) != 0)
        code = lode_fail(
            error, LODE_ERR_UNSUPPORTED,
            "the machine was measured with the kernels for %s, and this run computes with those for %s",
            measured->isa, isa);
    // What is learned is of the CPU and the drive, and of passes that nothing else takes part in.
    plan->teaches = plan->asked.threads == measured->threads && !options->no_repack && !options->policy &&
                    !options->predictor && !options->mirror && !options->io && !options->gpus.n;
    free(cpu);
    return code;
}

static int make(struct model_plan *plan, const char *path, const struct lode_plan_options *asked,
                struct lode_error *error)
{
    struct lode_plan fresh;
    int code = lode_plan_make(&fresh, path, asked, error);
    if (code)
        return code;
    lode_plan_free(&plan->plan);
    plan->plan = fresh;
    plan->asked = *asked;
    plan->made = true;
    return LODE_OK;
}

// The profile as a file, with the GPUs of the run.
static int write_machine(struct model_plan *plan, struct model_options *options, struct lode_error *error)
{
    struct machine *machine = &plan->machine;
    struct model_gpus *gpus = &options->gpus;
    uint32_t index[LODE_PLAN_GPUS];
    uint64_t free_bytes[LODE_PLAN_GPUS];
    int code = model_gpus_find(gpus, error);
    if (!code && gpus->n && gpus->placement == MODEL_PLACEMENT_BY_LAYER)
        code = lode_fail(error, LODE_ERR_ARGUMENT, "--placement by-layer places by rule");
    if (!code)
        code = model_gpus_match(index, gpus, machine->profile, error);
    for (size_t i = 0; i < gpus->n; i++)
        free_bytes[i] = gpus->info[i].free_bytes;
    plan->asked.no_gpu = !gpus->n;
    plan->asked.vram_bytes = gpus->vram_bytes;
    return code ? code
                : machine_file_with(machine, machine->match == MACHINE_SAME, index, free_bytes,
                                    (uint32_t)gpus->n, error);
}

static uint32_t known_context(const struct model_plan *plan, const struct model_options *options)
{
    if (options->context)
        return options->context;
    const uint64_t needed = (uint64_t)plan->prompt_tokens + plan->generated_tokens;
    return plan->prompt_tokens && needed <= UINT32_MAX ? (uint32_t)needed : 0;
}

static int plan_first(struct model_plan *plan, struct model_options *options, struct lode_error *error)
{
    plan->given_batch = options->batch || !plan->keeps_batch ? options->batch : DEFAULT_BATCH;
    plan->asked = (struct lode_plan_options){.this_machine = true,
                                             .ram_bytes = options->ram_bytes,
                                             .context = known_context(plan, options),
                                             .batch = plan->given_batch,
                                             .kv = options->kv,
                                             .heat_dir = options->heat_dir[0] ? options->heat_dir : NULL,
                                             .no_prefetch = options->no_prefetch,
                                             .ring_bytes = options->ring_bytes,
                                             .prompt_tokens = plan->prompt_tokens,
                                             .generated_tokens = plan->generated_tokens,
                                             .no_advice = true};
    int code = write_machine(plan, options, error);
    if (!code)
        code = find_engine(plan, options, error);
    if (code)
        return code;
    plan->asked.machine_file = plan->machine.file;
    code = make(plan, options->path, &plan->asked, error);
    if (code && !options->context && plan->asked.context) { // a guess, which may be beyond the model's limit
        struct lode_plan_options asked = plan->asked;
        asked.context = asked.prompt_tokens = asked.generated_tokens = 0;
        code = make(plan, options->path, &asked, error);
    }
    return code;
}

// Where the units of a plan with GPUs go. Without memory for it they are placed by rule.
static void tell_homes(struct model_plan *plan)
{
    const struct lode_plan *made = &plan->plan;
    plan->unit_gpu = plan->asked.no_gpu ? NULL : calloc(made->n_units + 1u, 1);
    plan->n_unit_gpu = plan->unit_gpu ? made->n_units : 0;
    for (uint32_t u = 0; u < plan->n_unit_gpu; u++)
        if (made->units[u].home >= LODE_HOME_GPU)
            plan->unit_gpu[u] = (uint8_t)(1 + made->units[u].home - LODE_HOME_GPU);
}

// What the plan settles is what nobody else has. The threads are the engine's own choice, which is what the
// plan was asked about.
static void fill_in(struct model_plan *plan, struct model_options *options)
{
    if (!plan->given_batch) {
        options->batch = plan->plan.batch;
        options->batch_is_tuned = true; // where the default would fit and this does not
    }
    if (!options->ring_bytes)
        options->ring_bytes = plan->plan.ring_bytes;
    if (!options->prefetch_ranks && !options->predictor) // how to guess was asked for, so guesses were
        options->no_prefetch |= !plan->plan.prefetch;
    tell_homes(plan);
}

// ---- the machine
// ---------------------------------------------------------------------------------------------

// A ceiling is one for the measurement too: half of it is left for the program and what it loads.
static int measure(struct model_plan *plan, const struct model_options *options, const char *command,
                   struct lode_error *error)
{
    struct machine *machine = &plan->machine;
    struct probe_options probe = {
        .mode = PROBE_QUICK, .drive_path = options->path, .memory_bytes = options->ram_bytes / 2};
    struct probe_gpus *gpus = NULL; // all of the machine, or the profile would not be of it
    int code = probe_gpus_open(&gpus, NULL, error);
    if (code)
        return code;
    probe.gpus = probe_gpus_list(gpus, &probe.n_gpus);
    message_note(
        command,
        "%s; measuring it now, once, for %g seconds, to plan with (--plan off goes without, lode probe "
        "measures more thoroughly)",
        machine->why, MEASURE_S * (1 + MEASURE_GPU_SHARE * probe.n_gpus));
    code = machine_refresh(machine, command, &probe, error);
    probe_gpus_close(gpus);
    if (code)
        return code;
    struct lode_error cause = {0};
    if (machine_keep(machine, &cause))
        message_note(command, "the measurement is used for this run only: %s", cause.text);
    else
        message_note(command, "the measurement is kept in %s", machine->path);
    return LODE_OK;
}

// What is stored is told when it is of no use, never used all the same.
static void say_why(struct model_plan *plan)
{
    struct machine *machine = &plan->machine;
    char why[sizeof machine->why];
    snprintf(why, sizeof why, "%s", machine->why);
    if (machine->match == MACHINE_FOREIGN)
        snprintf(machine->why, sizeof machine->why, "the stored profile is not of this machine: %.900s", why);
    else if (machine->match == MACHINE_DAMAGED)
        snprintf(machine->why, sizeof machine->why, "the stored profile is of no use: %.900s", why);
}

static int plan_anew(struct model_plan *plan, struct model_options *options, const char *command,
                     struct lode_error *error)
{
    if (plan->mode != MODEL_PLAN_ON && !is_worth(weight_bytes(options->path), memory_bytes(options))) {
        if (plan->machine.match != MACHINE_ABSENT)
            message_note(command, "%s; it is not planned with (lode probe measures anew)", plan->machine.why);
        return LODE_OK;
    }
    int code = measure(plan, options, command, error);
    return code ? code : plan_first(plan, options, error);
}

static int plan_machine(struct model_plan *plan, struct model_options *options, const char *command,
                        struct lode_error *error)
{
    int code = machine_open(&plan->machine, NULL, options->path, error);
    if (code)
        return code;
    say_why(plan);
    const enum machine_match match = plan->machine.match;
    if (match == MACHINE_SAME)
        return plan_first(plan, options, error);
    if (match == MACHINE_OTHER_DRIVE) { // what nothing is read from needs no measurement
        code = plan_first(plan, options, error);
        if (!code &&
            (plan->mode == MODEL_PLAN_ON || is_worth(plan->plan.shape.weight_bytes, memory_bytes(options))))
            message_note(command,
                         "%s; planned without it, for nothing is read from it once the model is loaded",
                         plan->machine.why);
        if (code != LODE_ERR_UNSUPPORTED)
            return code;
    }
    return plan_anew(plan, options, command, error);
}

// ---- the steps of a run
// --------------------------------------------------------------------------------------

int model_plan_begin(struct model_options *options, const char *command, struct lode_error *error)
{
    struct model_plan *plan = options->plan;
    struct lode_error cause = {0};
    if (plan->mode == MODEL_PLAN_OFF || access(options->path, R_OK) != 0) // opening it will say why
        return LODE_OK;
    int code = plan_machine(plan, options, command, &cause);
    if (!code) {
        if (plan->made)
            fill_in(plan, options);
        return LODE_OK;
    }
    if (code == LODE_ERR_CANCELLED || plan->mode == MODEL_PLAN_ON) {
        if (error)
            *error = cause;
        return code;
    }
    message_note(command, "not planned: %s", cause.text);
    return LODE_OK;
}

static void replan(struct model_plan *plan, struct model_options *options, uint32_t context, uint32_t batch)
{
    struct lode_plan_options asked = plan->asked;
    asked.context = context;
    asked.batch = batch;
    asked.ring_bytes = options->ring_bytes; // the engine has it
    asked.no_prefetch = options->no_prefetch;
    asked.prompt_tokens = plan->prompt_tokens;
    asked.generated_tokens = plan->generated_tokens;
    if (make(plan, options->path, &asked, NULL)) // then the session will not fit either, and says why
        plan->teaches = false;
}

void model_plan_settle(struct model_options *options, uint32_t context)
{
    struct model_plan *plan = options->plan;
    if (!plan || !plan->made || plan->is_settled || !context)
        return;
    replan(plan, options, context, plan->given_batch);
    if (!plan->given_batch)
        options->batch = plan->plan.batch;
}

static void say_expected(const struct model_plan *plan, const char *command)
{
    const struct prediction_sum decode =
        prediction_decode(&plan->plan, plan->prompt_tokens + plan->generated_tokens / 2.0);
    const struct prediction_sum prompt = prediction_prefill(&plan->plan, 0);
    const double prefill = prediction_rate(&prompt);
    message_note(command, "expected: decode %.1f tok/s (%.1f - %.1f), prefill %.*f tok/s",
                 prediction_rate(&decode), 1 / decode.slow_s, 1 / decode.fast_s, prefill < 10 ? 1 : 0,
                 prefill);
}

void model_plan_tell(struct model_options *options, const char *command, uint32_t context)
{
    struct model_plan *plan = options->plan;
    if (!plan || !plan->made || plan->is_settled)
        return;
    if (plan->asked.context != context || !options->batch)
        replan(plan, options, context, options->batch ? options->batch : DEFAULT_BATCH);
    if (plan->is_silent)
        return;
    plan->prediction.plan = &plan->plan;
    memcpy(plan->prediction.learned, plan->machine.profile->learned, sizeof plan->prediction.learned);
    if (plan->mode == MODEL_PLAN_ON || is_worth(plan->plan.shape.weight_bytes, memory_bytes(options)))
        say_expected(plan, command);
}

void model_plan_learn(struct model_plan *plan, const struct lode_session *session, const char *command)
{
    struct lode_stats stats;
    struct lode_offload_stats offload;
    if (!plan->prediction.plan || !plan->teaches || !session)
        return;
    lode_session_stats(session, &stats);
    lode_session_offload(session, &offload);
    if (learn_is_stalled(stats.token_ms_p50, stats.token_ms_p99, offload.decode_bytes))
        return;
    struct lode_error error = {0};
    if (machine_learn(&plan->machine, &plan->prediction.sample, &error))
        message_note(command, "what this run teaches about the machine is not kept: %s", error.text);
}

void model_plan_close(struct model_plan *plan)
{
    lode_plan_free(&plan->plan);
    machine_close(&plan->machine);
    free(plan->unit_gpu);
    plan->unit_gpu = NULL;
    plan->n_unit_gpu = 0;
    plan->made = false;
    plan->prediction.plan = NULL;
}
