// The screen and the object of a plan.
#include "tools/plan_report.h"

#include "tools/json_out.h"
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// ---- text
// ----------------------------------------------------------------------------------------------------

static void print_row(const char *name, const char *units, uint64_t bytes, uint64_t ram, uint64_t nvme)
{
    char all[TEXT_NUMBER_SIZE], here[TEXT_NUMBER_SIZE], there[TEXT_NUMBER_SIZE];
    printf("%-24s %7s %12s %12s %12s\n", name, units, bytes ? text_bytes(all, bytes) : "-",
           ram ? text_bytes(here, ram) : "-", nvme ? text_bytes(there, nvme) : "-");
}

static void print_memory(const struct lode_plan *plan, const char *kv)
{
    uint64_t bytes = 0, ram = 0, nvme = 0;
    printf("\n%-24s %7s %12s %12s %12s\n", "group", "units", "weights", "RAM", "NVMe");
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const struct lode_plan_group *group = &plan->groups[g];
        char units[TEXT_NUMBER_SIZE];
        snprintf(units, sizeof units, "%" PRIu64, group->units);
        print_row(group->kind, units, group->bytes, group->ram_bytes, group->nvme_bytes);
        bytes += group->bytes;
        ram += group->ram_bytes;
        nvme += group->nvme_bytes;
    }
    char name[64];
    snprintf(name, sizeof name, "KV %s, %" PRIu32 " tokens", kv, plan->context);
    if (plan->buffer_bytes)
        print_row("reading buffers", "", 0, plan->buffer_bytes, 0);
    print_row(name, "", 0, plan->kv_bytes, 0);
    print_row("scratch", "", 0, plan->scratch_bytes, 0);
    print_row("program and reserve", "", 0, plan->program_bytes, 0);
    ram += plan->buffer_bytes + plan->kv_bytes + plan->scratch_bytes + plan->program_bytes;
    print_row("all", "", bytes, ram, nvme);
}

static void print_shares(const struct lode_plan_shares *shares)
{
    const struct {
        const char *name;
        double share;
    } all[] = {{"cpu kernels", shares->kernels},
               {"attention", shares->attention},
               {"drive", shares->drive},
               {"small operations", shares->operations}};
    printf("%s", shares->limiter);
    const char *separator = " ";
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, shares->limiter) == 0)
            printf(" %.0f%%", 100 * all[i].share);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, shares->limiter) != 0 && all[i].share >= 0.05) {
            printf("%s%s%s %.0f%%", separator[0] == ' ' ? "," : "", separator, all[i].name,
                   100 * all[i].share);
        }
}

static void print_speed(const char *phase, const struct lode_plan_expected *expected, double tok_s,
                        double low, double high, const struct lode_plan_shares *shares)
{
    char range[48];
    snprintf(range, sizeof range, "%.1f - %.1f", low, high);
    printf("%7" PRIu32 " %-8s %9.1f %19s  ", expected->context, phase, tok_s, range);
    print_shares(shares);
    printf("\n");
}

static void print_reads(const struct lode_plan_expected *expected)
{
    char bytes[TEXT_NUMBER_SIZE];
    if (expected->read_bytes_per_token < 1)
        return;
    printf("\nA token reads %s from the drive", text_bytes(bytes, (uint64_t)expected->read_bytes_per_token));
    if (expected->hit_rate < 1)
        printf("; %.0f%% of its experts are in memory", 100 * expected->hit_rate);
    printf(".\n");
}

