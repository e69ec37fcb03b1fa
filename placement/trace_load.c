// A whole trace in arrays. Memory grows with what the file really holds, and stays below what the caller
// allows; a pass that does not come to its end is taken back.
#include "base/bytes_text.h"
#include "placement/trace_reader.h"

#include <inttypes.h>
#include <stdlib.h>

#define DEFAULT_BYTES (UINT64_C(4) << 30)

struct loader {
    struct trace *trace;
    struct trace_reader *reader;
    uint64_t max_bytes, used_bytes;
    uint32_t moe_of[TRACE_MAX_LAYERS];
    // Room, in elements.
    uint64_t tokens, passes, conversations, reads, cells;
    uint32_t end; // tokens that there are rows of
    bool in_pass;
    struct trace_pass pass;
    uint32_t first_position;
    uint64_t first_read, first_cell; // of the pass
};

// Makes an array larger by half, or to `wanted` elements; what is new is filled with `fill`.
static int grow(struct loader *l, void **array, uint64_t *room, uint64_t wanted, size_t element, int fill,
                struct lode_error *error)
{
    uint64_t n = *room + *room / 2;
    n = n > wanted ? n : wanted;
    n = n > 64 ? n : 64;
    const uint64_t more = (n - *room) * element;
    if (n > SIZE_MAX / element || l->used_bytes + more > l->max_bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "the trace %s takes more than %s of memory", l->reader->name,
                         bytes_text(l->max_bytes).text);
    void *larger = realloc(*array, n * element);
    if (!larger)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the trace %s", l->reader->name);
    memset((char *)larger + *room * element, fill, more);
    *array = larger;
    *room = n;
    l->used_bytes += more;
    return 0;
}

// Arrays of rows grow together with the tokens.
static int grow_rows(struct loader *l, void **array, uint64_t tokens_before, uint64_t tokens, size_t element,
                     int fill, struct lode_error *error)
{
    uint64_t room = tokens_before * l->trace->n_moe;
    return grow(l, array, &room, tokens * l->trace->n_moe, element, fill, error);
}

static int reserve_tokens(struct loader *l, uint64_t end, struct lode_error *error)
{
    struct trace *t = l->trace;
    if (end > UINT32_MAX / 2)
        return trace_refuse(l->reader, error, "too many tokens");
    if (end <= l->tokens)
        return 0;
    uint64_t tokens = l->tokens + l->tokens / 2, room = l->tokens;
    tokens = tokens > end ? tokens : end;
    tokens = tokens > 64 ? tokens : 64;
    int code = grow(l, (void **)&t->tokens, &room, tokens, sizeof *t->tokens, 0, error);
    tokens = room;
    if (!code)
        code = grow_rows(l, (void **)&t->experts, l->tokens, tokens, t->n_used * sizeof *t->experts, 0xff,
                         error);
    if (!code && t->header.known & TRACE_HAS_WEIGHTS)
        code =
            grow_rows(l, (void **)&t->weights, l->tokens, tokens, t->n_used * sizeof *t->weights, 0, error);
    if (!code && t->header.known & TRACE_HAS_RESIDENCY)
        code = grow_rows(l, (void **)&t->resident, l->tokens, tokens, sizeof *t->resident, 0, error);
    if (!code && t->header.known & TRACE_HAS_TIMES)
        code = grow_rows(l, (void **)&t->times, l->tokens, tokens, sizeof *t->times, 0, error);
    if (!code && t->guess_at)
        code = grow_rows(l, (void **)&t->guess_at, l->tokens, tokens, sizeof *t->guess_at, 0, error);
    l->tokens = tokens;
    return code;
}

// Rows of a pass that was given up are blank again.
static void blank_rows(struct loader *l, uint32_t first, uint32_t end)
{
    struct trace *t = l->trace;
    const size_t row = (size_t)first * t->n_moe, n = (size_t)(end - first) * t->n_moe;
    if (n == 0)
        return;
    memset(t->experts + row * t->n_used, 0xff, n * t->n_used * sizeof *t->experts);
    if (t->weights)
        memset(t->weights + row * t->n_used, 0, n * t->n_used * sizeof *t->weights);
    if (t->resident)
        memset(t->resident + row, 0, n * sizeof *t->resident);
    if (t->times)
        memset(t->times + row, 0, n * sizeof *t->times);
    if (t->guess_at)
        memset(t->guess_at + row, 0, n * sizeof *t->guess_at);
}

