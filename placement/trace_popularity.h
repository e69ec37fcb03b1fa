// Experts that are chosen by Zipf's law, several different ones for each token, some of them kept from the
// token before: what made-up traces are drawn from. Integers only, so that a seed gives the same choices on
// every machine.
//
// Ranks are numbered from 0, the most popular first. A token's set A of k ranks comes up with a probability
// in proportion to the product of their weights (r + 1)^-a (conditional Poisson sampling). Since they are
// different, the most popular can at most be in every token, and counts are flatter than the weights: `a` is
// made larger until the counts have the exponent that is asked for, as trace_zipf finds it.
#ifndef LODE_TRACE_POPULARITY_H
#define LODE_TRACE_POPULARITY_H

#include "base/lode_error.h"
#include "placement/trace.h"

#include <stdbool.h>
#include <stdint.h>

struct trace_popularity {
    uint32_t n_experts, n_used;
    uint32_t keep;    // chance in 2^-16 that a token keeps a rank of the token before
    uint64_t *before; // [n_experts + 1] sum of the weights of more popular ranks, 2^50 for the first
};

// What one layer chose last, best first, and the same in the order of popularity.
struct trace_chosen {
    uint32_t ranks[TRACE_MAX_USED], sorted[2 * TRACE_MAX_USED];
};

// skew: exponent of the counts; reuse: share of a token's experts that the token before chose too, negative:
// what popularity alone makes of it. 0 < n_used <= n_experts / 2. LODE_ERR_ARGUMENT where no choice of n_used
// different experts has them, and the text says what would do. Takes tens of milliseconds.
int trace_popularity_open(struct trace_popularity *out, uint32_t n_experts, uint32_t n_used, double skew,
                          double reuse, struct lode_error *error);
void trace_popularity_close(struct trace_popularity *popularity);

// The next token's choice; the first of a conversation keeps nothing.
void trace_popularity_choose(struct trace_chosen *inout, const struct trace_popularity *popularity,
                             bool first, uint64_t *random);

// A rank that is none of `taken` (n of them in rising order), by popularity.
uint32_t trace_popularity_draw(const struct trace_popularity *popularity, const uint32_t *taken, uint32_t n,
                               uint64_t *random);

// Puts a rank among n that stand in rising order.
void trace_popularity_insert(uint32_t *sorted, uint32_t n, uint32_t rank);

// 2^-62 of (r + 1)^-(exponent / 2^16), for ranks below TRACE_MAX_EXPERTS and exponents up to 8.
uint64_t trace_popularity_power(uint32_t rank, uint32_t exponent);

uint64_t trace_popularity_random(uint64_t *state); // splitmix64

#endif
