// The block layouts of docs/tensor-types.md, read one part of 32 weights at a time.
#include "backends/cpu/unpack.h"

#include "base/half.h"

#include <assert.h>

const int8_t cpu_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t cpu_mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static uint32_t load_u16(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8;
}

static uint32_t load_u32(const uint8_t *bytes)
{
    return load_u16(bytes) | load_u16(bytes + 2) << 16;
}

static float load_f16(const uint8_t *bytes)
{
    return lode_f16_to_f32((uint16_t)load_u16(bytes));
}

static void set_scale(struct cpu_unpacked *out, float scale, float minimum)
{
    out->scale[0] = out->scale[1] = scale;
    out->minimum[0] = out->minimum[1] = minimum;
}

// Byte j holds element j low and element j + 16 high.
static void read_nibbles(int8_t *codes, const uint8_t *bytes)
{
    for (int j = 0; j < 16; j++) {
        codes[j] = bytes[j] & 15;
        codes[j + 16] = (int8_t)(bytes[j] >> 4);
    }
}

static void add_fifth_bits(int8_t *codes, uint32_t bits)
{
    for (int i = 0; i < 32; i++)
        codes[i] = (int8_t)(codes[i] | (bits >> i & 1) << 4);
}

static void subtract(int8_t *codes, int offset)
{
    for (int i = 0; i < 32; i++)
        codes[i] = (int8_t)(codes[i] - offset);
}

static void look_up(int8_t *codes, const int8_t *values)
{
    for (int i = 0; i < 32; i++)
        codes[i] = values[codes[i]];
}

// 2^(exponent - 128); the two smallest are denormal.
static float mxfp4_scale(uint8_t exponent)
{
    return lode_bits_to_f32(exponent < 2 ? 0x00200000u << exponent : (uint32_t)(exponent - 1) << 23);
}

static void unpack_q2_k(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    const uint8_t *codes = block + 16 + 32 * (part / 4);
    for (int l = 0; l < 32; l++)
        out->codes[l] = codes[l] >> 2 * (part % 4) & 3;
    float d = load_f16(block + 80), dmin = load_f16(block + 82);
    for (int half = 0; half < 2; half++) {
        uint8_t packed = block[2 * part + half];
        out->scale[half] = d * (float)(packed & 15);
        out->minimum[half] = -dmin * (float)(packed >> 4);
    }
}

static void unpack_q3_k(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    const uint8_t *codes = block + 32 + 32 * (part / 4), *scales = block + 96;
    for (int l = 0; l < 32; l++)
        out->codes[l] = (int8_t)((codes[l] >> 2 * (part % 4) & 3) - (block[l] >> part & 1 ? 0 : 4));
    float d = load_f16(block + 108);
    for (unsigned half = 0; half < 2; half++) {
        unsigned group = 2 * part + half;
        int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
        int high = scales[8 + group % 4] >> 2 * (group / 4) & 3;
        out->scale[half] = d * (float)((low | high << 4) - 32);
        out->minimum[half] = 0;
    }
}

// Scale and minimum of one of the eight parts of Q4_K and Q5_K.
static void set_k4_scale(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    const uint8_t *s = block + 4;
    int scale, minimum;
    if (part < 4) {
        scale = s[part] & 63;
        minimum = s[part + 4] & 63;
    } else {
        scale = (s[part + 4] & 15) | s[part - 4] >> 6 << 4;
        minimum = s[part + 4] >> 4 | s[part] >> 6 << 4;
    }
    set_scale(out, load_f16(block) * (float)scale, -load_f16(block + 2) * (float)minimum);
}

static void read_k_nibbles(int8_t *codes, const uint8_t *bytes, unsigned part)
{
    for (int l = 0; l < 32; l++)
        codes[l] = bytes[32 * (part / 2) + l] >> 4 * (part % 2) & 15;
}

