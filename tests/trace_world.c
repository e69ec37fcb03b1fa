#include "tests/trace_world.h"

#include "base/half.h"
#include "placement/trace_format.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <zstd.h>

uint64_t trace_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint32_t below(uint64_t *state, uint32_t n)
{
    return (uint32_t)(trace_random(state) % n);
}

void trace_world_header(struct trace_header *out, uint32_t n_layers, uint32_t n_experts, uint32_t k)
{
    memset(out, 0, sizeof *out);
    out->fingerprint = 0x1234567890abcdef;
    out->plan_hash = 42;
    out->known = TRACE_HAS_ALL;
    out->n_layers = n_layers;
    for (uint32_t l = 0; l < n_layers; l++)
        if (n_layers <= 2 || l != 1)
            out->layers[l] = (struct trace_layer){n_experts, k, 1000 + l};
    strcpy(out->model, "made-up.gguf");
    strcpy(out->machine, "nowhere");
    strcpy(out->lode_version, "0.1.0");
    strcpy(out->options, "--ram 8G --policy lru");
}

// ---- random events
// ------------------------------------------------------------------------------------------

struct maker {
    struct trace_world *world;
    uint64_t state, clock_ns;
    bool has_time;
};

static struct trace_event *add(struct trace_world *world, enum trace_event_kind kind)
{
    if (world->n == world->capacity) {
        world->capacity = world->capacity ? 2 * world->capacity : 256;
        world->events = realloc(world->events, world->capacity * sizeof *world->events);
        cr_assert(world->events);
    }
    struct trace_event *event = &world->events[world->n++];
    memset(event, 0, sizeof *event);
    event->kind = kind;
    return event;
}

static int64_t tick(struct maker *m)
{
    m->clock_ns += below(&m->state, 4) ? below(&m->state, 3000) : below(&m->state, 200000000);
    if (!m->has_time)
        m->world->first_ns = m->clock_ns;
    m->has_time = true;
    return m->world->header.known & TRACE_HAS_TIMES ? (int64_t)(m->clock_ns - m->world->first_ns) : 0;
}

static void draw_experts(struct maker *m, struct trace_event *event, uint32_t n_experts, uint32_t n)
{
    event->n = n;
    for (uint32_t i = 0; i < n; i++) {
        bool again;
        do {
            event->experts[i] = (uint16_t)below(&m->state, n_experts);
            again = false;
            for (uint32_t j = 0; j < i; j++)
                again |= event->experts[j] == event->experts[i];
        } while (again);
    }
}

static void make_choice(struct maker *m, uint32_t layer, uint32_t token)
{
    const struct trace_header *h = &m->world->header;
    const struct trace_layer *shape = &h->layers[layer];
    struct trace_event *event;
    if (below(&m->state, 2)) {
        event = add(m->world, TRACE_EVENT_GUESS);
        event->layer = layer;
        event->token = token;
        draw_experts(m, event, shape->n_experts,
                     1 + below(&m->state, shape->n_experts < 24 ? shape->n_experts : 24));
    }
    event = add(m->world, TRACE_EVENT_CHOICE);
    event->layer = layer;
    event->token = token;
    draw_experts(m, event, shape->n_experts,
                 below(&m->state, 9) ? shape->n_used : 1 + below(&m->state, shape->n_used));
    const uint64_t mask = event->n < 64 ? (UINT64_C(1) << event->n) - 1 : UINT64_MAX;
    if (h->known & TRACE_HAS_RESIDENCY)
        event->resident = trace_random(&m->state) & mask;
    if (h->known & TRACE_HAS_WEIGHTS)
        for (uint32_t i = 0; i < event->n; i++)
            event->weights[i] = (float)below(&m->state, 1000000) * 1e-6f;
    event->t_ns = tick(m);
    if (below(&m->state, 3) || !(h->known & TRACE_HAS_READS))
        return;
    const uint32_t expert = event->experts[0];
    event = add(m->world, TRACE_EVENT_READ);
    event->layer = layer;
    event->expert = expert;
    event->bytes = trace_random(&m->state) >> below(&m->state, 64);
    event->read = (enum trace_read_kind)below(&m->state, N_TRACE_READS);
    event->t_ns = tick(m);
    event->t_done_ns = tick(m);
}

