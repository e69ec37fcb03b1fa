// The streaming GGUF writer and the synthetic models it writes: sizes against the published ones,
// distributions against their formulas, and files against the project's own readers.
#include "backends/cpu/dequantize.h"
#include "core/gemma4.h"
#include "core/gguf_write.h"
#include "core/synth.h"
#include "core/synth_draw.h"
#include "core/tokenizer.h"
#include "tests/golden.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const tiny_shapes[] = {"tiny-e2b", "tiny-moe", "tiny-31b"};
static const enum lode_type all_types[] = {
    LODE_F32,  LODE_F16,  LODE_BF16, LODE_Q4_0, LODE_Q4_1, LODE_Q5_0,   LODE_Q5_1,   LODE_Q8_0,
    LODE_Q2_K, LODE_Q3_K, LODE_Q4_K, LODE_Q5_K, LODE_Q6_K, LODE_IQ4_NL, LODE_IQ4_XS, LODE_MXFP4,
};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

// ---- files --------------------------------------------------------------------------------------

static char directory[64];

static void make_directory(void)
{
    snprintf(directory, sizeof directory, "/tmp/lode-synth-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static size_t count_files(void)
{
    size_t count = 0;
    DIR *open = opendir(directory);
    for (struct dirent *entry; (entry = readdir(open));)
        count += entry->d_name[0] != '.';
    closedir(open);
    return count;
}

static void remove_directory(void)
{
    char path[400];
    DIR *open = opendir(directory);
    for (struct dirent *entry; (entry = readdir(open));) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    closedir(open);
    rmdir(directory);
}

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static char *read_file(const char *path, size_t *out_size)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s is not there", path);
    fseek(file, 0, SEEK_END);
    *out_size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*out_size);
    cr_assert_eq(fread(bytes, 1, *out_size, file), *out_size);
    fclose(file);
    return bytes;
}

static struct lode_synth_options options_of(const char *shape, const char *type)
{
    struct lode_synth_options options = lode_synth_options_default();
    options.shape = shape;
    options.type = type;
    options.threads = 1; // suites run side by side
    return options;
}

static void write_model(const char *path, const struct lode_synth_options *options)
{
    struct lode_error error = {0};
    cr_assert_eq(lode_synth_write(path, options, NULL, NULL, &error), 0, "%s %s: %s", options->shape,
                 options->type, error.text);
}

// ---- gguf_write ---------------------------------------------------------------------------------

TestSuite(gguf_write, .init = make_directory, .fini = remove_directory);

static struct gguf_write *begin(const char *path)
{
    struct gguf_write *file;
    struct lode_error error = {0};
    cr_assert_eq(gguf_write_create(&file, path, &error), 0, "%s", error.text);
    return file;
}

