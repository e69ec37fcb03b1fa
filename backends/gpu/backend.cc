// The one thing that a shared object of GPU kernels exports.
#include "backends/gpu/gpu_device.h"

extern "C" __attribute__((visibility("default"))) const struct lode_gpu_backend *lode_gpu_backend(void)
{
    static const struct lode_gpu_backend backend = {
        LODE_GPU_ABI,      gpu_runtime_name,     gpu_runtime_toolkit, gpu_runtime_architectures,
        gpu_runtime_count, gpu_runtime_describe, gpu_device_open,
    };
    return &backend;
}
