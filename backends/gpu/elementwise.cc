// Operations on single values: as fast as the memory delivers them. A thread takes a few values a block's
// width apart, so that every access of a group is one line and several are under way at a time.
#include "backends/gpu/gpu_math.h"
#include "backends/gpu/kernels.h"

#define THREADS 256
#define VALUES 4 // of a thread

namespace
{

enum operation { ADD, GEGLU, SCALE, SOFTCAP };

struct elementwise_shape {
    size_t out_stride, a_stride, b_stride;
    uint32_t cols;
    float number; // scale or cap
};

template <operation OPERATION> GPU_FN float value_of(float a, float b, float number)
{
    switch (OPERATION) {
    case ADD:
        return (a + b) * number;
    case GEGLU:
        return gpu_gelu_tanh(a) * b;
    case SCALE:
        return a * number;
    default:
        return number * gpu_tanh(a / number);
    }
}

// Block x is of row x, block y of the columns y * THREADS * VALUES and following. out may be a or b, and is a
// of an operation in place; b is looked at by ADD and GEGLU only.
template <operation OPERATION>
GPU_KERNEL void GPU_BLOCK(THREADS)
    elementwise(float *out, const float *a, const float *b, elementwise_shape shape)
{
    out += blockIdx.x * shape.out_stride;
    a += blockIdx.x * shape.a_stride;
    b += blockIdx.x * shape.b_stride;
    const uint32_t first = blockIdx.y * (THREADS * VALUES) + threadIdx.x;
    float values[VALUES];
    for (uint32_t i = 0; i < VALUES; i++) {
        const uint32_t col = first + i * THREADS;
        if (col < shape.cols)
            values[i] = value_of<OPERATION>(a[col], OPERATION <= GEGLU ? b[col] : 0.0f, shape.number);
    }
    for (uint32_t i = 0; i < VALUES; i++) {
        const uint32_t col = first + i * THREADS;
        if (col < shape.cols)
            out[col] = values[i];
    }
}

template <operation OPERATION>
void launch(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows a, struct lode_rows b,
            float number)
{
    if (out.n == 0 || out.cols == 0)
        return;
    const elementwise_shape shape = {out.stride, a.stride, b.stride, out.cols, number};
    const float *from_a = a.data, *from_b = b.data;
    const dim3 grid(out.n, (out.cols + THREADS * VALUES - 1) / (THREADS * VALUES));
    GPU_LAUNCH(elementwise<OPERATION>, grid, THREADS, queue->stream, out.data, from_a, from_b, shape);
}

} // namespace

void gpu_add(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows a, struct lode_rows b,
             float scale)
{
    launch<ADD>(queue, out, a, b, scale);
}

void gpu_geglu(const struct gpu_queue *queue, struct lode_rows out, struct lode_rows a, struct lode_rows b)
{
    launch<GEGLU>(queue, out, a, b, 1);
}

void gpu_scale(const struct gpu_queue *queue, struct lode_rows x, float scale)
{
    launch<SCALE>(queue, x, x, x, scale);
}

void gpu_softcap(const struct gpu_queue *queue, struct lode_rows x, float cap)
{
    launch<SOFTCAP>(queue, x, x, x, cap);
}
