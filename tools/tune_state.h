// What an unfinished `lode tune` has measured, kept beside the settings until it is finished.
#ifndef LODE_TOOLS_TUNE_STATE_H
#define LODE_TOOLS_TUNE_STATE_H

#include "tools/tune_search.h"

enum { TUNE_CONDITIONS_SIZE = 1024 };

// Fills the journal with what was measured under the same conditions. *out_other tells that the file is of
// others, which makes it worthless; then, and without a file, the journal is empty. A damaged file is an
// error that names the field.
int tune_state_read(struct tune_journal *out, bool *out_other, const char *conditions, const char *path,
                    struct lode_error *error);

// Candidates of which nothing is known are left out.
int tune_state_write(const struct tune_journal *journal, const char *conditions, const char *path,
                     struct lode_error *error);

#endif
