// How fast this machine computes and copies experts, from its profile: what decides whether a prompt's
// experts are copied to a GPU.
#include "core/engine.h"

#include "placement/expert_rates.h"

#include <stdlib.h>
#include <string.h>

static const struct gemma_layer *first_moe(const struct gemma_model *model)
{
    for (uint32_t l = 0; l < model->hparams.n_layers; l++)
        if (model->layers[l].moe)
            return &model->layers[l];
    return NULL;
}

// The profile's GPUs are the engine's, in its order; another kind of GPU in that place tells that it is not
// so.
const struct profile_device *engine_profile_gpu(const struct lode_engine *engine,
                                                const struct machine_profile *profile, uint32_t g)
{
    const char *name = engine->gpus.devices[g]->name;
    const size_t letters = strcspn(name, "0123456789");
    if (g >= profile->n_gpus || strlen(profile->gpus[g].backend) != letters ||
        strncmp(profile->gpus[g].backend, name, letters) != 0)
        return NULL;
    return &profile->gpus[g];
}

int engine_rates_read(struct expert_rates *out_host, struct residency_gpu *gpus,
                      const struct lode_engine *engine, struct lode_error *error)
{
    const struct gemma_layer *layer = first_moe(&engine->model);
    *out_host = (struct expert_rates){0};
    if (!engine->options.profile_path || !engine->gpus.n || !layer)
        return 0;
    struct machine_profile *profile = malloc(sizeof *profile);
    if (!profile)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for a machine profile");
    const int rc = machine_profile_read(profile, engine->options.profile_path, error);
    const uint64_t bytes = engine->model.units.units[layer->first_expert_unit].bytes;
    for (uint32_t g = 0; g < engine->gpus.n && !rc; g++) {
        const struct profile_device *gpu = engine_profile_gpu(engine, profile, g);
        if (gpu)
            gpus[g].rates = expert_rates_of(gpu, layer->expert_gate_type, bytes);
    }
    if (!rc)
        *out_host = expert_rates_of(&profile->cpu, layer->expert_gate_type, bytes);
    free(profile);
    return rc;
}
