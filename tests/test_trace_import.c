// Foreign traces: the CSV of a recorded 26B and the trace of the tiny model, against what is known of them;
// and what is wrong with them, told with its line or byte.
#include "placement/trace_summary.h"
#include "tests/test_data.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct trace load(const char *name)
{
    char path[512];
    struct trace trace;
    struct lode_error error = {0};
    cr_assert(test_data_find(path, sizeof path, name), "%s", name);
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    return trace;
}

static void skip_without(const char *name)
{
    char path[512];
    if (!test_data_find(path, sizeof path, name))
        cr_skip_test("%s is not there", name);
}

static struct trace_summary summarise(const struct trace *trace)
{
    struct trace_summary summary;
    struct lode_error error = {0};
    cr_assert_eq(trace_summarise(&summary, trace, 1, &error), 0, "%s", error.text);
    return summary;
}

// ---- CSV
// -----------------------------------------------------------------------------------------------------

Test(trace_import, csv_of_the_recorded_26b_begins_as_the_file_does)
{
    struct trace t = load("traces/gemma4-26b-a4b.route.csv.zst");
    cr_assert_str_eq(t.format, "csv");
    cr_assert_str_eq(t.header.model, "google_gemma-4-26B-A4B-it-Q4_K_M.gguf");
    cr_assert_eq(t.header.fingerprint, 0);
    cr_assert_eq(t.header.known, TRACE_HAS_WEIGHTS | TRACE_HAS_RESIDENCY | TRACE_HAS_READS);
    cr_assert(t.header.n_layers == 30 && t.n_moe == 30 && t.n_used == 6);
    cr_assert_eq(t.header.layers[0].n_experts, 128);
    cr_assert_eq(t.header.layers[0].expert_bytes, 4336640);
    cr_assert_eq(t.header.layers[7].expert_bytes, 3593216);
    cr_assert(t.n_tokens == 157 && t.n_passes == 129 && t.n_conversations == 1);
    cr_assert(t.passes[0].phase == TRACE_PREFILL && t.passes[0].n_tokens == 29);
    cr_assert(t.passes[10].phase == TRACE_DECODE && t.tokens[38].position == 38);
    const uint16_t first[] = {79, 102, 114, 19, 54, 46}, second[] = {102, 54, 1, 6, 81, 83};
    cr_assert_arr_eq(t.experts, first, sizeof first);
    cr_assert_arr_eq(t.experts + (size_t)t.n_moe * 6, second, sizeof second);
    cr_assert_float_eq((double)t.weights[0], 0.425021, 1e-6);
    cr_assert_eq(t.resident[0], 0);
    cr_assert(t.reads[0].expert == 79 && t.reads[0].bytes == 4336640 && t.reads[0].kind == TRACE_READ_DEMAND);
    trace_free(&t);
}

// Survey figures of the whole trace: reuse 35.6%, gate mass by rank, the lower half 33.3%.
Test(trace_import, csv_of_the_recorded_26b_has_its_published_figures)
{
    struct trace t = load("traces/gemma4-26b-a4b.route.csv.zst");
    struct trace_summary s = summarise(&t);
    static const double mass[] = {0.317, 0.199, 0.152, 0.126, 0.109, 0.097};
    cr_assert_eq(t.n_tokens, 157);
    cr_assert_float_eq(s.mean.reuse, 0.356, 0.0005);
    cr_assert_float_eq(s.mean.lower_half, 0.333, 0.0005);
    for (int r = 0; r < 6; r++)
        cr_assert_float_eq(s.mass_by_rank[r], mass[r], 0.0005);
    trace_summary_free(&s);
    trace_free(&t);
}

