// The page about a sweep: well-formed, alone, complete, and the same whatever names and numbers it is given.
#include "tests/sweep_world.h"
#include "tests/xml_checks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

Test(sim_html, ranks_rows_with_ratios)
{
    struct sweep_world w;
    sweep_world_make(&w, 3, 2, 1, false);
    const double factor[] = {1, 0.5, 2, 4}; // of the first row; the last is the bound
    for (uint32_t r = 0; r < 4; r++)
        for (uint32_t b = 0; b < 2; b++)
            sweep_world_set_speed(&w, r, b, 0, factor[r] * (10 + b));
    char *page = sweep_world_page(&w);
    const char *ranking = strstr(strstr(page, "<h2>Ranking</h2>"), "<tbody>");
    cr_assert(ranking);
    const char *best = strstr(ranking, "policy-2-</th>"), *first = strstr(ranking, "policy-0-</th>");
    const char *worst = strstr(ranking, "policy-1-</th>"), *bound = strstr(ranking, "bound</th>");
    cr_assert(best && first && worst && bound);
    cr_expect(best < first && first < worst && worst < bound);
    const char *best_ratios = strstr(best, "<td>2<small>2–2</small></td><td>0.5<small>0.5–0.5</small></td>");
    const char *worst_ratios = strstr(worst, "<td>0.5<small>0.5–0.5</small></td><td>0.125<small>");
    cr_expect(best_ratios && best_ratios < first);
    cr_expect(worst_ratios && worst_ratios < bound);
    cr_expect(strstr(page, "the fastest is <b>policy-2-</b>: <b>22.0 tok/s</b>"));
    cr_expect(strstr(page, "can be faster than 44.0"));
    cr_expect_not(strstr(page, "within 1%"));
    free(page);
    sweep_world_set_speed(&w, 1, 1, 0, 21.9);
    page = sweep_world_page(&w);
    cr_expect(strstr(page, "1 other row is within 1% of it."));
    free(page);
    sweep_world_free(&w);
}

Test(sim_html, slots_have_hits_alone)
{
    struct sweep_world w;
    sweep_world_make(&w, 3, 5, 2, true);
    sweep_world_set_hits(&w);
    char *page = sweep_world_page(&w);
    sweep_page_expect_sound(page);
    sweep_page_expect_even_tables(page);
    cr_expect_eq(xml_count(page, "<svg"), 2);
    cr_expect(strstr(page, "id=\"hits\""));
    cr_expect_not(strstr(page, "tok/s"));
    cr_expect(strstr(page, "has the most hits: <b>") || strstr(page, "</b> has the most hits"));
    cr_expect(strstr(page, ">16 slots<"));
    free(page);
    sweep_world_free(&w);
}

// ---- names and numbers
// ---------------------------------------------------------------------------------------

Test(sim_html, escapes_names)
{
    static const char hostile[] = "</title><script>alert(\"1\")</script>&amp;'\001\033\n";
    struct sweep_world w;
    sweep_world_make(&w, 2, 3, 1, false);
    sweep_world_set_speeds(&w);
    w.sweep.rows[0].policy = hostile;
    w.sweep.rows[1].predictor = "bad \xff\xc3 utf-8, \xef\xbf\xbe none, \xed\xa0\x80 half";
    w.sweep.rows[1].policy = NULL;
    w.sweep.traces[0].path = "<b>&\"path\"</b>";
    w.sweep.command_line = "lode sim --trace '<x>' & rm";
    strcpy(w.sweep.model, "<model> & \"friends\"");
    strcpy(w.sweep.machine, "<i>");
    strcpy(w.sweep.traces[0].model, "</td>");
    strcpy(w.sweep.budgets[1].text, "<4 & GiB>");
    strcpy(w.sweep.budgets[0].why, "needs > 3 \"GiB\"");
    char *page = sweep_world_page(&w);
    sweep_page_expect_sound(page);
    sweep_page_expect_even_tables(page);
    cr_expect(strstr(page, "&lt;/title&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;'???"));
    cr_expect(strstr(page, "&lt;b&gt;&amp;&quot;path&quot;&lt;/b&gt;"));
    cr_expect(strstr(page, "lode sim --trace '&lt;x&gt;' &amp; rm"));
    cr_expect(strstr(page, "bad \xef\xbf\xbd\xef\xbf\xbd utf-8, ? none, "));
    cr_expect(strstr(page, "2 GiB: needs &gt; 3 &quot;GiB&quot;"));
    free(page);
    sweep_world_free(&w);
}

