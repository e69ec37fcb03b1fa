// Bounds: loads against all ways of filling a pool that there are, times against a drive and a processor that
// run step by step.
#include "placement/bounds.h"
#include "tests/choice_world.h"
#include "tests/test_data.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static void loads_of(uint64_t *out, const struct trace *trace, struct bound_request request)
{
    struct lode_error error = {0};
    if (request.n_passes == 0)
        request.n_passes = trace->n_passes - request.first_pass;
    cr_assert_eq(bound_loads(out, &request, trace, &error), 0, "%s", error.text);
}

static uint64_t all_loads(const struct trace *trace, uint32_t slots, bool warm)
{
    uint64_t *loads = calloc(trace->n_passes, sizeof *loads);
    loads_of(loads, trace, (struct bound_request){.slots = slots, .warm = warm});
    const uint64_t last = loads[trace->n_passes - 1];
    free(loads);
    return last;
}

// ---- all ways
//
// A state is what lies in the slots and what of the choice at work has not been served. At any moment any
// unit may be read into a free slot, ahead of its use or not, and any may be dropped; a unit in a slot serves
// its use. With a bypass a unit that is read may serve without a slot. Everything is tried in every order.

enum { MAX_UNITS = 6, N_SETS = 1 << MAX_UNITS, NO_WAY = 1000 };

struct ways {
    uint32_t n_units, slots;
    bool bypass;
    uint32_t reads[N_SETS][N_SETS]; // [not served][in slots] the fewest so far
};

static bool lower(uint32_t *reads, uint32_t to)
{
    const bool better = to < *reads;
    *reads = better ? to : *reads;
    return better;
}

static bool try_unit(struct ways *ways, uint32_t waiting, uint32_t pool, uint32_t unit)
{
    const uint32_t bit = 1u << unit, reads = ways->reads[waiting][pool];
    bool better = false;
    if (pool & bit) {
        better |= lower(&ways->reads[waiting][pool & ~bit], reads);
        better |= lower(&ways->reads[waiting & ~bit][pool], reads);
    } else if ((uint32_t)__builtin_popcount(pool) < ways->slots) {
        better |= lower(&ways->reads[waiting][pool | bit], reads + 1);
    }
    if (ways->bypass && (waiting & bit))
        better |= lower(&ways->reads[waiting & ~bit][pool], reads + 1);
    return better;
}

// Serves a choice; before it, reads[0] has what the pools cost, and after it again.
static void serve(struct ways *ways, uint32_t choice)
{
    if (!choice)
        return;
    memcpy(ways->reads[choice], ways->reads[0], sizeof ways->reads[0]);
    for (uint32_t waiting = choice; waiting > 0; waiting = (waiting - 1) & choice)
        if (waiting != choice)
            for (uint32_t pool = 0; pool < N_SETS; pool++)
                ways->reads[waiting][pool] = NO_WAY;
    for (uint32_t pool = 0; pool < N_SETS; pool++)
        ways->reads[0][pool] = NO_WAY;
    for (bool again = true; again;) {
        again = false;
        for (uint32_t waiting = choice;; waiting = (waiting - 1) & choice) {
            for (uint32_t pool = 0; pool < 1u << ways->n_units; pool++)
                for (uint32_t unit = 0; unit < ways->n_units && ways->reads[waiting][pool] < NO_WAY; unit++)
                    again |= try_unit(ways, waiting, pool, unit);
            if (waiting == 0)
                break;
        }
    }
}

static uint32_t choice_of(const struct trace *trace, uint32_t pass, uint32_t m)
{
    uint32_t choice = 0, first = 0;
    for (uint32_t i = 0; i < m; i++)
        first += trace->header.layers[trace->moe_layer[i]].n_experts;
    for (uint32_t t = trace->passes[pass].first_token;
         t < trace->passes[pass].first_token + trace->passes[pass].n_tokens; t++)
        for (uint32_t i = 0; i < trace->n_used; i++) {
            const uint16_t expert = trace->experts[((size_t)t * trace->n_moe + m) * trace->n_used + i];
            if (expert != TRACE_NO_EXPERT)
                choice |= 1u << (first + expert);
        }
    return choice;
}

