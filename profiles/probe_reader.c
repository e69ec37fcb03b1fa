// Keeps reads of records going, as many as fill the queue of the io room.
#include "profiles/probe_internal.h"

#include "io/io.h"

#include <sys/mman.h>

#define MOST_BUFFERS 64

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Steps of a golden section that meet every record once before they meet one again.
static uint64_t choose_step(uint64_t n_records)
{
    uint64_t step = (uint64_t)((double)n_records * 0.6180339887) | 1;
    while (greatest_common_divisor(step, n_records) != 1)
        step++;
    return step;
}

int probe_reader_open(struct probe_reader *out, const struct probe_file *file, bool direct,
                      uint64_t record_bytes, uint32_t queue_depth, uint64_t memory_bytes,
                      struct lode_error *error)
{
    *out = (struct probe_reader){.memory = MAP_FAILED, .record_bytes = record_bytes};
    out->n_records = file->bytes / record_bytes;
    if (!out->n_records)
        return lode_fail(error, LODE_ERR_IO, "%s is too small to measure a drive with", file->path);
    out->step = choose_step(out->n_records);
    out->stride = (record_bytes + 3 * IO_ALIGN_BYTES - 1) / IO_ALIGN_BYTES * IO_ALIGN_BYTES;
    const uint64_t pieces = (record_bytes + IO_PIECE_BYTES - 1) / IO_PIECE_BYTES;
    uint64_t n = (queue_depth + pieces - 1) / pieces + 1;
    n = n < MOST_BUFFERS ? n : MOST_BUFFERS;
    n = n < memory_bytes / out->stride ? n : memory_bytes / out->stride;
    out->n_buffers = n ? (uint32_t)n : 1;
    out->memory_bytes = out->n_buffers * out->stride;
    out->memory = mmap(NULL, out->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (out->memory == MAP_FAILED)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for %zu bytes to read into", out->memory_bytes);
    const struct io_options options = {.queue_depth = queue_depth,
                                       .cache = direct ? IO_CACHE_AUTO : IO_CACHE_DROP};
    const char *path = file->path;
    int code = io_open(&out->io, &path, 1, &options, error);
    if (code) {
        probe_reader_close(out);
        return code;
    }
    struct io_choice choice;
    io_describe(out->io, &choice);
    out->direct = choice.direct;
    io_register(out->io, out->memory, out->memory_bytes); // refused: a little slower, as in an engine
    return LODE_OK;
}

void probe_reader_close(struct probe_reader *reader)
{
    if (reader->io) {
        io_unregister(reader->io);
        io_close(reader->io);
    }
    if (reader->memory != MAP_FAILED)
        munmap(reader->memory, reader->memory_bytes);
    reader->io = NULL;
    reader->memory = MAP_FAILED;
}

static int submit(struct probe_reader *reader, uint32_t buffer, struct lode_error *error)
{
    const uint64_t offset = reader->next * reader->record_bytes;
    reader->next = (reader->next + reader->step) % reader->n_records;
    const struct io_request request = {.offset = offset,
                                       .length = reader->record_bytes,
                                       .buffer =
                                           reader->memory + buffer * reader->stride + offset % IO_ALIGN_BYTES,
                                       .tag = buffer,
                                       .priority = IO_DEMAND,
                                       .padded = true};
    return io_submit(reader->io, &request, error);
}

int probe_reader_start(struct probe_reader *reader, struct lode_error *error)
{
    int code = LODE_OK;
    for (uint32_t i = 0; i < reader->n_buffers && !code; i++)
        code = submit(reader, i, error);
    return code;
}

int probe_reader_pump(struct probe_reader *reader, uint32_t min, int64_t timeout_ns, struct lode_error *error)
{
    struct io_completion done[MOST_BUFFERS];
    const uint32_t n = io_reap(reader->io, done, MOST_BUFFERS, min, timeout_ns);
    int code = LODE_OK;
    for (uint32_t i = 0; i < n && !code; i++) {
        if (done[i].status != IO_DONE) {
            if (error)
                *error = done[i].error;
            return done[i].error.code ? done[i].error.code
                                      : lode_fail(error, LODE_ERR_IO, "a read was not carried out");
        }
        reader->read_bytes += reader->record_bytes;
        code = submit(reader, (uint32_t)done[i].tag, error);
    }
    return code;
}
