// The time that each cell has, medians, and timing within a pass.
#include "profiles/probe_internal.h"

#include "base/clock.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TELL_NS 50000000
#define MOST_APART 1.3 // of two rounds that were disturbed alike

// Of a device that works by itself: so long a batch of calls takes that waiting for it is a percent of it.
#define BATCH_SECONDS 2e-3
#define BATCH_CALLS 1024

bool probe_goes_on(struct probe *probe)
{
    const uint64_t now_ns = clock_now_ns();
    if (probe->cancelled || probe->fault || now_ns - probe->told_ns < TELL_NS || !probe->options->on_progress)
        return !probe->cancelled && !probe->fault;
    probe->told_ns = now_ns;
    const uint64_t total_ms = (probe->end_ns - probe->start_ns) / 1000000;
    const uint64_t done_ms = (now_ns - probe->start_ns) / 1000000;
    probe->cancelled = !probe->options->on_progress(probe->options->user, probe->what,
                                                    done_ms < total_ms ? done_ms : total_ms, total_ms);
    return !probe->cancelled;
}

int probe_cancelled(struct lode_error *error)
{
    return lode_fail(error, LODE_ERR_CANCELLED, "the measurement was stopped");
}

int probe_stopped(const struct probe *probe, struct lode_error *error)
{
    if (!probe->fault)
        return probe->cancelled ? probe_cancelled(error) : LODE_OK;
    if (error)
        *error = probe->fault_error;
    return probe->fault;
}

void probe_note(struct probe *probe, const char *format, ...)
{
    if (!probe->options->on_note)
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    probe->options->on_note(probe->options->user, text);
}

static double seconds_left(const struct probe_group *group)
{
    const uint64_t now_ns = clock_now_ns();
    return group->end_ns > now_ns ? (double)(group->end_ns - now_ns) * 1e-9 : 0;
}

double probe_slice_s(struct probe_group *group)
{
    const double slice_s = seconds_left(group) / (group->n_cells ? group->n_cells : 1);
    group->n_cells -= group->n_cells > 0;
    return slice_s;
}

bool probe_has_time(const struct probe_group *group, double seconds)
{
    return 2 * seconds <= seconds_left(group);
}

void probe_sample(struct probe_samples *samples, double value)
{
    if (samples->n < PROBE_SAMPLES)
        samples->values[samples->n++] = value;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct probe_samples *sorted, double share)
{
    const double at = share * (sorted->n - 1);
    const uint32_t below = (uint32_t)at;
    const uint32_t above = below + 1 < sorted->n ? below + 1 : below;
    return sorted->values[below] + (at - below) * (sorted->values[above] - sorted->values[below]);
}

struct probe_figure probe_median(struct probe_samples *samples)
{
    if (!samples->n)
        return (struct probe_figure){0};
    qsort(samples->values, samples->n, sizeof *samples->values, by_value);
    const double median = quantile(samples, 0.5);
    const double range = quantile(samples, 0.75) - quantile(samples, 0.25);
    return (struct probe_figure){median, median > 0 ? range / median : 0};
}

// ---- in a pass

struct timing {
    struct probe *probe;
    void (*run)(void *user);
    void *user;
    double slice_s;
    uint32_t n_calls; // of a sample
    struct probe_samples samples;
};

static uint32_t least_repeats(enum probe_mode mode)
{
    return mode == PROBE_QUICK ? 3 : mode == PROBE_FULL ? 5 : 9;
}

static double run_once(const struct timing *timing)
{
    struct probe *probe = timing->probe;
    const uint64_t start_ns = clock_now_ns();
    for (uint32_t i = 0; i < timing->n_calls; i++)
        timing->run(timing->user);
    if (!probe->device->host_memory && !probe->fault)
        probe->fault = probe->device->ops->sync(probe->device, &probe->fault_error);
    return clock_seconds_since(start_ns) / timing->n_calls;
}

// More calls between two waits, until waiting does not show.
static void grow_batch(struct timing *timing, double once_s)
{
    while (timing->n_calls < BATCH_CALLS && once_s * timing->n_calls < BATCH_SECONDS &&
           probe_goes_on(timing->probe)) {
        timing->n_calls *= 4;
        once_s = run_once(timing);
    }
}

// The warm-up counts only when it takes half of the time or more. What takes long gets fewer repeats.
static void repeat(void *user)
{
    struct timing *timing = user;
    const uint32_t least = least_repeats(timing->probe->options->mode);
    const uint64_t start_ns = clock_now_ns();
    const double first_s = run_once(timing);
    if (2 * first_s > timing->slice_s)
        probe_sample(&timing->samples, first_s);
    if (!timing->probe->device->host_memory)
        grow_batch(timing, first_s);
    while (probe_goes_on(timing->probe) && timing->samples.n < PROBE_SAMPLES) {
        const double spent_s = clock_seconds_since(start_ns);
        const bool enough = timing->samples.n >= least && spent_s >= timing->slice_s;
        if (enough || (timing->samples.n > 0 && spent_s >= 2 * timing->slice_s))
            return;
        probe_sample(&timing->samples, run_once(timing));
    }
}

struct probe_figure probe_time(struct probe *probe, struct probe_group *group, void (*run)(void *user),
                               void *user)
{
    struct timing timing = {
        .probe = probe, .run = run, .user = user, .slice_s = probe_slice_s(group), .n_calls = 1};
    probe->device->ops->pass(probe->device, repeat, &timing);
    return probe_median(&timing.samples);
}

// Five digits are more than any of this is good for, and can be read.
double probe_rounded(double value)
{
    if (!(value > 0) || !isfinite(value))
        return 0;
    const double unit = pow(10, floor(log10(value)) - 4);
    return round(value / unit) * unit;
}

// A clock that stood still gives no rate, and rates must rise above 0.
void probe_add_point(struct profile_curve *curve, double x, double y, double spread)
{
    if (curve->n_points < PROFILE_CURVE_POINTS && y > 0)
        curve->points[curve->n_points++] = (struct profile_point){x, probe_rounded(y), probe_rounded(spread)};
}

// What disturbs a measurement only slows it: of rounds that are far apart the faster counts, else their mean,
// for a run meets what they met.
static void merge_point(struct profile_point *point, double y, double spread)
{
    const double slower = fmin(point->y, y), faster = fmax(point->y, y), mean = (slower + faster) / 2;
    if (faster > MOST_APART * slower) {
        if (y > point->y)
            *point = (struct profile_point){point->x, probe_rounded(y), probe_rounded(spread)};
        return;
    }
    const double wider = fmax(fmax(point->spread, spread), (faster - slower) / mean);
    *point = (struct profile_point){point->x, probe_rounded(mean), probe_rounded(wider)};
}

void probe_merge_point(struct profile_curve *curve, double x, double y, double spread)
{
    uint32_t at = 0;
    while (at < curve->n_points && curve->points[at].x < x)
        at++;
    if (at == curve->n_points) {
        probe_add_point(curve, x, y, spread);
    } else if (curve->points[at].x == x) {
        if (y > 0)
            merge_point(&curve->points[at], y, spread);
    } else if (curve->n_points < PROFILE_CURVE_POINTS && y > 0) {
        memmove(curve->points + at + 1, curve->points + at, (curve->n_points - at) * sizeof *curve->points);
        curve->points[at] = (struct profile_point){x, probe_rounded(y), probe_rounded(spread)};
        curve->n_points++;
    }
}
