// make_machines [--check] FOLDER: writes the sample machines into a folder, or tells which files differ from
// what it would write.
//
// Samples are data sheets' figures, listed here, and the rules of machine_derive.c: when a rule changes, the
// files are made anew. A machine that somebody has measured is a file without a row here.
#include "profiles/machine_derive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((uint64_t)1 << 30)

// Bandwidths of links: gigatransfers a lane x lanes / 8, coded 128b/130b.
#define PCIE3_X16 15.75
#define PCIE4_X8 15.75
#define PCIE4_X16 31.51
#define PCIE5_X8 31.51
#define PCIE5_X16 63.02

struct sample {
    const char *file, *name;
    struct cpu_sheet cpu;
    const char *memory; // what gives its bandwidth
    uint32_t n_gpus;    // of the same kind
    struct gpu_sheet gpu;
    const char *link;
    struct drive_sheet drive;
};

// Latency: 1 / reads a second of 4 KiB at depth 1 of one thread, where the data sheet has them (Samsung), and
// 60 us where it has not.
#define SSD_970_EVO_PLUS                                                                                     \
    {                                                                                                        \
        "Samsung SSD 970 EVO Plus 1TB", 3.5, 52.6                                                            \
    }
#define SSD_980_PRO                                                                                          \
    {                                                                                                        \
        "Samsung SSD 980 PRO 1TB", 7.0, 45.5                                                                 \
    }
#define SSD_990_PRO                                                                                          \
    {                                                                                                        \
        "Samsung SSD 990 PRO 2TB", 7.45, 45.5                                                                \
    }
#define SSD_SN530                                                                                            \
    {                                                                                                        \
        "WD PC SN530 512GB", 2.4, 60                                                                         \
    }
#define SSD_T700                                                                                             \
    {                                                                                                        \
        "Crucial T700 2TB", 12.4, 60                                                                         \
    }

// clang-format off
static const struct sample samples[] = {
    {"laptop-8gb", "Laptop, 8 GB DDR4, no GPU",
     {"AMD Ryzen 5 5625U", 8 * GIB, 51.2, 6}, "DDR4-3200, two channels",
     0, {0}, NULL, SSD_SN530},
    {"desktop-ddr4", "Desktop, 16 GB DDR4, no GPU",
     {"Intel Core i5-10400", 16 * GIB, 42.7, 6}, "DDR4-2666, two channels",
     0, {0}, NULL, SSD_970_EVO_PLUS},
    {"desktop-ddr5-16core", "Desktop, 16 cores, 64 GB DDR5, no GPU",
     {"AMD Ryzen 9 9950X", 64 * GIB, 89.6, 16}, "DDR5-5600, two channels",
     0, {0}, NULL, SSD_T700},
    {"minipc-radeon-680m", "Mini PC, Radeon 680M, 32 GB LPDDR5",
     {"AMD Ryzen 7 6800H", 32 * GIB, 102.4, 8}, "LPDDR5-6400, 128 bits",
     1, {"AMD Radeon 680M", "hip", 16 * GIB, 102.4, 3.38, 0, true}, NULL, SSD_980_PRO},
    {"laptop-rtx4060-8gb", "Laptop, RTX 4060 8 GB, 16 GB DDR5",
     {"AMD Ryzen 7 8845HS", 16 * GIB, 89.6, 8}, "DDR5-5600, two channels",
     1, {"NVIDIA GeForce RTX 4060 Laptop GPU", "cuda", 8 * GIB, 256, 14.6, PCIE4_X8, false}, "PCIe 4.0 x8", SSD_980_PRO},
    {"desktop-gtx1080-8gb", "Desktop, GTX 1080 8 GB, 32 GB DDR4",
     {"Intel Core i7-6700", 32 * GIB, 34.1, 4}, "DDR4-2133, two channels",
     1, {"NVIDIA GeForce GTX 1080", "cuda", 8 * GIB, 320, 8.87, PCIE3_X16, false}, "PCIe 3.0 x16", SSD_970_EVO_PLUS},
    {"desktop-rx6600xt-8gb", "Desktop, RX 6600 XT 8 GB, 32 GB DDR4",
     {"AMD Ryzen 5 5600", 32 * GIB, 51.2, 6}, "DDR4-3200, two channels",
     1, {"AMD Radeon RX 6600 XT", "hip", 8 * GIB, 256, 10.6, PCIE4_X8, false}, "PCIe 4.0 x8", SSD_970_EVO_PLUS},
    {"desktop-rtx3060-12gb", "Desktop, RTX 3060 12 GB, 32 GB DDR4",
     {"Intel Core i5-8500", 32 * GIB, 42.7, 6}, "DDR4-2666, two channels",
     1, {"NVIDIA GeForce RTX 3060", "cuda", 12 * GIB, 360, 12.7, PCIE3_X16, false}, "PCIe 3.0 x16", SSD_970_EVO_PLUS},
    {"desktop-rtx4060ti-16gb", "Desktop, RTX 4060 Ti 16 GB, 32 GB DDR5",
     {"AMD Ryzen 5 7600", 32 * GIB, 83.2, 6}, "DDR5-5200, two channels",
     1, {"NVIDIA GeForce RTX 4060 Ti", "cuda", 16 * GIB, 288, 22.1, PCIE4_X8, false}, "PCIe 4.0 x8", SSD_990_PRO},
    {"desktop-rx9060xt-16gb", "Desktop, RX 9060 XT 16 GB, 32 GB DDR5",
     {"AMD Ryzen 7 7700", 32 * GIB, 83.2, 8}, "DDR5-5200, two channels",
     1, {"AMD Radeon RX 9060 XT", "hip", 16 * GIB, 320, 25.6, PCIE4_X16, false}, "PCIe 4.0 x16", SSD_980_PRO},
    {"desktop-rtx5070ti-16gb", "Desktop, RTX 5070 Ti 16 GB, 64 GB DDR5, Gen5 drive",
     {"AMD Ryzen 7 9800X3D", 64 * GIB, 89.6, 8}, "DDR5-5600, two channels",
     1, {"NVIDIA GeForce RTX 5070 Ti", "cuda", 16 * GIB, 896, 43.9, PCIE5_X16, false}, "PCIe 5.0 x16", SSD_T700},
    {"desktop-2x-rtx5060ti-16gb", "Desktop, two RTX 5060 Ti 16 GB, 64 GB DDR5",
     {"AMD Ryzen 9 9900X", 64 * GIB, 89.6, 12}, "DDR5-5600, two channels",
     2, {"NVIDIA GeForce RTX 5060 Ti", "cuda", 16 * GIB, 448, 23.7, PCIE5_X8, false}, "PCIe 5.0 x8", SSD_990_PRO},
    {"desktop-rtx3090-24gb", "Desktop, RTX 3090 24 GB, 64 GB DDR4",
     {"AMD Ryzen 9 5950X", 64 * GIB, 51.2, 16}, "DDR4-3200, two channels",
     1, {"NVIDIA GeForce RTX 3090", "cuda", 24 * GIB, 936, 35.6, PCIE4_X16, false}, "PCIe 4.0 x16", SSD_980_PRO},
    {"desktop-rx7900xtx-24gb", "Desktop, RX 7900 XTX 24 GB, 64 GB DDR5",
     {"AMD Ryzen 9 7900X", 64 * GIB, 83.2, 12}, "DDR5-5200, two channels",
     1, {"AMD Radeon RX 7900 XTX", "hip", 24 * GIB, 960, 61.4, PCIE4_X16, false}, "PCIe 4.0 x16", SSD_990_PRO},
};
// clang-format on
#define N_SAMPLES (sizeof samples / sizeof *samples)

