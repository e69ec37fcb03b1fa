// Code in shared objects: what plug-ins of all kinds have in common. policy_plugin.c and predictor_plugin.c
// add what their kind must do.
#ifndef LODE_PLUGIN_H
#define LODE_PLUGIN_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Texts are static.
struct plugin_kind {
    const char *noun;                    // "policy"
    const char *header;                  // "policy.h", which it is compiled with
    const char *abi_symbol, *ops_symbol; // what it exports: a uint32_t and a table
    uint32_t abi;
    bool (*is_taken)(const char *name); // by one of the program's own
};

// A member of the exported table that must not be NULL.
struct plugin_member {
    const char *name;
    bool there;
};

// True for what means a file and not a name of a table: it has a '/' in it or ends in ".so".
bool plugin_is_path(const char *name);

// Opens the shared object at `path` (relative to the current folder; nowhere else is searched) and finds its
// table. *out_handle is to be closed whenever it is not NULL, also after a failure. LODE_ERR_IO: there is no
// such file; LODE_ERR_UNSUPPORTED: made for another version of the header; LODE_ERR_FORMAT: not such a
// plug-in.
int plugin_open(void **out_handle, const void **out_ops, const char *path, const struct plugin_kind *kind,
                struct lode_error *error);
void plugin_close(void *handle); // NULL does nothing

// The members that must be there, and then its name and summary: LODE_ERR_FORMAT names what is wrong.
int plugin_check(const char *path, const struct plugin_kind *kind, const struct plugin_member *members,
                 size_t n_members, const char *name, const char *summary, struct lode_error *error);

// A trial whose open has returned `code`, not 0, or has made nothing. `cause` is what it says. Returns a code
// that is one of lode_error.h.
int plugin_open_failed(const char *path, const struct plugin_kind *kind, int code,
                       const struct lode_error *cause, struct lode_error *error);

#endif
