// What kernels are written in: the part of CUDA C++ that HIP shares, and names for where they differ. The
// same source is compiled by nvcc (LODE_GPU_CUDA), hipcc (LODE_GPU_HIP) and, to be executed on the CPU a
// block at a time, by any C++ compiler (LODE_GPU_SIMT, backends/simt/simt.h).
//
// Kernels use threadIdx, blockIdx, blockDim, gridDim (x, y, z), __syncthreads(), and what is named here; no
// other built-in. They are `GPU_KERNEL void name(...)`, may be templates, and are launched by GPU_LAUNCH.
//
// Lanes: kernels think in groups of 32 threads, whatever the hardware calls a warp (AMD's may have 64: then a
// group is half of one). gpu_shuffle* and gpu_sync_lanes are among the 32 threads of a group, all of which
// must come; a block has a multiple of 32 threads and kernels do not return early before the last of these.
#ifndef LODE_GPU_H
#define LODE_GPU_H

#include <stddef.h>
#include <stdint.h>

#define GPU_LANES 32

// What a device can do beside the minimum (gpu_context_features).
#define GPU_HAS_DOT4 1u   // gpu_dot4 is one instruction
#define GPU_HAS_MMA_S8 2u // gpu_mma_s8_16x8x32 is, on tensor cores (sm_80 and later)

#if defined LODE_GPU_CUDA
#include <cuda_fp16.h>
#include <cuda_runtime.h>
typedef cudaStream_t gpu_stream;
typedef cudaEvent_t gpu_event;
#elif defined LODE_GPU_HIP
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>
typedef hipStream_t gpu_stream;
typedef hipEvent_t gpu_event;
#elif defined LODE_GPU_SIMT
#include "backends/simt/simt.h"
#else
#error "one of LODE_GPU_CUDA, LODE_GPU_HIP, LODE_GPU_SIMT"
#endif

#if defined LODE_GPU_CUDA || defined LODE_GPU_HIP

#define GPU_KERNEL __global__
#define GPU_FN __device__ __forceinline__
// Threads of a block at most, so that the compiler knows how many registers each may have.
#define GPU_BLOCK(threads) __launch_bounds__(threads)
// Memory of the block: `count` (a constant) elements, not initialised. At the top of a kernel only.
#define GPU_SHARED(type, name, count) __shared__ __align__(16) type name[count]
// A table of constants at file scope.
#define GPU_CONSTANT static __device__ const

// gpu_launch(kernel<...>, grid, block, stream, arguments...); grid and block are dim3 or unsigned.
#define GPU_LAUNCH(kernel, grid, block, stream, ...) kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)

