// A GPU of malloc, for tests of placement: memory with a limit, uploads, and copies beside the operations
// that really happen later (or as early as they are allowed to), so that memory which is used again too soon
// shows.
#ifndef LODE_TEST_FAKE_GPU_H
#define LODE_TEST_FAKE_GPU_H

#include "backends/backend.h"

#include <stdbool.h>
#include <stdint.h>

#define FAKE_GPU_QUEUE 4096

// An operation that reads memory of the device: what it finds is the file's content from `offset` on.
struct fake_gpu_read {
    const unsigned char *data;
    uint64_t offset, bytes, await;
};

struct fake_gpu_copy {
    char *to;
    const char *from;
    uint64_t bytes, after;
};

struct fake_gpu {
    struct lode_device base;
    uint64_t limit_bytes, live_bytes, most_bytes;
    uint32_t n_allocs, n_live, n_pinned_live, n_uploads, n_copies_in, n_moves;
    uint32_t fail_alloc, fail_upload, fail_copy_in; // by number from 0; UINT32_MAX: never
    bool fail_pinned, fail_sync;
    bool eager; // copies happen as early as they may and operations late; else the other way round
    uint32_t polls;
    uint64_t await; // of the operations to come
    struct fake_gpu_read reads[FAKE_GPU_QUEUE];
    struct fake_gpu_copy copies[FAKE_GPU_QUEUE];
    uint64_t n_reads, reads_done, n_copies, copies_done;
};

void fake_gpu_init(struct fake_gpu *gpu, const char *name, uint64_t limit_bytes);
void fake_gpu_check_empty(const struct fake_gpu *gpu); // nothing of it is in use

// Queues an operation.
void fake_gpu_read(struct fake_gpu *gpu, const void *data, uint64_t offset, uint64_t bytes);

#endif
