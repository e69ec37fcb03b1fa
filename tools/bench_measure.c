// Times the cells of a benchmark on one session, whose context is that of the longest cell.
//
// The cells take turns in rounds, so that what drifts on the machine drifts for all. Depths ascend, and at a
// depth decode comes first and then the prompts, short before long: a timeline can be taken back by a batch,
// beyond which the sliding windows are gone and the depth is filled anew.
#include "tools/bench.h"

#include "tools/interrupt.h"
#include "tools/options.h"
#include "tools/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP_TOKENS = 64, WARM_UP_DECODES = 2, DRAWS = 100, SHARE = 1000 };
static const double warm_up_s = 0.3; // at least

// ---- lists
// ---------------------------------------------------------------------------------------------------

static void list_insert(struct bench_list *list, uint32_t value)
{
    size_t at = 0;
    while (at < list->count && list->values[at] < value)
        at++;
    if (at < list->count && list->values[at] == value)
        return;
    memmove(list->values + at + 1, list->values + at, (list->count - at) * sizeof *list->values);
    list->values[at] = value;
    list->count++;
}

bool bench_list_parse(void *target, const char *value, char *reason, size_t capacity)
{
    struct bench_list list = {.count = 0};
    for (const char *at = value;; at++) {
        char word[16];
        const size_t len = strcspn(at, ",");
        uint32_t number;
        snprintf(word, sizeof word, "%.*s", (int)(len < sizeof word ? len : sizeof word), at);
        if (len >= sizeof word || !options_read_count(&number, word)) {
            snprintf(reason, capacity, "must be whole numbers separated by commas, as 512,4K");
            return false;
        }
        if (list.count == BENCH_LIST_VALUES) {
            snprintf(reason, capacity, "holds more than %d numbers", BENCH_LIST_VALUES);
            return false;
        }
        list_insert(&list, number);
        at += len;
        if (!*at)
            break;
    }
    *(struct bench_list *)target = list;
    return true;
}

// ---- cells
// ---------------------------------------------------------------------------------------------------

static int check_cell(const struct bench_cell *cell, uint32_t limit, struct lode_error *error)
{
    if ((uint64_t)cell->context + cell->tokens <= limit)
        return LODE_OK;
    return lode_fail(error, LODE_ERR_CONTEXT,
                     "%s of %" PRIu32 " tokens after a context of %" PRIu32
                     " goes beyond the model's limit of "
                     "%" PRIu32 "; take smaller numbers",
                     cell->phase == BENCH_PREFILL ? "prefill" : "decode", cell->tokens, cell->context, limit);
}

static int add_cell(struct bench *bench, enum bench_phase phase, uint32_t tokens, uint32_t depth,
                    uint32_t limit, struct lode_error *error)
{
    if (!tokens)
        return LODE_OK;
    struct bench_cell *cell = &bench->cells[bench->n_cells++];
    *cell = (struct bench_cell){.phase = phase, .tokens = tokens, .context = depth};
    return check_cell(cell, limit, error);
}

int bench_plan(struct bench *bench, const struct lode_shape *shape, uint32_t *out_context,
               struct lode_error *error)
{
    bench->cells = calloc(bench->depths.count * (bench->prefills.count + 1), sizeof *bench->cells);
    if (!bench->cells)
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the results");
    int code = LODE_OK;
    for (size_t d = 0; d < bench->depths.count && !code; d++) {
        const uint32_t depth = bench->depths.values[d];
        code = add_cell(bench, BENCH_DECODE, bench->decode, depth, shape->context_limit, error);
        for (size_t p = 0; p < bench->prefills.count && !code; p++)
            code =
                add_cell(bench, BENCH_PREFILL, bench->prefills.values[p], depth, shape->context_limit, error);
    }
    *out_context = 0;
    for (size_t i = 0; i < bench->n_cells; i++) {
        const uint32_t needed = bench->cells[i].context + bench->cells[i].tokens;
        *out_context = needed > *out_context ? needed : *out_context;
    }
    return code;
}

void bench_free(struct bench *bench)
{
    free(bench->cells);
    bench->cells = NULL;
}

// ---- one measurement
// -----------------------------------------------------------------------------------------

