// Models for the simulator: a file or a shape, held against the trace, and the memory that a run of it would
// have for weights.
#include "core/fingerprint.h"
#include "core/plan_internal.h"
#include "core/shape.h"
#include "core/simulate_internal.h"
#include "placement/layout.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CONTEXT 4096 // of a session
// ---- opening
// -------------------------------------------------------------------------------------------------

static int open_gguf(struct simulation_model *m, const char *path, const char *shape, const char *type,
                     struct lode_error *error)
{
    int rc = 0;
    if (!path) {
        struct lode_synth_options synth = lode_synth_options_default();
        synth.shape = shape ? shape : synth.shape;
        synth.type = type ? type : "q4_0";
        rc = shape_file_open(&m->shape_file, &synth, error);
        path = m->shape_file.path;
    }
    if (!rc)
        rc = gguf_open(&m->gguf, path, error);
    if (rc)
        return rc;
    m->n_files = gguf_file_count(m->gguf);
    m->file_bytes = calloc(m->n_files + 1u, sizeof *m->file_bytes);
    if (!m->file_bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the sizes of %" PRIu32 " files", m->n_files);
    for (uint32_t i = 0; i < m->n_files; i++)
        m->file_bytes[i] = gguf_file_size_bytes(m->gguf, i);
    rc = gemma_model_load(&m->model, m->gguf, error);
    if (rc)
        lode_fail_in(error, "%s", path);
    return rc;
}

static int check_layers(const struct simulation_model *m, const struct trace *trace, struct lode_error *error)
{
    const struct gemma_hparams *h = &m->model.hparams;
    const struct trace_header *header = &trace->header;
    if (header->n_layers != h->n_layers)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the trace is of a model of %" PRIu32 " layers, %s has %" PRIu32, header->n_layers,
                         m->shape.name, h->n_layers);
    for (uint32_t l = 0; l < h->n_layers; l++) {
        const struct trace_layer *layer = &header->layers[l];
        const uint32_t n_experts = m->model.layers[l].moe ? h->n_experts : 0;
        if (layer->n_experts != n_experts)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "layer %" PRIu32 " has %" PRIu32 " experts in the trace, and %" PRIu32 " in %s",
                             l, layer->n_experts, n_experts, m->shape.name);
        if (!n_experts)
            continue;
        if (layer->n_used > h->n_experts_used)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "a token of the trace chooses %" PRIu32 " experts in layer %" PRIu32
                             ", one of %s %" PRIu32,
                             layer->n_used, l, m->shape.name, h->n_experts_used);
        if (layer->n_used != trace->n_used)
            return lode_fail(error, LODE_ERR_UNSUPPORTED,
                             "a token of the trace chooses %" PRIu32 " experts in layer %" PRIu32
                             " and %" PRIu32 " in others",
                             layer->n_used, l, trace->n_used);
    }
    return 0;
}

static int check_trace(struct simulation_model *m, const struct trace *trace, bool file,
                       const char **out_note, struct lode_error *error)
{
    int rc = check_layers(m, trace, error);
    uint64_t fingerprint = 0;
    if (!rc && file && trace->header.fingerprint)
        rc = fingerprint_model(&fingerprint, m->gguf, error);
    if (rc)
        return rc;
    if (fingerprint && fingerprint != trace->header.fingerprint)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the trace is of another model than %s: its fingerprint is %016" PRIx64
                         ", the file's %016" PRIx64,
                         m->shape.name, trace->header.fingerprint, fingerprint);
    if (trace->n_used < m->model.hparams.n_experts_used) {
        m->model.hparams.n_experts_used = trace->n_used;
        if (out_note)
            *out_note = "the trace's tokens choose fewer experts than the model's would; the simulated model "
                        "does as the trace";
    }
    for (uint32_t t = 0; t < trace->n_tokens; t++)
        if (trace->tokens[t].position >= m->context)
            m->context = trace->tokens[t].position + 1;
    return 0;
}

static void count_experts(struct simulation_model *m)
{
    const struct unit_table *table = &m->model.units;
    for (uint32_t u = 0; u < table->n_units; u++)
        if (table->units[u].class == UNIT_EXPERT) {
            m->n_experts++;
            m->expert_bytes += layout_unit_bytes(table, u, true);
        }
}

