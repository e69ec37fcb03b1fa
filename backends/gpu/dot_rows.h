// Products of two rows of weights with a few rows of activations, by a number of lanes that is chosen for the
// shape: what matvec.cc and experts_few.cc are made of.
//
// Such products are bound by the reading of weights: 18 bytes of Q4_0 meet eight gpu_dot4 a row of
// activations, a tenth of what a GPU computes while they arrive. So all is arranged for bytes in flight. A
// lane takes whole slices, neighbouring lanes neighbouring ones; both rows are fetched before either is
// multiplied; activations come from the nearest cache and serve both rows. Where there are few rows, up to
// four groups of lanes share a pair; where a row is short, a group works at several pairs.
//
// Sums: a lane adds its slices in ascending order, then a tree adds the lanes. What a slice adds is an exact
// integer times the product of its two scales, by one fmaf (a second one for a minimum). The order depends on
// the shape of the weights and the device, not on how many rows of activations there are.
#ifndef LODE_GPU_DOT_ROWS_H
#define LODE_GPU_DOT_ROWS_H

#include "backends/gpu/gpu_math.h"
#include "backends/gpu/kernels.h"
#include "backends/gpu/of_type.h"
#include "backends/gpu/unpack.h"

#define GPU_DOT_THREADS 128

// How a kernel of so many rows of activations is declared. Unless nvcc is told how many blocks are to share a
// multiprocessor it saves registers for more of them, by fetching the second row after the first has been
// multiplied; so many hide the latency as they are.
#define GPU_DOT_BLOCK(rows) GPU_BLOCKS(GPU_DOT_THREADS, (rows) <= 2 ? 8 : (rows) <= 4 ? 5 : 3)

// Rows of activations as a kernel's argument; the first three (gpu_activations) are for quantised weights, x
// for others.
struct gpu_dot_input {
    const int8_t *codes;
    const float *scales;
    const int32_t *sums;
    const float *x;
    uint32_t x_stride, n, cols, blocks;
};

static inline struct gpu_dot_input gpu_dot_input_of(struct gpu_activations quantized, struct lode_rows x)
{
    return {quantized.codes, quantized.scales, quantized.sums, x.data, static_cast<uint32_t>(x.stride), x.n,
            x.cols,          quantized.blocks};
}

// The input from a row on.
GPU_FN struct gpu_dot_input gpu_dot_input_from(struct gpu_dot_input in, uint32_t row)
{
    in.codes += static_cast<size_t>(row) * in.blocks * 32;
    in.scales += static_cast<size_t>(row) * in.blocks;
    in.sums += static_cast<size_t>(row) * in.blocks;
    in.x += static_cast<size_t>(row) * in.x_stride;
    return in;
}

// What becomes of the sums of a pair: rows 2i and 2i + 1 of the result; gelu_tanh(first) * second, row i of
// the result; gelu_tanh(what is there) * the sum.
enum gpu_dot_finish { GPU_DOT_PLAIN, GPU_DOT_GEGLU, GPU_DOT_ONTO };

// Whether weights at these addresses, with these activations, are as ALIGNED promises.
template <int TYPE>
GPU_FN bool gpu_dot_aligned(const uint8_t *data, size_t row_bytes, const struct gpu_dot_input &in)
{
    if constexpr (gpu_type<TYPE>::quantised)
        return gpu_rows_aligned(data, row_bytes, gpu_type<TYPE>::align);
    else
        return gpu_rows_aligned(data, row_bytes, 16) && in.cols % 8 == 0 &&
               gpu_rows_aligned(in.x, in.x_stride * sizeof(float), 16);
}

// Slices of quantised weights, and of floats chunks of eight.
static inline unsigned gpu_dot_units(enum lode_type type, uint32_t cols)
{
    return gpu_takes_codes(type) ? cols / GPU_SLICE : (cols + 7) / 8;
}

// Lanes for a pair: 8, 16, ..., GPU_DOT_THREADS. A multiprocessor wants some 16 warps of these loads in
// flight.
static inline unsigned gpu_dot_lanes(uint64_t pairs, unsigned units, unsigned multiprocessors)
{
    const uint64_t wanted = static_cast<uint64_t>(multiprocessors) * 16 * GPU_LANES;
    unsigned lanes = GPU_LANES;
    while (lanes < GPU_DOT_THREADS && lanes * 2 <= units && pairs * lanes < wanted)
        lanes *= 2;
    // Fewer where the last round would leave many idle, as the 22 slices of 704 columns do.
    while (lanes > 8 && (lanes / 2 >= units || ((units + lanes - 1) / lanes * lanes - units > units / 4 &&
                                                pairs * lanes / 2 >= wanted)))
        lanes /= 2;
    return lanes;
}

