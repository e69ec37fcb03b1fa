// A machine in a line of text. What is left out follows from what is there:
//
//   ram GB/s    51.2: two channels of DDR4-3200
//   cores       one for 8 GB/s of RAM, 4 to 64: a PC with 51.2 GB/s has 6, one with 96 GB/s 12
//   gpu GB/s    30 for each GiB: 12 GB cards have 360 (RTX 3060) and 384 (RX 6700 XT), as the rule says; 24
//   GB
//               ones 936 to 1008 where it says 720, 8 GB ones 224 to 448 where it says 240
//   TFLOP/s     0.04 for each GB/s: RTX 3060 12.7 of 360, RTX 3090 35.6 of 936, RTX 4060 15.1 of 272
//   link        15.75: PCIe 3.0 x16, or 4.0 x8
//   drive       3.5: an NVMe SSD behind PCIe 3.0 x4
//
// and the curves from these as in machine_derive.c. The GPU's vendor is not asked: CUDA's rules are taken.
#include "profiles/machine_derive.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GIB 1073741824.0
#define RAM_GBPS 51.2
#define GBPS_PER_CORE 8
#define GPU_GBPS_PER_GIB 30
#define TFLOPS_PER_GBPS 0.04
#define LINK_GBPS 15.75
#define DRIVE_GBPS 3.5
#define DRIVE_LATENCY_US 60

#define MAX_TEXT 1024 // bytes
#define MAX_WORD 64

struct description {
    bool has_ram, has_cores, has_link[PROFILE_GPUS];
    double ram_bytes, ram_gbps, cores;
    uint32_t n_gpus, n_drives;
    struct {
        double bytes, gbps, tflops, link_gbps;
    } gpus[PROFILE_GPUS];
    double drive_gbps[PROFILE_DRIVES];
};

struct parser {
    struct description machine;
    char word[MAX_WORD]; // "gpu=12G@360"
    const char *value;   // what follows its '='
    struct lode_error *error;
};

#define FAIL(parser, format, ...)                                                                            \
    lode_fail((parser)->error, LODE_ERR_ARGUMENT, "the machine's '%s' " format, (parser)->word, __VA_ARGS__)

// ---- numbers
// -------------------------------------------------------------------------------------------------

// Digits with at most one point; the same in every locale.
static bool parse_number(double *out, const char **text)
{
    const char *at = *text;
    double place = 0;
    size_t n_digits = 0;
    *out = 0;
    for (; (*at >= '0' && *at <= '9') || (*at == '.' && place == 0); at++) {
        if (*at == '.') {
            place = 1;
            continue;
        }
        *out = *out * 10 + (*at - '0');
        place *= 10;
        n_digits++;
    }
    if (place > 1)
        *out /= place;
    *text = at;
    return n_digits > 0;
}

static bool parse_size(double *out, const char **text)
{
    static const char units[] = "KMGT";
    if (!parse_number(out, text))
        return false;
    const char *unit = **text ? strchr(units, **text) : NULL;
    if (unit) {
        *out = ldexp(*out, 10 * (int)(unit - units + 1));
        ++*text;
        if (strncmp(*text, "iB", 2) == 0)
            *text += 2;
        else if (**text == 'B')
            ++*text;
    }
    *out = floor(*out);
    return true;
}

// "@" and a number, when there is one: else *out stays.
static bool parse_rate(double *out, const char **text)
{
    if (**text != '@')
        return true;
    ++*text;
    return parse_number(out, text);
}

static int check_range(struct parser *parser, const char *what, double value, double low, double high,
                       const char *unit)
{
    if (value >= low && value <= high)
        return 0;
    return FAIL(parser, "says %g %s of %s, and between %g and %g are possible", value, unit, what, low, high);
}

static int check_gib(struct parser *parser, double bytes, double most)
{
    return check_range(parser, "memory", bytes / GIB, 0.25, most, "GiB");
}

// ---- words
// ---------------------------------------------------------------------------------------------------

