// Weights to floats: rows of a table, and whole matrices to halves for the vendor's library.
//
// A lane decodes a slice of 32 weights and writes its two runs of 16, which are whole sectors of memory. It
// is bound by the writing, two to seven times the bytes that are read.
#include "backends/gpu/kernels.h"
#include "backends/gpu/of_type.h"
#include "backends/gpu/unpack.h"

#include <math.h>

#define THREADS 128

namespace
{

// Row i of the result is row ids[i] (NULL: first + i) of the table times scale.
struct dequantize_call {
    void *out;
    size_t out_stride, row_bytes;
    const uint8_t *data;
    const int32_t *ids;
    uint32_t first, n, cols;
    float scale;
};

GPU_FN void put(float *out, size_t i, float value)
{
    out[i] = value;
}
GPU_FN void put(uint16_t *out, size_t i, float value)
{
    out[i] = gpu_float_to_half(value);
}

// 16 weights to a place that may be written in words.
GPU_FN void put_run(float *out, const float (&values)[16])
{
#pragma unroll
    for (int i = 0; i < 16; i++)
        out[i] = values[i];
}
GPU_FN void put_run(uint16_t *out, const float (&values)[16])
{
    uint4 words[2];
    uint32_t *word = reinterpret_cast<uint32_t *>(words);
#pragma unroll
    for (int i = 0; i < 8; i++)
        word[i] = gpu_float_to_half(values[2 * i]) |
                  static_cast<uint32_t>(gpu_float_to_half(values[2 * i + 1])) << 16;
    reinterpret_cast<uint4 *>(out)[0] = words[0];
    reinterpret_cast<uint4 *>(out)[1] = words[1];
}

template <int TYPE, typename Out>
GPU_KERNEL void GPU_BLOCK(THREADS) dequantize(const struct dequantize_call call)
{
    constexpr unsigned step = gpu_type<TYPE>::quantised ? GPU_SLICE : 1;
    const unsigned per_row = call.cols / step;
    const size_t own = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (own >= static_cast<size_t>(call.n) * per_row)
        return;
    const size_t i = own / per_row;
    const unsigned unit = static_cast<unsigned>(own - i * per_row);
    const size_t from = call.ids ? static_cast<size_t>(call.ids[i]) : call.first + i;
    const uint8_t *row = call.data + from * call.row_bytes;
    Out *out = static_cast<Out *>(call.out) + i * call.out_stride;
    if constexpr (gpu_type<TYPE>::quantised) {
        const struct gpu_slice slice = gpu_slice_load<TYPE, false>(row, unit);
#pragma unroll
        for (int run = 0; run < 2; run++) {
            const float scale = slice.d * static_cast<float>(slice.scale[run]);
            const float minimum = slice.m * static_cast<float>(slice.minimum[run]);
            float values[16];
#pragma unroll
            for (int j = 0; j < 16; j++) {
                const int code = static_cast<int8_t>(slice.codes[4 * run + j / 4] >> 8 * (j % 4));
                // scale * code is exact, so that this is the sum of the two, rounded once.
                values[j] = fmaf(scale, static_cast<float>(code), minimum) * call.scale;
            }
            put_run(out + gpu_slice_run<TYPE>(unit, run), values);
        }
    } else {
        put(out, unit, gpu_float_weight<TYPE>(row, unit) * call.scale);
    }
}

template <typename Out>
void launch(const struct gpu_queue *queue, enum lode_type type, const struct dequantize_call &call)
{
    const size_t units =
        static_cast<size_t>(call.n) * (gpu_takes_codes(type) ? call.cols / GPU_SLICE : call.cols);
    const unsigned grid = static_cast<unsigned>((units + THREADS - 1) / THREADS);
    if (grid == 0)
        return;
    gpu_of_type(type, [&](auto of) {
        const auto kernel = dequantize<decltype(of)::type, Out>;
        GPU_LAUNCH(kernel, grid, THREADS, queue->stream, call);
    });
}

} // namespace

void gpu_dequantize(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *table,
                    const int32_t *ids, float scale)
{
    const struct dequantize_call call = {
        out.data,    out.stride, table->row_bytes, static_cast<const uint8_t *>(table->data), ids, 0, out.n,
        table->cols, scale};
    launch<float>(queue, table->type, call);
}

void gpu_dequantize_half(const struct gpu_queue *queue, uint16_t *out, const struct lode_matrix *matrix,
                         uint32_t first, uint32_t n)
{
    const struct dequantize_call call = {out,
                                         matrix->cols,
                                         matrix->row_bytes,
                                         static_cast<const uint8_t *>(matrix->data),
                                         nullptr,
                                         first,
                                         n,
                                         matrix->cols,
                                         1.0f};
    launch<uint16_t>(queue, matrix->type, call);
}