void plan_report_text(const struct lode_plan *plan, const char *kv)
{
    char bytes[TEXT_NUMBER_SIZE], name[128];
    printf("model    %s, %s, %s\n", text_printable(name, sizeof name, plan->shape.name), plan->shape.type,
           text_bytes(bytes, plan->shape.weight_bytes));
    printf("machine  %s (%s)", text_printable(name, sizeof name, plan->machine),
           plan->measured ? "measured" : "not measured");
    if (strcmp(plan->cpu, plan->machine) != 0 && plan->cpu[0])
        printf(", %s", text_printable(name, sizeof name, plan->cpu));
    printf(", %" PRIu32 " thread%s", plan->threads, plan->threads == 1 ? "" : "s");
    if (plan->drive[0])
        printf(", %s", text_printable(name, sizeof name, plan->drive));
    printf("\nmemory   %s\n", text_bytes(bytes, plan->ceiling_bytes));
    print_memory(plan, kv);
    printf("\n%7s %-8s %9s %19s  %s\n", "context", "phase", "tok/s", "from - to", "limited by");
    for (uint32_t i = 0; i < plan->n_expected; i++) {
        const struct lode_plan_expected *e = &plan->expected[i];
        print_speed("decode", e, e->decode_tok_s, e->decode_low, e->decode_high, &e->decode);
        print_speed("prefill", e, e->prefill_tok_s, e->prefill_low, e->prefill_high, &e->prefill);
    }
    if (plan->n_expected)
        print_reads(&plan->expected[0]);
    for (uint32_t i = 0; i < plan->n_warnings; i++) {
        char warning[sizeof plan->warnings[0]];
        printf("%swarning: %s\n", i ? "" : "\n", text_printable(warning, sizeof warning, plan->warnings[i]));
    }
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static json_t *text_json(const char *text)
{
    return json_out_text(text, strlen(text));
}

static json_t *bytes_json(uint64_t bytes)
{
    return json_integer((json_int_t)bytes);
}

static json_t *shares_json(const struct lode_plan_shares *shares)
{
    json_t *object = json_object();
    json_object_set_new(object, "cpu_kernels", json_out_number(shares->kernels));
    json_object_set_new(object, "attention", json_out_number(shares->attention));
    json_object_set_new(object, "small_operations", json_out_number(shares->operations));
    json_object_set_new(object, "drive", json_out_number(shares->drive));
    json_object_set_new(object, "limiter", text_json(shares->limiter));
    return object;
}

static json_t *expected_json(const struct lode_plan_expected *e)
{
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
    return object;
}

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

static json_t *groups_json(const struct lode_plan *plan)
{
    json_t *array = json_array();
    for (uint32_t g = 0; g < plan->n_groups; g++) {
        const struct lode_plan_group *group = &plan->groups[g];
        json_t *object = json_object();
        json_object_set_new(object, "kind", text_json(group->kind));
        json_object_set_new(object, "units", bytes_json(group->units));
        json_object_set_new(object, "bytes", bytes_json(group->bytes));
        json_object_set_new(object, "ram_bytes", bytes_json(group->ram_bytes));
        json_object_set_new(object, "nvme_bytes", bytes_json(group->nvme_bytes));
        json_array_append_new(array, object);
    }
    return array;
}

int plan_report_json(const struct lode_plan *plan, const char *kv)
{
    json_t *object = json_object(), *expected = json_array(), *warnings = json_array();
    json_object_set_new(object, "model", text_json(plan->shape.name));
    json_object_set_new(object, "size", text_json(plan->shape.size));
    json_object_set_new(object, "type", text_json(plan->shape.type));
    json_object_set_new(object, "weight_bytes", bytes_json(plan->shape.weight_bytes));
    json_object_set_new(object, "machine", machine_json(plan));
    json_object_set_new(object, "memory", memory_json(plan, kv));
    json_object_set_new(object, "groups", groups_json(plan));
    for (uint32_t i = 0; i < plan->n_expected; i++)
        json_array_append_new(expected, expected_json(&plan->expected[i]));
    json_object_set_new(object, "expected", expected);
    json_object_set_new(object, "limiter",
                        plan->n_expected ? text_json(plan->expected[0].decode.limiter) : json_null());
    for (uint32_t i = 0; i < plan->n_warnings; i++)
        json_array_append_new(warnings, text_json(plan->warnings[i]));
    json_object_set_new(object, "warnings", warnings);
    return json_out_print(stdout, object);
}
