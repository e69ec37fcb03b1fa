// The laboratory for kernels of GPUs: times the operations of one GPU for the types and shapes of Gemma 4,
// against the rate at which its memory copies.
//
// What a decoder reads once a token lies in a block of 512 MiB or a quarter of what is free, in copies that
// take turns, so that no cache holds it. Calls are made in batches of some milliseconds before the GPU is
// waited for; the best batch counts, as does the best copy, which is measured before and after.
#include "bench/gpu_kernels.h"

#include "base/clock.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define ARENA_BYTES (512 * MIB)
#define STAGING_BYTES (8 * MIB)
#define BATCH_SECONDS 2e-3
#define BATCH_CALLS 1024
#define X_FLOATS ((size_t)GPU_ROWS * GPU_COLS)
#define OUT_FLOATS ((size_t)GPU_CHOICES * 2816) // more than X_FLOATS and a row of the head
#define ONES 8192

static void take_device(const struct lab_program *program, void *user, int letter, const char *value)
{
    (void)program, (void)letter;
    *(const char **)user = value;
}

static const struct option long_options[] = {{"device", required_argument, NULL, 'd'}, LAB_OPTIONS};

static const struct lab_program program = {
    .name = "gpu_kernels",
    .usage = "usage: gpu_kernels [--device NAME] [--filter WORDS] [--seconds S] [--json FILE] [--list]\n"
             "Times the operations of one GPU against the rate at which its memory copies.\n"
             "  --device NAME   cuda0, hip1, simt0 (the first that can be used; lode devices lists them)\n"
             "  --filter WORDS  cells that have all the words in their line of --list; a,b: either of them\n"
             "                  for example --filter \"matmul Q4_0,Q6_K 26b rows=1\"\n"
             "  --seconds S     for each cell, 0.1 unless told; the best batch of calls counts\n"
             "  --json FILE     the figures\n"
             "  --list          only say what there is\n",
    .options = long_options,
    .take = take_device,
};

static void die(const char *text)
{
    lab_die(&program, text);
}

static void check_fault(const struct gpu_lab *lab)
{
    if (lab->probe.fault)
        die(lab->probe.fault_error.text);
}

// ---- cells

bool gpu_lab_wants(struct gpu_lab *lab, const char *op, const char *type, const char *shape)
{
    char line[128];
    snprintf(line, sizeof line, "%-17s %-8s %s", op, type, shape);
    if (!lab_wants(&lab->options, line))
        return false;
    lab->n_cells++;
    if (lab->options.list)
        puts(line);
    return !lab->options.list;
}

static double timed_batch(struct gpu_lab *lab, gpu_run_fn run, void *user, uint32_t n_calls)
{
    const uint64_t start_ns = clock_now_ns();
    for (uint32_t i = 0; i < n_calls; i++)
        run(user);
    if (!lab->probe.fault)
        lab->probe.fault = lab->device->ops->sync(lab->device, &lab->probe.fault_error);
    check_fault(lab);
    return clock_seconds_since(start_ns) / n_calls;
}

static double best_time(struct gpu_lab *lab, gpu_run_fn run, void *user)
{
    const uint64_t start_ns = clock_now_ns();
    uint32_t n_calls = 1;
    double best = timed_batch(lab, run, user, 1);
    while (n_calls < BATCH_CALLS && best * n_calls < BATCH_SECONDS) {
        n_calls *= 4;
        best = timed_batch(lab, run, user, n_calls);
    }
    while (!lab_stopped() && clock_seconds_since(start_ns) < lab->options.cell_seconds)
        best = fmin(best, timed_batch(lab, run, user, n_calls));
    return best;
}

void gpu_lab_measure(struct gpu_lab *lab, const char *op, const char *type, const char *shape,
                     struct gpu_cost cost, gpu_run_fn run, void *user)
{
    check_fault(lab);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%-17s %-8s %-48s\r", op, type, shape);
    if (lab->n_rows == lab->capacity) {
        lab->capacity = lab->capacity ? 2 * lab->capacity : 256;
        lab->rows = realloc(lab->rows, lab->capacity * sizeof *lab->rows);
        if (!lab->rows)
            die("no memory for the rows of the table");
    }
    struct gpu_row *row = &lab->rows[lab->n_rows++];
    *row = (struct gpu_row){.cost = cost, .seconds = best_time(lab, run, user)};
    snprintf(row->op, sizeof row->op, "%s", op);
    snprintf(row->type, sizeof row->type, "%s", type);
    snprintf(row->shape, sizeof row->shape, "%s", shape);
}

