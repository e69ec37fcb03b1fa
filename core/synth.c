// The public entry: a synthetic model's size, and its file.
#include "core/synth.h"

#include <stdio.h>

static const char *const group_names[SYNTH_GROUPS] = {
    [SYNTH_EMBEDDING_TABLE] = "token embedding",
    [SYNTH_PLE_TABLE] = "per-layer embedding",
    [SYNTH_ATTENTION] = "attention",
    [SYNTH_DENSE_FFN] = "dense FFN",
    [SYNTH_EXPERTS] = "experts",
    [SYNTH_ROUTERS] = "routers",
    [SYNTH_PLE_PROJECTIONS] = "per-layer projections",
    [SYNTH_NORMS] = "norms and scales",
    [SYNTH_ROPE] = "RoPE factors",
};

struct lode_synth_options lode_synth_options_default(void)
{
    return (struct lode_synth_options){.shape = "e2b", .type = "q4_0"};
}

// Everything up to the first byte of data.
static int write_head(struct gguf_write *file, const struct synth_model *model, struct lode_error *error)
{
    synth_write_metadata(file, model);
    int rc = 0;
    for (size_t t = 0; t < model->n_tensors && !rc; t++) {
        const struct synth_tensor *tensor = &model->tensors[t];
        rc = gguf_write_tensor(file, tensor->name, tensor->type, tensor->n_dims, tensor->ne, error);
    }
    return rc ? rc : gguf_write_begin_data(file, error);
}

static void name_types(struct lode_synth_group *group, uint64_t type_mask)
{
    size_t used = 0;
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (type_mask >> type & 1 && used < sizeof group->types)
            used += (size_t)snprintf(group->types + used, sizeof group->types - used, "%s%s", used ? "+" : "",
                                     lode_type_name(type));
}

static void measure_groups(struct lode_synth_size *out, const struct synth_model *model)
{
    uint64_t type_masks[SYNTH_GROUPS] = {0};
    for (size_t t = 0; t < model->n_tensors; t++) {
        const struct synth_tensor *tensor = &model->tensors[t];
        const struct lode_type_traits *traits = lode_type_find(tensor->type);
        const uint64_t n = tensor->ne[0] * tensor->ne[1] * tensor->ne[2];
        struct lode_synth_group *group = &out->groups[tensor->group];
        group->tensors++;
        group->parameters += n;
        group->bytes += n / traits->block_elems * traits->block_bytes;
        type_masks[tensor->group] |= 1ull << tensor->type;
    }
    for (int g = 0; g < SYNTH_GROUPS; g++) {
        out->groups[g].kind = group_names[g];
        name_types(&out->groups[g], type_masks[g]);
        out->tensors += out->groups[g].tensors;
        out->parameters += out->groups[g].parameters;
        out->weight_bytes += out->groups[g].bytes;
    }
}

int lode_synth_measure(struct lode_synth_size *out, const struct lode_synth_options *options,
                       struct lode_error *error)
{
    *out = (struct lode_synth_size){0};
    struct synth_model model;
    struct gguf_write *file;
    int rc = synth_model_make(&model, options, error);
    if (rc)
        return rc;
    rc = gguf_write_create(&file, NULL, error);
    if (!rc) {
        rc = write_head(file, &model, error);
        out->file_bytes = gguf_write_size_bytes(file);
        gguf_write_abort(file);
    }
    measure_groups(out, &model);
    synth_model_free(&model);
    return rc;
}

int lode_synth_write(const char *path, const struct lode_synth_options *options, lode_progress_fn on_progress,
                     void *user, struct lode_error *error)
{
    struct synth_model model;
    struct gguf_write *file;
    int rc = synth_model_make(&model, options, error);
    if (rc)
        return rc;
    rc = gguf_write_create(&file, path, error);
    if (!rc) {
        rc = write_head(file, &model, error);
        if (!rc)
            rc = synth_write_weights(file, &model, on_progress, user, error);
        if (rc)
            gguf_write_abort(file);
        else
            rc = gguf_write_finish(file, options->sync, error);
    }
    synth_model_free(&model);
    return rc;
}
