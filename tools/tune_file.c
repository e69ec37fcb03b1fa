#include "tools/tune_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_FILE_BYTES ((off_t)1 << 20)

// ---- fields
// --------------------------------------------------------------------------------------------------

static int fail_field(struct lode_error *error, const char *name, const char *field, const char *what)
{
    return lode_fail(error, LODE_ERR_FORMAT, "%s: %s %s", name, field, what);
}

static int fail_range(struct lode_error *error, const char *name, const struct tune_field *field)
{
    return lode_fail(error, LODE_ERR_FORMAT, "%s: %s must be from %g to %g", name, field->name, field->min,
                     field->max);
}

static int read_whole(void *out, const json_t *value, const struct tune_field *field, const char *name,
                      struct lode_error *error)
{
    if (!json_is_integer(value))
        return fail_field(error, name, field->name, "must be a whole number");
    const json_int_t number = json_integer_value(value);
    if (number < 0 || (double)number < field->min || (double)number > field->max)
        return fail_range(error, name, field);
    if (field->kind == TUNE_FIELD_COUNT)
        *(uint32_t *)out = (uint32_t)number;
    else
        *(uint64_t *)out = (uint64_t)number;
    return 0;
}

static int read_text(char *out, const json_t *value, const struct tune_field *field, const char *name,
                     struct lode_error *error)
{
    const char *text = json_string_value(value);
    if (!text)
        return fail_field(error, name, field->name, "must be a text");
    const size_t len = json_string_length(value);
    if (len >= field->size)
        return fail_field(error, name, field->name, "is too long");
    for (size_t i = 0; i < len; i++)
        if (text[i] < ' ' || text[i] > '~')
            return fail_field(error, name, field->name, "must be of plain letters");
    memcpy(out, text, len + 1);
    return 0;
}

static int read_field(void *out, const json_t *value, const struct tune_field *field, const char *name,
                      struct lode_error *error)
{
    switch (field->kind) {
    case TUNE_FIELD_COUNT:
    case TUNE_FIELD_BYTES:
        return read_whole(out, value, field, name, error);
    case TUNE_FIELD_NUMBER:
        if (!json_is_number(value))
            return fail_field(error, name, field->name, "must be a number");
        *(double *)out = json_number_value(value);
        return *(double *)out >= field->min && *(double *)out <= field->max ? 0
                                                                            : fail_range(error, name, field);
    case TUNE_FIELD_FLAG:
        if (!json_is_boolean(value))
            return fail_field(error, name, field->name, "must be true or false");
        *(bool *)out = json_is_true(value);
        return 0;
    case TUNE_FIELD_TEXT:
        return read_text(out, value, field, name, error);
    }
    return fail_field(error, name, field->name, "is of no kind");
}

static bool is_known(const char *key, const struct tune_field *fields, size_t n, const char *const *others,
                     size_t n_others)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, fields[i].name) == 0)
            return true;
    for (size_t i = 0; i < n_others; i++)
        if (strcmp(key, others[i]) == 0)
            return true;
    return false;
}

int tune_fields_read(void *record, const json_t *object, const struct tune_field *fields, size_t n,
                     const char *const *others, size_t n_others, const char *name, struct lode_error *error)
{
    if (!json_is_object(object))
        return lode_fail(error, LODE_ERR_FORMAT, "%s: must be an object", name);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(object, fields[i].name);
        if (!value)
            return fail_field(error, name, fields[i].name, "is missing");
        const int rc = read_field((char *)record + fields[i].offset, value, &fields[i], name, error);
        if (rc)
            return rc;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        if (!is_known(key, fields, n, others, n_others))
            return lode_fail(error, LODE_ERR_FORMAT, "%s: there is no field '%.40s'", name, key);
    }
    return 0;
}

