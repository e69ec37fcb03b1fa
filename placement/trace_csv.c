// The CSV of route traces: comments that describe the model, a line with the names of the columns, a line for
// each expert that was chosen. step, layer, slot (the rank) and expert must be there; turn, phase, weight,
// residency and expert_bytes (read for this choice) may. A pass is read into memory before it is handed out,
// for its length stands nowhere: it ends where the turn or the phase changes, the layer becomes smaller, or a
// decode goes on to the next step.
#include "placement/trace_reader.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { MAX_LINE = 4096 };

enum column { TURN, PHASE, STEP, LAYER, SLOT, EXPERT, WEIGHT, RESIDENCY, EXPERT_BYTES, N_COLUMNS };
static const char *const column_names[N_COLUMNS] = {"turn",   "phase",  "step",      "layer",       "slot",
                                                    "expert", "weight", "residency", "expert_bytes"};

struct row {
    uint32_t turn, phase, step, layer, slot, expert;
    float weight;
    uint32_t resident;
    uint64_t bytes;
};

struct csv {
    enum column columns[N_COLUMNS];
    uint32_t n_columns;
    bool has[N_COLUMNS];
    uint64_t line;        // number of the line in `text`
    uint64_t line_offset; // and where it begins
    char text[MAX_LINE + 1];
    uint32_t n_experts, n_used; // of the comments

    struct row *rows; // of the pass
    size_t n_rows, capacity;
    struct row ahead; // read, and of the next pass
    bool has_ahead, at_end;

    // What is handed out next.
    enum { GIVE_NOTHING, GIVE_ROWS } give;
    size_t row_at, read_at, read_end; // reads of the rows of the last choice
    uint32_t first_step;
};

static void csv_where(const struct trace_reader *reader, char *out, size_t capacity)
{
    const struct csv *s = reader->state;
    snprintf(out, capacity, "line %" PRIu64 " at byte %" PRIu64, s->line, s->line_offset);
}

// The next line, without its end; *out_any is false behind the last.
static int read_line(struct trace_reader *reader, bool *out_any, struct lode_error *error)
{
    struct csv *s = reader->state;
    const uint8_t *at;
    size_t n;
    *out_any = false;
    const uint64_t offset = trace_bytes_offset(reader->bytes);
    int code = trace_bytes_peek(reader->bytes, MAX_LINE, &at, &n, error);
    if (code || n == 0)
        return code;
    s->line++;
    s->line_offset = offset;
    const uint8_t *end = memchr(at, '\n', n);
    if (!end && n == MAX_LINE)
        return trace_refuse(reader, error, "the line is longer than %d bytes", MAX_LINE - 1);
    const size_t length = end ? (size_t)(end - at) : n;
    if (!end || memchr(at, 0, length)) {
        if (end)
            return trace_refuse(reader, error, "a byte of zero");
        trace_set_cut(reader, "in the middle of a line", offset + n);
    }
    size_t taken;
    code = trace_bytes_take(reader->bytes, s->text, length + (end != NULL), &taken, error);
    s->text[length] = '\0';
    if (length && s->text[length - 1] == '\r')
        s->text[length - 1] = '\0';
    *out_any = end != NULL; // half a line is none
    return code;
}

// ---- the header
// -----------------------------------------------------------------------------------------------

static bool read_whole(const char *text, const char **end, uint64_t *out)
{
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtoull(text, (char **)end, 10);
    return errno == 0;
}

// The number behind " key=" of a comment.
static bool comment_count(const char *comment, const char *key, uint64_t *out)
{
    char pattern[32];
    snprintf(pattern, sizeof pattern, " %s=", key);
    const char *at = strstr(comment, pattern), *end;
    return at && read_whole(at + strlen(pattern), &end, out) && (*end == '\0' || *end == ' ');
}

static void read_model_name(char *out, size_t capacity, const char *comment)
{
    const char *at = strstr(comment, " model=");
    if (!at)
        return;
    at += strlen(" model=");
    const size_t length = strcspn(at, " ");
    for (const char *c = at; c < at + length; c++)
        if (*c == '/')
            at = c + 1;
    snprintf(out, capacity, "%.*s", (int)strcspn(at, " "), at);
}

