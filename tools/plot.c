// Scales, ticks, labels and text of pictures.
#include "tools/plot.h"

#include "tools/json_out.h"
#include "tools/text.h"

#include <math.h>
#include <string.h>

// ---- text
// ----------------------------------------------------------------------------------------------------

static void put_escaped(FILE *out, const char *text, size_t len)
{
    for (const char *at = text; at < text + len; at++) {
        const unsigned char byte = (unsigned char)*at;
        // U+FFFE and U+FFFF are no characters in XML.
        if (byte == 0xef && at + 2 < text + len && (unsigned char)at[1] == 0xbf &&
            (unsigned char)at[2] >= 0xbe) {
            fputc('?', out);
            at += 2;
        } else if (byte == '&')
            fputs("&amp;", out);
        else if (byte == '<')
            fputs("&lt;", out);
        else if (byte == '>')
            fputs("&gt;", out);
        else if (byte == '"')
            fputs("&quot;", out);
        else
            fputc(byte < 0x20 || byte == 0x7f ? '?' : byte, out);
    }
}

double plot_put_fitted(FILE *out, const char *bytes, double size, double width)
{
    json_t *string = json_out_text(bytes ? bytes : "", bytes ? strlen(bytes) : 0); // characters from here on
    const char *text = string ? json_string_value(string) : "";
    const size_t len = strlen(text);
    double used = 0, fitted = 0;
    size_t fits = 0, at = 0;
    while (at < len) {
        size_t next = at + 1;
        while (next < len && ((unsigned char)text[next] & 0xc0) == 0x80)
            next++;
        used += next - at > 1 ? 2 * PLOT_LETTER * size : PLOT_LETTER * size;
        if (used > width)
            break;
        if (used + PLOT_LETTER * size <= width) { // with room for the ellipsis
            fits = next;
            fitted = used;
        }
        at = next;
    }
    put_escaped(out, text, at >= len ? len : fits);
    if (at < len) {
        fputs("…", out);
        used = fitted + PLOT_LETTER * size;
    }
    json_decref(string);
    return used;
}

void plot_put(FILE *out, const char *text)
{
    plot_put_fitted(out, text, 1, INFINITY);
}

const char *plot_number(char out[PLOT_NUMBER_SIZE], double value)
{
    const double size = fabs(value);
    if (!isfinite(value))
        snprintf(out, PLOT_NUMBER_SIZE, "–");
    else if (size >= 1e7 || (size > 0 && size < 5e-4))
        snprintf(out, PLOT_NUMBER_SIZE, "%.2e", value);
    else
        snprintf(out, PLOT_NUMBER_SIZE, "%.*f",
                 size == 0       ? 0
                 : size < 0.9995 ? 3
                 : size < 9.995  ? 2
                 : size < 99.95  ? 1
                                 : 0,
                 value);
    return out;
}

const char *plot_percent(char out[PLOT_NUMBER_SIZE], double share)
{
    if (!isfinite(share) || fabs(share) > 1e6)
        snprintf(out, PLOT_NUMBER_SIZE, "–");
    else
        snprintf(out, PLOT_NUMBER_SIZE, "%.1f%%", 100 * share);
    return out;
}

const char *plot_bytes(char out[PLOT_NUMBER_SIZE], double bytes)
{
    _Static_assert((int)PLOT_NUMBER_SIZE >= (int)TEXT_NUMBER_SIZE, "text_bytes writes as much");
    if (!(bytes >= 0 && bytes < 1e19))
        snprintf(out, PLOT_NUMBER_SIZE, "–");
    else
        text_bytes(out, (uint64_t)bytes);
    return out;
}

// ---- scales
// --------------------------------------------------------------------------------------------------

// 1, 2 or 5 times a power of ten, at or above the value.
static double round_above(double value)
{
    const double power = pow(10, floor(log10(value)));
    const double digits = value / power;
    return power * (digits <= 1.0000001 ? 1 : digits <= 2.0000001 ? 2 : digits <= 5.0000001 ? 5 : 10);
}

static void ticks_linear(struct plot_scale *s, uint32_t n)
{
    const double step = round_above((s->most - s->least) / (n ? n : 1));
    const double first = floor(s->least / step + 1e-9), last = ceil(s->most / step - 1e-9);
    for (double at = first; at <= last && s->n_ticks < PLOT_TICKS; at++)
        s->ticks[s->n_ticks++] = at * step;
    s->least = s->ticks[0];
    s->most = s->ticks[s->n_ticks - 1];
}

