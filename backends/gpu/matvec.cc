// Products with at most eight rows of activations: decode, and small batches.
//
// The bound is the reading of weights, once for all rows (dot_rows.h). Matrices of one type that share their
// input, as q, k and v do, are one launch: a launch costs microseconds, in which a GPU reads a megabyte.
//
// A kernel is made for 1, 2, 4 and 8 rows of each type; between them the last row is computed again and not
// written. Matrices whose rows do not start where files have them go through one of one row, by fetches of
// words, for each row by blocks of its own.
#include "backends/gpu/dot_rows.h"

#define MATRICES 4 // of a launch

namespace
{

struct matvec_matrix {
    const uint8_t *data;
    size_t row_bytes;
    float *out;
    uint32_t out_stride, rows, first_pair;
};

// The pairs of all matrices are counted in one row. With GPU_DOT_GEGLU pair i is row i of the first two.
struct matvec_call {
    struct gpu_dot_input in;
    struct matvec_matrix matrices[MATRICES];
    uint32_t n_matrices, n_pairs, lanes;
    enum gpu_dot_finish finish;
};

// Which matrix a pair is of.
GPU_FN unsigned matrix_of_pair(const struct matvec_call &call, unsigned pair)
{
    unsigned j = 0;
#pragma unroll
    for (unsigned i = 1; i < MATRICES; i++)
        j += i < call.n_matrices && pair >= call.matrices[i].first_pair;
    return j;
}

// Lane 0 of a pair writes its sums with rows `input` .. of the input: rows `row` and row + 1 of a matrix, or
// one row of two.
template <unsigned N>
GPU_FN void write_pair(const struct matvec_call &call, const float (&sums)[2][N], unsigned pair,
                       unsigned input)
{
    const bool geglu = call.finish == GPU_DOT_GEGLU;
    const struct matvec_matrix &matrix = call.matrices[geglu ? 0 : matrix_of_pair(call, pair)];
    const unsigned row = geglu ? pair : 2 * (pair - matrix.first_pair);
    float *out = matrix.out + static_cast<size_t>(input) * matrix.out_stride + row;
#pragma unroll
    for (unsigned t = 0; t < N; t++, out += matrix.out_stride) {
        if (input + t < call.in.n)
            out[0] = geglu ? gpu_gelu_tanh(sums[0][t]) * sums[1][t] : sums[0][t];
        if (input + t < call.in.n && !geglu && row + 1 < matrix.rows)
            out[1] = sums[1][t];
    }
}

template <int TYPE, unsigned N, bool ALIGNED>
GPU_KERNEL void GPU_DOT_BLOCK(N) matvec(const struct matvec_call call)
{
    GPU_SHARED(float, shared, GPU_DOT_THREADS / GPU_LANES * 2 * N);
    const unsigned lane = threadIdx.x & (call.lanes - 1);
    const unsigned own = blockIdx.x * (GPU_DOT_THREADS / call.lanes) + threadIdx.x / call.lanes;
    const unsigned pair = own < call.n_pairs ? own : call.n_pairs - 1;
    const uint8_t *first, *second;
    if (call.finish == GPU_DOT_GEGLU) {
        first = call.matrices[0].data + pair * call.matrices[0].row_bytes;
        second = call.matrices[1].data + pair * call.matrices[1].row_bytes;
    } else {
        const struct matvec_matrix &matrix = call.matrices[matrix_of_pair(call, pair)];
        const unsigned row = 2 * (pair - matrix.first_pair);
        first = matrix.data + row * matrix.row_bytes;
        second = row + 1 < matrix.rows ? first + matrix.row_bytes : first;
    }
    const uint8_t *const rows[2] = {gpu_global(first), gpu_global(second)};
    float sums[2][N];
    if constexpr (ALIGNED) {
        gpu_dot_rows<TYPE, N, true>(sums, rows, call.in, lane, call.lanes);
    } else {
        struct gpu_dot_input in = gpu_dot_input_from(call.in, blockIdx.y);
        in.n = N;
        gpu_dot_rows<TYPE, N, false>(sums, rows, in, lane, call.lanes);
    }
    gpu_dot_reduce(sums, shared, call.lanes);
    if (lane == 0 && own < call.n_pairs)
        write_pair(call, sums, own, ALIGNED ? 0 : blockIdx.y);
}

template <int TYPE, unsigned N, bool ALIGNED>
void launch_kernel(const struct gpu_queue *queue, const struct matvec_call &call)
{
    const dim3 grid(gpu_dot_blocks(call.n_pairs, call.lanes), ALIGNED ? 1 : call.in.n);
    GPU_LAUNCH((matvec<TYPE, N, ALIGNED>), grid, GPU_DOT_THREADS, queue->stream, call);
}

template <int TYPE> void launch_of_type(const struct gpu_queue *queue, const struct matvec_call &call)
{
    if constexpr (gpu_type<TYPE>::align > 2 || !gpu_type<TYPE>::quantised) {
        const unsigned align = gpu_type<TYPE>::quantised ? gpu_type<TYPE>::align : 16;
        bool aligned = gpu_type<TYPE>::quantised ||
                       (call.in.cols % 8 == 0 && gpu_rows_aligned(call.in.x, call.in.x_stride * 4, 16));
        for (uint32_t j = 0; j < call.n_matrices; j++)
            aligned &= gpu_rows_aligned(call.matrices[j].data, call.matrices[j].row_bytes, align);
        if (!aligned) {
            launch_kernel<TYPE, 1, false>(queue, call);
            return;
        }
    }
    if (call.in.n == 1)
        launch_kernel<TYPE, 1, true>(queue, call);
    else if (call.in.n == 2)
        launch_kernel<TYPE, 2, true>(queue, call);
    else if (call.in.n <= 4)
        launch_kernel<TYPE, 4, true>(queue, call);
    else
        launch_kernel<TYPE, 8, true>(queue, call);
}

void launch(const struct gpu_queue *queue, enum lode_type type, struct matvec_call &call)
{
    static_assert(GPU_MATVEC_ROWS == 8, "the kernel of the most rows");
    call.lanes = gpu_dot_lanes(call.n_pairs, gpu_dot_units(type, call.in.cols), queue->multiprocessors);
    if (call.n_pairs == 0 || call.in.n == 0)
        return;
    gpu_of_type(type, [&](auto of) { launch_of_type<decltype(of)::type>(queue, call); });
}

struct matvec_matrix matrix_of(struct lode_rows out, const struct lode_matrix *weight, uint32_t first_pair)
{
    return {static_cast<const uint8_t *>(weight->data), weight->row_bytes, out.data,
            static_cast<uint32_t>(out.stride),          weight->rows,      first_pair};
}

} // namespace

