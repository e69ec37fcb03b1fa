// The writer: the steering thread fills a ring of blocks, a thread of its own encodes, compresses and writes
// them. Two semaphores count the blocks that are free and those that are full; both are one atomic operation
// while nobody sleeps.
#include "base/clock.h"
#include "placement/trace_format.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

// A token of the 26B is 5 KB of records: the ring holds what comes in seconds of decode, or while a slow
// drive makes the writer wait.
enum { N_BLOCKS = 32, BLOCK_BYTES = 64 << 10, STACK_BYTES = 256 << 10, LEVEL = 3, PATH_BYTES = 512 };

// What the compressor takes for blocks of this size and level: 0.6 MiB with zstd 1.5.
#define ZSTD_MOST_BYTES (UINT64_C(2) << 20)

// A block that has been begun is written after this long, even if it is not full, so that a crash costs
// little.
#define FLUSH_NS UINT64_C(1000000000)

struct block {
    uint32_t bytes;
    bool last;
    uint8_t raw[BLOCK_BYTES] __attribute__((aligned(8)));
};

struct trace_writer {
    struct trace_header header;
    char path[PATH_BYTES];
    struct block *blocks; // [N_BLOCKS]
    sem_t free_blocks, full_blocks;

    // Of the steering thread.
    uint32_t at; // the block being filled
    uint64_t begun_ns, now_ns;
    uint64_t waited_ns, untold_wait_ns;
    uint32_t pass_tokens;
    bool in_pass;
    struct trace_totals totals;

    // Of the writing thread.
    pthread_t thread;
    int fd;
    uint32_t serial;
    struct trace_encoder encoder;
    ZSTD_CCtx *zstd;
    uint8_t *records; // [BLOCK_BYTES + 64]
    uint8_t *frame;   // [TRACE_BLOCK_HEADER_BYTES + frame_capacity]
    size_t frame_capacity;
    atomic_bool failed;
    struct lode_error error; // as it was when `failed` was set
};

// ---- the writing thread
// ---------------------------------------------------------------------------------------

static int write_all(struct trace_writer *w, const uint8_t *bytes, size_t n, struct lode_error *error)
{
    while (n) {
        const ssize_t written = write(w->fd, bytes, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return lode_fail(error, LODE_ERR_IO, "cannot write the trace %s: %s", w->path,
                             strerror(written < 0 ? errno : EIO));
        bytes += written;
        n -= (size_t)written;
    }
    return 0;
}

static int compress(struct trace_writer *w, size_t n, size_t *out_bytes)
{
    const size_t size =
        ZSTD_compress2(w->zstd, w->frame + TRACE_BLOCK_HEADER_BYTES, w->frame_capacity, w->records, n);
    if (ZSTD_isError(size))
        return lode_fail(&w->error, LODE_ERR_IO, "cannot compress the trace %s: %s", w->path,
                         ZSTD_getErrorName(size));
    *out_bytes = size;
    return 0;
}

static int write_block(struct trace_writer *w, const struct block *block)
{
    size_t n = trace_encode(&w->encoder, w->records, block->raw, block->bytes);
    if (block->last)
        n += trace_encode_end(w->records + n, &w->totals);
    if (n == 0)
        return 0;
    size_t frame_bytes = 0;
    int code = compress(w, n, &frame_bytes);
    if (code)
        return code;
    uint8_t *head = w->frame;
    trace_put_u32(head, TRACE_BLOCK_FRAME);
    trace_put_u32(head + 4, TRACE_BLOCK_HEADER_BYTES - 8);
    trace_put_u32(head + 8, w->serial++);
    trace_put_u32(head + 12, (uint32_t)n);
    trace_put_u32(head + 16, (uint32_t)frame_bytes);
    trace_put_u64(head + 20, trace_sum(TRACE_SUM_START, head + TRACE_BLOCK_HEADER_BYTES, frame_bytes));
    trace_put_u32(head + 28, (uint32_t)trace_sum(TRACE_SUM_START, head, 28));
    return write_all(w, head, TRACE_BLOCK_HEADER_BYTES + frame_bytes, &w->error);
}

static void *write_blocks(void *user)
{
    struct trace_writer *w = user;
    for (uint32_t at = 0;; at = (at + 1) % N_BLOCKS) {
        while (sem_wait(&w->full_blocks) != 0) {
        }
        const bool last = w->blocks[at].last;
        if (!atomic_load_explicit(&w->failed, memory_order_relaxed) && write_block(w, &w->blocks[at]) != 0)
            atomic_store_explicit(&w->failed, true, memory_order_release);
        sem_post(&w->free_blocks);
        if (last)
            return NULL;
    }
}

// ---- opening and closing
// --------------------------------------------------------------------------------------

static int start_thread(struct trace_writer *w, struct lode_error *error)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are for the program's own threads
    const int rc = pthread_create(&w->thread, &attributes, write_blocks, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return rc ? lode_fail(error, LODE_ERR_MEMORY, "cannot start the thread that writes the trace: %s",
                          strerror(rc))
              : 0;
}

static void writer_free(struct trace_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    sem_destroy(&w->free_blocks);
    sem_destroy(&w->full_blocks);
    ZSTD_freeCCtx(w->zstd);
    free(w->blocks);
    free(w->records);
    free(w->frame);
    free(w);
}

static int allocate(struct trace_writer *w, struct lode_error *error)
{
    w->frame_capacity = ZSTD_compressBound(BLOCK_BYTES + 64);
    w->blocks = calloc(N_BLOCKS, sizeof *w->blocks);
    w->records = calloc(1, BLOCK_BYTES + 64);
    w->frame = malloc(TRACE_BLOCK_HEADER_BYTES + w->frame_capacity);
    w->zstd = ZSTD_createCCtx();
    size_t size;
    // A block compressed now, so that all of the compressor's memory is there.
    if (!w->blocks || !w->records || !w->frame || !w->zstd ||
        ZSTD_isError(ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, LEVEL)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1)) ||
        compress(w, BLOCK_BYTES + 64, &size) != 0)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write a trace");
    return 0;
}

