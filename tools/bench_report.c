// The results of `lode bench` as a table and as JSON.
#include "tools/bench.h"

#include "tools/json_out.h"
#include "tools/report.h"
#include "tools/text.h"

#include <inttypes.h>
#include <string.h>

static const char *phase_name(const struct bench_cell *cell)
{
    return cell->phase == BENCH_PREFILL ? "prefill" : "decode";
}

static void print_setting(FILE *stream, const struct bench *bench, const struct bench_setting *setting)
{
    const struct lode_shape *shape = &setting->shape;
    char name[sizeof shape->name], weights[TEXT_NUMBER_SIZE], active[TEXT_NUMBER_SIZE];
    fprintf(stream, "%s (%s), %s, %s of weights, of which a token reads %s\n",
            text_printable(name, sizeof name, shape->name), shape->size, shape->type,
            text_bytes(weights, shape->weight_bytes), text_bytes(active, shape->bytes_per_token));
    for (size_t i = 0; i < setting->n_gpus; i++) {
        const struct lode_gpu_stats *gpu = &setting->gpus[i];
        fprintf(stream, "%s: %s of weights, copies of %" PRIu32 " experts, KV cache %s\n", gpu->name,
                text_bytes(weights, gpu->pinned_bytes), gpu->pool_used, text_bytes(active, gpu->kv_bytes));
    }
    fprintf(stream, "%" PRIu32 " %s, %s, KV cache %s, batch %" PRIu32 ", medians of %" PRIu32 "%s\n\n",
            setting->threads, setting->threads == 1 ? "thread" : "threads", setting->isa, setting->kv,
            setting->batch, bench->repeats, bench->real_context ? ", contexts of real tokens" : "");
}

static void print_parts(FILE *stream, const struct lode_parts *parts, bool with_gpus)
{
    const double whole_s =
        parts->kernels_s + parts->attention_s + parts->operations_s + parts->drive_s + parts->gpu_s;
    char text[32], gpu[16] = "";
    if (with_gpus)
        snprintf(gpu, sizeof gpu, "/%.0f", 100 * parts->gpu_s / whole_s);
    snprintf(text, sizeof text, "%.0f/%.0f/%.0f/%.0f%s", 100 * parts->kernels_s / whole_s,
             100 * parts->attention_s / whole_s, 100 * parts->operations_s / whole_s,
             100 * parts->drive_s / whole_s, gpu);
    fprintf(stream, "%16s\n", text);
}

static void print_cell(FILE *stream, const struct bench_cell *cell, const struct bench_setting *setting)
{
    const double peak_gbps = setting->read_gbps;
    fprintf(stream, "%-8s%8" PRIu32 "%9" PRIu32 "%11.2f%8.1f%%%11.3f", phase_name(cell), cell->tokens,
            cell->context, cell->tok_s, 100 * cell->spread, 1e3 / cell->tok_s);
    if (cell->phase == BENCH_PREFILL)
        fprintf(stream, "%9s%9s", "-", "-");
    else if (peak_gbps > 0)
        fprintf(stream, "%9.2f%8.1f%%", cell->read_gbps, 100 * cell->read_gbps / peak_gbps);
    else
        fprintf(stream, "%9.2f%9s", cell->read_gbps, "-");
    print_parts(stream, &cell->parts, setting->n_gpus > 0);
}

// The prompts first, though decode is measured first.
static void print_phase(FILE *stream, const struct bench *bench, enum bench_phase phase,
                        const struct bench_setting *setting)
{
    for (size_t i = 0; i < bench->n_cells; i++)
        if (bench->cells[i].phase == phase && bench->cells[i].n_runs)
            print_cell(stream, &bench->cells[i], setting);
}

void bench_print_table(FILE *stream, const struct bench *bench, const struct bench_setting *setting)
{
    print_setting(stream, bench, setting);
    fprintf(stream, "%-8s%8s%9s%11s%9s%11s%9s%9s%16s\n", "phase", "tokens", "context", "tok/s", "spread",
            "ms/token", "GB/s", "of peak", setting->n_gpus ? "w/a/o/d/g %" : "w/a/o/d %");
    print_phase(stream, bench, BENCH_PREFILL, setting);
    print_phase(stream, bench, BENCH_DECODE, setting);
    if (setting->n_gpus)
        fprintf(stream,
                "\nw/a/o/d/g: the time is that of the CPU's products with weights, attention and other "
                "operations, of waiting for the drive, and for GPUs\n");
    else
        fprintf(stream,
                "\nw/a/o/d: the time is that of products with weights, attention, other operations and "
                "waiting for the drive\n");
    if (!bench->decode)
        return;
    fprintf(stream, "GB/s: the weights and the KV cache that a token reads");
    if (setting->read_gbps > 0)
        fprintf(stream, "; peak: the %.1f GB/s that %" PRIu32 " %s", setting->read_gbps, setting->threads,
                setting->threads == 1 ? "thread reads" : "threads read");
    fprintf(stream, "\n");
}

