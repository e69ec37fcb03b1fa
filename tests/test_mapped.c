// Mapped weights: where the parts lie, what can be read behind a file, what goes wrong; and an engine on
// them, which must say the same as one that reads.
#include "placement/mapped.h"

#include "backends/backend.h"
#include "profiles/host_memory.h"
#include "tests/demo.h"
#include "tests/synth_files.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(mapped, .init = synth_make_directory, .fini = synth_remove_directory);

enum { PAGE = 4096, TOKENS = 24 };

static unsigned char content_at(uint64_t offset)
{
    return (unsigned char)(1 + offset % 251);
}

static void write_file(const char *path, uint64_t bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file);
    for (uint64_t i = 0; i < bytes; i++)
        fputc(content_at(i), file);
    cr_assert_eq(fclose(file), 0);
}

static struct mapped *map_one(const char *path)
{
    struct mapped *mapped;
    struct lode_error error = {0};
    cr_assert_eq(mapped_open(&mapped, &path, 1, &error), 0, "%s", error.text);
    return mapped;
}

static void add_unit(struct unit_table *table, uint32_t file, uint64_t offset, uint64_t bytes)
{
    struct lode_error error = {0};
    cr_assert_eq(unit_table_add(table, UNIT_DENSE, 0, 0, 0, &error), 0);
    cr_assert_eq(unit_table_add_part(table, (struct extent){file, offset, bytes}, &error), 0);
}

// ---- places
// --------------------------------------------------------------------------------------------------

Test(mapped, parts_lie_where_the_file_has_them_and_a_device_may_read_beyond_the_last)
{
    // A file that ends with its page has nothing of its own behind it.
    static const uint64_t sizes[] = {PAGE, 3 * PAGE, 3 * PAGE - 1, PAGE + 1, 77};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const char *path = synth_path_of("bytes");
        write_file(path, sizes[s]);
        struct mapped *mapped = map_one(path);
        struct unit_table table = {0};
        add_unit(&table, 0, 0, 32);
        add_unit(&table, 0, sizes[s] - 13, 13);
        void *parts[2];
        struct homes homes;
        struct lode_error error = {0};
        cr_assert_eq(mapped_bytes(mapped), sizes[s]);
        cr_assert_eq(mapped_place(&homes, parts, mapped, &table, &error), 0, "%s", error.text);
        cr_assert_eq(mapped_load(mapped, NULL, NULL, &error), 0, "%s", error.text);
        for (uint32_t u = 0; u < 2; u++) {
            const struct extent *part = &table.parts[u];
            cr_expect_eq(homes.home[u], HOME_PINNED);
            for (uint64_t i = 0; i < part->bytes; i++)
                cr_assert_eq(((unsigned char *)parts[u])[i], content_at(part->offset + i));
        }
        unsigned beyond = 0;
        for (int i = 0; i < LODE_DEVICE_SLACK; i++)
            beyond += ((volatile unsigned char *)parts[1])[13 + i];
        cr_expect_eq(beyond, 0, "what lies behind %lu bytes is zeros", (unsigned long)sizes[s]);
        cr_expect_eq(homes.pinned_bytes + homes.pool_bytes + homes.ring_bytes + homes.rows_bytes, 0,
                     "memory is counted that is not this process's");
        homes_free(&homes);
        unit_table_free(&table);
        mapped_close(mapped);
    }
}

Test(mapped, a_part_beyond_its_file_is_refused)
{
    const char *path = synth_path_of("short");
    write_file(path, PAGE);
    struct mapped *mapped = map_one(path);
    static const struct extent wrong[] = {{0, PAGE - 8, 9}, {0, PAGE + 1, 1}, {1, 0, 8}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct unit_table table = {0};
        void *parts[1];
        struct homes homes;
        struct lode_error error = {0};
        add_unit(&table, wrong[i].file, wrong[i].offset, wrong[i].bytes);
        cr_expect_eq(mapped_place(&homes, parts, mapped, &table, &error), LODE_ERR_FORMAT);
        cr_expect(strstr(error.text, "incomplete"), "%s", error.text);
        cr_expect_null(homes.home);
        unit_table_free(&table);
    }
    mapped_close(mapped);
}

Test(mapped, what_cannot_be_mapped_is_told_with_its_name)
{
    struct mapped *mapped;
    struct lode_error error = {0};
    const char *paths[2] = {synth_path_of("there"), "/nowhere/absent"};
    write_file(paths[0], 10);
    cr_expect_eq(mapped_open(&mapped, paths, 2, &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, "/nowhere/absent") && strstr(error.text, "No such file"), "%s", error.text);
    cr_expect_null(mapped);
    write_file(paths[0], 0);
    cr_expect_eq(mapped_open(&mapped, paths, 1, &error), LODE_ERR_IO);
    cr_expect(strstr(error.text, "empty"), "%s", error.text);
    paths[0] = synth_directory();
    cr_expect_eq(mapped_open(&mapped, paths, 1, &error), LODE_ERR_IO);
    cr_expect_null(mapped);
}

static bool stop_at_once(void *user, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    ++*(int *)user;
    return false;
}

