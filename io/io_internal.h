// Inside of the io room: what the common part (io.c) and the engines share.
//
// A job is a request on its way. The common part makes jobs, checks them and tells their outcome; an engine
// queues them, cuts them into pieces, reads the pieces and hands the finished jobs back. An engine goes on by
// itself, for the caller computes between submitting and reaping. How a job is cut and when a read is tried
// again is written once, in io_job.c, so that every engine treats faults alike.
#ifndef LODE_IO_INTERNAL_H
#define LODE_IO_INTERNAL_H

#include "io/io.h"

struct io_job {
    struct io_request request;
    int fd;
    struct io_job *previous, *next;                 // in one list of the engine or of the common part
    struct io_job *pending_previous, *pending_next; // among all that were submitted and not reaped
    size_t piece_bytes;
    size_t claimed_bytes; // handed out as pieces so far
    uint32_t pieces_in_flight;
    bool withdrawn;        // the common part's: cancelled, and out of the engine
    enum io_status status; // the engine's until it hands the job back
    int error_number;      // of the first piece that failed; 0 when the file ended early
    uint64_t fault_offset; // where in the file that piece could not go on
};

struct io_piece {
    struct io_job *job;
    uint64_t offset; // in the file; this, length and buffer move on as parts of the piece arrive
    size_t length;
    char *buffer;
    bool retried;
    int error_number;
};

struct io_job_list {
    struct io_job *first, *last;
};

void io_job_list_append(struct io_job_list *list, struct io_job *job);
void io_job_list_remove(struct io_job_list *list, struct io_job *job);
struct io_job *io_job_list_take(struct io_job_list *list); // NULL when it is empty

void io_job_init(struct io_job *job, const struct io_request *request, int fd, uint32_t queue_depth);

// True while a part of the job has not been handed out.
bool io_job_has_more(const struct io_job *job);

// Hands out the next piece; only while io_job_has_more.
void io_job_claim(struct io_job *job, struct io_piece *out);

// Takes the result of a read of a piece: bytes read, or minus an errno. True when the piece, which is now
// what remains of it, has to be read again. Touches nothing but the piece.
bool io_piece_continues(struct io_piece *piece, int64_t result);

// Counts a piece that has ended. After a failure the rest of the job need not be read: the engine asks
// io_job_has_more before and after to know whether to take it out of its queue. True when the job is over.
bool io_job_end_piece(struct io_job *job, const struct io_piece *piece);

struct io_engine;

struct io_engine_ops {
    // Waits for the reads in flight. Jobs that were not collected are forgotten; their memory is the
    // caller's.
    void (*close)(struct io_engine *engine);
    void (*submit)(struct io_engine *engine, struct io_job *job);
    // Takes back a job of which nothing has been started: true when it is the caller's again.
    bool (*withdraw)(struct io_engine *engine, struct io_job *job);
    // As io_reap; appends to *out. The caller asks for no more jobs than the engine has.
    uint32_t (*collect)(struct io_engine *engine, struct io_job_list *out, uint32_t max, uint32_t min,
                        int64_t timeout_ns);
};

struct io_engine {
    const struct io_engine_ops *ops;
};

// How an engine of threads reads: as pread, with minus an errno for a failure. Called by several threads at
// once.
typedef int64_t (*io_read_fn)(void *user, int fd, void *buffer, size_t length, uint64_t offset);

int64_t io_pread(void *user, int fd, void *buffer, size_t length, uint64_t offset);

int io_threads_open(struct io_engine **out, uint32_t n_threads, io_read_fn read, void *user,
                    struct lode_error *error);

// io_open on threads that read with a function of the caller's.
int io_open_with(struct io **out, const char *const *paths, uint32_t n_paths,
                 const struct io_options *options, io_read_fn read, void *user, struct lode_error *error);

#endif
