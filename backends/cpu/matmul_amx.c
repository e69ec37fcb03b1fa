// Matrix products with AMX-INT8 and AMX-BF16 beside AVX-512.
//
// A part of the panel is a tile of weights already: 8 rows of 4 consecutive weights of 16 matrix rows. Times
// 16 activation blocks it gives 256 exact dot products in 16 cycles, and what follows, the float operations
// of matmul.h, takes some 24 to 40 for the 16 vectors of them. So codes are packed signed, with offsets
// subtracted and lane scales multiplied in, and cost nothing there; the float sums stay in registers across
// the parts; and the tile product of one part runs beside the float operations of the one before.
// AVX-512 alone takes about 96 cycles for the same.
//
// Few activation rows do not fill a tile and go to the AVX-512 kernels: for quantised weights the bits are
// the same. BF16 weights: x86_amx_bf16.h. F16 and F32 weights go to AVX-512 as well: as sums of BF16 numbers
// they would take 6 and 9 tile products where BF16 takes 3, and their decoding, which for equal bits would
// have to go the same way, two and three transpositions of each weight.
#if defined(__x86_64__)

#define PANEL_CODE_TILES 2

#include "backends/cpu/x86_amx_bf16.h"
#include "backends/cpu/x86_avx512.h"
#include "backends/cpu/x86_quantize.h"
#include "backends/cpu/x86_table.h"

#ifdef LODE_SIMDE
#define AVX512_KERNELS cpu_matmul_avx512_simde
#define AMX_KERNELS cpu_matmul_amx_simde
extern const struct cpu_matmul_kernels AVX512_KERNELS, AMX_KERNELS;
#else
#define AVX512_KERNELS cpu_matmul_avx512
#define AMX_KERNELS cpu_matmul_amx
#endif

// A group of 16 rows costs the same however many there are: some 30 cycles for each part, and the AVX-512
// panel 6 a row.
#define LEAST_TOKENS 6

struct int8_panel {
    struct panel panel;
    // Activation rows of a group that do not lie at equal distances.
    struct cpu_block gathered[TILE_ROWS][PANEL_PARTS];
};

union amx_workspace {
    struct int8_panel int8;
    struct bf16_panel bf16;
};

// Tiles 0 to 3: dot products of two parts, which alternate, with two tiles each for Q6_K. 4, 5: activations.
// 6, 7: weights.
static const struct tile_shapes int8_shapes = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, CPU_BLOCK, CPU_BLOCK, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, CPU_BLOCK / 4, CPU_BLOCK / 4},
};

// Codes times lane scales take up to 13 bits with Q6_K (-32..31 times -128..127): two tiles, the upper one
// worth 64. Those of Q2_K fit in a byte, those of Q3_K do when negated (3..-4 times -32..31 is at least -128
// and at most 124).
static ALWAYS_INLINE bool has_two_tiles(enum lode_type type)
{
    return type == LODE_Q6_K;
}

static ALWAYS_INLINE bool is_negated(enum lode_type type)
{
    return type == LODE_Q3_K;
}

#define UPPER_TILE_BITS 6

// Signed bytes times 16-bit numbers, in 16 bits.
struct byte_products {
    __m256i even, odd;
};

static ALWAYS_INLINE struct byte_products multiply_bytes(__m256i bytes, __m256i factors)
{
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), odd = _mm256_srai_epi16(bytes, 8);
    return (struct byte_products){_mm256_mullo_epi16(even, factors), _mm256_mullo_epi16(odd, factors)};
}

static ALWAYS_INLINE __m256i join_bytes(__m256i even, __m256i odd)
{
    return _mm256_or_si256(_mm256_and_si256(even, _mm256_set1_epi16(0xff)), _mm256_slli_epi16(odd, 8));
}

static ALWAYS_INLINE __m256i signed_codes(enum lode_type type, __m256i codes)
{
    __m256i offset = _mm256_set1_epi8((char)code_offset(type));
    if (is_negated(type))
        return _mm256_sub_epi8(offset, codes);
    return code_offset(type) ? _mm256_sub_epi8(codes, offset) : codes;
}

static ALWAYS_INLINE void store_codes(enum lode_type type, struct panel_part *out, unsigned lane,
                                      const __m256i fours[8], const __m256i scale_pairs[2])
{
    UNROLL
    for (unsigned j = 0; j < 8; j++) {
        __m256i codes = signed_codes(type, fours[j]);
        if (has_lane_scales(type)) {
            struct byte_products p = multiply_bytes(codes, scale_pairs[j / 4]);
            if (has_two_tiles(type)) {
                const __m256i lower = _mm256_set1_epi16((1 << UPPER_TILE_BITS) - 1);
                __m256i even = _mm256_srai_epi16(p.even, UPPER_TILE_BITS),
                        odd = _mm256_srai_epi16(p.odd, UPPER_TILE_BITS);
                store_32(out->codes[8 + j] + 4 * lane, join_bytes(even, odd));
                p.even = _mm256_and_si256(p.even, lower);
                p.odd = _mm256_and_si256(p.odd, lower);
            }
            codes = join_bytes(p.even, p.odd);
        }
        store_32(out->codes[j] + 4 * lane, codes);
    }
}

