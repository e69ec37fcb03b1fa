// Rotary position embedding. The sines and cosines of a row are made once, for all its heads.
//
// Angles are taken in double: at position 262,143 the rounding of a float angle alone is 0.008 rad. libm's
// double sine and cosine took 5 to 10 us for a row of 256 pairs, twice a layer; here the range is known and
// the error allowed is that of a float, so a short polynomial does.
#include "backends/cpu/parallel.h"

#include <assert.h>
#include <string.h>

struct rope_call {
    struct lode_rows x;
    uint32_t n_heads, head_size, first_position;
    const float *inverse_frequency;
};

// The angle less a whole number of quarter turns, |rest| <= pi / 4. Pi / 2 comes in two parts, the first of
// 33 bits, so that its product with up to 2^20 quarter turns is exact; larger angles lose a little. Taylor
// sums to 1e-11.
static void sine_cosine(double angle, float *sine, float *cosine)
{
    double shifted = angle * 0x1.45f306dc9c883p-1 + 0x1.8p52; // 2 / pi; the low bits are the rounded quotient
    double quarters = shifted - 0x1.8p52;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    double rest = (angle - quarters * 0x1.921fb544p0) - quarters * 0x1.0b4611a626331p-34;

    double z = rest * rest;
    double s = -1.0 / 39916800;
    s = 1.0 / 362880 + z * s;
    s = -1.0 / 5040 + z * s;
    s = 1.0 / 120 + z * s;
    s = -1.0 / 6 + z * s;
    double c = 1.0 / 479001600;
    c = -1.0 / 3628800 + z * c;
    c = 1.0 / 40320 + z * c;
    c = -1.0 / 720 + z * c;
    c = 1.0 / 24 + z * c;
    c = -0.5 + z * c;

    const double parts[2] = {rest + rest * z * s, 1 + z * c};
    static const double signs[2] = {1, -1};
    *sine = (float)(parts[bits & 1] * signs[bits >> 1 & 1]);
    *cosine = (float)(parts[~bits & 1] * signs[(bits + 1) >> 1 & 1]);
}

static void rope_row(const struct cpu_device *device, const void *arguments, size_t row, uint32_t thread)
{
    const struct rope_call *call = arguments;
    uint32_t half = call->head_size / 2;
    float *cosine = cpu_thread_scratch(device, thread), *sine = cosine + half;
    double position = (double)(call->first_position + row);
    for (uint32_t j = 0; j < half; j++)
        sine_cosine(position * (double)call->inverse_frequency[j], &sine[j], &cosine[j]);

    float *x = call->x.data + row * call->x.stride;
    for (uint32_t head = 0; head < call->n_heads; head++)
        device->vector->rotate(x + (size_t)head * call->head_size, cosine, sine, half);
}

void cpu_rope(struct lode_device *device, struct lode_rows x, uint32_t n_heads, uint32_t head_size,
              uint32_t first_position, const float *inverse_frequency)
{
    const struct cpu_device *cpu = cpu_device_of(device);
    assert(head_size <= cpu->vector_scratch.max_head_size);
    struct rope_call call = {x, n_heads, head_size, first_position, inverse_frequency};
    cpu_for_items(cpu, x.n, (size_t)x.n * n_heads * head_size, rope_row, &call);
}
