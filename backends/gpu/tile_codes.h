// Weights of every quantised type as a tile takes them: 32 weights of a row ("part") become eight words of
// signed bytes in the order of the columns, and one or two scales and minimums.
//
// A tile's threads fetch pieces so small (one to three words for eight weights) that neighbouring threads
// read neighbouring bytes and that a thread can hold its pieces of the next step in registers while it
// computes with this one. So fetching and decoding are two functions. Types whose parts share bytes (the
// K-quants with codes of 2 to 6 bits) give four weights of one part and four of the next from one piece.
//
// Addresses: rows start at multiples of gpu_type<T>::align, which divides the bytes of a block (MXFP4: any).
// Words that are fetched whole may end up to 7 bytes behind the last block.
#ifndef LODE_GPU_TILE_CODES_H
#define LODE_GPU_TILE_CODES_H

#include "backends/gpu/unpack.h"

#include <string.h>

// What a thread fetches of a type. words: of codes, for 8 weights; scale_words: for the scales of a part;
// scales: of a part, 1 or 2 (a scale for 16); minimums: of a part, 0, 1 or 2; pairs: pieces span two parts.
template <int TYPE> struct gpu_tile_type;
#define GPU_TILE_TYPE(type, words_, scale_words_, scales_, minimums_, pairs_)                                \
    template <> struct gpu_tile_type<type> {                                                                 \
        static constexpr int words = words_, scale_words = scale_words_, scales = scales_,                   \
                             minimums = minimums_;                                                           \
        static constexpr bool pairs = pairs_;                                                                \
    }
GPU_TILE_TYPE(LODE_Q4_0, 1, 1, 1, 0, false);
GPU_TILE_TYPE(LODE_Q4_1, 1, 1, 1, 1, false);
GPU_TILE_TYPE(LODE_Q5_0, 2, 1, 1, 0, false);
GPU_TILE_TYPE(LODE_Q5_1, 2, 1, 1, 1, false);
GPU_TILE_TYPE(LODE_Q8_0, 2, 1, 1, 0, false);
GPU_TILE_TYPE(LODE_Q2_K, 1, 2, 2, 2, true);
GPU_TILE_TYPE(LODE_Q3_K, 2, 3, 2, 0, true);
GPU_TILE_TYPE(LODE_Q4_K, 1, 4, 1, 1, true);
GPU_TILE_TYPE(LODE_Q5_K, 2, 4, 1, 1, true);
GPU_TILE_TYPE(LODE_Q6_K, 3, 2, 2, 0, true);
GPU_TILE_TYPE(LODE_IQ4_NL, 1, 1, 1, 0, false);
GPU_TILE_TYPE(LODE_IQ4_XS, 1, 2, 1, 0, false);
GPU_TILE_TYPE(LODE_MXFP4, 1, 1, 1, 0, false);
#undef GPU_TILE_TYPE

GPU_FN float gpu_tile_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Four bytes at an address that is a multiple of ALIGN.
template <unsigned ALIGN> GPU_FN uint32_t gpu_tile_word(const uint8_t *address)
{
    if constexpr (ALIGN >= 4) {
        return *reinterpret_cast<const uint32_t *>(address);
    } else if constexpr (ALIGN == 2) {
        return gpu_load_u16x2(address);
    } else {
        const uintptr_t at = reinterpret_cast<uintptr_t>(address);
        const uint32_t *words = reinterpret_cast<const uint32_t *>(at & ~static_cast<uintptr_t>(3));
        const uint64_t both = words[0] | static_cast<uint64_t>(words[1]) << 32;
        return static_cast<uint32_t>(both >> 8 * (at & 3));
    }
}

GPU_FN uint32_t gpu_tile_u16(const uint8_t *address)
{
    return *reinterpret_cast<const uint16_t *>(address);
}

// ---- codes

// Bytes 0x00 .. 0x7f minus `offset` (the same in all four).
GPU_FN uint32_t gpu_tile_subtract(uint32_t codes, uint32_t offset)
{
    return ((codes | 0x80808080u) - offset) ^ 0x80808080u;
}

// Bits 0..3 as bit 4 of the four bytes.
GPU_FN uint32_t gpu_tile_fifth_bits(uint32_t bits)
{
    return ((bits & 15) * 0x00204081u & 0x01010101u) << 4;
}

