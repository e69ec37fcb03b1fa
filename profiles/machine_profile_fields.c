// Ranges are those of what exists with a wide margin on both sides: they are to catch wrong units and broken
// files, and have to let a virtual machine under a sanitizer and the computers of the next years pass.
#include "profiles/machine_profile_fields.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define PLACE(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)

#define TEXT(type, member, is_required)                                                                      \
    {                                                                                                        \
        .name = #member, .kind = FIELD_TEXT, .required = is_required, PLACE(type, member)                    \
    }
#define NUMBER(type, member, number_kind, is_required, least, most, of_unit)                                 \
    {                                                                                                        \
        .name = #member, .kind = number_kind, .required = is_required, PLACE(type, member), .low = least,    \
        .high = most, .unit = of_unit                                                                        \
    }
#define CURVE(type, member, is_required, least, most, of_unit, least_x, most_x, of_x)                        \
    {                                                                                                        \
        .name = #member, .kind = FIELD_CURVE, .required = is_required, PLACE(type, member), .low = least,    \
        .high = most, .unit = of_unit, .x_low = least_x, .x_high = most_x, .x_unit = of_x                    \
    }

#define LEAST_MEMORY 67108864.0      // 64 MiB
#define MOST_MEMORY 17592186044416.0 // 16 TiB
#define MOST_THREADS 4096
#define MOST_ROWS 65536
#define MOST_CONTEXT 16777216
#define MOST_COPY 1099511627776.0 // 1 TiB

const char *const profile_origin_names[3] = {"measured", "estimated", "described"};
const char *const profile_lane_names[PROFILE_LANES] = {"cpu", "drive", "gpu", "link"};
const char *const profile_part_names[PROFILE_PARTS] = {
    [PROFILE_PART_KERNELS_DECODE] = "kernels_decode",
    [PROFILE_PART_KERNELS_PREFILL] = "kernels_prefill",
    [PROFILE_PART_ATTENTION_DECODE] = "attention_decode",
    [PROFILE_PART_ATTENTION_PREFILL] = "attention_prefill",
    [PROFILE_PART_OPERATIONS] = "operations",
    [PROFILE_PART_DRIVE] = "drive",
};

#define KERNEL_CURVE(member, is_required)                                                                    \
    CURVE(struct profile_kernels, member, is_required, 1e-5, 1e5, "GB/s", 1, MOST_ROWS, "rows")

static const struct profile_field kernels_fields[] = {
    KERNEL_CURVE(dense_gbps, true),
    KERNEL_CURVE(expert_gbps, false),
    KERNEL_CURVE(library_gbps, false),
};
const struct profile_record profile_kernels_record = {kernels_fields, COUNT(kernels_fields)};

#define DEVICE_TEXT(member) TEXT(struct profile_device, member, true)
#define DEVICE_MEMORY                                                                                        \
    NUMBER(struct profile_device, memory_bytes, FIELD_U64, true, LEAST_MEMORY, MOST_MEMORY, "bytes")
#define DEVICE_COUNT(member) NUMBER(struct profile_device, member, FIELD_U32, true, 1, MOST_THREADS, #member)
#define DEVICE_TIME(member) NUMBER(struct profile_device, member, FIELD_NUMBER, true, 0, 1e6, "us")
#define DEVICE_READ                                                                                          \
    CURVE(struct profile_device, read_gbps, true, 1e-3, 1e5, "GB/s", 1, MOST_THREADS, "threads")
#define DEVICE_ATTENTION_DECODE                                                                              \
    CURVE(struct profile_device, attention_decode_gbps, true, 1e-5, 1e5, "GB/s", 1, MOST_CONTEXT, "tokens")
#define DEVICE_ATTENTION_PREFILL                                                                             \
    CURVE(struct profile_device, attention_prefill_gflops, true, 1e-4, 1e7, "GFLOP/s", 1, MOST_CONTEXT,      \
          "tokens")
#define DEVICE_KERNELS                                                                                       \
    {                                                                                                        \
        .name = "kernels", .kind = FIELD_KERNELS, .required = true, PLACE(struct profile_device, kernels)    \
    }
// Whether a link has to be known depends on shares_memory.
#define DEVICE_LINK(member)                                                                                  \
    CURVE(struct profile_device, member, false, 1e-4, 5000, "GB/s", 1, MOST_COPY, "bytes")

static const struct profile_field cpu_fields[] = {
    DEVICE_TEXT(name),   DEVICE_TEXT(backend),    DEVICE_TEXT(isa),          DEVICE_MEMORY,
    DEVICE_COUNT(cores), DEVICE_COUNT(threads),   DEVICE_TIME(operation_us), DEVICE_TIME(sync_us),
    DEVICE_READ,         DEVICE_ATTENTION_DECODE, DEVICE_ATTENTION_PREFILL,  DEVICE_KERNELS,
};
const struct profile_record profile_cpu_record = {cpu_fields, COUNT(cpu_fields)};