static void take_back(struct loader *l)
{
    if (!l->in_pass)
        return;
    l->in_pass = false;
    l->trace->n_dropped_tokens += l->pass.n_tokens;
    blank_rows(l, l->pass.first_token, l->end);
    l->end = l->trace->n_tokens;
    l->trace->n_reads = l->first_read;
    l->trace->n_guess_cells = l->first_cell;
}

// ---- events
// --------------------------------------------------------------------------------------------------

static void begin_pass(struct loader *l, const struct trace_event *event)
{
    take_back(l);
    l->in_pass = true;
    l->pass = (struct trace_pass){.first_token = l->trace->n_tokens,
                                  .n_tokens = event->n_tokens,
                                  .phase = event->phase,
                                  .t_ns = event->t_ns};
    l->first_position = event->first_position;
    l->first_read = l->trace->n_reads;
    l->first_cell = l->trace->n_guess_cells;
}

static int row_of(struct loader *l, const struct trace_event *event, size_t *out, struct lode_error *error)
{
    const uint32_t token = l->pass.first_token + event->token;
    const int code = reserve_tokens(l, (uint64_t)token + 1, error);
    if (code)
        return code;
    if (token >= l->end)
        l->end = token + 1;
    *out = (size_t)token * l->trace->n_moe + l->moe_of[event->layer];
    return 0;
}

static int add_choice(struct loader *l, const struct trace_event *event, struct lode_error *error)
{
    struct trace *t = l->trace;
    size_t row;
    const int code = row_of(l, event, &row, error);
    if (code)
        return code;
    uint16_t *experts = t->experts + row * t->n_used;
    if (experts[0] != TRACE_NO_EXPERT)
        return trace_refuse(l->reader, error, "layer %u chooses twice for token %u of the pass", event->layer,
                            event->token);
    memcpy(experts, event->experts, event->n * sizeof *experts);
    if (t->weights)
        memcpy(t->weights + row * t->n_used, event->weights, event->n * sizeof *t->weights);
    if (t->resident)
        t->resident[row] = event->resident;
    if (t->times)
        t->times[row] = event->t_ns;
    return 0;
}

static int add_guess(struct loader *l, const struct trace_event *event, struct lode_error *error)
{
    struct trace *t = l->trace;
    size_t row;
    int code = row_of(l, event, &row, error);
    if (!code && !t->guess_at) {
        code = grow_rows(l, (void **)&t->guess_at, 0, l->tokens, sizeof *t->guess_at, 0, error);
        t->n_guess_cells = 1; // 0 is none
        l->first_cell = 1;
    }
    const uint64_t end = t->n_guess_cells + 1 + event->n;
    if (!code && end > UINT32_MAX)
        code = trace_refuse(l->reader, error, "too many guesses");
    if (!code && end > l->cells)
        code = grow(l, (void **)&t->guess_cells, &l->cells, end, sizeof *t->guess_cells, 0, error);
    if (code)
        return code;
    t->guess_at[row] = (uint32_t)t->n_guess_cells;
    t->guess_cells[t->n_guess_cells] = (uint16_t)event->n;
    memcpy(t->guess_cells + t->n_guess_cells + 1, event->experts, event->n * sizeof *event->experts);
    t->n_guess_cells = end;
    return 0;
}

static int add_read(struct loader *l, const struct trace_event *event, struct lode_error *error)
{
    struct trace *t = l->trace;
    if (t->n_reads == l->reads) {
        const int code = grow(l, (void **)&t->reads, &l->reads, l->reads + 1, sizeof *t->reads, 0, error);
        if (code)
            return code;
    }
    const uint32_t before = t->n_passes ? t->n_passes - 1 : UINT32_MAX;
    t->reads[t->n_reads++] = (struct trace_read_done){.pass = l->in_pass ? t->n_passes : before,
                                                      .layer = event->layer,
                                                      .expert = event->expert,
                                                      .kind = event->read,
                                                      .bytes = event->bytes,
                                                      .t_submit_ns = event->t_ns,
                                                      .t_done_ns = event->t_done_ns};
    return 0;
}

static int end_pass(struct loader *l, const struct trace_event *event, struct lode_error *error)
{
    struct trace *t = l->trace;
    int code = reserve_tokens(l, (uint64_t)l->pass.first_token + l->pass.n_tokens, error);
    if (!code && t->n_passes == l->passes)
        code = grow(l, (void **)&t->passes, &l->passes, l->passes + 1, sizeof *t->passes, 0, error);
    if (code)
        return code;
    for (uint32_t i = 0; i < l->pass.n_tokens; i++)
        t->tokens[l->pass.first_token + i] =
            (struct trace_token){l->first_position + i, t->n_conversations - 1, t->n_passes};
    t->conversations[t->n_conversations - 1].n_tokens += l->pass.n_tokens;
    l->pass.pass_ns = event->pass_ns;
    l->pass.stall_ns = event->stall_ns;
    t->passes[t->n_passes++] = l->pass;
    t->n_tokens += l->pass.n_tokens;
    l->end = t->n_tokens;
    l->in_pass = false;
    return 0;
}

