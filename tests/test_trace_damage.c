// Traces that were cut off are read up to the cut; what is damaged or made up to harm is refused, and the
// byte is told.
#include "base/half.h"
#include "placement/trace_format.h"
#include "tests/test_folder.h"
#include "tests/trace_world.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

static char folder[TEST_FOLDER_SIZE], path[128];

static void make_folder(void)
{
    test_folder_make(folder, NULL);
    snprintf(path, sizeof path, "%s/run.trace", folder);
}

static void remove_folder(void)
{
    test_folder_remove(folder);
}

TestSuite(trace_damage, .init = make_folder, .fini = remove_folder);

static struct trace_file world_file(uint64_t seed, uint32_t n_passes)
{
    struct trace_header header;
    struct trace_world world;
    struct trace_file file;
    trace_world_header(&header, 6, 64, 6);
    trace_world_make(&world, &header, seed, n_passes);
    trace_world_write(&world, path);
    trace_world_free(&world);
    trace_file_read(&file, path);
    return file;
}

// ---- cuts
// ----------------------------------------------------------------------------------------------------

// The first n bytes hold the first tokens of the whole; returns how many.
static uint32_t expect_prefix(const struct trace *whole, const struct trace_file *file, size_t n)
{
    struct trace part;
    struct lode_error error = {0};
    cr_assert_eq(trace_file_load(&part, file, n, &error), 0, "cut at %zu: %s", n, error.text);
    cr_assert_leq(part.n_tokens, whole->n_tokens);
    const size_t cells = (size_t)part.n_tokens * whole->n_moe * whole->n_used;
    if (cells) {
        cr_assert_arr_eq(part.tokens, whole->tokens, part.n_tokens * sizeof *part.tokens, "cut at %zu", n);
        cr_assert_arr_eq(part.experts, whole->experts, cells * sizeof *part.experts, "cut at %zu", n);
        cr_assert_arr_eq(part.weights, whole->weights, cells * sizeof *part.weights, "cut at %zu", n);
    }
    if (n < file->n) {
        char tokens[48];
        snprintf(tokens, sizeof tokens, "%u tokens are read", part.n_tokens);
        cr_assert(strstr(part.cut, tokens) && strstr(part.cut, "byte"), "%s", part.cut);
    } else {
        cr_assert_str_eq(part.cut, "");
    }
    const uint32_t n_tokens = part.n_tokens;
    trace_free(&part);
    return n_tokens;
}

Test(trace_damage, a_cut_trace_is_read_up_to_its_last_whole_block)
{
    struct trace_file file = world_file(1, 1500);
    struct trace whole;
    struct lode_error error = {0};
    size_t n_blocks;
    size_t *borders = trace_file_borders(&file, &n_blocks);
    cr_assert_gt(n_blocks, 8);
    cr_assert_eq(trace_file_load(&whole, &file, file.n, &error), 0, "%s", error.text);
    uint64_t state = 5;
    uint32_t before = 0;
    for (size_t b = 0; b <= n_blocks; b++) {
        const uint32_t n_tokens = expect_prefix(&whole, &file, borders[b]);
        if (b > 0)
            cr_assert_gt(n_tokens, before, "block %zu holds tokens", b - 1);
        before = n_tokens;
        if (b == n_blocks)
            break;
        for (int i = 0; i < 6; i++) {
            const size_t cut = borders[b] + 1 + trace_random(&state) % (borders[b + 1] - borders[b] - 1);
            cr_assert_eq(expect_prefix(&whole, &file, cut), n_tokens, "cut at %zu", cut);
        }
    }
    cr_assert_eq(before, whole.n_tokens);
    free(borders);
    trace_free(&whole);
    trace_file_free(&file);
}

Test(trace_damage, a_cut_within_the_header_is_an_error)
{
    struct trace_file file = world_file(2, 3);
    size_t n_blocks;
    size_t *borders = trace_file_borders(&file, &n_blocks);
    for (size_t n = 0; n < borders[0]; n++) {
        struct trace trace;
        struct lode_error error = {0};
        cr_assert_eq(trace_file_load(&trace, &file, n, &error), LODE_ERR_FORMAT, "cut at %zu", n);
        cr_assert(strstr(error.text, "in memory"), "%s", error.text);
        if (n > 8)
            cr_assert(strstr(error.text, "ends within its header, at byte"), "%zu: %s", n, error.text);
    }
    free(borders);
    trace_file_free(&file);
}

