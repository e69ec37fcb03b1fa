// The work of a pass against the other descriptions of the same shapes, and headers without weights against
// whole files.
#include "core/gemma4.h"
#include "core/shape.h"
#include "core/shape_file.h"
#include "core/workload.h"
#include "tests/synth_files.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/resource.h>

TestSuite(workload, .init = synth_make_directory, .fini = synth_remove_directory);

static const char *const shapes[] = {"e2b", "e4b",      "12b",      "26b-a4b",
                                     "31b", "tiny-e2b", "tiny-moe", "tiny-31b"};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

struct subject {
    struct shape_file file;
    struct gguf *gguf;
    struct gemma_model model;
    struct lode_shape shape;
    struct workload work;
};

static struct subject open_subject(const char *shape, const char *type)
{
    struct subject s;
    struct lode_error error;
    const struct lode_synth_options options = synth_options_of(shape, type);
    cr_assert_eq(shape_file_open(&s.file, &options, &error), 0, "%s", error.text);
    cr_assert_eq(gguf_open(&s.gguf, s.file.path, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_model_load(&s.model, s.gguf, &error), 0, "%s", error.text);
    shape_describe(&s.shape, &s.model, s.gguf);
    return s;
}

static void open_work(struct subject *s)
{
    struct lode_error error;
    cr_assert_eq(gemma_workload(&s->work, &s->model, &error), 0, "%s", error.text);
}

static void close_subject(struct subject *s, bool with_work)
{
    if (with_work)
        workload_close(&s->work);
    gemma_model_free(&s->model);
    gguf_close(s->gguf);
    shape_file_close(&s->file);
}

Test(workload, sums_are_those_of_the_shape)
{
    static const char *const types[] = {"q4_0", "q4_k_m", "bf16"};
    for (int i = 0; i < N_SHAPES; i++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            struct subject s = open_subject(shapes[i], types[t]);
            open_work(&s);
            cr_expect_eq(workload_weight_bytes(&s.work), s.shape.weight_bytes, "%s %s", shapes[i], types[t]);
            cr_expect_eq(workload_bytes_per_token(&s.work), s.shape.bytes_per_token, "%s %s", shapes[i],
                         types[t]);
            const struct lode_synth_options options = synth_options_of(shapes[i], types[t]);
            cr_expect_eq(synth_size_of(&options).weight_bytes, s.shape.weight_bytes, "%s %s", shapes[i],
                         types[t]);
            close_subject(&s, true);
        }
}

Test(workload, every_weight_is_described)
{
    for (int i = 0; i < N_SHAPES; i++) {
        struct subject s = open_subject(shapes[i], "q4_0");
        open_work(&s);
        for (uint32_t part = 0; part < s.model.units.n_parts; part++)
            cr_expect_eq(s.work.matrices[part].bytes, s.model.units.parts[part].bytes, "%s, part %u",
                         shapes[i], part);
        uint32_t in_layers = 0;
        for (uint32_t l = 0; l < s.work.n_layers; l++) {
            const struct work_layer *layer = &s.work.layers[l];
            in_layers += layer->n_units;
            uint32_t attending = 0, hiding = 0, guessing = 0;
            for (uint32_t u = layer->first_unit; u < layer->first_unit + layer->n_units; u++) {
                cr_expect_eq(s.model.units.units[u].layer, l);
                attending += s.work.units[u].attends;
                hiding += s.work.units[u].hides_reads;
                guessing += s.work.units[u].guesses;
            }
            cr_expect_eq(attending, 1);
            cr_expect_eq(hiding, layer->n_experts > 0);
            cr_expect_eq(guessing, layer->n_experts > 0);
        }
        uint32_t of_layers = 0;
        for (uint32_t u = 0; u < s.model.units.n_units; u++)
            of_layers += s.model.units.units[u].layer != UNIT_NO_LAYER;
        cr_expect_eq(in_layers, of_layers, "%s", shapes[i]);
        close_subject(&s, true);
    }
}

Test(workload, rows_leave_at_the_last_layer_that_writes_kv)
{
    struct subject s = open_subject("e2b", "q4_0"); // layers 15 to 34 share KV
    open_work(&s);
    for (uint32_t l = 0; l < s.work.n_layers; l++) {
        const enum work_rows first =
            s.work.matrices[s.model.units.units[s.model.layers[l].attn_norm.unit].first_part].when;
        cr_expect_eq(first, l <= 14 ? WORK_ALL_ROWS : WORK_WANTED_ROWS, "layer %u", l);
        cr_expect_eq(s.work.layers[l].attention_when, l < 14 ? WORK_ALL_ROWS : WORK_WANTED_ROWS, "layer %u",
                     l);
    }
    cr_expect_eq(s.work.n_tables, 1); // the embedding is the head too
    cr_expect_eq(s.work.tables[0].row_bytes, 35 * 256 / 32 * 18);
    cr_expect_eq(s.work.layers[34].kv_layer, 14);
    cr_expect_eq(s.work.layers[33].kv_layer, 13);
    close_subject(&s, true);
}

// Member by member: what lies between them is anybody's.
static void check_shape(const struct lode_shape *a, const struct lode_shape *b)
{
#define SAME(member) cr_expect_eq(a->member, b->member, "%s: " #member, a->name)
    cr_expect_str_eq(a->name, b->name);
    cr_expect_str_eq(a->size, b->size);
    cr_expect_str_eq(a->type, b->type);
    SAME(n_layers);
    SAME(n_global_layers);
    SAME(n_shared_kv_layers);
    SAME(hidden);
    SAME(vocab);
    SAME(context_limit);
    SAME(window);
    SAME(n_heads);
    SAME(n_kv_heads_local);
    SAME(n_kv_heads_global);
    SAME(head_size_local);
    SAME(head_size_global);
    SAME(ffn_width_min);
    SAME(ffn_width_max);
    SAME(n_experts);
    SAME(n_experts_used);
    SAME(expert_width);
    SAME(ple_width);
    SAME(rope_base_local);
    SAME(rope_base_global);
    SAME(final_softcap);
    SAME(parameters);
    SAME(parameters_per_token);
    SAME(weight_bytes);
    SAME(bytes_per_token);
    SAME(kv_fixed_bytes);
    SAME(kv_bytes_per_token);
#undef SAME
}

Test(workload, a_header_says_what_the_whole_file_says)
{
    static const char *const tiny[] = {"tiny-e2b", "tiny-moe", "tiny-31b"};
    for (int i = 0; i < 3; i++) {
        const struct lode_synth_options options = synth_options_of(tiny[i], "q4_k_m");
        const char *path = synth_path_of("whole.gguf");
        synth_write_model(path, &options);
        struct lode_error error;
        struct lode_file *whole;
        struct lode_shape shape;
        cr_assert_eq(lode_file_open(&whole, path, &error), 0, "%s", error.text);
        cr_assert_eq(lode_file_shape(whole, &shape, &error), 0, "%s", error.text);
        struct subject s = open_subject(tiny[i], "q4_k_m");
        check_shape(&shape, &s.shape);
        cr_assert_eq(lode_file_tensor_count(whole), gguf_tensor_count(s.gguf));
        for (size_t t = 0; t < gguf_tensor_count(s.gguf); t++) {
            struct lode_tensor_info info;
            lode_file_tensor(whole, t, &info);
            cr_expect_str_eq(info.name, gguf_tensor_at(s.gguf, t)->name);
            cr_expect_eq(info.bytes, gguf_tensor_at(s.gguf, t)->size_bytes, "%s", info.name);
        }
        for (uint32_t l = 0; l < s.model.hparams.n_layers; l++)
            cr_expect_eq(s.model.layers[l].global, (l + 1) % (i == 1 ? 2 : 3) == 0);
        lode_file_close(whole);
        close_subject(&s, false);
    }
}

Test(workload, a_header_takes_no_room)
{
    struct subject s = open_subject("31b", "bf16");
    cr_expect_gt(gguf_file_size_bytes(s.gguf, 0), (uint64_t)50 << 30);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    cr_expect_lt(usage.ru_maxrss, 200 << 10);
    close_subject(&s, false);
}

Test(workload, unknown_shapes_are_refused)
{
    struct shape_file file;
    struct lode_error error = {0};
    struct lode_synth_options options = synth_options_of("27b", "q4_0");
    cr_expect_eq(shape_file_open(&file, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "26b-a4b"), "%s", error.text);
    shape_file_close(&file);
    options = synth_options_of("e2b", "q9");
    cr_expect_eq(shape_file_open(&file, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "q9"), "%s", error.text);
    shape_file_close(&file);
}