// Against the file itself, read by other means: zstd, awk.
Test(trace_import, csv_goes_out_as_it_came_in)
{
    char path[512], out_path[] = "/tmp/lode-trace-csv-XXXXXX", command[2048];
    cr_assert(test_data_find(path, sizeof path, "traces/gemma4-26b-a4b.route.csv.zst"));
    if (system("zstd --version >/dev/null 2>&1") != 0)
        cr_skip_test("there is no zstd program");
    struct trace t = load("traces/gemma4-26b-a4b.route.csv.zst");
    FILE *out = fdopen(mkstemp(out_path), "w");
    struct lode_error error = {0};
    cr_assert(out);
    cr_assert_eq(trace_write_csv(&t, out, &error), 0, "%s", error.text);
    cr_assert_eq(fclose(out), 0);
    snprintf(command, sizeof command, "zstd -dc %s | grep -v '^#' | cmp - <(grep -v '^#' %s)", path,
             out_path);
    char shell[2100];
    snprintf(shell, sizeof shell, "bash -c \"%s\"", command);
    cr_assert_eq(system(shell), 0, "the rows differ");
    struct trace again;
    cr_assert_eq(trace_load(&again, out_path, 0, &error), 0, "%s", error.text);
    cr_assert_eq(trace_same_model(&t.header, "a", &again.header, "b", &error), 0, "%s", error.text);
    trace_free(&again);
    trace_free(&t);
    unlink(out_path);
}

#define HEAD "# route_trace v1\n# model=x n_layer=2 n_expert=8 n_expert_used=2\n"
#define COLUMNS "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n"

static int load_text(struct trace *out, const char *text, struct lode_error *error)
{
    FILE *stream = fmemopen((void *)text, strlen(text), "rb");
    cr_assert(stream);
    return trace_load_stream(out, stream, "text", 0, error);
}

static void expect_refused(const char *text, const char *why)
{
    struct trace trace;
    struct lode_error error = {0};
    cr_assert_eq(load_text(&trace, text, &error), LODE_ERR_FORMAT, "%s", text);
    cr_assert(strstr(error.text, why), "'%s' lacks '%s'", error.text, why);
}

Test(trace_import, csv_passes_end_where_turn_phase_layer_or_step_say_so)
{
    static const char text[] = HEAD "phase,step,layer,slot,expert\n"
                                    "0,0,0,0,1\n0,0,0,1,2\n0,1,0,0,3\n0,1,0,1,4\n" // two tokens of a prompt
                                    "0,1,1,0,5\n0,1,1,1,6\n"                       // the last layer: one
                                    "0,2,0,0,1\n0,2,0,1,2\n0,2,1,0,1\n0,2,1,1,2\n" // a second step of it
                                    "1,3,0,0,7\n1,3,0,1,0\n1,3,1,0,7\n1,3,1,1,0\n"
                                    "1,4,0,0,7\n1,4,0,1,0\n1,4,1,0,7\n1,4,1,1,0\n";
    struct trace t;
    struct lode_error error = {0};
    cr_assert_eq(load_text(&t, text, &error), 0, "%s", error.text);
    cr_assert_eq(t.n_tokens, 5);
    cr_assert_eq(t.n_passes, 4);
    cr_assert(t.passes[0].n_tokens == 2 && t.passes[1].n_tokens == 1 && t.passes[1].phase == TRACE_PREFILL);
    cr_assert(!t.weights && !t.resident && !t.times && t.n_reads == 0, "what is not there is unknown");
    cr_assert_eq(t.experts[2], TRACE_NO_EXPERT, "layer 1 did not choose for the first token");
    cr_assert_eq(t.experts[(1 * 2 + 1) * 2], 5);
    cr_assert_str_eq(t.cut, "");
    trace_free(&t);
}

Test(trace_import, csv_that_is_cut_is_read_up_to_its_last_whole_pass)
{
    static const char text[] = HEAD COLUMNS "0,1,0,0,0,1,0.5,0,0\n0,1,0,0,1,2,0.5,0,0\n"
                                            "0,1,0,1,0,1,0.5,0,0\n0,1,0,1,1,2,0.5,0,0\n"
                                            "0,1,1,0,0,1,0.5,0,0\n0,1,1,0,1,2,0.5,0,0\n"
                                            "0,1,1,1,0,1,0.5,0,0\n0,1,1,1,1,2,0.5,0,0\n";
    const size_t first = strlen(HEAD COLUMNS), whole = strlen(text);
    for (size_t n = first; n <= whole; n++) {
        struct trace t;
        struct lode_error error = {0};
        FILE *stream = fmemopen((void *)text, n, "rb");
        cr_assert(stream);
        cr_assert_eq(trace_load_stream(&t, stream, "text", 0, &error), 0, "%zu: %s", n, error.text);
        cr_assert_eq(t.n_tokens, n == whole ? 2 : n >= first + 80 ? 1 : 0, "%zu: %u", n, t.n_tokens);
        cr_assert(t.cut[0] || n == whole || n == first || n == first + 80, "%zu", n);
        trace_free(&t);
    }
}

