// What runs teach a profile: slowly, within bounds, the same to both sides, and nothing from what is not
// worth learning from.
#include "profiles/learn.h"

#include <criterion/criterion.h>
#include <math.h>

static struct profile_learned learned[PROFILE_PARTS];

static void forget(void)
{
    for (int part = 0; part < PROFILE_PARTS; part++)
        learned[part] = (struct profile_learned){.factor = 1};
}

TestSuite(learn, .init = forget);

static const struct learn_parts even = {1, 1, 1, 1};

// A run whose parts take `bias` times what the curves say, predicted with what was learned so far.
static uint32_t teach(enum learn_phase phase, double bias)
{
    const bool decode = phase == LEARN_DECODE;
    const struct learn_parts measured = {bias, bias, bias, bias};
    const struct learn_parts predicted = {
        learned[decode ? PROFILE_PART_KERNELS_DECODE : PROFILE_PART_KERNELS_PREFILL].factor,
        learned[decode ? PROFILE_PART_ATTENTION_DECODE : PROFILE_PART_ATTENTION_PREFILL].factor,
        learned[PROFILE_PART_OPERATIONS].factor, learned[PROFILE_PART_DRIVE].factor};
    struct learn_sample sample = {0};
    learn_add(&sample, phase, &measured, &predicted, learned);
    return learn_update(learned, &sample);
}

Test(learn, a_constant_error_is_found)
{
    static const double biases[] = {1, 1.1, 1.4, 0.9, 0.7};
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++) {
        forget();
        for (int run = 0; run < 30; run++) {
            cr_assert_eq(teach(LEARN_DECODE, biases[i]), 4);
            cr_assert_eq(teach(LEARN_PREFILL, biases[i]), 4);
        }
        for (int part = 0; part < PROFILE_PARTS; part++)
            cr_assert_float_eq(learned[part].factor, biases[i], 1e-3, "part %d of %g", part, biases[i]);
        cr_assert_eq(learned[PROFILE_PART_KERNELS_DECODE].runs, 30);
        cr_assert_eq(learned[PROFILE_PART_ATTENTION_PREFILL].runs, 30);
        cr_assert_eq(learned[PROFILE_PART_DRIVE].runs, 60);
    }
}

Test(learn, one_run_moves_a_quarter_of_the_way)
{
    teach(LEARN_DECODE, 1.2);
    cr_assert_float_eq(learned[PROFILE_PART_KERNELS_DECODE].factor, pow(1.2, 0.25), 1e-12);
    cr_assert_eq(learned[PROFILE_PART_KERNELS_PREFILL].factor, 1);
    cr_assert_eq(learned[PROFILE_PART_KERNELS_PREFILL].runs, 0);
    teach(LEARN_DECODE, 1.2);
    cr_assert_float_eq(learned[PROFILE_PART_KERNELS_DECODE].factor, pow(1.2, 0.25 + 0.75 * 0.25), 1e-12);
}

Test(learn, slower_and_faster_weigh_the_same)
{
    for (double bias = 1.01; bias < 2 * LEARN_OUTLIER; bias *= 1.1) {
        forget();
        teach(LEARN_DECODE, bias);
        const double up = learned[PROFILE_PART_DRIVE].factor;
        forget();
        teach(LEARN_DECODE, 1 / bias);
        cr_assert_float_eq(up * learned[PROFILE_PART_DRIVE].factor, 1, 1e-12, "%g", bias);
    }
    forget();
    teach(LEARN_DECODE, 1.3);
    teach(LEARN_DECODE, 1 / 1.3);
    cr_assert_lt(fabs(log(learned[PROFILE_PART_DRIVE].factor)), 0.25 * log(1.3));
}

Test(learn, factors_are_bounded)
{
    for (int run = 0; run < 100; run++)
        teach(LEARN_DECODE, 2.5);
    cr_assert_float_eq(learned[PROFILE_PART_KERNELS_DECODE].factor, PROFILE_LEARNED_MOST, 1e-6);
    cr_assert_leq(learned[PROFILE_PART_KERNELS_DECODE].factor, PROFILE_LEARNED_MOST);
    for (int run = 0; run < 100; run++)
        teach(LEARN_DECODE, 0.4);
    cr_assert_float_eq(learned[PROFILE_PART_KERNELS_DECODE].factor, 1 / PROFILE_LEARNED_MOST, 1e-6);
    cr_assert_geq(learned[PROFILE_PART_KERNELS_DECODE].factor, 1 / PROFILE_LEARNED_MOST);
    forget();
    teach(LEARN_DECODE, 2.9); // however far off, one run weighs no more than this
    cr_assert_float_eq(learned[PROFILE_PART_KERNELS_DECODE].factor, pow(PROFILE_LEARNED_MOST, 0.25), 1e-12);
}

