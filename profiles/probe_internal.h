// Inside of the probe: the state that its parts share, the time they have, and medians.
#ifndef LODE_PROBE_INTERNAL_H
#define LODE_PROBE_INTERNAL_H

#include "backends/backend.h"
#include "profiles/probe.h"

#define PROBE_SAMPLES 256
#define PROBE_ROWS 512  // most rows of activations
#define PROBE_COLS 6144 // the widest of them
#define PROBE_HEADS 16  // of attention: a global layer of 26B-A4B
#define PROBE_KV_HEADS 2
#define PROBE_HEAD_SIZE 512
#define PROBE_HIDDEN 2816    // of 26B-A4B
#define PROBE_JOBS 32        // most experts of a call
#define PROBE_EXPERT_ROWS 64 // most rows of each
#define PROBE_FFN_WIDTH 768

// An expert of 26B-A4B at Q4_0: 3 x 704 x 2816 weights of 18 bytes for 32.
#define PROBE_RECORD_BYTES ((uint64_t)3345408)

struct probe {
    const struct probe_options *options;
    struct machine_profile *profile;
    uint64_t memory_bytes; // that may be taken
    uint64_t cache_bytes;  // the last level, all of them
    uint64_t start_ns, end_ns, told_ns;
    const char *what;
    bool cancelled;

    // What is measured now, and where its figures go. Its memory may be out of the host's reach.
    struct lode_device *device;
    struct profile_device *figures;
    uint8_t *arena; // weights or K and V, larger than the caches where memory allows
    size_t arena_bytes;
    float *x, *out; // activations
    size_t x_bytes, out_bytes;
    uint32_t most_rows;    // of activations
    uint32_t most_choices; // rows of all experts of a call
    bool has_library;      // of a GPU's vendor, and scratch for it
    uint8_t *staging;      // of the host, what is uploaded; NULL where the memory is the host's
    size_t staging_bytes;
    // Of the device, which is of no use from then on; 0: none.
    int fault;
    struct lode_error fault_error;
};

// A group of cells that share the time until end_ns.
struct probe_group {
    uint64_t end_ns;
    uint32_t n_cells; // that are still to be measured
};

struct probe_samples {
    double values[PROBE_SAMPLES];
    uint32_t n;
};

struct probe_figure {
    double median, spread; // spread: interquartile range by the median
};

// ---- time: probe_measure.c

