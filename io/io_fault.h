// A double for tests: reads as the engines do, except where a script says that something goes wrong.
//
// It stands between an engine and the files (io_open_hooked, or io_open_with for threads alone), so the
// faults pass through the real threads, rings, queues and retries. What a struck read has put into its buffer
// is overwritten, so that nobody can take it for content.
#ifndef LODE_IO_FAULT_H
#define LODE_IO_FAULT_H

#include "io/io_internal.h"

enum io_fault_kind {
    IO_FAULT_ERROR, // fails with error_number (EINTR too)
    IO_FAULT_SHORT, // reads no more than short_bytes; 0 as at the end of a file
    IO_FAULT_DELAY, // reads after delay_ns
    IO_FAULT_HOLD,  // does not return before io_fault_release, then reads: a read that never comes back
};

#define IO_FAULT_ALWAYS UINT64_MAX

// Strikes reads that touch the bytes from `offset` to before `end` of a file; end 0 means all reads. Of those
// the first `skip` are spared and the next `times` are struck; reads count again when they are tried again.
// Direct reads touch whole blocks.
struct io_fault_rule {
    enum io_fault_kind kind;
    uint64_t offset, end;
    uint64_t skip, times;
    int error_number;
    size_t short_bytes;
    int64_t delay_ns;
    const char *path; // NULL: reads of all files; else of this one alone
};

#define IO_FAULT_MAX_RULES 16

struct io_fault;

// The rules are copied; the first that strikes a read decides. At most IO_FAULT_MAX_RULES. Files that rules
// name must exist.
int io_fault_new(struct io_fault **out, const struct io_fault_rule *rules, uint32_t n_rules,
                 struct lode_error *error);
void io_fault_free(struct io_fault *fault); // after io_close

// For io_open_hooked: both engines.
struct io_hooks io_fault_hooks(struct io_fault *fault);

// An io_read_fn; `user` is the struct io_fault.
int64_t io_fault_read(void *user, int fd, void *buffer, size_t length, uint64_t offset);

void io_fault_wait_until_held(struct io_fault *fault, uint32_t n_reads);
void io_fault_release(struct io_fault *fault); // what is held, and all that would be; io_close waits for them

uint64_t io_fault_read_count(struct io_fault *fault);
uint32_t io_fault_most_reads_at_once(struct io_fault *fault);

// The offset that the n-th read started at, for the first IO_FAULT_LOG_READS; UINT64_MAX for reads that there
// were not.
#define IO_FAULT_LOG_READS 4096
uint64_t io_fault_started_at(struct io_fault *fault, uint64_t n);

#endif