Test(learn, what_is_far_off_teaches_nothing)
{
    static const double biases[] = {3.1, 1000, 1 / 3.1, 1e-9};
    teach(LEARN_DECODE, 1.1);
    const struct profile_learned before = learned[PROFILE_PART_KERNELS_DECODE];
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++) {
        cr_assert_eq(teach(LEARN_DECODE, biases[i]), 0, "%g", biases[i]);
        cr_assert_eq(learned[PROFILE_PART_KERNELS_DECODE].factor, before.factor);
        cr_assert_eq(learned[PROFILE_PART_KERNELS_DECODE].runs, before.runs);
    }
}

Test(learn, noise_without_an_error_leaves_the_factor_near_one)
{
    static const double noise[] = {1.2, 0.85, 1.05, 0.9, 1.15, 0.95, 1.0, 0.92, 1.1, 0.93};
    for (int run = 0; run < 200; run++)
        teach(LEARN_DECODE, noise[run % 10]);
    cr_assert_lt(fabs(learned[PROFILE_PART_KERNELS_DECODE].factor - 1), 0.05);
}

Test(learn, short_parts_are_left_alone)
{
    const struct learn_parts mostly_kernels = {1, 0.02, 0.02, 0.02};
    const struct learn_parts pairs[2][2] = {{mostly_kernels, even}, {even, mostly_kernels}};
    for (int i = 0; i < 2; i++) {
        struct learn_sample sample = {0};
        forget();
        learn_add(&sample, LEARN_DECODE, &pairs[i][0], &pairs[i][1], learned);
        cr_assert_eq(learn_update(learned, &sample), 1);
        cr_assert_eq(learned[PROFILE_PART_KERNELS_DECODE].runs, 1);
        cr_assert_eq(learned[PROFILE_PART_ATTENTION_DECODE].runs, 0);
        cr_assert_eq(learned[PROFILE_PART_OPERATIONS].runs, 0);
        cr_assert_eq(learned[PROFILE_PART_DRIVE].runs, 0);
    }
}

Test(learn, a_part_of_both_phases_is_one_part)
{
    const struct learn_parts decode = {1, 1, 1.2, 1}, prefill = {1, 1, 3.6, 1}, predicted = {1, 1, 3, 1};
    struct learn_sample sample = {0};
    learn_add(&sample, LEARN_DECODE, &decode, &even, learned);
    learn_add(&sample, LEARN_PREFILL, &prefill, &predicted, learned);
    cr_assert_eq(learn_update(learned, &sample), PROFILE_PARTS);
    cr_assert_eq(learned[PROFILE_PART_OPERATIONS].runs, 1);
    cr_assert_float_eq(learned[PROFILE_PART_OPERATIONS].factor, pow(1.2, 0.25), 1e-12);
}

Test(learn, what_is_no_time_teaches_nothing)
{
    static const double odd[] = {0, -1, NAN, INFINITY};
    for (size_t i = 0; i < 4; i++) {
        const struct learn_parts strange = {odd[i], odd[i], odd[i], odd[i]};
        struct learn_sample sample = {0};
        learn_add(&sample, LEARN_DECODE, &strange, &even, learned);
        learn_add(&sample, LEARN_PREFILL, &even, &strange, learned);
        cr_assert_eq(learn_update(learned, &sample), 0, "%g", odd[i]);
    }
    const struct learn_sample nothing = {0};
    cr_assert_eq(learn_update(learned, &nothing), 0);
}

Test(learn, runs_do_not_overflow)
{
    learned[PROFILE_PART_DRIVE].runs = UINT32_MAX;
    teach(LEARN_DECODE, 1.1);
    cr_assert_eq(learned[PROFILE_PART_DRIVE].runs, UINT32_MAX);
}

Test(learn, short_and_disturbed_runs_are_known)
{
    cr_assert_not(learn_is_enough(LEARN_DECODE, 31, 1.9));
    cr_assert(learn_is_enough(LEARN_DECODE, 32, 0.1));
    cr_assert(learn_is_enough(LEARN_DECODE, 4, 2));
    cr_assert_not(learn_is_enough(LEARN_DECODE, 1, 9));
    cr_assert_not(learn_is_enough(LEARN_PREFILL, 63, 9));
    cr_assert(learn_is_enough(LEARN_PREFILL, 64, 0.01));
    cr_assert_not(learn_is_stalled(100, 390, 0));
    cr_assert(learn_is_stalled(100, 410, 0));
    cr_assert_not(learn_is_stalled(100, 4100, 1 << 20), "a read may take long");
}
