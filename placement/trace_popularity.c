// Draws, and the search for the weights that give the counts that are asked for, by trial: a few thousand
// tokens are chosen with each candidate.
#include "placement/trace_popularity.h"

#include <stdlib.h>
#include <string.h>

// Experts of a trial's tokens are counted: 4,096 tokens leave the mean of log2(rank) uncertain by less than
// 0.01 bits and reuse by 0.3%.
enum { TRIAL_TOKENS = 4096, WEIGHT_BITS = 50, ROOTS = 32, SWEEPS = 3 };
#define ONE (1u << 16)
#define STEEPEST (8 * ONE) // weights below 2^-50 of the first are all the same
#define NEAR_REUSE 0.005

typedef unsigned __int128 wide;

// ---- numbers
// -------------------------------------------------------------------------------------------------

uint64_t trace_popularity_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// In 2^-32; x > 0. A bit of the result for each squaring.
static uint64_t log2_of(uint32_t x)
{
    const uint32_t whole = 31 - (uint32_t)__builtin_clz(x);
    uint64_t y = (uint64_t)x << (62 - whole), fraction = 0; // y in 2^-62, from 1 to below 2
    for (int i = 0; i < 32; i++) {
        y = (uint64_t)((wide)y * y >> 62);
        fraction = fraction << 1 | y >> 63;
        y >>= y >> 63;
    }
    return (uint64_t)whole << 32 | fraction;
}

static uint64_t root_of(wide x)
{
    uint64_t root = 0;
    for (int bit = 62; bit >= 0; bit--) {
        const uint64_t more = root | UINT64_C(1) << bit;
        root = (wide)more * more <= x ? more : root;
    }
    return root;
}

// 2^-1/2, 2^-1/4, 2^-1/8 …, in 2^-62.
static void make_roots(uint64_t roots[ROOTS])
{
    uint64_t root = UINT64_C(1) << 61;
    for (int i = 0; i < ROOTS; i++)
        roots[i] = root = root_of((wide)root << 62);
}

static uint64_t power_of(const uint64_t roots[ROOTS], uint32_t rank, uint32_t exponent)
{
    const uint64_t x = (uint64_t)((wide)log2_of(rank + 1) * exponent >> 16); // the result is 2^-x
    uint64_t y = UINT64_C(1) << 62;
    for (int i = 0; i < ROOTS; i++)
        if (x >> (31 - i) & 1)
            y = (uint64_t)((wide)y * roots[i] >> 62);
    return x >> 32 < 63 ? y >> (x >> 32) : 0;
}

uint64_t trace_popularity_power(uint32_t rank, uint32_t exponent)
{
    uint64_t roots[ROOTS];
    make_roots(roots);
    return power_of(roots, rank, exponent);
}

// ---- draws
// ---------------------------------------------------------------------------------------------------

void trace_popularity_insert(uint32_t *sorted, uint32_t n, uint32_t rank)
{
    while (n > 0 && sorted[n - 1] > rank) {
        sorted[n] = sorted[n - 1];
        n--;
    }
    sorted[n] = rank;
}

static void drop(uint32_t *sorted, uint32_t n, uint32_t rank)
{
    uint32_t at = 0;
    while (sorted[at] != rank)
        at++;
    memmove(sorted + at, sorted + at + 1, (n - at - 1) * sizeof *sorted);
}

uint32_t trace_popularity_draw(const struct trace_popularity *p, const uint32_t *taken, uint32_t n,
                               uint64_t *random)
{
    uint64_t rest = p->before[p->n_experts];
    for (uint32_t i = 0; i < n; i++)
        rest -= p->before[taken[i] + 1] - p->before[taken[i]];
    // A place on the line of the weights from which those of the taken ranks are cut out.
    uint64_t at = (uint64_t)((wide)trace_popularity_random(random) * rest >> 64);
    for (uint32_t i = 0; i < n && at >= p->before[taken[i]]; i++)
        at += p->before[taken[i] + 1] - p->before[taken[i]];
    uint32_t low = 0, high = p->n_experts;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        *(p->before[middle] <= at ? &low : &high) = middle;
    }
    return low;
}

// What is not kept is drawn one after the other, which favours the popular a little too much, and then each
// again given all others, which leads to the distribution of the head.
void trace_popularity_choose(struct trace_chosen *c, const struct trace_popularity *p, bool first,
                             uint64_t *random)
{
    bool drawn[TRACE_MAX_USED];
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_used; i++) {
        drawn[i] = first || (trace_popularity_random(random) & 0xffff) >= p->keep;
        if (!drawn[i])
            trace_popularity_insert(c->sorted, n++, c->ranks[i]);
    }
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (uint32_t i = 0; i < p->n_used; i++) {
            if (!drawn[i])
                continue;
            if (sweep > 0)
                drop(c->sorted, n--, c->ranks[i]);
            c->ranks[i] = trace_popularity_draw(p, c->sorted, n, random);
            trace_popularity_insert(c->sorted, n++, c->ranks[i]);
        }
}

