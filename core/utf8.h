// Well-formed UTF-8 as Unicode defines it: no overlong form, no surrogate, nothing above U+10FFFF.
#ifndef LODE_UTF8_H
#define LODE_UTF8_H

#include <stddef.h>

// Bytes of the character that `first` begins; 0 if no character begins with it.
static inline unsigned utf8_expected_bytes(unsigned char first)
{
    if (first < 0x80)
        return 1;
    if (first < 0xc2) // continuation bytes, and C0 and C1 that only overlong forms use
        return 0;
    if (first < 0xe0)
        return 2;
    if (first < 0xf0)
        return 3;
    return first < 0xf5 ? 4 : 0;
}

// How many of the n > 0 bytes are the beginning of one character, complete or not; 0 if none can be.
static inline unsigned utf8_prefix_bytes(const char *text, size_t n)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned expected = utf8_expected_bytes(bytes[0]);
    if (expected < 2 || n < 2)
        return expected != 0;
    unsigned char low = bytes[0] == 0xe0 ? 0xa0 : bytes[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = bytes[0] == 0xed ? 0x9f : bytes[0] == 0xf4 ? 0x8f : 0xbf;
    if (bytes[1] < low || bytes[1] > high)
        return 1;
    unsigned count = 2;
    while (count < expected && count < n && (bytes[count] & 0xc0) == 0x80)
        count++;
    return count;
}

// Bytes of the well-formed character at the start of n > 0 bytes; 0 if there is none.
static inline unsigned utf8_character_bytes(const char *text, size_t n)
{
    unsigned expected = utf8_expected_bytes((unsigned char)text[0]);
    return expected && utf8_prefix_bytes(text, n) == expected ? expected : 0;
}

// Bytes of the well-formed character at the end of n > 0 bytes; 0 if there is none.
static inline unsigned utf8_last_character_bytes(const char *text, size_t n)
{
    for (unsigned back = 1; back <= 4 && back <= n; back++)
        if (utf8_character_bytes(text + n - back, back) == back)
            return back;
    return 0;
}

// Bytes at the end (at most 3) that begin a character whose other bytes may still come.
static inline unsigned utf8_incomplete_bytes(const char *text, size_t n)
{
    for (unsigned back = 1; back <= 3 && back <= n; back++) {
        const char *tail = text + n - back;
        if (utf8_expected_bytes((unsigned char)tail[0]) > back && utf8_prefix_bytes(tail, back) == back)
            return back;
    }
    return 0;
}

#endif