Test(trace_import, csv_that_makes_no_sense_is_refused_with_its_line)
{
    expect_refused(COLUMNS, "no comment before the columns tells n_layer");
    expect_refused(HEAD, "ends before the line of the columns");
    expect_refused(HEAD "turn,phase,step\n", "step, layer, slot and expert are not all");
    expect_refused(HEAD "turn,phase,step,layer,slot,expert,colour\n", "'colour' is unknown");
    expect_refused(HEAD "step,step\n", "'step' is unknown or there twice");
    expect_refused("# model=x n_layer=0 n_expert=8 n_expert_used=2\n", "line 1 at byte 0: impossible counts");
    expect_refused("# model=x n_layer=2 n_expert=99999 n_expert_used=2\n", "impossible counts");
    expect_refused(HEAD "# layer=2 expert_bytes=5\n", "layer 2 is not one");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,8,0.5,0,0\n", "line 4 at byte 128: layer 0, slot 0, expert 8");
    expect_refused(HEAD COLUMNS "0,0,0,2,0,1,0.5,0,0\n", "layer 2");
    expect_refused(HEAD COLUMNS "0,0,0,0,2,1,0.5,0,0\n", "slot 2");
    expect_refused(HEAD COLUMNS "0,0,0,0,1,1,0.5,0,0\n", "slot 1, where 0 should follow");
    expect_refused(HEAD COLUMNS "0,3,0,0,0,1,0.5,0,0\n", "phase 3");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,1,nan,0,0\n", "field 7, 'nan'");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,1,1e99,0,0\n", "field 7");
    expect_refused(HEAD COLUMNS "0,0,-1,0,0,1,0.5,0,0\n", "field 3, '-1'");
    expect_refused(HEAD COLUMNS "0,0,99999999999999999999,0,0,1,0.5,0,0\n", "field 3");
    expect_refused(HEAD COLUMNS "0,0,4294967295,0,0,1,0.5,0,0\n", "step 4294967295");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,1,0.5,0\n", "8 fields instead of 9");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,1,0.5,0,0,0\n", "field 10");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,1,0.5,0,0\n0,0,0,0,1,1,0.5,0,0\n", "expert 1 twice");
    expect_refused(HEAD COLUMNS "0,0,0,0,0,1,0.5,0,0\n0,0,17000000,0,0,1,0.5,0,0\n",
                   "a pass of 17000001 tokens");
    char *longer = malloc(6000);
    cr_assert(longer);
    snprintf(longer, 6000, HEAD COLUMNS "%05000d\n", 0);
    expect_refused(longer, "longer than 4095 bytes");
    free(longer);
}

// ---- the tiny model
// ------------------------------------------------------------------------------------------

Test(trace_import, trace_of_the_tiny_model_begins_as_the_file_does)
{
    struct trace t = load("traces/tiny-moe-first.bin.zst");
    cr_assert_str_eq(t.format, "tiny");
    cr_assert(t.n_tokens == 600 && t.n_moe == 8 && t.n_used == 4 && t.n_conversations == 2);
    cr_assert_eq(t.conversations[1].first_token, 512);
    cr_assert_eq(t.tokens[512].position, 0);
    cr_assert_eq(t.passes[3].phase, TRACE_PHASE_UNKNOWN);
    const uint16_t first[] = {0x17, 0x09, 0x0b, 0x1b}, second[] = {0x07, 0x18, 0x1e, 0x08};
    cr_assert_arr_eq(t.experts, first, sizeof first);
    cr_assert_arr_eq(t.experts + 4, second, sizeof second);
    cr_assert_float_eq((double)t.weights[0], 0x6a / 255.0, 1e-6);
    cr_assert_null(t.resident);
    cr_assert_str_eq(t.cut, "");
    trace_free(&t);
}

