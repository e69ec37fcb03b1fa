// How often experts are chosen, kept from run to run.
#include "core/engine.h"

#include "base/clock.h"

#include <string.h>

#define HEAT_INTERVAL_NS ((uint64_t)600 * 1000000000)

static uint32_t moe_layers(const struct gemma_model *model)
{
    uint32_t n = 0;
    for (uint32_t l = 0; l < model->hparams.n_layers; l++)
        n += model->layers[l].moe;
    return n;
}

// Heat that cannot be used is told and done without: it is a matter of speed only.
int engine_heat_open(struct lode_engine *engine, struct lode_error *error)
{
    const uint32_t n_layers = moe_layers(&engine->model), n_experts = engine->model.hparams.n_experts;
    if (!n_layers)
        return 0;
    char path[4096];
    if (!engine->options.heat_dir || engine->options.cold) // GPUs follow the heat of the run itself
        return engine->gpus.n ? heat_open(&engine->heat, n_layers, n_layers * n_experts, 0, error) : 0;
    if (!heat_file_path(path, sizeof path, engine->options.heat_dir, engine->fingerprint)) {
        engine_note(engine, "heat is not kept: the path of its folder is too long");
        return 0;
    }
    int rc = heat_open(&engine->heat, n_layers, n_layers * n_experts, engine->fingerprint, error);
    if (rc)
        return rc;
    engine->heat_path = strdup(path);
    if (!engine->heat_path)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the path of the heat file");
    struct lode_error cause;
    if (heat_read(&engine->heat, path, &cause))
        engine_note(engine, "starting without heat: %s", cause.text);
    engine->heat_written_ns = clock_now_ns();
    return 0;
}

void engine_keep_heat(struct lode_engine *engine, bool end)
{
    const uint64_t now_ns = clock_now_ns();
    if (!engine->heat_path || !engine->residency)
        return;
    if (!end && now_ns - engine->heat_written_ns < HEAT_INTERVAL_NS)
        return;
    engine->heat_written_ns = now_ns;
    struct lode_error cause;
    if (heat_write(&engine->heat, engine->heat_path, &cause))
        engine_note(engine, "heat is not kept: %s", cause.text);
}
