// Traces made up for a model, and machines, for tests of the simulator. Whatever fails, fails the test.
#ifndef LODE_TESTS_SIMULATE_WORLD_H
#define LODE_TESTS_SIMULATE_WORLD_H

#include "core/simulate.h"

struct simulate_shape {
    uint32_t n_conversations, n_prompt, n_decode; // prompts are one pass each; 0: none
    uint32_t n_layers, n_experts, n_used;         // all layers have experts
    uint32_t first_position;
    uint32_t ranks; // of guesses; 0: none
    bool right;     // these guesses; otherwise every third expert of them is another
    bool drops;     // as this program records: a prompt's rows leave before the last layer's experts
    uint32_t seed;
};

// Half of a token's choices stay for 16 tokens, and some experts are chosen much more often than others.
void simulate_world_trace(struct trace *out, const struct simulate_shape *shape);

// Memory at 20 GB/s beside a drive of 2.
struct machine_profile *simulate_world_machine(void); // for free

struct simulation_model *simulate_world_model(const char *shape, const struct trace *trace);

// The shape tiny-moe: 4 layers of 128 experts, of which a token chooses 8.
struct simulate_shape simulate_world_tiny(uint32_t n_prompt, uint32_t n_decode, uint32_t seed);

void simulate_world_ask(struct simulation_result *out, const struct simulation_model *model,
                        const struct trace *trace, const struct simulation_question *question);

#endif