// The table of the model's own description.
Test(trace_import, trace_of_the_tiny_model_has_its_published_figures)
{
    skip_without("tiny/trace-tiny-moe.bin.zst");
    struct trace t = load("tiny/trace-tiny-moe.bin.zst");
    struct trace_summary s = summarise(&t);
    static const double reuse[] = {0.144, 0.203, 0.233, 0.197, 0.265, 0.295, 0.271, 0.257};
    static const double entropy[] = {4.97, 4.95, 4.95, 4.97, 4.94, 4.96, 4.96, 4.94};
    static const double best_four[] = {0.174, 0.185, 0.175, 0.165, 0.181, 0.184, 0.171, 0.192};
    static const double in_eight[] = {20.1, 19.3, 18.4, 19.2, 18.0, 17.2, 17.4, 17.6};
    cr_assert_eq(t.n_tokens, 56832);
    for (int l = 0; l < 8; l++) {
        cr_assert_float_eq(s.layers[l].spread.reuse, reuse[l], 0.001);
        cr_assert_float_eq(s.layers[l].spread.entropy_bits, entropy[l], 0.006);
        cr_assert_float_eq(s.layers[l].spread.hot[0], best_four[l], 0.001);
        cr_assert_float_eq(s.layers[l].window[3], in_eight[l], 0.1);
    }
    cr_assert_float_eq(s.mean.reuse, 0.233, 0.0006);
    cr_assert_float_eq(s.mean.reuse_by_chance, 0.133, 0.0006);
    cr_assert_float_eq(s.mass_by_rank[0], 0.329, 0.001);
    trace_summary_free(&s);
    trace_free(&t);
}

// A header with these words, and `n` bytes of records behind it.
static int load_tiny(struct trace *out, const char *json, const void *records, size_t n,
                     struct lode_error *error)
{
    static uint8_t bytes[4096];
    const uint32_t length = (uint32_t)strlen(json);
    memcpy(bytes, &length, 4);
    memcpy(bytes + 4, json, length);
    if (n)
        memcpy(bytes + 4 + length, records, n);
    FILE *stream = fmemopen(bytes, 4 + length + n, "rb");
    cr_assert(stream);
    return trace_load_stream(out, stream, "tiny", 0, error);
}

#define TINY(tokens, layers, topk, experts)                                                                  \
    "{\"magic\": \"tiny-moe-trace\", \"tokens\": " tokens ", \"layers\": " layers ", \"topk\": " topk        \
    ", \"experts\": " experts ", \"window\": 512}"

Test(trace_import, trace_of_the_tiny_model_is_checked)
{
    static const uint8_t records[] = {9, 0, 1, 2, 200, 55, 9, 0, 3, 4, 100, 100, 9, 0, 5, 9, 1, 1};
    static const struct {
        const char *json;
        size_t n;
        const char *why;
    } cases[] = {
        {TINY("3", "1", "2", "8"), 18, "token 2 at byte"}, // its expert 9
        {TINY("1", "1", "2", "32"), 18, "more than the 1 tokens"},
        {TINY("3", "99999", "2", "8"), 18, "impossible ones"},
        {TINY("3", "1", "9", "8"), 18, "impossible ones"},
        {TINY("3", "1", "2", "257"), 18, "impossible ones"},
        {TINY("3", "1", "2", "-1"), 18, "impossible ones"},
        {"{\"magic\": \"other\"}", 18, "another magic"},
        {"{\"magic\": \"tiny-moe-trace\"", 18, "no JSON object"},
    };
    struct trace trace;
    struct lode_error error = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(load_tiny(&trace, cases[i].json, records, cases[i].n, &error), LODE_ERR_FORMAT,
                     "case %zu", i);
        cr_assert(strstr(error.text, cases[i].why), "'%s' lacks '%s'", error.text, cases[i].why);
    }
    cr_assert_eq(load_tiny(&trace, TINY("3", "1", "2", "32"), records, 17, &error), 0, "%s", error.text);
    cr_assert_eq(trace.n_tokens, 2);
    cr_assert(strstr(trace.cut, "2 tokens are read"), "%s", trace.cut);
    trace_free(&trace);
    FILE *stream = fmemopen((void *)"\377\377\377\377{", 5, "rb");
    cr_assert_eq(trace_load_stream(&trace, stream, "tiny", 0, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "claims 4294967295 bytes"), "%s", error.text);
}