static const struct profile_field gpu_fields[] = {
    DEVICE_TEXT(name),
    DEVICE_TEXT(backend),
    DEVICE_MEMORY,
    {.name = "shares_memory", .kind = FIELD_BOOL, PLACE(struct profile_device, shares_memory)},
    DEVICE_TIME(operation_us),
    DEVICE_TIME(sync_us),
    DEVICE_READ,
    DEVICE_LINK(upload_pinned_gbps),
    DEVICE_LINK(upload_pageable_gbps),
    DEVICE_LINK(download_pinned_gbps),
    DEVICE_LINK(download_pageable_gbps),
    DEVICE_ATTENTION_DECODE,
    DEVICE_ATTENTION_PREFILL,
    DEVICE_KERNELS,
};
const struct profile_record profile_gpu_record = {gpu_fields, COUNT(gpu_fields)};

#define DRIVE_CURVE(member, is_required)                                                                     \
    CURVE(struct profile_drive, member, is_required, 1e-5, 1e3, "GB/s", 1, 65536, "reads in flight")

static const struct profile_field drive_fields[] = {
    TEXT(struct profile_drive, name, true),
    TEXT(struct profile_drive, device, false),
    NUMBER(struct profile_drive, record_bytes, FIELD_U64, true, 512, 1073741824.0, "bytes"),
    NUMBER(struct profile_drive, sustained_gbps, FIELD_NUMBER, false, 1e-5, 1e3, "GB/s"),
    NUMBER(struct profile_drive, latency_us, FIELD_NUMBER, true, 0.1, 1e7, "us"),
    DRIVE_CURVE(direct_gbps, true),
    DRIVE_CURVE(buffered_gbps, false),
};
const struct profile_record profile_drive_record = {drive_fields, COUNT(drive_fields)};

#define MACHINE_TEXT(member, is_required) TEXT(struct machine_profile, member, is_required)
#define MACHINE_PARTS(member, of_record)                                                                     \
    {                                                                                                        \
        .name = #member, .kind = FIELD_RECORDS, .offset = offsetof(struct machine_profile, member),          \
        .size = sizeof(((struct machine_profile *)0)->member[0]), .record = &of_record,                      \
        .count_offset = offsetof(struct machine_profile, n_##member),                                        \
        .capacity = COUNT(((struct machine_profile *)0)->member)                                             \
    }

static const struct profile_field machine_fields[] = {
    MACHINE_TEXT(name, true),
    {.name = "origin", .kind = FIELD_ORIGIN, .required = true, PLACE(struct machine_profile, origin)},
    MACHINE_TEXT(source, false),
    MACHINE_TEXT(made, false),
    MACHINE_TEXT(made_by, false),
    MACHINE_TEXT(fingerprint, false),
    MACHINE_TEXT(mode, false),
    {.name = "cpu",
     .kind = FIELD_RECORD,
     .required = true,
     PLACE(struct machine_profile, cpu),
     .record = &profile_cpu_record},
    MACHINE_PARTS(gpus, profile_gpu_record),
    MACHINE_PARTS(drives, profile_drive_record),
    {.name = "interference",
     .kind = FIELD_INTERFERENCE,
     PLACE(struct machine_profile, interference),
     .low = 0.001,
     .high = 2, // beyond 1 by noise
     .unit = "of the rate alone"},
    {.name = "learned",
     .kind = FIELD_LEARNED,
     PLACE(struct machine_profile, learned),
     .low = 1 / PROFILE_LEARNED_MOST,
     .high = PROFILE_LEARNED_MOST,
     .unit = "of the predicted time"},
};
const struct profile_record profile_machine_record = {machine_fields, COUNT(machine_fields)};

// ---- paths
// ---------------------------------------------------------------------------------------------------

void profile_text_tame(char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

static void append(struct profile_path *path, const char *text)
{
    snprintf(path->text + path->len, sizeof path->text - path->len, "%s", text);
    profile_text_tame(path->text + path->len);
    path->len += strlen(path->text + path->len);
}

void profile_path_cut(struct profile_path *path, size_t len)
{
    path->len = len;
    path->text[len] = '\0';
}

void profile_path_member(struct profile_path *path, const char *name)
{
    if (path->len)
        append(path, ".");
    append(path, name);
}

void profile_path_item(struct profile_path *path, size_t index)
{
    char text[24];
    snprintf(text, sizeof text, "[%zu]", index);
    append(path, text);
}

// ---- numbers
// -------------------------------------------------------------------------------------------------

static bool number_is(const char *text, double value)
{
    json_t *number = json_loads(text, JSON_DECODE_ANY, NULL);
    const bool same = json_is_number(number) && json_number_value(number) == value;
    json_decref(number);
    return same;
}

bool profile_number_text(char out[PROFILE_NUMBER_TEXT], double value)
{
    if (value == floor(value) && fabs(value) < 1e15) {
        snprintf(out, PROFILE_NUMBER_TEXT, "%.0f", value + 0.0); // no -0
        return true;
    }
    bool exact = false;
    json_t *number = json_real(value);
    for (size_t digits = 4; number && !exact && digits <= 17; digits++) {
        const size_t len =
            json_dumpb(number, out, PROFILE_NUMBER_TEXT - 1, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
        out[len < PROFILE_NUMBER_TEXT ? len : 0] = '\0';
        exact = number_is(out, value);
    }
    json_decref(number);
    return exact;
}
