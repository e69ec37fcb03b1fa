// Experts of a few tokens on GPUs (backends/gpu/experts_few.cc): every choice within the bounds of double
// precision, through its own expert and to its own slot.
#include "tests/cpu_variants.h"
#include "tests/gpu_devices.h"
#include "tests/product_reference.h"

#define N_EXPERTS 5
#define MOST_CHOICES 16

// Experts of three types, each matrix in memory of its own.
struct experts {
    uint32_t hidden, width;
    struct test_matrix gate[N_EXPERTS], up[N_EXPERTS], down[N_EXPERTS];
    struct lode_matrix gate_there[N_EXPERTS], up_there[N_EXPERTS], down_there[N_EXPERTS];
    struct lode_expert_entry *entries; // memory of the device
};

static struct test_matrix random_matrix(enum lode_type type, uint32_t rows, uint32_t cols, size_t gap,
                                        uint64_t *state)
{
    struct test_random random = {random_bits(state)};
    return test_matrix_make(&random, type, rows, cols, gap);
}

static struct experts make_experts(struct lode_device *device, const enum lode_type types[3], uint32_t hidden,
                                   uint32_t width, size_t gap, uint64_t *state)
{
    struct experts out = {.hidden = hidden, .width = width};
    struct lode_expert_entry entries[N_EXPERTS];
    for (unsigned e = 0; e < N_EXPERTS; e++) {
        out.gate[e] = random_matrix(types[0], width, hidden, gap, state);
        out.up[e] = random_matrix(types[1], width, hidden, gap, state);
        out.down[e] = random_matrix(types[2], hidden, width, gap, state);
        out.gate_there[e] = gpu_matrix_up(device, &out.gate[e].matrix);
        out.up_there[e] = gpu_matrix_up(device, &out.up[e].matrix);
        out.down_there[e] = gpu_matrix_up(device, &out.down[e].matrix);
        entries[e] =
            (struct lode_expert_entry){out.gate_there[e].data, out.up_there[e].data, out.down_there[e].data};
    }
    out.entries = gpu_bytes_up(device, entries, sizeof entries);
    return out;
}

static void free_experts(struct lode_device *device, struct experts *experts)
{
    for (unsigned e = 0; e < N_EXPERTS; e++) {
        gpu_release(device, experts->gate_there[e].data);
        gpu_release(device, experts->up_there[e].data);
        gpu_release(device, experts->down_there[e].data);
        test_matrix_free(&experts->gate[e]);
        test_matrix_free(&experts->up[e]);
        test_matrix_free(&experts->down[e]);
    }
    gpu_release(device, experts->entries);
}

// The middle row of a choice, with what rounding may cost.
static void middle_of(struct product_value *out, const struct experts *experts, unsigned e, const float *x)
{
    const struct lode_matrix *gate = &experts->gate[e].matrix, *up = &experts->up[e].matrix;
    double *for_gate = malloc(experts->hidden * sizeof(double)),
           *for_up = malloc(experts->hidden * sizeof(double));
    product_round(for_gate, gate->type, x, experts->hidden);
    product_round(for_up, up->type, x, experts->hidden);
    for (uint32_t r = 0; r < experts->width; r++) {
        struct product_row g = product_row_make(gate, r), u = product_row_make(up, r);
        out[r] = product_geglu(product_of(&g, gate->type, for_gate, experts->hidden),
                               product_of(&u, up->type, for_up, experts->hidden));
        product_row_free(&g);
        product_row_free(&u);
    }
    free(for_gate);
    free(for_up);
}

// The middle row as down takes it. slack[c] is how far the device's may be from it: as the row itself, or, of
// a block that is rounded, by what that does to the scale, and by a code where it may fall to the other side.
static void round_middle(double *rounded, double *slack, const struct product_value *middle, uint32_t width,
                         enum lode_type type)
{
    float *values = malloc(width * sizeof *values);
    for (uint32_t c = 0; c < width; c++)
        values[c] = (float)middle[c].value;
    product_round(rounded, type, values, width);
    for (uint32_t c = 0; c < width; c++)
        slack[c] = middle[c].allowed + PRODUCT_UNIT * fabs(middle[c].value);
    for (uint32_t b = 0; product_is_quantised(type) && b < width; b += 32) {
        double largest = 0, off = 0;
        for (uint32_t c = b; c < b + 32; c++) {
            largest = fmax(largest, fabs(middle[c].value));
            off = fmax(off, slack[c]);
        }
        const double scale = largest / 127;
        for (uint32_t c = b; c < b + 32; c++) {
            const double code = scale > 0 ? fabs(middle[c].value) / scale : 0;
            const double from_tie = fabs(code - floor(code) - 0.5);
            const bool near_tie = scale > 0 && from_tie <= 2 * off / scale + 1e-4;
            slack[c] = off * 1.01 + (near_tie ? scale * (1 + 2 * off / fmax(scale, 1e-30)) : 0);
        }
    }
    free(values);
}

// One choice's result, got[hidden].
static void check_choice(const float *got, const struct experts *experts, unsigned e, const float *x,
                         const char *name)
{
    const struct lode_matrix *down = &experts->down[e].matrix;
    struct product_value *middle = malloc(experts->width * sizeof *middle);
    double *rounded = malloc(experts->width * sizeof(double)),
           *slack = malloc(experts->width * sizeof(double));
    middle_of(middle, experts, e, x);
    round_middle(rounded, slack, middle, experts->width, down->type);
    for (uint32_t r = 0; r < experts->hidden; r++) {
        struct product_row row = product_row_make(down, r);
        struct product_value want = product_of(&row, down->type, rounded, experts->width);
        for (uint32_t c = 0; c < experts->width; c++)
            want.allowed += fabs(row.value[c]) * slack[c] + row.magnitude[c] * slack[c] * 1e-4;
        check_close(got[r], want.value, 0, want.allowed, "%s: expert %u, output %u", name, e, r);
        product_row_free(&row);
    }
    free(middle);
    free(rounded);
    free(slack);
}

static const struct lode_limits limits = {
    .rows = 8, .cols = 768, .ffn_width = 256, .n_heads = 1, .head_size = 32, .expert_rows = MOST_CHOICES};

static struct lode_expert_job job_of(const struct experts *experts, unsigned e)
{
    return (struct lode_expert_job){
        .gate = experts->gate_there[e], .up = experts->up_there[e], .down = experts->down_there[e]};
}

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
    const struct lode_expert_job kind = job_of(experts, 0);
    device->ops->experts_routed(device, out_there, x_there, &kind, experts->entries, ids_there, k);
    gpu_rows_down(device, out, out_there);
    check_gaps(out, device->name);
    for (uint32_t c = 0; c < n * k; c++) {
        const float *got = out.data + c * out.stride;
        if (ids[c] < 0)
            cr_assert_eq(memcmp(got, before.data + c * out.stride, out.cols * sizeof *got), 0,
                         "choice %u of no expert was written", c);
        else
            check_choice(got, experts, (unsigned)ids[c], x.data + c / k * x.stride, device->name);
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
        const struct lode_expert_job kind = job_of(&experts, 0);
        device->ops->experts_routed(device, out_there, x_there, &kind, experts.entries, ids_there, 2);
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
            jobs[e] = job_of(&experts, e);
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
                check_choice(out.data + (size_t)slots[e][i] * out.stride, &experts, e,
                             x.data + (size_t)tokens[e][i] * x.stride, device->name);
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
