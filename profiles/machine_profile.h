// A machine profile: what the parts of a machine can do, alone and beside each other.
//
// It is measured by a probe (probe.h), or written down from data sheets for machines that one asks about
// before one has them. docs/profile-format.md is its JSON. Rates are curves, for nothing here is one number:
// a kernel's rate depends on how many rows it multiplies at once, a drive's on how many reads are in flight.
#ifndef LODE_MACHINE_PROFILE_H
#define LODE_MACHINE_PROFILE_H

#include "base/lode_error.h"
#include "base/tensor_type.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROFILE_VERSION 1
#define PROFILE_CURVE_POINTS 16
#define PROFILE_GPUS 4
#define PROFILE_DRIVES 4

// y by x > 0, x ascending. spread: how far the middle half of the repeats lay apart, as a share of y; 0 in
// estimates.
struct profile_curve {
    uint32_t n_points; // 0: not known
    struct profile_point {
        double x, y, spread;
    } points[PROFILE_CURVE_POINTS];
};

// Interpolated linearly in log x between points, constant beyond the ends. 0 for an unknown curve.
double profile_curve_at(const struct profile_curve *curve, double x);
double profile_curve_spread_at(const struct profile_curve *curve, double x);

enum profile_origin {
    PROFILE_MEASURED,  // by lode probe
    PROFILE_ESTIMATED, // from data sheets, `source` says which
    PROFILE_DESCRIBED, // from a short text (machine_profile_parse)
};

// Products of one tensor type on one device, weights read from its memory. GB/s (10^9) of weights by the rows
// of activations that a matrix meets at once. For experts: by the rows that each of them meets. library: the
// dense ones by the library of a GPU's vendor, of many rows.
struct profile_kernels {
    bool known;
    struct profile_curve dense_gbps, expert_gbps, library_gbps;
};

// Rows from which on the library is at least 1.05 times as fast as the device's own kernels wherever both
// were measured; 0: never.
uint32_t profile_library_rows(const struct profile_kernels *kernels);

// What computes: the CPU with its memory, or a GPU.
struct profile_device {
    char name[96];                  // "AMD Ryzen 9 7950X"
    char backend[16];               // "cpu", "cuda", "hip", "simt"
    char isa[16];                   // of a CPU: the kernels that were measured, "avx2"
    uint64_t memory_bytes;          // of the device
    uint32_t cores;                 // physical; 0 for a GPU
    uint32_t threads;               // that the kernels were measured with; 0 for a GPU
    struct profile_curve read_gbps; // memory by threads; of a GPU one point at 1
    struct profile_kernels kernels[LODE_TYPE_END];
    // Attention over a cache of F16: GB/s of K and V read in decode, by the tokens of context; and GFLOP/s in
    // prefill, by the tokens of context.
    struct profile_curve attention_decode_gbps, attention_prefill_gflops;
    // Time of one small operation (a norm of one row, an addition) inside of a pass, launch and hand-over
    // included, and of waiting for the device once.
    double operation_us, sync_us;
    // The link of a GPU: GB/s by the bytes of one copy. All unknown for the CPU.
    struct profile_curve upload_pinned_gbps, upload_pageable_gbps, download_pinned_gbps,
        download_pageable_gbps;
    bool shares_memory; // an integrated GPU: its memory is the CPU's
};

struct profile_drive {
    char name[96];         // "Samsung SSD 990 PRO 2TB"
    char device[64];       // what it was measured on, as "nvme0n1"; empty in estimates
    uint64_t record_bytes; // of the random reads
    struct profile_curve direct_gbps,
        buffered_gbps;     // random reads by queue depth; buffered: not in the cache
    double sustained_gbps; // of direct reads over the longest run; 0: not known
    double latency_us;     // of one direct read of 4 KiB
};

// GB/s with so many reads in flight: past the page cache where that was measured.
double profile_drive_gbps(const struct profile_drive *drive, double reads);

