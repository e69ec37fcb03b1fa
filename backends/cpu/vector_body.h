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

static void weighted_sum(float *out, const float *rows, size_t stride, const float *weights, size_t k,
                         size_t n)
{
    for (size_t i = 0; i < n; i += VF) {
        vf sum = v_set1(0);
        for (size_t r = 0; r < k; r++)
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

// ---- rows of a KV cache
// --------------------------------------------------------------------------------------

static void kv_pack_f16(void *row, const float *x, size_t n)
{
    uint16_t *half = row;
    for (size_t i = 0; i < n; i += VF)
        v_store_f16(half + i, v_load(x + i));
}

static void kv_unpack_f16(float *out, size_t stride, const void *rows, size_t n_rows, size_t n)
{
    const uint16_t *half = rows;
    for (size_t r = 0; r < n_rows; r++, half += n, out += stride)
        for (size_t i = 0; i < n; i += VF)
            v_store(out + i, v_load_f16(half + i));
}

// Quantises with the scale as it is stored, so that its rounding to half costs nothing.
static void kv_pack_q8_0(void *row, const float *x, size_t n)
{
    struct cpu_kv_q8_0 *block = row;
    for (size_t b = 0; b < n / 32; b++, block++, x += 32) {
        vf lanes = v_set1(0);
        for (size_t i = 0; i < 32; i += VF)
            lanes = v_max(lanes, v_abs(v_load(x + i)));
        block->scale = lode_f32_to_f16(v_max_lane(lanes) / 127);
        float scale = lode_f16_to_f32(block->scale);
        vf inverse = v_set1(scale > 0 ? 1 / scale : 0);
        for (size_t i = 0; i < 32; i += VF) {
            vf q = v_mul(v_load(x + i), inverse);
            q = v_min(v_max(q, v_set1(-127)), v_set1(127));
            v_store_i8(block->values + i, v_sub(v_add(q, v_set1(ROUND_SHIFT)), v_set1(ROUND_SHIFT)));
        }
    }
}

static void kv_unpack_q8_0(float *out, size_t stride, const void *rows, size_t n_rows, size_t n)
{
    const struct cpu_kv_q8_0 *block = rows;
    for (size_t r = 0; r < n_rows; r++, out += stride)
        for (size_t i = 0; i < n; i += 32, block++) {
            vf scale = v_set1(v_f16_scalar(block->scale));
            for (size_t j = 0; j < 32; j += VF)
                v_store(out + i + j, v_mul(scale, v_load_i8(block->values + j)));
        }
}

static void kv_pack_f32(void *row, const float *x, size_t n)
{
    memcpy(row, x, n * sizeof *x);
}

static void kv_unpack_f32(float *out, size_t stride, const void *rows, size_t n_rows, size_t n)
{
    const float *row = rows;
    for (size_t r = 0; r < n_rows; r++, row += n, out += stride)
        memcpy(out, row, n * sizeof *row);
}

// ---- attention
// -----------------------------------------------------------------------------------------------

// Two queries on four keys: 8 sums hide the latency of FMA, and 6 loads feed 8 of them.
static inline void dot_2x4(float *scores, size_t score_stride, const float *q, size_t q_stride,
                           const float *k, size_t k_stride, size_t n)
{
    const float *q1 = q + q_stride, *k1 = k + k_stride, *k2 = k1 + k_stride, *k3 = k2 + k_stride;
    vf a0 = v_set1(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    for (size_t i = 0; i < n; i += VF) {
        vf a = v_load(q + i), b = v_load(q1 + i), key;
        key = v_load(k + i);
        a0 = v_fma(a, key, a0);
        b0 = v_fma(b, key, b0);
        key = v_load(k1 + i);
        a1 = v_fma(a, key, a1);
        b1 = v_fma(b, key, b1);
        key = v_load(k2 + i);
        a2 = v_fma(a, key, a2);
        b2 = v_fma(b, key, b2);
        key = v_load(k3 + i);
        a3 = v_fma(a, key, a3);
        b3 = v_fma(b, key, b3);
    }
    v_sum4(scores, a0, a1, a2, a3);
    v_sum4(scores + score_stride, b0, b1, b2, b3);
}

static inline void dot_1x4(float *scores, const float *q, const float *k, size_t k_stride, size_t n)
{
    const float *k1 = k + k_stride, *k2 = k1 + k_stride, *k3 = k2 + k_stride;
    vf a0 = v_set1(0), a1 = a0, a2 = a0, a3 = a0;
    for (size_t i = 0; i < n; i += VF) {
        vf a = v_load(q + i);
        a0 = v_fma(a, v_load(k + i), a0);
        a1 = v_fma(a, v_load(k1 + i), a1);
        a2 = v_fma(a, v_load(k2 + i), a2);
        a3 = v_fma(a, v_load(k3 + i), a3);
    }
    v_sum4(scores, a0, a1, a2, a3);
}

// Keys outside: four of them (8 KiB at 512 floats) stay in the first-level cache while the queries pass.
static void dot_tile(float *scores, size_t score_stride, const float *q, size_t q_stride, size_t n_q,
                     const float *k, size_t k_stride, size_t n_k, size_t n)
{
    for (size_t j = 0; j < n_k; j += 4) {
        const float *keys = k + j * k_stride;
        size_t i = 0;
        for (; i + 2 <= n_q; i += 2)
            dot_2x4(scores + i * score_stride + j, score_stride, q + i * q_stride, q_stride, keys, k_stride,
                    n);
        if (i < n_q)
            dot_1x4(scores + i * score_stride + j, q + i * q_stride, keys, k_stride, n);
    }
}

// Four vectors of the sums of two queries over all values: again 8 sums, and 6 loads for 8 FMAs.
static inline void sum_2x4(float *out, size_t out_stride, const float *decay, const float *p, size_t p_stride,
                           const float *v, size_t v_stride, size_t n_k)
{
    float *out1 = out + out_stride;
    vf da = v_set1(decay[0]), db = v_set1(decay[1]);
    vf a0 = v_mul(v_load(out), da), a1 = v_mul(v_load(out + VF), da);
    vf a2 = v_mul(v_load(out + 2 * VF), da), a3 = v_mul(v_load(out + 3 * VF), da);
    vf b0 = v_mul(v_load(out1), db), b1 = v_mul(v_load(out1 + VF), db);
    vf b2 = v_mul(v_load(out1 + 2 * VF), db), b3 = v_mul(v_load(out1 + 3 * VF), db);
    for (size_t j = 0; j < n_k; j++, v += v_stride) {
        vf pa = v_set1(p[j]), pb = v_set1(p[p_stride + j]), value;
        value = v_load(v);
        a0 = v_fma(pa, value, a0);
        b0 = v_fma(pb, value, b0);
        value = v_load(v + VF);
        a1 = v_fma(pa, value, a1);
        b1 = v_fma(pb, value, b1);
        value = v_load(v + 2 * VF);
        a2 = v_fma(pa, value, a2);
        b2 = v_fma(pb, value, b2);
        value = v_load(v + 3 * VF);
        a3 = v_fma(pa, value, a3);
        b3 = v_fma(pb, value, b3);
    }
    v_store(out, a0);
    v_store(out + VF, a1);
    v_store(out + 2 * VF, a2);
    v_store(out + 3 * VF, a3);
    v_store(out1, b0);
    v_store(out1 + VF, b1);
    v_store(out1 + 2 * VF, b2);
    v_store(out1 + 3 * VF, b3);
}

static inline void sum_1x1(float *out, float decay, const float *p, const float *v, size_t v_stride,
                           size_t n_k)
{
    vf sum = v_mul(v_load(out), v_set1(decay));
    for (size_t j = 0; j < n_k; j++)
        sum = v_fma(v_set1(p[j]), v_load(v + j * v_stride), sum);
    v_store(out, sum);
}

// Columns outside: 32 values of 4 vectors (4 KiB with AVX2) stay in the first-level cache while the queries
// pass.
static void sum_tile(float *out, size_t out_stride, const float *decay, const float *p, size_t p_stride,
                     size_t n_q, const float *v, size_t v_stride, size_t n_k, size_t n)
{
    for (size_t d = 0; d < n;) {
        bool wide = d + 4 * VF <= n;
        size_t i = 0;
        for (; wide && i + 2 <= n_q; i += 2)
            sum_2x4(out + i * out_stride + d, out_stride, decay + i, p + i * p_stride, p_stride, v + d,
                    v_stride, n_k);
        for (; i < n_q; i++)
            for (size_t e = d; e < d + (wide ? 4 * VF : VF); e += VF)
                sum_1x1(out + i * out_stride + e, decay[i], p + i * p_stride, v + e, v_stride, n_k);
        d += wide ? 4 * VF : VF;
    }
}

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
    .kv_unpack = {[LODE_CACHE_F16] = kv_unpack_f16,
                  [LODE_CACHE_Q8_0] = kv_unpack_q8_0,
                  [LODE_CACHE_F32] = kv_unpack_f32},
    .dot_tile = dot_tile,
    .sum_tile = sum_tile,
};
