// Executes the blocks of kernels in one thread of the CPU: a runner belongs to a stream's thread.
//
// The threads of a block run one at a time, a group of 32 as far as it comes before the next, each until it
// waits. Every second block goes through its threads downwards. When nobody can run and not all have ended,
// or an access faults, or an array of shared memory was written beyond, the kernel is given up.
#ifndef LODE_SIMT_RUNNER_H
#define LODE_SIMT_RUNNER_H

#include "backends/simt/fibre.h"
#include "backends/simt/simt.h"

#include <signal.h>

#define SIMT_GROUPS (SIMT_THREADS / 32)
#define SIMT_ARRAYS 64    // of shared memory in a kernel at most
#define SIMT_RED_BYTES 64 // between them

// What shared memory holds before a block writes it: a NaN as float and as half, conspicuous as bytes.
#define SIMT_POISON 0x7fa1
#define SIMT_RED 0xfa7e

enum runner_fault {
    RUNNER_FINE,
    RUNNER_STUCK,        // some wait for others that never come
    RUNNER_ACCESS,       // address
    RUNNER_DIVISION,     // of an integer by zero
    RUNNER_TRAPPED,      // an instruction that is none, or one to stop at
    RUNNER_STACK,        // of a thread is full
    RUNNER_OVERRUN,      // array `array` of shared memory
    RUNNER_MEETING,      // threads of a group came to different exchanges
    RUNNER_SHARED_ORDER, // threads declared different shared memory
    RUNNER_SHARED_SIZE,  // too much of it
    RUNNER_MEMORY,       // of the host, for stacks
};

struct simt_array {
    const char *name;
    size_t bytes;
    char *at;
};

struct simt_runner {
    struct fibre main;
    struct simt_place place;
    void (*run)(const void *arguments);
    const void *arguments;

    uint32_t n_threads, n_ended, n_waiting; // at the barrier
    uint32_t group, ready_groups;           // the one that runs; bit g: group g has threads that can run
    bool downwards;

    // Shared memory between two pages that cannot be touched.
    char *arena;
    size_t arena_bytes, shared_bytes, shared_used;
    uint32_t n_arrays;
    struct simt_array arrays[SIMT_ARRAYS];

    char *stacks; // of all fibres, in order, each behind its guard
    uint32_t n_fibres, n_idle;
    struct fibre *idle[SIMT_THREADS];

    // What went wrong; filled by the signal's handler too.
    volatile sig_atomic_t in_kernel, fault;
    struct simt_lane *fault_lane;
    volatile uintptr_t address;
    volatile sig_atomic_t access; // 0: not known, 1: a read, 2: a write
    const char *array;

    struct simt_group groups[SIMT_GROUPS];
    struct simt_lane lanes[SIMT_THREADS];
    struct fibre fibres[SIMT_THREADS];
    char signal_stack[64 * 1024];
};

// A runner for the calling thread, NULL without memory; ended by the same thread.
struct simt_runner *runner_begin();
void runner_end(struct simt_runner *runner);

// Executes run(arguments) in all threads of one block. False when the kernel is to be given up: runner_tell
// says why, and the runner executes nothing more, for some of its fibres stand in the middle of a kernel.
bool runner_block(struct simt_runner *runner, const struct simt_place *place,
                  void (*run)(const void *arguments), const void *arguments, bool downwards);
void runner_tell(const struct simt_runner *runner, const char *kernel, char *out, size_t out_bytes);

// The runner of the calling thread; NULL: none.
struct simt_runner *runner_here();

// Leaves the block from within one of its threads. Does not return.
[[noreturn]] void runner_give_up();

#endif
