// Interleaved weights: every byte comes back, and products and embeddings are those of the file's order, bit
// for bit.
#include "backends/cpu/rows8.h"
#include "tests/matmul_variants.h"
#include "tests/weights.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ROWS 48
#define MAX_COLS 1280
#define MAX_TOKENS 150

static const struct lode_limits limits = {
    .rows = MAX_TOKENS, .cols = MAX_COLS, .ffn_width = MAX_ROWS, .n_heads = 1, .head_size = 32};

// Rows without a gap, as they are loaded, and a copy of them.
struct pair {
    struct test_matrix random;
    struct lode_matrix file, arranged;
};

static struct pair make_pair(struct test_random *random, enum lode_type type, uint32_t rows, uint32_t cols)
{
    struct pair pair = {.random = test_matrix_make(random, type, rows, cols, 0)};
    pair.file = pair.arranged = pair.random.matrix;
    const size_t bytes = rows * pair.file.row_bytes;
    void *copy = aligned_alloc(64, (bytes + LODE_DEVICE_SLACK + 63) / 64 * 64);
    memcpy(copy, pair.file.data, bytes);
    pair.arranged.data = copy;
    return pair;
}

static void free_pair(struct pair *pair)
{
    test_matrix_free(&pair->random);
    free((void *)(uintptr_t)pair->arranged.data);
}

static uint32_t columns_of(struct test_random *random, enum lode_type type)
{
    const uint32_t elems = lode_type_find(type)->block_elems;
    return elems * (1 + test_random_u32(random) % (MAX_COLS / elems));
}

Test(rows8, gives_back_every_byte)
{
    struct test_random random = {11};
    for (unsigned t = 0; t < test_n_types; t++) {
        const enum lode_type type = test_types[t];
        if (!cpu_rows8_format(type))
            continue;
        const uint32_t cols = columns_of(&random, type);
        struct pair pair = make_pair(&random, type, 8, cols);
        const struct lode_type_traits *traits = lode_type_find(type);
        void *spare = malloc(8 * pair.file.row_bytes);
        cpu_rows8_interleave((void *)(uintptr_t)pair.arranged.data, type, pair.file.row_bytes, spare);
        for (uint32_t r = 0; r < 8; r++)
            for (uint32_t b = 0; b < cols / traits->block_elems; b++) {
                uint8_t block[256];
                cpu_rows8_extract(block, &pair.arranged, r, b);
                cr_assert_eq(memcmp(block, test_matrix_row(&pair.file, r) + b * traits->block_bytes,
                                    traits->block_bytes),
                             0, "%s row %u block %u", traits->name, r, b);
            }
        free(spare);
        free_pair(&pair);
    }
}

// Writes between bytes that must stay, at an odd address.
static void check_restored(const struct pair *pair, cpu_rows8_restore_fn restore, const char *name)
{
    const size_t group_bytes = 8 * pair->file.row_bytes;
    uint8_t *out = malloc(group_bytes + 2);
    for (uint32_t row = 0; row < pair->file.rows; row += 8) {
        const size_t at = row * pair->file.row_bytes;
        memset(out, 0xa5, group_bytes + 2);
        restore(out + 1, pair->file.type, pair->file.row_bytes, (const char *)pair->arranged.data + at);
        cr_assert_eq(memcmp(out + 1, (const char *)pair->file.data + at, group_bytes), 0,
                     "%s, %s, %u columns", name, lode_type_find(pair->file.type)->name, pair->file.cols);
        cr_assert(out[0] == 0xa5 && out[group_bytes + 1] == 0xa5);
    }
    free(out);
}

