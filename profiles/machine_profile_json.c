// Reads a profile's JSON. This file cares for the shape (members, types, lengths); what the values may be is
// checked afterwards, in memory (machine_profile.c). A member that nobody knows is an error: silently
// ignored, a typing error would look like a figure that was not measured.
#include "profiles/machine_profile_fields.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_INTEGER 9007199254740992.0 // numbers are read as doubles, which are exact up to 2^53

struct reader {
    const char *name; // of the file
    struct profile_path path;
    struct lode_error *error;
};

static int read_record(struct reader *reader, void *out, const struct profile_record *kind,
                       const json_t *object);

#define FAIL(reader, format, ...)                                                                            \
    lode_fail((reader)->error, LODE_ERR_FORMAT, "%s: %s " format, (reader)->name,                            \
              (reader)->path.len ? (reader)->path.text : "the profile", __VA_ARGS__)

// ---- values
// --------------------------------------------------------------------------------------------------

static const char *kind_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a text";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        break;
    }
    return "null";
}

static int fail_kind(struct reader *reader, const json_t *value, const char *wanted)
{
    return FAIL(reader, "is %s and must be %s", kind_of(value), wanted);
}

static int read_text(struct reader *reader, char *out, const struct profile_field *field, const json_t *value)
{
    if (!json_is_string(value))
        return fail_kind(reader, value, "a text");
    const size_t len = json_string_length(value);
    if (len >= field->size)
        return FAIL(reader, "has %zu bytes, and at most %zu are possible", len, field->size - 1);
    memcpy(out, json_string_value(value), len + 1);
    return 0;
}

static int read_origin(struct reader *reader, enum profile_origin *out, const json_t *value)
{
    if (!json_is_string(value))
        return fail_kind(reader, value, "a text");
    for (int i = 0; i < 3; i++)
        if (strcmp(json_string_value(value), profile_origin_names[i]) == 0) {
            *out = (enum profile_origin)i;
            return 0;
        }
    return FAIL(reader, "must be %s, %s or %s", profile_origin_names[0], profile_origin_names[1],
                profile_origin_names[2]);
}

static int read_number(struct reader *reader, double *out, const json_t *value)
{
    if (!json_is_number(value))
        return fail_kind(reader, value, "a number");
    *out = json_number_value(value);
    return 0;
}

static int read_integer(struct reader *reader, uint64_t *out, const json_t *value, double most)
{
    double number = 0;
    const int rc = read_number(reader, &number, value);
    if (rc)
        return rc;
    if (!(number >= 0 && number <= most && number == floor(number)))
        return FAIL(reader, "is %g and must be a whole number from 0 to %.0f", number, most);
    *out = (uint64_t)number;
    return 0;
}

static int read_u32(struct reader *reader, uint32_t *out, const json_t *value)
{
    uint64_t number = 0;
    const int rc = read_integer(reader, &number, value, UINT32_MAX);
    *out = (uint32_t)number;
    return rc;
}

static int read_bool(struct reader *reader, bool *out, const json_t *value)
{
    if (!json_is_boolean(value))
        return fail_kind(reader, value, "true or false");
    *out = json_is_true(value);
    return 0;
}

// ---- curves
// --------------------------------------------------------------------------------------------------

static int read_point_member(struct reader *reader, struct profile_point *out, const char *name,
                             const json_t *value)
{
    if (strcmp(name, "x") == 0)
        return read_number(reader, &out->x, value);
    if (strcmp(name, "y") == 0)
        return read_number(reader, &out->y, value);
    if (strcmp(name, "spread") == 0)
        return read_number(reader, &out->spread, value);
    return FAIL(reader, "is not known; a point has %s", "x, y and spread");
}

static int require_member(struct reader *reader, const json_t *object, const char *name)
{
    if (json_object_get(object, name))
        return 0;
    profile_path_member(&reader->path, name);
    return FAIL(reader, "is %s", "missing");
}

static int read_point(struct reader *reader, struct profile_point *out, json_t *value)
{
    if (!json_is_object(value))
        return fail_kind(reader, value, "an object with x and y");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        profile_path_member(&reader->path, name);
        const int rc = read_point_member(reader, out, name, member);
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    const int rc = require_member(reader, value, "x");
    return rc ? rc : require_member(reader, value, "y");
}

static int read_curve(struct reader *reader, struct profile_curve *out, const json_t *value)
{
    if (!json_is_array(value))
        return fail_kind(reader, value, "a list of points");
    const size_t n = json_array_size(value);
    if (n > PROFILE_CURVE_POINTS)
        return FAIL(reader, "has %zu points, and at most %d are possible", n, PROFILE_CURVE_POINTS);
    const size_t len = reader->path.len;
    for (size_t i = 0; i < n; i++) {
        profile_path_item(&reader->path, i);
        const int rc = read_point(reader, &out->points[i], json_array_get(value, i));
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    out->n_points = (uint32_t)n;
    return 0;
}

// ---- what has members
// ----------------------------------------------------------------------------------------

static struct profile_kernels *kernels_named(struct profile_kernels kernels[LODE_TYPE_END], const char *name)
{
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        const struct lode_type_traits *traits = lode_type_find(type);
        if (traits && strcmp(traits->name, name) == 0)
            return &kernels[type];
    }
    return NULL;
}

