// Machine profiles as texts and in memory: what is read is what was written, and whatever a stranger's file
// may say is refused by the path of its member.
#include "profiles/machine_profile.h"
#include "tests/profile_checks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNELS "\"kernels\":{\"Q4_0\":{\"dense_gbps\":[{\"x\":1,\"y\":20},{\"x\":64,\"y\":2}]}}"
#define ATTENTION                                                                                            \
    "\"attention_decode_gbps\":[{\"x\":512,\"y\":9}],\"attention_prefill_gflops\":[{\"x\":512,\"y\":99}]"
#define LINKS                                                                                                \
    "\"upload_pinned_gbps\":[{\"x\":65536,\"y\":4},{\"x\":1048576,\"y\":12}],"                               \
    "\"download_pinned_gbps\":[{\"x\":65536,\"y\":5}]"
static const char plain[] =
    "{\"version\":1,\"name\":\"a machine\",\"origin\":\"measured\",\"made\":\"2026-01-31T12:34:56Z\","
    "\"made_by\":\"lode 0.1.0\",\"fingerprint\":\"0123456789abcdef\",\"mode\":\"quick\","
    "\"cpu\":{\"name\":\"a "
    "CPU\",\"backend\":\"cpu\",\"isa\":\"avx2\",\"memory_bytes\":17179869184,\"cores\":8,"
    "\"threads\":7,\"operation_us\":1.5,\"sync_us\":0.5,"
    "\"read_gbps\":[{\"x\":1,\"y\":20,\"spread\":0.02},{\"x\":8,\"y\":40}]," ATTENTION "," KERNELS "},"
    "\"gpus\":[{\"name\":\"a GPU\",\"backend\":\"cuda\",\"memory_bytes\":8589934592,\"operation_us\":4,"
    "\"sync_us\":10,\"read_gbps\":[{\"x\":1,\"y\":300}]," LINKS "," ATTENTION "," KERNELS "}],"
    "\"drives\":[{\"name\":\"a drive\",\"device\":\"nvme0n1\",\"record_bytes\":3345408,\"latency_us\":80,"
    "\"direct_gbps\":[{\"x\":1,\"y\":1.5},{\"x\":4,\"y\":3.25,\"spread\":0.1}]}],"
    "\"interference\":{\"cpu\":{\"drive\":0.9},\"drive\":{\"cpu\":0.75,\"gpu\":1}},"
    "\"learned\":{\"kernels_decode\":{\"factor\":1.08,\"runs\":12},\"drive\":{\"factor\":1,\"runs\":0}}}";

static struct machine_profile profile; // large, and cleared by what fills it

static int read_text(const char *text, struct lode_error *error)
{
    *error = (struct lode_error){0};
    return machine_profile_read_text(&profile, text, strlen(text), "some.json", error);
}

static void expect_read(const char *text)
{
    struct lode_error error;
    cr_assert_eq(read_text(text, &error), 0, "%s", error.text);
}

static void expect_refused(const char *text, const char *path, const char *reason)
{
    struct lode_error error;
    cr_assert_eq(read_text(text, &error), LODE_ERR_FORMAT, "%s %s was read: %s", path, reason, text);
    cr_assert_eq(error.code, LODE_ERR_FORMAT);
    char begin[200];
    snprintf(begin, sizeof begin, "some.json: %s ", path);
    cr_assert(strncmp(error.text, begin, strlen(begin)) == 0, "'%s' is not about %s", error.text, path);
    cr_assert(strstr(error.text, reason), "'%s' lacks '%s'", error.text, reason);
    cr_assert_eq(profile.cpu.memory_bytes, 0, "nothing of it is left");
    cr_assert_eq(profile.interference[0][1], 1);
}

// The plain text with the first `old` after `where` replaced, for the caller to free.
static char *changed(const char *where, const char *old, const char *new)
{
    const char *at = strstr(plain, where);
    cr_assert(at, "%s", where);
    at = strstr(at, old);
    cr_assert(at, "%s", old);
    char *text = malloc(sizeof plain + strlen(new));
    cr_assert(text);
    sprintf(text, "%.*s%s%s", (int)(at - plain), plain, new, at + strlen(old));
    return text;
}

// ---- what a file says
// ----------------------------------------------------------------------------------------

