// The kernels' laboratory: times matrix products of every type, instruction set and some shapes of Gemma 4
// against what this machine can read and compute at best.
//
// Weights come from a ring of copies larger than any cache, as in a decoder that reads each weight once a
// token. Times are the best of many calls, as is the roofline: both mean an undisturbed machine.
#include "backends/cpu/cpu.h"
#include "backends/cpu/dequantize.h"
#include "bench/roofline.h"
#include "tests/weights.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define RING_BYTES ((size_t)192 << 20)
#define ERROR_SAMPLES 24

struct shape {
    uint32_t rows, cols;
};

// 26B-A4B: dense up, expert up, expert down; 31B: dense down.
static const struct shape shapes[] = {{2112, 2816}, {1408, 2816}, {2816, 704}, {5376, 21504}};
static const uint32_t token_counts[] = {1, 4, 32, 512};

struct options {
    const char *type, *isa;
    uint32_t tokens, threads, shape; // 0: all; shape counts from 1
    double cell_seconds;
};

struct cell {
    struct lode_matrix weight;
    uint32_t n_copies, tokens;
    struct lode_rows x, out;
};

static void die(const char *text)
{
    fprintf(stderr, "kernels: %s\n", text);
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 64 + 63) / 64 * 64);
    if (!memory)
        die("out of memory");
    return memory;
}

// Random blocks, repeated out of order: making every block anew would take longer than timing them.
static struct cell make_cell(enum lode_type type, struct shape shape, uint32_t tokens)
{
    const struct lode_type_traits *traits = lode_type_find(type);
    struct cell cell = {.tokens = tokens};
    size_t row_bytes = (size_t)shape.cols / traits->block_elems * traits->block_bytes;
    size_t bytes = row_bytes * shape.rows;
    cell.n_copies = (uint32_t)(tokens == 1 && bytes < RING_BYTES ? RING_BYTES / bytes : 1);
    uint8_t *data = allocate(bytes * cell.n_copies);
    struct test_random random = {type};
    size_t seed_blocks = 4096;
    for (size_t b = 0; b < bytes / traits->block_bytes; b++) {
        if (b < seed_blocks)
            test_random_block(&random, type, data + b * traits->block_bytes);
        else
            memcpy(data + b * traits->block_bytes, data + (b * 31 % seed_blocks) * traits->block_bytes,
                   traits->block_bytes);
    }
    for (uint32_t c = 1; c < cell.n_copies; c++)
        memcpy(data + c * bytes, data, bytes);
    cell.weight = (struct lode_matrix){data, type, shape.rows, shape.cols, row_bytes};
    cell.x = (struct lode_rows){allocate((size_t)tokens * shape.cols * sizeof(float)), tokens, shape.cols,
                                shape.cols};
    cell.out = (struct lode_rows){allocate((size_t)tokens * shape.rows * sizeof(float)), tokens, shape.rows,
                                  shape.rows};
    for (size_t i = 0; i < (size_t)tokens * shape.cols; i++)
        cell.x.data[i] = test_random_float(&random);
    return cell;
}

static void free_cell(struct cell *cell)
{
    free((void *)(uintptr_t)cell->weight.data);
    free(cell->x.data);
    free(cell->out.data);
}

static double best_seconds(struct lode_device *device, const struct cell *cell, double budget_seconds)
{
    double best = 1e9, begin = seconds_now();
    size_t bytes = cell->weight.row_bytes * cell->weight.rows;
    for (uint32_t call = 0; call < 2 * cell->n_copies || seconds_now() - begin < budget_seconds; call++) {
        struct lode_matrix weight = cell->weight;
        weight.data = (const uint8_t *)cell->weight.data + call % cell->n_copies * bytes;
        double start = seconds_now();
        device->ops->matmul(device, &cell->out, &weight, 1, cell->x);
        double taken = seconds_now() - start;
        best = taken < best ? taken : best;
    }
    return best;
}

// Largest deviation of some results from double precision, rounding of the activations included, in parts of
// the sum of the magnitudes.
static double worst_error(const struct cell *cell)
{
    struct test_random random = {3};
    const struct lode_matrix *w = &cell->weight;
    float *row = allocate(w->cols * sizeof *row);
    double worst = 0;
    for (int s = 0; s < ERROR_SAMPLES; s++) {
        uint32_t r = test_random_u32(&random) % w->rows, i = test_random_u32(&random) % cell->tokens;
        cpu_dequantize(row, w->type, (const uint8_t *)w->data + r * w->row_bytes, w->cols);
        const float *x = cell->x.data + (size_t)i * cell->x.stride;
        double sum = 0, magnitude = 0;
        for (uint32_t c = 0; c < w->cols; c++) {
            sum += (double)row[c] * x[c];
            magnitude += fabs((double)row[c] * x[c]);
        }
        worst = fmax(worst, fabs(cell->out.data[(size_t)i * cell->out.stride + r] - sum) / magnitude);
    }
    free(row);
    return worst;
}

