// Routing traces: what a run chose, guessed and read, token by token and layer by layer.
//
// A writer takes notes beside a run, a reader streams them back, and trace_load puts a whole trace into
// arrays for the simulator. The file is described in docs/trace-format.md. Readers also understand two
// foreign formats, which they tell by their content: the CSV of BigMoeOnEdge's route traces and the binary
// trace of the tiny demo models, both plain or compressed with zstd; what those lack is unknown.
//
// Layers are the model's, experts are numbered from 0 within their layer, times are nanoseconds.
#ifndef LODE_TRACE_H
#define LODE_TRACE_H

#include "base/lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TRACE_MAX_LAYERS 512
#define TRACE_MAX_EXPERTS 4096 // of a layer
#define TRACE_MAX_USED 64      // that a token chooses in a layer
#define TRACE_MAX_RANKS 256    // of a guess
#define TRACE_MAX_PASS_TOKENS (1u << 24)
#define TRACE_NO_EXPERT UINT16_MAX
#define TRACE_DOMAIN_SIZE 64

enum trace_phase { TRACE_PREFILL, TRACE_DECODE, TRACE_PHASE_UNKNOWN, N_TRACE_PHASES };
enum trace_read_kind { TRACE_READ_DEMAND, TRACE_READ_GUESS, TRACE_READ_FILL, N_TRACE_READS };
enum trace_part { TRACE_PART_NONE, TRACE_PART_FIT, TRACE_PART_TEST, N_TRACE_PARTS };

// What the trace has besides the choices. Without a bit the fields are zero.
enum trace_known { TRACE_HAS_WEIGHTS = 1, TRACE_HAS_RESIDENCY = 2, TRACE_HAS_TIMES = 4, TRACE_HAS_READS = 8 };
#define TRACE_HAS_ALL 15u

struct trace_layer {
    uint32_t n_experts, n_used; // 0, 0: a layer without experts
    uint64_t expert_bytes;      // 0: unknown
};

struct trace_header {
    uint64_t fingerprint; // of the model; 0: unknown
    uint64_t plan_hash;   // 0: unknown, or several
    uint32_t known;       // bits of enum trace_known
    uint32_t n_layers;
    struct trace_layer layers[TRACE_MAX_LAYERS];
    char model[256], machine[128], lode_version[32], options[1024]; // may be empty
};

// Counts within the limits above, text without control characters, at least one layer with experts.
int trace_header_check(const struct trace_header *header, struct lode_error *error);

// 0 when both are of one model: the same layers, experts and sizes, and the same fingerprint (the same name
// where neither has one). Otherwise LODE_ERR_ARGUMENT, and a text that names what differs; the names stand
// for the two traces.
int trace_same_model(const struct trace_header *a, const char *name_a, const struct trace_header *b,
                     const char *name_b, struct lode_error *error);

// ---- writing
//
// The calls from trace_pass_begin on are for the thread that steers: they copy into one of a ring of blocks
// made by trace_writer_open, and neither allocate nor lock. A thread of the writer encodes, compresses and
// writes the blocks in their order. When all blocks are full, the call waits for one, and the trace tells for
// how long. A write that fails is remembered and told by trace_writer_close; from then on nothing is kept.

struct trace_writer;

// Makes or empties the file, for its owner alone. The header is copied.
int trace_writer_open(struct trace_writer **out, const char *path, const struct trace_header *header,
                      struct lode_error *error);

// Writes what is left and the end, and frees the writer (which may be NULL) in any case.
int trace_writer_close(struct trace_writer *writer, struct lode_error *error);

// Everything that the writer has allocated; and what any writer allocates at most.
uint64_t trace_writer_memory_bytes(const struct trace_writer *writer);
uint64_t trace_writer_most_bytes(void);

// How long the steering thread has waited for a free block so far.
uint64_t trace_writer_waited_ns(const struct trace_writer *writer);

// True once a write has failed; and why it has, or NULL. The text is the writer's.
bool trace_writer_failed(const struct trace_writer *writer);
const char *trace_writer_failure(const struct trace_writer *writer);

// The next pass begins a conversation. Without this call, one begins with each pass at position 0. `domain`
// says where it is from; of it TRACE_DOMAIN_SIZE - 1 bytes are kept. Between passes only.
void trace_conversation(struct trace_writer *writer, const char *domain, enum trace_part part);

// A pass that does not come to its end (no trace_pass_end) does not count: readers leave its tokens out.
void trace_pass_begin(struct trace_writer *writer, enum trace_phase phase, uint32_t first_position,
                      uint32_t n_tokens, uint64_t t_ns);
void trace_pass_end(struct trace_writer *writer, uint64_t pass_ns, uint64_t stall_ns);

// What a layer's router chose for a token of the pass, best first: `n` experts, at most the layer's n_used.
// Bit i of `resident`: the i-th was in memory at that moment. `weights` may be NULL where the header does not
// have them. They are kept as half floats; a weight that is not finite is kept as 0.
void trace_choice(struct trace_writer *writer, uint32_t layer, uint32_t token, const int32_t *experts,
                  const float *weights, uint32_t n, uint64_t resident, uint64_t t_ns);

// What the layer was guessed to choose, best first; said before the choice. Ranks beyond TRACE_MAX_RANKS are
// dropped.
void trace_guess(struct trace_writer *writer, uint32_t layer, uint32_t token, const int32_t *experts,
                 uint32_t n);

// An expert that has come from the files; said when it has, also between passes.
void trace_read(struct trace_writer *writer, uint32_t layer, uint32_t expert, uint64_t bytes,
                enum trace_read_kind kind, uint64_t t_submit_ns, uint64_t t_done_ns);

