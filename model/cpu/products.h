/* Products of a few rows of floats with a matrix of floats or 8-bit integers, shared among a team of threads.

   What a row comes to does not depend on how many others are computed beside it. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define COLUMNS 4 /* outputs computed together, so that an input is loaded once for them */
#ifdef __AVX512F__
#define ROWS 4 /* rows computed together, so that a weight is loaded once for them: what registers hold */
#else
#define ROWS 2
#endif
#define SUMS (COLUMNS * ROWS > WIDTH ? COLUMNS * ROWS : WIDTH) /* of such a block */

/* [columns, length], as floats; or, where `bytes` is not 0, as integers with one scale for each column. */
typedef struct {
    const float *floats;
    const int8_t *bytes;
    const float *scales;
} Matrix;

/* Of two vectors, halves, then quarters of each, and so on. */
static const int32s LOW[] = {
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
#define LEVELS (int)(sizeof LOW / sizeof *LOW)

INLINE vector fold(vector a, vector b, int level) {
    return __builtin_shuffle(a, b, LOW[level]) + __builtin_shuffle(a, b, LOW[level] + (WIDTH / 2 >> level));
}

/* The sums of WIDTH vectors, as one: by halves, always in the same order. */
INLINE vector sums(const vector v[WIDTH]) {
    vector folded[WIDTH];
    memcpy(folded, v, sizeof folded);
#pragma GCC unroll 4
    for (int level = 0; level < LEVELS; level++)
#pragma GCC unroll 8
        for (int i = 0; i < WIDTH / 2 >> level; i++) folded[i] = fold(folded[2 * i], folded[2 * i + 1], level);
    return folded[0];
}

/* As `sums` does it, of one vector. */
INLINE float sum(vector v) {
#pragma GCC unroll 4
    for (int level = 0; level < LEVELS; level++) v = fold(v, v, level);
    return v[0];
}

/* What is left of a row, filled up with zeros. */
INLINE vector load_part(const float *from, int64_t count) {
    vector part = {0};
    memcpy(&part, from, count * sizeof(float));
    return part;
}

/* Every sum of products here is made of WIDTH running sums, which are folded at the end. */
INLINE float dot(const float *a, const float *b, int64_t length) {
    vector totals = {0};
    int64_t i = 0;
    for (; i + WIDTH <= length; i += WIDTH) totals += load(a + i) * load(b + i);
    if (i < length) totals += load_part(a + i, length - i) * load_part(b + i, length - i);
    return sum(totals);
}

/* So many integers as floats. Compilers make many instructions of this where processors have one. */
INLINE vector widen(const int8_t *from) {
#if defined(__AVX512F__)
    return (vector)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)from)));
#elif defined(__AVX2__)
    return (vector)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)from)));
#else
    vector wide;
    for (int i = 0; i < WIDTH; i++) wide[i] = from[i];
    return wide;
#endif
}

/* Weights of a matrix from a place on; what is left of a row is filled up with zeros. */
INLINE vector weights(
    const Matrix *matrix, const int narrow, int64_t at, int64_t count) {
    if (!narrow) return count == WIDTH ? load(matrix->floats + at) : load_part(matrix->floats + at, count);
    if (count == WIDTH) return widen(matrix->bytes + at);
    int8_t part[WIDTH] = {0};
    memcpy(part, matrix->bytes + at, count);
    return widen(part);
}

/* Products of `columns` columns, from `first` on, with `rows` inputs [length]; the constants make a function each. */
INLINE void products(
    const int columns, const int rows, const int narrow, const Matrix *matrix, int64_t first, const float *inputs,
    int64_t length, float result[COLUMNS][ROWS]) {
    vector totals[SUMS] = {0};
    int64_t i = 0, start = first * length;
    for (; i + WIDTH <= length; i += WIDTH)
        for (int c = 0; c < columns; c++) {
            vector weight = weights(matrix, narrow, start + c * length + i, WIDTH);
            for (int r = 0; r < rows; r++) totals[c * rows + r] += weight * load(inputs + r * length + i);
        }
    if (i < length)
        for (int c = 0; c < columns; c++) {
            vector weight = weights(matrix, narrow, start + c * length + i, length - i);
            for (int r = 0; r < rows; r++)
                totals[c * rows + r] += weight * load_part(inputs + r * length + i, length - i);
        }
    float all[SUMS] = {sum(totals[0])};
    if (columns * rows > 1)
        for (int s = 0; s < columns * rows; s += WIDTH) store(all + s, sums(totals + s));
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) result[c][r] = all[c * rows + r] * (narrow ? matrix->scales[first + c] : 1);
}

