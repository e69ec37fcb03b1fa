// Plans a run without running it: the memory as core/memory_plan.c divides it, homes as the engine would
// choose them, and the time that the cost model predicts for them.
#include "backends/cpu/attention.h"
#include "base/bytes_text.h"
#include "base/checked.h"
#include "core/engine.h"
#include "core/fingerprint.h"
#include "core/kv_cache.h"
#include "core/shape.h"
#include "core/shape_file.h"
#include "core/workload.h"
#include "placement/cost.h"
#include "placement/layout.h"
#include "profiles/host_memory.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CONTEXT 4096
#define DEFAULT_BATCH 512
#define MAX_BATCH 65536
#define PROMPT_TOKENS 512

// The program when a model has been opened, and what its tokenizer takes for each token of the vocabulary:
// the published one of 262,144 takes 19.9 MB.
#define PROGRAM_BYTES ((uint64_t)8 << 20)
#define TOKEN_BYTES 80

// What the system and other programs have of a machine that is not this one: an eighth, at most 2 GiB.
#define SYSTEM_SHARE 8
#define SYSTEM_MOST_BYTES ((uint64_t)2 << 30)

// Heat of fewer tokens says less than the prior.
#define HEAT_LEAST_TOKENS 256

struct planner {
    struct lode_plan *plan;
    const struct lode_plan_options *options;
    struct shape_file shape_file;
    struct gguf *gguf;
    struct gemma_model model;
    struct workload workload;
    struct machine_profile *profile;
    struct heat heat;
    bool has_heat;
    enum lode_kv_format format;
};

static void warn(struct planner *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void warn(struct planner *p, const char *format, ...)
{
    if (p->plan->n_warnings == LODE_PLAN_WARNINGS)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->plan->warnings[p->plan->n_warnings++], sizeof p->plan->warnings[0], format, arguments);
    va_end(arguments);
}

// ---- what is asked about
// ---------------------------------------------------------------------------------------

static int open_model(struct planner *p, const char *path, struct lode_error *error)
{
    const struct lode_plan_options *o = p->options;
    int rc = 0;
    if (o->shape) {
        struct lode_synth_options synth = lode_synth_options_default();
        synth.shape = o->shape;
        synth.type = o->type ? o->type : synth.type;
        rc = shape_file_open(&p->shape_file, &synth, error);
        path = p->shape_file.path;
    }
    if (!rc)
        rc = gguf_open(&p->gguf, path, error);
    if (!rc && (rc = gemma_model_load(&p->model, p->gguf, error)))
        lode_fail_in(error, "%s", path);
    if (rc)
        return rc;
    shape_describe(&p->plan->shape, &p->model, p->gguf);
    return gemma_workload(&p->workload, &p->model, error);
}

static int open_machine(struct planner *p, struct lode_error *error)
{
    const struct lode_plan_options *o = p->options;
    p->profile = malloc(sizeof *p->profile);
    if (!p->profile)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    int rc = o->machine_text ? machine_profile_parse(p->profile, o->machine_text, error)
                             : machine_profile_read(p->profile, o->machine_file, error);
    if (rc)
        return rc;
    struct lode_plan *plan = p->plan;
    snprintf(plan->machine, sizeof plan->machine, "%s", p->profile->name);
    snprintf(plan->machine_source, sizeof plan->machine_source, "%s", p->profile->source);
    snprintf(plan->cpu, sizeof plan->cpu, "%s", p->profile->cpu.name);
    plan->measured = p->profile->origin == PROFILE_MEASURED;
    for (uint32_t g = 0; g < p->profile->n_gpus && g < PROFILE_GPUS; g++)
        warn(p, "GPU %s: not used yet by this version; the plan is for the CPU",
             p->profile->gpus[g].name[0] ? p->profile->gpus[g].name : "without a name");
    if (p->profile->origin == PROFILE_ESTIMATED)
        warn(p, "the machine was not measured: its figures come from data sheets");
    return 0;
}