Test(machine_profile, a_file_says_what_it_says)
{
    expect_read(plain);
    cr_assert_str_eq(profile.name, "a machine");
    cr_assert_eq(profile.origin, PROFILE_MEASURED);
    cr_assert_str_eq(profile.made, "2026-01-31T12:34:56Z");
    cr_assert_str_eq(profile.fingerprint, "0123456789abcdef");
    cr_assert_str_eq(profile.mode, "quick");
    cr_assert_eq(profile.cpu.memory_bytes, (uint64_t)16 << 30);
    cr_assert_eq(profile.cpu.cores, 8);
    cr_assert_eq(profile.cpu.threads, 7);
    cr_assert_eq(profile.cpu.operation_us, 1.5);
    cr_assert_eq(profile.cpu.read_gbps.n_points, 2);
    cr_assert_eq(profile.cpu.read_gbps.points[0].spread, 0.02);
    cr_assert_eq(profile.cpu.read_gbps.points[1].y, 40);
    cr_assert(profile.cpu.kernels[LODE_Q4_0].known);
    cr_assert_not(profile.cpu.kernels[LODE_Q8_0].known);
    cr_assert_eq(profile.cpu.kernels[LODE_Q4_0].dense_gbps.points[1].x, 64);
    cr_assert_eq(profile.cpu.kernels[LODE_Q4_0].expert_gbps.n_points, 0);
    cr_assert_eq(profile.n_gpus, 1);
    cr_assert_str_eq(profile.gpus[0].backend, "cuda");
    cr_assert_eq(profile.gpus[0].upload_pinned_gbps.points[1].y, 12);
    cr_assert_eq(profile.n_drives, 1);
    cr_assert_str_eq(profile.drives[0].device, "nvme0n1");
    cr_assert_eq(profile.drives[0].direct_gbps.points[1].y, 3.25);
    cr_assert_eq(profile.drives[0].sustained_gbps, 0);
    cr_assert_eq(profile.interference[PROFILE_LANE_CPU][PROFILE_LANE_DRIVE], 0.9);
    cr_assert_eq(profile.interference[PROFILE_LANE_DRIVE][PROFILE_LANE_CPU], 0.75);
    cr_assert_eq(profile.interference[PROFILE_LANE_LINK][PROFILE_LANE_CPU], 1);
    cr_assert_eq(profile.learned[PROFILE_PART_KERNELS_DECODE].factor, 1.08);
    cr_assert_eq(profile.learned[PROFILE_PART_KERNELS_DECODE].runs, 12);
    cr_assert_eq(profile.learned[PROFILE_PART_DRIVE].factor, 1);
    cr_assert_eq(profile.learned[PROFILE_PART_ATTENTION_PREFILL].factor, 1);
    cr_assert_eq(profile.learned[PROFILE_PART_ATTENTION_PREFILL].runs, 0);
    profile_expect_same_after_writing(&profile);
}

Test(machine_profile, names_are_of_any_script)
{
    char *text = changed("a machine", "a machine", "\\u00c4rger \\\"im\\\" \xe5\xb1\xb1");
    expect_read(text);
    cr_assert_str_eq(profile.name, "\xc3\x84rger \"im\" \xe5\xb1\xb1");
    profile_expect_same_after_writing(&profile);
    free(text);
}

