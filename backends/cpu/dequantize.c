// Decoding to floats, over the common form of unpack.h.
#include "backends/cpu/dequantize.h"

#include "backends/cpu/unpack.h"
#include "base/half.h"

#include <string.h>

static void dequantize_f16(float *out, const uint8_t *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, row + 2 * i, sizeof half);
        out[i] = lode_f16_to_f32(half);
    }
}

static void dequantize_bf16(float *out, const uint8_t *row, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, row + 2 * i, sizeof half);
        out[i] = lode_bf16_to_f32(half);
    }
}

static void dequantize_part(float *out, const struct cpu_unpacked *part)
{
    for (int i = 0; i < 32; i++)
        out[i] = part->scale[i / 16] * (float)part->codes[i] + part->minimum[i / 16];
}

void cpu_dequantize(float *out, enum lode_type type, const void *row, size_t n)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    switch (type) {
    case LODE_F32:
        memcpy(out, row, n * sizeof *out);
        return;
    case LODE_F16:
        dequantize_f16(out, row, n);
        return;
    case LODE_BF16:
        dequantize_bf16(out, row, n);
        return;
    default:
        break;
    }
    const uint8_t *block = row;
    for (size_t i = 0; i < n; i += traits->block_elems, block += traits->block_bytes) {
        for (unsigned part = 0; part < traits->block_elems / 32; part++) {
            struct cpu_unpacked unpacked;
            cpu_unpack(&unpacked, type, block, part);
            dequantize_part(out + i + 32 * part, &unpacked);
        }
    }
}