Test(trace_damage, what_a_killed_run_left_is_read)
{
    const pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct trace_header header;
        struct trace_writer *writer;
        trace_world_header(&header, 1, 64, 2);
        if (trace_writer_open(&writer, path, &header, NULL))
            _exit(1);
        for (uint32_t t = 0;; t++) {
            const int32_t experts[] = {(int32_t)(t % 64), (int32_t)((t + 1) % 64)};
            const float weights[] = {0.5f, 0.5f};
            trace_pass_begin(writer, TRACE_DECODE, t, 1, t);
            trace_choice(writer, 0, 0, experts, weights, 2, 0, t);
            trace_pass_end(writer, 1, 0);
        }
    }
    usleep(200000);
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    struct trace trace;
    struct lode_error error = {0};
    cr_assert_eq(trace_load(&trace, path, 0, &error), 0, "%s", error.text);
    cr_assert_gt(strlen(trace.cut), 0);
    cr_assert_gt(trace.n_tokens, 1000);
    for (uint32_t t = 0; t < trace.n_tokens; t++)
        cr_assert_eq(trace.experts[2 * t], t % 64);
    trace_free(&trace);
}

// ---- damage
// --------------------------------------------------------------------------------------------------

Test(trace_damage, every_changed_byte_is_noticed)
{
    struct trace_file file = world_file(3, 12);
    size_t n_blocks;
    size_t *borders = trace_file_borders(&file, &n_blocks);
    for (size_t i = 0; i < file.n; i++)
        for (unsigned bit = 0; bit < 8; bit += 7) {
            struct trace trace;
            struct lode_error error = {0};
            file.bytes[i] ^= (uint8_t)(1u << bit);
            const int code = trace_file_load(&trace, &file, file.n, &error);
            cr_assert(code == LODE_ERR_FORMAT || code == LODE_ERR_UNSUPPORTED, "byte %zu: %d", i, code);
            cr_assert(strstr(error.text, "in memory"), "%s", error.text);
            file.bytes[i] ^= (uint8_t)(1u << bit);
            if (i < borders[0])
                continue;
            size_t b = 0;
            while (b + 1 < n_blocks && borders[b + 1] <= i)
                b++;
            char offset[48];
            snprintf(offset, sizeof offset, "the block at byte %zu ", borders[b]);
            cr_assert(strstr(error.text, offset) && strstr(error.text, "checksum"), "byte %zu: %s", i,
                      error.text);
        }
    free(borders);
    trace_file_free(&file);
}

Test(trace_damage, blocks_that_are_missing_or_too_many_are_noticed)
{
    struct trace_file file = world_file(4, 600), changed = {0};
    size_t n_blocks;
    size_t *borders = trace_file_borders(&file, &n_blocks);
    struct trace trace;
    struct lode_error error = {0};
    cr_assert_gt(n_blocks, 3);
    trace_file_append(&changed, file.bytes, borders[1]);
    trace_file_append(&changed, file.bytes + borders[2], file.n - borders[2]);
    cr_assert_eq(trace_file_load(&trace, &changed, changed.n, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "blocks are missing"), "%s", error.text);
    trace_file_append(&file, "x", 1);
    cr_assert_eq(trace_file_load(&trace, &file, file.n, &error), LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "behind the end"), "%s", error.text);
    free(borders);
    trace_file_free(&file);
    trace_file_free(&changed);
}

// ---- made up
// --------------------------------------------------------------------------------------------------

struct records {
    uint8_t bytes[4096];
    size_t n;
};

static void put(struct records *r, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        r->bytes[r->n++] = (uint8_t)(value | 0x80);
    r->bytes[r->n++] = (uint8_t)value;
}

