// Encoding by real vocabularies: the small model's against a plain reimplementation, the full one against
// recorded ids of other implementations.
#include "core/tokenizer.h"
#include "tests/test_data.h"
#include "tests/test_vocabulary.h"
#include "tests/tokenizer_checks.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEGABYTE ((size_t)1 << 20)

static char *read_file(const char *path, size_t *out_len)
{
    FILE *file = fopen(path, "rb");
    cr_assert(file, "cannot open %s", path);
    fseek(file, 0, SEEK_END);
    *out_len = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*out_len + 1);
    cr_assert_eq(fread(bytes, 1, *out_len, file), *out_len);
    bytes[*out_len] = 0;
    fclose(file);
    return bytes;
}

// ---- the small model's vocabulary

Test(tokenizer_vectors, tokenises_the_held_out_text_of_the_small_model)
{
    char path[512];
    if (!test_data_find(path, sizeof path, "tiny/heldout.txt"))
        cr_skip_test("no tiny/heldout.txt");
    struct gguf *gguf;
    struct tokenizer *tokenizer = test_tiny_vocabulary_load(&gguf);
    gguf_close(gguf);
    size_t len, count;
    char *text = read_file(path, &len);
    int32_t *ids = test_encode(tokenizer, text, len, TOKENIZER_SPECIAL, &count);
    cr_expect_eq(count, 56929);
    free(ids);
    test_round_trip(tokenizer, text, len, TOKENIZER_SPECIAL);
    free(text);
    tokenizer_free(tokenizer);
}

Test(tokenizer_vectors, finds_media_tokens_by_text)
{
    struct gguf *gguf;
    struct tokenizer *tokenizer = test_tiny_vocabulary_load(&gguf);
    size_t count;
    int32_t *ids =
        test_encode(tokenizer, "<|image><|image|><image|><unused3>", 34, TOKENIZER_SPECIAL, &count);
    static const int32_t expected[] = {90, 92, 91, 9};
    cr_assert_eq(count, 4);
    cr_expect_arr_eq(ids, expected, sizeof expected);
    free(ids);
    tokenizer_free(tokenizer);
    gguf_close(gguf);
}

// The algorithm as it is written down, over texts instead of ids: quadratic and uncut.
struct reference {
    const struct tokenizer *tokenizer;
    struct ranked {
        struct gguf_string text;
        size_t rank;
    } * merges;
    size_t n_merges;
};

