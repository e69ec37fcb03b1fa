// Spans are kept as they come, a lane's beside each other; they are sorted when somebody asks what they say.
//
// The path of a span is a store of 40 bytes and no lock: a lane has one writer, and its count is published
// behind the span that it counts. Lanes lie on cache lines of their own.
#include "base/timeline.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NO_LAYER UINT32_MAX
#define PATH_BYTES 4096
#define TEMPORARY_NAMES 16

struct span {
    const char *what;
    uint64_t start_ns, end_ns, bytes;
    uint32_t layer;
};

struct lane {
    char name[40];
    struct span *spans; // [capacity]
    uint32_t n;
    bool of_rows;
    uint64_t dropped;
} __attribute__((aligned(64)));

struct lode_timeline {
    uint32_t capacity, n_lanes;
    struct span *memory; // of all lanes; pages that nothing was written to take none
    struct lane lanes[LODE_TIMELINE_LANES];
};

// One span more, so that no room at all is memory too.
static size_t memory_bytes(const struct lode_timeline *timeline)
{
    return ((size_t)timeline->capacity * LODE_TIMELINE_LANES + 1) * sizeof *timeline->memory;
}

int lode_timeline_open(struct lode_timeline **out, uint32_t spans_per_lane, struct lode_error *error)
{
    *out = NULL;
    struct lode_timeline *timeline = aligned_alloc(64, sizeof *timeline);
    if (!timeline)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a timeline");
    memset(timeline, 0, sizeof *timeline);
    timeline->capacity = spans_per_lane;
    // Not of malloc, which may write into memory before anybody does (MALLOC_PERTURB_).
    timeline->memory = mmap(NULL, memory_bytes(timeline), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (timeline->memory == MAP_FAILED) {
        free(timeline);
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a timeline of %" PRIu32 " spans a lane",
                         spans_per_lane);
    }
    *out = timeline;
    return LODE_OK;
}

void lode_timeline_close(struct lode_timeline *timeline)
{
    if (!timeline)
        return;
    munmap(timeline->memory, memory_bytes(timeline));
    free(timeline);
}

uint32_t lode_timeline_lane(struct lode_timeline *timeline, const char *name)
{
    if (timeline->n_lanes == LODE_TIMELINE_LANES)
        return UINT32_MAX;
    const uint32_t index = timeline->n_lanes;
    struct lane *lane = &timeline->lanes[index];
    snprintf(lane->name, sizeof lane->name, "%s", name);
    lane->spans = timeline->memory + (size_t)index * timeline->capacity;
    timeline->n_lanes++;
    return index;
}

uint32_t lode_timeline_lane_of_rows(struct lode_timeline *timeline, const char *name)
{
    const uint32_t index = lode_timeline_lane(timeline, name);
    if (index < timeline->n_lanes)
        timeline->lanes[index].of_rows = true;
    return index;
}

void lode_timeline_span(struct lode_timeline *timeline, uint32_t lane, const char *what, uint32_t layer,
                        uint64_t bytes, uint64_t start_ns, uint64_t end_ns)
{
    if (lane >= timeline->n_lanes)
        return;
    struct lane *to = &timeline->lanes[lane];
    if (to->n == timeline->capacity) {
        __atomic_store_n(&to->dropped, to->dropped + 1, __ATOMIC_RELAXED);
        return;
    }
    to->spans[to->n] = (struct span){what, start_ns, end_ns > start_ns ? end_ns : start_ns, bytes, layer};
    __atomic_store_n(&to->n, to->n + 1, __ATOMIC_RELEASE);
}

static uint32_t count_of(const struct lane *lane)
{
    return __atomic_load_n(&lane->n, __ATOMIC_ACQUIRE);
}

uint64_t lode_timeline_dropped(const struct lode_timeline *timeline)
{
    uint64_t dropped = 0;
    for (uint32_t i = 0; i < timeline->n_lanes; i++)
        dropped += __atomic_load_n(&timeline->lanes[i].dropped, __ATOMIC_RELAXED);
    return dropped;
}

