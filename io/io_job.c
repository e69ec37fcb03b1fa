// The life of a request inside the room: how it is cut into pieces, how those are read, when it is over.
#include "io/io_job.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

static bool is_multiple(uint64_t value, uint64_t align)
{
    return (value & (align - 1)) == 0;
}

static uint64_t round_down(uint64_t value, uint64_t align)
{
    return value & ~(align - 1);
}

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

// Whether a direct read that covers a range may go straight to where the range is wanted.
static bool can_read_straight(const struct io_copy *copy, bool padded, uint64_t offset, size_t length,
                              const char *buffer)
{
    uint64_t align = copy->align_bytes;
    return is_multiple((uintptr_t)buffer - offset, align) &&
           (padded || (is_multiple(offset, align) && is_multiple(length, align)));
}

void io_job_init(struct io_job *job, const struct io_request *request, struct io_file *file)
{
    *job =
        (struct io_job){.request = *request, .file = file, .piece_bytes = IO_PIECE_BYTES, .status = IO_DONE};
    for (uint32_t i = 0; i < file->n_copies; i++) {
        if (atomic_load(&file->copies[i].direct) &&
            !can_read_straight(&file->copies[i], request->padded, request->offset, request->length,
                               request->buffer))
            job->piece_bytes = IO_BOUNCE_BYTES;
    }
}

bool io_job_has_more(const struct io_job *job)
{
    return job->claimed_bytes < job->request.length;
}

// Pieces meet at multiples of IO_ALIGN_BYTES, so that the padding of one never covers bytes of another.
void io_job_claim(struct io_job *job, struct io_piece *out, char *bounce)
{
    assert(io_job_has_more(job));
    uint64_t offset = job->request.offset + job->claimed_bytes;
    size_t length = job->request.length - job->claimed_bytes;
    size_t most_bytes = job->piece_bytes - (size_t)(offset % IO_ALIGN_BYTES);
    if (length > most_bytes)
        length = most_bytes;
    *out = (struct io_piece){
        .job = job,
        .offset = offset,
        .length = length,
        .buffer = (char *)job->request.buffer + job->claimed_bytes,
        .bounce = bounce,
        .priority = job->request.priority,
        .reached_offset = offset,
    };
    job->claimed_bytes += length;
    job->pieces_in_flight++;
}

static void aim_directly(struct io_read *read, const struct io_piece *piece, const struct io_copy *copy)
{
    uint64_t align = copy->align_bytes;
    uint64_t start = round_down(piece->offset, align);
    uint64_t end = round_down(piece->offset + piece->length + align - 1, align);
    bool straight =
        can_read_straight(copy, piece->job->request.padded, piece->offset, piece->length, piece->buffer);
    read->descriptor = IO_FD_DIRECT;
    read->offset = start;
    read->length = (size_t)(end - start);
    read->head_bytes = (size_t)(piece->offset - start);
    read->bounced = !straight;
    read->buffer = straight ? piece->buffer - read->head_bytes : piece->bounce;
    assert(straight || read->length <= IO_BOUNCE_BYTES);
}

void io_piece_aim(struct io_piece *piece)
{
    const struct io_copy *copy = &piece->job->file->copies[piece->copy];
    struct io_read *read = &piece->read;
    *read = (struct io_read){
        .file = piece->job->request.file,
        .copy = piece->copy,
        .descriptor = IO_FD_BUFFERED,
        .buffer = piece->buffer,
        .length = piece->length,
        .offset = piece->offset,
    };
    if (atomic_load(&copy->direct))
        aim_directly(read, piece, copy);
    read->fd = copy->fds[read->descriptor];
}

static void drop_pages(const struct io_read *read, uint64_t came_bytes)
{
    uint64_t start = round_down(read->offset, IO_ALIGN_BYTES);
    uint64_t end = round_down(read->offset + came_bytes + IO_ALIGN_BYTES - 1, IO_ALIGN_BYTES);
    posix_fadvise(read->fd, (off_t)start, (off_t)(end - start), POSIX_FADV_DONTNEED);
}

static bool has_direct_copy(const struct io_file *file)
{
    for (uint32_t i = 0; i < file->n_copies; i++) {
        if (file->copies[i].fds[IO_FD_DIRECT] >= 0)
            return true;
    }
    return false;
}

// Where direct reads are possible a piece goes on from a whole block, also when a read ended within it: then
// what could be read straight into the buffer still can, from either copy.
static void advance(struct io_piece *piece, size_t got_bytes)
{
    uint64_t reached = piece->offset + got_bytes;
    if (reached > piece->reached_offset)
        piece->reached_offset = reached;
    if (got_bytes < piece->length && has_direct_copy(piece->job->file)) {
        uint64_t next = round_down(reached, IO_ALIGN_BYTES);
        got_bytes = next > piece->offset ? (size_t)(next - piece->offset) : 0;
    }
    piece->offset += got_bytes;
    piece->buffer += got_bytes;
    piece->length -= got_bytes;
}

void io_piece_take(struct io_piece *piece, int64_t result)
{
    const struct io_read *read = &piece->read;
    struct io_copy *copy = &piece->job->file->copies[piece->copy];
    bool refused = result == -EINVAL && read->descriptor == IO_FD_DIRECT;
    piece->came_bytes = result > 0 ? (uint64_t)result : 0;
    piece->error_number = result < 0 ? (int)-result : 0;
    piece->again_at_once = refused || result == -EINTR;
    if (refused)
        atomic_store(&copy->direct, false);
    if (result <= 0)
        return;
    assert(piece->came_bytes <= read->length);
    if (read->descriptor == IO_FD_BUFFERED && piece->job->file->drops_pages)
        drop_pages(read, piece->came_bytes);
    if (piece->came_bytes <= read->head_bytes)
        return;
    size_t got_bytes = (size_t)piece->came_bytes - read->head_bytes;
    if (got_bytes > piece->length)
        got_bytes = piece->length;
    if (read->bounced)
        memcpy(piece->buffer, read->buffer + read->head_bytes, got_bytes);
    advance(piece, got_bytes);
}

bool io_piece_is_quick_to_take(const struct io_piece *piece)
{
    bool drops = piece->read.descriptor == IO_FD_BUFFERED && piece->job->file->drops_pages;
    return !drops && !piece->read.bounced;
}

static void give_up(struct io_job *job)
{
    job->given_up_bytes += job->request.length - job->claimed_bytes;
    job->claimed_bytes = job->request.length;
}

static bool is_over(const struct io_job *job)
{
    return job->pieces_in_flight == 0 && !io_job_has_more(job);
}

bool io_job_end_piece(struct io_job *job, const struct io_piece *piece)
{
    assert(job->pieces_in_flight > 0);
    job->pieces_in_flight--;
    if (piece->length > 0 && job->status == IO_DONE) {
        job->status = IO_FAILED;
        job->error_number = piece->error_number;
        job->fault_offset = piece->reached_offset;
        job->fault_copy = piece->copy;
        give_up(job);
    }
    return is_over(job);
}

bool io_job_stop(struct io_job *job)
{
    if (job->status == IO_DONE)
        job->status = IO_CANCELLED;
    give_up(job);
    return is_over(job);
}
