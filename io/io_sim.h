// A drive that is simulated: reads take virtual time and transfer nothing.
//
// Behind io.h stand the queue, the pieces and the priorities of the engines that read files; only the drive
// below them is a model. There are no files, just their sizes, and a buffer is never touched: it may be
// address space without memory. Reading goes on while the clock is moved on by others (a device that
// computes), and io_reap moves it on to what it waits for. The same calls at the same times give the same
// completions at the same times.
//
// The model: of n reads in flight those whose bytes are still on their way share the rate that the drive has
// at n, equally; and no read takes less than the latency. The rate of one read alone is what such a read
// takes from its submission to its end, as probes measure it, so the latency is not added to it: it is for
// reads too short to be bound by a rate. A profile's curves say both (profiles/machine_profile.h).
#ifndef LODE_IO_SIM_H
#define LODE_IO_SIM_H

#include "base/sim_clock.h"
#include "io/io.h"

#define IO_SIM_POINTS 16

struct io_sim_drive {
    uint32_t n_points; // at least 1
    // GB/s (10^9) by the reads in flight, these ascending: linear in log reads between points, constant
    // beyond the ends.
    struct io_sim_point {
        double reads, gbps;
    } points[IO_SIM_POINTS];
    uint64_t latency_ns;
    // Of direct reads, which cover whole blocks: a power of two up to IO_ALIGN_BYTES. 0: reads go through the
    // page cache and take the bytes that are asked for.
    uint32_t align_bytes;
};

struct io_sim; // the drive, without the queue before it

struct io_sim_options {
    struct io_sim_drive drive;
    struct sim_clock *clock; // not at 0; must outlive the io
    uint32_t queue_depth;    // as in io_options
    // The share of its rate that the drive has while others move the clock on, above 0 to 1; 0: all of it.
    double share_beside;
    struct io_sim **out_drive; // where the drive is told, which lives as long as the io; may be NULL
};

// An io over files of these sizes, on one drive. Errors call them "simulated file 0" and so on. Fails where
// the options are out of their bounds. Closed by io_close, which drops what is in flight.
int io_sim_open(struct io **out, const uint64_t *file_bytes, uint32_t n_files,
                const struct io_sim_options *options, struct lode_error *error);

// Reads in flight at the present of the clock.
uint32_t io_sim_reads(struct io_sim *drive);

#endif