static void put_pass(struct records *r, uint32_t position, uint32_t n_tokens)
{
    r->bytes[r->n++] = TAG_PASS;
    r->bytes[r->n++] = TRACE_PREFILL;
    put(r, position);
    put(r, n_tokens);
    put(r, 0);
}

static void put_choice(struct records *r, uint32_t layer, uint32_t token, uint32_t n, const uint8_t *experts)
{
    r->bytes[r->n++] = TAG_CHOICE;
    put(r, layer);
    put(r, token);
    put(r, n);
    for (uint32_t i = 0; i < n; i++)
        r->bytes[r->n++] = experts[i];
    for (uint32_t i = 0; i < n; i++) {
        trace_put_u16(r->bytes + r->n, lode_f32_to_f16(0.5f));
        r->n += 2;
    }
    r->bytes[r->n++] = 0; // residency
    put(r, 0);
}

// A trace of these records is refused, and the text says why.
static void expect_refused(const struct records *r, int code, const char *text)
{
    struct trace_header header;
    struct trace_file file = {0};
    struct trace trace;
    struct lode_error error = {0};
    trace_world_header(&header, 4, 64, 2);
    trace_file_header(&file, &header);
    trace_file_block(&file, r->bytes, r->n);
    cr_assert_eq(trace_file_load(&trace, &file, file.n, &error), code, "%s: %s", text, error.text);
    cr_assert(strstr(error.text, text), "'%s' lacks '%s'", error.text, text);
    cr_assert_null(trace.tokens);
    trace_file_free(&file);
}

Test(trace_damage, records_that_make_no_sense_are_refused)
{
    static const uint8_t experts[] = {1, 2, 3}, twice[] = {1, 1}, beyond[] = {64};
    struct records r = {.n = 0};
    put_choice(&r, 0, 0, 2, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "token 0 is not one of the 0 of the pass");
    r.n = 0;
    put_pass(&r, 0, 5);
    const size_t begun = r.n;
    put_choice(&r, 0, 5, 2, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "token 5 is not one of the 5 of the pass");
    r.n = begun;
    put_choice(&r, 1, 0, 2, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "layer 1 has no experts");
    r.n = begun;
    put_choice(&r, 4, 0, 2, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "does not fit");
    r.n = begun;
    put_choice(&r, 0, 0, 3, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "3 experts; at most 2");
    r.n = begun;
    put_choice(&r, 0, 0, 0, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "0 experts");
    r.n = begun;
    put_choice(&r, 0, 0, 2, twice);
    expect_refused(&r, LODE_ERR_FORMAT, "expert 1 twice");
    r.n = begun;
    put_choice(&r, 0, 0, 1, beyond);
    expect_refused(&r, LODE_ERR_FORMAT, "expert 64 of 64");
    r.n = begun;
    put_choice(&r, 0, 0, 2, experts);
    put_choice(&r, 0, 0, 2, experts);
    expect_refused(&r, LODE_ERR_FORMAT, "chooses twice");
    r.n = begun;
    put_choice(&r, 0, 0, 1, experts);
    trace_put_u16(r.bytes + r.n - 4, 0x7c00);
    expect_refused(&r, LODE_ERR_FORMAT, "weight of rank 0 is not a number");
    r.n = 0;
    put_pass(&r, 0, 0);
    expect_refused(&r, LODE_ERR_FORMAT, "a pass of 0 tokens");
    r.n = 0;
    put_pass(&r, UINT32_MAX, 1);
    expect_refused(&r, LODE_ERR_FORMAT, "at position 4294967295");
    r.n = 0;
    put_pass(&r, 0, 1);
    r.bytes[1] = N_TRACE_PHASES;
    expect_refused(&r, LODE_ERR_FORMAT, "phase 3 is none");
    r.n = 0;
    r.bytes[r.n++] = TAG_PASS_END;
    put(&r, 1);
    put(&r, 1);
    expect_refused(&r, LODE_ERR_FORMAT, "a pass ends that has not begun");
    r.n = 0;
    r.bytes[r.n++] = 99;
    expect_refused(&r, LODE_ERR_FORMAT, "a record of kind 99");
    r.n = 0;
    r.bytes[r.n++] = TAG_WAITED;
    memset(r.bytes + r.n, 0xff, 11);
    r.n += 11;
    expect_refused(&r, LODE_ERR_FORMAT, "does not fit");
    static const uint8_t read[] = {TAG_READ, 0, 0, 64, 1, 0, 0}, kind[] = {TAG_READ, 9, 0, 0, 1, 0, 0};
    memcpy(r.bytes, read, r.n = sizeof read);
    expect_refused(&r, LODE_ERR_FORMAT, "a read of expert 64 of 64");
    memcpy(r.bytes, kind, r.n = sizeof kind);
    expect_refused(&r, LODE_ERR_FORMAT, "a read of kind 9");
    static const uint8_t domain[] = {TAG_CONVERSATION, 0, 2, 'a', 27}, part[] = {TAG_CONVERSATION, 7, 0};
    memcpy(r.bytes, domain, r.n = sizeof domain);
    expect_refused(&r, LODE_ERR_FORMAT, "control characters");
    memcpy(r.bytes, part, r.n = sizeof part);
    expect_refused(&r, LODE_ERR_FORMAT, "part 7");
    static const uint8_t end[] = {TAG_END, 1, 1, 0, 0}, early[] = {TAG_END, 0, 0, 0, 0, TAG_PASS};
    memcpy(r.bytes, end, r.n = sizeof end);
    expect_refused(&r, LODE_ERR_FORMAT, "the end tells of 1 passes, 1 tokens and 0 choices, but 0, 0 and 0");
    memcpy(r.bytes, early, r.n = sizeof early);
    expect_refused(&r, LODE_ERR_FORMAT, "not the last");
    expect_refused(&r, LODE_ERR_FORMAT, "block 0 at byte");
}

