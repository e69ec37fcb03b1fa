// Queues of work of a simulated device, each worked by a thread of its own in the order of the calls, and the
// events that order them.
//
// Commands lie in a ring: a launch copies its arguments there and takes no memory. Who finds the ring full
// waits.
#ifndef LODE_SIMT_STREAM_H
#define LODE_SIMT_STREAM_H

#include "backends/simt/memory.h"
#include "backends/simt/runner.h"

#include "backends/gpu/runtime.h"

#define SIMT_QUEUE 256 // commands

// The way between host and device. Both directions work at once; what goes the same way shares it.
struct simt_link {
    pthread_mutex_t lock;
    double gbps;         // 0: no limit
    uint64_t latency_ns; // of each copy
    uint64_t free_at_ns[2];
};

struct gpu_context {
    char name[16];
    uint32_t index;
    struct simt_memory memory;
    struct simt_link link;
    pthread_mutex_t streams_lock;
    struct simt_stream *streams;
    pthread_mutex_t fault_lock;
    struct lode_error fault; // filled once, before faulted is set
    bool faulted;            // atomic
};

// The first fault stays.
void simt_context_fail(struct gpu_context *context, const char *text);
bool simt_context_faulted(const struct gpu_context *context);

struct simt_event {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t owners; // the one who opened it, and commands in queues
    bool timed;
    uint64_t recorded, done; // records that were asked for and that have come
    uint64_t time_ns;        // of the last one
};

struct simt_event *simt_event_open(bool timed);
void simt_event_release(struct simt_event *event);
void simt_event_wait_for(struct simt_event *event, uint64_t record);

enum simt_command_kind { SIMT_LAUNCH, SIMT_COPY, SIMT_ZERO, SIMT_RECORD, SIMT_ORDER };

struct simt_command {
    enum simt_command_kind kind;
    // launch
    const char *name;
    void (*run)(const void *arguments);
    dim3 grid, block;
    // copy, zero
    void *to;
    const void *from;
    size_t bytes;
    enum gpu_copy_kind copy;
    // record, order
    struct simt_event *event;
    uint64_t record;
    alignas(16) unsigned char arguments[SIMT_ARGUMENTS];
};

struct simt_stream {
    struct gpu_context *context;
    struct simt_stream *next; // of the context
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t given_more, done_more;
    uint64_t given, done; // commands
    uint64_t wake_at;     // the least `done` that somebody waits for
    bool sleeps, closing;
    int began; // 0: not yet, 1: the thread works, -1: it had no memory
    struct simt_command ring[SIMT_QUEUE];
};

int simt_stream_open(struct gpu_context *context, struct simt_stream **out, struct lode_error *error);
// After all of its work.
void simt_stream_close(struct simt_stream *stream);
void simt_stream_wait(struct simt_stream *stream);

// The next free place of the ring, whose arguments are not initialised; simt_stream_give hands it over. The
// stream is locked between the two.
struct simt_command *simt_stream_take(struct simt_stream *stream, enum simt_command_kind kind);
void simt_stream_give(struct simt_stream *stream);

#endif
