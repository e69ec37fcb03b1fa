// Who did what when: spans of time on lanes (a CPU, a GPU's operations, its copies, the drive), collected
// while a run goes on and written as a file of Chrome's trace format, which chrome://tracing and Perfetto
// show.
//
// Memory is taken once: when it is full later spans are dropped and counted. Spans of one lane come from one
// thread at a time; lanes are independent of each other.
#ifndef LODE_TIMELINE_H
#define LODE_TIMELINE_H

#include "base/lode_error.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct lode_timeline;

#define LODE_TIMELINE_LANES 16

// Room for so many spans a lane.
int lode_timeline_open(struct lode_timeline **out, uint32_t spans_per_lane, struct lode_error *error);
void lode_timeline_close(struct lode_timeline *timeline);

// A new lane, "cpu" or "cuda0 copies"; the name is copied. UINT32_MAX when there are too many: spans there do
// nothing.
uint32_t lode_timeline_lane(struct lode_timeline *timeline, const char *name);

// One whose spans may lie above each other, as reads in flight do. The file shows it in as many rows as it
// takes: "drive", "drive 2".
uint32_t lode_timeline_lane_of_rows(struct lode_timeline *timeline, const char *name);

// From start to end by clock_now_ns. `what` is a constant: it is kept by its address. layer: UINT32_MAX for
// none; bytes: that were moved, 0 for none.
void lode_timeline_span(struct lode_timeline *timeline, uint32_t lane, const char *what, uint32_t layer,
                        uint64_t bytes, uint64_t start_ns, uint64_t end_ns);

uint64_t lode_timeline_dropped(const struct lode_timeline *timeline);

// Share of the time from the first span to the last, of all lanes, in which lanes a and b both are busy, and
// each alone. All 0 where there is no span; all NAN without memory to sort them.
struct lode_timeline_overlap {
    double both, only_a, only_b;
};
struct lode_timeline_overlap lode_timeline_overlap(const struct lode_timeline *timeline, uint32_t a,
                                                   uint32_t b);

// Writes all spans; times are microseconds since the first. The file is there wholly or not at all.
int lode_timeline_write(const struct lode_timeline *timeline, const char *path, struct lode_error *error);

#ifdef __cplusplus
}
#endif

#endif
