// Models that are split over several files: joined, refused when the parts do not fit, and the writer's own
// split.
#include "tests/gguf_writer.h"
#include "tests/test_data.h"
#include "tests/test_folder.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PATH 4096

static struct gguf *open_path(const char *path)
{
    struct gguf *gguf;
    struct lode_error error = {0};
    int code = gguf_open(&gguf, path, &error);
    cr_assert_eq(code, 0, "%s", error.text);
    return gguf;
}

static char split_folder[TEST_FOLDER_SIZE];

static void start_split(void)
{
    test_folder_make(split_folder, NULL);
}

static void end_split(void)
{
    test_folder_remove(split_folder);
}

static const char *split_path(const char *name)
{
    static char path[2 * MAX_PATH];
    snprintf(path, sizeof path, "%s/%s", split_folder, name);
    return path;
}

static void write_part(uint16_t part, uint16_t n_parts, int32_t n_tensors, const char *tensor,
                       const char *name)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_split(writer, part, n_parts, n_tensors);
    gguf_writer_tensor(writer, tensor, LODE_F32, 1, (uint64_t[]){1}, NULL, 4);
    cr_assert(gguf_writer_save(writer, split_path(name)));
    gguf_writer_free(writer);
}

static void expect_refusal(const char *name, int expected, const char *text)
{
    struct gguf *gguf;
    struct lode_error error = {0};
    int code = gguf_open(&gguf, split_path(name), &error);
    cr_assert_eq(code, expected, "%d: %s", code, error.text);
    cr_assert_null(gguf);
    cr_assert_eq(error.code, expected);
    cr_assert(strstr(error.text, text), "\"%s\" is not in: %s", text, error.text);
}

static void expect_float(const struct gguf *gguf, const char *name, uint32_t file, float expected)
{
    const struct gguf_tensor *tensor = gguf_tensor_find(gguf, name);
    cr_assert(tensor);
    cr_assert_eq(tensor->file, file);
    FILE *stream = fopen(gguf_file_path(gguf, file), "rb");
    cr_assert(stream && fseek(stream, (long)tensor->offset_bytes, SEEK_SET) == 0);
    float value;
    cr_assert_eq(fread(&value, sizeof value, 1, stream), 1);
    cr_assert_eq(value, expected);
    fclose(stream);
}

TestSuite(gguf_split, .init = start_split, .fini = end_split);

Test(gguf_split, joins_the_parts)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_string(writer, "general.architecture", "gemma4");
    gguf_writer_alignment(writer, 64); // of the first part alone
    for (int i = 0; i < 5; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", 4 - i);
        gguf_writer_tensor(writer, name, LODE_F32, 1, (uint64_t[]){1}, &(float){(float)(4 - i)}, 4);
    }
    cr_assert(gguf_writer_save_split(writer, split_path("m"), 3));
    gguf_writer_free(writer);
    struct gguf *gguf = open_path(split_path("m-00001-of-00003.gguf"));
    cr_assert_eq(gguf_file_count(gguf), 3);
    cr_assert_eq(gguf_tensor_count(gguf), 5);
    cr_assert(strstr(gguf_file_path(gguf, 2), "/m-00003-of-00003.gguf"));
    cr_assert_gt(gguf_file_size_bytes(gguf, 2), 0);
    struct gguf_string architecture;
    cr_assert(gguf_value_string(gguf_find(gguf, "general.architecture"), 0, &architecture));
    cr_assert(architecture.len == 6 && memcmp(architecture.data, "gemma4", 6) == 0);
    const uint32_t files[] = {2, 2, 1, 1, 0}; // t4 | t3 t2 | t1 t0
    for (int i = 0; i < 5; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", 4 - i);
        cr_assert_str_eq(gguf_tensor_at(gguf, (size_t)i)->name, name);
        expect_float(gguf, name, files[4 - i], (float)(4 - i));
    }
    gguf_close(gguf);
}

Test(gguf_split, takes_parts_without_tensors)
{
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_tensor(writer, "a", LODE_F32, 1, (uint64_t[]){1}, &(float){3}, 4);
    cr_assert(gguf_writer_save_split(writer, split_path("m"), 3)); // it lies in the last part
    gguf_writer_free(writer);
    struct gguf *gguf = open_path(split_path("m-00001-of-00003.gguf"));
    cr_assert_eq(gguf_tensor_count(gguf), 1);
    expect_float(gguf, "a", 2, 3);
    gguf_close(gguf);
}

Test(gguf_split, takes_a_split_into_one_for_a_whole)
{
    write_part(0, 1, 1, "a", "any name.gguf");
    struct gguf *gguf = open_path(split_path("any name.gguf"));
    cr_assert_eq(gguf_file_count(gguf), 1);
    gguf_close(gguf);
    write_part(0, 0, 1, "a", "any name.gguf");
    gguf_close(open_path(split_path("any name.gguf")));
}

Test(gguf_split, names_the_first_part_when_given_another)
{
    write_part(1, 3, 3, "b", "m-00002-of-00003.gguf");
    expect_refusal("m-00002-of-00003.gguf", LODE_ERR_ARGUMENT, "part 2 of 3");
    expect_refusal("m-00002-of-00003.gguf", LODE_ERR_ARGUMENT, split_path("m-00001-of-00003.gguf"));
    write_part(1, 3, 3, "b", "renamed.gguf");
    expect_refusal("renamed.gguf", LODE_ERR_ARGUMENT, "ends in -00001-of-00003.gguf");
}

