// NVIDIA's runtime: what GPUs there are, which of them this build has kernels for, and why not.
//
// The runtime is linked statically and finds the driver by itself, so that this object opens where there is
// neither.
#include "backends/cuda/architectures.h"
#include "backends/cuda/free_memory.h"

#include <cuda_runtime.h>

#define GPU_API(name) cuda##name
typedef cudaError_t vendor_status;
typedef cudaDeviceProp vendor_properties;
#include "backends/gpu/vendor_runtime.h"

extern const char gpu_runtime_name[] = "cuda";
extern const char gpu_runtime_toolkit[] =
    "CUDA " VENDOR_TEXT(__CUDACC_VER_MAJOR__) "." VENDOR_TEXT(__CUDACC_VER_MINOR__);
extern const char gpu_runtime_architectures[] = LODE_CUDA_ARCHITECTURES;

// ---- which code a GPU runs

// The compute capability of the code that a GPU of capability `of` (86 is 8.6) runs: of machine code the
// highest of the same major version that is not above it, else of PTX the highest that is not above it; 0
// where there is neither.
static uint32_t code_for(uint32_t of)
{
    uint32_t machine = 0, ptx = 0;
    for (const char *at = LODE_CUDA_ARCHITECTURES; *at;) {
        const bool is_machine = strncmp(at, "sm_", 3) == 0;
        const char *digits = at + strcspn(at, "_ ");
        const uint32_t built = *digits == '_' ? static_cast<uint32_t>(strtoul(digits + 1, NULL, 10)) : 0;
        if (built <= of && is_machine && built / 10 == of / 10 && built > machine)
            machine = built;
        if (built <= of && !is_machine && built > ptx)
            ptx = built;
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    return machine ? machine : ptx;
}

static uint32_t capability_of(const struct lode_gpu *gpu)
{
    return static_cast<uint32_t>(strtoul(gpu->architecture + strlen("sm_"), NULL, 10));
}

// Of the code, which may be of a lower capability than the GPU.
static uint32_t features_of(const struct lode_gpu *gpu)
{
    const uint32_t code = code_for(capability_of(gpu));
    return (code >= 61 ? GPU_HAS_DOT4 : 0) | (code >= 80 ? GPU_HAS_MMA_S8 : 0);
}

// ---- what there is

static int explain(vendor_status status, struct lode_error *error)
{
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    if (driver == 0)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "no NVIDIA driver (libcuda.so.1 is not there)");
    if (status == cudaErrorNoDevice)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "no CUDA device");
    if (status == cudaErrorInsufficientDriver)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the NVIDIA driver knows CUDA %d.%d and is older than this build's CUDA %d.%d; "
                         "update the driver or build with an older CUDA",
                         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "CUDA does not start: %s", cudaGetErrorString(status));
}

static int attribute(uint32_t index, cudaDeviceAttr what)
{
    int value = 0;
    if (cudaDeviceGetAttribute(&value, what, static_cast<int>(index)) != VENDOR_OK)
        cudaGetLastError();
    return value;
}

static void describe_own(struct lode_gpu *out, uint32_t index, const vendor_properties *properties)
{
    const uint32_t capability = static_cast<uint32_t>(properties->major * 10 + properties->minor);
    snprintf(out->architecture, sizeof out->architecture, "sm_%u", capability);
    out->free_bytes = cuda_free_memory(out->pci);
    out->has_display = attribute(index, cudaDevAttrKernelExecTimeout); // which the driver sets for displays
    out->is_built = code_for(capability) != 0;
}
