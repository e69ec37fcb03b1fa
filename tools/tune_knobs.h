// What `lode tune` turns: the knobs, and the values of each that are worth a try on this machine and model.
#ifndef LODE_TOOLS_TUNE_KNOBS_H
#define LODE_TOOLS_TUNE_KNOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TUNE_POLICY_SIZE = 32, TUNE_MOST_VALUES = 3, TUNE_TEXT_SIZE = 48 };

// In the order in which they are tried: what changes most comes first, for the others are measured on top.
enum tune_knob {
    TUNE_THREADS,
    TUNE_PREFETCH,
    TUNE_QUEUE_DEPTH,
    TUNE_RING,
    TUNE_BATCH,
    TUNE_POLICY,
    TUNE_KNOBS,
};

// 0, or an empty text: the default.
struct tune_settings {
    uint32_t threads, batch, queue_depth, prefetch_ranks;
    uint64_t ring_bytes;
    bool no_prefetch;
    char policy[TUNE_POLICY_SIZE];
};

// What decides which knobs matter: a run with the defaults tells.
struct tune_facts {
    uint32_t threads, processors; // the default, and what the process may use
    uint32_t batch, prompt_tokens, queue_depth;
    uint32_t n_experts, n_experts_used;              // of a layer; 0: none
    uint64_t pool_bytes, streamed_bytes, ring_bytes; // as in struct lode_offload_stats
    bool no_prefetch;                                // by default
    bool reads;                                      // something was read while tokens were computed
    bool fixed[TUNE_KNOBS];                          // by the command line
    const char *policy;                              // the default
    const char *(*policy_at)(size_t index, const char **out_summary); // NULL beyond the last
};

bool tune_settings_equal(const struct tune_settings *a, const struct tune_settings *b);

// Settings that differ from `base` in one knob, the most promising first; at most TUNE_MOST_VALUES. Where
// there are none, *out_why says why in words that live as long as the program.
size_t tune_knob_values(struct tune_settings *out, const char **out_why, enum tune_knob knob,
                        const struct tune_settings *base, const struct tune_facts *facts);

const char *tune_knob_name(enum tune_knob knob); // "queue depth"; of TUNE_KNOBS "all of it"

// The value of a knob in words: "2", "off", "8 ranks", "4.0 MiB". Returns out.
const char *tune_knob_text(char out[TUNE_TEXT_SIZE], enum tune_knob knob,
                           const struct tune_settings *settings, const struct tune_facts *facts);

// All knobs that differ from the default: "threads 2, prefetch off"; "the defaults" where none does.
const char *tune_settings_text(char *out, size_t capacity, const struct tune_settings *settings);

#endif
