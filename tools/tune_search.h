// The search of `lode tune`: which settings are measured, in which order, and what is believed.
//
// One knob after another, each on top of what the ones before have gained. A round measures the settings so
// far and each candidate of the knob, forwards and backwards in turns, so that what drifts on the machine
// drifts for all. A candidate is better when the median of three pairs gains 3%, and so do the medians of the
// times, and most pairs are won; it is given up as soon as it can no longer win most. What all knobs together
// gained is measured against the defaults again at the end, and only that counts.
//
// Nothing here runs a model: the caller measures. Results are kept in a journal, pair by pair, which a later
// search goes on with.
#ifndef LODE_TOOLS_TUNE_SEARCH_H
#define LODE_TOOLS_TUNE_SEARCH_H

#include "core/lode.h"
#include "tools/tune_knobs.h"

enum { TUNE_PAIRS = 3, TUNE_MOST_PAIRS = 5, TUNE_MOST_CANDIDATES = 64, TUNE_REASON_SIZE = 200 };
#define TUNE_LEAST_GAIN 1.03

struct tune_run {
    double prefill_s, decode_s; // a turn: a prompt, and tokens generated behind it
    double cost_s;              // with loading and warming up
    bool other_tokens;          // than the first run's
};

struct tune_pair {
    double before_prefill_s, before_decode_s, after_prefill_s, after_decode_s;
};

enum tune_verdict {
    TUNE_OPEN,
    TUNE_BETTER,
    TUNE_NO_GAIN, // less than TUNE_LEAST_GAIN, or not surely
    TUNE_OTHER_TOKENS,
    TUNE_FAILED,
    TUNE_NO_TIME,
};

struct tune_candidate {
    enum tune_knob knob; // TUNE_KNOBS: all that was gained, against the defaults
    struct tune_settings base, settings;
    struct tune_pair pairs[TUNE_MOST_PAIRS];
    uint32_t n_pairs;
    enum tune_verdict verdict;
    char reason[TUNE_REASON_SIZE]; // of TUNE_FAILED
    // Of the pairs: base / candidate, so that 1.1 is 10% faster. Of a whole turn but for the last two.
    double ratio, low, high; // median and range
    double prefill_ratio, decode_ratio;
    uint32_t n_won;
};

struct tune_journal {
    struct tune_candidate list[TUNE_MOST_CANDIDATES];
    uint32_t n;
};

struct tune_hooks {
    // Runs a turn; `what` says for whom. LODE_ERR_CANCELLED ends the search, another failure refuses the
    // candidate, or ends the search where it is not one's.
    int (*measure)(void *user, struct tune_run *out, const struct tune_settings *settings, const char *what,
                   struct lode_error *error);
    double (*now_s)(void *user);
    void (*on_pair)(void *user); // the journal has grown
    void (*on_candidate)(void *user, const struct tune_candidate *candidate);
    void (*on_left_out)(void *user, enum tune_knob knob, const char *why);
    void *user;
};

enum tune_outcome {
    TUNE_TUNED,    // best is faster than the defaults, confirmed
    TUNE_DEFAULTS, // nothing is
    TUNE_NOTHING,  // there was nothing to try
    TUNE_STOPPED,  // by the caller
    TUNE_TOO_SHORT // of time: nothing could be said
};

struct tune_search {
    const struct tune_facts *facts;
    const struct tune_hooks *hooks;
    struct tune_journal *journal;
    double deadline_s; // of now_s
    double cost_s;     // of a run, as far as it is known

    struct tune_settings best;
    enum tune_outcome outcome;
    const struct tune_candidate *final; // of TUNE_KNOBS, in the journal; NULL: none was measured
    bool complete;                      // no candidate was left out for want of time
    uint32_t n_decided, n_runs;
    double spent_s;
};

// Statistics and verdict of a candidate's pairs, of which `wanted` shall be measured. Verdicts that are not
// of pairs stay.
void tune_judge(struct tune_candidate *candidate, uint32_t wanted);

// The candidate in the journal, as new where it is not there. NULL: the journal is full.
struct tune_candidate *tune_journal_take(struct tune_journal *journal, enum tune_knob knob,
                                         const struct tune_settings *base,
                                         const struct tune_settings *settings);

// Fills in what stands below deadline_s and cost_s. Fails where settings that had been accepted cannot be
// run.
int tune_search_run(struct tune_search *search, struct lode_error *error);

// Medians over a candidate's pairs of one of the times in struct tune_pair.
struct tune_pair tune_medians(const struct tune_candidate *candidate);

#endif
