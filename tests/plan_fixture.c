// Units with the sizes of 26B-A4B and 31B at Q4_0, and figures that a plan could have.
#include "tests/plan_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)

static struct lode_plan_group *group_of(struct lode_plan *plan, const char *kind)
{
    for (uint32_t g = 0; g < plan->n_groups; g++)
        if (strcmp(plan->groups[g].kind, kind) == 0)
            return &plan->groups[g];
    plan->groups[plan->n_groups].kind = kind;
    return &plan->groups[plan->n_groups++];
}

static void add_unit(struct lode_plan *plan, const char *kind, uint32_t layer, uint32_t index, uint64_t bytes,
                     unsigned home, float heat)
{
    struct lode_plan_group *group = group_of(plan, kind);
    group->units++;
    group->bytes += bytes;
    if (home >= LODE_HOME_GPU)
        group->gpu_bytes[home - LODE_HOME_GPU] += bytes;
    else
        *(home == LODE_HOME_RAM ? &group->ram_bytes : &group->nvme_bytes) += bytes;
    plan->shape.weight_bytes += bytes;
    plan->units[plan->n_units++] = (struct lode_plan_unit){kind, layer, index, bytes, (uint8_t)home, heat};
}

static void add_layer(struct lode_plan *plan, const struct plan_fixture *f, uint32_t layer)
{
    const bool is_global = layer % 6 == 5;
    unsigned home = layer * 3 >= f->n_layers * 2 ? LODE_HOME_STREAM : LODE_HOME_RAM;
    if (f->n_gpus && layer * 3 < f->n_layers)
        home = LODE_HOME_GPU + layer % f->n_gpus;
    if (f->n_experts && home == LODE_HOME_STREAM)
        home = LODE_HOME_RAM;
    const uint64_t dense_bytes = f->n_experts ? 10 * MIB : 180 * MIB;
    add_unit(plan, "norms and router", layer, 0, 3 * MIB / 2, home == LODE_HOME_STREAM ? LODE_HOME_RAM : home,
             0);
    add_unit(plan, "attention", layer, 0, (is_global ? 28 : 19) * MIB * (f->n_experts ? 1 : 4), home, 0);
    add_unit(plan, "dense FFN", layer, 0, dense_bytes, home, 0);
    if (f->per_layer)
        add_unit(plan, "per-layer gate", layer, 0, 300000, home, 0);
    // Popular experts lie anywhere in their layer.
    for (uint32_t e = 0; e < f->n_experts; e++) {
        const uint32_t rank = (e * 37 + layer * 11) % f->n_experts;
        const float heat = f->heat ? 0.6f / (float)pow(1 + rank, 0.7) : 0;
        const uint32_t g = f->n_gpus ? rank * 10 / f->n_experts : UINT32_MAX;
        add_unit(plan, "expert", layer, e, 3345408, g < f->n_gpus ? LODE_HOME_GPU + g : LODE_HOME_POOL, heat);
    }
}