static void make_pass(struct maker *m, uint32_t *position)
{
    struct trace_world *world = m->world;
    const bool told = below(&m->state, 12) == 0,
               anew = told || world->n_tokens == 0 || below(&m->state, 15) == 0;
    if (anew) {
        *position = told && below(&m->state, 2) ? below(&m->state, 1000) : 0;
        struct trace_event *event = add(world, TRACE_EVENT_CONVERSATION);
        event->conversation = world->n_conversations++;
        if (told) {
            snprintf(event->domain, sizeof event->domain, "domain %u", below(&m->state, 5));
            event->part = (enum trace_part)below(&m->state, N_TRACE_PARTS);
        }
    }
    const bool prompt = anew || below(&m->state, 8) == 0;
    struct trace_event *event = add(world, TRACE_EVENT_PASS);
    event->phase = prompt ? TRACE_PREFILL : TRACE_DECODE;
    event->first_position = *position;
    event->n_tokens = prompt ? 1 + below(&m->state, 20) : 1;
    event->t_ns = tick(m);
    const uint32_t n_tokens = event->n_tokens;
    for (uint32_t l = 0; l < world->header.n_layers; l++) // of a prompt, the last layer chooses for one token
        for (uint32_t t = l + 1 == world->header.n_layers ? n_tokens - 1 : 0; t < n_tokens; t++)
            if (world->header.layers[l].n_experts)
                make_choice(m, l, t);
    event = add(world, TRACE_EVENT_PASS_END);
    event->pass_ns = trace_random(&m->state) >> below(&m->state, 64);
    event->stall_ns = below(&m->state, 1000);
    *position += n_tokens;
    world->n_tokens += n_tokens;
}

void trace_world_make(struct trace_world *out, const struct trace_header *header, uint64_t seed,
                      uint32_t n_passes)
{
    memset(out, 0, sizeof *out);
    out->header = *header;
    struct maker m = {.world = out, .state = seed, .clock_ns = 987654321000};
    uint32_t position = 0;
    for (uint32_t p = 0; p < n_passes; p++)
        make_pass(&m, &position);
}

void trace_world_free(struct trace_world *world)
{
    free(world->events);
}

// ---- writing and expecting
// ---------------------------------------------------------------------------------

static void write_event(const struct trace_world *world, struct trace_writer *w, const struct trace_event *e)
{
    int32_t experts[TRACE_MAX_RANKS];
    for (uint32_t i = 0; i < e->n; i++)
        experts[i] = e->experts[i];
    const uint64_t t_ns = world->first_ns + (uint64_t)e->t_ns,
                   t_done_ns = world->first_ns + (uint64_t)e->t_done_ns;
    switch (e->kind) {
    case TRACE_EVENT_CONVERSATION:
        if (e->domain[0])
            trace_conversation(w, e->domain, e->part);
        break;
    case TRACE_EVENT_PASS:
        trace_pass_begin(w, e->phase, e->first_position, e->n_tokens, t_ns);
        break;
    case TRACE_EVENT_CHOICE:
        trace_choice(w, e->layer, e->token, experts, e->weights, e->n, e->resident, t_ns);
        break;
    case TRACE_EVENT_GUESS:
        trace_guess(w, e->layer, e->token, experts, e->n);
        break;
    case TRACE_EVENT_READ:
        trace_read(w, e->layer, e->expert, e->bytes, e->read, t_ns, t_done_ns);
        break;
    case TRACE_EVENT_PASS_END:
        trace_pass_end(w, e->pass_ns, e->stall_ns);
        break;
    case TRACE_EVENT_WAITED:
    case TRACE_EVENT_END:
        break;
    }
}

void trace_world_write(const struct trace_world *world, const char *path)
{
    struct trace_writer *writer;
    struct lode_error error = {0};
    cr_assert_eq(trace_writer_open(&writer, path, &world->header, &error), 0, "%s", error.text);
    for (size_t i = 0; i < world->n; i++)
        write_event(world, writer, &world->events[i]);
    cr_assert_eq(trace_writer_close(writer, &error), 0, "%s", error.text);
}

static void expect_experts(const struct trace_event *got, const struct trace_event *wanted, size_t i)
{
    cr_assert(got->layer == wanted->layer && got->token == wanted->token && got->n == wanted->n, "event %zu",
              i);
    cr_assert(memcmp(got->experts, wanted->experts, got->n * sizeof *got->experts) == 0, "event %zu", i);
}

static void expect_event(const struct trace_event *got, const struct trace_event *wanted, size_t i)
{
    cr_assert_eq(got->kind, wanted->kind, "event %zu: kind %d instead of %d", i, got->kind, wanted->kind);
    switch (got->kind) {
    case TRACE_EVENT_CONVERSATION:
        cr_assert(got->conversation == wanted->conversation && got->part == wanted->part, "event %zu", i);
        cr_assert_str_eq(got->domain, wanted->domain);
        break;
    case TRACE_EVENT_PASS:
        cr_assert(got->phase == wanted->phase && got->first_position == wanted->first_position &&
                      got->n_tokens == wanted->n_tokens && got->t_ns == wanted->t_ns,
                  "event %zu", i);
        break;
    case TRACE_EVENT_CHOICE:
        expect_experts(got, wanted, i);
        cr_assert(got->resident == wanted->resident && got->t_ns == wanted->t_ns, "event %zu", i);
        for (uint32_t r = 0; r < got->n; r++)
            cr_assert_eq(got->weights[r], lode_f16_to_f32(lode_f32_to_f16(wanted->weights[r])), "event %zu",
                         i);
        break;
    case TRACE_EVENT_GUESS:
        expect_experts(got, wanted, i);
        break;
    case TRACE_EVENT_READ:
        cr_assert(got->layer == wanted->layer && got->expert == wanted->expert &&
                      got->bytes == wanted->bytes && got->read == wanted->read && got->t_ns == wanted->t_ns &&
                      got->t_done_ns == wanted->t_done_ns,
                  "event %zu", i);
        break;
    case TRACE_EVENT_PASS_END:
        cr_assert(got->pass_ns == wanted->pass_ns && got->stall_ns == wanted->stall_ns, "event %zu", i);
        break;
    case TRACE_EVENT_WAITED:
    case TRACE_EVENT_END:
        break;
    }
}

