#include "tools/tuned.h"

#include "profiles/probe.h"
#include "profiles/utc_time.h"
#include "tools/config_dir.h"
#include "tools/message.h"
#include "tools/model.h"
#include "tools/tune_file.h"
#include "tools/tune_knobs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct tune_field fields[] = {
    TUNE_TEXT(struct tuned, made),
    TUNE_BYTES(struct tuned, ram_bytes, 0x1p60),
    TUNE_SETTINGS_FIELDS(struct tuned),
    TUNE_NUMBER(struct tuned, decode_gain, 0.01, 100),
    TUNE_NUMBER(struct tuned, prefill_gain, 0.01, 100),
};
enum { N_FIELDS = sizeof fields / sizeof *fields, VERSION = 1 };

// ---- where
// ---------------------------------------------------------------------------------------------------

static int find_model(uint64_t *out, const char *path, struct lode_error *error)
{
    struct lode_file *file = NULL;
    int code = lode_file_open(&file, path, error);
    if (!code)
        code = lode_file_fingerprint(file, out, error);
    lode_file_close(file);
    return code;
}

int tuned_path(char out[TUNED_PATH_SIZE], const char *model_path, uint64_t ram_bytes, const char *suffix,
               struct lode_error *error)
{
    char place[TUNED_PATH_SIZE], ceiling[24] = "auto";
    struct machine_profile machine;
    const struct probe_options probe = {.drive_path = model_path};
    uint64_t model;
    if (!config_dir_profile(place, sizeof place))
        return lode_fail(error, LODE_ERR_IO,
                         "there is no place to keep settings in: neither XDG_CONFIG_HOME nor HOME is an "
                         "absolute path");
    int code = probe_discover(&machine, &probe, error);
    if (!code)
        code = find_model(&model, model_path, error);
    if (code)
        return code;
    if (ram_bytes)
        snprintf(ceiling, sizeof ceiling, "%" PRIu64, ram_bytes);
    const int folder_len = (int)(strrchr(place, '/') - place); // of the profile
    const int len = snprintf(out, TUNED_PATH_SIZE, "%.*s/tuned/%s-%016" PRIx64 "-%s%s", folder_len, place,
                             machine.fingerprint, model, ceiling, suffix);
    return len < TUNED_PATH_SIZE ? 0
                                 : lode_fail(error, LODE_ERR_ARGUMENT,
                                             "the path of the config folder is too long: %.200s…", place);
}

// ---- reading and writing
// -------------------------------------------------------------------------------------

static bool is_policy(const char *name)
{
    const char *known;
    for (size_t i = 0; (known = lode_policy_name(i, NULL)); i++)
        if (strcmp(known, name) == 0)
            return true;
    return !name[0];
}

static int check(const struct tuned *tuned, uint64_t ram_bytes, const char *path, struct lode_error *error)
{
    if (!utc_time_is(tuned->made))
        return lode_fail(error, LODE_ERR_FORMAT, "%s: made must be a time in UTC, as 2026-01-31T12:34:56Z",
                         path);
    if (tuned->ram_bytes != ram_bytes)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: ram_bytes is of another ceiling than the file's name",
                         path);
    if (!is_policy(tuned->policy))
        return lode_fail(error, LODE_ERR_FORMAT, "%s: policy: there is none called '%s'", path,
                         tuned->policy);
    if (tuned->no_prefetch && tuned->prefetch_ranks)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: prefetch_ranks contradicts no_prefetch", path);
    return 0;
}

static int read_object(struct tuned *out, const json_t *object, uint64_t ram_bytes, const char *path,
                       struct lode_error *error)
{
    static const char *const others[] = {"version"};
    const json_t *version = json_object_get(object, "version");
    if (!json_is_integer(version) || json_integer_value(version) != VERSION)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: version must be %d", path, VERSION);
    int code = tune_fields_read(out, object, fields, N_FIELDS, others, 1, path, error);
    return code ? code : check(out, ram_bytes, path, error);
}

