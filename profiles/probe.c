// What the machine is, and the parts of the measurement in their order, each with its share of the time.
#include "profiles/probe.h"

#include "backends/cpu/cpu.h"
#include "backends/cpu/cpu_topology.h"
#include "backends/cpu/isa.h"
#include "base/bytes_text.h"
#include "base/clock.h"
#include "profiles/host_memory.h"
#include "profiles/probe_internal.h"
#include "profiles/utc_time.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)
#define LEAST_MEMORY_BYTES (64 * MIB)
#define ARENA_BYTES (256 * MIB)
#define OTHER_BYTES (80 * MIB) // activations, scratch of the device, buffers of the drive beside them

static const char *const mode_names[] = {"quick", "full", "thorough"};

// ---- what the machine is

static void text_hash_step(uint64_t *hash, const char *text)
{
    for (; *text; text++)
        *hash = (*hash ^ (unsigned char)*text) * 0x100000001b3u; // FNV-1a
    *hash = (*hash ^ 0xff) * 0x100000001b3u;                     // an end that no text has in it
}

uint64_t probe_whole_gib(uint64_t bytes)
{
    return (bytes + 512 * MIB) / (1024 * MIB);
}

void probe_fingerprint(char out[17], const struct machine_profile *profile)
{
    char numbers[64];
    uint64_t hash = 0xcbf29ce484222325u;
    text_hash_step(&hash, profile->cpu.name);
    snprintf(numbers, sizeof numbers, "%" PRIu32 " %" PRIu64, profile->cpu.cores,
             probe_whole_gib(profile->cpu.memory_bytes));
    text_hash_step(&hash, numbers);
    text_hash_step(&hash, profile->cpu.isa);
    text_hash_step(&hash, profile->n_drives ? profile->drives[0].name : "");
    for (uint32_t g = 0; g < profile->n_gpus; g++) {
        const struct profile_device *gpu = &profile->gpus[g];
        text_hash_step(&hash, gpu->name);
        snprintf(numbers, sizeof numbers, "%.16s %" PRIu64, gpu->backend, probe_whole_gib(gpu->memory_bytes));
        text_hash_step(&hash, numbers);
    }
    snprintf(out, 17, "%016" PRIx64, hash);
}