// From the first start to the last end of all lanes; false where there is no span.
static bool range_of(uint64_t *out_first_ns, uint64_t *out_last_ns, const struct lode_timeline *timeline)
{
    uint64_t first = UINT64_MAX, last = 0;
    for (uint32_t i = 0; i < timeline->n_lanes; i++) {
        const struct lane *lane = &timeline->lanes[i];
        const uint32_t n = count_of(lane);
        for (uint32_t k = 0; k < n; k++) {
            first = lane->spans[k].start_ns < first ? lane->spans[k].start_ns : first;
            last = lane->spans[k].end_ns > last ? lane->spans[k].end_ns : last;
        }
    }
    *out_first_ns = first;
    *out_last_ns = last;
    return first != UINT64_MAX;
}

// ---- in the order of time
// ------------------------------------------------------------------------------------

// Of spans that begin at once the longer one first, so that what is inside of another follows it; of equal
// ones the one that was told first.
static int by_start(const void *a, const void *b)
{
    const struct span *const *x = a, *const *y = b;
    if ((*x)->start_ns != (*y)->start_ns)
        return (*x)->start_ns < (*y)->start_ns ? -1 : 1;
    if ((*x)->end_ns != (*y)->end_ns)
        return (*x)->end_ns > (*y)->end_ns ? -1 : 1;
    return (*x > *y) - (*x < *y);
}

// For the caller to free; NULL without memory.
static const struct span **sort(uint32_t *out_n, const struct lane *lane)
{
    const uint32_t n = count_of(lane);
    const struct span **sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    *out_n = n;
    if (!sorted)
        return NULL;
    for (uint32_t i = 0; i < n; i++)
        sorted[i] = &lane->spans[i];
    qsort(sorted, n, sizeof *sorted, by_start);
    return sorted;
}

struct stretch {
    uint64_t start_ns, end_ns;
};

// When a lane is busy: stretches that do not touch each other, in order. For the caller to free; NULL without
// memory.
static struct stretch *busy(uint32_t *out_n, uint64_t *out_total_ns, const struct lane *lane)
{
    uint32_t n, used = 0;
    const struct span **sorted = sort(&n, lane);
    struct stretch *stretches = sorted ? malloc(((size_t)n + 1) * sizeof *stretches) : NULL;
    *out_total_ns = 0;
    for (uint32_t i = 0; stretches && i < n; i++) {
        const struct span *span = sorted[i];
        struct stretch *last = used ? &stretches[used - 1] : NULL;
        if (last && span->start_ns <= last->end_ns)
            last->end_ns = span->end_ns > last->end_ns ? span->end_ns : last->end_ns;
        else
            stretches[used++] = (struct stretch){span->start_ns, span->end_ns};
    }
    for (uint32_t i = 0; i < used; i++)
        *out_total_ns += stretches[i].end_ns - stretches[i].start_ns;
    free(sorted);
    *out_n = used;
    return stretches;
}

// The time in which both are busy: of two stretches the one that ends first meets nothing further.
static uint64_t meet(const struct stretch *a, uint32_t n_a, const struct stretch *b, uint32_t n_b)
{
    uint64_t both_ns = 0;
    for (uint32_t i = 0, k = 0; i < n_a && k < n_b;) {
        const uint64_t start = a[i].start_ns > b[k].start_ns ? a[i].start_ns : b[k].start_ns;
        const uint64_t end = a[i].end_ns < b[k].end_ns ? a[i].end_ns : b[k].end_ns;
        both_ns += end > start ? end - start : 0;
        if (a[i].end_ns < b[k].end_ns)
            i++;
        else
            k++;
    }
    return both_ns;
}

