// Counts what a program asks of its allocator and of mmap while it is told to, in all threads, and remembers
// where the first came from. Included by one file of a test: it defines malloc and its kin for the whole
// program, the shared libraries in it included. Not for sanitized builds, whose allocator is in the way.
#ifndef LODE_TEST_ALLOCATION_HOOKS_H
#define LODE_TEST_ALLOCATION_HOOKS_H

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define HOOK_STACKS 4
#define HOOK_DEPTH 24

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *memory);

static struct {
    atomic_bool armed;
    atomic_size_t allocations, frees;
    atomic_uint n_stacks;
    void *stacks[HOOK_STACKS][HOOK_DEPTH];
    int depths[HOOK_STACKS];
} hooks;

static void hook_count(atomic_size_t *count)
{
    static _Thread_local bool inside; // a stack trace may allocate
    if (!hooks.armed || inside)
        return;
    inside = true;
    (*count)++;
    unsigned i = hooks.n_stacks++;
    if (i < HOOK_STACKS)
        hooks.depths[i] = backtrace(hooks.stacks[i], HOOK_DEPTH);
    inside = false;
}

void *malloc(size_t bytes)
{
    hook_count(&hooks.allocations);
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    hook_count(&hooks.allocations);
    return __libc_calloc(n, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    hook_count(&hooks.allocations);
    return __libc_realloc(memory, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    hook_count(&hooks.allocations);
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    hook_count(&hooks.allocations);
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    hook_count(&hooks.allocations);
    void *memory = __libc_memalign(alignment, bytes);
    if (!memory)
        return ENOMEM;
    *out = memory;
    return 0;
}

void free(void *memory)
{
    if (memory)
        hook_count(&hooks.frees);
    __libc_free(memory);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    static void *(*next)(void *, size_t, int, int, int, off_t);
    if (!next)
        next = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
    hook_count(&hooks.allocations);
    return next(address, bytes, protection, flags, fd, offset);
}

static void hooks_arm(void)
{
    void *stack[2];
    backtrace(stack, 2); // its first call loads a library
    hooks.allocations = hooks.frees = 0;
    hooks.n_stacks = 0;
    hooks.armed = true;
}

static void hooks_disarm(void)
{
    hooks.armed = false;
}

static void hooks_print_stacks(void)
{
    for (unsigned i = 0; i < hooks.n_stacks && i < HOOK_STACKS; i++) {
        fprintf(stderr, "allocated or freed at:\n");
        backtrace_symbols_fd(hooks.stacks[i], hooks.depths[i], STDERR_FILENO);
    }
}

#endif
