// The picture of a plan: one row a layer, dense units to the left, experts as a heat map to the right.
#ifndef LODE_TOOLS_PLAN_SVG_H
#define LODE_TOOLS_PLAN_SVG_H

#include "core/lode.h"

#include <stdio.h>

// Prints an SVG document of 1,200 pixels' width that needs nothing from elsewhere and follows the reader's
// light or dark scheme. `kv` is the name of the KV cache's type. LODE_ERR_MEMORY when there is none; whether
// it could be written, the stream tells.
int plan_svg_print(FILE *out, const struct lode_plan *plan, const char *kv, struct lode_error *error);

// Writes it to a file, which is there wholly or not at all.
int plan_svg_write(const char *path, const struct lode_plan *plan, const char *kv, struct lode_error *error);

#endif
