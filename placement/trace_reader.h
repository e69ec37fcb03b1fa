// Inside of the readers of traces: what the formats share.
#ifndef LODE_TRACE_READER_H
#define LODE_TRACE_READER_H

#include "placement/trace_bytes.h"
#include "placement/trace_format.h"

struct trace_reader;

// A format is a source of events. Its events are checked by trace_reader_next, so it only sees to what is its
// own. It sets `cut` before TRACE_EVENT_END when the file breaks off.
struct trace_reader_ops {
    const char *name;
    int (*open)(struct trace_reader *reader, struct lode_error *error); // reads the header
    int (*next)(struct trace_reader *reader, struct trace_event *out, struct lode_error *error);
    void (*close)(struct trace_reader *reader);
    // Where the last event lies, for messages.
    void (*where)(const struct trace_reader *reader, char *out, size_t capacity);
};

extern const struct trace_reader_ops trace_native_ops, trace_csv_ops, trace_tiny_ops;

struct trace_reader {
    const struct trace_reader_ops *ops;
    struct trace_bytes *bytes;
    struct trace_header header;
    void *state; // of the format
    char name[512];
    char cut[768]; // empty: whole

    // Checks of the order of events.
    struct trace_totals totals;
    bool in_pass, ended, conversation_told, any_pass;
    uint32_t pass_tokens, n_conversations;
    bool has_pending;
    struct trace_event pending; // a pass that begins a conversation
};

// "NAME: LOCATION: …", LODE_ERR_FORMAT.
int trace_refuse(const struct trace_reader *reader, struct lode_error *error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// The file ends where it should not; `what` is "in the middle of a block", say.
void trace_set_cut(struct trace_reader *reader, const char *what, uint64_t offset);

#endif