static void try_all_ways(uint64_t *out_loads, const struct trace *trace, const struct bound_request *request,
                         bool bypass)
{
    struct ways *ways = calloc(1, sizeof *ways);
    cr_assert(ways);
    ways->n_units = choice_world_experts(trace);
    ways->slots = request->slots;
    ways->bypass = bypass;
    cr_assert_leq(ways->n_units, MAX_UNITS);
    for (uint32_t pool = 0; pool < N_SETS; pool++) {
        const bool at_start = pool == 0 || (request->warm && pool < 1u << ways->n_units &&
                                            (uint32_t)__builtin_popcount(pool) <= request->slots);
        ways->reads[0][pool] = at_start ? 0 : NO_WAY;
    }
    for (uint32_t p = 0; p < request->n_passes; p++) {
        for (uint32_t m = 0; m < trace->n_moe; m++)
            serve(ways, choice_of(trace, request->first_pass + p, m));
        uint32_t fewest = NO_WAY;
        for (uint32_t pool = 0; pool < N_SETS; pool++)
            lower(&fewest, ways->reads[0][pool]);
        out_loads[p] = fewest;
    }
    free(ways);
}

enum { MAX_PASSES = 12 };

static void compare(const struct trace *trace, const struct bound_request *request, uint32_t seed)
{
    uint64_t bound[MAX_PASSES], ways[MAX_PASSES];
    loads_of(bound, trace, *request);
    try_all_ways(ways, trace, request, true);
    for (uint32_t p = 0; p < request->n_passes; p++)
        cr_assert_eq(bound[p], ways[p], "seed %u, %u slots, %s, pass %u: %u instead of %u", seed,
                     request->slots, request->warm ? "warm" : "cold", p, (unsigned)bound[p],
                     (unsigned)ways[p]);
    if (request->slots == 0)
        return; // nothing can be served
    try_all_ways(ways, trace, request, false);
    for (uint32_t p = 0; p < request->n_passes; p++)
        cr_assert_leq(bound[p], ways[p], "seed %u, %u slots, pass %u", seed, request->slots, p);
}

static void compare_shapes(const struct choice_shape *shape, uint32_t seed)
{
    struct trace trace;
    choice_world_make(&trace, shape, seed);
    const uint32_t first = trace.n_passes > 2 ? seed % 3 : 0;
    for (uint32_t slots = 0; slots <= choice_world_experts(&trace); slots++)
        for (uint32_t warm = 0; warm < 2; warm++) {
            const struct bound_request request = {
                .first_pass = first, .n_passes = trace.n_passes - first, .slots = slots, .warm = warm};
            compare(&trace, &request, seed);
        }
    trace_free(&trace);
}

Test(bounds, loads_of_single_tokens_are_the_fewest_of_all_ways)
{
    for (uint32_t seed = 0; seed < 40; seed++)
        compare_shapes(&(struct choice_shape){.n_tokens = MAX_PASSES - seed % 5,
                                              .n_moe = 1 + seed % 2,
                                              .n_experts = seed % 2 ? 3 : 5,
                                              .n_used = 1 + seed / 2 % 3,
                                              .uniform = seed % 4 < 2,
                                              .gaps = seed % 8 < 4},
                       seed);
}

Test(bounds, loads_of_prompts_are_the_fewest_of_all_ways_and_choices_larger_than_the_pool_pass_through)
{
    for (uint32_t seed = 0; seed < 40; seed++)
        compare_shapes(&(struct choice_shape){.n_tokens = MAX_PASSES,
                                              .n_moe = 1 + seed % 3,
                                              .n_experts = seed % 3 == 0   ? 6
                                                           : seed % 3 == 1 ? 3
                                                                           : 2,
                                              .n_used = 1 + seed / 3 % 2,
                                              .pass_tokens = 4,
                                              .uniform = seed % 2,
                                              .gaps = seed % 5 == 0},
                       seed);
}

