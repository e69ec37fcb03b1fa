// The published shapes and three small ones with the same features, and what a layer of them looks like.
#include "core/synth.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { FULL_VOCAB = 262144, SMALL_VOCAB = 2048 };

static const struct synth_shape shapes[] = {
    {.name = "e2b",
     .size_label = "E2B",
     .n_layers = 35,
     .period = 5,
     .hidden = 1536,
     .ffn_width = 6144,
     .window = 512,
     .context = 131072,
     .n_heads = 8,
     .n_kv_heads_local = 1,
     .n_kv_heads_global = 1,
     .head_size_local = 256,
     .head_size_global = 512,
     .n_shared_kv_layers = 20,
     .wide_shared_ffn = true,
     .ple_width = 256,
     .vocab = FULL_VOCAB},
    {.name = "e4b",
     .size_label = "E4B",
     .n_layers = 42,
     .period = 6,
     .hidden = 2560,
     .ffn_width = 10240,
     .window = 512,
     .context = 131072,
     .n_heads = 8,
     .n_kv_heads_local = 2,
     .n_kv_heads_global = 2,
     .head_size_local = 256,
     .head_size_global = 512,
     .n_shared_kv_layers = 18,
     .ple_width = 256,
     .vocab = FULL_VOCAB},
    {.name = "12b",
     .size_label = "12B",
     .n_layers = 48,
     .period = 6,
     .hidden = 3840,
     .ffn_width = 15360,
     .window = 1024,
     .context = 262144,
     .n_heads = 16,
     .n_kv_heads_local = 8,
     .n_kv_heads_global = 1,
     .head_size_local = 256,
     .head_size_global = 512,
     .k_is_v = true,
     .vocab = FULL_VOCAB},
    {.name = "26b-a4b",
     .size_label = "26B-A4B",
     .n_layers = 30,
     .period = 6,
     .hidden = 2816,
     .ffn_width = 2112,
     .window = 1024,
     .context = 262144,
     .n_heads = 16,
     .n_kv_heads_local = 8,
     .n_kv_heads_global = 2,
     .head_size_local = 256,
     .head_size_global = 512,
     .k_is_v = true,
     .n_experts = 128,
     .n_experts_used = 8,
     .expert_width = 704,
     .vocab = FULL_VOCAB},
    {.name = "31b",
     .size_label = "31B",
     .n_layers = 60,
     .period = 6,
     .hidden = 5376,
     .ffn_width = 21504,
     .window = 1024,
     .context = 262144,
     .n_heads = 32,
     .n_kv_heads_local = 16,
     .n_kv_heads_global = 4,
     .head_size_local = 256,
     .head_size_global = 512,
     .k_is_v = true,
     .vocab = FULL_VOCAB},
    // Small ones: a few MB, every feature of their model. Expert and FFN widths of tiny-moe are no multiples
    // of 256, as those of 26B-A4B, so that its K-quants fall back in the same places.
    {.name = "tiny-e2b",
     .size_label = "tiny",
     .n_layers = 6,
     .period = 3,
     .hidden = 256,
     .ffn_width = 512,
     .window = 32,
     .context = 4096,
     .n_heads = 4,
     .n_kv_heads_local = 1,
     .n_kv_heads_global = 1,
     .head_size_local = 64,
     .head_size_global = 128,
     .n_shared_kv_layers = 3,
     .wide_shared_ffn = true,
     .ple_width = 128,
     .vocab = SMALL_VOCAB},
    {.name = "tiny-moe",
     .size_label = "tiny",
     .n_layers = 4,
     .period = 2,
     .hidden = 256,
     .ffn_width = 288,
     .window = 32,
     .context = 4096,
     .n_heads = 4,
     .n_kv_heads_local = 2,
     .n_kv_heads_global = 1,
     .head_size_local = 64,
     .head_size_global = 128,
     .k_is_v = true,
     .n_experts = 128,
     .n_experts_used = 8,
     .expert_width = 32,
     .vocab = SMALL_VOCAB},
    {.name = "tiny-31b",
     .size_label = "tiny",
     .n_layers = 6,
     .period = 3,
     .hidden = 256,
     .ffn_width = 768,
     .window = 32,
     .context = 4096,
     .n_heads = 8,
     .n_kv_heads_local = 4,
     .n_kv_heads_global = 2,
     .head_size_local = 64,
     .head_size_global = 128,
     .k_is_v = true,
     .vocab = SMALL_VOCAB},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static int fail_unknown(const char *name, struct lode_error *error)
{
    char list[256];
    size_t used = 0;
    for (size_t i = 0; i < N_SHAPES && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", shapes[i].name);
    return lode_fail(error, LODE_ERR_ARGUMENT, "there is no shape \"%.40s\"; there are %s", name, list);
}

// Keeps the share of layers that read the KV cache of others, and ends the owners with a global layer:
// engines find the caches that are shared at the two last owners.
static uint32_t shared_layers(const struct synth_shape *published, uint32_t n_layers)
{
    if (!published->n_shared_kv_layers || n_layers <= published->period)
        return 0;
    const uint32_t n_owners = published->n_layers - published->n_shared_kv_layers, period = published->period;
    uint32_t periods =
        (n_layers * n_owners + published->n_layers * period / 2) / (published->n_layers * period);
    while (periods > 1 && periods * period >= n_layers)
        periods--;
    return n_layers - (periods ? periods : 1) * period;
}

int synth_shape_find(struct synth_shape *out, const char *name, uint32_t n_layers, struct lode_error *error)
{
    size_t i = 0;
    while (i < N_SHAPES && (!name || strcmp(shapes[i].name, name) != 0))
        i++;
    if (i == N_SHAPES)
        return fail_unknown(name ? name : "", error);
    if (n_layers > SYNTH_MAX_LAYERS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "%" PRIu32 " layers are too many; at most %d are possible",
                         n_layers, SYNTH_MAX_LAYERS);
    *out = shapes[i];
    if (!n_layers || n_layers == out->n_layers)
        return 0;
    out->n_layers = n_layers;
    out->n_shared_kv_layers = shared_layers(&shapes[i], n_layers);
    return 0;
}

bool synth_layer_is_global(const struct synth_shape *shape, uint32_t layer)
{
    return (layer + 1) % shape->period == 0 || layer + 1 == shape->n_layers;
}

bool synth_layer_owns_kv(const struct synth_shape *shape, uint32_t layer)
{
    return layer < shape->n_layers - shape->n_shared_kv_layers;
}

uint32_t synth_layer_kv_heads(const struct synth_shape *shape, uint32_t layer)
{
    return synth_layer_is_global(shape, layer) ? shape->n_kv_heads_global : shape->n_kv_heads_local;
}

uint32_t synth_layer_head_size(const struct synth_shape *shape, uint32_t layer)
{
    return synth_layer_is_global(shape, layer) ? shape->head_size_global : shape->head_size_local;
}

uint32_t synth_layer_ffn_width(const struct synth_shape *shape, uint32_t layer)
{
    const bool wide = shape->wide_shared_ffn && !synth_layer_owns_kv(shape, layer);
    return wide ? 2 * shape->ffn_width : shape->ffn_width;
}

uint32_t synth_branches(const struct synth_shape *shape)
{
    return shape->ple_width
               ? 3
               : 2; // attention, FFN (experts and dense FFN are summed first), per-layer embedding
}

float synth_post_norm(const struct synth_shape *shape)
{
    return sqrtf(3.0f / (float)(synth_branches(shape) * shape->n_layers));
}
