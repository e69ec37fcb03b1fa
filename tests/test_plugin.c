// Policies in shared objects: the example of docs/writing-a-policy.md, what is refused and how it is told,
// and engines that use one.
#include "core/lode.h"
#include "placement/policy_plugin.h"
#include "tests/demo.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct policy_plugin *open_example(void)
{
    struct policy_plugin *plugin = NULL;
    struct lode_error error = {0};
    cr_assert_eq(policy_plugin_open(&plugin, EXAMPLE_POLICY, &error), 0, "%s", error.text);
    cr_assert(plugin);
    return plugin;
}

static void expect_refusal(const char *path, int code, const char *text)
{
    struct policy_plugin *plugin = (struct policy_plugin *)&code;
    struct lode_error error = {0};
    cr_expect_eq(policy_plugin_open(&plugin, path, &error), code, "%s: %d, %s", path, error.code, error.text);
    cr_expect_eq(error.code, code);
    cr_expect_null(plugin);
    cr_expect(strstr(error.text, path), "%s is not named in '%s'", path, error.text);
    cr_expect(strstr(error.text, text), "'%s' is not in '%s'", text, error.text);
    cr_expect_eq(policy_plugin_open(&plugin, path, NULL), code, "without an error to fill");
}

static void expect_broken(const char *wrong, int code, const char *text)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/policy_%s.so", PLUGIN_DIR, wrong);
    expect_refusal(path, code, text);
}

// ---- names and paths

Test(plugin, a_path_has_a_slash_or_ends_in_so)
{
    static const char *const paths[] = {"./x", "/a/b.so", "x.so", "a/b", "lru/", "heat.so"};
    static const char *const names[] = {"heat", "", "so", ".so", "x.so.1", "lru-2", "x.SO"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        cr_expect(policy_is_path(paths[i]), "%s", paths[i]);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        cr_expect_not(policy_is_path(names[i]), "%s", names[i]);
}

Test(plugin, a_name_is_of_the_table_and_a_path_is_opened)
{
    const struct policy_ops *ops;
    struct policy_plugin *plugin;
    struct lode_error error = {0};
    cr_assert_eq(policy_open_named(&ops, &plugin, "lfu", &error), 0);
    cr_assert_eq(ops, policy_find("lfu"));
    cr_assert_null(plugin);
    cr_assert_eq(policy_open_named(&ops, &plugin, "fifo", &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "'fifo'"), "%s", error.text);
    cr_assert(!ops && !plugin);
    cr_assert_eq(policy_open_named(&ops, &plugin, EXAMPLE_POLICY, &error), 0, "%s", error.text);
    cr_assert_str_eq(ops->name, "lru-2");
    cr_assert_eq(ops, policy_plugin_ops(plugin));
    policy_plugin_close(plugin);
    cr_assert_eq(policy_open_named(&ops, &plugin, "./fifo", &error), LODE_ERR_IO);
    cr_assert(!ops && !plugin);
    policy_plugin_close(NULL);
}

Test(plugin, a_bare_file_name_is_one_of_the_current_folder)
{
    char folder[] = EXAMPLE_POLICY;
    char *slash = strrchr(folder, '/');
    *slash = '\0';
    cr_assert_eq(chdir(folder), 0);
    struct policy_plugin *plugin = NULL;
    struct lode_error error = {0};
    cr_assert_eq(policy_plugin_open(&plugin, slash + 1, &error), 0, "%s", error.text);
    policy_plugin_close(plugin);
    expect_refusal("libm.so.6", LODE_ERR_IO, "No such file"); // which the system's folders have
}

// ---- what is refused

Test(plugin, files_that_are_no_shared_objects_are_refused)
{
    char folder[] = "/tmp/lode-plugin-XXXXXX", path[64];
    cr_assert(mkdtemp(folder));
    expect_refusal("/nowhere/x.so", LODE_ERR_IO, "No such file or directory");
    expect_refusal(folder, LODE_ERR_IO, "not a file");
    snprintf(path, sizeof path, "%s/pipe.so", folder);
    cr_assert_eq(mkfifo(path, 0600), 0);
    expect_refusal(path, LODE_ERR_IO, "not a file");
    unlink(path);
    static const char *const contents[] = {"", "int main(void) { return 0; }\n", "\177ELF"};
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        snprintf(path, sizeof path, "%s/text.so", folder);
        FILE *file = fopen(path, "w");
        cr_assert(file && fputs(contents[i], file) >= 0 && fclose(file) == 0);
        expect_refusal(path, LODE_ERR_FORMAT, "not a shared object");
        unlink(path);
    }
    rmdir(folder);
}

