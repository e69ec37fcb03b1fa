// The rate at which threads read memory that is in no cache: what decode is held against.
#ifndef LODE_READ_BANDWIDTH_H
#define LODE_READ_BANDWIDTH_H

#include "base/lode_error.h"

#include <stdint.h>

// GB/s (10^9) of `threads` threads, the caller one of them; the best of many passes, in about a third of a
// second. `at_most_bytes` bounds the memory that is taken for it, and given back; 0: 256 MiB, more for many
// threads. Below a few times the size of the last-level cache the figure is that of the cache.
int read_bandwidth_measure(double *out_gbps, uint32_t threads, uint64_t at_most_bytes,
                           struct lode_error *error);

#endif
