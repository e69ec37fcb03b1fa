// The tensor table: what a file must have to be a model, and what is said when it has not.
#include "core/gemma4.h"
#include "core/lode.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct image {
    char *data;
    size_t size;
};

static struct image read_image(const char *name)
{
    char path[512];
    if (!test_data_find(path, sizeof path, name))
        cr_skip_test("a golden model is not here");
    FILE *file = fopen(path, "rb");
    fseek(file, 0, SEEK_END);
    struct image image = {.size = (size_t)ftell(file)};
    rewind(file);
    image.data = malloc(image.size);
    cr_assert_eq(fread(image.data, 1, image.size, file), image.size);
    fclose(file);
    return image;
}

static char *find_bytes(struct image image, const char *needle, size_t len)
{
    char *at = memmem(image.data, image.size, needle, len);
    cr_assert_not_null(at, "the file has no \"%s\"", needle);
    return at;
}

static int load(struct image image, struct gemma_model *model, struct lode_error *error)
{
    struct gguf *gguf;
    cr_assert_eq(gguf_parse(&gguf, image.data, image.size, image.size, "image", error), 0, "%s", error->text);
    int rc = gemma_model_load(model, gguf, error);
    gguf_close(gguf);
    return rc;
}

// Replaces the first occurrence of a text by one of the same length and expects an error that names `said`.
static void expect_refusal(const char *file, const char *from, const char *to, const char *said)
{
    struct image image = read_image(file);
    cr_assert_eq(strlen(from), strlen(to));
    memcpy(find_bytes(image, from, strlen(from)), to, strlen(to));
    struct gemma_model model;
    struct lode_error error = {0};
    int rc = load(image, &model, &error);
    cr_expect_lt(rc, 0, "%s -> %s was accepted", from, to);
    cr_expect_not_null(strstr(error.text, said), "\"%s\" does not say \"%s\"", error.text, said);
    free(image.data);
}

Test(model, a_foreign_architecture_is_refused_and_the_supported_one_listed)
{
    struct image image = read_image("golden/m-31b-q4_0.gguf");
    char *at = find_bytes(image, "general.architecture", 20) + 20 + 4 + 8;
    cr_assert_arr_eq(at, "gemma4", 6);
    at[5] = '9';
    struct gemma_model model;
    struct lode_error error = {0};
    cr_expect_eq(load(image, &model, &error), LODE_ERR_UNSUPPORTED);
    cr_expect_not_null(strstr(error.text, "gemma9"), "%s", error.text);
    cr_expect_not_null(strstr(error.text, "26B-A4B"), "%s", error.text);
    free(image.data);
}

Test(model, a_missing_tensor_is_named)
{
    expect_refusal("golden/m-31b-q4_0.gguf", "blk.1.attn_q.weight", "blk.1.attn_Z.weight",
                   "blk.1.attn_q.weight");
    expect_refusal("golden/m-31b-q4_0.gguf", "output_norm.weight", "output_Zorm.weight",
                   "output_norm.weight");
    expect_refusal("golden/m-26b-a4b-q4_0.gguf", "blk.0.ffn_down_exps.weight", "blk.0.ffn_down_expZ.weight",
                   "blk.0.ffn_down_exps.weight");
    expect_refusal("golden/m-26b-a4b-q4_0.gguf", "blk.0.ffn_gate_inp.scale", "blk.0.ffn_gate_inp.scalZ",
                   "blk.0.ffn_gate_inp.scale");
    expect_refusal("golden/m-e2b-q4_0.gguf", "per_layer_model_proj.weight", "per_layer_model_proZ.weight",
                   "per_layer_model_proj.weight");
    expect_refusal("golden/m-e2b-q4_0.gguf", "token_embd.weight", "token_embZ.weight", "token_embd.weight");
}

Test(model, a_missing_key_is_named)
{
    expect_refusal("golden/m-31b-q4_0.gguf", "gemma4.block_count", "gemma4.block_couZt",
                   "gemma4.block_count");
    expect_refusal("golden/m-31b-q4_0.gguf", "gemma4.context_length", "gemma4.context_lengtZ",
                   "gemma4.context_length");
    expect_refusal("golden/m-26b-a4b-q4_0.gguf", "gemma4.expert_count", "gemma4.expert_couZt",
                   "expert_count");
}

// Position of a key's value, NULL if it is not there. A key in the file has its length in front, so that one
// which begins another is not taken for it.
static char *find_value(struct image image, const char *key)
{
    char needle[128];
    const uint64_t len = strlen(key);
    memcpy(needle, &len, sizeof len);
    memcpy(needle + sizeof len, key, len);
    char *at = memmem(image.data, image.size, needle, sizeof len + len);
    return at ? at + sizeof len + len + sizeof(uint32_t) : NULL;
}