// Blocks for so many pairs of so many lanes each.
static inline unsigned gpu_dot_blocks(uint32_t pairs, unsigned lanes)
{
    const unsigned per_block = GPU_DOT_THREADS / lanes;
    return (pairs + per_block - 1) / per_block;
}

GPU_FN int gpu_dot_run(const uint32_t *codes, const uint32_t *x, int sum)
{
#pragma unroll
    for (int w = 0; w < 4; w++)
        sum = gpu_dot4(static_cast<int>(codes[w]), static_cast<int>(x[w]), sum);
    return sum;
}

GPU_FN int gpu_half_sum(int32_t packed, unsigned half)
{
    return static_cast<int16_t>(static_cast<uint32_t>(packed) >> 16 * half);
}

// Adds to sums[r][t] what slice s of row r gives with row t of the input.
template <int TYPE, unsigned N>
GPU_FN void gpu_dot_slice(float (&sums)[2][N], const struct gpu_slice (&w)[2], const struct gpu_dot_input &in,
                          unsigned s)
{
    typedef gpu_type<TYPE> type;
    const unsigned at[2] = {gpu_slice_run<TYPE>(s, 0), gpu_slice_run<TYPE>(s, 1)};
#pragma unroll
    for (unsigned t = 0; t < N; t++) {
        const unsigned row = t < in.n ? t : in.n - 1, block = row * in.blocks;
        const int8_t *codes = in.codes + static_cast<size_t>(block) * 32;
        uint32_t x[2][4];
        gpu_fetch<4, 16>(x[0], reinterpret_cast<const uint8_t *>(codes + at[0]));
        gpu_fetch<4, 16>(x[1], reinterpret_cast<const uint8_t *>(codes + at[1]));
        if constexpr (type::one_part) {
            const float scale = in.scales[block + at[0] / 32];
            const int32_t packed = type::minimum ? in.sums[block + at[0] / 32] : 0;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int dot = gpu_dot_run(w[r].codes + 4, x[1], gpu_dot_run(w[r].codes, x[0], 0));
                sums[r][t] = fmaf(static_cast<float>(dot * w[r].scale[0]), w[r].d * scale, sums[r][t]);
                if constexpr (type::minimum)
                    sums[r][t] = fmaf(static_cast<float>(gpu_half_sum(packed, 0) + gpu_half_sum(packed, 1)),
                                      w[r].m * scale, sums[r][t]);
            }
        } else {
#pragma unroll
            for (int run = 0; run < 2; run++) {
                const float scale = in.scales[block + at[run] / 32];
                const int sum =
                    type::minimum ? gpu_half_sum(in.sums[block + at[run] / 32], at[run] / 16 % 2) : 0;
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int dot = gpu_dot_run(w[r].codes + 4 * run, x[run], 0);
                    sums[r][t] = fmaf(static_cast<float>(dot * w[r].scale[run]), w[r].d * scale, sums[r][t]);
                    if constexpr (type::minimum)
                        sums[r][t] =
                            fmaf(static_cast<float>(sum * w[r].minimum[run]), w[r].m * scale, sums[r][t]);
                }
            }
        }
    }
}

// Eight weights of a row from a multiple of 16 bytes on.
template <int TYPE> GPU_FN void gpu_fetch_floats(float (&out)[8], const uint8_t *from)
{
    uint32_t words[TYPE == LODE_F32 ? 8 : 4];
    gpu_fetch<TYPE == LODE_F32 ? 8 : 4, 16>(words, from);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if constexpr (TYPE == LODE_F32)
            out[i] = gpu_bits_to_float(words[i]);
        else if constexpr (TYPE == LODE_F16)
            out[i] = i % 2 ? gpu_high_half(words[i / 2]) : gpu_low_half(words[i / 2]);
        else
            out[i] = gpu_bits_to_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
    }
}

