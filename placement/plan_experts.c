// Experts for what is left of the memory of the GPUs, by marginal time saved per byte.
//
// A layer's devices compute their experts at the same time, so that a layer takes what the slowest takes, and
// each expert more gains less. In a layer the hottest goes first; among layers a heap tells where the next
// one gains most, and only the layer that changed is reckoned again. The first expert on another device than
// the layer's costs a hand-over, and the last on the CPU saves one: steps of several experts at once are
// looked at where that matters. Where the pool does not hold all experts, one that leaves it makes room for
// the next hottest, which saves the drive's time.
//
// Times are the profile's curves without the model's refinements: whatever is chosen here is judged by the
// cost model afterwards.
#include "placement/plan_search.h"

#include <math.h>
#include <stdlib.h>

#define LEAST_SLOTS 16       // of a pool (homes.c)
#define DRIVE_SHARE 0.5      // of the reads of a prefill step that nothing else hides
#define COMPUTE_BOUND_ROWS 4 // cost_rates.c

static const double biases[PLAN_BIASES] = {1, 0.6, 1.7, 1};
#define FILL (PLAN_BIASES - 1)

// ---- rates

static double best_known_gbps(const struct profile_device *device, double rows)
{
    double best = profile_curve_at(&device->read_gbps, 1e9);
    for (uint32_t t = 0; t < LODE_TYPE_END && !(best > 0); t++)
        best = profile_curve_at(&device->kernels[t].dense_gbps, rows);
    return best;
}

// Beyond the last point that was measured the time grows with the rows.
static double product_seconds(const struct profile_device *device, const struct work_matrix *matrix,
                              double rows)
{
    const struct profile_kernels *kernels = &device->kernels[matrix->type];
    const struct profile_curve *expert = &kernels->expert_gbps, *dense = &kernels->dense_gbps;
    const struct profile_curve *curve = expert->n_points ? expert : dense;
    if (expert->n_points && dense->n_points && rows > expert->points[expert->n_points - 1].x &&
        dense->points[dense->n_points - 1].x > expert->points[expert->n_points - 1].x)
        curve = dense;
    double gbps = profile_curve_at(curve, rows), growth = 1;
    if (gbps > 0) {
        const double last = curve->points[curve->n_points - 1].x;
        growth = fmax(1, fmax(rows, last) / COMPUTE_BOUND_ROWS) / fmax(1, last / COMPUTE_BOUND_ROWS);
    } else {
        gbps = best_known_gbps(device, rows);
    }
    return gbps > 0 ? (double)matrix->bytes * 1e-9 / gbps * growth : INFINITY;
}

static double expert_seconds(const struct plan_space *s, uint32_t device, const struct work_layer *layer,
                             double rows)
{
    const struct machine_profile *profile = s->problem->profile;
    const struct work_unit *unit = &s->work->units[layer->first_expert];
    double seconds = 0;
    for (uint32_t i = 0; i < unit->n; i++)
        seconds += product_seconds(device ? &profile->gpus[device - 1] : &profile->cpu,
                                   &s->work->matrices[unit->first + i], rows);
    return seconds;
}

static double link_seconds(const struct profile_device *gpu, double bytes)
{
    if (gpu->shares_memory || bytes <= 0)
        return 0;
    const struct profile_curve *curve =
        gpu->upload_pinned_gbps.n_points ? &gpu->upload_pinned_gbps : &gpu->upload_pageable_gbps;
    const double gbps = profile_curve_at(curve, bytes);
    return gbps > 0 ? bytes * 1e-9 / gbps : 0;
}

// There and back again, of rows of the residual stream, and a wait.
static double hand_over_seconds(const struct plan_space *s, uint32_t device, double rows)
{
    if (!device)
        return 0;
    const struct profile_device *gpu = &s->problem->profile->gpus[device - 1];
    return 2 * link_seconds(gpu, rows * s->work->hidden * sizeof(float)) + gpu->sync_us * 1e-6;
}

// ---- layers

// Of a whole turn, for an expert that is always chosen.
struct rates {
    double decode_s[PLAN_DEVICES], prefill_s[PLAN_DEVICES], hand_over_s[PLAN_DEVICES];
};

struct load {
    double decode_s[PLAN_DEVICES], prefill_s[PLAN_DEVICES];
    uint32_t n[PLAN_DEVICES];
};

