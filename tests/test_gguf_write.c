// The streaming GGUF writer: what it writes against the project's own reader, and what stands in its way.
#include "tests/synth_files.h"

#include "core/gguf.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(gguf_write, .init = synth_make_directory, .fini = synth_remove_directory);

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
    const char *path = synth_path_of("small.gguf");
    struct gguf_write *file = synth_begin(path);
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
    char *bytes = synth_read_file(path, &read_bytes);
    cr_expect_eq(read_bytes, size_bytes);
    cr_expect_eq(nine->offset_bytes % 32, 0);
    cr_expect_eq(((float *)(bytes + nine->offset_bytes))[8], 12);
    cr_expect_eq(synth_count_files(), 1);
    free(bytes);
    gguf_close(gguf);
}

Test(gguf_write, counting_tells_the_size_that_writing_has)
{
    struct gguf_write *counted = synth_begin(NULL), *written = synth_begin(synth_path_of("a.gguf"));
    write_small(counted);
    write_small(written);
    cr_expect_eq(gguf_write_size_bytes(counted), gguf_write_size_bytes(written));
    cr_expect_eq(gguf_write_finish(counted, false, NULL), 0);
    cr_expect_eq(gguf_write_finish(written, false, NULL), 0);
}

Test(gguf_write, tensors_that_no_file_can_hold_are_refused)
{
    struct gguf_write *file = synth_begin(NULL);
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
    const char *path = synth_path_of("old.gguf");
    FILE *old = fopen(path, "w");
    fputs("old", old);
    fclose(old);
    struct gguf_write *file = synth_begin(path);
    write_small(file);
    cr_expect_eq(synth_count_files(), 2);
    gguf_write_abort(file);
    size_t size;
    char *bytes = synth_read_file(path, &size);
    cr_expect(size == 3 && memcmp(bytes, "old", 3) == 0);
    cr_expect_eq(synth_count_files(), 1);
    free(bytes);
}

Test(gguf_write, a_directory_and_a_place_that_is_not_there_are_refused)
{
    struct gguf_write *file;
    struct lode_error error = {0};
    cr_expect_eq(gguf_write_create(&file, synth_directory(), &error), LODE_ERR_ARGUMENT);
    cr_expect_not_null(strstr(error.text, synth_directory()), "%s", error.text);
    cr_expect_eq(gguf_write_create(&file, synth_path_of("no/such/file"), &error), LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, "no/such/file"), "%s", error.text);
}

Test(gguf_write, a_disk_that_fills_up_on_the_way_is_told_and_nothing_is_left)
{
    const uint64_t n = 8u << 20;
    struct gguf_write *file = synth_begin(synth_path_of("big.gguf"));
    struct lode_error error = {0};
    void *chunk = calloc(1, 1u << 20);
    cr_assert_eq(gguf_write_tensor(file, "a", LODE_F16, 1, &n, &error), 0);
    cr_assert_eq(gguf_write_begin_data(file, &error), 0, "%s", error.text);
    synth_limit_file_size(4u << 20);
    int rc = 0;
    for (int i = 0; i < 16 && !rc; i++)
        rc = gguf_write_data(file, chunk, 1u << 20, &error);
    cr_expect_eq(rc, LODE_ERR_IO);
    cr_expect_not_null(strstr(error.text, "big.gguf"), "%s", error.text);
    cr_expect_not_null(strstr(error.text, "bytes are still to be written"), "%s", error.text);
    gguf_write_abort(file);
    cr_expect_eq(synth_count_files(), 0);
    free(chunk);
}
