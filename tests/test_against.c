// Comparisons with baselines: which arms, whose turn, medians and ratios of pairs, the memory they had, what
// a child tells, where control groups are made; and where a result comes from.
#include "tools/against.h"
#include "tools/against_group.h"
#include "tools/options.h"

#include "tests/synth_files.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

TestSuite(against, .init = synth_make_directory, .fini = synth_remove_directory);

// ---- parsing
// -------------------------------------------------------------------------------------------------

static uint32_t parse_list(struct against_list *out, const char *text)
{
    char reason[256] = "";
    *out = (struct against_list){.n = 0};
    const bool good = against_list_parse(out, text, reason, sizeof reason);
    cr_expect(good || strstr(reason, "by-layer, static, lru or mmap"), "%s: %s", text, reason);
    return good ? out->n : 0;
}

Test(against, baselines_come_in_the_order_given_and_once)
{
    struct against_list list;
    cr_assert_eq(parse_list(&list, "mmap,by-layer,mmap,lru,static,lru"), 4);
    const enum against_arm wanted[] = {AGAINST_MMAP, AGAINST_BY_LAYER, AGAINST_LRU, AGAINST_STATIC};
    cr_expect_arr_eq(list.arms, wanted, sizeof wanted);
    cr_assert_eq(parse_list(&list, "static"), 1);
    cr_expect_str_eq(against_arm_name(list.arms[0]), "static");
}

Test(against, other_words_are_no_baselines)
{
    static const char *const wrong[] = {"",     ",",     "lru,",     ",lru",  "chosen", "LRU",
                                        "lru ", "lru;x", "by_layer", "mmap2", "lr",     "lru,heat"};
    struct against_list list;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_expect_eq(parse_list(&list, wrong[i]), 0, "'%s'", wrong[i]);
}

Test(against, a_turn_is_an_arm_and_a_round)
{
    static const char *const wrong[] = {"",        "lru",    "lru:",   ":1",     "lru:x",
                                        "lru:100", "lru:-1", "heat:1", "lru:1:2"};
    struct against_turn turn = {0};
    char reason[256] = "";
    cr_assert(against_turn_parse(&turn, "by-layer:7", reason, sizeof reason));
    cr_expect(turn.given && turn.arm == AGAINST_BY_LAYER && turn.round == 7);
    cr_assert(against_turn_parse(&turn, "chosen:0", reason, sizeof reason));
    cr_expect(turn.arm == AGAINST_CHOSEN && turn.round == 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct against_turn none = {0};
        cr_expect_not(against_turn_parse(&none, wrong[i], reason, sizeof reason), "'%s'", wrong[i]);
        cr_expect_not(none.given);
    }
}

// ---- turns
// ---------------------------------------------------------------------------------------------------

Test(against, arms_take_turns_forwards_and_backwards)
{
    char order[16] = "";
    for (uint32_t round = 0; round < 4; round++)
        for (uint32_t i = 0; i < 2; i++)
            order[2 * round + i] = (char)('A' + against_turn_at(round, i, 2));
    cr_expect_str_eq(order, "ABBAABBA");
    for (uint32_t n = 1; n <= AGAINST_ARMS; n++)
        for (uint32_t round = 0; round < 3; round++) {
            uint32_t seen = 0;
            for (uint32_t i = 0; i < n; i++)
                seen |= 1u << against_turn_at(round, i, n);
            cr_expect_eq(seen, (1u << n) - 1, "each arm has one turn in a round");
        }
}

// ---- figures
// -------------------------------------------------------------------------------------------------

Test(against, a_figure_is_the_median_between_the_least_and_the_most)
{
    double odd[] = {3, 1, 2}, even[] = {8, 2, 4, 6}, one[] = {5};
    struct against_figure f = against_figure_of(odd, 3);
    cr_expect(f.median == 2 && f.least == 1 && f.most == 3 && f.n == 3);
    f = against_figure_of(even, 4);
    cr_expect(f.median == 5 && f.least == 2 && f.most == 8 && f.n == 4);
    f = against_figure_of(one, 1);
    cr_expect(f.median == 5 && f.least == 5 && f.most == 5 && f.n == 1);
    cr_expect_eq(against_figure_of(one, 0).n, 0);
}

