// Products of few rows on GPUs (backends/gpu/matvec.cc, quantize.cc): within the bounds of double precision
// for every type, whatever the shape, and the same however many rows come together.
#include "backends/cpu/quantize.h"
#include "tests/gpu_devices.h"
#include "tests/product_reference.h"

#define MOST_ROWS 8 // of activations
#define MOST_COLS 4608

static const struct lode_limits limits = {
    .rows = MOST_ROWS, .cols = MOST_COLS, .ffn_width = 512, .n_heads = 1, .head_size = 32, .expert_rows = 8};

static struct lode_rows rows_with_stride(uint32_t n, uint32_t cols, size_t stride, float size,
                                         uint64_t *state)
{
    struct lode_rows rows = {malloc((n * stride + 1) * sizeof(float)), n, cols, stride};
    for (size_t i = 0; i < n * stride; i++)
        rows.data[i] = i % stride < cols ? random_float(state, size) : GAP_VALUE;
    return rows;
}

// Activations of unlike sizes, with some blocks of zeros.
static struct lode_rows random_input(uint32_t n, uint32_t cols, size_t stride, uint64_t *state)
{
    struct lode_rows x = rows_with_stride(n, cols, stride, 1, state);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < cols; c += 32) {
            const float size = random_below(state, 16) ? ldexpf(1, (int)random_below(state, 9) - 6) : 0;
            for (uint32_t j = c; j < c + 32 && j < cols; j++)
                x.data[i * stride + j] *= size;
        }
    return x;
}

#define MOST_MATRICES 6

// Products of an input with some matrices in one call, left in outs[j] (memory of the host, released by the
// caller).
static void multiply(struct lode_device *device, struct lode_rows *outs, const struct lode_matrix *weights,
                     uint32_t n_weights, struct lode_rows x)
{
    uint64_t state = 9;
    struct lode_rows there[MOST_MATRICES], x_there = gpu_rows_up(device, x);
    struct lode_matrix weights_there[MOST_MATRICES];
    for (uint32_t j = 0; j < n_weights; j++) {
        outs[j] = make_rows(x.n, weights[j].rows, 1, &state);
        there[j] = gpu_rows_up(device, outs[j]);
        weights_there[j] = gpu_matrix_up(device, &weights[j]);
    }
    device->ops->matmul(device, there, weights_there, n_weights, x_there);
    for (uint32_t j = 0; j < n_weights; j++) {
        gpu_rows_down(device, outs[j], there[j]);
        gpu_release(device, there[j].data);
        gpu_release(device, weights_there[j].data);
    }
    gpu_release(device, x_there.data);
}

static void check_shape(struct lode_device *device, enum lode_type type, uint32_t rows, uint32_t cols,
                        size_t gap, uint32_t n, size_t stride, uint64_t *state)
{
    struct test_matrix w = random_matrix(type, rows, cols, gap, state);
    struct lode_rows x = random_input(n, cols, stride, state), out;
    multiply(device, &out, &w.matrix, 1, x);
    product_check(out, &w.matrix, x, PRODUCT_LANES, device->name);
    free(out.data);
    free(x.data);
    test_matrix_free(&w);
}

// Columns that are few, that leave lanes idle, and that take several groups of lanes. Floats have no blocks.
static uint32_t cols_of(enum lode_type type, unsigned which)
{
    const uint32_t block = lode_type_find(type)->block_elems;
    static const uint32_t floats[] = {1, 7, 96, 704, 901, 4104}, parts[] = {1, 3, 22, 88, 136};
    if (block == 1)
        return floats[which % 6];
    return block == 32 ? 32 * parts[which % 5] : 256 * (1 + parts[which % 5] / 8);
}

Test(gpu_matvec, is_within_the_bounds_of_double_precision_for_every_type_and_number_of_rows)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 1;
        for (unsigned t = 0; t < test_n_types; t++)
            for (unsigned i = 0; i < 16; i++) {
                const uint32_t cols = cols_of(test_types[t], i), n = 1 + i % MOST_ROWS;
                // Rows of x one behind the other, which floats are read from fastest, and odd ones.
                const size_t stride = i % 3 ? cols + 5 : (cols + 3) / 4 * 4;
                check_shape(device, test_types[t], 1 + random_below(&state, 23), cols, 0, n, stride, &state);
            }
    }
}

