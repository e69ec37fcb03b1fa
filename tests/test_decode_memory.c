// Decoding takes no memory: every allocation of the process is counted between two tokens.
#include "tests/demo.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

// Counts allocations of the whole process while `counting` is set.
static atomic_bool counting;
static atomic_size_t n_allocations;

void *malloc(size_t bytes)
{
    static void *(*next)(size_t);
    if (!next)
        next = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    if (counting)
        n_allocations++;
    return next(bytes);
}

void *realloc(void *memory, size_t bytes)
{
    static void *(*next)(void *, size_t);
    if (!next)
        next = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
    if (counting)
        n_allocations++;
    return next(memory, bytes);
}

static bool count_from_the_fourth(void *user, int32_t id, enum lode_part part, const char *text, size_t len)
{
    (void)id, (void)part, (void)text, (void)len;
    counting = ++*(int *)user >= 4;
    return true;
}

Test(decode_memory, decoding_allocates_nothing)
{
    struct lode_engine *engine = demo_engine(2);
    struct lode_session *session = demo_session(engine, 256, 0);
    int32_t *ids;
    size_t n = demo_encode(engine, demo_story, &ids);
    demo_feed(session, ids, n);
    int tokens = 0;
    struct lode_generate_options options = lode_generate_options_default();
    options.max_tokens = 64;
    options.ignore_end = true;
    options.split_reply = true;
    options.on_token = count_from_the_fourth;
    options.user = &tokens;
    cr_assert_eq(lode_session_generate(session, &options, NULL, NULL), 0);
    counting = false;
    cr_expect_geq(tokens, 64);
    cr_expect_leq(n_allocations, 0, "%zu allocations in 60 tokens", (size_t)n_allocations);
    counting = true;
    void *volatile memory = malloc(1);
    counting = false;
    free(memory);
    cr_expect_eq(n_allocations, 1, "the hook must count");
    free(ids);
    lode_session_close(session);
    lode_engine_close(engine);
}