static int add_conversation(struct loader *l, const struct trace_event *event, struct lode_error *error)
{
    struct trace *t = l->trace;
    take_back(l);
    if (t->n_conversations == l->conversations) {
        const int code = grow(l, (void **)&t->conversations, &l->conversations, l->conversations + 1,
                              sizeof *t->conversations, 0, error);
        if (code)
            return code;
    }
    struct trace_conversation *c = &t->conversations[t->n_conversations++];
    *c = (struct trace_conversation){.part = event->part, .first_token = t->n_tokens};
    memcpy(c->domain, event->domain, sizeof c->domain);
    return 0;
}

static int add(struct loader *l, const struct trace_event *event, struct lode_error *error)
{
    switch (event->kind) {
    case TRACE_EVENT_CONVERSATION:
        return add_conversation(l, event, error);
    case TRACE_EVENT_PASS:
        begin_pass(l, event);
        return 0;
    case TRACE_EVENT_CHOICE:
        return add_choice(l, event, error);
    case TRACE_EVENT_GUESS:
        return add_guess(l, event, error);
    case TRACE_EVENT_READ:
        return add_read(l, event, error);
    case TRACE_EVENT_PASS_END:
        return end_pass(l, event, error);
    case TRACE_EVENT_WAITED:
        l->trace->waited_ns += event->waited_ns;
        return 0;
    case TRACE_EVENT_END:
        break;
    }
    return 0;
}

// ---- loading
// -------------------------------------------------------------------------------------------------

static void begin(struct loader *l)
{
    struct trace *t = l->trace;
    t->header = *trace_reader_header(l->reader);
    snprintf(t->format, sizeof t->format, "%s", trace_reader_format(l->reader));
    for (uint32_t layer = 0; layer < t->header.n_layers; layer++) {
        if (!t->header.layers[layer].n_experts)
            continue;
        l->moe_of[layer] = t->n_moe;
        t->moe_layer[t->n_moe++] = layer;
        if (t->header.layers[layer].n_used > t->n_used)
            t->n_used = t->header.layers[layer].n_used;
    }
}

static int load_all(struct loader *l, struct lode_error *error)
{
    struct trace_event event;
    begin(l);
    int code;
    do {
        code = trace_reader_next(l->reader, &event, error);
        if (!code)
            code = add(l, &event, error);
    } while (!code && event.kind != TRACE_EVENT_END);
    if (code)
        return code;
    take_back(l);
    const char *cut = trace_reader_cut(l->reader);
    snprintf(l->trace->cut, sizeof l->trace->cut, "%s", cut ? cut : "");
    return 0;
}

static int load(struct trace *out, struct trace_reader *reader, uint64_t max_bytes, struct lode_error *error)
{
    memset(out, 0, sizeof *out);
    struct loader *l = calloc(1, sizeof *l);
    int code = l ? 0 : lode_fail(error, LODE_ERR_MEMORY, "no memory to load a trace");
    if (!code) {
        l->trace = out;
        l->reader = reader;
        l->max_bytes = max_bytes ? max_bytes : DEFAULT_BYTES;
        code = load_all(l, error);
    }
    free(l);
    trace_reader_close(reader);
    if (code)
        trace_free(out);
    return code;
}

int trace_load_stream(struct trace *out, FILE *stream, const char *name, uint64_t max_bytes,
                      struct lode_error *error)
{
    struct trace_reader *reader;
    memset(out, 0, sizeof *out);
    const int code = trace_reader_open_stream(&reader, stream, name, error);
    return code ? code : load(out, reader, max_bytes, error);
}

int trace_load(struct trace *out, const char *path, uint64_t max_bytes, struct lode_error *error)
{
    struct trace_reader *reader;
    memset(out, 0, sizeof *out);
    const int code = trace_reader_open(&reader, path, error);
    return code ? code : load(out, reader, max_bytes, error);
}

void trace_free(struct trace *trace)
{
    free(trace->tokens);
    free(trace->passes);
    free(trace->conversations);
    free(trace->reads);
    free(trace->experts);
    free(trace->weights);
    free(trace->resident);
    free(trace->times);
    free(trace->guess_at);
    free(trace->guess_cells);
    memset(trace, 0, sizeof *trace);
}
