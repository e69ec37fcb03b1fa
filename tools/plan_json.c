// The object of a plan.
#include "tools/plan_report.h"

#include "tools/json_out.h"
#include "tools/plan_layers.h"

#include <string.h>

static json_t *text_json(const char *text)
{
    return json_out_text(text, strlen(text));
}

static json_t *bytes_json(uint64_t bytes)
{
    return json_integer((json_int_t)bytes);
}

// ---- speed
// ---------------------------------------------------------------------------------------------------

static json_t *shares_json(const struct lode_plan_shares *shares)
{
    json_t *object = json_object();
    json_object_set_new(object, "cpu_kernels", json_out_number(shares->kernels));
    json_object_set_new(object, "attention", json_out_number(shares->attention));
    json_object_set_new(object, "small_operations", json_out_number(shares->operations));
    json_object_set_new(object, "drive", json_out_number(shares->drive));
    json_object_set_new(object, "gpu", json_out_number(shares->gpu));
    json_object_set_new(object, "link", json_out_number(shares->link));
    json_object_set_new(object, "limiter", text_json(shares->limiter));
    return object;
}

static json_t *expected_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < plan->n_expected; i++) {
        const struct lode_plan_expected *e = &plan->expected[i];
        json_t *object = json_object();
        json_object_set_new(object, "context", json_integer(e->context));
        json_object_set_new(object, "decode_tok_s", json_out_number(e->decode_tok_s));
        json_object_set_new(object, "low", json_out_number(e->decode_low));
        json_object_set_new(object, "high", json_out_number(e->decode_high));
        json_object_set_new(object, "prefill_tokens", json_integer(e->prefill_tokens));
        json_object_set_new(object, "prefill_tok_s", json_out_number(e->prefill_tok_s));
        json_object_set_new(object, "prefill_low", json_out_number(e->prefill_low));
        json_object_set_new(object, "prefill_high", json_out_number(e->prefill_high));
        json_object_set_new(object, "decode", shares_json(&e->decode));
        json_object_set_new(object, "prefill", shares_json(&e->prefill));
        json_object_set_new(object, "read_bytes_per_token", json_out_number(e->read_bytes_per_token));
        json_object_set_new(object, "hit_rate", json_out_number(e->hit_rate));
        json_array_append_new(array, object);
    }
    return array;
}

// ---- machine and memory
// --------------------------------------------------------------------------------------

static json_t *machine_json(const struct lode_plan *plan)
{
    json_t *object = json_object();
    json_object_set_new(object, "name", text_json(plan->machine));
    json_object_set_new(object, "source", text_json(plan->machine_source));
    json_object_set_new(object, "measured", json_boolean(plan->measured));
    json_object_set_new(object, "cpu", text_json(plan->cpu));
    json_object_set_new(object, "drive", plan->drive[0] ? text_json(plan->drive) : json_null());
    json_object_set_new(object, "threads", json_integer(plan->threads));
    return object;
}

static json_t *memory_json(const struct lode_plan *plan, const char *kv)
{
    json_t *object = json_object();
    json_object_set_new(object, "ceiling_bytes", bytes_json(plan->ceiling_bytes));
    json_object_set_new(object, "program_bytes", bytes_json(plan->program_bytes));
    json_object_set_new(object, "kv_bytes", bytes_json(plan->kv_bytes));
    json_object_set_new(object, "scratch_bytes", bytes_json(plan->scratch_bytes));
    json_object_set_new(object, "buffer_bytes", bytes_json(plan->buffer_bytes));
    json_object_set_new(object, "context", json_integer(plan->context));
    json_object_set_new(object, "batch", json_integer(plan->batch));
    json_object_set_new(object, "kv", text_json(kv));
    return object;
}

static json_t *settings_json(const struct lode_plan *plan)
{
    json_t *object = json_object();
    json_object_set_new(object, "threads", json_integer(plan->threads));
    json_object_set_new(object, "batch", json_integer(plan->batch));
    json_object_set_new(object, "ring_bytes", bytes_json(plan->ring_bytes));
    json_object_set_new(object, "prefetch", json_boolean(plan->prefetch));
    return object;
}

static json_t *gpus_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t g = 0; g < plan->n_gpus; g++) {
        const struct lode_plan_gpu *gpu = &plan->gpus[g];
        uint64_t weight_bytes = 0;
        for (uint32_t i = 0; i < plan->n_groups; i++)
            weight_bytes += plan->groups[i].gpu_bytes[g];
        json_t *object = json_object();
        json_object_set_new(object, "name", text_json(gpu->name));
        json_object_set_new(object, "ceiling_bytes", bytes_json(gpu->ceiling_bytes));
        json_object_set_new(object, "weight_bytes", bytes_json(weight_bytes));
        json_object_set_new(object, "kv_bytes", bytes_json(gpu->kv_bytes));
        json_object_set_new(object, "scratch_bytes", bytes_json(gpu->scratch_bytes));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *groups_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < plan->n_groups; i++) {
        const struct lode_plan_group *group = &plan->groups[i];
        json_t *object = json_object(), *gpu_bytes = json_array();
        for (uint32_t g = 0; g < plan->n_gpus; g++)
            json_array_append_new(gpu_bytes, bytes_json(group->gpu_bytes[g]));
        json_object_set_new(object, "kind", text_json(group->kind));
        json_object_set_new(object, "units", bytes_json(group->units));
        json_object_set_new(object, "bytes", bytes_json(group->bytes));
        json_object_set_new(object, "gpu_bytes", gpu_bytes);
        json_object_set_new(object, "ram_bytes", bytes_json(group->ram_bytes));
        json_object_set_new(object, "nvme_bytes", bytes_json(group->nvme_bytes));
        json_array_append_new(array, object);
    }
    return array;
}

