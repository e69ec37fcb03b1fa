// A small reader of XML for tests; see xml_checks.h.
#include "tests/xml_checks.h"

#include <criterion/criterion.h>
#include <string.h>

enum { MOST_DEPTH = 24 };

uint32_t xml_count(const char *text, const char *part)
{
    uint32_t n = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        n++;
    return n;
}

static void expect_reference(const char *at)
{
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
    bool found = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        found |= strncmp(at, known[i], strlen(known[i])) == 0;
    cr_assert(found, "%.20s", at);
}

// One element from "<" to behind ">"; attributes are name="value".
static const char *skip_tag(const char *at)
{
    for (at++; *at != '>'; at++) {
        cr_assert(*at && *at != '<', "a tag that does not end");
        if (*at != '"')
            continue;
        cr_assert_eq(at[-1], '=');
        for (at++; *at != '"'; at++) {
            cr_assert(*at && *at != '<');
            if (*at == '&')
                expect_reference(at);
        }
        cr_assert(strchr(" />\n", at[1]), "%.20s", at);
    }
    return at + 1;
}

void xml_expect_well_formed(const char *text)
{
    char open[MOST_DEPTH][16];
    int depth = 0, n_roots = 0;
    for (const char *at = text; *at;) {
        const unsigned char byte = (unsigned char)*at;
        cr_assert(byte >= 0x20 || byte == '\n', "byte %d", byte);
        if (byte == '&')
            expect_reference(at);
        if (byte != '<') {
            cr_assert(depth || byte == '\n', "text outside of the root");
            at++;
            continue;
        }
        const char *end = skip_tag(at);
        if (at[1] == '/') {
            cr_assert_gt(depth, 0);
            depth--;
            cr_assert_eq(strncmp(at + 2, open[depth], strlen(open[depth])), 0, "%.20s closes <%s", at,
                         open[depth]);
            cr_assert_eq(at[2 + strlen(open[depth])], '>');
        } else if (end[-2] != '/') {
            cr_assert_lt(depth, MOST_DEPTH);
            n_roots += depth == 0;
            const size_t len = strcspn(at + 1, " >");
            cr_assert_lt(len, sizeof open[0]);
            memcpy(open[depth], at + 1, len);
            open[depth++][len] = 0;
        }
        at = end;
    }
    cr_assert_eq(depth, 0);
    cr_assert_eq(n_roots, 1);
}
