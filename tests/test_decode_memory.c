// Decoding takes no memory: what the process asks of its allocator and of mmap is counted over 64 tokens,
// with all weights in memory and with most of them in the files, under every policy.
#include "tests/allocation_hooks.h"
#include "tests/demo.h"
#include "tests/test_data.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define N_TOKENS 64
#define LONGEST_CONTEXT 512
#define CEILING_STEP_BYTES ((uint64_t)128 << 10)

// Clang's OpenMP runtime allocates at each parallel region, GCC's does not: with Clang's one thread has to
// do.
#ifdef __clang__
#define THREADS 1
#else
#define THREADS 2
#endif

struct run {
    const char *model; // of the golden data; NULL: the demo model
    uint64_t ram_bytes;
    const char *policy, *io;
};

static int32_t prompt[] = {2, 105, 107, 300, 301, 302, 303, 304};

struct opened {
    struct lode_engine *engine;
    struct lode_session *session;
};

static bool open_run(struct opened *out, const struct run *run, struct lode_error *error)
{
    char path[512];
    if (run->model)
        cr_assert(test_data_find(path, sizeof path, run->model), "%s is not here", run->model);
    else
        test_project_path(path, sizeof path, "models/tiny-moe-q4_0.gguf");
    struct lode_engine_options options = lode_engine_options_default();
    options.threads = THREADS;
    options.ram_bytes = run->ram_bytes;
    options.policy = run->policy;
    options.io = run->io;
    const struct lode_session_options session = {.context = LONGEST_CONTEXT, .batch = 32};
    if (lode_engine_open(&out->engine, path, &options, error))
        return false;
    if (lode_session_open(&out->session, out->engine, &session, error)) {
        lode_engine_close(out->engine);
        return false;
    }
    return true;
}

static void close_run(struct opened *opened)
{
    lode_session_close(opened->session);
    lode_engine_close(opened->engine);
}

static bool opens(struct opened *out, const struct run *run)
{
    struct lode_error error;
    if (open_run(out, run, &error))
        return true;
    cr_assert_eq(error.code, LODE_ERR_MEMORY, "%s", error.text);
    return false;
}

// Near the lowest ceiling that the model runs under: 512 MiB are enough for all of them, 32 for none.
static uint64_t near_the_floor(struct run run)
{
    uint64_t refused = (uint64_t)32 << 20, accepted = (uint64_t)512 << 20;
    struct opened opened;
    while (accepted - refused > CEILING_STEP_BYTES) {
        run.ram_bytes = refused + (accepted - refused) / 2;
        if (opens(&opened, &run)) {
            close_run(&opened);
            accepted = run.ram_bytes;
        } else {
            refused = run.ram_bytes;
        }
    }
    return refused;
}

static void check_counts(const char *what, const struct run *run)
{
    hooks_disarm();
    if (hooks.allocations || hooks.frees)
        hooks_print_stacks();
    cr_expect(hooks.allocations == 0 && hooks.frees == 0,
              "%s of %s, policy %s, io %s, ceiling %llu: %zu allocations and %zu frees in %d tokens", what,
              run->model ? run->model : "the demo model", run->policy ? run->policy : "default",
              run->io ? run->io : "auto", (unsigned long long)run->ram_bytes, (size_t)hooks.allocations,
              (size_t)hooks.frees, N_TOKENS);
}

// Counts from the end of the first token to the last.
static bool count_after_the_first(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    (void)id, (void)part, (void)text, (void)len;
    int *told = user;
    *told += id >= 0; // a character that never became complete is told without one
    if (*told == 1 && id >= 0)
        hooks_arm();
    if (*told == 1 + N_TOKENS)
        hooks_disarm();
    return true;
}