// Two arms, three rounds. The machine gets slower from round to round, for both.
static struct against two_arms(struct against_run runs[6])
{
    static const double chosen_s[] = {1, 2, 4}, other_s[] = {2, 3, 10};
    memset(runs, 0, 6 * sizeof *runs);
    for (uint32_t round = 0; round < 3; round++) {
        runs[2 * round] = (struct against_run){.done = true,
                                               .prefill_s = 1,
                                               .decode_s = chosen_s[round],
                                               .decode_bytes = 900,
                                               .counts_hits = true,
                                               .hit_rate = 0.5 + 0.1 * round,
                                               .weights_bytes = 1000,
                                               .expert_bytes = 10};
        runs[2 * round + 1] = runs[2 * round];
        runs[2 * round + 1].decode_s = other_s[round];
    }
    return (struct against){.arms = {AGAINST_CHOSEN, AGAINST_LRU},
                            .n_arms = 2,
                            .prefill = 8,
                            .decode = 10,
                            .repeats = 3,
                            .runs = runs};
}

static void expect_near(double got, double wanted, const char *what)
{
    cr_expect(got > wanted - 1e-9 && got < wanted + 1e-9, "%s: %g instead of %g", what, got, wanted);
}

Test(against, ratios_are_of_pairs_of_a_round)
{
    struct against_run runs[6];
    struct against against = two_arms(runs);
    // 2, 1.5, 2.5. Of the medians it would be 3 / 2 = 1.5, for the machine drifted.
    const struct against_figure ratio = against_ratio(&against, 1, AGAINST_DECODE_TOK_S);
    cr_assert_eq(ratio.n, 3);
    expect_near(ratio.median, 2, "median");
    expect_near(ratio.least, 1.5, "least");
    expect_near(ratio.most, 2.5, "most");
    expect_near(against_ratio(&against, 1, AGAINST_PREFILL_TOK_S).median, 1, "prefill");
    expect_near(against_arm_figure(&against, 1, AGAINST_DECODE_TOK_S).median, 3, "9 tokens in 3 s");
    expect_near(against_arm_figure(&against, 0, AGAINST_PREFILL_TOK_S).median, 8, "8 tokens in 1 s");
    expect_near(against_arm_figure(&against, 0, AGAINST_DECODE_BYTES).median, 100, "bytes of a pass");
    expect_near(against_arm_figure(&against, 0, AGAINST_HIT_RATE).median, 0.6, "hits");
}

Test(against, a_pair_of_which_one_run_is_missing_is_left_out)
{
    struct against_run runs[6];
    struct against against = two_arms(runs);
    runs[5].done = false; // interrupted in the third round
    const struct against_figure ratio = against_ratio(&against, 1, AGAINST_DECODE_TOK_S);
    cr_assert_eq(ratio.n, 2);
    expect_near(ratio.median, 1.75, "median");
    cr_expect_eq(against_arm_figure(&against, 0, AGAINST_DECODE_TOK_S).n, 3);
    for (int i = 0; i < 6; i++)
        runs[i].done = false;
    cr_expect_eq(against_ratio(&against, 1, AGAINST_DECODE_TOK_S).n, 0);
    cr_expect_eq(against_arm_figure(&against, 0, AGAINST_HIT_RATE).n, 0);
}

Test(against, hits_that_nobody_counts_are_not_known)
{
    struct against_run runs[6];
    struct against against = two_arms(runs);
    for (int i = 1; i < 6; i += 2)
        runs[i].counts_hits = false;
    cr_expect_eq(against_arm_figure(&against, 1, AGAINST_HIT_RATE).n, 0);
    cr_expect_eq(against_arm_figure(&against, 0, AGAINST_HIT_RATE).n, 3);
}

Test(against, memory_is_equal_within_one_expert)
{
    struct against_run runs[6];
    struct against against = two_arms(runs);
    uint64_t apart, allowed;
    cr_expect(against_memory_is_equal(&against, &apart, &allowed));
    cr_expect(apart == 0 && allowed == 10);
    runs[3].weights_bytes = 1010;
    cr_expect(against_memory_is_equal(&against, &apart, &allowed));
    cr_expect_eq(apart, 10);
    runs[3].weights_bytes = 1011;
    cr_expect_not(against_memory_is_equal(&against, &apart, &allowed));
    runs[3].done = false; // what has not run had nothing
    cr_expect(against_memory_is_equal(&against, &apart, &allowed));
    against.arms[1] = AGAINST_MMAP; // what the page cache has is not counted by anybody
    runs[3].done = true;
    cr_expect(against_memory_is_equal(&against, &apart, &allowed));
}

