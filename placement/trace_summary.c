// The figures of trace_summary.h, from arrays of choices. Layers are independent; within one, everything
// comes from one walk over its tokens and one for each window.
#include "placement/trace_summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Sums of one layer over all traces.
struct layer_sums {
    uint64_t pairs, reused, choices, resident, tokens;
    double lower_mass, mass;
    double window_sum[TRACE_N_WINDOWS];
    uint64_t windows[TRACE_N_WINDOWS];
};

struct summariser {
    struct trace_summary *out;
    const struct trace *trace; // of the moment
    double rank_mass[TRACE_MAX_USED];
    uint64_t rows_of_mass;
    uint64_t rank_guesses[TRACE_MAX_RANKS], rank_hits[TRACE_MAX_RANKS], guessed_choices;
    uint32_t *in_window; // [max_experts]
    uint64_t *sorted;    // [max_experts]
};

static uint32_t row_experts(const struct trace *t, uint32_t token, uint32_t m, const uint16_t **out)
{
    const uint16_t *experts = t->experts + ((size_t)token * t->n_moe + m) * t->n_used;
    uint32_t n = 0;
    while (n < t->n_used && experts[n] != TRACE_NO_EXPERT)
        n++;
    *out = experts;
    return n;
}

static bool contains(const uint16_t *experts, uint32_t n, uint16_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

// ---- one walk
// ------------------------------------------------------------------------------------------------

static void add_weights(struct summariser *s, struct layer_sums *sums, size_t row, uint32_t n)
{
    const struct trace *t = s->trace;
    if (!t->weights)
        return;
    const float *weights = t->weights + row * t->n_used;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)weights[i];
    if (!(sum > 0))
        return;
    for (uint32_t i = 0; i < n; i++) {
        s->rank_mass[i] += (double)weights[i] / sum;
        if (i >= (n + 1) / 2)
            sums->lower_mass += (double)weights[i] / sum;
    }
    sums->mass += 1;
    s->rows_of_mass++;
}

static void add_guess(struct summariser *s, size_t row, const uint16_t *experts, uint32_t n)
{
    const uint16_t *guess;
    const uint32_t ranks = trace_row_guess(s->trace, row, &guess);
    if (!ranks || !n)
        return;
    s->out->n_guesses++;
    s->guessed_choices += n;
    for (uint32_t r = 0; r < ranks; r++) {
        s->rank_guesses[r]++;
        s->rank_hits[r] += contains(experts, n, guess[r]);
    }
    if (ranks > s->out->n_ranks)
        s->out->n_ranks = ranks;
}

static void add_token(struct summariser *s, struct layer_sums *sums, uint32_t token, uint32_t m)
{
    const struct trace *t = s->trace;
    const struct trace_token *at = &t->tokens[token];
    struct trace_phase_summary *phase = &s->out->phases[t->passes[at->pass].phase];
    const uint16_t *experts, *before = NULL;
    const uint32_t n = row_experts(t, token, m, &experts);
    const size_t row = (size_t)token * t->n_moe + m;
    uint32_t n_before = 0;
    if (!n)
        return;
    if (token > 0 && t->tokens[token - 1].conversation == at->conversation &&
        t->tokens[token - 1].position + 1 == at->position)
        n_before = row_experts(t, token - 1, m, &before);
    uint32_t reused = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->out->counts[(size_t)m * s->out->max_experts + experts[i]]++;
        reused += n_before && contains(before, n_before, experts[i]);
    }
    const uint32_t pairs = n_before ? n : 0;
    const uint32_t resident = t->resident ? (uint32_t)__builtin_popcountll(t->resident[row]) : 0;
    sums->tokens++;
    sums->choices += n;
    sums->pairs += pairs;
    sums->reused += reused;
    sums->resident += resident;
    phase->n_choices += n;
    phase->n_pairs += pairs;
    phase->n_reused += reused;
    phase->n_resident += resident;
    add_weights(s, sums, row, n);
    add_guess(s, row, experts, n);
}

// ---- windows
// -------------------------------------------------------------------------------------------------

// Slides over stretches of tokens that follow each other in one conversation.
static void add_windows(struct summariser *s, struct layer_sums *sums, uint32_t m, uint32_t w)
{
    const struct trace *t = s->trace;
    const uint32_t length = 1u << w;
    uint32_t distinct = 0, first = 0;
    memset(s->in_window, 0, s->out->max_experts * sizeof *s->in_window);
    for (uint32_t token = 0; token < t->n_tokens; token++) {
        const uint16_t *experts;
        uint32_t n = row_experts(t, token, m, &experts);
        const bool follows = token > first && n &&
                             t->tokens[token - 1].conversation == t->tokens[token].conversation &&
                             t->tokens[token - 1].position + 1 == t->tokens[token].position;
        if (!follows) {
            memset(s->in_window, 0, s->out->max_experts * sizeof *s->in_window);
            distinct = 0;
            first = n ? token : token + 1;
        }
        for (uint32_t i = 0; i < n; i++)
            distinct += s->in_window[experts[i]]++ == 0;
        if (token + 1 - first < length || !n)
            continue;
        sums->window_sum[w] += distinct;
        sums->windows[w]++;
        n = row_experts(t, first++, m, &experts);
        for (uint32_t i = 0; i < n; i++)
            distinct -= --s->in_window[experts[i]] == 0;
    }
}

