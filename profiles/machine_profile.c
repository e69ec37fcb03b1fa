// The profile in memory: its curves, and the checks that a file and a probe have to pass alike.
#include "profiles/machine_profile.h"

#include "profiles/machine_profile_fields.h"
#include "profiles/utc_time.h"

#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

void machine_profile_clear(struct machine_profile *profile)
{
    memset(profile, 0, sizeof *profile);
    for (int i = 0; i < PROFILE_LANES; i++)
        for (int j = 0; j < PROFILE_LANES; j++)
            profile->interference[i][j] = 1;
    for (int part = 0; part < PROFILE_PARTS; part++)
        profile->learned[part].factor = 1;
}

// ---- curves
// --------------------------------------------------------------------------------------------------

// The points around x and where between them it lies, 0 to 1.
static double locate(const struct profile_curve *curve, double x, const struct profile_point **below,
                     const struct profile_point **above)
{
    assert(curve->n_points <= PROFILE_CURVE_POINTS);
    uint32_t i = 0;
    while (i < curve->n_points && !(x < curve->points[i].x))
        i++;
    *above = &curve->points[i < curve->n_points ? i : curve->n_points - 1];
    *below = &curve->points[i ? i - 1 : 0];
    if (*above == *below)
        return 0;
    return log(x / (*below)->x) / log((*above)->x / (*below)->x);
}

double profile_curve_at(const struct profile_curve *curve, double x)
{
    const struct profile_point *below, *above;
    if (curve->n_points == 0)
        return 0;
    const double share = locate(curve, x, &below, &above);
    return below->y + share * (above->y - below->y);
}

#define LIBRARY_GAIN 1.05

uint32_t profile_library_rows(const struct profile_kernels *kernels)
{
    const struct profile_curve *library = &kernels->library_gbps, *own = &kernels->dense_gbps;
    uint32_t rows = 0;
    for (uint32_t i = library->n_points; i > 0 && own->n_points; i--) {
        const struct profile_point *point = &library->points[i - 1];
        if (!(point->y >= LIBRARY_GAIN * profile_curve_at(own, point->x)))
            break;
        rows = (uint32_t)ceil(point->x);
    }
    return rows;
}

double profile_drive_gbps(const struct profile_drive *drive, double reads)
{
    return profile_curve_at(drive->direct_gbps.n_points ? &drive->direct_gbps : &drive->buffered_gbps, reads);
}

double profile_curve_spread_at(const struct profile_curve *curve, double x)
{
    const struct profile_point *below, *above;
    if (curve->n_points == 0)
        return 0;
    const double share = locate(curve, x, &below, &above);
    return below->spread + share * (above->spread - below->spread);
}

// ---- checks
// --------------------------------------------------------------------------------------------------

struct check {
    const char *name; // of the file
    struct profile_path path;
    struct lode_error *error;
};

static int check_record(struct check *check, const void *record, const struct profile_record *kind);

#define FAIL(check, format, ...)                                                                             \
    lode_fail((check)->error, LODE_ERR_FORMAT, "%s: %s " format, (check)->name, (check)->path.text,          \
              __VA_ARGS__)

static int check_range(struct check *check, double value, double low, double high, const char *unit)
{
    if (value >= low && value <= high) // false for what is no number
        return 0;
    return FAIL(check, "is %g and must be between %.17g and %.17g %s", value, low, high, unit);
}

static int check_member(struct check *check, const char *name, double value, double low, double high,
                        const char *unit)
{
    const size_t len = check->path.len;
    profile_path_member(&check->path, name);
    const int rc = check_range(check, value, low, high, unit);
    profile_path_cut(&check->path, len);
    return rc;
}

// Names end up on a terminal.
static int check_text(struct check *check, const char *text, const struct profile_field *field)
{
    const size_t len = strnlen(text, field->size);
    if (len == field->size)
        return FAIL(check, "has no end within its %zu bytes", field->size);
    if (len == 0)
        return field->required ? FAIL(check, "is %s", "empty") : 0;
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f || (at[0] == '\xc2' && (unsigned char)at[1] < 0xa0))
            return FAIL(check, "has a control character at byte %zu", (size_t)(at - text));
    json_t *string = json_string(text);
    json_decref(string);
    return string ? 0 : FAIL(check, "is not %s", "UTF-8");
}