INLINE void products_of(
    int64_t columns, int64_t rows, const int narrow, const Matrix *matrix, int64_t first, const float *inputs,
    int64_t length, float result[COLUMNS][ROWS]) {
    if (columns == COLUMNS && rows == ROWS) {
        products(COLUMNS, ROWS, narrow, matrix, first, inputs, length, result);
    } else if (columns == COLUMNS && rows == 2) {
        products(COLUMNS, 2, narrow, matrix, first, inputs, length, result);
    } else if (columns == COLUMNS) {
        products(COLUMNS, 1, narrow, matrix, first, inputs, length, result);
    } else {
        for (int64_t c = 0; c < columns; c++)
            for (int64_t r = 0; r < rows; r++) {
                float one[COLUMNS][ROWS];
                products(1, 1, narrow, matrix, first + c, inputs + r * length, length, one);
                result[c][r] = one[0][0];
            }
    }
}

/* Of so many rows that are left, how many are computed together: 4, 2 or 1. */
static inline int64_t together(int64_t rows) { return rows >= ROWS ? ROWS : rows >= 2 ? 2 : 1; }

/* Where many rows keep this core busy, the weights of the next columns come nearer meanwhile, some for each row. */
INLINE void fetch(
    const Matrix *matrix, const int narrow, int64_t next, int64_t length, int64_t row, int64_t high, int64_t rows) {
    if (rows <= ROWS) return;
    const int64_t size = narrow ? sizeof *matrix->bytes : sizeof *matrix->floats, all = COLUMNS * length * size;
    const char *from = (narrow ? (const char *)matrix->bytes : (const char *)matrix->floats) + next * length * size;
    for (int64_t i = all * row / rows; i < all * (row + high) / rows; i += 64) __builtin_prefetch(from + i, 0, 2);
}

INLINE void multiply_as(
    const int narrow, const Matrix *matrix, const float *bias, int64_t columns, const float *inputs, int64_t length,
    int64_t rows, float *output, int add) {
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < columns; first += COLUMNS) {
        int64_t wide = least(COLUMNS, columns - first), high;
        for (int64_t row = 0; row < rows; row += high) {
            float result[COLUMNS][ROWS];
            high = together(rows - row);
            fetch(matrix, narrow, first + COLUMNS, length, row, high, rows);
            products_of(wide, high, narrow, matrix, first, inputs + row * length, length, result);
            for (int64_t c = 0; c < wide; c++)
                for (int64_t r = 0; r < high; r++) {
                    float *to = output + (row + r) * columns + first + c;
                    *to = result[c][r] + (bias ? bias[first + c] : 0) + (add ? *to : 0);
                }
        }
    }
}

/* output [rows, columns] = inputs [rows, length] · matrix [columns, length] transposed + bias, or added to it.
   Shared among the team, without a barrier at the end. */
static void multiply(
    const Matrix *matrix, const float *bias, int64_t columns, const float *inputs, int64_t length, int64_t rows,
    float *output, int add) {
    if (matrix->bytes)
        multiply_as(1, matrix, bias, columns, inputs, length, rows, output, add);
    else
        multiply_as(0, matrix, bias, columns, inputs, length, rows, output, add);
}

INLINE void gated_as(
    const int narrow, const Matrix *gate_up, int64_t intermediate, const float *inputs, int64_t length, int64_t rows,
    float *output) {
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < intermediate; first += COLUMNS) {
        int64_t wide = least(COLUMNS, intermediate - first), high;
        for (int64_t row = 0; row < rows; row += high) {
            float gate[COLUMNS][ROWS], up[COLUMNS][ROWS];
            const float *in = inputs + row * length;
            high = together(rows - row);
            fetch(gate_up, narrow, first + COLUMNS, length, row, high, rows);
            fetch(gate_up, narrow, intermediate + first + COLUMNS, length, row, high, rows);
            products_of(wide, high, narrow, gate_up, first, in, length, gate);
            products_of(wide, high, narrow, gate_up, intermediate + first, in, length, up);
            for (int64_t c = 0; c < wide; c++)
                for (int64_t r = 0; r < high; r++)
                    output[(row + r) * intermediate + first + c] = gate[c][r] / (1 + expf(-gate[c][r])) * up[c][r];
        }
    }
}

/* output [rows, intermediate] = silu(gate) · up; gate_up [2 · intermediate, length] holds both. */
static void gated(
    const Matrix *gate_up, int64_t intermediate, const float *inputs, int64_t length, int64_t rows, float *output) {
    if (gate_up->bytes)
        gated_as(1, gate_up, intermediate, inputs, length, rows, output);
    else
        gated_as(0, gate_up, intermediate, inputs, length, rows, output);
}

#endif
