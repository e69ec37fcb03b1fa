// The UTF-8 helpers against the definition: every code point is accepted in its one form, nothing else is.
#include "core/utf8.h"

#include <criterion/criterion.h>

static unsigned write_code_point(char *out, unsigned code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    unsigned n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (unsigned i = n; i-- > 1; code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xff) | code);
    return n;
}

Test(utf8, accepts_every_code_point_and_calls_its_beginnings_incomplete)
{
    for (unsigned code = 0; code < 0x110000; code++) {
        bool is_surrogate = code >= 0xd800 && code < 0xe000;
        char text[8] = {'x'};
        unsigned n = write_code_point(text + 1, code);
        cr_assert_eq(utf8_character_bytes(text + 1, n), is_surrogate ? 0 : n, "U+%04X", code);
        cr_assert_eq(utf8_character_bytes(text + 1, 7), is_surrogate ? 0 : n, "U+%04X", code);
        cr_assert_eq(utf8_last_character_bytes(text, n + 1), is_surrogate ? 0 : n, "U+%04X", code);
        cr_assert_eq(utf8_incomplete_bytes(text, n + 1), 0, "U+%04X", code);
        for (unsigned part = 1; part < n && !is_surrogate; part++)
            cr_assert_eq(utf8_incomplete_bytes(text, part + 1), part, "U+%04X", code);
    }
}

Test(utf8, accepts_no_more_sequences_than_there_are_code_points)
{
    size_t n_accepted[5] = {0};
    for (unsigned bits = 0; bits < 1u << 24; bits++) {
        char text[3] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits};
        n_accepted[utf8_character_bytes(text, 3)]++;
    }
    cr_expect_eq(n_accepted[1], (size_t)0x80 << 16);
    cr_expect_eq(n_accepted[2], (size_t)(0x800 - 0x80) << 8);
    cr_expect_eq(n_accepted[3], (size_t)0x10000 - 0x800 - 0x800); // less the surrogates
    size_t n_long = 0;
    for (unsigned bits = 0; bits < 1u << 16; bits++)
        for (unsigned third = 0; third < 256; third++) {
            char text[4] = {(char)(bits >> 8), (char)bits, (char)third, (char)0x80};
            n_long += utf8_character_bytes(text, 4) == 4;
        }
    cr_expect_eq(n_long, (size_t)0x100000 / 64); // one in 64 ends with 0x80
}
