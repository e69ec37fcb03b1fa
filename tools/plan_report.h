// What `lode plan` says: a screen for people, an object for programs.
#ifndef LODE_TOOLS_PLAN_REPORT_H
#define LODE_TOOLS_PLAN_REPORT_H

#include "core/lode.h"

void plan_report_text(const struct lode_plan *plan, const char *kv);

// 0, or -1 when it could not be written.
int plan_report_json(const struct lode_plan *plan, const char *kv);

#endif
