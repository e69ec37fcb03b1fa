// What would help most: other machines and other questions, each planned anew, by the time of a turn that
// they save; and what the machine as it is makes doubtful.
#include "base/bytes_text.h"
#include "core/plan_internal.h"
#include "core/workload.h"
#include "profiles/machine_derive.h"
#include "profiles/power.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((uint64_t)1 << 30)
#define WORTH 1.03        // gains below are within what a prediction is off
#define NEARLY_ALL 0.95   // of the gain of the largest step: then the smaller one is named
#define FASTER_DRIVE 1.2  // than what is there
#define SMALLER_MODEL 0.9 // of the bytes
#define SLOW_DRIVE_GBPS 1.0

struct speed {
    double decode_s, prefill_s, turn_s;
};

// A change that is tried: a planner of its own, with its own machine.
struct trial {
    struct planner planner;
    struct machine_profile *profile;
    struct lode_plan unused; // warnings go there
    struct speed speed;
    char what[96];
    bool lossy, known;
};

// Kinds of changes, each in steps that ascend.
enum kind { KIND_CEILING, KIND_RAM, KIND_VRAM, KIND_DRIVE, KIND_CORES, KIND_CACHE, KIND_WEIGHTS, KINDS };
#define STEPS 3

struct advice {
    struct planner *base;
    struct trial trials[KINDS * STEPS];
    uint32_t n_trials, kind[KINDS * STEPS];
    struct speed speed; // of the machine as it is
};

// ---- trying
// --------------------------------------------------------------------------------------------------

static int measure(struct speed *out, const struct planner *p, struct lode_error *error)
{
    struct planner_solution solution;
    struct cost_model model;
    struct cost cost;
    const uint32_t context = planner_context(p, 0), prompt = planner_prompt(p, context, 0);
    int rc = planner_solve(&solution, p, context, 0, error);
    if (!rc) {
        const struct cost_options options = planner_cost_options(p, solution.plan.batch);
        rc = cost_open(&model, p->workload, &solution.plan.homes, p->profile, &options, error);
        if (!rc && !(rc = cost_decode_mean(&cost, &model, 0, error))) {
            out->decode_s = cost.seconds;
            rc = cost_prefill_mean(&cost, &model, 0, prompt, error);
            out->prefill_s = cost.seconds / prompt;
            out->turn_s = solution.plan.turn_s;
        }
        cost_close(&model);
    }
    planner_release(&solution);
    return rc;
}

static int open_trial(struct trial *out, const struct planner *base, struct lode_error *error)
{
    *out = (struct trial){.planner = *base};
    out->profile = malloc(sizeof *out->profile);
    if (!out->profile)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    *out->profile = *base->profile;
    out->planner.profile = out->profile;
    out->planner.plan = &out->unused;
    out->unused.shape = base->plan->shape;
    return 0;
}

static void close_trial(struct trial *trial)
{
    free(trial->profile);
    trial->profile = NULL;
}

// What cannot be planned is no advice.
static void run_trial(struct trial *trial)
{
    trial->known = measure(&trial->speed, &trial->planner, NULL) == 0;
}

typedef bool (*step_fn)(struct trial *trial, uint32_t step); // false: beyond the last, or without sense

static int add_trials(struct advice *advice, uint32_t kind, step_fn make, struct lode_error *error)
{
    for (uint32_t step = 0; step < STEPS; step++) {
        struct trial *trial = &advice->trials[advice->n_trials];
        int rc = open_trial(trial, advice->base, error);
        if (rc)
            return rc;
        if (make(trial, step))
            advice->kind[advice->n_trials++] = kind;
        else
            close_trial(trial);
    }
    return 0;
}

// ---- kinds of changes
// ----------------------------------------------------------------------------------------

static bool more_ram(struct trial *trial, uint32_t step)
{
    static const uint64_t steps[] = {8 * GIB, 16 * GIB, 32 * GIB};
    struct planner *p = &trial->planner;
    if (step >= sizeof steps / sizeof *steps)
        return false;
    snprintf(trial->what, sizeof trial->what, "+%" PRIu64 " GB RAM", steps[step] / GIB);
    p->profile->cpu.memory_bytes += steps[step];
    p->ceiling_bytes += steps[step];
    return true;
}

// The ceiling was asked for, and the machine has more.
static bool higher_ceiling(struct trial *trial, uint32_t step)
{
    struct planner *p = &trial->planner;
    const uint64_t asked_bytes = p->options.ram_bytes;
    if (step || !asked_bytes)
        return false;
    p->options.ram_bytes = 0;
    planner_settle_ceilings(p);
    snprintf(trial->what, sizeof trial->what, "--ram auto (%s)", bytes_text(p->ceiling_bytes).text);
    return p->ceiling_bytes > asked_bytes;
}

static double drive_rate(const struct machine_profile *profile)
{
    double best = 0;
    for (uint32_t i = 0; i < profile->n_drives; i++)
        best = fmax(best, profile_drive_gbps(&profile->drives[i], IO_QUEUE_DEPTH));
    return best;
}

