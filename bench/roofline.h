// What this machine can do at best: the rates at which its threads read memory and caches, and at which they
// multiply and add with each instruction set. The laboratory holds its figures against these.
#ifndef LODE_BENCH_ROOFLINE_H
#define LODE_BENCH_ROOFLINE_H

#include "backends/cpu/isa.h"

#include <stdint.h>

// A multiply-add counts as two operations; 0 where the processor lacks it.
struct peak {
    double float_gflops;
    double bf16_gflops;   // that of floats where there is nothing better for this type
    double int8_gflops;   // dot products of bytes, summed in 32 bits
    double narrow_gflops; // of codes so narrow that AVX2 may sum several products in 16 bits
};

struct roofline {
    double read_gbps;   // memory, all threads together
    double update_gbps; // the same when all that is read is also written; both ways count
    double cached_gbps; // first-level caches, all threads together
    struct peak peaks[CPU_ISA_END];
};

double seconds_now(void);

// Calls by all threads together, each at its own best and none waiting for another: for work that shares
// nothing, so that a thread which loses its core spoils no more than its own call.
double best_calls_per_second(void (*call)(void), uint32_t threads);

struct peak peak_measure(enum cpu_isa isa, uint32_t threads);

// Takes two to four seconds.
struct roofline roofline_measure(uint32_t threads);

// The higher of both in each figure: whatever disturbs a measurement makes it lower.
struct roofline roofline_better(const struct roofline *a, const struct roofline *b);

#endif
