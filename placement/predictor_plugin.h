// Predictors in shared objects, opened at run time: docs/writing-a-policy.md shows how one is made.
#ifndef LODE_PREDICTOR_PLUGIN_H
#define LODE_PREDICTOR_PLUGIN_H

#include "placement/predictor.h"

struct predictor_plugin;

// True for what means a file and not a name of the table: it has a '/' in it or ends in ".so".
bool predictor_is_path(const char *name);

// Opens the shared object at `path` (relative to the current folder; nowhere else is searched), looks for
// what predictor.h says it exports, and tries its predictor on a few experts, so that what is missing, or a
// guess that does not keep to predictor.h, is told here. LODE_ERR_IO: there is no such file;
// LODE_ERR_UNSUPPORTED: it was made for another version of predictor.h; LODE_ERR_FORMAT: it is not a
// predictor, or one that does not keep to predictor.h. What the code of the file does when it runs is beyond
// any check.
int predictor_plugin_open(struct predictor_plugin **out, const char *path, struct lode_error *error);

// After its last predictor has been closed. Its name and summary stay valid, as those of the table do.
void predictor_plugin_close(struct predictor_plugin *plugin); // NULL does nothing

// Valid until the plug-in is closed.
const struct predictor_ops *predictor_plugin_ops(const struct predictor_plugin *plugin);

// By name or by path: *out_plugin is what to close at the end, NULL for a predictor of the table.
// LODE_ERR_ARGUMENT: there is no predictor of this name.
int predictor_plugin_open_named(const struct predictor_ops **out, struct predictor_plugin **out_plugin,
                                const char *name, struct lode_error *error);

#endif