Test(gpu_matvec, takes_rows_that_are_anywhere_at_all)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 2;
        for (unsigned t = 0; t < test_n_types; t++)
            for (uint32_t n = 1; n <= MOST_ROWS; n += 3) {
                // A multiple of what an element of the type is aligned to, and of no more.
                const enum lode_type type = test_types[t];
                const size_t gap = type == LODE_MXFP4 ? n : type == LODE_F32 ? 4 : 2 * n;
                const uint32_t cols = lode_type_find(type)->block_elems > 1 ? 768 : 203;
                check_shape(device, type, 9, cols, gap, n, cols, &state);
            }
    }
}

// More rows than a block has threads for, so that there are many blocks.
Test(gpu_matvec, takes_many_rows_of_weights)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 3;
        static const enum lode_type types[] = {LODE_Q4_0, LODE_Q4_K, LODE_Q8_0, LODE_Q6_K, LODE_BF16};
        for (unsigned t = 0; t < sizeof types / sizeof *types; t++)
            check_shape(device, types[t], 1021, 256, 0, 1 + t % 2, 256, &state);
    }
}

Test(gpu_matvec, multiplies_several_matrices_with_one_input)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 4;
        static const enum lode_type types[][MOST_MATRICES] = {
            {LODE_Q4_0, LODE_Q4_0, LODE_Q4_0},
            {LODE_Q4_K, LODE_Q4_K, LODE_Q6_K},
            {LODE_Q8_0, LODE_F32, LODE_Q8_0, LODE_Q8_0},
            {LODE_Q5_1, LODE_Q5_1, LODE_Q5_1, LODE_Q5_1, LODE_Q5_1, LODE_Q5_1},
        };
        static const uint32_t counts[] = {3, 3, 4, 6}, rows[MOST_MATRICES] = {33, 7, 8, 1, 2, 15};
        for (unsigned set = 0; set < 4; set++) {
            struct test_matrix w[MOST_MATRICES];
            struct lode_matrix matrices[MOST_MATRICES];
            struct lode_rows outs[MOST_MATRICES];
            for (uint32_t j = 0; j < counts[set]; j++) {
                w[j] = random_matrix(types[set][j], rows[j], 512, 0, &state);
                matrices[j] = w[j].matrix;
            }
            struct lode_rows x = random_input(1 + set * 2, 512, 512 + set, &state);
            multiply(device, outs, matrices, counts[set], x);
            for (uint32_t j = 0; j < counts[set]; j++) {
                product_check(outs[j], &matrices[j], x, PRODUCT_LANES, device->name);
                free(outs[j].data);
                test_matrix_free(&w[j]);
            }
            free(x.data);
        }
    }
}

Test(gpu_matvec, gives_a_row_the_same_bits_alone_and_with_others_and_each_time)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 5;
        for (unsigned t = 0; t < test_n_types; t++) {
            struct test_matrix w = random_matrix(test_types[t], 21, 768, 0, &state);
            struct lode_rows x = random_input(MOST_ROWS, 768, 768, &state), all, part;
            multiply(device, &all, &w.matrix, 1, x);
            for (uint32_t n = 1; n <= MOST_ROWS; n++) {
                struct lode_rows some = x;
                some.n = n;
                multiply(device, &part, &w.matrix, 1, some);
                check_same_bits(part, all, lode_type_name(test_types[t]));
                free(part.data);
            }
            struct lode_rows last = x;
            last.data += (MOST_ROWS - 1) * x.stride;
            last.n = 1;
            multiply(device, &part, &w.matrix, 1, last);
            cr_assert_eq(memcmp(part.data, all.data + (MOST_ROWS - 1) * all.stride, 21 * sizeof(float)), 0);
            free(part.data);
            free(all.data);
            free(x.data);
            test_matrix_free(&w);
        }
    }
}

