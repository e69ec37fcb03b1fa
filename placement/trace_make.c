// Passes of made-up tokens, in the order of the engine: a prompt layer by layer in steps, then token by
// token.
#include "placement/trace_make.h"

#include "placement/trace_popularity.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Of a prompt; as the engine does it by default.
enum { STEP_TOKENS = 512 };
#define WEIGHT_EXPONENT 43254 // 0.66 in 2^-16
#define MAX_POSITION UINT32_C(0x7fffffff)

// What random numbers are for: each use has its own, so that guesses do not change choices.
enum { FOR_CHOICES = 1, FOR_GUESSES, FOR_ORDERS };

struct maker {
    const struct trace_make *make;
    struct trace_popularity popularity;
    struct trace_writer *writer;
    struct trace_chosen *chosen; // [n_layers]
    uint16_t *orders;            // [n_topics][n_layers][n_experts] the expert at a rank of popularity
    uint32_t guess_chance;       // in 2^-16
    float weights[TRACE_MAX_USED];
    uint64_t choices, guesses; // states of random numbers
};

static uint64_t random_for(uint64_t seed, uint64_t use, uint64_t index)
{
    uint64_t state = seed ^ use << 56 ^ index << 20;
    return trace_popularity_random(&state);
}

// ---- the start
// -----------------------------------------------------------------------------------------------

static int check(const struct trace_make *make, struct lode_error *error)
{
    const uint64_t positions = (uint64_t)make->n_prompt_tokens + make->n_tokens;
    if (make->n_layers < 1 || make->n_layers > TRACE_MAX_LAYERS || make->n_experts < 2 ||
        make->n_experts > TRACE_MAX_EXPERTS || make->n_used < 1 || make->n_used > TRACE_MAX_USED)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%u layers that choose %u of %u experts are not possible in a trace", make->n_layers,
                         make->n_used, make->n_experts);
    if (make->n_used > make->n_experts / 2)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "a token may choose up to half of the experts: %u of %u, not %u",
                         make->n_experts / 2, make->n_experts, make->n_used);
    if (positions < 1 || positions > MAX_POSITION || make->n_conversations < 1)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%u conversations of %" PRIu64 " tokens make no trace",
                         make->n_conversations, positions);
    if (make->n_topics < 1 || make->n_topics > TRACE_MAKE_MAX_TOPICS ||
        make->n_topics > make->n_conversations)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "%u topics need as many conversations, and %u are the most", make->n_topics,
                         TRACE_MAKE_MAX_TOPICS);
    if (!(make->skew >= 0 && make->skew <= 4) || !(make->reuse <= 0.99) || !(make->guess_precision <= 1))
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "skew is from 0 to 4, reuse up to 0.99, and the precision of guesses up to 1");
    return 0;
}

// Each order anew from all of them (Fisher and Yates).
static void shuffle_orders(struct maker *m)
{
    const uint32_t n = m->make->n_experts, orders = m->make->n_topics * m->make->n_layers;
    for (uint32_t o = 0; o < orders; o++) {
        uint16_t *order = m->orders + (size_t)o * n;
        uint64_t random = random_for(m->make->seed, FOR_ORDERS, o);
        for (uint32_t e = 0; e < n; e++) {
            const uint32_t at =
                (uint32_t)((unsigned __int128)trace_popularity_random(&random) * (e + 1) >> 64);
            order[e] = order[at];
            order[at] = (uint16_t)e;
        }
    }
}

static void set_weights(struct maker *m)
{
    uint64_t powers[TRACE_MAX_USED], sum = 0;
    for (uint32_t r = 0; r < m->make->n_used; r++) {
        powers[r] = trace_popularity_power(r, WEIGHT_EXPONENT) >> 10; // the sum of 64 stays below 2^58
        sum += powers[r];
    }
    for (uint32_t r = 0; r < m->make->n_used; r++)
        m->weights[r] = (float)((double)powers[r] / (double)sum);
}

// Words as those of recorded runs. A model's name stands for layers and experts: traces of other skews go
// together with this one.
static void describe(struct trace_header *header, const struct trace_make *make)
{
    memset(header, 0, sizeof *header);
    header->known = TRACE_HAS_WEIGHTS;
    header->n_layers = make->n_layers;
    for (uint32_t l = 0; l < make->n_layers; l++)
        header->layers[l] = (struct trace_layer){make->n_experts, make->n_used, make->expert_bytes};
    snprintf(header->model, sizeof header->model, "made up: %u layers, %u of %u experts", make->n_layers,
             make->n_used, make->n_experts);
    snprintf(header->lode_version, sizeof header->lode_version, "%s", make->lode_version);
    int n = snprintf(
        header->options, sizeof header->options,
        "made-up layers=%u experts=%u used=%u tokens=%u prompt=%u conversations=%u topics=%u skew=%g",
        make->n_layers, make->n_experts, make->n_used, make->n_tokens, make->n_prompt_tokens,
        make->n_conversations, make->n_topics, make->skew);
    if (make->reuse >= 0)
        n += snprintf(header->options + n, sizeof header->options - (size_t)n, " reuse=%g", make->reuse);
    if (make->guess_precision >= 0)
        n += snprintf(header->options + n, sizeof header->options - (size_t)n, " guess-precision=%g",
                      make->guess_precision);
    snprintf(header->options + n, sizeof header->options - (size_t)n, " seed=%" PRIu64, make->seed);
}

