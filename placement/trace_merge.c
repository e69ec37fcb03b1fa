// Two walks over the inputs: the first compares their headers and lists the conversations, the second writes.
#include "placement/trace_merge.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct entry {
    char domain[TRACE_DOMAIN_SIZE];
    uint64_t n_tokens, order; // order: random, decides within the domain
    uint32_t input, index;    // index: in the list
    enum trace_part part;
};

struct merge {
    const char *const *inputs;
    uint32_t n_inputs;
    struct trace_header header;
    struct entry *entries;
    uint32_t n, capacity;
    struct trace_writer *writers[N_TRACE_PARTS];
    char paths[N_TRACE_PARTS][1024];
    struct trace_event event;
    int32_t experts[TRACE_MAX_RANKS];
};

// ---- the first walk
// ------------------------------------------------------------------------------------------

static void domain_of_path(char out[TRACE_DOMAIN_SIZE], const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strcspn(name + (name[0] == '.'), ".") + (name[0] == '.');
    if (n >= TRACE_DOMAIN_SIZE)
        n = TRACE_DOMAIN_SIZE - 1;
    memcpy(out, name, n);
    out[n] = '\0';
    for (char *c = out; *c; c++)
        *c = (unsigned char)*c < ' ' || *c == 0x7f ? '?' : *c;
}

static int add_entry(struct merge *m, uint32_t input, const struct trace_event *event,
                     struct lode_error *error)
{
    if (m->n == m->capacity) {
        const uint32_t capacity = m->capacity ? 2 * m->capacity : 64;
        struct entry *entries = realloc(m->entries, capacity * sizeof *entries);
        if (!entries)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for %u conversations", capacity);
        m->entries = entries;
        m->capacity = capacity;
    }
    struct entry *entry = &m->entries[m->n];
    *entry = (struct entry){.input = input, .index = m->n};
    m->n++;
    if (event->domain[0])
        memcpy(entry->domain, event->domain, sizeof entry->domain);
    else
        domain_of_path(entry->domain, m->inputs[input]);
    return 0;
}

static int join_header(struct merge *m, uint32_t input, const struct trace_header *header,
                       struct lode_error *error)
{
    struct trace_header *h = &m->header;
    if (input == 0) {
        *h = *header;
        return 0;
    }
    const int code = trace_same_model(h, m->inputs[0], header, m->inputs[input], error);
    if (code)
        return code;
    if (!h->fingerprint)
        h->fingerprint = header->fingerprint;
    for (uint32_t l = 0; l < h->n_layers; l++)
        if (!h->layers[l].expert_bytes)
            h->layers[l].expert_bytes = header->layers[l].expert_bytes;
    if (h->plan_hash != header->plan_hash)
        h->plan_hash = 0;
    h->known &= header->known;
    if (strcmp(h->machine, header->machine) != 0)
        strcpy(h->machine, "several");
    if (strcmp(h->lode_version, header->lode_version) != 0)
        strcpy(h->lode_version, "several");
    return 0;
}

static int list_input(struct merge *m, uint32_t input, bool *out_cut, struct lode_error *error)
{
    struct trace_reader *reader;
    int code = trace_reader_open(&reader, m->inputs[input], error);
    if (code)
        return code;
    code = join_header(m, input, trace_reader_header(reader), error);
    const uint32_t first = m->n;
    uint32_t pass_tokens = 0;
    m->event.kind = TRACE_EVENT_WAITED;
    while (!code && m->event.kind != TRACE_EVENT_END) {
        code = trace_reader_next(reader, &m->event, error);
        if (code)
            break;
        if (m->event.kind == TRACE_EVENT_CONVERSATION)
            code = add_entry(m, input, &m->event, error);
        else if (m->event.kind == TRACE_EVENT_PASS)
            pass_tokens = m->event.n_tokens;
        else if (m->event.kind == TRACE_EVENT_PASS_END)
            m->entries[m->n - 1].n_tokens += pass_tokens;
    }
    *out_cut = !code && trace_reader_cut(reader);
    trace_reader_close(reader);
    if (!code && m->n == first)
        code = lode_fail(error, LODE_ERR_ARGUMENT, "the trace %s has no tokens", m->inputs[input]);
    return code;
}