Test(gguf_split, names_a_missing_part)
{
    write_part(0, 2, 2, "a", "m-00001-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_IO, "m-00002-of-00002.gguf: cannot open: No such file");
}

Test(gguf_split, refuses_a_first_part_whose_siblings_it_cannot_name)
{
    write_part(0, 2, 2, "a", "renamed.gguf");
    expect_refusal("renamed.gguf", LODE_ERR_ARGUMENT, "does not end in -00001-of-00002.gguf");
    write_part(0, 2, 2, "a", "m-00001-of-00003.gguf");
    expect_refusal("m-00001-of-00003.gguf", LODE_ERR_ARGUMENT, "does not end in -00001-of-00002.gguf");
    write_part(0, 2, 2, "a", "m-00002-of-00002.gguf");
    expect_refusal("m-00002-of-00002.gguf", LODE_ERR_ARGUMENT, "does not end in -00001-of-00002.gguf");
    write_part(0, 2, 2, "a", "m-0000x-of-00002.gguf");
    expect_refusal("m-0000x-of-00002.gguf", LODE_ERR_ARGUMENT, "does not end in -00001-of-00002.gguf");
}

Test(gguf_split, refuses_a_first_part_with_a_very_short_name)
{
    write_part(0, 2, 2, "a", "m.gguf");
    cr_assert_eq(chdir(split_folder), 0);
    struct gguf *gguf;
    struct lode_error error = {0};
    cr_assert_eq(gguf_open(&gguf, "m.gguf", &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "m.gguf: the first of 2 parts"), "%s", error.text);
}

Test(gguf_split, refuses_parts_that_do_not_belong_together)
{
    write_part(0, 2, 2, "a", "m-00001-of-00002.gguf");
    write_part(0, 2, 2, "b", "m-00002-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT,
                   "m-00002-of-00002.gguf: says that it is part 1 of 2");
    write_part(1, 3, 2, "b", "m-00002-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT, "part 2 of 3, where part 2 of 2 is wanted");
    write_part(1, 2, 9, "b", "m-00002-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT,
                   "\"split.tensors.count\" is 9, in the first part 2");
    write_part(2, 2, 2, "b", "m-00002-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT, "m-00002-of-00002.gguf: \"split.no\" 2");
    write_part(1, 2, 2, "a", "m-00002-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT, "m-00002-of-00002.gguf: tensor \"a\", at byte");
}

Test(gguf_split, refuses_a_wrong_total_of_tensors)
{
    write_part(0, 2, 3, "a", "m-00001-of-00002.gguf");
    write_part(1, 2, 3, "b", "m-00002-of-00002.gguf");
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT,
                   "\"split.tensors.count\" is 3, but all parts hold 2");
}

Test(gguf_split, refuses_keys_that_cannot_be)
{
    write_part(2, 2, 1, "a", "m.gguf");
    expect_refusal("m.gguf", LODE_ERR_FORMAT, "\"split.no\" 2 and \"split.count\" 2");
    write_part(0, 1, -1, "a", "m.gguf");
    expect_refusal("m.gguf", LODE_ERR_FORMAT, "key \"split.tensors.count\", at byte 102: not a count");
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_u32(writer, "split.count", 100000);
    cr_assert(gguf_writer_save(writer, split_path("m.gguf")));
    gguf_writer_free(writer);
    expect_refusal("m.gguf", LODE_ERR_FORMAT, "\"split.count\" 100000");
}

Test(gguf_split, names_the_part_that_is_broken)
{
    write_part(0, 2, 2, "a", "m-00001-of-00002.gguf");
    struct gguf_writer *writer = gguf_writer_new(3);
    gguf_writer_split(writer, 1, 2, 2);
    gguf_writer_u32(writer, "twice", 1);
    gguf_writer_u32(writer, "twice", 1);
    cr_assert(gguf_writer_save(writer, split_path("m-00002-of-00002.gguf")));
    gguf_writer_free(writer);
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT, "m-00002-of-00002.gguf: key \"twice\", at byte");
    cr_assert_eq(truncate(split_path("m-00002-of-00002.gguf"), 100), 0);
    expect_refusal("m-00001-of-00002.gguf", LODE_ERR_FORMAT,
                   "m-00002-of-00002.gguf: key \"split.tensors.count\", at byte 98: 4 bytes");
}

// The writer's copy and split give the same model: same keys, same tensors, same bytes.
Test(gguf_split, gives_the_same_model_as_the_whole)
{
    char path[MAX_PATH];
    if (!test_data_find(path, sizeof path, "golden/m-26b-a4b-q4_0.gguf"))
        cr_skip_test("no golden models here");
    struct gguf *whole = open_path(path);
    struct gguf_writer *writer = gguf_writer_new(3);
    cr_assert(gguf_writer_copy(writer, whole, NULL));
    cr_assert(gguf_writer_save_split(writer, split_path("m"), 4));
    cr_assert(gguf_writer_save(writer, split_path("copy.gguf")));
    gguf_writer_free(writer);
    char command[4 * MAX_PATH];
    snprintf(command, sizeof command, "cmp '%s' '%s'", path, split_path("copy.gguf"));
    cr_assert_eq(system(command), 0, "a copy of the whole is the same file");
    struct gguf *parts = open_path(split_path("m-00001-of-00004.gguf"));
    cr_assert_eq(gguf_file_count(parts), 4);
    cr_assert_eq(gguf_tensor_count(parts), gguf_tensor_count(whole));
    for (size_t i = 0; i < gguf_tensor_count(whole); i++) {
        const struct gguf_tensor *a = gguf_tensor_at(whole, i), *b = gguf_tensor_at(parts, i);
        cr_assert_str_eq(a->name, b->name);
        cr_assert(a->type == b->type && a->size_bytes == b->size_bytes);
        cr_assert_eq(memcmp(a->ne, b->ne, sizeof a->ne), 0);
    }
    cr_assert_eq(gguf_tensor_at(parts, gguf_tensor_count(parts) - 1)->file, 3);
    gguf_close(whole);
    gguf_close(parts);
}