void trace_world_expect(const struct trace_world *world, const char *path)
{
    struct trace_reader *reader;
    struct trace_event event;
    struct lode_error error = {0};
    cr_assert_eq(trace_reader_open(&reader, path, &error), 0, "%s", error.text);
    cr_assert(memcmp(trace_reader_header(reader), &world->header, sizeof world->header) == 0);
    size_t i = 0;
    for (;;) {
        cr_assert_eq(trace_reader_next(reader, &event, &error), 0, "%s", error.text);
        if (event.kind == TRACE_EVENT_WAITED)
            continue;
        if (event.kind == TRACE_EVENT_END)
            break;
        cr_assert_lt(i, world->n);
        expect_event(&event, &world->events[i], i);
        i++;
    }
    cr_assert_eq(i, world->n);
    cr_assert_null(trace_reader_cut(reader), "%s", trace_reader_cut(reader));
    trace_reader_close(reader);
}

// ---- files
// ---------------------------------------------------------------------------------------------------

void trace_file_append(struct trace_file *file, const void *bytes, size_t n)
{
    file->bytes = realloc(file->bytes, file->n + n + 1);
    cr_assert(file->bytes);
    if (n)
        memcpy(file->bytes + file->n, bytes, n);
    file->n += n;
}

void trace_file_header(struct trace_file *file, const struct trace_header *header)
{
    uint8_t bytes[TRACE_MAX_HEADER_BYTES];
    trace_file_append(file, bytes, trace_header_encode(bytes, header));
}

void trace_file_block(struct trace_file *file, const void *records, size_t n)
{
    const size_t capacity = ZSTD_compressBound(n);
    uint8_t *frame = malloc(capacity), head[TRACE_BLOCK_HEADER_BYTES];
    cr_assert(frame);
    const size_t frame_bytes = ZSTD_compress(frame, capacity, records, n, 1);
    trace_put_u32(head, TRACE_BLOCK_FRAME);
    trace_put_u32(head + 4, TRACE_BLOCK_HEADER_BYTES - 8);
    trace_put_u32(head + 8, file->serial++);
    trace_put_u32(head + 12, (uint32_t)n);
    trace_put_u32(head + 16, (uint32_t)frame_bytes);
    trace_put_u64(head + 20, trace_sum(TRACE_SUM_START, frame, frame_bytes));
    trace_put_u32(head + 28, (uint32_t)trace_sum(TRACE_SUM_START, head, 28));
    trace_file_append(file, head, sizeof head);
    trace_file_append(file, frame, frame_bytes);
    free(frame);
}

void trace_file_read(struct trace_file *file, const char *path)
{
    FILE *stream = fopen(path, "rb");
    cr_assert(stream, "%s", path);
    memset(file, 0, sizeof *file);
    uint8_t buffer[65536];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, stream)) > 0;)
        trace_file_append(file, buffer, n);
    fclose(stream);
}

void trace_file_write(const struct trace_file *file, size_t n, const char *path)
{
    FILE *stream = fopen(path, "wb");
    cr_assert(stream && fwrite(file->bytes, 1, n, stream) == n && fclose(stream) == 0);
}

void trace_file_free(struct trace_file *file)
{
    free(file->bytes);
    memset(file, 0, sizeof *file);
}

size_t *trace_file_borders(const struct trace_file *file, size_t *out_n)
{
    size_t at = 8 + trace_get_u32(file->bytes + 4), n = 0;
    size_t *borders = malloc((file->n / TRACE_BLOCK_HEADER_BYTES + 2) * sizeof *borders);
    cr_assert(borders);
    while (at < file->n) {
        borders[n++] = at;
        at += TRACE_BLOCK_HEADER_BYTES + trace_get_u32(file->bytes + at + 16);
    }
    cr_assert_eq(at, file->n);
    borders[n] = at;
    *out_n = n;
    return borders;
}

int trace_file_load(struct trace *out, const struct trace_file *file, size_t n, struct lode_error *error)
{
    static uint8_t nothing[1];
    FILE *stream = fmemopen(n ? file->bytes : nothing, n ? n : 1, "rb");
    cr_assert(stream);
    if (n == 0)
        fgetc(stream);
    return trace_load_stream(out, stream, "in memory", UINT64_C(64) << 20, error);
}
