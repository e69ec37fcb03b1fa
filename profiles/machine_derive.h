// Curves of a device from the few figures that its data sheet has, for machines that nobody has measured yet.
//
// Figures are the data sheet's peaks; the rules below say what is reached of them. docs/profile-format.md has
// them in words.
#ifndef LODE_MACHINE_DERIVE_H
#define LODE_MACHINE_DERIVE_H

#include "profiles/machine_profile.h"

struct cpu_sheet {
    const char *name;
    uint64_t memory_bytes;
    double memory_gbps; // all channels
    uint32_t cores;     // physical
};

struct gpu_sheet {
    const char *name;
    const char *backend; // "cuda" or "hip"
    uint64_t memory_bytes;
    double memory_gbps;
    double tflops;      // FP32
    double link_gbps;   // each way; without meaning when shares_memory
    bool shares_memory; // with the CPU
};

struct drive_sheet {
    const char *name;
    double read_gbps;  // sequential
    double latency_us; // of 4 KiB, one at a time
};

// Each fills all of *out. The figures must be positive and finite; names are cut when they are too long.
void derive_cpu(struct profile_device *out, const struct cpu_sheet *sheet);
void derive_gpu(struct profile_device *out, const struct gpu_sheet *sheet);
void derive_drive(struct profile_drive *out, const struct drive_sheet *sheet);

// What follows for the lanes once all devices are there.
void derive_interference(struct machine_profile *profile);

#endif
