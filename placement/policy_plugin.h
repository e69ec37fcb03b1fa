// Policies in shared objects, opened at run time: docs/writing-a-policy.md shows how one is made.
#ifndef LODE_POLICY_PLUGIN_H
#define LODE_POLICY_PLUGIN_H

#include "placement/policy.h"

struct policy_plugin;

// True for what means a file and not a name of the table: it has a '/' in it or ends in ".so".
bool policy_is_path(const char *name);

// Opens the shared object at `path` (relative to the current folder; nowhere else is searched), looks for
// what policy.h says it exports, and tries its policy on a few units, so that what is missing or forgotten is
// told here. LODE_ERR_IO: there is no such file; LODE_ERR_UNSUPPORTED: it was made for another version of
// policy.h; LODE_ERR_FORMAT: it is not a policy, or one that does not keep to policy.h. What the code of the
// file does when it runs is beyond any check.
int policy_plugin_open(struct policy_plugin **out, const char *path, struct lode_error *error);

// After its last policy has been closed. Its name and summary stay valid, as those of the table do.
void policy_plugin_close(struct policy_plugin *plugin); // NULL does nothing

// Valid until the plug-in is closed.
const struct policy_ops *policy_plugin_ops(const struct policy_plugin *plugin);

// By name or by path: *out_plugin is what to close at the end, NULL for a policy of the table.
// LODE_ERR_ARGUMENT: there is no policy of this name.
int policy_open_named(const struct policy_ops **out, struct policy_plugin **out_plugin, const char *name,
                      struct lode_error *error);

#endif
