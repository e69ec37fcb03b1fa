// Experts of a batch: choices sorted by expert, so that each expert's weights are read once for all the rows
// that chose it. Three launches for all experts together: gate and up with their activation, the rounding of
// what lies between, and down. An expert with few rows costs the reading of its weights; the tiles of a job
// that has none left end at once.
//
// Row c of `middle` belongs to choice c, so that a row which several experts chose is computed with each and
// written to a slot of its own.
#include "backends/gpu/matmul_tile.h"

// What the three products share.
static struct gpu_tile_work work_of(const struct gpu_expert_choices *choices,
                                    const struct gpu_expert_jobs *jobs)
{
    struct gpu_tile_work work = {};
    work.k = 1;
    work.experts = choices->experts;
    work.begin = jobs->begin;
    work.n_jobs = jobs->n_jobs;
    work.most = jobs->most;
    return work;
}

static void gate_and_up(const struct gpu_queue *queue, struct gpu_tile_work work,
                        const struct gpu_expert_shape *shape)
{
    work.members[0] = GPU_TILE_GATE;
    work.row_bytes = shape->gate_row_bytes;
    if (shape->gate_type == shape->up_type && shape->gate_row_bytes == shape->up_row_bytes) {
        work.result = GPU_TILE_GEGLU;
        work.members[1] = GPU_TILE_UP;
        gpu_tiles(queue, shape->gate_type, &work);
        return;
    }
    // One kernel decodes one type: the gate's products wait in the output for those of up.
    work.result = GPU_TILE_STORE;
    work.members[1] = GPU_TILE_GATE;
    gpu_tiles(queue, shape->gate_type, &work);
    work.result = GPU_TILE_GEGLU_OUT;
    work.members[0] = work.members[1] = GPU_TILE_UP;
    work.row_bytes = shape->up_row_bytes;
    gpu_tiles(queue, shape->up_type, &work);
}

void gpu_experts_many(const struct gpu_queue *queue, struct lode_rows out, struct gpu_activations quantized,
                      struct lode_rows x, const struct gpu_expert_shape *shape,
                      const struct gpu_expert_choices *choices, const struct gpu_expert_jobs *jobs,
                      const struct gpu_expert_scratch *scratch)
{
    struct lode_rows middle = scratch->middle;
    middle.n = choices->n;
    middle.cols = shape->width;

    struct gpu_tile_work work = work_of(choices, jobs);
    work.rows = shape->width;
    work.cols = shape->hidden;
    work.quantized = quantized;
    work.x = x.data;
    work.x_stride = x.stride;
    work.tokens = choices->tokens;
    work.k = choices->k;
    work.out = middle.data;
    work.out_stride = middle.stride;
    gate_and_up(queue, work, shape);

    if (gpu_takes_codes(shape->down_type))
        gpu_quantize(queue, scratch->quantized, middle);

    work = work_of(choices, jobs);
    work.result = GPU_TILE_STORE;
    work.members[0] = work.members[1] = GPU_TILE_DOWN;
    work.row_bytes = shape->down_row_bytes;
    work.rows = shape->hidden;
    work.cols = shape->width;
    work.quantized = scratch->quantized;
    work.x = middle.data;
    work.x_stride = middle.stride;
    work.slots = choices->slots;
    work.out = out.data;
    work.out_stride = out.stride;
    gpu_tiles(queue, shape->down_type, &work);
}