// ---- the split
// -----------------------------------------------------------------------------------------------

// splitmix64
static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int by_domain(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    const int names = strcmp(x->domain, y->domain);
    return names ? names : (x->order > y->order) - (x->order < y->order);
}

static int by_index(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->index > y->index) - (x->index < y->index);
}

// Walks domain by domain, in random order within each, and lets the share add up, so that each domain and the
// whole come as near to it as whole conversations can. Where the walk starts within a conversation is random
// too.
static int split_entries(struct merge *m, const struct trace_split *split, struct lode_error *error)
{
    uint64_t state = split->seed;
    double sum = (double)(next_random(&state) >> 11) * 0x1p-53;
    for (uint32_t i = 0; i < m->n; i++)
        m->entries[i].order = next_random(&state);
    qsort(m->entries, m->n, sizeof *m->entries, by_domain);
    uint32_t n_fit = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        sum += split->fit;
        const bool fit = sum >= 1;
        sum -= fit;
        m->entries[i].part = fit ? TRACE_PART_FIT : TRACE_PART_TEST;
        n_fit += fit;
    }
    qsort(m->entries, m->n, sizeof *m->entries, by_index);
    if (n_fit == 0 || n_fit == m->n)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "%u conversation%s cannot be split at %g: one part would be empty; merge more traces", m->n,
            m->n == 1 ? "" : "s", split->fit);
    return 0;
}

// ---- the second walk
// -----------------------------------------------------------------------------------------

