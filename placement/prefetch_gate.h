// Whether prefetch pays: decode tokens with and without it are timed in turns, and the faster way is kept.
//
// A guess that comes true hides a read, a wrong one takes the drive from a read that somebody waits for.
// Which of both weighs more depends on the drive, the processor and the memory that experts have, and
// published measurements go from -21% to +34%; so it is measured, all the time and on the run itself.
//
// First the two ways alternate, epoch by epoch. The median token times decide: on only when it is faster by
// at least 1%. Then the better way is kept and the other tried for one epoch in 16; where that seems better,
// they alternate again before anything changes. The first token after a switch is not counted: it meets what
// the other way left behind.
#ifndef LODE_PREFETCH_GATE_H
#define LODE_PREFETCH_GATE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PREFETCH_EPOCH_TOKENS = 8,
    PREFETCH_COMPARED_EPOCHS = 2, // of each way
    PREFETCH_KEPT_EPOCHS = 15,    // before the other way is tried for one
    PREFETCH_SAMPLES = PREFETCH_EPOCH_TOKENS * PREFETCH_COMPARED_EPOCHS,
};

enum prefetch_phase { PREFETCH_COMPARING, PREFETCH_KEEPING, PREFETCH_TRYING };

struct prefetch_gate {
    enum prefetch_phase phase;
    bool open;             // for the token that comes
    bool settling;         // it is the first one after a switch
    uint32_t epochs_done;  // of the phase
    uint32_t n_samples[2]; // without prefetch, with it
    uint64_t sample_ns[2][PREFETCH_SAMPLES];
};

void prefetch_gate_init(struct prefetch_gate *gate);

// Whether the token that comes shall be computed with prefetch.
bool prefetch_gate_open(const struct prefetch_gate *gate);

// Tells how long a token of decode took that was computed as prefetch_gate_open said.
void prefetch_gate_token(struct prefetch_gate *gate, uint64_t token_ns);

#endif
