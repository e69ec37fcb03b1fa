// Merging: conversations stay whole and apart, the split is by conversation, and nothing is lost.
#include "placement/trace_merge.h"
#include "tests/test_folder.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INPUTS = 3, TURNS = 10 };
static char folder[TEST_FOLDER_SIZE], inputs[INPUTS][128], out[128];
static const char *paths[INPUTS];
static struct trace_header header;

static void make_inputs(void)
{
    test_folder_make(folder, NULL);
    snprintf(out, sizeof out, "%s/set", folder);
    static const char *const names[INPUTS] = {"chat.trace", "code.v2.trace", "story"};
    trace_world_header(&header, 2, 64, 2);
    for (int i = 0; i < INPUTS; i++) {
        snprintf(inputs[i], sizeof inputs[i], "%s/%s", folder, names[i]);
        paths[i] = inputs[i];
    }
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(trace_merge, .init = make_inputs, .fini = remove_folder);

// Conversation c of input i has c + 1 tokens, and its first expert tells which it is.
static void write_input(int i, uint32_t n_conversations)
{
    struct trace_writer *writer;
    struct lode_error error = {0};
    cr_assert_eq(trace_writer_open(&writer, inputs[i], &header, &error), 0, "%s", error.text);
    for (uint32_t c = 0; c < n_conversations; c++)
        for (uint32_t t = 0; t <= c; t++) {
            const int32_t experts[] = {(int32_t)(16 * (uint32_t)i + c), 63};
            const float weights[] = {0.5f, 0.25f};
            trace_pass_begin(writer, TRACE_DECODE, t, 1, 1000 * t);
            for (uint32_t l = 0; l < 2; l++)
                trace_choice(writer, l, 0, experts, weights, 2, 2, 1000 * t + l);
            trace_read(writer, 1, 63, 99, TRACE_READ_FILL, 5, 9);
            trace_pass_end(writer, 10, 1);
        }
    cr_assert_eq(trace_writer_close(writer, &error), 0, "%s", error.text);
}

static void write_inputs(void)
{
    for (int i = 0; i < INPUTS; i++)
        write_input(i, TURNS);
}

static struct trace load(const char *ending)
{
    char name[160];
    struct trace trace;
    struct lode_error error = {0};
    snprintf(name, sizeof name, "%s%s", out, ending);
    cr_assert_eq(trace_load(&trace, name, 0, &error), 0, "%s", error.text);
    return trace;
}

static bool exists(const char *ending)
{
    char name[160];
    snprintf(name, sizeof name, "%s%s", out, ending);
    return access(name, F_OK) == 0;
}

// Each conversation of the trace is one of the inputs, whole; marks it in `seen`.
static void expect_conversations(const struct trace *t, bool seen[INPUTS][TURNS])
{
    static const char *const domains[INPUTS] = {"chat", "code", "story"};
    for (uint32_t c = 0; c < t->n_conversations; c++) {
        const struct trace_conversation *one = &t->conversations[c];
        const uint32_t mark = t->experts[(size_t)one->first_token * 4];
        cr_assert_str_eq(one->domain, domains[mark / 16]);
        cr_assert_eq(one->n_tokens, mark % 16 + 1);
        cr_assert_not(seen[mark / 16][mark % 16]);
        seen[mark / 16][mark % 16] = true;
        for (uint32_t i = 0; i < one->n_tokens; i++) {
            const uint32_t token = one->first_token + i;
            cr_assert(t->tokens[token].conversation == c && t->tokens[token].position == i);
            cr_assert_eq(t->experts[(size_t)token * 4 + 2], mark);
            cr_assert_eq(t->resident[(size_t)token * 2], 2);
            cr_assert_eq(t->weights[(size_t)token * 4 + 1], 0.25f);
        }
    }
}

static uint32_t count_seen(bool seen[INPUTS][TURNS])
{
    uint32_t n = 0;
    for (int i = 0; i < INPUTS * TURNS; i++)
        n += (&seen[0][0])[i];
    return n;
}

Test(trace_merge, keeps_every_conversation_whole_and_named)
{
    struct trace_merged merged;
    struct lode_error error = {0};
    bool seen[INPUTS][TURNS] = {{false}};
    write_inputs();
    cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, NULL, &error), 0, "%s", error.text);
    struct trace t = load("");
    cr_assert(merged.n_conversations == 30 && merged.n_tokens == 165 && merged.n_cut == 0);
    cr_assert(t.n_conversations == 30 && t.n_tokens == 165 && t.n_reads == 165);
    cr_assert_eq(t.reads[0].bytes, 99);
    cr_assert_eq(t.header.fingerprint, header.fingerprint);
    cr_assert_str_eq(t.header.options, "merged from 3 traces");
    expect_conversations(&t, seen);
    cr_assert_eq(count_seen(seen), 30);
    trace_free(&t);
    // A set of sets keeps the names.
    char again[160];
    snprintf(again, sizeof again, "%s.again", out);
    const char *set = out;
    cr_assert_eq(trace_merge(&merged, again, &set, 1, NULL, &error), 0, "%s", error.text);
    t = load(".again");
    bool seen_again[INPUTS][TURNS] = {{false}};
    expect_conversations(&t, seen_again);
    cr_assert_eq(count_seen(seen_again), 30);
    trace_free(&t);
}

