// What waits, what is in flight and what has ended: the part of an engine that does not depend on how it
// reads.
//
// One lock guards all of it. The caller's thread takes it to submit and to reap, an engine to start a piece
// and to end one, which is about twice for a MiB. Unless it is said otherwise, functions here are called with
// the lock held.
#ifndef LODE_IO_QUEUE_H
#define LODE_IO_QUEUE_H

#include "io/io_job.h"

#include <pthread.h>

struct io_queue {
    pthread_mutex_t lock;
    pthread_cond_t enough; // the reaping thread has what it waits for, or should look again
    struct io_files *files;
    struct io_job_list queued[IO_PRIORITIES];
    struct io_job_list ended;
    uint32_t n_ended, n_wanted; // n_wanted: what the reaping thread waits for, 0 when nobody waits
    uint32_t n_in_flight, n_prefetch_in_flight;
    bool closing; // what is queued will not be read
    char *bounces;
    size_t bounces_bytes;
    struct io_counters counters;
    uint64_t busy_since_ns;
    const uint64_t *virtual_now_ns; // of an engine in virtual time; NULL: the machine's clock
    struct lode_timeline *timeline; // NULL: nothing is told
    uint32_t timeline_lane;
};

// Without the lock. `files` must outlive the queue.
int io_queue_open(struct io_queue **out, struct io_files *files, uint32_t queue_depth,
                  struct lode_error *error);
void io_queue_close(struct io_queue *queue);

void io_queue_add(struct io_queue *queue, struct io_job *job);

// Starts the next piece, to be read as piece->read says. `slot` numbers the reads in flight, from 0 to before
// the queue depth. False when there is none to start now.
bool io_queue_start(struct io_queue *queue, struct io_piece *out, uint32_t slot);
bool io_queue_can_start(const struct io_queue *queue);

// After io_piece_take: true when the piece is to be read again, as piece->read now says; else it has ended.
bool io_queue_continue(struct io_queue *queue, struct io_piece *piece);

void io_queue_promote(struct io_queue *queue, struct io_job *job, enum io_priority priority);
void io_queue_cancel(struct io_queue *queue, struct io_job *job);

// Waits until the reaping thread should look again. False when the deadline (CLOCK_MONOTONIC; < 0: none) has
// passed.
bool io_queue_wait(struct io_queue *queue, int64_t deadline_ns);

void io_queue_count(const struct io_queue *queue, struct io_counters *out);

#endif