// ---- what a child tells
// -----------------------------------------------------------------------------------------

static char *text_of(const struct against_run *run)
{
    char *text = NULL;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    cr_assert_eq(against_write_run(stream, run), 0);
    fclose(stream);
    return text;
}

static struct against_run some_run(void)
{
    struct against_run run = {.prefill_s = 0.5,
                              .decode_s = 2.25,
                              .prefill_bytes = 123,
                              .decode_bytes = UINT32_MAX * 7ull,
                              .counts_hits = true,
                              .hit_rate = 0.75,
                              .offloaded = true,
                              .weights_bytes = 99,
                              .expert_bytes = 3,
                              .peak_bytes = 12345,
                              .plan_hash = 0xfedcba9876543210u,
                              .policy = "lru",
                              .io = "threads",
                              .settings = "arm=lru ram=8",
                              .n_ids = 3,
                              .ids = calloc(3, sizeof(int32_t))};
    for (int i = 0; i < 3; i++)
        run.ids[i] = 7 * i;
    return run;
}

Test(against, what_a_child_writes_is_what_is_read)
{
    struct against_run run = some_run(), back;
    struct lode_error error = {0};
    char *text = text_of(&run);
    cr_assert_eq(against_read_run(&back, text, strlen(text), &error), 0, "%s", error.text);
    cr_expect(back.done && back.counts_hits && back.offloaded);
    cr_expect(back.prefill_s == run.prefill_s && back.decode_s == run.decode_s &&
              back.hit_rate == run.hit_rate);
    cr_expect(back.prefill_bytes == run.prefill_bytes && back.decode_bytes == run.decode_bytes);
    cr_expect(back.weights_bytes == run.weights_bytes && back.expert_bytes == run.expert_bytes);
    cr_expect(back.peak_bytes == run.peak_bytes);
    cr_expect_eq(back.plan_hash, run.plan_hash, "all 64 bits");
    cr_expect_str_eq(back.policy, "lru");
    cr_expect_str_eq(back.io, "threads");
    cr_expect_str_eq(back.settings, "arm=lru ram=8");
    cr_assert_eq(back.n_ids, 3);
    cr_expect_arr_eq(back.ids, run.ids, 3 * sizeof *run.ids);
    free(back.ids);
    free(run.ids);
    free(text);
}

