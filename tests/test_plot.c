// What pictures are drawn with: labels that keep their distance, scales, numbers as text.
#include "tools/plot.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

Test(plot, spreads_labels_as_little_as_needed)
{
    double apart[] = {10, 50, 90}, y[] = {40, 41, 42, 200}, tight[] = {1, 1, 1, 1, 1};
    plot_spread(apart, 3, 20, 0, 100);
    cr_expect(apart[0] == 10 && apart[1] == 50 && apart[2] == 90, "what has room stays");
    plot_spread(y, 4, 20, 0, 205);
    cr_expect_float_eq(y[1], 41, 1e-9, "the middle of the three stays");
    cr_expect_float_eq(y[1] - y[0], 20, 1e-9);
    cr_expect_float_eq(y[2] - y[1], 20, 1e-9);
    cr_expect_eq(y[3], 200);
    plot_spread(tight, 5, 20, 0, 40);
    for (int i = 0; i < 5; i++)
        cr_expect_float_eq(tight[i], 10 * i, 1e-9);
    for (uint32_t seed = 1; seed < 200; seed++) {
        double random[12];
        for (uint32_t i = 0; i < 12; i++)
            random[i] = (seed * 2654435761u >> (i + 3)) % 300 + 20;
        qsort(random, 12, sizeof *random, ascending);
        plot_spread(random, 12, 18, 20, 320);
        for (uint32_t i = 0; i < 12; i++) {
            cr_expect(random[i] > 20 - 1e-6 && random[i] < 320 + 1e-6);
            cr_expect(i == 0 || random[i] - random[i - 1] > 18 - 1e-6);
        }
    }
}

Test(plot, scales_have_round_ticks_around_the_values)
{
    static const double ends[][2] = {{0, 1},     {0, 37.2},   {3, 4},   {-5, 12},     {0, 1e-12}, {0, 1e12},
                                     {1e9, 1e9}, {0.61, 1.0}, {0, 0.0}, {2.5, 999.5}, {0.01, 0.9}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        for (int logarithmic = 0; logarithmic <= 1; logarithmic++) {
            const struct plot_scale s = plot_scale_over(ends[i][0], ends[i][1], 6, logarithmic, 400, 40);
            cr_expect_eq(s.logarithmic, logarithmic && ends[i][0] > 0);
            cr_expect(s.least <= ends[i][0] && s.most >= ends[i][1] && s.least < s.most);
            cr_assert(s.n_ticks >= 2 && s.n_ticks <= PLOT_TICKS, "%g to %g: %u", s.least, s.most, s.n_ticks);
            for (uint32_t t = 0; t < s.n_ticks; t++) {
                cr_expect(s.ticks[t] >= s.least && s.ticks[t] <= s.most);
                cr_expect(t == 0 || s.ticks[t] > s.ticks[t - 1]);
                char text[32];
                snprintf(text, sizeof text, "%.2g", s.ticks[t]);
                cr_expect_float_eq(atof(text), s.ticks[t], 1e-9 * fabs(s.ticks[t]), "%g is not round",
                                   s.ticks[t]);
            }
            cr_expect_eq(plot_at(&s, s.least), 400);
            cr_expect_eq(plot_at(&s, s.most), 40);
            cr_expect(plot_at(&s, ends[i][0]) >= plot_at(&s, ends[i][1]));
        }
    const struct plot_scale none = plot_scale_over(NAN, INFINITY, 6, true, 0, 100);
    cr_expect(none.least == 0 && none.most == 1 && !none.logarithmic);
    cr_expect_eq(plot_at(&none, NAN), 0);
    const struct plot_scale doubled = plot_scale_over(1, 64, 6, true, 0, 100);
    cr_expect_float_eq(plot_at(&doubled, 8), 50, 1e-9);
}

Test(plot, numbers_have_three_digits_or_none)
{
    static const struct {
        double value;
        const char *number, *percent;
    } cases[] = {
        {0, "0", "0.0%"},           {0.1234, "0.123", "12.3%"},  {9.999, "10.0", "999.9%"},
        {12.34, "12.3", "1234.0%"}, {1234, "1234", "123400.0%"}, {NAN, "–", "–"},
        {-INFINITY, "–", "–"},
    };
    char text[PLOT_NUMBER_SIZE];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_str_eq(plot_number(text, cases[i].value), cases[i].number);
        cr_expect_str_eq(plot_percent(text, cases[i].value), cases[i].percent);
    }
    cr_expect_str_eq(plot_bytes(text, 1536), "1.5 KiB");
    cr_expect_str_eq(plot_bytes(text, -1), "–");
    cr_expect_str_eq(plot_bytes(text, NAN), "–");
}
