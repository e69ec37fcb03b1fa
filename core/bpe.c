#include "core/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// Up to here the quadratic loop over arrays in L1 beats the heap. Words have 1 to 12 characters.
#define SHORT_PIECE 40

#define EMPTY_SLOT UINT64_MAX // an id of all ones is beyond BPE_MAX_TOKENS

bool bpe_init(struct bpe *bpe, uint32_t capacity)
{
    assert(capacity <= BPE_MAX_MERGES);
    *bpe = (struct bpe){.slot_shift = 60};
    while ((uint64_t)capacity * 3 / 2 >= 1ull << (64 - bpe->slot_shift))
        bpe->slot_shift--;
    size_t n_slots = (size_t)1 << (64 - bpe->slot_shift);
    bpe->slots = malloc(n_slots * sizeof *bpe->slots);
    bpe->merged = malloc((capacity + (size_t)1) * sizeof *bpe->merged);
    bpe->other_joins = calloc((1u << BPE_JOIN_BITS) / 64, sizeof *bpe->other_joins);
    if (!bpe->slots || !bpe->merged || !bpe->other_joins) {
        bpe_free(bpe);
        return false;
    }
    memset(bpe->slots, 0xff, n_slots * sizeof *bpe->slots);
    return true;
}

void bpe_free(struct bpe *bpe)
{
    free(bpe->slots);
    free(bpe->merged);
    free(bpe->other_joins);
    *bpe = (struct bpe){0};
}

size_t bpe_memory_bytes(const struct bpe *bpe)
{
    return ((size_t)1 << (64 - bpe->slot_shift)) * sizeof *bpe->slots + bpe->n_merges * sizeof *bpe->merged +
           (1u << BPE_JOIN_BITS) / 8;
}

static inline uint64_t pair_key(uint32_t left, uint32_t right)
{
    return (uint64_t)left << BPE_ID_BITS | right;
}

static inline size_t first_slot(const struct bpe *bpe, uint64_t key)
{
    return key * 0x9e3779b97f4a7c15u >> bpe->slot_shift;
}

static inline size_t next_slot(const struct bpe *bpe, size_t slot)
{
    return (slot + 1) & (((size_t)1 << (64 - bpe->slot_shift)) - 1);
}

static inline uint32_t rank_of(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t key = pair_key((uint32_t)left, (uint32_t)right);
    for (size_t slot = first_slot(bpe, key);; slot = next_slot(bpe, slot)) {
        uint64_t content = bpe->slots[slot];
        if (content >> BPE_RANK_BITS == key)
            return content & BPE_MAX_MERGES;
        if (content == EMPTY_SLOT)
            return BPE_NO_RANK;
    }
}

uint32_t bpe_add(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t merged)
{
    uint64_t key = pair_key(left, right);
    size_t slot = first_slot(bpe, key);
    for (; bpe->slots[slot] != EMPTY_SLOT; slot = next_slot(bpe, slot))
        if (bpe->slots[slot] >> BPE_RANK_BITS == key)
            return bpe->slots[slot] & BPE_MAX_MERGES;
    bpe->slots[slot] = key << BPE_RANK_BITS | bpe->n_merges;
    bpe->merged[bpe->n_merges++] = merged;
    return BPE_NO_RANK;
}

void bpe_prefetch(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    __builtin_prefetch(&bpe->slots[first_slot(bpe, pair_key(left, right))], 1);
}

void bpe_add_join(struct bpe *bpe, uint32_t left_key, uint32_t right_key)
{
    if ((left_key | right_key) < 128) {
        bpe->ascii_joins[left_key][right_key >> 6] |= 1ull << (right_key & 63);
        return;
    }
    uint64_t bit = bpe_join_bit(left_key, right_key);
    bpe->other_joins[bit >> 6] |= 1ull << (bit & 63);
}

static size_t apply_short(const struct bpe *bpe, int32_t *ids, size_t n)
{
    uint32_t ranks[SHORT_PIECE]; // of the pair that begins at each symbol
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = rank_of(bpe, ids[i], ids[i + 1]);
    ranks[n - 1] = BPE_NO_RANK;
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            best = ranks[i] < ranks[best] ? i : best;
        if (ranks[best] == BPE_NO_RANK)
            return n;
        ids[best] = (int32_t)bpe->merged[ranks[best]];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            ranks[i] = ranks[i + 1];
        }
        ranks[best] = best + 1 < n ? rank_of(bpe, ids[best], ids[best + 1]) : BPE_NO_RANK;
        if (best > 0)
            ranks[best - 1] = rank_of(bpe, ids[best - 1], ids[best]);
    }
}

// A long piece is a list of symbols over the ids and a min-heap of candidates, rank above position. A
// candidate is stale when the pair at its position has another rank by now: it is dropped when it comes up.
struct symbol {
    uint32_t previous, next; // NO_SYMBOL at the ends
    uint32_t rank;           // of the pair that begins here; BPE_NO_RANK also for symbols that are gone
};

