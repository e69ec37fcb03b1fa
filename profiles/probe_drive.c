// The drive: random reads of records by the reads in flight, past the page cache and through it; one long
// run; and the latency of the smallest read.
//
// A record is an expert of 26B-A4B; the io room cuts it into pieces of 512 KiB, and these are what is in
// flight. So many records are asked for that the queue is always full.
#include "profiles/probe_internal.h"

#include "base/clock.h"
#include "io/io.h"

#define WAIT_NS 50000000
#define DEAD_SECONDS 30.0 // without a single read
#define WINDOWS 8         // of a cell
#define SMALL_BYTES 4096
#define MOST_OF_MEAN 2
#define MOST_BUFFER_BYTES ((uint64_t)256 << 20)

struct drive_cell {
    struct probe *probe;
    const struct probe_file *file;
    bool direct;
    uint64_t record_bytes;
    uint32_t queue_depth;
    double seconds;
};

// Waits for the next records. A drive that says nothing for long is given up.
static int wait_for_some(struct probe *probe, struct probe_reader *reader, uint64_t since_ns,
                         struct lode_error *error)
{
    const uint64_t before = reader->read_bytes;
    while (reader->read_bytes == before) {
        int code = probe_reader_pump(reader, 1, WAIT_NS, error);
        if (code)
            return code;
        if (!probe_goes_on(probe))
            return probe_cancelled(error);
        if (reader->read_bytes == before && clock_seconds_since(since_ns) > DEAD_SECONDS)
            return lode_fail(error, LODE_ERR_IO, "no read came back within %.0f seconds", DEAD_SECONDS);
    }
    return LODE_OK;
}

// Rates of windows of time; *out_gbps is that of the whole.
static int read_for(struct drive_cell *cell, struct probe_reader *reader, struct probe_samples *samples,
                    double *out_gbps, struct lode_error *error)
{
    int code = probe_reader_start(reader, error);
    if (!code)
        code = wait_for_some(cell->probe, reader, clock_now_ns(), error); // the queue is full now
    const uint64_t start_ns = clock_now_ns(), start_bytes = reader->read_bytes;
    uint64_t window_ns = start_ns, window_bytes = start_bytes;
    while (!code) {
        code = wait_for_some(cell->probe, reader, clock_now_ns(), error);
        const double window_s = clock_seconds_since(window_ns);
        if (!code && window_s >= cell->seconds / WINDOWS) {
            probe_sample(samples, (double)(reader->read_bytes - window_bytes) / window_s / 1e9);
            window_ns = clock_now_ns();
            window_bytes = reader->read_bytes;
        }
        if (samples->n && clock_seconds_since(start_ns) >= cell->seconds)
            break;
    }
    *out_gbps = (double)(reader->read_bytes - start_bytes) / clock_seconds_since(start_ns) / 1e9;
    return code;
}

static int measure(struct drive_cell *cell, struct probe_figure *out, double *out_gbps, bool *out_direct,
                   struct lode_error *error)
{
    struct probe_samples samples = {.n = 0};
    struct probe_reader reader;
    const uint64_t memory_bytes =
        cell->probe->memory_bytes / 2 < MOST_BUFFER_BYTES ? cell->probe->memory_bytes / 2 : MOST_BUFFER_BYTES;
    if (!cell->direct)
        probe_file_drop(cell->file);
    int code = probe_reader_open(&reader, cell->file, cell->direct, cell->record_bytes, cell->queue_depth,
                                 memory_bytes, error);
    if (code)
        return code;
    *out_direct = reader.direct;
    code = read_for(cell, &reader, &samples, out_gbps, error);
    probe_reader_close(&reader);
    *out = probe_median(&samples);
    return code;
}