static int parse_ram(struct parser *parser)
{
    struct description *machine = &parser->machine;
    const char *at = parser->value;
    if (machine->has_ram)
        return FAIL(parser, "is the second %s", "ram=");
    machine->has_ram = true;
    machine->ram_gbps = RAM_GBPS;
    if (!parse_size(&machine->ram_bytes, &at) || !parse_rate(&machine->ram_gbps, &at) || *at)
        return FAIL(parser, "must be %s", "ram=SIZE@GB/s, as ram=32G@60 or ram=32G");
    const int rc = check_gib(parser, machine->ram_bytes, 16384);
    return rc ? rc : check_range(parser, "memory", machine->ram_gbps, 1, 10000, "GB/s");
}

static int parse_cores(struct parser *parser)
{
    struct description *machine = &parser->machine;
    const char *at = parser->value;
    if (machine->has_cores)
        return FAIL(parser, "is the second %s", "cores=");
    machine->has_cores = true;
    if (!parse_number(&machine->cores, &at) || *at || machine->cores != floor(machine->cores))
        return FAIL(parser, "must be %s", "cores=N, as cores=8");
    return check_range(parser, "cores", machine->cores, 1, 1024, "pieces");
}

static int parse_gpu(struct parser *parser)
{
    struct description *machine = &parser->machine;
    const char *at = parser->value;
    double bytes, gbps = 0, tflops = 0;
    if (machine->n_gpus == PROFILE_GPUS)
        return FAIL(parser, "is one GPU more than the %d that are possible", PROFILE_GPUS);
    if (!parse_size(&bytes, &at))
        return FAIL(parser, "must be %s", "gpu=SIZE@GB/s@TFLOP/s, as gpu=12G@360@12.7 or gpu=12G");
    const bool has_gbps = *at == '@', is_rate = parse_rate(&gbps, &at), has_tflops = *at == '@';
    if (!is_rate || !parse_rate(&tflops, &at) || *at)
        return FAIL(parser, "must be %s", "gpu=SIZE@GB/s@TFLOP/s, as gpu=12G@360@12.7 or gpu=12G");
    int rc = check_gib(parser, bytes, 1024);
    if (!has_gbps)
        gbps = GPU_GBPS_PER_GIB * bytes / GIB;
    if (!has_tflops)
        tflops = TFLOPS_PER_GBPS * gbps;
    if (!rc && has_gbps)
        rc = check_range(parser, "memory", gbps, 1, 50000, "GB/s");
    if (!rc && has_tflops)
        rc = check_range(parser, "arithmetic", tflops, 0.01, 5000, "TFLOP/s");
    if (rc)
        return rc;
    machine->gpus[machine->n_gpus].bytes = bytes;
    machine->gpus[machine->n_gpus].gbps = gbps;
    machine->gpus[machine->n_gpus].tflops = tflops;
    machine->gpus[machine->n_gpus].link_gbps = LINK_GBPS;
    machine->n_gpus++;
    return 0;
}

static int parse_link(struct parser *parser)
{
    struct description *machine = &parser->machine;
    const char *at = parser->value;
    if (machine->n_gpus == 0)
        return FAIL(parser, "has no GPU before it: %s", "it is the link of the last gpu=");
    const uint32_t gpu = machine->n_gpus - 1;
    if (machine->has_link[gpu])
        return FAIL(parser, "is the second %s of the same GPU", "link=");
    machine->has_link[gpu] = true;
    if (!parse_number(&machine->gpus[gpu].link_gbps, &at) || *at)
        return FAIL(parser, "must be %s", "link=GB/s, as link=12");
    return check_range(parser, "link", machine->gpus[gpu].link_gbps, 0.1, 1000, "GB/s");
}

static int parse_drive(struct parser *parser)
{
    struct description *machine = &parser->machine;
    const char *at = parser->value;
    if (machine->n_drives == PROFILE_DRIVES)
        return FAIL(parser, "is one drive more than the %d that are possible", PROFILE_DRIVES);
    double *gbps = &machine->drive_gbps[machine->n_drives];
    if (!parse_number(gbps, &at) || *at)
        return FAIL(parser, "must be %s", "drive=GB/s, as drive=3.5");
    machine->n_drives++;
    return check_range(parser, "drive", *gbps, 0.01, 200, "GB/s");
}

static const struct {
    const char *name;
    int (*parse)(struct parser *parser);
} words[] = {{"ram", parse_ram},
             {"cores", parse_cores},
             {"gpu", parse_gpu},
             {"link", parse_link},
             {"drive", parse_drive}};

