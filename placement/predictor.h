// Predictors: which experts the next layer will choose, so that they can be read before it does.
//
// A predictor speaks for single tokens (decode). It is asked for a layer's experts while the layer before is
// at work, for the first layer when the token begins, and told what every layer chose. Of many tokens (a
// prompt) the next layer's router is asked about all of them, whatever the predictor. Guesses change how fast
// a model runs and nothing else.
//
// A predictor is one C file with one struct predictor_ops, listed in predictor.c, or a shared object that is
// opened at run time (predictor_plugin.h; docs/writing-a-policy.md). It knows layers and experts, not files,
// models or devices, and is called from one thread. No call but open allocates.
//
// A predictor may be fitted: before its first token it is then told the choices of training traces, token by
// token, by the same calls as of a run. What it is measured on is never among them.
//
// This header and lode_error.h are all that a shared object needs; it links nothing of the program.
#ifndef LODE_PREDICTOR_H
#define LODE_PREDICTOR_H

#include "lode_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Grows with every change of what stands below. A shared object exports
//     const uint32_t lode_predictor_abi = PREDICTOR_ABI;
//     const struct predictor_ops lode_predictor = {…};
#define PREDICTOR_ABI 1

// What the next layer's own router can say before its turn: applied to the residual stream as it is when the
// layer before has chosen its experts; or to that with the output of its dense part added; or to whichever is
// at hand when reads for the next layer can begin.
enum predictor_gate { PREDICTOR_NO_GATE, PREDICTOR_GATE, PREDICTOR_GATE_DENSE, PREDICTOR_GATE_AUTO };

// Layers are the model's; experts are numbered from 0 within their layer.
struct predictor_setup {
    uint32_t n_layers;
    const uint32_t *n_experts; // [n_layers] 0: a layer without experts
    uint32_t n_used;           // experts that a token chooses in a layer, at most
    // [experts, layer after layer] from earlier runs, the mean number of choices a token; NULL: unknown
    const float *heat;
};

struct predictor;

struct predictor_ops {
    const char *name;
    const char *summary; // one line: the rule and its source
    enum predictor_gate gate;

    // 0, or a negative code of lode_error.h, and then `error` is filled, which is never NULL, and *out is
    // NULL. What `setup` points to is gone when the call returns.
    int (*open)(struct predictor **out, const struct predictor_setup *setup, struct lode_error *error);
    void (*close)(struct predictor *predictor);

    // A conversation begins: what was chosen last is not of the text that follows. May be NULL.
    void (*restart)(struct predictor *predictor);
    // The token chose these n experts in a layer, best first. Of a prompt all tokens are told, those of a
    // layer one after the other, before those of the next layer. May be NULL.
    void (*chosen)(struct predictor *predictor, uint32_t layer, const int32_t *experts, uint32_t n);
    // All layers have been through a pass of n_tokens. May be NULL.
    void (*pass_end)(struct predictor *predictor, uint32_t n_tokens);
    // Writes the experts that the layer will choose for the running token to `out`, best first, each once, at
    // most `max` of them, and returns how many: 0 where nothing is known. `gate` is what the layer's router
    // says (above), best first, `max` of them; NULL without a gate.
    uint32_t (*guess)(struct predictor *predictor, uint32_t layer, const int32_t *gate, int32_t *out,
                      uint32_t max);
};

// A predictor embeds this as its first member.
struct predictor {
    const struct predictor_ops *ops;
};

// By name, NULL when there is none; and all of them in the order of the table, which ends with NULL. The
// first is the default.
const struct predictor_ops *predictor_find(const char *name);
extern const struct predictor_ops *const predictor_table[];

#endif
