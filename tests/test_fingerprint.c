// Fingerprints: what changes them and what does not.
#include "core/fingerprint.h"
#include "core/lode.h"
#include "tests/gguf_writer.h"
#include "tests/test_data.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TENSORS = 6, ROWS = 512, COLUMNS = 128, TENSOR_BYTES = 4 * ROWS * COLUMNS };

static char folder[TEST_FOLDER_SIZE];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(fingerprint, .init = make_folder, .fini = remove_folder);

// What a model differs in from the plain one.
struct variant {
    const char *first_name;
    uint32_t width;
    bool tall; // the first tensor's dimensions are swapped
    const char *token;
    uint32_t changed_tensor, changed_byte; // changed_byte 0: none
};

static struct gguf_writer *write_model(const struct variant *variant)
{
    static uint8_t data[TENSOR_BYTES];
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_string(writer, "general.architecture", "gemma4");
    gguf_writer_string(writer, "general.name", variant->token);
    gguf_writer_u32(writer, "gemma4.width", variant->width);
    gguf_writer_f32(writer, "gemma4.epsilon", 1e-6f);
    gguf_writer_string(writer, "gemma4.note", "text");
    gguf_writer_array(writer, "gemma4.list", GGUF_U32, 2, (uint32_t[]){variant->width, 7});
    gguf_writer_u32(writer, "gemma4x.width", (uint32_t)strlen(variant->token));
    gguf_writer_strings(writer, "tokenizer.tokens", 1, &variant->token);
    for (uint32_t t = 0; t < TENSORS; t++) {
        char name[32];
        snprintf(name, sizeof name, "tensor.%u", t);
        for (uint32_t i = 0; i < TENSOR_BYTES; i++)
            data[i] = (uint8_t)(i * 31 + t);
        if (variant->changed_byte && variant->changed_tensor == t)
            data[variant->changed_byte] ^= 1;
        uint64_t ne[2] = {ROWS, COLUMNS};
        if (t == 0 && variant->tall)
            ne[0] = COLUMNS, ne[1] = ROWS;
        gguf_writer_tensor(writer, t ? name : variant->first_name, LODE_F32, 2, ne, data, sizeof data);
    }
    return writer;
}

static int fingerprint_of(const char *path, uint64_t *out, struct lode_error *error)
{
    struct gguf *gguf;
    cr_assert_eq(gguf_open(&gguf, path, error), 0, "%s", error->text);
    int rc = fingerprint_model(out, gguf, error);
    gguf_close(gguf);
    return rc;
}

static uint64_t fingerprint(const char *path)
{
    uint64_t value = 0;
    struct lode_error error = {0};
    cr_assert_eq(fingerprint_of(path, &value, &error), 0, "%s", error.text);
    return value;
}

static uint64_t fingerprint_variant(struct variant variant)
{
    char path[128];
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    struct gguf_writer *writer = write_model(&variant);
    cr_assert(gguf_writer_save(writer, path));
    gguf_writer_free(writer);
    return fingerprint(path);
}

static const struct variant plain = {.first_name = "first", .width = 5, .token = "a"};

Test(fingerprint, is_the_same_under_any_name_and_in_any_number_of_parts)
{
    const uint64_t whole = fingerprint_variant(plain);
    struct gguf_writer *writer = write_model(&plain);
    for (uint16_t n_parts = 2; n_parts <= 4; n_parts++) {
        char prefix[128], first[160];
        snprintf(prefix, sizeof prefix, "%s/other", folder);
        cr_assert(gguf_writer_save_split(writer, prefix, n_parts));
        gguf_writer_part_path(first, sizeof first, prefix, 0, n_parts);
        cr_assert_eq(fingerprint(first), whole, "%u parts", n_parts);
    }
    gguf_writer_free(writer);
}

Test(fingerprint, changes_with_hyperparameters_names_shapes_and_weights)
{
    const uint64_t before = fingerprint_variant(plain);
    struct variant variant = plain;
    variant.width = 6;
    cr_assert_neq(fingerprint_variant(variant), before, "a hyperparameter");
    variant = plain;
    variant.first_name = "fierst";
    cr_assert_neq(fingerprint_variant(variant), before, "a name");
    variant = plain;
    variant.tall = true;
    cr_assert_neq(fingerprint_variant(variant), before, "a shape");
    variant = plain;
    variant.changed_byte = 1;
    cr_assert_neq(fingerprint_variant(variant), before, "the first bytes");
    variant.changed_tensor = TENSORS - 1;
    variant.changed_byte = TENSOR_BYTES - 1;
    cr_assert_neq(fingerprint_variant(variant), before, "the last byte");
}

Test(fingerprint, does_not_change_with_what_is_no_part_of_the_weights)
{
    struct variant variant = plain;
    variant.token = "another vocabulary and name";
    cr_assert_eq(fingerprint_variant(variant), fingerprint_variant(plain));
}

Test(fingerprint, sees_samples_all_over_the_data)
{
    const uint64_t before = fingerprint_variant(plain);
    uint32_t n_seen = 0, n_changed = 0;
    for (uint32_t t = 0; t < TENSORS; t++)
        for (uint32_t byte = 1000; byte < TENSOR_BYTES; byte += TENSOR_BYTES / 8) {
            struct variant variant = plain;
            variant.changed_tensor = t;
            variant.changed_byte = byte;
            n_seen += fingerprint_variant(variant) != before;
            n_changed++;
        }
    // 64 samples of 4 KiB in 1.5 MiB see one byte in six.
    cr_assert(n_seen >= n_changed / 24 && n_seen <= n_changed / 2, "%u of %u", n_seen, n_changed);
}

Test(fingerprint, fails_for_a_file_that_is_gone_or_has_become_shorter)
{
    char path[128];
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    (void)fingerprint_variant(plain);
    struct gguf *gguf;
    struct lode_error error = {0};
    uint64_t value = 42;
    cr_assert_eq(gguf_open(&gguf, path, &error), 0);
    cr_assert_eq(truncate(path, 1 << 20), 0);
    cr_assert_eq(fingerprint_model(&value, gguf, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, path) && strstr(error.text, "shorter"), "%s", error.text);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(fingerprint_model(&value, gguf, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "No such file"), "%s", error.text);
    cr_assert_eq(value, 42);
    gguf_close(gguf);
}

Test(fingerprint, of_a_file_without_tensors_is_one_too)
{
    char path[128];
    snprintf(path, sizeof path, "%s/empty.gguf", folder);
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_u32(writer, "some.key", 1);
    cr_assert(gguf_writer_save(writer, path));
    gguf_writer_free(writer);
    (void)fingerprint(path);
}

Test(fingerprint, of_the_demo_model_through_the_public_interface)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_file *file;
    struct lode_error error = {0};
    uint64_t value = 0;
    cr_assert_eq(lode_file_open(&file, path, &error), 0, "%s", error.text);
    cr_assert_eq(lode_file_fingerprint(file, &value, &error), 0, "%s", error.text);
    cr_assert_eq(value, fingerprint(path));
    lode_file_close(file);
}
