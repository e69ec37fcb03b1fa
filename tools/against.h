// `lode bench --against`: the chosen configuration beside baselines that have the same memory.
//
// Every run is a process of its own that starts with nothing: no page of the model in the page cache, and of
// earlier runs nothing, or the same file of heat for all. The arms take turns, forwards and then backwards,
// so that what drifts on the machine drifts for all; ratios are of pairs of one round. All arms get the same
// prompt and must generate the same tokens.
#ifndef LODE_TOOLS_AGAINST_H
#define LODE_TOOLS_AGAINST_H

#include "tools/model.h"
#include "tools/provenance.h"

enum against_arm {
    AGAINST_CHOSEN,     // as the command line says
    AGAINST_BY_LAYER,   // whole layers stay, by their position; as the next two without prefetch
    AGAINST_STATIC,     // the experts that earlier runs chose most stay, whatever this run does
    AGAINST_LRU,        // what was used longest ago leaves
    AGAINST_MMAP,       // the files are mapped, and the kernel's page cache decides
    AGAINST_GPU_LAYERS, // whole layers on GPUs, the last ones; all else as chosen
    AGAINST_ARMS,
};

enum { AGAINST_MAX_REPEATS = 100 };

const char *against_arm_name(enum against_arm arm); // "chosen", "by-layer", …

struct against_list {
    enum against_arm arms[AGAINST_ARMS];
    uint32_t n;
};

// "by-layer,mmap" into a struct against_list, in the order given, each once; an option table's parse
// function.
bool against_list_parse(void *target, const char *value, char *reason, size_t capacity);

// One run that a child shall make: "lru:2" is the third of lru.
struct against_turn {
    bool given;
    enum against_arm arm;
    uint32_t round;
};
bool against_turn_parse(void *target, const char *value, char *reason, size_t capacity);

// The arm, by its index, whose turn it is: 0 1 2, then 2 1 0, and again.
uint32_t against_turn_at(uint32_t round, uint32_t position, uint32_t n_arms);

// ---- runs

struct against_run {
    bool done;
    double prefill_s, decode_s; // of `prefill` tokens, and of `decode` - 1: the first is the prefill's
    uint64_t prefill_bytes, decode_bytes; // read from the drive
    bool counts_hits;
    double hit_rate;        // of experts, in decode; where hits can be counted
    bool offloaded;         // some weights are not kept in memory
    uint64_t weights_bytes; // memory for weights; for mmap what the ceiling leaves the page cache
    uint64_t expert_bytes;  // of a slot; 0 without a pool
    uint64_t peak_bytes;    // resident, of the process; within a control group that of the group
    uint64_t plan_hash;
    char policy[64], io[16], settings[512];
    uint32_t n_gpus; // that took part
    uint32_t n_ids;
    int32_t *ids; // that were generated
};

// The question, and what is known of it so far.
struct against {
    enum against_arm arms[AGAINST_ARMS]; // the first is AGAINST_CHOSEN
    uint32_t n_arms, prefill, decode, repeats;
    uint64_t seed, ram_bytes;
    bool warm;
    bool in_groups; // each run has a control group of its own
    bool in_present_group;
    struct against_run *runs; // [repeats][n_arms]
    // A GPU rounds otherwise than the CPU, so that with GPUs, and only then, tokens may differ: how many are
    // the same at the start of all runs of a round, at least. `decode` where all are.
    uint32_t same_ids;
    bool interrupted;
    struct provenance provenance;
};

static inline struct against_run *against_run_at(const struct against *against, uint32_t round, uint32_t arm)
{
    return &against->runs[round * against->n_arms + arm];
}

// The child's part: opens the model as the arm wants it, runs once and prints the object that the parent
// reads. Returns the exit code.
int against_make_run(struct model_options *options, const struct against *against,
                     const struct against_turn *turn, const char *command);

// What a child prints, 0 or -1; and reading it. LODE_ERR_FORMAT where something is missing or makes no sense.
int against_write_run(FILE *stream, const struct against_run *run);
int against_read_run(struct against_run *out, const char *text, size_t len, struct lode_error *error);

// All runs, in children of this command line. `argv` is that of the subcommand; `path` the model. Sets
// `interrupted` after a signal. LODE_ERR_UNSUPPORTED where a control group is needed and cannot be made.
// Other tokens than those of the round's first run fail, where no GPU took part.
int against_measure(struct against *against, const char *path, int argc, char **argv,
                    struct lode_error *error);
void against_free(struct against *against);

// ---- figures

struct against_figure {
    double median, least, most;
    uint32_t n; // of values; 0: nothing is known
};

// Median, least and most; sorts the values.
struct against_figure against_figure_of(double *values, uint32_t n);

enum against_measure {
    AGAINST_PREFILL_TOK_S,
    AGAINST_DECODE_TOK_S,
    AGAINST_PREFILL_BYTES, // a token, from the drive
    AGAINST_DECODE_BYTES,
    AGAINST_HIT_RATE,
    AGAINST_WEIGHTS_BYTES,
    AGAINST_MEASURES,
};

struct against_figure against_arm_figure(const struct against *against, uint32_t arm, enum against_measure m);

// The chosen configuration's speed over an arm's, of the rounds in which both have run.
struct against_figure against_ratio(const struct against *against, uint32_t arm, enum against_measure m);

// How far the memory for weights of all runs lies apart, mapped ones left out, and how far it may: one
// expert. Returns whether it is equal in that sense.
bool against_memory_is_equal(const struct against *against, uint64_t *out_apart_bytes,
                             uint64_t *out_allowed_bytes);

bool against_is_offloaded(const struct against *against); // any of the runs

void against_print_table(FILE *stream, const struct against *against);
int against_print_json(FILE *stream, const struct against *against);

#endif
