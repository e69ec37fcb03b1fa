// Synthetic models: sizes against the published ones, and files against the project's own readers.
#include "core/gemma4.h"
#include "core/synth.h"
#include "core/tokenizer.h"
#include "tests/golden.h"
#include "tests/synth_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const tiny_shapes[] = {"tiny-e2b", "tiny-moe", "tiny-31b"};
static const enum lode_type all_types[] = {
    LODE_F32,  LODE_F16,  LODE_BF16, LODE_Q4_0, LODE_Q4_1, LODE_Q5_0,   LODE_Q5_1,   LODE_Q8_0,
    LODE_Q2_K, LODE_Q3_K, LODE_Q4_K, LODE_Q5_K, LODE_Q6_K, LODE_IQ4_NL, LODE_IQ4_XS, LODE_MXFP4,
};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

// ---- sizes --------------------------------------------------------------------------------------

TestSuite(synth, .init = synth_make_directory, .fini = synth_remove_directory);

struct published {
    const char *shape;
    uint64_t tensors;
    uint64_t parameters[SYNTH_GROUPS]; // in the order of enum synth_group
};

static const struct published published[] = {
    {"e2b", 541, {402653184, 2348810240, 278396928, 1557135360, 0, 0, 41287680, 285987, 256}},
    {"e4b", 666, {671088640, 2818572288, 587202560, 3303014400, 0, 0, 82575360, 560170, 256}},
    {"12b", 667, {1006632960, 0, 2406481920, 8493465600, 0, 0, 0, 769840, 256}},
    {"26b-a4b", 658, {738197504, 0, 1110179840, 535265280, 22837985280, 10813440, 0, 700446, 256}},
    {"31b", 833, {1409286144, 0, 8477736960, 20808990720, 0, 0, 0, 1331516, 256}},
};
enum { N_PUBLISHED = sizeof published / sizeof *published };

// Of the two quantised types that keep all rows, with what is never quantised.
static uint64_t expected_bytes(const struct published *model, int group, uint64_t block_bytes)
{
    const uint64_t n = model->parameters[group];
    if (group == SYNTH_ROUTERS || group == SYNTH_NORMS || group == SYNTH_ROPE)
        return 4 * n;
    if (group != SYNTH_PLE_PROJECTIONS)
        return n / 32 * block_bytes;
    const bool e2b = strcmp(model->shape, "e2b") == 0;
    const uint64_t model_proj = n ? e2b ? 13762560 : 27525120 : 0;
    return 2 * model_proj + (n - model_proj) / 32 * block_bytes;
}

Test(synth, groups_have_the_published_sizes)
{
    for (int i = 0; i < N_PUBLISHED; i++) {
        for (int q8 = 0; q8 < 2; q8++) {
            const struct lode_synth_options options =
                synth_options_of(published[i].shape, q8 ? "q8_0" : "q4_0");
            const struct lode_synth_size size = synth_size_of(&options);
            cr_expect_eq(size.tensors, published[i].tensors, "%s: %lu tensors", options.shape,
                         (unsigned long)size.tensors);
            uint64_t all_bytes = 0;
            for (int g = 0; g < SYNTH_GROUPS; g++) {
                cr_expect_eq(size.groups[g].parameters, published[i].parameters[g], "%s: %s", options.shape,
                             size.groups[g].kind);
                cr_expect_eq(size.groups[g].bytes, expected_bytes(&published[i], g, q8 ? 34 : 18), "%s: %s",
                             options.shape, size.groups[g].kind);
                all_bytes += size.groups[g].bytes;
            }
            cr_expect_eq(size.weight_bytes, all_bytes);
        }
    }
}

// Published Q4_0 files have Q6_K embeddings and 15.8 MB of metadata, nearly all of it vocabulary.
Test(synth, weights_take_what_published_files_take)
{
    static const struct {
        const char *shape;
        uint64_t file_bytes;
    } files[] = {{"e4b", 5154941280}, {"26b-a4b", 14439361440}};
    for (int i = 0; i < 2; i++) {
        struct lode_synth_options options = synth_options_of(files[i].shape, "q4_0");
        options.head_type = "Q6_K";
        const uint64_t metadata = files[i].file_bytes - synth_size_of(&options).weight_bytes;
        cr_expect(metadata > 15700000 && metadata < 15900000, "%s: %lu", files[i].shape,
                  (unsigned long)metadata);
    }
}

