// The next token from logits.
//
// Every filter keeps the best tokens down to some last one, so each is a search for that one: a bounded heap
// for top-k, a selection by mass for top-p, a logit for min-p; 262,144 logits are never sorted. The draw
// walks the kept tokens in the order of their ids, whatever way they were found. Probabilities of the filters
// are those at temperature 1 after top-k; the temperature applies to the draw.
#include "core/sampler.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEMPERATURE 100.0f
#define MAX_REPETITION_PENALTY 100.0f
#define MAX_REPETITION_WINDOW (1u << 20) // the largest context of the family is 262,144

struct candidate {
    double weight;
    float logit;
    int32_t id;
};

// Which tokens were accepted, how often within the window, and in a list those that were at all.
struct history {
    int32_t *ring; // the window; NULL if it has no end
    uint32_t window, n_ring, next;
    uint32_t *counts; // [vocab]
    uint32_t *places; // [vocab] in `seen`, of those with a count
    int32_t *seen;    // [vocab]
    uint32_t n_seen;
};

struct sampler {
    struct lode_sampling options;
    uint32_t vocab_size;
    uint64_t random[4], pivot_random;
    struct lode_logit_bias *biases;
    float *logits;                // [vocab] with biases and penalty
    struct candidate *candidates; // [vocab]; NULL if greedy
    struct history history;       // empty if the penalty is off
};

// ---- options ----

static bool is_within(float value, float low, float high)
{
    return value >= low && value <= high; // false for NaN
}

static int check_biases(const struct lode_sampling *options, uint32_t vocab_size, struct lode_error *error)
{
    if (options->n_biases && !options->biases)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%zu logit biases are announced, but none are given",
                         options->n_biases);
    for (size_t i = 0; i < options->n_biases; i++) {
        const struct lode_logit_bias bias = options->biases[i];
        if (bias.id < 0 || (uint32_t)bias.id >= vocab_size)
            return lode_fail(error, LODE_ERR_ARGUMENT, "logit bias %zu is for token %d: ids go from 0 to %u",
                             i, bias.id, vocab_size - 1);
        if (isnan(bias.bias) || bias.bias == INFINITY)
            return lode_fail(error, LODE_ERR_ARGUMENT,
                             "logit bias of token %d is %g: it must be finite, or -inf to ban the token",
                             bias.id, (double)bias.bias);
    }
    return 0;
}

static int check_options(const struct lode_sampling *options, uint32_t vocab_size, struct lode_error *error)
{
    if (!vocab_size || vocab_size > INT32_MAX)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a vocabulary of %u tokens cannot be sampled from",
                         vocab_size);
    if (!is_within(options->temperature, 0, MAX_TEMPERATURE))
        return lode_fail(error, LODE_ERR_ARGUMENT, "temperature is %g: it must be from 0 (greedy) to %g",
                         (double)options->temperature, (double)MAX_TEMPERATURE);
    if (!is_within(options->top_p, 0, 1))
        return lode_fail(error, LODE_ERR_ARGUMENT, "top-p is %g: it must be from 0 to 1 (off)",
                         (double)options->top_p);
    if (!is_within(options->min_p, 0, 1))
        return lode_fail(error, LODE_ERR_ARGUMENT, "min-p is %g: it must be from 0 (off) to 1",
                         (double)options->min_p);
    if (!is_within(options->repetition_penalty, FLT_MIN, MAX_REPETITION_PENALTY))
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "repetition penalty is %g: it must be above 0 and at most %g; 1 is off",
                         (double)options->repetition_penalty, (double)MAX_REPETITION_PENALTY);
    if (options->repetition_window > MAX_REPETITION_WINDOW)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "repetition window is %u: it must be at most %u tokens, or 0 for all",
                         options->repetition_window, MAX_REPETITION_WINDOW);
    return check_biases(options, vocab_size, error);
}

static bool allocate(struct sampler *sampler)
{
    const struct lode_sampling *options = &sampler->options;
    const size_t vocab = sampler->vocab_size;
    struct history *history = &sampler->history;
    sampler->logits = malloc(vocab * sizeof *sampler->logits);
    bool ok = sampler->logits != NULL;
    if (options->temperature > 0)
        ok &= (sampler->candidates = malloc(vocab * sizeof *sampler->candidates)) != NULL;
    if (options->n_biases)
        ok &= (sampler->biases = calloc(options->n_biases, sizeof *sampler->biases)) != NULL;
    if (options->repetition_penalty == 1)
        return ok;
    history->window = options->repetition_window;
    ok &= (history->counts = malloc(vocab * sizeof *history->counts)) != NULL;
    ok &= (history->places = malloc(vocab * sizeof *history->places)) != NULL;
    ok &= (history->seen = malloc(vocab * sizeof *history->seen)) != NULL;
    if (history->window)
        ok &= (history->ring = malloc(history->window * sizeof *history->ring)) != NULL;
    return ok;
}