struct layer {
    struct rates rates;
    struct load load;
    uint32_t index, home; // home: the device of what is not experts
    uint32_t taken;       // of the hottest
    // The step that gains most a byte: so many of the next hottest to a device; n_step 0: none.
    double gain_s, gain_a_byte;
    uint32_t n_step, device;
};

struct filling {
    const struct plan_space *space;
    struct plan_choice *choice;
    const double *touched_sum; // of the batch
    uint32_t mask, bias;
    uint64_t left_bytes[HOME_GPUS];
    struct layer *layers;
    uint32_t *heap, n_heap; // layers, the largest gain first
    // What a read saves: of the expert that the pool would not have held.
    double read_decode_s, read_prefill_s;
    uint32_t n_slots, n_freed;
};

static double layer_seconds(const struct layer *layer, const struct load *load)
{
    double decode_s = 0, prefill_s = 0, hand_over_s = 0;
    for (uint32_t d = 0; d < PLAN_DEVICES; d++) {
        decode_s = fmax(decode_s, load->decode_s[d]);
        prefill_s = fmax(prefill_s, load->prefill_s[d]);
        if (load->n[d] && d != layer->home)
            hand_over_s += layer->rates.hand_over_s[d] + layer->rates.hand_over_s[layer->home];
    }
    return decode_s + prefill_s + hand_over_s;
}

struct some {
    double heat, touched;
    uint64_t bytes;
};

// The next n of a layer, the hottest first.
static struct some next_of(const struct filling *f, const struct layer *layer, uint32_t n)
{
    const uint32_t first = f->space->layer_expert[layer->index], from = first + layer->taken;
    const struct plan_expert *e = f->space->experts;
    const bool any = layer->taken > 0;
    return (struct some){
        .heat = e[from + n - 1].heat_sum - (any ? e[from - 1].heat_sum : 0),
        .touched = f->touched_sum[from + n - 1] - (any ? f->touched_sum[from - 1] : 0),
        .bytes = e[from + n - 1].bytes_sum - (any ? e[from - 1].bytes_sum : 0),
    };
}

// From the host to a device; what is left there is not what rounding leaves.
static void move(const struct layer *layer, struct load *load, const struct some *some, uint32_t n,
                 uint32_t to)
{
    const bool all = n == load->n[0];
    load->decode_s[0] = all ? 0 : load->decode_s[0] - some->heat * layer->rates.decode_s[0];
    load->prefill_s[0] = all ? 0 : load->prefill_s[0] - some->touched * layer->rates.prefill_s[0];
    load->decode_s[to] += some->heat * layer->rates.decode_s[to];
    load->prefill_s[to] += some->touched * layer->rates.prefill_s[to];
    load->n[0] -= n;
    load->n[to] += n;
}

static void offer(struct layer *layer, const struct load *load, double before_s, uint32_t device,
                  uint32_t n_step, uint64_t bytes)
{
    const double gain_s = before_s - layer_seconds(layer, load);
    const double gain_a_byte = gain_s / (double)(bytes ? bytes : 1);
    if (layer->n_step && !(gain_a_byte > layer->gain_a_byte))
        return;
    layer->gain_s = gain_s;
    layer->gain_a_byte = gain_a_byte;
    layer->n_step = n_step;
    layer->device = device;
}

// A step of one expert; where the device has none of the layer yet, of 2, 4, 8 and so on; and of all that are
// left.
static void look_ahead(const struct filling *f, struct layer *layer, uint32_t device)
{
    const uint32_t left = layer->load.n[0];
    const bool first = !layer->load.n[device] && device != layer->home;
    const double before_s = layer_seconds(layer, &layer->load);
    for (uint32_t n = 1; n <= left; n = n == left ? left + 1 : first && 2 * n < left ? 2 * n : left) {
        const struct some some = next_of(f, layer, n);
        if (some.bytes > f->left_bytes[device - 1])
            return;
        struct load load = layer->load;
        move(layer, &load, &some, n, device);
        offer(layer, &load, before_s, device, n, some.bytes);
    }
}

static void reckon(const struct filling *f, struct layer *layer)
{
    layer->n_step = 0;
    for (uint32_t i = 0; i < f->space->n_gpus; i++)
        if (f->mask >> f->space->gpus[i] & 1)
            look_ahead(f, layer, 1 + f->space->gpus[i]);
}

