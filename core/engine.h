// The inside of an engine, for the sessions that run on it.
#ifndef LODE_ENGINE_H
#define LODE_ENGINE_H

#include "core/devices.h"
#include "core/forward.h"
#include "core/lode.h"
#include "core/tokenizer_api.h"
#include "placement/expert_rates.h"
#include "placement/heat.h"
#include "placement/policy_plugin.h"
#include "placement/predictor_plugin.h"
#include "placement/trace_settings.h"

// What a session takes, and what tells how to make it smaller.
struct session_needs {
    uint64_t kv_bytes, scratch_bytes; // of the host; scratch: activations, logits and the device's own
    uint32_t context, batch;
    enum lode_kv_format format;
};

// What computes beside the CPU.
struct engine_gpus {
    struct device_list *list; // NULL where none was looked for
    struct device_choice choice;
    struct lode_device *devices[HOME_GPUS];
    uint32_t n;
    uint64_t ceiling_bytes[HOME_GPUS];
    uint64_t weights_bytes[HOME_GPUS]; // of it, for weights beside the first session
    bool library_chosen;               // for whose products, or for none
    bool by_library[HOME_GPUS];        // products of prompts
    uint8_t *unit_gpu; // [n_units] as in struct residency_options; NULL before the first session
};

struct lode_engine {
    struct gemma_model model;
    struct lode_shape shape;
    struct lode_tokenizer *tokenizer;
    struct io *io;
    struct mapped *mapped;      // NULL unless the options say so
    struct lode_device *device; // the CPU
    struct engine_gpus gpus;
    struct residency *residency; // NULL until the first session is there
    struct weight_matrices matrices;
    struct forward_weights weights;
    struct lode_logit_bias *suppressed; // tokens that the file says must never be sampled
    size_t n_suppressed;
    double open_s, load_s;

    struct lode_engine_options options;        // its texts are the engine's own
    const struct policy_ops *policy;           // NULL: the default
    struct policy_plugin *plugin;              // that it is from; NULL for one of the table
    const struct predictor_ops *predictor_ops; // NULL: nothing is guessed
    struct predictor_plugin *predictor_plugin; // that it is from; NULL for one of the table
    struct predictor *predictor;               // NULL without experts
    struct trace_writer *trace;                // NULL: nothing is recorded
    struct lode_timeline *timeline;            // NULL likewise
    bool trace_failed;                         // and that was told
    char *path, *heat_path;                    // heat_path is NULL where no heat is kept
    uint64_t fingerprint;
    uint64_t plan_hash; // 0 until the first session is there
    struct heat heat;
    uint64_t heat_written_ns;
    uint64_t ceiling_bytes; // of the process; UINT64_MAX where nothing tells
    uint64_t base_bytes; // beside weights and sessions: the program when the model was opened, and a reserve
    uint64_t sessions_bytes;
};

// Memory that an allocation may still take, and what stays free for the rest of the system. 0 where the
// machine does not tell: then nothing is refused.
uint64_t engine_available_bytes(void);

// What the kernel keeps for a process under a ceiling and small allocations that nobody counts: page tables,
// libraries' pages, io buffers, stacks. More where the ceiling was asked for and is a promise.
uint64_t engine_reserve_bytes(uint64_t ceiling_bytes, bool asked_for);

// Finds the ceiling and what of it is gone already; at the end of opening.
void engine_settle_ceiling(struct lode_engine *engine);

// What a new session may take: beside weights that all fit where possible, else an eighth of the memory; and
// `at_most`, which leaves weights no more than they need at least. UINT64_MAX where nothing is known.
struct session_room {
    uint64_t comfortable_bytes, at_most_bytes;
};

struct session_room engine_session_room(const struct lode_engine *engine);

// Memory for weights beside a session that has been allocated: 0 when everything fits. Fails below the floor,
// and says what it is made of.
int engine_weights_budget(uint64_t *out, const struct lode_engine *engine, const struct session_needs *needs,
                          struct lode_error *error);

// ---- engine_files.c

// Whether the options' way of reading is possible; and header, tokenizer and io.
int engine_files_check(const struct lode_engine *engine, struct lode_error *error);
int engine_files_open(struct lode_engine *engine, struct lode_error *error);

