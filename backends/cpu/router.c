// The router of a mixture of experts, and the sum of what the experts returned.
#include "backends/cpu/parallel.h"

#include <assert.h>

// The least sum of the chosen probabilities that is divided by: 2^-14, as the reference implementation has
// it.
#define LEAST_CHOSEN_SUM 0x1p-14
#define EXP_BLOCK 256

struct router_call {
    int32_t *ids;
    float *weights;
    struct lode_rows logits;
    uint32_t k;
    const float *expert_scale;
};

// Keeps ids sorted by logit, larger first. An equal logit comes later, and ids ascend: ties go to the lower
// id. Softmax keeps the order, and the logits have ties only where they are equal, which rounded
// probabilities have not.
static void choose_largest(int32_t *ids, const float *logits, uint32_t n, uint32_t k)
{
    uint32_t chosen = 0;
    for (uint32_t id = 0; id < n; id++) {
        if (chosen == k && !(logits[id] > logits[ids[k - 1]]))
            continue;
        uint32_t place = chosen < k ? chosen++ : k - 1;
        for (; place > 0 && logits[id] > logits[ids[place - 1]]; place--)
            ids[place] = ids[place - 1];
        ids[place] = (int32_t)id;
    }
}

static double sum_of_exp(const struct cpu_device *device, const float *logits, uint32_t n, float max)
{
    float powers[EXP_BLOCK];
    double sum = 0;
    for (uint32_t i = 0; i < n; i += EXP_BLOCK)
        sum += device->vector->exp_sum(powers, logits + i, max, n - i < EXP_BLOCK ? n - i : EXP_BLOCK);
    return sum;
}

static void route_row(const struct cpu_device *device, const void *arguments, size_t row, uint32_t thread)
{
    (void)thread;
    const struct router_call *call = arguments;
    const float *logits = call->logits.data + row * call->logits.stride;
    int32_t *ids = call->ids + row * call->k;
    float *weights = call->weights + row * call->k;

    choose_largest(ids, logits, call->logits.cols, call->k);
    float max = logits[ids[0]];
    double all = sum_of_exp(device, logits, call->logits.cols, max);
    for (uint32_t r = 0; r < call->k; r++)
        weights[r] = logits[ids[r]];
    double chosen = device->vector->exp_sum(weights, weights, max, call->k) / all;
    double divisor = all * (chosen > LEAST_CHOSEN_SUM ? chosen : LEAST_CHOSEN_SUM);
    for (uint32_t r = 0; r < call->k; r++) {
        double scale = call->expert_scale ? (double)call->expert_scale[ids[r]] : 1;
        weights[r] = (float)((double)weights[r] / divisor * scale);
    }
}

void cpu_router(struct lode_device *device, int32_t *ids, float *weights, struct lode_rows logits, uint32_t k,
                const float *expert_scale)
{
    assert(k >= 1 && k <= logits.cols);
    struct router_call call = {ids, weights, logits, k, expert_scale};
    cpu_for_items(cpu_device_of(device), logits.n, (size_t)logits.n * logits.cols * 8, route_row, &call);
}

struct combine_call {
    struct lode_rows out, slots;
    const float *weights;
    uint32_t k;
};

static void combine_row(const struct cpu_device *device, const void *arguments, size_t row, uint32_t thread)
{
    (void)thread;
    const struct combine_call *call = arguments;
    size_t first = row * call->k;
    device->vector->weighted_sum(call->out.data + row * call->out.stride,
                                 call->slots.data + first * call->slots.stride, call->slots.stride,
                                 call->weights + first, call->k, call->out.cols);
}

void cpu_experts_combine(struct lode_device *device, struct lode_rows out, struct lode_rows slots,
                         const float *weights, uint32_t k)
{
    struct combine_call call = {out, slots, weights, k};
    cpu_for_items(cpu_device_of(device), out.n, (size_t)out.n * out.cols * k, combine_row, &call);
}
