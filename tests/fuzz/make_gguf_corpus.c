// Writes seeds for fuzz_gguf into a folder: small files that reach every branch of the reader, valid ones and
// ones broken in a single place.
#include "tests/gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void fill_function(struct gguf_writer *writer);

static void fill_nothing(struct gguf_writer *writer)
{
    (void)writer;
}

static void fill_numbers(struct gguf_writer *writer)
{
    const char *names[] = {"u8",   "i8", "u16", "i16", "u32", "i32", "f32",
                           "bool", NULL, NULL,  "u64", "i64", "f64"};
    double real = 0.5;
    for (int kind = 0; kind <= GGUF_F64; kind++)
        if (names[kind])
            gguf_writer_number(writer, names[kind], (enum gguf_kind)kind, &real);
}

static void fill_strings(struct gguf_writer *writer)
{
    gguf_writer_string(writer, "general.architecture", "gemma4");
    gguf_writer_string(writer, "empty", "");
    gguf_writer_bytes(writer, "\x01\xff\"\\", "a\0b", 3);
}

static void fill_string_array(struct gguf_writer *writer)
{
    gguf_writer_strings(writer, "tokenizer.ggml.tokens", 4,
                        (const char *const[]){"<pad>", "", "a", "\xe2\x96\x81"});
    gguf_writer_strings(writer, "none", 0, NULL);
}

static void fill_number_arrays(struct gguf_writer *writer)
{
    gguf_writer_array(writer, "u8", GGUF_U8, 3, (uint8_t[]){1, 2, 3});
    gguf_writer_array(writer, "bool", GGUF_BOOL, 3, (uint8_t[]){1, 0, 7});
    gguf_writer_array(writer, "i32", GGUF_I32, 2, (int32_t[]){-1, 1});
    gguf_writer_array(writer, "f32", GGUF_F32, 2, (float[]){-1, 1});
    gguf_writer_array(writer, "f64", GGUF_F64, 1, (double[]){-1});
    gguf_writer_array(writer, "u64", GGUF_U64, 1, (uint64_t[]){UINT64_MAX});
    gguf_writer_array(writer, "empty", GGUF_I16, 0, NULL);
}

static void fill_nested_array(struct gguf_writer *writer)
{
    static const char raw[] = "\1\0\0\0\0\0\0\0a\x09\0\0\0\x09\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    gguf_writer_raw_pair(writer, raw, sizeof raw - 1);
}

static void fill_unknown_kind(struct gguf_writer *writer)
{
    static const char raw[] = "\1\0\0\0\0\0\0\0a\x0d\0\0\0\0";
    gguf_writer_raw_pair(writer, raw, sizeof raw - 1);
}

static void fill_duplicate_keys(struct gguf_writer *writer)
{
    gguf_writer_u32(writer, "a", 1);
    gguf_writer_u32(writer, "a", 2);
}

static void fill_one_tensor(struct gguf_writer *writer)
{
    gguf_writer_tensor(writer, "output_norm.weight", LODE_F32, 1, (uint64_t[]){4}, NULL, 16);
}

static void fill_block_tensors(struct gguf_writer *writer)
{
    gguf_writer_tensor(writer, "q4", LODE_Q4_0, 2, (uint64_t[]){32, 2}, NULL, 36);
    gguf_writer_tensor(writer, "q6", LODE_Q6_K, 1, (uint64_t[]){256}, NULL, 210);
    gguf_writer_tensor(writer, "mx", LODE_MXFP4, 3, (uint64_t[]){32, 1, 2}, NULL, 34);
    gguf_writer_tensor(writer, "bf", LODE_BF16, 4, (uint64_t[]){1, 1, 1, 3}, NULL, 6);
}

static void fill_unreadable_types(struct gguf_writer *writer)
{
    gguf_writer_tensor(writer, "nv", 40, 1, (uint64_t[]){64}, NULL, 36);
    gguf_writer_tensor(writer, "negative", UINT32_MAX, 1, (uint64_t[]){64}, NULL, 36);
}

static void fill_alignment(struct gguf_writer *writer)
{
    gguf_writer_alignment(writer, 64);
    fill_one_tensor(writer);
}

static void fill_bad_alignment(struct gguf_writer *writer)
{
    gguf_writer_u32(writer, "general.alignment", 48);
    fill_one_tensor(writer);
}

static void fill_misaligned(struct gguf_writer *writer)
{
    fill_one_tensor(writer);
    gguf_writer_tensor_at(writer, "b", LODE_F32, 1, (uint64_t[]){1}, 4);
}

static void fill_odd_row(struct gguf_writer *writer)
{
    gguf_writer_tensor(writer, "a", LODE_Q4_0, 1, (uint64_t[]){33}, NULL, 36);
}

static void fill_huge_shape(struct gguf_writer *writer)
{
    gguf_writer_tensor(writer, "a", LODE_F32, 3, (uint64_t[]){1ull << 31, 1ull << 31, 4}, NULL, 32);
}

static void fill_zero_shape(struct gguf_writer *writer)
{
    gguf_writer_tensor(writer, "a", LODE_F32, 2, (uint64_t[]){4, 0}, NULL, 32);
}

static void fill_beyond_end(struct gguf_writer *writer)
{
    gguf_writer_tensor_at(writer, "a", LODE_F32, 1, (uint64_t[]){4}, UINT64_MAX - 31);
}

static void fill_duplicate_tensors(struct gguf_writer *writer)
{
    fill_one_tensor(writer);
    fill_one_tensor(writer);
}

static void fill_false_claims(struct gguf_writer *writer)
{
    fill_strings(writer);
    gguf_writer_claim(writer, 1ull << 60, 1ull << 60);
}

static void fill_split_part(struct gguf_writer *writer)
{
    gguf_writer_split(writer, 1, 3, 7);
    fill_one_tensor(writer);
}

static const struct seed {
    const char *name;
    uint32_t version;
    fill_function *fill;
} seeds[] = {
    {"nothing", 3, fill_nothing},
    {"nothing-v2", 2, fill_nothing},
    {"nothing-v1", 1, fill_nothing},
    {"big-endian", 0x03000000, fill_nothing},
    {"numbers", 3, fill_numbers},
    {"strings", 3, fill_strings},
    {"string-array", 3, fill_string_array},
    {"number-arrays", 3, fill_number_arrays},
    {"nested-array", 3, fill_nested_array},
    {"unknown-kind", 3, fill_unknown_kind},
    {"duplicate-keys", 3, fill_duplicate_keys},
    {"one-tensor", 3, fill_one_tensor},
    {"block-tensors", 2, fill_block_tensors},
    {"unreadable-types", 3, fill_unreadable_types},
    {"alignment", 3, fill_alignment},
    {"bad-alignment", 3, fill_bad_alignment},
    {"misaligned", 3, fill_misaligned},
    {"odd-row", 3, fill_odd_row},
    {"huge-shape", 3, fill_huge_shape},
    {"zero-shape", 3, fill_zero_shape},
    {"beyond-end", 3, fill_beyond_end},
    {"duplicate-tensors", 3, fill_duplicate_tensors},
    {"false-claims", 3, fill_false_claims},
    {"split-part", 3, fill_split_part},
};

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_gguf_corpus FOLDER\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.gguf", argv[1], seeds[i].name);
        struct gguf_writer *writer = gguf_writer_new(seeds[i].version);
        seeds[i].fill(writer);
        bool saved = gguf_writer_save(writer, path);
        gguf_writer_free(writer);
        if (!saved) {
            perror(path);
            return 1;
        }
    }
    return 0;
}