Test(trace_damage, every_cut_of_a_record_is_refused)
{
    static const uint8_t experts[] = {1, 2};
    struct records r = {.n = 0};
    put_pass(&r, 0, 5);
    const size_t begun = r.n;
    put_choice(&r, 0, 0, 2, experts);
    for (size_t n = begun + 1; n < r.n; n++) {
        struct records part = r;
        part.n = n;
        expect_refused(&part, LODE_ERR_FORMAT, "does not fit");
    }
}

Test(trace_damage, claims_do_not_allocate)
{
    static const uint8_t experts[] = {1, 2};
    struct records r = {.n = 0};
    put_pass(&r, 0, TRACE_MAX_PASS_TOKENS);
    put_choice(&r, 0, TRACE_MAX_PASS_TOKENS - 1, 2, experts);
    expect_refused(&r, LODE_ERR_MEMORY, "takes more than 64.0 MiB");
    r.n = 0;
    put_pass(&r, 0, TRACE_MAX_PASS_TOKENS);
    r.bytes[r.n++] = TAG_PASS_END;
    put(&r, 1);
    put(&r, 1);
    expect_refused(&r, LODE_ERR_MEMORY, "takes more than 64.0 MiB");
    r.n = 0;
    put_pass(&r, 0, TRACE_MAX_PASS_TOKENS + 1);
    expect_refused(&r, LODE_ERR_FORMAT, "a pass of 16777217 tokens");
}

static void expect_bad_header(const struct trace_file *file, const char *text)
{
    struct trace trace;
    struct lode_error error = {0};
    cr_assert(trace_file_load(&trace, file, file->n, &error) == LODE_ERR_FORMAT ||
                  error.code == LODE_ERR_UNSUPPORTED,
              "%s", text);
    cr_assert(strstr(error.text, text), "'%s' lacks '%s'", error.text, text);
}

// With `size` bytes at `offset` of the header replaced, and the checksum made right.
static void expect_bad_field(size_t offset, const void *value, size_t size, const char *text)
{
    struct trace_header header;
    struct trace_file file = {0};
    trace_world_header(&header, 4, 64, 2);
    trace_file_header(&file, &header);
    memcpy(file.bytes + offset, value, size);
    trace_put_u64(file.bytes + file.n - 8, trace_sum(TRACE_SUM_START, file.bytes, file.n - 8));
    expect_bad_header(&file, text);
    trace_file_free(&file);
}