int simulation_model_open(struct simulation_model **out, const char *path, const char *shape,
                          const char *type, const struct trace *trace, const char **out_note,
                          struct lode_error *error)
{
    struct simulation_model *m = *out = calloc(1, sizeof *m);
    if (out_note)
        *out_note = NULL;
    if (!m)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to simulate a model");
    m->shape_file.fd = -1;
    int rc = open_gguf(m, path, shape, type, error);
    if (!rc)
        shape_describe(&m->shape, &m->model, m->gguf);
    if (!rc && trace)
        rc = check_trace(m, trace, path != NULL, out_note, error);
    if (!rc)
        rc = gemma_workload(&m->workload, &m->model, error);
    if (rc) {
        simulation_model_close(m);
        *out = NULL;
        return rc;
    }
    count_experts(m);
    return 0;
}

void simulation_model_close(struct simulation_model *m)
{
    if (!m)
        return;
    workload_close(&m->workload);
    gemma_model_free(&m->model);
    gguf_close(m->gguf);
    shape_file_close(&m->shape_file);
    free(m->file_bytes);
    free(m);
}

const struct lode_shape *simulation_model_shape(const struct simulation_model *m)
{
    return &m->shape;
}

uint32_t simulation_model_experts(const struct simulation_model *m)
{
    return m->n_experts;
}

uint64_t simulation_model_expert_bytes(const struct simulation_model *m)
{
    return m->expert_bytes;
}

// ---- memory
// --------------------------------------------------------------------------------------------------

uint64_t simulation_share_bytes(const struct simulation_model *m, double share)
{
    const uint64_t full_bytes = homes_full_bytes(&m->model.units, true);
    const uint64_t floor_bytes = homes_floor_bytes(&m->model.units, true);
    const double missing = share >= 1 ? 0 : share > 0 ? 1 - share : 1;
    const uint64_t left_bytes = (uint64_t)(missing * (double)m->expert_bytes);
    const uint64_t bytes = full_bytes > left_bytes ? full_bytes - left_bytes : 0;
    return bytes > floor_bytes ? bytes : floor_bytes;
}

static int plan_memory(struct simulation_question *q, const struct simulation_model *m, struct planner *p,
                       struct lode_error *error)
{
    static const enum lode_kv_format formats[] = {
        [LODE_KV_F16] = LODE_CACHE_F16, [LODE_KV_Q8_0] = LODE_CACHE_Q8_0, [LODE_KV_F32] = LODE_CACHE_F32};
    const uint32_t limit = m->model.hparams.context_limit;
    if (q->kv < 0 || (size_t)q->kv >= sizeof formats / sizeof *formats)
        return lode_fail(error, LODE_ERR_ARGUMENT, "there is no KV cache type %d", q->kv);
    uint32_t context = q->context ? q->context : m->context > DEFAULT_CONTEXT ? m->context : DEFAULT_CONTEXT;
    context = context > limit ? limit : context;
    p->format = formats[q->kv];
    planner_settle_ceilings(p);
    struct planner_solution solution;
    int rc = planner_solve(&solution, p, context, 0, error);
    if (!rc) {
        const uint64_t gone_bytes =
            p->program_bytes + solution.plan.kv_ram_bytes + solution.plan.scratch_bytes;
        const uint64_t left_bytes = p->ceiling_bytes > gone_bytes ? p->ceiling_bytes - gone_bytes : 1;
        q->weights_bytes = homes_full_bytes(&m->model.units, true) <= left_bytes ? 0 : left_bytes;
        q->context = context;
        q->batch = q->batch ? q->batch : solution.plan.batch;
        q->ring_bytes = q->ring_bytes ? q->ring_bytes : solution.plan.homes.ring_bytes;
    }
    planner_release(&solution);
    return rc;
}

int simulation_plan(struct simulation_question *q, const struct simulation_model *m, uint64_t ram_bytes,
                    struct lode_error *error)
{
    struct machine_profile *profile = malloc(sizeof *profile); // the planner's own copy
    struct lode_plan *plan = calloc(1, sizeof *plan);
    if (!profile || !plan) {
        free(profile);
        free(plan);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to plan");
    }
    *profile = *q->profile;
    plan->shape = m->shape;
    struct planner planner = {.plan = plan,
                              .options = {.ram_bytes = ram_bytes,
                                          .threads = q->threads,
                                          .context = q->context,
                                          .batch = q->batch,
                                          .kv = q->kv,
                                          .no_prefetch = !q->predictor,
                                          .ring_bytes = q->ring_bytes,
                                          .no_gpu = true,
                                          .no_advice = true},
                              .model = &m->model,
                              .workload = &m->workload,
                              .profile = profile};
    int rc = plan_memory(q, m, &planner, error);
    lode_plan_free(plan);
    free(plan);
    free(profile);
    return rc;
}
