// A vocabulary that a gemma4 tokenizer accepts and that turns any text into ids: special tokens, bytes, runs
// of spaces, newlines and tabs where the real one has them; characters; and for the rest words of two and
// four letters.
//
// Small vocabularies keep the ids up to 493 and have the rest directly behind them. The merges make every
// run, every pair of small letters and some words of four, so English text takes about two characters a
// token.
#include "core/synth.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum {
    LONGEST_RUN = 31,
    FIRST_BYTE = 238,
    FIRST_WORD = 494,
    TAG_STRIKE = 212,
    LETTERS = 26,
    TWO_LETTERS = LETTERS * LETTERS,
    MERGED_WORDS = 4096,
};

enum token_type { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER_DEFINED = 4, BYTE = 6 };

struct special {
    uint32_t id;
    enum token_type type;
    const char *text;
};

static const struct special specials[] = {
    {0, CONTROL, "<pad>"},
    {1, CONTROL, "<eos>"},
    {2, CONTROL, "<bos>"},
    {3, UNKNOWN, "<unk>"},
    {4, CONTROL, "<mask>"},
    {46, CONTROL, "<|tool>"},
    {47, CONTROL, "<tool|>"},
    {48, USER_DEFINED, "<|tool_call>"},
    {49, USER_DEFINED, "<tool_call|>"},
    {50, USER_DEFINED, "<|tool_response>"},
    {51, USER_DEFINED, "<tool_response|>"},
    {52, USER_DEFINED, "<|\"|>"},
    {98, CONTROL, "<|think|>"},
    {100, USER_DEFINED, "<|channel>"},
    {101, USER_DEFINED, "<channel|>"},
    {105, CONTROL, "<|turn>"},
    {106, CONTROL, "<turn|>"},
    {TAG_STRIKE, NORMAL, "</s>"},
};
enum { N_SPECIALS = sizeof specials / sizeof *specials };

static const char *const media_texts[] = {"<|image>", "<|audio>", "<|image|>", "<|audio|>",
                                          "<image|>", "<audio|>", "<|video|>"};
enum { N_MEDIA = sizeof media_texts / sizeof *media_texts };

// Where the tokens lie that a small vocabulary has elsewhere.
struct layout {
    uint32_t n_tokens, space, first_character, n_characters, first_tab;
    uint32_t media[N_MEDIA];
};

static const struct layout real_layout = {
    262144, 236743, 236744, 19224, 255968, {255999, 256000, 258880, 258881, 258882, 258883, 258884}};
static const struct layout small_layout = {2048, 494, 495, 94, 589, {620, 621, 622, 623, 624, 625, 626}};

struct run { // one character, repeated
    const char *text;
    size_t text_bytes;
    uint32_t first_id, first_length;
};

enum { N_RUNS = 3 };
static const char space_mark[] = "\xe2\x96\x81"; // U+2581

static void list_runs(struct run out[N_RUNS], const struct layout *layout)
{
    out[0] = (struct run){"\n", 1, 107, 1};
    out[1] = (struct run){space_mark, 3, 138, 2};
    out[2] = (struct run){"\t", 1, layout->first_tab, 1};
}

struct text {
    char bytes[128];
    size_t len;
};

static void set_text(struct text *out, const char *text)
{
    out->len = strlen(text);
    assert(out->len < sizeof out->bytes);
    memcpy(out->bytes, text, out->len);
}

static void append_repeated(struct text *out, const struct run *run, uint32_t length)
{
    for (uint32_t i = 0; i < length; i++) {
        memcpy(out->bytes + out->len, run->text, run->text_bytes);
        out->len += run->text_bytes;
    }
}