template <int TYPE, unsigned N, bool ALIGNED>
GPU_FN void gpu_dot_floats(float (&sums)[2][N], const uint8_t *const (&rows)[2],
                           const struct gpu_dot_input &in, unsigned lane, unsigned lanes)
{
    if constexpr (ALIGNED) {
        for (unsigned c = lane; c < in.cols / 8; c += lanes) {
            float w[2][8];
            gpu_fetch_floats<TYPE>(w[0], rows[0] + static_cast<size_t>(c) * 8 * gpu_type<TYPE>::block_bytes);
            gpu_fetch_floats<TYPE>(w[1], rows[1] + static_cast<size_t>(c) * 8 * gpu_type<TYPE>::block_bytes);
#pragma unroll
            for (unsigned t = 0; t < N; t++) {
                const size_t row = t < in.n ? t : in.n - 1;
                float x[8];
                gpu_fetch_floats<LODE_F32>(
                    x, reinterpret_cast<const uint8_t *>(in.x + row * in.x_stride + 8 * c));
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sums[0][t] = fmaf(w[0][i], x[i], sums[0][t]);
                    sums[1][t] = fmaf(w[1][i], x[i], sums[1][t]);
                }
            }
        }
    } else {
        for (unsigned c = lane; c < in.cols; c += lanes) {
            const float w0 = gpu_float_weight<TYPE>(rows[0], c), w1 = gpu_float_weight<TYPE>(rows[1], c);
#pragma unroll
            for (unsigned t = 0; t < N; t++) {
                const float x = in.x[static_cast<size_t>(t < in.n ? t : in.n - 1) * in.x_stride + c];
                sums[0][t] = fmaf(w0, x, sums[0][t]);
                sums[1][t] = fmaf(w1, x, sums[1][t]);
            }
        }
    }
}

// sums[r][t] = rows[r] . row t of the input, for t < in.n <= N, of what lane `lane` of `lanes` has of it.
template <int TYPE, unsigned N, bool ALIGNED>
GPU_FN void gpu_dot_rows(float (&sums)[2][N], const uint8_t *const (&rows)[2], const struct gpu_dot_input &in,
                         unsigned lane, unsigned lanes)
{
#pragma unroll
    for (unsigned t = 0; t < N; t++)
        sums[0][t] = sums[1][t] = 0;
    if constexpr (gpu_type<TYPE>::quantised) {
        for (unsigned s = lane; s < in.cols / GPU_SLICE; s += lanes) {
            struct gpu_fetched fetched[2];
            gpu_slice_fetch<TYPE, ALIGNED>(fetched[0], rows[0], s);
            gpu_slice_fetch<TYPE, ALIGNED>(fetched[1], rows[1], s);
            const struct gpu_slice w[2] = {gpu_slice_decode<TYPE, ALIGNED>(fetched[0], rows[0], s),
                                           gpu_slice_decode<TYPE, ALIGNED>(fetched[1], rows[1], s)};
            gpu_dot_slice<TYPE>(sums, w, in, s);
        }
    } else {
        gpu_dot_floats<TYPE, N, ALIGNED>(sums, rows, in, lane, lanes);
    }
}

// The sums of all lanes of a pair, in each of them. All threads of the block come. shared: 2 N floats a
// group.
template <unsigned N> GPU_FN void gpu_dot_reduce(float (&sums)[2][N], float *shared, unsigned lanes)
{
    for (unsigned mask = (lanes < GPU_LANES ? lanes : GPU_LANES) / 2; mask; mask /= 2) {
#pragma unroll
        for (unsigned t = 0; t < N; t++) {
            sums[0][t] += gpu_shuffle_xor(sums[0][t], mask);
            sums[1][t] += gpu_shuffle_xor(sums[1][t], mask);
        }
    }
    if (lanes <= GPU_LANES)
        return;
    const unsigned group = threadIdx.x / GPU_LANES, groups = lanes / GPU_LANES;
    if (threadIdx.x % GPU_LANES == 0) {
#pragma unroll
        for (unsigned t = 0; t < N; t++) {
            shared[group * 2 * N + 2 * t] = sums[0][t];
            shared[group * 2 * N + 2 * t + 1] = sums[1][t];
        }
    }
    __syncthreads();
    const float *first = shared + group / groups * groups * 2 * N;
#pragma unroll
    for (unsigned t = 0; t < N; t++) {
        sums[0][t] = first[2 * t];
        sums[1][t] = first[2 * t + 1];
        for (unsigned g = 1; g < groups; g++) {
            sums[0][t] += first[g * 2 * N + 2 * t];
            sums[1][t] += first[g * 2 * N + 2 * t + 1];
        }
    }
}

#endif
