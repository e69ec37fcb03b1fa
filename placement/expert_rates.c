// GB/s by rows to nanoseconds by rows: bytes / (GB/s) is nanoseconds.
#include "placement/expert_rates.h"

static double copy_ns(const struct profile_device *device, double bytes)
{
    const double gbps = profile_curve_at(&device->upload_pinned_gbps, bytes);
    return gbps > 0 ? bytes / gbps : 0;
}

struct expert_rates expert_rates_of(const struct profile_device *device, enum lode_type type,
                                    uint64_t expert_bytes)
{
    const struct profile_kernels *kernels = &device->kernels[type];
    const struct profile_curve *curve =
        kernels->expert_gbps.n_points ? &kernels->expert_gbps : &kernels->dense_gbps;
    const double bytes = (double)expert_bytes;
    struct expert_rates out = {.upload_ns = copy_ns(device, bytes)};
    if (!kernels->known || !curve->n_points)
        return out;
    // The first and the last point, and of a finer curve those between at even distances.
    out.n_points = curve->n_points < EXPERT_RATE_POINTS ? curve->n_points : EXPERT_RATE_POINTS;
    for (uint32_t i = 0; i < out.n_points; i++) {
        const uint32_t from = out.n_points > 1 ? i * (curve->n_points - 1) / (out.n_points - 1) : 0;
        out.rows[i] = curve->points[from].x;
        out.ns[i] = bytes / curve->points[from].y;
    }
    return out;
}
