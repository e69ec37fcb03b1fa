// The KV cache of one timeline: a ring of the window for local layers, the whole context for global ones,
// nothing for layers that read another's.
#ifndef LODE_KV_CACHE_H
#define LODE_KV_CACHE_H

#include "backends/backend.h"
#include "core/gemma4.h"

// On a GPU a cache begins small and grows with the timeline, for until then experts use the room.
#define KV_CACHE_FIRST_TOKENS 256

struct kv_cache {
    struct lode_device **devices; // [n_layers] where a layer's cache is
    struct lode_kv *layers;       // n_layers; k is NULL where the layer has none of its own
    uint32_t *full_capacity;      // [n_layers] that a cache may grow to
    uint32_t n_layers, batch, window;
    uint32_t position; // tokens in the timeline
    uint32_t high;     // tokens ever written since the timeline was empty: what the rings have wrapped to
};

// Bytes for a context of this many tokens, written in steps of at most `batch`.
uint64_t kv_cache_needed_bytes(const struct gemma_model *model, uint32_t context, uint32_t batch,
                               enum lode_kv_format format);

// Of one layer; 0 where it reads another's.
uint64_t kv_cache_layer_bytes(const struct gemma_model *model, uint32_t layer, uint32_t context,
                              uint32_t batch, enum lode_kv_format format);

// Bytes that are read to decode the token at a position, all layers together.
uint64_t kv_cache_read_bytes(const struct gemma_model *model, uint32_t position, enum lode_kv_format format);

// devices: [n_layers] that a layer's cache is on, copied; those of layers without one do not matter.
int kv_cache_open(struct kv_cache *out, const struct gemma_model *model, struct lode_device *const *devices,
                  uint32_t context, uint32_t batch, enum lode_kv_format format, struct lode_error *error);
void kv_cache_close(struct kv_cache *cache);

// The context that a cache on a GPU is made for at first.
uint32_t kv_cache_first_context(uint32_t context, uint32_t batch);

// Asks the owner of GPU memory for room before so many bytes are allocated; `failed`: an allocation has
// failed. False: there is none.
typedef bool (*kv_cache_room_fn)(void *owner, const struct lode_device *device, uint64_t bytes, bool failed);

// Makes room for positions up to `end`, which the context allows. Devices must be idle. After a failure the
// cache is as it was, or partly larger.
int kv_cache_grow(struct kv_cache *cache, uint32_t end, kv_cache_room_fn make_room, void *owner,
                  struct lode_error *error);

uint64_t kv_cache_bytes_on(const struct kv_cache *cache, const struct lode_device *device);

// Shortens the timeline to `keep` tokens; to none where a ring no longer holds the window before that point.
uint32_t kv_cache_rewind(struct kv_cache *cache, uint32_t keep);

#endif
