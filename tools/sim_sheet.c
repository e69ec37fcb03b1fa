// Widths, and how many columns stand beside each other.
#include "tools/sim_sheet.h"

#include <stdlib.h>
#include <string.h>

enum { FRAME = 3 }; // columns of the terminal that a cell takes beside its text: "| " and " "

bool sim_sheet_make(struct sim_sheet *out, const char *corner, uint32_t n_rows, uint32_t n_columns)
{
    *out = (struct sim_sheet){.corner = corner, .n_rows = n_rows, .n_columns = n_columns};
    out->labels = calloc((size_t)n_rows + 1, sizeof *out->labels);
    out->heads = calloc((size_t)n_columns + 1, sizeof *out->heads);
    out->cells = calloc((size_t)n_rows * n_columns + 1, sizeof *out->cells);
    if (out->labels && out->heads && out->cells)
        return true;
    sim_sheet_free(out);
    return false;
}

void sim_sheet_free(struct sim_sheet *sheet)
{
    free(sheet->labels);
    free(sheet->heads);
    free(sheet->cells);
    *sheet = (struct sim_sheet){0};
}

// Characters, of UTF-8 ("±" is one).
static uint32_t width_of(const char *text)
{
    uint32_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static uint32_t label_width(const struct sim_sheet *s)
{
    uint32_t width = width_of(s->corner);
    for (uint32_t r = 0; r < s->n_rows; r++)
        if (width_of(s->labels[r]) > width)
            width = width_of(s->labels[r]);
    return width;
}

static uint32_t column_width(const struct sim_sheet *s, uint32_t column)
{
    uint32_t width = width_of(s->heads[column]);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        const uint32_t cell = width_of(s->cells[(size_t)r * s->n_columns + column]);
        width = cell > width ? cell : width;
    }
    return width;
}

static void put(FILE *stream, const char *text, uint32_t width, bool right)
{
    const int gap = (int)(width - width_of(text));
    fprintf(stream, "| %*s%s%*s ", right ? gap : 0, "", text, right ? 0 : gap, "");
}

static void put_rule(FILE *stream, uint32_t width, bool right)
{
    fputc('|', stream);
    for (uint32_t i = 0; i < width + (right ? 1 : 2); i++)
        fputc('-', stream);
    if (right)
        fputc(':', stream);
}

static void print_part(FILE *stream, const struct sim_sheet *s, uint32_t first, uint32_t end)
{
    const uint32_t label = label_width(s);
    put(stream, s->corner, label, false);
    for (uint32_t c = first; c < end; c++)
        put(stream, s->heads[c], column_width(s, c), true);
    fputs("|\n", stream);
    put_rule(stream, label, false);
    for (uint32_t c = first; c < end; c++)
        put_rule(stream, column_width(s, c), true);
    fputs("|\n", stream);
    for (uint32_t r = 0; r < s->n_rows; r++) {
        put(stream, s->labels[r], label, false);
        for (uint32_t c = first; c < end; c++)
            put(stream, s->cells[(size_t)r * s->n_columns + c], column_width(s, c), true);
        fputs("|\n", stream);
    }
}

void sim_sheet_print(FILE *stream, const struct sim_sheet *sheet)
{
    for (uint32_t first = 0, end; first < sheet->n_columns; first = end) {
        uint32_t width = label_width(sheet) + FRAME + 1;
        for (end = first; end < sheet->n_columns; end++) {
            const uint32_t more = column_width(sheet, end) + FRAME;
            if (end > first && width + more > SIM_SHEET_WIDTH)
                break;
            width += more;
        }
        if (first)
            fputc('\n', stream);
        print_part(stream, sheet, first, end);
    }
}