static int write_header(struct trace_writer *w, struct lode_error *error)
{
    uint8_t *bytes = malloc(TRACE_MAX_HEADER_BYTES);
    if (!bytes)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the header of a trace");
    const int code = write_all(w, bytes, trace_header_encode(bytes, &w->header), error);
    free(bytes);
    return code;
}

int trace_writer_open(struct trace_writer **out, const char *path, const struct trace_header *header,
                      struct lode_error *error)
{
    *out = NULL;
    int code = trace_header_check(header, error);
    if (code)
        return code;
    if (strlen(path) >= PATH_BYTES)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the path %.200s… is too long", path);
    struct trace_writer *w = calloc(1, sizeof *w);
    if (!w)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write a trace");
    w->header = *header;
    w->encoder.header = &w->header;
    strcpy(w->path, path);
    sem_init(&w->free_blocks, 0, N_BLOCKS - 1); // one is being filled
    sem_init(&w->full_blocks, 0, 0);
    w->fd = -1;
    code = allocate(w, error);
    if (!code) {
        w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (w->fd < 0)
            code = lode_fail(error, LODE_ERR_IO, "cannot write the trace %s: %s", path, strerror(errno));
    }
    if (!code)
        code = write_header(w, error);
    if (!code)
        code = start_thread(w, error);
    if (code) {
        writer_free(w);
        return code;
    }
    *out = w;
    return 0;
}

uint64_t trace_writer_memory_bytes(const struct trace_writer *w)
{
    return sizeof *w + N_BLOCKS * sizeof *w->blocks + BLOCK_BYTES + 64 + TRACE_BLOCK_HEADER_BYTES +
           w->frame_capacity + ZSTD_sizeof_CCtx(w->zstd) + STACK_BYTES;
}

uint64_t trace_writer_waited_ns(const struct trace_writer *w)
{
    return w->waited_ns;
}

uint64_t trace_writer_most_bytes(void)
{
    return sizeof(struct trace_writer) + N_BLOCKS * sizeof(struct block) + BLOCK_BYTES + 64 +
           TRACE_BLOCK_HEADER_BYTES + ZSTD_compressBound(BLOCK_BYTES + 64) + ZSTD_MOST_BYTES + STACK_BYTES;
}

bool trace_writer_failed(const struct trace_writer *w)
{
    return atomic_load_explicit(&w->failed, memory_order_acquire);
}

const char *trace_writer_failure(const struct trace_writer *w)
{
    return trace_writer_failed(w) ? w->error.text : NULL;
}

// ---- the steering thread
// --------------------------------------------------------------------------------------

// Hands the block over and begins the next, waiting for one if need be.
static void next_block(struct trace_writer *w)
{
    sem_post(&w->full_blocks);
    if (sem_trywait(&w->free_blocks) != 0) {
        const uint64_t start_ns = clock_now_ns();
        while (sem_wait(&w->free_blocks) != 0) {
        }
        const uint64_t waited_ns = clock_now_ns() - start_ns;
        w->waited_ns += waited_ns;
        w->untold_wait_ns += waited_ns;
    }
    w->at = (w->at + 1) % N_BLOCKS;
    w->blocks[w->at].bytes = 0;
    w->begun_ns = w->now_ns;
}

// Room for a record with `more` bytes behind it.
static struct trace_raw *append(struct trace_writer *w, enum trace_tag tag, size_t more)
{
    const uint32_t bytes = (uint32_t)((sizeof(struct trace_raw) + more + 7) & ~(size_t)7);
    if (w->blocks[w->at].bytes + bytes > BLOCK_BYTES)
        next_block(w);
    struct block *block = &w->blocks[w->at];
    struct trace_raw *raw = (struct trace_raw *)(block->raw + block->bytes);
    block->bytes += bytes;
    *raw = (struct trace_raw){.bytes = bytes, .tag = (uint8_t)tag};
    return raw;
}