// ---- figures
// -------------------------------------------------------------------------------------------------

double trace_zipf(const uint64_t *counts, uint32_t n)
{
    double total = 0, mean_log = 0;
    for (uint32_t r = 0; r < n; r++) {
        total += (double)counts[r];
        mean_log += (double)counts[r] * log(r + 1.0);
    }
    if (total <= 0 || n < 2)
        return 0;
    mean_log /= total;
    // The likelihood is greatest where the model's mean of log(rank), which falls with s, is that of the
    // counts.
    double low = 0, high = 10;
    for (int step = 0; step < 60; step++) {
        const double s = (low + high) / 2;
        double mass = 0, sum = 0;
        for (uint32_t r = 0; r < n; r++) {
            const double p = pow(r + 1.0, -s);
            mass += p;
            sum += p * log(r + 1.0);
        }
        *(sum / mass > mean_log ? &low : &high) = s;
    }
    return (low + high) / 2;
}

static int more_first(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

static void find_hottest(struct trace_layer_summary *layer, const uint64_t *counts)
{
    for (int i = 0; i < 3; i++) {
        layer->hottest[i] = TRACE_NO_EXPERT;
        for (uint32_t e = 0; e < layer->n_experts; e++) {
            bool taken = counts[e] == 0;
            for (int j = 0; j < i; j++)
                taken |= layer->hottest[j] == e;
            if (!taken && counts[e] > layer->hottest_choices[i]) {
                layer->hottest[i] = e;
                layer->hottest_choices[i] = counts[e];
            }
        }
    }
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static void finish_layer(struct summariser *s, struct trace_layer_summary *layer, uint32_t m,
                         const struct layer_sums *sums)
{
    const uint64_t *counts = s->out->counts + (size_t)m * s->out->max_experts;
    struct trace_spread *spread = &layer->spread;
    const uint32_t n = layer->n_experts;
    const double total = (double)sums->choices, tokens = (double)sums->tokens;
    memcpy(s->sorted, counts, n * sizeof *counts);
    qsort(s->sorted, n, sizeof *s->sorted, more_first);
    double sum = 0;
    for (uint32_t r = 0; r < n; r++) {
        const double count = (double)s->sorted[r];
        sum += count;
        layer->n_chosen += count > 0;
        for (int i = 0; i < 3; i++)
            if (r + 1 == (n * TRACE_HOT_PERCENT[i] + 99) / 100)
                spread->hot[i] = ratio(sum, total);
        if (count > 0) {
            spread->entropy_bits -= count / total * log2(count / total);
            spread->reuse_by_chance += count / tokens * count / total;
        }
    }
    spread->zipf = trace_zipf(s->sorted, n);
    spread->reuse = ratio((double)sums->reused, (double)sums->pairs);
    spread->lower_half = ratio(sums->lower_mass, sums->mass);
    spread->hit_rate = s->out->known & TRACE_HAS_RESIDENCY ? ratio((double)sums->resident, total) : NAN;
    layer->n_tokens = sums->tokens;
    layer->n_choices = sums->choices;
    for (int w = 0; w < TRACE_N_WINDOWS; w++)
        layer->window[w] = ratio(sums->window_sum[w], (double)sums->windows[w]);
    find_hottest(layer, counts);
}

static void finish_means(struct summariser *s)
{
    struct trace_summary *out = s->out;
    struct trace_spread *mean = &out->mean;
    const double share = 1.0 / out->n_moe;
    for (uint32_t m = 0; m < out->n_moe; m++) {
        const struct trace_layer_summary *layer = &out->layers[m];
        const struct trace_spread *spread = &layer->spread;
        for (int i = 0; i < 3; i++)
            mean->hot[i] += share * spread->hot[i];
        mean->entropy_bits += share * spread->entropy_bits;
        mean->zipf += share * spread->zipf;
        mean->reuse += share * spread->reuse;
        mean->reuse_by_chance += share * spread->reuse_by_chance;
        mean->lower_half += share * spread->lower_half;
        mean->hit_rate += share * spread->hit_rate;
        for (int w = 0; w < TRACE_N_WINDOWS; w++) {
            out->window[w] += share * layer->window[w];
            out->window_bytes[w] += layer->window[w] * (double)layer->expert_bytes;
        }
    }
    for (uint32_t r = 0; r < out->n_used; r++)
        out->mass_by_rank[r] = ratio(s->rank_mass[r], (double)s->rows_of_mass);
    double hits = 0;
    for (uint32_t r = 0; r < out->n_ranks; r++) {
        hits += (double)s->rank_hits[r];
        out->precision_by_rank[r] = ratio((double)s->rank_hits[r], (double)s->rank_guesses[r]);
        out->recall_by_rank[r] = ratio(hits, (double)s->guessed_choices);
    }
}

// ---- all of it
// -----------------------------------------------------------------------------------------------

static void add_passes(struct summariser *s)
{
    const struct trace *t = s->trace;
    for (uint32_t p = 0; p < t->n_passes; p++) {
        struct trace_phase_summary *phase = &s->out->phases[t->passes[p].phase];
        phase->n_passes++;
        phase->n_tokens += t->passes[p].n_tokens;
        phase->pass_ns += t->passes[p].pass_ns;
        phase->stall_ns += t->passes[p].stall_ns;
    }
    for (uint64_t r = 0; r < t->n_reads; r++) {
        const struct trace_read_done *read = &t->reads[r];
        if (read->pass >= t->n_passes)
            continue;
        struct trace_phase_summary *phase = &s->out->phases[t->passes[read->pass].phase];
        phase->read_bytes[read->kind] += read->bytes;
        phase->n_read[read->kind]++;
        phase->read_ns[read->kind] += (double)(read->t_done_ns - read->t_submit_ns);
    }
    s->out->n_tokens += t->n_tokens;
    s->out->n_passes += t->n_passes;
    s->out->n_conversations += t->n_conversations;
    s->out->n_dropped_tokens += t->n_dropped_tokens;
    s->out->waited_ns += t->waited_ns;
}

static void summarise_layer(struct summariser *s, const struct trace *traces, uint32_t n, uint32_t m)
{
    struct layer_sums sums = {0};
    struct trace_layer_summary *layer = &s->out->layers[m];
    const struct trace_layer *shape = &traces[0].header.layers[traces[0].moe_layer[m]];
    layer->layer = traces[0].moe_layer[m];
    layer->n_experts = shape->n_experts;
    layer->n_used = shape->n_used;
    for (uint32_t i = 0; i < n; i++) {
        s->trace = &traces[i];
        if (!layer->expert_bytes)
            layer->expert_bytes = traces[i].header.layers[layer->layer].expert_bytes;
        for (uint32_t token = 0; token < traces[i].n_tokens; token++)
            add_token(s, &sums, token, m);
        for (uint32_t w = 0; w < TRACE_N_WINDOWS; w++)
            add_windows(s, &sums, m, w);
    }
    finish_layer(s, layer, m, &sums);
}

static int open_summary(struct summariser *s, const struct trace *traces, uint32_t n,
                        struct lode_error *error)
{
    struct trace_summary *out = s->out;
    out->n_traces = n;
    out->n_moe = traces[0].n_moe;
    out->n_used = traces[0].n_used;
    out->known = TRACE_HAS_ALL;
    for (uint32_t i = 0; i < n; i++) {
        out->known &= traces[i].header.known;
        char name[32], first[] = "the first trace";
        snprintf(name, sizeof name, "trace %u", i + 1);
        const int code = trace_same_model(&traces[0].header, first, &traces[i].header, name, error);
        if (code)
            return code;
    }
    for (uint32_t m = 0; m < out->n_moe; m++) {
        const uint32_t experts = traces[0].header.layers[traces[0].moe_layer[m]].n_experts;
        out->max_experts = experts > out->max_experts ? experts : out->max_experts;
    }
    out->layers = calloc(out->n_moe, sizeof *out->layers);
    out->counts = calloc((size_t)out->n_moe * out->max_experts, sizeof *out->counts);
    s->in_window = calloc(out->max_experts, sizeof *s->in_window);
    s->sorted = calloc(out->max_experts, sizeof *s->sorted);
    if (!out->layers || !out->counts || !s->in_window || !s->sorted)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to summarise traces");
    return 0;
}

int trace_summarise(struct trace_summary *out, const struct trace *traces, uint32_t n,
                    struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    struct summariser *s = calloc(1, sizeof *s);
    if (!s)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to summarise traces");
    s->out = out;
    int code = open_summary(s, traces, n, error);
    if (!code) {
        for (uint32_t m = 0; m < out->n_moe; m++)
            summarise_layer(s, traces, n, m);
        for (uint32_t i = 0; i < n; i++) {
            s->trace = &traces[i];
            add_passes(s);
        }
        finish_means(s);
        for (int p = 0; p < N_TRACE_PHASES; p++)
            for (int k = 0; k < N_TRACE_READS; k++)
                out->phases[p].read_ns[k] =
                    ratio(out->phases[p].read_ns[k], (double)out->phases[p].n_read[k]);
    }
    free(s->in_window);
    free(s->sorted);
    free(s);
    if (code)
        trace_summary_free(out);
    return code;
}

void trace_summary_free(struct trace_summary *summary)
{
    free(summary->layers);
    free(summary->counts);
    memset(summary, 0, sizeof *summary);
}
