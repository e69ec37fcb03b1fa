// An open GGUF model: opening and closing, and finding keys and tensors by name.
//
// The indexes are sorted arrays and not hash tables: names come from strangers, and no choice of names can
// make a sort slow. A lookup among the 658 tensors of the mixture model takes 10 comparisons, once per tensor
// and run.
#include "core/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

static int compare_strings(struct gguf_string a, struct gguf_string b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_names(const void *left, const void *right)
{
    const struct gguf_name *a = left, *b = right;
    int order = compare_strings(a->text, b->text);
    return order ? order : (a->item > b->item) - (a->item < b->item);
}

// NULL if absent.
static const struct gguf_name *find_name(const struct gguf_name *names, size_t count, const char *text)
{
    struct gguf_string wanted = {.data = text, .len = strlen(text)};
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_strings(names[middle].text, wanted);
        if (order == 0)
            return &names[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

// Sorts; the later one of two equal names, or NULL when all differ.
static const struct gguf_name *sort_names(struct gguf_name *names, size_t count)
{
    if (count)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count; i++)
        if (compare_strings(names[i - 1].text, names[i].text) == 0)
            return &names[i];
    return NULL;
}

static int reject_duplicate(const char *noun, const struct gguf_name *name, uint64_t at, const char *path,
                            struct lode_error *error)
{
    char quoted[GGUF_QUOTED_BYTES];
    gguf_quote(quoted, name->text.data, name->text.len);
    return lode_fail(error, LODE_ERR_FORMAT, "%s: %s %s, at byte %llu: the name is there a second time",
                     gguf_short_path(path), noun, quoted, (unsigned long long)at);
}

static struct gguf_string key_text(const struct gguf_header *header, const struct gguf_pair *pair)
{
    return (struct gguf_string){.data = header->bytes + pair->key_at, .len = pair->key_len};
}

static int reject_memory(size_t count, const char *path, struct lode_error *error)
{
    return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory for an index of %zu names", gguf_short_path(path),
                     count);
}

int gguf_index_keys(struct gguf_name **out, const struct gguf_header *header, const char *path,
                    struct lode_error *error)
{
    *out = NULL;
    struct gguf_name *names = calloc(header->n_pairs + 1, sizeof *names);
    if (!names)
        return reject_memory(header->n_pairs, path, error);
    for (size_t i = 0; i < header->n_pairs; i++)
        names[i] = (struct gguf_name){.text = key_text(header, &header->pairs[i]), .item = (uint32_t)i};
    const struct gguf_name *twice = sort_names(names, header->n_pairs);
    if (twice) {
        int code = reject_duplicate("key", twice, header->pairs[twice->item].key_at, path, error);
        free(names);
        return code;
    }
    *out = names;
    return 0;
}

static int index_tensors(struct gguf *gguf, struct lode_error *error)
{
    const struct gguf_header *header = &gguf->header;
    gguf->tensor_names = calloc(header->n_tensors + 1, sizeof *gguf->tensor_names);
    if (!gguf->tensor_names)
        return reject_memory(header->n_tensors, gguf->files[0].path, error);
    for (size_t i = 0; i < header->n_tensors; i++) {
        const char *name = header->tensors[i].tensor.name;
        gguf->tensor_names[i] =
            (struct gguf_name){.text = {.data = name, .len = strlen(name)}, .item = (uint32_t)i};
    }
    const struct gguf_name *twice = sort_names(gguf->tensor_names, header->n_tensors);
    if (!twice)
        return 0;
    const struct gguf_tensor_info *info = &header->tensors[twice->item];
    return reject_duplicate("tensor", twice, info->info_at, gguf->files[info->tensor.file].path, error);
}

static int index_names(struct gguf *gguf, struct lode_error *error)
{
    int code = gguf_index_keys(&gguf->key_names, &gguf->header, gguf->files[0].path, error);
    return code ? code : index_tensors(gguf, error);
}

int gguf_open(struct gguf **out, const char *path, struct lode_error *error)
{
    *out = NULL;
    struct gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf)
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory", gguf_short_path(path));
    int code = gguf_add_file(gguf, &gguf->header, path, error);
    if (!code)
        code = gguf_add_parts(gguf, error);
    if (!code)
        code = index_names(gguf, error);
    if (code) {
        gguf_close(gguf);
        return code;
    }
    *out = gguf;
    return 0;
}

