// The memory of a plan: ceilings, what is gone of them before weights get any, and how a solution divides it,
// as core/memory_plan.c does when a session is opened.
#include "backends/cpu/attention.h"
#include "base/bytes_text.h"
#include "base/checked.h"
#include "core/engine.h"
#include "core/executor.h"
#include "core/kv_cache.h"
#include "core/plan_internal.h"
#include "profiles/host_memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_CONTEXT 4096
#define DEFAULT_BATCH 512
#define PROMPT_TOKENS 512
#define GENERATED_TOKENS 128

// The program when a model has been opened, and what its tokenizer takes for each token of the vocabulary:
// the published one of 262,144 takes 19.9 MB.
#define PROGRAM_BYTES ((uint64_t)8 << 20)
#define TOKEN_BYTES 80

// What the system and other programs have of a machine that is not this one: an eighth, at most 2 GiB.
#define SYSTEM_SHARE 8
#define SYSTEM_MOST_BYTES ((uint64_t)2 << 30)

// Likewise of a GPU that draws a screen, and what its driver keeps: a 16th, 256 MiB to 1 GiB.
#define DISPLAY_SHARE 16
#define DISPLAY_LEAST_BYTES ((uint64_t)256 << 20)
#define DISPLAY_MOST_BYTES ((uint64_t)1 << 30)

// ---- ceilings
// ------------------------------------------------------------------------------------------------

static void settle_gpus(struct planner *p)
{
    const struct machine_profile *profile = p->profile;
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        p->vram_bytes[g] = 0;
        if (p->options.no_gpu || g >= profile->n_gpus)
            continue;
        const uint64_t has_bytes = profile->gpus[g].memory_bytes;
        uint64_t headroom = has_bytes / DISPLAY_SHARE;
        headroom = headroom < DISPLAY_LEAST_BYTES ? DISPLAY_LEAST_BYTES : headroom;
        headroom = headroom > DISPLAY_MOST_BYTES ? DISPLAY_MOST_BYTES : headroom;
        const uint64_t most_bytes = has_bytes > headroom ? has_bytes - headroom : 0;
        const uint64_t asked_bytes = p->options.vram_bytes;
        p->vram_bytes[g] = asked_bytes && asked_bytes < has_bytes ? asked_bytes
                           : asked_bytes                          ? has_bytes
                                                                  : most_bytes;
    }
}

void planner_settle_ceilings(struct planner *p)
{
    const uint64_t machine_bytes = p->profile->cpu.memory_bytes;
    p->ceiling_bytes = p->options.ram_bytes;
    if (!p->ceiling_bytes && p->options.this_machine) {
        const uint64_t available_bytes = engine_available_bytes();
        p->ceiling_bytes = available_bytes ? available_bytes + host_rss_bytes() : 0;
    }
    if (!p->ceiling_bytes) {
        const uint64_t share = machine_bytes / SYSTEM_SHARE;
        p->ceiling_bytes = machine_bytes - (share < SYSTEM_MOST_BYTES ? share : SYSTEM_MOST_BYTES);
    }
    p->program_bytes = PROGRAM_BYTES + (uint64_t)p->model->hparams.vocab * TOKEN_BYTES +
                       engine_reserve_bytes(p->ceiling_bytes, p->options.ram_bytes != 0);
    settle_gpus(p);
}

// ---- the session
// ---------------------------------------------------------------------------------------------

uint32_t planner_context(const struct planner *p, uint32_t depth)
{
    const uint32_t limit = p->model->hparams.context_limit;
    if (p->options.context)
        return p->options.context;
    const uint64_t turn = (uint64_t)(p->options.prompt_tokens ? p->options.prompt_tokens : PROMPT_TOKENS) +
                          (p->options.generated_tokens ? p->options.generated_tokens : GENERATED_TOKENS);
    uint64_t context = depth + turn;
    context = context < DEFAULT_CONTEXT ? DEFAULT_CONTEXT : context;
    return context > limit ? limit : (uint32_t)context;
}

uint32_t planner_prompt(const struct planner *p, uint32_t context, uint32_t depth)
{
    const uint32_t wanted = p->options.prompt_tokens ? p->options.prompt_tokens : PROMPT_TOKENS;
    return context - depth < wanted ? context - depth : wanted;
}

// What the CPU device makes for calls up to these limits (backends/cpu/tasks.c, vector.c): activations of 8
// bits with their scales, and the experts' intermediate rows; what attention joins.
static uint64_t device_scratch_bytes(const struct gemma_model *model, uint32_t batch)
{
    const struct lode_limits limits = executor_limits(model, batch);
    return (uint64_t)limits.rows * limits.cols * 5 / 4 +
           (uint64_t)limits.expert_rows * limits.ffn_width * sizeof(float) +
           cpu_attention_partial_floats(limits.rows, limits.n_heads, limits.head_size) * sizeof(float);
}