static int check_curve(struct check *check, const struct profile_curve *curve,
                       const struct profile_field *field)
{
    if (curve->n_points > PROFILE_CURVE_POINTS)
        return FAIL(check, "has %u points, and at most %d are possible", curve->n_points,
                    PROFILE_CURVE_POINTS);
    if (curve->n_points == 0 && field->required)
        return FAIL(check, "has no points, and must have 1 to %d", PROFILE_CURVE_POINTS);
    const size_t len = check->path.len;
    for (uint32_t i = 0; i < curve->n_points; i++) {
        const struct profile_point *point = &curve->points[i];
        profile_path_item(&check->path, i);
        int rc = check_member(check, "x", point->x, field->x_low, field->x_high, field->x_unit);
        if (!rc)
            rc = check_member(check, "y", point->y, field->low, field->high, field->unit);
        if (!rc)
            rc = check_member(check, "spread", point->spread, 0, PROFILE_SPREAD_HIGH, "of y");
        if (!rc && i > 0 && point->x <= point[-1].x) {
            profile_path_member(&check->path, "x");
            rc = FAIL(check, "is %.17g and must be above that of the point before, %.17g", point->x,
                      point[-1].x);
        }
        if (rc)
            return rc;
        profile_path_cut(&check->path, len);
    }
    return 0;
}

static int check_kernels(struct check *check, const struct profile_kernels kernels[LODE_TYPE_END])
{
    const size_t len = check->path.len;
    uint32_t n_known = 0;
    for (uint32_t type = 0; type < LODE_TYPE_END; type++) {
        const struct lode_type_traits *traits = lode_type_find(type);
        const struct profile_kernels *of_type = &kernels[type];
        if (!of_type->known && !of_type->dense_gbps.n_points && !of_type->expert_gbps.n_points &&
            !of_type->library_gbps.n_points)
            continue;
        if (traits)
            profile_path_member(&check->path, traits->name);
        else
            profile_path_item(&check->path, type);
        if (!traits)
            return FAIL(check, "is of no type that is understood: %s", lode_type_list());
        if (!of_type->known)
            return FAIL(check, "has curves and is marked as %s", "not known");
        const int rc = check_record(check, of_type, &profile_kernels_record);
        if (rc)
            return rc;
        profile_path_cut(&check->path, len);
        n_known++;
    }
    return n_known ? 0 : FAIL(check, "is empty: the rate of at least one tensor type must be %s", "known");
}

static int check_records(struct check *check, const char *base, const struct profile_field *field)
{
    uint32_t n;
    memcpy(&n, base + field->count_offset, sizeof n);
    if (n > field->capacity)
        return FAIL(check, "has %u members, and at most %u are possible", n, field->capacity);
    const size_t len = check->path.len;
    for (uint32_t i = 0; i < n; i++) {
        profile_path_item(&check->path, i);
        const int rc = check_record(check, base + field->offset + i * field->size, field->record);
        if (rc)
            return rc;
        profile_path_cut(&check->path, len);
    }
    return 0;
}

static int check_interference(struct check *check, const double shares[PROFILE_LANES][PROFILE_LANES],
                              const struct profile_field *field)
{
    const size_t len = check->path.len;
    for (int i = 0; i < PROFILE_LANES; i++)
        for (int j = 0; j < PROFILE_LANES; j++) {
            profile_path_member(&check->path, profile_lane_names[i]);
            int rc = i == j ? check_member(check, profile_lane_names[j], shares[i][j], 1, 1, field->unit)
                            : check_member(check, profile_lane_names[j], shares[i][j], field->low,
                                           field->high, field->unit);
            profile_path_cut(&check->path, len);
            if (rc)
                return rc;
        }
    return 0;
}

static int check_learned(struct check *check, const struct profile_learned learned[PROFILE_PARTS],
                         const struct profile_field *field)
{
    const size_t len = check->path.len;
    for (int part = 0; part < PROFILE_PARTS; part++) {
        profile_path_member(&check->path, profile_part_names[part]);
        int rc = check_member(check, "factor", learned[part].factor, field->low, field->high, field->unit);
        if (!rc && !learned[part].runs && learned[part].factor != 1) {
            profile_path_member(&check->path, "runs");
            rc = FAIL(check, "is 0, and the factor is %g, which no run has taught", learned[part].factor);
        }
        if (rc)
            return rc;
        profile_path_cut(&check->path, len);
    }
    return 0;
}

static int check_integer(struct check *check, uint64_t value, const struct profile_field *field)
{
    if ((double)value >= field->low && (double)value <= field->high)
        return 0;
    return FAIL(check, "is %" PRIu64 " and must be between %.0f and %.0f %s", value, field->low, field->high,
                field->unit);
}

static int check_number(struct check *check, double value, const struct profile_field *field)
{
    if (value == 0 && !field->required) // not known
        return 0;
    return check_range(check, value, field->low, field->high, field->unit);
}

static int check_origin(struct check *check, enum profile_origin origin)
{
    switch (origin) {
    case PROFILE_MEASURED:
    case PROFILE_ESTIMATED:
    case PROFILE_DESCRIBED:
        return 0;
    }
    return FAIL(check, "is %d, which is none", (int)origin);
}

