// A model file without its weights: hyperparameters, groups of units, tensors.
#include "core/fingerprint.h"
#include "core/gemma4.h"
#include "core/lode.h"
#include "core/shape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct group {
    enum gemma_unit_kind kind;
    uint64_t type_mask; // bit t: type t occurs
    char types[96];
    uint64_t units, parameters, bytes;
};

struct lode_file {
    struct gguf *gguf;
    struct gemma_model model;
    struct lode_error model_error; // why the file is no model; code 0 when it is one
    struct group *groups;
    size_t n_groups;
};

struct unit_sums {
    uint64_t type_mask, parameters;
};

// Adds a tensor to the unit it belongs to, an expert tensor to all units of its layer.
static void add_tensor(struct unit_sums *sums, const struct gemma_model *model, uint32_t first,
                       const struct gguf_tensor *tensor)
{
    const struct unit *unit = &model->units.units[first];
    const uint32_t n = unit->class == UNIT_EXPERT ? model->hparams.n_experts : 1;
    const uint64_t elements = tensor->ne[0] * tensor->ne[1] * tensor->ne[2] * tensor->ne[3];
    for (uint32_t u = first; u < first + n; u++) {
        sums[u].type_mask |= 1ull << tensor->type;
        sums[u].parameters += elements / n;
    }
}

static void name_types(struct group *group)
{
    size_t used = 0;
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (group->type_mask >> type & 1 && used < sizeof group->types)
            used += (size_t)snprintf(group->types + used, sizeof group->types - used, "%s%s", used ? "+" : "",
                                     lode_type_name(type));
}

static struct group *find_group(struct lode_file *file, enum gemma_unit_kind kind, uint64_t type_mask)
{
    for (size_t g = 0; g < file->n_groups; g++)
        if (file->groups[g].kind == kind && file->groups[g].type_mask == type_mask)
            return &file->groups[g];
    struct group *grown = realloc(file->groups, (file->n_groups + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    file->groups = grown;
    struct group *group = &grown[file->n_groups++];
    *group = (struct group){.kind = kind, .type_mask = type_mask};
    name_types(group);
    return group;
}

static int by_kind(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : (x->bytes < y->bytes) - (x->bytes > y->bytes);
}

static int make_groups(struct lode_file *file, struct lode_error *error)
{
    const struct gemma_model *model = &file->model;
    const uint32_t n_units = model->units.n_units;
    struct unit_sums *sums = calloc(n_units + 1, sizeof *sums);
    if (!sums)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the table of %u units", n_units);
    for (size_t t = 0; t < gguf_tensor_count(file->gguf); t++)
        if (model->tensor_unit[t] != UNIT_NO_LAYER)
            add_tensor(sums, model, model->tensor_unit[t], gguf_tensor_at(file->gguf, t));
    int rc = 0;
    for (uint32_t u = 0; u < n_units && !rc; u++) {
        struct group *group = find_group(file, model->units.units[u].kind, sums[u].type_mask);
        if (!group) {
            rc = lode_fail(error, LODE_ERR_MEMORY, "no memory for the table of groups");
            break;
        }
        group->units++;
        group->parameters += sums[u].parameters;
        group->bytes += model->units.units[u].bytes;
    }
    free(sums);
    if (file->n_groups)
        qsort(file->groups, file->n_groups, sizeof *file->groups, by_kind);
    return rc;
}

int lode_file_open(struct lode_file **out, const char *path, struct lode_error *error)
{
    *out = NULL;
    struct lode_file *file = calloc(1, sizeof *file);
    if (!file)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to open %s", path);
    int rc = gguf_open(&file->gguf, path, error);
    if (!rc && gemma_model_load(&file->model, file->gguf, &file->model_error) == 0)
        rc = make_groups(file, error);
    if (rc) {
        lode_file_close(file);
        return rc;
    }
    *out = file;
    return 0;
}

void lode_file_close(struct lode_file *file)
{
    if (!file)
        return;
    gemma_model_free(&file->model);
    gguf_close(file->gguf);
    free(file->groups);
    free(file);
}

int lode_file_shape(const struct lode_file *file, struct lode_shape *out, struct lode_error *error)
{
    if (file->model_error.code)
        return lode_fail(error, file->model_error.code, "%s: %s", gguf_file_path(file->gguf, 0),
                         file->model_error.text);
    shape_describe(out, &file->model, file->gguf);
    return 0;
}

int lode_file_fingerprint(const struct lode_file *file, uint64_t *out, struct lode_error *error)
{
    return fingerprint_model(out, file->gguf, error);
}

size_t lode_file_group_count(const struct lode_file *file)
{
    return file->n_groups;
}

void lode_file_group(const struct lode_file *file, size_t index, struct lode_group *out)
{
    const struct group *group = &file->groups[index];
    *out = (struct lode_group){gemma_unit_kind_name(group->kind), group->types, group->units,
                               group->parameters, group->bytes};
}

size_t lode_file_tensor_count(const struct lode_file *file)
{
    return gguf_tensor_count(file->gguf);
}

void lode_file_tensor(const struct lode_file *file, size_t index, struct lode_tensor_info *out)
{
    const struct gguf_tensor *tensor = gguf_tensor_at(file->gguf, index);
    *out = (struct lode_tensor_info){
        .name = tensor->name,
        .type = lode_type_name(tensor->type),
        .n_dims = tensor->n_dims,
        .bytes = tensor->size_bytes,
        .offset = tensor->offset_bytes,
        .file = gguf_file_path(file->gguf, tensor->file),
    };
    memcpy(out->ne, tensor->ne, sizeof out->ne);
    uint32_t unit = file->model.tensor_unit ? file->model.tensor_unit[index] : UNIT_NO_LAYER;
    if (unit != UNIT_NO_LAYER)
        out->unit_kind = gemma_unit_kind_name(file->model.units.units[unit].kind);
}
