// The CPU and the drive at the same time, as when an engine multiplies what is there while it reads what is
// not: one thread looks after the reads between two products, and the drive goes on by itself.
#include "profiles/probe_internal.h"

#include "base/clock.h"
#include "io/io.h"

#define ROUNDS 5
#define WAIT_NS 20000000

struct together {
    struct probe *probe;
    struct probe_chain chain;
    struct probe_reader reader;
    struct lode_error *error;
    int code;
    double seconds; // of a turn
    uint64_t n_links;
    bool reads;
};

static void pump(void *user)
{
    struct together *t = user;
    if (t->reads && !t->code)
        t->code = probe_reader_pump(&t->reader, 0, 0, t->error);
}

static void multiply(void *user)
{
    struct together *t = user;
    const uint64_t start_ns = clock_now_ns();
    do {
        probe_chain_run(&t->chain);
        t->n_links++;
    } while (!t->code && probe_goes_on(t->probe) && clock_seconds_since(start_ns) < t->seconds);
}

// Links a second; *out_read_rate: bytes a second that were read meanwhile.
static double multiply_rate(struct together *t, bool reads, double *out_read_rate)
{
    const uint64_t before_bytes = t->reader.read_bytes, start_ns = clock_now_ns();
    t->reads = reads;
    t->n_links = 0;
    t->probe->device->ops->pass(t->probe->device, multiply, t);
    const double taken_s = clock_seconds_since(start_ns);
    *out_read_rate = (double)(t->reader.read_bytes - before_bytes) / taken_s;
    return (double)t->n_links / taken_s;
}

static double read_rate(struct together *t)
{
    const uint64_t before_bytes = t->reader.read_bytes, start_ns = clock_now_ns();
    do
        t->code = probe_reader_pump(&t->reader, 1, WAIT_NS, t->error);
    while (!t->code && probe_goes_on(t->probe) && clock_seconds_since(start_ns) < t->seconds);
    return (double)(t->reader.read_bytes - before_bytes) / clock_seconds_since(start_ns);
}

// What is in flight must not run into a turn without reads: everything is waited for by closing.
static int take_turns(struct together *t, const struct probe_file *file, struct probe_samples *cpu,
                      struct probe_samples *drive)
{
    const uint64_t record_bytes = t->probe->profile->drives[0].record_bytes;
    double ignored, together_bytes;
    const double alone = multiply_rate(t, false, &ignored);
    t->code = probe_reader_open(&t->reader, file, true, record_bytes, IO_QUEUE_DEPTH,
                                t->probe->memory_bytes / 4, t->error);
    if (t->code)
        return t->code;
    t->code = probe_reader_start(&t->reader, t->error);
    const double drive_alone = t->code ? 0 : read_rate(t);
    const double beside = t->code ? 0 : multiply_rate(t, true, &together_bytes);
    if (!t->code && alone > 0 && drive_alone > 0) {
        probe_sample(cpu, beside / alone);
        probe_sample(drive, together_bytes / drive_alone);
    }
    probe_reader_close(&t->reader);
    return t->code;
}

// Nothing becomes faster by sharing; what says so is noise.
static double share_of(struct probe_samples *samples)
{
    const double share = probe_median(samples).median;
    return !samples->n || share > 1 ? 1 : share > 0.01 ? probe_rounded(share) : 0.01;
}

int probe_interference(struct probe *probe, const struct probe_file *file, uint64_t end_ns,
                       struct lode_error *error)
{
    struct together t = {.probe = probe, .error = error};
    struct probe_samples cpu = {.n = 0}, drive = {.n = 0};
    if (!probe_chain_make(&t.chain, probe, LODE_Q4_0))
        return LODE_OK;
    t.chain.between = pump;
    t.chain.user = &t;
    probe_file_drop(file);
    struct probe_group group = {end_ns, ROUNDS * 3};
    t.seconds = probe_slice_s(&group);
    for (int i = 0; i < ROUNDS && !t.code; i++) {
        take_turns(&t, file, &cpu, &drive);
        if (!t.code && probe->cancelled)
            t.code = probe_cancelled(error);
        if (clock_now_ns() > end_ns && i >= 1)
            break;
    }
    if (t.code)
        return t.code == LODE_ERR_CANCELLED ? t.code
                                            : lode_fail_in(error, "reading the drive under %s beside the CPU",
                                                           probe->options->drive_path);
    probe->profile->interference[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE] = share_of(&cpu);
    probe->profile->interference[PROFILE_LANE_DRIVE][PROFILE_LANE_CPU] = share_of(&drive);
    return LODE_OK;
}