#define NO_SYMBOL UINT32_MAX

struct heap {
    uint64_t *items;
    size_t count;
};

static void heap_sift_down(struct heap *heap, size_t hole, uint64_t item)
{
    for (;;) {
        size_t child = 2 * hole + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && heap->items[child + 1] < heap->items[child])
            child++;
        if (heap->items[child] >= item)
            break;
        heap->items[hole] = heap->items[child];
        hole = child;
    }
    heap->items[hole] = item;
}

static void heap_push(struct heap *heap, uint64_t item)
{
    size_t hole = heap->count++;
    while (hole > 0 && heap->items[(hole - 1) / 2] > item) {
        heap->items[hole] = heap->items[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    heap->items[hole] = item;
}

static uint64_t heap_pop(struct heap *heap)
{
    uint64_t top = heap->items[0];
    uint64_t last = heap->items[--heap->count];
    if (heap->count)
        heap_sift_down(heap, 0, last);
    return top;
}

static void heap_order(struct heap *heap)
{
    for (size_t i = heap->count / 2; i-- > 0;)
        heap_sift_down(heap, i, heap->items[i]);
}

static inline uint64_t candidate(uint32_t rank, uint32_t position)
{
    return (uint64_t)rank << 32 | position;
}

static void update_pair(const struct bpe *bpe, const int32_t *ids, struct symbol *symbols, uint32_t position,
                        struct heap *heap)
{
    uint32_t next = symbols[position].next;
    uint32_t rank = next == NO_SYMBOL ? BPE_NO_RANK : rank_of(bpe, ids[position], ids[next]);
    symbols[position].rank = rank;
    if (rank != BPE_NO_RANK)
        heap_push(heap, candidate(rank, position));
}

static void merge_at(const struct bpe *bpe, int32_t *ids, struct symbol *symbols, uint32_t position,
                     struct heap *heap)
{
    uint32_t gone = symbols[position].next;
    uint32_t next = symbols[gone].next;
    ids[position] = (int32_t)bpe->merged[symbols[position].rank];
    symbols[gone].rank = BPE_NO_RANK;
    symbols[position].next = next;
    if (next != NO_SYMBOL)
        symbols[next].previous = position;
    update_pair(bpe, ids, symbols, position, heap);
    if (symbols[position].previous != NO_SYMBOL)
        update_pair(bpe, ids, symbols, symbols[position].previous, heap);
}

static void list_symbols(const struct bpe *bpe, const int32_t *ids, uint32_t n, struct symbol *symbols,
                         struct heap *heap)
{
    for (uint32_t i = 0; i < n; i++) {
        symbols[i] = (struct symbol){i - 1, i + 1, BPE_NO_RANK}; // 0 - 1 is NO_SYMBOL
        if (i + 1 == n) {
            symbols[i].next = NO_SYMBOL;
            break;
        }
        symbols[i].rank = rank_of(bpe, ids[i], ids[i + 1]);
        if (symbols[i].rank != BPE_NO_RANK)
            heap->items[heap->count++] = candidate(symbols[i].rank, i);
    }
    heap_order(heap);
}

static size_t apply_long(const struct bpe *bpe, int32_t *ids, uint32_t n, void *memory)
{
    // At most n - 1 candidates at first, and every one of at most n - 1 merges pops one and pushes two.
    struct heap heap = {.items = memory};
    struct symbol *symbols = (struct symbol *)(heap.items + 2 * (size_t)n);
    list_symbols(bpe, ids, n, symbols, &heap);
    while (heap.count) {
        uint64_t best = heap_pop(&heap);
        uint32_t position = (uint32_t)best;
        if (symbols[position].rank == best >> 32)
            merge_at(bpe, ids, symbols, position, &heap);
    }
    size_t count = 0;
    for (uint32_t i = 0; i != NO_SYMBOL; i = symbols[i].next)
        ids[count++] = ids[i];
    return count;
}

bool bpe_apply(const struct bpe *bpe, int32_t *ids, size_t *count, struct bpe_scratch *scratch)
{
    size_t n = *count;
    if (n < 2)
        return true;
    if (n <= SHORT_PIECE) {
        *count = apply_short(bpe, ids, n);
        return true;
    }
    assert(n < NO_SYMBOL);
    size_t need_bytes = n * (2 * sizeof(uint64_t) + sizeof(struct symbol));
    if (need_bytes > scratch->size_bytes) {
        free(scratch->memory);
        scratch->memory = malloc(need_bytes);
        scratch->size_bytes = scratch->memory ? need_bytes : 0;
        if (!scratch->memory)
            return false;
    }
    *count = apply_long(bpe, ids, (uint32_t)n, scratch->memory);
    return true;
}
