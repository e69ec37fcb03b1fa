#include "tests/vendor_blas_world.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

struct library_world world;

// Any address will do for what is only handed on.
static char handle_place, context_place, stream_place, libraries[WORLD_VERSIONS];

static void note(char (&list)[512], const char *word)
{
    const size_t length = strlen(list);
    snprintf(list + length, sizeof list - length, "%s ", word);
}

static bool refused(const char *call)
{
    note(world.calls, call);
    return world.refuses && strcmp(world.refuses, call) == 0;
}

// ---- the loader

extern "C" void *loader_open(const char *file, int)
{
    note(world.tried, file);
    for (int version = 0; version < WORLD_VERSIONS; version++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%d", vendor.file, version);
        if (!world.has[version] || strcmp(name, file) != 0)
            continue;
        world.n_open++;
        return &libraries[version];
    }
    return nullptr;
}

extern "C" void *loader_find(void *library, const char *name)
{
    const char *lacks = world.lacks[static_cast<char *>(library) - libraries];
    if (lacks && strcmp(lacks, name) == 0)
        return nullptr;
    for (const struct library_function *at = vendor.functions; at->name; at++)
        if (strcmp(at->name, name) == 0)
            return at->function;
    return nullptr;
}

extern "C" int loader_close(void *)
{
    world.n_open--;
    return 0;
}

void gpu_context_select(struct gpu_context *context)
{
    cr_assert_eq(context, world_context());
    world.n_selected++;
}

// ---- the library

int library_create(void **handle)
{
    cr_assert_eq(world.n_selected, 1, "the device is selected first");
    // What is left in the handle of a library that does not start must not be used.
    *handle = &handle_place;
    if (world.create_status == 0)
        world.n_handles++;
    return world.create_status;
}

int library_destroy(void *handle)
{
    cr_assert_eq(handle, static_cast<void *>(&handle_place));
    world.n_handles--;
    return 0;
}

int library_version(void *handle, int *out)
{
    cr_assert_eq(handle, static_cast<void *>(&handle_place));
    *out = world.version_number;
    return 0;
}

int library_set_stream(void *handle, gpu_stream stream)
{
    cr_assert_eq(handle, static_cast<void *>(&handle_place));
    world.stream = stream;
    return refused("stream") ? 7 : 0;
}

int library_set_workspace(void *handle, void *workspace, size_t bytes)
{
    cr_assert_eq(handle, static_cast<void *>(&handle_place));
    world.workspace = workspace;
    world.workspace_bytes = bytes;
    return refused("workspace") ? 7 : 0;
}

// c = alpha a b + beta c, a being m x k and b k x n where they are not transposed.
static void multiply(int a_op, int b_op, int m, int n, int k, float alpha, const uint16_t *a, int a_stride,
                     const uint16_t *b, int b_stride, float beta, float *c, int c_stride)
{
    for (int column = 0; column < n; column++)
        for (int row = 0; row < m; row++) {
            float sum = 0;
            for (int i = 0; i < k; i++) {
                const int in_a = a_op == world.values.op_t ? i + row * a_stride : row + i * a_stride;
                const int in_b = b_op == world.values.op_t ? column + i * b_stride : i + column * b_stride;
                sum += lode_f16_to_f32(a[in_a]) * lode_f16_to_f32(b[in_b]);
            }
            float *out = &c[row + column * c_stride];
            *out = alpha * sum + (beta != 0 ? beta * *out : 0);
        }
}

static int product(const char *name, void *handle, int a_op, int b_op, int m, int n, int k, const void *alpha,
                   const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride,
                   const void *beta, void *c, int c_type, int c_stride, int compute, int algorithm)
{
    const struct library_values *values = &world.values;
    cr_assert_eq(handle, static_cast<void *>(&handle_place));
    cr_assert(a_op == values->op_n || a_op == values->op_t, "%d is no operation", a_op);
    cr_assert(b_op == values->op_n || b_op == values->op_t, "%d is no operation", b_op);
    cr_assert_eq(a_type, values->r_16f);
    cr_assert_eq(b_type, values->r_16f);
    cr_assert_eq(c_type, values->r_32f);
    cr_assert_eq(compute, values->compute_32f);
    cr_assert_eq(algorithm, values->algorithm);
    if (refused(name))
        return 7;
    multiply(a_op, b_op, m, n, k, *static_cast<const float *>(alpha), static_cast<const uint16_t *>(a),
             a_stride, static_cast<const uint16_t *>(b), b_stride, *static_cast<const float *>(beta),
             static_cast<float *>(c), c_stride);
    return 0;
}

