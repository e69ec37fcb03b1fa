// Every thread reads a slice of its own, a piece of it in each pass, and comes back to the beginning only
// when the slice is through: by then no cache holds it. Passes are short, so that on a busy machine some of
// them are undisturbed, and begin and end at a barrier that spins, for waking threads up would cost more than
// they take.
#include "profiles/read_bandwidth.h"

#include "base/clock.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TOTAL_BYTES ((uint64_t)256 << 20)
#define LEAST_SLICE_BYTES ((uint64_t)32 << 20)
#define PIECE_BYTES ((uint64_t)4 << 20) // of a slice, in a pass: 0.3 ms on a core of 13 GB/s
#define BLOCK_BYTES ((uint64_t)16 << 10)
#define MEASURE_NS 250000000
#define SPINS 20000 // then the processor is given away: there may be fewer than threads

typedef uint64_t lanes __attribute__((vector_size(32)));

struct reader;

struct measurement {
    char *memory;
    uint64_t slice_bytes;
    uint32_t threads;
    struct reader *readers;
    pthread_mutex_t gate; // held until it is known that all threads are there
    atomic_uint arrived, round;
    atomic_bool ends;
    double best_gbps;
};

struct reader {
    struct measurement *measurement;
    uint32_t index;
    uint64_t sum, start_ns;
    pthread_t thread;
};

// Four pages side by side: more reads in flight than one stream gets, 26 instead of 21 GB/s on a Zen 3 core.
static inline __attribute__((always_inline)) uint64_t sum_words(const char *memory, uint64_t bytes)
{
    enum { PAGE = BLOCK_BYTES / 4 / sizeof(lanes) };
    lanes sums[4] = {{0}};
    for (uint64_t at = 0; at + BLOCK_BYTES <= bytes; at += BLOCK_BYTES) {
        const lanes *block = (const lanes *)(memory + at);
        for (size_t i = 0; i < PAGE; i += 2)
            for (size_t j = 0; j < 4; j++)
                sums[j] += block[j * PAGE + i] + block[j * PAGE + i + 1];
    }
    const lanes sum = sums[0] + sums[1] + sums[2] + sums[3];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

// With loads of 16 bytes that core reads 21 GB/s.
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint64_t read_bytes_avx2(const char *memory, uint64_t bytes)
{
    return sum_words(memory, bytes);
}
#endif

static uint64_t read_bytes(const char *memory, uint64_t bytes)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return read_bytes_avx2(memory, bytes);
#endif
    return sum_words(memory, bytes);
}

static void meet(struct measurement *m)
{
    const unsigned round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == m->threads) {
        atomic_store(&m->arrived, 0);
        atomic_store(&m->round, round + 1);
        return;
    }
    for (uint32_t spins = 0; atomic_load(&m->round) == round; spins++)
        if (spins > SPINS)
            sched_yield();
}

// A thread may lose its processor on either side of a barrier, so a pass begins with the first of the
// threads.
static void count_pass(struct measurement *m)
{
    const uint64_t end_ns = clock_now_ns();
    uint64_t start_ns = end_ns - 1;
    for (uint32_t i = 0; i < m->threads; i++)
        if (m->readers[i].start_ns < start_ns)
            start_ns = m->readers[i].start_ns;
    const double gbps = (double)(PIECE_BYTES * m->threads) / (double)(end_ns - start_ns);
    if (gbps > m->best_gbps)
        m->best_gbps = gbps;
}

static void *read_slice(void *argument)
{
    struct reader *reader = argument;
    struct measurement *m = reader->measurement;
    pthread_mutex_lock(&m->gate);
    pthread_mutex_unlock(&m->gate);
    if (atomic_load(&m->ends))
        return NULL;
    char *slice = m->memory + reader->index * m->slice_bytes;
    memset(slice, 1, m->slice_bytes);
    const uint64_t begin_ns = clock_now_ns();
    for (uint64_t at = 0;; at = at + PIECE_BYTES < m->slice_bytes ? at + PIECE_BYTES : 0) {
        meet(m);
        if (atomic_load(&m->ends))
            return NULL;
        reader->start_ns = clock_now_ns();
        reader->sum += read_bytes(slice + at, PIECE_BYTES);
        meet(m);
        if (reader->index > 0)
            continue;
        count_pass(m);
        atomic_store(&m->ends, clock_now_ns() - begin_ns > MEASURE_NS);
    }
}

static int run(struct measurement *m, struct lode_error *error)
{
    uint32_t started = 1;
    int failed = 0;
    pthread_mutex_lock(&m->gate);
    for (uint32_t i = 0; i < m->threads; i++)
        m->readers[i] = (struct reader){.measurement = m, .index = i};
    for (; started < m->threads && !failed; started += !failed)
        failed = pthread_create(&m->readers[started].thread, NULL, read_slice, &m->readers[started]);
    atomic_store(&m->ends, failed != 0);
    pthread_mutex_unlock(&m->gate);
    read_slice(&m->readers[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(m->readers[i].thread, NULL);
    return failed ? lode_fail(error, LODE_ERR_MEMORY, "cannot start thread %" PRIu32 " of %" PRIu32 ": %s",
                              started + 1, m->threads, strerror(failed))
                  : 0;
}

static int measure(struct measurement *m, struct lode_error *error)
{
    const uint64_t bytes = m->slice_bytes * m->threads;
    m->readers = calloc(m->threads, sizeof *m->readers);
    m->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int rc = 0;
    if (!m->readers || m->memory == MAP_FAILED)
        rc = lode_fail(error, LODE_ERR_MEMORY, "no memory for %" PRIu64 " bytes to read", bytes);
    if (!rc) {
        madvise(m->memory, bytes, MADV_HUGEPAGE); // as weights lie
        rc = run(m, error);
    }
    if (m->memory != MAP_FAILED)
        munmap(m->memory, bytes);
    free(m->readers);
    return rc;
}

int read_bandwidth_measure(double *out_gbps, uint32_t threads, uint64_t at_most_bytes,
                           struct lode_error *error)
{
    *out_gbps = 0;
    if (!threads)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a read bandwidth of no threads");
    uint64_t slice_bytes = TOTAL_BYTES / threads;
    if (slice_bytes < LEAST_SLICE_BYTES)
        slice_bytes = LEAST_SLICE_BYTES;
    if (at_most_bytes && slice_bytes > at_most_bytes / threads)
        slice_bytes = at_most_bytes / threads;
    slice_bytes -= slice_bytes % PIECE_BYTES;
    if (!slice_bytes)
        return lode_fail(error, LODE_ERR_MEMORY,
                         "%" PRIu64 " bytes are too few to measure the read bandwidth of %" PRIu32 " threads",
                         at_most_bytes, threads);
    struct measurement m = {
        .slice_bytes = slice_bytes, .threads = threads, .gate = PTHREAD_MUTEX_INITIALIZER};
    int rc = measure(&m, error);
    *out_gbps = m.best_gbps;
    return rc;
}