// Local layers keep their window and a step's tokens: what a larger step adds is counted as scratch.
static void describe_batch(struct plan_batch *out, const struct planner *p, uint32_t context, uint32_t batch,
                           uint64_t least_kv_bytes)
{
    const struct gemma_model *model = p->model;
    const uint64_t more_kv_bytes = kv_cache_needed_bytes(model, context, batch, p->format) - least_kv_bytes;
    *out = (struct plan_batch){
        .tokens = batch,
        .scratch_bytes = forward_scratch_needed_bytes(model, batch, false) +
                         device_scratch_bytes(model, batch) + context * sizeof(int32_t) +
                         model->hparams.vocab * sizeof(float) + more_kv_bytes,
        .gpu_scratch_bytes = executor_needed_bytes(model, batch, false, true) +
                             device_scratch_bytes(model, batch) + more_kv_bytes,
    };
}

// Steps beyond the prompt gain nothing; small ones are for prompts behind little memory.
static uint32_t list_batches(struct planner_solution *out, const struct planner *p)
{
    static const uint32_t sizes[PLANNER_BATCHES] = {128, 256, 512, 1024, 2048, 4096};
    const uint32_t prompt = p->options.prompt_tokens ? p->options.prompt_tokens : PROMPT_TOKENS;
    uint32_t tokens[PLANNER_BATCHES], n = 0;
    if (p->options.batch)
        tokens[n++] = p->options.batch < out->context ? p->options.batch : out->context;
    for (uint32_t i = 0; i < PLANNER_BATCHES && !p->options.batch; i++)
        if (sizes[i] <= out->context && (sizes[i] <= DEFAULT_BATCH || sizes[i - 1] < prompt))
            tokens[n++] = sizes[i];
    if (!n)
        tokens[n++] = out->context;
    const uint64_t least_kv_bytes = kv_cache_needed_bytes(p->model, out->context, tokens[0], p->format);
    for (uint32_t i = 0; i < n; i++)
        describe_batch(&out->batches[i], p, out->context, tokens[i], least_kv_bytes);
    for (uint32_t l = 0; l < p->model->hparams.n_layers; l++)
        out->kv_bytes[l] = kv_cache_layer_bytes(p->model, l, out->context, tokens[0], p->format);
    return n;
}

struct cost_options planner_cost_options(const struct planner *p, uint32_t batch)
{
    return (struct cost_options){.threads = p->options.threads,
                                 .batch = batch,
                                 .kv = p->format,
                                 .heat = p->heat ? p->heat->mean : NULL,
                                 .no_prefetch = p->options.no_prefetch};
}

// ---- solving
// -------------------------------------------------------------------------------------------------

// The planner tells of weights alone; who asked knows session and program, too.
static int below_floor(const struct planner *p, const struct planner_solution *s, struct lode_error *error)
{
    const struct homes_request request = {.host_memory = true};
    const uint64_t floor_bytes = homes_bounds(&p->model->units, &request).floor_bytes;
    const uint64_t kv_bytes = kv_cache_needed_bytes(p->model, s->context, s->batches[0].tokens, p->format);
    uint64_t needed_bytes = UINT64_MAX;
    if (!checked_add(&needed_bytes, floor_bytes, kv_bytes + s->batches[0].scratch_bytes + p->program_bytes))
        needed_bytes = UINT64_MAX;
    return lode_fail(error, LODE_ERR_MEMORY,
                     "%s with a context of %" PRIu32 " tokens needs at least %s (weights that stay and "
                     "room for those that pass through %s, KV cache %s, scratch for steps of %" PRIu32
                     " tokens %s, program %s), but has %s. A shorter context, a Q8_0 cache, smaller "
                     "steps or a smaller quantisation lower it",
                     p->plan->shape.name, s->context, bytes_text(needed_bytes).text,
                     bytes_text(floor_bytes).text, bytes_text(kv_bytes).text, s->batches[0].tokens,
                     bytes_text(s->batches[0].scratch_bytes).text, bytes_text(p->program_bytes).text,
                     bytes_text(p->ceiling_bytes).text);
}

