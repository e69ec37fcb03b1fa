// What a kernel must not do and the CPU stops at: accesses to memory that is not there (SIGSEGV, SIGBUS),
// integer divisions by zero (SIGFPE), traps (SIGILL, SIGTRAP). In a thread that executes a kernel they end
// the kernel; anywhere else they go where they would have gone.
#ifndef LODE_SIMT_TRAP_H
#define LODE_SIMT_TRAP_H

#include <stddef.h>

// The handler is there from the first open to the last close.
void trap_open();
void trap_close();

// The stack on which the calling thread handles signals; ended before the memory goes.
void trap_thread_begin(void *stack, size_t bytes);
void trap_thread_end();

#endif