static const struct hostile {
    const char *where, *old, *new, *path, *reason;
} hostile[] = {
    {"version", "1", "2", "version", "is 2, made by lode 0.1.0, and lode"},
    {"version", "1", "\"1\"", "version", "must be a number"},
    {"{", "\"version\"", "\"revision\"", "version", "is missing"},
    {"version", "1", "1e9", "version", "lode probe"},
    {"name", "\"a machine\"", "7", "name", "is a number and must be a text"},
    {"name", "a machine", "", "name", "is empty"},
    {"name", "a machine", "\\u001b[2J", "name", "control character"},
    {"name", "a machine", "\\u009b2J", "name", "control character"},
    {"{", "\"name\":\"a machine\",", "", "name", "is missing"},
    {"{", "\"name\"", "\"nmae\"", "nmae", "is not known"},
    {"{", "\"name\"", "\"\\u001b]0;x\\u0007\"", "?]0;x?", "is not known"},
    {"origin", "measured", "invented", "origin", "must be measured, estimated or described"},
    {"origin", "\"measured\"", "null", "origin", "is null and must be a text"},
    {"origin", "measured", "estimated", "made", "measured profiles only"},
    {"made\"", "2026-01-31T12:34:56Z", "yesterday", "made", "2026-01-31T12:34:56Z"},
    {"made_by", "lode 0.1.0", "", "made_by", "is missing"},
    {"fingerprint", "0123456789abcdef", "0123456789abcdeg", "fingerprint", "16 hexadecimal digits"},
    {"fingerprint", "0123456789abcdef", "0123456789abcdef0", "fingerprint", "at most 16"},
    {"mode", "quick", "slow", "mode", "quick, full or thorough"},
    {"\"cpu\"", "\"cpu\":{", "\"gpu\":{", "gpu", "is not known"},
    {"\"cpu\"", "\"a CPU\"", "[]", "cpu.name", "is a list and must be a text"},
    {"\"backend\"", "\"cpu\"", "\"cuda\"", "cpu.backend", "must be cpu"},
    {"\"memory_bytes\"", "17179869184", "0", "cpu.memory_bytes", "is 0 and must be between"},
    {"\"memory_bytes\"", "17179869184", "-1", "cpu.memory_bytes", "whole number"},
    {"\"memory_bytes\"", "17179869184", "17179869184.5", "cpu.memory_bytes", "whole number"},
    {"\"memory_bytes\"", "17179869184", "99999999999999999999", "cpu.memory_bytes", "whole number"},
    {"\"memory_bytes\"", "17179869184", "1e300", "cpu.memory_bytes", "whole number"},
    {"\"cores\"", "8", "0", "cpu.cores", "between 1 and 4096"},
    {"\"cores\"", "8", "4294967297", "cpu.cores", "whole number"},
    {"\"cores\"", "8", "true", "cpu.cores", "must be a number"},
    {"\"cores\"", "\"cores\":8,", "", "cpu.cores", "is missing"},
    {"\"operation_us\"", "1.5", "-1.5", "cpu.operation_us", "is -1.5 and must be between 0 and"},
    {"\"read_gbps\"", "[{\"x\":1,\"y\":20,\"spread\":0.02},{\"x\":8,\"y\":40}]", "[]", "cpu.read_gbps",
     "no points"},
    {"\"read_gbps\"", "[{\"x\":1,\"y\":20,\"spread\":0.02},{\"x\":8,\"y\":40}]", "{}", "cpu.read_gbps",
     "must be a list"},
    {"\"read_gbps\"", "{\"x\":1,\"y\":20,\"spread\":0.02}", "20", "cpu.read_gbps[0]",
     "an object with x and y"},
    {"\"read_gbps\"", "\"x\":8", "\"x\":1", "cpu.read_gbps[1].x", "must be above"},
    {"\"read_gbps\"", "\"x\":8", "\"x\":0", "cpu.read_gbps[1].x", "between 1 and"},
    {"\"read_gbps\"", "\"x\":8,", "", "cpu.read_gbps[1].x", "is missing"},
    {"\"read_gbps\"", "\"y\":40", "\"y\":0", "cpu.read_gbps[1].y", "GB/s"},
    {"\"read_gbps\"", "\"y\":40", "\"y\":-40", "cpu.read_gbps[1].y", "GB/s"},
    {"\"read_gbps\"", "\"y\":40", "\"y\":4e10", "cpu.read_gbps[1].y", "GB/s"},
    {"\"read_gbps\"", "\"y\":40", "\"y\":\"40\"", "cpu.read_gbps[1].y", "is a text and must be a number"},
    {"\"read_gbps\"", "\"y\":40", "\"y\":40,\"z\":1", "cpu.read_gbps[1].z", "x, y and spread"},
    {"\"read_gbps\"", "\"spread\":0.02", "\"spread\":-0.02", "cpu.read_gbps[0].spread", "between 0 and"},
    {"\"kernels\"", "Q4_0", "Q9_9", "cpu.kernels.Q9_9", "is no tensor type"},
    {"\"kernels\"", "{\"Q4_0\":{\"dense_gbps\":[{\"x\":1,\"y\":20},{\"x\":64,\"y\":2}]}}", "{}",
     "cpu.kernels", "at least one"},
    {"\"kernels\"", "dense_gbps", "expert_gbps", "cpu.kernels.Q4_0.dense_gbps", "is missing"},
    {"\"kernels\"", "\"x\":64", "\"x\":1e9", "cpu.kernels.Q4_0.dense_gbps[1].x", "rows"},
    {"\"gpus\"", "\"a GPU\"", "\"a GPU\",\"cores\":3", "gpus[0].cores", "is not known"},
    {"\"gpus\"", "\"cuda\"", "\"vulkan\"", "gpus[0].backend", "cuda, hip or simt"},
    {"\"gpus\"", "upload_pinned", "upload_pageable", "gpus[0].upload_pinned_gbps", "is missing"},
    {"\"gpus\"", "download_pinned", "download_pageable", "gpus[0].download_pinned_gbps", "is missing"},
    {"\"gpus\"", "\"a GPU\"", "\"a GPU\",\"shares_memory\":1", "gpus[0].shares_memory", "true or false"},
    {"\"gpus\"", "[", "[7,", "gpus[0]", "is a number and must be an object"},
    {"\"gpus\"", "[", "[{},{},{},{},", "gpus", "at most 4"},
    {"\"drives\"", "nvme0n1", "/dev/disk/by-id/nvme-of-a-name-that-is-longer-than-any-place-for-it",
     "drives[0].device", "at most 63"},
    {"\"drives\"", "3345408", "1", "drives[0].record_bytes", "between 512 and"},
    {"\"drives\"", "\"latency_us\":80", "\"latency_us\":0", "drives[0].latency_us", "between 0.1"},
    {"\"drives\"", "\"latency_us\":80", "\"sustained_gbps\":1e-9,\"latency_us\":80",
     "drives[0].sustained_gbps", "GB/s"},
    {"\"drives\"", "\"y\":3.25", "\"y\":1e-300", "drives[0].direct_gbps[1].y", "GB/s"},
    {"\"interference\"", "0.9", "0", "interference.cpu.drive", "must be between 0.001 and 2"},
    {"\"interference\"", "0.9", "9", "interference.cpu.drive", "must be between 0.001 and 2"},
    {"\"interference\"", "0.9", "{}", "interference.cpu.drive", "must be a number"},
    {"\"interference\"", "\"cpu\"", "\"moon\"", "interference.moon", "cpu, drive, gpu and link"},
    {"\"interference\"", "\"drive\":0.9", "\"cpu\":1", "interference.cpu.cpu", "beside itself"},
    {"\"interference\"", "{\"drive\":0.9}", "0.9", "interference.cpu", "must be an object"},
    {"\"learned\"", "kernels_decode", "kernels", "learned.kernels",
     "there are kernels_decode, kernels_prefill"},
    {"\"learned\"", "{\"factor\":1.08,\"runs\":12}", "1.08", "learned.kernels_decode", "factor and runs"},
    {"\"learned\"", "\"factor\":1.08,", "", "learned.kernels_decode.factor", "is missing"},
    {"\"learned\"", ",\"runs\":12", "", "learned.kernels_decode.runs", "is missing"},
    {"\"learned\"", "\"runs\":12", "\"runs\":12,\"weeks\":1", "learned.kernels_decode.weeks", "is not known"},
    {"\"learned\"", "\"runs\":12", "\"runs\":0", "learned.kernels_decode.runs", "no run has taught"},
    {"\"learned\"", "\"runs\":12", "\"runs\":-1", "learned.kernels_decode.runs", "whole number"},
    {"\"learned\"", "\"runs\":12", "\"runs\":4294967296", "learned.kernels_decode.runs", "whole number"},
    {"\"learned\"", "1.08", "1.51", "learned.kernels_decode.factor", "between 0.66"},
    {"\"learned\"", "1.08", "0.6", "learned.kernels_decode.factor", "between 0.66"},
    {"\"learned\"", "1.08", "0", "learned.kernels_decode.factor", "between 0.66"},
    {"\"learned\"", "1.08", "\"1\"", "learned.kernels_decode.factor", "must be a number"},
};