Test(plugin, what_a_shared_object_does_not_export_is_named)
{
    expect_broken("no_abi", LODE_ERR_FORMAT, "no symbol lode_policy_abi");
    expect_broken("no_policy", LODE_ERR_FORMAT, "no symbol lode_policy;");
    expect_broken("old_abi", LODE_ERR_UNSUPPORTED, "version 42 of policy.h");
    expect_broken("needs_host", LODE_ERR_FORMAT, "lode_fail");
}

Test(plugin, what_a_policy_lacks_is_named)
{
    expect_broken("no_name", LODE_ERR_FORMAT, "lode_policy.name is NULL");
    expect_broken("no_chosen", LODE_ERR_FORMAT, "lode_policy.chosen is NULL");
    expect_broken("bad_name", LODE_ERR_FORMAT, "small letters");
    expect_broken("taken_name", LODE_ERR_FORMAT, "built-in policy");
    expect_broken("bad_summary", LODE_ERR_FORMAT, "one line");
}

Test(plugin, a_policy_that_does_not_keep_to_the_header_is_found_out)
{
    expect_broken("open_fails", LODE_ERR_UNSUPPORTED, "six experts are not enough");
    expect_broken("open_silent", LODE_ERR_MEMORY, "does not say why");
    expect_broken("open_nothing", LODE_ERR_FORMAT, "made no policy");
    expect_broken("no_ops", LODE_ERR_FORMAT, "must set ops");
    expect_broken("no_score", LODE_ERR_FORMAT, "must set score");
    expect_broken("not_finite", LODE_ERR_FORMAT, "must be finite");
}

// ---- the example

enum { UNITS = 8, LAYERS = 2 };

static struct policy *open_policy(const struct policy_ops *ops, const float *heat)
{
    static const uint32_t layer[UNITS] = {0, 0, 0, 0, 1, 1, 1, 1};
    const struct policy_setup setup = {
        .n_units = UNITS, .n_layers = LAYERS, .n_slots = 4, .layer = layer, .used_per_pass = 2, .heat = heat};
    struct policy *policy = NULL;
    struct lode_error error = {0};
    cr_assert_eq(ops->open(&policy, &setup, &error), 0, "%s", error.text);
    return policy;
}

static void use(struct policy *policy, uint32_t unit)
{
    policy->ops->chosen(policy, unit, 1);
    policy->ops->pass_end(policy, 1);
}

Test(plugin, the_example_ranks_by_the_last_use_but_one)
{
    struct policy_plugin *plugin = open_example();
    const float heat[UNITS] = {0.1f, 0.3f, 0.2f};
    struct policy *policy = open_policy(policy_plugin_ops(plugin), heat);
    cr_expect_gt(policy->score[1], policy->score[2], "unused ones by heat");
    cr_expect_gt(policy->score[2], policy->score[0]);
    use(policy, 4);
    use(policy, 5);
    use(policy, 4);
    use(policy, 6);
    cr_expect_gt(policy->score[4], policy->score[6], "used twice over used once, though longer ago");
    cr_expect_gt(policy->score[6], policy->score[5], "of those used once the later");
    cr_expect_gt(policy->score[5], policy->score[1], "used over unused");
    use(policy, 5); // 2 and 5, where unit 4 has 1 and 3
    cr_expect_gt(policy->score[5], policy->score[4]);
    policy->ops->chosen(policy, 7, 2); // two tokens of a prompt
    policy->ops->pass_end(policy, 2);
    cr_expect_gt(policy->score[7], policy->score[5]);
    policy->ops->close(policy);
    policy_plugin_close(plugin);
}

Test(plugin, the_example_can_be_opened_many_times_at_once)
{
    struct policy_plugin *plugins[8];
    struct policy *policies[8];
    for (size_t i = 0; i < 8; i++) {
        plugins[i] = open_example();
        policies[i] = open_policy(policy_plugin_ops(plugins[i]), NULL);
        use(policies[i], (uint32_t)i);
    }
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t u = 0; u < UNITS; u++)
            cr_expect_eq(policies[i]->score[u] > 0, u == i);
    const char *name = policy_plugin_ops(plugins[0])->name;
    for (size_t i = 0; i < 8; i++) {
        policies[i]->ops->close(policies[i]);
        policy_plugin_close(plugins[i]);
    }
    cr_expect_str_eq(name, "lru-2", "names outlive the plug-in");
}