struct lode_timeline_overlap lode_timeline_overlap(const struct lode_timeline *timeline, uint32_t a,
                                                   uint32_t b)
{
    static const struct lane idle;
    struct lode_timeline_overlap overlap = {0};
    uint64_t first, last, a_ns, b_ns;
    if (!range_of(&first, &last, timeline) || last == first)
        return overlap;
    uint32_t n_a, n_b;
    struct stretch *of_a = busy(&n_a, &a_ns, a < timeline->n_lanes ? &timeline->lanes[a] : &idle);
    struct stretch *of_b = busy(&n_b, &b_ns, b < timeline->n_lanes ? &timeline->lanes[b] : &idle);
    if (of_a && of_b) {
        const uint64_t both_ns = meet(of_a, n_a, of_b, n_b);
        const double whole_ns = (double)(last - first);
        overlap.both = (double)both_ns / whole_ns;
        overlap.only_a = (double)(a_ns - both_ns) / whole_ns;
        overlap.only_b = (double)(b_ns - both_ns) / whole_ns;
    } else {
        overlap = (struct lode_timeline_overlap){NAN, NAN, NAN};
    }
    free(of_a);
    free(of_b);
    return overlap;
}

// ---- rows
// ----------------------------------------------------------------------------------------------------

// A lane as the file shows it.
struct rows {
    const struct span **spans; // [n] in the order of time
    uint32_t *row_of;          // [n]
    uint32_t n, n_rows;        // n_rows: at least 1
};

static void free_rows(struct rows *rows)
{
    free(rows->spans);
    free(rows->row_of);
}

// Each span goes into the first row that is free when it begins.
static bool fill_rows(struct rows *rows)
{
    uint64_t *busy_until_ns = calloc((size_t)rows->n + 1, sizeof *busy_until_ns);
    for (uint32_t i = 0; busy_until_ns && i < rows->n; i++) {
        uint32_t row = 0;
        while (row < rows->n_rows && busy_until_ns[row] > rows->spans[i]->start_ns)
            row++;
        rows->n_rows = row < rows->n_rows ? rows->n_rows : row + 1;
        busy_until_ns[row] = rows->spans[i]->end_ns;
        rows->row_of[i] = row;
    }
    free(busy_until_ns);
    return busy_until_ns != NULL;
}

// False without memory. Released by free_rows in any case.
static bool make_rows(struct rows *out, const struct lane *lane)
{
    *out = (struct rows){.n_rows = 1};
    out->spans = sort(&out->n, lane);
    out->row_of = calloc((size_t)out->n + 1, sizeof *out->row_of);
    return out->spans && out->row_of && (!lane->of_rows || fill_rows(out));
}

// ---- the file
// ------------------------------------------------------------------------------------------------

// Names are our own, but a file that no program reads is worth nothing: what is not plain becomes '?'.
static void write_text(FILE *file, const char *text)
{
    fputc('"', file);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fputc('\\', file);
        fputc(c < 0x20 || c > 0x7e ? '?' : c, file);
    }
    fputc('"', file);
}

// Nanoseconds as microseconds, to the last digit and in any locale.
static void write_microseconds(FILE *file, const char *name, uint64_t ns)
{
    fprintf(file, ",\"%s\":%" PRIu64 ".%03u", name, ns / 1000, (unsigned)(ns % 1000));
}

static void write_row_name(FILE *file, const struct lane *lane, uint32_t row, uint32_t tid)
{
    char name[sizeof lane->name + 16];
    snprintf(name, sizeof name, row ? "%s %" PRIu32 : "%s", lane->name, row + 1);
    fprintf(
        file,
        ",\n{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32 ",\"name\":\"thread_name\",\"args\":{\"name\":", tid);
    write_text(file, name);
    fprintf(file,
            "}},\n{\"ph\":\"M\",\"pid\":1,\"tid\":%" PRIu32
            ",\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":%" PRIu32 "}}",
            tid, tid);
}

