// Puts new rows of K and V into the cache, in its format.
#include "backends/cpu/kv_q8_0.h"
#include "backends/cpu/parallel.h"

size_t lode_kv_row_bytes(enum lode_kv_format format, uint32_t head_size)
{
    switch (format) {
    case LODE_CACHE_F16:
        return (size_t)head_size * sizeof(uint16_t);
    case LODE_CACHE_Q8_0:
        return (size_t)head_size / 32 * sizeof(struct cpu_kv_q8_0);
    case LODE_CACHE_F32:
        return (size_t)head_size * sizeof(float);
    }
    return 0;
}

struct store_call {
    const struct lode_kv *kv;
    struct lode_rows k, v;
    uint32_t first_position;
    uint32_t first_row;
    size_t row_bytes;
};

static void store_row(const struct cpu_device *device, const void *arguments, size_t item, uint32_t thread)
{
    (void)thread;
    const struct store_call *call = arguments;
    const struct lode_kv *kv = call->kv;
    size_t row = call->first_row + item, slot = (call->first_position + row) % kv->capacity;
    const float *k = call->k.data + row * call->k.stride, *v = call->v.data + row * call->v.stride;
    for (uint32_t head = 0; head < kv->n_heads; head++, k += kv->head_size, v += kv->head_size) {
        size_t offset = ((size_t)head * kv->capacity + slot) * call->row_bytes;
        device->vector->kv_pack[kv->format]((char *)kv->k + offset, k, kv->head_size);
        device->vector->kv_pack[kv->format]((char *)kv->v + offset, v, kv->head_size);
    }
}

// Of more rows than the ring has slots only the last are kept: two rows of one slot would race.
void cpu_kv_store(struct lode_device *device, const struct lode_kv *kv, struct lode_rows k,
                  struct lode_rows v, uint32_t first_position)
{
    uint32_t first_row = k.n > kv->capacity ? k.n - kv->capacity : 0;
    struct store_call call = {
        kv, k, v, first_position, first_row, lode_kv_row_bytes(kv->format, kv->head_size)};
    cpu_for_items(cpu_device_of(device), k.n - first_row, (size_t)k.n * k.cols * 2, store_row, &call);
}