static bool faster_drive(struct trial *trial, uint32_t step)
{
    static const struct {
        double gbps;
        const char *name;
    } steps[] = {{3.5, "PCIe 3.0"}, {7, "PCIe 4.0"}, {14, "PCIe 5.0"}};
    if (step >= sizeof steps / sizeof *steps)
        return false;
    struct machine_profile *profile = trial->profile;
    const double has_gbps = drive_rate(profile);
    const struct drive_sheet sheet = {
        .name = steps[step].name, .read_gbps = steps[step].gbps, .latency_us = 60};
    memset(profile->drives, 0, sizeof profile->drives);
    derive_drive(&profile->drives[0], &sheet);
    profile->n_drives = 1;
    snprintf(trial->what, sizeof trial->what, "an NVMe drive of %.3g GB/s (%s)", steps[step].gbps,
             steps[step].name);
    return drive_rate(profile) > FASTER_DRIVE * has_gbps;
}

static bool more_vram(struct trial *trial, uint32_t step)
{
    static const uint64_t steps[] = {4 * GIB, 8 * GIB, 16 * GIB};
    struct planner *p = &trial->planner;
    if (step >= sizeof steps / sizeof *steps || !p->vram_bytes[0] || p->profile->gpus[0].shares_memory)
        return false;
    snprintf(trial->what, sizeof trial->what, "+%" PRIu64 " GB VRAM", steps[step] / GIB);
    p->profile->gpus[0].memory_bytes += steps[step];
    p->vram_bytes[0] += steps[step];
    return true;
}

static bool more_cores(struct trial *trial, uint32_t step)
{
    struct profile_device *cpu = &trial->profile->cpu;
    const uint32_t cores = cpu->cores << (step + 1);
    if (step > 1 || !cpu->cores || cores > 64 || trial->planner.options.threads)
        return false;
    snprintf(trial->what, sizeof trial->what, "%" PRIu32 " cores of this kind", cores);
    cpu->cores = cores;
    trial->planner.options.threads = cores;
    return true;
}

static bool smaller_cache(struct trial *trial, uint32_t step)
{
    if (step || trial->planner.format != LODE_CACHE_F16)
        return false;
    snprintf(trial->what, sizeof trial->what, "a Q8_0 KV cache (--kv q8_0)");
    trial->lossy = true;
    trial->planner.format = LODE_CACHE_Q8_0;
    return true;
}

// ---- weights of fewer bits: another model, of which the header is enough

struct smaller_model {
    struct shape_file file;
    struct gguf *gguf;
    struct gemma_model model;
    struct workload workload;
};

static int open_smaller(struct smaller_model *out, const struct lode_synth_options *shape,
                        struct lode_error *error)
{
    struct lode_synth_options smaller = *shape;
    smaller.type = "q4_0";
    int rc = shape_file_open(&out->file, &smaller, error);
    if (!rc)
        rc = gguf_open(&out->gguf, out->file.path, error);
    if (!rc)
        rc = gemma_model_load(&out->model, out->gguf, error);
    if (!rc)
        rc = gemma_workload(&out->workload, &out->model, error);
    return rc;
}

static void close_smaller(struct smaller_model *smaller)
{
    workload_close(&smaller->workload);
    gemma_model_free(&smaller->model);
    gguf_close(smaller->gguf);
    shape_file_close(&smaller->file);
}

static int add_smaller(struct advice *advice, struct smaller_model *smaller,
                       const struct lode_synth_options *shape, struct lode_error *error)
{
    if (!shape->shape)
        return 0;
    int rc = open_smaller(smaller, shape, error);
    if (rc)
        return rc;
    const double had = (double)workload_weight_bytes(advice->base->workload);
    if (smaller->model.hparams.n_layers != advice->base->model->hparams.n_layers ||
        (double)workload_weight_bytes(&smaller->workload) > SMALLER_MODEL * had)
        return 0;
    struct trial *trial = &advice->trials[advice->n_trials];
    rc = open_trial(trial, advice->base, error);
    if (rc)
        return rc;
    trial->planner.model = &smaller->model;
    trial->planner.workload = &smaller->workload;
    trial->lossy = true;
    snprintf(trial->what, sizeof trial->what, "the model in Q4_0");
    advice->kind[advice->n_trials++] = KIND_WEIGHTS;
    return 0;
}

// ---- the advice
// ----------------------------------------------------------------------------------------------

// Of a kind the smallest step that gains nearly as much as its best; NULL where none is worth it.
static const struct trial *best_step(const struct advice *advice, uint32_t kind)
{
    double best_s = INFINITY;
    for (uint32_t i = 0; i < advice->n_trials; i++)
        if (advice->kind[i] == kind && advice->trials[i].known)
            best_s = fmin(best_s, advice->trials[i].speed.turn_s);
    const double turn_s = advice->speed.turn_s;
    if (!(best_s * WORTH <= turn_s))
        return NULL;
    for (uint32_t i = 0; i < advice->n_trials; i++)
        if (advice->kind[i] == kind && advice->trials[i].known &&
            turn_s - advice->trials[i].speed.turn_s >= NEARLY_ALL * (turn_s - best_s))
            return &advice->trials[i];
    return NULL;
}

