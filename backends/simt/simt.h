// What backends/gpu/gpu.h promises to kernels, for their execution on the CPU (LODE_GPU_SIMT): one block
// after another, the threads of a block as fibres that give way only where they wait for each other. So a
// block's order is the same every time, and what needs a barrier and has none shows.
//
// This is no fast way to compute: it proves kernels and the schedule around them where there is no GPU.
#ifndef LODE_SIMT_H
#define LODE_SIMT_H

#include "base/half.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Kernels say "#pragma unroll", which is nvcc's and clang's.
#if defined __clang__
#pragma clang diagnostic ignored "-Wpass-failed"
#elif defined __GNUC__
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

typedef struct simt_stream *gpu_stream;
typedef struct simt_event *gpu_event;

#define GPU_KERNEL
#define GPU_FN inline __attribute__((always_inline, unused))
#define GPU_BLOCK(threads)
#define GPU_CONSTANT __attribute__((unused)) static const

// ---- vectors that CUDA and HIP share

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define SIMT_VECTORS(type, name)                                                                             \
    struct alignas(2 * sizeof(type)) name##2                                                                 \
    {                                                                                                        \
        type x, y;                                                                                           \
    };                                                                                                       \
    struct alignas(4 * sizeof(type)) name##4                                                                 \
    {                                                                                                        \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    GPU_FN name##2 make_##name##2(type x, type y)                                                            \
    {                                                                                                        \
        return {x, y};                                                                                       \
    }                                                                                                        \
    GPU_FN name##4 make_##name##4(type x, type y, type z, type w)                                            \
    {                                                                                                        \
        return {x, y, z, w};                                                                                 \
    }
SIMT_VECTORS(float, float)
SIMT_VECTORS(int, int)
SIMT_VECTORS(unsigned, uint)
SIMT_VECTORS(short, short)
SIMT_VECTORS(unsigned short, ushort)
SIMT_VECTORS(signed char, char)
SIMT_VECTORS(unsigned char, uchar)
#undef SIMT_VECTORS

template <typename T> GPU_FN T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T> GPU_FN T max(T a, T b)
{
    return a < b ? b : a;
}
GPU_FN float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

// ---- threads

// Threads at most in a block, and bytes of its shared memory, as every GPU has them.
#define SIMT_THREADS 1024
#define SIMT_SHARED_BYTES (48 * 1024)

// Where all threads of a block are.
struct simt_place {
    uint3 block;
    dim3 threads, blocks;
};

// 32 threads that exchange values. A thread can be one exchange ahead of others that have not read the last
// one yet, so there are two sets of slots.
struct simt_group {
    alignas(64) unsigned char slots[2][32 * 32];
    uint32_t ready;   // bit i: thread i can run
    uint32_t arrived; // threads that wait at the exchange
    uint32_t meeting; // which kind of exchange that is
};

struct simt_lane {
    uint3 thread;
    uint32_t index; // in the group
    struct simt_group *group;
    const struct simt_place *place;
    struct fibre *fibre; // that it has begun on; NULL: it has not
    uint32_t exchanges;  // it has come to
    uint32_t n_shared;   // arrays of shared memory it has declared
    uint32_t waits;      // where; SIMT_RUNS: nowhere
};

// The thread of a block that the calling thread of the CPU executes.
extern __thread struct simt_lane *simt_now __attribute__((visibility("hidden"), tls_model("initial-exec")));

#define threadIdx (const_cast<const struct simt_lane *>(simt_now)->thread)
#define blockIdx (simt_now->place->block)
#define blockDim (simt_now->place->threads)
#define gridDim (simt_now->place->blocks)

// What a thread waits at. An exchange adds the bytes of its values, so that two different ones are told
// apart.
enum simt_meeting { SIMT_RUNS, SIMT_BARRIER, SIMT_SYNC_LANES, SIMT_MMA, SIMT_SHUFFLE = 16 };

void simt_meet_block();
void simt_meet_lanes(uint32_t meeting);
// The same memory in all threads of the block: number n_shared of its arrays. name is a constant.
void *simt_shared(size_t bytes, const char *name);

#define GPU_SHARED(type, name, count)                                                                        \
    type(&name)[count] = *static_cast<type(*)[count]>(simt_shared(sizeof(type[count]), #name))

GPU_FN void __syncthreads()
{
    simt_meet_block();
}

GPU_FN void gpu_sync_lanes()
{
    simt_meet_lanes(SIMT_SYNC_LANES);
}

GPU_FN unsigned char *simt_slots()
{
    return simt_now->group->slots[simt_now->exchanges++ & 1];
}

template <typename T> GPU_FN T gpu_shuffle(T value, unsigned lane)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    unsigned char *slots = simt_slots();
    memcpy(slots + simt_now->index * sizeof(T), &value, sizeof(T));
    simt_meet_lanes(SIMT_SHUFFLE + sizeof(T));
    memcpy(&value, slots + lane % 32 * sizeof(T), sizeof(T));
    return value;
}

template <typename T> GPU_FN T gpu_shuffle_xor(T value, unsigned mask)
{
    return gpu_shuffle(value, simt_now->index ^ mask);
}

GPU_FN int gpu_dot4(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8)
        c += static_cast<int>(static_cast<int8_t>(a >> i)) * static_cast<int8_t>(b >> i);
    return c;
}

GPU_FN float gpu_half_to_float(uint16_t bits)
{
    return lode_f16_to_f32(bits);
}
GPU_FN uint16_t gpu_float_to_half(float value)
{
    return lode_f32_to_f16(value);
}

// See gpu.h. Thread l holds, with g = l / 4 and t = l % 4: of A (16 x 32) row g in a[0], a[2] and row g + 8
// in a[1], a[3], columns 4t.. in a[0], a[1] and 16 + 4t.. in a[2], a[3]; of B (32 x 8) column g, rows 4t.. in
// b[0] and 16 + 4t.. in b[1]; of D (16 x 8) columns 2t, 2t + 1 of row g in d[0], d[1] and of row g + 8 in
// d[2], d[3].
GPU_FN void gpu_mma_s8_16x8x32(int d[4], const int a[4], const int b[2])
{
    int(*slots)[8] = reinterpret_cast<int(*)[8]>(simt_slots());
    memcpy(slots[simt_now->index], a, 4 * sizeof(int));
    memcpy(slots[simt_now->index] + 4, b, 2 * sizeof(int));
    simt_meet_lanes(SIMT_MMA);
    const unsigned g = simt_now->index / 4, t = simt_now->index % 4;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned column = 2 * t + (i & 1);
        for (unsigned k = 0; k < 4; k++)
            for (unsigned half = 0; half < 2; half++)
                d[i] = gpu_dot4(slots[4 * g + k][i / 2 + 2 * half], slots[4 * column + k][4 + half], d[i]);
    }
}

