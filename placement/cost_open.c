// Opening a cost model: what stands in for what the profile lacks, and the pass in steps.
#include "placement/cost_internal.h"

#include <math.h>
#include <stdlib.h>

// ---- curves

static bool has_kernels(const struct profile_device *device, uint32_t type)
{
    const struct profile_kernels *kernels = &device->kernels[type];
    return lode_type_find(type) && kernels->known &&
           (kernels->dense_gbps.n_points || kernels->expert_gbps.n_points);
}

// The type itself, or the known one that is nearest in bytes a weight; LODE_TYPE_END when there is none.
static uint32_t nearest_type(const struct profile_device *device, uint32_t type)
{
    if (has_kernels(device, type))
        return type;
    uint32_t best = LODE_TYPE_END;
    double best_distance = INFINITY;
    for (uint32_t t = 0; t < LODE_TYPE_END; t++) {
        if (!has_kernels(device, t))
            continue;
        const double distance = fabs(log(cost_bytes_a_weight(t) / cost_bytes_a_weight(type)));
        if (distance < best_distance) {
            best_distance = distance;
            best = t;
        }
    }
    return best;
}

static double rows_measured(const struct profile_device *device, uint32_t type)
{
    if (type == LODE_TYPE_END)
        return 0;
    const struct profile_curve *dense = &device->kernels[type].dense_gbps;
    const struct profile_curve *expert = &device->kernels[type].expert_gbps;
    return fmax(dense->n_points ? dense->points[dense->n_points - 1].x : 0,
                expert->n_points ? expert->points[expert->n_points - 1].x : 0);
}

static bool reads(const struct homes *homes)
{
    return homes->streamed_bytes || homes->pool_bytes || homes->rows_bytes;
}

// The fastest: the one that a model should lie on.
static const struct profile_drive *choose_drive(const struct machine_profile *profile)
{
    const struct profile_drive *best = NULL;
    double best_gbps = 0;
    for (uint32_t i = 0; i < profile->n_drives; i++) {
        const struct profile_drive *drive = &profile->drives[i];
        const double gbps = profile_drive_gbps(drive, IO_QUEUE_DEPTH);
        if (gbps > best_gbps) {
            best = drive;
            best_gbps = gbps;
        }
    }
    return best;
}

static uint32_t device_of(const struct homes *homes, uint32_t unit)
{
    return homes->home[unit] < HOME_GPU ? COST_CPU : homes->home[unit] - HOME_GPU + 1u;
}

// Types that devices multiply with: bit t of used[device].
static void find_types(struct cost_model *model, const uint64_t used[COST_DEVICES])
{
    model->measured_rows = INFINITY;
    for (uint32_t d = 0; d < COST_DEVICES; d++) {
        if (d != COST_CPU && !used[d])
            continue;
        const struct profile_device *device = cost_device(model, d);
        for (uint32_t t = 0; t < LODE_TYPE_END; t++) {
            const bool wanted = t == LODE_F32 || used[d] >> t & 1;
            model->nearest_on[d][t] = wanted ? (uint8_t)nearest_type(device, t) : LODE_TYPE_END;
            if (!(used[d] >> t & 1))
                continue;
            if (d == COST_CPU)
                model->measured_rows =
                    fmin(model->measured_rows, rows_measured(device, model->nearest_on[d][t]));
            if (model->nearest_on[d][t] != t && !(model->assumed >> t & 1)) {
                model->nearest[t] = model->nearest_on[d][t];
                model->assumed |= 1ull << t;
            }
        }
    }
    const struct profile_device *cpu = &model->profile->cpu;
    model->attention_assumed =
        !cpu->attention_decode_gbps.n_points || !cpu->attention_prefill_gflops.n_points;
}

static bool has_rates(const struct profile_device *device, double memory_gbps)
{
    return memory_gbps > 0 ||
           (device->attention_decode_gbps.n_points && device->attention_prefill_gflops.n_points);
}