static void open_layer(const struct filling *f, struct layer *out, uint32_t l)
{
    const struct plan_space *s = f->space;
    const struct plan_problem *p = s->problem;
    const struct work_layer *work = &s->work->layers[l];
    const uint32_t batch = p->batches[f->choice->batch].tokens;
    const double rows = p->prompt_tokens < batch ? p->prompt_tokens : batch;
    const double steps = rows > 0 ? p->prompt_tokens / rows : 0;
    *out = (struct layer){.index = l, .home = f->choice->place[s->layer_group[l]]};
    const uint32_t last = s->layer_expert[l] + work->n_experts - 1;
    const double touched = f->touched_sum[last];
    const double expert_rows = touched > 0 ? fmax(1, rows * work->n_used / touched) : 0;
    struct rates *r = &out->rates;
    for (uint32_t i = 0; i <= s->n_gpus; i++) {
        const uint32_t d = i ? 1 + s->gpus[i - 1] : 0;
        const double bias = d ? biases[f->bias] : 1;
        r->decode_s[d] = p->generated_tokens * expert_seconds(s, d, work, 1) * bias;
        r->prefill_s[d] = steps > 0 ? steps * expert_seconds(s, d, work, expert_rows) * bias : 0;
        r->hand_over_s[d] =
            p->generated_tokens * hand_over_seconds(s, d, 1) + steps * hand_over_seconds(s, d, rows);
        if (!d || steps <= 0)
            continue;
        // Instead of being computed by the CPU, experts of many rows may be copied to a GPU.
        const double copied_s =
            steps * link_seconds(&p->profile->gpus[d - 1], (double)workload_expert_bytes(s->work, work));
        r->prefill_s[0] = fmin(r->prefill_s[0], copied_s + r->prefill_s[d]);
    }
    out->load.decode_s[0] = s->experts[last].heat_sum * r->decode_s[0];
    out->load.prefill_s[0] = touched * r->prefill_s[0];
    out->load.n[0] = work->n_experts;
    reckon(f, out);
}

// ---- the heap

static bool above(const struct filling *f, uint32_t a, uint32_t b)
{
    const double x = f->layers[a].gain_a_byte, y = f->layers[b].gain_a_byte;
    return x > y || (x == y && a < b);
}

static void sift_down(struct filling *f, uint32_t at)
{
    for (uint32_t next = 2 * at + 1; next < f->n_heap; next = 2 * at + 1) {
        if (next + 1 < f->n_heap && above(f, f->heap[next + 1], f->heap[next]))
            next++;
        if (!above(f, f->heap[next], f->heap[at]))
            return;
        const uint32_t other = f->heap[at];
        f->heap[at] = f->heap[next];
        f->heap[next] = other;
        at = next;
    }
}

static void drop_top(struct filling *f)
{
    f->heap[0] = f->heap[--f->n_heap];
    sift_down(f, 0);
}

// ---- what the drive saves

static int find_slots(struct filling *f, struct lode_error *error)
{
    const struct plan_space *s = f->space;
    const struct plan_problem *p = s->problem;
    struct plan_room room;
    struct homes homes;
    plan_count_room(&room, s, f->choice);
    for (uint32_t g = 0; g < HOME_GPUS; g++) {
        // A GPU that computes nothing yet takes its scratch with the first expert.
        const uint64_t used =
            room.gpu_bytes[g] ? room.gpu_bytes[g] : p->batches[f->choice->batch].gpu_scratch_bytes;
        f->left_bytes[g] = p->vram_bytes[g] > used ? p->vram_bytes[g] - used : 0;
    }
    f->n_slots = s->n_experts;
    int rc = plan_divide(&homes, f->choice, s, error);
    if (rc || f->choice->short_bytes)
        return rc; // nothing fits yet: no gain is known
    uint64_t largest = 0;
    for (uint32_t e = 0; e < s->n_experts; e++)
        largest = s->unit_bytes[s->experts[e].unit] > largest ? s->unit_bytes[s->experts[e].unit] : largest;
    if (homes.pool_bytes && largest) {
        const uint64_t slots = homes.pool_bytes / largest;
        f->n_slots = slots < LEAST_SLOTS    ? LEAST_SLOTS
                     : slots < s->n_experts ? (uint32_t)slots
                                            : s->n_experts;
    }
    homes_free(&homes);
    return 0;
}

