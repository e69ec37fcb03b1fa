// Which experts of a layer a GPU shall compute that are in the memory of the host: copying one over the link
// takes the same time whatever it is used for, computing it on the host grows with the rows that chose it.
#ifndef LODE_EXPERT_SPLIT_H
#define LODE_EXPERT_SPLIT_H

#include <stdint.h>

#define EXPERT_RATE_POINTS 8

// Nanoseconds that a device takes for one expert by the rows that meet it, linear between points and beyond
// the last; and, of a GPU, that its copy takes on the link.
struct expert_rates {
    uint32_t n_points; // 0: not known
    double rows[EXPERT_RATE_POINTS], ns[EXPERT_RATE_POINTS];
    double upload_ns;
};

double expert_rate_ns(const struct expert_rates *rates, double rows);

// Chooses how many of n experts, sorted by falling n_tokens, go to the GPU (the first ones) so that
//
//   max(host: sum of the rest, GPU: gpu_busy_ns + what it computes, none before its copy, link: sum of
//   copies)
//
// is least. At most `most` (the GPU's room for them). 0 where rates are not known or nothing is gained.
uint32_t expert_split(const struct expert_rates *host, const struct expert_rates *gpu, double gpu_busy_ns,
                      const uint32_t *n_tokens, uint32_t n, uint32_t most);

#endif