static void generate(struct lode_session *session, float temperature)
{
    int told = 0;
    struct lode_generate_options options = lode_generate_options_default();
    options.sampling.temperature = temperature;
    options.sampling.repetition_penalty = temperature > 0 ? 1.1f : 1.0f;
    options.max_tokens = N_TOKENS + 2;
    options.ignore_end = true;
    options.split_reply = true;
    options.on_token = count_after_the_first;
    options.user = &told;
    struct lode_error error;
    cr_assert_eq(lode_session_generate(session, &options, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(told, N_TOKENS + 2);
}

static void decode(struct lode_session *session, const struct run *run)
{
    const size_t n = sizeof prompt / sizeof *prompt;
    static float logits[1 << 18];
    struct lode_error error;
    demo_feed(session, prompt, n);
    demo_feed(session, prompt, 1);
    hooks_arm();
    for (int i = 0; i < N_TOKENS; i++)
        demo_feed(session, &prompt[(size_t)i * 5 % n], 1);
    check_counts("feeding", run);

    hooks_arm();
    for (int i = 0; i < N_TOKENS; i++)
        cr_assert_eq(lode_session_eval(session, &prompt[(size_t)i * 3 % n], 1, 1, logits, &error), 0, "%s",
                     error.text);
    check_counts("evaluating", run);

    for (int greedy = 0; greedy < 2; greedy++) {
        generate(session, greedy ? 0 : 1);
        check_counts(greedy ? "greedy generation" : "sampled generation", run);
    }
}

static void check_in_memory(struct run run)
{
    struct opened opened;
    cr_assert(opens(&opened, &run));
    decode(opened.session, &run);
    close_run(&opened);
}

// Upwards from a ceiling that is refused, for the size of the process itself varies from time to time.
static void check_at_the_floor(struct run run, uint64_t near_bytes)
{
    struct opened opened;
    for (run.ram_bytes = near_bytes; !opens(&opened, &run);)
        run.ram_bytes += CEILING_STEP_BYTES;
    decode(opened.session, &run);
    struct lode_offload_stats stats;
    lode_session_offload(opened.session, &stats);
    cr_expect(stats.offloaded && stats.decode_bytes > 0, "%s: nothing was read",
              run.model ? run.model : "the demo model");
    close_run(&opened);
}

static const char *const golden_models[] = {"golden/m-e2b-q4_0.gguf", "golden/m-e4b-q4_0.gguf",
                                            "golden/m-26b-a4b-q4_0.gguf", "golden/m-31b-q4_0.gguf"};
#define N_GOLDEN (sizeof golden_models / sizeof *golden_models)

Test(decode_memory, decoding_in_memory_allocates_nothing)
{
    check_in_memory((struct run){0});
    for (size_t m = 0; m < N_GOLDEN; m++)
        check_in_memory((struct run){.model = golden_models[m]});
}

Test(decode_memory, decoding_under_a_ceiling_allocates_nothing_with_any_policy)
{
    const uint64_t near_bytes = near_the_floor((struct run){0});
    const char *summary;
    for (size_t p = 0; lode_policy_name(p, &summary); p++)
        check_at_the_floor((struct run){.policy = lode_policy_name(p, &summary)}, near_bytes);
    check_at_the_floor((struct run){.io = "threads"}, near_bytes);
}

Test(decode_memory, streaming_dense_layers_allocates_nothing)
{
    for (size_t m = 0; m < N_GOLDEN; m++)
        check_at_the_floor((struct run){.model = golden_models[m]},
                           near_the_floor((struct run){.model = golden_models[m]}));
}

// ---- the counters themselves

Test(decode_memory, counts_every_way_to_take_memory)
{
    void *volatile memory[6] = {0};
    void *aligned = NULL;
    hooks_arm();
    memory[0] = malloc(1);
    memory[1] = calloc(1, 1);
    memory[2] = realloc(memory[0], 100);
    memory[3] = aligned_alloc(64, 64);
    int rc = posix_memalign(&aligned, 64, 64);
    memory[4] = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory[5] = strdup("inside of the C library");
    hooks_disarm();
    cr_assert_eq(rc, 0);
    cr_expect_eq(hooks.allocations, 7, "%zu", (size_t)hooks.allocations);
    cr_expect_eq(hooks.frees, 0);
    hooks_arm();
    free(memory[1]);
    hooks_disarm();
    cr_expect_eq(hooks.frees, 1);
    free(memory[2]), free(memory[3]), free(aligned), free(memory[5]);
    munmap(memory[4], 4096);
    cr_expect_eq(hooks.allocations + hooks.frees, 1, "counts while it is not armed");
}

static void allocate_in_a_thread(void)
{
#pragma omp parallel num_threads(3)
    {
        void *volatile memory = malloc(100);
        free(memory);
    }
}

Test(decode_memory, counts_in_all_threads)
{
    allocate_in_a_thread();
    hooks_arm();
    allocate_in_a_thread();
    hooks_disarm();
    cr_expect_geq(hooks.allocations, 3);
    cr_expect_geq(hooks.frees, 3);
}

static bool allocate_in_the_callback(void *user, int32_t id, enum lode_part part, const char *text,
                                     size_t len)
{
    if (*(int *)user == 10) {
        void *volatile memory = malloc(1);
        free(memory);
    }
    return count_after_the_first(user, id, part, text, len);
}

Test(decode_memory, an_allocation_between_two_tokens_is_found)
{
    struct opened opened;
    struct lode_error error;
    int told = 0;
    cr_assert(open_run(&opened, &(struct run){0}, &error), "%s", error.text);
    demo_feed(opened.session, prompt, 4);
    struct lode_generate_options options = lode_generate_options_default();
    options.max_tokens = N_TOKENS + 2;
    options.ignore_end = true;
    options.on_token = allocate_in_the_callback;
    options.user = &told;
    cr_assert_eq(lode_session_generate(opened.session, &options, NULL, &error), 0, "%s", error.text);
    cr_expect_eq(hooks.allocations, 1);
    cr_expect_eq(hooks.frees, 1);
    cr_expect_geq(hooks.depths[0], 3, "no stack of it was kept");
    close_run(&opened);
}