// What four-bit codes stand for, 16 signed bytes, from the table of the type.
template <int TYPE> GPU_FN uint32_t gpu_tile_table(unsigned word)
{
    if constexpr (TYPE == LODE_MXFP4)
        return word == 0 ? 0x03020100u : word == 1 ? 0x0c080604u : word == 2 ? 0xfdfeff00u : 0xf4f8fafcu;
    else
        return word == 0 ? 0xbfad9881u : word == 1 ? 0xf6eaddcfu : word == 2 ? 0x26190d01u : 0x71594535u;
}

// The values of the low and of the high nibbles of four bytes.
template <int TYPE> GPU_FN void gpu_tile_look_up(uint32_t *low, uint32_t *high, uint32_t codes)
{
    const uint32_t t0 = gpu_tile_table<TYPE>(0), t1 = gpu_tile_table<TYPE>(1), t2 = gpu_tile_table<TYPE>(2),
                   t3 = gpu_tile_table<TYPE>(3);
#if defined LODE_GPU_CUDA
    // A permutation's selectors are nibbles: bits 0..2 of the codes pick from each half of the table, then
    // bit 3 picks the half. The low and high nibbles of two bytes come interleaved.
    const uint32_t which = codes & 0x77777777u, half = (codes & 0x88888888u) >> 1;
    const uint32_t first =
        __byte_perm(__byte_perm(t0, t1, which), __byte_perm(t2, t3, which), 0x3210u | (half & 0xffffu));
    const uint32_t second =
        __byte_perm(__byte_perm(t0, t1, which >> 16), __byte_perm(t2, t3, which >> 16), 0x3210u | half >> 16);
    *low = __byte_perm(first, second, 0x6420u);
    *high = __byte_perm(first, second, 0x7531u);
#elif defined LODE_GPU_HIP
    // Here they are bytes.
    const uint32_t nibbles[2] = {codes & 0x0f0f0f0fu, codes >> 4 & 0x0f0f0f0fu};
    uint32_t values[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t which = nibbles[i] & 0x07070707u;
        values[i] =
            __builtin_amdgcn_perm(__builtin_amdgcn_perm(t3, t2, which), __builtin_amdgcn_perm(t1, t0, which),
                                  0x03020100u | (nibbles[i] & 0x08080808u) >> 1);
    }
    *low = values[0];
    *high = values[1];
#else
    const uint32_t table[4] = {t0, t1, t2, t3};
    *low = *high = 0;
    for (int i = 0; i < 32; i += 8) {
        const uint32_t l = codes >> i & 15, h = codes >> (i + 4) & 15;
        *low |= (table[l / 4] >> 8 * (l % 4) & 255) << i;
        *high |= (table[h / 4] >> 8 * (h % 4) & 255) << i;
    }
#endif
}

// Fetches piece number `piece` from part `part` of a block. With pairs, part is even and the piece is one of
// 0..7: weights 4 piece .. 4 piece + 3 of this part and of the next. Else it is one of 0..3: weights 4 piece
// .. and 16 + 4 piece .. of this part.
template <int TYPE>
GPU_FN void gpu_tile_fetch(uint32_t *words, const uint8_t *block, uint32_t part, uint32_t piece)
{
    constexpr unsigned ALIGN = gpu_type<TYPE>::align;
    const uint8_t *at = block + 4 * piece;
    if constexpr (TYPE == LODE_Q4_0 || TYPE == LODE_IQ4_NL) {
        words[0] = gpu_tile_word<ALIGN>(at + 2);
    } else if constexpr (TYPE == LODE_Q4_1) {
        words[0] = gpu_tile_word<ALIGN>(at + 4);
    } else if constexpr (TYPE == LODE_MXFP4) {
        words[0] = gpu_tile_word<ALIGN>(at + 1);
    } else if constexpr (TYPE == LODE_Q5_0) {
        words[0] = gpu_tile_word<ALIGN>(at + 6);
        words[1] = gpu_tile_word<ALIGN>(block + 2);
    } else if constexpr (TYPE == LODE_Q5_1) {
        words[0] = gpu_tile_word<ALIGN>(at + 8);
        words[1] = gpu_tile_word<ALIGN>(block + 4);
    } else if constexpr (TYPE == LODE_Q8_0) {
        words[0] = gpu_tile_word<ALIGN>(at + 2);
        words[1] = gpu_tile_word<ALIGN>(at + 18);
    } else if constexpr (TYPE == LODE_IQ4_XS) {
        words[0] = gpu_tile_word<ALIGN>(at + 8 + 16 * part);
    } else if constexpr (TYPE == LODE_Q2_K) {
        words[0] = gpu_tile_word<ALIGN>(at + 16 + 32 * (part / 4));
    } else if constexpr (TYPE == LODE_Q3_K) {
        words[0] = gpu_tile_word<ALIGN>(at + 32 + 32 * (part / 4));
        words[1] = gpu_tile_word<ALIGN>(at);
    } else if constexpr (TYPE == LODE_Q4_K) {
        words[0] = gpu_tile_word<ALIGN>(at + 16 + 32 * (part / 2));
    } else if constexpr (TYPE == LODE_Q5_K) {
        words[0] = gpu_tile_word<ALIGN>(at + 48 + 32 * (part / 2));
        words[1] = gpu_tile_word<ALIGN>(at + 16);
    } else {
        static_assert(TYPE == LODE_Q6_K, "a quantised type");
        words[0] = gpu_tile_word<ALIGN>(at + 64 * (part / 4));
        words[1] = gpu_tile_word<ALIGN>(at + 64 * (part / 4) + 32);
        words[2] = gpu_tile_word<ALIGN>(at + 128 + 32 * (part / 4));
    }
}

