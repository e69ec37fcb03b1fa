// Weights to multiply with: random codes, with scales that make them numbers of ordinary size. Infinities
// and subnormal numbers take some processors longer, and would not be met in a model.
#include "profiles/probe_internal.h"

#include "base/clock.h"

#include <string.h>

#define SEED_BLOCKS 4096 // the rest repeats them, in another order

static uint32_t draw(uint64_t *state) // splitmix64
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

// Those that the published files of Gemma 4 consist of for the most part; without haste also what K-quants
// fall back to where rows are no whole blocks, and routers; all in the thorough mode.
uint32_t probe_types(enum lode_type *out, enum probe_mode mode)
{
    static const enum lode_type usual[] = {LODE_Q4_0, LODE_Q8_0, LODE_Q4_K, LODE_Q6_K,
                                           LODE_Q5_K, LODE_BF16, LODE_Q5_0, LODE_F32};
    enum { N_USUAL = sizeof usual / sizeof *usual, N_QUICK = 6 };
    uint32_t n = mode == PROBE_QUICK ? N_QUICK : N_USUAL;
    memcpy(out, usual, n * sizeof *usual);
    for (uint32_t type = 0; type < LODE_TYPE_END && mode == PROBE_THOROUGH; type++) {
        bool listed = lode_type_find(type) == NULL;
        for (uint32_t i = 0; i < N_USUAL; i++)
            listed = listed || usual[i] == type;
        if (!listed)
            out[n++] = (enum lode_type)type;
    }
    return n;
}

int probe_each_type(struct probe *probe, uint64_t end_ns,
                    int (*measure)(struct probe *probe, enum lode_type type, uint64_t end_ns,
                                   struct lode_error *error),
                    struct lode_error *error)
{
    static const uint32_t rounds[] = {[PROBE_QUICK] = 1, [PROBE_FULL] = 2, [PROBE_THOROUGH] = 3};
    enum lode_type types[LODE_TYPE_END];
    const uint32_t n = probe_types(types, probe->options->mode), all = n * rounds[probe->options->mode];
    struct probe_group group = {end_ns, all};
    int code = LODE_OK;
    for (uint32_t i = 0; i < all && !code; i++) {
        const double slice_s = probe_slice_s(&group);
        code = measure(probe, types[i % n], clock_now_ns() + (uint64_t)(slice_s * 1e9), error);
    }
    return code;
}

// Where the half-precision scales of a block lie; -1: none. docs/tensor-types.md has the layouts.
static void find_scales(int out[2], enum lode_type type)
{
    out[0] = out[1] = -1;
    switch (type) {
    case LODE_Q4_1:
    case LODE_Q5_1:
    case LODE_Q4_K:
    case LODE_Q5_K:
        out[0] = 0;
        out[1] = 2;
        return;
    case LODE_Q2_K:
        out[0] = 80;
        out[1] = 82;
        return;
    case LODE_Q3_K:
        out[0] = 108;
        return;
    case LODE_Q6_K:
        out[0] = 208;
        return;
    default:
        out[0] = 0;
    }
}

// 2^-7 to 2^-6, as scales of weights are.
static void put_scale(uint8_t *at, uint32_t random)
{
    const uint16_t half = (uint16_t)((random & 0x3ff) | 0x2000);
    memcpy(at, &half, sizeof half);
}

static void make_ordinary(uint8_t *block, enum lode_type type, uint32_t random)
{
    switch (type) {
    case LODE_F32: {
        const uint32_t bits = (random & 0x807fffff) | 0x3c000000;
        memcpy(block, &bits, sizeof bits);
        return;
    }
    case LODE_F16: {
        const uint16_t bits = (uint16_t)((random & 0x83ff) | 0x2000);
        memcpy(block, &bits, sizeof bits);
        return;
    }
    case LODE_BF16: {
        const uint16_t bits = (uint16_t)((random & 0x807f) | 0x3c00);
        memcpy(block, &bits, sizeof bits);
        return;
    }
    case LODE_MXFP4:
        block[0] = 120; // 2^-7
        return;
    default:
        break;
    }
    int scales[2];
    find_scales(scales, type);
    for (int i = 0; i < 2; i++)
        if (scales[i] >= 0)
            put_scale(block + scales[i], random >> i);
}

void probe_fill_blocks(uint8_t *out, enum lode_type type, size_t bytes)
{
    const size_t block_bytes = lode_type_find(type)->block_bytes, n_blocks = bytes / block_bytes;
    uint64_t state = type;
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *block = out + b * block_bytes;
        if (b >= SEED_BLOCKS) {
            memcpy(block, out + b * 31 % SEED_BLOCKS * block_bytes, block_bytes);
            continue;
        }
        for (size_t i = 0; i < block_bytes; i++)
            block[i] = (uint8_t)draw(&state);
        make_ordinary(block, type, draw(&state));
    }
}

static void put(struct probe *probe, size_t offset, size_t bytes)
{
    if (!probe->fault)
        probe->fault = probe->device->ops->upload(probe->device, probe->arena + offset, probe->staging, bytes,
                                                  &probe->fault_error);
}

void probe_put_blocks(struct probe *probe, size_t offset, enum lode_type type, size_t bytes)
{
    if (probe->device->host_memory) {
        probe_fill_blocks(probe->arena + offset, type, bytes);
        return;
    }
    const size_t block_bytes = lode_type_find(type)->block_bytes;
    const size_t whole = probe->staging_bytes / block_bytes * block_bytes;
    const size_t piece = bytes < whole ? bytes : whole;
    probe_fill_blocks(probe->staging, type, piece);
    for (size_t at = 0; at < bytes; at += piece)
        put(probe, offset + at, bytes - at < piece ? bytes - at : piece);
}

static void repeat(struct probe *probe, size_t offset, size_t bytes)
{
    uint8_t *to = probe->arena + offset;
    if (probe->device->host_memory)
        memcpy(to, probe->arena, bytes);
    else if (!probe->fault)
        probe->fault = probe->device->ops->copy(probe->device, to, probe->arena, bytes, &probe->fault_error);
}

uint32_t probe_repeat_arena(struct probe *probe, size_t bytes)
{
    const uint32_t n = (uint32_t)(probe->arena_bytes / bytes);
    for (uint32_t i = 1; i < n; i++)
        repeat(probe, i * bytes, bytes);
    return n;
}