static int read_kernels(struct reader *reader, struct profile_kernels kernels[LODE_TYPE_END], json_t *value)
{
    if (!json_is_object(value))
        return fail_kind(reader, value, "an object of tensor types");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        profile_path_member(&reader->path, name);
        struct profile_kernels *of_type = kernels_named(kernels, name);
        if (!of_type)
            return FAIL(reader, "is no tensor type that is understood: %s", lode_type_list());
        const int rc = read_record(reader, of_type, &profile_kernels_record, member);
        if (rc)
            return rc;
        of_type->known = true;
        profile_path_cut(&reader->path, len);
    }
    return 0;
}

static int read_records(struct reader *reader, char *base, const struct profile_field *field,
                        const json_t *value)
{
    if (!json_is_array(value))
        return fail_kind(reader, value, "a list");
    const size_t n = json_array_size(value);
    if (n > field->capacity)
        return FAIL(reader, "has %zu members, and at most %u are possible", n, field->capacity);
    const size_t len = reader->path.len;
    for (size_t i = 0; i < n; i++) {
        profile_path_item(&reader->path, i);
        const int rc = read_record(reader, base + field->offset + i * field->size, field->record,
                                   json_array_get(value, i));
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    const uint32_t count = (uint32_t)n;
    memcpy(base + field->count_offset, &count, sizeof count);
    return 0;
}

static int lane_named(struct reader *reader, int *out, const char *name)
{
    for (*out = 0; *out < PROFILE_LANES; ++*out)
        if (strcmp(name, profile_lane_names[*out]) == 0)
            return 0;
    return FAIL(reader, "is not known; there are %s, %s, %s and %s", profile_lane_names[0],
                profile_lane_names[1], profile_lane_names[2], profile_lane_names[3]);
}

static int read_shares(struct reader *reader, double out[PROFILE_LANES], int lane, json_t *value)
{
    if (!json_is_object(value))
        return fail_kind(reader, value, "an object of lanes");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        int other;
        profile_path_member(&reader->path, name);
        int rc = lane_named(reader, &other, name);
        if (!rc && other == lane)
            rc = FAIL(reader, "is a lane beside %s", "itself");
        if (!rc)
            rc = read_number(reader, &out[other], member);
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    return 0;
}

static int read_interference(struct reader *reader, double out[PROFILE_LANES][PROFILE_LANES], json_t *value)
{
    if (!json_is_object(value))
        return fail_kind(reader, value, "an object of lanes");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        int lane;
        profile_path_member(&reader->path, name);
        int rc = lane_named(reader, &lane, name);
        if (!rc)
            rc = read_shares(reader, out[lane], lane, member);
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    return 0;
}

static int part_named(struct reader *reader, int *out, const char *name)
{
    for (*out = 0; *out < PROFILE_PARTS; ++*out)
        if (strcmp(name, profile_part_names[*out]) == 0)
            return 0;
    return FAIL(reader, "is not known; there are %s, %s, %s, %s, %s and %s", profile_part_names[0],
                profile_part_names[1], profile_part_names[2], profile_part_names[3], profile_part_names[4],
                profile_part_names[5]);
}

static int read_learned_member(struct reader *reader, struct profile_learned *out, const char *name,
                               const json_t *value)
{
    if (strcmp(name, "factor") == 0)
        return read_number(reader, &out->factor, value);
    if (strcmp(name, "runs") == 0)
        return read_u32(reader, &out->runs, value);
    return FAIL(reader, "is not known; there are %s", "factor and runs");
}

static int read_learned_part(struct reader *reader, struct profile_learned *out, json_t *value)
{
    if (!json_is_object(value))
        return fail_kind(reader, value, "an object with factor and runs");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        profile_path_member(&reader->path, name);
        const int rc = read_learned_member(reader, out, name, member);
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    const int rc = require_member(reader, value, "factor");
    return rc ? rc : require_member(reader, value, "runs");
}

static int read_learned(struct reader *reader, struct profile_learned out[PROFILE_PARTS], json_t *value)
{
    if (!json_is_object(value))
        return fail_kind(reader, value, "an object of parts");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member)
    {
        int part;
        profile_path_member(&reader->path, name);
        int rc = part_named(reader, &part, name);
        if (!rc)
            rc = read_learned_part(reader, &out[part], member);
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    return 0;
}

static int read_field(struct reader *reader, char *base, const struct profile_field *field, json_t *value)
{
    void *out = base + field->offset;
    switch (field->kind) {
    case FIELD_TEXT:
        return read_text(reader, out, field, value);
    case FIELD_ORIGIN:
        return read_origin(reader, out, value);
    case FIELD_NUMBER:
        return read_number(reader, out, value);
    case FIELD_U32:
        return read_u32(reader, out, value);
    case FIELD_U64:
        return read_integer(reader, out, value, MAX_INTEGER);
    case FIELD_BOOL:
        return read_bool(reader, out, value);
    case FIELD_CURVE:
        return read_curve(reader, out, value);
    case FIELD_KERNELS:
        return read_kernels(reader, out, value);
    case FIELD_RECORD:
        return read_record(reader, out, field->record, value);
    case FIELD_RECORDS:
        return read_records(reader, base, field, value);
    case FIELD_INTERFERENCE:
        return read_interference(reader, out, value);
    case FIELD_LEARNED:
        return read_learned(reader, out, value);
    }
    return 0;
}

static const struct profile_field *field_named(const struct profile_record *kind, const char *name)
{
    for (size_t i = 0; i < kind->n_fields; i++)
        if (strcmp(kind->fields[i].name, name) == 0)
            return &kind->fields[i];
    return NULL;
}

static int read_record(struct reader *reader, void *out, const struct profile_record *kind,
                       const json_t *object)
{
    if (!json_is_object(object))
        return fail_kind(reader, object, "an object");
    const size_t len = reader->path.len;
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)object, name, member)
    {
        if (kind == &profile_machine_record && strcmp(name, "version") == 0)
            continue; // has been read first
        profile_path_member(&reader->path, name);
        const struct profile_field *field = field_named(kind, name);
        const int rc = field ? read_field(reader, out, field, member)
                             : FAIL(reader, "is %s", "not known; docs/profile-format.md lists what is");
        if (rc)
            return rc;
        profile_path_cut(&reader->path, len);
    }
    for (size_t i = 0; i < kind->n_fields; i++) {
        const int rc = kind->fields[i].required ? require_member(reader, object, kind->fields[i].name) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

// ---- the text
// -----------------------------------------------------------------------------------------

static int check_version(struct reader *reader, const json_t *object)
{
    if (!json_is_object(object))
        return fail_kind(reader, object, "an object");
    const json_t *value = json_object_get(object, "version");
    if (!value)
        return lode_fail(reader->error, LODE_ERR_FORMAT,
                         "%s: version is missing: this is no machine profile, which says \"version\": %d",
                         reader->name, PROFILE_VERSION);
    if (!json_is_number(value))
        return lode_fail(reader->error, LODE_ERR_FORMAT, "%s: version is %s and must be a number",
                         reader->name, kind_of(value));
    if (json_number_value(value) == PROFILE_VERSION)
        return 0;
    char made_by[sizeof((struct machine_profile *)0)->made_by] = "";
    const json_t *maker = json_object_get(object, "made_by");
    if (json_is_string(maker))
        snprintf(made_by, sizeof made_by, "%s", json_string_value(maker));
    profile_text_tame(made_by);
    return lode_fail(
        reader->error, LODE_ERR_FORMAT,
        "%s: version is %g%s%s, and lode " LODE_VERSION " reads %d: use the lode that made it, or "
        "measure anew with lode probe",
        reader->name, json_number_value(value), made_by[0] ? ", made by " : "", made_by, PROFILE_VERSION);
}

static int fail_json(struct reader *reader, json_error_t *problem)
{
    if (json_error_code(problem) == json_error_out_of_memory)
        return lode_fail(reader->error, LODE_ERR_MEMORY, "no memory to read %s", reader->name);
    profile_text_tame(problem->text); // it quotes the file
    return lode_fail(reader->error, LODE_ERR_FORMAT, "%s: is no JSON at line %d, column %d: %s", reader->name,
                     problem->line, problem->column, problem->text);
}

int machine_profile_read_text(struct machine_profile *out, const char *text, size_t len, const char *name,
                              struct lode_error *error)
{
    struct reader reader = {.name = name, .error = error};
    machine_profile_clear(out);
    if (len > PROFILE_MAX_BYTES)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: has %zu bytes, and no profile has more than %zu", name,
                         len, PROFILE_MAX_BYTES);
    json_error_t problem;
    json_t *object = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &problem);
    if (!object)
        return fail_json(&reader, &problem);
    int rc = check_version(&reader, object);
    if (!rc)
        rc = read_record(&reader, out, &profile_machine_record, object);
    json_decref(object);
    if (!rc)
        rc = machine_profile_check(out, name, error);
    if (rc)
        machine_profile_clear(out);
    return rc;
}
