// The emulation of AMX tiles itself: its products against sums written down here, and that it stops at what
// the processor would refuse.
#if defined(__x86_64__)
#include "tests/emulated_tiles.h"
#endif

#include <criterion/criterion.h>
#include <signal.h>

#if defined(__x86_64__)
struct shapes {
    uint8_t head[16];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

// Sums of 3 x 5, factors of 3 rows and 8 bytes, and of 2 rows; and one of another shape.
static const struct shapes good = {.head = {1}, .row_bytes = {20, 8, 20, 64}, .rows = {3, 3, 2, 16}};

Test(emulated_tiles, byte_products_are_the_signed_sums)
{
    int8_t a[3][8], b[2][20];
    int32_t c[3][5], want[3][5];
    for (int m = 0; m < 3; m++)
        for (int k = 0; k < 8; k++)
            a[m][k] = (int8_t)(m * 101 + k * 37 - 128);
    for (int k = 0; k < 2; k++)
        for (int n = 0; n < 20; n++)
            b[k][n] = (int8_t)(k * 89 + n * 53 - 128);
    for (int m = 0; m < 3; m++)
        for (int n = 0; n < 5; n++) {
            c[m][n] = want[m][n] = 1000 * m + n;
            for (int k = 0; k < 8; k++) // column k of weight row n lies in row k / 4, at byte 4n + k % 4
                want[m][n] += a[m][k] * b[k / 4][4 * n + k % 4];
        }
    _tile_loadconfig(&good);
    _tile_loadd(0, c, 20);
    _tile_loadd(1, a, 8);
    _tile_loadd(2, b, 20);
    _tile_dpbssd(0, 1, 2);
    memset(c, 0, sizeof c);
    _tile_stored(0, c, 20);
    _tile_release();
    cr_assert_arr_eq(c, want, sizeof c);
}

Test(emulated_tiles, bf16_products_sum_even_and_odd_columns_apart)
{
    // In the order of the columns, 1 + 2^-30 - 1 + 2^-30 would lose the first 2^-30.
    const uint16_t one = 0x3f80, small = 0x3080, minus = 0xbf80; // 1, 2^-30, -1
    const uint16_t a[3][4] = {{one, small, minus, small}, {one, one, one, one}, {0}};
    uint16_t b[2][10];
    float c[3][5] = {{0}};
    for (int k = 0; k < 2; k++)
        for (int n = 0; n < 10; n++)
            b[k][n] = one;
    _tile_loadconfig(&good);
    _tile_zero(0);
    _tile_loadd(1, a, 8);
    _tile_loadd(2, b, 20);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, c, 20);
    _tile_release();
    for (int n = 0; n < 5; n++) {
        cr_assert_eq(c[0][n], 0x1p-29f);
        cr_assert_eq(c[1][n], 4.0f);
        cr_assert_eq(c[2][n], 0.0f);
    }
}

Test(emulated_tiles, bf16_products_take_denormal_numbers_for_zero)
{
    const uint16_t a[3][4] = {{0x0040, 0x0040, 0x0040, 0x0040}}; // 2^-127
    uint16_t b[2][10];
    float c[3][5];
    for (int i = 0; i < 20; i++)
        b[i / 10][i % 10] = 0x4b80; // 2^24
    _tile_loadconfig(&good);
    _tile_zero(0);
    _tile_loadd(1, a, 8);
    _tile_loadd(2, b, 20);
    _tile_dpbf16ps(0, 1, 2);
    _tile_stored(0, c, 20);
    cr_assert_eq(c[0][0], 0.0f);
}

Test(emulated_tiles, a_configuration_clears_the_tiles)
{
    int32_t c[3][5];
    memset(c, 1, sizeof c);
    _tile_loadconfig(&good);
    _tile_loadd(0, c, 20);
    _tile_loadconfig(&good);
    _tile_stored(0, c, 20);
    for (int i = 0; i < 15; i++)
        cr_assert_eq(c[i / 5][i % 5], 0);
}

static void load_with(size_t at, uint8_t value)
{
    struct shapes broken = good;
    ((uint8_t *)&broken)[at] = value;
    _tile_loadconfig(&broken);
}

Test(emulated_tiles, stops_at_another_palette, .signal = SIGABRT)
{
    load_with(0, 2);
}

Test(emulated_tiles, stops_at_a_start_row, .signal = SIGABRT)
{
    load_with(1, 1);
}

Test(emulated_tiles, stops_at_reserved_bytes, .signal = SIGABRT)
{
    load_with(7, 1);
}

Test(emulated_tiles, stops_at_rows_of_more_than_64_bytes, .signal = SIGABRT)
{
    load_with(16, 68);
}

Test(emulated_tiles, stops_at_more_than_16_rows, .signal = SIGABRT)
{
    load_with(48, 17);
}

Test(emulated_tiles, stops_at_rows_of_no_bytes, .signal = SIGABRT)
{
    load_with(48 + 5, 1);
}

Test(emulated_tiles, stops_at_a_ninth_tile, .signal = SIGABRT)
{
    load_with(48 + 8, 1);
}

Test(emulated_tiles, stops_at_tiles_that_were_never_configured, .signal = SIGABRT)
{
    _tile_zero(0);
}

Test(emulated_tiles, stops_at_tiles_that_were_released, .signal = SIGABRT)
{
    _tile_loadconfig(&good);
    _tile_release();
    _tile_zero(0);
}

Test(emulated_tiles, stops_at_a_tile_without_a_shape, .signal = SIGABRT)
{
    _tile_loadconfig(&good);
    _tile_zero(4);
}

Test(emulated_tiles, stops_at_a_tile_that_does_not_exist, .signal = SIGABRT)
{
    _tile_loadconfig(&good);
    _tile_zero(8);
}

Test(emulated_tiles, stops_at_a_tile_that_is_factor_and_sum, .signal = SIGABRT)
{
    _tile_loadconfig(&good);
    _tile_dpbssd(0, 1, 0);
}

Test(emulated_tiles, stops_at_factors_that_do_not_match, .signal = SIGABRT)
{
    _tile_loadconfig(&good);
    _tile_dpbssd(0, 1, 3);
}

Test(emulated_tiles, stops_at_sums_of_another_shape, .signal = SIGABRT)
{
    _tile_loadconfig(&good);
    _tile_dpbf16ps(3, 1, 2);
}
#else
Test(emulated_tiles, emulates_x86_only)
{
    cr_skip_test("this is not an x86 processor");
}
#endif
