// Rows of tables that stay in the files: fetched by id in batched submissions, with a small cache.
//
// A batch is worked off in chunks. Within a chunk each missing row is read once, to memory of this room: a
// wait that is given up leaves reads behind that may still write. The cache is set-associative, least
// recently used leaving.
#include "base/checked.h"
#include "placement/residency_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_ROWS_MAX 256
#define WAYS 4

struct entry {
    uint64_t key; // part << 32 | id; NO_KEY: empty
    uint64_t used;
};

#define NO_KEY UINT64_MAX

struct rows {
    struct residency *residency;
    uint64_t row_bytes; // of an entry: the widest row
    uint32_t n_sets;
    struct entry *entries; // [n_sets * WAYS]
    char *memory;          // [n_sets * WAYS][row_bytes]
    uint64_t clock;

    char *landing; // [chunk_rows][row_bytes]
    uint32_t chunk_rows;
    int32_t misses[CHUNK_ROWS_MAX]; // ids of the rows in `landing`
    uint32_t n_misses, n_pending;
    struct lode_error failure; // the first of a chunk; code LODE_OK without one
};

static void free_entries(struct rows *rows)
{
    free(rows->entries);
    free(rows->memory);
    free(rows->landing);
    rows->entries = NULL;
    rows->memory = rows->landing = NULL;
    rows->row_bytes = 0;
}

// Widest first use decides: entries are made when the first row's size is known. A quarter of the memory is
// for rows on their way.
static int make_entries(struct rows *rows, uint64_t row_bytes, struct lode_error *error)
{
    free_entries(rows);
    const uint64_t budget = rows->residency->homes.rows_bytes;
    const uint64_t chunk_rows = budget / 4 / row_bytes;
    rows->chunk_rows = (uint32_t)(chunk_rows < CHUNK_ROWS_MAX ? chunk_rows : CHUNK_ROWS_MAX);
    rows->chunk_rows = rows->chunk_rows ? rows->chunk_rows : 1;
    const uint64_t left = budget > rows->chunk_rows * row_bytes ? budget - rows->chunk_rows * row_bytes : 0;
    rows->n_sets = (uint32_t)(left / ((row_bytes + sizeof *rows->entries) * WAYS));
    rows->n_sets = rows->n_sets ? rows->n_sets : 1;
    rows->entries = malloc((size_t)rows->n_sets * WAYS * sizeof *rows->entries);
    rows->memory = malloc((size_t)rows->n_sets * WAYS * row_bytes);
    rows->landing = malloc((size_t)rows->chunk_rows * row_bytes);
    if (!rows->entries || !rows->memory || !rows->landing) {
        free_entries(rows);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a cache of rows of %llu bytes",
                         (unsigned long long)row_bytes);
    }
    rows->row_bytes = row_bytes;
    for (uint32_t i = 0; i < rows->n_sets * WAYS; i++)
        rows->entries[i] = (struct entry){.key = NO_KEY};
    return 0;
}

int rows_open(struct rows **out, struct residency *residency, struct lode_error *error)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to fetch rows");
    (*out)->residency = residency;
    return 0;
}

void rows_close(struct rows *rows)
{
    if (!rows)
        return;
    free_entries(rows);
    free(rows);
}

static uint64_t row_key(uint32_t part, int32_t id)
{
    return (uint64_t)part << 32 | (uint32_t)id;
}

static struct entry *set_of(struct rows *rows, uint64_t key)
{
    const uint64_t hash = (key * 0x9e3779b97f4a7c15u) >> 32;
    return &rows->entries[hash % rows->n_sets * WAYS];
}

static char *memory_of(struct rows *rows, const struct entry *entry)
{
    return rows->memory + (uint64_t)(entry - rows->entries) * rows->row_bytes;
}

static const char *find(struct rows *rows, uint64_t key)
{
    struct entry *set = set_of(rows, key);
    for (int way = 0; way < WAYS; way++) {
        if (set[way].key != key)
            continue;
        set[way].used = ++rows->clock;
        return memory_of(rows, &set[way]);
    }
    return NULL;
}

static void keep(struct rows *rows, uint64_t key, const char *row, uint64_t row_bytes)
{
    struct entry *set = set_of(rows, key), *oldest = set;
    for (int way = 1; way < WAYS; way++)
        if (set[way].used < oldest->used)
            oldest = &set[way];
    *oldest = (struct entry){.key = key, .used = ++rows->clock};
    memcpy(memory_of(rows, oldest), row, row_bytes);
}

