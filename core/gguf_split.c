// The files of a model: one, or the parts of a split model, "NAME-00001-of-0000N.gguf" and on.
//
// What the keys of the files say decides; names serve only to find the other parts. The first part holds all
// metadata; of the others only the tensors and the keys of the split are used.
#include "core/gguf_internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PARTS 99999 // five digits
#define SUFFIX_LEN (sizeof "-00001-of-00001.gguf" - 1)

struct split {
    uint64_t part; // from 0
    uint64_t n_parts;
    uint64_t n_tensors; // of all parts
    bool has_n_tensors;
};

static bool scan_digits(const char *text, uint32_t *out)
{
    uint32_t number = 0;
    for (int i = 0; i < 5; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        number = number * 10 + (uint32_t)(text[i] - '0');
    }
    *out = number;
    return true;
}

static bool scan_suffix(const char *path, uint32_t *out_number, uint32_t *out_count)
{
    size_t len = strlen(path);
    if (len < SUFFIX_LEN)
        return false;
    const char *suffix = path + len - SUFFIX_LEN;
    return suffix[0] == '-' && scan_digits(suffix + 1, out_number) && memcmp(suffix + 6, "-of-", 4) == 0 &&
           scan_digits(suffix + 10, out_count) && strcmp(suffix + 15, ".gguf") == 0;
}

// The path of part `part` (from 0), given that of any part.
static char *sibling_path(const char *path, uint32_t part, uint32_t n_parts)
{
    size_t prefix_len = strlen(path) - SUFFIX_LEN;
    size_t capacity = prefix_len + sizeof "-4294967295-of-4294967295.gguf";
    char *sibling = malloc(capacity);
    if (sibling)
        snprintf(sibling, capacity, "%.*s-%05u-of-%05u.gguf", (int)prefix_len, path, part + 1, n_parts);
    return sibling;
}

static int open_regular(const char *path, int *out_fd, uint64_t *out_size_bytes, struct lode_error *error)
{
    const char *name = gguf_short_path(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a pipe must not make us wait for a writer
    if (fd < 0)
        return lode_fail(error, LODE_ERR_IO, "%s: cannot open: %s", name, strerror(errno));
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        return lode_fail(error, LODE_ERR_IO, "%s: not a regular file", name);
    }
    *out_fd = fd;
    *out_size_bytes = (uint64_t)status.st_size;
    return 0;
}

static int append_file(struct gguf *gguf, const char *path, uint64_t size_bytes, struct lode_error *error)
{
    struct gguf_file *files = realloc(gguf->files, (gguf->n_files + 1) * sizeof *files);
    if (!files)
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for the list of files",
                         gguf_short_path(path));
    gguf->files = files;
    char *copy = strdup(path);
    if (!copy)
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for the path", gguf_short_path(path));
    files[gguf->n_files++] = (struct gguf_file){.path = copy, .size_bytes = size_bytes};
    return 0;
}

int gguf_add_file(struct gguf *gguf, struct gguf_header *header, const char *path, struct lode_error *error)
{
    struct gguf_reader reader = {.name = gguf_short_path(path), .error = error};
    int code = open_regular(path, &reader.fd, &reader.file_size_bytes, error);
    if (code)
        return code;
    reader.given_bytes = reader.file_size_bytes;
    code = gguf_parse_header(header, &reader, gguf->n_files);
    close(reader.fd);
    if (code)
        return code;
    code = append_file(gguf, path, reader.file_size_bytes, error);
    if (code)
        gguf_header_free(header);
    return code;
}

static int read_number(const struct gguf_header *header, const char *key, uint64_t *out, const char *name,
                       struct lode_error *error)
{
    const struct gguf_value *value = gguf_header_find(header, key);
    if (!value || gguf_value_u64(value, 0, out))
        return 0;
    return lode_fail(error, LODE_ERR_FORMAT, "%s: key \"%s\", at byte %u: not a count", name, key, value->at);
}

static int read_split(const struct gguf_header *header, struct split *out, const char *path,
                      struct lode_error *error)
{
    const char *name = gguf_short_path(path);
    *out = (struct split){.n_parts = 1};
    int code = read_number(header, "split.count", &out->n_parts, name, error);
    if (!code)
        code = read_number(header, "split.no", &out->part, name, error);
    if (!code)
        code = read_number(header, "split.tensors.count", &out->n_tensors, name, error);
    if (code)
        return code;
    out->has_n_tensors = gguf_header_find(header, "split.tensors.count") != NULL;
    if (out->n_parts == 0) // some tools write it into files that are not split
        out->n_parts = 1;
    if (out->n_parts > MAX_PARTS || out->part >= out->n_parts)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: \"split.no\" %llu and \"split.count\" %llu cannot be; parts count from 0", name,
                         (unsigned long long)out->part, (unsigned long long)out->n_parts);
    return 0;
}