static void set_speeds(struct lode_plan *plan)
{
    static const uint32_t contexts[] = {0, 8192, 32768};
    for (uint32_t i = 0; i < 3; i++)
        plan->expected[plan->n_expected++] = (struct lode_plan_expected){
            .context = contexts[i],
            .decode_tok_s = 6.1 - i,
            .decode_low = 5.2 - i,
            .decode_high = 7.25 - i,
            .prefill_tokens = 512,
            .prefill_tok_s = 147.4 / (i + 1),
            .prefill_low = 119.8 / (i + 1),
            .prefill_high = 1081.3 / (i + 1),
            .decode = {.kernels = 0.31,
                       .attention = 0.04,
                       .drive = 0.45,
                       .gpu = 0.15,
                       .link = 0.05,
                       .limiter = "drive"},
            .prefill = {.kernels = 0.2, .attention = 0.3, .operations = 0.1, .gpu = 0.4, .limiter = "gpu"},
            .read_bytes_per_token = 42.9e6,
            .hit_rate = 0.95,
        };
    plan->changes[plan->n_changes++] = (struct lode_plan_change){"+8 GB RAM", false, 9.8, 150};
    plan->changes[plan->n_changes++] = (struct lode_plan_change){"a drive of PCIe 4.0", false, 8.9, 301.5};
    plan->changes[plan->n_changes++] = (struct lode_plan_change){"a KV cache of q8_0", true, 6.4, 148};
    plan->refused[plan->n_refused++] =
        (struct lode_plan_refused){"all dense units on the GPU, experts in RAM", true, 0.04, 5.9};
    plan->refused[plan->n_refused++] =
        (struct lode_plan_refused){"whole layers on the GPU (8 of 30)", true, 0.6, 0.42};
    for (int i = 0; i < 4; i++)
        plan->refused[plan->n_refused++] = (struct lode_plan_refused){"everything in RAM", false, 0, 0};
    strcpy(plan->warnings[plan->n_warnings++],
           "the machine was not measured: its figures come from data sheets");
    strcpy(plan->warnings[plan->n_warnings++], "the profile has no kernel figures for Q5_K: those of Q4_K "
                                               "stand in, and this is a long sentence that "
                                               "takes more than one line of a terminal");
}

void plan_fixture_make(struct lode_plan *out, const struct plan_fixture *f)
{
    *out = (struct lode_plan){.threads = 6,
                              .context = 33280,
                              .batch = 512,
                              .ring_bytes = 64 * MIB,
                              .prefetch = true,
                              .kv_bytes = 380 * MIB,
                              .scratch_bytes = 163 * MIB,
                              .program_bytes = 116 * MIB,
                              .buffer_bytes = 65 * MIB,
                              .n_gpus = f->n_gpus};
    out->units = calloc((size_t)f->n_layers * (f->n_experts + 4) + 8, sizeof *out->units);
    if (!out->units)
        abort();
    snprintf(out->shape.name, sizeof out->shape.name, "synthetic %s", f->n_experts ? "26b-a4b" : "31b");
    strcpy(out->shape.type, "Q4_0");
    strcpy(out->shape.size, f->n_experts ? "26B-A4B" : "31B");
    out->shape.n_layers = f->n_layers;
    out->shape.n_experts = f->n_experts;
    strcpy(out->machine, "Desktop, RTX 3060 12 GB, 32 GB DDR4");
    strcpy(out->machine_source, "data sheets");
    strcpy(out->cpu, "Intel Core i5-8500");
    strcpy(out->drive, "Samsung SSD 970 EVO Plus 1TB");
    add_unit(out, "token embedding", UINT32_MAX, 0, 396 * MIB, LODE_HOME_RAM, 0);
    if (f->per_layer) {
        add_unit(out, "per-layer embedding", UINT32_MAX, 0, 2100 * MIB, LODE_HOME_ROWS, 0);
        add_unit(out, "per-layer input", UINT32_MAX, 0, 7 * MIB, LODE_HOME_RAM, 0);
    }
    for (uint32_t l = 0; l < f->n_layers; l++)
        add_layer(out, f, l);
    add_unit(out, "output norm", UINT32_MAX, 0, 12288, LODE_HOME_RAM, 0);
    for (uint32_t g = 0; g < out->n_groups; g++)
        if (strcmp(out->groups[g].kind, "expert") == 0) { // the pool
            const uint64_t bytes = (uint64_t)f->n_layers * f->n_experts / 2 * 3345408;
            out->groups[g].ram_bytes = bytes;
            out->groups[g].nvme_bytes -= bytes;
        }
    out->ceiling_bytes = 10240 * MIB;
    for (uint32_t g = 0; g < f->n_gpus; g++) {
        snprintf(out->gpus[g].name, sizeof out->gpus[g].name, "NVIDIA GeForce RTX 30%u0", 6 + g);
        out->gpus[g].ceiling_bytes = 11776 * MIB;
        out->gpus[g].kv_bytes = 120 * MIB;
        out->gpus[g].scratch_bytes = 90 * MIB;
    }
    set_speeds(out);
}

void plan_fixture_free(struct lode_plan *plan)
{
    free(plan->units);
}
