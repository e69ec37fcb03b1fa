// What `lode plan` says: a screen for people, an object for programs.
#ifndef LODE_TOOLS_PLAN_REPORT_H
#define LODE_TOOLS_PLAN_REPORT_H

#include "core/lode.h"

#include <stdio.h>

// `kv` is the name of the KV cache's type.
void plan_report_text(FILE *out, const struct lode_plan *plan, const char *kv);

// One line. 0, or -1 when it could not be written.
int plan_report_json(FILE *out, const struct lode_plan *plan, const char *kv);

#endif