// The signed bytes of what was fetched: four weights each.
template <int TYPE>
GPU_FN void gpu_tile_decode(uint32_t *first, uint32_t *second, const uint32_t *words, uint32_t part,
                            uint32_t piece)
{
    const uint32_t low = words[0] & 0x0f0f0f0fu, high = words[0] >> 4 & 0x0f0f0f0fu;
    if constexpr (TYPE == LODE_Q4_0) {
        *first = gpu_tile_subtract(low, 0x08080808u);
        *second = gpu_tile_subtract(high, 0x08080808u);
    } else if constexpr (TYPE == LODE_Q4_1 || TYPE == LODE_Q4_K) {
        *first = low;
        *second = high;
    } else if constexpr (TYPE == LODE_IQ4_NL || TYPE == LODE_IQ4_XS || TYPE == LODE_MXFP4) {
        gpu_tile_look_up<TYPE>(first, second, words[0]);
    } else if constexpr (TYPE == LODE_Q5_0 || TYPE == LODE_Q5_1) {
        *first = low | gpu_tile_fifth_bits(words[1] >> 4 * piece);
        *second = high | gpu_tile_fifth_bits(words[1] >> (16 + 4 * piece));
        if constexpr (TYPE == LODE_Q5_0) {
            *first = gpu_tile_subtract(*first, 0x10101010u);
            *second = gpu_tile_subtract(*second, 0x10101010u);
        }
    } else if constexpr (TYPE == LODE_Q8_0) {
        *first = words[0];
        *second = words[1];
    } else if constexpr (TYPE == LODE_Q2_K) {
        *first = words[0] >> 2 * (part % 4) & 0x03030303u;
        *second = words[0] >> (2 * (part % 4) + 2) & 0x03030303u;
    } else if constexpr (TYPE == LODE_Q3_K) {
        const uint32_t mask = words[1] >> part;
        *first = gpu_tile_subtract((words[0] >> 2 * (part % 4) & 0x03030303u) | (mask & 0x01010101u) << 2,
                                   0x04040404u);
        *second = gpu_tile_subtract(
            (words[0] >> (2 * (part % 4) + 2) & 0x03030303u) | (mask & 0x02020202u) << 1, 0x04040404u);
    } else if constexpr (TYPE == LODE_Q5_K) {
        const uint32_t fifth = words[1] >> part;
        *first = low | (fifth & 0x01010101u) << 4;
        *second = high | (fifth & 0x02020202u) << 3;
    } else {
        // Quarters 0 and 1 of a half have the low nibbles of the two words, quarters 2 and 3 the high ones.
        const uint32_t shift = 2 * (part & 2), upper = words[2] >> 2 * (part % 4);
        *first =
            gpu_tile_subtract((words[0] >> shift & 0x0f0f0f0fu) | (upper & 0x03030303u) << 4, 0x20202020u);
        *second =
            gpu_tile_subtract((words[1] >> shift & 0x0f0f0f0fu) | (upper & 0x0c0c0c0cu) << 2, 0x20202020u);
    }
}

// ---- scales

