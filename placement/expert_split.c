// The split of a layer's experts between host and GPU; see expert_split.h.
#include "placement/expert_split.h"

#include <stdbool.h>

// Below the first point the time is that point's: weights are read whatever the rows.
double expert_rate_ns(const struct expert_rates *rates, double rows)
{
    const uint32_t n = rates->n_points < EXPERT_RATE_POINTS ? rates->n_points : EXPERT_RATE_POINTS;
    if (n == 0 || rows <= rates->rows[0])
        return n ? rates->ns[0] : 0;
    for (uint32_t i = 1; i < n; i++)
        if (rows <= rates->rows[i])
            return rates->ns[i - 1] + (rates->ns[i] - rates->ns[i - 1]) * (rows - rates->rows[i - 1]) /
                                          (rates->rows[i] - rates->rows[i - 1]);
    if (n == 1)
        return rates->rows[0] > 0 ? rates->ns[0] * rows / rates->rows[0] : rates->ns[0];
    const double run = rates->rows[n - 1] - rates->rows[n - 2];
    const double slope = (rates->ns[n - 1] - rates->ns[n - 2]) / run;
    return rates->ns[n - 1] + (slope > 0 ? slope : 0) * (rows - rates->rows[n - 1]);
}

static bool usable(const struct expert_rates *rates)
{
    const uint32_t n = rates->n_points;
    if (n == 0 || n > EXPERT_RATE_POINTS || !(rates->upload_ns >= 0))
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!(rates->ns[i] >= 0) || !(rates->rows[i] >= 0) || (i && !(rates->rows[i] > rates->rows[i - 1])))
            return false;
    return true;
}

static double later(double a, double b)
{
    return a > b ? a : b;
}

// Each expert that moves over shortens the host's part and lengthens the GPU's and the link's: one walk sees
// all splits.
uint32_t expert_split(const struct expert_rates *host, const struct expert_rates *gpu, double gpu_busy_ns,
                      const uint32_t *n_tokens, uint32_t n, uint32_t most)
{
    if (!usable(host) || !usable(gpu))
        return 0;
    double host_ns = 0, gpu_ns = later(gpu_busy_ns, 0);
    for (uint32_t i = 0; i < n; i++)
        host_ns += expert_rate_ns(host, n_tokens[i]);
    double least_ns = later(host_ns, gpu_ns);
    uint32_t best = 0;
    for (uint32_t i = 0; i < n && i < most; i++) {
        const double copied_ns = (i + 1) * gpu->upload_ns;
        host_ns -= expert_rate_ns(host, n_tokens[i]);
        gpu_ns = later(gpu_ns, copied_ns) + expert_rate_ns(gpu, n_tokens[i]);
        const double ns = later(host_ns, gpu_ns); // the last copy ends before the GPU does
        if (ns < least_ns) {
            least_ns = ns;
            best = i + 1;
        }
    }
    return best;
}