Test(trace_merge, splits_by_conversation_in_every_domain)
{
    static const double shares[] = {0.1, 0.5, 0.7, 0.9};
    write_inputs();
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++)
        for (uint64_t seed = 0; seed < 5; seed++) {
            const struct trace_split split = {shares[i], seed};
            struct trace_merged merged;
            struct lode_error error = {0};
            bool fit_seen[INPUTS][TURNS] = {{false}}, seen[INPUTS][TURNS];
            cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, &split, &error), 0, "%s", error.text);
            struct trace fit = load(".fit"), test = load(".test");
            cr_assert_not(exists(""), "the whole is not written");
            expect_conversations(&fit, fit_seen);
            memcpy(seen, fit_seen, sizeof seen);
            expect_conversations(&test, seen); // none in both
            cr_assert_eq(count_seen(seen), 30, "none lost");
            cr_assert(fit.n_conversations == merged.n_fit && test.n_tokens == merged.n_test_tokens);
            cr_assert_eq(fit.conversations[0].part, TRACE_PART_FIT);
            cr_assert_eq(test.conversations[0].part, TRACE_PART_TEST);
            cr_assert_float_eq(merged.n_fit, 30 * shares[i], 1.0001);
            for (int d = 0; d < INPUTS; d++) {
                uint32_t n = 0;
                for (int c = 0; c < TURNS; c++)
                    n += fit_seen[d][c];
                cr_assert_float_eq(n, TURNS * shares[i], 1.0001, "%u of domain %d at %g", n, d, shares[i]);
            }
            trace_free(&fit);
            trace_free(&test);
        }
}

Test(trace_merge, split_follows_the_seed)
{
    struct trace_merged merged;
    struct lode_error error = {0};
    struct trace_split split = {0.5, 1};
    struct trace_file first, same, other;
    char name[160];
    write_inputs();
    snprintf(name, sizeof name, "%s.fit", out);
    cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, &split, &error), 0, "%s", error.text);
    trace_file_read(&first, name);
    cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, &split, &error), 0, "%s", error.text);
    trace_file_read(&same, name);
    split.seed = 2;
    cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, &split, &error), 0, "%s", error.text);
    trace_file_read(&other, name);
    cr_assert(first.n == same.n && memcmp(first.bytes, same.bytes, first.n) == 0);
    cr_assert(first.n != other.n || memcmp(first.bytes, other.bytes, first.n) != 0);
    trace_file_free(&first);
    trace_file_free(&same);
    trace_file_free(&other);
}

