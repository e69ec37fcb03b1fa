// Turns of a model under given settings, for `lode tune`: a prompt of drawn tokens, then greedy ones.
#ifndef LODE_TOOLS_TUNE_RUN_H
#define LODE_TOOLS_TUNE_RUN_H

#include "tools/model.h"
#include "tools/tune_search.h"

// The caller fills in the first part; all else is 0 at first.
struct tune_runner {
    const struct model_options *base; // what the settings are put on top of; path and context set
    const char *command;
    uint32_t prompt_tokens, decode_tokens; // at least 1 and 2
    uint64_t seed;
    // Told while a turn runs; false ends it with LODE_ERR_CANCELLED. `done` of `total` prompt tokens.
    bool (*on_progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;

    struct model_options model; // of the engine that is open
    struct tune_settings settings;
    struct lode_engine *engine;
    struct lode_session *session;
    struct lode_offload_stats offload; // of the last turn
    bool reads;                        // it read while it computed
    double load_s;                     // of the last loading; of cost_s
    int32_t *ids;                      // [prompt_tokens]
    int32_t *reference, *generated;    // [decode_tokens] of the first turn, and of the last
    uint32_t n_reference, n_generated;
};

// One engine is open at a time. Where all weights stay in memory it is kept for the next turn if the settings
// allow; where they come and go, or a GPU has copies of experts, which are exchanged between turns, every
// turn begins with a loading, so that all find the same in memory. With GPUs no tokens are other_tokens: sums
// are in another order where an expert is computed elsewhere.
int tune_runner_measure(struct tune_runner *runner, struct tune_run *out,
                        const struct tune_settings *settings, const char *what, struct lode_error *error);

void tune_runner_close(struct tune_runner *runner);

#endif