static int check_gpu(const struct cost_model *model, uint32_t d, struct lode_error *error)
{
    const struct profile_device *gpu = cost_device(model, d);
    const char *const machine = model->profile->name;
    if (model->nearest_on[d][LODE_F32] == LODE_TYPE_END)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s knows no kernel of its GPU %s (gpus[%u].kernels)", machine,
                         gpu->name, d - 1);
    if (!gpu->shares_memory && (!gpu->upload_pinned_gbps.n_points || !gpu->download_pinned_gbps.n_points))
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s does not know the link of its GPU %s "
                         "(gpus[%u].upload_pinned_gbps, gpus[%u].download_pinned_gbps)",
                         machine, gpu->name, d - 1, d - 1);
    if (!has_rates(gpu, profile_curve_at(&gpu->read_gbps, 1)))
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s knows neither how fast the memory of its GPU %s is read "
                         "(gpus[%u].read_gbps) nor attention there",
                         machine, gpu->name, d - 1);
    return 0;
}

static int check_machine(struct cost_model *model, const uint64_t used[COST_DEVICES],
                         const bool holds[COST_DEVICES], struct lode_error *error)
{
    const struct machine_profile *profile = model->profile;
    find_types(model, used);
    if (model->nearest_on[COST_CPU][LODE_F32] == LODE_TYPE_END)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s knows no kernel of its CPU (cpu.kernels)", profile->name);
    if (!has_rates(&profile->cpu, profile_curve_at(&profile->cpu.read_gbps, model->threads)))
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the profile of %s knows neither how fast its memory is read (cpu.read_gbps) nor "
                         "attention (cpu.attention_decode_gbps, cpu.attention_prefill_gflops)",
                         profile->name);
    for (uint32_t d = 1; d < COST_DEVICES; d++)
        if (holds[d]) {
            int rc = check_gpu(model, d, error);
            if (rc)
                return rc;
        }
    model->drive = choose_drive(profile);
    if (!model->drive && reads(model->homes))
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "not all weights stay in memory, but the profile of %s has no drive (drives)",
                         profile->name);
    cost_find_drive_rates(model);
    return 0;
}

static void take_learned(struct cost_model *model)
{
    for (int part = 0; part < PROFILE_PARTS; part++) {
        const double factor = model->profile->learned[part].factor;
        model->learned[part] =
            factor > 0 ? fmin(PROFILE_LEARNED_MOST, fmax(1 / PROFILE_LEARNED_MOST, factor)) : 1;
    }
}

// ---- the pass in steps

struct counts {
    uint32_t steps, streamed_parts;
    uint64_t used[COST_DEVICES];
    bool holds[COST_DEVICES];
};

static int count_units(struct counts *out, const struct cost_model *model, struct lode_error *error)
{
    const struct workload *w = model->workload;
    *out = (struct counts){0};
    for (uint32_t u = 0; u < w->table->n_units; u++) {
        const uint32_t device = device_of(model->homes, u);
        if (device > model->profile->n_gpus || device >= COST_DEVICES)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "a unit has its home on GPU %u, but the profile of %s has %u", device - 1,
                             model->profile->name, model->profile->n_gpus);
        const struct unit *unit = &w->table->units[u];
        out->steps += unit->class != UNIT_EXPERT;
        out->streamed_parts += model->homes->home[u] == HOME_RING ? unit->n_parts : 0;
        out->holds[device] = true;
        const struct work_matrix *matrices = &w->matrices[w->units[u].first];
        for (uint32_t i = 0; i < w->units[u].n; i++)
            out->used[device] |= matrices[i].rows > 1 ? 1ull << matrices[i].type : 0;
    }
    return 0;
}

static struct cost_step step_of(const struct cost_model *model, uint32_t u)
{
    const struct work_unit *unit = &model->workload->units[u];
    struct cost_step step = {.unit = u,
                             .device = (uint8_t)device_of(model->homes, u),
                             .streamed = model->homes->home[u] == HOME_RING,
                             .attends = unit->attends};
    for (uint32_t i = 0; i < unit->n; i++) {
        const struct work_matrix *matrix = &model->workload->matrices[unit->first + i];
        step.products = step.products || matrix->rows > 1;
        step.all_rows = step.all_rows || matrix->when == WORK_ALL_ROWS;
    }
    return step;
}

static void count_experts(struct cost_layer *layer, const struct cost_model *model,
                          const struct work_layer *work)
{
    uint32_t most = 0;
    for (uint32_t u = work->first_expert; u < work->first_expert + work->n_experts; u++) {
        layer->n_on[device_of(model->homes, u)]++;
        layer->pooled = layer->pooled || model->homes->home[u] == HOME_POOL;
    }
    for (uint32_t d = 1; d < COST_DEVICES; d++)
        if (layer->n_on[d] > most) {
            most = layer->n_on[d];
            layer->helper = (uint8_t)d;
        }
    layer->expert_bytes = (double)workload_expert_bytes(model->workload, work);
}

