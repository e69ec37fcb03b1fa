// Weights of every quantised type in one common form, decoded by the lane that multiplies them: signed bytes
// for gpu_dot4 and a small integer scale and minimum for each run of 16.
//
// A lane takes a slice: 32 weights in two runs of 16 consecutive ones. Which 16 is the type's choice: those
// whose low bits lie in the same 16 bytes of the file, so that these are fetched once and neighbouring lanes
// fetch neighbouring bytes. Slice i of a row is one of the cols / 32; gpu_slice_run says where its runs
// are. Every run lies in one half of a block of 32 activations.
//
// Addresses: blocks lie at multiples of two bytes (MXFP4: of one). Words are fetched where they are aligned
// and shifted into place, which costs one fetch more and one instruction a word. ALIGNED promises that rows
// start at multiples of gpu_type<T>::align, as they do in files: then types whose blocks are whole words are
// fetched without that, up to 16 bytes at once. Up to 4 bytes behind a block are read, and up to 3 before it,
// of the same word.
#ifndef LODE_GPU_UNPACK_H
#define LODE_GPU_UNPACK_H

#include "backends/gpu/bytes.h"
#include "base/tensor_type.h"

#define GPU_SLICE 32

// Functions of the device that the host calls, too.
#if defined LODE_GPU_SIMT
#define GPU_BOTH inline
#else
#define GPU_BOTH __host__ __device__ inline
#endif

// Geometry of a type. align: what divides block_bytes, 16 at most. minimum: weights have an addend.
// run_scales: the runs of a slice may have different scales and minima. one_part: both runs lie in the same
// 32 consecutive weights, and so meet one scale of the activations.
template <int TYPE> struct gpu_type;
#define GPU_TYPE(type, elems, bytes, align_, quantised_, minimum_, run_scales_, one_part_)                   \
    template <> struct gpu_type<type> {                                                                      \
        static constexpr unsigned block_elems = elems, block_bytes = bytes, align = align_;                  \
        static constexpr bool quantised = quantised_, minimum = minimum_, run_scales = run_scales_,          \
                              one_part = one_part_;                                                          \
    }
GPU_TYPE(LODE_F32, 1, 4, 4, false, false, false, true);
GPU_TYPE(LODE_F16, 1, 2, 2, false, false, false, true);
GPU_TYPE(LODE_BF16, 1, 2, 2, false, false, false, true);
GPU_TYPE(LODE_Q4_0, 32, 18, 2, true, false, false, true);
GPU_TYPE(LODE_Q4_1, 32, 20, 4, true, true, false, true);
GPU_TYPE(LODE_Q5_0, 32, 22, 2, true, false, false, true);
GPU_TYPE(LODE_Q5_1, 32, 24, 8, true, true, false, true);
GPU_TYPE(LODE_Q8_0, 32, 34, 2, true, false, false, true);
GPU_TYPE(LODE_Q2_K, 256, 84, 4, true, true, true, false);
GPU_TYPE(LODE_Q3_K, 256, 110, 2, true, false, true, false);
GPU_TYPE(LODE_Q4_K, 256, 144, 16, true, true, true, false);
GPU_TYPE(LODE_Q5_K, 256, 176, 16, true, true, true, false);
GPU_TYPE(LODE_Q6_K, 256, 210, 2, true, false, true, false);
GPU_TYPE(LODE_IQ4_NL, 32, 18, 2, true, false, false, true);
GPU_TYPE(LODE_IQ4_XS, 256, 136, 8, true, false, false, true);
GPU_TYPE(LODE_MXFP4, 32, 17, 1, true, false, false, true);
#undef GPU_TYPE

// Weight number i of run r = d * scale[r] * code + m * minimum[r], where code is byte i of codes[4 r ..]. d *
// scale[r] and m * minimum[r] are exact in float. What a type does not have is the constant 1 or 0, and costs
// nothing.
struct gpu_slice {
    uint32_t codes[8]; // signed bytes
    float d, m;
    int scale[2], minimum[2]; // |scale| <= 128, 0 <= minimum <= 63
};