void rows_complete(struct rows *rows, uint32_t id, const struct io_completion *completion)
{
    (void)id;
    assert(rows->n_pending > 0);
    rows->n_pending--;
    if (completion->status != IO_DONE && rows->failure.code == LODE_OK)
        rows->failure = completion->error;
}

// The place of a row in `landing`, or n_misses.
static uint32_t find_miss(const struct rows *rows, int32_t id)
{
    uint32_t i = 0;
    while (i < rows->n_misses && rows->misses[i] != id)
        i++;
    return i;
}

static int wait_for_all(struct rows *rows, uint32_t unit, struct lode_error *error)
{
    if (!rows->n_pending)
        return 0;
    struct residency *residency = rows->residency;
    const uint64_t start_ns = io_now_ns(residency->io);
    struct lode_error cause;
    int code = 0;
    while (code == 0 && rows->n_pending)
        code = residency_pump(residency, true, &cause);
    residency_stalled(residency, unit, WAIT_ROWS, io_now_ns(residency->io) - start_ns);
    if (code == 0)
        return 0;
    io_cancel(residency->io, read_tag(READ_ROWS, 0));
    return residency_fail_for(residency, unit, error, &cause);
}

static int read_row(struct rows *rows, uint32_t unit, const struct extent *table, uint64_t row_bytes,
                    int32_t id, struct lode_error *error)
{
    const struct io_request request = {
        .file = table->file,
        .offset = table->offset + (uint64_t)(uint32_t)id * row_bytes,
        .length = row_bytes,
        .buffer = rows->landing + rows->n_misses * rows->row_bytes,
        .tag = read_tag(READ_ROWS, 0),
        .priority = IO_DEMAND,
    };
    struct lode_error cause;
    if (io_submit(rows->residency->io, &request, &cause) != 0)
        return residency_fail_for(rows->residency, unit, error, &cause);
    rows->residency->figures.row_read_bytes += row_bytes;
    rows->misses[rows->n_misses++] = id;
    rows->n_pending++;
    return 0;
}

// out: [n][row_bytes], n at most chunk_rows
static int fetch_chunk(struct rows *rows, uint32_t unit, uint32_t part, uint64_t row_bytes,
                       const int32_t *ids, uint32_t n, char *out, struct lode_error *error)
{
    const struct extent *table = &rows->residency->table->parts[part];
    rows->n_misses = 0;
    rows->failure.code = LODE_OK;
    int code = 0;
    for (uint32_t i = 0; i < n && code == 0; i++) {
        assert(ids[i] >= 0 && (uint64_t)ids[i] < table->bytes / row_bytes);
        const char *known = find(rows, row_key(part, ids[i]));
        if (known)
            memcpy(out + i * row_bytes, known, row_bytes);
        else if (find_miss(rows, ids[i]) == rows->n_misses)
            code = read_row(rows, unit, table, row_bytes, ids[i], error);
    }
    const int waited = wait_for_all(rows, unit, code == 0 ? error : NULL);
    code = code == 0 ? waited : code;
    if (code == 0 && rows->failure.code != LODE_OK)
        code = residency_fail_for(rows->residency, unit, error, &rows->failure);
    if (code != 0)
        return code;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t miss = find_miss(rows, ids[i]);
        if (miss < rows->n_misses)
            memcpy(out + i * row_bytes, rows->landing + miss * rows->row_bytes, row_bytes);
    }
    for (uint32_t i = 0; i < rows->n_misses; i++)
        keep(rows, row_key(part, rows->misses[i]), rows->landing + i * rows->row_bytes, row_bytes);
    return 0;
}

int rows_fetch(struct rows *rows, uint32_t unit, uint32_t part, uint64_t row_bytes, const int32_t *ids,
               uint32_t n, void *out, struct lode_error *error)
{
    assert(row_bytes > 0);
    const uint32_t part_id = rows->residency->table->units[unit].first_part + part;
    int code = wait_for_all(rows, unit, error); // for what a wait that was given up has left
    if (code == 0 && row_bytes > rows->row_bytes)
        code = make_entries(rows, row_bytes, error);
    for (uint32_t first = 0; first < n && code == 0; first += rows->chunk_rows) {
        const uint32_t chunk = n - first < rows->chunk_rows ? n - first : rows->chunk_rows;
        code = fetch_chunk(rows, unit, part_id, row_bytes, ids + first, chunk,
                           (char *)out + first * row_bytes, error);
    }
    return code;
}