static void describe_source(char *out, size_t capacity, const struct sample *sample)
{
    size_t used = (size_t)snprintf(out, capacity, "makers' data sheets: %u cores, %s: %g GB/s; ",
                                   sample->cpu.cores, sample->memory, sample->cpu.memory_gbps);
    const struct gpu_sheet *gpu = &sample->gpu;
    if (sample->n_gpus && gpu->shares_memory)
        used += (size_t)snprintf(out + used, capacity - used,
                                 "GPU at the same memory, half of it taken as its own, %g TFLOP/s FP32; ",
                                 gpu->tflops);
    else if (sample->n_gpus)
        used += (size_t)snprintf(out + used, capacity - used, "GPU %g GB/s, %g TFLOP/s FP32, %s: %g GB/s; ",
                                 gpu->memory_gbps, gpu->tflops, sample->link, gpu->link_gbps);
    snprintf(
        out + used, capacity - used,
        "drive %g GB/s sequential, %g us a read of 4 KiB. All curves are derived from these by the rules of "
        "docs/profile-format.md; nothing is measured on this machine",
        sample->drive.read_gbps, sample->drive.latency_us);
}

static void build(struct machine_profile *out, const struct sample *sample)
{
    machine_profile_clear(out);
    out->origin = PROFILE_ESTIMATED;
    snprintf(out->name, sizeof out->name, "%s", sample->name);
    describe_source(out->source, sizeof out->source, sample);
    derive_cpu(&out->cpu, &sample->cpu);
    out->n_gpus = sample->n_gpus;
    for (uint32_t i = 0; i < out->n_gpus; i++)
        derive_gpu(&out->gpus[i], &sample->gpu);
    out->n_drives = 1;
    derive_drive(&out->drives[0], &sample->drive);
    derive_interference(out);
}

// 0, or -1 when the file has other bytes than `text` or cannot be read.
static int compare(const char *path, const char *text, size_t len)
{
    FILE *file = fopen(path, "rb");
    char *bytes = malloc(len + 1);
    const size_t got = file && bytes ? fread(bytes, 1, len + 1, file) : 0;
    const int rc = got == len && memcmp(bytes, text, len) == 0 ? 0 : -1;
    free(bytes);
    if (file)
        fclose(file);
    return rc;
}

static int handle(const struct sample *sample, const char *folder, bool check)
{
    static struct machine_profile profile;
    struct lode_error error;
    char path[4096], *text;
    size_t len;
    if (snprintf(path, sizeof path, "%s/%s.json", folder, sample->file) >= (int)sizeof path)
        return -1;
    build(&profile, sample);
    int rc = machine_profile_write_text(&text, &len, &profile, path, &error);
    if (!rc && check) {
        rc = compare(path, text, len);
        if (rc)
            lode_fail(&error, LODE_ERR_FORMAT, "%s is not what make_machines writes", path);
    } else if (!rc) {
        rc = machine_profile_write(&profile, path, &error);
    }
    free(text);
    if (rc)
        fprintf(stderr, "make_machines: %s\n", error.text);
    return rc;
}

int main(int argc, char **argv)
{
    const bool check = argc == 3 && strcmp(argv[1], "--check") == 0;
    if (argc != (check ? 3 : 2)) {
        fprintf(stderr, "usage: make_machines [--check] FOLDER\n");
        return 2;
    }
    int status = 0;
    for (size_t i = 0; i < N_SAMPLES; i++)
        if (handle(&samples[i], argv[argc - 1], check))
            status = 1;
    return status;
}