static void unpack_q4_k(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    read_k_nibbles(out->codes, block + 16, part);
    set_k4_scale(out, block, part);
}

static void unpack_q5_k(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    read_k_nibbles(out->codes, block + 48, part);
    for (int l = 0; l < 32; l++)
        out->codes[l] = (int8_t)(out->codes[l] | (block[16 + l] >> part & 1) << 4);
    set_k4_scale(out, block, part);
}

static void unpack_q6_k(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    unsigned quarter = part % 4;
    const uint8_t *low = block + 64 * (part / 4) + 32 * (quarter % 2), *high = block + 128 + 32 * (part / 4);
    for (int l = 0; l < 32; l++)
        out->codes[l] =
            (int8_t)(((low[l] >> 4 * (quarter / 2) & 15) | (high[l] >> 2 * quarter & 3) << 4) - 32);
    float d = load_f16(block + 208);
    for (unsigned half = 0; half < 2; half++) {
        out->scale[half] = d * (float)(int8_t)block[192 + 2 * part + half];
        out->minimum[half] = 0;
    }
}

static void unpack_iq4_xs(struct cpu_unpacked *out, const uint8_t *block, unsigned part)
{
    int low = block[4 + part / 2] >> 4 * (part % 2) & 15;
    int high = (int)(load_u16(block + 2) >> 2 * part & 3);
    read_nibbles(out->codes, block + 8 + 16 * part);
    look_up(out->codes, cpu_iq4_values);
    set_scale(out, load_f16(block) * (float)((low | high << 4) - 32), 0);
}

static void unpack_q8_0(struct cpu_unpacked *out, const uint8_t *block)
{
    for (int i = 0; i < 32; i++)
        out->codes[i] = (int8_t)block[2 + i];
    set_scale(out, load_f16(block), 0);
}

static void unpack_q5(struct cpu_unpacked *out, const uint8_t *block, unsigned head_bytes, int offset)
{
    read_nibbles(out->codes, block + head_bytes + 4);
    add_fifth_bits(out->codes, load_u32(block + head_bytes));
    subtract(out->codes, offset);
    set_scale(out, load_f16(block), head_bytes == 4 ? load_f16(block + 2) : 0);
}

void cpu_unpack(struct cpu_unpacked *out, enum lode_type type, const uint8_t *block, unsigned part)
{
    switch (type) {
    case LODE_Q4_0:
        read_nibbles(out->codes, block + 2);
        subtract(out->codes, 8);
        set_scale(out, load_f16(block), 0);
        return;
    case LODE_Q4_1:
        read_nibbles(out->codes, block + 4);
        set_scale(out, load_f16(block), load_f16(block + 2));
        return;
    case LODE_IQ4_NL:
        read_nibbles(out->codes, block + 2);
        look_up(out->codes, cpu_iq4_values);
        set_scale(out, load_f16(block), 0);
        return;
    case LODE_MXFP4:
        read_nibbles(out->codes, block + 1);
        look_up(out->codes, cpu_mxfp4_values);
        set_scale(out, mxfp4_scale(block[0]), 0);
        return;
    case LODE_Q5_0:
        unpack_q5(out, block, 2, 16);
        return;
    case LODE_Q5_1:
        unpack_q5(out, block, 4, 0);
        return;
    case LODE_Q8_0:
        unpack_q8_0(out, block);
        return;
    case LODE_Q2_K:
        unpack_q2_k(out, block, part);
        return;
    case LODE_Q3_K:
        unpack_q3_k(out, block, part);
        return;
    case LODE_Q4_K:
        unpack_q4_k(out, block, part);
        return;
    case LODE_Q5_K:
        unpack_q5_k(out, block, part);
        return;
    case LODE_Q6_K:
        unpack_q6_k(out, block, part);
        return;
    case LODE_IQ4_XS:
        unpack_iq4_xs(out, block, part);
        return;
    default:
        assert(!"a quantised type");
    }
}
