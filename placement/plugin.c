// Shared objects: opened and checked.
//
// A handle is closed with the engine, but the pages stay mapped (RTLD_NODELETE): names are handed out to
// statistics that outlive an engine, as those of the tables may be.
#include "placement/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { NAME_MAX_BYTES = 31 }; // it stands in tables and files

bool plugin_is_path(const char *name)
{
    const size_t length = strlen(name);
    return strchr(name, '/') || (length > 3 && strcmp(name + length - 3, ".so") == 0);
}

static int check_file(const char *path, const struct plugin_kind *kind, struct lode_error *error)
{
    struct stat status;
    if (stat(path, &status))
        return lode_fail(error, LODE_ERR_IO, "%s %s: %s", kind->noun, path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return lode_fail(error, LODE_ERR_IO, "%s %s: not a file", kind->noun, path);
    return 0;
}

// dlopen looks for a bare name in the system's folders and not here.
static void *open_object(const char *path, const struct plugin_kind *kind, struct lode_error *error)
{
    char *here = NULL;
    if (!strchr(path, '/') && asprintf(&here, "./%s", path) < 0) {
        lode_fail(error, LODE_ERR_MEMORY, "no memory to open the %s %s", kind->noun, path);
        return NULL;
    }
    void *handle = dlopen(here ? here : path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    free(here);
    if (!handle)
        lode_fail(error, LODE_ERR_FORMAT, "%s %s: not a shared object that can be opened: %s", kind->noun,
                  path, dlerror());
    return handle;
}

static const void *find_symbol(void *handle, const char *path, const struct plugin_kind *kind,
                               const char *symbol, struct lode_error *error)
{
    const void *found = dlsym(handle, symbol);
    if (!found)
        lode_fail(error, LODE_ERR_FORMAT, "%s %s: it has no symbol %s; a %s exports %s and %s", kind->noun,
                  path, symbol, kind->noun, kind->abi_symbol, kind->ops_symbol);
    return found;
}

int plugin_open(void **out_handle, const void **out_ops, const char *path, const struct plugin_kind *kind,
                struct lode_error *error)
{
    *out_handle = NULL;
    *out_ops = NULL;
    int rc = check_file(path, kind, error);
    if (rc)
        return rc;
    *out_handle = open_object(path, kind, error);
    if (!*out_handle)
        return error->code;
    const uint32_t *abi = find_symbol(*out_handle, path, kind, kind->abi_symbol, error);
    if (!abi)
        return error->code;
    if (*abi != kind->abi)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "%s %s: made for version %u of %s, this program has version %u: compile it anew",
                         kind->noun, path, (unsigned)*abi, kind->header, (unsigned)kind->abi);
    *out_ops = find_symbol(*out_handle, path, kind, kind->ops_symbol, error);
    return *out_ops ? 0 : error->code;
}

void plugin_close(void *handle)
{
    if (handle)
        dlclose(handle);
}

static bool is_name(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_";
    const size_t length = strlen(name);
    return length > 0 && length <= NAME_MAX_BYTES && strspn(name, allowed) == length;
}

static bool is_line(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return false;
    return true;
}

int plugin_check(const char *path, const struct plugin_kind *kind, const struct plugin_member *members,
                 size_t n_members, const char *name, const char *summary, struct lode_error *error)
{
    for (size_t i = 0; i < n_members; i++)
        if (!members[i].there)
            return lode_fail(error, LODE_ERR_FORMAT, "%s %s: %s.%s is NULL", kind->noun, path,
                             kind->ops_symbol, members[i].name);
    if (!is_name(name))
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s %s: its name must be 1 to %d small letters, digits, '-' and '_'", kind->noun,
                         path, NAME_MAX_BYTES);
    if (kind->is_taken(name))
        return lode_fail(error, LODE_ERR_FORMAT, "%s %s: its name '%s' is that of a built-in %s", kind->noun,
                         path, name, kind->noun);
    if (!is_line(summary))
        return lode_fail(error, LODE_ERR_FORMAT, "%s %s: its summary must be one line of text", kind->noun,
                         path);
    return 0;
}

int plugin_open_failed(const char *path, const struct plugin_kind *kind, int code,
                       const struct lode_error *cause, struct lode_error *error)
{
    if (!code)
        return lode_fail(error, LODE_ERR_FORMAT, "%s %s: its open has made no %s", kind->noun, path,
                         kind->noun);
    return lode_fail(error, code < 0 && code >= LODE_ERR_CANCELLED ? code : LODE_ERR_FORMAT,
                     "%s %s: its open has failed: %.200s", kind->noun, path,
                     cause->text[0] ? cause->text : "it does not say why");
}
