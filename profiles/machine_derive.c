// Rates of the CPU are those of one core of a Zen 3 at 3.2 GHz with AVX2, as bench/kernels measures them
// there (--threads 1, "matmul avx2 26b-dense-up", arranged weights, best call); shares of memory and links
// are what programs for these models are reported to reach. All of it is a first guess: lode probe measures.
#include "profiles/machine_derive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MEMORY_SHARE 0.8 // of a data sheet's bandwidth, by all cores of a CPU or by kernels of a GPU
#define GPU_READ_SHARE 0.9
#define HIP_SHARE 0.8 // of what CUDA kernels reach: of bandwidth and arithmetic
#define LINK_SHARE 0.8
#define PAGEABLE_SHARE 0.5 // of a copy from pinned memory
#define LINK_LATENCY_US 10.0
#define CORE_READ_GBPS 25.0
#define CORE_ATTENTION_GBPS 10.0 // eight query heads for a KV head: arithmetic is the bound (docs/learned.md)
#define CORE_ATTENTION_GFLOPS 60.0 // of 512 rows (docs/learned.md)
#define GPU_ATTENTION_READ_SHARE 0.6
#define GPU_ATTENTION_SHARE 0.3  // of the FP32 peak
#define EXPERT_SHARE 0.7         // of dense products: small matrices, on the CPU in the order of the file
#define DRIVE_SHARE 0.9          // of the sequential rate, by records in flight
#define DRIVE_SINGLE_SHARE 0.6   // while one record is read alone, after its latency
#define DRIVE_BUFFERED_SHARE 0.6 // of direct reads: copies, and the page cache's own work
#define DRIVE_SUSTAINED_SHARE 0.8
#define SHARED_MEMORY_SHARE 0.5 // two lanes at one memory

#define RECORD_BYTES 3345408 // an expert of the 26B-A4B at Q4_0: 3 x 2816 x 704 weights in 4.5 bits
#define MOST_ROWS 4096       // of a matrix at once

// One core: GB/s of weights with one row of activations, GFLOP/s with 128.
static const struct core_rate {
    enum lode_type type;
    double row_gbps, gflops;
} core_rates[] = {
    {LODE_F32, 23.7, 64},   {LODE_F16, 19.2, 85},    {LODE_BF16, 17.5, 64},   {LODE_Q8_0, 20.3, 106},
    {LODE_Q4_0, 23.0, 200}, {LODE_Q4_1, 23.8, 203},  {LODE_Q5_0, 23.0, 135},  {LODE_Q5_1, 20.2, 134},
    {LODE_Q2_K, 7.7, 124},  {LODE_Q3_K, 6.8, 134},   {LODE_Q4_K, 19.9, 190},  {LODE_Q5_K, 19.5, 169},
    {LODE_Q6_K, 15.7, 144}, {LODE_IQ4_NL, 11.3, 85}, {LODE_IQ4_XS, 10.5, 88}, {LODE_MXFP4, 14.7, 160},
};
#define N_RATES (sizeof core_rates / sizeof *core_rates)

// Guesses need no more than four digits, and files with them can be read.
static double rounded(double value)
{
    const double scale = pow(10, 3 - floor(log10(value)));
    return round(value * scale) / scale;
}

static void add_point(struct profile_curve *curve, double x, double y)
{
    curve->points[curve->n_points++] = (struct profile_point){.x = x, .y = rounded(y)};
}

static void set_constant(struct profile_curve *curve, double y)
{
    curve->n_points = 0;
    add_point(curve, 1, y);
}

// Points within a flat stretch say nothing.
static void drop_flat_points(struct profile_curve *curve)
{
    uint32_t kept = 1;
    for (uint32_t i = 1; i < curve->n_points; i++) {
        const bool is_last = i + 1 == curve->n_points;
        if (is_last || curve->points[i].y != curve->points[kept - 1].y ||
            curve->points[i].y != curve->points[i + 1].y)
            curve->points[kept++] = curve->points[i];
    }
    memset(curve->points + kept, 0, (curve->n_points - kept) * sizeof *curve->points);
    curve->n_points = kept;
}

static double weight_bytes(enum lode_type type)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    return (double)traits->block_bytes / traits->block_elems;
}

// A weight takes what its bytes take from memory or what its arithmetic takes, whatever is longer; the second
// has a part for each row beyond the first.
static void derive_kernel(struct profile_curve *out, double bytes, double memory_gbps, double first_row_ns,
                          double row_ns)
{
    out->n_points = 0;
    for (double rows = 1; rows <= MOST_ROWS; rows *= 2)
        add_point(out, rows, bytes / fmax(bytes / memory_gbps, first_row_ns + (rows - 1) * row_ns));
    drop_flat_points(out);
}

