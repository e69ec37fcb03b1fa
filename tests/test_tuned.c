// What `lode tune` has stored, how it is read and filled in, and that the options it tunes act.
#include "placement/homes.h"
#include "profiles/utc_time.h"
#include "tests/placement_world.h"
#include "tests/test_folder.h"
#include "tools/model.h"
#include "tools/tune_file.h"
#include "tools/tuned.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEMO LODE_SOURCE_ROOT "/models/tiny-moe-q4_0.gguf"

static char folder[TEST_FOLDER_SIZE];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
    setenv("XDG_CONFIG_HOME", folder, 1);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(tuned_files, .init = make_folder, .fini = remove_folder);

static void write_text(const char *file, const char *text)
{
    FILE *stream = fopen(file, "w");
    cr_assert(stream);
    fputs(text, stream);
    fclose(stream);
}

// Whatever this machine has.
#define NO_GPUS .gpus = {.found = true}

// What tuned files are of: the demo model under the ceiling of some_settings, and without one.
static const struct model_options ceiling = {.path = DEMO, .ram_bytes = 8ull << 30, NO_GPUS},
                                  plain = {.path = DEMO, NO_GPUS};

// ---- what is stored
// ------------------------------------------------------------------------------------------

static struct tuned some_settings(void)
{
    struct tuned tuned = {.ram_bytes = 8ull << 30,
                          .threads = 2,
                          .batch = 1024,
                          .queue_depth = 32,
                          .ring_bytes = 64 << 20,
                          .no_prefetch = true,
                          .policy = "lfu",
                          .decode_gain = 1.08,
                          .prefill_gain = 0.99};
    utc_time_now(tuned.made);
    return tuned;
}