static int read_at(struct tuned *out, bool *out_found, const char *path, uint64_t ram_bytes,
                   struct lode_error *error)
{
    json_t *object = NULL;
    memset(out, 0, sizeof *out);
    int code = tune_file_read(&object, path, error);
    if (!code && object)
        code = read_object(out, object, ram_bytes, path, error);
    *out_found = !code && object;
    json_decref(object);
    return code;
}

int tuned_read(struct tuned *out, bool *out_found, const char *model_path, uint64_t ram_bytes,
               struct lode_error *error)
{
    char path[TUNED_PATH_SIZE];
    *out_found = false;
    int code = tuned_path(path, model_path, ram_bytes, ".json", error);
    return code ? code : read_at(out, out_found, path, ram_bytes, error);
}

int tuned_write(const struct tuned *tuned, const char *model_path, struct lode_error *error)
{
    char path[TUNED_PATH_SIZE];
    int code = tuned_path(path, model_path, tuned->ram_bytes, ".json", error);
    if (code)
        return code;
    json_t *object = tune_fields_json(tuned, fields, N_FIELDS);
    if (!object || json_object_set_new(object, "version", json_integer(VERSION)) != 0)
        code = lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path);
    if (!code)
        code = tune_file_write(object, path, error);
    json_decref(object);
    return code;
}

int tuned_remove(bool *out_removed, const char *model_path, uint64_t ram_bytes, struct lode_error *error)
{
    char path[TUNED_PATH_SIZE];
    *out_removed = false;
    int code = tuned_path(path, model_path, ram_bytes, ".json", error);
    return code ? code : tune_file_remove(out_removed, path, error);
}

// ---- use
// -----------------------------------------------------------------------------------------------------

// Returns what is filled in.
static struct tune_settings fill_in(struct model_options *options, const struct tuned *tuned)
{
    struct tune_settings set = {0};
    if (!options->threads)
        options->threads = set.threads = tuned->threads;
    if (!options->batch && tuned->batch) {
        options->batch = set.batch = tuned->batch;
        options->batch_is_tuned = true;
    }
    if (!options->queue_depth)
        options->queue_depth = set.queue_depth = tuned->queue_depth;
    if (!options->ring_bytes)
        options->ring_bytes = set.ring_bytes = tuned->ring_bytes;
    if (!options->no_prefetch && !options->prefetch_ranks && !options->predictor) {
        options->no_prefetch = set.no_prefetch = tuned->no_prefetch;
        options->prefetch_ranks = set.prefetch_ranks = tuned->prefetch_ranks;
    }
    if (!options->policy && tuned->policy[0]) { // as the engine calls it, which lives as long as the program
        for (size_t i = 0; (options->policy = lode_policy_name(i, NULL)); i++)
            if (strcmp(options->policy, tuned->policy) == 0)
                break;
        snprintf(set.policy, sizeof set.policy, "%s", tuned->policy);
    }
    return set;
}

void tuned_apply(struct model_options *options, const char *command)
{
    struct lode_error error = {0};
    struct tuned tuned;
    bool found;
    char path[TUNED_PATH_SIZE];
    // Without a place there is nothing kept, and a model that cannot be read is told by who opens it.
    // It was tuned with the devices that a run has by default.
    if (options->cold || model_gpus_are_given(&options->gpus) ||
        tuned_path(path, options->path, options->ram_bytes, ".json", &error))
        return;
    if (read_at(&tuned, &found, path, options->ram_bytes, &error)) {
        message_note(command, "tuned settings are left out: %s; lode tune --forget removes them", error.text);
        return;
    }
    if (!found)
        return;
    const struct tune_settings none = {0}, set = fill_in(options, &tuned);
    char text[256];
    if (!tune_settings_equal(&set, &none))
        message_note(command, "tuned settings: %s (lode tune, %.10s)",
                     tune_settings_text(text, sizeof text, &set), tuned.made);
}
