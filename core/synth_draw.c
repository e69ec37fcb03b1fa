// The distributions of synth_draw.h. For each type stands what uniform codes and scales make of a block scale
// of 1: the mean square of a weight, from which the block scale for a wanted deviation follows.
#include "core/synth_draw.h"

#include "base/half.h"

#include <assert.h>
#include <math.h>
#include <string.h>

// ---- random numbers -----------------------------------------------------------------------------

struct synth_random synth_random_of(uint64_t seed, const char *name, uint64_t stripe)
{
    uint64_t hash = 0xcbf29ce484222325u; // FNV-1a
    for (const char *at = name; *at; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
    struct synth_random random = {seed};
    random.state = synth_random_next(&random) ^ hash;
    random.state = synth_random_next(&random) + stripe;
    random.state = synth_random_next(&random);
    return random;
}

static double normal_quantile(double share)
{
    double low = -8, high = 8;
    for (int step = 0; step < 50; step++) {
        double middle = (low + high) / 2;
        if (erfc(-middle * M_SQRT1_2) / 2 < share)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

void synth_quantiles_init(struct synth_quantiles *quantiles)
{
    double squares = 0;
    for (int i = 0; i < SYNTH_QUANTILES / 2; i++) {
        double value = normal_quantile((SYNTH_QUANTILES / 2 + i + 0.5) / SYNTH_QUANTILES);
        quantiles->values[SYNTH_QUANTILES / 2 + i] = (float)value;
        squares += value * value;
    }
    const float to_one = (float)(1 / sqrt(squares / (SYNTH_QUANTILES / 2)));
    for (int i = 0; i < SYNTH_QUANTILES / 2; i++) {
        quantiles->values[SYNTH_QUANTILES / 2 + i] *= to_one;
        quantiles->values[SYNTH_QUANTILES / 2 - 1 - i] = -quantiles->values[SYNTH_QUANTILES / 2 + i];
    }
}

// ---- scales -------------------------------------------------------------------------------------

struct statistics {
    float mean_square; // of a weight under a block scale of 1
    float lane_square; // the same where lanes keep all scales positive
    float lane;        // the lane's weight then
    float minimum;     // of the types that have one, in units of the scale
};

// n equally likely codes in a row, of mean m, have the mean square (n^2 - 1) / 12 + m^2.
static struct statistics statistics_of(enum lode_type type)
{
    switch (type) {
    case LODE_Q4_0: // -8..7
        return (struct statistics){21.5f, 21.5f, 7, 0};
    case LODE_Q4_1: // 0..15, -7.5
        return (struct statistics){21.25f, 21.25f, 7.5f, -7.5f};
    case LODE_Q5_0: // -16..15
        return (struct statistics){85.5f, 85.5f, 15, 0};
    case LODE_Q5_1: // 0..31, -15.5
        return (struct statistics){85.25f, 85.25f, 15.5f, -15.5f};
    case LODE_Q8_0: // -127..127, -127 twice as often: quantisers never write -128
        return (struct statistics){5460.5f, 5460.5f, 127, 0};
    case LODE_Q2_K: // (0..3) s - 1.5 m, s and m 8..15: 137.5 * 1.25 + 2.25 * 2 * 5.25
        return (struct statistics){195.5f, 195.5f, 17.25f, 1.5f};
    case LODE_Q3_K: // (-4..3) s, s -32..31: 5.5 * 341.5; lanes 0..31: 5.5 * 325.5
        return (struct statistics){1878.25f, 1790.25f, 46.5f, 0};
    case LODE_Q4_K: // (0..15) s - 7.5 m, s and m 32..63: 2341.5 * 21.25 + 56.25 * 2 * 85.25
        return (struct statistics){59347.5f, 59347.5f, 356.25f, 7.5f};
    case LODE_Q5_K: // (0..31) s - 15.5 m: 2341.5 * 85.25 + 240.25 * 2 * 85.25
        return (struct statistics){240575.5f, 240575.5f, 736.25f, 15.5f};
    case LODE_Q6_K: // (-32..31) s, s -128..127: 341.5 * 5461.5; lanes 0..127: 341.5 * 5397.5
        return (struct statistics){1865102.25f, 1843246.25f, 1968.5f, 0};
    case LODE_IQ4_NL: // the 16 values' squares: 72768 / 16
        return (struct statistics){4548, 4548, 113, 0};
    case LODE_IQ4_XS: // the same under s -32..31; lanes 0..31
        return (struct statistics){1553142, 1480374, 1751.5f, 0};
    case LODE_MXFP4: // the values' squares: 274 / 8
        return (struct statistics){34.25f, 34.25f, 12, 0};
    default:
        return (struct statistics){1, 1, 1.5f, 0};
    }
}

static bool is_float(enum lode_type type)
{
    return type == LODE_F32 || type == LODE_F16 || type == LODE_BF16;
}

static void init_values(struct synth_draw *draw, const struct synth_quantiles *quantiles, float mean,
                        float deviation)
{
    for (int i = 0; i < SYNTH_QUANTILES; i++) {
        draw->values[i] = mean + deviation * quantiles->values[i];
        draw->halves[i] =
            draw->type == LODE_F16 ? lode_f32_to_f16(draw->values[i]) : lode_f32_to_bf16(draw->values[i]);
    }
}

static void init_scales(struct synth_draw *draw, const struct statistics *statistics, float scale)
{
    const double spread =
        sqrt(1 + (1 - 1.0 / (SYNTH_SCALES * SYNTH_SCALES)) / 12); // RMS of the factors below
    for (int i = 0; i < SYNTH_SCALES; i++) {
        const float factor = (float)((0.5 + (i + 0.5) / SYNTH_SCALES) / spread);
        draw->scales[i] = lode_f32_to_f16(scale * factor);
        // From the scale as it was rounded: K-quants' scales are subnormal halves, and the mean must stay 0.
        draw->minimums[i] = lode_f32_to_f16(lode_f16_to_f32(draw->scales[i]) * statistics->minimum);
    }
    draw->lane = (float)(scale * statistics->lane / spread);
}

// Scales are powers of two here: of two neighbours, each as often as the mean square needs.
static void init_exponents(struct synth_draw *draw, const struct statistics *statistics, float scale)
{
    const int power = (int)floorf(log2f(scale));
    const float excess = scale * scale / exp2f(2 * (float)power); // 1..4
    draw->exponent = (uint8_t)(power + 128);
    draw->exponent_odds = (unsigned)lrintf((excess - 1) / 3 * 256);
    draw->lane = statistics->lane * exp2f((float)power) * (1 + (float)draw->exponent_odds / 256);
}

void synth_draw_init(struct synth_draw *draw, const struct synth_quantiles *quantiles, enum lode_type type,
                     float mean, float deviation, bool signs, bool lanes)
{
    memset(draw, 0, sizeof *draw);
    draw->type = type;
    draw->signs = signs;
    draw->lanes = lanes;
    const struct statistics statistics = statistics_of(type);
    const float scale = deviation / sqrtf(lanes ? statistics.lane_square : statistics.mean_square);
    draw->lane = scale * statistics.lane;
    if (is_float(type))
        init_values(draw, quantiles, mean, deviation);
    else if (type == LODE_MXFP4)
        init_exponents(draw, &statistics, scale);
    else
        init_scales(draw, &statistics, scale);
}

// ---- floats -------------------------------------------------------------------------------------

// Four weights a number: 12 bits choose the value, the highest of 16 its sign.
static void fill_f32(const struct synth_draw *draw, uint8_t *out, size_t n, struct synth_random *random)
{
    const uint32_t sign_mask = draw->signs ? 0x80000000u : 0;
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = synth_random_next(random);
        for (size_t k = i; k < i + 4 && k < n; k++, bits >>= 16) {
            uint32_t value = lode_f32_to_bits(draw->values[bits & (SYNTH_QUANTILES - 1)]);
            value ^= (uint32_t)(bits & 0xffff) << 16 & sign_mask;
            memcpy(out + 4 * k, &value, sizeof value);
        }
    }
    for (size_t i = 0; draw->lanes && i < n; i += SYNTH_LANE)
        memcpy(out + 4 * i, &draw->lane, sizeof draw->lane);
}

static void fill_halves(const struct synth_draw *draw, uint8_t *out, size_t n, struct synth_random *random)
{
    const uint16_t sign_mask = draw->signs ? 0x8000 : 0;
    const uint16_t lane = draw->type == LODE_F16 ? lode_f32_to_f16(draw->lane) : lode_f32_to_bf16(draw->lane);
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = synth_random_next(random);
        for (size_t k = i; k < i + 4 && k < n; k++, bits >>= 16) {
            uint16_t value = (uint16_t)(draw->halves[bits & (SYNTH_QUANTILES - 1)] ^ (bits & sign_mask));
            memcpy(out + 2 * k, &value, sizeof value);
        }
    }
    for (size_t i = 0; draw->lanes && i < n; i += SYNTH_LANE)
        memcpy(out + 2 * i, &lane, sizeof lane);
}

// ---- blocks -------------------------------------------------------------------------------------

static void fill_random(uint8_t *out, size_t size_bytes, struct synth_random *random)
{
    for (; size_bytes >= 8; out += 8, size_bytes -= 8) {
        uint64_t bits = synth_random_next(random);
        memcpy(out, &bits, sizeof bits);
    }
    uint64_t bits = synth_random_next(random);
    memcpy(out, &bits, size_bytes);
}

static uint16_t load_u16(const uint8_t *at)
{
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return bits;
}

static void store_u16(uint8_t *at, uint16_t bits)
{
    memcpy(at, &bits, sizeof bits);
}

// Codes such as -8..7 lean to one side: every other scale is negative, so that the weights do not.
static void set_signed_scale(const struct synth_draw *draw, uint8_t *at)
{
    const uint16_t bits = load_u16(at);
    const uint16_t sign = draw->lanes ? 0 : bits & 0x8000;
    store_u16(at, draw->scales[bits % SYNTH_SCALES] | sign);
}

static void set_scale_and_minimum(const struct synth_draw *draw, uint8_t *scale, uint8_t *minimum)
{
    const unsigned index = load_u16(scale) % SYNTH_SCALES;
    store_u16(scale, draw->scales[index]);
    store_u16(minimum, draw->minimums[index]);
}

// Sets bits of the first element of each part of 32, so that it has the largest code.
static void set_bits(uint8_t *block, size_t first, size_t count, size_t step, uint8_t bits)
{
    for (size_t i = 0; i < count; i++)
        block[first + i * step] |= bits;
}

static void fit_q8_0(const struct synth_draw *draw, uint8_t *block)
{
    set_signed_scale(draw, block);
    for (int i = 2; i < 34; i++)
        block[i] += block[i] == 0x80;
    if (draw->lanes)
        block[2] = 127;
}

static void fit_q2_k(const struct synth_draw *draw, uint8_t *block)
{
    set_bits(block, 0, 16, 1, 0x88); // scales and minimums 8..15
    set_scale_and_minimum(draw, block + 80, block + 82);
    if (draw->lanes)
        set_bits(block, 16, 2, 32, 0xff);
}

static void fit_q3_k(const struct synth_draw *draw, uint8_t *block)
{
    set_signed_scale(draw, block + 108);
    if (!draw->lanes)
        return;
    set_bits(block, 104, 4, 1, 0xaa); // the sixth bit of all scales: none is negative
    set_bits(block, 0, 1, 1, 0xff);
    set_bits(block, 32, 2, 32, 0xff);
}

// The sixth bit of the first four scales and minimums, and of the other four, lie in the same eight bytes.
static void fit_q4_k(const struct synth_draw *draw, uint8_t *block)
{
    set_scale_and_minimum(draw, block, block + 2);
    set_bits(block, 4, 8, 1, 0xa0);
    if (draw->lanes)
        set_bits(block, 16, 4, 32, 0xff);
}

static void fit_q5_k(const struct synth_draw *draw, uint8_t *block)
{
    set_scale_and_minimum(draw, block, block + 2);
    set_bits(block, 4, 8, 1, 0xa0);
    if (!draw->lanes)
        return;
    block[16] = 0xff;
    set_bits(block, 48, 4, 32, 0xff);
}

static void fit_q6_k(const struct synth_draw *draw, uint8_t *block)
{
    set_signed_scale(draw, block + 208);
    if (!draw->lanes)
        return;
    for (int i = 192; i < 208; i++)
        block[i] &= 0x7f;
    set_bits(block, 0, 4, 32, 0xff);
    set_bits(block, 128, 2, 32, 0xff);
}

static void fit_iq4_xs(const struct synth_draw *draw, uint8_t *block)
{
    set_signed_scale(draw, block);
    if (!draw->lanes)
        return;
    set_bits(block, 2, 2, 1, 0xaa);
    set_bits(block, 8, 8, 16, 0x0f);
}

static void fit_mxfp4(const struct synth_draw *draw, uint8_t *block)
{
    block[0] = (uint8_t)(draw->exponent + (block[0] < draw->exponent_odds));
    if (draw->lanes)
        block[1] = (block[1] & 0xf0) | 7;
}

static void fit_q5(const struct synth_draw *draw, uint8_t *block, size_t high_bits)
{
    if (high_bits == 2)
        set_signed_scale(draw, block);
    else
        set_scale_and_minimum(draw, block, block + 2);
    if (!draw->lanes)
        return;
    block[high_bits] |= 1;
    block[high_bits + 4] |= 0x0f;
}

static void fit_block(const struct synth_draw *draw, uint8_t *block)
{
    switch (draw->type) {
    case LODE_Q4_0:
    case LODE_IQ4_NL:
        set_signed_scale(draw, block);
        if (draw->lanes)
            block[2] |= 0x0f;
        return;
    case LODE_Q4_1:
        set_scale_and_minimum(draw, block, block + 2);
        if (draw->lanes)
            block[4] |= 0x0f;
        return;
    case LODE_Q5_0:
        fit_q5(draw, block, 2);
        return;
    case LODE_Q5_1:
        fit_q5(draw, block, 4);
        return;
    case LODE_Q8_0:
        fit_q8_0(draw, block);
        return;
    case LODE_Q2_K:
        fit_q2_k(draw, block);
        return;
    case LODE_Q3_K:
        fit_q3_k(draw, block);
        return;
    case LODE_Q4_K:
        fit_q4_k(draw, block);
        return;
    case LODE_Q5_K:
        fit_q5_k(draw, block);
        return;
    case LODE_Q6_K:
        fit_q6_k(draw, block);
        return;
    case LODE_IQ4_XS:
        fit_iq4_xs(draw, block);
        return;
    case LODE_MXFP4:
        fit_mxfp4(draw, block);
        return;
    default:
        assert(!"a quantised type");
    }
}

void synth_draw_fill(const struct synth_draw *draw, uint8_t *out, size_t n, struct synth_random *random)
{
    if (draw->type == LODE_F32) {
        fill_f32(draw, out, n, random);
        return;
    }
    if (is_float(draw->type)) {
        fill_halves(draw, out, n, random);
        return;
    }
    const struct lode_type_traits *traits = lode_type_find(draw->type);
    const size_t size_bytes = n / traits->block_elems * traits->block_bytes;
    fill_random(out, size_bytes, random);
    for (size_t at = 0; at < size_bytes; at += traits->block_bytes)
        fit_block(draw, out + at);
}