struct meter {
    struct bench *bench;
    const struct lode_tokenizer *tokenizer;
    struct lode_session *session;
    int32_t *ids; // room for the whole context
    uint32_t vocab;
    struct progress progress;
    char what[64];
    uint64_t done, total; // of the measurements, in SHARE parts each
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint64_t scramble(uint64_t x) // splitmix64
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Control tokens have no text that is shown. A vocabulary of hardly anything else is taken as it is.
static int32_t draw_id(const struct meter *meter, uint64_t *state)
{
    int32_t id = 0;
    for (int draw = 0; draw < DRAWS; draw++) {
        size_t len;
        *state = scramble(*state);
        id = (int32_t)(*state % meter->vocab);
        lode_piece(meter->tokenizer, id, false, &len);
        if (len)
            break;
    }
    return id;
}

// A measurement has the same tokens whatever else is measured, and others in each round: with the same ones
// again the experts that they need would be in memory already.
static void draw_ids(struct meter *meter, uint64_t key, size_t count)
{
    uint64_t state = scramble(meter->bench->seed ^ scramble(key));
    for (size_t i = 0; i < count; i++)
        meter->ids[i] = draw_id(meter, &state);
}

static bool show(struct meter *meter, uint64_t done, uint64_t total)
{
    return progress_show(&meter->progress, meter->what, meter->done + (total ? done * SHARE / total : 0),
                         meter->total);
}

static bool on_feed(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    return show(user, done, total);
}

static int go_to(struct meter *meter, uint32_t depth, struct lode_error *error)
{
    const uint32_t position = lode_session_rewind(meter->session, depth);
    if (position == depth)
        return LODE_OK;
    snprintf(meter->what, sizeof meter->what, "context of %" PRIu32, depth);
    show(meter, 0, 1);
    if (!meter->bench->real_context)
        return lode_session_fill(meter->session, depth - position, meter->bench->seed, error);
    draw_ids(meter, depth, depth - position);
    return lode_session_feed(meter->session, meter->ids, depth - position, on_feed, meter, error);
}

static int decode(struct meter *meter, uint32_t count, struct lode_error *error)
{
    int code = LODE_OK;
    for (uint32_t i = 0; i < count && !code; i++)
        code = lode_session_feed(meter->session, meter->ids + i, 1, NULL, NULL, error);
    return code;
}

static uint64_t cell_key(const struct bench_cell *cell)
{
    return (uint64_t)cell->n_runs << 56 ^ (uint64_t)cell->tokens << 28 ^ (uint64_t)cell->context << 2 ^
           cell->phase;
}

// What the session has counted since `before`; what it has not counted of the run goes to the operations.
static struct lode_parts run_parts(const struct lode_session *session, const struct lode_stats *before,
                                   double run_s)
{
    struct lode_stats now;
    lode_session_stats(session, &now);
    struct lode_parts out = {
        .kernels_s = now.prefill_parts.kernels_s - before->prefill_parts.kernels_s,
        .attention_s = now.prefill_parts.attention_s - before->prefill_parts.attention_s,
        .drive_s = now.prefill_parts.drive_s - before->prefill_parts.drive_s,
        .gpu_s = now.prefill_parts.gpu_s - before->prefill_parts.gpu_s,
    };
    out.operations_s = run_s - out.kernels_s - out.attention_s - out.drive_s - out.gpu_s;
    return out;
}

static int measure_cell(struct meter *meter, struct bench_cell *cell, struct lode_error *error)
{
    int code = go_to(meter, cell->context, error);
    if (code)
        return code;
    const bool prefills = cell->phase == BENCH_PREFILL;
    snprintf(meter->what, sizeof meter->what, "%s at %" PRIu32, prefills ? "prefill" : "decode",
             cell->context);
    show(meter, 0, 1);
    draw_ids(meter, cell_key(cell), cell->tokens);
    struct lode_stats before;
    lode_session_stats(meter->session, &before);
    const double start_s = now_s();
    if (prefills)
        code = lode_session_feed(meter->session, meter->ids, cell->tokens, on_feed, meter, error);
    else
        code = decode(meter, cell->tokens, error);
    if (code)
        return code;
    const double run_s = now_s() - start_s;
    cell->run_parts[cell->n_runs] = run_parts(meter->session, &before, run_s);
    cell->run_s[cell->n_runs++] = run_s;
    meter->done += SHARE;
    return LODE_OK;
}

// ---- all of them
// ---------------------------------------------------------------------------------------------

// Touches the memory of the whole cache, and wakes threads and weights up.
static int warm_up(struct meter *meter, struct lode_error *error)
{
    const uint32_t context = lode_session_context(meter->session);
    const uint32_t decodes = context > WARM_UP_DECODES ? WARM_UP_DECODES : 0;
    const uint32_t prompt = context - decodes < WARM_UP_TOKENS ? context - decodes : WARM_UP_TOKENS;
    snprintf(meter->what, sizeof meter->what, "warming up");
    show(meter, 0, 1);
    int code = lode_session_fill(meter->session, context, meter->bench->seed, error);
    draw_ids(meter, UINT64_MAX, prompt);
    const double start_s = now_s();
    do {
        lode_session_rewind(meter->session, 0);
        if (!code)
            code = lode_session_feed(meter->session, meter->ids, prompt, NULL, NULL, error);
        if (!code)
            code = decode(meter, decodes, error);
    } while (!code && now_s() - start_s < warm_up_s);
    lode_session_rewind(meter->session, 0);
    return code;
}

struct ranked_run {
    double tok_s;
    uint32_t index;
};

static int compare_runs(const void *a, const void *b)
{
    const double x = ((const struct ranked_run *)a)->tok_s, y = ((const struct ranked_run *)b)->tok_s;
    return (x > y) - (x < y);
}

static void add_share(struct lode_parts *to, const struct lode_parts *parts, double scale)
{
    to->kernels_s += parts->kernels_s * scale;
    to->attention_s += parts->attention_s * scale;
    to->operations_s += parts->operations_s * scale;
    to->drive_s += parts->drive_s * scale;
    to->gpu_s += parts->gpu_s * scale;
}

static void evaluate(struct bench_cell *cell, const struct lode_shape *shape,
                     const struct lode_session *session)
{
    struct ranked_run sorted[BENCH_MAX_REPEATS];
    const uint32_t n = cell->n_runs;
    if (!n)
        return;
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = (struct ranked_run){cell->tokens / cell->run_s[i], i};
    qsort(sorted, n, sizeof *sorted, compare_runs);
    const struct ranked_run *low = &sorted[(n - 1) / 2], *high = &sorted[n / 2];
    cell->tok_s = (low->tok_s + high->tok_s) / 2;
    cell->spread = (sorted[n - 1].tok_s - sorted[0].tok_s) / cell->tok_s;
    cell->parts = (struct lode_parts){0};
    add_share(&cell->parts, &cell->run_parts[low->index], 0.5 / cell->tokens);
    add_share(&cell->parts, &cell->run_parts[high->index], 0.5 / cell->tokens);
    if (cell->phase == BENCH_PREFILL)
        return;
    double kv_bytes = 0;
    for (uint32_t i = 0; i < cell->tokens; i++)
        kv_bytes += (double)lode_session_kv_read_bytes(session, cell->context + i);
    cell->bytes_per_token = (double)shape->bytes_per_token + kv_bytes / cell->tokens;
    cell->read_gbps = cell->bytes_per_token * cell->tok_s * 1e-9;
}

static int measure_rounds(struct meter *meter, struct lode_error *error)
{
    int code = warm_up(meter, error);
    for (uint32_t round = 0; round < meter->bench->repeats; round++)
        for (size_t i = 0; i < meter->bench->n_cells && !code; i++)
            code = measure_cell(meter, &meter->bench->cells[i], error);
    return code;
}

int bench_measure(struct bench *bench, const struct lode_engine *engine, struct lode_session *session,
                  struct lode_error *error)
{
    struct meter meter = {.bench = bench,
                          .tokenizer = lode_engine_tokenizer(engine),
                          .session = session,
                          .ids = calloc(lode_session_context(session), sizeof *meter.ids),
                          .vocab = lode_vocab_size(lode_engine_tokenizer(engine)),
                          .total = (uint64_t)bench->n_cells * bench->repeats * SHARE};
    if (!meter.ids)
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the tokens");
    progress_begin(&meter.progress);
    int code = measure_rounds(&meter, error);
    progress_end(&meter.progress);
    free(meter.ids);
    bench->interrupted = code == LODE_ERR_CANCELLED && interrupt_pending();
    for (size_t i = 0; i < bench->n_cells; i++)
        evaluate(&bench->cells[i], lode_engine_shape(engine), session);
    return bench->interrupted ? LODE_OK : code;
}
