// The words of a trace's settings: written in one order, read in any.
#include "placement/trace_settings.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

struct text {
    char *out;
    size_t capacity, n;
};

// A word that does not fit is left out, as a whole.
__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    char word[256];
    va_list arguments;
    va_start(arguments, format);
    const int n = vsnprintf(word, sizeof word, format, arguments);
    va_end(arguments);
    const size_t space = text->n > 0;
    if (n < 0 || (size_t)n >= sizeof word || text->n + space + (size_t)n >= text->capacity)
        return;
    if (space)
        text->out[text->n++] = ' ';
    memcpy(text->out + text->n, word, (size_t)n + 1);
    text->n += (size_t)n;
}

static void add_name(struct text *text, const char *key, const char *name, size_t capacity)
{
    const size_t n = strnlen(name, capacity);
    if (n == 0 || n == capacity)
        return;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == 0x7f)
            return;
    add(text, "%s=%s", key, name);
}

// Numbers with '+' between them; none: no word.
static void add_list(struct text *text, const char *key, const uint64_t *values, uint32_t n)
{
    char list[TRACE_MAX_GPUS * 24];
    size_t used = 0;
    for (uint32_t i = 0; i < n && i < TRACE_MAX_GPUS; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%" PRIu64, i ? "+" : "", values[i]);
    if (used)
        add(text, "%s=%s", key, list);
}

bool trace_settings_have_gpus(const struct trace_settings *settings)
{
    return settings->devices[0] && strcmp(settings->devices, "cpu") != 0;
}

void trace_settings_write(char *out, size_t capacity, const struct trace_settings *s)
{
    struct text text = {out, capacity, 0};
    if (capacity == 0)
        return;
    out[0] = '\0';
    add(&text, "weights=%" PRIu64, s->weights_bytes);
    add(&text, "ring=%" PRIu64, s->ring_bytes);
    add(&text, "context=%" PRIu32, s->context);
    add(&text, "batch=%" PRIu32, s->batch);
    add_name(&text, "kv", s->kv, sizeof s->kv);
    add_name(&text, "policy", s->policy, sizeof s->policy);
    add_name(&text, "predictor", s->predictor, sizeof s->predictor);
    add(&text, "ranks=%" PRIu32, s->prefetch_ranks);
    add(&text, "queue=%" PRIu32, s->queue_depth);
    add(&text, "warm=%d", s->warm);
    add(&text, "direct=%d", s->direct);
    add_name(&text, "devices", s->devices, sizeof s->devices);
    add_list(&text, "vram", s->vram_bytes, s->n_vram);
    add_name(&text, "placement", s->placement, sizeof s->placement);
    add(&text, "threads=%" PRIu32, s->threads);
}

// ---- reading
// -------------------------------------------------------------------------------------------------

static int read_number(uint64_t *out, const char *key, const char *value, size_t n, uint64_t most,
                       struct lode_error *error)
{
    *out = 0;
    bool good = n > 0;
    for (size_t i = 0; i < n && good; i++) {
        const uint64_t digit = (uint64_t)(unsigned char)value[i] - '0';
        good = digit <= 9 && digit <= most && *out <= (most - digit) / 10;
        *out = *out * 10 + digit;
    }
    return good ? 0
                : lode_fail(error, LODE_ERR_FORMAT,
                            "the settings of the trace say %s=%.*s, which is no number up to %" PRIu64, key,
                            (int)(n < 40 ? n : 40), value, most);
}

// A name too long to be one that was written stays empty.
static void read_name(char *out, size_t capacity, const char *value, size_t n)
{
    if (n >= capacity)
        return;
    memcpy(out, value, n);
    out[n] = '\0';
}

static int read_list(struct trace_settings *s, const char *key, const char *value, size_t n,
                     struct lode_error *error)
{
    const char *end = value + n;
    int code = 0;
    s->n_vram = 0;
    while (!code) {
        const char *plus = memchr(value, '+', (size_t)(end - value));
        const size_t length = (size_t)((plus ? plus : end) - value);
        if (s->n_vram == TRACE_MAX_GPUS)
            return lode_fail(error, LODE_ERR_FORMAT, "the settings of the trace say %s= of more than %d GPUs",
                             key, TRACE_MAX_GPUS);
        code = read_number(&s->vram_bytes[s->n_vram++], key, value, length, UINT64_MAX, error);
        if (!plus)
            break;
        value = plus + 1;
    }
    return code;
}

static int read_word(struct trace_settings *s, const char *word, size_t n, struct lode_error *error)
{
    const struct {
        const char *key;
        uint64_t *wide;
        uint32_t *count;
        bool *flag;
        char *name;
        size_t capacity;
        bool is_list; // of vram_bytes
    } keys[] = {
        {.key = "weights", .wide = &s->weights_bytes},
        {.key = "ring", .wide = &s->ring_bytes},
        {.key = "context", .count = &s->context},
        {.key = "batch", .count = &s->batch},
        {.key = "threads", .count = &s->threads},
        {.key = "queue", .count = &s->queue_depth},
        {.key = "ranks", .count = &s->prefetch_ranks},
        {.key = "warm", .flag = &s->warm},
        {.key = "direct", .flag = &s->direct},
        {.key = "kv", .name = s->kv, .capacity = sizeof s->kv},
        {.key = "policy", .name = s->policy, .capacity = sizeof s->policy},
        {.key = "predictor", .name = s->predictor, .capacity = sizeof s->predictor},
        {.key = "devices", .name = s->devices, .capacity = sizeof s->devices},
        {.key = "placement", .name = s->placement, .capacity = sizeof s->placement},
        {.key = "vram", .is_list = true},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const size_t key = strlen(keys[i].key);
        if (n <= key || word[key] != '=' || strncmp(word, keys[i].key, key) != 0)
            continue;
        if (keys[i].name) {
            read_name(keys[i].name, keys[i].capacity, word + key + 1, n - key - 1);
            return 0;
        }
        if (keys[i].is_list)
            return read_list(s, keys[i].key, word + key + 1, n - key - 1, error);
        uint64_t value;
        const uint64_t most = keys[i].wide ? UINT64_MAX : keys[i].count ? UINT32_MAX : 1;
        const int code = read_number(&value, keys[i].key, word + key + 1, n - key - 1, most, error);
        if (code)
            return code;
        if (keys[i].wide)
            *keys[i].wide = value;
        else if (keys[i].count)
            *keys[i].count = (uint32_t)value;
        else
            *keys[i].flag = value != 0;
    }
    return 0;
}

int trace_settings_read(struct trace_settings *out, const char *text, struct lode_error *error)
{
    *out = (struct trace_settings){0};
    int code = 0;
    while (*text && !code) {
        const size_t n = strcspn(text, " ");
        code = read_word(out, text, n, error);
        text += n;
        text += strspn(text, " ");
    }
    return code;
}
