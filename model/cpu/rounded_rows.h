/* Rows of floats rounded to 16-bit integers, for products with panels of 8-bit ones.

   One scale for each chunk of inputs keeps inputs apart that are much larger than others. Rounding adds an error of about
   1/32767 of a chunk's largest input to each, where the weights' own is 1/254 of an output's largest weight. */

#ifndef ROUNDED_ROWS_H
#define ROUNDED_ROWS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tiles.h"
#include "vectors.h"

#define LARGEST 32767   /* magnitude of a rounded input */
#define SMALLEST 1e-30f /* chunks of inputs below it are zero, so that no scale has an infinite inverse */
#define SCALED 512      /* inputs of a chunk: sums of 512 · 32767 · 127 fit in 32 bits */

/* Rows as integers [rows, width] and scales [rows, chunks]; an input is its integer times its chunk's scale. `width` is
   the number of inputs up to a multiple of TILE_INPUTS; beyond the last anything may stand, since its weights are zero.
   If the rows are for tiles, `tile_rows` at once, their integers are in `halves`; else `tile_rows` is 0. */
typedef struct {
    int16_t *integers;
    Halves halves;
    float *scales;
    int64_t width, chunks, tile_rows;
} Rounded;

INLINE int64_t filled(int64_t length) { return (length + TILE_INPUTS - 1) / TILE_INPUTS * TILE_INPUTS; }
INLINE int64_t chunks_of(int64_t length) { return (length + SCALED - 1) / SCALED; }

/* Floats of memory that `rows` rounded rows take; a last tile reads beyond them. */
INLINE int64_t rounded_floats(int64_t length, int64_t rows) {
    return rows * (filled(length) / 2 + chunks_of(length)) + TILE_ROWS * TILE_INPUTS / 4;
}

/* Round `count` ≤ SCALED inputs; returns their scale, which is NaN if an input is not finite. */
static float round_chunk(const float *inputs, int64_t count, int16_t *integers) {
    int32_t largest = 0; /* the bits of magnitudes are in their order, and NaN is above infinity */
    for (int64_t i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, inputs + i, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float peak;
    memcpy(&peak, &largest, sizeof peak);
    if (!(peak >= SMALLEST && peak < INFINITY)) {
        memset(integers, 0, count * sizeof *integers);
        return peak < SMALLEST ? 0 : NAN;
    }
    float inverse = LARGEST / peak;
    for (int64_t i = 0; i < count; i++) integers[i] = (int16_t)rintf(inputs[i] * inverse);
    return peak / LARGEST;
}

/* Round rows of inputs [rows, length], into `memory`. */
static Rounded round_rows(const float *inputs, int64_t length, int64_t rows, float *memory) {
    int64_t width = filled(length), chunks = chunks_of(length), blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
    int8_t *bytes = (int8_t *)memory;
    Rounded rounded = {
        .integers = (int16_t *)memory,
        .halves = {bytes, (uint8_t *)bytes + rows * width, rows},
        .scales = memory + rows * width / 2,
        .width = width,
        .chunks = chunks,
        .tile_rows = has_tiles && rows ? (rows + blocks - 1) / blocks : 0,
    };
    for (int64_t row = 0; row < rows; row++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t at = chunk * SCALED, taken = min_int64(SCALED, width - at);
            int16_t integers[SCALED];
            rounded.scales[row * chunks + chunk] =
                round_chunk(inputs + row * length + at, min_int64(SCALED, length - at), integers);
            if (rounded.tile_rows)
                write_halves(integers, taken, rounded.halves, row, at);
            else
                memcpy(rounded.integers + row * width + at, integers, taken * sizeof *integers);
        }
    return rounded;
}

#endif