static void write_span(FILE *file, const struct span *span, uint32_t tid, uint64_t first_ns)
{
    fprintf(file, ",\n{\"ph\":\"X\",\"pid\":1,\"tid\":%" PRIu32 ",\"name\":", tid);
    write_text(file, span->what);
    write_microseconds(file, "ts", span->start_ns - first_ns);
    write_microseconds(file, "dur", span->end_ns - span->start_ns);
    fputs(",\"args\":{", file);
    if (span->layer != NO_LAYER)
        fprintf(file, "\"layer\":%" PRIu32, span->layer);
    if (span->bytes)
        fprintf(file, "%s\"bytes\":%" PRIu64, span->layer != NO_LAYER ? "," : "", span->bytes);
    fputs("}}", file);
}

static bool write_lane(FILE *file, const struct lane *lane, uint32_t *next_tid, uint64_t first_ns)
{
    struct rows rows;
    const bool complete = make_rows(&rows, lane);
    for (uint32_t row = 0; complete && row < rows.n_rows; row++)
        write_row_name(file, lane, row, *next_tid + row);
    for (uint32_t i = 0; complete && i < rows.n; i++)
        write_span(file, rows.spans[i], *next_tid + rows.row_of[i], first_ns);
    *next_tid += rows.n_rows;
    free_rows(&rows);
    return complete;
}

// False without memory; whether the file took it, the file knows.
static bool write_events(FILE *file, const struct lode_timeline *timeline)
{
    uint64_t first_ns = 0, last_ns;
    uint32_t next_tid = 1;
    bool complete = true;
    range_of(&first_ns, &last_ns, timeline);
    fprintf(file,
            "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"dropped\":%" PRIu64 "},\"traceEvents\":[\n"
            "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"lode\"}}",
            lode_timeline_dropped(timeline));
    for (uint32_t i = 0; i < timeline->n_lanes && complete; i++)
        complete = write_lane(file, &timeline->lanes[i], &next_tid, first_ns);
    fputs("\n]}\n", file);
    return complete;
}

static int fail_write(const char *path, int cause, struct lode_error *error)
{
    const char *advice = cause == ENOSPC || cause == EDQUOT || cause == EFBIG
                             ? "make room there, or name a file on another disk"
                             : "name a file in a folder that is there and may be written to";
    return lode_fail(error, LODE_ERR_IO, "cannot write the timeline %s: %s; %s", path, strerror(cause),
                     advice);
}

// Beside the file, under a name that nobody has; what is there and is no file (a pipe, a terminal) is written
// to as it is, and `temporary` is empty.
static int open_file(char temporary[PATH_BYTES], const char *path)
{
    struct stat status;
    temporary[0] = '\0';
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    for (int i = 0; i < TEMPORARY_NAMES; i++) {
        const int len = snprintf(temporary, PATH_BYTES, "%s.partial-%ld-%d", path, (long)getpid(), i);
        if (len < 0 || len >= PATH_BYTES) {
            errno = ENAMETOOLONG;
            break;
        }
        const int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0)
            return fd;
        if (errno != EEXIST)
            break;
    }
    temporary[0] = '\0';
    return -1;
}

int lode_timeline_write(const struct lode_timeline *timeline, const char *path, struct lode_error *error)
{
    char temporary[PATH_BYTES];
    const int fd = open_file(temporary, path);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file) {
        const int cause = errno;
        if (fd >= 0)
            close(fd);
        if (temporary[0])
            unlink(temporary);
        return fail_write(path, cause, error);
    }
    const bool complete = write_events(file, timeline);
    errno = 0;
    bool failed = fflush(file) != 0 || ferror(file);
    int cause = errno;
    if (fclose(file) != 0 && !failed) {
        failed = true;
        cause = errno;
    }
    if (!failed && complete && temporary[0] && rename(temporary, path) != 0) {
        failed = true;
        cause = errno;
    }
    if ((failed || !complete) && temporary[0])
        unlink(temporary);
    if (!complete)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to sort the timeline for %s", path);
    // A write that failed before the last flush has left no cause behind: it is nearly always the room.
    return failed ? fail_write(path, cause ? cause : ENOSPC, error) : LODE_OK;
}
