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

// The last ones are there where there are GPUs.
static const struct tune_field fields[] = {
    TUNE_TEXT(struct tuned, made),
    TUNE_BYTES(struct tuned, ram_bytes, 0x1p60),
    TUNE_SETTINGS_FIELDS(struct tuned),
    TUNE_NUMBER(struct tuned, decode_gain, 0.01, 100),
    TUNE_NUMBER(struct tuned, prefill_gain, 0.01, 100),
    TUNE_TEXT(struct tuned, devices),
    TUNE_BYTES(struct tuned, vram_bytes, 0x1p60),
    TUNE_FLAG(struct tuned, by_layer),
};
enum { N_FIELDS = sizeof fields / sizeof *fields, N_GPU_FIELDS = 3, VERSION = 1 };

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

static uint32_t fnv1a(const char *text)
{
    uint32_t hash = 0x811c9dc5u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x01000193u;
    return hash;
}

// "-cuda0+cuda1-1c2f9a04-8589934592-by-layer": names, cards, ceiling, placement; empty without GPUs.
static void name_gpus(char *out, size_t capacity, const struct model_gpus *gpus)
{
    char cards[TUNED_DEVICES_SIZE], vram[24] = "auto";
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < gpus->n && used < capacity; i++)
        used += (size_t)snprintf(out + used, capacity - used, "%s%s", i ? "+" : "-", gpus->info[i].name);
    if (!gpus->n || used >= capacity)
        return;
    model_gpus_describe(cards, sizeof cards, gpus);
    if (gpus->vram_bytes)
        snprintf(vram, sizeof vram, "%" PRIu64, gpus->vram_bytes);
    snprintf(out + used, capacity - used, "-%08" PRIx32 "-%s%s", fnv1a(cards), vram,
             gpus->placement == MODEL_PLACEMENT_BY_LAYER ? "-by-layer" : "");
}

int tuned_path(char out[TUNED_PATH_SIZE], const struct model_options *options, const char *suffix,
               struct lode_error *error)
{
    char place[TUNED_PATH_SIZE], ceiling[24] = "auto", gpus[160];
    struct machine_profile machine;
    const struct probe_options probe = {.drive_path = options->path};
    uint64_t model;
    if (!config_dir_profile(place, sizeof place))
        return lode_fail(error, LODE_ERR_IO,
                         "there is no place to keep settings in: neither XDG_CONFIG_HOME nor HOME is an "
                         "absolute path");
    int code = probe_discover(&machine, &probe, error);
    if (!code)
        code = find_model(&model, options->path, error);
    if (code)
        return code;
    if (options->ram_bytes)
        snprintf(ceiling, sizeof ceiling, "%" PRIu64, options->ram_bytes);
    name_gpus(gpus, sizeof gpus, &options->gpus);
    const int folder_len = (int)(strrchr(place, '/') - place); // of the profile
    const int len = snprintf(out, TUNED_PATH_SIZE, "%.*s/tuned/%s-%016" PRIx64 "-%s%s%s", folder_len, place,
                             machine.fingerprint, model, ceiling, gpus, suffix);
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

static void set_gpus(struct tuned *tuned, const struct model_gpus *gpus)
{
    model_gpus_describe(tuned->devices, sizeof tuned->devices, gpus);
    tuned->vram_bytes = gpus->n ? gpus->vram_bytes : 0;
    tuned->by_layer = gpus->n && gpus->placement == MODEL_PLACEMENT_BY_LAYER;
}

static int check(const struct tuned *tuned, const struct model_options *options, const char *path,
                 struct lode_error *error)
{
    struct tuned own = {0};
    set_gpus(&own, &options->gpus);
    if (!utc_time_is(tuned->made))
        return lode_fail(error, LODE_ERR_FORMAT, "%s: made must be a time in UTC, as 2026-01-31T12:34:56Z",
                         path);
    if (tuned->ram_bytes != options->ram_bytes)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: ram_bytes is of another ceiling than the file's name",
                         path);
    if (strcmp(tuned->devices, own.devices) != 0 || tuned->vram_bytes != own.vram_bytes ||
        tuned->by_layer != own.by_layer)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: devices, vram_bytes or by_layer are of other GPUs than the file's name", path);
    if (!is_policy(tuned->policy))
        return lode_fail(error, LODE_ERR_FORMAT, "%s: policy: there is none called '%s'", path,
                         tuned->policy);
    if (tuned->no_prefetch && tuned->prefetch_ranks)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: prefetch_ranks contradicts no_prefetch", path);
    return 0;
}

static int read_object(struct tuned *out, const json_t *object, const struct model_options *options,
                       const char *path, struct lode_error *error)
{
    static const char *const others[] = {"version"};
    const json_t *version = json_object_get(object, "version");
    if (!json_is_integer(version) || json_integer_value(version) != VERSION)
        return lode_fail(error, LODE_ERR_FORMAT, "%s: version must be %d", path, VERSION);
    const size_t n = N_FIELDS - (options->gpus.n ? 0 : N_GPU_FIELDS);
    int code = tune_fields_read(out, object, fields, n, others, 1, path, error);
    return code ? code : check(out, options, path, error);
}

static int read_at(struct tuned *out, bool *out_found, const char *path, const struct model_options *options,
                   struct lode_error *error)
{
    json_t *object = NULL;
    memset(out, 0, sizeof *out);
    int code = tune_file_read(&object, path, error);
    if (!code && object)
        code = read_object(out, object, options, path, error);
    *out_found = !code && object;
    json_decref(object);
    return code;
}

int tuned_read(struct tuned *out, bool *out_found, const struct model_options *options,
               struct lode_error *error)
{
    char path[TUNED_PATH_SIZE];
    *out_found = false;
    int code = tuned_path(path, options, ".json", error);
    return code ? code : read_at(out, out_found, path, options, error);
}

int tuned_write(const struct tuned *tuned, const struct model_options *options, struct lode_error *error)
{
    char path[TUNED_PATH_SIZE];
    struct tuned own = *tuned;
    own.ram_bytes = options->ram_bytes;
    set_gpus(&own, &options->gpus);
    int code = tuned_path(path, options, ".json", error);
    if (code)
        return code;
    json_t *object = tune_fields_json(&own, fields, N_FIELDS - (options->gpus.n ? 0 : N_GPU_FIELDS));
    if (!object || json_object_set_new(object, "version", json_integer(VERSION)) != 0)
        code = lode_fail(error, LODE_ERR_MEMORY, "no memory to write %s", path);
    if (!code)
        code = tune_file_write(object, path, error);
    json_decref(object);
    return code;
}

int tuned_remove(bool *out_removed, const struct model_options *options, struct lode_error *error)
{
    char path[TUNED_PATH_SIZE];
    *out_removed = false;
    int code = tuned_path(path, options, ".json", error);
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
    // Without a place there is nothing kept, and a model that cannot be read, or devices that cannot be used,
    // are told by who opens them.
    if (options->cold || model_gpus_find(&options->gpus, &error) ||
        tuned_path(path, options, ".json", &error))
        return;
    if (read_at(&tuned, &found, path, options, &error)) {
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
