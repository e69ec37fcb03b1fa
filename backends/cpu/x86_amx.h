// AMX tiles: their shapes, and the order of their memory accesses and the compiler's.
//
// A product loads the configuration when it starts and releases the tiles when it ends. That costs some tens
// of cycles of the tens of thousands that a product takes, and between products a thread has no tile state
// that the kernel would have to save or that another library would find in its way.
#ifndef LODE_CPU_X86_AMX_H
#define LODE_CPU_X86_AMX_H

#include "backends/cpu/intrinsics.h"

#define TILE_ROWS 16
#define TILE_ROW_BYTES 64

struct tile_shapes {
    _Alignas(64) uint8_t palette;
    uint8_t start_row, reserved[14];
    uint16_t row_bytes[16]; // of tiles 0 to 7
    uint8_t rows[16];
};

_Static_assert(sizeof(struct tile_shapes) == 64, "LDTILECFG reads 64 bytes");

static ALWAYS_INLINE void tiles_begin(const struct tile_shapes *shapes)
{
    _tile_loadconfig(shapes);
}

static ALWAYS_INLINE void tiles_end(void)
{
    _tile_release();
}

// GCC's tile loads do not say that they read memory: what was written must be there before them.
static ALWAYS_INLINE void written_for_tiles(void)
{
    __asm__ volatile("" ::: "memory");
}

#endif