// 1, 2 and 5 times powers of ten, or these powers alone.
static void ticks_logarithmic(struct plot_scale *s, uint32_t n)
{
    static const double digits[] = {1, 2, 5};
    const double decades = log10(s->most / s->least);
    const bool fine = decades * 3 <= n + 1;
    const int stride = fine ? 1 : (int)ceil(decades / n);
    const int first = (int)floor(log10(s->least));
    for (int p = first; s->n_ticks < PLOT_TICKS && p <= first + decades + 1; p += stride)
        for (int d = 0; d < (fine ? 3 : 1) && s->n_ticks < PLOT_TICKS; d++) {
            const double tick = digits[d] * pow(10, p);
            if (tick >= s->least && tick <= s->most)
                s->ticks[s->n_ticks++] = tick;
        }
}

struct plot_scale plot_scale_over(double least, double most, uint32_t n, bool logarithmic, double from,
                                  double to)
{
    struct plot_scale s = {.least = least, .most = most, .from = from, .to = to};
    if (!isfinite(least) || !isfinite(most) || least > most || fabs(least) > 1e200 || fabs(most) > 1e200) {
        s.least = 0;
        s.most = 1;
    }
    s.logarithmic = logarithmic && s.least > 1e-200;
    if (s.logarithmic) { // wide enough for two ticks
        const double margin = s.most / s.least < 6 ? sqrt(6.5 * s.least / s.most) : 1.06;
        s.least /= margin;
        s.most *= margin;
    }
    // Less than this is no range that a step divides.
    const double size = fmax(fabs(s.least), fabs(s.most));
    if (!s.logarithmic && !(s.most - s.least > 1e-9 * size && s.most - s.least > 1e-200))
        s.most = s.least + (size > 1e-190 ? size : 1);
    if (s.logarithmic)
        ticks_logarithmic(&s, n ? n : 1);
    else
        ticks_linear(&s, n > PLOT_TICKS - 3 ? PLOT_TICKS - 3 : n);
    return s;
}

double plot_at(const struct plot_scale *s, double value)
{
    if (!(value > s->least)) // also what is not a number
        return s->from;
    if (value >= s->most)
        return s->to;
    const double share = s->logarithmic ? log(value / s->least) / log(s->most / s->least)
                                        : (value - s->least) / (s->most - s->least);
    return s->from + share * (s->to - s->from);
}

// With the gaps taken out, positions need only not descend: an isotonic regression, whose pools are means.
void plot_spread(double *y, uint32_t n, double gap, double top, double bottom)
{
    if (!n)
        return;
    if (n > 1 && gap * (n - 1) > bottom - top)
        gap = (bottom - top) / (n - 1);
    for (uint32_t i = 0; i < n; i++)
        y[i] -= gap * i;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t from = 0, to; from < n; from = to) {
            double sum = y[from];
            for (to = from + 1; to < n && y[to] <= y[to - 1]; to++) {
                moved |= y[to] < y[to - 1] - 1e-6;
                sum += y[to];
            }
            for (uint32_t i = from; i < to; i++)
                y[i] = sum / (to - from);
        }
    }
    const double last = bottom - gap * (n - 1);
    for (uint32_t i = 0; i < n; i++)
        y[i] = (y[i] > last ? last : y[i] < top ? top : y[i]) + gap * i;
}

// ---- marks
// ---------------------------------------------------------------------------------------------------

void plot_mark(FILE *out, uint32_t mark, double x, double y)
{
    static const char *const paths[PLOT_MARKS] = {
        [1] = "-3.6,-3.6h7.2v7.2h-7.2z",
        [2] = "0,-4.8l4.6,8.2h-9.2z",
        [3] = "0,-5.2l5.2,5.2-5.2,5.2-5.2,-5.2z",
        [4] = "0,4.8l4.6,-8.2h-9.2z",
        [5] = "-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    };
    mark %= PLOT_MARKS;
    if (mark == 0)
        fprintf(out, "<circle class=\"mk\" cx=\"%.1f\" cy=\"%.1f\" r=\"4.1\"/>", x, y);
    else
        fprintf(out, "<path class=\"mk\" d=\"M%.1f,%.1fm%s\"/>", x, y, paths[mark]);
}
