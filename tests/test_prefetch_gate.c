// The gate against machines whose token times are known.
#include "placement/prefetch_gate.h"

#include <criterion/criterion.h>

struct machine {
    double on_ns, off_ns;
    double noise;       // uniform, +- this share
    double outliers;    // share of tokens that take ten times as long
    double switched_ns; // what the first token after a switch takes longer
    uint64_t state;
    bool was_open;
    uint32_t n_open, n_tokens, n_switches;
};

static double random_unit(struct machine *machine)
{
    machine->state = machine->state * 6364136223846793005u + 1442695040888963407u;
    return (double)(machine->state >> 11) * 0x1p-53;
}

static void run(struct prefetch_gate *gate, struct machine *machine, uint32_t n_tokens)
{
    machine->n_open = machine->n_tokens = machine->n_switches = 0;
    for (uint32_t i = 0; i < n_tokens; i++) {
        const bool open = prefetch_gate_open(gate);
        double ns = open ? machine->on_ns : machine->off_ns;
        ns *= 1 + machine->noise * (2 * random_unit(machine) - 1);
        if (random_unit(machine) < machine->outliers)
            ns *= 10;
        if (open != machine->was_open) {
            ns += machine->switched_ns;
            machine->n_switches++;
        }
        machine->was_open = open;
        machine->n_open += open;
        machine->n_tokens++;
        prefetch_gate_token(gate, (uint64_t)ns);
    }
}

static double open_share(const struct machine *machine)
{
    return (double)machine->n_open / machine->n_tokens;
}

enum { COMPARED_TOKENS = 4 * (PREFETCH_EPOCH_TOKENS + 1), LONG_RUN = 4000 };

Test(prefetch_gate, begins_open_and_alternates_in_short_epochs)
{
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    for (uint32_t i = 0; i < COMPARED_TOKENS; i++) {
        const bool expected = i / (PREFETCH_EPOCH_TOKENS + 1) % 2 == 0;
        cr_assert_eq(prefetch_gate_open(&gate), expected, "token %u", i);
        prefetch_gate_token(&gate, 1000);
    }
    cr_assert_not(prefetch_gate_open(&gate), "equal times: nothing is gained by guessing");
}

Test(prefetch_gate, stays_open_where_it_pays)
{
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    struct machine machine = {.on_ns = 80e6, .off_ns = 100e6, .was_open = true};
    run(&gate, &machine, COMPARED_TOKENS);
    cr_assert(prefetch_gate_open(&gate));
    run(&gate, &machine, LONG_RUN);
    cr_assert_float_eq(open_share(&machine), 15.0 / 16, 0.01, "%f", open_share(&machine));
}

Test(prefetch_gate, shuts_where_it_does_not_pay)
{
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    struct machine machine = {.on_ns = 120e6, .off_ns = 100e6, .was_open = true};
    run(&gate, &machine, COMPARED_TOKENS);
    cr_assert_not(prefetch_gate_open(&gate));
    run(&gate, &machine, LONG_RUN);
    cr_assert_float_eq(open_share(&machine), 1.0 / 16, 0.01, "%f", open_share(&machine));
}

Test(prefetch_gate, asks_for_one_percent)
{
    static const struct {
        double on_ns;
        bool pays;
    } cases[] = {{1000000, false}, {990001, false}, {990000, true}, {980000, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct prefetch_gate gate;
        prefetch_gate_init(&gate);
        struct machine machine = {.on_ns = cases[i].on_ns, .off_ns = 1000000, .was_open = true};
        run(&gate, &machine, COMPARED_TOKENS);
        cr_assert_eq(prefetch_gate_open(&gate), cases[i].pays, "%f", cases[i].on_ns);
    }
}

Test(prefetch_gate, changes_its_mind_when_conditions_change)
{
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    struct machine machine = {.on_ns = 80e6, .off_ns = 100e6, .noise = 0.1, .was_open = true, .state = 1};
    for (uint32_t change = 0; change < 6; change++) {
        const bool pays = change % 2 == 0;
        machine.on_ns = pays ? 80e6 : 125e6;
        run(&gate, &machine, 16 * 9 + COMPARED_TOKENS); // until the next trial, and the comparison after it
        run(&gate, &machine, LONG_RUN);
        cr_assert(pays ? open_share(&machine) > 0.9 : open_share(&machine) < 0.1, "change %u: open for %f",
                  change, open_share(&machine));
    }
}

Test(prefetch_gate, follows_both_ways_becoming_slower_together)
{
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    struct machine machine = {.on_ns = 80e6, .off_ns = 100e6, .was_open = true};
    for (uint32_t i = 0; i < 40; i++) { // a context that grows
        run(&gate, &machine, 100);
        machine.on_ns *= 1.02;
        machine.off_ns *= 1.02;
    }
    run(&gate, &machine, LONG_RUN);
    cr_assert_gt(open_share(&machine), 0.9);
}

Test(prefetch_gate, is_not_led_astray_by_noise_and_outliers)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        for (int pays = 0; pays < 2; pays++) {
            struct prefetch_gate gate;
            prefetch_gate_init(&gate);
            struct machine machine = {.on_ns = pays ? 80e6 : 120e6,
                                      .off_ns = 100e6,
                                      .noise = 0.25,
                                      .outliers = 0.1,
                                      .was_open = true,
                                      .state = seed};
            run(&gate, &machine, LONG_RUN);
            cr_assert(pays ? open_share(&machine) > 0.85 : open_share(&machine) < 0.15,
                      "seed %d: open for %f", (int)seed, open_share(&machine));
        }
    }
}

Test(prefetch_gate, does_not_count_the_first_token_after_a_switch)
{
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    struct machine machine = {.on_ns = 98e6, .off_ns = 100e6, .switched_ns = 1e12, .was_open = false};
    run(&gate, &machine, LONG_RUN);
    cr_assert_gt(open_share(&machine), 0.9);
}

Test(prefetch_gate, decides_the_same_for_the_same_times)
{
    struct prefetch_gate a, b;
    prefetch_gate_init(&a);
    prefetch_gate_init(&b);
    struct machine machine = {.on_ns = 100e6, .off_ns = 100e6, .noise = 0.3, .state = 9, .was_open = true};
    for (uint32_t i = 0; i < LONG_RUN; i++) {
        cr_assert_eq(prefetch_gate_open(&a), prefetch_gate_open(&b));
        const uint64_t ns = (uint64_t)(random_unit(&machine) * 1e8);
        prefetch_gate_token(&a, ns);
        prefetch_gate_token(&b, ns);
    }
}

Test(prefetch_gate, bears_any_time)
{
    static const uint64_t times_ns[] = {0, UINT64_MAX, 1, UINT64_MAX - 1};
    struct prefetch_gate gate;
    prefetch_gate_init(&gate);
    for (uint32_t i = 0; i < LONG_RUN; i++)
        prefetch_gate_token(&gate, times_ns[(i ^ i >> 3) % 4]);
    struct machine machine = {.on_ns = 80e6, .off_ns = 100e6};
    run(&gate, &machine, LONG_RUN);
    run(&gate, &machine, LONG_RUN);
    cr_assert_gt(open_share(&machine), 0.9);
}