static void tell_wait(struct trace_writer *w)
{
    if (!w->untold_wait_ns)
        return;
    const uint64_t waited_ns = w->untold_wait_ns;
    w->untold_wait_ns = 0;
    append(w, TAG_WAITED, 0)->a = waited_ns;
    w->totals.waited_ns += waited_ns;
}

void trace_conversation(struct trace_writer *w, const char *domain, enum trace_part part)
{
    const size_t n = strnlen(domain, TRACE_DOMAIN_SIZE - 1);
    struct trace_raw *raw = append(w, TAG_CONVERSATION, n);
    raw->small = (uint8_t)part;
    raw->n = (uint16_t)n;
    memcpy(raw + 1, domain, n);
}

void trace_pass_begin(struct trace_writer *w, enum trace_phase phase, uint32_t first_position,
                      uint32_t n_tokens, uint64_t t_ns)
{
    assert(n_tokens && n_tokens <= TRACE_MAX_PASS_TOKENS);
    struct trace_raw *raw = append(w, TAG_PASS, 0);
    raw->small = (uint8_t)phase;
    raw->layer = first_position;
    raw->token = n_tokens;
    raw->t_ns = t_ns;
    w->now_ns = t_ns;
    w->pass_tokens = n_tokens;
    w->in_pass = true;
}

void trace_pass_end(struct trace_writer *w, uint64_t pass_ns, uint64_t stall_ns)
{
    assert(w->in_pass);
    struct trace_raw *raw = append(w, TAG_PASS_END, 0);
    raw->a = pass_ns;
    raw->b = stall_ns;
    w->in_pass = false;
    w->totals.n_passes++;
    w->totals.n_tokens += w->pass_tokens;
    tell_wait(w);
    int n_free = 0;
    sem_getvalue(&w->free_blocks, &n_free);
    if (w->now_ns + pass_ns - w->begun_ns >= FLUSH_NS && n_free > 0)
        next_block(w);
}

static uint16_t *put_experts(struct trace_raw *raw, uint32_t layer, uint32_t token, const int32_t *experts,
                             uint32_t n)
{
    uint16_t *to = (uint16_t *)(raw + 1);
    raw->layer = layer;
    raw->token = token;
    raw->n = (uint16_t)n;
    for (uint32_t i = 0; i < n; i++)
        to[i] = (uint16_t)experts[i];
    return to;
}

void trace_choice(struct trace_writer *w, uint32_t layer, uint32_t token, const int32_t *experts,
                  const float *weights, uint32_t n, uint64_t resident, uint64_t t_ns)
{
    assert(w->in_pass && layer < w->header.n_layers && n && n <= w->header.layers[layer].n_used);
    const size_t experts_bytes = ((size_t)n * sizeof(uint16_t) + 3) & ~(size_t)3;
    struct trace_raw *raw = append(w, TAG_CHOICE, experts_bytes + n * sizeof(float));
    uint8_t *to = (uint8_t *)put_experts(raw, layer, token, experts, n) + experts_bytes;
    if (weights)
        memcpy(to, weights, n * sizeof(float));
    else
        memset(to, 0, n * sizeof(float));
    raw->a = n < 64 ? resident & ((UINT64_C(1) << n) - 1) : resident;
    raw->t_ns = t_ns;
    w->totals.n_choices++;
}

void trace_guess(struct trace_writer *w, uint32_t layer, uint32_t token, const int32_t *experts, uint32_t n)
{
    assert(w->in_pass && layer < w->header.n_layers && n);
    if (n > TRACE_MAX_RANKS)
        n = TRACE_MAX_RANKS;
    put_experts(append(w, TAG_GUESS, n * sizeof(uint16_t)), layer, token, experts, n);
}

void trace_read(struct trace_writer *w, uint32_t layer, uint32_t expert, uint64_t bytes,
                enum trace_read_kind kind, uint64_t t_submit_ns, uint64_t t_done_ns)
{
    assert(layer < w->header.n_layers && expert < w->header.layers[layer].n_experts);
    struct trace_raw *raw = append(w, TAG_READ, 0);
    raw->small = (uint8_t)kind;
    raw->layer = layer;
    raw->token = expert;
    raw->t_ns = t_submit_ns;
    raw->a = t_done_ns;
    raw->b = bytes;
}

int trace_writer_close(struct trace_writer *w, struct lode_error *error)
{
    if (!w)
        return 0;
    tell_wait(w);
    w->blocks[w->at].last = true;
    sem_post(&w->full_blocks);
    pthread_join(w->thread, NULL);
    int code = 0;
    if (atomic_load(&w->failed))
        code = w->error.code;
    if (code && error)
        *error = w->error;
    const int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 && !code)
        code = lode_fail(error, LODE_ERR_IO, "cannot write the trace %s: %s", w->path, strerror(errno));
    writer_free(w);
    return code;
}