Test(bounds, a_bypass_is_worth_loads_that_no_pool_without_one_can_save)
{
    struct trace trace;
    uint64_t bound[4], ways[4];
    choice_world_make(&trace, &(struct choice_shape){.n_tokens = 4, .n_moe = 1, .n_experts = 3, .n_used = 1},
                      1);
    memcpy(trace.experts, (uint16_t[]){0, 1, 0, 2}, 4 * sizeof(uint16_t));
    const struct bound_request request = {.n_passes = 4, .slots = 1};
    loads_of(bound, &trace, request);
    cr_assert_arr_eq(bound, ((uint64_t[]){1, 2, 2, 3}), sizeof bound);
    try_all_ways(ways, &trace, &request, false);
    cr_assert_eq(ways[3], 4);
    trace_free(&trace);
}

// ---- by hand, and at the limits

Test(bounds, with_all_slots_only_first_uses_are_loaded_and_without_slots_every_use)
{
    struct trace trace;
    const struct choice_shape shape = {
        .n_tokens = 200, .n_moe = 5, .n_experts = 40, .n_used = 4, .gaps = true, .unlike = true};
    choice_world_make(&trace, &shape, 3);
    uint64_t uses = 0, first_uses = 0;
    bool seen[5][40] = {{false}};
    for (size_t i = 0; i < (size_t)200 * 5 * 4; i++) {
        if (trace.experts[i] == TRACE_NO_EXPERT)
            continue;
        bool *s = &seen[i / 4 % 5][trace.experts[i]];
        uses++;
        first_uses += !*s;
        *s = true;
    }
    cr_assert_eq(all_loads(&trace, 0, false), uses);
    cr_assert_eq(all_loads(&trace, 0, true), uses);
    cr_assert_eq(all_loads(&trace, 200, false), first_uses);
    cr_assert_eq(all_loads(&trace, UINT32_MAX, false), first_uses);
    cr_assert_eq(all_loads(&trace, UINT32_MAX, true), 0);
    trace_free(&trace);
}

Test(bounds, more_slots_and_a_warm_start_never_cost_loads_and_loads_only_grow)
{
    for (uint32_t seed = 0; seed < 10; seed++) {
        struct trace trace;
        const struct choice_shape shape = {.n_tokens = 150,
                                           .n_moe = 1 + seed % 6,
                                           .n_experts = 32,
                                           .n_used = 1 + seed % 8,
                                           .pass_tokens = seed % 3 ? 1 : 20,
                                           .uniform = seed % 2};
        choice_world_make(&trace, &shape, seed);
        uint64_t *before = calloc(trace.n_passes, sizeof *before), *loads = calloc(trace.n_passes, 8);
        loads_of(before, &trace, (struct bound_request){.slots = 0});
        for (uint32_t slots = 1; slots < 80; slots += 1 + slots / 4) {
            loads_of(loads, &trace, (struct bound_request){.slots = slots});
            for (uint32_t p = 0; p < trace.n_passes; p++)
                cr_assert(loads[p] <= before[p] && (p == 0 || loads[p] >= loads[p - 1]));
            memcpy(before, loads, trace.n_passes * sizeof *loads);
            loads_of(loads, &trace, (struct bound_request){.slots = slots, .warm = true});
            for (uint32_t p = 0; p < trace.n_passes; p++)
                cr_assert(loads[p] <= before[p] && loads[p] + slots >= before[p]);
        }
        free(before);
        free(loads);
        trace_free(&trace);
    }
}