// ---- engines

static int open_engine(struct lode_engine **out, const char *policy, uint64_t ram_bytes,
                       struct lode_error *error)
{
    char path[512];
    test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = 1;
    options.policy = policy;
    options.ram_bytes = ram_bytes;
    return lode_engine_open(out, path, &options, error);
}

Test(plugin, engines_open_one_each_and_close_it)
{
    struct lode_engine *a, *b;
    struct lode_error error = {0};
    cr_assert_eq(open_engine(&a, EXAMPLE_POLICY, 0, &error), 0, "%s", error.text);
    cr_assert_eq(open_engine(&b, EXAMPLE_POLICY, 0, &error), 0, "%s", error.text);
    lode_engine_close(a);
    struct lode_session *session;
    const struct lode_session_options options = {.context = 64, .batch = 8};
    cr_assert_eq(lode_session_open(&session, b, &options, &error), 0, "%s", error.text);
    lode_session_close(session);
    lode_engine_close(b);
}

Test(plugin, an_engine_without_its_policy_does_not_open)
{
    struct lode_engine *engine;
    struct lode_error error = {0};
    cr_assert_eq(open_engine(&engine, "./nowhere.so", 0, &error), LODE_ERR_IO);
    cr_assert_null(engine);
    cr_assert_eq(open_engine(&engine, PLUGIN_DIR "/policy_old_abi.so", 0, &error), LODE_ERR_UNSUPPORTED);
    cr_assert_null(engine);
    cr_assert_eq(open_engine(&engine, "clock", 0, &error), LODE_ERR_ARGUMENT);
    cr_assert_null(engine);
}

#ifdef __has_feature
#define CEILINGS_DO_NOT_HOLD __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define CEILINGS_DO_NOT_HOLD 1
#else
#define CEILINGS_DO_NOT_HOLD 0
#endif

// Under the lowest ceiling that is enough, in steps of 1 MiB, so that there is a pool.
static void open_low(struct lode_engine **engine, struct lode_session **session, const char *policy)
{
    const struct lode_session_options options = {.context = 64, .batch = 8};
    struct lode_error error = {0};
    for (uint64_t mib = 24; mib < 512; mib++) {
        if (open_engine(engine, policy, mib << 20, &error) == 0) {
            if (lode_session_open(session, *engine, &options, &error) == 0)
                return;
            lode_engine_close(*engine);
        }
        cr_assert_eq(error.code, LODE_ERR_MEMORY, "%s", error.text);
    }
    cr_assert_fail("no ceiling is enough: %s", error.text);
}

Test(plugin, a_policy_is_told_the_weight_of_each_choice)
{
    if (CEILINGS_DO_NOT_HOLD)
        cr_skip_test("the sanitizer's own memory breaks every ceiling");
    static const char path[] = PLUGIN_DIR "/policy_counts.so";
    static const int32_t ids[] = {2, 105, 107, 300, 301, 302, 303, 304, 305, 306};
    struct lode_engine *engine;
    struct lode_session *session;
    open_low(&engine, &session, path);
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    cr_assert(handle, "the engine has opened it");
    const uint64_t *scored = dlsym(handle, "counted_scored"), *chosen = dlsym(handle, "counted_chosen"),
                   *weighed = dlsym(handle, "counted_weighed");
    const double *weight = dlsym(handle, "counted_weight");
    cr_assert(scored && chosen && weighed && weight);
    const uint64_t chosen_before = *chosen, weighed_before = *weighed; // trials
    demo_feed(session, ids, 8);                                        // a prompt
    const uint64_t of_prompt = *chosen - chosen_before;
    demo_feed(session, ids + 8, 1); // and a token: 4 of 32 experts in each of 8 layers
    cr_expect_eq(*chosen - chosen_before - of_prompt, 32);
    cr_expect_gt(of_prompt, 32);
    cr_expect_eq(*chosen, *scored);
    cr_expect_eq(*weighed - weighed_before, *chosen - chosen_before);
    cr_expect(isfinite(*weight) && *weight > 0);
    struct lode_offload_stats stats;
    lode_session_offload(session, &stats);
    cr_expect_str_eq(stats.policy, "broken");
    cr_expect_gt(stats.pool_bytes, 0);
    lode_session_close(session);
    lode_engine_close(engine);
    dlclose(handle);
}
