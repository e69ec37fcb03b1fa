// See words.h.
#include "bench/words.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static bool is_part_of_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

// The word stands in the line, not as a part of a longer one.
static bool has_word(const char *line, const char *word, size_t length)
{
    for (const char *at = line; *at; at++)
        if (strncasecmp(at, word, length) == 0 && (at == line || !is_part_of_word(at[-1])) &&
            !is_part_of_word(at[length]))
            return true;
    return false;
}

bool words_match(const char *line, const char *filter)
{
    while (*(filter += strspn(filter, " "))) {
        const char *end = filter + strcspn(filter, " ");
        bool found = false;
        while (filter < end) {
            size_t length = strcspn(filter, ", ");
            found = found || (length && has_word(line, filter, length));
            filter += length + (filter[length] == ',');
        }
        if (!found)
            return false;
    }
    return true;
}
