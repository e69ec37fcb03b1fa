// Panels: the weights of a product unpacked once for all its activation rows.
//
// A panel interleaves the rows: a vector holds 4 consecutive weights of each of PANEL_LANES rows, and the
// same 4 activations are broadcast against it, so that dot products grow lane by lane and need no adding
// across. A panel of 32 rows and 1,024 columns takes 52 KiB, half of which stays in the nearest cache while
// all activation rows pass. The includer defines store_codes and, if its form of the codes takes more than a
// byte each, PANEL_CODE_TILES.
#ifndef LODE_CPU_X86_PACK_H
#define LODE_CPU_X86_PACK_H

#include "backends/cpu/x86_rows.h"
#include "backends/cpu/x86_rows8.h"

#ifndef PANEL_CODE_TILES
#define PANEL_CODE_TILES 1
#endif

#define PANEL_LANES 16
#define PANEL_PARTS 32 // parts of 32 columns that are unpacked at a time
#define PANEL_ROWS CPU_PRODUCT_ROWS
#define PANEL_STRIPS (PANEL_ROWS / PANEL_LANES)

// PANEL_LANES rows of one part.
struct panel_part {
    uint8_t codes[8 * PANEL_CODE_TILES][PANEL_LANES * 4];
    float scale[PANEL_LANES], minimum[PANEL_LANES];
    // Lane scales as pairs of equal 16-bit numbers, for halves 0 and 1; and the pair that is multiplied with
    // the two sums of the activations: -offset * lane scale, or the lane minima.
    int32_t lane_scales[2][PANEL_LANES], sum_factors[PANEL_LANES];
};

struct panel {
    _Alignas(64) struct panel_part parts[PANEL_STRIPS][PANEL_PARTS];
    _Alignas(64) float sums[CPU_PRODUCT_TOKENS][PANEL_ROWS];
};

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

// Puts the transposed codes of eight rows into lanes lane .. lane + 7 in the form that the includer
// multiplies; scale_pairs are the lane scales of both halves as pairs of equal 16-bit numbers, if there are
// any.
static ALWAYS_INLINE void store_codes(enum lode_type type, struct panel_part *out, unsigned lane,
                                      const __m256i fours[8], const __m256i scale_pairs[2]);

// lane_scales: pairs of a part's integer scales, if the type has them.
static ALWAYS_INLINE void pack_part(enum lode_type type, struct panel_part *out, unsigned lane,
                                    const struct row_heads *heads, __m256i lane_scales, unsigned part,
                                    const __m256i fours[8])
{
    _mm256_storeu_ps(&out->scale[lane], part_scale(type, heads, part));
    if (has_minimum(type) || has_lane_minima(type))
        _mm256_storeu_ps(&out->minimum[lane], part_minimum(type, heads, part));
    __m256i scale_pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    if (has_lane_scales(type)) {
        spread_lane_scales(scale_pairs, lane_scales);
        store_32(&out->lane_scales[0][lane], scale_pairs[0]);
        store_32(&out->lane_scales[1][lane], scale_pairs[1]);
        __m256i factors;
        if (has_lane_minima(type))
            factors = pair_of(lane_minimum(heads, part, 0), lane_minimum(heads, part, 1));
        else
            factors = _mm256_mullo_epi16(lane_scales, _mm256_set1_epi16((short)-code_offset(type)));
        store_32(&out->sum_factors[lane], factors);
    }
    store_codes(type, out, lane, fours, scale_pairs);
}

// Unpacks eight rows into lanes lane .. lane + 7. n_parts is a multiple of the block's.
static ALWAYS_INLINE void pack_eight_rows(enum lode_type type, struct panel_part *out, unsigned lane,
                                          const uint8_t *weights, size_t stride, uint32_t n_parts)
{
    for (uint32_t p = 0; p < n_parts; p += block_parts(type), weights += block_bytes(type)) {
        struct row_heads heads;
        load_heads(&heads, type, weights, stride);
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part++) {
            __m256i rows[8], fours[8];
            UNROLL
            for (unsigned r = 0; r < 8; r++)
                rows[r] = unpack_codes(type, weights + r * stride, part);
            transpose_fours(fours, rows);
            const __m256i scales =
                has_lane_scales(type) ? lane_scales(type, &heads, part) : _mm256_setzero_si256();
            pack_part(type, &out[p + part], lane, &heads, scales, part, fours);
        }
    }
}

// The same of an interleaved group, from block `first` of n_blocks on.
static ALWAYS_INLINE void pack_rows8(enum lode_type type, struct panel_part *out, unsigned lane,
                                     const uint8_t *group, size_t n_blocks, size_t first, uint32_t n_parts)
{
    for (uint32_t p = 0; p < n_parts; p += block_parts(type)) {
        const struct rows8_block block = rows8_block(type, group, n_blocks, first + p / block_parts(type));
        struct row_heads heads;
        rows8_load_heads(&heads, type, block.heads);
        UNROLL
        for (unsigned part = 0; part < block_parts(type); part++) {
            __m256i fours[8];
            UNROLL
            for (unsigned j = 0; j < 8; j++)
                fours[j] = rows8_four(type, block, part, j);
            const __m256i scales =
                has_lane_scales(type) ? rows8_lane_scales(block, part) : _mm256_setzero_si256();
            pack_part(type, &out[p + part], lane, &heads, scales, part, fours);
        }
    }
}

static ALWAYS_INLINE void pack_panel(enum lode_type type, struct panel *panel, const struct cpu_product *p,
                                     uint32_t first_part, uint32_t n_parts)
{
    uint32_t groups = (p->n_rows + 7) / 8,
             filled = (p->n_rows + PANEL_LANES - 1) / PANEL_LANES * PANEL_LANES / 8;
    const size_t n_blocks = p->weight->cols / (32 * block_parts(type)),
                 first = first_part / block_parts(type);
    for (uint32_t g = 0; g < filled; g++) { // lanes behind the last row repeat it
        const uint32_t row = 8 * (g < groups ? g : groups - 1), lane = 8 * g % PANEL_LANES;
        struct panel_part *out = panel->parts[8 * g / PANEL_LANES];
        struct row_group group = row_group(p, row);
        if (rows8_has(type) && p->weight->layout == LODE_LAYOUT_ROWS8)
            pack_rows8(type, out, lane, group.first, n_blocks, first, n_parts);
        else
            pack_eight_rows(type, out, lane, group.first + first * block_bytes(type), p->weight->row_bytes,
                            n_parts);
    }
}

static inline void copy_sums(const float (*sums)[PANEL_ROWS], const struct cpu_product *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        float *out = out_row(p, i);
        for (uint32_t r = 0; r < p->n_rows; r += 8) {
            struct row_group group = row_group(p, r);
            memcpy(out + r, &sums[i][r + group.skip], group.n * sizeof *out);
        }
    }
}

#endif
