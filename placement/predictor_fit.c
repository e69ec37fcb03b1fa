// A trace told to a predictor, pass by pass and layer by layer.
#include "placement/predictor_fit.h"

#include <math.h>

static const uint16_t *row_experts(const struct trace *trace, size_t row, uint32_t *out_n)
{
    const uint16_t *experts = trace->experts + row * trace->n_used;
    uint32_t n = 0;
    while (n < trace->n_used && experts[n] != TRACE_NO_EXPERT)
        n++;
    *out_n = n;
    return experts;
}

// The row's experts, and how many.
static uint32_t read_row(int32_t *out, const struct trace *trace, size_t row)
{
    uint32_t n;
    const uint16_t *experts = row_experts(trace, row, &n);
    for (uint32_t i = 0; i < n; i++)
        out[i] = experts[i];
    return n;
}

static void tell_row(struct predictor *predictor, const struct trace *trace, uint32_t token, uint32_t m)
{
    int32_t chosen[TRACE_MAX_USED];
    const uint32_t n = read_row(chosen, trace, (size_t)token * trace->n_moe + m);
    if (n > 0 && predictor->ops->chosen)
        predictor->ops->chosen(predictor, trace->moe_layer[m], chosen, n);
}

static void tell_pass(struct predictor *predictor, const struct trace *trace, const struct trace_pass *pass)
{
    for (uint32_t m = 0; m < trace->n_moe; m++)
        for (uint32_t t = 0; t < pass->n_tokens; t++)
            tell_row(predictor, trace, pass->first_token + t, m);
}

static void restart(struct predictor *predictor)
{
    if (predictor->ops->restart)
        predictor->ops->restart(predictor);
}

static void end_pass(struct predictor *predictor, const struct trace_pass *pass)
{
    if (predictor->ops->pass_end)
        predictor->ops->pass_end(predictor, pass->n_tokens);
}

static const struct trace_conversation *conversation_of(const struct trace *trace,
                                                        const struct trace_pass *pass)
{
    return &trace->conversations[trace->tokens[pass->first_token].conversation];
}

int predictor_open_for(struct predictor **out, const struct predictor_ops *ops, const struct trace *trace,
                       const float *heat, struct lode_error *error)
{
    uint32_t n_experts[TRACE_MAX_LAYERS];
    for (uint32_t l = 0; l < trace->header.n_layers; l++)
        n_experts[l] = trace->header.layers[l].n_experts;
    const struct predictor_setup setup = {
        .n_layers = trace->header.n_layers, .n_experts = n_experts, .n_used = trace->n_used, .heat = heat};
    struct lode_error own = {0};
    return ops->open(out, &setup, error ? error : &own);
}

// ---- fitting
// -----------------------------------------------------------------------------------------------------

static bool has_parts(const struct trace *trace)
{
    for (uint32_t c = 0; c < trace->n_conversations; c++)
        if (trace->conversations[c].part != TRACE_PART_NONE)
            return true;
    return false;
}

int predictor_fit(struct predictor *predictor, const struct trace *trace, struct lode_error *error)
{
    const bool all = !has_parts(trace);
    const struct trace_conversation *last = NULL;
    for (uint32_t p = 0; p < trace->n_passes; p++) {
        const struct trace_pass *pass = &trace->passes[p];
        if (pass->n_tokens == 0)
            continue;
        const struct trace_conversation *conversation = conversation_of(trace, pass);
        if (!all && conversation->part != TRACE_PART_FIT)
            continue;
        if (conversation != last)
            restart(predictor);
        last = conversation;
        tell_pass(predictor, trace, pass);
        end_pass(predictor, pass);
    }
    if (!last)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         all ? "a trace without tokens: there is nothing to fit the predictor '%s' on"
                             : "the trace has no conversations that are for fitting, which '%s' needs",
                         predictor->ops->name);
    restart(predictor);
    return 0;
}

// ---- precision
// ---------------------------------------------------------------------------------------------------

