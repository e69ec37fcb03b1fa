// Model files mapped into memory: weights are where the page cache has them, and the kernel decides which
// pages of them stay. What Lode otherwise avoids (docs/design.md, 8); here as the baseline that other
// programs are.
//
// The pages are not this process's to count: they belong to the ceiling of a control group, not to --ram. A
// file that is shortened while it is mapped ends the program with SIGBUS, as it does everywhere.
#ifndef LODE_MAPPED_H
#define LODE_MAPPED_H

#include "base/lode_error.h"
#include "placement/homes.h"

#include <stdbool.h>
#include <stdint.h>

struct mapped;

// Maps whole files for reading. Behind the last byte of each a page of zeros can be read.
int mapped_open(struct mapped **out, const char *const *paths, uint32_t n_paths, struct lode_error *error);
void mapped_close(struct mapped *mapped);

uint64_t mapped_bytes(const struct mapped *mapped); // of all files

// Makes every unit HOME_PINNED and writes where its parts lie to parts[], indexed as the table's; the homes
// count no memory. LODE_ERR_FORMAT where a part ends beyond its file. On failure *out has nothing to free.
int mapped_place(struct homes *out, void **parts, const struct mapped *mapped, const struct unit_table *table,
                 struct lode_error *error);

// Reads the files once, in their order, so that the page cache holds what there is room for: what a program
// that maps its weights finds after loading. on_progress may be NULL; false ends it with LODE_ERR_CANCELLED.
// A page that cannot be read is LODE_ERR_IO.
int mapped_load(const struct mapped *mapped, bool (*on_progress)(void *user, uint64_t done, uint64_t total),
                void *user, struct lode_error *error);

#endif
