// The vector kernels, written once: a vector_<isa>.c defines the layer below and includes this file, which
// ends in the table named by VECTOR_TABLE. No include guard: it is the body of those files, not a header of
// anything else.
//
// The layer: `vf`, a vector of VF floats (4, 8 or 16), and
//   v_load, v_store, v_set1, v_add, v_sub, v_mul, v_div, v_abs
//   v_fma(a, b, c) = a b + c         v_fnma(a, b, c) = c - a b
//   v_min(a, b), v_max(a, b)         which give b when either is NaN, as minps and maxps do
//   v_less(a, b, x, y) = a < b ? x : y
//   v_copysign(magnitude, sign)
//   v_pow2_shifted(n + 0x1.8p23) = 2^n for whole n in -126 .. 127
//   v_sum, v_max_lane                one float from all lanes
//   v_sum4(out, a, b, c, d)          four sums
//   v_load_f16, v_store_f16, v_load_i8, v_store_i8 (of whole numbers within -127 .. 127)
// and TILE_SUMS, how many sums stay in the registers beside what they are made of (12 or 24).

#ifndef ALWAYS_INLINE
#define ALWAYS_INLINE inline __attribute__((always_inline))
#endif

#define ROUND_SHIFT 0x1.8p23f // added to |x| < 2^22 it leaves round(x), ties to even, in the low bits

static inline vf v_load_n(const float *x, size_t n)
{
    if (n >= VF)
        return v_load(x);
    float part[VF] = {0};
    memcpy(part, x, n * sizeof *x);
    return v_load(part);
}

static inline void v_store_n(float *x, vf value, size_t n)
{
    if (n >= VF) {
        v_store(x, value);
        return;
    }
    float part[VF];
    v_store(part, value);
    memcpy(x, part, n * sizeof *x);
}

// e^x: 2^n e^r with |r| <= ln 2 / 2, where the Taylor sum to r^7 is exact to 5e-9. Within 1 ulp or so of the
// true value; 0 below -87 (true: under 1.7e-38), limited to e^88 above, NaN for NaN.
static inline vf v_exp(vf x)
{
    vf bounded = v_min(v_set1(88.0f), v_max(v_set1(-87.0f), x));
    vf shifted = v_fma(bounded, v_set1(0x1.715476p0f), v_set1(ROUND_SHIFT));
    vf n = v_sub(shifted, v_set1(ROUND_SHIFT));
    vf r = v_fnma(n, v_set1(0.693359375f), bounded); // ln 2 in two parts: n times the first is exact
    r = v_fnma(n, v_set1(-2.12194440e-4f), r);
    vf sum = v_fma(r, v_set1(1.0f / 5040), v_set1(1.0f / 720));
    sum = v_fma(r, sum, v_set1(1.0f / 120));
    sum = v_fma(r, sum, v_set1(1.0f / 24));
    sum = v_fma(r, sum, v_set1(1.0f / 6));
    sum = v_fma(r, sum, v_set1(0.5f));
    sum = v_fma(v_mul(r, r), sum, v_add(r, v_set1(1.0f)));
    return v_less(x, v_set1(-87.0f), v_set1(0.0f), v_mul(sum, v_pow2_shifted(shifted)));
}

// tanh: near 0 an odd polynomial (coefficients of Cephes' tanhf), where 1 - 2 / (e^2x + 1) would cancel.
static inline vf v_tanh(vf x)
{
    vf size = v_abs(x);
    vf z = v_mul(x, x);
    vf p = v_fma(z, v_set1(-5.70498872745e-3f), v_set1(2.06390887954e-2f));
    p = v_fma(z, p, v_set1(-5.37397155531e-2f));
    p = v_fma(z, p, v_set1(1.33314422036e-1f));
    p = v_fma(z, p, v_set1(-3.33332819422e-1f));
    vf near = v_fma(v_mul(z, p), x, x);
    vf power = v_exp(v_add(size, size));
    vf far = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(power, v_set1(1.0f))));
    return v_less(size, v_set1(0.625f), near, v_copysign(far, x));
}

// x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3): the right side does not cancel.
static inline vf v_gelu_tanh(vf x)
{
    vf slope = v_fma(v_mul(x, x), v_set1(-0.07135481627f), v_set1(-1.59576912161f));
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_mul(x, slope))));
}

// Lanes sum 512 values in f32 and their sums meet in double: the error stays near one rounding for any n.
static double sum_squares(const float *x, size_t n)
{
    double total = 0;
    for (size_t begin = 0; begin < n; begin += 512) {
        size_t end = n - begin < 512 ? n : begin + 512, i = begin;
        vf a = v_set1(0), b = a, c = a, d = a;
        for (; i + 4 * VF <= end; i += 4 * VF) {
            vf x0 = v_load(x + i), x1 = v_load(x + i + VF), x2 = v_load(x + i + 2 * VF),
               x3 = v_load(x + i + 3 * VF);
            a = v_fma(x0, x0, a);
            b = v_fma(x1, x1, b);
            c = v_fma(x2, x2, c);
            d = v_fma(x3, x3, d);
        }
        for (; i < end; i += VF) {
            vf x0 = v_load_n(x + i, end - i);
            a = v_fma(x0, x0, a);
        }
        total += (double)v_sum(v_add(v_add(a, b), v_add(c, d)));
    }
    return total;
}