Test(rows8, gives_back_whole_rows)
{
    struct test_random random = {15};
    for (unsigned t = 0; t < test_n_types; t++) {
        const enum lode_type type = test_types[t];
        for (unsigned n = 0; cpu_rows8_format(type) && n < 8; n++) {
            struct pair pair = make_pair(&random, type, 24, columns_of(&random, type));
            uint8_t *bytes = (uint8_t *)(uintptr_t)pair.file.data; // any bytes, not only such as weights have
            for (size_t i = 0; i < 24 * pair.file.row_bytes; i++)
                bytes[i] = (uint8_t)test_random_u32(&random);
            memcpy((void *)(uintptr_t)pair.arranged.data, bytes, 24 * pair.file.row_bytes);
            void *spare = malloc(8 * pair.file.row_bytes);
            for (uint32_t group = 0; group < 3; group++)
                cpu_rows8_interleave((char *)(uintptr_t)pair.arranged.data + group * 8 * pair.file.row_bytes,
                                     type, pair.file.row_bytes, spare);
            free(spare);
            check_restored(&pair, cpu_rows8_restore, "plain C");
#if defined(__x86_64__)
            if (cpu_isa_available(CPU_ISA_AVX2))
                check_restored(&pair, cpu_rows8_restore_avx2, "AVX2");
#endif
            free_pair(&pair);
        }
    }
}

// The last ones of so many rows and columns are enough work for several threads.
static const struct {
    uint32_t rows, cols;
} restored_shapes[] = {{1, 256}, {7, 512}, {8, 256}, {9, 256}, {15, 256}, {16, 512}, {48, 768}, {47, 768}};

Test(rows8, a_device_restores_what_it_has_arranged_and_what_it_has_not)
{
    struct test_random random = {16};
    FOR_MATMUL_VARIANTS(variant)
    for (uint32_t threads = 1; threads <= 2; threads++) {
        struct cpu_device device = open_matmul_device(variant, threads, &limits);
        for (unsigned t = 0; t < test_n_types; t++)
            for (unsigned n = 0; n < sizeof restored_shapes / sizeof *restored_shapes; n++) {
                if (!cpu_rows8_format(test_types[t]) && test_types[t] != LODE_F16)
                    continue;
                const uint32_t rows = restored_shapes[n].rows;
                struct pair pair = make_pair(&random, test_types[t], rows, restored_shapes[n].cols);
                const size_t bytes = rows * pair.file.row_bytes;
                uint8_t *out = malloc(bytes + 2), *before = malloc(bytes);
                memset(out, 0xa5, bytes + 2);
                cpu_arrange(&device.base, &pair.arranged);
                memcpy(before, pair.arranged.data, bytes);
                cpu_restore(&device.base, out + 1, &pair.arranged);
                cr_assert_eq(memcmp(out + 1, pair.file.data, bytes), 0, "%s, %s, %u rows", variant->name,
                             lode_type_find(test_types[t])->name, rows);
                cr_assert(out[0] == 0xa5 && out[bytes + 1] == 0xa5);
                cr_assert_eq(memcmp(before, pair.arranged.data, bytes), 0, "it is only read");
                free(out);
                free(before);
                free_pair(&pair);
            }
        close_matmul_device(&device);
    }
}

static void check_products(struct cpu_device *device, struct test_random *random, const struct pair *pair,
                           uint32_t tokens, const char *name)
{
    struct lode_rows x = {NULL, tokens, pair->file.cols, pair->file.cols + 3}, outs[2];
    x.data = malloc(tokens * x.stride * sizeof *x.data);
    for (size_t i = 0; i < tokens * x.stride; i++)
        x.data[i] = test_random_float(random);
    for (int i = 0; i < 2; i++) {
        outs[i] = (struct lode_rows){NULL, tokens, pair->file.rows, pair->file.rows};
        outs[i].data = calloc((size_t)tokens * pair->file.rows, sizeof(float));
        cpu_matmul(&device->base, &outs[i], i ? &pair->arranged : &pair->file, 1, x);
    }
    cr_assert_eq(memcmp(outs[0].data, outs[1].data, (size_t)tokens * pair->file.rows * sizeof(float)), 0,
                 "%s, %s %ux%u, %u rows", name, lode_type_find(pair->file.type)->name, pair->file.rows,
                 pair->file.cols, tokens);
    free(outs[0].data);
    free(outs[1].data);
    free(x.data);
}

