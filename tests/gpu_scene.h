// A residency with fake GPUs, for the tests of it.
#ifndef LODE_TEST_GPU_SCENE_H
#define LODE_TEST_GPU_SCENE_H

#include "tests/fake_gpu.h"
#include "tests/placement_world.h"

#define GPUS 2
#define SLOT ((uint64_t)2 * 4160) // of an expert of world_add_experts on a GPU: two pages with their slack
#define N_EXPERTS (WORLD_LAYERS * WORLD_EXPERTS)

struct gpu_scene {
    struct world w;
    struct fake_gpu gpus[GPUS];
    struct residency_gpu options[GPUS];
    uint8_t *unit_gpu;
    struct heat heat;
};

void scene_set_up(struct gpu_scene *s, uint32_t n_gpus);
void scene_tear_down(struct gpu_scene *s); // checks that nothing is left of it
void scene_place(struct gpu_scene *s);     // unit_gpu, all 0, joins the options
void scene_heat_up(struct gpu_scene *s, uint32_t n_layers, uint32_t n_experts); // of random means

void scene_add_hot_experts(struct gpu_scene *s); // world_add_experts, of random heat

// Each GPU has room for its dense units and so many copies of experts, or uploads of them.
void scene_set_room(struct gpu_scene *s, uint64_t n_experts);

// Opens the file and the residency: the host has room for so many experts, which a pool shares, 0: for all.
void scene_open(struct gpu_scene *s, uint64_t host_experts);

// All of it: hot experts beside one GPU with room for n_experts.
void scene_set_up_and_open(struct gpu_scene *s, uint64_t n_experts, uint64_t host_experts);

// The host takes 100 for a row, a GPU 1, the link 150 for an expert.
void scene_set_rates(struct gpu_scene *s);

bool scene_has_copy(const struct gpu_scene *s, uint32_t g, uint32_t unit);
struct residency_gpu_figures scene_figures(const struct gpu_scene *s, uint32_t g);

// All that is on GPUs, against the file; returns how many copies of experts there are.
uint32_t scene_check_gpus(const struct gpu_scene *s);

// That guesses are wanted of the layers with an expert that is nowhere, and of no other.
void scene_check_missing(const struct gpu_scene *s);

// A decode pass in which n random experts of a layer are chosen; as scene_use.
void scene_decode(struct gpu_scene *s, uint32_t layer, uint32_t n, uint32_t most);

// Chooses, takes from GPUs and the host, and checks that each came once, from where it had to.
void scene_use(struct gpu_scene *s, const uint32_t *units, uint32_t n, uint32_t most);

#endif