Test(tuned_files, settings_come_back_for_this_model_and_ceiling_only)
{
    const struct tuned written = some_settings();
    struct tuned read;
    struct lode_error error = {0};
    bool found = true;
    cr_assert_eq(tuned_read(&read, &found, &ceiling, &error), 0, "%s", error.text);
    cr_assert_not(found);
    cr_assert_eq(tuned_write(&written, &ceiling, &error), 0, "%s", error.text);
    cr_assert_eq(tuned_read(&read, &found, &ceiling, &error), 0, "%s", error.text);
    cr_assert(found);
    cr_assert_str_eq(read.made, written.made);
    cr_assert_str_eq(read.policy, "lfu");
    cr_assert(read.threads == 2 && read.batch == 1024 && read.queue_depth == 32 && read.no_prefetch);
    cr_assert(read.ring_bytes == written.ring_bytes && read.prefetch_ranks == 0);
    cr_assert_float_eq(read.decode_gain, 1.08, 1e-9);

    char place[TUNED_PATH_SIZE];
    struct stat status;
    cr_assert_eq(tuned_path(place, &ceiling, ".json", &error), 0);
    cr_assert(strncmp(place, folder, strlen(folder)) == 0 && strstr(place, "/lode/tuned/"));
    cr_assert_eq(stat(place, &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0600);
    cr_assert_eq(tuned_read(&read, &found, &plain, &error), 0);
    cr_assert_not(found);
    const struct model_options absent = {.path = folder};
    cr_assert_neq(tuned_read(&read, &found, &absent, &error), 0); // no model

    bool removed;
    cr_assert_eq(tuned_remove(&removed, &ceiling, &error), 0);
    cr_assert(removed);
    cr_assert_eq(tuned_remove(&removed, &ceiling, &error), 0);
    cr_assert_not(removed);
}

static struct model_options with_gpus(uint64_t vram_bytes, int placement, const char *card)
{
    struct model_options options = ceiling;
    options.gpus =
        (struct model_gpus){.found = true, .n = 2, .vram_bytes = vram_bytes, .placement = placement};
    snprintf(options.gpus.info[0].name, sizeof options.gpus.info[0].name, "cuda0");
    snprintf(options.gpus.info[0].description, sizeof options.gpus.info[0].description, "%s", card);
    snprintf(options.gpus.info[1].name, sizeof options.gpus.info[1].name, "hip0");
    snprintf(options.gpus.info[1].description, sizeof options.gpus.info[1].description, "AMD Radeon™");
    return options;
}

Test(tuned_files, settings_are_of_the_gpus_their_ceiling_and_the_placement)
{
    const struct tuned written = some_settings();
    const struct model_options gpus = with_gpus(4ull << 30, MODEL_PLACEMENT_BY_LAYER, "Card A");
    struct tuned read;
    struct lode_error error = {0};
    bool found;
    cr_assert_eq(tuned_write(&written, &gpus, &error), 0, "%s", error.text);
    cr_assert_eq(tuned_read(&read, &found, &gpus, &error), 0, "%s", error.text);
    cr_assert(found);
    cr_assert_str_eq(read.devices, "cuda0 Card A, hip0 AMD Radeon???");
    cr_assert(read.vram_bytes == 4ull << 30 && read.by_layer && read.threads == 2);
    const struct model_options others[] = {
        ceiling,
        with_gpus(0, MODEL_PLACEMENT_BY_LAYER, "Card A"),
        with_gpus(4ull << 30, MODEL_PLACEMENT_AUTO, "Card A"),
        with_gpus(4ull << 30, MODEL_PLACEMENT_BY_LAYER, "Card B"),
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        cr_assert_eq(tuned_read(&read, &found, &others[i], &error), 0, "%s", error.text);
        cr_expect_not(found, "others[%zu]", i);
        struct model_options options = others[i];
        tuned_apply(&options, "test");
        cr_expect_eq(options.threads, 0);
    }
    struct model_options same = gpus;
    tuned_apply(&same, "test");
    cr_expect_eq(same.threads, 2);

    // A file that was given another name is not believed.
    char from[TUNED_PATH_SIZE], to[TUNED_PATH_SIZE];
    cr_assert_eq(tuned_path(from, &gpus, ".json", &error), 0);
    cr_assert_eq(tuned_path(to, &others[3], ".json", &error), 0);
    cr_assert_eq(rename(from, to), 0);
    cr_expect_neq(tuned_read(&read, &found, &others[3], &error), 0);
    cr_expect(strstr(error.text, "other GPUs"), "%s", error.text);
    cr_assert_eq(tuned_path(from, &ceiling, ".json", &error), 0);
    cr_assert_eq(rename(to, from), 0);
    cr_expect_neq(tuned_read(&read, &found, &ceiling, &error), 0);
    cr_expect(strstr(error.text, "devices"), "%s", error.text);
}

// A stored file with one line changed: the error names file and field.
static void expect_refused(const char *key, const char *line, const char *named)
{
    const struct tuned written = some_settings();
    char place[TUNED_PATH_SIZE], text[4096] = "", row[512];
    struct lode_error error = {0};
    cr_assert_eq(tuned_write(&written, &ceiling, &error), 0);
    cr_assert_eq(tuned_path(place, &ceiling, ".json", &error), 0);
    FILE *stream = fopen(place, "r");
    bool changed = false;
    while (fgets(row, sizeof row, stream)) {
        const bool is_it = strstr(row, key) != NULL;
        const bool last = is_it && !strchr(row, ',');
        strcat(text, is_it ? line : row);
        if (is_it && line[0])
            strcat(text, last ? "\n" : ",\n");
        changed = changed || is_it;
    }
    fclose(stream);
    cr_assert(changed, "%s", key);
    write_text(place, text);
    struct tuned read;
    bool found;
    cr_assert_neq(tuned_read(&read, &found, &ceiling, &error), 0, "%s", line);
    cr_expect(strstr(error.text, named), "%s: %s", line, error.text);
    cr_expect(strstr(error.text, "/lode/tuned/"), "%s: %s", line, error.text);
    cr_expect_not(found);
}

Test(tuned_files, absurd_settings_are_errors_that_name_the_field)
{
    static const char *const cases[][3] = {
        {"\"threads\"", "\"threads\": -1", "threads"},
        {"\"threads\"", "\"threads\": 1025", "threads"},
        {"\"threads\"", "\"threads\": 2.0", "threads"},
        {"\"threads\"", "\"threads\": \"2\"", "threads"},
        {"\"threads\"", "\"threads\": 99999999999999999999", "line"},
        {"\"threads\"", "", "threads"},
        {"\"threads\"", "\"threads\": 2, \"threads\": 3", "line"},
        {"\"threads\"", "\"threads\": 2, \"speed\": 3", "speed"},
        {"\"batch\"", "\"batch\": 65537", "batch"},
        {"\"queue_depth\"", "\"queue_depth\": 257", "queue_depth"},
        {"\"prefetch_ranks\"", "\"prefetch_ranks\": 4097", "prefetch_ranks"},
        {"\"prefetch_ranks\"", "\"prefetch_ranks\": 8", "prefetch_ranks"}, // with no_prefetch
        {"\"ring_bytes\"", "\"ring_bytes\": 9000000000000000000", "ring_bytes"},
        {"\"no_prefetch\"", "\"no_prefetch\": 1", "no_prefetch"},
        {"\"policy\"", "\"policy\": \"best\"", "policy"},
        {"\"policy\"", "\"policy\": \"\\u001b[2J\"", "policy"},
        {"\"policy\"", "\"policy\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "policy"},
        {"\"policy\"", "\"policy\": null", "policy"},
        {"\"decode_gain\"", "\"decode_gain\": 0", "decode_gain"},
        {"\"decode_gain\"", "\"decode_gain\": 1e300", "decode_gain"},
        {"\"prefill_gain\"", "\"prefill_gain\": \"fast\"", "prefill_gain"},
        {"\"made\"", "\"made\": \"yesterday\"", "made"},
        {"\"ram_bytes\"", "\"ram_bytes\": 1", "ram_bytes"},
        {"\"version\"", "\"version\": 2", "version"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_refused(cases[i][0], cases[i][1], cases[i][2]);
}

Test(tuned_files, what_is_no_file_of_settings_neither_hangs_nor_crashes)
{
    char place[TUNED_PATH_SIZE], command[3 * TUNED_PATH_SIZE];
    struct lode_error error = {0};
    struct tuned read;
    bool found;
    cr_assert_eq(tuned_path(place, &plain, ".json", &error), 0);
    static const char *const makes[] = {
        "mkdir -p %s",
        "mkfifo %s",
        "printf '' > %s",
        "printf '\\0\\0\\0' > %s",
        "printf '[' > %s",
        "head -c 3000000 /dev/zero > %s",
        "head -c 100000 /dev/zero | tr '\\0' '[' > %s",
        "ln -s /dev/zero %s",
    };
    for (size_t i = 0; i < sizeof makes / sizeof *makes; i++) {
        snprintf(command, sizeof command, "rm -rf %s; mkdir -p $(dirname %s)", place, place);
        cr_assert_eq(system(command), 0);
        snprintf(command, sizeof command, makes[i], place);
        cr_assert_eq(system(command), 0);
        cr_expect_neq(tuned_read(&read, &found, &plain, &error), 0, "%s", makes[i]);
        cr_expect_not(found);
    }
}

Test(tuned_files, the_command_line_comes_before_what_was_tuned)
{
    const struct tuned written = some_settings();
    struct lode_error error = {0};
    cr_assert_eq(tuned_write(&written, &ceiling, &error), 0, "%s", error.text);

    struct model_options options = ceiling;
    tuned_apply(&options, "test");
    cr_assert(options.threads == 2 && options.batch == 1024 && options.queue_depth == 32);
    cr_assert(options.no_prefetch && options.ring_bytes == written.ring_bytes && options.batch_is_tuned);
    cr_assert_str_eq(options.policy, "lfu");

    options = (struct model_options){.path = DEMO,
                                     .ram_bytes = written.ram_bytes,
                                     NO_GPUS,
                                     .threads = 1,
                                     .batch = 64,
                                     .queue_depth = 4,
                                     .prefetch_ranks = 3,
                                     .ring_bytes = 1 << 20,
                                     .policy = "heat"};
    tuned_apply(&options, "test");
    cr_assert(options.threads == 1 && options.batch == 64 && options.queue_depth == 4);
    cr_assert(options.prefetch_ranks == 3 && !options.no_prefetch && options.ring_bytes == 1 << 20);
    cr_assert(!options.batch_is_tuned);
    cr_assert_str_eq(options.policy, "heat");

    const struct model_options untouched[] = {
        {.path = DEMO, NO_GPUS},                                              // another ceiling
        {.path = DEMO, .ram_bytes = written.ram_bytes, NO_GPUS, .cold = true} // without what is known
    };
    for (size_t i = 0; i < sizeof untouched / sizeof *untouched; i++) {
        options = untouched[i];
        tuned_apply(&options, "test");
        cr_assert(!options.threads && !options.batch && !options.policy && !options.no_prefetch);
    }
}

// ---- options of the engine
// -----------------------------------------------------------------------------------

Test(tuned, an_engine_refuses_options_out_of_range)
{
    static const struct {
        struct lode_engine_options options;
        const char *named;
    } cases[] = {
        {{.queue_depth = 257}, "257"},
        {{.prefetch_ranks = 100000}, "100000"},
        {{.prefetch_ranks = 2, .no_prefetch = true}, "contradict"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lode_engine *engine;
        struct lode_error error = {0};
        cr_assert_neq(lode_engine_open(&engine, DEMO, &cases[i].options, &error), 0, "case %zu", i);
        cr_expect(strstr(error.text, cases[i].named), "case %zu: %s", i, error.text);
        cr_expect_null(engine);
    }
}

Test(tuned, a_decode_pass_guesses_as_many_ranks_as_are_asked_for)
{
    struct world w;
    world_set_up(&w, true);
    world_add_experts(&w);
    world_open_file(&w, NULL, 0);
    w.options.used_per_layer = 4;
    w.options.prefetch_ranks = 9;
    world_open(&w, homes_floor_bytes(&w.table, true));
    residency_pass_begin(w.residency, 1, NULL, NULL);
    cr_expect_eq(residency_guess_ranks(w.residency), 9);
    residency_pass_end(w.residency, true);
    residency_pass_begin(w.residency, 2, NULL, NULL);
    cr_expect_eq(residency_guess_ranks(w.residency), 4);
    residency_pass_end(w.residency, true);
    world_tear_down(&w);
}

Test(tuned, a_ring_is_as_large_as_is_asked_for_and_delivers)
{
    for (uint64_t pages = 0; pages <= 24; pages += 8) {
        struct world w;
        world_set_up(&w, true);
        for (uint32_t u = 0; u < 24; u++) { // of two pages each
            world_add_unit(&w, UNIT_DENSE, u, 0);
            world_add_part(&w, w.end, 2 * IO_ALIGN_BYTES);
        }
        world_open_file(&w, NULL, 0);
        w.options.ring_bytes = pages * IO_ALIGN_BYTES;
        const uint64_t least = homes_floor_bytes(&w.table, true);
        world_open(&w, least + 10 * IO_ALIGN_BYTES);
        const struct residency_figures figures = world_figures(&w);
        const uint64_t most = least + 10 * IO_ALIGN_BYTES, asked = pages * IO_ALIGN_BYTES;
        cr_expect_eq(figures.ring_bytes,
                     asked < least  ? least
                     : asked > most ? most
                                    : asked,
                     "%d pages", (int)pages);
        cr_expect_leq(figures.ring_bytes + figures.pinned_bytes, most);
        for (int pass = 0; pass < 3; pass++) {
            residency_pass_begin(w.residency, 1, NULL, NULL);
            for (uint32_t u = 0; u < 24; u++) {
                cr_assert_eq(residency_acquire(w.residency, &u, 1, &w.error), 0, "%s", w.error.text);
                world_check_unit(&w, u);
                residency_release(w.residency, &u, 1);
            }
            residency_pass_end(w.residency, true);
        }
        world_tear_down(&w);
    }
}