static void write_small(struct gguf_write *file)
{
    static const float weights[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    gguf_write_string(file, "general.architecture", "gemma4");
    gguf_write_i32(file, "minus", -7);
    gguf_write_array(file, "names", GGUF_STRING, 2);
    gguf_write_item_string(file, "a", 1);
    gguf_write_item_string(file, "", 0);
    cr_assert_eq(gguf_write_tensor(file, "three", LODE_F32, 1, (uint64_t[]){3}, NULL), 0);
    cr_assert_eq(gguf_write_tensor(file, "nine", LODE_F32, 2, (uint64_t[]){3, 3}, NULL), 0);
    cr_assert_eq(gguf_write_begin_data(file, NULL), 0);
    cr_assert_eq(gguf_write_data(file, weights, 12, NULL), 0);
    cr_assert_eq(gguf_write_data(file, weights + 3, 20, NULL), 0); // a tensor may come in pieces
    cr_assert_eq(gguf_write_data(file, weights + 8, 16, NULL), 0);
}

Test(gguf_write, what_was_written_is_read_back)
{
    const char *path = path_of("small.gguf");
    struct gguf_write *file = begin(path);
    write_small(file);
    const uint64_t size_bytes = gguf_write_size_bytes(file);
    cr_assert_eq(gguf_write_finish(file, true, NULL), 0);
    struct gguf *gguf;
    struct lode_error error = {0};
    cr_assert_eq(gguf_open(&gguf, path, &error), 0, "%s", error.text);
    int64_t minus;
    struct gguf_string name;
    cr_expect(gguf_value_i64(gguf_find(gguf, "minus"), 0, &minus) && minus == -7);
    cr_expect(gguf_value_string(gguf_find(gguf, "names"), 0, &name) && name.len == 1 && name.data[0] == 'a');
    cr_expect(gguf_value_string(gguf_find(gguf, "names"), 1, &name) && name.len == 0);
    cr_expect_eq(gguf_key_count(gguf), 3);
    const struct gguf_tensor *nine = gguf_tensor_find(gguf, "nine");
    cr_assert_not_null(nine);
    size_t read_bytes;
    char *bytes = read_file(path, &read_bytes);
    cr_expect_eq(read_bytes, size_bytes);
    cr_expect_eq(nine->offset_bytes % 32, 0);
    cr_expect_eq(((float *)(bytes + nine->offset_bytes))[8], 12);
    cr_expect_eq(count_files(), 1);
    free(bytes);
    gguf_close(gguf);
}

Test(gguf_write, counting_tells_the_size_that_writing_has)
{
    struct gguf_write *counted = begin(NULL), *written = begin(path_of("a.gguf"));
    write_small(counted);
    write_small(written);
    cr_expect_eq(gguf_write_size_bytes(counted), gguf_write_size_bytes(written));
    cr_expect_eq(gguf_write_finish(counted, false, NULL), 0);
    cr_expect_eq(gguf_write_finish(written, false, NULL), 0);
}

Test(gguf_write, tensors_that_no_file_can_hold_are_refused)
{
    struct gguf_write *file = begin(NULL);
    struct lode_error error = {0};
    char name[80];
    memset(name, 'n', sizeof name);
    name[64] = 0;
    cr_expect_eq(gguf_write_tensor(file, name, LODE_F32, 1, (uint64_t[]){3}, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(gguf_write_tensor(file, "a", LODE_Q4_0, 1, (uint64_t[]){33}, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "33"), "%s", error.text);
    cr_expect_eq(gguf_write_tensor(file, "a", LODE_F32, 2, (uint64_t[]){1ull << 40, 1ull << 40}, &error),
                 LODE_ERR_ARGUMENT);
    cr_expect_eq(gguf_write_tensor(file, "a", LODE_F32, 5, (uint64_t[]){1, 1, 1, 1}, &error),
                 LODE_ERR_ARGUMENT);
    gguf_write_abort(file);
}

Test(gguf_write, an_aborted_file_leaves_the_old_one)
{
    const char *path = path_of("old.gguf");
    FILE *old = fopen(path, "w");
    fputs("old", old);
    fclose(old);
    struct gguf_write *file = begin(path);
    write_small(file);
    cr_expect_eq(count_files(), 2);
    gguf_write_abort(file);
    size_t size;
    char *bytes = read_file(path, &size);
    cr_expect(size == 3 && memcmp(bytes, "old", 3) == 0);
    cr_expect_eq(count_files(), 1);
    free(bytes);
}

Test(gguf_write, a_directory_and_a_place_that_is_not_there_are_refused)
{
    struct gguf_write *file;
    struct lode_error error = {0};
    cr_expect_eq(gguf_write_create(&file, directory, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, directory), "%s", error.text);
    cr_expect_eq(gguf_write_create(&file, path_of("no/such/file"), &error), LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, "no/such/file"), "%s", error.text);
}

static void limit_file_size(uint64_t bytes)
{
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {bytes, RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

Test(gguf_write, a_disk_that_fills_up_on_the_way_is_told_and_nothing_is_left)
{
    const uint64_t n = 8u << 20;
    struct gguf_write *file = begin(path_of("big.gguf"));
    struct lode_error error = {0};
    void *chunk = calloc(1, 1u << 20);
    cr_assert_eq(gguf_write_tensor(file, "a", LODE_F16, 1, &n, &error), 0);
    cr_assert_eq(gguf_write_begin_data(file, &error), 0, "%s", error.text);
    limit_file_size(4u << 20);
    int rc = 0;
    for (int i = 0; i < 16 && !rc; i++)
        rc = gguf_write_data(file, chunk, 1u << 20, &error);
    cr_expect_eq(rc, LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, "big.gguf"), "%s", error.text);
    cr_expect_not_null(strstr(error.text, "bytes are still to be written"), "%s", error.text);
    gguf_write_abort(file);
    cr_expect_eq(count_files(), 0);
    free(chunk);
}

// ---- sizes --------------------------------------------------------------------------------------

TestSuite(synth, .init = make_directory, .fini = remove_directory);

static struct lode_synth_size size_of(const struct lode_synth_options *options)
{
    struct lode_synth_size size;
    struct lode_error error = {0};
    cr_assert_eq(lode_synth_measure(&size, options, &error), 0, "%s", error.text);
    return size;
}

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
            const struct lode_synth_options options = options_of(published[i].shape, q8 ? "q8_0" : "q4_0");
            const struct lode_synth_size size = size_of(&options);
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
        struct lode_synth_options options = options_of(files[i].shape, "q4_0");
        options.head_type = "Q6_K";
        const uint64_t metadata = files[i].file_bytes - size_of(&options).weight_bytes;
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
        const struct lode_synth_options options = options_of("26b-a4b", expected[i].type);
        const struct lode_synth_size size = size_of(&options);
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
    struct lode_synth_options options = options_of("27b", "q4_0");
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "27b") && strstr(error.text, "26b-a4b") && strstr(error.text, "tiny-moe"),
              "%s", error.text);
    options = options_of("e2b", "q4_2");
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "q4_2") && strstr(error.text, "Q4_K"), "%s", error.text);
    options = options_of("e2b", "q4_0");
    options.head_type = "q7";
    cr_expect_eq(lode_synth_write(path_of("a"), &options, NULL, NULL, &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, "q7"), "%s", error.text);
    options = options_of("e2b", "q4_0");
    options.skew = NAN;
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    options.skew = 0;
    options.layers = SYNTH_MAX_LAYERS + 1;
    cr_expect_eq(lode_synth_measure(&size, &options, &error), LODE_ERR_ARGUMENT);
    cr_expect_eq(count_files(), 0);
}