Test(machine_profile, what_is_wrong_is_named_by_its_path)
{
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        char *text = changed(hostile[i].where, hostile[i].old, hostile[i].new);
        expect_refused(text, hostile[i].path, hostile[i].reason);
        free(text);
    }
}

Test(machine_profile, an_estimate_says_where_it_comes_from)
{
    char *text = changed("origin",
                         "\"measured\",\"made\":\"2026-01-31T12:34:56Z\",\"made_by\":\"lode 0.1.0\","
                         "\"fingerprint\":\"0123456789abcdef\",\"mode\":\"quick\"",
                         "\"estimated\"");
    expect_refused(text, "source", "is missing");
    free(text);
}

Test(machine_profile, only_what_was_measured_has_been_taught)
{
    char *text = changed("origin",
                         "\"measured\",\"made\":\"2026-01-31T12:34:56Z\",\"made_by\":\"lode 0.1.0\","
                         "\"fingerprint\":\"0123456789abcdef\",\"mode\":\"quick\"",
                         "\"estimated\",\"source\":\"a data sheet\"");
    expect_refused(text, "learned", "measured profiles only");
    free(text);
}

Test(machine_profile, a_gpu_that_shares_memory_needs_no_link)
{
    char *text = changed("\"gpus\"", LINKS ",", "\"shares_memory\":true,");
    expect_read(text);
    cr_assert(profile.gpus[0].shares_memory);
    profile_expect_same_after_writing(&profile);
    free(text);
}

