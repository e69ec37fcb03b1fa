// Timelines: what is written is what was told, in a file that every reader of Chrome's trace format takes;
// overlaps against a count of every nanosecond.
#include "base/timeline.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_LAYER UINT32_MAX

static char folder[] = "/tmp/lode-timeline-XXXXXX";
static char file_path[64];

static void make_folder(void)
{
    cr_assert(mkdtemp(folder));
    snprintf(file_path, sizeof file_path, "%s/timeline.json", folder);
}

static void remove_folder(void)
{
    unlink(file_path);
    cr_expect_eq(rmdir(folder), 0, "something was left in %s", folder);
}

TestSuite(timeline, .init = make_folder, .fini = remove_folder);

static struct lode_timeline *open_timeline(uint32_t spans)
{
    struct lode_timeline *timeline = NULL;
    struct lode_error error = {0};
    cr_assert_eq(lode_timeline_open(&timeline, spans, &error), 0, "%s", error.text);
    return timeline;
}

static json_t *write_and_read(const struct lode_timeline *timeline)
{
    struct lode_error error = {0};
    json_error_t damage;
    cr_assert_eq(lode_timeline_write(timeline, file_path, &error), 0, "%s", error.text);
    json_t *root = json_load_file(file_path, JSON_REJECT_DUPLICATES, &damage);
    cr_assert(root, "line %d: %s", damage.line, damage.text);
    return root;
}

// The n-th event of a kind ("X", "M") in the file; NULL beyond the last.
static json_t *event_at(json_t *root, const char *kind, size_t n)
{
    json_t *event;
    size_t i;
    json_array_foreach(json_object_get(root, "traceEvents"), i,
                       event) if (strcmp(json_string_value(json_object_get(event, "ph")), kind) == 0 &&
                                  n-- == 0) return event;
    return NULL;
}

static json_t *arg(json_t *event, const char *name)
{
    return json_object_get(json_object_get(event, "args"), name);
}

// Whether a span is what and where it should be; times in microseconds.
static void expect_span(json_t *event, const char *name, int tid, double start, double duration)
{
    cr_assert(event, "%s is missing", name);
    cr_expect_str_eq(json_string_value(json_object_get(event, "name")), name);
    cr_expect_eq(json_integer_value(json_object_get(event, "tid")), tid, "%s", name);
    cr_expect_float_eq(json_number_value(json_object_get(event, "ts")), start, 1e-9, "%s", name);
    cr_expect_float_eq(json_number_value(json_object_get(event, "dur")), duration, 1e-9, "%s", name);
}

// ---- the file

Test(timeline, tells_every_span_with_its_lane_its_layer_and_its_bytes)
{
    struct lode_timeline *timeline = open_timeline(8);
    const uint32_t cpu = lode_timeline_lane(timeline, "cpu"),
                   copies = lode_timeline_lane(timeline, "gpu copies");
    lode_timeline_span(timeline, cpu, "attention", 3, 0, 5000000001, 5000002500);
    lode_timeline_span(timeline, copies, "upload", 4, 1048576, 5000001000, 5000001001);
    lode_timeline_span(timeline, cpu, "head", NO_LAYER, 0, 5000002500, 5123002500);
    json_t *root = write_and_read(timeline);
    json_t *first = event_at(root, "X", 0), *second = event_at(root, "X", 1), *third = event_at(root, "X", 2);
    expect_span(first, "attention", 1, 0, 2.499);
    expect_span(second, "head", 1, 2.499, 123000);
    expect_span(third, "upload", 2, 0.999, 0.001);
    cr_expect_eq(json_integer_value(arg(first, "layer")), 3);
    cr_expect_null(arg(first, "bytes"));
    cr_expect_null(arg(second, "layer"));
    cr_expect_eq(json_integer_value(arg(third, "layer")), 4);
    cr_expect_eq(json_integer_value(arg(third, "bytes")), 1048576);
    cr_expect_null(event_at(root, "X", 3));
    cr_expect_str_eq(json_string_value(arg(event_at(root, "M", 1), "name")), "cpu");
    cr_expect_str_eq(json_string_value(arg(event_at(root, "M", 3), "name")), "gpu copies");
    cr_expect_eq(json_integer_value(json_object_get(json_object_get(root, "otherData"), "dropped")), 0);
    json_decref(root);
    lode_timeline_close(timeline);
}

