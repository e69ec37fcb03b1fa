// What a shared object of GPU kernels (CUDA, HIP, or their execution on the CPU) exports: one function, which
// returns a table. The object is opened when the program starts and may fail to: a binary starts without it.
#ifndef LODE_GPU_BACKEND_H
#define LODE_GPU_BACKEND_H

#include "backends/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LODE_GPU_ABI 2

// A GPU as its runtime describes it.
struct lode_gpu {
    char name[96];         // "NVIDIA GeForce RTX 4070"
    char architecture[16]; // "sm_89", "gfx1030", "simt"
    char pci[16];          // "0000:01:00.0"; empty: not known
    uint64_t memory_bytes, free_bytes;
    uint32_t multiprocessors;
    uint32_t driver, runtime; // versions as the vendor counts them: 13000 is CUDA 13.0
    bool shares_memory;       // with the CPU: an integrated GPU
    bool has_display;         // or may have one: its memory is not all ours
    bool is_built;            // this object has code for the architecture
};

struct lode_gpu_options {
    // Only of the device that executes on the CPU; 0: its defaults (1 GiB, no limit, none).
    uint64_t memory_bytes;
    double link_gbps, link_latency_us;
};

struct lode_gpu_backend {
    uint32_t abi;              // LODE_GPU_ABI; everything else may have changed with it
    const char *name;          // "cuda", "hip", "simt"
    const char *toolkit;       // that built it: "CUDA 13.0"
    const char *architectures; // that it was built for: "sm_75 sm_80 compute_120"
    // How many GPUs there are. Fails with LODE_ERR_UNSUPPORTED and the reason where the runtime does not
    // start ("no CUDA device", "the driver 11.4 is older than this build's CUDA 13.0").
    int (*count)(uint32_t *out, struct lode_error *error);
    int (*describe)(struct lode_gpu *out, uint32_t index, struct lode_error *error);
    // The device's name is the backend's with the index behind it: "cuda0".
    int (*open)(struct lode_device **out, uint32_t index, const struct lode_gpu_options *options,
                struct lode_error *error);
};

// The one symbol that a shared object exports.
const struct lode_gpu_backend *lode_gpu_backend(void);
typedef const struct lode_gpu_backend *(*lode_gpu_backend_fn)(void);
#define LODE_GPU_BACKEND_SYMBOL "lode_gpu_backend"

#ifdef __cplusplus
}
#endif

#endif
