// Byte-pair encoding over token ids: a table of ranked merges and the algorithm that applies them.
//
// The lowest rank is merged first, the leftmost on ties, until nothing is left to merge. Nothing here knows
// text: characters appear only as keys of the join filter, which tells where a text may be cut without
// changing a result.
#ifndef LODE_BPE_H
#define LODE_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Two ids and a rank share one 64-bit slot, so that half as many cache lines are touched (Gemma 4: 2^18
// tokens and 514,906 merges).
#define BPE_ID_BITS 21
#define BPE_RANK_BITS 22
#define BPE_MAX_TOKENS ((1u << BPE_ID_BITS) - 1)
#define BPE_MAX_MERGES ((1u << BPE_RANK_BITS) - 1)
#define BPE_NO_RANK UINT32_MAX

struct bpe {
    uint64_t *slots; // open addressing: left id, right id, rank
    unsigned slot_shift;
    uint32_t *merged; // [rank] -> id
    uint32_t n_merges;
    uint64_t ascii_joins[128][2]; // bit y of row x: some merge joins a character x to a character y
    uint64_t *other_joins;        // the same for all other pairs, hashed: may say yes wrongly, never no
};

// Makes an empty table with room for `capacity` merges; false when memory is short.
bool bpe_init(struct bpe *bpe, uint32_t capacity);
void bpe_free(struct bpe *bpe);
size_t bpe_memory_bytes(const struct bpe *bpe);

// Adds the merge of the next rank. Returns BPE_NO_RANK, or the rank that this pair already has: then nothing
// is added.
uint32_t bpe_add(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t merged);
// Asks for the cache line in which this pair belongs, ahead of bpe_add.
void bpe_prefetch(const struct bpe *bpe, uint32_t left, uint32_t right);

// Characters as keys: their UTF-8 bytes, first byte lowest.
void bpe_add_join(struct bpe *bpe, uint32_t left_key, uint32_t right_key);

// 64 KiB: the 30,506 pairs of Gemma 4 that are not ASCII leave 94% of the others told apart.
#define BPE_JOIN_BITS 19

static inline uint64_t bpe_join_bit(uint32_t left_key, uint32_t right_key)
{
    uint64_t hash = ((uint64_t)left_key << 32 | right_key) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93u;
    return hash >> (64 - BPE_JOIN_BITS);
}

// False: no merge can ever reach over the border between these two characters, so the text may be cut there.
// A merge (A, B) joins the last character of A to the first of B and to nothing else, hence the proof is
// exact.
static inline bool bpe_may_join(const struct bpe *bpe, uint32_t left_key, uint32_t right_key)
{
    if ((left_key | right_key) < 128)
        return bpe->ascii_joins[left_key][right_key >> 6] >> (right_key & 63) & 1;
    uint64_t bit = bpe_join_bit(left_key, right_key);
    return bpe->other_joins[bit >> 6] >> (bit & 63) & 1;
}

struct bpe_scratch { // starts as zeros; free(memory) at the end
    void *memory;
    size_t size_bytes;
};

// Merges ids[0..*count) in place; *count shrinks. False when memory is short. O(n log n) for long pieces.
bool bpe_apply(const struct bpe *bpe, int32_t *ids, size_t *count, struct bpe_scratch *scratch);

#endif