// Names go into a file and back, so they are kept to what both sides agree upon.
void probe_tame(char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

static void discover_caches(uint64_t *out_bytes, const struct cpu_topology *topology)
{
    *out_bytes = 0;
    if (topology->n_caches) {
        const struct cpu_cache *last = &topology->caches[topology->n_caches - 1];
        *out_bytes = last->bytes * last->count;
    }
}

static int discover_cpu(struct profile_device *out, const char *isa_name, uint64_t *out_cache_bytes,
                        struct lode_error *error)
{
    struct cpu_topology topology;
    struct host_memory memory;
    enum cpu_isa isa;
    int code = cpu_isa_choose(&isa, isa_name, error);
    if (!code)
        code = host_memory_read(&memory, "/", error);
    if (!code)
        code = cpu_topology_open(&topology, error);
    if (code)
        return code;
    snprintf(out->name, sizeof out->name, "%s", topology.model[0] ? topology.model : "unknown processor");
    probe_tame(out->name);
    snprintf(out->backend, sizeof out->backend, "cpu");
    snprintf(out->isa, sizeof out->isa, "%s", cpu_isa_name(isa));
    out->cores = topology.n_cores;
    out->memory_bytes = memory.total_bytes;
    discover_caches(out_cache_bytes, &topology);
    cpu_topology_close(&topology);
    return LODE_OK;
}

static void name_machine(struct machine_profile *out)
{
    const int len = snprintf(out->name, sizeof out->name, "%.60s, %" PRIu64 " GiB", out->cpu.name,
                             probe_whole_gib(out->cpu.memory_bytes));
    if (out->n_gpus)
        snprintf(out->name + len, sizeof out->name - (size_t)len, ", %.30s", out->gpus[0].name);
}

// GPUs: those of the options to be measured, or those that there are.
static int discover(struct machine_profile *out, const struct probe_options *options, bool measures,
                    uint64_t *cache_bytes, struct lode_error *error)
{
    machine_profile_clear(out);
    int code = discover_cpu(&out->cpu, options->isa, cache_bytes, error);
    if (!code && options->drive_path) {
        code = probe_drive_find(&out->drives[0], options->drive_path, error);
        out->n_drives = code ? 0 : 1;
        probe_tame(out->drives[0].name);
    }
    if (code)
        return code;
    if (!measures)
        probe_gpus_find(out);
    for (uint32_t g = 0; g < options->n_gpus && measures; g++)
        probe_gpu_describe(&out->gpus[out->n_gpus++], &options->gpus[g].about, options->gpus[g].backend);
    name_machine(out);
    probe_fingerprint(out->fingerprint, out);
    return LODE_OK;
}

int probe_discover(struct machine_profile *out, const struct probe_options *options, struct lode_error *error)
{
    uint64_t cache_bytes;
    return discover(out, options, false, &cache_bytes, error);
}

// ---- whether it is the same

static void find_difference(char *why, size_t capacity, const struct machine_profile *was,
                            const struct machine_profile *is, bool drive_is_there)
{
    if (strcmp(was->cpu.name, is->cpu.name) != 0)
        snprintf(why, capacity, "the processor was %s and is %s", was->cpu.name, is->cpu.name);
    else if (was->cpu.cores != is->cpu.cores)
        snprintf(why, capacity, "there were %u cores and are %u", was->cpu.cores, is->cpu.cores);
    else if (probe_whole_gib(was->cpu.memory_bytes) != probe_whole_gib(is->cpu.memory_bytes))
        snprintf(why, capacity, "there were %" PRIu64 " GiB of memory and are %" PRIu64,
                 probe_whole_gib(was->cpu.memory_bytes), probe_whole_gib(is->cpu.memory_bytes));
    else if (strcmp(was->cpu.isa, is->cpu.isa) != 0)
        snprintf(why, capacity, "the kernels were those for %s, which this processor lacks", was->cpu.isa);
    else if (!drive_is_there)
        snprintf(why, capacity, "the drive %s (%s) is not there", was->drives[0].device, was->drives[0].name);
    else if (was->n_drives && strcmp(was->drives[0].name, is->drives[0].name) != 0)
        snprintf(why, capacity, "the drive %s was %s and is %s", was->drives[0].device, was->drives[0].name,
                 is->drives[0].name);
    else if (!probe_gpus_differ(why, capacity, was, is))
        snprintf(why, capacity, "its fingerprint is not that of its own figures");
}

int probe_recognise(bool *out_same, char *why, size_t capacity, const struct machine_profile *profile,
                    struct lode_error *error)
{
    struct machine_profile here;
    enum cpu_isa isa;
    const bool has_isa = cpu_isa_choose(&isa, profile->cpu.isa, NULL) == LODE_OK;
    const struct probe_options options = {.isa = has_isa ? profile->cpu.isa : NULL};
    int code = probe_discover(&here, &options, error);
    if (code)
        return code;
    bool drive_is_there = true;
    if (profile->n_drives) {
        here.n_drives = 1;
        if (profile->drives[0].device[0])
            drive_is_there = probe_drive_named(&here.drives[0], profile->drives[0].device);
        else
            here.drives[0] = profile->drives[0]; // no block device: nothing to compare
        probe_tame(here.drives[0].name);
    }
    probe_fingerprint(here.fingerprint, &here);
    *out_same = strcmp(here.fingerprint, profile->fingerprint) == 0;
    why[0] = '\0';
    if (!*out_same)
        find_difference(why, capacity, profile, &here, drive_is_there);
    return LODE_OK;
}

// ---- the measurement

// Of the time of everything else.
#define GPU_SHARE 0.25

static double total_seconds(const struct probe_options *options)
{
    static const double seconds[] = {9, 54, 280};
    return options->seconds > 0 ? options->seconds
                                : seconds[options->mode] * (1 + GPU_SHARE * options->n_gpus);
}

static int bound_memory(struct probe *probe, struct lode_error *error)
{
    struct host_memory memory;
    int code = host_memory_read(&memory, "/", error);
    if (code)
        return code;
    probe->memory_bytes = memory.available_bytes / 4;
    if (probe->options->memory_bytes && probe->options->memory_bytes < probe->memory_bytes)
        probe->memory_bytes = probe->options->memory_bytes;
    if (probe->memory_bytes >= LEAST_MEMORY_BYTES)
        return LODE_OK;
    return lode_fail(error, LODE_ERR_MEMORY,
                     "%s are too few to measure with; at least %s, a quarter of what "
                     "is available, have to be free",
                     bytes_text(probe->memory_bytes).text, bytes_text(LEAST_MEMORY_BYTES).text);
}

static int open_device(struct probe *probe, struct lode_error *error)
{
    const struct cpu_options options = {.threads = probe->options->threads, .isa = probe->options->isa};
    probe->most_rows = PROBE_ROWS;
    probe->most_choices = PROBE_JOBS * PROBE_EXPERT_ROWS;
    const struct lode_limits limits = probe_limits(probe->most_rows, probe->most_choices);
    int code = cpu_open(&probe->device, &options, error);
    if (code)
        return code;
    probe->figures = &probe->profile->cpu;
    probe->profile->cpu.threads = cpu_threads(probe->device);
    snprintf(probe->profile->cpu.isa, sizeof probe->profile->cpu.isa, "%s", cpu_isa(probe->device));
    return probe->device->ops->reserve(probe->device, &limits, error);
}

static int make_operands(struct probe *probe, struct lode_error *error)
{
    size_t arena_bytes = 2 * probe->cache_bytes > ARENA_BYTES ? 2 * probe->cache_bytes : ARENA_BYTES;
    if (probe->options->mode == PROBE_THOROUGH)
        arena_bytes *= 2;
    if (probe->options->mode == PROBE_QUICK && arena_bytes >= 4 * probe->cache_bytes)
        arena_bytes /= 2; // filling it takes a good part of the time
    const size_t most_bytes =
        probe->memory_bytes > 2 * OTHER_BYTES ? probe->memory_bytes - OTHER_BYTES : probe->memory_bytes / 2;
    arena_bytes = arena_bytes < most_bytes ? arena_bytes : most_bytes;
    if (arena_bytes < 2 * probe->cache_bytes)
        probe_note(probe,
                   "too little memory is free to see beyond the caches: weights of %s beside %s of cache",
                   bytes_text(arena_bytes).text, bytes_text(probe->cache_bytes).text);
    return probe_operands_make(probe, arena_bytes, error);
}

static void close_cpu(struct probe *probe)
{
    if (!probe->device)
        return;
    probe_operands_free(probe);
    probe->device->ops->close(probe->device);
    probe->device = NULL;
}

typedef int (*kernel_part)(struct probe *probe, uint64_t end_ns, struct lode_error *error);

uint64_t probe_part_end(uint64_t end_ns, double weight, double all)
{
    const uint64_t now_ns = clock_now_ns();
    return now_ns >= end_ns ? now_ns : now_ns + (uint64_t)((double)(end_ns - now_ns) * weight / all);
}

static uint64_t part_end(const struct probe *probe, double weight, double all)
{
    return probe_part_end(probe->end_ns, weight, all);
}

static int measure_kernels(struct probe *probe, double *left, struct lode_error *error)
{
    static const struct {
        const char *what;
        double weight;
        kernel_part measure;
    } parts[] = {{"measuring products", 18, probe_dense},
                 {"measuring experts", 11, probe_experts},
                 {"measuring attention", 6, probe_attention},
                 {"measuring small operations", 1, probe_operations}};
    int code = make_operands(probe, error);
    for (size_t i = 0; i < sizeof parts / sizeof *parts && !code; i++) {
        probe->what = parts[i].what;
        code = parts[i].measure(probe, part_end(probe, parts[i].weight, *left), error);
        *left -= parts[i].weight;
    }
    return code;
}

static int measure_gpus(struct probe *probe, double weight, double left, struct lode_error *error)
{
    int code = LODE_OK;
    for (uint32_t g = 0; g < probe->options->n_gpus && !code; g++) {
        code = probe_gpu(probe, g, part_end(probe, weight, left), error);
        left -= weight;
    }
    return code;
}

// The drive first: it is what fails, and one need not wait for that.
static int measure(struct probe *probe, struct probe_file *file, struct lode_error *error)
{
    const bool has_drive = probe->profile->n_drives > 0;
    const double drive = 14, memory = 3, kernels = 36, both = 3;
    double left = memory + kernels + (has_drive ? drive + both : 0);
    const double gpu = left * GPU_SHARE;
    left += gpu * probe->options->n_gpus;
    int code = open_device(probe, error);
    probe->what = "measuring the drive";
    if (!code && has_drive) {
        code = probe_drive(probe, file, part_end(probe, drive, left), error);
        left -= drive;
    }
    probe->what = "measuring memory";
    if (!code)
        code = probe_memory(probe, part_end(probe, memory, left), error);
    left -= memory;
    if (!code)
        code = measure_kernels(probe, &left, error);
    probe->what = "measuring products beside reads";
    if (!code && has_drive) {
        code = probe_interference(probe, file, part_end(probe, both, left), error);
        left -= both;
    }
    close_cpu(probe); // its memory is free for what is copied to GPUs, and its threads are gone
    return code ? code : measure_gpus(probe, gpu, left, error);
}

static void sign(struct machine_profile *profile, enum probe_mode mode)
{
    utc_time_now(profile->made);
    snprintf(profile->made_by, sizeof profile->made_by, "lode " LODE_VERSION);
    snprintf(profile->mode, sizeof profile->mode, "%s", mode_names[mode]);
    profile->origin = PROFILE_MEASURED;
    for (uint32_t g = 0; g < profile->n_gpus; g++)
        if (probe_gpu_is_executed_on_cpu(profile->gpus[g].backend))
            snprintf(profile->source, sizeof profile->source,
                     "GPU %" PRIu32 " is executed on the CPU: its figures are those of no GPU", g);
    probe_fingerprint(profile->fingerprint, profile);
}

int probe_machine(struct machine_profile *out, const struct probe_options *options, struct lode_error *error)
{
    struct probe probe = {.options = options, .profile = out};
    struct probe_file file = {.fd = -1};
    probe.start_ns = clock_now_ns();
    probe.end_ns = probe.start_ns + (uint64_t)(total_seconds(options) * 1e9);
    const double others_s = probe_others_seconds();
    if (options->n_gpus > PROFILE_GPUS)
        return lode_fail(error, LODE_ERR_ARGUMENT, "a profile has at most %d GPUs", PROFILE_GPUS);
    int code = discover(out, options, true, &probe.cache_bytes, error);
    if (!code)
        code = bound_memory(&probe, error);
    if (!code)
        code = measure(&probe, &file, error);
    probe_file_close(&file);
    if (code)
        return code;
    probe_note_others(&probe, others_s);
    sign(out, options->mode);
    return machine_profile_check(out, "the measured profile", error);
}