// ---- distributions ------------------------------------------------------------------------------

enum { N_DRAWN = 1 << 20 };

static float *draw(struct synth_draw *drawing, enum lode_type type, float mean, float deviation, bool signs,
                   bool lanes)
{
    struct synth_quantiles *quantiles = malloc(sizeof *quantiles);
    synth_quantiles_init(quantiles);
    synth_draw_init(drawing, quantiles, type, mean, deviation, signs, lanes);
    uint64_t row_bytes;
    cr_assert(lode_type_row_bytes(&row_bytes, type, N_DRAWN));
    uint8_t *row = malloc(row_bytes);
    float *weights = malloc(N_DRAWN * sizeof *weights);
    struct synth_random random = synth_random_of(1, lode_type_name(type), 0);
    synth_draw_fill(drawing, row, N_DRAWN, &random);
    cpu_dequantize(weights, type, row, N_DRAWN);
    free(row);
    free(quantiles);
    return weights;
}

struct moments {
    double mean, deviation, lane_mean;
};

static struct moments moments_of(const float *weights, bool lanes)
{
    double sum = 0, squares = 0, lane_sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < N_DRAWN; i++) {
        if (lanes && i % SYNTH_LANE == 0) {
            lane_sum += weights[i];
            continue;
        }
        n++;
        sum += weights[i];
        squares += (double)weights[i] * weights[i];
    }
    const double mean = sum / (double)n;
    return (struct moments){mean, sqrt(squares / (double)n - mean * mean), lane_sum * SYNTH_LANE / N_DRAWN};
}

// Deviations of the smallest and the largest rows: the scales of K-quants are subnormal halves there.
Test(synth, every_type_is_drawn_with_the_wanted_deviation)
{
    static const float deviations[] = {0.0068f, 0.0625f, 1};
    struct synth_draw *drawing = malloc(sizeof *drawing);
    for (int t = 0; t < N_TYPES; t++) {
        for (int i = 0; i < 3; i++) {
            float *weights = draw(drawing, all_types[t], 0, deviations[i], false, false);
            const struct moments found = moments_of(weights, false);
            cr_expect_float_eq(found.deviation / deviations[i], 1, 0.015, "%s: %g for %g",
                               lode_type_name(all_types[t]), found.deviation, (double)deviations[i]);
            cr_expect_float_eq(found.mean / deviations[i], 0, 0.01, "%s: mean %g of %g",
                               lode_type_name(all_types[t]), found.mean, (double)deviations[i]);
            free(weights);
        }
    }
    free(drawing);
}

Test(synth, lanes_are_as_large_as_the_routers_expect)
{
    struct synth_draw *drawing = malloc(sizeof *drawing);
    for (int t = 0; t < N_TYPES; t++) {
        float *weights = draw(drawing, all_types[t], 0, 0.02f, false, true);
        const struct moments found = moments_of(weights, true);
        cr_expect_float_eq(found.lane_mean / (double)drawing->lane, 1, 0.015, "%s: lane %g, expected %g",
                           lode_type_name(all_types[t]), found.lane_mean, (double)drawing->lane);
        cr_expect(found.lane_mean > 0.02 && found.lane_mean < 0.04, "%s", lode_type_name(all_types[t]));
        cr_expect_float_eq(found.deviation / 0.02, 1, 0.03, "%s: %g", lode_type_name(all_types[t]),
                           found.deviation);
        free(weights);
    }
    free(drawing);
}