static void set_utf8(struct text *out, uint32_t code_point)
{
    if (code_point < 0x80) {
        out->bytes[0] = (char)code_point;
        out->len = 1;
    } else if (code_point < 0x800) {
        out->bytes[0] = (char)(0xc0 | code_point >> 6);
        out->bytes[1] = (char)(0x80 | (code_point & 0x3f));
        out->len = 2;
    } else {
        out->bytes[0] = (char)(0xe0 | code_point >> 12);
        out->bytes[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
        out->bytes[2] = (char)(0x80 | (code_point & 0x3f));
        out->len = 3;
    }
}

// Printable ASCII, then what follows U+00A0, without the space mark.
static void set_character(struct text *out, uint32_t index)
{
    uint32_t code_point = index < 94 ? 0x21 + index : 0xa1 + index - 94;
    set_utf8(out, code_point + (code_point >= 0x2581));
}

// "aa" to "zz", then "aaaa", "aaab", …
static void set_word(struct text *out, uint32_t index)
{
    const unsigned n = index < TWO_LETTERS ? 2 : 4;
    if (n == 4)
        index -= TWO_LETTERS;
    for (unsigned i = n; i-- > 0; index /= LETTERS)
        out->bytes[i] = (char)('a' + index % LETTERS);
    out->len = n;
}

static bool set_special(struct text *out, enum token_type *type, const struct layout *layout, uint32_t id)
{
    for (size_t i = 0; i < N_SPECIALS; i++) {
        if (specials[i].id == id) {
            set_text(out, specials[i].text);
            *type = specials[i].type;
            return true;
        }
    }
    for (size_t i = 0; i < N_MEDIA; i++) {
        if (layout->media[i] == id) {
            set_text(out, media_texts[i]);
            *type = CONTROL;
            return true;
        }
    }
    return false;
}

static bool set_run(struct text *out, const struct layout *layout, uint32_t id)
{
    struct run runs[N_RUNS];
    list_runs(runs, layout);
    for (size_t i = 0; i < N_RUNS; i++) {
        const uint32_t length = id - runs[i].first_id + runs[i].first_length;
        if (id >= runs[i].first_id && length <= LONGEST_RUN) {
            out->len = 0;
            append_repeated(out, &runs[i], length);
            return true;
        }
    }
    return false;
}

// The token `id`; words are numbered in the order of their ids, and *words counts them.
static enum token_type set_token(struct text *out, const struct layout *layout, uint32_t id, uint32_t *words)
{
    enum token_type type = NORMAL;
    if (set_special(out, &type, layout, id) || set_run(out, layout, id))
        return type;
    if (id >= FIRST_BYTE && id < FIRST_BYTE + 256) {
        out->len = (size_t)snprintf(out->bytes, sizeof out->bytes, "<0x%02X>", (unsigned)(id - FIRST_BYTE));
        return BYTE;
    }
    if (id == layout->space)
        set_text(out, space_mark);
    else if (id >= layout->first_character && id - layout->first_character < layout->n_characters)
        set_character(out, id - layout->first_character);
    else if (id >= FIRST_WORD)
        set_word(out, (*words)++);
    else
        out->len = (size_t)snprintf(out->bytes, sizeof out->bytes, "<unused%u>", (unsigned)id);
    return type;
}

static uint32_t write_tokens(struct gguf_write *file, const struct layout *layout)
{
    uint32_t words = 0;
    struct text text;
    gguf_write_array(file, "tokenizer.ggml.tokens", GGUF_STRING, layout->n_tokens);
    for (uint32_t id = 0; id < layout->n_tokens; id++) {
        set_token(&text, layout, id, &words);
        gguf_write_item_string(file, text.bytes, text.len);
    }
    return words;
}

static void write_types(struct gguf_write *file, const struct layout *layout)
{
    uint32_t words = 0;
    struct text text;
    gguf_write_array(file, "tokenizer.ggml.scores", GGUF_F32, layout->n_tokens);
    for (uint32_t id = 0; id < layout->n_tokens; id++)
        gguf_write_item_f32(file, -1000);
    gguf_write_array(file, "tokenizer.ggml.token_type", GGUF_I32, layout->n_tokens);
    for (uint32_t id = 0; id < layout->n_tokens; id++)
        gguf_write_item_i32(file, set_token(&text, layout, id, &words));
}

static void write_merge(struct gguf_write *file, const struct text *left, const struct text *right)
{
    char merge[2 * sizeof left->bytes];
    memcpy(merge, left->bytes, left->len);
    merge[left->len] = ' ';
    memcpy(merge + left->len + 1, right->bytes, right->len);
    gguf_write_item_string(file, merge, left->len + 1 + right->len);
}

static void write_run_merge(struct gguf_write *file, const struct run *run, uint32_t left, uint32_t right)
{
    struct text texts[2] = {{.len = 0}, {.len = 0}};
    append_repeated(&texts[0], run, left);
    append_repeated(&texts[1], run, right);
    write_merge(file, &texts[0], &texts[1]);
}

// By these ranks a run of n becomes its binary digits (equal powers of two are joined first), and these
// become one token from the large end on.
static void write_run_merges(struct gguf_write *file, const struct run *run)
{
    for (uint32_t half = 1; half <= 8; half *= 2)
        write_run_merge(file, run, half, half);
    for (uint32_t lowest = 8; lowest > 0; lowest /= 2)
        for (uint32_t n = 3 * lowest; n <= LONGEST_RUN; n += 2 * lowest)
            write_run_merge(file, run, n - lowest, lowest);
}

static void write_word_merge(struct gguf_write *file, uint32_t word)
{
    struct text whole, left, right;
    set_word(&whole, word);
    left.len = right.len = whole.len / 2;
    memcpy(left.bytes, whole.bytes, left.len);
    memcpy(right.bytes, whole.bytes + left.len, right.len);
    write_merge(file, &left, &right);
}

static void write_merges(struct gguf_write *file, const struct layout *layout, uint32_t n_words)
{
    const uint32_t n_merged = n_words < TWO_LETTERS + MERGED_WORDS ? n_words : TWO_LETTERS + MERGED_WORDS;
    struct run runs[N_RUNS];
    list_runs(runs, layout);
    gguf_write_array(file, "tokenizer.ggml.merges", GGUF_STRING, N_RUNS * (LONGEST_RUN - 1) + n_merged);
    for (size_t i = 0; i < N_RUNS; i++)
        write_run_merges(file, &runs[i]);
    for (uint32_t word = 0; word < n_merged; word++)
        write_word_merge(file, word);
}

// Turns as the model family writes them; no tools, no thinking.
static const char chat_template[] =
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "{{- '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}\n"
    "{{- message.content | trim + '<turn|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}{%- endif -%}\n";

void synth_write_tokenizer(struct gguf_write *file, const struct synth_shape *shape)
{
    const struct layout *layout = shape->vocab == real_layout.n_tokens ? &real_layout : &small_layout;
    assert(layout->n_tokens == shape->vocab);
    gguf_write_string(file, "tokenizer.ggml.model", "gemma4");
    const uint32_t n_words = write_tokens(file, layout);
    write_types(file, layout);
    write_merges(file, layout, n_words);
    gguf_write_u32(file, "tokenizer.ggml.bos_token_id", 2);
    gguf_write_u32(file, "tokenizer.ggml.eos_token_id", 106);
    gguf_write_u32(file, "tokenizer.ggml.unknown_token_id", 3);
    gguf_write_u32(file, "tokenizer.ggml.padding_token_id", 0);
    gguf_write_u32(file, "tokenizer.ggml.mask_token_id", 4);
    gguf_write_bool(file, "tokenizer.ggml.add_bos_token", true);
    gguf_write_bool(file, "tokenizer.ggml.add_space_prefix", false);
    if (strcmp(shape->name, "12b") == 0) { // its marks that end an image and a sound are never sampled
        gguf_write_array(file, "tokenizer.ggml.suppress_tokens", GGUF_I32, 2);
        gguf_write_item_i32(file, (int32_t)layout->media[5]);
        gguf_write_item_i32(file, (int32_t)layout->media[4]);
    }
    gguf_write_string(file, "tokenizer.chat_template", chat_template);
}