// Heat is a matter of speed only: without it the prior stands in.
static int open_heat(struct planner *p, struct lode_error *error)
{
    const struct lode_plan_options *o = p->options;
    const uint32_t n_experts = workload_experts(&p->workload);
    uint32_t n_layers = 0;
    for (uint32_t l = 0; l < p->workload.n_layers; l++)
        n_layers += p->workload.layers[l].n_experts > 0;
    if (o->shape || !o->heat_dir || !n_layers)
        return 0;
    uint64_t fingerprint;
    char path[4096];
    int rc = fingerprint_model(&fingerprint, p->gguf, error);
    if (!rc)
        rc = heat_open(&p->heat, n_layers, n_experts, fingerprint, error);
    if (rc)
        return rc;
    struct lode_error cause;
    if (!heat_file_path(path, sizeof path, o->heat_dir, fingerprint))
        return 0;
    if (heat_read(&p->heat, path, &cause))
        warn(p, "planned without heat: %s", cause.text);
    p->has_heat = p->heat.n_tokens >= HEAT_LEAST_TOKENS;
    return 0;
}

// ---- memory
// --------------------------------------------------------------------------------------------------

static void settle_ceiling(struct planner *p)
{
    struct lode_plan *plan = p->plan;
    const uint64_t machine_bytes = p->profile->cpu.memory_bytes;
    plan->ceiling_bytes = p->options->ram_bytes;
    if (!plan->ceiling_bytes && p->options->this_machine) {
        const uint64_t available_bytes = engine_available_bytes();
        plan->ceiling_bytes = available_bytes ? available_bytes + host_rss_bytes() : 0;
    }
    if (!plan->ceiling_bytes) {
        const uint64_t share = machine_bytes / SYSTEM_SHARE;
        plan->ceiling_bytes = machine_bytes - (share < SYSTEM_MOST_BYTES ? share : SYSTEM_MOST_BYTES);
    }
    if (machine_bytes && plan->ceiling_bytes > machine_bytes)
        warn(p, "the ceiling of %s is more than the machine has (%s): it would swap",
             bytes_text(plan->ceiling_bytes).text, bytes_text(machine_bytes).text);
    plan->program_bytes = PROGRAM_BYTES + (uint64_t)p->model.hparams.vocab * TOKEN_BYTES +
                          engine_reserve_bytes(plan->ceiling_bytes, p->options->ram_bytes != 0);
}

// What the CPU device makes for calls up to these limits (backends/cpu/tasks.c, vector.c): activations of 8
// bits with their scales, and the experts' intermediate rows; what attention joins.
static uint64_t device_scratch_bytes(const struct gemma_model *model, uint32_t batch)
{
    const struct lode_limits limits = forward_limits(model, batch);
    return (uint64_t)limits.rows * limits.cols * 5 / 4 +
           (uint64_t)limits.expert_rows * limits.ffn_width * sizeof(float) +
           cpu_attention_partial_floats(limits.rows, limits.n_heads, limits.head_size) * sizeof(float);
}

struct memory {
    uint32_t context, batch;
    uint64_t kv_bytes, scratch_bytes;
    struct homes homes;
};

// Released by homes_free, also after a failure.
static int divide_memory(struct memory *out, const struct planner *p, uint32_t context,
                         struct lode_error *error)
{
    const struct gemma_model *model = &p->model;
    const struct lode_plan *plan = p->plan;
    const uint32_t batch = p->options->batch ? p->options->batch : DEFAULT_BATCH;
    *out = (struct memory){.context = context, .batch = batch < context ? batch : context};
    out->kv_bytes = kv_cache_needed_bytes(model, context, out->batch, p->format);
    out->scratch_bytes = forward_scratch_needed_bytes(model, out->batch) +
                         device_scratch_bytes(model, out->batch) + context * sizeof(int32_t) +
                         model->hparams.vocab * sizeof(float);
    const uint64_t session_bytes = out->kv_bytes + out->scratch_bytes;
    const uint64_t floor_bytes = homes_floor_bytes(&model->units, true);
    const uint64_t full_bytes = homes_full_bytes(&model->units, true);
    uint64_t taken_bytes, least_bytes;
    if (!checked_add(&taken_bytes, plan->program_bytes, session_bytes) ||
        !checked_add(&least_bytes, taken_bytes, floor_bytes) || least_bytes > plan->ceiling_bytes)
        return lode_fail(error, LODE_ERR_MEMORY,
                         "%s with a context of %" PRIu32 " tokens needs at least %s (weights that stay and "
                         "room for those that pass through %s, KV cache %s, scratch for steps of %" PRIu32
                         " tokens %s, program %s), but has %s. A shorter context, a Q8_0 cache, smaller "
                         "steps or a smaller quantisation lower it",
                         plan->shape.name, context, bytes_text(taken_bytes + floor_bytes).text,
                         bytes_text(floor_bytes).text, bytes_text(out->kv_bytes).text, out->batch,
                         bytes_text(out->scratch_bytes).text, bytes_text(plan->program_bytes).text,
                         bytes_text(plan->ceiling_bytes).text);
    const uint64_t left_bytes = plan->ceiling_bytes - taken_bytes;
    return homes_solve(&out->homes, &model->units, full_bytes <= left_bytes ? full_bytes : left_bytes, true,
                       error);
}

