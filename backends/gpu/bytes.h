// Bytes in kernels: words of memory that lies at any address, codes in the four bytes of a word, tables of
// sixteen bytes. Each is one or a few instructions on every GPU.
#ifndef LODE_GPU_BYTES_H
#define LODE_GPU_BYTES_H

#include "backends/gpu/gpu.h"

// Four bytes of the eight of low and high, from byte 0 .. 4 on: gpu_bytes_at(low, high,
// gpu_bytes_from(byte)). One instruction, with the byte known or not.
GPU_FN uint32_t gpu_bytes_from(unsigned byte)
{
#if defined LODE_GPU_CUDA
    return 0x3210 + 0x1111 * byte;
#elif defined LODE_GPU_HIP
    return 0x03020100 + 0x01010101 * byte;
#else
    return 8 * byte;
#endif
}
GPU_FN uint32_t gpu_bytes_at(uint32_t low, uint32_t high, uint32_t from)
{
#if defined LODE_GPU_CUDA
    return __byte_perm(low, high, from);
#elif defined LODE_GPU_HIP
    return __builtin_amdgcn_perm(high, low, from);
#else
    return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> from);
#endif
}

// Words of memory from an address that is a multiple of ALIGN: 1, 2, 4, 8 or 16, in two steps, so that all of
// a lane's fetches can be under way before the first is waited for. gpu_fetch fetches the N words, or those
// that have any of their bytes; what is not a whole number of the widest fetches is fetched in words.
// gpu_shift makes N words of them.
template <unsigned N, unsigned ALIGN> GPU_FN void gpu_fetch(uint32_t *out, const uint8_t *from)
{
    if constexpr (ALIGN == 16 && N % 4 == 0) {
#pragma unroll
        for (unsigned i = 0; i < N / 4; i++) {
            const uint4 four = reinterpret_cast<const uint4 *>(from)[i];
            out[4 * i] = four.x;
            out[4 * i + 1] = four.y;
            out[4 * i + 2] = four.z;
            out[4 * i + 3] = four.w;
        }
    } else if constexpr (ALIGN >= 8 && N % 2 == 0) {
#pragma unroll
        for (unsigned i = 0; i < N / 2; i++) {
            const uint2 two = reinterpret_cast<const uint2 *>(from)[i];
            out[2 * i] = two.x;
            out[2 * i + 1] = two.y;
        }
    } else if constexpr (ALIGN >= 4) {
#pragma unroll
        for (unsigned i = 0; i < N; i++)
            out[i] = reinterpret_cast<const uint32_t *>(from)[i];
    } else {
        const uint32_t *words =
            reinterpret_cast<const uint32_t *>(from - (reinterpret_cast<uintptr_t>(from) & 3));
#pragma unroll
        for (unsigned i = 0; i < N + 1; i++)
            out[i] = words[i];
    }
}
template <unsigned N, unsigned ALIGN>
GPU_FN void gpu_shift(uint32_t (&out)[N], const uint32_t *fetched, const uint8_t *from)
{
    const uint32_t shift = gpu_bytes_from(static_cast<unsigned>(reinterpret_cast<uintptr_t>(from) & 3));
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        out[i] = ALIGN < 4 ? gpu_bytes_at(fetched[i], fetched[i + (ALIGN < 4)], shift) : fetched[i];
}

// The same for a block that starts with a head of one or two bytes and is fetched from there on in N + 1
// words: makes N words of what is behind the head, and returns the head.
template <unsigned HEAD, unsigned N>
GPU_FN uint32_t gpu_shift_headed(uint32_t (&out)[N], const uint32_t *fetched, const uint8_t *from)
{
    const unsigned behind = static_cast<unsigned>(reinterpret_cast<uintptr_t>(from) & (HEAD == 1 ? 3 : 2));
    const uint32_t shift = gpu_bytes_from(behind + HEAD);
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        out[i] = gpu_bytes_at(fetched[i], fetched[i + 1], shift);
    return fetched[0] >> 8 * behind & ((1u << 8 * HEAD) - 1);
}

// ---- codes in bytes

// Four codes of up to seven bits, in bytes, minus OFFSET: no borrow passes from one byte to the next.
template <unsigned OFFSET> GPU_FN uint32_t gpu_bytes_minus(uint32_t codes)
{
    return (codes + 0x01010101u * (0x80 - OFFSET)) ^ 0x80808080u;
}

// Bits 0 .. 3, as bit 4 of bytes 0 .. 3. Bit i comes to 8 i + 4 through the multiplier's bit 7 i + 4, and no
// two partial products meet.
GPU_FN uint32_t gpu_fifth_bits(uint32_t bits)
{
    return (bits & 15) * 0x02040810u & 0x10101010u;
}

// The values of a table of 16 bytes, in words t0 .. t3, for the low and the high nibbles of four bytes.
GPU_FN void gpu_look_up(uint32_t &low, uint32_t &high, uint32_t nibbles, uint32_t t0, uint32_t t1,
                        uint32_t t2, uint32_t t3)
{
#if defined LODE_GPU_CUDA
    // Three bits of a nibble choose among eight bytes, and the fourth among two such answers. Each pass
    // answers four nibbles in their order; two more put the low and the high ones together.
    const uint32_t fourth = 0x32103210u | (nibbles & 0x88888888u) >> 1;
    const uint32_t first = __byte_perm(__byte_perm(t0, t1, nibbles), __byte_perm(t2, t3, nibbles), fourth);
    const uint32_t second =
        __byte_perm(__byte_perm(t0, t1, nibbles >> 16), __byte_perm(t2, t3, nibbles >> 16), fourth >> 16);
    low = __byte_perm(first, second, 0x6420);
    high = __byte_perm(first, second, 0x7531);
#elif defined LODE_GPU_HIP
    // The same with the four choices of an instruction in bytes.
    const uint32_t codes[2] = {nibbles & 0x0f0f0f0fu, nibbles >> 4 & 0x0f0f0f0fu};
    uint32_t values[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t three = codes[i] & 0x07070707u, fourth = (codes[i] >> 3 & 0x01010101u) * 0xff;
        values[i] = (__builtin_amdgcn_perm(t1, t0, three) & ~fourth) |
                    (__builtin_amdgcn_perm(t3, t2, three) & fourth);
    }
    low = values[0];
    high = values[1];
#else
    const uint32_t table[4] = {t0, t1, t2, t3};
    low = high = 0;
    for (unsigned i = 0; i < 32; i += 8) {
        const unsigned l = nibbles >> i & 15, h = nibbles >> (i + 4) & 15;
        low |= (table[l / 4] >> 8 * (l % 4) & 0xff) << i;
        high |= (table[h / 4] >> 8 * (h % 4) & 0xff) << i;
    }
#endif
}

// ---- numbers

GPU_FN float gpu_low_half(uint32_t word)
{
    return gpu_half_to_float(static_cast<uint16_t>(word));
}
GPU_FN float gpu_high_half(uint32_t word)
{
    return gpu_half_to_float(static_cast<uint16_t>(word >> 16));
}

GPU_FN float gpu_bits_to_float(uint32_t bits)
{
#if defined LODE_GPU_SIMT
    return lode_bits_to_f32(bits);
#else
    return __uint_as_float(bits);
#endif
}

#endif
