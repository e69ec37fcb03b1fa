// What the tests of pages about sweeps share: sweeps with figures that are easy to tell, the page about one,
// and what every page must be.
#ifndef LODE_TEST_SWEEP_WORLD_H
#define LODE_TEST_SWEEP_WORLD_H

#include "tools/sim_page.h"

#include <stdbool.h>
#include <stdint.h>

struct sweep_world {
    struct sim_sweep sweep;
    char names[128][32]; // of the policies, "policy-3-"
};

// Rows r, budgets of 2, 4, 8 … GiB or slots, and a bound as the last row. No cell has figures yet. At most
// 128 policies.
void sweep_world_make(struct sweep_world *w, uint32_t n_policies, uint32_t n_budgets, uint32_t n_traces,
                      bool slots);
void sweep_world_free(struct sweep_world *w);

// Decoding at so many tokens a second in one cell, and what follows from it.
void sweep_world_set_speed(struct sweep_world *w, uint32_t row, uint32_t budget, uint32_t trace,
                           double tok_s);
// The speed of row r at budget b: the later row is the faster; the bound is above all of them.
double sweep_world_speed(uint32_t row, uint32_t budget);
// That in every cell, and one token a second more with each trace.
void sweep_world_set_speeds(struct sweep_world *w);
// Hits out of 1000 choices in every cell.
void sweep_world_set_hits(struct sweep_world *w);

// The page, allocated.
char *sweep_world_page(const struct sweep_world *w);
// The picture of this name in a page, allocated; fails the test where there is none.
char *sweep_page_picture(const char *page, const char *id);

// Well-formed, with nothing from elsewhere, no number that is none, and pictures that are described.
void sweep_page_expect_sound(const char *page);
// Tables have as many cells in each row as heads.
void sweep_page_expect_even_tables(const char *page);

#endif