Test(bounds, layers_of_the_largest_size_and_many_slots_are_counted)
{
    struct trace trace;
    const struct choice_shape shape = {.n_tokens = 30,
                                       .n_moe = 3,
                                       .n_experts = TRACE_MAX_EXPERTS,
                                       .n_used = TRACE_MAX_USED,
                                       .uniform = true};
    choice_world_make(&trace, &shape, 9);
    for (size_t i = 0; i < 30 * 3; i++) // the last expert there is, in every row
        trace.experts[i * TRACE_MAX_USED] = TRACE_MAX_EXPERTS - 1;
    uint64_t loads[30];
    loads_of(loads, &trace, (struct bound_request){.slots = 3});
    for (uint32_t p = 0; p < 30; p++) // 64 a layer, and from the second pass on the last expert's are there
        cr_assert_leq(loads[p], (p + 1) * 3 * 64 - p * 3);
    loads_of(loads, &trace, (struct bound_request){.slots = 3 * TRACE_MAX_EXPERTS});
    cr_assert_leq(loads[29], 3 * TRACE_MAX_EXPERTS);
    trace_free(&trace);
}

Test(bounds, a_trace_without_choices_needs_nothing)
{
    struct trace trace;
    uint64_t loads[5] = {9, 9, 9, 9, 9};
    choice_world_make(&trace, &(struct choice_shape){.n_tokens = 5, .n_moe = 2, .n_experts = 4, .n_used = 2},
                      1);
    memset(trace.experts, 0xff, 5 * 2 * 2 * sizeof *trace.experts);
    loads_of(loads, &trace, (struct bound_request){.slots = 2, .warm = true});
    cr_assert_eq(loads[4], 0);
    trace.n_moe = 0;
    loads_of(loads, &trace, (struct bound_request){.slots = 2});
    cr_assert_eq(loads[0], 0);
    trace.n_moe = 2;
    trace_free(&trace);
}

Test(bounds, passes_that_are_not_there_are_refused)
{
    struct trace trace;
    struct lode_error error = {0};
    uint64_t loads[5] = {0};
    choice_world_make(&trace, &(struct choice_shape){.n_tokens = 5, .n_moe = 1, .n_experts = 4, .n_used = 1},
                      1);
    struct bound_request request = {.first_pass = 3, .n_passes = 3, .slots = 1};
    cr_assert_eq(bound_loads(loads, &request, &trace, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "passes 3 to 6 of a trace of 5"), "%s", error.text);
    request = (struct bound_request){.first_pass = 6};
    cr_assert_eq(bound_loads(loads, &request, &trace, NULL), LODE_ERR_ARGUMENT);
    request = (struct bound_request){.first_pass = 2, .n_passes = UINT32_MAX};
    cr_assert_eq(bound_loads(loads, &request, &trace, &error), LODE_ERR_ARGUMENT);
    request = (struct bound_request){.first_pass = 5};
    cr_assert_eq(bound_loads(loads, &request, &trace, &error), 0, "no passes at all");
    request = (struct bound_request){.n_passes = 5};
    trace.passes[4].n_tokens = 2;
    cr_assert_eq(bound_loads(loads, &request, &trace, &error), LODE_ERR_ARGUMENT);
    trace_free(&trace);
}

Test(bounds, the_recorded_26b_conversation_needs_every_expert_once_and_less_than_a_token_each_time)
{
    char path[1024];
    struct trace trace;
    struct lode_error error = {0};
    if (!test_data_find(path, sizeof path, "traces/gemma4-26b-a4b.route.csv.zst"))
        cr_skip_test("the trace is not there");
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    bool seen[TRACE_MAX_LAYERS][128] = {{false}};
    uint64_t distinct = 0;
    const size_t n_cells = (size_t)trace.n_tokens * trace.n_moe * trace.n_used;
    for (size_t i = 0; i < n_cells; i++) {
        bool *s = &seen[i / trace.n_used % trace.n_moe][trace.experts[i]];
        distinct += !*s;
        *s = true;
    }
    cr_assert_eq(all_loads(&trace, choice_world_experts(&trace), false), distinct);
    const uint64_t some = all_loads(&trace, choice_world_experts(&trace) / 8, false);
    cr_assert(some > distinct && some < n_cells, "%u", (unsigned)some);
    trace_free(&trace);
}

