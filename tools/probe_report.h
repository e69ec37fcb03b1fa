// A machine profile as a table for a person: one line for each curve.
#ifndef LODE_TOOLS_PROBE_REPORT_H
#define LODE_TOOLS_PROBE_REPORT_H

#include "profiles/machine_profile.h"

void probe_report_print(const struct machine_profile *profile);

#endif
