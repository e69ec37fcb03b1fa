// The distributions of synthetic weights against their formulas, in every type.
#include "backends/cpu/dequantize.h"
#include "core/synth_draw.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static const enum lode_type all_types[] = {
    LODE_F32,  LODE_F16,  LODE_BF16, LODE_Q4_0, LODE_Q4_1, LODE_Q5_0,   LODE_Q5_1,   LODE_Q8_0,
    LODE_Q2_K, LODE_Q3_K, LODE_Q4_K, LODE_Q5_K, LODE_Q6_K, LODE_IQ4_NL, LODE_IQ4_XS, LODE_MXFP4,
};
enum { N_TYPES = sizeof all_types / sizeof *all_types };

enum { N_DRAWN = 1 << 20 };

static float *draw(struct synth_draw *drawing, enum lode_type type, float mean, float deviation, bool signs,
                   bool lanes)
{
    struct synth_quantiles *quantiles = malloc(sizeof *quantiles);
    synth_quantiles_init(quantiles);
    synth_draw_init(drawing, quantiles, type, mean, deviation, signs, lanes);
    uint64_t row_bytes;
    cr_assert(lode_type_row_bytes(&row_bytes, type, N_DRAWN));
    uint8_t *row = malloc(row_bytes);
    float *weights = malloc(N_DRAWN * sizeof *weights);
    struct synth_random random = synth_random_of(1, lode_type_name(type), 0);
    synth_draw_fill(drawing, row, N_DRAWN, &random);
    cpu_dequantize(weights, type, row, N_DRAWN);
    free(row);
    free(quantiles);
    return weights;
}

struct moments {
    double mean, deviation, lane_mean;
};

static struct moments moments_of(const float *weights, bool lanes)
{
    double sum = 0, squares = 0, lane_sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < N_DRAWN; i++) {
        if (lanes && i % SYNTH_LANE == 0) {
            lane_sum += weights[i];
            continue;
        }
        n++;
        sum += weights[i];
        squares += (double)weights[i] * weights[i];
    }
    const double mean = sum / (double)n;
    return (struct moments){mean, sqrt(squares / (double)n - mean * mean), lane_sum * SYNTH_LANE / N_DRAWN};
}

// Deviations of the smallest and the largest rows: the scales of K-quants are subnormal halves there.
Test(synth_draw, every_type_is_drawn_with_the_wanted_deviation)
{
    static const float deviations[] = {0.0068f, 0.0625f, 1};
    struct synth_draw *drawing = malloc(sizeof *drawing);
    for (int t = 0; t < N_TYPES; t++) {
        for (int i = 0; i < 3; i++) {
            float *weights = draw(drawing, all_types[t], 0, deviations[i], false, false);
            const struct moments found = moments_of(weights, false);
            cr_expect_float_eq(found.deviation / deviations[i], 1, 0.015, "%s: %g for %g",
                               lode_type_name(all_types[t]), found.deviation, (double)deviations[i]);
            cr_expect_float_eq(found.mean / deviations[i], 0, 0.01, "%s: mean %g of %g",
                               lode_type_name(all_types[t]), found.mean, (double)deviations[i]);
            free(weights);
        }
    }
    free(drawing);
}

Test(synth_draw, lanes_are_as_large_as_the_routers_expect)
{
    struct synth_draw *drawing = malloc(sizeof *drawing);
    for (int t = 0; t < N_TYPES; t++) {
        float *weights = draw(drawing, all_types[t], 0, 0.02f, false, true);
        const struct moments found = moments_of(weights, true);
        cr_expect_float_eq(found.lane_mean / (double)drawing->lane, 1, 0.015, "%s: lane %g, expected %g",
                           lode_type_name(all_types[t]), found.lane_mean, (double)drawing->lane);
        cr_expect(found.lane_mean > 0.02 && found.lane_mean < 0.04, "%s", lode_type_name(all_types[t]));
        cr_expect_float_eq(found.deviation / 0.02, 1, 0.03, "%s: %g", lode_type_name(all_types[t]),
                           found.deviation);
        free(weights);
    }
    free(drawing);
}

Test(synth_draw, norms_have_their_mean_and_the_output_norm_both_signs)
{
    struct synth_draw *drawing = malloc(sizeof *drawing);
    float *weights = draw(drawing, LODE_F32, 3, 0.3f, false, false);
    struct moments found = moments_of(weights, false);
    cr_expect_float_eq(found.mean, 3, 0.01);
    cr_expect_float_eq(found.deviation, 0.3, 0.01);
    free(weights);
    weights = draw(drawing, LODE_F32, 3, 0.3f, true, false);
    found = moments_of(weights, false);
    cr_expect_float_eq(found.mean, 0, 0.02);
    cr_expect_float_eq(found.deviation, sqrt(9.09), 0.01);
    free(weights);
    free(drawing);
}