void gpu_matvec(const struct gpu_queue *queue, const struct lode_rows *outs,
                const struct lode_matrix *weights, uint32_t n_weights, struct gpu_activations quantized,
                struct lode_rows x)
{
    for (uint32_t j = 0; j < n_weights;) {
        const enum lode_type type = weights[j].type;
        struct matvec_call call = {};
        call.in = gpu_dot_input_of(quantized, x);
        call.finish = GPU_DOT_PLAIN;
        for (; j < n_weights && call.n_matrices < MATRICES && weights[j].type == type; j++) {
            call.matrices[call.n_matrices++] = matrix_of(outs[j], &weights[j], call.n_pairs);
            call.n_pairs += (weights[j].rows + 1) / 2;
        }
        launch(queue, type, call);
    }
}

void gpu_matvec_geglu(const struct gpu_queue *queue, struct lode_rows out, const struct lode_matrix *gate,
                      const struct lode_matrix *up, struct gpu_activations quantized, struct lode_rows x)
{
    struct matvec_call call = {};
    call.in = gpu_dot_input_of(quantized, x);
    call.finish = GPU_DOT_GEGLU;
    call.matrices[0] = matrix_of(out, gate, 0);
    call.matrices[1] = matrix_of(out, up, 0);
    call.n_matrices = 2;
    call.n_pairs = gate->rows;
    launch(queue, gate->type, call);
}