// 16 activation rows from one part on, `stride` bytes apart.
struct x_group {
    const struct cpu_block *first;
    size_t stride;
};

// Rows behind the last one repeat it.
static struct x_group gather_rows(struct int8_panel *panel, const struct cpu_product *p, uint32_t token,
                                  uint32_t first_part, uint32_t n_parts)
{
    for (uint32_t i = 0; i < TILE_ROWS; i++) {
        uint32_t row = token + i < p->n ? token + i : p->n - 1;
        memcpy(panel->gathered[i], block_row(p, row) + first_part, n_parts * sizeof(struct cpu_block));
    }
    return (struct x_group){panel->gathered[0], sizeof panel->gathered[0]};
}

static struct x_group x_group(struct int8_panel *panel, const struct cpu_product *p, uint32_t token,
                              uint32_t first_part, uint32_t n_parts)
{
    if (p->x_ids || token + TILE_ROWS > p->n)
        return gather_rows(panel, p, token, first_part, n_parts);
    return (struct x_group){block_row(p, token) + first_part, p->block_stride * sizeof(struct cpu_block)};
}

// Dot products of a part: [i][r] of activation row i and weight row r.
struct dot_tiles {
    _Alignas(64) int32_t lower[TILE_ROWS][PANEL_LANES], upper[TILE_ROWS][PANEL_LANES];
};

// A part's tile products. Macros, because tiles have names and no numbers.
#define START_DOTS(type, lower, upper, x_tile, weight_tile, part, x, x_stride)                               \
    do {                                                                                                     \
        _tile_loadd(x_tile, x, x_stride);                                                                    \
        _tile_loadd(weight_tile, (part)->codes[0], TILE_ROW_BYTES);                                          \
        _tile_zero(lower);                                                                                   \
        _tile_dpbssd(lower, x_tile, weight_tile);                                                            \
        if (has_two_tiles(type)) {                                                                           \
            _tile_loadd(weight_tile, (part)->codes[8], TILE_ROW_BYTES);                                      \
            _tile_zero(upper);                                                                               \
            _tile_dpbssd(upper, x_tile, weight_tile);                                                        \
        }                                                                                                    \
    } while (0)

#define STORE_DOTS(type, out, lower_tile, upper_tile)                                                        \
    do {                                                                                                     \
        _tile_stored(lower_tile, (out)->lower, TILE_ROW_BYTES);                                              \
        if (has_two_tiles(type))                                                                             \
            _tile_stored(upper_tile, (out)->upper, TILE_ROW_BYTES);                                          \
    } while (0)

static ALWAYS_INLINE __m512i dots_of_row(enum lode_type type, const struct dot_tiles *dots, unsigned i)
{
    __m512i lower = load_64(dots->lower[i]);
    if (has_two_tiles(type))
        return _mm512_add_epi32(lower, _mm512_slli_epi32(load_64(dots->upper[i]), UPPER_TILE_BITS));
    return is_negated(type) ? _mm512_sub_epi32(_mm512_setzero_si512(), lower) : lower;
}

static ALWAYS_INLINE void add_dots(enum lode_type type, __m512 sums[TILE_ROWS], const struct dot_tiles *dots,
                                   const struct panel_part *part, const struct cpu_block *x, size_t x_stride)
{
    // Without this GCC computes the distances of all rows once, keeps them in vector registers, and fetches
    // them from there through the port that the float operations need.
    __asm__("" : "+r"(x_stride));
    const char *row = (const char *)x;
    UNROLL_16
    for (unsigned i = 0; i < TILE_ROWS; i++, row += x_stride)
        sums[i] = add_part(type, sums[i], dots_of_row(type, dots, i), part,
                           (const struct cpu_block *)(const void *)row);
}

// sums[i] += n_parts parts of PANEL_LANES weight rows times activation row i.
static ALWAYS_INLINE void multiply_tiles(enum lode_type type, __m512 sums[TILE_ROWS],
                                         const struct panel_part *parts, uint32_t n_parts,
                                         const struct cpu_block *x, size_t x_stride)
{
    struct dot_tiles even, odd;
    START_DOTS(type, 0, 1, 4, 6, &parts[0], &x[0], x_stride);
    for (uint32_t p = 0; p < n_parts; p += 2) {
        if (p + 1 < n_parts)
            START_DOTS(type, 2, 3, 5, 7, &parts[p + 1], &x[p + 1], x_stride);
        STORE_DOTS(type, &even, 0, 1);
        add_dots(type, sums, &even, &parts[p], &x[p], x_stride);
        if (p + 1 == n_parts)
            break;
        if (p + 2 < n_parts)
            START_DOTS(type, 0, 1, 4, 6, &parts[p + 2], &x[p + 2], x_stride);
        STORE_DOTS(type, &odd, 2, 3);
        add_dots(type, sums, &odd, &parts[p + 1], &x[p + 1], x_stride);
    }
}