static void print_cell(struct lode_device *device, const struct cell *cell, const struct roofline *roofline,
                       double budget_seconds)
{
    double seconds = best_seconds(device, cell, budget_seconds);
    const struct lode_matrix *w = &cell->weight;
    double gbps = (double)w->row_bytes * w->rows / seconds * 1e-9;
    double gflops = 2.0 * w->rows * w->cols * cell->tokens / seconds * 1e-9;
    bool quantised = lode_type_find(w->type)->block_elems > 1;
    double peak = quantised ? roofline->int8_gflops : roofline->float_gflops;
    double memory_share = gbps / roofline->read_gbps, compute_share = peak > 0 ? gflops / peak : 0;
    bool bound_by_memory = memory_share > compute_share;
    printf("%-8s %-7s %5ux%-5u %4u %10.1f %8.2f %9.1f %5.0f%% %-7s %8.1e\n", cpu_isa(device),
           lode_type_name(w->type), w->rows, w->cols, cell->tokens, seconds * 1e6, gbps, gflops,
           100 * (bound_by_memory ? memory_share : compute_share), bound_by_memory ? "read" : "compute",
           worst_error(cell));
    fflush(stdout);
}

static bool wants_type(const struct options *options, enum lode_type type)
{
    return !options->type || strcasecmp(options->type, lode_type_name(type)) == 0;
}

static void bench_device(struct lode_device *device, const struct options *options,
                         const struct roofline *roofline)
{
    struct lode_limits limits = {.rows = 512, .cols = 21504, .ffn_width = 32, .expert_rows = 1};
    struct lode_error error;
    if (device->ops->reserve(device, &limits, &error) != LODE_OK)
        die(error.text);
    for (unsigned t = 0; t < test_n_types; t++)
        for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (unsigned n = 0; n < sizeof token_counts / sizeof *token_counts; n++) {
                uint32_t block = lode_type_find(test_types[t])->block_elems;
                bool wanted = wants_type(options, test_types[t]) &&
                              (!options->shape || options->shape == s + 1) &&
                              (!options->tokens || options->tokens == token_counts[n]);
                if (!wanted || shapes[s].cols % block)
                    continue;
                struct cell cell = make_cell(test_types[t], shapes[s], token_counts[n]);
                print_cell(device, &cell, roofline, options->cell_seconds);
                free_cell(&cell);
            }
}

static void print_usage(void)
{
    puts("usage: kernels [--type NAME] [--isa NAME] [--rows N] [--shape 1-4] [--threads N] [--quick]\n"
         "Times matrix products: --rows 1, 4, 32 or 512 rows of activations; all that is not chosen is run.");
}

static struct options parse_options(int n_args, char **args)
{
    static const struct option long_options[] = {
        {"type", required_argument, NULL, 't'},  {"isa", required_argument, NULL, 'i'},
        {"rows", required_argument, NULL, 'r'},  {"threads", required_argument, NULL, 'n'},
        {"shape", required_argument, NULL, 's'}, {"quick", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},        {0},
    };
    struct options options = {.cell_seconds = 0.5};
    for (int c; (c = getopt_long(n_args, args, "", long_options, NULL)) != -1;) {
        uint32_t number = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
        switch (c) {
        case 't':
            options.type = optarg;
            break;
        case 'i':
            options.isa = optarg;
            break;
        case 'r':
            options.tokens = number;
            break;
        case 'n':
            options.threads = number;
            break;
        case 's':
            options.shape = number;
            break;
        case 'q':
            options.cell_seconds = 0.05;
            break;
        case 'h':
            print_usage();
            exit(0);
        default:
            print_usage();
            exit(2);
        }
    }
    return options;
}

int main(int n_args, char **args)
{
    struct options options = parse_options(n_args, args);
    for (int isa = 0; isa < CPU_ISA_END; isa++) {
        if (!cpu_isa_available(isa) || (options.isa && strcmp(options.isa, cpu_isa_name(isa)) != 0))
            continue;
        struct lode_device *device;
        struct lode_error error;
        struct cpu_options cpu = {.threads = options.threads, .isa = cpu_isa_name(isa)};
        if (cpu_open(&device, &cpu, &error) != LODE_OK)
            die(error.text);
        struct roofline roofline = measure_roofline(isa, cpu_threads(device));
        printf("%s, %u threads: reads %.1f GB/s, computes %.0f GFLOP/s float, %.0f int8\n", cpu_isa_name(isa),
               cpu_threads(device), roofline.read_gbps, roofline.float_gflops, roofline.int8_gflops);
        printf("%-8s %-7s %11s %4s %10s %8s %9s %6s %-7s %8s\n", "isa", "type", "weights", "rows", "us",
               "GB/s", "GFLOP/s", "of", "peak", "error");
        bench_device(device, &options, &roofline);
        device->ops->close(device);
    }
    return 0;
}
