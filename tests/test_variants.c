// Files that say the same model in other ways: the logits must be the same to the last bit.
#include "core/gguf.h"
#include "tests/gguf_writer.h"
#include "tests/golden.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// What becomes of a tensor on its way into the other file: true when it has been dealt with.
typedef bool (*rewrite_fn)(struct gguf_writer *writer, const struct gguf_tensor *tensor, const char *data);

static char *read_data(const struct gguf *gguf, const struct gguf_tensor *tensor)
{
    FILE *file = fopen(gguf_file_path(gguf, tensor->file), "rb");
    cr_assert_not_null(file);
    char *data = malloc(tensor->size_bytes);
    fseek(file, (long)tensor->offset_bytes, SEEK_SET);
    cr_assert_eq(fread(data, 1, tensor->size_bytes, file), tensor->size_bytes);
    fclose(file);
    return data;
}

static void rewrite_model(const char *from, const char *to, rewrite_fn rewrite)
{
    struct gguf *gguf;
    struct lode_error error;
    cr_assert_eq(gguf_open(&gguf, from, &error), 0, "%s", error.text);
    struct gguf_writer *writer = gguf_writer_new(2);
    for (size_t k = 0; k < gguf_key_count(gguf); k++) {
        const struct gguf_value *value;
        char key[256];
        struct gguf_string name = gguf_key_at(gguf, k, &value);
        snprintf(key, sizeof key, "%.*s", (int)name.len, name.data);
        gguf_writer_value(writer, key, value);
    }
    for (size_t t = 0; t < gguf_tensor_count(gguf); t++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(gguf, t);
        char *data = read_data(gguf, tensor);
        if (!rewrite(writer, tensor, data))
            gguf_writer_tensor(writer, tensor->name, tensor->type, tensor->n_dims, tensor->ne, data,
                               tensor->size_bytes);
        free(data);
    }
    cr_assert(gguf_writer_save(writer, to));
    gguf_writer_free(writer);
    gguf_close(gguf);
}

static bool keep(struct gguf_writer *writer, const struct gguf_tensor *tensor, const char *data)
{
    (void)writer, (void)tensor, (void)data;
    return false;
}

// Experts' gate and up rows, which lie behind each other in one tensor, as two.
static bool separate_gate_and_up(struct gguf_writer *writer, const struct gguf_tensor *tensor,
                                 const char *data)
{
    char *at = strstr(tensor->name, "ffn_gate_up_exps");
    if (!at)
        return false;
    const uint64_t n_experts = tensor->ne[2], both = tensor->size_bytes / n_experts, half = both / 2;
    const uint64_t ne[] = {tensor->ne[0], tensor->ne[1] / 2, n_experts};
    char *part = malloc(half * n_experts);
    for (int up = 0; up < 2; up++) {
        for (uint64_t e = 0; e < n_experts; e++)
            memcpy(part + e * half, data + e * both + (up ? half : 0), half);
        char name[GGUF_MAX_NAME];
        snprintf(name, sizeof name, "%.*s%s", (int)(at - tensor->name), tensor->name,
                 up ? "ffn_up_exps.weight" : "ffn_gate_exps.weight");
        gguf_writer_tensor(writer, name, tensor->type, 3, ne, part, half * n_experts);
    }
    free(part);
    return true;
}

// Without the factors the first quarter of the pairs rotates, which is what they say.
static bool drop_rope_factors(struct gguf_writer *writer, const struct gguf_tensor *tensor, const char *data)
{
    (void)writer, (void)data;
    return strcmp(tensor->name, "rope_freqs.weight") == 0;
}

// A head of its own that is a copy of the embedding.
static bool untie_head(struct gguf_writer *writer, const struct gguf_tensor *tensor, const char *data)
{
    if (strcmp(tensor->name, "token_embd.weight") == 0)
        gguf_writer_tensor(writer, "output.weight", tensor->type, tensor->n_dims, tensor->ne, data,
                           tensor->size_bytes);
    return false;
}

static void check_same_logits(const char *name, const char *variant)
{
    char model[512], ids_path[512];
    cr_assert(test_data_find(model, sizeof model, name));
    cr_assert(test_data_find(ids_path, sizeof ids_path, "golden/m-tokens.txt"));
    size_t count, vocab;
    int32_t *ids = golden_read_ids(ids_path, &count);
    const struct golden_run run = {.threads = 2};
    float *expected = golden_logits(model, ids, count, &run, &vocab);
    float *found = golden_logits(variant, ids, count, &run, &vocab);
    cr_expect_arr_eq(found, expected, count * vocab * sizeof *found, "%s, rewritten", name);
    free(found);
    free(expected);
    free(ids);
}

static void check_variant(const char *name, rewrite_fn rewrite)
{
    char model[512], variant[] = "/tmp/lode-variant-XXXXXX";
    cr_assert(test_data_find(model, sizeof model, name));
    int fd = mkstemp(variant);
    cr_assert_geq(fd, 0);
    close(fd);
    rewrite_model(model, variant, rewrite);
    check_same_logits(name, variant);
    unlink(variant);
}

Test(variants, version_2_of_the_format)
{
    check_variant("golden/m-e2b-q4_0.gguf", keep);
}

Test(variants, gate_and_up_experts_apart)
{
    check_variant("golden/m-26b-a4b-q4_0.gguf", separate_gate_and_up);
}

Test(variants, rope_factors_left_out)
{
    check_variant("golden/m-31b-q4_0.gguf", drop_rope_factors);
}

Test(variants, a_head_of_its_own)
{
    check_variant("golden/m-e4b-q4_0.gguf", untie_head);
}

Test(variants, a_model_split_over_three_files)
{
    char model[512], folder[] = "/tmp/lode-split-XXXXXX", prefix[64], part[128];
    cr_assert(test_data_find(model, sizeof model, "golden/m-26b-a4b-q4_0.gguf"));
    cr_assert_not_null(mkdtemp(folder));
    snprintf(prefix, sizeof prefix, "%s/model", folder);
    struct gguf *gguf;
    cr_assert_eq(gguf_open(&gguf, model, NULL), 0);
    struct gguf_writer *writer = gguf_writer_new(3);
    cr_assert(gguf_writer_copy(writer, gguf, NULL));
    cr_assert(gguf_writer_save_split(writer, prefix, 3));
    gguf_writer_free(writer);
    gguf_close(gguf);
    gguf_writer_part_path(part, sizeof part, prefix, 0, 3);
    check_same_logits("golden/m-26b-a4b-q4_0.gguf", part);
    for (uint16_t p = 0; p < 3; p++) {
        gguf_writer_part_path(part, sizeof part, prefix, p, 3);
        unlink(part);
    }
    rmdir(folder);
}