void derive_cpu(struct profile_device *out, const struct cpu_sheet *sheet)
{
    const double memory_gbps = MEMORY_SHARE * sheet->memory_gbps, cores = sheet->cores;
    *out = (struct profile_device){.backend = "cpu",
                                   .isa = "avx2",
                                   .memory_bytes = sheet->memory_bytes,
                                   .cores = sheet->cores,
                                   .threads = sheet->cores,
                                   .operation_us = 2,
                                   .sync_us = 1};
    snprintf(out->name, sizeof out->name, "%s", sheet->name);
    for (uint32_t threads = 1; threads < sheet->cores; threads *= 2)
        add_point(&out->read_gbps, threads, fmin(threads * CORE_READ_GBPS, memory_gbps));
    add_point(&out->read_gbps, cores, fmin(cores * CORE_READ_GBPS, memory_gbps));
    drop_flat_points(&out->read_gbps);
    for (size_t i = 0; i < N_RATES; i++) {
        const struct core_rate *rate = &core_rates[i];
        const double bytes = weight_bytes(rate->type), first_row_ns = bytes / rate->row_gbps / cores;
        const double row_ns = 2 / rate->gflops / cores;
        struct profile_kernels *kernels = &out->kernels[rate->type];
        kernels->known = true;
        derive_kernel(&kernels->dense_gbps, bytes, memory_gbps, first_row_ns, row_ns);
        derive_kernel(&kernels->expert_gbps, bytes, memory_gbps, first_row_ns / EXPERT_SHARE,
                      row_ns / EXPERT_SHARE);
    }
    set_constant(&out->attention_decode_gbps, fmin(cores * CORE_ATTENTION_GBPS, memory_gbps));
    set_constant(&out->attention_prefill_gflops, cores * CORE_ATTENTION_GFLOPS);
}

static void derive_link(struct profile_curve *out, double gbps)
{
    for (double bytes = 65536; bytes <= 67108864; bytes *= 4)
        add_point(out, bytes, bytes / (bytes / gbps + 1e3 * LINK_LATENCY_US));
}

void derive_gpu(struct profile_device *out, const struct gpu_sheet *sheet)
{
    const bool is_hip = strcmp(sheet->backend, "hip") == 0;
    const double share = is_hip ? HIP_SHARE : 1, memory_gbps = share * MEMORY_SHARE * sheet->memory_gbps;
    const double gflops = share * 1e3 * sheet->tflops;
    *out = (struct profile_device){.memory_bytes = sheet->memory_bytes,
                                   .operation_us = is_hip ? 6 : 4,
                                   .sync_us = is_hip ? 20 : 10,
                                   .shares_memory = sheet->shares_memory};
    snprintf(out->name, sizeof out->name, "%s", sheet->name);
    snprintf(out->backend, sizeof out->backend, "%s", sheet->backend);
    set_constant(&out->read_gbps, GPU_READ_SHARE * sheet->memory_gbps);
    for (size_t i = 0; i < N_RATES; i++) {
        const double bytes = weight_bytes(core_rates[i].type);
        struct profile_kernels *kernels = &out->kernels[core_rates[i].type];
        kernels->known = true;
        derive_kernel(&kernels->dense_gbps, bytes, memory_gbps, 2 / gflops, 2 / gflops);
        derive_kernel(&kernels->expert_gbps, bytes, EXPERT_SHARE * memory_gbps, 2 / gflops / EXPERT_SHARE,
                      2 / gflops / EXPERT_SHARE);
    }
    set_constant(&out->attention_decode_gbps, share * GPU_ATTENTION_READ_SHARE * sheet->memory_gbps);
    set_constant(&out->attention_prefill_gflops, GPU_ATTENTION_SHARE * gflops);
    if (sheet->shares_memory)
        return;
    const double link_gbps = LINK_SHARE * sheet->link_gbps;
    derive_link(&out->upload_pinned_gbps, link_gbps);
    derive_link(&out->download_pinned_gbps, link_gbps);
    derive_link(&out->upload_pageable_gbps, PAGEABLE_SHARE * link_gbps);
    derive_link(&out->download_pageable_gbps, PAGEABLE_SHARE * link_gbps);
}

void derive_drive(struct profile_drive *out, const struct drive_sheet *sheet)
{
    *out = (struct profile_drive){.record_bytes = RECORD_BYTES,
                                  .sustained_gbps = rounded(DRIVE_SUSTAINED_SHARE * sheet->read_gbps),
                                  .latency_us = rounded(sheet->latency_us)};
    snprintf(out->name, sizeof out->name, "%s", sheet->name);
    const double alone_ns = 1e3 * sheet->latency_us + RECORD_BYTES / (DRIVE_SINGLE_SHARE * sheet->read_gbps);
    for (double depth = 1; depth <= 32; depth *= 2) {
        const double gbps = fmin(depth * RECORD_BYTES / alone_ns, DRIVE_SHARE * sheet->read_gbps);
        add_point(&out->direct_gbps, depth, gbps);
        add_point(&out->buffered_gbps, depth, DRIVE_BUFFERED_SHARE * gbps);
    }
    drop_flat_points(&out->direct_gbps);
    drop_flat_points(&out->buffered_gbps);
}

void derive_interference(struct machine_profile *profile)
{
    for (uint32_t i = 0; i < profile->n_gpus; i++)
        if (profile->gpus[i].shares_memory) {
            profile->interference[PROFILE_LANE_CPU][PROFILE_LANE_GPU] = SHARED_MEMORY_SHARE;
            profile->interference[PROFILE_LANE_GPU][PROFILE_LANE_CPU] = SHARED_MEMORY_SHARE;
        }
}
