// Where units are in memory: answers from what is resident, or reads.
//
// A unit's parts lie in one slot of device memory, each aligned to LODE_DEVICE_ALIGN and followed by
// LODE_DEVICE_SLACK readable bytes. At present every unit has its home in memory and is read at the start;
// the interface is the one through which units will come and go.
#ifndef LODE_RESIDENCY_H
#define LODE_RESIDENCY_H

#include "backends/backend.h"
#include "io/io.h"
#include "placement/unit.h"

#include <stdbool.h>
#include <stdint.h>

struct residency;

typedef bool (*residency_progress_fn)(void *user, uint64_t done_bytes, uint64_t total_bytes);

// Memory that residency_open would take for this table.
uint64_t residency_needed_bytes(const struct unit_table *table);

// Takes memory from the device and reads all units. The table, io and device must outlive the residency. A
// read that fails names the file, the offset and the unit.
int residency_open(struct residency **out, const struct unit_table *table, struct io *io,
                   struct lode_device *device, residency_progress_fn on_progress, void *user,
                   struct lode_error *error);
void residency_close(struct residency *residency);

uint64_t residency_bytes(const struct residency *residency);

// Makes units resident and keeps them so until they are released; waits for reads where it must.
int residency_acquire(struct residency *residency, const uint32_t *units, uint32_t n,
                      struct lode_error *error);
void residency_release(struct residency *residency, const uint32_t *units, uint32_t n);

// Device memory of a part (0 .. n_parts-1) of a unit that is acquired.
void *residency_part(const struct residency *residency, uint32_t unit, uint32_t part);

#endif