static int parse_word(struct parser *parser)
{
    const size_t len = strcspn(parser->word, "=");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strlen(words[i].name) == len && strncmp(words[i].name, parser->word, len) == 0) {
            parser->value = parser->word + len + (parser->word[len] == '=');
            return words[i].parse(parser);
        }
    return FAIL(parser, "is not understood; there are %s",
                "ram=SIZE@GB/s, cores=N, gpu=SIZE@GB/s@TFLOP/s, link=GB/s and drive=GB/s");
}

static int parse_words(struct parser *parser, const char *text)
{
    char *word = parser->word;
    for (;;) {
        text += strspn(text, " ");
        size_t len = strcspn(text, ",");
        const char *next = text + len;
        while (len && text[len - 1] == ' ')
            len--;
        if (len >= MAX_WORD)
            return lode_fail(parser->error, LODE_ERR_ARGUMENT,
                             "the machine's description has a word of %zu bytes, and none has more than %d",
                             len, MAX_WORD - 1);
        memcpy(word, text, len);
        word[len] = '\0';
        for (char *at = word; *at; at++)
            if (*at < ' ' || *at > '~') // for the terminal that shows it in an error
                *at = '?';
        const int rc = parse_word(parser);
        if (rc || !*next)
            return rc;
        text = next + 1;
    }
}

// ---- the machine
// ---------------------------------------------------------------------------------------------

static void build_gpus(struct machine_profile *out, const struct description *machine)
{
    for (uint32_t i = 0; i < machine->n_gpus; i++) {
        char name[32];
        snprintf(name, sizeof name, "GPU %u", i);
        derive_gpu(&out->gpus[i], &(struct gpu_sheet){.name = name,
                                                      .backend = "cuda",
                                                      .memory_bytes = (uint64_t)machine->gpus[i].bytes,
                                                      .memory_gbps = machine->gpus[i].gbps,
                                                      .tflops = machine->gpus[i].tflops,
                                                      .link_gbps = machine->gpus[i].link_gbps});
    }
    out->n_gpus = machine->n_gpus;
}

static void build_drives(struct machine_profile *out, const struct description *machine)
{
    out->n_drives = machine->n_drives ? machine->n_drives : 1;
    for (uint32_t i = 0; i < out->n_drives; i++) {
        char name[32];
        snprintf(name, sizeof name, "drive %u", i);
        derive_drive(
            &out->drives[i],
            &(struct drive_sheet){.name = name,
                                  .read_gbps = machine->n_drives ? machine->drive_gbps[i] : DRIVE_GBPS,
                                  .latency_us = DRIVE_LATENCY_US});
    }
}

static void build(struct machine_profile *out, const struct description *machine, const char *text)
{
    machine_profile_clear(out);
    out->origin = PROFILE_DESCRIBED;
    snprintf(out->name, sizeof out->name, "%s", text);
    snprintf(out->source, sizeof out->source,
             "the text '%.300s'; curves by the rules of docs/profile-format.md", text);
    snprintf(out->made_by, sizeof out->made_by, "lode %s", LODE_VERSION);
    double cores = machine->cores;
    if (!machine->has_cores)
        cores = fmin(fmax(round(machine->ram_gbps / GBPS_PER_CORE), 4), 64);
    derive_cpu(&out->cpu, &(struct cpu_sheet){.name = "CPU",
                                              .memory_bytes = (uint64_t)machine->ram_bytes,
                                              .memory_gbps = machine->ram_gbps,
                                              .cores = (uint32_t)cores});
    build_gpus(out, machine);
    build_drives(out, machine);
    derive_interference(out);
}

int machine_profile_parse(struct machine_profile *out, const char *text, struct lode_error *error)
{
    struct parser parser = {.error = error};
    machine_profile_clear(out);
    if (strlen(text) > MAX_TEXT)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "the machine's description has %zu bytes, and none has more than %d", strlen(text),
                         MAX_TEXT);
    const int rc = parse_words(&parser, text);
    if (rc)
        return rc;
    if (!parser.machine.has_ram)
        return lode_fail(error, LODE_ERR_ARGUMENT, "the machine '%s' has no memory: say ram=SIZE@GB/s", text);
    build(out, &parser.machine, text);
    return machine_profile_check(out, "the machine described", error);
}
