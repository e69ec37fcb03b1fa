#include "backends/simt/fibre.h"

#include <pthread.h>
#include <string.h>

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#ifndef SIMT_UCONTEXT

// simt_fibre_swap(where to keep the stack pointer, the other one). It ends in a return, not in a jump: fibres
// mostly wait at the same place, so that the processor's prediction of this and the next returns is right.
// simt_fibre_begin is where a fresh fibre comes out: entry in r13, user in r12.
extern "C" void simt_fibre_swap(void **keep, void *to) __attribute__((visibility("hidden")));
extern "C" void simt_fibre_begin() __attribute__((visibility("hidden")));
__asm__(".text\n"
        ".p2align 4\n"
        ".globl simt_fibre_swap\n"
        ".hidden simt_fibre_swap\n"
        ".type simt_fibre_swap, @function\n"
        "simt_fibre_swap:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    retq\n"
        ".size simt_fibre_swap, . - simt_fibre_swap\n"
        ".p2align 4\n"
        ".globl simt_fibre_begin\n"
        ".hidden simt_fibre_begin\n"
        ".type simt_fibre_begin, @function\n"
        "simt_fibre_begin:\n"
        "    movq %r12, %rdi\n"
        "    callq *%r13\n"
        "    ud2\n"
        ".size simt_fibre_begin, . - simt_fibre_begin\n");

static void make_frame(struct fibre *fibre, char *top, void (*entry)(void *user), void *user)
{
    // What the swap pops: r15, r14, r13, r12, rbx, rbp, the address. Then the stack is aligned to 16.
    void **frame = reinterpret_cast<void **>(top) - 9;
    memset(frame, 0, 8 * sizeof *frame);
    frame[2] = reinterpret_cast<void *>(entry);
    frame[3] = user;
    frame[6] = reinterpret_cast<void *>(simt_fibre_begin);
    fibre->sp = frame;
}

#else

static void begin(unsigned entry_high, unsigned entry_low, unsigned user_high, unsigned user_low)
{
    const uintptr_t entry = static_cast<uintptr_t>(static_cast<uint64_t>(entry_high) << 32 | entry_low);
    const uintptr_t user = static_cast<uintptr_t>(static_cast<uint64_t>(user_high) << 32 | user_low);
    reinterpret_cast<void (*)(void *)>(entry)(reinterpret_cast<void *>(user));
}

static void make_frame(struct fibre *fibre, char *top, void (*entry)(void *user), void *user)
{
    const uint64_t e = reinterpret_cast<uintptr_t>(entry), u = reinterpret_cast<uintptr_t>(user);
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = fibre->stack;
    fibre->context.uc_stack.ss_size = static_cast<size_t>(top - fibre->stack);
    fibre->context.uc_link = NULL;
    makecontext(&fibre->context, reinterpret_cast<void (*)()>(begin), 4, static_cast<unsigned>(e >> 32),
                static_cast<unsigned>(e), static_cast<unsigned>(u >> 32), static_cast<unsigned>(u));
}

#endif

void fibre_of_thread(struct fibre *out)
{
    memset(out, 0, sizeof *out);
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        void *stack;
        if (pthread_attr_getstack(&attributes, &stack, &out->stack_bytes) == 0)
            out->stack = static_cast<char *>(stack);
        pthread_attr_destroy(&attributes);
    }
#ifdef SIMT_TSAN
    out->tsan = __tsan_get_current_fiber();
#endif
}

void fibre_make(struct fibre *fibre, char *stack, size_t stack_bytes, uint32_t colour,
                void (*entry)(void *user), void *user)
{
    fibre->stack = stack;
    fibre->stack_bytes = stack_bytes;
    fibre->lane = NULL;
    fibre->fake_stack = NULL;
#ifdef SIMT_TSAN
    if (!fibre->tsan)
        fibre->tsan = __tsan_create_fiber(0);
#endif
    make_frame(fibre, stack + stack_bytes - colour % 32 * 576 - 64, entry, user);
}

void fibre_clear(struct fibre *fibre)
{
#ifdef SIMT_ASAN
    __asan_unpoison_memory_region(fibre->stack, fibre->stack_bytes);
#else
    (void)fibre;
#endif
}

void fibre_end(struct fibre *fibre)
{
#ifdef SIMT_TSAN
    if (fibre->tsan)
        __tsan_destroy_fiber(fibre->tsan);
    fibre->tsan = NULL;
#endif
    fibre_clear(fibre); // its memory may be mapped again
}

void fibre_begun(struct fibre *fibre)
{
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(fibre->fake_stack, NULL, NULL);
#else
    (void)fibre;
#endif
}

static inline void swap(struct fibre *from, struct fibre *to, void **fake_stack)
{
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(fake_stack, to->stack, to->stack_bytes);
#else
    (void)fake_stack;
#endif
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
#ifdef SIMT_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    simt_fibre_swap(&from->sp, to->sp);
#endif
}

void fibre_switch(struct fibre *from, struct fibre *to)
{
    swap(from, to, &from->fake_stack);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

[[noreturn]] void fibre_leave(struct fibre *from, struct fibre *to)
{
    swap(from, to, NULL);
    __builtin_unreachable();
}
