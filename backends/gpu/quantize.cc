// Activations to int8 in blocks of 32, bit for bit as backends/cpu/quantize.c has them.
//
// Eight lanes take a block, four values each: one word of codes a lane. It is bound by the reading of x and,
// for the single rows of decode, by the latency of one load, three shuffles and one store.
#include "backends/gpu/kernels.h"

#include <math.h>

#define THREADS 256
#define BLOCK 32
#define PER_LANE 4
#define LANES (BLOCK / PER_LANE)

// Below this largest magnitude a block is taken for zero: 127 / max would overflow.
#define TINY 0x1p-120f

namespace
{

struct quantize_call {
    struct gpu_activations out;
    const float *x;
    size_t stride;
    uint32_t cols;
};

GPU_KERNEL void GPU_BLOCK(THREADS) quantize(const struct quantize_call call)
{
    const size_t n_blocks = static_cast<size_t>(call.out.n) * call.out.blocks;
    const size_t own = static_cast<size_t>(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
    const size_t block = own < n_blocks ? own : n_blocks - 1;
    const unsigned lane = threadIdx.x % LANES;
    const size_t row = block / call.out.blocks;
    const unsigned in_row = static_cast<unsigned>(block - row * call.out.blocks);
    const unsigned first = in_row * BLOCK + lane * PER_LANE;
    const float *from = call.x + row * call.stride;

    float x[PER_LANE], largest = 0;
#pragma unroll
    for (unsigned i = 0; i < PER_LANE; i++) {
        x[i] = first + i < call.cols ? from[first + i] : 0.0f;
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
#pragma unroll
    for (unsigned mask = LANES / 2; mask; mask /= 2) {
        const float other = gpu_shuffle_xor(largest, mask);
        largest = other > largest ? other : largest;
    }
    const bool tiny = largest < TINY;
    const float inverse = tiny ? 0.0f : 127.0f / largest;
    uint32_t codes = 0;
    int sum = 0;
#pragma unroll
    for (unsigned i = 0; i < PER_LANE; i++) {
        // Nearest, ties to even. x and so the product may be no number; then any code will do.
        const float scaled = rintf(x[i] * inverse);
        const int code = fabsf(scaled) <= 127.0f ? static_cast<int>(scaled) : 0;
        codes |= (static_cast<uint32_t>(code) & 0xff) << 8 * i;
        sum += code;
    }
    // Sums of the half that the lane is in.
    sum += gpu_shuffle_xor(sum, 1);
    sum += gpu_shuffle_xor(sum, 2);
    const int other_half = gpu_shuffle_xor(sum, 4);
    if (own >= n_blocks)
        return;
    reinterpret_cast<uint32_t *>(call.out.codes)[block * LANES + lane] = codes;
    if (lane == 0) {
        call.out.scales[block] = tiny ? 0.0f : largest / 127.0f;
        call.out.sums[block] = static_cast<int32_t>((static_cast<uint32_t>(sum) & 0xffff) |
                                                    static_cast<uint32_t>(other_half) << 16);
    }
}

uint32_t blocks_of(uint32_t cols)
{
    return cols / BLOCK + (cols % BLOCK != 0);
}

// The parts start at multiples of 64 bytes, and have as much behind them that may be read.
size_t part_bytes(size_t bytes)
{
    return (bytes + 2 * LODE_DEVICE_ALIGN - 1) / LODE_DEVICE_ALIGN * LODE_DEVICE_ALIGN;
}

} // namespace

size_t gpu_activations_bytes(uint32_t n, uint32_t cols)
{
    const size_t blocks = static_cast<size_t>(n) * blocks_of(cols);
    return part_bytes(blocks * BLOCK) + part_bytes(blocks * sizeof(float)) +
           part_bytes(blocks * sizeof(int32_t));
}

struct gpu_activations gpu_activations_in(void *memory, uint32_t n, uint32_t cols)
{
    const uint32_t row_blocks = blocks_of(cols);
    const size_t blocks = static_cast<size_t>(n) * row_blocks;
    char *codes = static_cast<char *>(memory), *scales = codes + part_bytes(blocks * BLOCK);
    char *sums = scales + part_bytes(blocks * sizeof(float));
    return {reinterpret_cast<int8_t *>(codes),
            reinterpret_cast<float *>(scales),
            reinterpret_cast<int32_t *>(sums),
            n,
            row_blocks * BLOCK,
            row_blocks};
}

void gpu_quantize(const struct gpu_queue *queue, struct gpu_activations out, struct lode_rows x)
{
    const size_t n_blocks = static_cast<size_t>(out.n) * out.blocks;
    if (n_blocks == 0)
        return;
    const struct quantize_call call = {out, x.data, x.stride, x.cols};
    const unsigned grid = static_cast<unsigned>((n_blocks + THREADS / LANES - 1) / (THREADS / LANES));
    GPU_LAUNCH(quantize, grid, THREADS, queue->stream, call);
}