Test(model, values_out_of_bounds_are_refused)
{
    static const struct {
        const char *key;
        uint32_t value;
    } cases[] = {
        {"gemma4.block_count", 0},
        {"gemma4.block_count", 4000000000u},
        {"gemma4.block_count", 400},
        {"gemma4.embedding_length", 0},
        {"gemma4.embedding_length", 4000000000u},
        {"gemma4.embedding_length", 96},
        {"gemma4.attention.head_count", 0},
        {"gemma4.attention.head_count", 5},
        {"gemma4.attention.key_length", 33},
        {"gemma4.attention.key_length", 0},
        {"gemma4.attention.sliding_window", 0},
        {"gemma4.attention.shared_kv_layers", 1000},
        {"gemma4.context_length", 0},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct image image = read_image("golden/m-31b-q4_0.gguf");
        const char *key = cases[c].key;
        char *value = find_value(image, key);
        cr_assert_not_null(value, "the file has no key %s", key);
        memcpy(value, &cases[c].value, sizeof cases[c].value);
        struct gemma_model model;
        struct lode_error error = {0};
        cr_expect_lt(load(image, &model, &error), 0, "%s = %u was accepted", key, cases[c].value);
        cr_expect_gt(strlen(error.text), 10);
        free(image.data);
    }
}

Test(model, the_published_features_are_seen)
{
    static const struct {
        const char *file;
        bool moe, ple, shared, k_is_v;
    } cases[] = {{"golden/m-e2b-q4_0.gguf", false, true, true, false},
                 {"golden/m-e4b-q4_0.gguf", false, true, true, false},
                 {"golden/m-26b-a4b-q4_0.gguf", true, false, false, true},
                 {"golden/m-31b-q4_0.gguf", false, false, false, true}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct image image = read_image(cases[c].file);
        struct gemma_model model;
        struct lode_error error = {0};
        cr_assert_eq(load(image, &model, &error), 0, "%s: %s", cases[c].file, error.text);
        const struct gemma_hparams *h = &model.hparams;
        const struct gemma_layer *last = &model.layers[h->n_layers - 1];
        cr_expect_eq(last->moe, cases[c].moe);
        cr_expect_eq(h->ple_width > 0, cases[c].ple);
        cr_expect_eq(!last->own_kv, cases[c].shared);
        cr_expect(last->global);
        bool k_is_v = false;
        for (uint32_t l = 0; l < h->n_layers; l++) {
            const struct gemma_layer *layer = &model.layers[l];
            k_is_v |= layer->own_kv && !layer->v.cols;
            cr_expect_leq(layer->kv_layer, l);
            cr_expect_eq(model.layers[layer->kv_layer].global, layer->global);
            cr_expect(model.layers[layer->kv_layer].own_kv);
        }
        cr_expect_eq(k_is_v, cases[c].k_is_v);
        gemma_model_free(&model);
        free(image.data);
    }
}

Test(model, units_cover_each_used_tensor_once)
{
    struct image image = read_image("golden/m-26b-a4b-q4_0.gguf");
    struct gemma_model model;
    struct lode_error error = {0};
    cr_assert_eq(load(image, &model, &error), 0, "%s", error.text);
    uint64_t bytes = 0;
    for (uint32_t u = 0; u < model.units.n_units; u++) {
        const struct unit *unit = &model.units.units[u];
        uint64_t parts = 0;
        for (uint32_t p = 0; p < unit->n_parts; p++)
            parts += model.units.parts[unit->first_part + p].bytes;
        cr_expect_eq(parts, unit->bytes);
        bytes += parts;
    }
    for (uint32_t a = 0; a < model.units.n_parts; a++)
        for (uint32_t b = a + 1; b < model.units.n_parts; b++) {
            const struct extent *x = &model.units.parts[a], *y = &model.units.parts[b];
            cr_assert(x->offset + x->bytes <= y->offset || y->offset + y->bytes <= x->offset,
                      "parts overlap");
        }
    cr_expect_eq(unit_table_bytes(&model.units), bytes);
    cr_expect_leq(bytes, image.size);
    cr_expect_geq(bytes, image.size * 8 / 10);
    gemma_model_free(&model);
    free(image.data);
}

Test(model, a_file_describes_itself)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_file *file;
    struct lode_error error = {0};
    cr_assert_eq(lode_file_open(&file, path, &error), 0, "%s", error.text);
    struct lode_shape shape;
    cr_assert_eq(lode_file_shape(file, &shape, &error), 0, "%s", error.text);
    cr_expect_eq(shape.n_layers, 8);
    cr_expect_eq(shape.n_experts, 32);
    cr_expect_eq(shape.n_experts_used, 4);
    cr_expect_eq(shape.window, 128);
    cr_expect_str_eq(shape.size, "custom");
    cr_expect_geq(shape.parameters, 17057608, "%lu", shape.parameters);
    cr_expect_leq(shape.parameters, 17057608 + 256, "RoPE factors aside: %lu", shape.parameters);
    cr_expect_geq(shape.parameters_per_token, 5500000);
    cr_expect_leq(shape.parameters_per_token, 6500000);
    uint64_t units = 0, bytes = 0, parameters = 0;
    for (size_t g = 0; g < lode_file_group_count(file); g++) {
        struct lode_group group;
        lode_file_group(file, g, &group);
        units += strcmp(group.kind, "expert") == 0 ? group.units : 0;
        bytes += group.bytes;
        parameters += group.parameters;
    }
    cr_expect_eq(units, 8 * 32);
    cr_expect_eq(bytes, shape.weight_bytes);
    cr_expect_eq(parameters, shape.parameters);
    lode_file_close(file);
}
