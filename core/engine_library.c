// Which products of a GPU go through its vendor's library: those that the machine's profile has as faster
// there, from the rows on that it names, where the scratch for that is little of the GPU's memory.
#include "core/engine.h"

#include "base/bytes_text.h"
#include <stdlib.h>

// Of a GPU's ceiling, at most: the same bytes hold copies of experts, which decode is faster by.
#define SCRATCH_SHARE 16

// Types of the matrices that all rows of a step meet, but for those that routers are of: which experts are
// chosen is not to depend on what a library rounds.
static void find_dense_types(bool out[LODE_TYPE_END], const struct gemma_model *model)
{
    for (uint32_t l = 0; l < model->hparams.n_layers; l++) {
        const struct gemma_layer *layer = &model->layers[l];
        const struct gemma_weight *weights[] = {&layer->q,      &layer->k,        &layer->v,
                                                &layer->output, &layer->gate,     &layer->up,
                                                &layer->down,   &layer->ple_gate, &layer->ple_proj};
        for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
            if (weights[i]->cols && weights[i]->type != LODE_F32)
                out[weights[i]->type] = true;
    }
    for (uint32_t l = 0; l < model->hparams.n_layers; l++)
        if (model->layers[l].moe)
            out[model->layers[l].router.type] = false;
}

static void use_none(struct lode_device *device)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        device->ops->use_library(device, type, 0, NULL);
}

// Rows by type from the profile; false where no step is so large.
static bool find_rows(uint32_t rows[LODE_TYPE_END], const struct lode_engine *engine,
                      const struct profile_device *gpu, uint32_t batch)
{
    bool dense[LODE_TYPE_END] = {false}, any = false;
    find_dense_types(dense, &engine->model);
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        rows[type] = dense[type] ? profile_library_rows(&gpu->kernels[type]) : 0;
        any |= rows[type] && rows[type] <= batch;
    }
    return any;
}

static int choose(struct lode_engine *engine, uint32_t g, const struct profile_device *gpu, uint32_t batch,
                  struct lode_error *error)
{
    struct lode_device *device = engine->gpus.devices[g];
    uint32_t rows[LODE_TYPE_END];
    if (!gpu || !device->ops->use_library || !find_rows(rows, engine, gpu, batch))
        return 0;
    int rc = engine_gpu_reserve(engine, g, batch, error);
    if (rc == LODE_ERR_MEMORY) // even without; who divides the memory tells
        return 0;
    const size_t own_bytes = device->ops->scratch_bytes(device);
    for (uint32_t type = 0; type < LODE_TYPE_END && !rc; type++)
        rc = rows[type] ? device->ops->use_library(device, type, rows[type], error) : 0;
    if (rc && !device->ops->library_name(device)) {
        engine_note(engine, "%s: prefill without the vendor's library, which the profile was made with: %s",
                    device->name, error ? error->text : "it cannot be opened");
        return 0;
    }
    if (!rc)
        rc = engine_gpu_reserve(engine, g, batch, error);
    if (rc == LODE_ERR_MEMORY) {
        engine_note(engine, "%s: prefill without %s: no memory for its scratch", device->name,
                    device->ops->library_name(device));
        use_none(device);
        return 0;
    }
    if (rc)
        return rc;
    const size_t more_bytes = device->ops->scratch_bytes(device) - own_bytes;
    if (more_bytes > engine->gpus.ceiling_bytes[g] / SCRATCH_SHARE) {
        engine_note(engine,
                    "%s: prefill without %s, whose scratch of %s would be more than a %dth of what may "
                    "be used there",
                    device->name, device->ops->library_name(device), bytes_text(more_bytes).text,
                    SCRATCH_SHARE);
        use_none(device);
        return 0;
    }
    engine->gpus.by_library[g] = true;
    return 0;
}

int engine_library_choose(struct lode_engine *engine, uint32_t batch, struct lode_error *error)
{
    struct engine_gpus *gpus = &engine->gpus;
    if (gpus->library_chosen || !engine->options.profile_path)
        return 0;
    struct machine_profile *profile = malloc(sizeof *profile);
    if (!profile)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    int rc = machine_profile_read(profile, engine->options.profile_path, error);
    for (uint32_t g = 0; g < gpus->n && !rc; g++)
        rc = choose(engine, g, engine_profile_gpu(engine, profile, g), batch, error);
    free(profile);
    gpus->library_chosen = !rc;
    return rc;
}

void engine_tell_notices(struct lode_engine *engine)
{
    for (uint32_t g = 0; g < engine->gpus.n; g++) {
        struct lode_device *device = engine->gpus.devices[g];
        if (device->notice)
            engine_note(engine, "%s: %s", device->name, device->notice);
        device->notice = NULL;
    }
}