static void find_reads(struct filling *f)
{
    const struct plan_problem *p = f->space->problem;
    double gbps = 0;
    for (uint32_t i = 0; i < p->profile->n_drives; i++)
        gbps = fmax(gbps, fmax(profile_curve_at(&p->profile->drives[i].direct_gbps, 4),
                               profile_curve_at(&p->profile->drives[i].buffered_gbps, 4)));
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < f->space->work->n_layers && !bytes; l++)
        bytes = workload_expert_bytes(f->space->work, &f->space->work->layers[l]);
    const uint32_t batch = p->batches[f->choice->batch].tokens;
    const double steps = p->prompt_tokens ? ceil((double)p->prompt_tokens / batch) : 0;
    const double read_s = gbps > 0 ? (double)bytes * 1e-9 / gbps : 0;
    f->read_decode_s = p->generated_tokens * read_s;
    f->read_prefill_s = steps * read_s * DRIVE_SHARE;
}

static double drive_gain(const struct filling *f, const struct layer *layer)
{
    const struct plan_space *s = f->space;
    const uint64_t next = (uint64_t)f->n_slots + f->n_freed;
    if (next >= s->n_experts || s->problem->profile->gpus[layer->device - 1].shares_memory)
        return 0;
    return layer->n_step * (s->heat_falling[next] * f->read_decode_s + f->read_prefill_s);
}

// ---- filling

static void take_step(struct filling *f, struct layer *layer)
{
    const struct plan_space *s = f->space;
    const uint32_t device = layer->device, first = s->layer_expert[layer->index] + layer->taken;
    const struct some some = next_of(f, layer, layer->n_step);
    for (uint32_t i = 0; i < layer->n_step; i++)
        f->choice->device[s->experts[first + i].unit] = (uint8_t)device;
    f->left_bytes[device - 1] -= some.bytes;
    move(layer, &layer->load, &some, layer->n_step, device);
    layer->taken += layer->n_step;
    f->n_freed += s->problem->profile->gpus[device - 1].shares_memory ? 0 : layer->n_step;
    reckon(f, layer);
}

static bool step_fits(const struct filling *f, const struct layer *layer)
{
    return next_of(f, layer, layer->n_step).bytes <= f->left_bytes[layer->device - 1];
}

static void fill(struct filling *f)
{
    for (uint32_t l = 0; l < f->space->work->n_layers; l++) {
        if (f->space->work->layers[l].n_experts == 0)
            continue;
        open_layer(f, &f->layers[l], l);
        if (f->layers[l].n_step)
            f->heap[f->n_heap++] = l;
    }
    for (uint32_t at = f->n_heap / 2; at-- > 0;)
        sift_down(f, at);
    while (f->n_heap) {
        struct layer *layer = &f->layers[f->heap[0]];
        if (!step_fits(f, layer))
            reckon(f, layer);
        else if (f->bias == FILL || layer->gain_s + drive_gain(f, layer) > 0)
            take_step(f, layer);
        else
            layer->n_step = 0;
        if (layer->n_step)
            sift_down(f, 0);
        else
            drop_top(f);
    }
}

int plan_fill_experts(struct plan_choice *choice, const struct plan_space *space, uint32_t mask,
                      uint32_t bias, struct lode_error *error)
{
    const struct workload *w = space->work;
    for (uint32_t e = 0; e < space->n_experts; e++)
        choice->device[space->experts[e].unit] = 0;
    if (!space->n_experts || !mask)
        return 0;
    struct filling f = {.space = space,
                        .choice = choice,
                        .touched_sum = space->touched_sum + (size_t)choice->batch * space->n_experts,
                        .mask = mask,
                        .bias = bias,
                        .layers = calloc(w->n_layers, sizeof *f.layers),
                        .heap = calloc(w->n_layers, sizeof *f.heap)};
    int rc = 0;
    if (!f.layers || !f.heap)
        rc = lode_fail(error, LODE_ERR_MEMORY, "no memory to place %u experts", space->n_experts);
    if (!rc)
        rc = find_slots(&f, error);
    if (!rc) {
        find_reads(&f);
        fill(&f);
    }
    free(f.layers);
    free(f.heap);
    return rc;
}
