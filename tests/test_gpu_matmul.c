// Products of many rows on GPUs, in tiles: every type against double precision, tails of every dimension, and
// that both kinds of kernel agree.
#include "tests/gpu_devices.h"
#include "tests/gpu_features.h"
#include "tests/product_reference.h"

struct shape {
    uint32_t n, rows, blocks; // columns: blocks of 32, or as many as whole blocks of the type are
};

// More rows than the kernels for few have; a tile has 64 rows by 128 (or twice 64) and steps of 2 blocks.
static const struct shape shapes[] = {{9, 1, 1}, {17, 64, 3}, {64, 128, 2}, {33, 131, 9}, {131, 70, 5}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

static uint32_t cols_for(enum lode_type type, uint32_t blocks)
{
    uint32_t elems = lode_type_find(type)->block_elems;
    return elems == 256 ? (blocks + 7) / 8 * 256 : elems == 32 ? blocks * 32 : blocks * 32 - 21;
}

static const struct lode_limits limits = {
    .rows = 160, .cols = 512, .ffn_width = 256, .n_heads = 1, .head_size = 32, .expert_rows = 160};

static void multiply(struct lode_device *device, struct lode_rows out, const struct lode_matrix *w,
                     struct lode_rows x)
{
    struct lode_rows device_x = gpu_rows_up(device, x), device_out = gpu_rows_up(device, out);
    struct lode_matrix matrix = gpu_matrix_up(device, w);
    device->ops->matmul(device, &device_out, &matrix, 1, device_x);
    gpu_rows_down(device, out, device_out);
    gpu_release(device, device_x.data);
    gpu_release(device, device_out.data);
    gpu_release(device, matrix.data);
}

static void multiply_gated(struct lode_device *device, struct lode_rows out, const struct lode_matrix *gate,
                           const struct lode_matrix *up, struct lode_rows x)
{
    struct lode_rows device_x = gpu_rows_up(device, x), device_out = gpu_rows_up(device, out);
    struct lode_matrix device_gate = gpu_matrix_up(device, gate), device_up = gpu_matrix_up(device, up);
    device->ops->matmul_geglu(device, device_out, &device_gate, &device_up, device_x);
    gpu_rows_down(device, out, device_out);
    gpu_release(device, device_x.data);
    gpu_release(device, device_out.data);
    gpu_release(device, device_gate.data);
    gpu_release(device, device_up.data);
}

Test(gpu_matmul, every_type_gives_the_exact_products_to_rounding)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        FOR_GPU_KERNELS(device, features)
        for (unsigned t = 0; t < test_n_types; t++)
            for (unsigned s = 0; s < N_SHAPES; s++) {
                uint64_t state = 100 * t + s;
                uint32_t cols = cols_for(test_types[t], shapes[s].blocks);
                // Rows lie as in files, or further from each other by what keeps the blocks' alignment.
                struct test_matrix w =
                    random_matrix(test_types[t], shapes[s].rows, cols, s % 2 ? 16 : 0, &state);
                struct lode_rows x = make_rows(shapes[s].n, cols, 1, &state),
                                 out = make_results(shapes[s].n, shapes[s].rows);
                multiply(device, out, &w.matrix, x);
                product_check(out, &w.matrix, x, PRODUCT_TILES,
                              features & TEST_GPU_HAS_MMA_S8 ? "mma" : "dot4");
                free(x.data), free(out.data);
                test_matrix_free(&w);
            }
    }
}

Test(gpu_matmul, geglu_gates_the_products_of_every_type)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        FOR_GPU_KERNELS(device, features)
        for (unsigned t = 0; t < test_n_types; t++) {
            const enum lode_type type = test_types[t];
            const struct shape shape = shapes[t % 2 ? 1 : 3];
            uint64_t state = t;
            uint32_t cols = cols_for(type, shape.blocks);
            struct test_matrix gate = random_matrix(type, shape.rows, cols, 0, &state),
                               up = random_matrix(type, shape.rows, cols, 0, &state);
            struct lode_rows x = make_rows(shape.n, cols, 1, &state), out = make_results(shape.n, shape.rows);
            multiply_gated(device, out, &gate.matrix, &up.matrix, x);
            product_check_geglu(out, &gate.matrix, &up.matrix, x, PRODUCT_TILES,
                                features & TEST_GPU_HAS_MMA_S8 ? "mma" : "dot4");
            free(x.data), free(out.data);
            test_matrix_free(&gate), test_matrix_free(&up);
        }
    }
}

