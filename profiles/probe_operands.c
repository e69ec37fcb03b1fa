// What is multiplied: a block of memory for weights or K and V, and activations, on the device that is
// measured.
#include "profiles/probe_internal.h"

#include <stdlib.h>

#define STAGING_BYTES ((size_t)8 << 20)

// The pilot of attention has 32 rows of all heads, whatever else fits.
#define LEAST_FLOATS ((size_t)32 * PROBE_HEADS * PROBE_HEAD_SIZE)

static size_t x_floats(uint32_t most_rows)
{
    const size_t floats = (size_t)most_rows * PROBE_COLS;
    return floats > LEAST_FLOATS ? floats : LEAST_FLOATS;
}

// With 4 or more choices for each row more than a product has, of 4096 values a row.
static size_t out_floats(uint32_t most_choices)
{
    const size_t floats = (size_t)most_choices * PROBE_HIDDEN;
    return floats > LEAST_FLOATS ? floats : LEAST_FLOATS;
}

size_t probe_operands_bytes(uint32_t most_rows, uint32_t most_choices)
{
    return (x_floats(most_rows) + out_floats(most_choices)) * sizeof(float);
}

struct lode_limits probe_limits(uint32_t most_rows, uint32_t most_choices)
{
    return (struct lode_limits){.rows = most_rows,
                                .cols = PROBE_COLS,
                                .ffn_width = PROBE_FFN_WIDTH,
                                .n_heads = PROBE_HEADS,
                                .head_size = PROBE_HEAD_SIZE,
                                .expert_rows = most_choices};
}

void probe_fill_floats(float *out, size_t n)
{
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 0x5851f42d4c957f2du + 0x14057b7ef767814fu; // Knuth's MMIX
        out[i] = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
}

static int fill_x(struct probe *probe, struct lode_error *error)
{
    if (probe->device->host_memory) {
        probe_fill_floats(probe->x, probe->x_bytes / sizeof *probe->x);
        return LODE_OK;
    }
    probe_fill_floats((float *)(void *)probe->staging, probe->staging_bytes / sizeof(float));
    int code = LODE_OK;
    for (size_t at = 0; at < probe->x_bytes && !code; at += probe->staging_bytes) {
        const size_t left = probe->x_bytes - at;
        code = probe->device->ops->upload(probe->device, (uint8_t *)probe->x + at, probe->staging,
                                          left < probe->staging_bytes ? left : probe->staging_bytes, error);
    }
    return code;
}

int probe_operands_make(struct probe *probe, size_t arena_bytes, struct lode_error *error)
{
    const struct lode_device_ops *ops = probe->device->ops;
    probe->arena_bytes = arena_bytes;
    probe->x_bytes = x_floats(probe->most_rows) * sizeof *probe->x;
    probe->out_bytes = out_floats(probe->most_choices) * sizeof *probe->out;
    if (!probe->device->host_memory) {
        probe->staging = malloc(STAGING_BYTES);
        probe->staging_bytes = STAGING_BYTES;
        if (!probe->staging)
            return lode_fail(error, LODE_ERR_MEMORY, "no memory for what is copied to %s",
                             probe->device->name);
    }
    void *memory[3] = {NULL, NULL, NULL};
    int code = ops->alloc(probe->device, &memory[0], probe->arena_bytes, error);
    probe->arena = memory[0];
    if (!code)
        code = ops->alloc(probe->device, &memory[1], probe->x_bytes, error);
    probe->x = memory[1];
    if (!code)
        code = ops->alloc(probe->device, &memory[2], probe->out_bytes, error);
    probe->out = memory[2];
    return code ? code : fill_x(probe, error);
}

void probe_operands_free(struct probe *probe)
{
    const struct lode_device_ops *ops = probe->device->ops;
    if (probe->arena)
        ops->free(probe->device, probe->arena, probe->arena_bytes);
    if (probe->x)
        ops->free(probe->device, probe->x, probe->x_bytes);
    if (probe->out)
        ops->free(probe->device, probe->out, probe->out_bytes);
    free(probe->staging);
    probe->arena = probe->staging = NULL;
    probe->x = probe->out = NULL;
}
