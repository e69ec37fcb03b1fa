// What the tokenizer's files share: the vocabulary as flat arrays, and the tables that find tokens in it.
//
// There is no allocation per token: texts lie end to end, ids index them, tables hold ids.
#ifndef LODE_TOKENIZER_INTERNAL_H
#define LODE_TOKENIZER_INTERNAL_H

#include "core/bpe.h"
#include "core/tokenizer.h"
#include "core/utf8.h"

#include <string.h>

// n texts end to end; text i is bytes[begin[i]..begin[i + 1]).
struct text_list {
    char *bytes;
    uint32_t *begin; // n + 1
};

static inline const char *text_at(const struct text_list *list, uint32_t index, size_t *out_len)
{
    *out_len = list->begin[index + 1] - list->begin[index];
    return list->bytes + list->begin[index];
}

// Finds an id by its text. A slot holds the id and, in the bits that it leaves free, a part of the hash, so
// that nearly every comparison of texts is the last one.
struct text_index {
    uint32_t *slots;
    unsigned slot_shift;
};

// FNV-1a, which can go on from A to AB: merges look up both. Then mixed, for the table uses the highest bits.
#define TEXT_HASH_START 0xcbf29ce484222325u

static inline uint64_t text_hash_add(uint64_t state, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        state = (state ^ (unsigned char)text[i]) * 0x100000001b3u;
    return state;
}

static inline uint64_t text_hash_end(uint64_t state)
{
    state = (state ^ state >> 32) * 0x9e3779b97f4a7c15u;
    return state ^ state >> 29;
}

bool text_index_init(struct text_index *index, uint32_t capacity); // false when memory is short
// The id of the text `left` followed by `right`, -1 if there is none.
int32_t text_index_find(const struct text_index *index, const struct text_list *texts, uint64_t hash,
                        const char *left, size_t left_len, const char *right, size_t right_len);
// What a look-up reads, in this order. Asking for one level ahead reads the level before.
enum text_index_level { TEXT_INDEX_SLOT, TEXT_INDEX_BEGIN, TEXT_INDEX_TEXT };
void text_index_prefetch(const struct text_index *index, const struct text_list *texts, uint64_t hash,
                         enum text_index_level level);
// Adds a text of the list. Returns -1, or the id that has the same text: then nothing is added.
int32_t text_index_add(struct text_index *index, const struct text_list *texts, uint32_t id);

// A character as a number: its UTF-8 bytes, first byte lowest. U+2581 is the space that it stands for, so
// that both spellings of a space are one character everywhere.
#define SPACE_MARK "\xe2\x96\x81"
#define SPACE_MARK_BYTES 3

static inline uint32_t character_key(const char *bytes, unsigned n)
{
    uint32_t key = 0;
    for (unsigned i = 0; i < n; i++)
        key |= (uint32_t)(unsigned char)bytes[i] << 8 * i;
    return key == 0x8196e2 ? ' ' : key;
}

struct character_slot {
    uint32_t key; // 0: empty
    int32_t id;
};

// Finds the token of a single character.
struct character_index {
    int32_t ascii[128]; // -1: no token
    struct character_slot *others;
    unsigned slot_shift;
};

bool character_index_init(struct character_index *index, uint32_t capacity);
void character_index_add(struct character_index *index, uint32_t key, int32_t id);

static inline size_t character_first_slot(const struct character_index *index, uint32_t key)
{
    return key * 0x9e3779b97f4a7c15u >> index->slot_shift;
}

static inline size_t character_next_slot(const struct character_index *index, size_t slot)
{
    return (slot + 1) & (((size_t)1 << (64 - index->slot_shift)) - 1);
}

static inline int32_t character_find(const struct character_index *index, uint32_t key)
{
    if (key < 128)
        return index->ascii[key];
    size_t slot = character_first_slot(index, key);
    while (index->others[slot].key != key && index->others[slot].key)
        slot = character_next_slot(index, slot);
    return index->others[slot].key ? index->others[slot].id : -1;
}

enum token_flags {
    TOKEN_CONTROL = 1,   // invisible unless asked for
    TOKEN_END = 2,       // ends a generation
    TOKEN_SPECIAL = 4,   // recognised in text
    TOKEN_PROTECTED = 8, // may come from a special token of the text or from a byte, never from merges
    TOKEN_BYTE = 16,
};

struct tokenizer {
    uint32_t n_tokens;
    size_t longest_piece_bytes;
    int32_t bos; // -1: none
    struct text_list texts;
    struct text_list pieces; // the same decoded: spaces for U+2581, the byte of a byte token
    uint8_t *flags;          // enum token_flags
    struct text_index index;
    struct character_index characters;
    int32_t byte_ids[256];
    int32_t *specials;           // by first byte, longest first
    uint32_t special_begin[257]; // specials[special_begin[b]..special_begin[b + 1]) begin with byte b
    struct bpe bpe;
};

// Reads the ranked merges into tokenizer->bpe; everything else must be there. tokenizer_merges.c
int tokenizer_load_merges(struct tokenizer *tokenizer, const struct gguf *gguf, struct lode_error *error);

// The array `key` of a tokenizer section; errors say what is missing. tokenizer_load.c
int tokenizer_find_array(const struct gguf_value **out, const struct gguf *gguf, const char *key,
                         struct lode_error *error);

#endif
