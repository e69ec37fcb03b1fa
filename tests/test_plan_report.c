// The screen and the object of plans that are filled by hand.
#include "tests/plan_fixture.h"
#include "tools/plan_report.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)

static const struct plan_fixture experts = {.n_layers = 30, .n_experts = 128, .n_gpus = 1, .heat = true};
static const struct plan_fixture dense = {.n_layers = 60};

static char *screen(const struct lode_plan *plan)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert(stream);
    plan_report_text(stream, plan, "f16");
    fclose(stream);
    return text;
}

static json_t *object(const struct lode_plan *plan)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert(stream);
    cr_assert_eq(plan_report_json(stream, plan, "f16"), 0);
    fclose(stream);
    json_error_t error;
    json_t *value = json_loads(text, 0, &error);
    cr_assert(value, "%s in %s", error.text, text);
    cr_assert_eq(strchr(text, '\n'), text + len - 1, "one line");
    free(text);
    return value;
}

static void expect_in(const char *text, const char *part)
{
    cr_expect(strstr(text, part), "no \"%s\" in\n%s", part, text);
}

static void expect_screen(const char *text)
{
    uint32_t n_lines = 0;
    for (const char *at = text; *at; at += strcspn(at, "\n") + 1, n_lines++)
        cr_expect_leq(strcspn(at, "\n"), 80, "%.*s", (int)strcspn(at, "\n"), at);
    cr_expect_leq(n_lines, 46, "%u lines:\n%s", n_lines, text);
}

Test(plan_report, is_one_screen)
{
    for (uint32_t n_gpus = 0; n_gpus <= 2; n_gpus++) {
        struct plan_fixture fixture = experts;
        struct lode_plan plan;
        fixture.n_gpus = n_gpus;
        plan_fixture_make(&plan, &fixture);
        char *text = screen(&plan);
        expect_screen(text);
        cr_expect_eq(strstr(text, "GPU0") != NULL, n_gpus > 0);
        cr_expect_eq(strstr(text, "GPU1") != NULL, n_gpus > 1);
        free(text);
        plan_fixture_free(&plan);
    }
}