Test(synth, rows_that_are_no_whole_blocks_fall_back)
{
    static const struct {
        const char *type, *experts, *ffn, *embedding;
    } expected[] = {
        {"q4_k", "Q5_0+Q4_K", "Q5_0+Q4_K", "Q6_K"},
        {"q5_k", "Q5_1+Q5_K", "Q5_1+Q5_K", "Q6_K"},
        {"q6_k", "Q8_0+Q6_K", "Q8_0+Q6_K", "Q6_K"},
        {"q2_k", "Q2_K+IQ4_NL", "Q2_K+IQ4_NL", "Q6_K"},
        {"q3_k", "Q3_K+IQ4_NL", "Q3_K+IQ4_NL", "Q6_K"},
        {"iq4_xs", "IQ4_NL+IQ4_XS", "IQ4_NL+IQ4_XS", "Q6_K"},
        {"q8_0", "Q8_0", "Q8_0", "Q8_0"},
        {"bf16", "BF16", "BF16", "BF16"},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const struct lode_synth_options options = synth_options_of("26b-a4b", expected[i].type);
        const struct lode_synth_size size = synth_size_of(&options);
        cr_expect_str_eq(size.groups[SYNTH_EXPERTS].types, expected[i].experts);
        cr_expect_str_eq(size.groups[SYNTH_DENSE_FFN].types, expected[i].ffn);
        cr_expect_str_eq(size.groups[SYNTH_EMBEDDING_TABLE].types, expected[i].embedding);
        cr_expect_str_eq(size.groups[SYNTH_ROUTERS].types, "F32");
    }
}

Test(synth, what_does_not_exist_is_refused_with_what_does)
{
    struct lode_synth_size size;
    struct lode_error error = {0};
    struct lode_synth_options options = synth_options_of("27b", "q4_0");
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "27b") && strstr(error.text, "26b-a4b") && strstr(error.text, "tiny-moe"),
              "%s", error.text);
    options = synth_options_of("e2b", "q4_2");
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "q4_2") && strstr(error.text, "Q4_K"), "%s", error.text);
    options = synth_options_of("e2b", "q4_0");
    options.head_type = "q7";
    cr_expect_eq(lode_synth_write(synth_path_of("a"), &options, NULL, NULL, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "q7"), "%s", error.text);
    options = synth_options_of("e2b", "q4_0");
    options.skew = NAN;
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    options.skew = 0;
    options.layers = SYNTH_MAX_LAYERS + 1;
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(synth_count_files(), 0);
}

// ---- whole files --------------------------------------------------------------------------------

static void expect_loads(const char *path, const struct lode_synth_options *options)
{
    struct lode_error error = {0};
    struct gguf *gguf;
    struct gemma_model model;
    struct tokenizer *tokenizer;
    cr_assert_eq(gguf_open(&gguf, path, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_model_load(&model, gguf, &error), 0, "%s %s: %s", options->shape, options->type,
                 error.text);
    cr_assert_eq(tokenizer_load(&tokenizer, gguf, &error), 0, "%s", error.text);
    const struct lode_synth_size size = synth_size_of(options);
    cr_expect_eq(gguf_tensor_count(gguf), size.tensors);
    cr_expect_eq(gguf_file_size_bytes(gguf, 0), size.file_bytes, "the size foretold is the size written");
    for (size_t t = 0; t < gguf_tensor_count(gguf); t++)
        cr_expect_neq(model.tensor_unit[t], UNIT_NO_LAYER, "%s is not used", gguf_tensor_at(gguf, t)->name);
    cr_expect_eq(tokenizer_vocab_size(tokenizer), model.hparams.vocab);
    tokenizer_free(tokenizer);
    gemma_model_free(&model);
    gguf_close(gguf);
}

Test(synth, every_tiny_shape_in_every_type_is_a_model)
{
    const char *path = synth_path_of("model.gguf");
    for (size_t s = 0; s < sizeof tiny_shapes / sizeof *tiny_shapes; s++) {
        for (int t = 0; t < N_TYPES; t++) {
            struct lode_synth_options options =
                synth_options_of(tiny_shapes[s], lode_type_name(all_types[t]));
            options.skew = t % 2;
            synth_write_model(path, &options);
            expect_loads(path, &options);
        }
    }
}

Test(synth, any_number_of_layers_is_a_model)
{
    const char *path = synth_path_of("model.gguf");
    static const uint32_t layers[] = {1, 2, 3, 4, 5, 7, 13};
    for (size_t s = 0; s < sizeof tiny_shapes / sizeof *tiny_shapes; s++) {
        for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
            struct lode_synth_options options = synth_options_of(tiny_shapes[s], "q4_0");
            options.layers = layers[i];
            synth_write_model(path, &options);
            expect_loads(path, &options);
        }
    }
}

