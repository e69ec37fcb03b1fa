// The fields of a machine profile as tables: what a field is called in the file, where it lies in memory, and
// what it may be. Reading, writing and checking walk the same tables, so that they cannot differ.
#ifndef LODE_MACHINE_PROFILE_FIELDS_H
#define LODE_MACHINE_PROFILE_FIELDS_H

#include "profiles/machine_profile.h"

#include <stddef.h>

enum profile_field_kind {
    FIELD_TEXT,         // char [size]
    FIELD_ORIGIN,       // enum profile_origin; a word in the file
    FIELD_NUMBER,       // double
    FIELD_U32,          // uint32_t
    FIELD_U64,          // uint64_t, below 2^53
    FIELD_BOOL,         // bool
    FIELD_CURVE,        // struct profile_curve; a list of {x, y, spread} in the file
    FIELD_KERNELS,      // struct profile_kernels [LODE_TYPE_END]; members named by type in the file
    FIELD_RECORD,       // a struct with fields of its own
    FIELD_RECORDS,      // array of such; `count_offset` is where their number, a uint32_t, lies
    FIELD_INTERFERENCE, // double [PROFILE_LANES][PROFILE_LANES]; what is 1 is not in the file
    FIELD_LEARNED,      // struct profile_learned [PROFILE_PARTS]; what no run has taught is not in the file
};

struct profile_record;

struct profile_field {
    const char *name;
    enum profile_field_kind kind;
    bool required;
    size_t offset, size; // in the struct; of FIELD_RECORDS, size of one
    double low, high;    // of a number, or of the y of a curve
    const char *unit;
    double x_low, x_high; // of a curve
    const char *x_unit;
    const struct profile_record *record; // of FIELD_RECORD and FIELD_RECORDS
    size_t count_offset;                 // of FIELD_RECORDS
    uint32_t capacity;
};

struct profile_record {
    const struct profile_field *fields;
    size_t n_fields;
};

// The file's outermost object is profile_machine_record and the member "version".
extern const struct profile_record profile_machine_record, profile_cpu_record, profile_gpu_record,
    profile_drive_record, profile_kernels_record;

extern const char *const profile_origin_names[3];
extern const char *const profile_lane_names[PROFILE_LANES];
extern const char *const profile_part_names[PROFILE_PARTS];

#define PROFILE_SPREAD_HIGH 100.0

// Where in the file one is: "drives[0].direct_gbps[3].y". What is no printable ASCII becomes '?', for paths
// end in messages, and names of unknown members come from strangers.
struct profile_path {
    char text[160];
    size_t len; // cut when it grows too long
};

void profile_path_cut(struct profile_path *path, size_t len); // back to an earlier len
void profile_path_member(struct profile_path *path, const char *name);
void profile_path_item(struct profile_path *path, size_t index);

// Makes every byte of a text that is no printable ASCII a '?'.
void profile_text_tame(char *text);

// Puts a number shortly enough to be read and exactly enough to come back as the same double, in the form of
// JSON whatever the locale. False without memory.
#define PROFILE_NUMBER_TEXT 40
bool profile_number_text(char out[PROFILE_NUMBER_TEXT], double value);

#endif