Test(trace_damage, headers_that_claim_too_much_are_refused)
{
    const uint32_t huge = UINT32_MAX, zero = 0, two = 2, many = TRACE_MAX_EXPERTS + 1;
    const uint16_t long_text = 60000;
    enum {
        VERSION_AT = 16,
        KNOWN_AT = 36,
        LAYERS_AT = 40,
        FIRST_LAYER = 44,
        MODEL_AT = FIRST_LAYER + 4 * 16
    };
    expect_bad_field(VERSION_AT, &two, 4, "version 2; this program reads version 1");
    expect_bad_field(KNOWN_AT, &huge, 4, "unknown bits");
    expect_bad_field(LAYERS_AT, &huge, 4, "counts that do not fit");
    expect_bad_field(LAYERS_AT, &zero, 4, "counts that do not fit");
    expect_bad_field(FIRST_LAYER, &huge, 4, "of layer 0");
    expect_bad_field(FIRST_LAYER, &many, 4, "of layer 0");
    expect_bad_field(FIRST_LAYER, &zero, 4, "of layer 0");
    expect_bad_field(FIRST_LAYER + 4, &huge, 4, "of layer 0");
    expect_bad_field(MODEL_AT, &long_text, 2, "counts that do not fit");
    expect_bad_field(MODEL_AT + 2, "\033", 1, "control characters");
    expect_bad_field(MODEL_AT + 2, "", 1, "counts that do not fit");
    expect_bad_field(4, &huge, 4, "claims 4294967295 bytes");
    static const uint8_t no_experts[48] = {0};
    const uint8_t *at = no_experts;
    expect_bad_field(FIRST_LAYER, at, 4, "of layer 0");
    struct trace_header header;
    struct trace_file file = {0};
    trace_world_header(&header, 1, 64, 2);
    header.layers[0] = (struct trace_layer){0};
    trace_file_header(&file, &header);
    expect_bad_header(&file, "no layer has experts");
    trace_file_free(&file);
}

Test(trace_damage, blocks_that_claim_too_much_are_refused)
{
    struct trace_header header;
    struct lode_error error = {0};
    struct trace trace;
    uint8_t *bomb = calloc(1, 8 << 20);
    trace_world_header(&header, 4, 64, 2);
    // 8 MiB of zeros in a few bytes: what it claims is too much, and what it claims falsely does not help.
    for (uint32_t claim = 0; claim < 2; claim++) {
        struct trace_file file = {0};
        trace_file_header(&file, &header);
        const size_t at = file.n;
        trace_file_block(&file, bomb, 8 << 20);
        if (claim) {
            trace_put_u32(file.bytes + at + 12, TRACE_MAX_BLOCK_BYTES);
            trace_put_u32(file.bytes + at + 28, (uint32_t)trace_sum(TRACE_SUM_START, file.bytes + at, 28));
        }
        cr_assert_eq(trace_file_load(&trace, &file, file.n, &error), LODE_ERR_FORMAT);
        cr_assert(strstr(error.text, claim ? "cannot be unpacked" : "larger than a block can be"), "%s",
                  error.text);
        trace_file_free(&file);
    }
    free(bomb);
}

Test(trace_damage, what_is_no_trace_is_refused)
{
    static const char *const texts[] = {
        "", "x", "GGUF....", "hello, world\n", "(\265/\375", "(\265/\375garbage here"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct trace_file file = {0};
        struct trace trace;
        struct lode_error error = {0};
        trace_file_append(&file, texts[i], strlen(texts[i]));
        cr_assert_eq(trace_file_load(&trace, &file, file.n, &error), LODE_ERR_FORMAT, "%s", texts[i]);
        cr_assert(strstr(error.text, "in memory"), "%s", error.text);
        trace_file_free(&file);
    }
    struct trace trace;
    struct lode_error error = {0};
    cr_assert_eq(trace_load(&trace, folder, 0, &error), LODE_ERR_IO);
    cr_assert(strstr(error.text, "directory"), "%s", error.text);
    cr_assert_eq(trace_load(&trace, path, 0, &error), LODE_ERR_IO);
}
