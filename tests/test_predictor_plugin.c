// Predictors in shared objects: the example of docs/writing-a-policy.md, and what is refused and how it is
// told.
#include "placement/predictor_plugin.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void expect_refusal(const char *path, int code, const char *text)
{
    struct predictor_plugin *plugin = (struct predictor_plugin *)&code;
    struct lode_error error = {0};
    cr_expect_eq(predictor_plugin_open(&plugin, path, &error), code, "%s: %d, %s", path, error.code,
                 error.text);
    cr_expect_eq(error.code, code);
    cr_expect_null(plugin);
    cr_expect(strstr(error.text, path), "%s is not named in '%s'", path, error.text);
    cr_expect(strstr(error.text, text), "'%s' is not in '%s'", text, error.text);
    cr_expect_eq(predictor_plugin_open(&plugin, path, NULL), code, "without an error to fill");
}

static void expect_broken(const char *wrong, int code, const char *text)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/predictor_%s.so", PLUGIN_DIR, wrong);
    expect_refusal(path, code, text);
}

// ---- names and paths

Test(predictor_plugin, a_path_has_a_slash_or_ends_in_so)
{
    cr_expect(predictor_is_path("./x"));
    cr_expect(predictor_is_path("x.so"));
    cr_expect(predictor_is_path("a/b"));
    cr_expect_not(predictor_is_path("gate-auto"));
    cr_expect_not(predictor_is_path("so"));
    cr_expect_not(predictor_is_path(".so"));
}

Test(predictor_plugin, a_name_is_of_the_table_and_a_path_is_opened)
{
    const struct predictor_ops *ops;
    struct predictor_plugin *plugin;
    struct lode_error error = {0};
    cr_assert_eq(predictor_plugin_open_named(&ops, &plugin, "cooccur", &error), 0);
    cr_assert_eq(ops, predictor_find("cooccur"));
    cr_assert_null(plugin);
    cr_assert_eq(predictor_plugin_open_named(&ops, &plugin, "oracle", &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "no predictor called 'oracle'"), "%s", error.text);
    cr_assert(!ops && !plugin);
    cr_assert_eq(predictor_plugin_open_named(&ops, &plugin, EXAMPLE_PREDICTOR, &error), 0, "%s", error.text);
    cr_assert_str_eq(ops->name, "sticky");
    cr_assert_eq(ops, predictor_plugin_ops(plugin));
    predictor_plugin_close(plugin);
    cr_assert_eq(predictor_plugin_open_named(&ops, &plugin, "./oracle", &error), LODE_ERR_IO);
    cr_assert(!ops && !plugin);
    predictor_plugin_close(NULL);
}

Test(predictor_plugin, a_bare_file_name_is_one_of_the_current_folder)
{
    char folder[] = EXAMPLE_PREDICTOR;
    char *slash = strrchr(folder, '/');
    *slash = '\0';
    cr_assert_eq(chdir(folder), 0);
    struct predictor_plugin *plugin = NULL;
    struct lode_error error = {0};
    cr_assert_eq(predictor_plugin_open(&plugin, slash + 1, &error), 0, "%s", error.text);
    predictor_plugin_close(plugin);
    expect_refusal("libm.so.6", LODE_ERR_IO, "No such file");
}

// ---- what is refused

Test(predictor_plugin, files_that_are_no_predictors_are_refused)
{
    expect_refusal("/nowhere/x.so", LODE_ERR_IO, "No such file or directory");
    expect_refusal(PLUGIN_DIR, LODE_ERR_IO, "not a file");
    char path[] = "/tmp/lode-predictor-XXXXXX.so";
    const int fd = mkstemps(path, 3);
    cr_assert(fd >= 0 && write(fd, "\177ELF", 4) == 4 && close(fd) == 0);
    expect_refusal(path, LODE_ERR_FORMAT, "not a shared object");
    unlink(path);
    expect_refusal(EXAMPLE_POLICY, LODE_ERR_FORMAT,
                   "no symbol lode_predictor_abi; a predictor exports lode_predictor_abi and lode_predictor");
}

Test(predictor_plugin, what_a_shared_object_does_not_export_is_named)
{
    expect_broken("no_abi", LODE_ERR_FORMAT, "no symbol lode_predictor_abi");
    expect_broken("no_predictor", LODE_ERR_FORMAT, "no symbol lode_predictor;");
    expect_broken("old_abi", LODE_ERR_UNSUPPORTED, "version 42 of predictor.h");
    expect_broken("needs_host", LODE_ERR_FORMAT, "lode_fail");
}