static int read_layer_comment(struct trace_reader *reader, uint64_t layer, struct lode_error *error)
{
    const struct csv *s = reader->state;
    uint64_t bytes = 0, n_experts = s->n_experts;
    comment_count(s->text, "expert_bytes", &bytes);
    comment_count(s->text, "n_expert", &n_experts);
    if (layer >= reader->header.n_layers || (n_experts != 0 && n_experts != s->n_experts))
        return trace_refuse(reader, error, "layer %" PRIu64 " is not one that the line of the model tells",
                            layer);
    const uint32_t n = (uint32_t)n_experts;
    reader->header.layers[layer] = (struct trace_layer){n, n ? s->n_used : 0, bytes};
    return 0;
}

static int read_comment(struct trace_reader *reader, struct lode_error *error)
{
    struct csv *s = reader->state;
    struct trace_header *h = &reader->header;
    uint64_t layer, n_layers, n_experts, n_used;
    if (comment_count(s->text, "n_layer", &n_layers) && comment_count(s->text, "n_expert", &n_experts) &&
        comment_count(s->text, "n_expert_used", &n_used)) {
        if (n_layers == 0 || n_layers > TRACE_MAX_LAYERS || n_experts == 0 || n_experts > TRACE_MAX_EXPERTS ||
            n_used == 0 || n_used > TRACE_MAX_USED || n_used > n_experts)
            return trace_refuse(reader, error, "impossible counts of layers or experts");
        h->n_layers = (uint32_t)n_layers;
        s->n_experts = (uint32_t)n_experts;
        s->n_used = (uint32_t)n_used;
        for (uint32_t l = 0; l < n_layers; l++)
            h->layers[l] = (struct trace_layer){s->n_experts, s->n_used, 0};
        read_model_name(h->model, sizeof h->model, s->text);
    }
    if (comment_count(s->text, "layer", &layer))
        return read_layer_comment(reader, layer, error);
    const char *fingerprint = strstr(s->text, " fingerprint=");
    if (fingerprint)
        h->fingerprint = strtoull(fingerprint + strlen(" fingerprint="), NULL, 16);
    return 0;
}

static int read_columns(struct trace_reader *reader, struct lode_error *error)
{
    struct csv *s = reader->state;
    char *rest = s->text;
    for (const char *name; (name = strsep(&rest, ","));) {
        uint32_t c = 0;
        while (c < N_COLUMNS && strcmp(column_names[c], name) != 0)
            c++;
        if (c == N_COLUMNS || s->has[c])
            return trace_refuse(reader, error, "the column '%.40s' is unknown or there twice", name);
        s->has[c] = true;
        s->columns[s->n_columns++] = (enum column)c;
    }
    if (!s->has[STEP] || !s->has[LAYER] || !s->has[SLOT] || !s->has[EXPERT])
        return trace_refuse(reader, error, "step, layer, slot and expert are not all among the columns");
    if (!reader->header.n_layers)
        return trace_refuse(reader, error,
                            "no comment before the columns tells n_layer, n_expert and n_expert_used");
    reader->header.known = (s->has[WEIGHT] ? TRACE_HAS_WEIGHTS : 0) |
                           (s->has[RESIDENCY] ? TRACE_HAS_RESIDENCY : 0) |
                           (s->has[EXPERT_BYTES] ? TRACE_HAS_READS : 0);
    return 0;
}

static int csv_open(struct trace_reader *reader, struct lode_error *error)
{
    struct csv *s = calloc(1, sizeof *s);
    if (!s)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read a trace");
    reader->state = s;
    for (;;) {
        bool any;
        int code = read_line(reader, &any, error);
        if (code)
            return code;
        if (!any)
            return trace_refuse(reader, error, "it ends before the line of the columns");
        if (s->text[0] != '#')
            return read_columns(reader, error);
        code = read_comment(reader, error);
        if (code)
            return code;
    }
}

static void csv_close(struct trace_reader *reader)
{
    struct csv *s = reader->state;
    if (s)
        free(s->rows);
    free(s);
}

// ---- rows
// ----------------------------------------------------------------------------------------------------

