// Requests on their way, and the pieces that they are read in.
//
// How a job is cut, how a piece is read from which descriptor into which memory, and what a result means is
// written once, so that every engine treats alignment and faults alike.
#ifndef LODE_IO_JOB_H
#define LODE_IO_JOB_H

#include "io/io.h"
#include "io/io_file.h"

// Memory that each read in flight has for what cannot be read straight into the request's buffer.
#define IO_BOUNCE_BYTES ((size_t)256 << 10)

struct io_job {
    struct io_request request; // its priority may be raised
    struct io_file *file;
    struct io_job *previous, *next;                 // in one list of the queue or of the common part
    struct io_job *pending_previous, *pending_next; // among all that were submitted and not reaped
    size_t piece_bytes;
    size_t claimed_bytes;  // handed out as pieces so far, or given up
    size_t given_up_bytes; // when it was stopped or failed
    uint32_t pieces_in_flight;
    enum io_status status;
    int error_number;      // of the first piece that failed; 0 when the file ended early
    uint64_t fault_offset; // where in the file that piece could not go on
    uint32_t fault_copy;
    uint64_t begun_ns, read_ns; // when its first read was begun, 0: never, and its last one ended
};

// One read of a piece as the kernel sees it: it may cover more than what is wanted.
struct io_read {
    int fd;
    uint32_t file, copy;
    enum io_descriptor descriptor;
    char *buffer;
    size_t length;
    uint64_t offset;
    size_t head_bytes; // in front of the first byte that is wanted
    bool bounced;      // into the bounce memory, to be copied
};

struct io_piece {
    struct io_job *job;
    uint64_t offset; // in the file; this, length and buffer move on as parts of the piece arrive
    size_t length;
    char *buffer;
    char *bounce;
    enum io_priority priority; // when it was started
    uint32_t copy;
    bool retried;
    struct io_read read; // the present one

    // Of the read that was taken last.
    uint64_t came_bytes;
    int error_number;
    bool again_at_once; // it failed in a way that costs no retry
    uint64_t reached_offset;
};

struct io_job_list {
    struct io_job *first, *last;
};

void io_job_list_append(struct io_job_list *list, struct io_job *job);
void io_job_list_remove(struct io_job_list *list, struct io_job *job);
struct io_job *io_job_list_take(struct io_job_list *list); // NULL when it is empty

void io_job_init(struct io_job *job, const struct io_request *request, struct io_file *file);

// True while a part of the job has not been handed out.
bool io_job_has_more(const struct io_job *job);

// Hands out the next piece; only while io_job_has_more. `bounce` is the piece's until it ends.
void io_job_claim(struct io_job *job, struct io_piece *out, char *bounce);

// Says in piece->read how to read what remains of the piece from the copy that it is set to.
void io_piece_aim(struct io_piece *piece);

// Takes the result of piece->read, bytes read or minus an errno: what remains of the piece is then still to
// be read. May copy up to IO_BOUNCE_BYTES and drop pages, so it is called outside of locks.
void io_piece_take(struct io_piece *piece, int64_t result);

// True when io_piece_take only counts for this result.
bool io_piece_is_quick_to_take(const struct io_piece *piece);

// Counts a piece that has ended. After a failure the rest of the job need not be read: io_job_has_more turns
// false. True when the job is over.
bool io_job_end_piece(struct io_job *job, const struct io_piece *piece);

// Gives up what has not been handed out. True when the job is over.
bool io_job_stop(struct io_job *job);

#endif
