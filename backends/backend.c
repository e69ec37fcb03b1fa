#include "backends/backend.h"

size_t lode_kv_row_bytes(enum lode_kv_format format, uint32_t head_size)
{
    switch (format) {
    case LODE_CACHE_F16:
        return (size_t)head_size * 2;
    case LODE_CACHE_Q8_0:
        return (size_t)head_size / 32 * 34;
    case LODE_CACHE_F32:
        break;
    }
    return (size_t)head_size * 4;
}