static int compare_strings(struct gguf_string a, struct gguf_string b)
{
    int order = memcmp(a.data, b.data, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_ranked(const void *a, const void *b)
{
    return compare_strings(((const struct ranked *)a)->text, ((const struct ranked *)b)->text);
}

static struct reference reference_new(const struct tokenizer *tokenizer, const struct gguf *gguf)
{
    const struct gguf_value *merges = gguf_find(gguf, "tokenizer.ggml.merges");
    struct reference reference = {tokenizer, NULL, gguf_value_count(merges)};
    reference.merges = malloc(reference.n_merges * sizeof *reference.merges);
    for (size_t i = 0; i < reference.n_merges; i++) {
        reference.merges[i].rank = i;
        gguf_value_string(merges, i, &reference.merges[i].text);
    }
    qsort(reference.merges, reference.n_merges, sizeof *reference.merges, compare_ranked);
    return reference;
}

static size_t reference_rank(const struct reference *reference, const char *left, size_t left_len,
                             size_t right_len)
{
    char text[512];
    if (left_len + right_len + 1 > sizeof text)
        return SIZE_MAX;
    memcpy(text, left, left_len);
    text[left_len] = ' ';
    memcpy(text + left_len + 1, left + left_len, right_len);
    struct ranked wanted = {{text, left_len + 1 + right_len}, 0};
    const struct ranked *found =
        bsearch(&wanted, reference->merges, reference->n_merges, sizeof wanted, compare_ranked);
    return found ? found->rank : SIZE_MAX;
}

// `text` is well-formed and has U+2581 for spaces. Returns the number of ids.
static size_t reference_encode(const struct reference *reference, const char *text, size_t len, int32_t *ids)
{
    size_t begin[1024], n = 0, n_ids = 0;
    for (size_t at = 0; at < len; at++)
        if ((text[at] & 0xc0) != 0x80)
            begin[n++] = at;
    begin[n] = len;
    for (;;) {
        size_t best = SIZE_MAX, best_at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            size_t rank = reference_rank(reference, text + begin[i], begin[i + 1] - begin[i],
                                         begin[i + 2] - begin[i + 1]);
            if (rank < best) {
                best = rank;
                best_at = i;
            }
        }
        if (best == SIZE_MAX)
            break;
        memmove(&begin[best_at + 1], &begin[best_at + 2], (n - best_at - 1) * sizeof *begin);
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        int32_t id = tokenizer_find(reference->tokenizer, text + begin[i], begin[i + 1] - begin[i]);
        if (id >= 0)
            ids[n_ids++] = id;
        for (size_t at = begin[i]; id < 0 && at < begin[i + 1]; at++) {
            char name[8];
            snprintf(name, sizeof name, "<0x%02X>", (unsigned char)text[at]);
            ids[n_ids++] = tokenizer_find(reference->tokenizer, name, 6);
        }
    }
    return n_ids;
}

// Lengths around and beyond those of words: runs, words without spaces, prose.
static size_t random_prose(char *out, size_t capacity)
{
    static const char *const words[] = {"▁the", "▁",  "▁and", "ing",   "stone", "\n", "\n\n\n", ".", "\"",
                                        "é",    "日", "her",  "there", "in",    "a",  "e",      "t", "<"};
    size_t len = 0, target = 1 + test_random_below((uint32_t)capacity - 16);
    while (len < target) {
        const char *word = words[test_random_below(sizeof words / sizeof *words)];
        for (unsigned repeat = test_random_below(8) ? 1 : 1 + test_random_below(60); repeat && len < target;
             repeat--) {
            memcpy(out + len, word, strlen(word));
            len += strlen(word);
        }
    }
    return len;
}

Test(tokenizer_vectors, equals_a_plain_reimplementation_on_random_text)
{
    struct gguf *gguf;
    struct tokenizer *tokenizer = test_tiny_vocabulary_load(&gguf);
    struct reference reference = reference_new(tokenizer, gguf);
    for (unsigned round = 0; round < 400; round++) {
        char text[400];
        int32_t expected[400];
        size_t len = random_prose(text, round % 2 ? 64 : sizeof text), count;
        size_t n_expected = reference_encode(&reference, text, len, expected);
        int32_t *ids = test_encode(tokenizer, text, len, 0, &count);
        cr_assert(count == n_expected && memcmp(ids, expected, count * sizeof *ids) == 0,
                  "round %u: %zu ids, not %zu, for \"%.*s\"", round, count, n_expected, (int)len, text);
        free(ids);
    }
    free(reference.merges);
    tokenizer_free(tokenizer);
    gguf_close(gguf);
}

// A quadratic loop needs many minutes for this.
Test(tokenizer_vectors, tokenises_a_megabyte_without_a_border_in_it, .timeout = 60)
{
    struct gguf *gguf;
    struct tokenizer *tokenizer = test_tiny_vocabulary_load(&gguf);
    char *text = malloc(MEGABYTE);
    size_t count;
    memset(text, ' ', MEGABYTE);
    int32_t *ids = test_encode(tokenizer, text, MEGABYTE, 0, &count);
    cr_expect_eq(count, MEGABYTE / 16); // runs double from 1 to 16; 32 is no token
    free(ids);
    for (size_t i = 0; i < MEGABYTE; i++)
        text[i] = "thereinand"[test_random_below(10)];
    test_round_trip(tokenizer, text, MEGABYTE, TOKENIZER_SPECIAL);
    free(text);
    tokenizer_free(tokenizer);
    gguf_close(gguf);
}

// ---- the full vocabulary

Test(tokenizer_vectors, equals_every_recorded_vector_of_the_full_vocabulary, .timeout = 60)
{
    char texts_path[512], ids_path[512];
    if (!test_data_find(texts_path, sizeof texts_path, "vocab/vectors.txt") ||
        !test_data_find(ids_path, sizeof ids_path, "vocab/vectors.ids"))
        cr_skip_test("no vocab/vectors.txt and vectors.ids");
    struct tokenizer *tokenizer = test_full_vocabulary_load();
    size_t texts_len, ids_len, n_records = 0;
    char *texts = read_file(texts_path, &texts_len), *recorded = read_file(ids_path, &ids_len);
    const char *line = recorded;
    for (char *text = texts; text < texts + texts_len;) {
        char *end = memchr(text, 0x1e, (size_t)(texts + texts_len - text));
        size_t len = (size_t)((end ? end : texts + texts_len) - text), count, at = 0;
        int32_t *ids = test_encode(tokenizer, text, len, TOKENIZER_SPECIAL, &count);
        for (; *line != '\n' && *line; at++) {
            char *after;
            long id = strtol(line, &after, 10);
            cr_assert(at < count && ids[at] == id, "record %zu, token %zu: not %ld", n_records, at, id);
            line = after + (*after == ',');
        }
        cr_assert_eq(at, count, "record %zu", n_records);
        line += *line == '\n';
        free(ids);
        n_records++;
        text = end ? end + 1 : texts + texts_len;
    }
    cr_expect_eq(n_records, 1500);
    free(recorded);
    free(texts);
    tokenizer_free(tokenizer);
}

struct vector {
    const char *text;
    const char *ids;
};

static void expect_ids(const struct tokenizer *tokenizer, const struct vector *vector)
{
    size_t count, used = 0;
    int32_t *ids = test_encode(tokenizer, vector->text, strlen(vector->text), TOKENIZER_SPECIAL, &count);
    char got[1024] = "";
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%d", i ? "," : "", ids[i]);
    cr_expect_str_eq(got, vector->ids, "%s: %s", vector->text, got);
    free(ids);
}

#define NEWLINES_43 "\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n"

// Ids that other implementations give: most from Hugging Face's tokenizer of the E2B model.
static const struct vector full_vectors[] = {
    {"The quick brown fox jumps over the lazy dog.", "818,3823,8864,37423,38167,1024,506,31770,4799,236761"},
    {"Hello, world! How are you? (fine, thanks) -- 100% sure.",
     "9259,236764,1902,236888,2088,659,611,236881,568,35022,236764,8863,236768,2617,236743,236770,236771,"
     "236771,236908,2889,236761"},
    {"a  b   c    d", "236746,138,236763,139,236755,140,236753"},
    {"line1\tcol2\nline2\n\nline4", "1257,236770,255968,1475,236778,107,1257,236778,108,1257,236812"},
    {"   leading and trailing spaces   ", "139,26016,532,45330,9952,139"},
    {"   ", "139"},
    {"", ""},
    {"rare: 𐌀 old italic letter", "43128,236787,236743,478,382,378,366,2255,103147,6064"},
    {"短い日本語のテストです。今日は良い天気ですね。",
     "209499,94951,236945,88733,3652,236924,90082,32485,228212,31875,236924"},
    {"Café résumé naïve façade -- 日本語 mixed with emoji 😀",
     "160319,236859,118515,120362,96008,2617,33375,238582,9726,607,64334,163543"},
    {"<|image|> describe this <|audio|> transcribe this", "258880,9779,672,236743,258881,226476,672"},
    {"<|image>content<image|>", "255999,3955,258882"},
    {" Linus", "9684,605"},
    {"The capital of France is", "818,5279,529,7001,563"},
    {"<|think|><|channel>thought\nreasoning\n<channel|><|turn>model\nanswer<turn|><|tool>declaration<tool|><|"
     "tool_call>call:foo{}<tool_call|><|tool_response>response:foo{}<tool_response|>",
     "98,100,45518,107,27388,522,107,101,105,4368,107,14433,106,46,163688,47,48,6639,236787,26537,16454,49,"
     "50,6275,236787,26537,16454,51"},
    {"a" NEWLINES_43 "b", "236746,137,118,236763"},
    {"\n \n\n  \n", "107,236743,108,138,107"},
    {"\r\n\r\n", "251,107,251,107"},
    {"\t\t\t", "255970"},
    {"                                                                      ", "167,167,144"},
    {"don't", "13246,236789,236745"},
    {"a\n b", "236746,107,518"},
    {"<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n",
     "2,105,9731,107,98,107,106,107,105,2364,107,10979,106,107,105,4368,107"},
    {"<|turn>model\n<|channel>thought\n<channel|>", "105,4368,107,100,45518,107,101"},
    {"<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>,days:[1,2]}<tool_call|>",
     "48,6639,236787,828,236779,19323,236782,13319,236787,52,23458,844,52,236764,14356,24845,236770,236764,"
     "236778,21111,49"},
    {"00:02 <|image>", "236771,236771,236787,236771,236778,236743,255999"},
    {"x</s>y", "236781,954,236751,236813,236762"},
    {"<bos><|turn>user\nWhat is the capital of France?<turn|>\n<|turn>model\nThe capital of France is "
     "Paris.<turn|>\n<|turn>model\n",
     "2,105,2364,107,3689,563,506,5279,529,7001,236881,106,107,105,4368,107,818,5279,529,7001,563,9079,"
     "236761,106,107,105,4368,107"},
};

Test(tokenizer_vectors, equals_the_reference_on_the_full_vocabulary, .timeout = 60)
{
    struct tokenizer *tokenizer = test_full_vocabulary_load();
    for (size_t i = 0; i < sizeof full_vectors / sizeof *full_vectors; i++)
        expect_ids(tokenizer, &full_vectors[i]);
    cr_expect_eq(tokenizer_vocab_size(tokenizer), 262144);
    cr_expect_eq(tokenizer_bos(tokenizer), 2);
    for (int32_t id = 0; id < 262144; id++)
        cr_assert_eq(tokenizer_is_end(tokenizer, id), id == 1 || id == 50 || id == 106, "%d", id);
    cr_expect_lt(tokenizer_memory_bytes(tokenizer), 24 * MEGABYTE);
    test_random_round_trips(tokenizer, 500);
    tokenizer_free(tokenizer);
}
