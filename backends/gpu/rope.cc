// Rotary position embedding: bytes of x, read and written once. A thread has a pair of elements and turns it
// in a few heads, so that its sine and cosine serve several.
//
// At position 262,143 the rounding of a float angle alone is 0.008 rad. The CPU takes angles in double, of
// which consumer GPUs do 2 a clock and multiprocessor: a row of 128 pairs would wait half a microsecond for
// them, twice a layer. Here the product of position and frequency is kept exactly in two floats, and quarter
// turns are taken from both: the error is below 1e-9 rad up to there.
#include "backends/gpu/kernels.h"

#include <math.h>

#define THREADS 128
#define HEADS 4 // of a block

namespace
{

struct rope_shape {
    size_t stride;
    uint32_t n_heads, head_size, first_position;
};

struct turn {
    float sine, cosine;
};

// Of position * frequency, at most 2^18; larger angles lose a little. The polynomials are those of Cephes'
// sinf and cosf.
GPU_FN turn turn_of(float position, float frequency)
{
    const float angle = position * frequency;
    const float angle_rest = fmaf(position, frequency, -angle); // exactly what the product was rounded by
    const float quarters = rintf(angle * 0.636619772f);         // 2 / pi
    // Pi / 2 = 1.57079637050628662 - 4.37113883e-8. The first difference is exact: a multiple of 2^-23 below
    // 1. A wrong quarter near the border leaves a rest a little above pi / 4.
    const float coarse = fmaf(-quarters, 1.57079637050628662f, angle);
    const float fine = fmaf(-quarters, -4.37113882867379e-8f, angle_rest);
    const float rest = coarse + fine, rest_rest = fine - (rest - coarse);

    const float z = rest * rest;
    float s = z * -1.9515295891e-4f + 8.3321608736e-3f;
    s = s * z + -1.6666654611e-1f;
    float c = z * 2.443315711809948e-5f + -1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    const float sine_rest = rest * z * s, cosine_rest = z * z * c - 0.5f * z;
    // sin(a + b) ~ sin a + b cos a, cos(a + b) ~ cos a - b sin a for the last bits b.
    const float sine = rest + (sine_rest + rest_rest);
    const float cosine = 1.0f + (cosine_rest - rest_rest * rest);

    const uint32_t quarter = static_cast<uint32_t>(static_cast<int32_t>(quarters));
    const float along = quarter & 1 ? sine : cosine, across = quarter & 1 ? cosine : sine;
    return {quarter & 2 ? -across : across, (quarter + 1) & 2 ? -along : along};
}

// Block x is of row x, block y of HEADS heads, block z of THREADS pairs.
GPU_KERNEL void GPU_BLOCK(THREADS) rope(float *x, const float *inverse_frequency, rope_shape shape)
{
    const uint32_t half = shape.head_size / 2, pair = blockIdx.z * THREADS + threadIdx.x;
    const uint32_t first = blockIdx.y * HEADS;
    const uint32_t left = shape.n_heads - first, n = left < HEADS ? left : HEADS;
    if (pair < half) {
        const turn turn =
            turn_of(static_cast<float>(shape.first_position + blockIdx.x), inverse_frequency[pair]);
        x += blockIdx.x * shape.stride + static_cast<size_t>(first) * shape.head_size + pair;
        for (uint32_t head = 0; head < n; head++, x += shape.head_size) {
            const float a = x[0], b = x[half];
            x[0] = a * turn.cosine - b * turn.sine;
            x[half] = b * turn.cosine + a * turn.sine;
        }
    }
}

} // namespace

void gpu_rope(const struct gpu_queue *queue, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
              uint32_t first_position, const float *inverse_frequency)
{
    if (x.n == 0)
        return;
    const rope_shape shape = {x.stride, n_heads, head_size, first_position};
    const dim3 grid(x.n, (n_heads + HEADS - 1) / HEADS, (head_size / 2 + THREADS - 1) / THREADS);
    GPU_LAUNCH(rope, grid, THREADS, queue->stream, x.data, inverse_frequency, shape);
}