static json_t *field_json(const void *from, const struct tune_field *field)
{
    switch (field->kind) {
    case TUNE_FIELD_COUNT:
        return json_integer(*(const uint32_t *)from);
    case TUNE_FIELD_BYTES:
        return json_integer((json_int_t) * (const uint64_t *)from);
    case TUNE_FIELD_NUMBER:
        return json_real(*(const double *)from);
    case TUNE_FIELD_FLAG:
        return json_boolean(*(const bool *)from);
    case TUNE_FIELD_TEXT:
        return json_string(from);
    }
    return NULL;
}

json_t *tune_fields_json(const void *record, const struct tune_field *fields, size_t n)
{
    json_t *object = json_object();
    for (size_t i = 0; i < n && object; i++)
        if (json_object_set_new(object, fields[i].name,
                                field_json((const char *)record + fields[i].offset, &fields[i])) != 0) {
            json_decref(object);
            object = NULL;
        }
    return object;
}

// ---- files
// ---------------------------------------------------------------------------------------------------

static int fail_io(struct lode_error *error, const char *what, const char *path)
{
    return lode_fail(error, LODE_ERR_IO, "cannot %s %s: %s", what, path, strerror(errno));
}

static int read_open_file(json_t **out, int fd, const char *path, struct lode_error *error)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_io(error, "read", path);
    if (!S_ISREG(status.st_mode))
        return lode_fail(error, LODE_ERR_IO, "%s is no file", path);
    if (status.st_size > MOST_FILE_BYTES)
        return lode_fail(error, LODE_ERR_FORMAT, "%s is larger than a MiB, which such a file never is", path);
    char *text = malloc((size_t)status.st_size + 1);
    if (!text)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to read %s", path);
    size_t len = 0;
    ssize_t got = 1;
    while (len < (size_t)status.st_size && got > 0) {
        got = read(fd, text + len, (size_t)status.st_size - len);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            len += (size_t)got;
    }
    int rc = got < 0 ? fail_io(error, "read", path) : 0;
    json_error_t where;
    if (!rc && !(*out = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where)))
        rc = lode_fail(error, LODE_ERR_FORMAT, "%s, line %d: %s", path, where.line, where.text);
    free(text);
    return rc;
}

int tune_file_read(json_t **out, const char *path, struct lode_error *error)
{
    *out = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe has nothing to say
    if (fd < 0)
        return errno == ENOENT ? 0 : fail_io(error, "open", path);
    const int rc = read_open_file(out, fd, path, error);
    close(fd);
    return rc;
}

static int make_folders(const char *path, struct lode_error *error)
{
    char folder[PATH_MAX];
    if (snprintf(folder, sizeof folder, "%s", path) >= (int)sizeof folder)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
    for (char *slash = strchr(folder + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(folder, 0700) != 0 && errno != EEXIST)
            return fail_io(error, "make the folder", folder);
        *slash = '/';
    }
    return 0;
}

static bool write_all(int fd, const char *text, size_t len)
{
    while (len) {
        const ssize_t written = write(fd, text, len);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        text += written;
        len -= (size_t)written;
    }
    return true;
}

static int write_text(const char *text, const char *path, struct lode_error *error)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
    const int fd = mkostemp(temporary, O_CLOEXEC); // 0600
    if (fd < 0)
        return fail_io(error, "write beside", path);
    int rc = 0;
    if (!write_all(fd, text, strlen(text)) || !write_all(fd, "\n", 1) || fsync(fd) != 0 ||
        rename(temporary, path) != 0) {
        rc = fail_io(error, "write", path);
        unlink(temporary);
    }
    close(fd);
    return rc;
}

int tune_file_write(const json_t *object, const char *path, struct lode_error *error)
{
    int rc = make_folders(path, error);
    if (rc)
        return rc;
    char *text = json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    if (!text)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path);
    rc = write_text(text, path, error);
    free(text);
    return rc;
}

int tune_file_remove(bool *out_removed, const char *path, struct lode_error *error)
{
    *out_removed = unlink(path) == 0;
    return *out_removed || errno == ENOENT ? 0 : fail_io(error, "remove", path);
}