// ---- trials
// --------------------------------------------------------------------------------------------------

struct trial {
    uint64_t mean_log; // of log2(rank), ranks from 1, in 2^-32
    double reuse;
};

static void set_weights(struct trace_popularity *p, const uint64_t roots[ROOTS], uint32_t exponent)
{
    for (uint32_t r = 0; r < p->n_experts; r++) {
        const uint64_t weight = power_of(roots, r, exponent) >> (62 - WEIGHT_BITS);
        p->before[r + 1] = p->before[r] + (weight ? weight : 1);
    }
}

// Of Zipf's law itself, as trial.mean_log.
static uint64_t zipf_mean_log(uint32_t n_experts, const uint64_t roots[ROOTS], uint32_t exponent)
{
    wide sum = 0, mass = 0;
    for (uint32_t r = 0; r < n_experts; r++) {
        const uint64_t weight = power_of(roots, r, exponent) >> (62 - WEIGHT_BITS);
        mass += weight;
        sum += (wide)weight * log2_of(r + 1);
    }
    return (uint64_t)(sum / mass);
}

static struct trial try_out(const struct trace_popularity *p)
{
    struct trace_chosen chosen = {0};
    uint32_t before[TRACE_MAX_USED];
    uint64_t random = 1, logs = 0, reused = 0;
    for (uint32_t t = 0; t < TRIAL_TOKENS; t++) {
        memcpy(before, chosen.sorted, p->n_used * sizeof *before);
        trace_popularity_choose(&chosen, p, t == 0, &random);
        for (uint32_t i = 0, j = 0; i < p->n_used; i++) {
            logs += log2_of(chosen.sorted[i] + 1);
            while (j < p->n_used && before[j] < chosen.sorted[i])
                j++;
            reused += t > 0 && j < p->n_used && before[j] == chosen.sorted[i];
        }
    }
    return (struct trial){logs / ((uint64_t)TRIAL_TOKENS * p->n_used),
                          (double)reused / ((double)(TRIAL_TOKENS - 1) * p->n_used)};
}

static int find_weights(struct trace_popularity *p, const uint64_t roots[ROOTS], double skew,
                        struct lode_error *error)
{
    const uint32_t wanted = (uint32_t)(skew * ONE + 0.5);
    uint32_t low = wanted, high = STEEPEST;
    set_weights(p, roots, low);
    if (wanted == 0)
        return 0;
    const uint64_t wanted_log = zipf_mean_log(p->n_experts, roots, wanted);
    set_weights(p, roots, high);
    const uint64_t least_log = try_out(p).mean_log;
    if (least_log > wanted_log) {
        uint32_t most = 0, beyond = wanted;
        while (beyond - most > ONE / 100) {
            const uint32_t middle = (most + beyond) / 2;
            *(zipf_mean_log(p->n_experts, roots, middle) > least_log ? &most : &beyond) = middle;
        }
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a skew of %g is out of reach where a token chooses %u different experts of %u: "
                         "%.2f at most",
                         skew, p->n_used, p->n_experts, (double)most / ONE);
    }
    while (high - low > ONE / 1000) {
        const uint32_t middle = (low + high) / 2;
        set_weights(p, roots, middle);
        *(try_out(p).mean_log > wanted_log ? &low : &high) = middle;
    }
    set_weights(p, roots, high);
    return 0;
}

static int find_keep(struct trace_popularity *p, double skew, double reuse, struct lode_error *error)
{
    const double by_chance = try_out(p).reuse;
    if (reuse < by_chance - NEAR_REUSE)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a reuse of %.1f%% is less than what a skew of %g makes by chance: %.1f%%",
                         100 * reuse, skew, 100 * by_chance);
    uint32_t low = 0, high = ONE;
    while (reuse > by_chance && high - low > ONE / 1000) {
        p->keep = (low + high) / 2;
        *(try_out(p).reuse < reuse ? &low : &high) = p->keep;
    }
    p->keep = low;
    return 0;
}

int trace_popularity_open(struct trace_popularity *out, uint32_t n_experts, uint32_t n_used, double skew,
                          double reuse, struct lode_error *error)
{
    uint64_t roots[ROOTS];
    *out = (struct trace_popularity){.n_experts = n_experts, .n_used = n_used};
    out->before = calloc(n_experts + 1, sizeof *out->before);
    if (!out->before)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the popularity of %u experts", n_experts);
    make_roots(roots);
    int code = find_weights(out, roots, skew, error);
    if (!code && reuse >= 0)
        code = find_keep(out, skew, reuse, error);
    if (code)
        trace_popularity_close(out);
    return code;
}

void trace_popularity_close(struct trace_popularity *popularity)
{
    free(popularity->before);
    popularity->before = NULL;
}