// ---- JSON
// ----------------------------------------------------------------------------------------------------

static void add_number(json_t *object, const char *name, double value)
{
    json_object_set_new(object, name, json_out_number(value));
}

static void add_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void add_text(json_t *object, const char *name, const char *text)
{
    json_object_set_new(object, name, json_out_text(text, strlen(text)));
}

static json_t *parts_json(const struct lode_parts *parts)
{
    json_t *object = json_object();
    add_number(object, "kernels_s", parts->kernels_s);
    add_number(object, "attention_s", parts->attention_s);
    add_number(object, "operations_s", parts->operations_s);
    add_number(object, "drive_s", parts->drive_s);
    add_number(object, "gpu_s", parts->gpu_s);
    return object;
}

static json_t *cell_json(const struct bench_cell *cell, double peak_gbps)
{
    json_t *object = json_object(), *runs = json_array();
    for (uint32_t i = 0; i < cell->n_runs; i++)
        json_array_append_new(runs, json_out_number(cell->tokens / cell->run_s[i]));
    add_text(object, "phase", phase_name(cell));
    add_count(object, "tokens", cell->tokens);
    add_count(object, "context", cell->context);
    add_number(object, "tok_s", cell->tok_s);
    add_number(object, "spread", cell->spread);
    add_number(object, "ms_per_token", 1e3 / cell->tok_s);
    json_object_set_new(object, "runs", runs);
    json_object_set_new(object, "parts", parts_json(&cell->parts));
    if (cell->phase == BENCH_PREFILL)
        return object;
    add_number(object, "bytes_per_token", cell->bytes_per_token);
    add_number(object, "read_gbps", cell->read_gbps);
    json_object_set_new(object, "read_share",
                        peak_gbps > 0 ? json_out_number(cell->read_gbps / peak_gbps) : json_null());
    return object;
}

static void add_results(json_t *object, const struct bench *bench, double peak_gbps)
{
    json_t *results = json_array();
    for (int phase = BENCH_PREFILL; phase <= BENCH_DECODE; phase++)
        for (size_t i = 0; i < bench->n_cells; i++)
            if ((int)bench->cells[i].phase == phase && bench->cells[i].n_runs)
                json_array_append_new(results, cell_json(&bench->cells[i], peak_gbps));
    json_object_set_new(object, "results", results);
}

int bench_print_json(FILE *stream, const struct bench *bench, const struct bench_setting *setting)
{
    json_t *object = json_object();
    add_text(object, "version", lode_version());
    add_text(object, "model", setting->path);
    add_text(object, "name", setting->shape.name);
    add_text(object, "size", setting->shape.size);
    add_text(object, "type", setting->shape.type);
    add_count(object, "weight_bytes", setting->shape.weight_bytes);
    add_count(object, "weight_bytes_per_token", setting->shape.bytes_per_token);
    add_count(object, "threads", setting->threads);
    add_text(object, "isa", setting->isa);
    add_text(object, "kv", setting->kv);
    add_count(object, "batch", setting->batch);
    json_object_set_new(object, "offloaded", json_boolean(setting->offloaded));
    json_object_set_new(object, "read_gbps",
                        setting->read_gbps > 0 ? json_out_number(setting->read_gbps) : json_null());
    json_object_set_new(object, "gpus", report_gpus_json(setting->gpus, setting->n_gpus, setting->choices));
    add_count(object, "repeats", bench->repeats);
    add_count(object, "seed", bench->seed);
    json_object_set_new(object, "real_context", json_boolean(bench->real_context));
    json_object_set_new(object, "interrupted", json_boolean(bench->interrupted));
    json_object_set_new(object, "provenance", provenance_json(&setting->provenance));
    add_results(object, bench, setting->read_gbps);
    return json_out_print(stream, object);
}
