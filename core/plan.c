// Plans a run without running it: the memory as the engine would divide it, the planner's choice of homes,
// the times that the cost model expects of them, and what would change them.
#include "core/fingerprint.h"
#include "core/plan_internal.h"
#include "core/shape.h"
#include "core/workload.h"
#include "profiles/machine_derive.h"

#include "base/bytes_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BATCH 65536
#define DRIVE_LATENCY_US 80 // of an NVMe drive that one asks about by its rate alone

// Heat of fewer tokens says less than the prior.
#define HEAT_LEAST_TOKENS 256

// What is asked about, as it was opened.
struct subject {
    struct shape_file shape_file;
    struct lode_synth_options shape; // its name is NULL where the subject is a file of no known shape
    char shape_name[16], shape_type[16];
    struct gguf *gguf;
    struct gemma_model model;
    struct workload workload;
    struct machine_profile *profile;
    struct heat heat;
};

void planner_warn(struct planner *p, const char *format, ...)
{
    if (p->plan->n_warnings == LODE_PLAN_WARNINGS)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(p->plan->warnings[p->plan->n_warnings++], sizeof p->plan->warnings[0], format, arguments);
    va_end(arguments);
}

// ---- the model
// -----------------------------------------------------------------------------------------------

// The shape of this size, to ask what another type would change; custom sizes have none.
static void name_shape(struct subject *s, const struct lode_plan *plan)
{
    s->shape = lode_synth_options_default();
    s->shape.shape = NULL;
    if (strcmp(plan->shape.size, "custom") == 0)
        return;
    size_t i = 0;
    for (; plan->shape.size[i] && i + 1 < sizeof s->shape_name; i++) {
        const char c = plan->shape.size[i];
        s->shape_name[i] = (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    }
    s->shape_name[i] = '\0';
    snprintf(s->shape_type, sizeof s->shape_type, "%s", plan->shape.type);
    s->shape.shape = s->shape_name;
    s->shape.type = s->shape_type;
}

static int open_model(struct subject *s, struct lode_plan *plan, const char *path,
                      const struct lode_plan_options *o, struct lode_error *error)
{
    int rc = 0;
    if (o->shape) {
        struct lode_synth_options synth = lode_synth_options_default();
        synth.shape = o->shape;
        synth.type = o->type ? o->type : synth.type;
        rc = shape_file_open(&s->shape_file, &synth, error);
        path = s->shape_file.path;
    }
    if (!rc)
        rc = gguf_open(&s->gguf, path, error);
    if (!rc && (rc = gemma_model_load(&s->model, s->gguf, error)))
        lode_fail_in(error, "%s", path);
    if (rc)
        return rc;
    shape_describe(&plan->shape, &s->model, s->gguf);
    name_shape(s, plan);
    return gemma_workload(&s->workload, &s->model, error);
}

// ---- the machine
// ---------------------------------------------------------------------------------------------

static void replace_drives(struct machine_profile *profile, double gbps)
{
    char name[sizeof profile->drives[0].name];
    snprintf(name, sizeof name, "a drive of %.3g GB/s", gbps);
    const struct drive_sheet sheet = {.name = name, .read_gbps = gbps, .latency_us = DRIVE_LATENCY_US};
    memset(profile->drives, 0, sizeof profile->drives);
    derive_drive(&profile->drives[0], &sheet);
    profile->n_drives = 1;
}

static int open_machine(struct subject *s, struct planner *p, struct lode_error *error)
{
    const struct lode_plan_options *o = &p->options;
    p->profile = s->profile = malloc(sizeof *s->profile);
    if (!s->profile)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    int rc = o->machine_text ? machine_profile_parse(s->profile, o->machine_text, error)
                             : machine_profile_read(s->profile, o->machine_file, error);
    if (rc)
        return rc;
    if (o->vram_bytes && !s->profile->n_gpus)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a ceiling for GPUs, but %s has none", s->profile->name);
    if (o->drive_gbps > 0)
        replace_drives(s->profile, o->drive_gbps);
    struct lode_plan *plan = p->plan;
    snprintf(plan->machine, sizeof plan->machine, "%s", s->profile->name);
    snprintf(plan->machine_source, sizeof plan->machine_source, "%s", s->profile->source);
    snprintf(plan->cpu, sizeof plan->cpu, "%s", s->profile->cpu.name);
    plan->measured = s->profile->origin == PROFILE_MEASURED;
    return 0;
}

// Heat is a matter of speed only: without it the prior stands in.
static int open_heat(struct subject *s, struct planner *p, struct lode_error *error)
{
    const struct lode_plan_options *o = &p->options;
    const uint32_t n_experts = workload_experts(&s->workload);
    uint32_t n_layers = 0;
    for (uint32_t l = 0; l < s->workload.n_layers; l++)
        n_layers += s->workload.layers[l].n_experts > 0;
    if (o->shape || !o->heat_dir || !n_layers)
        return 0;
    uint64_t fingerprint;
    char path[4096];
    int rc = fingerprint_model(&fingerprint, s->gguf, error);
    if (!rc)
        rc = heat_open(&s->heat, n_layers, n_experts, fingerprint, error);
    if (rc)
        return rc;
    struct lode_error cause;
    if (!heat_file_path(path, sizeof path, o->heat_dir, fingerprint))
        return 0;
    if (heat_read(&s->heat, path, &cause))
        planner_warn(p, "planned without heat: %s", cause.text);
    if (s->heat.n_tokens >= HEAT_LEAST_TOKENS)
        p->heat = &s->heat;
    return 0;
}

// ---- the whole
// -----------------------------------------------------------------------------------------------

// Memory and settings are told as of the first depth.
static int plan_depth(struct planner *p, uint32_t depth, uint32_t context, struct lode_error *error)
{
    struct planner_solution solution;
    int rc = planner_solve(&solution, p, context, depth, error);
    if (!rc && p->plan->n_expected == 0) {
        planner_warn_of_machine(p, &solution);
        rc = planner_describe_memory(p, &solution, error);
    }
    if (!rc)
        rc = planner_expect(p, &solution, depth, error);
    if (!rc && p->plan->n_expected == 1 && !p->options.no_advice)
        for (uint32_t i = 0; i < solution.plan.n_refused && p->plan->n_refused < LODE_PLAN_REFUSED; i++) {
            const struct plan_refused *from = &solution.plan.refused[i];
            struct lode_plan_refused *to = &p->plan->refused[p->plan->n_refused++];
            snprintf(to->what, sizeof to->what, "%s", from->what);
            to->fits = from->fits;
            to->turn_longer = from->fits ? from->turn_s / solution.plan.turn_s - 1 : 0;
            to->decode_tok_s = from->fits && from->decode_s > 0 ? 1 / from->decode_s : 0;
        }
    planner_release(&solution);
    return rc;
}

static int plan_depths(struct planner *p, struct lode_error *error)
{
    static const uint32_t depths[LODE_PLAN_CONTEXTS] = {0, 8192, 32768};
    const uint32_t limit = p->model->hparams.context_limit, asked = p->options.context;
    if (asked > limit)
        return lode_fail(error, LODE_ERR_CONTEXT,
                         "a context of %" PRIu32 " tokens is beyond the model's limit of %" PRIu32, asked,
                         limit);
    int rc = 0;
    for (size_t i = 0; i < LODE_PLAN_CONTEXTS && !rc; i++) {
        const uint32_t context = planner_context(p, depths[i]);
        if (depths[i] >= context)
            break;
        struct lode_error cause = {0};
        rc = plan_depth(p, depths[i], context, &cause);
        if (rc == LODE_ERR_MEMORY && i > 0) {
            planner_warn(p, "a context of %" PRIu32 " tokens does not fit into %s", context,
                         bytes_text(p->ceiling_bytes).text);
            return 0;
        }
        if (rc && error)
            *error = cause;
    }
    return rc;
}

static int check_options(struct planner *p, const char *path, struct lode_error *error)
{
    static const enum lode_kv_format formats[] = {
        [LODE_KV_F16] = LODE_CACHE_F16, [LODE_KV_Q8_0] = LODE_CACHE_Q8_0, [LODE_KV_F32] = LODE_CACHE_F32};
    const struct lode_plan_options *o = &p->options;
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
    if (o->drive_gbps < 0 || !isfinite(o->drive_gbps))
        return lode_fail(error, LODE_ERR_ARGUMENT, "no drive reads %g GB/s", o->drive_gbps);
    p->format = formats[o->kv];
    return 0;
}

int lode_plan_make(struct lode_plan *out, const char *path, const struct lode_plan_options *options,
                   struct lode_error *error)
{
    *out = (struct lode_plan){0};
    struct subject s = {.shape_file = {.fd = -1}};
    struct planner p = {.plan = out, .options = *options, .model = &s.model, .workload = &s.workload};
    int rc = check_options(&p, path, error);
    if (!rc)
        rc = open_model(&s, out, path, options, error);
    if (!rc)
        rc = open_machine(&s, &p, error);
    if (!rc)
        rc = open_heat(&s, &p, error);
    if (!rc) {
        planner_settle_ceilings(&p);
        rc = plan_depths(&p, error);
    }
    if (!rc && !options->no_advice)
        rc = planner_advise(&p, &s.shape, error);
    heat_close(&s.heat);
    free(s.profile);
    workload_close(&s.workload);
    gemma_model_free(&s.model);
    gguf_close(s.gguf);
    shape_file_close(&s.shape_file);
    if (rc)
        lode_plan_free(out);
    return rc;
}

void lode_plan_free(struct lode_plan *plan)
{
    free(plan->units);
    plan->units = NULL;
    plan->n_units = 0;
}