// Tells the progress now and then. False: the probe is to stop.
bool probe_goes_on(struct probe *probe);
int probe_cancelled(struct lode_error *error);
// 0, LODE_ERR_CANCELLED, or the device's fault.
int probe_stopped(const struct probe *probe, struct lode_error *error);
void probe_note(struct probe *probe, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The time of one of the group's cells, counted off.
double probe_slice_s(struct probe_group *group);

// Whether something that takes this long may be begun in the group's time. The first of a group always.
bool probe_has_time(const struct probe_group *group, double seconds);

void probe_sample(struct probe_samples *samples, double value);
struct probe_figure probe_median(struct probe_samples *samples); // sorts them

// The time of run(user), in seconds, within a pass of the device, repeated for a cell's time after a warm-up.
// Of a device whose operations return before they are done it is the mean of many calls between two waits.
struct probe_figure probe_time(struct probe *probe, struct probe_group *group, void (*run)(void *user),
                               void *user);

double probe_rounded(double value); // to five digits; 0 for what is no positive number

void probe_add_point(struct profile_curve *curve, double x, double y, double spread);

// Adds a round to a point that is there already: the mean of both, or the faster one where they are far
// apart.
void probe_merge_point(struct profile_curve *curve, double x, double y, double spread);

// ---- other programs: probe_busy.c

// Seconds of processors that went to anything but this process since the system started; 0: not known.
double probe_others_seconds(void);
void probe_note_others(struct probe *probe, double before_s);

// ---- weights: probe_weights.c

// Types in the order of measuring; at most LODE_TYPE_END. By the mode.
uint32_t probe_types(enum lode_type *out, enum probe_mode mode);

// Measures each of them in its share of the time, in rounds: what disturbs the machine for seconds then meets
// a type once only.
int probe_each_type(struct probe *probe, uint64_t end_ns,
                    int (*measure)(struct probe *probe, enum lode_type type, uint64_t end_ns,
                                   struct lode_error *error),
                    struct lode_error *error);

// Random blocks with scales of moderate size: no weight is infinite, tiny or not a number.
void probe_fill_blocks(uint8_t *out, enum lode_type type, size_t bytes);

// The same in the arena; a fault of the device is kept.
void probe_put_blocks(struct probe *probe, size_t offset, enum lode_type type, size_t bytes);

// Repeats the first `bytes` of the arena to its end; returns how many copies there are then.
uint32_t probe_repeat_arena(struct probe *probe, size_t bytes);

// ---- operands: probe_operands.c

// Makes arena, activations for most_rows and most_choices, and what uploads need. Released by
// probe_operands_free, also after a failure.
int probe_operands_make(struct probe *probe, size_t arena_bytes, struct lode_error *error);
void probe_operands_free(struct probe *probe);

void probe_fill_floats(float *out, size_t n); // -1 to 1

// Bytes of the activations.
size_t probe_operands_bytes(uint32_t most_rows, uint32_t most_choices);

struct lode_limits probe_limits(uint32_t most_rows, uint32_t most_choices);

// ---- the parts. Each takes its share of the time, and returns a lode_code.

int probe_memory(struct probe *probe, uint64_t end_ns, struct lode_error *error);
int probe_dense(struct probe *probe, uint64_t end_ns, struct lode_error *error);
int probe_experts(struct probe *probe, uint64_t end_ns, struct lode_error *error);
int probe_attention(struct probe *probe, uint64_t end_ns, struct lode_error *error);
int probe_operations(struct probe *probe, uint64_t end_ns, struct lode_error *error);

// The end of a part that has `weight` of what is left until end_ns, whose weights are `all`.
uint64_t probe_part_end(uint64_t end_ns, double weight, double all);

// Rows that products by a vendor's library are measured from.
#define PROBE_LIBRARY_ROWS 32

// ---- GPUs: probe_gpu.c, probe_gpu_link.c, probe_gpus.c

// Fills profile->gpus[index], of which the description is there.
int probe_gpu(struct probe *probe, uint32_t index, uint64_t end_ns, struct lode_error *error);
int probe_gpu_link(struct probe *probe, uint64_t end_ns, struct lode_error *error);

void probe_gpu_describe(struct profile_device *out, const struct lode_gpu *about, const char *backend);
// Those of this machine that can be used: descriptions alone.
void probe_gpus_find(struct machine_profile *out);
bool probe_gpu_is_executed_on_cpu(const char *backend);

// What differs between the GPUs of two profiles; false: nothing.
bool probe_gpus_differ(char *why, size_t capacity, const struct machine_profile *was,
                       const struct machine_profile *is);

void probe_tame(char *text);              // what files of profiles cannot have becomes '?'
uint64_t probe_whole_gib(uint64_t bytes); // rounded

// A chain of products as decode makes it, weights of Q4_0 from memory. It needs the arena for itself.
struct probe_chain {
    struct probe *probe;
    enum lode_type type;
    uint32_t n_rows;
    uint32_t n_matrices; // of a link
    uint32_t n_copies, copy;
    size_t copy_bytes;
    struct lode_matrix matrices[4]; // in the first copy
    uint32_t n_shapes;
    void (*between)(void *user); // called after each product; may be NULL
    void *user;
};

// False where the arena is too small for this type.
bool probe_chain_make(struct probe_chain *out, struct probe *probe, enum lode_type type);
void probe_chain_run(void *chain);                         // one link
double probe_chain_bytes(const struct probe_chain *chain); // of weights that a link reads

// ---- the drive: probe_drive*.c

// The block device under a path or of a name in /sys/block; name and device of `out` are filled. A path that
// is not there is an error; one without a block device (a network, memory) leaves `device` empty.
int probe_drive_find(struct profile_drive *out, const char *path, struct lode_error *error);
bool probe_drive_named(struct profile_drive *out, const char *device);

struct probe_file {
    int fd; // of a nameless file; -1: the file is the user's
    char path[4096];
    uint64_t bytes;
};

int probe_file_open(struct probe_file *out, struct probe *probe, double seconds, struct lode_error *error);
void probe_file_close(struct probe_file *file);
void probe_file_drop(const struct probe_file *file); // from the page cache

struct io;

// Reads records of a file in an order without pattern, several at the same time.
struct probe_reader {
    struct io *io;
    uint8_t *memory;
    size_t memory_bytes, stride;
    uint32_t n_buffers;
    uint64_t record_bytes, n_records, step, next;
    bool direct;
    uint64_t read_bytes; // of the records that arrived
};

int probe_reader_open(struct probe_reader *out, const struct probe_file *file, bool direct,
                      uint64_t record_bytes, uint32_t queue_depth, uint64_t memory_bytes,
                      struct lode_error *error);
void probe_reader_close(struct probe_reader *reader);
int probe_reader_start(struct probe_reader *reader, struct lode_error *error);
// Takes what has arrived and asks for as much anew; waits for `min` at most `timeout_ns`.
int probe_reader_pump(struct probe_reader *reader, uint32_t min, int64_t timeout_ns,
                      struct lode_error *error);

int probe_drive(struct probe *probe, struct probe_file *file, uint64_t end_ns, struct lode_error *error);
int probe_interference(struct probe *probe, const struct probe_file *file, uint64_t end_ns,
                       struct lode_error *error);

#endif