// The owners end with a global layer, so that both kinds of shared cache are the last two owners'.
Test(synth, fewer_layers_share_kv_as_the_whole_model_does)
{
    static const char *const names[] = {"e2b", "e4b"};
    for (int i = 0; i < 2; i++) {
        for (uint32_t n = 1; n <= 80; n++) {
            struct synth_shape shape;
            cr_assert_eq(synth_shape_find(&shape, names[i], n, NULL), 0);
            if (!shape.n_shared_kv_layers)
                continue;
            const uint32_t n_owners = n - shape.n_shared_kv_layers;
            cr_expect(n_owners >= shape.period && n_owners % shape.period == 0, "%s, %u layers: %u own",
                      names[i], n, n_owners);
        }
    }
}

Test(synth, real_shapes_have_the_keys_of_published_files)
{
    struct gguf *gguf;
    struct gemma_model model = {0};
    struct lode_error error = {0};
    const char *path = synth_path_of("keys.gguf");
    const struct lode_synth_options options = synth_options_of("e2b", "q4_0");
    struct synth_model synth;
    cr_assert_eq(synth_model_make(&synth, &options, &error), 0);
    struct gguf_write *file = synth_begin(path);
    synth_write_metadata(file, &synth);
    cr_assert_eq(gguf_write_begin_data(file, &error), 0);
    cr_assert_eq(gguf_write_finish(file, false, &error), 0, "%s", error.text);
    cr_assert_eq(gguf_open(&gguf, path, &error), 0, "%s", error.text);
    cr_assert_eq(gemma_hparams_load(&model, gguf, &error), 0, "%s", error.text);
    cr_expect_eq(model.hparams.n_layers, 35);
    cr_expect_eq(model.hparams.n_shared_kv_layers, 20);
    cr_expect(model.layers[4].global && !model.layers[5].global && model.layers[34].global);
    cr_expect_eq(model.layers[15].kv_layer, 13);
    cr_expect_eq(model.layers[34].kv_layer, 14);
    cr_expect(model.layers[14].ffn_width == 6144 && model.layers[15].ffn_width == 12288);
    struct tokenizer *tokenizer;
    cr_assert_eq(tokenizer_load(&tokenizer, gguf, &error), 0, "%s", error.text);
    cr_expect_eq(tokenizer_vocab_size(tokenizer), 262144);
    cr_expect_eq(tokenizer_find(tokenizer, "\xe2\x96\x81", 3), 236743);
    cr_expect_eq(tokenizer_find(tokenizer, "<|\"|>", 5), 52);
    cr_expect_eq(tokenizer_find(tokenizer, "<|image>", 8), 255999);
    cr_expect_eq(tokenizer_find(tokenizer, "<|video|>", 9), 258884);
    cr_expect_eq(tokenizer_find(tokenizer, "<0xFF>", 6), 493);
    cr_expect_eq(tokenizer_find(tokenizer, "</s>", 4), 212);
    cr_expect_eq(tokenizer_find(tokenizer, "\t", 1), 255968);
    tokenizer_free(tokenizer);
    gemma_model_free(&model);
    gguf_close(gguf);
    synth_model_free(&synth);
}

Test(synth, the_vocabulary_encodes_any_text_and_gives_it_back)
{
    const char *path = synth_path_of("model.gguf");
    const struct lode_synth_options options = synth_options_of("tiny-31b", "q4_0");
    synth_write_model(path, &options);
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct lode_error error = {0};
    cr_assert_eq(gguf_open(&gguf, path, &error), 0, "%s", error.text);
    cr_assert_eq(tokenizer_load(&tokenizer, gguf, &error), 0, "%s", error.text);
    int32_t *ids;
    size_t count;
    for (uint32_t n = 1; n <= 31; n++) { // runs of up to 31 are one token, in the ids of the real vocabulary
        char run[32];
        memset(run, '\n', n);
        cr_assert_eq(tokenizer_encode(tokenizer, run, n, 0, NULL, 0, &ids, &count, &error), 0);
        cr_expect(count == 1 && ids[0] == (int32_t)(106 + n), "%u newlines: %zu tokens", n, count);
        free(ids);
        memset(run, ' ', n);
        cr_assert_eq(tokenizer_encode(tokenizer, run, n, 0, NULL, 0, &ids, &count, &error), 0);
        cr_expect(count == 1 && (n == 1 || ids[0] == (int32_t)(136 + n)), "%u spaces: %zu tokens", n, count);
        free(ids);
    }
    static const char text[] = "<|turn>user\nThe quick   brown f\xc3\xb6x, 100%\t\xf0\x9f\x98\x80\xff<turn|>";
    cr_assert_eq(tokenizer_encode(tokenizer, text, sizeof text - 1, TOKENIZER_SPECIAL | TOKENIZER_BOS, NULL,
                                  0, &ids, &count, &error),
                 0);
    cr_expect(ids[0] == 2 && ids[1] == 105 && ids[count - 1] == 106);
    char back[sizeof text * 4] = "";
    size_t used = 0;
    for (size_t i = 1; i < count; i++) {
        size_t len;
        const char *piece = tokenizer_piece(tokenizer, ids[i], true, &len);
        memcpy(back + used, piece, len);
        used += len;
    }
    cr_expect(used == sizeof text - 1 && memcmp(back, text, used) == 0, "%.*s", (int)used, back);
    free(ids);
    tokenizer_free(tokenizer);
    gguf_close(gguf);
}

