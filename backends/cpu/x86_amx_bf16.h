// Products of BF16 weights with float activations on AMX-BF16, as precise as in F32.
//
// An activation is the exact sum of three BF16 numbers, its significand's bits in three groups of eight. A
// product of two BF16 numbers is exact in F32, so that only the additions round: three tile products take the
// place of one, 48 cycles for 16 x 16 x 32 where 512-bit float multiply-adds take 256. One activation row
// takes the same way, or it would get other bits than in a batch; the 16 rows of weights are transposed in
// about the time of their three tile products, and both together keep up with a core's share of memory.
//
// Tiles take and give zero for what is smaller than 2^-126 (see matmul.h).
#ifndef LODE_CPU_X86_AMX_BF16_H
#define LODE_CPU_X86_AMX_BF16_H

#include "backends/cpu/x86_amx.h"
#include "backends/cpu/x86_pack.h"

#define BF16_STEP 32 // columns of a tile
#define BF16_STEPS 8 // tiles that are prepared at a time: 16 KiB of weights, 24 KiB of activations
#define BF16_PARTS 3 // of an activation

struct bf16_panel {
    _Alignas(64) uint16_t weights[PANEL_STRIPS][BF16_STEPS][TILE_ROWS][BF16_STEP];
    uint16_t x[BF16_PARTS][BF16_STEPS][TILE_ROWS][BF16_STEP];
    float sums[CPU_PRODUCT_TOKENS][PANEL_ROWS];
};

// Tiles 0, 1: sums of both strips. 2: activations. 3, 4: weights of both strips.
static const struct tile_shapes bf16_shapes = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16},
};

// Eight rows of BF16_STEP weights; columns from n on are zero.
static ALWAYS_INLINE void load_bf16_rows(__m256i low[8], __m256i high[8], const uint8_t *weights,
                                         size_t stride, uint32_t n)
{
    for (unsigned r = 0; r < 8; r++) {
        uint8_t padded[BF16_STEP * 2] = {0};
        const uint8_t *row = weights + r * stride;
        if (n < BF16_STEP)
            row = memcpy(padded, row, n * 2);
        low[r] = load_32(row);
        high[r] = load_32(row + 32);
    }
}

// Eight rows into lanes lane .. lane + 7: row j of a tile holds columns 2j, 2j + 1 of each.
static ALWAYS_INLINE void pack_bf16_rows(uint16_t (*tile)[BF16_STEP], unsigned lane, const uint8_t *weights,
                                         size_t stride, uint32_t n)
{
    __m256i low[8], high[8], fours[8];
    load_bf16_rows(low, high, weights, stride, n);
    transpose_fours(fours, low);
    for (unsigned j = 0; j < 8; j++)
        store_32(&tile[j][2 * lane], fours[j]);
    transpose_fours(fours, high);
    for (unsigned j = 0; j < 8; j++)
        store_32(&tile[8 + j][2 * lane], fours[j]);
}

static void pack_bf16_weights(struct bf16_panel *panel, const struct cpu_product *p, uint32_t first_col,
                              uint32_t n_cols)
{
    uint32_t groups = (p->n_rows + 7) / 8,
             filled = (p->n_rows + PANEL_LANES - 1) / PANEL_LANES * PANEL_LANES / 8;
    for (uint32_t g = 0; g < filled; g++) { // lanes behind the last row repeat it
        struct row_group group = row_group(p, 8 * (g < groups ? g : groups - 1));
        const uint8_t *weights = group.first + (size_t)first_col * 2;
        for (uint32_t c = 0; c < n_cols; c += BF16_STEP) {
            uint32_t n = n_cols - c < BF16_STEP ? n_cols - c : BF16_STEP;
            pack_bf16_rows(panel->weights[8 * g / PANEL_LANES][c / BF16_STEP], 8 * g % PANEL_LANES,
                           weights + (size_t)c * 2, p->weight->row_bytes, n);
        }
    }
}

