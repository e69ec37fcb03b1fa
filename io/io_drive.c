// Drives and their expected times; see io_drive.h.
#include "io/io_drive.h"

// A small read takes a drive about as long as this many bytes more of a large one (0.1 ms at 0.7 GB/s), so a
// burst of small reads does not make the drive look slow for large ones.
#define READ_COST_BYTES ((uint64_t)64 << 10)

// Reads are summed up to this before they count as one sample: single reads end in bursts.
#define SAMPLE_BYTES ((uint64_t)4 << 20)
#define SAMPLE_WEIGHT 0.25

#define LEAST_BYTES_PER_NS 1e-6

// A drive that no read is sent to is not measured: with every read that the other one gets, its figure moves
// by this part towards the other's, so that one stall does not shut it out for good.
#define FORGET_PART (1.0 / 256)

static uint64_t cost_bytes(uint64_t length_bytes)
{
    return length_bytes > READ_COST_BYTES ? length_bytes : READ_COST_BYTES;
}

void io_drive_init(struct io_drive *drive, dev_t device, uint32_t copy)
{
    *drive = (struct io_drive){.device = device, .copy = copy};
}

void io_drive_begin(struct io_drive *drive, uint64_t length_bytes, uint64_t now_ns)
{
    if (drive->in_flight_bytes == 0)
        drive->busy_since_ns = now_ns;
    drive->in_flight_bytes += cost_bytes(length_bytes);
}

static void set_speed(struct io_drive *drive, double bytes_per_ns)
{
    drive->bytes_per_ns = bytes_per_ns > LEAST_BYTES_PER_NS ? bytes_per_ns : LEAST_BYTES_PER_NS;
}

static void take_sample(struct io_drive *drive)
{
    double sample = (double)drive->sample_bytes / (double)(drive->sample_ns ? drive->sample_ns : 1);
    double before = drive->bytes_per_ns > 0 ? drive->bytes_per_ns : sample;
    set_speed(drive, before + SAMPLE_WEIGHT * (sample - before));
    drive->sample_bytes = drive->sample_ns = 0;
}

void io_drive_end(struct io_drive *drive, uint64_t length_bytes, bool arrived, uint64_t now_ns)
{
    drive->in_flight_bytes -= cost_bytes(length_bytes);
    drive->sample_ns += now_ns - drive->busy_since_ns;
    drive->busy_since_ns = now_ns;
    if (arrived)
        drive->sample_bytes += cost_bytes(length_bytes);
    else
        set_speed(drive, drive->bytes_per_ns / 2); // failures come back fast and would draw all reads
    if (drive->sample_bytes >= SAMPLE_BYTES)
        take_sample(drive);
}

uint32_t io_drive_choose(struct io_drive *first, struct io_drive *second, uint64_t length_bytes)
{
    bool measured = first->bytes_per_ns > 0 && second->bytes_per_ns > 0;
    double first_bytes = (double)(first->in_flight_bytes + cost_bytes(length_bytes));
    double second_bytes = (double)(second->in_flight_bytes + cost_bytes(length_bytes));
    if (!measured)
        return second_bytes < first_bytes;
    uint32_t chosen = second_bytes / second->bytes_per_ns < first_bytes / first->bytes_per_ns;
    struct io_drive *faster = chosen ? second : first, *other = chosen ? first : second;
    if (other->in_flight_bytes == 0 && other->bytes_per_ns < faster->bytes_per_ns)
        other->bytes_per_ns += FORGET_PART * (faster->bytes_per_ns - other->bytes_per_ns);
    return chosen;
}
