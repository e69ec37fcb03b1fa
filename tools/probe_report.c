// What `lode probe` prints: the machine, then a line for each curve, "x: y" for each point, and what runs
// have taught since.
#include "tools/probe_report.h"

#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>

// Where the middle half of the repeats lies further apart than this, a point is marked.
#define WIDE_SPREAD 0.15

struct notation {
    bool binary_x; // 32768 is 32K
    bool any_wide;
};

static void print_x(double x, bool binary)
{
    if (binary && x >= 1 << 20)
        printf("  %.3gM:", x / (1 << 20));
    else if (binary && x >= 1024)
        printf("  %.3gK:", x / 1024);
    else
        printf("  %.4g:", x);
}

static void print_y(double y)
{
    if (y >= 100)
        printf(" %.0f", y);
    else if (y >= 1)
        printf(" %.1f", y);
    else
        printf(" %.3f", y);
}

static void print_curve(const char *label, const struct profile_curve *curve, struct notation *notation)
{
    if (!curve->n_points)
        return;
    printf("  %-14s", label);
    for (uint32_t i = 0; i < curve->n_points; i++) {
        const struct profile_point *point = &curve->points[i];
        print_x(point->x, notation->binary_x);
        print_y(point->y);
        if (point->spread > WIDE_SPREAD) {
            printf("~");
            notation->any_wide = true;
        }
    }
    printf("\n");
}

static void print_library(const struct profile_device *device, struct notation *notation)
{
    bool any = false;
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        const struct profile_kernels *kernels = &device->kernels[type];
        const uint32_t rows = profile_library_rows(kernels);
        char label[32];
        if (!kernels->library_gbps.n_points)
            continue;
        if (!any)
            printf("products by the vendor's library, GB/s by rows, and from how many on they are used\n");
        any = true;
        snprintf(label, sizeof label, rows ? "%s, %" PRIu32 " on" : "%s, never", lode_type_name(type), rows);
        print_curve(label, &kernels->library_gbps, notation);
    }
}

static void print_kernels(const struct profile_device *device, bool experts, struct notation *notation)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        const struct profile_kernels *kernels = &device->kernels[type];
        if (kernels->known)
            print_curve(lode_type_name(type), experts ? &kernels->expert_gbps : &kernels->dense_gbps,
                        notation);
    }
}

static void print_link(const struct profile_device *gpu, struct notation *notation)
{
    if (!gpu->upload_pinned_gbps.n_points && !gpu->download_pinned_gbps.n_points)
        return;
    printf("link, GB/s by bytes of a copy\n");
    notation->binary_x = true;
    print_curve("up, pinned", &gpu->upload_pinned_gbps, notation);
    print_curve("up, pageable", &gpu->upload_pageable_gbps, notation);
    print_curve("down, pinned", &gpu->download_pinned_gbps, notation);
    print_curve("down, pageable", &gpu->download_pageable_gbps, notation);
    notation->binary_x = false;
}

static void print_device(const struct profile_device *device, struct notation *notation)
{
    char bytes[TEXT_NUMBER_SIZE];
    printf("%s      %s, %s", device->cores ? "processor" : "GPU      ", device->name,
           text_bytes(bytes, device->memory_bytes));
    if (device->cores)
        printf(", %u core%s, %u thread%s, %s", device->cores, device->cores == 1 ? "" : "s", device->threads,
               device->threads == 1 ? "" : "s", device->isa);
    else
        printf(", %s%s", device->backend, device->shares_memory ? ", shares the memory of the CPU" : "");
    printf("\n");
    if (device->read_gbps.n_points) {
        printf(device->cores ? "memory, GB/s by threads\n" : "memory, GB/s, a copy's both ways\n");
        print_curve("read", &device->read_gbps, notation);
    }
    printf("products, GB/s of weights by rows\n");
    print_kernels(device, false, notation);
    print_library(device, notation);
    printf("experts, GB/s of weights by rows of each\n");
    print_kernels(device, true, notation);
    notation->binary_x = true;
    if (device->attention_decode_gbps.n_points || device->attention_prefill_gflops.n_points) {
        printf("attention by tokens of context\n");
        print_curve("decode GB/s", &device->attention_decode_gbps, notation);
        print_curve("prefill GFLOP/s", &device->attention_prefill_gflops, notation);
    }
    notation->binary_x = false;
    if (!device->cores)
        print_link(device, notation);
    printf("small operation %.1f us, %s %.1f us\n", device->operation_us,
           device->cores ? "a pass" : "waiting for it", device->sync_us);
}

