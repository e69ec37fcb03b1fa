// The two tables of the vocabulary: texts to ids, characters to ids. Both are open addressing with linear
// probing, filled once at most to two thirds.
#include "core/tokenizer_internal.h"

#include <stdlib.h>

#define SLOT_ID_BITS BPE_ID_BITS
#define SLOT_ID_MASK BPE_MAX_TOKENS
#define EMPTY_SLOT UINT32_MAX // an id of all ones is beyond BPE_MAX_TOKENS

// The shift that leaves as many of a hash's highest bits as a table for `capacity` entries has.
static unsigned table_shift(uint32_t capacity)
{
    unsigned shift = 60;
    while ((uint64_t)capacity * 3 / 2 >= 1ull << (64 - shift))
        shift--;
    return shift;
}

bool text_index_init(struct text_index *index, uint32_t capacity)
{
    index->slot_shift = table_shift(capacity);
    size_t size_bytes = ((size_t)1 << (64 - index->slot_shift)) * sizeof *index->slots;
    index->slots = malloc(size_bytes);
    if (!index->slots)
        return false;
    memset(index->slots, 0xff, size_bytes);
    return true;
}

static size_t next_slot(const struct text_index *index, size_t slot)
{
    return (slot + 1) & (((size_t)1 << (64 - index->slot_shift)) - 1);
}

static uint32_t slot_content(uint64_t hash, uint32_t id)
{
    return (uint32_t)hash << SLOT_ID_BITS |
           id; // the lowest bits of the hash: the highest ones chose the slot
}

void text_index_prefetch(const struct text_index *index, const struct text_list *texts, uint64_t hash,
                         enum text_index_level level)
{
    const uint32_t *slot = &index->slots[hash >> index->slot_shift];
    if (level == TEXT_INDEX_SLOT)
        __builtin_prefetch(slot);
    else if (*slot != EMPTY_SLOT && level == TEXT_INDEX_BEGIN)
        __builtin_prefetch(&texts->begin[*slot & SLOT_ID_MASK]);
    else if (*slot != EMPTY_SLOT)
        __builtin_prefetch(&texts->bytes[texts->begin[*slot & SLOT_ID_MASK]]);
}

static bool text_equals(const struct text_list *texts, uint32_t id, const char *left, size_t left_len,
                        const char *right, size_t right_len)
{
    size_t len;
    const char *text = text_at(texts, id, &len);
    return len == left_len + right_len && memcmp(text, left, left_len) == 0 &&
           memcmp(text + left_len, right, right_len) == 0;
}

int32_t text_index_find(const struct text_index *index, const struct text_list *texts, uint64_t hash,
                        const char *left, size_t left_len, const char *right, size_t right_len)
{
    for (size_t slot = hash >> index->slot_shift; index->slots[slot] != EMPTY_SLOT;
         slot = next_slot(index, slot)) {
        uint32_t id = index->slots[slot] & SLOT_ID_MASK;
        if (index->slots[slot] == slot_content(hash, id) &&
            text_equals(texts, id, left, left_len, right, right_len))
            return (int32_t)id;
    }
    return -1;
}

int32_t text_index_add(struct text_index *index, const struct text_list *texts, uint32_t id)
{
    size_t len;
    const char *text = text_at(texts, id, &len);
    uint64_t hash = text_hash_end(text_hash_add(TEXT_HASH_START, text, len));
    int32_t same = text_index_find(index, texts, hash, text, len, "", 0);
    if (same >= 0)
        return same;
    size_t slot = hash >> index->slot_shift;
    while (index->slots[slot] != EMPTY_SLOT)
        slot = next_slot(index, slot);
    index->slots[slot] = slot_content(hash, id);
    return -1;
}

bool character_index_init(struct character_index *index, uint32_t capacity)
{
    memset(index->ascii, 0xff, sizeof index->ascii);
    index->slot_shift = table_shift(capacity);
    index->others = calloc((size_t)1 << (64 - index->slot_shift), sizeof *index->others);
    return index->others != NULL;
}

void character_index_add(struct character_index *index, uint32_t key, int32_t id)
{
    if (key < 128) {
        index->ascii[key] = id;
        return;
    }
    size_t slot = character_first_slot(index, key);
    while (index->others[slot].key)
        slot = character_next_slot(index, slot);
    index->others[slot] = (struct character_slot){key, id};
}
