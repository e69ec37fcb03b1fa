// Reading and writing lists of token ids.
#include "tools/ids.h"

#include <stdlib.h>
#include <string.h>

static bool is_separator(char byte)
{
    return byte == ',' || byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static int parse_id(int32_t *out, const char *word, size_t len, size_t index, uint32_t vocab,
                    struct lode_error *error)
{
    uint64_t id = 0;
    bool number = true;
    for (size_t i = 0; i < len && number && id <= INT32_MAX; i++) {
        number = word[i] >= '0' && word[i] <= '9';
        id = id * 10 + (uint64_t)(word[i] - '0');
    }
    if (!number)
        return lode_fail(error, LODE_ERR_ARGUMENT, "id %zu of the list, '%.*s', is not a whole number",
                         index + 1, (int)(len < 40 ? len : 40), word);
    if (id >= vocab)
        return lode_fail(error, LODE_ERR_ARGUMENT,
                         "id %zu of the list, %.*s, is outside the vocabulary of %u tokens", index + 1,
                         (int)(len < 40 ? len : 40), word, vocab);
    *out = (int32_t)id;
    return LODE_OK;
}

int ids_parse(int32_t **out_ids, size_t *out_count, const struct text *text, uint32_t vocab,
              struct lode_error *error)
{
    // An id and its separator take two bytes, so this is enough for any list.
    int32_t *ids = malloc((text->len / 2 + 1) * sizeof *ids);
    if (!ids)
        return lode_fail(error, LODE_ERR_MEMORY, "not enough memory for the list of ids");
    size_t count = 0;
    for (size_t at = 0; at < text->len;) {
        if (is_separator(text->bytes[at])) {
            at++;
            continue;
        }
        size_t end = at;
        while (end < text->len && !is_separator(text->bytes[end]))
            end++;
        int code = parse_id(&ids[count], text->bytes + at, end - at, count, vocab, error);
        if (code) {
            free(ids);
            return code;
        }
        count++;
        at = end;
    }
    *out_ids = ids;
    *out_count = count;
    return LODE_OK;
}

void ids_print(FILE *stream, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        fprintf(stream, "%s%d", i ? "," : "", ids[i]);
    fputc('\n', stream);
}

json_t *ids_json(const int32_t *ids, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}
