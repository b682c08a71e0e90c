/* Matrices for the products of few rows, and how these are divided into blocks.

   A matrix is stored in panels of 16 columns (`model.decoder_weights.PackedMatrix`): the weights of an input lie side by
   side, so each lane of a vector is a column of its own, and an input is multiplied with all of them at once. 8-bit
   integers lie in pairs: both weights of a column by two inputs, then those of the next column; for tiles, in fours.

   Weights that are in no cache take as long to read as up to a dozen rows take to multiply. So that neither waits for
   the other, panels are multiplied chunk by chunk, and the next chunk is fetched meanwhile. A processor reads faster
   from several places at once: with few rows four panels are multiplied side by side. */

#ifndef MATRIX_H
#define MATRIX_H

#include <stdint.h>

#include "vectors.h"

#define PANEL 16                /* columns */
#define VECTORS (PANEL / WIDTH) /* of a panel's width */
/* Rows per block, so that their sums fit in the registers: with one panel and with two. Of few rows two panels are
   computed together, since there are then enough sums that none waits for itself. */
#if defined(__AVX512F__)
#define MOST_ROWS 12
#define FEW_ROWS 12
#elif defined(__AVX2__) || defined(__aarch64__)
#define MOST_ROWS 6
#define FEW_ROWS 3
#else
#define MOST_ROWS 3
#define FEW_ROWS 1
#endif
#define GROUP 4          /* panels side by side, if rows are few or multiplied by tiles; else 2 */
#define MOST_TOGETHER 32 /* rows whose totals are kept from chunk to chunk */
#define TOTALS (MOST_TOGETHER * PANEL)

/* Fetch a line of integers into the L2 cache: what is fetched ahead would fill the L1 cache, where the inputs are. */
#define FETCH(from) __builtin_prefetch(from, 0, 2)

/* Matrix [panels, length, PANEL] of floats or, if `bytes` is not null, [panels, groups of inputs, PANEL, 2 or 4] of
   integers with one scale per column. */
typedef struct {
    const float *floats;
    const int8_t *bytes;
    const float *scales;
} Matrix;

/* Rows of the next block if `left` are left: as many as fit, and else equal parts. */
static inline int64_t block_rows(int64_t left) {
    if (left > MOST_ROWS && left <= MOST_ROWS + FEW_ROWS) return MOST_ROWS;
    int64_t blocks = (left + MOST_ROWS - 1) / MOST_ROWS;
    return (left + blocks - 1) / blocks;
}

#endif