Test(machine_profile, too_many_points_are_refused)
{
    char points[1000] = "[";
    for (int i = 1; i <= PROFILE_CURVE_POINTS + 1; i++)
        sprintf(points + strlen(points), "%s{\"x\":%d,\"y\":1}", i > 1 ? "," : "", i);
    strcat(points, "]");
    char *text =
        changed("\"direct_gbps\"", "[{\"x\":1,\"y\":1.5},{\"x\":4,\"y\":3.25,\"spread\":0.1}]", points);
    expect_refused(text, "drives[0].direct_gbps", "has 17 points");
    free(text);
}

// ---- what is no JSON, or too much of it
// ----------------------------------------------------------------------

static void expect_no_json(const char *text, const char *reason)
{
    expect_refused(text, "is no JSON at line", reason);
}

Test(machine_profile, members_that_are_there_twice_are_refused)
{
    char *text = changed("\"cores\"", "\"cores\":8", "\"cores\":8,\"cores\":4");
    expect_no_json(text, "duplicate object key near '\"cores\"'");
    free(text);
}

Test(machine_profile, bytes_that_are_no_utf8_are_named)
{
    const char *const wrong[] = {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe5\xb1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *text = changed("name", "a machine", wrong[i]);
        expect_no_json(text, "unable to decode byte");
        free(text);
    }
    char *text = changed("name", "a machine", "\\ud800");
    expect_no_json(text, "invalid Unicode");
    free(text);
}

Test(machine_profile, numbers_that_no_double_holds_are_refused)
{
    char *text = changed("\"y\":40", "40", "1e999");
    expect_no_json(text, "real number overflow");
    free(text);
    text = changed("\"y\":40", "40", "NaN");
    expect_no_json(text, "NaN");
    free(text);
}

Test(machine_profile, other_texts_are_refused)
{
    expect_no_json("", "'[' or '{' expected");
    expect_no_json("7", "'[' or '{' expected");
    expect_no_json("\x1b[2J{}", "near '?'");
    expect_refused("[]", "the profile", "is a list and must be an object");
    expect_refused("{}", "version", "is missing");
    struct lode_error error;
    cr_assert_eq(machine_profile_read_text(&profile, "{\"version\"\0:1}", 14, "n", &error), LODE_ERR_FORMAT);
}

Test(machine_profile, depth_and_size_are_bounded)
{
    const size_t len = 200000;
    char *deep = malloc(len + 1);
    cr_assert(deep);
    memset(deep, '[', len);
    deep[len] = '\0';
    expect_no_json(deep, "depth");
    char nested[4100] = "";
    memset(nested, '[', 2000);
    memset(nested + 2000, ']', 2000);
    char *text = changed("name", "\"a machine\"", nested);
    expect_refused(text, "name", "is a list and must be a text");
    free(text);
    struct lode_error error;
    char *large = malloc(PROFILE_MAX_BYTES + 1);
    cr_assert(large);
    memset(large, ' ', PROFILE_MAX_BYTES + 1);
    memcpy(large, plain, sizeof plain - 1);
    cr_assert_eq(machine_profile_read_text(&profile, large, PROFILE_MAX_BYTES, "n", &error), 0);
    cr_assert_eq(machine_profile_read_text(&profile, large, PROFILE_MAX_BYTES + 1, "n", &error),
                 LODE_ERR_FORMAT);
    cr_assert(strstr(error.text, "no profile has more than 1048576"), "%s", error.text);
    free(large);
    free(deep);
}

