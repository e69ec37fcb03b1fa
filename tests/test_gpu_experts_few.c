// Experts of a few tokens on GPUs (backends/gpu/experts_few.cc): every choice within the bounds of double
// precision, through its own expert and to its own slot.
#include "tests/gpu_devices.h"
#include "tests/product_reference.h"

#include <stdio.h>

#define N_EXPERTS 5
#define MOST_CHOICES 16

// Experts of three types, each matrix in memory of its own.
struct experts {
    uint32_t hidden, width;
    struct random_expert here[N_EXPERTS];
    struct lode_expert_job there[N_EXPERTS];
    struct product_expert exact[N_EXPERTS];
    struct lode_expert_entry *entries; // memory of the device
};

static struct experts make_experts(struct lode_device *device, const enum lode_type types[3], uint32_t hidden,
                                   uint32_t width, size_t gap, uint64_t *state)
{
    struct experts out = {.hidden = hidden, .width = width};
    struct lode_expert_entry entries[N_EXPERTS];
    for (unsigned e = 0; e < N_EXPERTS; e++) {
        out.here[e] = random_expert_make(types, hidden, width, gap, state);
        out.there[e] = gpu_expert_up(device, &out.here[e].job);
        out.exact[e] = product_expert_make(&out.here[e].job);
        entries[e] =
            (struct lode_expert_entry){out.there[e].gate.data, out.there[e].up.data, out.there[e].down.data};
    }
    out.entries = gpu_bytes_up(device, entries, sizeof entries);
    return out;
}

static void free_experts(struct lode_device *device, struct experts *experts)
{
    for (unsigned e = 0; e < N_EXPERTS; e++) {
        gpu_expert_release(device, &experts->there[e]);
        random_expert_free(&experts->here[e]);
        product_expert_free(&experts->exact[e]);
    }
    gpu_release(device, experts->entries);
}

// One choice's result, got[hidden].
static void check_choice(const float *got, const struct experts *experts, unsigned e, const float *x,
                         const char *name)
{
    char what[64];
    snprintf(what, sizeof what, "%s: expert %u", name, e);
    product_check_expert(got, &experts->exact[e], x, PRODUCT_LANES, what);
}

static const struct lode_limits limits = {
    .rows = 8, .cols = 768, .ffn_width = 256, .n_heads = 1, .head_size = 32, .expert_rows = MOST_CHOICES};

// Choices made on the device: -1 is passed over, and its row stays as it was.
static void check_routed(struct lode_device *device, const struct experts *experts, uint32_t n, uint32_t k,
                         uint64_t *state)
{
    struct lode_rows x = make_rows(n, experts->hidden, 0x1p-6f, state),
                     out = make_rows(n * k, experts->hidden, 1, state), before = copy_rows(out);
    int32_t ids[MOST_CHOICES];
    for (uint32_t c = 0; c < n * k; c++)
        ids[c] = (int32_t)random_below(state, N_EXPERTS + 1) - 1;
    if (n * k > 2) {
        ids[0] = -1;
        ids[1] = ids[2] = N_EXPERTS - 1;
    }
    struct lode_rows x_there = gpu_rows_up(device, x), out_there = gpu_rows_up(device, out);
    int32_t *ids_there = gpu_bytes_up(device, ids, n * k * sizeof *ids);
    device->ops->experts_routed(device, out_there, x_there, &experts->there[0], experts->entries, ids_there,
                                k);
    gpu_rows_down(device, out, out_there);
    check_gaps(out, device->name);
    for (uint32_t c = 0; c < n * k; c++) {
        const float *got = out.data + c * out.stride;
        if (ids[c] < 0)
            cr_assert_eq(memcmp(got, before.data + c * out.stride, out.cols * sizeof *got), 0,
                         "choice %u of no expert was written", c);
        else
            check_choice(got, experts, (unsigned)ids[c], row_of(x, c / k), device->name);
    }
    gpu_release(device, x_there.data);
    gpu_release(device, out_there.data);
    gpu_release(device, ids_there);
    free(x.data);
    free(out.data);
    free(before.data);
}

Test(gpu_experts_few, choices_of_the_device_are_within_the_bounds_of_double_precision_for_every_type)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 1;
        for (unsigned t = 0; t < test_n_types; t++) {
            const enum lode_type types[] = {test_types[t], test_types[t], test_types[t]};
            struct experts experts = make_experts(device, types, 256 * (1 + t % 2), 256, 0, &state);
            check_routed(device, &experts, 1, 3, &state);
            free_experts(device, &experts);
        }
    }
}