Test(mapped, loading_can_be_cancelled)
{
    const char *path = synth_path_of("some");
    int calls = 0;
    struct lode_error error = {0};
    write_file(path, PAGE);
    struct mapped *mapped = map_one(path);
    cr_expect_eq(mapped_load(mapped, stop_at_once, &calls, &error), LODE_ERR_CANCELLED);
    cr_expect_eq(calls, 1);
    mapped_close(mapped);
}

// ---- an engine
// -----------------------------------------------------------------------------------------------

struct tokens {
    int32_t ids[TOKENS];
    size_t n;
};

static bool collect(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    struct tokens *to = user;
    (void)part, (void)text, (void)len;
    if (id >= 0 && to->n < TOKENS)
        to->ids[to->n++] = id;
    return true;
}

static void run(struct tokens *out, struct lode_offload_stats *offload, const char *model, const char *io)
{
    static const int32_t prompt[] = {2, 40, 17, 93, 5, 61, 33, 12, 70, 28};
    struct lode_engine_options options = lode_engine_options_default();
    struct lode_session_options session_options = {.context = 128, .batch = 4};
    struct lode_engine *engine;
    struct lode_session *session;
    struct lode_error error = {0};
    options.threads = 2;
    options.io = io;
    cr_assert_eq(lode_engine_open(&engine, model, &options, &error), 0, "%s", error.text);
    cr_assert_eq(lode_session_open(&session, engine, &session_options, &error), 0, "%s", error.text);
    const size_t n = sizeof prompt / sizeof *prompt;
    cr_assert_eq(lode_session_feed(session, prompt, n, NULL, NULL, &error), 0, "%s", error.text);
    struct lode_generate_options generate = lode_generate_options_default();
    generate.sampling.temperature = 0;
    generate.max_tokens = TOKENS;
    generate.ignore_end = true;
    generate.on_token = collect;
    generate.user = out;
    enum lode_stop stop;
    out->n = 0;
    cr_assert_eq(lode_session_generate(session, &generate, &stop, &error), 0, "%s", error.text);
    lode_session_offload(session, offload);
    lode_session_close(session);
    lode_engine_close(engine);
}

// A mixture of experts, a dense model, and one with a table of rows, which is mapped like all else. Types
// that are interleaved in memory and types that are not.
Test(mapped, an_engine_says_the_same_as_one_that_reads)
{
    static const char *const models[][2] = {{"tiny-moe", "q4_0"}, {"tiny-moe", "f32"},  {"tiny-31b", "q4_0"},
                                            {"tiny-e2b", "q4_0"}, {"tiny-e2b", "q6_k"}, {"tiny-31b", "q8_0"}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const struct lode_synth_options options = synth_options_of(models[i][0], models[i][1]);
        const char *path = synth_path_of("model.gguf");
        synth_write_model(path, &options);
        struct tokens read, mapped;
        struct lode_offload_stats of_read, of_mapped;
        run(&read, &of_read, path, NULL);
        run(&mapped, &of_mapped, path, "mmap");
        cr_assert_eq(read.n, TOKENS);
        cr_expect_eq(mapped.n, TOKENS);
        cr_expect_arr_eq(read.ids, mapped.ids, sizeof read.ids, "%s %s", models[i][0], models[i][1]);
        cr_expect_str_eq(of_mapped.io, "mmap");
        cr_expect_eq(of_mapped.load_bytes, 0, "weights were read");
        cr_expect_eq(of_mapped.pinned_bytes, 0, "weights were copied");
        cr_expect_gt(of_read.load_bytes, 0);
    }
}

static int try_open(const struct lode_engine_options *options, struct lode_error *error)
{
    const char *path = synth_path_of("one.gguf");
    const struct lode_synth_options synth = synth_options_of("tiny-moe", "q4_0");
    struct lode_engine *engine = NULL;
    synth_write_model(path, &synth);
    const int code = lode_engine_open(&engine, path, options, error);
    lode_engine_close(engine);
    return code;
}

Test(mapped, a_ceiling_that_nothing_binds_is_refused)
{
    struct lode_engine_options options = lode_engine_options_default();
    struct lode_error error = {0};
    struct host_memory memory;
    options.io = "mmap";
    options.ram_bytes = (uint64_t)256 << 20;
    cr_assert_eq(host_memory_read(&memory, "/", &error), 0, "%s", error.text);
    if (memory.limit_bytes <= options.ram_bytes)
        cr_skip("this process has a control group of %lu MiB", (unsigned long)(memory.limit_bytes >> 20));
    cr_expect_eq(try_open(&options, &error), LODE_ERR_UNSUPPORTED);
    cr_expect(strstr(error.text, "control group") && strstr(error.text, "MemoryMax=268435456"), "%s",
              error.text);
}

Test(mapped, a_mirror_is_refused)
{
    struct lode_engine_options options = lode_engine_options_default();
    struct lode_error error = {0};
    options.io = "mmap";
    options.mirror = "copy.gguf";
    cr_expect_eq(try_open(&options, &error), LODE_ERR_ARGUMENT);
    cr_expect(strstr(error.text, "mirror"), "%s", error.text);
}
