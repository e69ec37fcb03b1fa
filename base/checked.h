// Arithmetic for numbers that come from strangers: each returns false on overflow and leaves *out
// unspecified.
#ifndef LODE_CHECKED_H
#define LODE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool checked_add(uint64_t *out, uint64_t a, uint64_t b)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool checked_mul(uint64_t *out, uint64_t a, uint64_t b)
{
    return !__builtin_mul_overflow(a, b, out);
}

// Rounds up to a multiple of a power of two.
static inline bool checked_align(uint64_t *out, uint64_t value, uint64_t alignment)
{
    if (!checked_add(out, value, alignment - 1))
        return false;
    *out &= ~(alignment - 1);
    return true;
}

#endif