// What runs at the same time.
enum profile_lane {
    PROFILE_LANE_CPU,
    PROFILE_LANE_DRIVE,
    PROFILE_LANE_GPU,
    PROFILE_LANE_LINK,
    PROFILE_LANES
};

// Parts of a pass whose time runs are compared in with what was predicted.
enum profile_part {
    PROFILE_PART_KERNELS_DECODE,
    PROFILE_PART_KERNELS_PREFILL,
    PROFILE_PART_ATTENTION_DECODE,
    PROFILE_PART_ATTENTION_PREFILL,
    PROFILE_PART_OPERATIONS,
    PROFILE_PART_DRIVE,
    PROFILE_PARTS
};

// Measured time over the curves' time, a slow mean over runs, within PROFILE_LEARNED_MOST to either side.
#define PROFILE_LEARNED_MOST 1.5

struct profile_learned {
    double factor; // of the predicted time; 1 where nothing is known
    uint32_t runs;
};

// Some 220 KB: more than belongs on a small stack.
struct machine_profile {
    char name[96];
    enum profile_origin origin;
    char source[512];     // of an estimate: where its figures come from
    char made[32];        // when, ISO 8601 in UTC; empty in estimates
    char made_by[32];     // "lode 0.1.0"
    char fingerprint[17]; // of the hardware, 16 hexadecimal digits; empty in estimates
    char mode[16];        // "quick", "full", "thorough"; empty in estimates
    struct profile_device cpu;
    uint32_t n_gpus;
    struct profile_device gpus[PROFILE_GPUS];
    uint32_t n_drives;
    struct profile_drive drives[PROFILE_DRIVES];
    // [i][j]: the rate of lane i while lane j is busy, as a share of its rate alone; 1 where not measured.
    double interference[PROFILE_LANES][PROFILE_LANES];
    struct profile_learned learned[PROFILE_PARTS];
};

// All unknown, interference and learned factors 1.
void machine_profile_clear(struct machine_profile *profile);

// Reads a profile. A missing, absurd or hostile value fails with LODE_ERR_FORMAT and names the field by its
// path in the file ("drives[0].direct_gbps[3].y") and what it may be. A version that is not PROFILE_VERSION
// fails and says which lode to use or to probe anew. A file that is missing or cannot be read is
// LODE_ERR_IO. After a failure *out is cleared. `name` stands for the path in messages.
int machine_profile_read(struct machine_profile *out, const char *path, struct lode_error *error);
int machine_profile_read_text(struct machine_profile *out, const char *text, size_t len, const char *name,
                              struct lode_error *error);

// The largest text that is read.
#define PROFILE_MAX_BYTES ((size_t)1 << 20)

// The profile as JSON, with a newline at the end, for the caller to free. What is read from it is the same
// profile, number for number. Fails on what machine_profile_check refuses; `name` is for the error.
int machine_profile_write_text(char **out_text, size_t *out_len, const struct machine_profile *profile,
                               const char *name, struct lode_error *error);

// Writes to a temporary name and renames; makes the folder when it is missing. A link is followed; what is no
// regular file is left alone. The file is the owner's alone, 0600.
int machine_profile_write(const struct machine_profile *profile, const char *path, struct lode_error *error);

// The same checks for a profile in memory, as a probe makes it.
int machine_profile_check(const struct machine_profile *profile, const char *name, struct lode_error *error);

// A machine from a short text, for what-if questions: words with commas,
//   "ram=32G@60,cores=8,gpu=12G@360,link=12,drive=3.5"
// ram=SIZE@GB/s, cores=N, gpu=SIZE@GB/s[@TFLOP/s] (several: several GPUs), link=GB/s of the GPU before,
// drive=GB/s (several: several drives); rates are a data sheet's peaks. What is left out is derived from what
// is there, by rules that the .c file states with their source. An unknown word or an absurd value fails with
// LODE_ERR_ARGUMENT and names it.
int machine_profile_parse(struct machine_profile *out, const char *text, struct lode_error *error);

#endif
