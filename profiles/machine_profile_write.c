// Makes the JSON of a profile, fields in the order of the tables, several points of a curve on a line: people
// read these files and compare them.
#include "profiles/machine_profile_fields.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 110
#define MAX_TEXT_BYTES 512 // of any field

struct writer {
    FILE *file;
    int indent;
    bool first;  // of the members of the object that is open
    bool failed; // for want of memory
};

static void write_record(struct writer *writer, const void *record, const struct profile_record *kind);

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static void new_line(struct writer *writer)
{
    fprintf(writer->file, "\n%*s", 2 * writer->indent, "");
}

static void write_text(struct writer *writer, const char *text)
{
    char quoted[6 * MAX_TEXT_BYTES + 2];
    json_t *string = json_string(text);
    const size_t len = string ? json_dumpb(string, quoted, sizeof quoted, JSON_ENCODE_ANY) : 0;
    json_decref(string);
    writer->failed |= len == 0 || len > sizeof quoted;
    if (!writer->failed)
        fwrite(quoted, 1, len, writer->file);
}

static void begin_member(struct writer *writer, const char *name)
{
    if (!writer->first)
        fputc(',', writer->file);
    writer->first = false;
    new_line(writer);
    fprintf(writer->file, "\"%s\": ", name);
}

static void open_object(struct writer *writer)
{
    fputc('{', writer->file);
    writer->indent++;
    writer->first = true;
}

static void close_object(struct writer *writer)
{
    writer->indent--;
    if (!writer->first)
        new_line(writer);
    fputc('}', writer->file);
    writer->first = false;
}

static void write_number(struct writer *writer, double value)
{
    char text[PROFILE_NUMBER_TEXT];
    writer->failed |= !profile_number_text(text, value);
    fputs(text, writer->file);
}

// ---- fields
// --------------------------------------------------------------------------------------------------

static int point_text(struct writer *writer, char *out, size_t capacity, const struct profile_point *point)
{
    char x[PROFILE_NUMBER_TEXT], y[PROFILE_NUMBER_TEXT], spread[PROFILE_NUMBER_TEXT];
    writer->failed |= !profile_number_text(x, point->x) || !profile_number_text(y, point->y) ||
                      !profile_number_text(spread, point->spread);
    if (point->spread == 0)
        return snprintf(out, capacity, "{\"x\": %s, \"y\": %s}", x, y);
    return snprintf(out, capacity, "{\"x\": %s, \"y\": %s, \"spread\": %s}", x, y, spread);
}

static void write_curve(struct writer *writer, const struct profile_curve *curve)
{
    fputc('[', writer->file);
    writer->indent++;
    int column = COLUMNS;
    for (uint32_t i = 0; i < curve->n_points; i++) {
        char text[4 * PROFILE_NUMBER_TEXT];
        const int len = point_text(writer, text, sizeof text, &curve->points[i]);
        if (i)
            fputc(',', writer->file);
        if (column + len + 2 > COLUMNS) {
            new_line(writer);
            column = 2 * writer->indent + len;
        } else {
            fputc(' ', writer->file);
            column += len + 2;
        }
        fputs(text, writer->file);
    }
    writer->indent--;
    new_line(writer);
    fputc(']', writer->file);
}

static void write_kernels(struct writer *writer, const struct profile_kernels kernels[LODE_TYPE_END])
{
    open_object(writer);
    for (uint32_t type = 0; type < LODE_TYPE_END; type++)
        if (kernels[type].known) {
            begin_member(writer, lode_type_name(type));
            write_record(writer, &kernels[type], &profile_kernels_record);
        }
    close_object(writer);
}

static void write_records(struct writer *writer, const char *base, const struct profile_field *field,
                          uint32_t n)
{
    fputc('[', writer->file);
    for (uint32_t i = 0; i < n; i++) {
        fputs(i ? ", " : "", writer->file);
        write_record(writer, base + field->offset + i * field->size, field->record);
    }
    fputc(']', writer->file);
}

static bool lane_is_disturbed(const double shares[PROFILE_LANES])
{
    for (int j = 0; j < PROFILE_LANES; j++)
        if (shares[j] != 1)
            return true;
    return false;
}

static bool any_is_disturbed(const double shares[PROFILE_LANES][PROFILE_LANES])
{
    for (int i = 0; i < PROFILE_LANES; i++)
        if (lane_is_disturbed(shares[i]))
            return true;
    return false;
}