static int parse_memory(struct gguf *gguf, const void *data, size_t size_bytes, struct lode_error *error)
{
    struct gguf_file *file = gguf->files;
    struct gguf_reader reader = {
        .name = gguf_short_path(file->path),
        .fd = -1,
        .memory = data,
        .given_bytes = size_bytes,
        .file_size_bytes = file->size_bytes,
        .error = error,
    };
    int code = gguf_parse_header(&gguf->header, &reader, 0);
    return code ? code : index_names(gguf, error);
}

int gguf_parse(struct gguf **out, const void *data, size_t size_bytes, uint64_t file_size_bytes,
               const char *name, struct lode_error *error)
{
    *out = NULL;
    if (size_bytes > file_size_bytes)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%s: %zu bytes given of a file of %llu",
                         gguf_short_path(name), size_bytes, (unsigned long long)file_size_bytes);
    struct gguf *gguf = calloc(1, sizeof *gguf);
    struct gguf_file *file = calloc(1, sizeof *file);
    char *path = strdup(name);
    if (!gguf || !file || !path) {
        free(gguf);
        free(file);
        free(path);
        return lode_fail(error, LODE_ERR_MEMORY, "%s: no memory", gguf_short_path(name));
    }
    *file = (struct gguf_file){.path = path, .size_bytes = file_size_bytes};
    gguf->files = file;
    gguf->n_files = 1;
    int code = parse_memory(gguf, data, size_bytes, error);
    if (code) {
        gguf_close(gguf);
        return code;
    }
    *out = gguf;
    return 0;
}

void gguf_close(struct gguf *gguf)
{
    if (!gguf)
        return;
    for (uint32_t i = 0; i < gguf->n_files; i++)
        free(gguf->files[i].path);
    free(gguf->files);
    free(gguf->key_names);
    free(gguf->tensor_names);
    gguf_header_free(&gguf->header);
    free(gguf);
}

uint32_t gguf_version(const struct gguf *gguf)
{
    return gguf->header.version;
}

uint32_t gguf_file_count(const struct gguf *gguf)
{
    return gguf->n_files;
}

const char *gguf_file_path(const struct gguf *gguf, uint32_t file)
{
    return gguf->files[file].path;
}

uint64_t gguf_file_size_bytes(const struct gguf *gguf, uint32_t file)
{
    return gguf->files[file].size_bytes;
}

size_t gguf_tensor_count(const struct gguf *gguf)
{
    return gguf->header.n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *gguf, size_t index)
{
    return &gguf->header.tensors[index].tensor;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *gguf, const char *name)
{
    const struct gguf_name *found = find_name(gguf->tensor_names, gguf->header.n_tensors, name);
    return found ? gguf_tensor_at(gguf, found->item) : NULL;
}

size_t gguf_tensor_index(const struct gguf *gguf, const struct gguf_tensor *tensor)
{
    return (size_t)((const struct gguf_tensor_info *)tensor - gguf->header.tensors);
}

size_t gguf_key_count(const struct gguf *gguf)
{
    return gguf->header.n_pairs;
}

struct gguf_string gguf_key_at(const struct gguf *gguf, size_t index, const struct gguf_value **out_value)
{
    const struct gguf_pair *pair = &gguf->header.pairs[index];
    if (out_value)
        *out_value = &pair->value;
    return key_text(&gguf->header, pair);
}

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key)
{
    const struct gguf_name *found = find_name(gguf->key_names, gguf->header.n_pairs, key);
    return found ? &gguf->header.pairs[found->item].value : NULL;
}
