// Lode runs Gemma 4 models from GGUF files. This is the whole public interface.
//
//   file       what a model file says about itself, without loading its weights
//   tokenizer  text to token ids and back
//   processor  what the CPU is, and what an engine would use of it
//   devices    what else computes: GPUs
//   engine     a loaded model: weights, device, threads
//   plan       how a model would run on a machine, and how fast
//   session    one timeline of tokens with its KV cache; an engine may have several, whose calls take turns
//
// Functions that can fail return 0 or a negative enum lode_code and fill *error (which may be NULL). Nothing
// here prints, exits, reads the environment or keeps global state; an engine can be opened twice in a
// process. Objects are released by the function that stands beside the one that made them; releasing NULL
// does nothing.
#ifndef LODE_H
#define LODE_H

#include "lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

const char *lode_version(void);

// Reports progress of something long; returning false cancels it with LODE_ERR_CANCELLED.
typedef bool (*lode_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

// ---- file
// ----------------------------------------------------------------------------------------------------

struct lode_file;

int lode_file_open(struct lode_file **out, const char *path, struct lode_error *error);
void lode_file_close(struct lode_file *file);

// A layer is local (sliding window) or global; the two kinds have their own head size and number of KV heads.
struct lode_shape {
    char name[64]; // general.name of the file, or the shape's own
    char size[16]; // "E2B", "E4B", "12B", "26B-A4B", "31B", or "custom"
    uint32_t n_layers, n_global_layers, n_shared_kv_layers;
    uint32_t hidden, vocab, context_limit, window;
    uint32_t n_heads, n_kv_heads_local, n_kv_heads_global, head_size_local, head_size_global;
    uint32_t ffn_width_min, ffn_width_max; // dense FFN; wider in the layers that share KV of some models
    uint32_t n_experts, n_experts_used, expert_width; // 0 without experts
    uint32_t ple_width;                               // per-layer embedding, values per layer; 0 without
    float rope_base_local, rope_base_global, final_softcap;
    uint64_t parameters,
        parameters_per_token;               // in the text model; those a decoded token reads (tied head once)
    uint64_t weight_bytes, bytes_per_token; // likewise; single rows of tables are left out
    char type[16];                          // of most of bytes_per_token: "Q4_0"
    uint64_t kv_fixed_bytes,
        kv_bytes_per_token; // F16 cache: the local rings, and what grows with the context
};

// A group of placement units of one kind and one mix of types, as `lode info` shows them.
struct lode_group {
    const char *kind;  // "embedding", "attention", "dense ffn", "expert", …
    const char *types; // "Q4_0" or "Q4_0+Q6_K"
    uint64_t units, parameters, bytes;
};

struct lode_tensor_info {
    const char *name, *type, *unit_kind; // unit_kind is NULL for a tensor that the model does not use
    uint32_t n_dims;
    uint64_t ne[4]; // ne[0] is contiguous
    uint64_t bytes, offset;
    const char *file;
};

// Hyperparameters; fails when the file is no model that Lode can run, and says why.
int lode_file_shape(const struct lode_file *file, struct lode_shape *out, struct lode_error *error);

// A number that tells one model from another, wherever its files lie; made from their headers and from
// samples of the weights, which are read.
int lode_file_fingerprint(const struct lode_file *file, uint64_t *out, struct lode_error *error);

size_t lode_file_group_count(const struct lode_file *file);
void lode_file_group(const struct lode_file *file, size_t index, struct lode_group *out);
size_t lode_file_tensor_count(const struct lode_file *file);
void lode_file_tensor(const struct lode_file *file, size_t index, struct lode_tensor_info *out);

// ---- tokenizer
// -----------------------------------------------------------------------------------------------

struct lode_tokenizer;

int lode_tokenizer_open(struct lode_tokenizer **out, const char *path, struct lode_error *error);
void lode_tokenizer_close(struct lode_tokenizer *tokenizer);

enum lode_encode_flags {
    LODE_ENCODE_SPECIAL = 1, // special tokens in the text are recognised
    LODE_ENCODE_BOS = 2,     // <bos> in front, unless it is there already
};

// Any bytes to ids. *out_ids is malloc'ed, the caller frees it.
int lode_encode(const struct lode_tokenizer *tokenizer, const char *text, size_t len, unsigned flags,
                int32_t **out_ids, size_t *out_count, struct lode_error *error);

// The bytes of one token (a part of a character is possible), valid as long as the tokenizer.
const char *lode_piece(const struct lode_tokenizer *tokenizer, int32_t id, bool show_special,
                       size_t *out_len);
uint32_t lode_vocab_size(const struct lode_tokenizer *tokenizer);

// ---- chat
// ----------------------------------------------------------------------------------------------------

struct lode_chat_options {
    bool thinking;      // ask for the thinking channel
    bool empty_thought; // large models (26B, 31B): an empty thought closes the prompt when thinking is off
    bool preserve_thinking;     // keep the reasoning of earlier messages that carry tool calls
    bool add_generation_prompt; // open the model's turn
};

// Renders a conversation {"messages":[…],"tools":[…]} as the reference template does. *out_text is malloc'ed.
int lode_chat_render(char **out_text, const char *conversation_json, const struct lode_chat_options *options,
                     struct lode_error *error);

// The same, straight to ids: special tokens typed inside a message stay plain text. *out_starts_thinking
// tells that the reply begins inside the thinking channel.
int lode_chat_encode(const struct lode_tokenizer *tokenizer, const char *conversation_json,
                     const struct lode_chat_options *options, int32_t **out_ids, size_t *out_count,
                     bool *out_starts_thinking, struct lode_error *error);

// A complete reply, special tokens shown, to a JSON message {"role","content","reasoning","tool_calls"}.
int lode_chat_parse(char **out_json, const char *reply, size_t len, bool starts_thinking,
                    struct lode_error *error);

// ---- processor
// ---------------------------------------------------------------------------------------------------

#define LODE_CPU_KINDS 8
#define LODE_CPU_CACHES 16
#define LODE_CPU_NODES 64
#define LODE_CPU_FEATURES 32
#define LODE_CPU_ISAS 8
#define LODE_CPU_THREADS 1024

// What the CPU of this machine is, and what an engine would use of it. Plain data, some 56 KiB. Of an array
// whose count is larger than its size, the first are there.
struct lode_cpu {
    char model[96];                       // empty: the system does not tell
    uint32_t n_cores, n_hardware_threads; // of the machine; cores are physical
    // Those that the affinity of the calling thread allows, and the hardware threads as "0-3,8".
    uint32_t n_cores_allowed, n_hardware_threads_allowed;
    char affinity[256];
    double quota_processors; // that the control groups pay for; 0: there is no quota

    uint32_t n_kinds;
    struct lode_cpu_kind {
        char name[16]; // "P" or "E" where the processor says so, else empty
        uint32_t n_cores, n_hardware_threads;
        uint32_t max_mhz;    // 0: not known
    } kinds[LODE_CPU_KINDS]; // the fastest first

    uint32_t n_caches;
    struct lode_cpu_cache {
        uint32_t level; // of data
        uint64_t bytes;
        uint32_t n_cores; // that share one
        uint32_t count;   // of such caches
    } caches[LODE_CPU_CACHES];

    uint32_t n_nodes;
    struct lode_cpu_node {
        uint32_t os_index, n_cores;
        uint64_t memory_bytes; // 0: not known
    } nodes[LODE_CPU_NODES];

    uint32_t n_features;
    struct lode_cpu_feature {
        const char *name; // "AVX2"
        bool present;     // in the processor; what the system keeps from being used, `missing` below tells
    } features[LODE_CPU_FEATURES];

    uint32_t n_isas;
    struct lode_cpu_isa {
        const char *name, *summary;
        bool available, chosen; // chosen: what an engine takes that is not told otherwise
        char missing[256];      // what keeps it from being available; else empty
    } isas[LODE_CPU_ISAS];

    uint32_t n_threads;  // one for each core, at most as many as the quota pays for; or those asked for
    uint32_t processors; // that the process may use and pays for: more threads than these take turns
    bool placed;         // each thread has processors of its own; not when there are more threads than those
    char places[LODE_CPU_THREADS][48]; // of each thread, "0,16"; the first is the caller's, which is not held
    char huge_pages[16];               // "always", "madvise", "never"; empty: the system does not tell
};

// `threads` as in lode_engine_options; fails when there are too many of them.
int lode_cpu_describe(struct lode_cpu *out, uint32_t threads, struct lode_error *error);

// ---- engine
// --------------------------------------------------------------------------------------------------

struct lode_engine;

// Tells of a choice that was not the caller's: a fallback, or something that was there and is ignored. One
// sentence.
typedef void (*lode_note_fn)(void *user, const char *text);

struct lode_engine_options {
    uint32_t threads; // 0: one for each physical core that the process may use
    // NULL: the best this CPU has; else "portable", "avx2", "avx2-vnni", "avx512", "amx": acts or fails
    const char *isa;
    // A ceiling for all memory of the process: weights, KV cache, scratch, tokenizer, buffers. What of the
    // weights does not fit is read from the files while it is needed. 0: what the machine and its control
    // groups have available.
    uint64_t ram_bytes;
    // Which experts stay in memory: a name of lode_policy_name, or the path of a shared object, with a '/' in
    // it or ending in ".so"; NULL: the first of the names.
    const char *policy;
    // How the files are read: NULL or "auto", "uring", "threads"; acts or fails. "mmap": they are mapped into
    // memory, and the kernel's page cache decides what of them stays. Then the ceiling binds the pages only
    // where a control group does, so that ram_bytes fails without one; policy, prefetch and ring do nothing,
    // and what lode_offload_stats tells of hits and reads says nothing.
    const char *io;
    const char *mirror; // a second copy of the model on another drive, read at the same time; may be NULL
    // How the experts of the next layer are guessed for a token: a name of lode_predictor_name, or the path
    // of a shared object as above; NULL: the first of the names. "none" is the same as no_prefetch.
    const char *predictor;
    bool no_prefetch; // experts are read only when they have been chosen
    uint32_t
        prefetch_ranks;   // experts of the next layer that are guessed for a token; 0: as many as it chooses
    uint32_t queue_depth; // reads in flight at once; 0: 16
    uint64_t ring_bytes;  // memory that streamed weights pass through; 0: the least that works
    bool no_repack;       // weights keep the order of the file in memory, which is slower to compute with
    // What computes beside the CPU, which always does: names of lode_devices with commas between them
    // ("cuda0,cpu"). NULL: every GPU that can be used, which simt, the execution of a GPU's kernels on the
    // CPU for tests, is not; "cpu": none. A name that cannot be used is an error.
    const char *devices;
    uint64_t vram_bytes; // ceiling of each GPU; 0: what is free there, less a part for a display
    // NULL or "auto": unit_gpu, or by rule where there is none: dense weights on the GPUs, and as many
    // experts as fit beside them, the hottest. "by-layer": whole layers with their experts, the last ones.
    const char *placement;
    const uint8_t *unit_gpu; // [n_unit_gpu] of a plan: LODE_HOME_GPU + g as 1 + g, else 0; copied
    uint32_t n_unit_gpu;
    // A machine profile that has been measured (lode probe), by which a prompt's experts are copied to a GPU
    // where that is faster than computing them on the CPU; NULL: they never are. Its GPUs are those of the
    // engine, in the same order.
    const char *profile_path;
    const char *timeline_path; // a file of Chrome's trace format, written when the engine closes; NULL: none
    const char *heat_dir;      // where it is kept from run to run how often experts are chosen; NULL: nowhere
    bool cold;                 // what is kept is neither used nor changed
    // A file that what the run chooses, guesses and reads is recorded into (docs/trace-format.md); NULL:
    // none. It is made when the first session is opened. A failed write ends the recording, not the run, and
    // is told as a note. Needs a model with experts.
    const char *trace_path;
    lode_progress_fn on_progress; // of loading
    lode_note_fn on_note;         // may be NULL
    void *user;
};

struct lode_engine_options lode_engine_options_default(void);

// The devices that there are, and those that there are not and why: written to out[0..max), returns how many.
struct lode_device_info {
    char name[16];         // "cpu", "cuda0"; "hip" where there is none
    char description[96];  // "NVIDIA GeForce RTX 4070"
    char architecture[16]; // "sm_89"; empty where there is none
    char toolkit[48];      // that the kernels were built with; empty where there are none
    char built_for[128];   // the architectures that there are kernels for
    uint64_t memory_bytes, free_bytes;
    bool usable, is_gpu, is_emulated, has_display;
    char why[256]; // what keeps it from being used
};
size_t lode_devices(struct lode_device_info *out, size_t max);

// The GPUs that an engine with these `devices` (of its options) computes with, in its order: at most
// LODE_PLAN_GPUS, of which out[0..max) are written. Fails as opening the engine does: LODE_ERR_ARGUMENT where
// it is no list of devices, LODE_ERR_UNSUPPORTED where one of them cannot be used.
int lode_devices_used(struct lode_device_info *out, size_t *out_n, size_t max, const char *devices,
                      struct lode_error *error);

// The policies for experts and what each does; NULL beyond the last.
const char *lode_policy_name(size_t index, const char **out_summary);

// Likewise for the predictors; the last of them is "none".
const char *lode_predictor_name(size_t index, const char **out_summary);

// Opens a model. Its weights are read when the first session tells how much memory is left for them.
int lode_engine_open(struct lode_engine **out, const char *path, const struct lode_engine_options *options,
                     struct lode_error *error);
void lode_engine_close(struct lode_engine *engine);

const struct lode_tokenizer *lode_engine_tokenizer(const struct lode_engine *engine);
const struct lode_shape *lode_engine_shape(const struct lode_engine *engine);
uint32_t lode_engine_threads(const struct lode_engine *engine);
const char *lode_engine_isa(const struct lode_engine *engine);
// Tells one set-up from another: where every weight has its home, and how the engine and its first session
// are set. The same in each run of the same set-up; 0 before the first session.
uint64_t lode_engine_plan_hash(const struct lode_engine *engine);
double
lode_engine_load_seconds(const struct lode_engine *engine); // reading weights included, once it is done

// ---- plans
// ---------------------------------------------------------------------------------------------------

// How a model would run on a machine: what lies where, and how fast it would be, from a machine profile.
// Nothing is loaded and nothing is measured.
struct lode_plan_options {
    const char *shape, *type; // instead of a file: of struct lode_synth_options; type NULL: "q4_0"
    const char *machine_file; // a machine profile, or
    const char *machine_text; // a machine in a few words: "ram=32G@60,cores=8,drive=3.5"
    bool this_machine;        // the profile is of this machine: what is available here is the memory there is
    uint64_t ram_bytes;       // as in lode_engine_options; 0: what the machine has
    uint32_t threads;         // 0: those that the profile was made with
    uint32_t context;     // tokens of the timeline; 0: 4096, or what each of the contexts asked about needs
    uint32_t batch;       // as in lode_session_options; 0: the planner chooses
    int kv;               // enum lode_kv_type
    const char *heat_dir; // as in lode_engine_options
    bool no_prefetch;     // as there; and ring_bytes
    uint64_t ring_bytes;
    bool no_gpu;         // GPUs of the profile are left out
    uint64_t vram_bytes; // ceiling of each GPU, of which there must be one; 0: its memory less a part for a
                         // display
    double drive_gbps;   // instead of the profile's drives: one that reads so fast in sequence; 0: theirs
    // The turn that is planned for: so many tokens of a prompt, then so many generated. 0: 512 and 128.
    uint32_t prompt_tokens, generated_tokens;
    bool no_advice; // neither changes nor refused alternatives are looked for, which takes most of the time
};

#define LODE_PLAN_GROUPS 16
#define LODE_PLAN_CONTEXTS 3
#define LODE_PLAN_WARNINGS 12
#define LODE_PLAN_GPUS 4
#define LODE_PLAN_CHANGES 3
#define LODE_PLAN_REFUSED 8

// Shares of the time of a pass; they add up to 1.
struct lode_plan_shares {
    double kernels, attention, operations; // of the CPU
    double drive;                          // waiting for it
    double gpu, link;
    const char
        *limiter; // the largest: "cpu kernels", "attention", "small operations", "drive", "gpu", "link"
};

struct lode_plan_expected {
    uint32_t context; // tokens before
    double decode_tok_s, decode_low, decode_high;
    uint32_t prefill_tokens; // of a prompt behind that context
    double prefill_tok_s, prefill_low, prefill_high;
    struct lode_plan_shares decode, prefill;
    double read_bytes_per_token; // decode, from the drive
    double hit_rate;             // of the experts chosen in decode; 1 where all are in memory
};

// Where weights lie: in RAM from start to end, in RAM while a pool of experts keeps them, streamed from the
// drive in each pass, by the row, or LODE_HOME_GPU + g.
enum lode_home { LODE_HOME_RAM, LODE_HOME_POOL, LODE_HOME_STREAM, LODE_HOME_ROWS, LODE_HOME_GPU };

struct lode_plan_unit {
    const char *kind;      // as in groups
    uint32_t layer, index; // layer: UINT32_MAX outside of them; index: of the expert
    uint64_t bytes;
    uint8_t home;
    float heat; // of an expert: choices a token, of earlier runs; 0: not known
};

// Texts are its own or constants. Released by lode_plan_free.
struct lode_plan {
    struct lode_shape shape;
    char machine[96], machine_source[512], cpu[96], drive[96]; // drive is empty where none is used
    bool measured; // the profile is; else from data sheets or words
    // What a run needs to do as planned; the options' own where they were given.
    uint32_t threads, context, batch;
    uint64_t ring_bytes;
    bool prefetch;
    uint64_t ceiling_bytes, kv_bytes, scratch_bytes,
        program_bytes; // RAM; program: with tokenizer and reserve
    uint32_t n_gpus;   // that are used
    struct lode_plan_gpu {
        char name[96];
        uint64_t ceiling_bytes, kv_bytes, scratch_bytes;
    } gpus[LODE_PLAN_GPUS];
    uint32_t n_groups;
    struct lode_plan_group {
        const char *kind;
        uint64_t units, bytes, ram_bytes, nvme_bytes; // ram: that stays there; nvme: that is read from there
        uint64_t gpu_bytes[LODE_PLAN_GPUS];
    } groups[LODE_PLAN_GROUPS];
    uint64_t buffer_bytes; // of memory, for what is streamed and for rows
    uint32_t n_units;
    struct lode_plan_unit *units;
    uint32_t n_expected;
    struct lode_plan_expected expected[LODE_PLAN_CONTEXTS];
    uint32_t n_changes; // what would help most, the largest gain first
    struct lode_plan_change {
        char what[96]; // "+8 GB RAM"
        bool lossy;
        double decode_tok_s, prefill_tok_s; // after context 0, where these were expected[0]'s
    } changes[LODE_PLAN_CHANGES];
    uint32_t n_refused; // what was considered and is slower or does not fit, the best first
    struct lode_plan_refused {
        char what[96]; // "whole layers on the GPU (8 of 30)"
        bool fits;
        double turn_longer;  // 0.09: the turn that is planned for would take 9% longer
        double decode_tok_s; // both 0 where it does not
    } refused[LODE_PLAN_REFUSED];
    uint32_t n_warnings;
    char warnings[LODE_PLAN_WARNINGS][256];
};

// `path` is NULL where a shape is named. Fails with LODE_ERR_MEMORY when the machine or the ceiling is too
// small for the model; then, too, there is nothing to free.
int lode_plan_make(struct lode_plan *out, const char *path, const struct lode_plan_options *options,
                   struct lode_error *error);
void lode_plan_free(struct lode_plan *plan);

// Seconds of decoding one token, or of a prompt's token, after so many tokens: between the plan's contexts
// its times are interpolated linearly, beyond them extended.
double lode_plan_decode_seconds(const struct lode_plan *plan, double context);
double lode_plan_prefill_seconds(const struct lode_plan *plan, double context);

// ---- session
// -------------------------------------------------------------------------------------------------

struct lode_session;

enum lode_kv_type { LODE_KV_F16 = 0, LODE_KV_Q8_0 = 1, LODE_KV_F32 = 2 };

struct lode_session_options {
    uint32_t context; // tokens of the timeline; 0: the model's limit, or what memory allows if that is less
    uint32_t batch; // tokens of a prefill step; 0: 512. Weights that are not kept are read once for each step
    enum lode_kv_type kv;
    // Asked between layers and while a read is waited for; false ends the call with LODE_ERR_CANCELLED. May
    // be NULL.
    bool (*keep_going)(void *user);
    void *user;
};

// The first session of an engine loads the weights. Fails with LODE_ERR_MEMORY when the ceiling is below what
// this model and session need at least, and says what takes it and what would lower it.
int lode_session_open(struct lode_session **out, struct lode_engine *engine,
                      const struct lode_session_options *options, struct lode_error *error);
void lode_session_close(struct lode_session *session);

uint32_t lode_session_context(const struct lode_session *session);
uint32_t lode_session_position(const struct lode_session *session); // tokens in the timeline
uint64_t lode_session_kv_bytes(const struct lode_session *session);

// Appends tokens; afterwards lode_session_logits() are those of the last one. `on_progress` may be NULL. A
// cancelled or failed call leaves the tokens of its complete steps in the timeline.
int lode_session_feed(struct lode_session *session, const int32_t *ids, size_t count,
                      lode_progress_fn on_progress, void *user, struct lode_error *error);

// vocab floats after the soft cap, valid until the session changes; NULL while the timeline is empty.
const float *lode_session_logits(const struct lode_session *session);

// Appends `count` tokens, at most a batch, and writes the logits of the last `want` of them: [want][vocab].
int lode_session_eval(struct lode_session *session, const int32_t *ids, size_t count, size_t want,
                      float *out_logits, struct lode_error *error);

// For measuring: appends `count` positions whose keys and values are noise of the size that real ones have.
// What follows costs what it costs after as many tokens, and says nothing sensible. The logits become
// unavailable until tokens are appended. A failed or cancelled call may leave an empty timeline.
int lode_session_fill(struct lode_session *session, uint32_t count, uint64_t seed, struct lode_error *error);

// Bytes of the KV cache that are read to decode the token at a position, all layers together.
uint64_t lode_session_kv_read_bytes(const struct lode_session *session, uint32_t position);

// Shortens the timeline to at most `keep` tokens and returns what is left: `keep`, or 0 where the sliding
// windows before that point are gone. The logits become unavailable until tokens are appended.
uint32_t lode_session_rewind(struct lode_session *session, uint32_t keep);

struct lode_logit_bias {
    int32_t id;
    float bias; // -INFINITY bans the token
};

struct lode_sampling {
    float temperature;          // 0: greedy
    uint32_t top_k;             // 0: off
    float top_p;                // 1: off
    float min_p;                // 0: off
    float repetition_penalty;   // 1: off
    uint32_t repetition_window; // tokens looked back; 0: all
    uint64_t seed;
    const struct lode_logit_bias *biases;
    size_t n_biases;
};

struct lode_sampling lode_sampling_default(void); // the model's: temperature 1, top-k 64, top-p 0.95

enum lode_part { LODE_PART_CONTENT = 0, LODE_PART_REASONING = 1, LODE_PART_TOOL_CALL = 2 };

// One generated token (id -1: what was held back of a character that never became complete). `text` holds the
// characters that became complete with it (maybe none); `part` tells them apart when the generation splits
// the reply. Returning false stops the generation.
typedef bool (*lode_token_fn)(void *user, int32_t id, enum lode_part part, const char *text, size_t len);

enum lode_stop { LODE_STOP_END = 0, LODE_STOP_LENGTH = 1, LODE_STOP_CONTEXT = 2, LODE_STOP_CALLER = 3 };

struct lode_generate_options {
    struct lode_sampling sampling;
    uint32_t max_tokens; // 0: until the model ends or the context is full
    bool ignore_end;     // go on after an end token
    bool show_special;   // control tokens appear in the text
    bool split_reply; // tell reasoning, tool calls and content apart; their markers are left out of the text
    bool starts_thinking; // the prompt has opened the thinking channel
    lode_token_fn on_token;
    void *user;
};

struct lode_generate_options lode_generate_options_default(void);

// Generates after the tokens fed so far. The sampled tokens join the timeline, the end token included; a
// further call goes on where this one stopped.
int lode_session_generate(struct lode_session *session, const struct lode_generate_options *options,
                          enum lode_stop *out_stop, struct lode_error *error);

// Counts since the session was opened; latencies are between consecutive tokens of the generations.
struct lode_stats {
    uint64_t prompt_tokens, generated_tokens;
    double prefill_s, decode_s;
    double prefill_tok_s, decode_tok_s; // decode: passes a second, the first token being the prefill's
    double ttft_s; // from the start of the last feed to the first token of the generation after it
    double token_ms_p50, token_ms_p95, token_ms_p99;
    uint64_t weight_bytes, kv_bytes, scratch_bytes, peak_rss_bytes;
    // Where the time went: they add up to prefill_s and decode_s.
    struct lode_parts {
        double kernels_s, attention_s, operations_s; // of the CPU
        double drive_s, gpu_s;                       // waiting for the drive, for GPUs
    } prefill_parts, decode_parts;
};

void lode_session_stats(const struct lode_session *session, struct lode_stats *out);

// What went on between memory and the files since the session was opened. Hits, misses and stalls are those
// of decode unless they say prefill.
struct lode_offload_stats {
    bool offloaded;          // some weights are not kept in memory
    uint64_t ceiling_bytes;  // asked for, or found
    uint64_t pinned_bytes;   // weights that stay in memory
    uint64_t pool_bytes;     // room for experts that come and go
    uint64_t streamed_bytes; // dense weights that are read in each pass
    uint64_t ring_bytes;     // room that these pass through
    uint32_t pool_slots, experts;

    uint64_t choices, hits;               // experts chosen in decode, and those that were in memory by then
    double hit_rate;                      // 1 when nothing was chosen
    double reuse;                         // share of choices that the layer had made for the token before
    uint64_t load_bytes;                  // read to fill memory at the start
    uint64_t prefill_bytes, decode_bytes; // read from the files
    double bytes_per_token;               // decode
    double prefill_stall_s, stall_s, stall_share;          // waiting for reads; share of decode_s
    uint64_t prefetch_useful_bytes, prefetch_wasted_bytes; // read on a guess that came true, or did not
    bool prefetch_on;                                      // it has not switched itself off
    double disk_busy_share;                                // of decode_s, with a read in flight
    double disk_gbps;                                      // while busy
    const char *policy, *io;
};

void lode_session_offload(const struct lode_session *session, struct lode_offload_stats *out);

// What a GPU held and did since the session was opened, in the order of the engine's devices.
struct lode_gpu_stats {
    char name[16];                     // "cuda0"
    uint64_t pinned_bytes, pool_bytes; // weights with a home there; room for copies of experts
    uint32_t pool_slots, pool_used;    // experts that there is room for, and those that are there
    uint64_t hits;                     // of the choices of decode, those that it computed
    uint64_t uploads, upload_bytes;    // experts copied there for one pass, by prefill
    uint64_t replaced_bytes;           // copied between turns, for hotter experts
    uint64_t yielded_bytes;            // given up for K and V
    uint64_t kv_bytes, scratch_bytes;
};

// Writes out[0..max), returns how many GPUs the session has; 0 on the CPU alone.
size_t lode_session_gpus(const struct lode_session *session, struct lode_gpu_stats *out, size_t max);

struct lode_layer_stats {
    uint64_t choices, hits, bytes; // decode
    double stall_s;
};

void lode_session_layer(const struct lode_session *session, uint32_t layer, struct lode_layer_stats *out);

// The generated tokens that took longer than the p99, slowest first, at most `max`; returns how many.
struct lode_slow_token {
    uint64_t index; // of the generated token, from 0
    double ms, stall_ms;
    double worst_stall_ms;
    char worst[96]; // what that stall waited for: "expert 17 of layer 3, demand read"; empty without a stall
};

size_t lode_session_slow_tokens(const struct lode_session *session, struct lode_slow_token *out, size_t max);

// ---- synthetic models
// ----------------------------------------------------------------------------------------

// Model files of real shapes with random weights, for measuring and testing without a download.
struct lode_synth_options {
    const char *shape; // "e2b", "e4b", "12b", "26b-a4b", "31b", or small: "tiny-e2b", "tiny-moe", "tiny-31b"
    const char *type;  // of the matrices, in any case of letters: "q4_0", "Q4_K", …, or a mix: "q4_k_m"
    const char *head_type; // of embedding and per-layer embedding; NULL: what published files have
    uint64_t seed;
    float skew;       // Zipf exponent of the experts' popularity, 0 (all alike) to 4
    uint32_t layers;  // 0: those of the shape
    uint32_t threads; // 0: all processors; the file is the same for any number
    bool sync;        // the file is on the disk when the call returns
};

struct lode_synth_options lode_synth_options_default(void); // e2b, q4_0

#define LODE_SYNTH_GROUPS 9

struct lode_synth_size {
    uint64_t tensors, parameters, weight_bytes, file_bytes;
    struct lode_synth_group {
        const char *kind;
        char types[64]; // "Q4_K+Q5_0"
        uint64_t tensors, parameters, bytes;
    } groups[LODE_SYNTH_GROUPS]; // tensors is 0 for a group that the shape has not
};

// What the file would take. Fails where the options make no sense, and lists what there is.
int lode_synth_measure(struct lode_synth_size *out, const struct lode_synth_options *options,
                       struct lode_error *error);

// Writes the file: under a temporary name beside `path` until it is complete, so a failed or cancelled call
// leaves nothing. A full disk is told before the first byte of weights where the file system can reserve
// space. `on_progress` may be NULL.
int lode_synth_write(const char *path, const struct lode_synth_options *options, lode_progress_fn on_progress,
                     void *user, struct lode_error *error);

#ifdef __cplusplus
}
#endif
#endif
