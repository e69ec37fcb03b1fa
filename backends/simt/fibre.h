// A fibre: a stack of its own that is switched to and from by hand, within one thread of the CPU.
//
// On x86-64 a switch is a dozen instructions; elsewhere (or with SIMT_UCONTEXT) it is ucontext's, which asks
// the kernel for the signal mask each time. Sanitizers are told of every switch.
#ifndef LODE_SIMT_FIBRE_H
#define LODE_SIMT_FIBRE_H

#include <stddef.h>
#include <stdint.h>

#if !defined __x86_64__ && !defined SIMT_UCONTEXT
#define SIMT_UCONTEXT
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SIMT_ASAN
#endif
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SIMT_ASAN
#endif
#ifdef __SANITIZE_THREAD__
#define SIMT_TSAN
#endif

// Reserved for each; pages are taken as they are touched. The lower part cannot be touched.
#define FIBRE_SLOT_BYTES (256 * 1024)
#define FIBRE_GUARD_BYTES (64 * 1024)
#define FIBRE_STACK_BYTES (FIBRE_SLOT_BYTES - FIBRE_GUARD_BYTES)

struct simt_lane;

struct fibre {
    void *sp; // while it does not run
    char *stack;
    size_t stack_bytes;
    struct simt_lane *lane; // what it executes
#ifdef SIMT_UCONTEXT
    ucontext_t context;
#endif
    void *fake_stack; // of AddressSanitizer
    void *tsan;       // of ThreadSanitizer
};

// The fibre of the thread of the CPU itself.
void fibre_of_thread(struct fibre *out);

// entry(user) will run on `stack` at the first switch to it; it must not return. `colour` moves the begin of
// the stack a little: stacks that all begin at the same place of a page would share few lines of the cache.
void fibre_make(struct fibre *fibre, char *stack, size_t stack_bytes, uint32_t colour,
                void (*entry)(void *user), void *user);
// What stands on its stack is given up; it goes on at another place of it.
void fibre_clear(struct fibre *fibre);

// It has left, or what stands on its stack is given up.
void fibre_end(struct fibre *fibre);

// Returns when `from` is switched to again.
void fibre_switch(struct fibre *from, struct fibre *to);

// As a switch, for good.
[[noreturn]] void fibre_leave(struct fibre *from, struct fibre *to);

// What entry does first.
void fibre_begun(struct fibre *fibre);

#endif