Test(sim_html, stands_what_is_missing_or_no_number)
{
    static const double odd[] = {0, NAN, INFINITY, -INFINITY, 1e300, 1e-300, -5, 12};
    for (uint32_t round = 0; round < 64; round++) {
        struct sweep_world w;
        sweep_world_make(&w, round % 5, 1 + round % 4, 1 + round % 3, round % 2);
        for (size_t i = 0; i < (size_t)w.sweep.n_rows * w.sweep.n_budgets * w.sweep.n_traces; i++) {
            struct sim_cell *cell = &w.sweep.cells[i];
            struct simulation_phase *d = &cell->result.decode;
            const double value = odd[(i + round / 8) % 8], other = odd[(i * 3 + round) % 8];
            cell->failed = i % 7 == 6;
            d->tokens = i % 5 ? 100 : 0;
            d->seconds = value;
            d->stall_s[i % SIMULATION_STALLS] = other;
            d->p50_ms = other;
            d->p95_ms = d->p99_ms = value;
            d->demand_bytes = d->late_bytes = i % 3 ? UINT64_MAX : 0;
            d->choices = i % 4;
            d->hits = UINT64_MAX * (i % 2);
            cell->choices = i % 3;
            cell->hits = i % 3 ? UINT64_MAX : 1;
        }
        w.sweep.budgets[0].share = odd[round % 8];
        if (round % 3 == 0)
            w.sweep.budgets[0].slots = w.sweep.budgets[0].ram_bytes = 0;
        w.sweep.elapsed_s = odd[round % 8];
        char *page = sweep_world_page(&w);
        sweep_page_expect_sound(page);
        sweep_page_expect_even_tables(page);
        free(page);
        sweep_world_free(&w);
    }
}

Test(sim_html, stands_empty_and_large_sweeps)
{
    static const uint32_t sizes[][3] = {{0, 0, 0}, {1, 0, 1}, {0, 3, 1}, {2, 3, 0},
                                        {1, 1, 1}, {1, 1, 5}, {60, 1, 1}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int slots = 0; slots <= 1; slots++) {
            struct sweep_world w;
            sweep_world_make(&w, sizes[i][0], sizes[i][1], sizes[i][2], slots);
            slots ? sweep_world_set_hits(&w) : sweep_world_set_speeds(&w);
            char *page = sweep_world_page(&w);
            sweep_page_expect_sound(page);
            sweep_page_expect_even_tables(page);
            free(page);
            sweep_world_free(&w);
        }
    struct sweep_world w;
    sweep_world_make(&w, 100, 24, 3, false);
    sweep_world_set_speeds(&w);
    for (uint32_t b = 0; b < 24; b++)
        w.sweep.budgets[b].ram_bytes = (b + 30) * ((uint64_t)1 << 30);
    char *page = sweep_world_page(&w), *svg = sweep_page_picture(page, "speed");
    sweep_page_expect_sound(page);
    sweep_page_expect_even_tables(page);
    cr_expect_eq(xml_count(svg, "data-row="), 101);
    for (uint32_t r = 0; r < 100; r++)
        cr_expect(strstr(strstr(page, "<h2>Ranking</h2>"), w.names[r]));
    free(svg);
    free(page);
    sweep_world_free(&w);
}

Test(sim_html, tells_when_it_cannot_be_written)
{
    struct sweep_world w;
    sweep_world_make(&w, 3, 3, 1, false);
    sweep_world_set_speeds(&w);
    FILE *full = fopen("/dev/full", "w");
    if (!full)
        cr_skip_test("there is no /dev/full");
    cr_expect_eq(sim_print_html(full, &w.sweep), -1);
    fclose(full);
    sweep_world_free(&w);
}
