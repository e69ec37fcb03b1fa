// Experts of a few tokens: each choice reads its expert's three matrices, whatever others chose.
//
// Decode of a mixture of experts is little else: with the 26B's shape 8 choices read 8 x 2 x 704 rows of 2816
// columns and 8 x 2816 rows of 704, and the bound is the reading of their weights (dot_rows.h). All choices
// are in one launch, so that together they fill the GPU: gate and up with GeGLU, the rounding of the middle
// rows, and down. What was chosen is known on the device only.
#include "backends/gpu/dot_rows.h"

namespace
{

enum expert_part { PART_GATE, PART_UP, PART_DOWN };

// Choice c multiplies `part` of its expert with row in_rows[c] (NULL: c / k) of the input, to row out_rows[c]
// (NULL: c) of out.
struct experts_call {
    struct gpu_dot_input in;
    const struct gpu_expert *experts;
    const int32_t *which, *in_rows, *out_rows;
    size_t row_bytes[2]; // of the part; with GPU_DOT_GEGLU of gate and up
    float *out;
    size_t out_stride;
    uint32_t k, rows, n_pairs, lanes, blocks; // of a choice
    enum expert_part part;
    enum gpu_dot_finish finish;
};

GPU_FN const uint8_t *part_of(const struct gpu_expert &expert, enum expert_part part)
{
    const void *data = part == PART_GATE ? expert.gate : part == PART_UP ? expert.up : expert.down;
    return static_cast<const uint8_t *>(data);
}

template <int TYPE> GPU_KERNEL void GPU_DOT_BLOCK(1) multiply_chosen(const struct experts_call call)
{
    GPU_SHARED(float, shared, GPU_DOT_THREADS / GPU_LANES * 2);
    const unsigned choice = blockIdx.x / call.blocks, block = blockIdx.x % call.blocks;
    const int32_t which = call.which[choice];
    if (which < 0) // the same in all threads of the block
        return;
    const unsigned lane = threadIdx.x & (call.lanes - 1);
    const unsigned own = block * (GPU_DOT_THREADS / call.lanes) + threadIdx.x / call.lanes;
    const unsigned pair = own < call.n_pairs ? own : call.n_pairs - 1;
    const bool geglu = call.finish == GPU_DOT_GEGLU;
    const struct gpu_expert expert = call.experts[which];
    const uint8_t *matrix = part_of(expert, call.part);
    const unsigned row = geglu ? pair : 2 * pair;
    const bool has_second = !geglu && row + 1 < call.rows;
    const uint8_t *first = matrix + row * call.row_bytes[0];
    const uint8_t *second = has_second ? first + call.row_bytes[0] : first;
    if (geglu) {
        matrix = part_of(expert, PART_UP);
        second = matrix + row * call.row_bytes[1];
    }

    const struct gpu_dot_input in = gpu_dot_input_from(
        call.in, call.in_rows ? static_cast<uint32_t>(call.in_rows[choice]) : choice / call.k);
    const uint8_t *const rows[2] = {gpu_global(first), gpu_global(second)};
    float sums[2][1];
    // Only the device knows where a chosen expert lies.
    bool aligned = gpu_dot_aligned<TYPE>(first, call.row_bytes[0], in);
    aligned = aligned && gpu_dot_aligned<TYPE>(second, call.row_bytes[1], in);
    if (gpu_type<TYPE>::align <= 2 && gpu_type<TYPE>::quantised)
        gpu_dot_rows<TYPE, 1, true>(sums, rows, in, lane, call.lanes);
    else if (aligned)
        gpu_dot_rows<TYPE, 1, true>(sums, rows, in, lane, call.lanes);
    else
        gpu_dot_rows<TYPE, 1, false>(sums, rows, in, lane, call.lanes);
    gpu_dot_reduce(sums, shared, call.lanes);
    if (lane != 0 || own >= call.n_pairs)
        return;
    const size_t out_row = call.out_rows ? static_cast<size_t>(call.out_rows[choice]) : choice;
    float *out = call.out + out_row * call.out_stride + row;
    if (geglu) {
        out[0] = gpu_gelu_tanh(sums[0][0]) * sums[1][0];
        return;
    }
    const bool onto = call.finish == GPU_DOT_ONTO;
    out[0] = onto ? gpu_gelu_tanh(out[0]) * sums[0][0] : sums[0][0];
    if (has_second)
        out[1] = onto ? gpu_gelu_tanh(out[1]) * sums[1][0] : sums[1][0];
}

void launch(const struct gpu_queue *queue, enum lode_type type, struct experts_call &call, uint32_t n_choices)
{
    call.n_pairs = call.finish == GPU_DOT_GEGLU ? call.rows : (call.rows + 1) / 2;
    if (call.n_pairs == 0 || n_choices == 0)
        return;
    call.lanes = gpu_dot_lanes(static_cast<uint64_t>(call.n_pairs) * n_choices,
                               gpu_dot_units(type, call.in.cols), queue->multiprocessors);
    call.blocks = gpu_dot_blocks(call.n_pairs, call.lanes);
    const unsigned grid = call.blocks * n_choices;
    gpu_of_type(type, [&](auto of) {
        GPU_LAUNCH(multiply_chosen<decltype(of)::type>, grid, GPU_DOT_THREADS, queue->stream, call);
    });
}

} // namespace

void gpu_experts_few(const struct gpu_queue *queue, struct lode_rows out, struct gpu_activations quantized,
                     struct lode_rows x, const struct gpu_expert_shape *shape,
                     const struct gpu_expert_choices *choices, const struct gpu_expert_scratch *scratch)
{
    struct experts_call call = {};
    call.in = gpu_dot_input_of(quantized, x);
    call.in.n = 1;
    call.experts = choices->experts;
    call.which = choices->which;
    call.in_rows = choices->tokens;
    call.k = choices->k;
    call.rows = shape->width;
    call.out = scratch->middle.data;
    call.out_stride = scratch->middle.stride;
    call.part = PART_GATE;
    call.row_bytes[0] = shape->gate_row_bytes;
    call.row_bytes[1] = shape->up_row_bytes;
    if (shape->gate_type == shape->up_type) {
        call.finish = GPU_DOT_GEGLU;
        launch(queue, shape->gate_type, call, choices->n);
    } else {
        call.finish = GPU_DOT_PLAIN;
        call.row_bytes[1] = shape->gate_row_bytes;
        launch(queue, shape->gate_type, call, choices->n);
        call.finish = GPU_DOT_ONTO;
        call.part = PART_UP;
        call.row_bytes[0] = call.row_bytes[1] = shape->up_row_bytes;
        launch(queue, shape->up_type, call, choices->n);
    }

    if (gpu_takes_codes(shape->down_type))
        gpu_quantize(queue, scratch->quantized, scratch->middle);
    call.in = gpu_dot_input_of(scratch->quantized, scratch->middle);
    call.in.n = 1;
    call.in_rows = nullptr;
    call.k = 1;
    call.out_rows = choices->slots;
    call.rows = shape->hidden;
    call.out = out.data;
    call.out_stride = out.stride;
    call.part = PART_DOWN;
    call.finish = GPU_DOT_PLAIN;
    call.row_bytes[0] = call.row_bytes[1] = shape->down_row_bytes;
    launch(queue, shape->down_type, call, choices->n);
}