Test(rows8, multiplies_to_the_same_bits_as_rows_in_the_order_of_the_file)
{
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 7, 8, 9, 17, 150};
    struct test_random random = {12};
    FOR_MATMUL_VARIANTS(variant)
    {
        if (!variant->kernels->takes_rows8)
            continue;
        struct cpu_device device = open_matmul_device(variant, 2, &limits);
        for (unsigned t = 0; t < test_n_types; t++)
            for (unsigned n = 0; n < sizeof tokens / sizeof *tokens; n++) {
                const uint32_t rows = 8 * (1 + test_random_u32(&random) % (MAX_ROWS / 8));
                struct pair pair =
                    make_pair(&random, test_types[t], rows, columns_of(&random, test_types[t]));
                cpu_arrange(&device.base, &pair.arranged);
                cr_assert_eq(pair.arranged.layout == LODE_LAYOUT_ROWS8,
                             cpu_rows8_format(test_types[t]) != NULL);
                check_products(&device, &random, &pair, tokens[n], variant->name);
                free_pair(&pair);
            }
        close_matmul_device(&device);
    }
}

Test(rows8, decodes_embedding_rows_to_the_same_bits)
{
    struct test_random random = {13};
    const struct matmul_variant portable = {"portable", CPU_ISA_PORTABLE,
                                            cpu_matmul_kernels_for(CPU_ISA_PORTABLE)};
    struct cpu_device device = open_matmul_device(&portable, 1, &limits);
    for (unsigned t = 0; t < test_n_types; t++) {
        if (!cpu_rows8_format(test_types[t]))
            continue;
        struct pair pair = make_pair(&random, test_types[t], 16, columns_of(&random, test_types[t]));
        void *spare = malloc(8 * pair.file.row_bytes);
        for (uint32_t group = 0; group < 2; group++)
            cpu_rows8_interleave((char *)(uintptr_t)pair.arranged.data + group * 8 * pair.file.row_bytes,
                                 test_types[t], pair.file.row_bytes, spare);
        free(spare);
        pair.arranged.layout = LODE_LAYOUT_ROWS8;
        const int32_t ids[] = {0, 15, 7, 8, 3};
        float got[5 * MAX_COLS], want[5 * MAX_COLS];
        cpu_embed(&device.base, (struct lode_rows){got, 5, pair.file.cols, MAX_COLS}, &pair.arranged, ids, 2);
        cpu_embed(&device.base, (struct lode_rows){want, 5, pair.file.cols, MAX_COLS}, &pair.file, ids, 2);
        for (int i = 0; i < 5; i++)
            cr_assert_eq(memcmp(got + i * MAX_COLS, want + i * MAX_COLS, pair.file.cols * sizeof(float)), 0);
        free_pair(&pair);
    }
    close_matmul_device(&device);
}

Test(rows8, leaves_alone_what_it_cannot_interleave)
{
    struct test_random random = {14};
    FOR_MATMUL_VARIANTS(variant)
    {
        struct cpu_device device = open_matmul_device(variant, 1, &limits);
        struct pair odd = make_pair(&random, LODE_Q4_0, 15, 64),
                    floats = make_pair(&random, LODE_F16, 16, 64),
                    even = make_pair(&random, LODE_Q4_0, 16, 64);
        cpu_arrange(&device.base, &odd.arranged);
        cpu_arrange(&device.base, &floats.arranged);
        cpu_arrange(&device.base, &even.arranged);
        cr_assert_eq(odd.arranged.layout, LODE_LAYOUT_FILE);
        cr_assert_eq(floats.arranged.layout, LODE_LAYOUT_FILE);
        cr_assert_eq(even.arranged.layout,
                     variant->isa == CPU_ISA_PORTABLE ? LODE_LAYOUT_FILE : LODE_LAYOUT_ROWS8);
        cr_assert_eq(memcmp(odd.arranged.data, odd.file.data, 15 * odd.file.row_bytes), 0);
        free_pair(&odd);
        free_pair(&floats);
        free_pair(&even);
        close_matmul_device(&device);
    }
}
