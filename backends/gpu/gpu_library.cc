// Which products go through the vendor's library: those of the types and rows that the caller has named, for
// which it was measured to be faster. One that it refuses is done by the device's own kernels, and so are all
// after it: a library may find no memory for a kernel of its own when pools have taken what is left.
#include "backends/gpu/gpu_device.h"

#include <stdio.h>
#include <string.h>

// Weights that are decoded at a time, at most: 4,096 rows of 5,376, which fill the tiles of a large GPU.
#define SLICE_BYTES ((size_t)48 << 20)

// ---- opening

#define TRIAL 64 // rows, columns and inputs

// What the library takes for itself when it first multiplies, and whether it does.
static bool multiply_once(struct gpu_device *gpu, struct lode_error *error)
{
    void *memory = nullptr;
    const size_t halves = static_cast<size_t>(TRIAL) * TRIAL;
    const size_t bytes = GPU_BLAS_WORKSPACE_BYTES + 2 * halves * sizeof(uint16_t) + halves * sizeof(float);
    if (gpu_alloc(&gpu->base, &memory, bytes, error) != LODE_OK)
        return false;
    char *behind = static_cast<char *>(memory) + GPU_BLAS_WORKSPACE_BYTES;
    struct gpu_blas_product product = {};
    product.workspace = memory;
    product.x = reinterpret_cast<const uint16_t *>(behind);
    product.weights = product.x + halves;
    product.out = reinterpret_cast<float *>(behind + 2 * halves * sizeof(uint16_t));
    product.n = product.rows = product.cols = TRIAL;
    product.out_stride = product.x_stride = product.weight_stride = TRIAL;
    bool works = gpu_blas_multiply(gpu->library, gpu->queue.stream, &product);
    if (!works)
        lode_fail(error, LODE_ERR_UNSUPPORTED, "%s: %s refuses a product of %d rows", gpu->base.name,
                  gpu_blas_name(gpu->library), TRIAL);
    else if (gpu_stream_wait(gpu->context, gpu->queue.stream, error) != LODE_OK)
        works = false;
    gpu_free(&gpu->base, memory, bytes);
    return works;
}

static int open_library(struct gpu_device *gpu, struct lode_error *error)
{
    uint64_t before, after, total;
    int code = gpu_memory(&gpu->base, &before, &total, error);
    if (code == LODE_OK)
        code = gpu_blas_open(&gpu->library, gpu->context, error);
    if (code == LODE_OK && !multiply_once(gpu, error))
        code = LODE_ERR_UNSUPPORTED;
    if (code == LODE_OK)
        code = gpu_memory(&gpu->base, &after, &total, error);
    if (code != LODE_OK) {
        gpu_library_close(gpu);
        return code;
    }
    gpu->library_own_bytes = before > after ? before - after : 0;
    gpu->base.allocated_bytes += gpu->library_own_bytes;
    return LODE_OK;
}

void gpu_library_close(struct gpu_device *gpu)
{
    gpu_blas_close(gpu->library);
    gpu->library = nullptr;
    gpu->base.allocated_bytes -= gpu->library_own_bytes;
    gpu->library_own_bytes = 0;
    memset(gpu->library_rows, 0, sizeof gpu->library_rows);
}

int gpu_use_library(struct lode_device *device, enum lode_type type, uint32_t rows, struct lode_error *error)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (gpu_has_fault(gpu))
        return gpu_tell_fault(gpu, error);
    gpu_context_select(gpu->context);
    if (rows && !gpu->library) {
        const int code = open_library(gpu, error);
        if (code != LODE_OK)
            return code;
    }
    gpu->library_rows[type] = rows;
    return LODE_OK;
}

const char *gpu_library_name(const struct lode_device *device)
{
    const struct gpu_device *gpu = reinterpret_cast<const struct gpu_device *>(device);
    return gpu->library ? gpu_blas_name(gpu->library) : nullptr;
}

// ---- scratch

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

size_t gpu_library_scratch_bytes(const struct gpu_device *gpu, const struct lode_limits *limits)
{
    bool any = false;
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        any |= gpu->library_rows[type] && gpu->library_rows[type] <= limits->rows;
    if (!any)
        return 0;
    const uint32_t widest =
        larger(larger(limits->ffn_width, limits->cols), limits->n_heads * limits->head_size);
    const size_t none = gpu_blas_scratch_bytes(limits->rows, limits->cols, 0);
    const size_t all = gpu_blas_geglu_scratch_bytes(limits->rows, limits->cols, widest);
    return all - none < SLICE_BYTES ? all : none + SLICE_BYTES;
}

// ---- products

static bool goes_there(const struct gpu_device *gpu, enum lode_type type, uint32_t n)
{
    return gpu->library_rows[type] && n >= gpu->library_rows[type] && gpu->library_scratch;
}

static bool told(struct gpu_device *gpu, bool done)
{
    if (done)
        return true;
    memset(gpu->library_rows, 0, sizeof gpu->library_rows);
    snprintf(gpu->library_notice, sizeof gpu->library_notice,
             "%s refused a product; Lode's own kernels go on", gpu_blas_name(gpu->library));
    gpu->base.notice = gpu->library_notice;
    return false;
}

bool gpu_library_matmul(struct gpu_device *gpu, struct lode_rows out, const struct lode_matrix *weight,
                        struct lode_rows x)
{
    return goes_there(gpu, weight->type, x.n) &&
           told(gpu, gpu_blas_matmul(gpu->library, &gpu->queue, out, weight, x, gpu->library_scratch,
                                     gpu->library_scratch_bytes));
}

bool gpu_library_matmul_geglu(struct gpu_device *gpu, struct lode_rows out, const struct lode_matrix *gate,
                              const struct lode_matrix *up, struct lode_rows x)
{
    return goes_there(gpu, gate->type, x.n) &&
           told(gpu, gpu_blas_matmul_geglu(gpu->library, &gpu->queue, out, gate, up, x, gpu->library_scratch,
                                           gpu->library_scratch_bytes));
}