// Reads in flight lie above each other; no row of the file has two at a time, and there are no more rows than
// reads at once.
Test(timeline, a_lane_of_rows_shows_spans_that_lie_above_each_other)
{
    struct lode_timeline *timeline = open_timeline(8);
    const uint32_t drive = lode_timeline_lane_of_rows(timeline, "drive"),
                   after = lode_timeline_lane(timeline, "after");
    lode_timeline_span(timeline, drive, "b", 0, 0, 2000, 5000);
    lode_timeline_span(timeline, drive, "a", 0, 0, 1000, 4000);
    lode_timeline_span(timeline, drive, "d", 0, 0, 4000, 6000); // a has ended
    lode_timeline_span(timeline, drive, "c", 0, 0, 3000, 9000);
    lode_timeline_span(timeline, drive, "e", 0, 0, 7000, 8000);
    lode_timeline_span(timeline, after, "f", 0, 0, 1000, 2000);
    json_t *root = write_and_read(timeline);
    expect_span(event_at(root, "X", 0), "a", 1, 0, 3);
    expect_span(event_at(root, "X", 1), "b", 2, 1, 3);
    expect_span(event_at(root, "X", 2), "c", 3, 2, 6);
    expect_span(event_at(root, "X", 3), "d", 1, 3, 2);
    expect_span(event_at(root, "X", 4), "e", 1, 6, 1);
    expect_span(event_at(root, "X", 5), "f", 4, 0, 1);
    static const char *const names[] = {"drive", "drive 2", "drive 3", "after"};
    for (size_t i = 0; i < 4; i++)
        cr_expect_str_eq(json_string_value(arg(event_at(root, "M", 1 + 2 * i), "name")), names[i]);
    json_decref(root);
    const struct lode_timeline_overlap overlap = lode_timeline_overlap(timeline, drive, after);
    cr_expect_float_eq(overlap.both, 1 / 8., 1e-12);
    cr_expect_float_eq(overlap.only_a, 7 / 8., 1e-12);
    lode_timeline_close(timeline);
}

// Spans of a GPU are told when their events are read, which may be later than others that began after them.
Test(timeline, spans_of_a_lane_stand_in_the_order_of_time_and_outer_ones_first)
{
    struct lode_timeline *timeline = open_timeline(8);
    const uint32_t lane = lode_timeline_lane(timeline, "cuda0");
    lode_timeline_span(timeline, lane, "late", 0, 0, 9000, 9500);
    lode_timeline_span(timeline, lane, "inner", 0, 0, 1000, 2000);
    lode_timeline_span(timeline, lane, "outer", 0, 0, 1000, 8000);
    lode_timeline_span(timeline, lane, "backwards", 0, 0, 8500, 8400);
    json_t *root = write_and_read(timeline);
    expect_span(event_at(root, "X", 0), "outer", 1, 0, 7);
    expect_span(event_at(root, "X", 1), "inner", 1, 0, 1);
    expect_span(event_at(root, "X", 2), "backwards", 1, 7.5, 0);
    expect_span(event_at(root, "X", 3), "late", 1, 8, 0.5);
    json_decref(root);
    lode_timeline_close(timeline);
}

Test(timeline, no_name_breaks_the_file)
{
    struct lode_timeline *timeline = open_timeline(2);
    const uint32_t lane =
        lode_timeline_lane(timeline, "a \"lane\"\n\x01\xff with a name that is longer than any");
    lode_timeline_span(timeline, lane, "back\\slash \"quoted\"\t\xc3", 0, 0, 1, 2);
    json_t *root = write_and_read(timeline);
    cr_expect_str_eq(json_string_value(json_object_get(event_at(root, "X", 0), "name")),
                     "back\\slash \"quoted\"??");
    cr_expect(strncmp(json_string_value(arg(event_at(root, "M", 1), "name")), "a \"lane\"???", 11) == 0);
    json_decref(root);
    lode_timeline_close(timeline);
}

Test(timeline, an_empty_one_is_a_file_too)
{
    struct lode_timeline *timeline = open_timeline(0);
    json_t *root = write_and_read(timeline);
    cr_expect_null(event_at(root, "X", 0));
    json_decref(root);
    lode_timeline_close(timeline);
    lode_timeline_close(NULL);
}