static bool contains(const int32_t *experts, uint32_t n, int32_t expert)
{
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

static int check_guess(const struct predictor *predictor, const int32_t *named, uint32_t n, uint32_t max,
                       uint32_t layer, uint32_t n_experts, struct lode_error *error)
{
    const char *name = predictor->ops->name;
    if (n > max)
        return lode_fail(error, LODE_ERR_FORMAT, "the predictor '%s' names %u experts of at most %u", name, n,
                         max);
    for (uint32_t i = 0; i < n; i++) {
        if (named[i] < 0 || (uint32_t)named[i] >= n_experts)
            return lode_fail(error, LODE_ERR_FORMAT, "the predictor '%s' names expert %d of layer %u with %u",
                             name, (int)named[i], layer, n_experts);
        if (contains(named, i, named[i]))
            return lode_fail(error, LODE_ERR_FORMAT, "the predictor '%s' names expert %d of layer %u twice",
                             name, (int)named[i], layer);
    }
    return 0;
}

struct replay {
    struct predictor *predictor;
    const struct trace *trace;
    uint32_t first_token, ranks;
    struct predictor_tally *tally;
};

// The guess for a layer of a token, asked before its choice is told.
static int guess_row(const struct replay *replay, uint32_t token, uint32_t m, struct lode_error *error)
{
    const struct trace *trace = replay->trace;
    const struct predictor_ops *ops = replay->predictor->ops;
    const size_t row = (size_t)token * trace->n_moe + m;
    const uint32_t layer = trace->moe_layer[m], n_experts = trace->header.layers[layer].n_experts;
    uint32_t max = replay->ranks < n_experts ? replay->ranks : n_experts;
    int32_t gate[TRACE_MAX_RANKS], named[TRACE_MAX_RANKS], chosen[TRACE_MAX_USED];
    const uint32_t n_chosen = read_row(chosen, trace, row);
    const bool gated = ops->gate != PREDICTOR_NO_GATE;
    if (gated) {
        const uint16_t *recorded;
        const uint32_t n_recorded = trace_row_guess(trace, row, &recorded);
        max = n_recorded < max ? n_recorded : max;
        for (uint32_t r = 0; r < max; r++)
            gate[r] = recorded[r];
    }
    if (n_chosen == 0 || max == 0)
        return 0;
    const uint32_t n = ops->guess(replay->predictor, layer, gated ? gate : NULL, named, max);
    const int rc = check_guess(replay->predictor, named, n, max, layer, n_experts, error);
    if (rc || token < replay->first_token)
        return rc;
    struct predictor_tally *tally = replay->tally;
    tally->n_guesses++;
    tally->n_chosen += n_chosen;
    for (uint32_t r = 0; r < n; r++) {
        tally->named[r]++;
        tally->right[r] += contains(chosen, n_chosen, named[r]);
    }
    return 0;
}

static int replay_token(const struct replay *replay, uint32_t token, struct lode_error *error)
{
    int rc = 0;
    for (uint32_t m = 0; m < replay->trace->n_moe && !rc; m++) {
        rc = guess_row(replay, token, m, error);
        tell_row(replay->predictor, replay->trace, token, m);
    }
    return rc;
}

int predictor_precision(struct predictor_tally *out, struct predictor *predictor, const struct trace *trace,
                        uint32_t first_token, uint32_t ranks, struct lode_error *error)
{
    *out = (struct predictor_tally){0};
    const char *name = predictor->ops->name;
    const struct replay replay = {predictor, trace, first_token,
                                  ranks < TRACE_MAX_RANKS ? ranks : TRACE_MAX_RANKS, out};
    const struct trace_conversation *last = NULL;
    if (ranks == 0)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the predictor '%s' is asked for no ranks", name);
    if (predictor->ops->gate != PREDICTOR_NO_GATE && !trace->guess_at)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the predictor '%s' asks the next layer's router, whose guesses the trace lacks",
                         name);
    for (uint32_t p = 0; p < trace->n_passes; p++) {
        const struct trace_pass *pass = &trace->passes[p];
        if (pass->n_tokens == 0 || conversation_of(trace, pass)->part == TRACE_PART_FIT)
            continue;
        if (conversation_of(trace, pass) != last)
            restart(predictor);
        last = conversation_of(trace, pass);
        int rc = 0;
        if (pass->n_tokens == 1)
            rc = replay_token(&replay, pass->first_token, error);
        else
            tell_pass(predictor, trace, pass);
        if (rc)
            return rc;
        end_pass(predictor, pass);
    }
    return out->n_guesses
               ? 0
               : lode_fail(error, LODE_ERR_ARGUMENT,
                           "the trace has no tokens of decode to hold guesses of '%s' against", name);
}

static void sum_ranks(uint64_t *out_named, uint64_t *out_right, const struct predictor_tally *tally,
                      uint32_t ranks)
{
    *out_named = *out_right = 0;
    for (uint32_t r = 0; r < ranks && r < TRACE_MAX_RANKS; r++) {
        *out_named += tally->named[r];
        *out_right += tally->right[r];
    }
}

double predictor_tally_precision(const struct predictor_tally *tally, uint32_t ranks)
{
    uint64_t named, right;
    sum_ranks(&named, &right, tally, ranks);
    return named ? (double)right / (double)named : (double)NAN;
}

double predictor_tally_recall(const struct predictor_tally *tally, uint32_t ranks)
{
    uint64_t named, right;
    sum_ranks(&named, &right, tally, ranks);
    return tally->n_chosen ? (double)right / (double)tally->n_chosen : (double)NAN;
}
