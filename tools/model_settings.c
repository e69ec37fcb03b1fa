#include "tools/model_settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_BATCH = 512 };

void model_settings_write(char *out, size_t capacity, const struct model_options *o,
                          const struct lode_engine *engine, const struct lode_session *session)
{
    struct lode_offload_stats offload;
    lode_session_offload(session, &offload);
    const bool mapped = strcmp(offload.io, "mmap") == 0; // the kernel decides what stays
    const uint32_t context = lode_session_context(session), batch = o->batch ? o->batch : DEFAULT_BATCH;
    char ram[32] = "auto", ranks[32] = "";
    if (o->ram_bytes)
        snprintf(ram, sizeof ram, "%" PRIu64, o->ram_bytes);
    if (o->prefetch_ranks)
        snprintf(ranks, sizeof ranks, ",ranks:%" PRIu32, o->prefetch_ranks);
    snprintf(out, capacity,
             "ram=%s policy=%s prefetch=%s%s io=%s ring=%" PRIu64 " context=%" PRIu32 " batch=%" PRIu32
             " threads=%" PRIu32 " isa=%s kv=%s repack=%s",
             ram, mapped ? "none" : offload.policy, o->no_prefetch ? "off" : "on", ranks, offload.io,
             offload.ring_bytes, context, batch < context ? batch : context, lode_engine_threads(engine),
             lode_engine_isa(engine), model_kv_choices[o->kv], o->no_repack || mapped ? "off" : "on");
}