static int check_field(struct check *check, const char *base, const struct profile_field *field)
{
    const void *value = base + field->offset;
    switch (field->kind) {
    case FIELD_TEXT:
        return check_text(check, value, field);
    case FIELD_ORIGIN:
        return check_origin(check, *(const enum profile_origin *)value);
    case FIELD_NUMBER:
        return check_number(check, *(const double *)value, field);
    case FIELD_U32:
        return check_integer(check, *(const uint32_t *)value, field);
    case FIELD_U64:
        return check_integer(check, *(const uint64_t *)value, field);
    case FIELD_BOOL:
        return 0;
    case FIELD_CURVE:
        return check_curve(check, value, field);
    case FIELD_KERNELS:
        return check_kernels(check, value);
    case FIELD_RECORD:
        return check_record(check, value, field->record);
    case FIELD_RECORDS:
        return check_records(check, base, field);
    case FIELD_INTERFERENCE:
        return check_interference(check, value, field);
    case FIELD_LEARNED:
        return check_learned(check, value, field);
    }
    return 0;
}

static int check_record(struct check *check, const void *record, const struct profile_record *kind)
{
    const size_t len = check->path.len;
    for (size_t i = 0; i < kind->n_fields; i++) {
        profile_path_member(&check->path, kind->fields[i].name);
        const int rc = check_field(check, record, &kind->fields[i]);
        if (rc)
            return rc;
        profile_path_cut(&check->path, len);
    }
    return 0;
}

// ---- what fields say together
// --------------------------------------------------------------------------------

static int fail_at(struct check *check, const char *path, const char *what)
{
    return lode_fail(check->error, LODE_ERR_FORMAT, "%s: %s %s", check->name, path, what);
}

static bool is_fingerprint(const char *text)
{
    return strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16;
}

static bool is_mode(const char *text)
{
    return strcmp(text, "quick") == 0 || strcmp(text, "full") == 0 || strcmp(text, "thorough") == 0;
}

// What was measured says when, by what and on which hardware; what was not must not claim it.
static int check_provenance(struct check *check, const struct machine_profile *profile)
{
    if (profile->origin != PROFILE_MEASURED) {
        if (profile->made[0])
            return fail_at(check, "made", "is for measured profiles only");
        if (profile->fingerprint[0])
            return fail_at(check, "fingerprint", "is for measured profiles only");
        if (profile->mode[0])
            return fail_at(check, "mode", "is for measured profiles only");
        if (!profile->source[0])
            return fail_at(check, "source",
                           "is missing: where do the figures come from that were not measured?");
        for (int part = 0; part < PROFILE_PARTS; part++)
            if (profile->learned[part].runs)
                return fail_at(check, "learned", "is for measured profiles only");
        return 0;
    }
    if (!utc_time_is(profile->made))
        return fail_at(check, "made",
                       "must be a time in UTC, as 2026-01-31T12:34:56Z, of a measured profile");
    if (!profile->made_by[0])
        return fail_at(check, "made_by", "is missing, and a measured profile must have it");
    if (!is_fingerprint(profile->fingerprint))
        return fail_at(check, "fingerprint", "must be 16 hexadecimal digits of a measured profile");
    if (!is_mode(profile->mode))
        return fail_at(check, "mode", "must be quick, full or thorough of a measured profile");
    return 0;
}

static int check_link(struct check *check, const struct profile_device *gpu, const char *member,
                      const struct profile_curve *curve)
{
    if (gpu->shares_memory || curve->n_points)
        return 0;
    profile_path_member(&check->path, member);
    return FAIL(check, "is missing, and %s", "shares_memory is not true");
}

static int check_gpu(struct check *check, const struct profile_device *gpu, uint32_t index)
{
    profile_path_cut(&check->path, 0);
    profile_path_member(&check->path, "gpus");
    profile_path_item(&check->path, index);
    if (strcmp(gpu->backend, "cuda") != 0 && strcmp(gpu->backend, "hip") != 0 &&
        strcmp(gpu->backend, "simt") != 0) {
        profile_path_member(&check->path, "backend");
        return FAIL(check, "must be %s", "cuda, hip or simt");
    }
    const int rc = check_link(check, gpu, "upload_pinned_gbps", &gpu->upload_pinned_gbps);
    return rc ? rc : check_link(check, gpu, "download_pinned_gbps", &gpu->download_pinned_gbps);
}

int machine_profile_check(const struct machine_profile *profile, const char *name, struct lode_error *error)
{
    struct check check = {.name = name, .error = error};
    int rc = check_record(&check, profile, &profile_machine_record);
    if (!rc)
        rc = check_provenance(&check, profile);
    if (!rc && strcmp(profile->cpu.backend, "cpu") != 0)
        rc = fail_at(&check, "cpu.backend", "must be cpu");
    for (uint32_t i = 0; !rc && i < profile->n_gpus; i++)
        rc = check_gpu(&check, &profile->gpus[i], i);
    return rc;
}