Test(trace_merge, refuses_what_makes_no_set_and_leaves_nothing)
{
    struct trace_merged merged;
    struct lode_error error = {0};
    struct trace_split split = {0.5, 1};
    write_inputs();
    header.fingerprint++;
    write_input(1, 2);
    cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, NULL, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "different models") && strstr(error.text, "chat.trace and"), "%s",
              error.text);
    cr_assert_not(exists(""));
    header.fingerprint--;
    write_input(1, 2);
    cr_assert_eq(trace_merge(&merged, inputs[0], paths, INPUTS, NULL, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "is one of the traces"), "%s", error.text);
    struct trace t;
    cr_assert_eq(trace_load(&t, inputs[0], 0, &error), 0, "it is untouched: %s", error.text);
    trace_free(&t);
    write_input(0, 1);
    cr_assert_eq(trace_merge(&merged, out, paths, 1, &split, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "one part would be empty"), "%s", error.text);
    cr_assert_not(exists(".fit"));
    write_input(0, 0);
    cr_assert_eq(trace_merge(&merged, out, paths, 1, NULL, &error), LODE_ERR_ARGUMENT);
    cr_assert(strstr(error.text, "has no tokens"), "%s", error.text);
    // Damage behind the first block of the second input.
    struct trace_file file;
    write_inputs();
    trace_file_read(&file, inputs[1]);
    file.bytes[file.n - 3] ^= 1;
    trace_file_write(&file, file.n, inputs[1]);
    trace_file_free(&file);
    cr_assert_eq(trace_merge(&merged, out, paths, INPUTS, &split, &error), LODE_ERR_FORMAT);
    cr_assert(!exists("") && !exists(".fit") && !exists(".test"));
    cr_assert_eq(trace_merge(&merged, "/nowhere/set", paths, 1, NULL, &error), LODE_ERR_IO);
}

Test(trace_merge, has_only_what_all_inputs_have)
{
    struct trace_merged merged;
    struct lode_error error = {0};
    write_input(0, 2);
    header.known = TRACE_HAS_WEIGHTS;
    strcpy(header.machine, "elsewhere");
    header.plan_hash = 1;
    write_input(1, 2);
    cr_assert_eq(trace_merge(&merged, out, paths, 2, NULL, &error), 0, "%s", error.text);
    struct trace t = load("");
    cr_assert_eq(t.header.known, TRACE_HAS_WEIGHTS);
    cr_assert_eq(t.header.plan_hash, 0);
    cr_assert_str_eq(t.header.machine, "several");
    cr_assert(t.weights && !t.resident && !t.times && t.n_reads == 0);
    trace_free(&t);
}

Test(trace_merge, takes_what_is_there_of_a_cut_trace)
{
    struct trace_merged merged;
    struct lode_error error = {0};
    struct trace_file file;
    struct trace_world world;
    struct trace whole, part;
    trace_world_header(&header, 4, 64, 4);
    trace_world_make(&world, &header, 3, 400);
    trace_world_write(&world, inputs[0]);
    trace_world_free(&world);
    trace_file_read(&file, inputs[0]);
    cr_assert_eq(trace_file_load(&whole, &file, file.n, &error), 0, "%s", error.text);
    trace_file_write(&file, file.n - 10, inputs[1]);
    trace_file_free(&file);
    const char *both[] = {inputs[1], inputs[0]};
    cr_assert_eq(trace_merge(&merged, out, both, 2, NULL, &error), 0, "%s", error.text);
    cr_assert_eq(merged.n_cut, 1);
    cr_assert_eq(trace_load(&part, inputs[1], 0, &error), 0, "%s", error.text);
    struct trace t = load("");
    cr_assert_eq(t.n_tokens, whole.n_tokens + part.n_tokens);
    cr_assert_eq(t.n_tokens, merged.n_tokens);
    cr_assert_gt(part.n_tokens, 0);
    cr_assert_str_eq(t.cut, "");
    trace_free(&t);
    trace_free(&whole);
    trace_free(&part);
}