// ---- layers
// --------------------------------------------------------------------------------------------------

// The homes of dense units by their kinds.
static json_t *homes_json(const struct plan_layers *layers, uint32_t from, uint32_t to)
{
    json_t *object = json_object();
    for (uint32_t i = from; i < to; i++) {
        const struct lode_plan_unit *unit = &layers->plan->units[layers->order[i]];
        char home[PLAN_HOME_SIZE];
        json_object_set_new(object, unit->kind, text_json(plan_home_name(home, unit->home)));
    }
    return object;
}

static json_t *experts_json(const struct plan_layers *layers, uint32_t from, uint32_t to)
{
    uint32_t count[UINT8_MAX + 1] = {0};
    for (uint32_t i = from; i < to; i++)
        count[layers->plan->units[layers->order[i]].home]++;
    json_t *object = json_object();
    for (unsigned home = 0; home <= UINT8_MAX; home++) {
        char name[PLAN_HOME_SIZE];
        if (count[home])
            json_object_set_new(object, plan_home_name(name, (uint8_t)home), json_integer(count[home]));
    }
    return object;
}

static int add_layers(json_t *object, const struct lode_plan *plan)
{
    struct plan_layers layers;
    const bool ok = plan_layers_open(&layers, plan);
    if (ok) {
        json_t *array = json_array();
        for (uint32_t l = 0; l < layers.n_layers; l++) {
            json_t *layer = json_object();
            json_object_set_new(layer, "dense", homes_json(&layers, layers.begin[l], layers.experts[l]));
            json_object_set_new(layer, "experts",
                                experts_json(&layers, layers.experts[l], layers.begin[l + 1]));
            json_array_append_new(array, layer);
        }
        json_object_set_new(object, "layers", array);
        json_object_set_new(object, "outside_layers",
                            homes_json(&layers, 0, layers.n_layers ? layers.begin[0] : plan->n_units));
    }
    plan_layers_close(&layers);
    return ok ? 0 : -1;
}

// ---- advice
// --------------------------------------------------------------------------------------------------

static json_t *changes_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < plan->n_changes; i++) {
        json_t *object = json_object();
        json_object_set_new(object, "what", text_json(plan->changes[i].what));
        json_object_set_new(object, "lossy", json_boolean(plan->changes[i].lossy));
        json_object_set_new(object, "decode_tok_s", json_out_number(plan->changes[i].decode_tok_s));
        json_object_set_new(object, "prefill_tok_s", json_out_number(plan->changes[i].prefill_tok_s));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *refused_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < plan->n_refused; i++) {
        const struct lode_plan_refused *refused = &plan->refused[i];
        json_t *object = json_object();
        json_object_set_new(object, "what", text_json(refused->what));
        json_object_set_new(object, "fits", json_boolean(refused->fits));
        json_object_set_new(object, "turn_longer",
                            refused->fits ? json_out_number(refused->turn_longer) : json_null());
        json_object_set_new(object, "decode_tok_s",
                            refused->fits ? json_out_number(refused->decode_tok_s) : json_null());
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *warnings_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < plan->n_warnings; i++)
        json_array_append_new(array, text_json(plan->warnings[i]));
    return array;
}

int plan_report_json(FILE *out, const struct lode_plan *plan, const char *kv)
{
    json_t *object = json_object();
    json_object_set_new(object, "model", text_json(plan->shape.name));
    json_object_set_new(object, "size", text_json(plan->shape.size));
    json_object_set_new(object, "type", text_json(plan->shape.type));
    json_object_set_new(object, "weight_bytes", bytes_json(plan->shape.weight_bytes));
    json_object_set_new(object, "machine", machine_json(plan));
    json_object_set_new(object, "settings", settings_json(plan));
    json_object_set_new(object, "memory", memory_json(plan, kv));
    json_object_set_new(object, "gpus", gpus_json(plan));
    json_object_set_new(object, "groups", groups_json(plan));
    json_object_set_new(object, "expected", expected_json(plan));
    json_object_set_new(object, "limiter",
                        plan->n_expected ? text_json(plan->expected[0].decode.limiter) : json_null());
    json_object_set_new(object, "changes", changes_json(plan));
    json_object_set_new(object, "refused", refused_json(plan));
    json_object_set_new(object, "warnings", warnings_json(plan));
    if (add_layers(object, plan)) {
        json_decref(object);
        return -1;
    }
    return json_out_print(out, object);
}