static bool set_field(struct row *row, enum column column, const char *text)
{
    const char *end;
    if (column == WEIGHT) {
        row->weight = strtof(text, (char **)&end);
        return end > text && !*end && isfinite(row->weight);
    }
    uint64_t value;
    if (!read_whole(text, &end, &value) || *end)
        return false;
    if (column == EXPERT_BYTES) {
        row->bytes = value;
        return true;
    }
    uint32_t *const fields[N_COLUMNS] = {
        [TURN] = &row->turn, [PHASE] = &row->phase,   [STEP] = &row->step,         [LAYER] = &row->layer,
        [SLOT] = &row->slot, [EXPERT] = &row->expert, [RESIDENCY] = &row->resident};
    *fields[column] = (uint32_t)value;
    return value <= UINT32_MAX;
}

// What the checks of every format do not see, for they come after rows have been put together.
static int check_row(const struct trace_reader *reader, const struct row *row, struct lode_error *error)
{
    const struct trace_header *h = &reader->header;
    if (row->layer >= h->n_layers || row->expert >= h->layers[row->layer].n_experts ||
        row->slot >= h->layers[row->layer].n_used)
        return trace_refuse(
            reader, error, "layer %u, slot %u, expert %u: beyond the %u, %u and %u of the header", row->layer,
            row->slot, row->expert, h->n_layers, row->layer < h->n_layers ? h->layers[row->layer].n_used : 0,
            row->layer < h->n_layers ? h->layers[row->layer].n_experts : 0);
    if (row->phase >= N_TRACE_PHASES || row->resident > 1 || row->step >= UINT32_MAX - TRACE_MAX_PASS_TOKENS)
        return trace_refuse(reader, error, "phase %u, residency %u or step %u makes no sense", row->phase,
                            row->resident, row->step);
    return 0;
}

// The next row to `ahead`; at_end behind the last.
static int read_row(struct trace_reader *reader, struct lode_error *error)
{
    struct csv *s = reader->state;
    bool any;
    do {
        const int code = read_line(reader, &any, error);
        if (code)
            return code;
    } while (any && (s->text[0] == '#' || !s->text[0]));
    s->has_ahead = any;
    s->at_end = !any;
    if (!any) {
        if (trace_bytes_cut(reader->bytes) && !reader->cut[0])
            trace_set_cut(reader, "in the middle of its compressed stream",
                          trace_bytes_offset(reader->bytes));
        return 0;
    }
    s->ahead = (struct row){.phase = s->has[PHASE] ? 0 : TRACE_PHASE_UNKNOWN};
    char *rest = s->text;
    uint32_t n = 0;
    for (const char *field; (field = strsep(&rest, ",")); n++)
        if (n >= s->n_columns || !set_field(&s->ahead, s->columns[n], field))
            return trace_refuse(reader, error, "field %u, '%.40s', is too many or no number", n + 1, field);
    if (n != s->n_columns)
        return trace_refuse(reader, error, "%u fields instead of %u", n, s->n_columns);
    return check_row(reader, &s->ahead, error);
}

static bool same_choice(const struct row *a, const struct row *b)
{
    return a->layer == b->layer && a->step == b->step;
}

static bool begins_pass(const struct row *last, const struct row *next)
{
    if (next->turn != last->turn || next->phase != last->phase || next->layer < last->layer)
        return true;
    if (next->layer == last->layer && next->step < last->step)
        return true;
    return next->phase != TRACE_PREFILL && next->step != last->step;
}

static int keep_row(struct trace_reader *reader, struct lode_error *error)
{
    struct csv *s = reader->state;
    if (s->n_rows == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 4096;
        struct row *rows = realloc(s->rows, capacity * sizeof *rows);
        if (!rows)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for a pass of the trace %s", reader->name);
        s->rows = rows;
        s->capacity = capacity;
    }
    const struct row *last = s->n_rows ? &s->rows[s->n_rows - 1] : NULL;
    const uint32_t slot = last && same_choice(last, &s->ahead) ? last->slot + 1 : 0;
    if (s->ahead.slot != slot)
        return trace_refuse(reader, error, "slot %u, where %u should follow", s->ahead.slot, slot);
    s->rows[s->n_rows++] = s->ahead;
    s->has_ahead = false;
    return 0;
}