#if defined LODE_GPU_CUDA
template <typename T> GPU_FN T gpu_shuffle(T value, unsigned lane)
{
    return __shfl_sync(0xffffffffu, value, lane);
}
template <typename T> GPU_FN T gpu_shuffle_xor(T value, unsigned mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}
GPU_FN void gpu_sync_lanes()
{
    __syncwarp();
}
// c + the sum of the products of four pairs of signed bytes.
GPU_FN int gpu_dot4(int a, int b, int c)
{
    return __dp4a(a, b, c);
}
// d += a b of signed bytes, A 16 x 32 and B 32 x 8, by the 32 lanes of a group together. Lane l holds, with
// g = l / 4 and t = l % 4: of A, row g in a[0], a[2] and row g + 8 in a[1], a[3], columns 4t..4t+3 in a[0],
// a[1] and 16+4t.. in a[2], a[3]; of B, column g, rows 4t..4t+3 in b[0] and 16+4t.. in b[1]; of D (16 x 8),
// columns 2t, 2t+1 of row g in d[0], d[1] and of row g + 8 in d[2], d[3]. Only where the device has
// GPU_HAS_MMA_S8; there is none for HIP.
GPU_FN void gpu_mma_s8_16x8x32(int d[4], const int a[4], const int b[2])
{
#if __CUDA_ARCH__ >= 800
    // Not volatile: it does nothing but d, and the compiler may put it where it likes.
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap();
#endif
}
#else
template <typename T> GPU_FN T gpu_shuffle(T value, unsigned lane)
{
    return __shfl(value, static_cast<int>(lane), GPU_LANES);
}
template <typename T> GPU_FN T gpu_shuffle_xor(T value, unsigned mask)
{
    return __shfl_xor(value, static_cast<int>(mask), GPU_LANES);
}
// The lanes of a wavefront run in step; what they write to shared memory must only stay in order.
GPU_FN void gpu_sync_lanes()
{
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
GPU_FN int gpu_dot4(int a, int b, int c)
{
#if defined __gfx906__ || defined __gfx908__ || defined __gfx90a__ || defined __gfx1011__ ||                 \
    defined __gfx1012__ || defined __gfx1030__ || defined __gfx1031__ || defined __gfx1032__
    return __builtin_amdgcn_sdot4(a, b, c, false);
#elif defined __gfx1100__ || defined __gfx1101__ || defined __gfx1102__ || defined __gfx1200__ ||            \
    defined __gfx1201__
    return __builtin_amdgcn_sudot4(true, a, true, b, c, false);
#else
    // The compiler would take the bytes apart once for all their uses, for which no GPU has registers. What
    // looks new each time is multiplied as it is: an instruction takes any byte of a register.
#if defined __HIP_DEVICE_COMPILE__
    asm("" : "+v"(a), "+v"(b));
#endif
    for (int i = 0; i < 32; i += 8)
        c += static_cast<int>(static_cast<int8_t>(a >> i)) * static_cast<int8_t>(b >> i);
    return c;
#endif
}
#endif

GPU_FN float gpu_half_to_float(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}
GPU_FN uint16_t gpu_float_to_half(float value) // nearest, ties to even
{
    return __half_as_ushort(__float2half_rn(value));
}

#endif

// As GPU_BLOCK, with how many blocks a multiprocessor shall hold. nvcc guesses badly unless it is told; HIP
// means waves by such a number, and AMD's GPUs have more registers.
#if defined LODE_GPU_CUDA
#define GPU_BLOCKS(threads, blocks) __launch_bounds__(threads, blocks)
#else
#define GPU_BLOCKS(threads, blocks) GPU_BLOCK(threads)
#endif

// Sums and maxima of a group's 32 lanes, the same bits in all of them.
template <typename T> GPU_FN T gpu_lanes_sum(T value)
{
    for (unsigned mask = GPU_LANES / 2; mask; mask /= 2)
        value += gpu_shuffle_xor(value, mask);
    return value;
}
GPU_FN float gpu_lanes_max(float value)
{
    for (unsigned mask = GPU_LANES / 2; mask; mask /= 2) {
        const float other = gpu_shuffle_xor(value, mask);
        value = value > other ? value : other;
    }
    return value;
}

// A pointer that was read from memory, of which the compiler does not know that it is not one to shared
// memory: loads through it take one more step then.
GPU_FN const uint8_t *gpu_global(const void *memory)
{
#if defined LODE_GPU_CUDA
    __builtin_assume(__isGlobal(memory));
#elif defined LODE_GPU_HIP
    typedef const __attribute__((address_space(1))) uint8_t *global;
    return (const uint8_t *)(global) reinterpret_cast<uintptr_t>(memory);
#endif
    return static_cast<const uint8_t *>(memory);
}

// Words of memory that is aligned to two bytes, as most blocks of weights are, or not at all.
GPU_FN uint32_t gpu_load_u16x2(const void *memory)
{
    const uint16_t *halves = static_cast<const uint16_t *>(memory);
    return halves[0] | static_cast<uint32_t>(halves[1]) << 16;
}
GPU_FN uint32_t gpu_load_u8x4(const void *memory)
{
    const uint8_t *bytes = static_cast<const uint8_t *>(memory);
    return bytes[0] | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16 |
           static_cast<uint32_t>(bytes[3]) << 24;
}

#endif
