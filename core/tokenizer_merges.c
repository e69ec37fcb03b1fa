// Reads the ranked merges of a vocabulary: half a million texts "left right" become pairs of ids.
//
// Nearly all of the time that loading takes is here: three look-ups by text (left, right, both joined) and a
// place in the merge table, in 14 MB that a busy machine keeps in no near cache. So merges go in batches,
// level by level, each asking for the cache lines of the next. All of a load of 514,906 merges: median 0.11
// s, 0.21 s one by one.
#include "core/tokenizer_internal.h"

#define KEY_MERGES "tokenizer.ggml.merges"
#define BATCH 32

struct merge {
    const char *left, *right;
    size_t left_len, right_len;
    uint64_t left_hash, right_hash, joined_hash;
    int32_t left_id, right_id, merged_id;
};

static int fail_at(struct lode_error *error, const struct gguf *gguf, size_t index, const char *what)
{
    return lode_fail(error, LODE_ERR_FORMAT, "%s: " KEY_MERGES "[%zu] %s; the file is damaged, get it again",
                     gguf_file_path(gguf, 0), index, what);
}

// The border is the first space that leaves something on the left: real spaces are U+2581 in tokens.
static int read_merge(struct merge *out, const struct gguf *gguf, const struct gguf_value *merges,
                      size_t index, struct lode_error *error)
{
    struct gguf_string text;
    if (!gguf_value_string(merges, index, &text))
        return fail_at(error, gguf, index, "is no string");
    const char *space = text.len > 2 ? memchr(text.data + 1, ' ', text.len - 2) : NULL;
    if (!space)
        return fail_at(error, gguf, index, "is not of the form \"left right\"");
    out->left = text.data;
    out->left_len = (size_t)(space - text.data);
    out->right = space + 1;
    out->right_len = text.len - out->left_len - 1;
    uint64_t left_state = text_hash_add(TEXT_HASH_START, out->left, out->left_len);
    out->left_hash = text_hash_end(left_state);
    out->right_hash = text_hash_end(text_hash_add(TEXT_HASH_START, out->right, out->right_len));
    out->joined_hash = text_hash_end(text_hash_add(left_state, out->right, out->right_len));
    return 0;
}

static void prefetch(const struct merge *merge, const struct tokenizer *tokenizer,
                     enum text_index_level level)
{
    text_index_prefetch(&tokenizer->index, &tokenizer->texts, merge->left_hash, level);
    text_index_prefetch(&tokenizer->index, &tokenizer->texts, merge->right_hash, level);
    text_index_prefetch(&tokenizer->index, &tokenizer->texts, merge->joined_hash, level);
}

// Leaves merged_id at -1 when the merge names a text that is no token: cut-down vocabularies keep the merges
// of the tokens that they dropped, and those can never apply.
static int resolve_merge(struct merge *merge, const struct tokenizer *tokenizer, const struct gguf *gguf,
                         size_t index, struct lode_error *error)
{
    const struct text_index *table = &tokenizer->index;
    const struct text_list *texts = &tokenizer->texts;
    merge->left_id = text_index_find(table, texts, merge->left_hash, merge->left, merge->left_len, "", 0);
    merge->right_id = text_index_find(table, texts, merge->right_hash, merge->right, merge->right_len, "", 0);
    merge->merged_id = text_index_find(table, texts, merge->joined_hash, merge->left, merge->left_len,
                                       merge->right, merge->right_len);
    if (merge->left_id < 0 || merge->right_id < 0)
        merge->merged_id = -1;
    if (merge->merged_id < 0)
        return 0;
    // Else text that someone typed could open a turn without any special token being recognised in it.
    if (tokenizer->flags[merge->merged_id] & TOKEN_PROTECTED)
        return fail_at(error, gguf, index,
                       "makes a special token or a byte, which plain text must never become");
    bpe_prefetch(&tokenizer->bpe, (uint32_t)merge->left_id, (uint32_t)merge->right_id);
    return 0;
}

static int add_merge(struct tokenizer *tokenizer, const struct merge *merge, const struct gguf *gguf,
                     size_t index, struct lode_error *error)
{
    if (merge->merged_id < 0)
        return 0;
    uint32_t earlier = bpe_add(&tokenizer->bpe, (uint32_t)merge->left_id, (uint32_t)merge->right_id,
                               (uint32_t)merge->merged_id);
    if (earlier != BPE_NO_RANK)
        return fail_at(error, gguf, index, "repeats an earlier merge");
    // A part that does not end in a whole character is never reached, for invalid bytes are no symbols.
    unsigned last = utf8_last_character_bytes(merge->left, merge->left_len);
    unsigned first = utf8_character_bytes(merge->right, merge->right_len);
    if (last && first)
        bpe_add_join(&tokenizer->bpe, character_key(merge->left + merge->left_len - last, last),
                     character_key(merge->right, first));
    return 0;
}

static int load_batch(struct tokenizer *tokenizer, const struct gguf *gguf, const struct gguf_value *merges,
                      size_t begin, size_t n, struct lode_error *error)
{
    struct merge batch[BATCH];
    int code = 0;
    for (size_t i = 0; i < n && code == 0; i++)
        code = read_merge(&batch[i], gguf, merges, begin + i, error);
    if (code)
        return code;
    for (int level = TEXT_INDEX_SLOT; level <= TEXT_INDEX_TEXT; level++)
        for (size_t i = 0; i < n; i++)
            prefetch(&batch[i], tokenizer, (enum text_index_level)level);
    for (size_t i = 0; i < n && code == 0; i++)
        code = resolve_merge(&batch[i], tokenizer, gguf, begin + i, error);
    for (size_t i = 0; i < n && code == 0; i++)
        code = add_merge(tokenizer, &batch[i], gguf, begin + i, error);
    return code;
}

int tokenizer_load_merges(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error)
{
    const struct gguf_value *merges;
    int code = tokenizer_find_array(&merges, gguf, KEY_MERGES, error);
    if (code)
        return code;
    size_t count = gguf_value_count(merges);
    if (count > BPE_MAX_MERGES)
        return lode_fail(error, LODE_ERR_UNSUPPORTED,
                         "%s: %zu merges; this program reads vocabularies of up to %u",
                         gguf_file_path(gguf, 0), count, BPE_MAX_MERGES);
    if (!bpe_init(&tokenizer->bpe, (uint32_t)count))
        return lode_fail(error, LODE_ERR_MEMORY, "no memory for the %zu merges of the tokenizer", count);
    for (size_t begin = 0; begin < count && code == 0; begin += BATCH) {
        size_t n = count - begin < BATCH ? count - begin : BATCH;
        code = load_batch(tokenizer, gguf, merges, begin, n, error);
    }
    if (!code && count > 0 && tokenizer->bpe.n_merges == 0)
        return lode_fail(error, LODE_ERR_FORMAT,
                         "%s: none of the %zu " KEY_MERGES
                         " joins tokens of the vocabulary; the file is damaged",
                         gguf_file_path(gguf, 0), count);
    return code;
}
