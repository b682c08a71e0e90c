/* Products of a few rows of floats with a matrix of floats or 8-bit integers, shared among a team of threads.

   The result of a row does not depend on how many other rows are computed in the same call. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define COLUMNS 4 /* columns per block: each input is loaded once for all of them */
#ifdef __AVX512F__
#define ROWS 4 /* rows per block: each weight is loaded once for all of them; limited by the registers */
#else
#define ROWS 2
#endif
/* Vectors of partial sums of a block; at least WIDTH, because `horizontal_sums` reads that many. */
#define ACCUMULATORS (COLUMNS * ROWS > WIDTH ? COLUMNS * ROWS : WIDTH)

/* Matrix [columns, length] of floats or, if `bytes` is not null, of integers with one scale per column. */
typedef struct {
    const float *floats;
    const int8_t *bytes;
    const float *scales;
} Matrix;

/* Shuffle indices of two vectors: the low half of each vector, then of each half vector, and so on.
   Adding `WIDTH / 2 >> level` selects the high halves. */
static const int32s LOW_HALVES[] = {
#if WIDTH == 16
    {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
    {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27},
    {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29},
    {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30},
#elif WIDTH == 8
    {0, 1, 2, 3, 8, 9, 10, 11},
    {0, 1, 4, 5, 8, 9, 12, 13},
    {0, 2, 4, 6, 8, 10, 12, 14},
#else
    {0, 1, 4, 5},
    {0, 2, 4, 6},
#endif
};
#define LEVELS (int)(sizeof LOW_HALVES / sizeof *LOW_HALVES)

/* Add the low and the high halves that LOW_HALVES[level] describes. */
INLINE vector fold(vector a, vector b, int level) {
    return __builtin_shuffle(a, b, LOW_HALVES[level]) +
           __builtin_shuffle(a, b, LOW_HALVES[level] + (WIDTH / 2 >> level));
}

/* Sums over the lanes of WIDTH vectors: lane i is the sum of v[i]. Always adds in the same order, by halves. */
INLINE vector horizontal_sums(const vector v[WIDTH]) {
    vector folded[WIDTH];
    memcpy(folded, v, sizeof folded);
#pragma GCC unroll 4
    for (int level = 0; level < LEVELS; level++)
#pragma GCC unroll 8
        for (int i = 0; i < WIDTH / 2 >> level; i++) folded[i] = fold(folded[2 * i], folded[2 * i + 1], level);
    return folded[0];
}

/* Sum over the lanes of one vector, in the order of `horizontal_sums`. */
INLINE float horizontal_sum(vector v) {
#pragma GCC unroll 4
    for (int level = 0; level < LEVELS; level++) v = fold(v, v, level);
    return v[0];
}

/* Load `count` floats; the rest of the vector is zero. */
INLINE vector load_part(const float *from, int64_t count) {
    vector part = {0};
    memcpy(&part, from, count * sizeof(float));
    return part;
}

/* Dot product. Like all sums of products here, it accumulates WIDTH partial sums and reduces them at the end. */
INLINE float dot(const float *a, const float *b, int64_t length) {
    vector totals = {0};
    int64_t i = 0;
    for (; i + WIDTH <= length; i += WIDTH) totals += load(a + i) * load(b + i);
    if (i < length) totals += load_part(a + i, length - i) * load_part(b + i, length - i);
    return horizontal_sum(totals);
}

/* Load WIDTH int8 values as floats, by intrinsics: compilers use many instructions where processors have one. */
INLINE vector load_int8(const int8_t *from) {
#if defined(__AVX512F__)
    return (vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)from)));
#elif defined(__AVX2__)
    return (vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)from)));
#else
    vector floats;
    for (int i = 0; i < WIDTH; i++) floats[i] = from[i];
    return floats;
#endif
}

/* Load `count` weights of a matrix, starting at `offset`; the rest of the vector is zero. */
INLINE vector load_weights(const Matrix *matrix, const int is_int8, int64_t offset, int64_t count) {
    if (!is_int8) return count == WIDTH ? load(matrix->floats + offset) : load_part(matrix->floats + offset, count);
    if (count == WIDTH) return load_int8(matrix->bytes + offset);
    int8_t part[WIDTH] = {0};
    memcpy(part, matrix->bytes + offset, count);
    return load_int8(part);
}

/* Dot products of `columns` columns, starting at `first`, with inputs [rows, length].
   `columns`, `rows` and `is_int8` are compile-time constants, so that each case gets specialised code. */
INLINE void block_kernel(
    const int columns, const int rows, const int is_int8, const Matrix *matrix, int64_t first, const float *inputs,
    int64_t length, float result[COLUMNS][ROWS]) {
    vector totals[ACCUMULATORS] = {0};
    int64_t i = 0, start = first * length;
    for (; i + WIDTH <= length; i += WIDTH)
        for (int c = 0; c < columns; c++) {
            vector weight = load_weights(matrix, is_int8, start + c * length + i, WIDTH);
            for (int r = 0; r < rows; r++) totals[c * rows + r] += weight * load(inputs + r * length + i);
        }
    if (i < length)
        for (int c = 0; c < columns; c++) {
            vector weight = load_weights(matrix, is_int8, start + c * length + i, length - i);
            for (int r = 0; r < rows; r++)
                totals[c * rows + r] += weight * load_part(inputs + r * length + i, length - i);
        }
    float reduced[ACCUMULATORS] = {horizontal_sum(totals[0])};
    if (columns * rows > 1)
        for (int s = 0; s < columns * rows; s += WIDTH) store(reduced + s, horizontal_sums(totals + s));
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) result[c][r] = reduced[c * rows + r] * (is_int8 ? matrix->scales[first + c] : 1);
}

