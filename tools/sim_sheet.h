// A sheet of short texts: rows with a label, columns with a head, printed as tables that a terminal of 100
// columns shows. Columns that do not fit beside each other follow below, with the labels again.
#ifndef LODE_TOOLS_SIM_SHEET_H
#define LODE_TOOLS_SIM_SHEET_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { SIM_SHEET_CELL = 48, SIM_SHEET_LABEL = 80, SIM_SHEET_WIDTH = 100 };

// Starts as {0}; released by sim_sheet_free.
struct sim_sheet {
    const char *corner; // the head of the labels
    uint32_t n_rows, n_columns;
    char (*labels)[SIM_SHEET_LABEL]; // [n_rows]
    char (*heads)[SIM_SHEET_CELL];   // [n_columns]
    char (*cells)[SIM_SHEET_CELL];   // [n_rows][n_columns], empty at first
};

bool sim_sheet_make(struct sim_sheet *out, const char *corner, uint32_t n_rows,
                    uint32_t n_columns); // false: no memory
void sim_sheet_free(struct sim_sheet *sheet);

static inline char *sim_sheet_cell(struct sim_sheet *sheet, uint32_t row, uint32_t column)
{
    return sheet->cells[(size_t)row * sheet->n_columns + column];
}

void sim_sheet_print(FILE *stream, const struct sim_sheet *sheet);

#endif