static void add_unit(struct lode_plan_group *group, const struct unit *unit, enum unit_home home)
{
    group->units++;
    group->bytes += unit->bytes;
    *(home == HOME_PINNED ? &group->ram_bytes : &group->nvme_bytes) += unit->bytes;
}

static void describe_memory(struct lode_plan *plan, const struct planner *p, const struct memory *memory)
{
    const struct unit_table *table = &p->model.units;
    struct lode_plan_group by_kind[GEMMA_UNIT_KINDS] = {0};
    for (uint32_t u = 0; u < table->n_units; u++)
        add_unit(&by_kind[table->units[u].kind], &table->units[u], memory->homes.home[u]);
    // The pool holds as many experts as it has room for, at a time.
    struct lode_plan_group *experts = &by_kind[GEMMA_EXPERT];
    const uint64_t pooled =
        memory->homes.pool_bytes < experts->nvme_bytes ? memory->homes.pool_bytes : experts->nvme_bytes;
    experts->ram_bytes += pooled;
    experts->nvme_bytes -= pooled;
    for (uint32_t kind = 0; kind < GEMMA_UNIT_KINDS && plan->n_groups < LODE_PLAN_GROUPS; kind++) {
        if (!by_kind[kind].units)
            continue;
        by_kind[kind].kind = gemma_unit_kind_name(kind);
        plan->groups[plan->n_groups++] = by_kind[kind];
    }
    plan->buffer_bytes = memory->homes.ring_bytes + memory->homes.rows_bytes;
    plan->kv_bytes = memory->kv_bytes;
    plan->scratch_bytes = memory->scratch_bytes;
    plan->context = memory->context;
    plan->batch = memory->batch;
}

// ---- time
// ----------------------------------------------------------------------------------------------------

static struct lode_plan_shares shares_of(const struct cost *cost)
{
    static const char *const names[] = {"cpu kernels", "attention", "small operations", "drive"};
    const double parts[] = {cost->kernels_s, cost->attention_s, cost->operations_s, cost->stall_s};
    double sum = 0;
    size_t largest = 0;
    for (size_t i = 0; i < 4; i++) {
        sum += parts[i];
        largest = parts[i] > parts[largest] ? i : largest;
    }
    sum = sum > 0 ? sum : 1;
    return (struct lode_plan_shares){parts[0] / sum, parts[1] / sum, parts[2] / sum, parts[3] / sum,
                                     names[largest]};
}

static int expect(struct lode_plan_expected *out, const struct cost_model *model, uint32_t context,
                  uint32_t limit, struct lode_error *error)
{
    struct cost cost;
    int rc = cost_decode(&cost, model, context, error);
    if (rc)
        return rc;
    *out = (struct lode_plan_expected){
        .context = context,
        .decode_tok_s = 1 / cost.seconds,
        .decode_low = 1 / cost.slow_s,
        .decode_high = 1 / cost.fast_s,
        .decode = shares_of(&cost),
        .read_bytes_per_token = cost.drive_bytes,
        .hit_rate = cost.hit_rate,
        .prefill_tokens = limit - context < PROMPT_TOKENS ? limit - context : PROMPT_TOKENS,
    };
    const double n = out->prefill_tokens;
    rc = cost_prefill(&cost, model, context, out->prefill_tokens, error);
    out->prefill_tok_s = n / cost.seconds;
    out->prefill_low = n / cost.slow_s;
    out->prefill_high = n / cost.fast_s;
    out->prefill = shares_of(&cost);
    return rc;
}

static void warn_assumptions(struct planner *p, const struct cost_model *model)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (model->assumed >> type & 1)
            warn(p, "the profile has no kernel figures for %s: those of %s stand in", lode_type_name(type),
                 lode_type_name(model->nearest[type]));
    if (model->measured_rows < COST_ENOUGH_ROWS)
        warn(p, "products were measured with at most %.0f rows: prefill is extrapolated from there",
             model->measured_rows);
    if (model->attention_assumed)
        warn(p, "the profile has no figures for attention: they are derived from the memory's");
    if (p->options->threads && p->profile->cpu.cores && p->options->threads > p->profile->cpu.cores)
        warn(p, "%" PRIu32 " threads on %" PRIu32 " cores: more threads than cores gain nothing",
             p->options->threads, p->profile->cpu.cores);
    if (model->n_slots && p->options->heat_dir && !p->has_heat && !p->options->shape)
        warn(p, "nothing is known yet of which experts are chosen: hits are those of recorded conversations");
}