int sampler_create(struct sampler **out, const struct lode_sampling *options, uint32_t vocab_size,
                   struct lode_error *error)
{
    *out = NULL;
    int rc = check_options(options, vocab_size, error);
    if (rc)
        return rc;
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler) {
        sampler->options = *options;
        sampler->vocab_size = vocab_size;
    }
    if (!sampler || !allocate(sampler)) {
        sampler_free(sampler);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to sample from %u tokens", vocab_size);
    }
    if (options->n_biases)
        memcpy(sampler->biases, options->biases, options->n_biases * sizeof *sampler->biases);
    sampler->options.biases = sampler->biases;
    sampler_reset(sampler);
    *out = sampler;
    return 0;
}

void sampler_free(struct sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->biases);
    free(sampler->logits);
    free(sampler->candidates);
    free(sampler->history.ring);
    free(sampler->history.counts);
    free(sampler->history.places);
    free(sampler->history.seen);
    free(sampler);
}

// ---- random numbers ----

static uint64_t rotate_left(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

// splitmix64, which its authors recommend to fill the state of the generator below.
static uint64_t spread_seed(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// xoshiro256**; the upper 53 bits as a number in [0, 1).
static double next_uniform(uint64_t s[4])
{
    const uint64_t result = rotate_left(s[1] * 5, 7) * 9, shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

// ---- repetition ----

static void count_token(struct history *history, int32_t id)
{
    if (history->counts[id]++ == 0) {
        history->places[id] = history->n_seen;
        history->seen[history->n_seen++] = id;
    }
}

static void forget_token(struct history *history, int32_t id)
{
    if (--history->counts[id])
        return;
    const int32_t last = history->seen[--history->n_seen];
    history->seen[history->places[id]] = last;
    history->places[last] = history->places[id];
}

void sampler_accept(struct sampler *sampler, int32_t id)
{
    struct history *history = &sampler->history;
    if (!history->counts || id < 0 || (uint32_t)id >= sampler->vocab_size)
        return;
    if (history->window) {
        if (history->n_ring == history->window)
            forget_token(history, history->ring[history->next]);
        else
            history->n_ring++;
        history->ring[history->next] = id;
        history->next = history->next + 1 == history->window ? 0 : history->next + 1;
    }
    count_token(history, id);
}

void sampler_reset(struct sampler *sampler)
{
    struct history *history = &sampler->history;
    uint64_t seed = sampler->options.seed;
    for (size_t i = 0; i < 4; i++)
        sampler->random[i] = spread_seed(&seed);
    sampler->pivot_random = 0;
    history->n_ring = history->next = history->n_seen = 0;
    if (history->counts)
        memset(history->counts, 0, sampler->vocab_size * sizeof *history->counts);
}

// ---- logits ----

// Finite or -inf, so that sums and differences are numbers.
static float bounded(float logit)
{
    logit = logit != logit ? -INFINITY : logit;
    return logit > FLT_MAX ? FLT_MAX : logit;
}

static void adjust_logits(struct sampler *sampler, const float *logits)
{
    const struct lode_sampling *options = &sampler->options;
    float *adjusted = sampler->logits;
    for (uint32_t i = 0; i < sampler->vocab_size; i++)
        adjusted[i] = bounded(logits[i]);
    for (size_t i = 0; i < options->n_biases; i++) {
        float *logit = &adjusted[options->biases[i].id];
        *logit = bounded(*logit + options->biases[i].bias);
    }
    for (uint32_t i = 0; i < sampler->history.n_seen; i++) {
        float *logit = &adjusted[sampler->history.seen[i]];
        const float penalty = options->repetition_penalty;
        *logit = bounded(*logit > 0 ? *logit / penalty : *logit * penalty);
    }
}

static int32_t largest_logit(const float *logits, uint32_t n)
{
    int32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    return best;
}

// ---- filters ----

static bool ranks_before(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void swap_candidates(struct candidate *a, struct candidate *b)
{
    const struct candidate other = *a;
    *a = *b;
    *b = other;
}

// The heap's root is the candidate that ranks last.
static void sift_down(struct candidate *heap, uint32_t n, uint32_t i)
{
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && ranks_before(&heap[child], &heap[child + 1]))
            child++;
        if (ranks_before(&heap[child], &heap[i]))
            return;
        swap_candidates(&heap[i], &heap[child]);
    }
}

// The k best tokens, not in order; fewer if fewer are possible.
static uint32_t select_top_k(struct sampler *sampler, uint32_t k)
{
    struct candidate *heap = sampler->candidates;
    uint32_t n = 0;
    for (uint32_t i = 0; i < sampler->vocab_size; i++) {
        const struct candidate candidate = {.logit = sampler->logits[i], .id = (int32_t)i};
        if (n < k && candidate.logit > -INFINITY) {
            heap[n++] = candidate;
            for (uint32_t root = n == k ? k / 2 : 0; root-- > 0;)
                sift_down(heap, k, root);
        } else if (n == k && candidate.logit > heap[0].logit) { // on ties the lower id stays
            heap[0] = candidate;
            sift_down(heap, k, 0);
        }
    }
    return n;
}

// The tokens that rank up to `last`, in the order of their ids; without `last`, all that are possible.
static uint32_t gather(struct sampler *sampler, const struct candidate *last)
{
    const float lowest = last ? last->logit : -FLT_MAX;
    const int32_t last_id = last ? last->id : INT32_MAX;
    uint32_t n = 0;
    for (uint32_t i = 0; i < sampler->vocab_size; i++) {
        const float logit = sampler->logits[i];
        if (logit > lowest || (logit == lowest && (int32_t)i <= last_id))
            sampler->candidates[n++] = (struct candidate){.logit = logit, .id = (int32_t)i};
    }
    return n;
}

static double weigh(struct candidate *candidates, uint32_t n, float largest, float temperature)
{
    double total = 0;
    for (uint32_t i = 0; i < n; i++) {
        candidates[i].weight = exp(((double)candidates[i].logit - (double)largest) / (double)temperature);
        total += candidates[i].weight;
    }
    return total;
}

static uint32_t keep_min_p(struct candidate *candidates, uint32_t n, double min_p)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (candidates[i].weight >= min_p) // weights are relative to the largest
            candidates[kept++] = candidates[i];
    return kept;
}

// Moves those that rank before the pivot to the front and returns where it ends up.
static uint32_t partition(struct candidate *candidates, uint32_t begin, uint32_t end, uint32_t pivot)
{
    swap_candidates(&candidates[pivot], &candidates[end - 1]);
    uint32_t place = begin;
    for (uint32_t i = begin; i < end - 1; i++)
        if (ranks_before(&candidates[i], &candidates[end - 1]))
            swap_candidates(&candidates[i], &candidates[place++]);
    swap_candidates(&candidates[place], &candidates[end - 1]);
    return place;
}

// The least number of best candidates that weigh `target` or more together; they are moved to the front, the
// one that ranks last at their end. A quickselect that counts weights, with random pivots against inputs in
// bad order.
static uint32_t keep_mass(struct sampler *sampler, uint32_t n, double target)
{
    struct candidate *candidates = sampler->candidates;
    uint32_t begin = 0, end = n;
    double before = 0; // weight of those in front of `begin`, all of which are kept
    while (begin < end) {
        const uint32_t pivot = begin + (uint32_t)(spread_seed(&sampler->pivot_random) % (end - begin));
        const uint32_t place = partition(candidates, begin, end, pivot);
        double better = before;
        for (uint32_t i = begin; i < place; i++)
            better += candidates[i].weight;
        if (better >= target) {
            end = place;
        } else if (better + candidates[place].weight >= target) {
            return place + 1;
        } else {
            before = better + candidates[place].weight;
            begin = place + 1;
        }
    }
    return end > 0 ? end : 1;
}

// Drops the tail if what is above a cut has the mass already, so that the selection moves hundreds of
// candidates instead of all 262,144.
static uint32_t drop_tail(struct candidate *candidates, uint32_t n, double target)
{
    for (double cut = 1e-2; cut > 1e-7; cut *= 1e-2) {
        double mass = 0;
        for (uint32_t i = 0; i < n; i++)
            mass += candidates[i].weight >= cut ? candidates[i].weight : 0;
        if (mass >= target)
            return keep_min_p(candidates, n, cut);
    }
    return n;
}

static struct candidate last_ranked(const struct candidate *candidates, uint32_t n)
{
    struct candidate last = candidates[0];
    for (uint32_t i = 1; i < n; i++)
        if (ranks_before(&last, &candidates[i]))
            last = candidates[i];
    return last;
}

// Fills the candidates with the tokens that may be drawn, in the order of their ids.
static uint32_t filter(struct sampler *sampler, float largest)
{
    const struct lode_sampling *options = &sampler->options;
    const bool has_top_k = options->top_k && options->top_k < sampler->vocab_size;
    uint32_t n = has_top_k ? select_top_k(sampler, options->top_k) : gather(sampler, NULL);
    if (options->top_p < 1 || options->min_p > 0) {
        const double total = weigh(sampler->candidates, n, largest, 1);
        if (options->min_p > 0)
            n = keep_min_p(sampler->candidates, n, (double)options->min_p);
        if (options->top_p < 1) {
            const double target = fmax((double)options->top_p * total, DBL_MIN);
            n = keep_mass(sampler, drop_tail(sampler->candidates, n, target), target);
        }
    } else if (!has_top_k) {
        return n;
    }
    const struct candidate last = last_ranked(sampler->candidates, n);
    return gather(sampler, &last);
}

// If nothing is possible (all banned, all NaN), the answer is token 0, as greedy sampling has it.
int32_t sampler_next(struct sampler *sampler, const float *logits)
{
    adjust_logits(sampler, logits);
    const int32_t best = largest_logit(sampler->logits, sampler->vocab_size);
    const float largest = sampler->logits[best];
    if (sampler->options.temperature == 0)
        return best;
    const double uniform = next_uniform(sampler->random);
    if (largest == -INFINITY)
        return best;
    const uint32_t n = filter(sampler, largest);
    double left = uniform * weigh(sampler->candidates, n, largest, sampler->options.temperature);
    for (uint32_t i = 0; i < n; i++) {
        left -= sampler->candidates[i].weight;
        if (left < 0)
            return sampler->candidates[i].id;
    }
    return best; // the weights' sum was rounded up
}
