#include "tools/model_settings.h"

#include "tools/model_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_BATCH = 512 };

// Of a session with GPUs: " devices=cuda0+cuda1 vram=auto placement=auto"; else nothing.
static void describe_gpus(char *out, size_t capacity, const struct model_options *o,
                          const struct lode_session *session)
{
    struct lode_gpu_stats gpus[LODE_PLAN_GPUS];
    const size_t n = lode_session_gpus(session, gpus, LODE_PLAN_GPUS);
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n && used < capacity; i++)
        used += (size_t)snprintf(out + used, capacity - used, "%s%s", i ? "+" : " devices=", gpus[i].name);
    char vram[32] = "auto";
    if (o->gpus.vram_bytes)
        snprintf(vram, sizeof vram, "%" PRIu64, o->gpus.vram_bytes);
    if (n && used < capacity)
        snprintf(out + used, capacity - used, " vram=%s placement=%s", vram,
                 o->plan && o->plan->unit_gpu ? "plan" : model_placement_choices[o->gpus.placement]);
}

void model_settings_write(char *out, size_t capacity, const struct model_options *o,
                          const struct lode_engine *engine, const struct lode_session *session)
{
    struct lode_offload_stats offload;
    lode_session_offload(session, &offload);
    const bool mapped = strcmp(offload.io, "mmap") == 0; // the kernel decides what stays
    const uint32_t context = lode_session_context(session), batch = o->batch ? o->batch : DEFAULT_BATCH;
    char ram[32] = "auto", ranks[32] = "", gpus[160];
    describe_gpus(gpus, sizeof gpus, o, session);
    if (o->ram_bytes)
        snprintf(ram, sizeof ram, "%" PRIu64, o->ram_bytes);
    if (o->prefetch_ranks)
        snprintf(ranks, sizeof ranks, ",ranks:%" PRIu32, o->prefetch_ranks);
    snprintf(out, capacity,
             "ram=%s policy=%s prefetch=%s%s io=%s ring=%" PRIu64 " context=%" PRIu32 " batch=%" PRIu32
             " threads=%" PRIu32 " isa=%s kv=%s repack=%s%s",
             ram, mapped ? "none" : offload.policy, o->no_prefetch ? "off" : "on", ranks, offload.io,
             offload.ring_bytes, context, batch < context ? batch : context, lode_engine_threads(engine),
             lode_engine_isa(engine), model_kv_choices[o->kv], o->no_repack || mapped ? "off" : "on", gpus);
}
