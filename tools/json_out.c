// Strings and numbers that jansson would refuse, and printing.
#include "tools/json_out.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The ranges of second bytes that Unicode's table 3-7 allows; they exclude overlong forms, surrogates and
// what lies beyond U+10FFFF.
static size_t lead_length(uint8_t lead, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    if (lead < 0xe0)
        return 2;
    if (lead < 0xf0) {
        *low = lead == 0xe0 ? 0xa0 : 0x80;
        *high = lead == 0xed ? 0x9f : 0xbf;
        return 3;
    }
    *low = lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xf4 ? 0x8f : 0xbf;
    return 4;
}

// Bytes of the character at `at`; *valid is false when they are only the beginning of one, or none at all.
static size_t character_length(const uint8_t *at, size_t left, bool *valid)
{
    uint8_t low, high;
    size_t length = lead_length(at[0], &low, &high);
    *valid = length > 0;
    for (size_t i = 1; i < length; i++) {
        if (i == left || at[i] < low || at[i] > high) {
            *valid = false;
            return i;
        }
        low = 0x80;
        high = 0xbf;
    }
    return length ? length : 1;
}

json_t *json_out_text(const char *bytes, size_t len)
{
    static const char replacement[] = "\xef\xbf\xbd";
    char *clean = malloc(len * 3 + 1); // the worst byte becomes three
    if (!clean)
        return NULL;
    size_t used = 0;
    for (size_t at = 0; at < len;) {
        bool valid;
        size_t length = character_length((const uint8_t *)bytes + at, len - at, &valid);
        const char *source = valid ? bytes + at : replacement;
        size_t size = valid ? length : sizeof replacement - 1;
        memcpy(clean + used, source, size);
        used += size;
        at += length;
    }
    json_t *string = json_stringn(clean, used);
    free(clean);
    return string;
}

json_t *json_out_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

int json_out_print(FILE *stream, json_t *value)
{
    int result = value ? json_dumpf(value, stream, JSON_REAL_PRECISION(10)) : -1;
    if (result == 0 && fputc('\n', stream) == EOF)
        result = -1;
    json_decref(value);
    return result;
}
