// AMD's runtime: what GPUs there are, which of them this build has kernels for, and why not.
//
// HIP's code is for one architecture each: what is built for gfx1030 does not run on gfx1031.
#include "backends/hip/architectures.h"

#include <hip/hip_runtime.h>

#define GPU_API(name) hip##name
#define hipErrorMemoryAllocation hipErrorOutOfMemory
#define hipHostAlloc hipHostMalloc
#define hipHostAllocPortable hipHostMallocPortable
#define hipFreeHost hipHostFree
typedef hipError_t vendor_status;
typedef hipDeviceProp_t vendor_properties;
#include "backends/gpu/vendor_runtime.h"

#include <errno.h>
#include <unistd.h>

extern const char gpu_runtime_name[] = "hip";
extern const char gpu_runtime_toolkit[] =
    "HIP " VENDOR_TEXT(HIP_VERSION_MAJOR) "." VENDOR_TEXT(HIP_VERSION_MINOR);
extern const char gpu_runtime_architectures[] = LODE_HIP_ARCHITECTURES;

// Whether a word is among words with blanks between them.
static bool has_word(const char *words, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = words; *at;) {
        const size_t next = strcspn(at, " ");
        if (next == length && memcmp(at, word, length) == 0)
            return true;
        at += next;
        at += strspn(at, " ");
    }
    return false;
}

// As gpu_dot4 of gpu.h is compiled.
static uint32_t features_of(const struct lode_gpu *gpu)
{
    static const char with_dot4[] = "gfx906 gfx908 gfx90a gfx1011 gfx1012 gfx1030 gfx1031 gfx1032 gfx1100 "
                                    "gfx1101 gfx1102 gfx1200 gfx1201";
    return has_word(with_dot4, gpu->architecture) ? GPU_HAS_DOT4 : 0;
}

static int explain(vendor_status status, struct lode_error *error)
{
    (void)hipGetLastError();
    if (access("/dev/kfd", F_OK) != 0)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "no AMD GPU driver for computing (/dev/kfd is not there)");
    if (access("/dev/kfd", R_OK | W_OK) != 0)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "/dev/kfd: %s; the user must be in the group that it belongs to (render)",
                         strerror(errno));
    if (status == hipErrorNoDevice)
        return lode_fail(error, LODE_ERR_UNSUPPORTED, "no HIP device");
    if (status == hipErrorInsufficientDriver)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "the AMD driver is older than this build's %s; update the driver",
                         gpu_runtime_toolkit);
    return lode_fail(error, LODE_ERR_UNSUPPORTED, "HIP does not start: %s", hipGetErrorString(status));
}

// A number that the driver tells of a GPU in a file of its own.
static bool read_number(uint64_t *out, const char *pci, const char *what)
{
    char path[128];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", pci, what);
    FILE *file = fopen(path, "r");
    unsigned long long value = 0;
    const bool known = file && fscanf(file, "%llu", &value) == 1;
    if (file)
        fclose(file);
    *out = value;
    return known;
}

static uint64_t free_bytes_of(const char *pci)
{
    uint64_t total, used;
    if (read_number(&total, pci, "mem_info_vram_total") && read_number(&used, pci, "mem_info_vram_used"))
        return total > used ? total - used : 0;
    return 0;
}

static void describe_own(struct lode_gpu *out, uint32_t, const vendor_properties *properties)
{
    uint64_t boot_vga = 0;
    // "gfx906:sramecc+:xnack-"
    const int length = static_cast<int>(strcspn(properties->gcnArchName, ":"));
    snprintf(out->architecture, sizeof out->architecture, "%.*s", length < 15 ? length : 15,
             properties->gcnArchName);
    out->free_bytes = free_bytes_of(out->pci);
    out->has_display = read_number(&boot_vga, out->pci, "boot_vga") && boot_vga; // what the firmware shows
    out->is_built = has_word(LODE_HIP_ARCHITECTURES, out->architecture);
}
