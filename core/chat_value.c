// The value syntax of tool calls and responses, both ways, and the text that rendering builds.
//
// Values look like JSON with bare keys and with strings between <|"|> tokens, inside which nothing is
// escaped. Writing is exact: numbers as the reference templates print them, keys in their order. Reading is
// forgiving, since what is read was written by a model.

#include "core/chat_internal.h"
#include "core/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 128 // nesting in a model's call; deeper is no call

// ---- text under construction ----

void chat_builder_free(struct chat_builder *builder)
{
    free(builder->text);
    free(builder->plain);
    *builder = (struct chat_builder){0};
}

void chat_put_bytes(struct chat_builder *builder, const char *bytes, size_t len)
{
    if (builder->failed)
        return;
    if (builder->capacity - builder->len <= len) {
        size_t capacity = builder->capacity * 2 + len + 256;
        char *grown = capacity > len ? realloc(builder->text, capacity) : NULL;
        if (!grown) {
            builder->failed = true;
            return;
        }
        builder->text = grown;
        builder->capacity = capacity;
    }
    if (len)
        memcpy(builder->text + builder->len, bytes, len);
    builder->len += len;
    builder->text[builder->len] = 0;
}

void chat_put(struct chat_builder *builder, const char *markup)
{
    chat_put_bytes(builder, markup, strlen(markup));
}

// Neighbouring spans become one, so that no special token is recognised across their border.
void chat_put_plain(struct chat_builder *builder, const char *bytes, size_t len)
{
    const size_t begin = builder->len;
    chat_put_bytes(builder, bytes, len);
    if (builder->failed || !len)
        return;
    if (builder->n_plain && builder->plain[builder->n_plain - 1].end == begin) {
        builder->plain[builder->n_plain - 1].end = builder->len;
        return;
    }
    if (builder->n_plain == builder->plain_capacity) {
        const size_t capacity = builder->plain_capacity * 2 + 16;
        struct tokenizer_span *grown = realloc(builder->plain, capacity * sizeof *grown);
        if (!grown) {
            builder->failed = true;
            return;
        }
        builder->plain = grown;
        builder->plain_capacity = capacity;
    }
    builder->plain[builder->n_plain++] = (struct tokenizer_span){begin, builder->len};
}

void chat_put_text(struct chat_builder *builder, const json_t *string)
{
    if (json_is_string(string))
        chat_put_plain(builder, json_string_value(string), json_string_length(string));
}

void chat_put_quoted(struct chat_builder *builder, const json_t *string)
{
    chat_put(builder, CHAT_QUOTE);
    chat_put_text(builder, string);
    chat_put(builder, CHAT_QUOTE);
}