static void print_drive(const struct profile_drive *drive, struct notation *notation)
{
    char bytes[TEXT_NUMBER_SIZE];
    printf("\ndrive          %s%s%s%s\n", drive->name, drive->device[0] ? " (" : "", drive->device,
           drive->device[0] ? ")" : "");
    printf("random reads of %s, GB/s by reads in flight\n", text_bytes(bytes, drive->record_bytes));
    print_curve("direct", &drive->direct_gbps, notation);
    print_curve("buffered", &drive->buffered_gbps, notation);
    if (drive->sustained_gbps > 0)
        printf("sustained %.2f GB/s, ", drive->sustained_gbps);
    printf("4 KiB after %.0f us\n", drive->latency_us);
}

static void print_interference(const struct machine_profile *profile)
{
    static const char *const names[] = {"CPU", "drive", "GPU", "link"};
    for (int i = 0; i < PROFILE_LANES; i++)
        for (int j = 0; j < PROFILE_LANES; j++)
            if (profile->interference[i][j] != 1)
                printf("the %s beside the %s: %.0f%% of its rate alone\n", names[i], names[j],
                       100 * profile->interference[i][j]);
}

static void print_learned(const struct profile_learned learned[PROFILE_PARTS])
{
    static const char *const names[PROFILE_PARTS] = {
        [PROFILE_PART_KERNELS_DECODE] = "products, decode",
        [PROFILE_PART_KERNELS_PREFILL] = "products, prefill",
        [PROFILE_PART_ATTENTION_DECODE] = "attention, decode",
        [PROFILE_PART_ATTENTION_PREFILL] = "attention, prefill",
        [PROFILE_PART_OPERATIONS] = "small operations",
        [PROFILE_PART_DRIVE] = "waiting for the drive",
    };
    bool any = false;
    for (int part = 0; part < PROFILE_PARTS; part++) {
        if (!learned[part].runs)
            continue;
        if (!any)
            printf("\nlearned from runs, times the time by these figures\n");
        any = true;
        printf("  %-21s  %.3f  (%u run%s)\n", names[part], learned[part].factor, learned[part].runs,
               learned[part].runs == 1 ? "" : "s");
    }
}

void probe_report_print(const struct machine_profile *profile)
{
    static const char *const origins[] = {"measured", "estimated", "described"};
    struct notation notation = {false, false};
    char text[sizeof profile->source];
    printf("%s", origins[profile->origin]);
    if (profile->made[0])
        printf(" %s", text_printable(text, sizeof text, profile->made));
    if (profile->mode[0])
        printf(", %s", text_printable(text, sizeof text, profile->mode));
    if (profile->source[0])
        printf(": %s", text_printable(text, sizeof text, profile->source));
    printf("\n\n");
    print_device(&profile->cpu, &notation);
    for (uint32_t i = 0; i < profile->n_gpus; i++) {
        printf("\n");
        print_device(&profile->gpus[i], &notation);
    }
    for (uint32_t i = 0; i < profile->n_drives; i++)
        print_drive(&profile->drives[i], &notation);
    print_interference(profile);
    print_learned(profile->learned);
    if (notation.any_wide)
        printf("~ the middle half of the repeats lies more than %.0f%% apart\n", 100 * WIDE_SPREAD);
}