static void list_layer(struct cost_model *model, uint32_t l)
{
    const struct workload *w = model->workload;
    const struct work_layer *work = &w->layers[l];
    struct cost_layer *layer = &model->layers[l];
    *layer = (struct cost_layer){.first_step = model->n_steps, .guesses_at = UINT32_MAX};
    if (l > 0)
        layer->first_heat = model->layers[l - 1].first_heat + w->layers[l - 1].n_experts;
    if (work->n_experts)
        count_experts(layer, model, work);
    bool led = false;
    layer->experts_at = layer->begins_at = UINT32_MAX;
    for (uint32_t i = 0; i < work->n_units; i++) {
        const uint32_t u = work->first_unit + i;
        if (work->n_experts && u == work->first_expert) {
            layer->experts_at = model->n_steps;
            i += work->n_experts - 1;
            continue;
        }
        const struct cost_step step = step_of(model, u);
        if (step.products && (!led || step.attends))
            layer->lead = step.device;
        led = led || step.products;
        if (step.products && step.device != COST_CPU && work->n_experts && layer->experts_at == UINT32_MAX)
            layer->helper = step.device; // the last before the experts
        if (w->units[u].hides_reads)
            layer->begins_at = model->n_steps;
        if (w->units[u].guesses)
            layer->guesses_at = model->n_steps;
        model->steps[model->n_steps++] = step;
    }
    layer->n_steps = model->n_steps - layer->first_step;
    if (work->n_experts && layer->begins_at > layer->experts_at)
        layer->begins_at = layer->experts_at;
}

// What is for all rows is done before the layers, the rest for the wanted ones behind them.
static void list_outside(struct cost_model *model, bool inputs)
{
    const struct unit_table *table = model->workload->table;
    for (uint32_t u = 0; u < table->n_units; u++) {
        if (table->units[u].layer != UNIT_NO_LAYER || table->units[u].class == UNIT_ROWS)
            continue;
        struct cost_step step = step_of(model, u);
        step.streamed = false;
        if (step.products && step.all_rows == inputs)
            model->steps[model->n_steps++] = step;
    }
}

static int list_steps(struct cost_model *model, const struct counts *counts, struct lode_error *error)
{
    const struct workload *w = model->workload;
    model->steps = calloc((size_t)counts->steps + 1, sizeof *model->steps);
    model->layers = calloc((size_t)w->n_layers + 1, sizeof *model->layers);
    model->cycle = calloc((size_t)counts->streamed_parts + 1, sizeof *model->cycle);
    if (!model->steps || !model->layers || !model->cycle)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to follow a pass of %u units", w->table->n_units);
    list_outside(model, true);
    model->n_inputs = model->n_steps;
    for (uint32_t l = 0; l < w->n_layers; l++)
        list_layer(model, l);
    model->first_output = model->n_steps;
    list_outside(model, false);
    for (uint32_t s = model->n_inputs; s < model->first_output; s++) {
        const struct unit *unit = &w->table->units[model->steps[s].unit];
        for (uint32_t i = 0; model->steps[s].streamed && i < unit->n_parts; i++)
            model->cycle[model->n_cycle++] = &w->table->parts[unit->first_part + i];
    }
    return 0;
}

int cost_open(struct cost_model *out, const struct workload *workload, const struct homes *homes,
              const struct machine_profile *profile, const struct cost_options *options,
              struct lode_error *error)
{
    const struct profile_device *cpu = &profile->cpu;
    *out = (struct cost_model){.workload = workload, .homes = homes, .profile = profile, .options = *options};
    out->options.batch = options->batch ? options->batch : 1;
    out->threads = options->threads ? options->threads : cpu->threads ? cpu->threads : cpu->cores;
    out->threads = out->threads ? out->threads : 1;
    take_learned(out);
    struct counts counts;
    int rc = count_units(&counts, out, error);
    if (!rc)
        rc = check_machine(out, counts.used, counts.holds, error);
    if (!rc)
        rc = list_steps(out, &counts, error);
    return rc ? rc : cost_find_hits(out, error);
}

void cost_close(struct cost_model *model)
{
    free(model->steps);
    free(model->layers);
    free(model->cycle);
    model->steps = NULL;
    model->layers = NULL;
    model->cycle = NULL;
}
