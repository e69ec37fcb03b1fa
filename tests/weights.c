// Random weights and their meaning; see weights.h.
#include "tests/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const enum lode_type test_types[] = {LODE_F32,  LODE_F16,    LODE_BF16,   LODE_Q8_0, LODE_Q4_0, LODE_Q4_1,
                                     LODE_Q5_0, LODE_Q5_1,   LODE_Q2_K,   LODE_Q3_K, LODE_Q4_K, LODE_Q5_K,
                                     LODE_Q6_K, LODE_IQ4_NL, LODE_IQ4_XS, LODE_MXFP4};
const unsigned test_n_types = sizeof test_types / sizeof *test_types;

static double f16(const uint8_t *p)
{
    unsigned bits = p[0] | (unsigned)p[1] << 8;
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double magnitude = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static double f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double f32(const uint8_t *p)
{
    return f32_of_bits(p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

static int nibble(const uint8_t *codes, unsigned i)
{
    return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
}

static int bit(const uint8_t *bits, unsigned i)
{
    return bits[i / 8] >> i % 8 & 1;
}

static struct test_weight of(double product, double addend)
{
    return (struct test_weight){product, addend};
}

static const int iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const double e2m1[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

static struct test_weight q2_k(const uint8_t *b, unsigned i)
{
    unsigned half = i / 128, j = i % 128 / 32, l = i % 32, s = b[i / 16];
    int code = b[16 + 32 * half + l] >> 2 * j & 3;
    return of(f16(b + 80) * (s & 15) * code, -f16(b + 82) * (s >> 4));
}

static struct test_weight q3_k(const uint8_t *b, unsigned i)
{
    const uint8_t *mask = b, *codes = b + 32, *scales = b + 96;
    unsigned half = i / 128, j = i % 128 / 32, l = i % 32, g = i / 16;
    int code = (codes[32 * half + l] >> 2 * j & 3) - (mask[l] >> (4 * half + j) & 1 ? 0 : 4);
    int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
    int high = scales[8 + g % 4] >> 2 * (g / 4) & 3;
    return of(f16(b + 108) * (low + 16 * high - 32) * code, 0);
}

static void k4_scale(const uint8_t *s, unsigned j, int *scale, int *minimum)
{
    *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) + 16 * (s[j - 4] >> 6);
    *minimum = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) + 16 * (s[j] >> 6);
}

static struct test_weight q45_k(const uint8_t *b, unsigned i, const uint8_t *high, const uint8_t *low)
{
    unsigned j = i / 32, l = i % 32;
    int code = j % 2 ? low[32 * (j / 2) + l] >> 4 : low[32 * (j / 2) + l] & 15;
    if (high)
        code += 16 * (high[l] >> j & 1);
    int scale, minimum;
    k4_scale(b + 4, j, &scale, &minimum);
    return of(f16(b) * scale * code, -f16(b + 2) * minimum);
}

static struct test_weight q6_k(const uint8_t *b, unsigned i)
{
    unsigned half = i / 128, quarter = i % 128 / 32, l = i % 32;
    const uint8_t *ql = b + 64 * half, *qh = b + 128 + 32 * half;
    int low = quarter == 0   ? ql[l] & 15
              : quarter == 1 ? ql[l + 32] & 15
              : quarter == 2 ? ql[l] >> 4
                             : ql[l + 32] >> 4;
    int code = low + 16 * (qh[l] >> 2 * quarter & 3) - 32;
    return of(f16(b + 208) * (int8_t)b[192 + i / 16] * code, 0);
}

static struct test_weight iq4_xs(const uint8_t *b, unsigned i)
{
    unsigned part = i / 32, high_bits = b[2] | (unsigned)b[3] << 8;
    int scale = (b[4 + part / 2] >> 4 * (part % 2) & 15) + 16 * (high_bits >> 2 * part & 3) - 32;
    return of(f16(b) * scale * iq4[nibble(b + 8 + 16 * part, i % 32)], 0);
}

static struct test_weight mxfp4(const uint8_t *b, unsigned i)
{
    int code = nibble(b + 1, i);
    double magnitude = e2m1[code & 7];
    return of(ldexp(code & 8 ? -magnitude : magnitude, b[0] - 127), 0);
}

struct test_weight test_weight_of(enum lode_type type, const uint8_t *b, unsigned i)
{
    switch (type) {
    case LODE_F32:
        return of(f32(b), 0);
    case LODE_F16:
        return of(f16(b), 0);
    case LODE_BF16:
        return of(f32_of_bits((uint32_t)b[0] << 16 | (uint32_t)b[1] << 24), 0);
    case LODE_Q4_0:
        return of(f16(b) * (nibble(b + 2, i) - 8), 0);
    case LODE_Q4_1:
        return of(f16(b) * nibble(b + 4, i), f16(b + 2));
    case LODE_Q5_0:
        return of(f16(b) * (nibble(b + 6, i) + 16 * bit(b + 2, i) - 16), 0);
    case LODE_Q5_1:
        return of(f16(b) * (nibble(b + 8, i) + 16 * bit(b + 4, i)), f16(b + 2));
    case LODE_Q8_0:
        return of(f16(b) * (int8_t)b[2 + i], 0);
    case LODE_IQ4_NL:
        return of(f16(b) * iq4[nibble(b + 2, i)], 0);
    case LODE_Q2_K:
        return q2_k(b, i);
    case LODE_Q3_K:
        return q3_k(b, i);
    case LODE_Q4_K:
        return q45_k(b, i, NULL, b + 16);
    case LODE_Q5_K:
        return q45_k(b, i, b + 16, b + 48);
    case LODE_Q6_K:
        return q6_k(b, i);
    case LODE_IQ4_XS:
        return iq4_xs(b, i);
    case LODE_MXFP4:
        return mxfp4(b, i);
    default:
        abort();
    }
}

uint32_t test_random_u32(struct test_random *random) // splitmix64
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

float test_random_float(struct test_random *random)
{
    return (float)(int32_t)test_random_u32(random) * 0x1p-31f;
}

static void put_u16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

void test_set_scales(enum lode_type type, uint8_t *block, uint16_t half, uint8_t exponent)
{
    switch (type) {
    case LODE_MXFP4:
        block[0] = exponent;
        return;
    case LODE_Q4_1:
    case LODE_Q5_1:
    case LODE_Q4_K:
    case LODE_Q5_K:
        put_u16(block, half);
        put_u16(block + 2, half);
        return;
    case LODE_Q2_K:
        put_u16(block + 80, half);
        put_u16(block + 82, half);
        return;
    case LODE_Q3_K:
        put_u16(block + 108, half);
        return;
    case LODE_Q6_K:
        put_u16(block + 208, half);
        return;
    default:
        put_u16(block, half);
    }
}

// Magnitudes 2^-7 .. 2^0, either sign.
static uint16_t random_half(struct test_random *random)
{
    uint32_t bits = test_random_u32(random);
    return (uint16_t)((bits & 0x83ff) | (8 + (bits >> 16) % 8) << 10);
}

void test_random_block(struct test_random *random, enum lode_type type, uint8_t *block)
{
    if (type == LODE_F32) {
        float value = test_random_float(random);
        memcpy(block, &value, sizeof value);
        return;
    }
    if (type == LODE_BF16) {
        put_u16(block, (uint16_t)((test_random_u32(random) & 0x80ff) | 0x3f00));
        return;
    }
    for (unsigned i = 0; i < lode_type_find(type)->block_bytes; i++)
        block[i] = (uint8_t)test_random_u32(random);
    test_set_scales(type, block, random_half(random), (uint8_t)(120 + test_random_u32(random) % 8));
    if (type == LODE_Q4_1 || type == LODE_Q5_1 || type == LODE_Q4_K || type == LODE_Q5_K)
        put_u16(block + 2, random_half(random));
    if (type == LODE_Q2_K)
        put_u16(block + 82, random_half(random));
}

struct test_matrix test_matrix_make(struct test_random *random, enum lode_type type, uint32_t rows,
                                    uint32_t cols, size_t row_gap)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    size_t row_bytes = cols / traits->block_elems * traits->block_bytes;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), stride = row_bytes + row_gap;
    size_t used = (rows - 1) * stride + row_bytes + LODE_DEVICE_SLACK;
    size_t bytes = (used + page) / page * page;
    uint8_t *mapping = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping + bytes, page, PROT_NONE) != 0)
        abort();
    uint8_t *data = mapping + bytes - used;
    for (size_t i = 0; i < used; i++)
        data[i] = 0xff; // NaNs in gaps and slack: nothing of it may reach a result
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols / traits->block_elems; c++)
            test_random_block(random, type, data + r * stride + (size_t)c * traits->block_bytes);
    return (struct test_matrix){{data, type, rows, cols, stride, LODE_LAYOUT_FILE}, mapping, bytes + page};
}

void test_matrix_free(struct test_matrix *matrix)
{
    munmap(matrix->mapping, matrix->mapping_bytes);
}

uint8_t *test_matrix_row(const struct lode_matrix *matrix, uint32_t row)
{
    return (uint8_t *)(uintptr_t)matrix->data + row * matrix->row_bytes;
}

struct test_weight test_matrix_at(const struct lode_matrix *matrix, uint32_t row, uint32_t col)
{
    const struct lode_type_traits *traits = lode_type_find(matrix->type);
    const uint8_t *block =
        test_matrix_row(matrix, row) + (size_t)(col / traits->block_elems) * traits->block_bytes;
    return test_weight_of(matrix->type, block, col % traits->block_elems);
}