// ---- engine_heat.c

int engine_heat_open(struct lode_engine *engine, struct lode_error *error);

// Writes what is known of the experts' heat, but not more often than every few minutes unless it is the end.
void engine_keep_heat(struct lode_engine *engine, bool end);

// ---- engine_gpu.c

// Opens the devices that the options ask for.
int engine_gpus_open(struct lode_engine *engine, struct lode_error *error);
void engine_gpus_close(struct lode_engine *engine);

// Settles what lies on GPUs, beside a session like this. Before the first session only; it may be called
// again with another.
int engine_gpus_place(struct lode_engine *engine, uint32_t context, uint32_t batch,
                      enum lode_kv_format format, struct lode_error *error);

// Makes a GPU's own scratch for steps of so many tokens.
int engine_gpu_reserve(struct lode_engine *engine, uint32_t g, uint32_t batch, struct lode_error *error);

// Whether K and V of so long a context would take little of each GPU.
bool engine_gpus_are_roomy(const struct lode_engine *engine, uint32_t context, uint32_t batch,
                           enum lode_kv_format format);

// Makes room on the GPUs for another session: copies of experts give way.
int engine_gpus_make_room(struct lode_engine *engine, uint32_t context, uint32_t batch,
                          enum lode_kv_format format, struct lode_error *error);

// K and V of layers that are the host's.
uint64_t engine_host_kv_bytes(const struct lode_engine *engine, uint32_t context, uint32_t batch,
                              enum lode_kv_format format);

// Memory of the host for weights: the least, and what keeps everything in memory that no GPU has; and whether
// that is less than all experts.
struct homes_bounds engine_host_bounds(const struct lode_engine *engine);
bool engine_spares_experts(const struct lode_engine *engine);

// By bytes, as copies.
bool engine_gpus_have_most_experts(const struct lode_engine *engine);

// Tells what lies where.
void engine_gpus_note(const struct lode_engine *engine);

// ---- engine_library.c

// Settles, once, which products of the GPUs go through their vendors' libraries; before scratch is reserved.
int engine_library_choose(struct lode_engine *engine, uint32_t batch, struct lode_error *error);

// Tells what devices have to say of what they do in another way now.
void engine_tell_notices(struct lode_engine *engine);

// ---- engine_rates.c

// What the profile has of GPU g; NULL where it has another kind of GPU in that place.
const struct profile_device *engine_profile_gpu(const struct lode_engine *engine,
                                                const struct machine_profile *profile, uint32_t g);

// Fills the rates of the GPUs, and the host's; what is not known stays 0.
int engine_rates_read(struct expert_rates *out_host, struct residency_gpu *gpus,
                      const struct lode_engine *engine, struct lode_error *error);

// ---- engine_timeline.c

// Where the options ask for it, collects what the devices do from now on; the file is written at the end.
int engine_timeline_open(struct lode_engine *engine, struct lode_error *error);
void engine_timeline_close(struct lode_engine *engine);

// ----

// Reads the weights, for the first session; for others it only counts.
int engine_load(struct lode_engine *engine, const struct session_needs *needs, struct lode_error *error);

// How the engine is set up, with a session of these needs and so much memory for weights.
struct trace_settings engine_settings(const struct lode_engine *engine, const struct session_needs *needs,
                                      uint64_t budget_bytes);

// Fills plan_hash: where every unit has its home, and how the engine is set up.
int engine_find_plan(struct lode_engine *engine, const struct session_needs *needs, uint64_t budget_bytes,
                     struct lode_error *error);

// Where the options ask for it, begins to record the run into a file: before the weights are read, when it is
// known what memory they have.
int engine_trace_open(struct lode_engine *engine, const struct session_needs *needs, uint64_t budget_bytes,
                      struct lode_error *error);

// Tells once that recording has failed.
void engine_trace_check(struct lode_engine *engine);

// Ends the file. When nothing is recorded it does nothing.
void engine_trace_close(struct lode_engine *engine);

const char *engine_predictor_name(const struct lode_engine *engine);

void engine_note(const struct lode_engine *engine, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