Test(gpu_experts_few, gate_up_and_down_may_be_of_different_types)
{
    static const enum lode_type types[][3] = {{LODE_Q4_K, LODE_Q4_K, LODE_Q5_0},
                                              {LODE_Q4_K, LODE_Q6_K, LODE_Q8_0},
                                              {LODE_F16, LODE_Q4_0, LODE_BF16},
                                              {LODE_Q8_0, LODE_F32, LODE_Q4_1}};
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 2;
        for (unsigned i = 0; i < 4; i++) {
            struct experts experts = make_experts(device, types[i], 512, 96, 0, &state);
            check_routed(device, &experts, 1 + i, 4, &state);
            free_experts(device, &experts);
        }
    }
}

Test(gpu_experts_few, rows_may_be_anywhere_and_their_number_odd)
{
    static const enum lode_type types[][3] = {{LODE_Q4_K, LODE_Q5_K, LODE_Q4_K},
                                              {LODE_Q5_1, LODE_Q5_1, LODE_IQ4_XS},
                                              {LODE_F16, LODE_F16, LODE_F16},
                                              {LODE_F32, LODE_F32, LODE_BF16}};
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 3;
        for (unsigned i = 0; i < 4; i++) {
            const uint32_t hidden = i < 2 ? 256 : 77, width = i < 2 ? 256 : 51;
            struct experts experts = make_experts(device, types[i], hidden, width, i < 3 ? 6 : 4, &state);
            check_routed(device, &experts, 2, 2, &state);
            free_experts(device, &experts);
        }
    }
}

Test(gpu_experts_few, a_call_in_which_nothing_was_chosen_writes_nothing)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 4;
        const enum lode_type types[] = {LODE_Q4_0, LODE_Q4_0, LODE_Q4_0};
        struct experts experts = make_experts(device, types, 64, 32, 0, &state);
        struct lode_rows x = make_rows(2, 64, 1, &state), out = make_rows(4, 64, 1, &state),
                         before = copy_rows(out);
        const int32_t ids[] = {-1, -1, -1, -1};
        struct lode_rows x_there = gpu_rows_up(device, x), out_there = gpu_rows_up(device, out);
        int32_t *ids_there = gpu_bytes_up(device, ids, sizeof ids);
        device->ops->experts_routed(device, out_there, x_there, &experts.there[0], experts.entries, ids_there,
                                    2);
        gpu_rows_down(device, out, out_there);
        check_same_bits(out, before, "nothing chosen");
        gpu_release(device, x_there.data);
        gpu_release(device, out_there.data);
        gpu_release(device, ids_there);
        free(x.data);
        free(out.data);
        free(before.data);
        free_experts(device, &experts);
    }
}

// Jobs of the host name rows of x and slots of out; slots that nobody names stay as they were. The same call
// gives the same bits.
Test(gpu_experts_few, jobs_of_few_choices_go_from_their_tokens_to_their_slots)
{
    FOR_GPU_DEVICES(device)
    {
        gpu_reserve_for(device, &limits);
        uint64_t state = 5;
        const enum lode_type types[] = {LODE_Q4_0, LODE_Q4_0, LODE_Q5_0};
        struct experts experts = make_experts(device, types, 96, 64, 0, &state);
        struct lode_rows x = make_rows(3, 96, 0x1p-4f, &state), out = make_rows(9, 96, 1, &state),
                         before = copy_rows(out), again = copy_rows(out);
        static const int32_t tokens[][2] = {{2, 0}, {1}, {2, 1}, {0}},
                             slots[][2] = {{8, 1}, {3}, {0, 5}, {6}};
        static const uint32_t counts[] = {2, 1, 2, 1};
        struct lode_expert_job jobs[4];
        for (unsigned e = 0; e < 4; e++) {
            jobs[e] = experts.there[e];
            jobs[e].tokens = tokens[e];
            jobs[e].slots = slots[e];
            jobs[e].n = counts[e];
        }
        struct lode_rows x_there = gpu_rows_up(device, x), out_there = gpu_rows_up(device, out);
        device->ops->experts(device, out_there, x_there, jobs, 4);
        gpu_rows_down(device, out, out_there);
        device->ops->experts(device, out_there, x_there, jobs, 4);
        gpu_rows_down(device, again, out_there);
        check_same_bits(out, again, "the same call");
        check_gaps(out, device->name);
        bool named[9] = {false};
        for (unsigned e = 0; e < 4; e++)
            for (uint32_t i = 0; i < counts[e]; i++) {
                named[slots[e][i]] = true;
                check_choice(row_of(out, (uint32_t)slots[e][i]), &experts, e,
                             row_of(x, (uint32_t)tokens[e][i]), device->name);
            }
        for (unsigned s = 0; s < 9; s++)
            if (!named[s])
                cr_assert_eq(memcmp(out.data + s * out.stride, before.data + s * out.stride, 96 * 4), 0,
                             "slot %u was written", s);
        gpu_release(device, x_there.data);
        gpu_release(device, out_there.data);
        free(x.data);
        free(out.data);
        free(before.data);
        free(again.data);
        free_experts(device, &experts);
    }
}