static float max_of(const float *x, size_t n)
{
    vf lanes = v_set1(x[0]);
    size_t i = 0;
    for (; i + VF <= n; i += VF)
        lanes = v_max(lanes, v_load(x + i));
    float max = v_max_lane(lanes);
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static double exp_sum(float *out, const float *x, float max, size_t n)
{
    vf lanes = v_set1(0);
    size_t i = 0;
    for (; i + VF <= n; i += VF) {
        vf power = v_exp(v_sub(v_load(x + i), v_set1(max)));
        v_store(out + i, power);
        lanes = v_add(lanes, power);
    }
    double sum = (double)v_sum(lanes);
    if (i < n) {
        v_store_n(out + i, v_exp(v_sub(v_load_n(x + i, n - i), v_set1(max))), n - i);
        for (; i < n; i++)
            sum += (double)out[i];
    }
    return sum;
}

static void scale_weighted(float *out, const float *x, float factor, const float *weight, size_t n)
{
    vf f = v_set1(factor);
    for (size_t i = 0; i < n; i += VF) {
        vf y = v_mul(v_load_n(x + i, n - i), f);
        if (weight)
            y = v_mul(y, v_load_n(weight + i, n - i));
        v_store_n(out + i, y, n - i);
    }
}

static void add_weighted(float *residual, const float *x, float factor, const float *weight, float scale,
                         size_t n)
{
    vf f = v_set1(factor), s = v_set1(scale);
    for (size_t i = 0; i < n; i += VF) {
        vf y = v_mul(v_load_n(x + i, n - i), f);
        vf w = weight ? v_load_n(weight + i, n - i) : v_set1(1.0f);
        v_store_n(residual + i, v_mul(v_fma(y, w, v_load_n(residual + i, n - i)), s), n - i);
    }
}

static void add(float *out, const float *a, const float *b, float scale, size_t n)
{
    vf s = v_set1(scale);
    for (size_t i = 0; i < n; i += VF)
        v_store_n(out + i, v_mul(v_add(v_load_n(a + i, n - i), v_load_n(b + i, n - i)), s), n - i);
}

static void geglu(float *out, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i += VF)
        v_store_n(out + i, v_mul(v_gelu_tanh(v_load_n(gate + i, n - i)), v_load_n(up + i, n - i)), n - i);
}

static void softcap(float *x, float cap, size_t n)
{
    vf c = v_set1(cap);
    for (size_t i = 0; i < n; i += VF)
        v_store_n(x + i, v_mul(c, v_tanh(v_div(v_load_n(x + i, n - i), c))), n - i);
}

// A row whose weight is 0 is not read: it may never have been written.
static void weighted_sum(float *out, const float *rows, size_t stride, const float *weights, size_t k,
                         size_t n)
{
    for (size_t i = 0; i < n; i += VF) {
        vf sum = v_set1(0);
        for (size_t r = 0; r < k; r++)
            if (weights[r] != 0)
                sum = v_fma(v_set1(weights[r]), v_load_n(rows + r * stride + i, n - i), sum);
        v_store_n(out + i, sum, n - i);
    }
}

static void rotate(float *x, const float *cosine, const float *sine, size_t half)
{
    for (size_t i = 0; i < half; i += VF) {
        size_t left = half - i;
        vf a = v_load_n(x + i, left), b = v_load_n(x + half + i, left);
        vf c = v_load_n(cosine + i, left), s = v_load_n(sine + i, left);
        v_store_n(x + i, v_fnma(b, s, v_mul(a, c)), left);
        v_store_n(x + half + i, v_fma(a, s, v_mul(b, c)), left);
    }
}

#include "backends/cpu/vector_attention.h"

const struct cpu_vector_kernels VECTOR_TABLE = {
    .sum_squares = sum_squares,
    .max = max_of,
    .exp_sum = exp_sum,
    .scale_weighted = scale_weighted,
    .add_weighted = add_weighted,
    .add = add,
    .geglu = geglu,
    .softcap = softcap,
    .weighted_sum = weighted_sum,
    .rotate = rotate,
    .kv_pack =
        {[LODE_CACHE_F16] = kv_pack_f16, [LODE_CACHE_Q8_0] = kv_pack_q8_0, [LODE_CACHE_F32] = kv_pack_f32},
    .dot_tile =
        {[LODE_CACHE_F16] = dot_tile_f16, [LODE_CACHE_Q8_0] = dot_tile_q8_0, [LODE_CACHE_F32] = dot_tile_f32},
    .sum_tile =
        {[LODE_CACHE_F16] = sum_tile_f16, [LODE_CACHE_Q8_0] = sum_tile_q8_0, [LODE_CACHE_F32] = sum_tile_f32},
    .soften = soften,
    .join = join,
};
