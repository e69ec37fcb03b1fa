// Synthetic models in the type mixes of llama.cpp's quantiser: counts of the published files, and which
// layers have the larger type, written out by hand.
#include "core/gemma4.h"
#include "core/synth.h"
#include "tests/golden.h"
#include "tests/synth_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(synth_mix, .init = synth_make_directory, .fini = synth_remove_directory);

static struct synth_model model_of(const char *shape, const char *type)
{
    const struct lode_synth_options options = synth_options_of(shape, type);
    struct synth_model model;
    struct lode_error error = {0};
    cr_assert_eq(synth_model_make(&model, &options, &error), 0, "%s", error.text);
    return model;
}

static size_t count_type(const struct synth_model *model, enum lode_type type)
{
    size_t count = 0;
    for (size_t t = 0; t < model->n_tensors; t++)
        count += model->tensors[t].type == type;
    return count;
}

// The layers whose tensor of that suffix has that type, as "0,1,5".
static const char *layers_with(const struct synth_model *model, const char *suffix, enum lode_type type)
{
    static char list[256];
    size_t used = 0;
    list[0] = 0;
    for (uint32_t l = 0; l < model->shape.n_layers; l++) {
        char name[GGUF_MAX_NAME];
        snprintf(name, sizeof name, "blk.%u.%s.weight", l, suffix);
        for (size_t t = 0; t < model->n_tensors; t++)
            if (model->tensors[t].type == type && strcmp(model->tensors[t].name, name) == 0)
                used += (size_t)snprintf(list + used, sizeof list - used, "%s%u", used ? "," : "", l);
    }
    return list;
}

// The published file takes 15.63 GiB.
Test(synth_mix, the_26b_has_the_published_number_of_tensors_of_each_type)
{
    struct synth_model model = model_of("26b-a4b", "q4_k_m");
    cr_expect_eq(model.n_tensors, 658);
    cr_expect_eq(count_type(&model, LODE_F32), 392);
    cr_expect_eq(count_type(&model, LODE_Q4_K), 192);
    cr_expect_eq(count_type(&model, LODE_Q5_0), 32);
    cr_expect_eq(count_type(&model, LODE_Q8_0), 28);
    cr_expect_eq(count_type(&model, LODE_Q6_K), 14);
    synth_model_free(&model);
    const struct lode_synth_options options = synth_options_of("26b-a4b", "Q4_K_M");
    const double gib = (double)synth_size_of(&options).file_bytes / (1 << 30);
    cr_expect_float_eq(gib, 15.63, 0.02, "%g GiB", gib);
}

Test(synth_mix, q4_k_m_gives_the_ends_and_every_third_layer_more_bits)
{
    struct synth_model model = model_of("26b-a4b", "q4_k_m");
    cr_expect_str_eq(layers_with(&model, "ffn_down", LODE_Q8_0), "0,1,2,5,8,11,14,17,20,23,26,27,28,29");
    cr_expect_str_eq(layers_with(&model, "ffn_down_exps", LODE_Q8_0), "0,1,2,5,8,11,14,17,20,23,26,27,28,29");
    // Counted among the 25 layers with a V projection, every sixth has none: 0-2, 5, 8, …, 20 and 21-24.
    cr_expect_str_eq(layers_with(&model, "attn_v", LODE_Q6_K), "0,1,2,6,9,13,16,20,24,25,26,27,28");
    cr_expect_str_eq(layers_with(&model, "attn_k", LODE_Q6_K), "");
    synth_model_free(&model);
    model = model_of("31b", "q4_k_m"); // its rows are whole blocks: nothing falls back
    cr_expect_eq(count_type(&model, LODE_Q5_0) + count_type(&model, LODE_Q8_0), 0);
    cr_expect_str_eq(layers_with(&model, "ffn_down", LODE_Q6_K),
                     "0,1,2,3,4,5,6,9,12,15,18,21,24,27,30,33,36,39,42,45,48,51,52,53,54,55,56,57,58,59");
    synth_model_free(&model);
}

Test(synth_mix, q5_k_m_has_the_same_layers_over_q5_k)
{
    struct synth_model model = model_of("26b-a4b", "q5_k_m");
    cr_expect_eq(count_type(&model, LODE_Q5_K), 192);
    cr_expect_eq(count_type(&model, LODE_Q5_1), 32);
    cr_expect_eq(count_type(&model, LODE_Q8_0), 28);
    cr_expect_eq(count_type(&model, LODE_Q6_K), 14);
    synth_model_free(&model);
}