// The upper halves of 32 floats, which are the floats rounded towards zero to BF16.
static ALWAYS_INLINE __m512i upper_halves(__m512 low, __m512 high)
{
    static const uint16_t odd_words[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                           33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(_mm512_castps_si512(low), _mm512_loadu_si512(odd_words),
                                     _mm512_castps_si512(high));
}

// What is left of x without its upper half; exact.
static ALWAYS_INLINE __m512 without_upper_half(__m512 x)
{
    __m512i upper = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000));
    return _mm512_sub_ps(x, _mm512_castsi512_ps(upper));
}

static ALWAYS_INLINE void split_floats(uint16_t (*tiles)[BF16_STEPS][TILE_ROWS][BF16_STEP], uint32_t step,
                                       uint32_t row, const float *x)
{
    __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    UNROLL
    for (unsigned part = 0; part < BF16_PARTS; part++) {
        _mm512_storeu_si512(tiles[part][step][row], upper_halves(low, high));
        low = without_upper_half(low);
        high = without_upper_half(high);
    }
}

static void split_bf16_row(struct bf16_panel *panel, uint32_t row, const float *x, uint32_t n_cols)
{
    uint32_t c = 0;
    for (; c + BF16_STEP <= n_cols; c += BF16_STEP)
        split_floats(panel->x, c / BF16_STEP, row, x + c);
    if (c < n_cols) {
        float padded[BF16_STEP] = {0};
        memcpy(padded, x + c, (n_cols - c) * sizeof *x);
        split_floats(panel->x, c / BF16_STEP, row, padded);
    }
}

static ALWAYS_INLINE void multiply_bf16_step(struct bf16_panel *panel, uint32_t step, bool two_strips)
{
    _tile_loadd(3, panel->weights[0][step], TILE_ROW_BYTES);
    if (two_strips)
        _tile_loadd(4, panel->weights[1][step], TILE_ROW_BYTES);
    for (unsigned part = 0; part < BF16_PARTS; part++) {
        _tile_loadd(2, panel->x[part][step], TILE_ROW_BYTES);
        _tile_dpbf16ps(0, 2, 3);
        if (two_strips)
            _tile_dpbf16ps(1, 2, 4);
    }
}

// sums of 16 activation rows += the panel times them. Tile rows behind the last activation row hold anything:
// rows do not meet.
static void multiply_bf16_group(struct bf16_panel *panel, uint32_t token, uint32_t n_cols, bool two_strips)
{
    const size_t stride = sizeof panel->sums[0];
    float *sums = panel->sums[token];
    written_for_tiles();
    _tile_loadd(0, sums, stride);
    if (two_strips)
        _tile_loadd(1, sums + PANEL_LANES, stride);
    for (uint32_t step = 0; step * BF16_STEP < n_cols; step++)
        multiply_bf16_step(panel, step, two_strips);
    _tile_stored(0, sums, stride);
    if (two_strips)
        _tile_stored(1, sums + PANEL_LANES, stride);
}

static inline const float *float_row(const struct cpu_product *p, uint32_t i)
{
    size_t row = p->x_ids ? (size_t)p->x_ids[i] : i;
    return p->x + row * p->x_stride;
}

static void multiply_bf16_panel(const struct cpu_product *p)
{
    struct bf16_panel *panel = p->workspace;
    const uint32_t cols = p->weight->cols, chunk = BF16_STEP * BF16_STEPS;
    memset(panel->sums, 0, (p->n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * sizeof *panel->sums);
    tiles_begin(&bf16_shapes);
    for (uint32_t first = 0; first < cols; first += chunk) {
        uint32_t n_cols = cols - first < chunk ? cols - first : chunk;
        pack_bf16_weights(panel, p, first, n_cols);
        for (uint32_t token = 0; token < p->n; token += TILE_ROWS) {
            for (uint32_t i = 0; i < TILE_ROWS && token + i < p->n; i++)
                split_bf16_row(panel, i, float_row(p, token + i) + first, n_cols);
            multiply_bf16_group(panel, token, n_cols, p->n_rows > PANEL_LANES);
        }
    }
    tiles_end();
    copy_sums((const float(*)[PANEL_ROWS])panel->sums, p);
}

#endif