static int reject_later_part(const char *path, const struct split *split, struct lode_error *error)
{
    uint32_t number, count, n_parts = (uint32_t)split->n_parts;
    char *first = scan_suffix(path, &number, &count) ? sibling_path(path, 0, n_parts) : NULL;
    if (first)
        lode_fail(error, LODE_ERR_ARGUMENT, "%s: part %llu of %u of a split model; open the first part, %s",
                  gguf_short_path(path), (unsigned long long)split->part + 1, n_parts,
                  gguf_short_path(first));
    else
        lode_fail(error, LODE_ERR_ARGUMENT,
                  "%s: part %llu of %u of a split model; open the first part, whose name ends in "
                  "-00001-of-%05u.gguf",
                  gguf_short_path(path), (unsigned long long)split->part + 1, n_parts, n_parts);
    free(first);
    return LODE_ERR_ARGUMENT;
}

// Moves the tensors of a part behind those that are there.
static int append_tensors(struct gguf_header *all, const struct gguf_header *part, const char *path,
                          struct lode_error *error)
{
    size_t count = all->n_tensors + part->n_tensors;
    if (part->n_tensors == 0)
        return 0;
    struct gguf_tensor_info *tensors =
        gguf_grow(all->tensors, &all->tensors_capacity, count, sizeof *tensors);
    if (!tensors)
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for %zu tensors", gguf_short_path(path),
                         count);
    memcpy(tensors + all->n_tensors, part->tensors, part->n_tensors * sizeof *tensors);
    all->tensors = tensors;
    all->n_tensors = count;
    return 0;
}

static int check_part(const struct gguf_header *header, const char *path, const struct split *expected,
                      struct lode_error *error)
{
    struct split split;
    int code = read_split(header, &split, path, error);
    if (code)
        return code;
    if (split.n_parts != expected->n_parts || split.part != expected->part)
        return lode_fail(
            error, LODE_ERR_FORMAT,
            "%s: says that it is part %llu of %llu, where part %llu of %llu is wanted; the parts belong "
            "to different models or were renamed",
            gguf_short_path(path), (unsigned long long)split.part + 1, (unsigned long long)split.n_parts,
            (unsigned long long)expected->part + 1, (unsigned long long)expected->n_parts);
    if (split.has_n_tensors && expected->has_n_tensors && split.n_tensors != expected->n_tensors)
        return lode_fail(
            error, LODE_ERR_FORMAT,
            "%s: \"split.tensors.count\" is %llu, in the first part %llu; the parts belong to different "
            "models",
            gguf_short_path(path), (unsigned long long)split.n_tensors,
            (unsigned long long)expected->n_tensors);
    return 0;
}

static int add_part(struct gguf *gguf, const char *path, const struct split *expected,
                    struct lode_error *error)
{
    struct gguf_header header;
    int code = gguf_add_file(gguf, &header, path, error);
    if (code)
        return code;
    struct gguf_name *names;
    code = gguf_index_keys(&names, &header, path, error);
    if (!code)
        code = check_part(&header, path, expected, error);
    if (!code)
        code = append_tensors(&gguf->header, &header, path, error);
    free(names);
    gguf_header_free(&header);
    return code;
}

static int add_siblings(struct gguf *gguf, struct split split, struct lode_error *error)
{
    const char *first = gguf->files[0].path;
    uint32_t number, count;
    if (!scan_suffix(first, &number, &count) || number != 1 || count != split.n_parts)
        return lode_fail(
            error, LODE_ERR_ARGUMENT,
            "%s: the first of %llu parts, but its name does not end in -00001-of-%05llu.gguf, so the "
            "others cannot be found; give the parts their names back",
            gguf_short_path(first), (unsigned long long)split.n_parts, (unsigned long long)split.n_parts);
    for (split.part = 1; split.part < split.n_parts; split.part++) {
        char *path = sibling_path(gguf->files[0].path, (uint32_t)split.part, count);
        if (!path)
            return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for a path", gguf_short_path(first));
        int code = add_part(gguf, path, &split, error);
        free(path);
        if (code)
            return code;
    }
    return 0;
}

int gguf_add_parts(struct gguf *gguf, struct lode_error *error)
{
    const char *path = gguf->files[0].path;
    struct split split;
    int code = read_split(&gguf->header, &split, path, error);
    if (code)
        return code;
    if (split.part > 0)
        return reject_later_part(path, &split, error);
    if (split.n_parts > 1)
        code = add_siblings(gguf, split, error);
    if (code)
        return code;
    if (split.has_n_tensors && split.n_tensors != gguf->header.n_tensors)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: \"split.tensors.count\" is %llu, but all parts hold %zu tensors",
                         gguf_short_path(path), (unsigned long long)split.n_tensors, gguf->header.n_tensors);
    return 0;
}