// ---- launches

// Bytes of a kernel's arguments at most.
#define SIMT_ARGUMENTS 1024

// Puts a kernel into the stream's queue: run(arguments) is called in each thread. `pointers`: those among the
// arguments, to be checked; name is a constant. Waits while the queue is full.
void simt_launch_run(gpu_stream stream, const char *name, void (*run)(const void *arguments), dim3 grid,
                     dim3 block, const void *arguments, size_t bytes, const void *const *pointers,
                     uint32_t n_pointers);

template <typename... Types> struct simt_arguments {
};
template <typename First, typename... Rest> struct simt_arguments<First, Rest...> {
    First first;
    simt_arguments<Rest...> rest;
    simt_arguments(First first, Rest... rest) : first(first), rest(rest...) {}
};

template <typename... Types> struct simt_kernel {
    void (*kernel)(Types...);
    simt_arguments<Types...> arguments;

    template <typename... Done>
    GPU_FN static void call(void (*kernel)(Types...), const simt_arguments<> &, Done... done)
    {
        kernel(done...);
    }
    template <typename First, typename... Rest, typename... Done>
    GPU_FN static void call(void (*kernel)(Types...), const simt_arguments<First, Rest...> &arguments,
                            Done... done)
    {
        call(kernel, arguments.rest, done..., arguments.first);
    }
    static void run(const void *memory)
    {
        const simt_kernel *self = static_cast<const simt_kernel *>(memory);
        call(self->kernel, self->arguments);
    }
};

template <typename T> GPU_FN void simt_note_pointer(const void **, uint32_t &, const T &) {}
template <typename T> GPU_FN void simt_note_pointer(const void **pointers, uint32_t &n, T *const &pointer)
{
    pointers[n++] = pointer;
}
template <typename... Types>
GPU_FN void simt_note_pointers(const void **pointers, uint32_t &n, const simt_arguments<Types...> &)
{
    (void)pointers, (void)n;
}
template <typename First, typename... Rest>
GPU_FN void simt_note_pointers(const void **pointers, uint32_t &n,
                               const simt_arguments<First, Rest...> &arguments)
{
    simt_note_pointer(pointers, n, arguments.first);
    simt_note_pointers(pointers, n, arguments.rest);
}

template <typename... Types, typename... Given>
void simt_launch(const char *name, void (*kernel)(Types...), dim3 grid, dim3 block, gpu_stream stream,
                 Given... given)
{
    static_assert(sizeof...(Types) == sizeof...(Given), "a kernel's arguments");
    static_assert(sizeof(simt_kernel<Types...>) <= SIMT_ARGUMENTS, "a kernel's arguments are too large");
    static_assert(__is_trivially_copyable(simt_kernel<Types...>), "a kernel's arguments are copied as bytes");
    simt_kernel<Types...> packet = {kernel, simt_arguments<Types...>(static_cast<Types>(given)...)};
    const void *pointers[sizeof...(Types) + 1];
    uint32_t n_pointers = 0;
    simt_note_pointers(pointers, n_pointers, packet.arguments);
    simt_launch_run(stream, name, simt_kernel<Types...>::run, grid, block, &packet, sizeof packet, pointers,
                    n_pointers);
}

#define GPU_LAUNCH(kernel, grid, block, stream, ...)                                                         \
    simt_launch(#kernel, kernel, dim3(grid), dim3(block), stream, ##__VA_ARGS__)

#endif