Test(machine_profile, every_cut_is_noticed)
{
    char text[sizeof plain];
    for (size_t len = 0; len + 1 < sizeof plain; len++) {
        memcpy(text, plain, len);
        text[len] = '\0';
        struct lode_error error;
        cr_assert_eq(read_text(text, &error), LODE_ERR_FORMAT, "%zu", len);
    }
}

// Whatever a byte becomes: refused with the file's name, or a profile that stays what it is when written.
Test(machine_profile, any_changed_byte_is_refused_or_harmless)
{
    static const char bytes[] = "\"{}[]:,019-.eE\\ \x01\x80\xff";
    char text[sizeof plain];
    memcpy(text, plain, sizeof plain);
    for (size_t i = 0; i + 1 < sizeof plain; i++)
        for (size_t b = i % 3; b + 1 < sizeof bytes; b += 3) {
            struct lode_error error;
            text[i] = bytes[b];
            if (read_text(text, &error) == 0)
                profile_expect_same_after_writing(&profile);
            else
                cr_assert(error.code == LODE_ERR_FORMAT && strncmp(error.text, "some.json: ", 11) == 0, "%s",
                          error.text);
            text[i] = plain[i];
        }
}

// ---- profiles in memory
// --------------------------------------------------------------------------------------

Test(machine_profile, numbers_come_back_as_they_were)
{
    expect_read(plain);
    struct profile_curve *curve = &profile.cpu.kernels[LODE_MXFP4].expert_gbps;
    const double values[] = {0.1,     1.0 / 3, 1e-5, 99999.99999999999, 5e-5, 123456789.0 / 8192,
                             12345.5, 20,      1e5};
    profile.cpu.kernels[LODE_MXFP4].known = true;
    profile.cpu.kernels[LODE_MXFP4].dense_gbps = (struct profile_curve){1, {{1, 2, 3}}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        curve->points[curve->n_points++] =
            (struct profile_point){.x = 1 + (double)i * 1.1, .y = values[i], .spread = values[i] / 1e5};
    profile.cpu.operation_us = nextafter(1, 2);
    profile.cpu.memory_bytes = (UINT64_C(1) << 40) - 1;
    profile.drives[0].sustained_gbps = 1e-5;
    profile.n_gpus = PROFILE_GPUS;
    profile.n_drives = PROFILE_DRIVES;
    for (int i = 1; i < PROFILE_GPUS; i++)
        profile.gpus[i] = profile.gpus[0];
    for (int i = 1; i < PROFILE_DRIVES; i++)
        profile.drives[i] = profile.drives[0];
    profile.interference[PROFILE_LANE_LINK][PROFILE_LANE_GPU] = 0.123456789012345678;
    for (int part = 0; part < PROFILE_PARTS; part++) {
        profile.learned[part].factor = part % 2 ? PROFILE_LEARNED_MOST : 1 / PROFILE_LEARNED_MOST;
        profile.learned[part].runs = UINT32_MAX - (uint32_t)part;
    }
    profile_expect_same_after_writing(&profile);
}

static void expect_unchecked(const char *path, const char *reason)
{
    struct lode_error error = {0};
    char *text, begin[100];
    size_t len;
    snprintf(begin, sizeof begin, "probe: %s ", path);
    cr_assert_eq(machine_profile_check(&profile, "probe", &error), LODE_ERR_FORMAT, "%s", path);
    cr_assert(strncmp(error.text, begin, strlen(begin)) == 0, "'%s' is not about %s", error.text, path);
    cr_assert(strstr(error.text, reason), "'%s' lacks '%s'", error.text, reason);
    cr_assert_eq(machine_profile_write_text(&text, &len, &profile, "probe", &error), LODE_ERR_FORMAT);
    cr_assert_null(text);
    expect_read(plain);
}

Test(machine_profile, what_no_file_can_say_is_refused_in_memory)
{
    struct lode_error error;
    expect_read(plain);
    cr_assert_eq(machine_profile_check(&profile, "probe", &error), 0);
    profile.cpu.sync_us = NAN;
    expect_unchecked("cpu.sync_us", "nan");
    profile.cpu.read_gbps.points[1].y = INFINITY;
    expect_unchecked("cpu.read_gbps[1].y", "inf");
    profile.cpu.read_gbps.points[1].x = NAN;
    expect_unchecked("cpu.read_gbps[1].x", "nan");
    profile.cpu.read_gbps.n_points = PROFILE_CURVE_POINTS + 1;
    expect_unchecked("cpu.read_gbps", "17 points");
    profile.drives[0].buffered_gbps.n_points = UINT32_MAX;
    expect_unchecked("drives[0].buffered_gbps", "points");
    memset(profile.drives[0].name, 'x', sizeof profile.drives[0].name);
    expect_unchecked("drives[0].name", "no end");
    strcpy(profile.cpu.name, "\xff");
    expect_unchecked("cpu.name", "UTF-8");
    profile.n_gpus = PROFILE_GPUS + 1;
    expect_unchecked("gpus", "at most 4");
    profile.n_drives = UINT32_MAX;
    expect_unchecked("drives", "at most 4");
    profile.origin = (enum profile_origin)3;
    expect_unchecked("origin", "is 3");
    profile.cpu.kernels[5].known = true; // a value between the types
    expect_unchecked("cpu.kernels[5]", "of no type");
    profile.cpu.kernels[LODE_Q4_0].known = false;
    expect_unchecked("cpu.kernels.Q4_0", "not known");
    profile.cpu.kernels[LODE_Q6_K].known = true;
    expect_unchecked("cpu.kernels.Q6_K.dense_gbps", "no points");
    profile.interference[1][1] = 0.5;
    expect_unchecked("interference.drive.drive", "between 1 and 1");
    profile.learned[PROFILE_PART_OPERATIONS].factor = NAN;
    expect_unchecked("learned.operations.factor", "nan");
    machine_profile_clear(&profile);
    expect_unchecked("name", "empty");
}

Test(machine_profile, curves_are_interpolated_in_the_logarithm)
{
    const struct profile_curve curve = {3, {{1, 10, 0.1}, {4, 20, 0.3}, {64, 5, 0}}};
    cr_assert_float_eq(profile_curve_at(&curve, 1), 10, 1e-12);
    cr_assert_float_eq(profile_curve_at(&curve, 2), 15, 1e-12);
    cr_assert_float_eq(profile_curve_at(&curve, 4), 20, 1e-12);
    cr_assert_float_eq(profile_curve_at(&curve, 16), 12.5, 1e-12);
    cr_assert_float_eq(profile_curve_at(&curve, 64), 5, 1e-12);
    cr_assert_float_eq(profile_curve_spread_at(&curve, 2), 0.2, 1e-12);
    cr_assert_float_eq(profile_curve_spread_at(&curve, 16), 0.15, 1e-12);
    const double below[] = {0.5, 0, -3, -INFINITY}, above[] = {65, 1e300, INFINITY};
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(profile_curve_at(&curve, below[i]), 10);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(profile_curve_at(&curve, above[i]), 5);
    cr_assert_eq(profile_curve_at(&curve, NAN), 5);
    const struct profile_curve point = {1, {{8, 3, 0.2}}}, unknown = {0};
    cr_assert_eq(profile_curve_at(&point, 1), 3);
    cr_assert_eq(profile_curve_at(&point, 8), 3);
    cr_assert_eq(profile_curve_at(&point, 9), 3);
    cr_assert_eq(profile_curve_spread_at(&point, 9), 0.2);
    cr_assert_eq(profile_curve_at(&unknown, 1), 0);
    cr_assert_eq(profile_curve_spread_at(&unknown, 1), 0);
}

Test(machine_profile, a_library_is_used_from_where_on_it_is_faster)
{
    struct profile_kernels kernels = {
        .known = true,
        .dense_gbps = {4, {{1, 100, 0}, {32, 90, 0}, {128, 50, 0}, {512, 20, 0}}},
        .library_gbps = {3, {{32, 30, 0}, {128, 60, 0}, {512, 80, 0}}},
    };
    cr_assert_eq(profile_library_rows(&kernels), 128);
    kernels.library_gbps.points[1].y = 51; // faster by less than the gain that is asked for
    cr_assert_eq(profile_library_rows(&kernels), 512);
    kernels.library_gbps.points[0].y = 200; // a single one that is faster, with a slower one behind
    cr_assert_eq(profile_library_rows(&kernels), 512);
    kernels.library_gbps.points[1].y = 53;
    cr_assert_eq(profile_library_rows(&kernels), 32);
    kernels.library_gbps.points[2].y = 20;
    cr_assert_eq(profile_library_rows(&kernels), 0);
    kernels.library_gbps.n_points = 0;
    cr_assert_eq(profile_library_rows(&kernels), 0);
}