Test(synth_mix, q4_k_s_gives_the_first_layers_one_bit_more)
{
    struct synth_model model = model_of("26b-a4b", "q4_k_s");
    cr_expect_str_eq(layers_with(&model, "attn_v", LODE_Q5_K), "0,1,2,3");
    cr_expect_str_eq(layers_with(&model, "ffn_down", LODE_Q5_1), "0,1,2");
    cr_expect_str_eq(layers_with(&model, "ffn_down_exps", LODE_Q5_1), "0,1,2");
    cr_expect_eq(count_type(&model, LODE_Q6_K), 1, "the embedding alone");
    cr_expect_eq(count_type(&model, LODE_Q5_0), 54);
    synth_model_free(&model);
    model = model_of("e2b", "q4_k_s");
    cr_expect_str_eq(layers_with(&model, "ffn_down", LODE_Q5_K), "0,1,2,3");
    synth_model_free(&model);
}

// V is counted among the 15 layers that own a KV cache, FFNs among all 35.
Test(synth_mix, layers_without_a_v_projection_are_not_counted)
{
    struct synth_model model = model_of("e2b", "q4_k_m");
    cr_expect_str_eq(layers_with(&model, "attn_v", LODE_Q6_K), "0,3,6,9,12,13,14");
    cr_expect_str_eq(layers_with(&model, "ffn_down", LODE_Q6_K),
                     "0,1,2,3,6,9,12,15,18,21,24,27,30,31,32,33,34");
    cr_expect_eq(count_type(&model, LODE_BF16), 1, "the projection of all layers' inputs");
    cr_expect_eq(count_type(&model, LODE_Q6_K), 7 + 17 + 2, "two embedding tables");
    synth_model_free(&model);
}

Test(synth_mix, a_head_type_of_its_own_is_kept)
{
    struct lode_synth_options options = synth_options_of("26b-a4b", "q4_k_m");
    options.head_type = "q8_0";
    cr_expect_str_eq(synth_size_of(&options).groups[SYNTH_EMBEDDING_TABLE].types, "Q8_0");
    cr_expect_str_eq(synth_size_of(&options).groups[SYNTH_ATTENTION].types, "Q4_K+Q6_K");
    options.head_type = "q4_k_m";
    struct lode_synth_size size;
    struct lode_error error = {0};
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT, "one tensor is no mix");
}

Test(synth_mix, a_name_that_is_neither_type_nor_mix_is_told_both)
{
    const struct lode_synth_options options = synth_options_of("e2b", "q4_k_x");
    struct lode_synth_size size;
    struct lode_error error = {0};
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "q4_k_x") && strstr(error.text, "Q6_K") && strstr(error.text, "Q4_K_M"),
              "%s", error.text);
}

// Logits of the file's own run are finite: every tensor is read in the type that it has.
Test(synth_mix, every_mix_of_every_tiny_shape_is_a_model_that_runs)
{
    static const char *const shapes[] = {"tiny-e2b", "tiny-moe", "tiny-31b"};
    static const struct {
        const char *name;
        int64_t file_type;
    } mixes[] = {{"q4_k_s", 14}, {"q4_k_m", 15}, {"q5_k_m", 17}};
    static const int32_t ids[] = {2, 600, 1200, 700};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (size_t m = 0; m < sizeof mixes / sizeof *mixes; m++) {
            char path[128];
            snprintf(path, sizeof path, "%s", synth_path_of("model.gguf"));
            const struct lode_synth_options options = synth_options_of(shapes[s], mixes[m].name);
            synth_write_model(path, &options);
            struct gguf *gguf;
            struct lode_error error = {0};
            cr_assert_eq(gguf_open(&gguf, path, &error), 0, "%s", error.text);
            int64_t file_type = -1;
            cr_expect(gguf_value_i64(gguf_find(gguf, "general.file_type"), 0, &file_type));
            cr_expect_eq(file_type, mixes[m].file_type, "%s", mixes[m].name);
            cr_expect_eq(gguf_file_size_bytes(gguf, 0), synth_size_of(&options).file_bytes);
            gguf_close(gguf);
            size_t vocab;
            float *logits = golden_logits(path, ids, 4, &(struct golden_run){.threads = 1}, &vocab);
            for (size_t i = 0; i < 4 * vocab; i++)
                cr_assert(isfinite(logits[i]), "%s %s", shapes[s], mixes[m].name);
            free(logits);
        }
    }
}
