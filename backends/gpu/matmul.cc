// Products with many rows: what a call means in tiles, and which kernel computes them.
#include "backends/gpu/matmul_tile.h"

void gpu_tiles(const struct gpu_queue *queue, enum lode_type type, const struct gpu_tile_work *work)
{
    if (work->most == 0 || work->rows == 0 || work->n_jobs == 0)
        return;
    if (!gpu_takes_codes(type))
        gpu_tiles_float(queue->stream, type, work);
    else if (queue->features & GPU_HAS_MMA_S8)
        gpu_tiles_mma(queue->stream, type, work);
    else
        gpu_tiles_dot4(queue->stream, type, work);
}

static struct gpu_tile_work work_of(struct lode_rows out, const struct lode_matrix *weight,
                                    struct gpu_activations quantized, struct lode_rows x)
{
    struct gpu_tile_work work = {};
    work.result = GPU_TILE_STORE;
    work.weights[0] = work.weights[1] = weight->data;
    work.row_bytes = weight->row_bytes;
    work.rows = weight->rows;
    work.cols = weight->cols;
    work.quantized = quantized;
    work.x = x.data;
    work.x_stride = x.stride;
    work.out = out.data;
    work.out_stride = out.stride;
    work.k = 1;
    work.n_jobs = 1;
    work.most = x.n;
    return work;
}

void gpu_matmul(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *weight,
                struct gpu_activations quantized, struct lode_rows x)
{
    const struct gpu_tile_work work = work_of(out, weight, quantized, x);
    gpu_tiles(queue, weight->type, &work);
}

void gpu_matmul_geglu(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *gate,
                      const struct lode_matrix *up, struct gpu_activations quantized, struct lode_rows x)
{
    struct gpu_tile_work work = work_of(out, gate, quantized, x);
    work.result = GPU_TILE_GEGLU;
    work.weights[1] = up->data;
    gpu_tiles(queue, gate->type, &work);
}