static const float *floats_of(const char *bytes, const struct gguf *gguf, const char *name,
                              uint64_t *out_count)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, name);
    cr_assert_not_null(tensor, "%s is missing", name);
    cr_assert_eq(tensor->type, LODE_F32);
    *out_count = tensor->size_bytes / sizeof(float);
    return (const float *)(bytes + tensor->offset_bytes);
}

struct opened {
    struct gguf *gguf;
    char *bytes;
};

static struct opened write_and_open(const struct lode_synth_options *options)
{
    struct opened opened;
    size_t size;
    struct lode_error error = {0};
    synth_write_model(synth_path_of("model.gguf"), options);
    opened.bytes = synth_read_file(synth_path_of("model.gguf"), &size);
    cr_assert_eq(gguf_open(&opened.gguf, synth_path_of("model.gguf"), &error), 0, "%s", error.text);
    return opened;
}

Test(synth, small_tensors_are_what_they_should_be)
{
    const struct lode_synth_options options = synth_options_of("tiny-e2b", "q4_0");
    struct opened model = write_and_open(&options);
    uint64_t n;
    const float *rope = floats_of(model.bytes, model.gguf, "rope_freqs.weight", &n);
    cr_expect(n == 64 && rope[0] == 1 && rope[15] == 1 && rope[16] == 1e30f && rope[63] == 1e30f);
    const float *norm = floats_of(model.bytes, model.gguf, "output_norm.weight", &n);
    size_t n_negative = 0;
    for (uint64_t i = 0; i < n; i++) {
        n_negative += norm[i] < 0;
        cr_expect(fabsf(norm[i]) > 1.8f && fabsf(norm[i]) < 4.2f);
    }
    cr_expect(n_negative > n / 3 && n_negative < 2 * n / 3, "%zu of %lu", n_negative, (unsigned long)n);
    const float *scale = floats_of(model.bytes, model.gguf, "blk.3.layer_output_scale.weight", &n);
    cr_expect(n == 1 && scale[0] > 0.9f && scale[0] < 1.1f);
    const float *post = floats_of(model.bytes, model.gguf, "blk.3.post_norm.weight", &n);
    double mean = 0;
    for (uint64_t i = 0; i < n; i++)
        mean += post[i] / (double)n;
    cr_expect_float_eq(mean, sqrt(3.0 / 18), 0.02); // six layers of three branches
    gguf_close(model.gguf);
    free(model.bytes);
}

static int descending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

// Layer 0 of four with two branches, whose norms have the mean square 3/8 each, after an embedding with 1.5
// in each lane.
Test(synth, skew_gives_the_routers_zipfs_law)
{
    struct lode_synth_options options = synth_options_of("tiny-moe", "f32");
    options.skew = 0.8f;
    struct opened model = write_and_open(&options);
    uint64_t n;
    const float *router = floats_of(model.bytes, model.gguf, "blk.0.ffn_gate_inp.weight", &n);
    cr_assert_eq(n, 128 * 256);
    float popularity[128];
    for (int e = 0; e < 128; e++) {
        popularity[e] = router[256 * e];
        for (int i = 0; i < 256; i += 32)
            cr_expect_eq(router[256 * e + i], popularity[e]);
    }
    qsort(popularity, 128, sizeof *popularity, descending);
    const double lane = 1.5 / sqrt((31 + 1.5 * 1.5) / 32 + 3.0 / 8);
    double sum = 0;
    for (int rank = 1; rank <= 128; rank++) {
        const double score = (popularity[rank - 1] - popularity[0]) * 8 * lane; // eight lanes
        cr_expect_float_eq(score, -0.8 * log(rank), 1e-3, "rank %d: %g", rank, score);
        sum += popularity[rank - 1];
    }
    cr_expect_float_eq(sum, 0, 1e-3);
    gguf_close(model.gguf);
    free(model.bytes);
}

