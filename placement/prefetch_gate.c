// The three phases of prefetch_gate.h. Medians, for a token that waited for another program's read says
// nothing about prefetch.
#include "placement/prefetch_gate.h"

void prefetch_gate_init(struct prefetch_gate *gate)
{
    *gate = (struct prefetch_gate){.phase = PREFETCH_COMPARING, .open = true, .settling = true};
}

bool prefetch_gate_open(const struct prefetch_gate *gate)
{
    return gate->open;
}

static uint64_t median_ns(const uint64_t *samples, uint32_t n)
{
    uint64_t sorted[PREFETCH_SAMPLES];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1] > samples[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = samples[i];
    }
    const uint64_t low = sorted[(n - 1) / 2], high = sorted[n / 2];
    return low + (high - low) / 2;
}

static bool prefetch_pays(const struct prefetch_gate *gate)
{
    const uint64_t off_ns = median_ns(gate->sample_ns[false], gate->n_samples[false]);
    const uint64_t on_ns = median_ns(gate->sample_ns[true], gate->n_samples[true]);
    return on_ns < off_ns && off_ns - on_ns >= off_ns / 100;
}

static void set_open(struct prefetch_gate *gate, bool open)
{
    gate->settling = gate->open != open;
    gate->open = open;
}

static void enter(struct prefetch_gate *gate, enum prefetch_phase phase, bool open)
{
    gate->phase = phase;
    gate->epochs_done = 0;
    set_open(gate, open);
    gate->n_samples[open] = 0;
    if (phase == PREFETCH_COMPARING)
        gate->n_samples[!open] = 0;
}

static void end_epoch(struct prefetch_gate *gate)
{
    const bool tried = gate->open;
    gate->epochs_done++;
    switch (gate->phase) {
    case PREFETCH_COMPARING:
        if (gate->epochs_done < 2 * PREFETCH_COMPARED_EPOCHS)
            set_open(gate, !gate->open);
        else
            enter(gate, PREFETCH_KEEPING, prefetch_pays(gate));
        break;
    case PREFETCH_KEEPING:
        if (gate->epochs_done < PREFETCH_KEPT_EPOCHS)
            gate->n_samples[gate->open] = 0; // what is compared is the epoch right before the trial
        else
            enter(gate, PREFETCH_TRYING, !gate->open);
        break;
    case PREFETCH_TRYING:
        if (prefetch_pays(gate) == tried)
            enter(gate, PREFETCH_COMPARING, tried);
        else
            enter(gate, PREFETCH_KEEPING, !tried);
        break;
    }
}

void prefetch_gate_token(struct prefetch_gate *gate, uint64_t token_ns)
{
    if (gate->settling) {
        gate->settling = false;
        return;
    }
    uint32_t *n = &gate->n_samples[gate->open];
    gate->sample_ns[gate->open][(*n)++] = token_ns;
    if (*n % PREFETCH_EPOCH_TOKENS == 0)
        end_epoch(gate);
}