// Where run 0 or 1 of a slice starts, in weights from the start of the row: a multiple of 16. Run 1 is 16 (32
// for Q4_K and Q5_K, 64 for Q2_K, Q3_K and Q6_K) behind run 0.
template <int TYPE> GPU_FN unsigned gpu_slice_run(unsigned slice, unsigned run)
{
    if constexpr (TYPE == LODE_Q4_K || TYPE == LODE_Q5_K)
        return 64 * (slice / 2) + 16 * (slice % 2) + 32 * run;
    else if constexpr (TYPE == LODE_Q2_K || TYPE == LODE_Q3_K || TYPE == LODE_Q6_K)
        return 128 * (slice / 4) + 32 * (slice / 2 % 2) + 16 * (slice % 2) + 64 * run;
    else
        return 32 * slice + 16 * run;
}

// Whether a type is multiplied with quantised activations; F32, F16 and BF16 are with floats.
GPU_BOTH bool gpu_takes_codes(enum lode_type type)
{
    return type != LODE_F32 && type != LODE_F16 && type != LODE_BF16;
}

// ---- codes and scales

// What the nibbles of IQ4_NL and IQ4_XS, and of MXFP4 (doubled), stand for; see backends/cpu/unpack.c.
GPU_FN void gpu_look_up_iq4(uint32_t &low, uint32_t &high, uint32_t nibbles)
{
    gpu_look_up(low, high, nibbles, 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
}
GPU_FN void gpu_look_up_mxfp4(uint32_t &low, uint32_t &high, uint32_t nibbles)
{
    gpu_look_up(low, high, nibbles, 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu);
}

// 2^(exponent - 128); the two smallest are denormal.
GPU_FN float gpu_mxfp4_scale(uint32_t exponent)
{
    return gpu_bits_to_float(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
}

GPU_FN void gpu_set_scales(gpu_slice &out, int scale0, int scale1)
{
    out.scale[0] = scale0;
    out.scale[1] = scale1;
}

// Scales and minima of parts 2k and 2k + 1 of Q4_K and Q5_K, of the block's first four words. Bytes of the
// packed ones: parts 0 .. 3 have six bits in one byte; parts 4 .. 7 four bits, and two at the top of others.
GPU_FN void gpu_k4_scales(gpu_slice &out, const uint32_t (&head)[4], unsigned k)
{
    const unsigned shift = 16 * (k & 1);
    const uint32_t a = head[1] >> shift, b = head[2] >> shift, c = head[3] >> shift;
    const bool first = k < 2;
    const uint32_t scales = first ? a & 0x3f3f : (c & 0x0f0f) | (a & 0xc0c0) >> 2;
    const uint32_t minima = first ? b & 0x3f3f : (c >> 4 & 0x0f0f) | (b & 0xc0c0) >> 2;
    out.d = gpu_low_half(head[0]);
    out.m = -gpu_high_half(head[0]);
    gpu_set_scales(out, scales & 63, scales >> 8);
    out.minimum[0] = minima & 63;
    out.minimum[1] = minima >> 8;
}

// ---- slices

// What has been fetched of a slice. Which of it a type uses, its two functions know; the rest costs nothing.
struct gpu_fetched {
    uint32_t codes[9], high[5], head[5];
    uint32_t d;
    int small[3];
};

// Where slice i of a block has its codes: byte 16 i of them in most types.
template <int TYPE> GPU_FN const uint8_t *gpu_slice_codes(const uint8_t *block, unsigned i)
{
    if constexpr (TYPE == LODE_Q4_K)
        return block + 16 + 16 * i;
    else if constexpr (TYPE == LODE_Q5_K)
        return block + 48 + 16 * i;
    else if constexpr (TYPE == LODE_Q6_K)
        return block + 16 * i;
    else if constexpr (TYPE == LODE_Q2_K)
        return block + 16 + 32 * (i / 4) + 16 * (i % 2);
    else if constexpr (TYPE == LODE_Q3_K)
        return block + 32 + 32 * (i / 4) + 16 * (i % 2);
    else if constexpr (TYPE == LODE_IQ4_XS)
        return block + 8 + 16 * i;
    else
        return block;
}

// Where the bits are that Q3_K, Q5_K and Q6_K have above those.
template <int TYPE> GPU_FN const uint8_t *gpu_slice_high(const uint8_t *block, unsigned i)
{
    if constexpr (TYPE == LODE_Q5_K)
        return block + 16 + 16 * (i % 2);
    else if constexpr (TYPE == LODE_Q6_K)
        return block + 128 + 32 * (i / 4) + 16 * (i % 2);
    else
        return block + 16 * (i % 2);
}

template <int TYPE> GPU_FN const uint8_t *gpu_slice_block(const uint8_t *row, unsigned slice)
{
    constexpr unsigned per_block = gpu_type<TYPE>::block_elems / GPU_SLICE;
    return row + static_cast<size_t>(slice / per_block) * gpu_type<TYPE>::block_bytes;
}

GPU_FN uint32_t gpu_load_u16(const uint8_t *from)
{
    return *reinterpret_cast<const uint16_t *>(from);
}

// Fetches slice number `slice` of a row of a quantised type, and waits for nothing.
template <int TYPE, bool ALIGNED>
GPU_FN void gpu_slice_fetch(gpu_fetched &out, const uint8_t *row, unsigned slice)
{
    typedef gpu_type<TYPE> type;
    constexpr unsigned align = ALIGNED ? type::align : type::align < 2 ? type::align : 2;
    const uint8_t *block = gpu_slice_block<TYPE>(row, slice);
    if constexpr (type::block_elems == 32) {
        // All of it: whole words, or a head and whole words.
        gpu_fetch<type::block_bytes / 4, align>(out.codes, block);
        return;
    }
    const unsigned i = slice % 8;
    gpu_fetch<4, align>(out.codes, gpu_slice_codes<TYPE>(block, i));
    if constexpr (TYPE == LODE_Q3_K || TYPE == LODE_Q5_K || TYPE == LODE_Q6_K)
        gpu_fetch<4, align>(out.high, gpu_slice_high<TYPE>(block, i));
    if constexpr (TYPE == LODE_Q4_K || TYPE == LODE_Q5_K)
        gpu_fetch<4, align>(out.head, block);
    if constexpr (TYPE == LODE_IQ4_XS)
        gpu_fetch<2, align>(out.head, block);
    if constexpr (TYPE == LODE_Q2_K) {
        gpu_fetch<1, align>(out.head, block + 80);
        const uint8_t *scales = block + 8 * (i / 4) + i % 4;
        out.small[0] = scales[0];
        out.small[1] = scales[4];
    }
    if constexpr (TYPE == LODE_Q3_K) {
        const uint8_t *scales = block + 96 + i % 4;
        out.small[0] = scales[0];
        out.small[1] = scales[4];
        out.small[2] = scales[8];
        out.d = gpu_load_u16(block + 108);
    }
    if constexpr (TYPE == LODE_Q6_K) {
        const int8_t *scales = reinterpret_cast<const int8_t *>(block + 192 + 8 * (i / 4) + i % 4);
        out.small[0] = scales[0];
        out.small[1] = scales[4];
        out.d = gpu_load_u16(block + 208);
    }
}

// Types of 32 elements and of four or five bits. Byte j of the last 16 has element j in its low nibble and j
// + 16 in its high one.
template <int TYPE, bool ALIGNED>
GPU_FN void gpu_slice_decode_32(gpu_slice &out, const gpu_fetched &in, const uint8_t *block)
{
    uint32_t nibbles[4], fifth = 0;
    if constexpr (TYPE == LODE_Q4_1 || TYPE == LODE_Q5_1) {
        constexpr unsigned n = gpu_type<TYPE>::block_bytes / 4, align = ALIGNED ? gpu_type<TYPE>::align : 2;
        uint32_t words[n];
        gpu_shift<n, align>(words, in.codes, block);
        out.d = gpu_low_half(words[0]);
        out.m = gpu_high_half(words[0]);
        out.minimum[0] = out.minimum[1] = 1;
        fifth = words[1];
#pragma unroll
        for (unsigned w = 0; w < 4; w++)
            nibbles[w] = words[n - 4 + w];
    } else if constexpr (TYPE == LODE_Q5_0) {
        uint32_t words[5];
        out.d = gpu_low_half(gpu_shift_headed<2>(words, in.codes, block));
        fifth = words[0];
#pragma unroll
        for (unsigned w = 0; w < 4; w++)
            nibbles[w] = words[1 + w];
    } else if constexpr (TYPE == LODE_MXFP4) {
        out.d = gpu_mxfp4_scale(gpu_shift_headed<1>(nibbles, in.codes, block));
    } else {
        out.d = gpu_low_half(gpu_shift_headed<2>(nibbles, in.codes, block));
    }
#pragma unroll
    for (unsigned w = 0; w < 4; w++) {
        uint32_t &low = out.codes[w], &high = out.codes[4 + w];
        if constexpr (TYPE == LODE_IQ4_NL) {
            gpu_look_up_iq4(low, high, nibbles[w]);
        } else if constexpr (TYPE == LODE_MXFP4) {
            gpu_look_up_mxfp4(low, high, nibbles[w]);
        } else {
            low = nibbles[w] & 0x0f0f0f0fu;
            high = nibbles[w] >> 4 & 0x0f0f0f0fu;
            if constexpr (TYPE == LODE_Q5_0 || TYPE == LODE_Q5_1) {
                low |= gpu_fifth_bits(fifth >> 4 * w);
                high |= gpu_fifth_bits(fifth >> (16 + 4 * w));
            }
            if constexpr (TYPE == LODE_Q4_0 || TYPE == LODE_Q5_0) {
                low = gpu_bytes_minus < TYPE == LODE_Q4_0 ? 8 : 16 > (low);
                high = gpu_bytes_minus < TYPE == LODE_Q4_0 ? 8 : 16 > (high);
            }
        }
    }
}

// Slice i of a block of Q4_K or Q5_K: the low nibbles of its bytes belong to part 2 (i / 2), the high ones to
// the next. Bits of all parts share the bytes above.
template <int TYPE, bool ALIGNED>
GPU_FN void gpu_slice_decode_k4(gpu_slice &out, const gpu_fetched &in, const uint8_t *block, unsigned i)
{
    constexpr unsigned align = ALIGNED ? 16 : 2;
    uint32_t head[4], nibbles[4], fifth[4];
    gpu_shift<4, align>(nibbles, in.codes, gpu_slice_codes<TYPE>(block, i));
    gpu_shift<4, align>(head, in.head, block);
    if constexpr (TYPE == LODE_Q5_K)
        gpu_shift<4, align>(fifth, in.high, gpu_slice_high<TYPE>(block, i));
    const unsigned k = i / 2;
    gpu_k4_scales(out, head, k);
#pragma unroll
    for (unsigned w = 0; w < 4; w++) {
        out.codes[w] = nibbles[w] & 0x0f0f0f0fu;
        out.codes[4 + w] = nibbles[w] >> 4 & 0x0f0f0f0fu;
        if constexpr (TYPE == LODE_Q5_K) {
            const uint32_t bits = fifth[w] >> 2 * k;
            out.codes[w] |= (bits & 0x01010101u) << 4;
            out.codes[4 + w] |= (bits & 0x02020202u) << 3;
        }
    }
}

// Slice i of a block of Q6_K: in its half of the block (i / 4) the low nibbles belong to quarter q = i / 2 %
// 2, the high ones to quarter q + 2; two bits above each come from bytes that all quarters share.
GPU_FN void gpu_slice_decode_q6_k(gpu_slice &out, const gpu_fetched &in, const uint8_t *block, unsigned i)
{
    const unsigned q = i / 2 % 2;
    uint32_t low[4], high[4];
    gpu_shift<4, 2>(low, in.codes, gpu_slice_codes<LODE_Q6_K>(block, i));
    gpu_shift<4, 2>(high, in.high, gpu_slice_high<LODE_Q6_K>(block, i));
    gpu_set_scales(out, in.small[0], in.small[1]);
    out.d = gpu_low_half(in.d);
#pragma unroll
    for (unsigned w = 0; w < 4; w++) {
        const uint32_t bits = high[w] >> 2 * q;
        out.codes[w] = gpu_bytes_minus<32>((low[w] & 0x0f0f0f0fu) | (bits & 0x03030303u) << 4);
        out.codes[4 + w] = gpu_bytes_minus<32>((low[w] >> 4 & 0x0f0f0f0fu) | (bits & 0x30303030u));
    }
}

// Slice i of a block of Q2_K or Q3_K: in its half of the block (i / 4) parts q = i / 2 % 2 and q + 2, of 16
// bytes that hold two bits of all four parts.
template <bool ALIGNED>
GPU_FN void gpu_slice_decode_q2_k(gpu_slice &out, const gpu_fetched &in, const uint8_t *block, unsigned i)
{
    constexpr unsigned align = ALIGNED ? 4 : 2;
    const unsigned q = i / 2 % 2;
    uint32_t pairs[4], d[1];
    gpu_shift<4, align>(pairs, in.codes, gpu_slice_codes<LODE_Q2_K>(block, i));
    gpu_shift<1, align>(d, in.head, block + 80);
    out.d = gpu_low_half(d[0]);
    out.m = -gpu_high_half(d[0]);
    gpu_set_scales(out, in.small[0] & 15, in.small[1] & 15);
    out.minimum[0] = in.small[0] >> 4;
    out.minimum[1] = in.small[1] >> 4;
#pragma unroll
    for (unsigned w = 0; w < 4; w++) {
        const uint32_t bits = pairs[w] >> 2 * q;
        out.codes[w] = bits & 0x03030303u;
        out.codes[4 + w] = bits >> 4 & 0x03030303u;
    }
}

// Scale of group g of 16: four bits are in byte g % 8 of the packed ones, two more in byte 8 + g % 4.
GPU_FN void gpu_slice_decode_q3_k(gpu_slice &out, const gpu_fetched &in, const uint8_t *block, unsigned i)
{
    const unsigned half = i / 4, q = i / 2 % 2;
    uint32_t pairs[4], mask[4];
    gpu_shift<4, 2>(pairs, in.codes, gpu_slice_codes<LODE_Q3_K>(block, i));
    gpu_shift<4, 2>(mask, in.high, gpu_slice_high<LODE_Q3_K>(block, i));
    const int high = in.small[2] >> 4 * half;
    gpu_set_scales(out, ((in.small[0] >> 4 * half & 15) | (high & 3) << 4) - 32,
                   ((in.small[1] >> 4 * half & 15) | (high & 12) << 2) - 32);
    out.d = gpu_low_half(in.d);
#pragma unroll
    for (unsigned w = 0; w < 4; w++) {
        const uint32_t bits = pairs[w] >> 2 * q, third = mask[w] >> (4 * half + q);
        out.codes[w] = gpu_bytes_minus<4>((bits & 0x03030303u) | (third & 0x01010101u) << 2);
        out.codes[4 + w] = gpu_bytes_minus<4>((bits >> 4 & 0x03030303u) | (third & 0x04040404u));
    }
}

template <bool ALIGNED>
GPU_FN void gpu_slice_decode_iq4_xs(gpu_slice &out, const gpu_fetched &in, const uint8_t *block, unsigned i)
{
    constexpr unsigned align = ALIGNED ? 8 : 2;
    uint32_t head[2], nibbles[4];
    gpu_shift<4, align>(nibbles, in.codes, gpu_slice_codes<LODE_IQ4_XS>(block, i));
    gpu_shift<2, align>(head, in.head, block);
    const int scale = static_cast<int>((head[1] >> 4 * i & 15) | (head[0] >> (16 + 2 * i) & 3) << 4) - 32;
    out.d = gpu_low_half(head[0]);
    gpu_set_scales(out, scale, scale);
#pragma unroll
    for (unsigned w = 0; w < 4; w++)
        gpu_look_up_iq4(out.codes[w], out.codes[4 + w], nibbles[w]);
}

// What was fetched of slice number `slice` of a row, with the same arguments.
template <int TYPE, bool ALIGNED>
GPU_FN gpu_slice gpu_slice_decode(const gpu_fetched &in, const uint8_t *row, unsigned slice)
{
    gpu_slice out;
    out.m = 0;
    out.scale[0] = out.scale[1] = 1;
    out.minimum[0] = out.minimum[1] = 0;
    const uint8_t *block = gpu_slice_block<TYPE>(row, slice);
    const unsigned i = slice % 8;
    if constexpr (TYPE == LODE_Q8_0) {
        out.d = gpu_low_half(gpu_shift_headed<2>(out.codes, in.codes, block));
    } else if constexpr (gpu_type<TYPE>::block_elems == 32) {
        gpu_slice_decode_32<TYPE, ALIGNED>(out, in, block);
    } else if constexpr (TYPE == LODE_Q4_K || TYPE == LODE_Q5_K) {
        gpu_slice_decode_k4<TYPE, ALIGNED>(out, in, block, i);
    } else if constexpr (TYPE == LODE_Q6_K) {
        gpu_slice_decode_q6_k(out, in, block, i);
    } else if constexpr (TYPE == LODE_Q2_K) {
        gpu_slice_decode_q2_k<ALIGNED>(out, in, block, i);
    } else if constexpr (TYPE == LODE_Q3_K) {
        gpu_slice_decode_q3_k(out, in, block, i);
    } else {
        static_assert(TYPE == LODE_IQ4_XS, "a quantised type");
        gpu_slice_decode_iq4_xs<ALIGNED>(out, in, block, i);
    }
    return out;
}

// Both at once. To fill a tile: words 4 r .. 4 r + 3 of codes belong to weights gpu_slice_run<TYPE>(slice, r)
// .. + 15 of the row, and so do d * scale[r] and m * minimum[r]. Slices 8 b .. 8 b + 7 are weights 256 b ..
// 256 b + 255 of every type, in one slice for each 32 where one_part is true.
template <int TYPE, bool ALIGNED> GPU_FN gpu_slice gpu_slice_load(const uint8_t *row, unsigned slice)
{
    gpu_fetched fetched;
    gpu_slice_fetch<TYPE, ALIGNED>(fetched, row, slice);
    return gpu_slice_decode<TYPE, ALIGNED>(fetched, row, slice);
}

// Weight i of a row of F32, F16 or BF16.
template <int TYPE> GPU_FN float gpu_float_weight(const uint8_t *row, unsigned i)
{
    if constexpr (TYPE == LODE_F32)
        return reinterpret_cast<const float *>(row)[i];
    else if constexpr (TYPE == LODE_F16)
        return gpu_half_to_float(reinterpret_cast<const uint16_t *>(row)[i]);
    else
        return gpu_bits_to_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t *>(row)[i]) << 16);
}

// Whether rows start at multiples of `align` bytes.
GPU_BOTH bool gpu_rows_aligned(const void *data, size_t row_bytes, unsigned align)
{
    return (reinterpret_cast<uintptr_t>(data) | row_bytes) % align == 0;
}

#endif
