#include "tools/tune_state.h"

#include "tools/tune_file.h"

#include <stdio.h>
#include <string.h>

enum { VERSION = 1, NAME_SIZE = 256, TIMES = 4 };

static const struct tune_field settings_fields[] = {TUNE_SETTINGS_FIELDS(struct tune_settings)};
enum { N_SETTINGS_FIELDS = sizeof settings_fields / sizeof *settings_fields };

struct flat { // what of a candidate is a number
    uint32_t knob;
    bool other_tokens;
};

static const struct tune_field candidate_fields[] = {
    TUNE_COUNT(struct flat, knob, 0, TUNE_KNOBS),
    TUNE_FLAG(struct flat, other_tokens),
};
enum { N_CANDIDATE_FIELDS = sizeof candidate_fields / sizeof *candidate_fields };
static const char *const candidate_others[] = {"base", "settings", "pairs"};

// ---- reading
// -------------------------------------------------------------------------------------------------

static int read_pair(struct tune_pair *out, const json_t *array, const char *name, size_t index,
                     struct lode_error *error)
{
    double *const times[TIMES] = {&out->before_prefill_s, &out->before_decode_s, &out->after_prefill_s,
                                  &out->after_decode_s};
    bool good = json_is_array(array) && json_array_size(array) == TIMES;
    for (size_t i = 0; i < TIMES && good; i++) {
        const json_t *value = json_array_get(array, i);
        *times[i] = json_number_value(value);
        good = json_is_number(value) && *times[i] >= 1e-9 && *times[i] <= 1e6;
    }
    return good ? 0
                : lode_fail(error, LODE_ERR_FORMAT,
                            "%s: pairs[%zu] must be four times from 1e-9 to 1e6 seconds", name, index);
}

static int read_pairs(struct tune_candidate *out, const json_t *array, const char *name,
                      struct lode_error *error)
{
    if (!json_is_array(array) || json_array_size(array) > TUNE_MOST_PAIRS)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: pairs must be a list of at most %d", name,
                         TUNE_MOST_PAIRS);
    int code = 0;
    for (size_t i = 0; i < json_array_size(array) && !code; i++) {
        code = read_pair(&out->pairs[i], json_array_get(array, i), name, i, error);
        out->n_pairs++;
    }
    return code;
}

static int read_settings(struct tune_settings *out, const json_t *candidate, const char *key,
                         const char *name, struct lode_error *error)
{
    char where[NAME_SIZE + 16];
    snprintf(where, sizeof where, "%s.%s", name, key);
    return tune_fields_read(out, json_object_get(candidate, key), settings_fields, N_SETTINGS_FIELDS, NULL, 0,
                            where, error);
}

static int read_candidate(struct tune_journal *out, const json_t *object, const char *path, size_t index,
                          struct lode_error *error)
{
    struct tune_candidate *c = &out->list[out->n];
    struct flat flat = {0};
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%.200s: candidates[%zu]", path, index);
    *c = (struct tune_candidate){0};
    int code = tune_fields_read(&flat, object, candidate_fields, N_CANDIDATE_FIELDS, candidate_others,
                                sizeof candidate_others / sizeof *candidate_others, name, error);
    if (!code)
        code = read_settings(&c->base, object, "base", name, error);
    if (!code)
        code = read_settings(&c->settings, object, "settings", name, error);
    if (!code)
        code = read_pairs(c, json_object_get(object, "pairs"), name, error);
    c->knob = (enum tune_knob)flat.knob;
    c->verdict = flat.other_tokens ? TUNE_OTHER_TOKENS : TUNE_OPEN;
    out->n += !code;
    return code;
}

static int read_journal(struct tune_journal *out, bool *out_other, const json_t *object,
                        const char *conditions, const char *path, struct lode_error *error)
{
    const json_t *version = json_object_get(object, "version"), *list = json_object_get(object, "candidates");
    const char *measured_under = json_string_value(json_object_get(object, "conditions"));
    if (!json_is_integer(version) || json_integer_value(version) != VERSION)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: version must be %d", path, VERSION);
    if (!measured_under)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: conditions must be a text", path);
    if (!json_is_array(list) || json_array_size(list) > TUNE_MOST_CANDIDATES)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: candidates must be a list of at most %d", path,
                         TUNE_MOST_CANDIDATES);
    *out_other = strcmp(measured_under, conditions) != 0;
    int code = 0;
    for (size_t i = 0; i < json_array_size(list) && !code; i++)
        code = read_candidate(out, json_array_get(list, i), path, i, error);
    return code;
}

int tune_state_read(struct tune_journal *out, bool *out_other, const char *conditions, const char *path,
                    struct lode_error *error)
{
    json_t *object = NULL;
    out->n = 0;
    *out_other = false;
    int code = tune_file_read(&object, path, error);
    if (!code && object)
        code = read_journal(out, out_other, object, conditions, path, error);
    if (code || *out_other)
        out->n = 0;
    json_decref(object);
    return code;
}

// ---- writing
// -------------------------------------------------------------------------------------------------

static json_t *candidate_json(const struct tune_candidate *c)
{
    const struct flat flat = {.knob = c->knob, .other_tokens = c->verdict == TUNE_OTHER_TOKENS};
    json_t *object = tune_fields_json(&flat, candidate_fields, N_CANDIDATE_FIELDS), *pairs = json_array();
    for (uint32_t i = 0; i < c->n_pairs; i++) {
        const struct tune_pair *p = &c->pairs[i];
        json_array_append_new(pairs, json_pack("[f,f,f,f]", p->before_prefill_s, p->before_decode_s,
                                               p->after_prefill_s, p->after_decode_s));
    }
    json_object_set_new(object, "base", tune_fields_json(&c->base, settings_fields, N_SETTINGS_FIELDS));
    json_object_set_new(object, "settings",
                        tune_fields_json(&c->settings, settings_fields, N_SETTINGS_FIELDS));
    json_object_set_new(object, "pairs", pairs);
    return object;
}

int tune_state_write(const struct tune_journal *journal, const char *conditions, const char *path,
                     struct lode_error *error)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < journal->n; i++)
        if (journal->list[i].n_pairs || journal->list[i].verdict == TUNE_OTHER_TOKENS)
            json_array_append_new(list, candidate_json(&journal->list[i]));
    json_t *object = json_object();
    json_object_set_new(object, "version", json_integer(VERSION));
    json_object_set_new(object, "conditions", json_string(conditions));
    json_object_set_new(object, "candidates", list);
    int code = object ? tune_file_write(object, path, error)
                      : lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path);
    json_decref(object);
    return code;
}