template <int TYPE> GPU_FN void gpu_tile_fetch_scales(uint32_t *words, const uint8_t *block, uint32_t part)
{
    constexpr unsigned ALIGN = gpu_type<TYPE>::align;
    if constexpr (TYPE == LODE_MXFP4) {
        words[0] = block[0];
    } else if constexpr (TYPE == LODE_Q4_1 || TYPE == LODE_Q5_1) {
        words[0] = gpu_tile_word<ALIGN>(block);
    } else if constexpr (TYPE == LODE_Q2_K) {
        words[0] = gpu_tile_word<ALIGN>(block + 80);
        words[1] = gpu_tile_u16(block + 2 * part);
    } else if constexpr (TYPE == LODE_Q3_K) {
        words[0] = gpu_tile_u16(block + 108);
        words[1] = gpu_tile_u16(block + 96 + 2 * (part % 4));
        words[2] = gpu_tile_u16(block + 104 + 2 * (part % 2));
    } else if constexpr (TYPE == LODE_Q4_K || TYPE == LODE_Q5_K) {
        const uint4 head = *reinterpret_cast<const uint4 *>(block);
        words[0] = head.x;
        words[1] = head.y;
        words[2] = head.z;
        words[3] = head.w;
    } else if constexpr (TYPE == LODE_Q6_K) {
        words[0] = gpu_tile_u16(block + 208);
        words[1] = gpu_tile_u16(block + 192 + 2 * part);
    } else if constexpr (TYPE == LODE_IQ4_XS) {
        const uint2 head = *reinterpret_cast<const uint2 *>(block);
        words[0] = head.x;
        words[1] = head.y;
    } else {
        words[0] = gpu_tile_u16(block);
    }
}

GPU_FN float gpu_tile_half(uint32_t bits)
{
    return gpu_half_to_float(static_cast<uint16_t>(bits));
}

// weight = scales[half] * code + minimums[half], with one scale for both halves of the part where the type
// has one. All are exact in float.
template <int TYPE>
GPU_FN void gpu_tile_decode_scales(float *scales, float *minimums, const uint32_t *words, uint32_t part)
{
    if constexpr (TYPE == LODE_MXFP4) {
        // 2^(e - 128); the two smallest are denormal.
        scales[0] = gpu_tile_float(words[0] < 2 ? 0x00200000u << words[0] : (words[0] - 1) << 23);
    } else if constexpr (TYPE == LODE_Q4_1 || TYPE == LODE_Q5_1) {
        scales[0] = gpu_tile_half(words[0]);
        minimums[0] = gpu_tile_half(words[0] >> 16);
    } else if constexpr (TYPE == LODE_Q2_K) {
        const float d = gpu_tile_half(words[0]), m = -gpu_tile_half(words[0] >> 16);
        scales[0] = d * static_cast<float>(words[1] & 15);
        scales[1] = d * static_cast<float>(words[1] >> 8 & 15);
        minimums[0] = m * static_cast<float>(words[1] >> 4 & 15);
        minimums[1] = m * static_cast<float>(words[1] >> 12);
    } else if constexpr (TYPE == LODE_Q3_K) {
        const float d = gpu_tile_half(words[0]);
        const uint32_t low = words[1] >> (part < 4 ? 0 : 4), high = words[2] >> 2 * (part / 2);
#pragma unroll
        for (int half = 0; half < 2; half++)
            scales[half] =
                d * static_cast<float>(
                        static_cast<int>((low >> 8 * half & 15) | (high >> 8 * half & 3) << 4) - 32);
    } else if constexpr (TYPE == LODE_Q4_K || TYPE == LODE_Q5_K) {
        // Bytes j, j + 4 and j + 8 of the twelve.
        const uint32_t j = 8 * (part & 3);
        const uint32_t a = words[1] >> j & 255, b = words[2] >> j & 255, c = words[3] >> j & 255;
        const uint32_t scale = part < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
        const uint32_t minimum = part < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
        scales[0] = gpu_tile_half(words[0]) * static_cast<float>(scale);
        minimums[0] = -gpu_tile_half(words[0] >> 16) * static_cast<float>(minimum);
    } else if constexpr (TYPE == LODE_Q6_K) {
        const float d = gpu_tile_half(words[0]);
        scales[0] = d * static_cast<float>(static_cast<int8_t>(words[1]));
        scales[1] = d * static_cast<float>(static_cast<int8_t>(words[1] >> 8));
    } else if constexpr (TYPE == LODE_IQ4_XS) {
        const uint32_t low = words[1] >> 4 * part & 15, high = words[0] >> (16 + 2 * part) & 3;
        scales[0] = gpu_tile_half(words[0]) * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    } else {
        scales[0] = gpu_tile_half(words[0]);
    }
}

#endif
