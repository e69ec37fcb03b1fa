// Only runs whose reads do not depend on time can be the same to the byte: with prefetch, or a pool that is
// filled while the run goes on, what is read when is a matter of how fast the machine was.
#include "tools/sim_replay.h"

#include "tools/json_out.h"

#include "placement/trace_settings.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct replayed {
    const char *path;
    const struct trace *trace;
    struct trace_settings settings;
    struct simulation_replay replay;
    bool must_be_equal, is_equal;
};

static double rate(const struct replayed *r, double seconds)
{
    return seconds > 0 ? (double)r->replay.result.decode.tokens / seconds : NAN;
}

static int replay_one(struct replayed *r, const struct simulation_model *model,
                      const struct machine_profile *profile, struct lode_error *error)
{
    int code = trace_settings_read(&r->settings, r->trace->header.options, error);
    if (!code && trace_settings_have_gpus(&r->settings))
        code = lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "%s computed beside the CPU, and GPUs are not simulated; record a run with "
                         "--devices cpu to compare with",
                         r->settings.devices);
    if (!code)
        code = simulate_replay(&r->replay, model, r->trace, profile, error);
    if (code) {
        lode_fail_in(error, "%s", r->path);
        return code;
    }
    const struct simulation_replay *replay = &r->replay;
    r->must_be_equal = strcmp(r->settings.predictor, "none") == 0 && !r->settings.warm;
    r->is_equal = replay->replay_hits == replay->live_hits && replay->replay_bytes == replay->live_bytes &&
                  replay->first_difference == UINT64_MAX;
    return LODE_OK;
}

// ---- for a person
// ----------------------------------------------------------------------------------------------

static void print_difference(FILE *stream, const struct replayed *r)
{
    const uint64_t row = r->replay.first_difference;
    if (row == UINT64_MAX)
        return;
    const uint32_t token = (uint32_t)(row / r->trace->n_moe), m = (uint32_t)(row % r->trace->n_moe);
    fprintf(stream, "  first difference    token %u (position %u), layer %u\n", token,
            r->trace->tokens[token].position, r->trace->moe_layer[m]);
}

static void print_one(FILE *stream, const struct replayed *r)
{
    const struct simulation_replay *p = &r->replay;
    const double live = rate(r, p->live_decode_s), simulated = rate(r, p->replay_decode_s);
    fprintf(stream, "%s: %s\n", r->path,
            r->is_equal        ? "equal"
            : r->must_be_equal ? "DIFFERENT"
                               : "close; prefetch and a warm start depend on time");
    fprintf(stream, "  settings            %s, %s, %s start\n",
            r->settings.policy[0] ? r->settings.policy : "the default policy",
            strcmp(r->settings.predictor, "none") == 0 ? "without prefetch" : r->settings.predictor,
            r->settings.warm ? "warm" : "empty");
    fprintf(stream, "  choices             %" PRIu64 "\n", p->live_choices);
    fprintf(stream, "  hits                %" PRIu64 " recorded, %" PRIu64 " replayed\n", p->live_hits,
            p->replay_hits);
    fprintf(stream, "  bytes of experts    %" PRIu64 " recorded, %" PRIu64 " replayed\n", p->live_bytes,
            p->replay_bytes);
    print_difference(stream, r);
    if (isfinite(live) && isfinite(simulated))
        fprintf(stream, "  decode              %.2f tok/s recorded, %.2f simulated (%+.1f%%)\n", live,
                simulated, (simulated / live - 1) * 100);
}

// ---- for programs
// ----------------------------------------------------------------------------------------------

static json_t *text_json(const char *text)
{
    return json_out_text(text, strlen(text));
}

static json_t *one_json(const struct replayed *r)
{
    const struct simulation_replay *p = &r->replay;
    json_t *object = json_object();
    json_object_set_new(object, "trace", text_json(r->path));
    json_object_set_new(object, "policy", text_json(r->settings.policy));
    json_object_set_new(object, "predict", text_json(r->settings.predictor));
    json_object_set_new(object, "warm", json_boolean(r->settings.warm));
    json_object_set_new(object, "must_be_equal", json_boolean(r->must_be_equal));
    json_object_set_new(object, "equal", json_boolean(r->is_equal));
    json_object_set_new(object, "live_choices", json_integer((json_int_t)p->live_choices));
    json_object_set_new(object, "live_hits", json_integer((json_int_t)p->live_hits));
    json_object_set_new(object, "replay_hits", json_integer((json_int_t)p->replay_hits));
    json_object_set_new(object, "live_reads", json_integer((json_int_t)p->live_reads));
    json_object_set_new(object, "live_bytes", json_integer((json_int_t)p->live_bytes));
    json_object_set_new(object, "replay_bytes", json_integer((json_int_t)p->replay_bytes));
    json_object_set_new(object, "first_difference",
                        p->first_difference == UINT64_MAX ? json_null()
                                                          : json_integer((json_int_t)p->first_difference));
    json_object_set_new(object, "live_tok_s", json_out_number(rate(r, p->live_decode_s)));
    json_object_set_new(object, "tok_s", json_out_number(rate(r, p->replay_decode_s)));
    const struct simulation_phase *decode = &p->result.decode;
    double stall_s = 0;
    for (int i = 0; i < SIMULATION_STALLS; i++)
        stall_s += decode->stall_s[i];
    json_object_set_new(object, "tokens", json_integer((json_int_t)decode->tokens));
    json_object_set_new(object, "seconds", json_out_number(decode->seconds));
    json_object_set_new(object, "kernels_s", json_out_number(decode->kernels_s));
    json_object_set_new(object, "attention_s", json_out_number(decode->attention_s));
    json_object_set_new(object, "stall_s", json_out_number(stall_s));
    return object;
}

static int print_json(FILE *stream, const struct replayed *all, uint32_t n,
                      const struct machine_profile *profile, const char *machine_source)
{
    json_t *object = json_object(), *machine = json_object(), *list = json_array();
    json_object_set_new(object, "version", json_string(lode_version()));
    json_object_set_new(machine, "name", text_json(profile->name));
    json_object_set_new(machine, "source", text_json(machine_source));
    json_object_set_new(object, "machine", machine);
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, one_json(&all[i]));
    json_object_set_new(object, "replays", list);
    return json_out_print(stream, object);
}

int sim_replay(bool *out_equal, FILE *stream, bool json, const struct sim_traces *traces,
               const struct simulation_model *model, const struct machine_profile *profile,
               const char *machine_source, struct lode_error *error)
{
    *out_equal = true;
    struct replayed *all = calloc(traces->n, sizeof *all);
    if (!all)
        return lode_fail(error, LODE_ERR_MEMORY, "no memory to replay %u traces", traces->n);
    int code = LODE_OK;
    for (uint32_t i = 0; i < traces->n && !code; i++) {
        all[i].path = traces->paths[i];
        all[i].trace = &traces->traces[i];
        code = replay_one(&all[i], model, profile, error);
        *out_equal &= all[i].is_equal || !all[i].must_be_equal;
    }
    for (uint32_t i = 0; i < traces->n && !code && !json; i++)
        print_one(stream, &all[i]);
    if (!code && json && print_json(stream, all, traces->n, profile, machine_source))
        code = lode_fail(error, LODE_ERR_IO, "cannot write the result");
    free(all);
    return code;
}