static int measure_curve(struct probe *probe, const struct probe_file *file, bool direct, uint64_t end_ns,
                         struct lode_error *error)
{
    static const uint32_t few[] = {1, 4, 16}, all[] = {1, 2, 4, 8, 16, 32};
    const bool quick = probe->options->mode == PROBE_QUICK;
    const uint32_t *depths = quick ? few : all;
    const uint32_t n = quick ? sizeof few / sizeof *few : sizeof all / sizeof *all;
    struct profile_drive *drive = &probe->profile->drives[0];
    struct probe_group group = {end_ns, n};
    for (uint32_t i = 0; i < n; i++) {
        struct drive_cell cell = {probe, file, direct, drive->record_bytes, depths[i], 0};
        struct probe_figure figure;
        double gbps;
        bool was_direct;
        cell.seconds = probe_slice_s(&group);
        int code = measure(&cell, &figure, &gbps, &was_direct, error);
        if (code)
            return code;
        if (direct && !was_direct && i == 0)
            probe_note(probe, "%s has no direct reads; its rates are those through the page cache",
                       probe->options->drive_path);
        // Records that arrive in bunches leave intervals of next to nothing between them, whose rates mean
        // nothing.
        const double rate = figure.median > MOST_OF_MEAN * gbps ? gbps : figure.median;
        probe_add_point(direct ? &drive->direct_gbps : &drive->buffered_gbps, depths[i], rate, figure.spread);
    }
    return LODE_OK;
}

static int measure_sustained(struct probe *probe, const struct probe_file *file, uint64_t end_ns,
                             struct lode_error *error)
{
    struct profile_drive *drive = &probe->profile->drives[0];
    struct probe_group group = {end_ns, 1};
    struct drive_cell cell = {probe, file, true, drive->record_bytes, 16, probe_slice_s(&group)};
    struct probe_figure figure;
    bool direct;
    int code = measure(&cell, &figure, &drive->sustained_gbps, &direct, error);
    drive->sustained_gbps = probe_rounded(drive->sustained_gbps);
    return code;
}

static int measure_latency(struct probe *probe, const struct probe_file *file, uint64_t end_ns,
                           struct lode_error *error)
{
    struct probe_reader reader;
    struct probe_samples samples = {.n = 0};
    int code = probe_reader_open(&reader, file, true, SMALL_BYTES, 1, SMALL_BYTES, error);
    if (code)
        return code;
    code = probe_reader_start(&reader, error);
    while (!code && samples.n < PROBE_SAMPLES && (samples.n < 3 || clock_now_ns() < end_ns)) {
        const uint64_t start_ns = clock_now_ns();
        code = wait_for_some(probe, &reader, start_ns, error);
        probe_sample(&samples, clock_seconds_since(start_ns));
    }
    probe_reader_close(&reader);
    probe->profile->drives[0].latency_us = probe_rounded(probe_median(&samples).median * 1e6);
    return code;
}

// The n-th part of a span of time, of so many.
static uint64_t part_ns(uint64_t start_ns, uint64_t end_ns, double share)
{
    return end_ns > start_ns ? start_ns + (uint64_t)((double)(end_ns - start_ns) * share) : start_ns;
}

int probe_drive(struct probe *probe, struct probe_file *file, uint64_t end_ns, struct lode_error *error)
{
    struct profile_drive *drive = &probe->profile->drives[0];
    const uint64_t start_ns = clock_now_ns();
    const double writing_s = (double)(part_ns(start_ns, end_ns, 0.4) - start_ns) * 1e-9;
    int code = probe_file_open(file, probe, writing_s, error);
    if (code)
        return code;
    drive->record_bytes = PROBE_RECORD_BYTES;
    if (drive->record_bytes > file->bytes / 4)
        drive->record_bytes = file->bytes / 4 / IO_ALIGN_BYTES * IO_ALIGN_BYTES;
    if (!drive->record_bytes)
        return lode_fail(error, LODE_ERR_IO, "%s is too small to measure a drive with",
                         probe->options->drive_path);
    const uint64_t from_ns = clock_now_ns();
    code = measure_latency(probe, file, part_ns(from_ns, end_ns, 0.05), error);
    if (!code)
        code = measure_curve(probe, file, true, part_ns(from_ns, end_ns, 0.45), error);
    if (!code)
        code = measure_curve(probe, file, false, part_ns(from_ns, end_ns, 0.7), error);
    if (!code)
        code = measure_sustained(probe, file, end_ns, error);
    return code && code != LODE_ERR_CANCELLED
               ? lode_fail_in(error, "measuring the drive under %s", probe->options->drive_path)
               : code;
}
