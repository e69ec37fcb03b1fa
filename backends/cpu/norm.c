// RMS norms, a row an item. The sum of squares and the root are taken in double: the factor multiplies a
// whole row, so its rounding would not average out.
#include "backends/cpu/parallel.h"

#include <math.h>

struct norm_call {
    struct lode_rows out, x;
    const float *weight;
    float eps, scale;
};

static double inverse_rms(const struct cpu_device *device, const float *x, uint32_t cols, float eps)
{
    return 1 / sqrt(device->vector->sum_squares(x, cols) / cols + (double)eps);
}

static void norm_row(const struct cpu_device *device, const void *arguments, size_t row, uint32_t thread)
{
    (void)thread;
    const struct norm_call *call = arguments;
    const float *x = call->x.data + row * call->x.stride;
    double factor = inverse_rms(device, x, call->x.cols, call->eps) * (double)call->scale;
    device->vector->scale_weighted(call->out.data + row * call->out.stride, x, (float)factor, call->weight,
                                   call->x.cols);
}

static void add_norm_row(const struct cpu_device *device, const void *arguments, size_t row, uint32_t thread)
{
    (void)thread;
    const struct norm_call *call = arguments;
    const float *x = call->x.data + row * call->x.stride;
    double factor = inverse_rms(device, x, call->x.cols, call->eps);
    device->vector->add_weighted(call->out.data + row * call->out.stride, x, (float)factor, call->weight,
                                 call->scale, call->x.cols);
}

void cpu_rms_norm(struct lode_device *device, struct lode_rows out, struct lode_rows x, const float *weight,
                  float eps, float scale)
{
    struct norm_call call = {out, x, weight, eps, scale};
    cpu_for_items(cpu_device_of(device), x.n, (size_t)x.n * x.cols, norm_row, &call);
}

void cpu_add_rms_norm(struct lode_device *device, struct lode_rows residual, struct lode_rows x,
                      const float *weight, float eps, float scale)
{
    struct norm_call call = {residual, x, weight, eps, scale};
    cpu_for_items(cpu_device_of(device), x.n, (size_t)x.n * x.cols, add_norm_row, &call);
}