Test(synth, norms_have_their_mean_and_the_output_norm_both_signs)
{
    struct synth_draw *drawing = malloc(sizeof *drawing);
    float *weights = draw(drawing, LODE_F32, 3, 0.3f, false, false);
    struct moments found = moments_of(weights, false);
    cr_expect_float_eq(found.mean, 3, 0.01);
    cr_expect_float_eq(found.deviation, 0.3, 0.01);
    free(weights);
    weights = draw(drawing, LODE_F32, 3, 0.3f, true, false);
    found = moments_of(weights, false);
    cr_expect_float_eq(found.mean, 0, 0.02);
    cr_expect_float_eq(found.deviation, sqrt(9.09), 0.01);
    free(weights);
    free(drawing);
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
    const struct lode_synth_size size = size_of(options);
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
    const char *path = path_of("model.gguf");
    for (size_t s = 0; s < sizeof tiny_shapes / sizeof *tiny_shapes; s++) {
        for (int t = 0; t < N_TYPES; t++) {
            struct lode_synth_options options = options_of(tiny_shapes[s], lode_type_name(all_types[t]));
            options.skew = t % 2;
            write_model(path, &options);
            expect_loads(path, &options);
        }
    }
}

Test(synth, any_number_of_layers_is_a_model)
{
    const char *path = path_of("model.gguf");
    static const uint32_t layers[] = {1, 2, 3, 4, 5, 7, 13};
    for (size_t s = 0; s < sizeof tiny_shapes / sizeof *tiny_shapes; s++) {
        for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) {
            struct lode_synth_options options = options_of(tiny_shapes[s], "q4_0");
            options.layers = layers[i];
            write_model(path, &options);
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
    const char *path = path_of("keys.gguf");
    const struct lode_synth_options options = options_of("e2b", "q4_0");
    struct synth_model synth;
    cr_assert_eq(synth_model_make(&synth, &options, &error), 0);
    struct gguf_write *file = begin(path);
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
    const char *path = path_of("model.gguf");
    const struct lode_synth_options options = options_of("tiny-31b", "q4_0");
    write_model(path, &options);
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
    write_model(path_of("model.gguf"), options);
    opened.bytes = read_file(path_of("model.gguf"), &size);
    cr_assert_eq(gguf_open(&opened.gguf, path_of("model.gguf"), &error), 0, "%s", error.text);
    return opened;
}

Test(synth, small_tensors_are_what_they_should_be)
{
    const struct lode_synth_options options = options_of("tiny-e2b", "q4_0");
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
    struct lode_synth_options options = options_of("tiny-moe", "f32");
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
    snprintf(path, sizeof path, "%s", path_of("a.gguf"));
    write_model(path, a);
    write_model(path_of("b.gguf"), b);
    char *bytes_a = read_file(path, &size_a), *bytes_b = read_file(path_of("b.gguf"), &size_b);
    const bool same = size_a == size_b && memcmp(bytes_a, bytes_b, size_a) == 0;
    free(bytes_a);
    free(bytes_b);
    return same;
}

Test(synth, a_seed_makes_one_file_whatever_the_threads)
{
    for (int t = 0; t < 2; t++) {
        struct lode_synth_options one = options_of("tiny-moe", t ? "q4_k" : "f16");
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
    const struct lode_synth_options options = options_of("tiny-e2b", "q4_0");
    struct lode_error error = {0};
    int calls = 0;
    cr_expect_eq(lode_synth_write(path_of("a.gguf"), &options, stop_at_once, &calls, &error),
                 LODE_ERR_CANCELLED);
    cr_expect_eq(calls, 1);
    cr_expect_eq(count_files(), 0);
}

Test(synth, a_full_disk_is_told_before_the_weights_and_nothing_is_left)
{
    const struct lode_synth_options options = options_of("tiny-e2b", "f32");
    struct lode_error error = {0};
    limit_file_size(1u << 20);
    int rc = lode_synth_write(path_of("a.gguf"), &options, NULL, NULL, &error);
    cr_expect_eq(rc, LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, "a.gguf"), "%s", error.text);
    cr_expect_not_null(strstr(error.text, "bytes are still to be written"), "%s", error.text);
    cr_expect_eq(count_files(), 0);
}

Test(synth, a_device_that_takes_nothing_fails_and_stays)
{
    if (access("/dev/full", W_OK) != 0)
        cr_skip_test("there is no /dev/full");
    const struct lode_synth_options options = options_of("tiny-e2b", "q4_0");
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
    const char *path = path_of("model.gguf");
    for (size_t s = 0; s < sizeof tiny_shapes / sizeof *tiny_shapes; s++) {
        struct lode_synth_options options = options_of(tiny_shapes[s], "q4_0");
        options.skew = (float)s;
        write_model(path, &options);
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