Test(against, a_child_that_tells_less_is_not_believed)
{
    struct against_run run = some_run(), back;
    struct lode_error error = {0};
    char *text = text_of(&run);
    for (size_t len = 0; len + 2 < strlen(text); len++) // not without the last brace
        cr_assert_eq(against_read_run(&back, text, len, &error), LODE_ERR_FORMAT, "%zu bytes", len);
    static const char *const wrong[] = {"", "[]", "3", "{}", "null", "{\"prefill_s\": 1}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_expect_eq(against_read_run(&back, wrong[i], strlen(wrong[i]), &error), LODE_ERR_FORMAT);
    run.decode_s = 0; // no rate can be made of it
    char *zero = text_of(&run);
    cr_expect_eq(against_read_run(&back, zero, strlen(zero), &error), LODE_ERR_FORMAT);
    cr_expect_null(back.ids);
    free(zero);
    free(text);
    free(run.ids);
}

// ---- control groups
// ---------------------------------------------------------------------------------------------

static bool only_user_slice(const char *folder)
{
    return strcmp(folder, "/cg/user.slice") == 0;
}

static bool none(const char *folder)
{
    (void)folder;
    return false;
}

Test(against, groups_are_made_where_the_memory_controller_is)
{
    static const char v2[] = "29 23 0:26 / / rw shared:1 - ext4 /dev/vda rw\n"
                             "30 23 0:26 / /cg rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    static const char v1[] = "34 31 0:31 / /cg1/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
                             "35 31 0:32 / /cg1/memory rw,relatime - cgroup cgroup rw,memory\n"
                             "41 31 0:38 / /cg1/unified rw,relatime - cgroup2 cgroup2 rw\n";
    char folder[4096];
    cr_assert_eq(
        memory_group_place(folder, sizeof folder, v2, "0::/user.slice/run-7.scope\n", only_user_slice), 2);
    cr_expect_str_eq(folder, "/cg/user.slice", "beside the group of the process, which has processes");
    cr_expect_eq(memory_group_place(folder, sizeof folder, v2, "0::/user.slice/run-7.scope\n", none), 0);
    cr_assert_eq(
        memory_group_place(folder, sizeof folder, v1, "4:memory:/absent/b79\n3:cpuset:/\n0::/\n", none), 1);
    cr_expect_str_eq(folder, "/cg1/memory", "a path of another namespace is not there");
    cr_expect_eq(memory_group_place(folder, sizeof folder, "", "", none), 0);
    cr_expect_eq(memory_group_place(folder, sizeof folder, "garbage\n - \n", "::\n:\n", none), 0);
}

// ---- provenance
// -------------------------------------------------------------------------------------------------

static void put(const char *folder, const char *name, const char *text)
{
    char path[4096], command[5000];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", path);
    cr_assert_eq(system(command), 0);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

Test(against, a_drive_tells_temperature_and_read_ahead_where_the_kernel_does)
{
    static const char *const places[] = {"device/hwmon3/temp1_input", "device/hwmon/hwmon0/temp1_input",
                                         "device/device/hwmon/hwmon1/temp1_input"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char sys[4096], name[128];
        snprintf(sys, sizeof sys, "%s/sys%zu", synth_directory(), i);
        snprintf(name, sizeof name, "block/nvme0n1/%s", places[i]);
        put(sys, name, "43850\n");
        put(sys, "block/nvme0n1/queue/read_ahead_kb", "4096\n");
        struct provenance_drive drive = {.device = "nvme0n1"};
        provenance_drive_read(&drive, sys);
        cr_expect(drive.has_temperature && drive.temperature_c == 43.85, "%s", places[i]);
        cr_expect(drive.has_read_ahead && drive.read_ahead_kb == 4096);
    }
    char sys[4096];
    snprintf(sys, sizeof sys, "%s/sys0", synth_directory());
    put(sys, "block/sda/queue/read_ahead_kb", "rubbish\n");
    static const char *const unknown[] = {"", "sda", "sdb", "../sys1", "*", "."};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        struct provenance_drive drive = {.device = ""};
        snprintf(drive.device, sizeof drive.device, "%s", unknown[i]);
        provenance_drive_read(&drive, sys);
        cr_expect_not(drive.has_temperature || drive.has_read_ahead, "'%s'", unknown[i]);
    }
}

Test(against, a_result_says_where_it_is_from)
{
    const char *path = synth_path_of("some.gguf");
    const struct lode_synth_options options = synth_options_of("tiny-moe", "q4_0");
    struct provenance p;
    struct lode_error error = {0};
    synth_write_model(path, &options);
    cr_assert_eq(provenance_open(&p, path, &error), 0, "%s", error.text);
    cr_expect_str_eq(p.model, "some.gguf");
    cr_expect_neq(p.fingerprint, 0);
    cr_expect_eq(strlen(p.date), 20);
    cr_expect(p.kernel[0] && p.cpu[0]);
    p.plan_hash = 0x1234;
    snprintf(p.settings, sizeof p.settings, "ram=8");
    snprintf(p.order, sizeof p.order, "in turns");
    char *text = NULL, wanted[64];
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    provenance_print(stream, &p);
    fclose(stream);
    snprintf(wanted, sizeof wanted, "fingerprint %016" PRIx64 ", plan 0000000000001234", p.fingerprint);
    cr_expect(strstr(text, wanted) && strstr(text, provenance_commit()) && strstr(text, lode_version()), "%s",
              text);
    cr_expect(strstr(text, "1 of each, in turns\nsettings ram=8\n"), "%s", text);
    uint32_t lines = 0;
    for (const char *at = text; *at; at++)
        lines += *at == '\n';
    cr_expect(lines >= 4 && lines <= 6, "%u lines", lines);
    json_t *json = provenance_json(&p);
    static const char *const keys[] = {"version",   "commit",  "date",           "model",   "fingerprint",
                                       "plan_hash", "machine", "machine_source", "cpu",     "kernel",
                                       "drive",     "repeats", "order",          "settings"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        cr_expect_not_null(json_object_get(json, keys[i]), "%s", keys[i]);
    cr_expect_str_eq(json_string_value(json_object_get(json, "plan_hash")), "0000000000001234");
    json_decref(json);
    free(text);
    cr_expect_neq(provenance_open(&p, "/nowhere/absent.gguf", &error), 0);
}
