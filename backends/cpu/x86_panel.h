// Products with many activation rows: weights are unpacked once into a panel and multiplied with tiles of
// activations.
//
// A panel interleaves the rows: a vector holds 4 consecutive weights of each of PANEL_LANES rows, and the
// same 4 activations are broadcast against it, so that dot products grow lane by lane and need no adding
// across. A panel of 32 rows and 1,024 columns takes 40 KiB, half of which stays in the nearest cache while
// all activation rows pass. The includer defines TILE_TOKENS and multiply_tile.
#ifndef LODE_CPU_X86_PANEL_H
#define LODE_CPU_X86_PANEL_H

#include "backends/cpu/x86_direct.h"

#define PANEL_LANES 16
#define PANEL_PARTS 32 // parts of 32 columns that are unpacked at a time
#define PANEL_ROWS CPU_PRODUCT_ROWS
#define PANEL_STRIPS (PANEL_ROWS / PANEL_LANES)

// PANEL_LANES rows of one part.
struct panel_part {
    uint8_t codes[8][PANEL_LANES * 4];
    float scale[PANEL_LANES], minimum[PANEL_LANES];
    // Lane scales as pairs of equal 16-bit numbers, for halves 0 and 1; and the pair that is multiplied with
    // the two sums of the activations: -offset * lane scale, or the lane minima.
    int32_t lane_scales[2][PANEL_LANES], sum_factors[PANEL_LANES];
};

struct panel {
    _Alignas(64) struct panel_part parts[PANEL_STRIPS][PANEL_PARTS];
    _Alignas(64) float sums[CPU_PRODUCT_TOKENS][PANEL_ROWS];
};

// Adds n_parts parts of PANEL_LANES rows to sums[i][0 .. PANEL_LANES-1] for each of `tokens` activation rows.
// sums are PANEL_ROWS apart.
static ALWAYS_INLINE void multiply_tile(enum lode_type type, unsigned tokens, int offset, float *sums,
                                        const struct panel_part *parts, uint32_t n_parts,
                                        const struct cpu_block *const *x);

// Lane r of out[j] = 4 bytes j of rows[r].
static ALWAYS_INLINE void transpose_fours(__m256i out[8], const __m256i rows[8])
{
    __m256i pairs[8], fours[8];
    UNROLL
    for (unsigned i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    UNROLL
    for (unsigned i = 0; i < 8; i += 4) {
        fours[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        fours[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        fours[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        fours[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    UNROLL
    for (unsigned i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        out[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

static ALWAYS_INLINE void store_32(void *out, __m256i value)
{
    _mm256_storeu_si256((__m256i *)out, value);
}

static ALWAYS_INLINE __m256i pair_of(__m256i low, __m256i high)
{
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}

static ALWAYS_INLINE void pack_lane_scales(enum lode_type type, struct panel_part *out, unsigned lane,
                                           const struct row_heads *heads, unsigned part)
{
    __m256i low = lane_scale(type, heads, part, 0), high = lane_scale(type, heads, part, 1);
    store_32(&out->lane_scales[0][lane], pair_of(low, low));
    store_32(&out->lane_scales[1][lane], pair_of(high, high));
    __m256i factors;
    if (has_lane_minima(type))
        factors = pair_of(lane_minimum(heads, part, 0), lane_minimum(heads, part, 1));
    else
        factors = _mm256_mullo_epi16(pair_of(low, high), _mm256_set1_epi16((short)-code_offset(type)));
    store_32(&out->sum_factors[lane], factors);
}

static ALWAYS_INLINE void pack_part(enum lode_type type, struct panel_part *out, unsigned lane,
                                    const struct row_heads *heads, const uint8_t *block, size_t stride,
                                    unsigned part)
{
    __m256i rows[8], fours[8];
    UNROLL
    for (unsigned r = 0; r < 8; r++)
        rows[r] = unpack_codes(type, block + r * stride, part);
    transpose_fours(fours, rows);
    UNROLL
    for (unsigned j = 0; j < 8; j++)
        store_32(out->codes[j] + 4 * lane, fours[j]);
    _mm256_storeu_ps(&out->scale[lane], part_scale(type, heads, part));
    if (has_minimum(type) || has_lane_minima(type))
        _mm256_storeu_ps(&out->minimum[lane], part_minimum(type, heads, part));
    if (has_lane_scales(type))
        pack_lane_scales(type, out, lane, heads, part);
}

// Unpacks eight rows into lanes lane .. lane + 7. n_parts is a multiple of the block's.
static ALWAYS_INLINE void pack_eight_rows(enum lode_type type, struct panel_part *out, unsigned lane,
                                          const uint8_t *weights, size_t stride, uint32_t n_parts)
{
    for (uint32_t p = 0; p < n_parts; p += block_parts(type), weights += block_bytes(type)) {
        struct row_heads heads;
        load_heads(&heads, type, weights, stride);
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part++)
            pack_part(type, &out[p + part], lane, &heads, weights, stride, part);
    }
}

static ALWAYS_INLINE void pack_panel(enum lode_type type, struct panel *panel, const struct cpu_product *p,
                                     uint32_t first_part, uint32_t n_parts)
{
    uint32_t groups = (p->n_rows + 7) / 8,
             filled = (p->n_rows + PANEL_LANES - 1) / PANEL_LANES * PANEL_LANES / 8;
    for (uint32_t g = 0; g < filled; g++) { // lanes behind the last row repeat it
        struct row_group group = row_group(p, 8 * (g < groups ? g : groups - 1));
        const uint8_t *weights = group.first + (size_t)first_part / block_parts(type) * block_bytes(type);
        pack_eight_rows(type, panel->parts[8 * g / PANEL_LANES], 8 * g % PANEL_LANES, weights,
                        p->weight->row_bytes, n_parts);
    }
}

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

static void copy_sums(const struct panel *panel, const struct cpu_product *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        float *out = out_row(p, i);
        for (uint32_t r = 0; r < p->n_rows; r += 8) {
            struct row_group group = row_group(p, r);
            memcpy(out + r, &panel->sums[i][r + group.skip], group.n * sizeof *out);
        }
    }
}

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
    copy_sums(panel, p);
}

// Eight rows and three activation rows are needed to make up for the unpacking.
static ALWAYS_INLINE void multiply(enum lode_type type, multiply_columns_fn *columns,
                                   const struct cpu_product *p)
{
    if (p->n <= DIRECT_TOKENS || p->weight->rows < 8)
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