static void go_through(struct gpu_lab *lab)
{
    gpu_lab_products(lab);
    gpu_lab_experts(lab);
    gpu_lab_attention(lab);
    gpu_lab_small(lab);
}

// ---- the device

static void copy_half(void *user)
{
    struct gpu_lab *lab = user;
    const size_t half = lab->probe.arena_bytes / 2;
    if (!lab->probe.fault)
        lab->probe.fault = lab->device->ops->copy(lab->device, lab->probe.arena + half, lab->probe.arena,
                                                  half, &lab->probe.fault_error);
}

static void measure_copies(struct gpu_lab *lab)
{
    const double gbps = 2.0 * (double)(lab->probe.arena_bytes / 2) / best_time(lab, copy_half, lab) / 1e9;
    lab->copy_gbps = fmax(lab->copy_gbps, gbps);
}

static void *device_memory(struct gpu_lab *lab, size_t bytes)
{
    void *memory;
    struct lode_error error;
    if (lab->device->ops->alloc(lab->device, &memory, bytes, &error))
        die(error.text);
    return memory;
}

static void fill_floats(struct gpu_lab *lab, float *out, size_t n, float one)
{
    struct probe *probe = &lab->probe;
    const size_t piece = STAGING_BYTES / sizeof(float);
    float *host = (float *)(void *)probe->staging;
    probe_fill_floats(host, piece);
    for (size_t i = 0; i < piece && one > 0; i++)
        host[i] = one;
    for (size_t at = 0; at < n && !probe->fault; at += piece)
        probe->fault =
            lab->device->ops->upload(lab->device, out + at, host,
                                     (n - at < piece ? n - at : piece) * sizeof(float), &probe->fault_error);
    check_fault(lab);
}

static void make_operands(struct gpu_lab *lab)
{
    static const struct lode_limits limits = {.rows = GPU_ROWS,
                                              .cols = GPU_COLS,
                                              .ffn_width = GPU_COLS,
                                              .n_heads = 32,
                                              .head_size = 512,
                                              .expert_rows = GPU_CHOICES};
    const struct lode_device_ops *ops = lab->device->ops;
    struct lode_error error;
    int32_t ids[GPU_CHOICES];
    uint64_t free_bytes, total_bytes;
    lab->probe_options.mode = PROBE_THOROUGH;
    lab->probe = (struct probe){.options = &lab->probe_options,
                                .device = lab->device,
                                .staging = malloc(STAGING_BYTES),
                                .staging_bytes = STAGING_BYTES};
    if (!lab->probe.staging)
        die("no memory for what is copied to the GPU");
    if (ops->reserve(lab->device, &limits, &error) ||
        ops->memory(lab->device, &free_bytes, &total_bytes, &error))
        die(error.text);
    lab->probe.arena_bytes = free_bytes / 4 < ARENA_BYTES ? free_bytes / 4 : ARENA_BYTES;
    lab->probe.arena_bytes -= lab->probe.arena_bytes % (2 * LODE_DEVICE_ALIGN);
    lab->probe.arena = device_memory(lab, lab->probe.arena_bytes);
    lab->probe.x = device_memory(lab, X_FLOATS * sizeof(float));
    lab->probe.out = device_memory(lab, OUT_FLOATS * sizeof(float));
    lab->ids = device_memory(lab, sizeof ids);
    lab->weights = device_memory(lab, ONES * sizeof(float));
    lab->entries = device_memory(lab, GPU_EXPERTS * sizeof *lab->entries);
    fill_floats(lab, lab->probe.x, X_FLOATS, 0);
    fill_floats(lab, lab->weights, ONES, 1);
    for (int i = 0; i < GPU_CHOICES; i++)
        ids[i] = i % 8;
    if (ops->upload(lab->device, lab->ids, ids, sizeof ids, &error))
        die(error.text);
    probe_put_blocks(&lab->probe, 0, LODE_F16, lab->probe.arena_bytes);
}