static void check_geglu(struct lode_device *device, enum lode_type type, uint32_t rows, uint32_t cols,
                        uint32_t n, uint64_t *state)
{
    struct test_matrix gate = random_matrix(type, rows, cols, 0, state),
                       up = random_matrix(type, rows, cols, lode_type_find(type)->block_bytes, state);
    struct lode_rows x = random_input(n, cols, cols, state), out = make_rows(n, rows, 1, state);
    for (size_t i = 0; i < n * x.stride; i++)
        x.data[i] *= 0x1p-7f; // so that not every gate is far from 0
    struct lode_rows x_there = gpu_rows_up(device, x), out_there = gpu_rows_up(device, out);
    struct lode_matrix gate_there = gpu_matrix_up(device, &gate.matrix),
                       up_there = gpu_matrix_up(device, &up.matrix);
    device->ops->matmul_geglu(device, out_there, &gate_there, &up_there, x_there);
    gpu_rows_down(device, out, out_there);
    product_check_geglu(out, &gate.matrix, &up.matrix, x, PRODUCT_LANES, device->name);
    gpu_release(device, x_there.data);
    gpu_release(device, out_there.data);
    gpu_release(device, gate_there.data);
    gpu_release(device, up_there.data);
    free(x.data);
    free(out.data);
    test_matrix_free(&gate);
    test_matrix_free(&up);
}

Test(gpu_matvec, multiplies_gate_and_up_with_geglu)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 6;
        for (unsigned t = 0; t < test_n_types; t++)
            for (uint32_t n = 1; n <= MOST_ROWS; n += 1 + n % 3)
                check_geglu(device, test_types[t], 13 + n, t % 2 ? 768 : 2304, n, &state);
    }
}

// Inputs that round in ways of their own: zeros, the smallest that is not taken for zero, ties, one large
// value, sizes at the ends of what a float holds.
static void fill_block(float *x, unsigned kind, uint64_t *state)
{
    static const float sizes[] = {0, 0x1p-120f, 0x1p-121f, 0x1p-126f, 1e30f, 1, 127, 0x1p-100f};
    for (int i = 0; i < 32; i++)
        x[i] = random_float(state, sizes[kind % 8]);
    if (kind % 8 == 1 || kind % 8 == 4)
        x[kind % 32] = kind % 8 == 1 ? -0x1p-120f : 3e38f;
    if (kind % 8 == 6) {
        x[3] = 127; // the scale is 1, and these are ties
        for (int i = 4; i < 32; i++)
            x[i] = (float)(i - 16) + 0.5f;
    }
}

// A row of Q8_0 with a code and a scale of 1 in one place tells scale * code of that place, and one of Q4_1
// with minima of 1 in one half tells the sum.
static void check_rounding(struct lode_device *device, uint32_t blocks, uint32_t n, uint64_t *state)
{
    const uint32_t cols = 32 * blocks, row_bytes = 34 * blocks, sum_bytes = 20 * blocks;
    uint8_t *ones = calloc(cols, row_bytes), *sums = calloc(blocks, sum_bytes);
    for (uint32_t c = 0; c < cols; c++) {
        uint8_t *block = ones + (size_t)c * row_bytes + c / 32 * 34;
        block[1] = 0x3c; // 1.0
        block[2 + c % 32] = 1;
    }
    for (uint32_t b = 0; b < blocks; b++)
        sums[(size_t)b * sum_bytes + b * 20 + 3] = 0x3c;
    const struct lode_matrix matrices[] = {{ones, LODE_Q8_0, cols, cols, row_bytes, LODE_LAYOUT_FILE},
                                           {sums, LODE_Q4_1, blocks, cols, sum_bytes, LODE_LAYOUT_FILE}};
    struct lode_rows x = rows_with_stride(n, cols, cols + 3, 1, state), outs[2];
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < blocks; b++)
            fill_block(x.data + i * x.stride + 32 * b, i * blocks + b, state);
    multiply(device, outs, matrices, 2, x);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < blocks; b++) {
            struct cpu_block block;
            cpu_quantize_portable(&block, x.data + i * x.stride + 32 * b, 1);
            for (uint32_t j = 0; j < 32; j++) {
                const float want = block.scale * (float)block.q[j], got = at(outs[0], i, 32 * b + j);
                cr_assert_eq(got, want, "row %u, block %u, %u: %a, not %a", i, b, j, got, want);
            }
            cr_assert_eq(at(outs[1], i, b), block.scaled_sum, "row %u: the sum of block %u is %a, not %a", i,
                         b, at(outs[1], i, b), block.scaled_sum);
        }
    free(outs[0].data);
    free(outs[1].data);
    free(x.data);
    free(ones);
    free(sums);
}

Test(gpu_matvec, rounds_activations_as_the_cpu_does_bit_for_bit)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 7;
        check_rounding(device, 8, 8, &state);
        check_rounding(device, 3, 5, &state);
        check_rounding(device, 1, 1, &state);
    }
}
