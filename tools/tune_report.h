// What `lode tune` says: a line for each candidate, a table of before and after, JSON.
#ifndef LODE_TOOLS_TUNE_REPORT_H
#define LODE_TOOLS_TUNE_REPORT_H

#include "tools/tune_search.h"
#include "tools/tuned.h"

#include <jansson.h>

struct tune_report {
    const struct tune_facts *facts;
    uint32_t prompt_tokens, decode_tokens; // of a turn
};

void tune_report_head(const struct tune_report *report);
void tune_report_candidate(const struct tune_report *report, const struct tune_candidate *candidate);
void tune_report_left_out(enum tune_knob knob, const char *why);

// Before and after of what was confirmed, or why the defaults stay. Not of a search that could say nothing.
void tune_report_outcome(const struct tune_report *report, const struct tune_search *search);

// Members of the object that --json prints.
json_t *tune_report_candidate_json(const struct tune_report *report, const struct tune_candidate *candidate);
void tune_report_outcome_json(const struct tune_report *report, const struct tune_search *search,
                              json_t *object);

// What is stored.
void tune_report_stored(const struct tuned *tuned);
int tune_report_stored_json(const struct tuned *tuned, const char *model_path);

struct tune_settings tune_report_settings(const struct tuned *tuned);

#endif
