// The object that tells of a run: a child prints it, and its parent reads it.
#include "tools/against.h"

#include "tools/json_out.h"

#include <stdlib.h>
#include <string.h>

static void add_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

int against_write_run(FILE *stream, const struct against_run *run)
{
    json_t *object = json_object(), *ids = json_array();
    for (uint32_t i = 0; i < run->n_ids; i++)
        json_array_append_new(ids, json_integer(run->ids[i]));
    json_object_set_new(object, "prefill_s", json_out_number(run->prefill_s));
    json_object_set_new(object, "decode_s", json_out_number(run->decode_s));
    json_object_set_new(object, "hit_rate", json_out_number(run->hit_rate));
    json_object_set_new(object, "counts_hits", json_boolean(run->counts_hits));
    json_object_set_new(object, "offloaded", json_boolean(run->offloaded));
    add_count(object, "prefill_bytes", run->prefill_bytes);
    add_count(object, "decode_bytes", run->decode_bytes);
    add_count(object, "weights_bytes", run->weights_bytes);
    add_count(object, "expert_bytes", run->expert_bytes);
    add_count(object, "peak_bytes", run->peak_bytes);
    add_count(object, "plan_hash", run->plan_hash);
    add_count(object, "gpus", run->n_gpus);
    json_object_set_new(object, "policy", json_out_text(run->policy, strlen(run->policy)));
    json_object_set_new(object, "io", json_out_text(run->io, strlen(run->io)));
    json_object_set_new(object, "settings", json_out_text(run->settings, strlen(run->settings)));
    json_object_set_new(object, "ids", ids);
    return json_out_print(stream, object);
}

static bool get_count(uint64_t *out, const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    *out = (uint64_t)json_integer_value(value); // a hash has all 64 bits
    return json_is_integer(value);
}

static bool get_number(double *out, const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    *out = json_number_value(value);
    return json_is_number(value);
}

static bool get_flag(bool *out, const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    *out = json_is_true(value);
    return json_is_boolean(value);
}

static bool get_text(char *out, size_t capacity, const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    snprintf(out, capacity, "%s", text ? text : "");
    return text != NULL;
}

static bool get_ids(struct against_run *out, const json_t *object)
{
    const json_t *ids = json_object_get(object, "ids");
    const size_t n = json_array_size(ids);
    if (!json_is_array(ids) || n > UINT32_MAX)
        return false;
    out->ids = calloc(n + 1, sizeof *out->ids);
    for (size_t i = 0; i < n && out->ids; i++) {
        if (!json_is_integer(json_array_get(ids, i)))
            return false;
        out->ids[out->n_ids++] = (int32_t)json_integer_value(json_array_get(ids, i));
    }
    return out->ids != NULL;
}

int against_read_run(struct against_run *out, const char *text, size_t len, struct lode_error *error)
{
    *out = (struct against_run){0};
    json_t *object = json_loadb(text, len, 0, NULL);
    uint64_t n_gpus = 0;
    const bool good =
        object && get_number(&out->prefill_s, object, "prefill_s") &&
        get_number(&out->decode_s, object, "decode_s") && get_number(&out->hit_rate, object, "hit_rate") &&
        get_flag(&out->counts_hits, object, "counts_hits") &&
        get_flag(&out->offloaded, object, "offloaded") &&
        get_count(&out->prefill_bytes, object, "prefill_bytes") &&
        get_count(&out->decode_bytes, object, "decode_bytes") &&
        get_count(&out->weights_bytes, object, "weights_bytes") &&
        get_count(&out->expert_bytes, object, "expert_bytes") &&
        get_count(&out->peak_bytes, object, "peak_bytes") &&
        get_count(&out->plan_hash, object, "plan_hash") && get_count(&n_gpus, object, "gpus") &&
        n_gpus <= LODE_PLAN_GPUS && get_text(out->policy, sizeof out->policy, object, "policy") &&
        get_text(out->io, sizeof out->io, object, "io") &&
        get_text(out->settings, sizeof out->settings, object, "settings") && get_ids(out, object) &&
        out->prefill_s > 0 && out->decode_s > 0;
    json_decref(object);
    out->done = good;
    out->n_gpus = (uint32_t)n_gpus;
    if (good)
        return LODE_OK;
    free(out->ids);
    *out = (struct against_run){0};
    return lode_fail(error, LODE_ERR_FORMAT, "what the run has printed cannot be read");
}
