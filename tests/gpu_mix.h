// Ways to divide a model between GPUs that are executed on the CPU, the CPU and the files, through the public
// interface; each is to say what the CPU alone says.
#ifndef LODE_TEST_GPU_MIX_H
#define LODE_TEST_GPU_MIX_H

#include "core/lode.h"

#include <stddef.h>
#include <stdint.h>

// Who gets which units; groups are layers that share K and V, and what is outside of layers.
enum gpu_spread {
    GPU_SPREAD_RULE,    // none is given: by the engine's rule
    GPU_SPREAD_ALL,     // everything on the first GPU
    GPU_SPREAD_DENSE,   // all but the experts on the first GPU
    GPU_SPREAD_EXPERTS, // experts only, in turns on all GPUs
    GPU_SPREAD_TURNS,   // groups in turns on GPUs and CPU, experts in turns the other way round
    GPU_SPREAD_RANDOM,  // groups and experts by `seed`
};

struct gpu_mix {
    const char *name, *devices, *placement;
    enum gpu_spread spread;
    uint64_t seed;
    // Copies of experts that each GPU has room for beside its units; 0: no limit. NO_SLOTS: none.
    uint32_t slots;
    // The ceiling for the CPU's memory: no limit, or so low that experts come and go.
    bool tight_ram;
    double share; // of what everything would take on one GPU: the ceiling of each; 0: none. Not with slots
    enum lode_kv_type kv;
    uint32_t batch; // 0: 512
    bool uploads;   // by a profile whose link is so fast that prefill copies experts
    bool library;   // by a profile whose GPU has a fast library for products of many rows
};
#define GPU_MIX_NO_SLOTS UINT32_MAX

extern const struct gpu_mix gpu_mixes[];
extern const size_t gpu_n_mixes;

// The CPU alone with the same cache and batch.
struct gpu_mix gpu_mix_of_cpu(const struct gpu_mix *mix);

struct gpu_mix_run {
    struct lode_engine *engine;
    struct lode_session *session;
    uint8_t *unit_gpu;
    char profile_path[64]; // empty: none
    bool told_library;     // that prefill goes through a library
};

// Opens a model as the mix says, for so many tokens. Fails the test where it does not open.
void gpu_mix_open(struct gpu_mix_run *out, const char *path, const struct gpu_mix *mix, uint32_t context);
void gpu_mix_close(struct gpu_mix_run *run);

#endif