// The plan's memory is that of the first context.
static int plan_context(struct planner *p, uint32_t depth, uint32_t context, struct lode_error *error)
{
    struct lode_plan *plan = p->plan;
    struct memory memory;
    const struct cost_options options = {
        .threads = p->options->threads,
        .batch = 0,
        .kv = p->format,
        .heat = p->has_heat ? p->heat.mean : NULL,
    };
    struct cost_model model;
    int rc = divide_memory(&memory, p, context, error);
    if (!rc)
        rc = cost_open(&model, &p->workload, &memory.homes, p->profile, &options, error);
    if (!rc) {
        model.options.batch = memory.batch;
        rc = expect(&plan->expected[plan->n_expected], &model, depth, context, error);
    }
    if (!rc && plan->n_expected++ == 0) {
        describe_memory(plan, p, &memory);
        plan->threads = model.threads;
        if (model.drive &&
            (memory.homes.pool_bytes || memory.homes.streamed_bytes || memory.homes.rows_bytes))
            snprintf(plan->drive, sizeof plan->drive, "%s", model.drive->name);
        warn_assumptions(p, &model);
    }
    homes_free(&memory.homes);
    return rc;
}

static int plan_all(struct planner *p, struct lode_error *error)
{
    static const uint32_t depths[LODE_PLAN_CONTEXTS] = {0, 8192, 32768};
    const uint32_t limit = p->model.hparams.context_limit, asked = p->options->context;
    if (asked > limit)
        return lode_fail(error, LODE_ERR_CONTEXT,
                         "a context of %" PRIu32 " tokens is beyond the model's limit of %" PRIu32, asked,
                         limit);
    int rc = 0;
    for (size_t i = 0; i < LODE_PLAN_CONTEXTS && !rc; i++) {
        uint32_t context = asked ? asked : depths[i] + PROMPT_TOKENS;
        context = !asked && context < DEFAULT_CONTEXT ? DEFAULT_CONTEXT : context;
        context = context > limit ? limit : context;
        if (depths[i] >= context)
            break;
        struct lode_error cause = {0};
        rc = plan_context(p, depths[i], context, &cause);
        if (rc == LODE_ERR_MEMORY && i > 0) {
            warn(p, "a context of %" PRIu32 " tokens does not fit into %s", context,
                 bytes_text(p->plan->ceiling_bytes).text);
            return 0;
        }
        if (rc && error)
            *error = cause;
    }
    return rc;
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

static int check_options(struct planner *p, const char *path, struct lode_error *error)
{
    static const enum lode_kv_format formats[] = {
        [LODE_KV_F16] = LODE_CACHE_F16, [LODE_KV_Q8_0] = LODE_CACHE_Q8_0, [LODE_KV_F32] = LODE_CACHE_F32};
    const struct lode_plan_options *o = p->options;
    if (!path == !o->shape)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a plan is for a file or for a shape: name one of them");
    if (!o->machine_file == !o->machine_text)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a plan is for a machine: name the file of its profile or describe it");
    if (o->kv < 0 || (size_t)o->kv >= sizeof formats / sizeof *formats)
        return lode_fail(error, LODE_ERR_ARGUMENT, "there is no KV cache type %d", o->kv);
    if (o->batch > MAX_BATCH)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a batch of %" PRIu32 " tokens is beyond %d", o->batch,
                         MAX_BATCH);
    p->format = formats[o->kv];
    return 0;
}

int lode_plan_make(struct lode_plan *out, const char *path, const struct lode_plan_options *options,
                   struct lode_error *error)
{
    *out = (struct lode_plan){0};
    struct planner p = {.plan = out, .options = options, .shape_file = {.fd = -1}};
    int rc = check_options(&p, path, error);
    if (!rc)
        rc = open_model(&p, path, error);
    if (!rc)
        rc = open_machine(&p, error);
    if (!rc)
        rc = open_heat(&p, error);
    if (!rc) {
        settle_ceiling(&p);
        rc = plan_all(&p, error);
    }
    heat_close(&p.heat);
    free(p.profile);
    workload_close(&p.workload);
    gemma_model_free(&p.model);
    gguf_close(p.gguf);
    shape_file_close(&p.shape_file);
    return rc;
}