static int read_pass(struct trace_reader *reader, struct lode_error *error)
{
    struct csv *s = reader->state;
    s->n_rows = 0;
    int code = 0;
    while (!code && !s->at_end) {
        if (!s->has_ahead)
            code = read_row(reader, error);
        if (code || s->at_end || (s->n_rows && begins_pass(&s->rows[s->n_rows - 1], &s->ahead)))
            break;
        code = keep_row(reader, error);
    }
    return code;
}

// ---- events
// --------------------------------------------------------------------------------------------------

static void give_pass(struct csv *s, struct trace_event *out)
{
    uint32_t first = UINT32_MAX, last = 0;
    for (size_t i = 0; i < s->n_rows; i++) {
        first = s->rows[i].step < first ? s->rows[i].step : first;
        last = s->rows[i].step > last ? s->rows[i].step : last;
    }
    out->kind = TRACE_EVENT_PASS;
    out->phase = (enum trace_phase)s->rows[0].phase;
    out->first_position = s->first_step = first;
    out->n_tokens = last - first + 1;
    out->t_ns = 0;
}

static void give_choice(struct csv *s, struct trace_event *out)
{
    const struct row *row = &s->rows[s->row_at];
    out->kind = TRACE_EVENT_CHOICE;
    out->layer = row->layer;
    out->token = row->step - s->first_step;
    out->resident = 0;
    out->t_ns = 0;
    out->n = 0;
    s->read_at = s->row_at;
    for (; s->row_at < s->n_rows && same_choice(row, &s->rows[s->row_at]); s->row_at++) {
        out->experts[out->n] = (uint16_t)s->rows[s->row_at].expert;
        out->weights[out->n] = s->rows[s->row_at].weight;
        out->resident |= (uint64_t)s->rows[s->row_at].resident << out->n;
        out->n++;
    }
    s->read_end = s->row_at;
}

// A read of one of the rows of the last choice; false when there are no more.
static bool give_read(struct csv *s, struct trace_event *out)
{
    while (s->read_at < s->read_end && s->rows[s->read_at].bytes == 0)
        s->read_at++;
    if (s->read_at == s->read_end)
        return false;
    const struct row *row = &s->rows[s->read_at++];
    out->kind = TRACE_EVENT_READ;
    out->layer = row->layer;
    out->expert = row->expert;
    out->bytes = row->bytes;
    out->read = TRACE_READ_DEMAND;
    out->t_ns = out->t_done_ns = 0;
    return true;
}

// A pass that a cut leaves half is handed out without its end. Nothing tells where a pass of a file that is
// cut between two lines would have ended: it is taken for whole when its last layer has come.
static bool pass_is_whole(const struct trace_reader *reader)
{
    const struct csv *s = reader->state;
    uint32_t last_layer = reader->header.n_layers - 1;
    while (!reader->header.layers[last_layer].n_experts)
        last_layer--;
    const struct row *last = &s->rows[s->n_rows - 1];
    return last->layer == last_layer && last->slot + 1 == reader->header.layers[last_layer].n_used;
}

static void give_pass_end(struct trace_reader *reader, struct trace_event *out)
{
    struct csv *s = reader->state;
    s->give = GIVE_NOTHING;
    if (s->at_end && !pass_is_whole(reader)) {
        if (!reader->cut[0])
            trace_set_cut(reader, "in the middle of a pass", trace_bytes_offset(reader->bytes));
        out->kind = TRACE_EVENT_END;
        return;
    }
    out->kind = TRACE_EVENT_PASS_END;
    out->pass_ns = out->stall_ns = 0;
}

static int csv_next(struct trace_reader *reader, struct trace_event *out, struct lode_error *error)
{
    struct csv *s = reader->state;
    if (s->give == GIVE_NOTHING) {
        const int code = read_pass(reader, error);
        if (code)
            return code;
        if (s->n_rows == 0) {
            out->kind = TRACE_EVENT_END;
            return 0;
        }
        s->row_at = s->read_at = s->read_end = 0;
        s->give = GIVE_ROWS;
        give_pass(s, out);
        return 0;
    }
    if (give_read(s, out))
        return 0;
    if (s->row_at < s->n_rows)
        give_choice(s, out);
    else
        give_pass_end(reader, out);
    return 0;
}

const struct trace_reader_ops trace_csv_ops = {
    .name = "csv",
    .open = csv_open,
    .next = csv_next,
    .close = csv_close,
    .where = csv_where,
};