static void tell_best(const struct advice *advice, struct lode_plan *plan)
{
    const struct trial *best[KINDS];
    for (uint32_t kind = 0; kind < KINDS; kind++)
        best[kind] = best_step(advice, kind);
    if (best[KIND_CEILING] && best[KIND_RAM] &&
        best[KIND_CEILING]->speed.turn_s <= WORTH * best[KIND_RAM]->speed.turn_s)
        best[KIND_RAM] = NULL; // what the machine has need not be bought
    while (plan->n_changes < LODE_PLAN_CHANGES) {
        uint32_t first = KINDS;
        for (uint32_t kind = 0; kind < KINDS; kind++)
            if (best[kind] && (first == KINDS || best[kind]->speed.turn_s < best[first]->speed.turn_s))
                first = kind;
        if (first == KINDS)
            return;
        struct lode_plan_change *change = &plan->changes[plan->n_changes++];
        *change = (struct lode_plan_change){.lossy = best[first]->lossy,
                                            .decode_tok_s = 1 / best[first]->speed.decode_s,
                                            .prefill_tok_s = 1 / best[first]->speed.prefill_s};
        snprintf(change->what, sizeof change->what, "%s", best[first]->what);
        best[first] = NULL;
    }
}

int planner_advise(struct planner *p, const struct lode_synth_options *shape, struct lode_error *error)
{
    static const step_fn kinds[] = {
        [KIND_CEILING] = higher_ceiling, [KIND_RAM] = more_ram,     [KIND_VRAM] = more_vram,
        [KIND_DRIVE] = faster_drive,     [KIND_CORES] = more_cores, [KIND_CACHE] = smaller_cache};
    struct smaller_model smaller = {.file = {.fd = -1}};
    struct advice *advice = calloc(1, sizeof *advice);
    if (!advice)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for advice");
    advice->base = p;
    int rc = measure(&advice->speed, p, error);
    for (uint32_t kind = 0; kind < sizeof kinds / sizeof *kinds && !rc; kind++)
        rc = add_trials(advice, kind, kinds[kind], error);
    if (!rc)
        rc = add_smaller(advice, &smaller, shape, error);
    if (!rc) {
#pragma omp parallel for schedule(dynamic)
        for (uint32_t i = 0; i < advice->n_trials; i++)
            run_trial(&advice->trials[i]);
        tell_best(advice, p->plan);
    }
    for (uint32_t i = 0; i < advice->n_trials; i++)
        close_trial(&advice->trials[i]);
    close_smaller(&smaller);
    free(advice);
    return rc;
}

// ---- warnings
// ------------------------------------------------------------------------------------------------

static bool reads(const struct homes *homes)
{
    return homes->streamed_bytes || homes->pool_bytes;
}

// What the GPU is worth: the same without it.
static void warn_of_gpus(struct planner *p)
{
    struct planner alone = *p;
    struct speed speed;
    bool used = false;
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        used = used || p->vram_bytes[g];
        alone.vram_bytes[g] = 0;
    }
    if (!used)
        return;
    if (measure(&speed, &alone, NULL))
        planner_warn(p, "without the GPU the memory is too small for this model");
    else
        planner_warn(p, "without the GPU (--vram 0): %.1f tok/s after an empty context, prefill %.1f",
                     1 / speed.decode_s, 1 / speed.prefill_s);
}

void planner_warn_of_machine(struct planner *p, const struct planner_solution *solution)
{
    const struct profile_device *cpu = &p->profile->cpu;
    warn_of_gpus(p);
    if (cpu->memory_bytes && p->ceiling_bytes > cpu->memory_bytes)
        planner_warn(p, "the ceiling of %s is more than the machine has (%s): it would swap",
                     bytes_text(p->ceiling_bytes).text, bytes_text(cpu->memory_bytes).text);
    if (p->profile->origin == PROFILE_ESTIMATED)
        planner_warn(p, "the machine was not measured: its figures come from data sheets");
    if (p->options.threads && cpu->cores && p->options.threads > cpu->cores)
        planner_warn(p, "%" PRIu32 " threads on %" PRIu32 " cores: more threads than cores gain nothing",
                     p->options.threads, cpu->cores);
    const double gbps = drive_rate(p->profile);
    if (reads(&solution->plan.homes) && gbps < SLOW_DRIVE_GBPS)
        planner_warn(p, "a slow drive: %.2f GB/s, where an NVMe SSD reads 3 to 14", gbps);
    if (p->options.this_machine && power_on_battery("/"))
        planner_warn(p, "the machine runs on its battery: expect less than what was measured on mains");
}
