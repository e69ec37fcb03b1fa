// What this machine can do at best: the rate at which threads read memory, and at which they multiply and
// add.
#ifndef LODE_BENCH_ROOFLINE_H
#define LODE_BENCH_ROOFLINE_H

#include "backends/cpu/isa.h"

#include <stdint.h>

struct roofline {
    double read_gbps;
    double float_gflops; // with the instructions that the ISA's kernels for float weights use
    double int8_gflops;  // with those for quantised weights; a multiply-add counts as two
};

double seconds_now(void);

// Takes about a second. The portable kernels have no peak of their own: both are 0.
struct roofline measure_roofline(enum cpu_isa isa, uint32_t threads);

#endif