int library_product(void *handle, int a_op, int b_op, int m, int n, int k, const void *alpha, const void *a,
                    int a_type, int a_stride, const void *b, int b_type, int b_stride, const void *beta,
                    void *c, int c_type, int c_stride, int compute, int algorithm)
{
    return product("product", handle, a_op, b_op, m, n, k, alpha, a, a_type, a_stride, b, b_type, b_stride,
                   beta, c, c_type, c_stride, compute, algorithm);
}

int library_product_v2(void *handle, int a_op, int b_op, int m, int n, int k, const void *alpha,
                       const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride,
                       const void *beta, void *c, int c_type, int c_stride, int compute, int algorithm)
{
    return product("product_v2", handle, a_op, b_op, m, n, k, alpha, a, a_type, a_stride, b, b_type, b_stride,
                   beta, c, c_type, c_stride, compute, algorithm);
}

// ---- what tests do

struct gpu_context *world_context()
{
    return reinterpret_cast<struct gpu_context *>(&context_place);
}

struct gpu_blas *world_open(int version)
{
    struct lode_error error;
    struct gpu_blas *blas;
    memset(world.has, 0, sizeof world.has);
    world.has[version] = true;
    world.n_selected = 0;
    cr_assert_eq(gpu_blas_open(&blas, world_context(), &error), LODE_OK, "%s", error.text);
    return blas;
}

bool world_multiply(struct gpu_blas *blas)
{
    enum { N = 3, ROWS = 5, COLS = 7, X_STRIDE = 9, WEIGHT_STRIDE = 8, OUT_STRIDE = 6 };
    const float untouched = 12345;
    uint16_t x[N * X_STRIDE], weights[ROWS * WEIGHT_STRIDE], nan = lode_f32_to_f16(NAN);
    float out[N * OUT_STRIDE];
    char workspace[1];
    // Small whole numbers, of which every sum is exact.
    for (int i = 0; i < N * X_STRIDE; i++)
        x[i] = i % X_STRIDE < COLS ? lode_f32_to_f16(static_cast<float>(i * 5 % 13 - 6)) : nan;
    for (int i = 0; i < ROWS * WEIGHT_STRIDE; i++)
        weights[i] = i % WEIGHT_STRIDE < COLS ? lode_f32_to_f16(static_cast<float>(i * 7 % 11 - 5)) : nan;
    for (float &value : out)
        value = untouched;
    gpu_stream stream = reinterpret_cast<gpu_stream>(&stream_place);
    const struct gpu_blas_product product = {out,           x, weights, OUT_STRIDE, X_STRIDE,
                                             WEIGHT_STRIDE, N, ROWS,    COLS,       workspace};
    const bool done = gpu_blas_multiply(blas, stream, &product);
    cr_assert_eq(static_cast<void *>(world.stream), static_cast<void *>(stream));
    for (int i = 0; i < N; i++)
        for (int r = 0; r < OUT_STRIDE; r++) {
            float want = 0;
            for (int c = 0; c < COLS && r < ROWS; c++)
                want +=
                    lode_f16_to_f32(x[i * X_STRIDE + c]) * lode_f16_to_f32(weights[r * WEIGHT_STRIDE + c]);
            if (!done || r >= ROWS)
                want = untouched;
            cr_assert_eq(out[i * OUT_STRIDE + r], want, "[%d][%d]: got %g, want %g", i, r,
                         static_cast<double>(out[i * OUT_STRIDE + r]), static_cast<double>(want));
        }
    if (vendor.takes_workspace && strstr(world.calls, "workspace ")) {
        cr_assert_eq(world.workspace, static_cast<void *>(workspace));
        cr_assert_eq(world.workspace_bytes, GPU_BLAS_WORKSPACE_BYTES);
    }
    return done;
}