static int open_maker(struct maker *m, const char *path, struct lode_error *error)
{
    const struct trace_make *make = m->make;
    int code =
        trace_popularity_open(&m->popularity, make->n_experts, make->n_used, make->skew, make->reuse, error);
    if (code)
        return code;
    m->chosen = calloc(make->n_layers, sizeof *m->chosen);
    m->orders = calloc((size_t)make->n_topics * make->n_layers, make->n_experts * sizeof *m->orders);
    struct trace_header *header = malloc(sizeof *header);
    if (!m->chosen || !m->orders || !header)
        code = lode_fail(error, LODE_ERR_MEMORY, "no memory to make a trace");
    if (!code) {
        shuffle_orders(m);
        set_weights(m);
        m->guess_chance = make->guess_precision >= 0 ? (uint32_t)(make->guess_precision * 65536 + 0.5) : 0;
        describe(header, make);
        code = trace_writer_open(&m->writer, path, header, error);
    }
    free(header);
    return code;
}

// ---- tokens
// --------------------------------------------------------------------------------------------------

static void guess(struct maker *m, const uint16_t *order, uint32_t layer, uint32_t token)
{
    const struct trace_chosen *chosen = &m->chosen[layer];
    const uint32_t k = m->make->n_used;
    uint32_t taken[2 * TRACE_MAX_USED], n = k;
    int32_t experts[TRACE_MAX_USED];
    memcpy(taken, chosen->sorted, k * sizeof *taken);
    for (uint32_t i = 0; i < k; i++) {
        uint32_t rank = chosen->ranks[i];
        if ((trace_popularity_random(&m->guesses) & 0xffff) >= m->guess_chance) {
            rank = trace_popularity_draw(&m->popularity, taken, n, &m->guesses);
            trace_popularity_insert(taken, n++, rank);
        }
        experts[i] = order[rank];
    }
    trace_guess(m->writer, layer, token, experts, k);
}

static void make_pass(struct maker *m, uint32_t topic, uint32_t first, uint32_t n, enum trace_phase phase)
{
    const struct trace_make *make = m->make;
    int32_t experts[TRACE_MAX_USED];
    trace_pass_begin(m->writer, phase, first, n, 0);
    for (uint32_t l = 0; l < make->n_layers; l++) {
        const uint16_t *order = m->orders + ((size_t)topic * make->n_layers + l) * make->n_experts;
        for (uint32_t t = 0; t < n; t++) {
            trace_popularity_choose(&m->chosen[l], &m->popularity, first + t == 0, &m->choices);
            for (uint32_t i = 0; i < make->n_used; i++)
                experts[i] = order[m->chosen[l].ranks[i]];
            if (make->guess_precision >= 0)
                guess(m, order, l, t);
            trace_choice(m->writer, l, t, experts, m->weights, make->n_used, 0, 0);
        }
    }
    trace_pass_end(m->writer, 0, 0);
}

static void make_conversation(struct maker *m, uint32_t conversation)
{
    const struct trace_make *make = m->make;
    const uint32_t topic = conversation % make->n_topics;
    char domain[TRACE_DOMAIN_SIZE];
    snprintf(domain, sizeof domain, "topic-%u", topic + 1);
    trace_conversation(m->writer, domain, TRACE_PART_NONE);
    m->choices = random_for(make->seed, FOR_CHOICES, conversation);
    m->guesses = random_for(make->seed, FOR_GUESSES, conversation);
    uint32_t at = 0;
    while (at < make->n_prompt_tokens) {
        const uint32_t left = make->n_prompt_tokens - at, n = left < STEP_TOKENS ? left : STEP_TOKENS;
        make_pass(m, topic, at, n, TRACE_PREFILL);
        at += n;
    }
    for (uint32_t t = 0; t < make->n_tokens; t++)
        make_pass(m, topic, at + t, 1, TRACE_DECODE);
}

int trace_make(const char *path, const struct trace_make *make, struct lode_error *error)
{
    struct maker m = {.make = make};
    int code = check(make, error);
    if (!code)
        code = open_maker(&m, path, error);
    if (!code) {
        for (uint32_t c = 0; c < make->n_conversations && !trace_writer_failed(m.writer); c++)
            make_conversation(&m, c);
        code = trace_writer_close(m.writer, error);
        struct stat status;
        if (code && lstat(path, &status) == 0 && S_ISREG(status.st_mode))
            unlink(path);
    }
    trace_popularity_close(&m.popularity);
    free(m.chosen);
    free(m.orders);
    return code;
}