// ---- reading

enum trace_event_kind {
    TRACE_EVENT_END, // nothing comes after it
    TRACE_EVENT_CONVERSATION,
    TRACE_EVENT_PASS,
    TRACE_EVENT_CHOICE,
    TRACE_EVENT_GUESS,
    TRACE_EVENT_READ,
    TRACE_EVENT_PASS_END,
    TRACE_EVENT_WAITED,
};

// The fields behind each kind's name are set, the others are not to be looked at. Times are since the first
// time that the trace tells, and 0 where the trace has no times.
struct trace_event {
    enum trace_event_kind kind;
    uint32_t conversation; // CONVERSATION: its number, from 0
    enum trace_part part;
    char domain[TRACE_DOMAIN_SIZE];
    enum trace_phase phase; // PASS
    uint32_t first_position, n_tokens;
    uint32_t layer;             // CHOICE, GUESS, READ
    uint32_t token;             // CHOICE, GUESS: from 0 within the pass
    uint32_t n;                 // CHOICE, GUESS
    uint64_t resident;          // CHOICE
    enum trace_read_kind read;  // READ
    uint32_t expert;            // READ
    uint64_t bytes;             // READ
    int64_t t_ns, t_done_ns;    // PASS, CHOICE, READ (submitted); READ
    uint64_t pass_ns, stall_ns; // PASS_END
    uint64_t waited_ns;         // WAITED
    uint16_t experts[TRACE_MAX_RANKS];
    float weights[TRACE_MAX_USED];
};

struct trace_reader;

// Opens a file and reads its header. The second takes a stream over, and closes it in any case; `name` is for
// messages.
int trace_reader_open(struct trace_reader **out, const char *path, struct lode_error *error);
int trace_reader_open_stream(struct trace_reader **out, FILE *stream, const char *name,
                             struct lode_error *error);
void trace_reader_close(struct trace_reader *reader);

const struct trace_header *trace_reader_header(const struct trace_reader *reader);

// "lode", "csv" or "tiny".
const char *trace_reader_format(const struct trace_reader *reader);

// The next event. Everything has been checked: layers, tokens, experts and counts are within what the header
// and the pass say, weights are finite, no token chooses an expert twice. What is damaged is an error that
// names the byte (of a compressed import: of its content) where it is.
int trace_reader_next(struct trace_reader *reader, struct trace_event *out, struct lode_error *error);

// After TRACE_EVENT_END: NULL for a whole trace; for one that was cut off, by a crash say, where it ends and
// how many tokens were read.
const char *trace_reader_cut(const struct trace_reader *reader);

// ---- a whole trace

struct trace_token {
    uint32_t position, conversation, pass;
};

struct trace_pass {
    uint32_t first_token, n_tokens;
    enum trace_phase phase;
    int64_t t_ns;
    uint64_t pass_ns, stall_ns;
};

struct trace_read_done {
    uint32_t pass; // the pass that it ended in or after; UINT32_MAX: before the first
    uint32_t layer;
    uint32_t expert;
    enum trace_read_kind kind;
    uint64_t bytes;
    int64_t t_submit_ns, t_done_ns;
};

struct trace_conversation {
    char domain[TRACE_DOMAIN_SIZE];
    enum trace_part part;
    uint32_t first_token, n_tokens;
};

// A row is one token in one layer with experts: row = token * n_moe + m, where m counts those layers.
struct trace {
    struct trace_header header;
    char format[8];
    char cut[512];                        // as of trace_reader_cut; empty for a whole trace
    uint32_t n_moe, n_used;               // n_used: the most of any layer
    uint32_t moe_layer[TRACE_MAX_LAYERS]; // [n_moe] the model's layer

    uint32_t n_tokens, n_passes, n_conversations;
    uint64_t n_reads, n_guess_cells, waited_ns;
    uint64_t n_dropped_tokens; // of passes that did not come to their end
    struct trace_token *tokens;
    struct trace_pass *passes;
    struct trace_conversation *conversations;
    struct trace_read_done *reads;
    uint16_t *experts;     // [rows][n_used]; TRACE_NO_EXPERT behind the last, and where nothing was chosen
    float *weights;        // [rows][n_used], or NULL
    uint64_t *resident;    // [rows], or NULL
    int64_t *times;        // [rows] of the choices, or NULL
    uint32_t *guess_at;    // [rows] where the row's guess begins in guess_cells, 0: none; NULL: no guesses
    uint16_t *guess_cells; // the number of ranks, then the experts
};

// Reads a trace of any of the formats. No more than max_bytes are allocated for it (0: 4 GiB).
int trace_load(struct trace *out, const char *path, uint64_t max_bytes, struct lode_error *error);
int trace_load_stream(struct trace *out, FILE *stream, const char *name, uint64_t max_bytes,
                      struct lode_error *error);
void trace_free(struct trace *trace);

// The ranks of a row's guess and where they lie; 0: none.
static inline uint32_t trace_row_guess(const struct trace *trace, size_t row, const uint16_t **out)
{
    const uint32_t at = trace->guess_at ? trace->guess_at[row] : 0;
    *out = at ? trace->guess_cells + at + 1 : NULL;
    return at ? trace->guess_cells[at] : 0;
}

// Writes the choices in the columns of the CSV that the importer reads; weight, residency and bytes only
// where the trace has them.
int trace_write_csv(const struct trace *trace, FILE *out, struct lode_error *error);

#endif