Test(predictor_plugin, what_a_predictor_lacks_is_named)
{
    expect_broken("no_name", LODE_ERR_FORMAT, "lode_predictor.name is NULL");
    expect_broken("no_guess", LODE_ERR_FORMAT, "lode_predictor.guess is NULL");
    expect_broken("bad_name", LODE_ERR_FORMAT, "small letters");
    expect_broken("taken_name", LODE_ERR_FORMAT, "'cooccur' is that of a built-in predictor");
    expect_broken("none_name", LODE_ERR_FORMAT, "'none' is that of a built-in predictor");
    expect_broken("bad_summary", LODE_ERR_FORMAT, "one line");
    expect_broken("bad_gate", LODE_ERR_FORMAT, "gate is none of predictor.h");
}

Test(predictor_plugin, a_predictor_that_does_not_keep_to_the_header_is_found_out)
{
    expect_broken("open_fails", LODE_ERR_UNSUPPORTED, "a few experts are not enough");
    expect_broken("open_silent", LODE_ERR_MEMORY, "does not say why");
    expect_broken("open_nothing", LODE_ERR_FORMAT, "made no predictor");
    expect_broken("no_ops", LODE_ERR_FORMAT, "must set ops");
    expect_broken("too_many", LODE_ERR_FORMAT, "names 1 experts of at most 0");
    expect_broken("twice", LODE_ERR_FORMAT, "names expert 0 twice");
    expect_broken("other_layers", LODE_ERR_FORMAT, "names expert 4 of a layer with 4");
    expect_broken("below", LODE_ERR_FORMAT, "names expert -1 of a layer with 5");
    expect_broken("writes_beyond", LODE_ERR_FORMAT, "writes beyond max");
}

Test(predictor_plugin, the_same_predictor_with_nothing_wrong_is_opened)
{
    struct predictor_plugin *plugin;
    struct lode_error error = {0};
    cr_assert_eq(predictor_plugin_open(&plugin, PLUGIN_DIR "/predictor_nothing_wrong.so", &error), 0, "%s",
                 error.text);
    cr_assert_str_eq(predictor_plugin_ops(plugin)->name, "broken");
    predictor_plugin_close(plugin);
}

// ---- the example

Test(predictor_plugin, the_example_names_what_the_last_tokens_chose_again_and_again)
{
    static const uint32_t n_experts[] = {8, 0, 6};
    static const struct predictor_setup setup = {.n_layers = 3, .n_experts = n_experts, .n_used = 2};
    struct predictor_plugin *plugin = NULL;
    struct predictor *predictor = NULL;
    struct lode_error error = {0};
    int32_t out[8];
    cr_assert_eq(predictor_plugin_open(&plugin, EXAMPLE_PREDICTOR, &error), 0, "%s", error.text);
    const struct predictor_ops *ops = predictor_plugin_ops(plugin);
    cr_assert_eq(ops->open(&predictor, &setup, &error), 0, "%s", error.text);
    cr_assert_eq(ops->guess(predictor, 0, NULL, out, 8), 0);
    ops->chosen(predictor, 0, (int32_t[]){6, 1}, 2); // 1.25 and 0.25
    ops->chosen(predictor, 0, (int32_t[]){5, 2}, 2); // 0.5 each
    ops->chosen(predictor, 0, (int32_t[]){3, 6}, 2); // 1
    ops->chosen(predictor, 2, (int32_t[]){0, 4}, 2);
    cr_assert_eq(ops->guess(predictor, 0, NULL, out, 8), 5);
    cr_assert_arr_eq(out, ((int32_t[]){6, 3, 2, 5, 1}), 5 * sizeof *out);
    cr_assert_eq(ops->guess(predictor, 0, NULL, out, 2), 2);
    cr_assert_arr_eq(out, ((int32_t[]){6, 3}), 2 * sizeof *out);
    cr_assert_eq(ops->guess(predictor, 2, NULL, out, 8), 2);
    cr_assert_arr_eq(out, ((int32_t[]){0, 4}), 2 * sizeof *out);
    for (uint32_t t = 0; t < 12; t++)
        ops->chosen(predictor, 2, (int32_t[]){2}, 1);
    cr_assert_eq(ops->guess(predictor, 2, NULL, out, 8), 1, "the others have faded");
    ops->restart(predictor);
    cr_assert_eq(ops->guess(predictor, 0, NULL, out, 8), 0);
    ops->close(predictor);
    predictor_plugin_close(plugin);
}