Test(plan_report, table_has_every_byte)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &experts);
    char *text = screen(&plan);
    expect_in(text, "\ngroup                 units   weights      GPU0       RAM      NVMe\n");
    expect_in(text, "\ntoken embedding           1 396.0 MiB         - 396.0 MiB         -\n");
    expect_in(text, "\nKV f16, 33280 tokens                - 120.0 MiB 380.0 MiB         -\n");
    expect_in(text, "\nceiling                             -  11.5 GiB  10.0 GiB         -\n");
    // The column of the GPU: a tenth of the experts (13 of 128), a third of the layers' dense units, K and V,
    // scratch.
    const uint64_t gpu_bytes =
        30 * 13 * (uint64_t)3345408 + 10 * (10 * MIB + 3 * MIB / 2) + (9 * 19 + 28) * MIB + 210 * MIB;
    const char *row = strstr(text, "\nall ");
    cr_assert(row);
    double weights_gib, gpu_gib;
    cr_assert_eq(sscanf(row, "\nall %lf GiB %lf GiB", &weights_gib, &gpu_gib), 2, "%s", row);
    cr_expect_float_eq(weights_gib, (double)plan.shape.weight_bytes / (1 << 30), 0.06);
    cr_expect_float_eq(gpu_gib, (double)gpu_bytes / (1 << 30), 0.06);
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_report, columns_never_touch)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &experts);
    plan.kv_bytes = 1024 * MIB - 1; // "1024.0 MiB"
    plan.gpus[0].kv_bytes = 1023 * MIB + MIB / 2;
    char *text = screen(&plan);
    expect_in(text, "  1024 MiB");
    expect_in(text, "  1023 MiB");
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_report, tells_speed_and_advice)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &experts);
    char *text = screen(&plan);
    expect_in(text, "\n      0 decode       6.1       5.2 - 7.2  drive 45%, cpu kernels 31%, gpu 15%");
    expect_in(text, "\n      0 prefill    147.4    119.8 - 1081  gpu 40%, attention 30%\n");
    expect_in(text, "\n  32768 decode       4.1 ");
    expect_in(text, "\nA token reads 40.9 MiB from the drive; 95% of its experts are in memory.\n");
    expect_in(text, "\n  +8 GB RAM: 6.1 -> 9.8 tok/s (+61%)\n");
    expect_in(text, "\n  a drive of PCIe 4.0: 6.1 -> 8.9 tok/s (+46%), prefill 147.4 -> 301.5 (+105%)\n");
    expect_in(text, "\n  a KV cache of q8_0: 6.1 -> 6.4 tok/s (+5%); changes the answers\n");
    expect_in(text, "\nconsidered and refused (4 of 6)\n");
    expect_in(text, "\n  whole layers on the GPU (8 of 30)             0.42 tok/s, turn +60%\n");
    expect_in(text, "\n  everything in RAM                          does not fit\n");
    expect_in(text, "\nwarning: the profile has no kernel figures for Q5_K: ");
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_report, what_stays_the_same_is_not_told)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &experts);
    plan.changes[1].decode_tok_s = 6.11;
    plan.changes[2].decode_tok_s = 6.11;
    char *text = screen(&plan);
    expect_in(text, "\n  a drive of PCIe 4.0: prefill 147.4 -> 301.5 tok/s (+105%)\n");
    expect_in(text, "\n  a KV cache of q8_0: 6.1 -> 6.1 tok/s (+0%); changes the answers\n");
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_report, leaves_out_a_gpu_that_is_not_used)
{
    struct plan_fixture fixture = {.n_layers = 1, .n_gpus = 2}; // its only layer lies on the first
    struct lode_plan plan;
    plan_fixture_make(&plan, &fixture);
    plan.gpus[1].kv_bytes = plan.gpus[1].scratch_bytes = 0;
    char *text = screen(&plan);
    cr_expect(strstr(text, "GPU0") && !strstr(text, "GPU1"), "%s", text);
    expect_in(text, "\ngroup                 units   weights      GPU0       RAM      NVMe\n");
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_report, leaves_out_what_there_is_not)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &dense);
    plan.n_changes = plan.n_refused = plan.n_warnings = 0;
    plan.ring_bytes = plan.buffer_bytes = 0;
    char *text = screen(&plan);
    const char *const absent[] = {"help most", "refused", "warning", "GPU", "ring", "buffers", "prefetch"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        cr_expect_null(strstr(text, absent[i]), "%s in\n%s", absent[i], text);
    free(text);
    plan_fixture_free(&plan);
}

Test(plan_report, names_cannot_steer_a_terminal)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &experts);
    strcpy(plan.shape.name, "a\033[2Jb");
    strcpy(plan.machine, "m\rx");
    strcpy(plan.cpu, "c\nd");
    strcpy(plan.drive, "d\te");
    strcpy(plan.gpus[0].name, "g\ah");
    strcpy(plan.warnings[0], "w\033x");
    strcpy(plan.changes[0].what, "+\033y");
    strcpy(plan.refused[0].what, "r\033z");
    char *text = screen(&plan);
    for (const char *at = text; *at; at++)
        cr_assert(*at == '\n' || ((unsigned char)*at >= 0x20 && *at != 0x7f), "byte %d", *at);
    free(text);
    plan_fixture_free(&plan);
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static json_int_t integer(const json_t *value, const char *key)
{
    const json_t *member = json_object_get(value, key);
    cr_assert(json_is_integer(member), "%s", key);
    return json_integer_value(member);
}

static const char *string(const json_t *value, const char *key)
{
    const json_t *member = json_object_get(value, key);
    cr_assert(json_is_string(member), "%s", key);
    return json_string_value(member);
}

