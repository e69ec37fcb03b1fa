// The policies and predictors that --policy and --predict name: of the tables, in shared objects, or all.
#ifndef LODE_TOOLS_SIM_RULES_H
#define LODE_TOOLS_SIM_RULES_H

#include "tools/word_list.h"

#include "placement/policy_plugin.h"
#include "placement/predictor_plugin.h"

enum { SIM_MOST_RULES = 64 };

// Starts as {0}; released by sim_rules_close.
struct sim_rules {
    const struct policy_ops *policies[SIM_MOST_RULES];
    const struct predictor_ops *predictors[SIM_MOST_RULES]; // NULL: none
    uint32_t n_policies, n_predictors;
    struct policy_plugin *policy_plugins[SIM_MOST_RULES];
    struct predictor_plugin *predictor_plugins[SIM_MOST_RULES];
    uint32_t n_policy_plugins, n_predictor_plugins;
};

// An empty list is the default policy. What is wrong is told in the name of `command`; returns the exit code.
int sim_rules_add_policies(struct sim_rules *rules, const struct word_list *words, const char *command);

// `without` is a trace that has no guesses of the next layer's router, NULL: all have them. Predictors that
// ask it are refused then where they are named; where all are meant, or none is named, the others are taken
// and a note says so.
int sim_rules_add_predictors(struct sim_rules *rules, const struct word_list *words, const char *without,
                             const char *command);
void sim_rules_close(struct sim_rules *rules);

// Whether a list asks for help, and the lists.
bool sim_rules_want_help(const struct word_list *words);
void sim_rules_print_policies(void);
void sim_rules_print_predictors(void);

#endif