int planner_solve(struct planner_solution *out, const struct planner *p, uint32_t context, uint32_t depth,
                  struct lode_error *error)
{
    *out = (struct planner_solution){.context = context};
    out->kv_bytes = calloc(p->model->hparams.n_layers + 1u, sizeof *out->kv_bytes);
    if (!out->kv_bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to plan %u layers", p->model->hparams.n_layers);
    struct plan_problem problem = {
        .workload = p->workload,
        .profile = p->profile,
        .kv_bytes = out->kv_bytes,
        .batches = out->batches,
        .ring_bytes = p->options.ring_bytes,
        .options = planner_cost_options(p, 0),
        .context = depth,
        .prompt_tokens = planner_prompt(p, context, depth),
        .generated_tokens = p->options.generated_tokens ? p->options.generated_tokens : GENERATED_TOKENS,
    };
    problem.n_batches = list_batches(out, p);
    if (p->program_bytes >= p->ceiling_bytes)
        return below_floor(p, out, error);
    problem.ram_bytes = p->ceiling_bytes - p->program_bytes;
    for (uint32_t g = 0; g < HOME_GPUS; g++)
        problem.vram_bytes[g] = p->vram_bytes[g];
    struct lode_error cause = {0};
    int rc = plan_solve(&out->plan, &problem, &cause);
    if (rc == LODE_ERR_MEMORY)
        return below_floor(p, out, error);
    if (rc && error)
        *error = cause;
    return rc;
}

void planner_release(struct planner_solution *solution)
{
    plan_free(&solution->plan);
    free(solution->kv_bytes);
    *solution = (struct planner_solution){0};
}

// ---- telling
// -------------------------------------------------------------------------------------------------

static void add_unit(struct lode_plan_group *group, const struct unit *unit, unsigned home)
{
    group->units++;
    group->bytes += unit->bytes;
    if (home >= HOME_GPU)
        group->gpu_bytes[home - HOME_GPU] += unit->bytes;
    else
        *(home == HOME_PINNED ? &group->ram_bytes : &group->nvme_bytes) += unit->bytes;
}

static void describe_groups(struct lode_plan *plan, const struct planner *p, const struct homes *homes)
{
    const struct unit_table *table = &p->model->units;
    struct lode_plan_group by_kind[GEMMA_UNIT_KINDS] = {0};
    for (uint32_t u = 0; u < table->n_units; u++)
        add_unit(&by_kind[table->units[u].kind], &table->units[u], homes->home[u]);
    // The pool holds as many experts as it has room for, at a time.
    struct lode_plan_group *experts = &by_kind[GEMMA_EXPERT];
    const uint64_t pooled = homes->pool_bytes < experts->nvme_bytes ? homes->pool_bytes : experts->nvme_bytes;
    experts->ram_bytes += pooled;
    experts->nvme_bytes -= pooled;
    for (uint32_t kind = 0; kind < GEMMA_UNIT_KINDS && plan->n_groups < LODE_PLAN_GROUPS; kind++) {
        if (!by_kind[kind].units)
            continue;
        by_kind[kind].kind = gemma_unit_kind_name(kind);
        plan->groups[plan->n_groups++] = by_kind[kind];
    }
    plan->buffer_bytes = homes->ring_bytes + homes->rows_bytes;
}

static int describe_units(struct lode_plan *plan, const struct planner *p, const struct homes *homes,
                          struct lode_error *error)
{
    static const enum lode_home names[] = {[HOME_PINNED] = LODE_HOME_RAM,
                                           [HOME_RING] = LODE_HOME_STREAM,
                                           [HOME_POOL] = LODE_HOME_POOL,
                                           [HOME_ROWS] = LODE_HOME_ROWS};
    const struct unit_table *table = &p->model->units;
    uint32_t expert = 0;
    plan->units = calloc(table->n_units + 1u, sizeof *plan->units);
    if (!plan->units)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to tell of %u units", table->n_units);
    for (uint32_t u = 0; u < table->n_units; u++) {
        const struct unit *unit = &table->units[u];
        const unsigned home = homes->home[u];
        plan->units[plan->n_units++] = (struct lode_plan_unit){
            .kind = gemma_unit_kind_name(unit->kind),
            .layer = unit->layer == UNIT_NO_LAYER ? UINT32_MAX : unit->layer,
            .index = unit->index,
            .bytes = unit->bytes,
            .home = (uint8_t)(home >= HOME_GPU ? LODE_HOME_GPU + (home - HOME_GPU) : names[home]),
            .heat = p->heat && unit->class == UNIT_EXPERT ? p->heat->mean[expert] : 0,
        };
        expert += unit->class == UNIT_EXPERT;
    }
    return 0;
}

static void describe_gpus(struct lode_plan *plan, const struct planner *p, const struct plan *solved)
{
    for (uint32_t g = 0; g < p->profile->n_gpus && g < LODE_PLAN_GPUS; g++) {
        struct lode_plan_gpu *gpu = &plan->gpus[g];
        if (!p->vram_bytes[g])
            continue;
        plan->n_gpus = g + 1;
        snprintf(gpu->name, sizeof gpu->name, "%s", p->profile->gpus[g].name);
        gpu->ceiling_bytes = p->vram_bytes[g];
        gpu->kv_bytes = solved->kv_gpu_bytes[g];
        gpu->scratch_bytes = solved->gpu_scratch_bytes[g];
    }
}

int planner_describe_memory(struct planner *p, const struct planner_solution *solution,
                            struct lode_error *error)
{
    struct lode_plan *plan = p->plan;
    const struct plan *solved = &solution->plan;
    plan->ceiling_bytes = p->ceiling_bytes;
    plan->program_bytes = p->program_bytes;
    plan->kv_bytes = solved->kv_ram_bytes;
    plan->scratch_bytes = solved->scratch_bytes;
    plan->context = solution->context;
    plan->batch = solved->batch;
    plan->ring_bytes = solved->homes.ring_bytes;
    plan->prefetch = !p->options.no_prefetch;
    describe_gpus(plan, p, solved);
    describe_groups(plan, p, &solved->homes);
    return describe_units(plan, p, &solved->homes, error);
}