static ALWAYS_INLINE void multiply_group(enum lode_type type, float (*sums)[PANEL_ROWS],
                                         const struct panel_part *parts, uint32_t n_parts, struct x_group x)
{
    __m512 rows[TILE_ROWS];
    UNROLL_16
    for (unsigned i = 0; i < TILE_ROWS; i++)
        rows[i] = _mm512_loadu_ps(sums[i]);
    multiply_tiles(type, rows, parts, n_parts, x.first, x.stride);
    UNROLL_16
    for (unsigned i = 0; i < TILE_ROWS; i++)
        _mm512_storeu_ps(sums[i], rows[i]);
}

typedef void multiply_group_fn(float (*sums)[PANEL_ROWS], const struct panel_part *parts, uint32_t n_parts,
                               struct x_group x);

static ALWAYS_INLINE void multiply_int8_panel(enum lode_type type, multiply_group_fn *group,
                                              const struct cpu_product *p)
{
    struct int8_panel *space = p->workspace;
    struct panel *panel = &space->panel;
    memset(panel->sums, 0, (p->n + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS * sizeof *panel->sums);
    const uint32_t parts = p->weight->cols / CPU_BLOCK;
    tiles_begin(&int8_shapes);
    for (uint32_t first = 0; first < parts; first += PANEL_PARTS) {
        uint32_t n_parts = parts - first < PANEL_PARTS ? parts - first : PANEL_PARTS;
        pack_panel(type, panel, p, first, n_parts);
        for (uint32_t token = 0; token < p->n; token += TILE_ROWS) {
            struct x_group x = x_group(space, p, token, first, n_parts);
            written_for_tiles();
            for (uint32_t strip = 0; strip * PANEL_LANES < p->n_rows; strip++)
                group((float(*)[PANEL_ROWS])(panel->sums[token] + strip * PANEL_LANES), panel->parts[strip],
                      n_parts, x);
        }
    }
    tiles_end();
    copy_sums((const float(*)[PANEL_ROWS])panel->sums, p);
}

#define DEFINE_GROUP(type)                                                                                   \
    static void group_##type(float(*sums)[PANEL_ROWS], const struct panel_part *parts, uint32_t n_parts,     \
                             struct x_group x)                                                               \
    {                                                                                                        \
        multiply_group(LODE_##type, sums, parts, n_parts, x);                                                \
    }

// `like`: a type whose packed codes are multiplied in the same way.
#define DEFINE_MULTIPLY(type, like)                                                                          \
    static void multiply_##type(const struct cpu_product *p)                                                 \
    {                                                                                                        \
        if (p->n < LEAST_TOKENS || p->weight->rows < 8)                                                      \
            AVX512_KERNELS.multiply[LODE_##type](p);                                                         \
        else                                                                                                 \
            multiply_int8_panel(LODE_##type, group_##like, p);                                               \
    }

DEFINE_GROUP(Q8_0)
DEFINE_GROUP(Q4_1)
DEFINE_GROUP(Q2_K)
DEFINE_GROUP(Q3_K)
DEFINE_GROUP(Q6_K)
DEFINE_MULTIPLY(Q8_0, Q8_0)
DEFINE_MULTIPLY(Q4_0, Q8_0)
DEFINE_MULTIPLY(Q5_0, Q8_0)
DEFINE_MULTIPLY(IQ4_NL, Q8_0)
DEFINE_MULTIPLY(IQ4_XS, Q8_0)
DEFINE_MULTIPLY(MXFP4, Q8_0)
DEFINE_MULTIPLY(Q4_1, Q4_1)
DEFINE_MULTIPLY(Q5_1, Q4_1)
DEFINE_MULTIPLY(Q4_K, Q4_1)
DEFINE_MULTIPLY(Q5_K, Q4_1)
DEFINE_MULTIPLY(Q2_K, Q2_K)
DEFINE_MULTIPLY(Q3_K, Q3_K)
DEFINE_MULTIPLY(Q6_K, Q6_K)

static void multiply_F32(const struct cpu_product *p)
{
    AVX512_KERNELS.multiply[LODE_F32](p);
}

static void multiply_F16(const struct cpu_product *p)
{
    AVX512_KERNELS.multiply[LODE_F16](p);
}

// By the matrix's rows only: a product must not depend on the number of activation rows.
static void multiply_BF16(const struct cpu_product *p)
{
    if (p->weight->rows < 8)
        AVX512_KERNELS.multiply[LODE_BF16](p);
    else
        multiply_bf16_panel(p);
}

const struct cpu_matmul_kernels AMX_KERNELS = X86_KERNEL_TABLE(union amx_workspace);

#else
typedef int matmul_amx_is_for_x86;
#endif