static int refuse_own_input(const struct merge *m, const char *path, struct lode_error *error)
{
    struct stat out, in;
    if (stat(path, &out) != 0)
        return 0;
    for (uint32_t i = 0; i < m->n_inputs; i++)
        if (stat(m->inputs[i], &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            return lode_fail(error, LODE_ERR_ARGUMENT, "%s is one of the traces to merge", path);
    return 0;
}

static int open_writers(struct merge *m, const char *out, bool split, struct lode_error *error)
{
    static const char *const endings[N_TRACE_PARTS] = {"", ".fit", ".test"};
    for (int p = split ? TRACE_PART_FIT : TRACE_PART_NONE; p < (split ? N_TRACE_PARTS : TRACE_PART_FIT);
         p++) {
        const int n = snprintf(m->paths[p], sizeof m->paths[p], "%s%s", out, endings[p]);
        if (n < 0 || (size_t)n >= sizeof m->paths[p])
            return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", out);
        int code = refuse_own_input(m, m->paths[p], error);
        if (!code)
            code = trace_writer_open(&m->writers[p], m->paths[p], &m->header, error);
        if (code)
            return code;
    }
    return 0;
}

static const int32_t *widen(struct merge *m)
{
    for (uint32_t i = 0; i < m->event.n; i++)
        m->experts[i] = m->event.experts[i];
    return m->experts;
}

static void copy(struct merge *m, struct trace_writer *w)
{
    const struct trace_event *e = &m->event;
    const bool weights = m->header.known & TRACE_HAS_WEIGHTS;
    switch (e->kind) {
    case TRACE_EVENT_PASS:
        trace_pass_begin(w, e->phase, e->first_position, e->n_tokens, (uint64_t)e->t_ns);
        break;
    case TRACE_EVENT_CHOICE:
        trace_choice(w, e->layer, e->token, widen(m), weights ? e->weights : NULL, e->n, e->resident,
                     (uint64_t)e->t_ns);
        break;
    case TRACE_EVENT_GUESS:
        trace_guess(w, e->layer, e->token, widen(m), e->n);
        break;
    case TRACE_EVENT_READ:
        if (m->header.known & TRACE_HAS_READS)
            trace_read(w, e->layer, e->expert, e->bytes, e->read, (uint64_t)e->t_ns, (uint64_t)e->t_done_ns);
        break;
    case TRACE_EVENT_PASS_END:
        trace_pass_end(w, e->pass_ns, e->stall_ns);
        break;
    case TRACE_EVENT_CONVERSATION:
    case TRACE_EVENT_WAITED:
    case TRACE_EVENT_END:
        break;
    }
}

static int copy_input(struct merge *m, uint32_t input, uint32_t *entry, struct lode_error *error)
{
    struct trace_reader *reader;
    int code = trace_reader_open(&reader, m->inputs[input], error);
    if (code)
        return code;
    struct trace_writer *writer = NULL;
    m->event.kind = TRACE_EVENT_WAITED;
    while (!code && m->event.kind != TRACE_EVENT_END) {
        code = trace_reader_next(reader, &m->event, error);
        if (!code && m->event.kind == TRACE_EVENT_CONVERSATION) {
            if (*entry == m->n || m->entries[*entry].input != input) {
                code = lode_fail(error, LODE_ERR_IO, "the trace %s has changed meanwhile", m->inputs[input]);
                break;
            }
            const struct entry *e = &m->entries[(*entry)++];
            writer = m->writers[e->part];
            trace_conversation(writer, e->domain, e->part);
        } else if (!code && writer) { // a read before the first pass belongs to no conversation
            copy(m, writer);
        }
    }
    trace_reader_close(reader);
    return code;
}

static int close_writers(struct merge *m, int code, struct lode_error *error)
{
    for (int p = 0; p < N_TRACE_PARTS; p++) {
        const bool made = m->writers[p] != NULL;
        const int closed = trace_writer_close(m->writers[p], code ? NULL : error);
        code = code ? code : closed;
        m->writers[p] = NULL;
        if (!made)
            m->paths[p][0] = '\0';
    }
    struct stat status;
    for (int p = 0; code && p < N_TRACE_PARTS; p++)
        if (m->paths[p][0] && lstat(m->paths[p], &status) == 0 && S_ISREG(status.st_mode))
            unlink(m->paths[p]);
    return code;
}

static void count(const struct merge *m, struct trace_merged *result)
{
    result->n_conversations = m->n;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct entry *e = &m->entries[i];
        result->n_tokens += e->n_tokens;
        result->n_fit += e->part == TRACE_PART_FIT;
        result->n_test += e->part == TRACE_PART_TEST;
        *(e->part == TRACE_PART_TEST ? &result->n_test_tokens : &result->n_fit_tokens) +=
            e->part == TRACE_PART_NONE ? 0 : e->n_tokens;
    }
}

int trace_merge(struct trace_merged *result, const char *out, const char *const *inputs, uint32_t n,
                const struct trace_split *split, struct lode_error *error)
{
    memset(result, 0, sizeof *result);
    struct merge *m = calloc(1, sizeof *m);
    if (!m)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to merge traces");
    m->inputs = inputs;
    m->n_inputs = n;
    int code = n ? 0 : lode_fail(error, LODE_ERR_ARGUMENT, "there are no traces to merge");
    for (uint32_t i = 0; i < n && !code; i++) {
        bool cut = false;
        code = list_input(m, i, &cut, error);
        result->n_cut += cut;
    }
    if (n > 1)
        snprintf(m->header.options, sizeof m->header.options, "merged from %u traces", n);
    const bool parts = split && split->fit > 0;
    if (!code && parts)
        code = split_entries(m, split, error);
    if (!code) {
        code = open_writers(m, out, parts, error);
        uint32_t entry = 0;
        for (uint32_t i = 0; i < n && !code; i++)
            code = copy_input(m, i, &entry, error);
        code = close_writers(m, code, error);
    }
    if (!code)
        count(m, result);
    free(m->entries);
    free(m);
    return code;
}
