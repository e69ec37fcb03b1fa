// What is known of the speed of a drive, to send each read to the copy that is expected to deliver first.
//
// Files on one drive share its queue, so speed and reads in flight belong to the drive, not to the file. The
// first and the second copies never share a drive here, even where they lie on one file system: how fast
// each side delivers is the very question.
#ifndef LODE_IO_DRIVE_H
#define LODE_IO_DRIVE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct io_drive {
    dev_t device;
    uint32_t copy;       // 0: of first copies, 1: of second ones
    double bytes_per_ns; // 0: not measured, taken to be as fast as the other
    uint64_t in_flight_bytes;
    uint64_t busy_since_ns; // or since the last read ended, whichever is later
    uint64_t sample_bytes, sample_ns;
};

void io_drive_init(struct io_drive *drive, dev_t device, uint32_t copy);
void io_drive_begin(struct io_drive *drive, uint64_t length_bytes, uint64_t now_ns);
void io_drive_end(struct io_drive *drive, uint64_t length_bytes, bool arrived, uint64_t now_ns);

// Which of the two is expected to have read so many more bytes first: 0 or 1.
uint32_t io_drive_choose(struct io_drive *first, struct io_drive *second, uint64_t length_bytes);

#endif