// Sums of bytes are exact and the floats are added in one order, so it does not show which kernel ran. Only
// where the compiler joins multiplications and additions in both alike: on a GPU that is its own business.
Test(gpu_matmul, tensor_cores_change_no_bit)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint32_t all = test_gpu_features(device);
        bool is_simt = strncmp(device->name, "simt", 4) == 0;
        cr_assert(!is_simt || (all & TEST_GPU_HAS_MMA_S8));
        for (unsigned t = 0; is_simt && t < test_n_types; t++) {
            uint64_t state = t;
            uint32_t cols = cols_for(test_types[t], 3);
            struct test_matrix w = random_matrix(test_types[t], 77, cols, 0, &state);
            struct lode_rows x = make_rows(29, cols, 1, &state);
            struct lode_rows with = make_results(29, 77), without = make_results(29, 77);
            multiply(device, with, &w.matrix, x);
            test_gpu_set_features(device, all & ~TEST_GPU_HAS_MMA_S8);
            multiply(device, without, &w.matrix, x);
            test_gpu_set_features(device, all);
            check_same_bits(with, without, lode_type_name(test_types[t]));
            free(x.data), free(with.data), free(without.data);
            test_matrix_free(&w);
        }
    }
}

Test(gpu_matmul, a_row_is_the_same_in_a_batch_of_any_size)
{
    static const enum lode_type types[] = {LODE_Q4_K, LODE_Q6_K, LODE_BF16};
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        FOR_GPU_KERNELS(device, features)
        for (unsigned t = 0; t < sizeof types / sizeof *types; t++) {
            uint64_t state = t;
            struct test_matrix w = random_matrix(types[t], 40, 256, 0, &state);
            struct lode_rows x = make_rows(67, 256, 1, &state), few = x;
            struct lode_rows many_out = make_results(67, 40), few_out = make_results(10, 40);
            few.n = 10;
            multiply(device, many_out, &w.matrix, x);
            multiply(device, few_out, &w.matrix, few);
            check_same_bits(few_out, many_out,
                            features & TEST_GPU_HAS_MMA_S8 ? "with tensor cores" : "without");
            free(x.data), free(many_out.data), free(few_out.data);
            test_matrix_free(&w);
        }
    }
}

// The smallest and the largest scales that a block can have, and codes that are all of one value.
Test(gpu_matmul, extreme_blocks_are_exact_too)
{
    static const struct {
        uint16_t half;
        uint8_t exponent, fill;
    } extremes[] = {{0x0001, 0, 0x00}, {0x8001, 1, 0xff}, {0x7bff, 200, 0x80}, {0x0000, 2, 0x7f}};
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        FOR_GPU_KERNELS(device, features)
        for (unsigned t = 0; t < test_n_types; t++)
            for (unsigned e = 0; product_is_quantised(test_types[t]) && e < 4; e++) {
                uint64_t state = t;
                uint32_t cols = cols_for(test_types[t], 2);
                struct test_matrix w = random_matrix(test_types[t], 5, cols, 0, &state);
                for (uint32_t r = 0; r < 5; r++) {
                    uint8_t *row = test_matrix_row(&w.matrix, r);
                    memset(row, extremes[e].fill, w.matrix.row_bytes);
                    for (size_t b = 0; b < w.matrix.row_bytes;
                         b += lode_type_find(test_types[t])->block_bytes)
                        test_set_scales(test_types[t], row + b, extremes[e].half, extremes[e].exponent);
                }
                struct lode_rows x = make_rows(11, cols, 1, &state), out = make_results(11, 5);
                multiply(device, out, &w.matrix, x);
                // Below the normal floats a block's scale times the activations' loses up to 2^-150, and a
                // sum of 32 products is below 2^19.
                double rounded[512];
                struct product_matrix exact = product_matrix_make(&w.matrix);
                for (uint32_t i = 0; i < 11; i++) {
                    product_round(rounded, w.matrix.type, row_of(x, i), cols);
                    const struct product_value want = product_of(&exact, 4, rounded, PRODUCT_TILES);
                    check_close(at(out, i, 4), want.value, 0, want.allowed + cols / 32 * 0x1p-130, "%s %u %x",
                                lode_type_name(test_types[t]), e, features);
                }
                product_matrix_free(&exact);
                free(x.data), free(out.data);
                test_matrix_free(&w);
            }
    }
}