static void write_interference(struct writer *writer, const double shares[PROFILE_LANES][PROFILE_LANES])
{
    open_object(writer);
    for (int i = 0; i < PROFILE_LANES; i++) {
        if (!lane_is_disturbed(shares[i]))
            continue;
        begin_member(writer, profile_lane_names[i]);
        open_object(writer);
        for (int j = 0; j < PROFILE_LANES; j++)
            if (shares[i][j] != 1) {
                begin_member(writer, profile_lane_names[j]);
                write_number(writer, shares[i][j]);
            }
        close_object(writer);
    }
    close_object(writer);
}

static bool any_is_learned(const struct profile_learned learned[PROFILE_PARTS])
{
    for (int part = 0; part < PROFILE_PARTS; part++)
        if (learned[part].runs)
            return true;
    return false;
}

static void write_learned(struct writer *writer, const struct profile_learned learned[PROFILE_PARTS])
{
    open_object(writer);
    for (int part = 0; part < PROFILE_PARTS; part++)
        if (learned[part].runs) {
            begin_member(writer, profile_part_names[part]);
            fputs("{\"factor\": ", writer->file);
            write_number(writer, learned[part].factor);
            fputs(", \"runs\": ", writer->file);
            write_number(writer, learned[part].runs);
            fputc('}', writer->file);
        }
    close_object(writer);
}

// Whether the field says nothing: it is then left out.
static bool is_unknown(const char *base, const struct profile_field *field)
{
    const void *value = base + field->offset;
    if (field->required)
        return false;
    switch (field->kind) {
    case FIELD_TEXT:
        return *(const char *)value == '\0';
    case FIELD_NUMBER:
        return *(const double *)value == 0;
    case FIELD_BOOL:
        return !*(const bool *)value;
    case FIELD_CURVE:
        return ((const struct profile_curve *)value)->n_points == 0;
    case FIELD_RECORDS:
        return *(const uint32_t *)(base + field->count_offset) == 0;
    case FIELD_INTERFERENCE:
        return !any_is_disturbed(value);
    case FIELD_LEARNED:
        return !any_is_learned(value);
    default:
        return false;
    }
}

static void write_value(struct writer *writer, const char *base, const struct profile_field *field)
{
    const void *value = base + field->offset;
    switch (field->kind) {
    case FIELD_TEXT:
        write_text(writer, value);
        break;
    case FIELD_ORIGIN:
        write_text(writer, profile_origin_names[*(const enum profile_origin *)value]);
        break;
    case FIELD_NUMBER:
        write_number(writer, *(const double *)value);
        break;
    case FIELD_U32:
        write_number(writer, *(const uint32_t *)value);
        break;
    case FIELD_U64:
        write_number(writer, (double)*(const uint64_t *)value);
        break;
    case FIELD_BOOL:
        fputs(*(const bool *)value ? "true" : "false", writer->file);
        break;
    case FIELD_CURVE:
        write_curve(writer, value);
        break;
    case FIELD_KERNELS:
        write_kernels(writer, value);
        break;
    case FIELD_RECORD:
        write_record(writer, value, field->record);
        break;
    case FIELD_RECORDS:
        write_records(writer, base, field, *(const uint32_t *)(base + field->count_offset));
        break;
    case FIELD_INTERFERENCE:
        write_interference(writer, value);
        break;
    case FIELD_LEARNED:
        write_learned(writer, value);
        break;
    }
}

static void write_record(struct writer *writer, const void *record, const struct profile_record *kind)
{
    open_object(writer);
    if (kind == &profile_machine_record) {
        begin_member(writer, "version");
        write_number(writer, PROFILE_VERSION);
    }
    for (size_t i = 0; i < kind->n_fields; i++)
        if (!is_unknown(record, &kind->fields[i])) {
            begin_member(writer, kind->fields[i].name);
            write_value(writer, record, &kind->fields[i]);
        }
    close_object(writer);
}

int machine_profile_write_text(char **out_text, size_t *out_len, const struct machine_profile *profile,
                               const char *name, struct lode_error *error)
{
    *out_text = NULL;
    *out_len = 0;
    const int rc = machine_profile_check(profile, name, error);
    if (rc)
        return rc;
    struct writer writer = {.file = open_memstream(out_text, out_len)};
    if (!writer.file)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", name);
    write_record(&writer, profile, &profile_machine_record);
    fputc('\n', writer.file);
    const bool failed = writer.failed || ferror(writer.file);
    if (fclose(writer.file) == 0 && !failed)
        return 0;
    free(*out_text);
    *out_text = NULL;
    return lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", name);
}
