// What the tests of placement share: a device of malloc that counts and fails on command, a file of known
// content with scripted faults, and small models of units over it.
#ifndef LODE_TEST_PLACEMENT_WORLD_H
#define LODE_TEST_PLACEMENT_WORLD_H

#include "io/io_fault.h"
#include "placement/residency.h"

#include <stdbool.h>
#include <stdint.h>

#define MIB ((uint64_t)1 << 20)
#define NEVER UINT32_MAX

struct fake_device {
    struct lode_device base;
    uint32_t n_allocs, n_uploads, n_live;
    uint64_t live_bytes, most_bytes, largest_bytes;
    uint32_t fail_alloc, fail_upload; // by number from 0
    bool fail_sync, untouchable;      // untouchable: address space only, for layouts larger than the memory
};

struct world {
    struct fake_device device;
    struct unit_table table;
    uint64_t end; // of the file so far
    char path[64];
    struct io_options io_options;
    struct io_fault *fault;
    struct io *io;
    struct residency_options options;
    struct residency *residency;
    struct lode_error error;
    uint32_t random;
};

// Threads read, through the page cache: fast, and read_bytes counts what was asked for.
void world_set_up(struct world *w, bool host_memory);
void world_tear_down(struct world *w); // checks that nothing is left of it

uint32_t world_random(struct world *w, uint32_t end); // 0 .. end-1, the same in every run

uint32_t world_add_unit(struct world *w, enum unit_class class, uint32_t layer, uint32_t index);
void world_add_part(struct world *w, uint64_t offset, uint64_t bytes);
void world_append_part(struct world *w, uint64_t bytes); // behind the last, with a gap

// The file: `end` bytes of known content, or a sparse one when it is large.
void world_open_file(struct world *w, const struct io_fault_rule *rules, uint32_t n_rules);
unsigned char world_content_at(uint64_t offset); // never 0

int world_try_open(struct world *w);
void world_open(struct world *w, uint64_t budget_bytes);

// ---- experts, for tests of the pool

// One fixed unit of a page, then layers of experts. Each has two parts of one page: every slot is two pages,
// and a read is what it delivers.
#define WORLD_LAYERS 4
#define WORLD_EXPERTS 32 // a layer
void world_add_experts(struct world *w);
uint32_t world_expert(uint32_t layer, uint32_t expert);

// n distinct experts of a layer.
void world_draw(struct world *w, uint32_t *units, uint32_t n, uint32_t layer);

void world_choose(struct world *w, const uint32_t *units, uint32_t n);

// Takes all that was chosen, at most `most` at once; each once, with its content.
void world_take_all(struct world *w, const uint32_t *units, uint32_t n, uint32_t most);
void world_use(struct world *w, const uint32_t *units, uint32_t n); // both

// ---- what is checked

void world_check_unit(const struct world *w, uint32_t unit); // its bytes in memory against the file's
void world_settle(struct world *w);                          // until nothing is being read
uint64_t world_read_bytes(const struct world *w);
struct residency_figures world_figures(const struct world *w);

// Bytes of a unit in memory, counted anew from what residency.h promises.
uint64_t world_slot_bytes(const struct unit_table *table, uint32_t unit, bool host_memory);

bool world_stop(void *user); // a keep_going that says no

// A rule for the first byte of a unit's part.
struct io_fault_rule world_fault_at(const struct world *w, enum io_fault_kind kind, uint32_t unit,
                                    uint32_t part);

#endif
