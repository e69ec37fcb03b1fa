// The vector kernels in plain C, for any processor: vectors of four floats in the compilers' own notation,
// which become SSE2 or NEON where there is such a thing. See vector_body.h.
#include "backends/cpu/kv_q8_0.h"
#include "backends/cpu/vector.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

#define VECTOR_TABLE cpu_vector_portable
#define VF 4
#define TILE_SUMS 12
typedef float vf __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));

static inline vf v_load(const float *x)
{
    vf a;
    memcpy(&a, x, sizeof a);
    return a;
}

static inline void v_store(float *x, vf a)
{
    memcpy(x, &a, sizeof a);
}

static inline vf v_set1(float x)
{
    return (vf){x, x, x, x};
}

static inline vf v_add(vf a, vf b)
{
    return a + b;
}

static inline vf v_sub(vf a, vf b)
{
    return a - b;
}

static inline vf v_mul(vf a, vf b)
{
    return a * b;
}

static inline vf v_div(vf a, vf b)
{
    return a / b;
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

static inline vf v_fnma(vf a, vf b, vf c)
{
    return c - a * b;
}

static inline vf v_less(vf a, vf b, vf x, vf y)
{
    vu mask = (vu)(a < b);
    return (vf)(((vu)x & mask) | ((vu)y & ~mask));
}

static inline vf v_min(vf a, vf b)
{
    return v_less(a, b, a, b);
}

static inline vf v_max(vf a, vf b)
{
    return v_less(b, a, a, b);
}

static inline vf v_abs(vf a)
{
    return (vf)((vu)a & 0x7fffffffu);
}

static inline vf v_copysign(vf magnitude, vf sign)
{
    return (vf)((vu)magnitude | ((vu)sign & 0x80000000u)); // magnitude is not negative
}

static inline vf v_pow2_shifted(vf shifted)
{
    return (vf)(((vu)shifted << 23) + 0x3f800000u);
}

static inline float v_sum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}

static inline float v_max_lane(vf a)
{
    float low = a[0] > a[1] ? a[0] : a[1];
    float high = a[2] > a[3] ? a[2] : a[3];
    return low > high ? low : high;
}

static inline void v_sum4(float *out, vf a, vf b, vf c, vf d)
{
    out[0] = v_sum(a);
    out[1] = v_sum(b);
    out[2] = v_sum(c);
    out[3] = v_sum(d);
}

static inline float v_f16_scalar(uint16_t x)
{
    return lode_f16_to_f32(x);
}

// A half's bits 13 places higher are those of the float 2^-112 times as large, subnormal ones too.
static inline vf v_load_f16(const uint16_t *x)
{
    typedef uint16_t halves __attribute__((vector_size(8)));
    halves packed;
    memcpy(&packed, x, sizeof packed);
    vu half = __builtin_convertvector(packed, vu), size = half & 0x7fff, sign = (half & 0x8000) << 16;
    vu finite = (vu)((vf)(size << 13) * 0x1p112f), special = (size << 13) | 0x7f800000u;
    vu is_special = (vu)(size >= 0x7c00);
    return (vf)(sign | (special & is_special) | (finite & ~is_special));
}

static inline void v_store_f16(uint16_t *x, vf a)
{
    for (int i = 0; i < VF; i++)
        x[i] = lode_f32_to_f16(a[i]);
}

static inline vf v_load_i8(const int8_t *x)
{
    return (vf){x[0], x[1], x[2], x[3]};
}

static inline void v_store_i8(int8_t *x, vf a)
{
    for (int i = 0; i < VF; i++)
        x[i] = (int8_t)a[i];
}

#include "backends/cpu/vector_body.h"