Test(plan_report, object_has_every_byte)
{
    struct plan_fixture fixture = experts;
    struct lode_plan plan;
    fixture.n_gpus = 2;
    plan_fixture_make(&plan, &fixture);
    json_t *value = object(&plan);
    json_int_t sum = 0, on_gpus[2] = {0};
    size_t i, g;
    json_t *group, *bytes;
    json_array_foreach(json_object_get(value, "groups"), i, group)
    {
        json_int_t placed = integer(group, "ram_bytes") + integer(group, "nvme_bytes");
        json_array_foreach(json_object_get(group, "gpu_bytes"), g, bytes)
        {
            placed += json_integer_value(bytes);
            on_gpus[g] += json_integer_value(bytes);
        }
        cr_expect_eq(g, 2);
        cr_expect_eq(placed, integer(group, "bytes"), "%s", string(group, "kind"));
        sum += placed;
    }
    cr_expect_eq(sum, integer(value, "weight_bytes"));
    const json_t *gpus = json_object_get(value, "gpus");
    cr_assert_eq(json_array_size(gpus), 2);
    for (g = 0; g < 2; g++) {
        cr_expect_eq(integer(json_array_get(gpus, g), "weight_bytes"), on_gpus[g]);
        cr_expect_eq((uint64_t)integer(json_array_get(gpus, g), "kv_bytes"), 120 * MIB);
    }
    const json_t *settings = json_object_get(value, "settings");
    cr_expect_eq(integer(settings, "threads"), 6);
    cr_expect_eq(integer(settings, "batch"), 512);
    cr_expect_eq((uint64_t)integer(settings, "ring_bytes"), 64 * MIB);
    cr_expect(json_is_true(json_object_get(settings, "prefetch")));
    json_decref(value);
    plan_fixture_free(&plan);
}

Test(plan_report, object_has_layers_and_advice)
{
    struct lode_plan plan;
    plan_fixture_make(&plan, &experts);
    json_t *value = object(&plan);
    const json_t *layers = json_object_get(value, "layers"), *first = json_array_get(layers, 0);
    cr_assert_eq(json_array_size(layers), 30);
    cr_expect_str_eq(string(json_object_get(first, "dense"), "attention"), "gpu0");
    cr_expect_eq(integer(json_object_get(first, "experts"), "gpu0"), 13);
    cr_expect_eq(integer(json_object_get(first, "experts"), "pool"), 115);
    cr_expect_str_eq(string(json_object_get(json_array_get(layers, 29), "dense"), "dense FFN"), "ram");
    cr_expect_str_eq(string(json_object_get(value, "outside_layers"), "token embedding"), "ram");
    cr_expect_eq(json_array_size(json_object_get(value, "changes")), 3);
    const json_t *lossy = json_array_get(json_object_get(value, "changes"), 2);
    cr_expect(json_is_true(json_object_get(lossy, "lossy")));
    const json_t *refused = json_object_get(value, "refused");
    cr_assert_eq(json_array_size(refused), 6, "all of them");
    cr_expect(json_is_null(json_object_get(json_array_get(refused, 5), "decode_tok_s")));
    cr_expect_float_eq(json_real_value(json_object_get(json_array_get(refused, 1), "decode_tok_s")), 0.42,
                       1e-9);
    cr_expect_eq(json_array_size(json_object_get(value, "warnings")), 2);
    const json_t *expected = json_array_get(json_object_get(value, "expected"), 0);
    cr_expect_float_eq(json_real_value(json_object_get(expected, "high")), 7.25, 1e-9);
    cr_expect_float_eq(json_real_value(json_object_get(json_object_get(expected, "decode"), "gpu")), 0.15,
                       1e-9);
    cr_expect_str_eq(string(value, "limiter"), "drive");
    json_decref(value);
    plan_fixture_free(&plan);
}

Test(plan_report, an_empty_plan_is_shown)
{
    const struct lode_plan plan = {0};
    char *text = screen(&plan);
    expect_in(text, "\nceiling ");
    free(text);
    json_t *value = object(&plan);
    cr_expect_eq(json_array_size(json_object_get(value, "layers")), 0);
    cr_expect(json_is_null(json_object_get(value, "limiter")));
    json_decref(value);
}