/* `block_kernel` for sizes known at run time, up to COLUMNS × ROWS. */
INLINE void block_products(
    int64_t columns, int64_t rows, const int is_int8, const Matrix *matrix, int64_t first, const float *inputs,
    int64_t length, float result[COLUMNS][ROWS]) {
    if (columns == COLUMNS && rows == ROWS) {
        block_kernel(COLUMNS, ROWS, is_int8, matrix, first, inputs, length, result);
    } else if (columns == COLUMNS && rows == 2) {
        block_kernel(COLUMNS, 2, is_int8, matrix, first, inputs, length, result);
    } else if (columns == COLUMNS) {
        block_kernel(COLUMNS, 1, is_int8, matrix, first, inputs, length, result);
    } else {
        for (int64_t c = 0; c < columns; c++)
            for (int64_t r = 0; r < rows; r++) {
                float one[COLUMNS][ROWS];
                block_kernel(1, 1, is_int8, matrix, first + c, inputs + r * length, length, one);
                result[c][r] = one[0][0];
            }
    }
}

/* Rows to compute together when `rows` are left: ROWS, 2 or 1. */
static inline int64_t rows_per_block(int64_t rows) { return rows >= ROWS ? ROWS : rows >= 2 ? 2 : 1; }

/* Prefetch the weights of COLUMNS columns, starting at `first`, a share of them for each block of rows.
   Only with more than ROWS rows, which keep this core busy meanwhile. */
INLINE void prefetch_weights(
    const Matrix *matrix, const int is_int8, int64_t first, int64_t length, int64_t row, int64_t block_rows,
    int64_t rows) {
    if (rows <= ROWS) return;
    const int64_t size = is_int8 ? sizeof *matrix->bytes : sizeof *matrix->floats, total = COLUMNS * length * size;
    const char *from = (is_int8 ? (const char *)matrix->bytes : (const char *)matrix->floats) + first * length * size;
    for (int64_t i = total * row / rows; i < total * (row + block_rows) / rows; i += 64)
        __builtin_prefetch(from + i, 0, 2);
}

INLINE void multiply_typed(
    const int is_int8, const Matrix *matrix, const float *bias, int64_t columns, const float *inputs, int64_t length,
    int64_t rows, float *output, int add) {
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < columns; first += COLUMNS) {
        int64_t block_columns = min_int64(COLUMNS, columns - first), block_rows;
        for (int64_t row = 0; row < rows; row += block_rows) {
            float result[COLUMNS][ROWS];
            block_rows = rows_per_block(rows - row);
            prefetch_weights(matrix, is_int8, first + COLUMNS, length, row, block_rows, rows);
            block_products(block_columns, block_rows, is_int8, matrix, first, inputs + row * length, length, result);
            for (int64_t c = 0; c < block_columns; c++)
                for (int64_t r = 0; r < block_rows; r++) {
                    float *to = output + (row + r) * columns + first + c;
                    *to = result[c][r] + (bias ? bias[first + c] : 0) + (add ? *to : 0);
                }
        }
    }
}

/* output [rows, columns] = inputs [rows, length] · matrix [columns, length] transposed + bias; with `add`, += instead.
   `bias` may be null. The threads of the team share the work; there is no barrier at the end. */
static void multiply(
    const Matrix *matrix, const float *bias, int64_t columns, const float *inputs, int64_t length, int64_t rows,
    float *output, int add) {
    if (matrix->bytes)
        multiply_typed(1, matrix, bias, columns, inputs, length, rows, output, add);
    else
        multiply_typed(0, matrix, bias, columns, inputs, length, rows, output, add);
}

INLINE void swiglu_typed(
    const int is_int8, const Matrix *gate_up, int64_t intermediate, const float *inputs, int64_t length, int64_t rows,
    float *output) {
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < intermediate; first += COLUMNS) {
        int64_t block_columns = min_int64(COLUMNS, intermediate - first), block_rows;
        for (int64_t row = 0; row < rows; row += block_rows) {
            float gate[COLUMNS][ROWS], up[COLUMNS][ROWS];
            const float *in = inputs + row * length;
            block_rows = rows_per_block(rows - row);
            prefetch_weights(gate_up, is_int8, first + COLUMNS, length, row, block_rows, rows);
            prefetch_weights(gate_up, is_int8, intermediate + first + COLUMNS, length, row, block_rows, rows);
            block_products(block_columns, block_rows, is_int8, gate_up, first, in, length, gate);
            block_products(block_columns, block_rows, is_int8, gate_up, intermediate + first, in, length, up);
            for (int64_t c = 0; c < block_columns; c++)
                for (int64_t r = 0; r < block_rows; r++)
                    output[(row + r) * intermediate + first + c] = gate[c][r] / (1 + expf(-gate[c][r])) * up[c][r];
        }
    }
}

/* SwiGLU: output [rows, intermediate] = silu(gate) · up, where [gate, up] = inputs · gate_up transposed and
   gate_up is [2 · intermediate, length]. Shared, and without a barrier at the end, like `multiply`. */
static void swiglu(
    const Matrix *gate_up, int64_t intermediate, const float *inputs, int64_t length, int64_t rows, float *output) {
    if (gate_up->bytes)
        swiglu_typed(1, gate_up, intermediate, inputs, length, rows, output);
    else
        swiglu_typed(0, gate_up, intermediate, inputs, length, rows, output);
}

#endif
