// Rows of tables on GPUs (backends/gpu/dequantize.cc): the same floats as the CPU's, for every type.
#include "backends/cpu/dequantize.h"
#include "tests/cpu_variants.h"
#include "tests/gpu_devices.h"
#include "tests/weights.h"

static const struct lode_limits limits = {
    .rows = 16, .cols = 1024, .ffn_width = 64, .n_heads = 1, .head_size = 32, .expert_rows = 8};

static void check_rows(struct lode_device *device, enum lode_type type, uint32_t rows, uint32_t cols,
                       size_t gap, float scale, uint64_t *state)
{
    struct test_random random = {random_bits(state)};
    struct test_matrix table = test_matrix_make(&random, type, rows, cols, gap);
    int32_t ids[16];
    const uint32_t n = 1 + random_below(state, 16);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)random_below(state, rows);
    ids[0] = (int32_t)rows - 1;
    struct lode_rows out = make_rows(n, cols, 1, state), there = gpu_rows_up(device, out);
    struct lode_matrix table_there = gpu_matrix_up(device, &table.matrix);
    device->ops->embed(device, there, &table_there, ids, scale);
    gpu_rows_down(device, out, there);
    check_gaps(out, device->name);
    float *want = malloc(cols * sizeof *want);
    for (uint32_t i = 0; i < n; i++) {
        cpu_dequantize(want, type, test_matrix_row(&table.matrix, (uint32_t)ids[i]), cols);
        for (uint32_t c = 0; c < cols; c++)
            cr_assert_eq(at(out, i, c), want[c] * scale, "%s row %d of %ux%u, column %u: %a, not %a",
                         lode_type_name(type), ids[i], rows, cols, c, at(out, i, c), want[c] * scale);
    }
    free(want);
    free(out.data);
    gpu_release(device, there.data);
    gpu_release(device, table_there.data);
    test_matrix_free(&table);
}

Test(gpu_dequantize, decodes_rows_of_every_type_to_the_floats_of_the_cpu)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 1;
        for (unsigned t = 0; t < test_n_types; t++)
            for (uint32_t i = 0; i < 6; i++) {
                const enum lode_type type = test_types[t];
                const uint32_t block = lode_type_find(type)->block_elems;
                const uint32_t cols = block == 1 ? 1 + random_below(&state, 700)
                                                 : block * (1 + random_below(&state, 1024 / block));
                const size_t gap = type == LODE_MXFP4 ? i : type == LODE_F32 ? 4 * i : 2 * i;
                check_rows(device, type, 1 + random_below(&state, 30), cols, gap, i % 2 ? 1.0f : 53.0660f,
                           &state);
            }
    }
}