static void free_operands(struct gpu_lab *lab)
{
    const struct lode_device_ops *ops = lab->device->ops;
    ops->free(lab->device, lab->probe.arena, lab->probe.arena_bytes);
    ops->free(lab->device, lab->probe.x, X_FLOATS * sizeof(float));
    ops->free(lab->device, lab->probe.out, OUT_FLOATS * sizeof(float));
    ops->free(lab->device, lab->ids, GPU_CHOICES * sizeof *lab->ids);
    ops->free(lab->device, lab->weights, ONES * sizeof(float));
    ops->free(lab->device, lab->entries, GPU_EXPERTS * sizeof *lab->entries);
    free(lab->probe.staging);
}

// ---- the report

static double gbps_of(const struct gpu_row *row)
{
    return row->cost.bytes / row->seconds / 1e9;
}

static double tflops_of(const struct gpu_row *row)
{
    return row->cost.ops / row->seconds / 1e12;
}

static void print_table(const struct gpu_lab *lab, const struct lode_gpu *about)
{
    printf("%s: %s, %s; copies within its memory %.1f GB/s, both ways counted\n\n", lab->device->name,
           about->name, about->architecture, lab->copy_gbps);
    printf("%-17s %-8s %-36s %11s %9s %6s %9s\n", "operation", "type", "shape", "us", "GB/s", "share",
           "TFLOP/s");
    for (uint32_t i = 0; i < lab->n_rows; i++) {
        const struct gpu_row *row = &lab->rows[i];
        printf("%-17s %-8s %-36s %11.2f %9.2f %5.0f%% %9.3f\n", row->op, row->type, row->shape,
               row->seconds * 1e6, gbps_of(row), 100 * gbps_of(row) / lab->copy_gbps, tflops_of(row));
    }
}

static bool write_json(const struct gpu_lab *lab, const struct lode_gpu *about, const char *path)
{
    json_t *cells = json_array();
    for (uint32_t i = 0; i < lab->n_rows; i++) {
        const struct gpu_row *row = &lab->rows[i];
        json_array_append_new(cells,
                              json_pack("{s:s,s:s,s:s,s:f,s:f,s:f,s:f}", "op", row->op, "type", row->type,
                                        "shape", row->shape, "seconds", row->seconds, "gbps", gbps_of(row),
                                        "share", gbps_of(row) / lab->copy_gbps, "tflops", tflops_of(row)));
    }
    json_t *root = json_pack("{s:s,s:s,s:s,s:s,s:f,s:o}", "version", LODE_VERSION, "device",
                             lab->device->name, "name", about->name, "architecture", about->architecture,
                             "copy_gbps", lab->copy_gbps, "cells", cells);
    const bool written = root && json_dump_file(root, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) == 0;
    json_decref(root);
    return written;
}

// ---- the program

static int measure_on(struct gpu_lab *lab, const struct probe_gpu *gpu)
{
    lab->device = gpu->device;
    lab_catch_signals();
    make_operands(lab);
    measure_copies(lab);
    go_through(lab);
    if (!lab->n_rows) {
        if (lab->n_cells)
            fputs("gpu_kernels: no cell fits into the GPU's memory\n", stderr);
        else
            lab_say_no_cell(&program);
        free_operands(lab);
        return 2;
    }
    measure_copies(lab);
    check_fault(lab);
    print_table(lab, &gpu->about);
    if (lab_stopped())
        printf("Interrupted after %u cells.\n", lab->n_rows);
    free_operands(lab);
    const char *path = lab->options.json_path;
    if (!path || write_json(lab, &gpu->about, path))
        return 0;
    lab_say_unwritten(&program, path);
    return 1;
}

int main(int n_args, char **args)
{
    const char *device = NULL;
    struct gpu_lab lab = {.options = lab_parse(&program, n_args, args, 0.1, &device)};
    if (lab.options.list) {
        go_through(&lab);
        return lab.n_cells ? 0 : 2;
    }
    struct probe_gpus *gpus;
    struct lode_error error;
    uint32_t n;
    if (probe_gpus_open(&gpus, device, &error))
        die(error.text);
    const struct probe_gpu *list = probe_gpus_list(gpus, &n);
    if (!n)
        die("there is no GPU that can be used; lode devices says why. --device simt0 executes the kernels on "
            "the CPU");
    const int code = measure_on(&lab, &list[0]);
    free(lab.rows);
    probe_gpus_close(gpus);
    return code;
}