Test(timeline, times_of_a_month_keep_their_nanoseconds)
{
    struct lode_timeline *timeline = open_timeline(2);
    const uint64_t month_ns = 30ull * 24 * 3600 * 1000000000;
    const uint32_t lane = lode_timeline_lane(timeline, "cpu");
    char text[4096] = "";
    lode_timeline_span(timeline, lane, "a", 0, 0, 7, 8);
    lode_timeline_span(timeline, lane, "b", 0, 0, month_ns + 8, month_ns + 11);
    json_decref(write_and_read(timeline));
    FILE *file = fopen(file_path, "r");
    cr_assert(file && fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    cr_expect(strstr(text, "\"ts\":2592000000000.001,\"dur\":0.003"), "%s", text);
    lode_timeline_close(timeline);
}

// ---- limits

Test(timeline, what_does_not_fit_is_dropped_and_counted)
{
    struct lode_timeline *timeline = open_timeline(3);
    const uint32_t full = lode_timeline_lane(timeline, "full"), other = lode_timeline_lane(timeline, "other");
    for (uint64_t i = 0; i < 10; i++)
        lode_timeline_span(timeline, full, "span", 0, 0, i, i + 1);
    lode_timeline_span(timeline, other, "kept", 0, 0, 0, 1);
    cr_expect_eq(lode_timeline_dropped(timeline), 7);
    json_t *root = write_and_read(timeline);
    cr_expect_eq(json_integer_value(json_object_get(json_object_get(root, "otherData"), "dropped")), 7);
    expect_span(event_at(root, "X", 3), "kept", 2, 0, 0.001);
    cr_expect_null(event_at(root, "X", 4));
    json_decref(root);
    lode_timeline_close(timeline);
}

Test(timeline, beyond_the_last_lane_spans_do_nothing)
{
    struct lode_timeline *timeline = open_timeline(4);
    for (uint32_t i = 0; i < LODE_TIMELINE_LANES; i++)
        cr_expect_eq(lode_timeline_lane(timeline, "lane"), i);
    const uint32_t none = lode_timeline_lane(timeline, "one too many");
    cr_expect_eq(none, UINT32_MAX);
    lode_timeline_span(timeline, none, "nowhere", 0, 0, 1, 2);
    lode_timeline_span(timeline, LODE_TIMELINE_LANES - 1, "last", 0, 0, 1, 2);
    cr_expect_eq(lode_timeline_dropped(timeline), 0);
    json_t *root = write_and_read(timeline);
    expect_span(event_at(root, "X", 0), "last", LODE_TIMELINE_LANES, 0, 0.001);
    cr_expect_null(event_at(root, "X", 1));
    json_decref(root);
    lode_timeline_close(timeline);
}

enum { WRITERS = 4, SPANS = 20000 };

struct writer {
    struct lode_timeline *timeline;
    uint32_t lane;
};

static void *write_spans(void *user)
{
    const struct writer *w = user;
    for (uint64_t i = 0; i < SPANS + 5; i++)
        lode_timeline_span(w->timeline, w->lane, "span", w->lane, 0, 2 * i, 2 * i + 1);
    return NULL;
}

Test(timeline, lanes_are_written_by_threads_at_the_same_time)
{
    struct lode_timeline *timeline = open_timeline(SPANS);
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    for (uint32_t i = 0; i < WRITERS; i++)
        writers[i] = (struct writer){timeline, lode_timeline_lane(timeline, "thread")};
    for (uint32_t i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, write_spans, &writers[i]), 0);
    for (uint32_t i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(lode_timeline_dropped(timeline), WRITERS * 5);
    json_t *root = write_and_read(timeline), *event;
    size_t i, counts[WRITERS + 1] = {0};
    json_array_foreach(json_object_get(root, "traceEvents"), i, event) if (json_object_get(event, "ts"))
        counts[json_integer_value(json_object_get(event, "tid"))]++;
    for (uint32_t w = 1; w <= WRITERS; w++)
        cr_expect_eq(counts[w], SPANS, "lane %u: %zu", w, counts[w]);
    json_decref(root);
    lode_timeline_close(timeline);
}

// ---- overlap

#define NEAR 1e-12

static void expect_overlap(struct lode_timeline_overlap got, double both, double only_a, double only_b)
{
    cr_expect_float_eq(got.both, both, NEAR, "both %g, not %g", got.both, both);
    cr_expect_float_eq(got.only_a, only_a, NEAR, "only a %g, not %g", got.only_a, only_a);
    cr_expect_float_eq(got.only_b, only_b, NEAR, "only b %g, not %g", got.only_b, only_b);
}

Test(timeline, overlap_of_what_never_meets_and_of_what_always_does)
{
    struct lode_timeline *timeline = open_timeline(8);
    const uint32_t a = lode_timeline_lane(timeline, "a"), b = lode_timeline_lane(timeline, "b"),
                   idle = lode_timeline_lane(timeline, "idle");
    expect_overlap(lode_timeline_overlap(timeline, a, b), 0, 0, 0);
    lode_timeline_span(timeline, a, "x", 0, 0, 100, 150);
    lode_timeline_span(timeline, b, "y", 0, 0, 150, 200); // begins as the other ends
    expect_overlap(lode_timeline_overlap(timeline, a, b), 0, 0.5, 0.5);
    lode_timeline_span(timeline, b, "y", 0, 0, 100, 150);
    expect_overlap(lode_timeline_overlap(timeline, a, b), 0.5, 0, 0.5);
    expect_overlap(lode_timeline_overlap(timeline, b, a), 0.5, 0.5, 0);
    expect_overlap(lode_timeline_overlap(timeline, b, b), 1, 0, 0);
    expect_overlap(lode_timeline_overlap(timeline, a, idle), 0, 0.5, 0);
    expect_overlap(lode_timeline_overlap(timeline, a, UINT32_MAX), 0, 0.5, 0);
    lode_timeline_close(timeline);
}

Test(timeline, the_whole_is_from_the_first_span_of_any_lane_to_the_last)
{
    struct lode_timeline *timeline = open_timeline(8);
    const uint32_t a = lode_timeline_lane(timeline, "a"), b = lode_timeline_lane(timeline, "b"),
                   other = lode_timeline_lane(timeline, "other");
    lode_timeline_span(timeline, a, "x", 0, 0, 1000, 1100);
    lode_timeline_span(timeline, b, "y", 0, 0, 1050, 1100);
    lode_timeline_span(timeline, other, "z", 0, 0, 900, 901);
    lode_timeline_span(timeline, other, "z", 0, 0, 1299, 1300);
    expect_overlap(lode_timeline_overlap(timeline, a, b), 50 / 400., 50 / 400., 0);
    lode_timeline_close(timeline);
}

static uint32_t draw(uint32_t *state, uint32_t below)
{
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

Test(timeline, overlap_is_that_of_a_count_of_every_nanosecond)
{
    enum { LENGTH = 2000, ROUNDS = 200 };
    uint32_t state = 1;
    for (int round = 0; round < ROUNDS; round++) {
        struct lode_timeline *timeline = open_timeline(64);
        static unsigned char busy[2][LENGTH];
        memset(busy, 0, sizeof busy);
        uint64_t first = LENGTH, last = 0;
        for (uint32_t lane = 0; lane < 2; lane++) {
            lode_timeline_lane(timeline, "lane");
            const uint32_t n = draw(&state, 60); // none at times
            for (uint32_t i = 0; i < n; i++) {
                const uint32_t start = draw(&state, LENGTH - 100), end = start + draw(&state, 100);
                lode_timeline_span(timeline, lane, "span", 0, 0, start, end);
                memset(busy[lane] + start, 1, end - start);
                first = start < first ? start : first;
                last = end > last ? end : last;
            }
        }
        uint32_t both = 0, only_a = 0, only_b = 0;
        for (int i = 0; i < LENGTH; i++) {
            both += busy[0][i] && busy[1][i];
            only_a += busy[0][i] && !busy[1][i];
            only_b += !busy[0][i] && busy[1][i];
        }
        const double whole = last > first ? (double)(last - first) : 1;
        expect_overlap(lode_timeline_overlap(timeline, 0, 1), both / whole, only_a / whole, only_b / whole);
        lode_timeline_close(timeline);
    }
}

// ---- files that cannot be written

static void expect_write_fails(const char *path, const char *text)
{
    struct lode_timeline *timeline = open_timeline(4);
    struct lode_error error = {0};
    lode_timeline_span(timeline, lode_timeline_lane(timeline, "cpu"), "span", 0, 0, 1, 2);
    cr_expect_eq(lode_timeline_write(timeline, path, &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, path) && strstr(error.text, text), "%s: %s", path, error.text);
    lode_timeline_close(timeline);
}

Test(timeline, a_failed_write_is_told_and_leaves_nothing)
{
    char path[96];
    snprintf(path, sizeof path, "%s/absent/timeline.json", folder);
    expect_write_fails(path, "No such file");
    expect_write_fails("/dev/full", "make room");
    expect_write_fails(folder, "");
}

Test(timeline, an_older_file_is_replaced)
{
    FILE *file = fopen(file_path, "w");
    cr_assert(file && fputs("something longer that was there before, and that is no timeline", file) >= 0);
    fclose(file);
    struct lode_timeline *timeline = open_timeline(1);
    json_decref(write_and_read(timeline));
    lode_timeline_close(timeline);
}
