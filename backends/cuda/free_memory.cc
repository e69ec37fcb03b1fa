// Free memory by the driver's management library (NVML), which every driver brings and which does not open
// the GPU: asking the CUDA runtime takes a few hundred MB of the very memory that is asked for, on every GPU
// that is only looked at.
#include "backends/cuda/free_memory.h"

#include <dlfcn.h>

// From nvml.h, as it has been since 2012.
struct nvml_memory {
    unsigned long long total, free, used;
};
typedef struct nvml_handle *nvml_device;

static bool ask_nvml(uint64_t *out, void *library, const char *pci)
{
    const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
    const auto shutdown = reinterpret_cast<int (*)()>(dlsym(library, "nvmlShutdown"));
    const auto find = reinterpret_cast<int (*)(const char *, nvml_device *)>(
        dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
    const auto memory = reinterpret_cast<int (*)(nvml_device, struct nvml_memory *)>(
        dlsym(library, "nvmlDeviceGetMemoryInfo"));
    if (!init || !shutdown || !find || !memory || init() != 0)
        return false;
    nvml_device device;
    struct nvml_memory bytes = {};
    const bool known = find(pci, &device) == 0 && memory(device, &bytes) == 0;
    shutdown();
    *out = bytes.free;
    return known;
}

uint64_t cuda_free_memory(const char *pci)
{
    uint64_t bytes = 0;
    void *library = dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL);
    const bool known = library && ask_nvml(&bytes, library, pci);
    if (library)
        dlclose(library);
    return known ? bytes : 0;
}