static bool same_files(const struct lode_synth_options *a, const struct lode_synth_options *b)
{
    char path[128];
    size_t size_a, size_b;
    snprintf(path, sizeof path, "%s", synth_path_of("a.gguf"));
    synth_write_model(path, a);
    synth_write_model(synth_path_of("b.gguf"), b);
    char *bytes_a = synth_read_file(path, &size_a),
         *bytes_b = synth_read_file(synth_path_of("b.gguf"), &size_b);
    const bool same = size_a == size_b && memcmp(bytes_a, bytes_b, size_a) == 0;
    free(bytes_a);
    free(bytes_b);
    return same;
}

Test(synth, a_seed_makes_one_file_whatever_the_threads)
{
    for (int t = 0; t < 2; t++) {
        struct lode_synth_options one = synth_options_of("tiny-moe", t ? "q4_k" : "f16");
        one.skew = 1;
        one.threads = 1;
        struct lode_synth_options other = one;
        other.threads = 2;
        cr_expect(same_files(&one, &other), "%s, 1 and 2 threads", one.type);
        other.threads = 3;
        cr_expect(same_files(&one, &other), "%s, 1 and 3 threads", one.type);
        other = one;
        other.seed = 1;
        cr_expect_not(same_files(&one, &other), "%s, two seeds", one.type);
        other = one;
        other.skew = 0;
        cr_expect_not(same_files(&one, &other), "%s, with and without skew", one.type);
    }
}

static bool stop_at_once(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    ++*(int *)user;
    cr_expect(done > 0 && done <= total);
    return false;
}

Test(synth, a_cancelled_file_is_removed)
{
    const struct lode_synth_options options = synth_options_of("tiny-e2b", "q4_0");
    struct lode_error error = {0};
    int calls = 0;
    cr_expect_eq(lode_synth_write(synth_path_of("a.gguf"), &options, stop_at_once, &calls, &error),
                 LODE_ERR_CANCELLED);
    cr_expect_eq(calls, 1);
    cr_expect_eq(synth_count_files(), 0);
}

Test(synth, a_full_disk_is_told_before_the_weights_and_nothing_is_left)
{
    const struct lode_synth_options options = synth_options_of("tiny-e2b", "f32");
    struct lode_error error = {0};
    synth_limit_file_size(1u << 20);
    int rc = lode_synth_write(synth_path_of("a.gguf"), &options, NULL, NULL, &error);
    cr_expect_eq(rc, LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, "a.gguf"), "%s", error.text);
    cr_expect_not_null(strstr(error.text, "bytes are still to be written"), "%s", error.text);
    cr_expect_eq(synth_count_files(), 0);
}

Test(synth, a_device_that_takes_nothing_fails_and_stays)
{
    if (access("/dev/full", W_OK) != 0)
        cr_skip_test("there is no /dev/full");
    const struct lode_synth_options options = synth_options_of("tiny-e2b", "q4_0");
    struct lode_error error = {0};
    cr_expect_eq(lode_synth_write("/dev/full", &options, NULL, NULL, &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, "/dev/full") && strstr(error.text, "still to be written"), "%s", error.text);
    struct stat device;
    cr_expect(stat("/dev/full", &device) == 0 && S_ISCHR(device.st_mode));
}

// Uniform logits over 2,048 tokens would have an entropy of 7.6, a model that repeats itself one near 0.
Test(synth, logits_are_finite_and_neither_flat_nor_certain)
{
    static const int32_t ids[] = {2, 600, 1200, 700, 1900, 702, 1333, 1777, 603, 901, 1500, 1999};
    enum { N = sizeof ids / sizeof *ids };
    const char *path = synth_path_of("model.gguf");
    for (size_t s = 0; s < sizeof tiny_shapes / sizeof *tiny_shapes; s++) {
        struct lode_synth_options options = synth_options_of(tiny_shapes[s], "q4_0");
        options.skew = (float)s;
        synth_write_model(path, &options);
        size_t vocab;
        float *logits = golden_logits(path, ids, N, &(struct golden_run){.threads = 1}, &vocab);
        double entropy = 0;
        for (size_t row = 0; row < N; row++) {
            double sum = 0, weighted = 0;
            for (size_t i = 0; i < vocab; i++) {
                const double logit = logits[row * vocab + i];
                cr_assert(isfinite(logit));
                sum += exp(logit);
                weighted += logit * exp(logit);
            }
            entropy += (log(sum) - weighted / sum) / N;
        }
        cr_expect(entropy > 2 && entropy < 6, "%s: entropy %g", tiny_shapes[s], entropy);
        free(logits);
    }
}
