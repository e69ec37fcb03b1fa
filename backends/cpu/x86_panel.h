// Products with many activation rows: weights are unpacked once into a panel and multiplied with tiles of
// activations. The includer defines TILE_TOKENS and multiply_tile.
#ifndef LODE_CPU_X86_PANEL_H
#define LODE_CPU_X86_PANEL_H

#include "backends/cpu/x86_direct.h"
#include "backends/cpu/x86_pack.h"
#include "backends/cpu/x86_rows8_direct.h"

static ALWAYS_INLINE void store_codes(enum lode_type type, struct panel_part *out, unsigned lane,
                                      const __m256i fours[8], const __m256i scale_pairs[2])
{
    (void)type;
    (void)scale_pairs;
    UNROLL
    for (unsigned j = 0; j < 8; j++)
        store_32(out->codes[j] + 4 * lane, fours[j]);
}

// Adds n_parts parts of PANEL_LANES rows to sums[i][0 .. PANEL_LANES-1] for each of `tokens` activation rows.
// sums are PANEL_ROWS apart.
static ALWAYS_INLINE void multiply_tile(enum lode_type type, unsigned tokens, int offset, float *sums,
                                        const struct panel_part *parts, uint32_t n_parts,
                                        const struct cpu_block *const *x);

// All strips of the panel times one tile of activation rows.
static ALWAYS_INLINE void multiply_strips(enum lode_type type, unsigned tokens, int offset,
                                          struct panel *panel, const struct cpu_product *p, uint32_t token,
                                          uint32_t first_part, uint32_t n_parts)
{
    const struct cpu_block *x[TILE_TOKENS];
    for (unsigned i = 0; i < tokens; i++)
        x[i] = block_row(p, token + i) + first_part;
    for (uint32_t strip = 0; strip * PANEL_LANES < p->n_rows; strip++)
        multiply_tile(type, tokens, offset, &panel->sums[token][strip * PANEL_LANES], panel->parts[strip],
                      n_parts, x);
}

static ALWAYS_INLINE void multiply_part_columns(enum lode_type type, int offset, struct panel *panel,
                                                const struct cpu_product *p, uint32_t first_part,
                                                uint32_t n_parts)
{
    uint32_t token = 0;
    for (; token + TILE_TOKENS <= p->n; token += TILE_TOKENS)
        multiply_strips(type, TILE_TOKENS, offset, panel, p, token, first_part, n_parts);
    if (TILE_TOKENS > 4 && token + 4 <= p->n) {
        multiply_strips(type, 4, offset, panel, p, token, first_part, n_parts);
        token += 4;
    }
    if (token + 2 <= p->n) {
        multiply_strips(type, 2, offset, panel, p, token, first_part, n_parts);
        token += 2;
    }
    if (token < p->n)
        multiply_strips(type, 1, offset, panel, p, token, first_part, n_parts);
}

typedef void multiply_columns_fn(int offset, struct panel *panel, const struct cpu_product *p,
                                 uint32_t first_part, uint32_t n_parts);

static ALWAYS_INLINE void multiply_panel(enum lode_type type, multiply_columns_fn *multiply_columns,
                                         const struct cpu_product *p)
{
    struct panel *panel = p->workspace;
    memset(panel->sums, 0, p->n * sizeof *panel->sums);
    uint32_t parts = p->weight->cols / 32;
    for (uint32_t first = 0; first < parts; first += PANEL_PARTS) {
        uint32_t n_parts = parts - first < PANEL_PARTS ? parts - first : PANEL_PARTS;
        pack_panel(type, panel, p, first, n_parts);
        multiply_columns(code_offset(type), panel, p, first, n_parts);
    }
    copy_sums((const float(*)[PANEL_ROWS])panel->sums, p);
}

// Eight rows and three activation rows are needed to make up for the unpacking.
static ALWAYS_INLINE void multiply(enum lode_type type, multiply_columns_fn *columns,
                                   const struct cpu_product *p)
{
    if (rows8_has(type) && p->weight->layout == LODE_LAYOUT_ROWS8 && p->n <= 2 * ROWS8_TOKENS)
        multiply_rows8(type, p);
    else if (p->n <= DIRECT_TOKENS || p->weight->rows < 8)
        multiply_direct(type, p);
    else
        multiply_panel(type, columns, p);
}

#define DEFINE_COLUMNS(type)                                                                                 \
    static void columns_##type(int offset, struct panel *panel, const struct cpu_product *p,                 \
                               uint32_t first_part, uint32_t n_parts)                                        \
    {                                                                                                        \
        multiply_part_columns(LODE_##type, offset, panel, p, first_part, n_parts);                           \
    }

// Types whose panels are multiplied in the same way share a tile kernel; only the offset, an argument,
// differs.
#define DEFINE_MULTIPLY(type, tile)                                                                          \
    static void multiply_##type(const struct cpu_product *p)                                                 \
    {                                                                                                        \
        multiply(LODE_##type, columns_##tile, p);                                                            \
    }

#define DEFINE_QUANTISED_KERNELS                                                                             \
    DEFINE_COLUMNS(Q4_0)                                                                                     \
    DEFINE_COLUMNS(Q4_1)                                                                                     \
    DEFINE_COLUMNS(Q5_0)                                                                                     \
    DEFINE_COLUMNS(Q5_1)                                                                                     \
    DEFINE_COLUMNS(Q8_0)                                                                                     \
    DEFINE_COLUMNS(Q2_K)                                                                                     \
    DEFINE_COLUMNS(Q3_K)                                                                                     \
    DEFINE_COLUMNS(Q6_K)                                                                                     \
    DEFINE_MULTIPLY(Q4_0, Q4_0)                                                                              \
    DEFINE_MULTIPLY(Q4_1, Q4_1)                                                                              \
    DEFINE_MULTIPLY(Q5_0, Q5_0)                                                                              \
    DEFINE_MULTIPLY(Q5_1, Q5_1)                                                                              \
    DEFINE_MULTIPLY(Q8_0, Q8_0)                                                                              \
    DEFINE_MULTIPLY(Q2_K, Q2_K)                                                                              \
    DEFINE_MULTIPLY(Q3_K, Q3_K)                                                                              \
    DEFINE_MULTIPLY(Q4_K, Q4_1)                                                                              \
    DEFINE_MULTIPLY(Q5_K, Q5_1)                                                                              \
    DEFINE_MULTIPLY(Q6_K, Q6_K)                                                                              \
    DEFINE_MULTIPLY(IQ4_NL, Q8_0)                                                                            \
    DEFINE_MULTIPLY(IQ4_XS, Q8_0)                                                                            \
    DEFINE_MULTIPLY(MXFP4, Q5_0)

#endif