// ---- times

enum { TIMED = 40 };

// A drive that never rests and a processor that computes pass after pass, tick by tick: a pass is over when
// it is computed and its bytes are there.
static void run_ticks(double *out, const uint64_t *bytes, const double *ticks, uint32_t n, uint64_t rate)
{
    uint64_t read = 0, now = 0;
    for (uint32_t p = 0; p < n; p++) {
        double left = ticks[p];
        while (left > 0 || read < bytes[p]) {
            left -= left > 0;
            read += rate;
            now++;
        }
        out[p] = (double)now;
    }
}

Test(bounds, times_are_those_of_a_drive_that_never_rests)
{
    uint64_t seed = 4;
    for (uint32_t run = 0; run < 300; run++) {
        uint64_t bytes[TIMED], sum = 0;
        double ticks[TIMED], bound[TIMED], ran[TIMED];
        const uint64_t rate = UINT64_C(1) << trace_random(&seed) % 5;
        for (uint32_t p = 0; p < TIMED; p++) {
            bytes[p] = sum += trace_random(&seed) % 3 ? rate * (trace_random(&seed) % 50) : 0;
            ticks[p] = (double)(trace_random(&seed) % 60);
        }
        bound_times(bound, bytes, ticks, TIMED, (double)rate);
        run_ticks(ran, bytes, ticks, TIMED, rate);
        for (uint32_t p = 0; p < TIMED; p++)
            cr_assert_eq(bound[p], ran[p], "run %u, pass %u: %f and %f", run, p, bound[p], ran[p]);
    }
}

// A run that must wait: a pass has layers, each computed when its own bytes are there, which are asked for
// when `ahead` layers before have begun.
Test(bounds, no_run_that_waits_for_its_reads_is_faster)
{
    enum { LAYERS = 6 };
    uint64_t seed = 8;
    for (uint32_t run = 0; run < 300; run++) {
        const uint32_t ahead = trace_random(&seed) % 9;
        uint64_t bytes[TIMED], sum = 0, need[TIMED * LAYERS];
        double compute[TIMED] = {0}, begun[TIMED * LAYERS], work[TIMED * LAYERS], bound[TIMED];
        for (uint32_t i = 0; i < TIMED * LAYERS; i++) {
            sum += need[i] = trace_random(&seed) % 100;
            work[i] = (double)(trace_random(&seed) % 100);
            compute[i / LAYERS] += work[i];
            bytes[i / LAYERS] = sum;
        }
        bound_times(bound, bytes, compute, TIMED, 1);
        double drive = 0, now = 0, slower = 0;
        for (uint32_t i = 0; i < TIMED * LAYERS; i++) {
            const double asked = i > ahead ? begun[i - ahead - 1] : 0;
            drive = (drive > asked ? drive : asked) + (double)need[i];
            begun[i] = now > drive ? now : drive;
            now = begun[i] + work[i];
            if (i % LAYERS == LAYERS - 1) {
                cr_assert_geq(now, bound[i / LAYERS], "run %u, pass %u", run, i / LAYERS);
                slower = now - bound[i / LAYERS];
            }
        }
        cr_assert(ahead > 0 || slower > 0, "without reading ahead it is slower");
    }
}

Test(bounds, times_by_hand)
{
    double out[4];
    bound_times(out, (uint64_t[]){100, 100, 900, 900}, (double[]){2, 3, 1, 1}, 4, 100);
    cr_assert_arr_eq(out, ((double[]){2, 5, 9, 10}), sizeof out);
}
