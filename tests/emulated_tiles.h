// AMX tiles in plain C, from the operations in Intel's instruction set reference: the tile intrinsics as
// functions with the same names and meanings, for processors without AMX.
//
// Included in front of a kernel's source (-include), it takes the intrinsics' place. It is stricter than the
// processor: what would raise an exception there aborts here with a sentence, memory must be there for whole
// rows as always, and tiles that are released are filled with a pattern, so that nothing can live on in them.
#ifndef LODE_TEST_EMULATED_TILES_H
#define LODE_TEST_EMULATED_TILES_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMULATED_TILES 8
#define EMULATED_ROWS 16
#define EMULATED_ROW_BYTES 64
#define EMULATED_POISON 0xa5

struct emulated_tile {
    unsigned rows, row_bytes;
    uint8_t data[EMULATED_ROWS][EMULATED_ROW_BYTES];
};

static _Thread_local struct emulated_tiles {
    bool configured;
    unsigned long products;
    struct emulated_tile tile[EMULATED_TILES];
} emulated_tiles;

#define EMULATED_CHECK(condition, what)                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "emulated tiles: %s\n", what);                                                   \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static inline void emulated_tile_release(void)
{
    memset(&emulated_tiles.tile, EMULATED_POISON, sizeof emulated_tiles.tile);
    emulated_tiles.configured = false;
}

static inline void emulated_tile_loadconfig(const void *memory)
{
    const uint8_t *bytes = memory;
    EMULATED_CHECK(bytes[0] == 1, "the configuration's palette is not 1");
    EMULATED_CHECK(bytes[1] == 0, "the configuration's start row is not 0");
    for (unsigned i = 2; i < 16; i++)
        EMULATED_CHECK(bytes[i] == 0, "a reserved byte of the configuration is not 0");
    emulated_tile_release();
    for (unsigned t = 0; t < 16; t++) {
        unsigned row_bytes = bytes[16 + 2 * t] | (unsigned)bytes[17 + 2 * t] << 8, rows = bytes[48 + t];
        if (t >= EMULATED_TILES) {
            EMULATED_CHECK(row_bytes == 0 && rows == 0, "the configuration names a ninth tile");
            continue;
        }
        EMULATED_CHECK(rows <= EMULATED_ROWS && row_bytes <= EMULATED_ROW_BYTES, "a tile is too large");
        EMULATED_CHECK((rows == 0) == (row_bytes == 0), "a tile has rows of no bytes, or bytes in no rows");
        emulated_tiles.tile[t] = (struct emulated_tile){.rows = rows, .row_bytes = row_bytes};
    }
    emulated_tiles.configured = true;
}

static inline struct emulated_tile *emulated_tile_at(unsigned tile)
{
    EMULATED_CHECK(tile < EMULATED_TILES, "there are eight tiles");
    EMULATED_CHECK(emulated_tiles.configured, "a tile is used without a configuration");
    EMULATED_CHECK(emulated_tiles.tile[tile].rows > 0, "a tile is used that has no shape");
    return &emulated_tiles.tile[tile];
}

static inline void emulated_tile_zero(unsigned tile)
{
    memset(emulated_tile_at(tile)->data, 0, sizeof(emulated_tiles.tile[tile].data));
}

static inline void emulated_tile_loadd(unsigned tile, const void *base, size_t stride)
{
    struct emulated_tile *t = emulated_tile_at(tile);
    memset(t->data, 0, sizeof t->data);
    for (unsigned row = 0; row < t->rows; row++)
        memcpy(t->data[row], (const uint8_t *)base + row * stride, t->row_bytes);
}

static inline void emulated_tile_stored(unsigned tile, void *base, size_t stride)
{
    const struct emulated_tile *t = emulated_tile_at(tile);
    for (unsigned row = 0; row < t->rows; row++)
        memcpy((uint8_t *)base + row * stride, t->data[row], t->row_bytes);
}

// The conditions of all tile products.
static inline void emulated_check_product(unsigned sums, unsigned a, unsigned b)
{
    const struct emulated_tile *c = emulated_tile_at(sums), *ta = emulated_tile_at(a),
                               *tb = emulated_tile_at(b);
    EMULATED_CHECK(sums != a && sums != b && a != b, "a product's tiles are not three different ones");
    EMULATED_CHECK(c->rows == ta->rows, "a product's sums have other rows than its first factor");
    EMULATED_CHECK(c->row_bytes == tb->row_bytes, "a product's sums have other columns than its second");
    EMULATED_CHECK(ta->row_bytes == 4 * tb->rows, "a product's factors do not match");
    EMULATED_CHECK(c->row_bytes % 4 == 0, "a product's rows are not whole numbers of 32 bits");
    emulated_tiles.products++;
}

static inline void emulated_tile_dpbssd(unsigned sums, unsigned a, unsigned b)
{
    emulated_check_product(sums, a, b);
    struct emulated_tile *c = &emulated_tiles.tile[sums];
    const struct emulated_tile *ta = &emulated_tiles.tile[a], *tb = &emulated_tiles.tile[b];
    for (unsigned m = 0; m < c->rows; m++)
        for (unsigned n = 0; n < c->row_bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, &c->data[m][4 * n], sizeof sum);
            for (unsigned k = 0; k < ta->row_bytes; k++)
                sum += (int8_t)ta->data[m][k] * (int8_t)tb->data[k / 4][4 * n + k % 4];
            memcpy(&c->data[m][4 * n], &sum, sizeof sum);
        }
}

// Denormal numbers count as zero, before and after every operation.
static inline float emulated_flush(float x)
{
    return fpclassify(x) == FP_SUBNORMAL ? copysignf(0, x) : x;
}

static inline float emulated_bf16(const uint8_t *bytes)
{
    uint32_t bits = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return emulated_flush(value);
}

// Even and odd columns are summed on their own from zero, then both are added, then that to the sum.
static inline void emulated_tile_dpbf16ps(unsigned sums, unsigned a, unsigned b)
{
    emulated_check_product(sums, a, b);
    struct emulated_tile *c = &emulated_tiles.tile[sums];
    const struct emulated_tile *ta = &emulated_tiles.tile[a], *tb = &emulated_tiles.tile[b];
    for (unsigned m = 0; m < c->rows; m++)
        for (unsigned n = 0; n < c->row_bytes / 4; n++) {
            float part[2] = {0}, sum;
            for (unsigned k = 0; k < ta->row_bytes / 2; k++)
                part[k % 2] =
                    emulated_flush(fmaf(emulated_bf16(&ta->data[m][2 * k]),
                                        emulated_bf16(&tb->data[k / 2][4 * n + 2 * (k % 2)]), part[k % 2]));
            memcpy(&sum, &c->data[m][4 * n], sizeof sum);
            sum = emulated_flush(emulated_flush(sum) + emulated_flush(part[0] + part[1]));
            memcpy(&c->data[m][4 * n], &sum, sizeof sum);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_tile_loadconfig
#define _tile_release emulated_tile_release
#define _tile_zero emulated_tile_zero
#define _tile_loadd emulated_tile_loadd
#define _tile_stored emulated_tile_stored
#define _tile_dpbssd emulated_tile_dpbssd
#define _tile_dpbf16ps emulated_tile_dpbf16ps

// For tests of the kernel that this stands in front of.
#ifdef LODE_SIMDE
bool emulated_tiles_are_configured(void);
unsigned long emulated_tile_products(void);

bool emulated_tiles_are_configured(void)
{
    return emulated_tiles.configured;
}

unsigned long emulated_tile_products(void)
{
    return emulated_tiles.products;
}
#endif

#endif
