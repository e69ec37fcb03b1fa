// Splitting a layer's experts between host and GPU: against all other splits, and where it may not.
#include "placement/expert_split.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static uint32_t random_state = 1;

static uint32_t draw(uint32_t end)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(random_state ^ random_state >> 15) * end >> 32);
}

// Devices that take a part for reading and a part for each row.
static struct expert_rates rates_of(double read_ns, double row_ns, double upload_ns)
{
    struct expert_rates rates = {.n_points = 4, .upload_ns = upload_ns};
    static const double rows[] = {1, 8, 64, 512};
    for (uint32_t i = 0; i < rates.n_points; i++) {
        rates.rows[i] = rows[i];
        rates.ns[i] = read_ns + row_ns * rows[i];
    }
    return rates;
}

Test(expert_split, rates_are_linear_between_points_and_beyond_the_last)
{
    const struct expert_rates rates = {.n_points = 3, .rows = {2, 4, 8}, .ns = {10, 30, 40}};
    cr_assert_float_eq(expert_rate_ns(&rates, 1), 10, 1e-9, "weights are read whatever the rows");
    cr_assert_float_eq(expert_rate_ns(&rates, 2), 10, 1e-9);
    cr_assert_float_eq(expert_rate_ns(&rates, 3), 20, 1e-9);
    cr_assert_float_eq(expert_rate_ns(&rates, 6), 35, 1e-9);
    cr_assert_float_eq(expert_rate_ns(&rates, 8), 40, 1e-9);
    cr_assert_float_eq(expert_rate_ns(&rates, 16), 60, 1e-9);
    const struct expert_rates one = {.n_points = 1, .rows = {4}, .ns = {20}};
    cr_assert_float_eq(expert_rate_ns(&one, 1), 20, 1e-9);
    cr_assert_float_eq(expert_rate_ns(&one, 8), 40, 1e-9);
    const struct expert_rates falling = {.n_points = 2, .rows = {4, 8}, .ns = {20, 10}};
    cr_assert_float_eq(expert_rate_ns(&falling, 800), 10, 1e-9, "noise is not extended below zero");
    cr_assert_float_eq(expert_rate_ns(&(struct expert_rates){0}, 7), 0, 1e-9);
}

// The time of a split, event by event: the link copies one after the other, the GPU computes what has come.
static double time_of(const struct expert_rates *host, const struct expert_rates *gpu, double busy_ns,
                      const uint32_t *n_tokens, uint32_t n, uint32_t moved)
{
    double link = 0, on_gpu = busy_ns, on_host = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i >= moved) {
            on_host += expert_rate_ns(host, n_tokens[i]);
            continue;
        }
        link += gpu->upload_ns;
        on_gpu = fmax(on_gpu, link) + expert_rate_ns(gpu, n_tokens[i]);
    }
    return fmax(fmax(on_host, on_gpu), link);
}

Test(expert_split, no_other_split_is_faster)
{
    uint32_t moved_some = 0, moved_all = 0, moved_none = 0;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t n_tokens[48];
        const uint32_t n = draw(48), most = draw(3) ? n : draw(48);
        for (uint32_t i = 0; i < n; i++)
            n_tokens[i] = 1 + draw(1u << draw(10));
        for (uint32_t i = 1; i < n; i++)
            for (uint32_t j = i; j > 0 && n_tokens[j - 1] < n_tokens[j]; j--) {
                const uint32_t other = n_tokens[j];
                n_tokens[j] = n_tokens[j - 1];
                n_tokens[j - 1] = other;
            }
        const struct expert_rates host = rates_of(draw(200), draw(100), 0);
        const struct expert_rates gpu = rates_of(draw(100), draw(20), draw(1000));
        const double busy = draw(2) ? draw(5000) : 0;
        const uint32_t moved = expert_split(&host, &gpu, busy, n_tokens, n, most);
        cr_assert(moved <= n && moved <= most);
        const double chosen = time_of(&host, &gpu, busy, n_tokens, n, moved);
        for (uint32_t other = 0; other <= n && other <= most; other++) {
            const double its = time_of(&host, &gpu, busy, n_tokens, n, other);
            cr_assert(chosen <= its * (1 + 1e-12), "%u of %u take %g, %u take %g", moved, n, chosen, other,
                      its);
            cr_assert(other >= moved || its > chosen, "%u would have done", other);
        }
        moved_none += n > 0 && moved == 0;
        moved_all += n > 0 && moved == n;
        moved_some += moved > 0 && moved < n;
    }
    cr_assert(moved_some > 300 && moved_all > 15 && moved_none > 150, "%u %u %u", moved_some, moved_all,
              moved_none);
}

Test(expert_split, moves_nothing_where_rates_are_not_known_or_make_no_sense)
{
    const uint32_t n_tokens[] = {100, 50, 20};
    const struct expert_rates host = rates_of(100, 1000, 0), gpu = rates_of(10, 1, 10), unknown = {0};
    cr_assert_eq(expert_split(&host, &gpu, 0, n_tokens, 3, 3), 3);
    cr_assert_eq(expert_split(&host, &gpu, 0, n_tokens, 3, 2), 2);
    cr_assert_eq(expert_split(&host, &gpu, 0, n_tokens, 3, 0), 0);
    cr_assert_eq(expert_split(&host, &gpu, 0, n_tokens, 0, 3), 0);
    cr_assert_eq(expert_split(&unknown, &gpu, 0, n_tokens, 3, 3), 0);
    cr_assert_eq(expert_split(&host, &unknown, 0, n_tokens, 3, 3), 0);
    struct expert_rates broken = gpu;
    broken.upload_ns = NAN;
    cr_assert_eq(expert_split(&host, &broken, 0, n_tokens, 3, 3), 0);
    broken = gpu;
    broken.ns[2] = NAN;
    cr_assert_eq(expert_split(&host, &broken, 0, n_tokens, 3, 3), 0);
    broken = gpu;
    broken.rows[2] = broken.rows[1];
    cr_assert_eq(expert_split(&host, &broken, 0, n_tokens, 3, 3), 0);
    broken = gpu;
    broken.n_points = EXPERT_RATE_POINTS + 1;
    cr_assert_eq(expert_split(&host, &broken, 0, n_tokens, 3, 3), 0);
}

Test(expert_split, leaves_single_rows_to_the_host_and_takes_many)
{
    // 3.3 MB: 0.28 ms on the link, 0.08 ms on the host for a row and 0.6 ms for 32, 0.05 ms on the GPU.
    const struct expert_rates host = {.n_points = 2, .rows = {1, 32}, .ns = {80e3, 600e3}};
    const struct expert_rates gpu = {.n_points = 2, .rows = {1, 32}, .ns = {15e3, 50e3}, .upload_ns = 280e3};
    uint32_t ones[128], many[128];
    for (uint32_t i = 0; i < 128; i++) {
        ones[i] = 1;
        many[i] = 32;
    }
    cr_assert_eq(expert_split(&host, &gpu, 0, ones, 1, 8), 0);
    const uint32_t moved = expert_split(&host, &gpu, 0, many, 128, 128);
    cr_assert(moved > 80 && moved < 95, "%u: the rates are 600 to 280", moved);
}
