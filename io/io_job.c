// The life of a request inside the room: how it is cut into pieces, which reads are tried again, when it is
// over.
#include "io/io_internal.h"

#include <assert.h>
#include <errno.h>

// Small enough that several threads share one expert (about 3 MB), large enough that a piece costs far more
// than the system call and the lock around it. 1 MiB against 4 MiB: within the noise on the disk (1.4 to 2
// GB/s) and from the page cache (8 to 10 GB/s, four threads), measured on a virtual machine of two cores.
#define PIECE_MIN_BYTES ((size_t)1 << 20)
#define PIECE_MAX_BYTES ((size_t)4 << 20)

// Pieces meet at a page of the file, so that no page is copied from by two threads.
#define PIECE_ALIGN_BYTES ((uint64_t)4096)

void io_job_list_append(struct io_job_list *list, struct io_job *job)
{
    job->next = NULL;
    job->previous = list->last;
    if (list->last)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

void io_job_list_remove(struct io_job_list *list, struct io_job *job)
{
    if (job->previous)
        job->previous->next = job->next;
    else
        list->first = job->next;
    if (job->next)
        job->next->previous = job->previous;
    else
        list->last = job->previous;
    job->previous = job->next = NULL;
}

struct io_job *io_job_list_take(struct io_job_list *list)
{
    struct io_job *job = list->first;
    if (job)
        io_job_list_remove(list, job);
    return job;
}

void io_job_init(struct io_job *job, const struct io_request *request, int fd, uint32_t queue_depth)
{
    size_t share_bytes = request->length / queue_depth;
    if (share_bytes < PIECE_MIN_BYTES)
        share_bytes = PIECE_MIN_BYTES;
    if (share_bytes > PIECE_MAX_BYTES)
        share_bytes = PIECE_MAX_BYTES;
    *job = (struct io_job){.request = *request, .fd = fd, .piece_bytes = share_bytes, .status = IO_DONE};
}

bool io_job_has_more(const struct io_job *job)
{
    return job->claimed_bytes < job->request.length;
}

void io_job_claim(struct io_job *job, struct io_piece *out)
{
    assert(io_job_has_more(job));
    uint64_t offset = job->request.offset + job->claimed_bytes;
    size_t length = job->request.length - job->claimed_bytes;
    if (length > job->piece_bytes) {
        uint64_t end = (offset + job->piece_bytes) & ~(PIECE_ALIGN_BYTES - 1);
        length = (size_t)(end - offset);
    }
    *out = (struct io_piece){
        .job = job,
        .offset = offset,
        .length = length,
        .buffer = (char *)job->request.buffer + job->claimed_bytes,
    };
    job->claimed_bytes += length;
    job->pieces_in_flight++;
}

bool io_piece_continues(struct io_piece *piece, int64_t result)
{
    if (result == -EINTR)
        return true;
    if (result > 0) {
        assert((uint64_t)result <= piece->length);
        piece->offset += (uint64_t)result;
        piece->buffer += result;
        piece->length -= (size_t)result;
    }
    piece->error_number = result < 0 ? (int)-result : 0;
    if (piece->length == 0 || piece->retried)
        return false;
    piece->retried = true;
    return true;
}

bool io_job_end_piece(struct io_job *job, const struct io_piece *piece)
{
    assert(job->pieces_in_flight > 0);
    job->pieces_in_flight--;
    if (piece->length > 0 && job->status == IO_DONE) {
        job->status = IO_FAILED;
        job->error_number = piece->error_number;
        job->fault_offset = piece->offset;
        job->claimed_bytes = job->request.length;
    }
    return job->pieces_in_flight == 0 && !io_job_has_more(job);
}
