// Names to rules.
#include "tools/sim_rules.h"

#include "core/simulate.h"
#include "tools/message.h"
#include "tools/options.h"

#include <stdio.h>
#include <string.h>

enum { LIST_BYTES = 512 };

static int too_many(const char *option, const char *command)
{
    return message_usage(command, "%s: at most %d at once", option, SIM_MOST_RULES);
}

static int refuse_name(const char *option, const char *name, const char *list, const char *command)
{
    return message_usage(command, "%s '%s': must be one of%s, or a file ending in .so", option, name, list);
}

bool sim_rules_want_help(const struct word_list *words)
{
    for (uint32_t i = 0; i < words->n; i++)
        if (strcmp(words->words[i], "help") == 0)
            return true;
    return false;
}

// ---- policies
// ------------------------------------------------------------------------------------------------

void sim_rules_print_policies(void)
{
    for (size_t i = 0; policy_table[i]; i++)
        printf("%-12s  %s\n", policy_table[i]->name, policy_table[i]->summary);
}

static int add_policy(struct sim_rules *r, const struct policy_ops *ops, const char *command)
{
    if (r->n_policies == SIM_MOST_RULES)
        return too_many("--policy", command);
    r->policies[r->n_policies++] = ops;
    return EXIT_OK;
}

static int open_policy(struct sim_rules *r, const char *word, const char *command)
{
    struct lode_error error = {0};
    const struct policy_ops *ops;
    struct policy_plugin *plugin;
    if (!policy_is_path(word) && !policy_find(word)) {
        char list[LIST_BYTES] = "";
        size_t used = 0;
        for (size_t i = 0; policy_table[i] && used < sizeof list; i++)
            used += (size_t)snprintf(list + used, sizeof list - used, " %s,", policy_table[i]->name);
        if (used < sizeof list)
            snprintf(list + used, sizeof list - used, " all");
        return refuse_name("--policy", word, list, command);
    }
    if (r->n_policies == SIM_MOST_RULES)
        return too_many("--policy", command);
    if (policy_open_named(&ops, &plugin, word, &error))
        return message_failed(command, &error);
    if (plugin)
        r->policy_plugins[r->n_policy_plugins++] = plugin;
    return add_policy(r, ops, command);
}

int sim_rules_add_policies(struct sim_rules *r, const struct word_list *words, const char *command)
{
    int code = words->n ? EXIT_OK : add_policy(r, policy_table[0], command);
    for (uint32_t w = 0; w < words->n && !code; w++) {
        if (strcmp(words->words[w], "all") != 0)
            code = open_policy(r, words->words[w], command);
        else
            for (size_t i = 0; policy_table[i] && !code; i++)
                code = add_policy(r, policy_table[i], command);
    }
    return code;
}

// ---- predictors
// ----------------------------------------------------------------------------------------------

void sim_rules_print_predictors(void)
{
    for (size_t i = 0; predictor_table[i]; i++)
        printf("%-12s  %s\n", predictor_table[i]->name, predictor_table[i]->summary);
    printf("%-12s  %s\n", simulation_perfect_predictor.name, simulation_perfect_predictor.summary);
    printf("%-12s  %s\n", "none", "experts are read when they have been chosen");
}

static int add_predictor(struct sim_rules *r, const struct predictor_ops *ops, const char *command)
{
    if (r->n_predictors == SIM_MOST_RULES)
        return too_many("--predict", command);
    r->predictors[r->n_predictors++] = ops;
    return EXIT_OK;
}

static bool can_run(const struct predictor_ops *ops, const char *without)
{
    return !without || ops->gate == PREDICTOR_NO_GATE;
}

static int open_predictor(struct sim_rules *r, const char *word, const char *without, const char *command)
{
    struct lode_error error = {0};
    const struct predictor_ops *ops;
    struct predictor_plugin *plugin = NULL;
    const bool is_path = predictor_is_path(word);
    if (strcmp(word, "none") == 0)
        return add_predictor(r, NULL, command);
    if (strcmp(word, simulation_perfect_predictor.name) == 0)
        return add_predictor(r, &simulation_perfect_predictor, command);
    if (!is_path && !predictor_find(word)) {
        char list[LIST_BYTES] = "";
        size_t used = 0;
        for (size_t i = 0; predictor_table[i] && used < sizeof list; i++)
            used += (size_t)snprintf(list + used, sizeof list - used, " %s,", predictor_table[i]->name);
        if (used < sizeof list)
            snprintf(list + used, sizeof list - used, " %s, none, all", simulation_perfect_predictor.name);
        return refuse_name("--predict", word, list, command);
    }
    if (r->n_predictors == SIM_MOST_RULES)
        return too_many("--predict", command);
    if (predictor_plugin_open_named(&ops, &plugin, word, &error))
        return message_failed(command, &error);
    if (plugin)
        r->predictor_plugins[r->n_predictor_plugins++] = plugin;
    if (can_run(ops, without))
        return add_predictor(r, ops, command);
    message_note(command,
                 "--predict %s asks the next layer's router, and the trace %s has no guesses of it; record "
                 "one with `lode run --trace` and with prefetch, or leave it out",
                 ops->name, without);
    return EXIT_FAILED;
}

static int add_all(struct sim_rules *r, const char *without, const char *command)
{
    bool left_out = false;
    int code = EXIT_OK;
    for (size_t i = 0; predictor_table[i] && !code; i++)
        if (can_run(predictor_table[i], without))
            code = add_predictor(r, predictor_table[i], command);
        else
            left_out = true;
    if (left_out && !code)
        message_note(command,
                     "predictors that ask the next layer's router are left out: the trace %s has no guesses "
                     "of it",
                     without);
    return code;
}

static int add_default(struct sim_rules *r, const char *without, const char *command)
{
    if (can_run(predictor_table[0], without))
        return add_predictor(r, predictor_table[0], command);
    message_note(command,
                 "nothing is prefetched: the trace %s has no guesses of the next layer's router; --predict "
                 "names another way",
                 without);
    return add_predictor(r, NULL, command);
}

int sim_rules_add_predictors(struct sim_rules *r, const struct word_list *words, const char *without,
                             const char *command)
{
    int code = words->n ? EXIT_OK : add_default(r, without, command);
    for (uint32_t w = 0; w < words->n && !code; w++)
        code = strcmp(words->words[w], "all") == 0 ? add_all(r, without, command)
                                                   : open_predictor(r, words->words[w], without, command);
    return code;
}

void sim_rules_close(struct sim_rules *r)
{
    for (uint32_t i = 0; i < r->n_policy_plugins; i++)
        policy_plugin_close(r->policy_plugins[i]);
    for (uint32_t i = 0; i < r->n_predictor_plugins; i++)
        predictor_plugin_close(r->predictor_plugins[i]);
    *r = (struct sim_rules){0};
}