// Bytes of the white-space character at the start of the text, 0 if it is none.
static size_t space_bytes(const char *text, size_t len)
{
    const unsigned char *b = (const unsigned char *)text;
    if (!len)
        return 0;
    if (b[0] == ' ' || (b[0] >= 0x09 && b[0] <= 0x0d) || (b[0] >= 0x1c && b[0] <= 0x1f))
        return 1;
    if (len >= 2 && b[0] == 0xc2 && (b[1] == 0x85 || b[1] == 0xa0)) // U+0085, U+00A0
        return 2;
    if (len < 3)
        return 0;
    const unsigned code = (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    if ((b[0] & 0xf0) != 0xe0 || (b[1] & 0xc0) != 0x80 || (b[2] & 0xc0) != 0x80)
        return 0;
    const bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
                       code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
    return space ? 3 : 0;
}

void chat_trim(const char **text, size_t *len)
{
    size_t n;
    while ((n = space_bytes(*text, *len))) {
        *text += n;
        *len -= n;
    }
    while (*len) {
        for (n = 3; n; n--)
            if (n <= *len && space_bytes(*text + *len - n, n) == n)
                break;
        if (!n)
            return;
        *len -= n;
    }
}

// ---- writing ----

// The shortest digits that read back as the same number, positional from 1e-4 up to 1e16, else with an
// exponent of at least two digits: what the templates' language prints. Only digits are taken from printf,
// for a locale may have another decimal point.
static void put_real(struct chat_builder *builder, double value)
{
    char printed[40], digits[20], out[48];
    int precision = 0;
    do
        snprintf(printed, sizeof printed, "%.*e", precision, value);
    while (strtod(printed, NULL) != value && ++precision < 17);
    size_t n = 0, used = 0;
    const char *p = printed;
    for (; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    const int exponent = atoi(p + 1);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (signbit(value))
        out[used++] = '-';
    if (exponent < -4 || exponent >= 16) {
        out[used++] = digits[0];
        if (n > 1)
            out[used++] = '.';
        for (size_t i = 1; i < n; i++)
            out[used++] = digits[i];
        used += (size_t)snprintf(out + used, sizeof out - used, "e%c%02d", exponent < 0 ? '-' : '+',
                                 abs(exponent));
    } else {
        for (int place = exponent < 0 ? 0 : exponent; place >= -1 || exponent - place < (int)n; place--) {
            if (place == -1)
                out[used++] = '.';
            const int i = exponent - place;
            out[used++] = i >= 0 && i < (int)n ? digits[i] : '0';
        }
    }
    chat_put_bytes(builder, out, used);
}

static int fold(char c)
{
    return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : (unsigned char)c;
}

static int compare_members(const void *a, const void *b)
{
    const struct chat_member *left = a, *right = b;
    const char *l = left->key, *r = right->key;
    while (*l && fold(*l) == fold(*r)) {
        l++;
        r++;
    }
    if (fold(*l) != fold(*r))
        return fold(*l) < fold(*r) ? -1 : 1;
    return left->position < right->position ? -1 : 1;
}

struct chat_member *chat_sorted_members(struct chat_builder *builder, const json_t *object, size_t *out_count)
{
    const size_t count = json_object_size(object);
    struct chat_member *members = count ? malloc(count * sizeof *members) : NULL;
    *out_count = 0;
    if (!members) {
        builder->failed |= count > 0;
        return NULL;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        members[*out_count] = (struct chat_member){key, value, *out_count};
        ++*out_count;
    }
    qsort(members, count, sizeof *members, compare_members);
    return members;
}

static void put_object(struct chat_builder *builder, const json_t *object, bool quote_keys)
{
    size_t count;
    struct chat_member *members = chat_sorted_members(builder, object, &count);
    chat_put(builder, "{");
    for (size_t i = 0; i < count; i++) {
        if (i)
            chat_put(builder, ",");
        if (quote_keys)
            chat_put(builder, CHAT_QUOTE);
        chat_put_plain(builder, members[i].key, strlen(members[i].key));
        chat_put(builder, quote_keys ? CHAT_QUOTE ":" : ":");
        chat_put_value(builder, members[i].value, quote_keys);
    }
    chat_put(builder, "}");
    free(members);
}

void chat_put_value(struct chat_builder *builder, const json_t *value, bool quote_keys)
{
    char number[32];
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_STRING:
        chat_put_quoted(builder, value);
        break;
    case JSON_OBJECT:
        put_object(builder, value, quote_keys);
        break;
    case JSON_ARRAY:
        chat_put(builder, "[");
        for (size_t i = 0; i < json_array_size(value); i++) {
            if (i)
                chat_put(builder, ",");
            chat_put_value(builder, json_array_get(value, i), quote_keys);
        }
        chat_put(builder, "]");
        break;
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        chat_put(builder, number);
        break;
    case JSON_REAL:
        put_real(builder, json_real_value(value));
        break;
    case JSON_TRUE:
        chat_put(builder, "true");
        break;
    case JSON_FALSE:
        chat_put(builder, "false");
        break;
    case JSON_NULL:
        chat_put(builder, "null");
        break;
    }
}

// ---- reading ----

json_t *chat_json_text(const char *bytes, size_t len)
{
    json_t *string = json_stringn(bytes, len);
    if (string)
        return string;
    struct chat_builder valid = {0};
    for (size_t i = 0; i < len;) {
        const unsigned n = utf8_character_bytes(bytes + i, len - i);
        if (n)
            chat_put_bytes(&valid, bytes + i, n);
        else
            chat_put(&valid, "\xef\xbf\xbd");
        i += n ? n : 1;
    }
    string = valid.failed || !valid.text ? NULL : json_stringn(valid.text, valid.len);
    chat_builder_free(&valid);
    return string;
}

struct reader {
    const char *text;
    size_t len, pos;
    unsigned depth; // of open brackets
    bool lenient;
};

static json_t *read_value(struct reader *r);

static bool at_end(const struct reader *r)
{
    return r->pos == r->len;
}

static bool is_any(char c, const char *set)
{
    return c && strchr(set, c);
}

static void skip_spaces(struct reader *r)
{
    while (!at_end(r) && chat_is_space(r->text[r->pos]))
        r->pos++;
}

static bool accept(struct reader *r, const char *expected)
{
    const size_t n = strlen(expected);
    if (r->len - r->pos < n || memcmp(r->text + r->pos, expected, n))
        return false;
    r->pos += n;
    return true;
}

static json_t *text_between(const struct reader *r, size_t begin, size_t end)
{
    while (begin < end && chat_is_space(r->text[begin]))
        begin++;
    while (begin < end && chat_is_space(r->text[end - 1]))
        end--;
    return chat_json_text(r->text + begin, end - begin);
}

// A string whose closing quote never came: it goes to the end of the call, without the brackets that close
// what is open there.
static json_t *read_unclosed(struct reader *r, size_t begin)
{
    size_t end = r->len;
    while (end > begin && chat_is_space(r->text[end - 1]))
        end--;
    for (unsigned open = r->depth; open && end > begin; open--)
        if (r->text[end - 1] == '}' || r->text[end - 1] == ']')
            end--;
    r->pos = r->len;
    return chat_json_text(r->text + begin, end - begin);
}

static json_t *read_quoted(struct reader *r)
{
    const size_t begin = r->pos;
    const char *end = memmem(r->text + begin, r->len - begin, CHAT_QUOTE, strlen(CHAT_QUOTE));
    if (!end)
        return r->lenient ? read_unclosed(r, begin) : NULL;
    r->pos = (size_t)(end - r->text) + strlen(CHAT_QUOTE);
    return chat_json_text(r->text + begin, (size_t)(end - r->text) - begin);
}

static bool ends_a_value(const struct reader *r, size_t pos)
{
    while (pos < r->len && chat_is_space(r->text[pos]))
        pos++;
    return pos == r->len || is_any(r->text[pos], ",:}]");
}

// '…': ends at a quote that a separator follows, so that an apostrophe stays in the text.
static json_t *read_single_quoted(struct reader *r)
{
    const size_t begin = r->pos + 1;
    for (size_t end = begin; end < r->len; end++)
        if (r->text[end] == '\'' && r->text[end - 1] != '\\' && ends_a_value(r, end + 1)) {
            r->pos = end + 1;
            return chat_json_text(r->text + begin, end - begin);
        }
    return read_unclosed(r, begin);
}

static json_t *read_double_quoted(struct reader *r)
{
    size_t end = r->pos + 1;
    while (end < r->len && r->text[end] != '"')
        end += r->text[end] == '\\' ? 2 : 1;
    if (end >= r->len)
        return read_unclosed(r, r->pos + 1);
    const size_t begin = r->pos;
    r->pos = end + 1;
    json_t *string = json_loadb(r->text + begin, end + 1 - begin, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    return string ? string : chat_json_text(r->text + begin + 1, end - begin - 1);
}

static json_t *read_any_quotes(struct reader *r, bool *out_is_quoted)
{
    *out_is_quoted = true;
    if (accept(r, CHAT_QUOTE))
        return read_quoted(r);
    if (r->lenient && !at_end(r) && r->text[r->pos] == '\'')
        return read_single_quoted(r);
    if (r->lenient && !at_end(r) && r->text[r->pos] == '"')
        return read_double_quoted(r);
    *out_is_quoted = false;
    return NULL;
}

static bool is_word(const struct reader *r, size_t begin, size_t len, const char *word)
{
    return len == strlen(word) && !memcmp(r->text + begin, word, len);
}

// Strict reading never crosses a marker outside of quotes, so that many broken calls cost no more than their
// length.
static json_t *read_bare(struct reader *r)
{
    const char *stops = r->lenient ? ",}]" : ",}]<";
    const size_t begin = r->pos;
    size_t end = begin;
    while (end < r->len && !is_any(r->text[end], stops))
        end++;
    r->pos = end;
    while (end > begin && chat_is_space(r->text[end - 1]))
        end--;
    const size_t len = end - begin;
    if (is_word(r, begin, len, "true") || is_word(r, begin, len, "True"))
        return json_true();
    if (is_word(r, begin, len, "false") || is_word(r, begin, len, "False"))
        return json_false();
    if (is_word(r, begin, len, "null") || is_word(r, begin, len, "None"))
        return json_null();
    if (len && (r->text[begin] == '-' || (r->text[begin] >= '0' && r->text[begin] <= '9'))) {
        json_t *number = json_loadb(r->text + begin, len, JSON_DECODE_ANY, NULL);
        if (!number) // an integer beyond 64 bits
            number = json_loadb(r->text + begin, len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
        if (number)
            return number;
    }
    return r->lenient ? text_between(r, begin, end) : NULL;
}

static json_t *read_array(struct reader *r)
{
    json_t *array = json_array();
    for (skip_spaces(r); array; skip_spaces(r)) {
        if (accept(r, "]") || (at_end(r) && r->lenient))
            return array;
        json_t *item = at_end(r) ? NULL : read_value(r);
        if (!item || json_array_append_new(array, item))
            break;
        skip_spaces(r);
        if (!accept(r, ",") && !at_end(r) && r->text[r->pos] != ']')
            break;
    }
    json_decref(array);
    return NULL;
}

static json_t *read_key(struct reader *r)
{
    bool is_quoted;
    json_t *key = read_any_quotes(r, &is_quoted);
    if (is_quoted) {
        skip_spaces(r);
    } else {
        const size_t begin = r->pos;
        while (!at_end(r) && !is_any(r->text[r->pos], r->lenient ? ":" : ":<"))
            r->pos++;
        key = text_between(r, begin, r->pos);
    }
    if (accept(r, ":"))
        return key;
    json_decref(key);
    return NULL;
}

static bool read_member(struct reader *r, json_t *object)
{
    json_t *key = read_key(r);
    json_t *value = key ? read_value(r) : NULL;
    const bool ok = value && !json_object_set_new(object, json_string_value(key), value);
    json_decref(key);
    return ok;
}

static json_t *read_object(struct reader *r)
{
    json_t *object = json_object();
    for (skip_spaces(r); object; skip_spaces(r)) {
        if (accept(r, "}") || (at_end(r) && r->lenient))
            return object;
        if (at_end(r) || !read_member(r, object))
            break;
        skip_spaces(r);
        if (!accept(r, ",") && !at_end(r) && r->text[r->pos] != '}')
            break;
    }
    json_decref(object);
    return NULL;
}

static json_t *read_value(struct reader *r)
{
    bool is_quoted;
    skip_spaces(r);
    json_t *value = read_any_quotes(r, &is_quoted);
    if (is_quoted)
        return value;
    const bool is_object = accept(r, "{");
    if (!is_object && !accept(r, "["))
        return read_bare(r);
    if (r->depth == MAX_DEPTH)
        return NULL;
    r->depth++;
    value = is_object ? read_object(r) : read_array(r);
    r->depth--;
    return value;
}

static json_t *read_name(struct reader *r)
{
    const size_t begin = r->pos;
    while (!at_end(r) && !is_any(r->text[r->pos], "{<\n"))
        r->pos++;
    json_t *name = text_between(r, begin, r->pos);
    if (name && json_string_length(name))
        return name;
    json_decref(name);
    return NULL;
}

json_t *chat_read_call(const char *text, size_t len, bool lenient, size_t *out_used)
{
    struct reader r = {.text = text, .len = len, .lenient = lenient};
    skip_spaces(&r);
    if (!accept(&r, "call:"))
        return NULL;
    json_t *name = read_name(&r), *arguments = NULL;
    if (name && !at_end(&r) && r.text[r.pos] == '{')
        arguments = read_value(&r);
    else if (name && lenient && at_end(&r)) // a call without arguments may lack the braces
        arguments = json_object();
    if (!arguments) {
        json_decref(name);
        return NULL;
    }
    *out_used = r.pos;
    return json_pack("{s:o,s:o}", "name", name, "arguments", arguments);
}
