/* Products of rows of floats with a matrix of floats or 8-bit integers, shared among a team of threads.

   A matrix is stored in panels of 16 columns (`model.decoder_weights.PackedMatrix`): the weights of an input lie side by
   side, so each lane of a vector is a column of its own, and an input is multiplied with all of them at once. Every sum
   runs over the inputs in their order. So the result of a row does not depend on how many other rows are computed in
   the same call, nor on the number of threads.

   Weights that are in no cache take as long to read as up to a dozen rows take to multiply. So that neither waits for
   the other, floats of the panels that come next are fetched while these are multiplied. Nothing is gained with up to
   three rows, whose products take much less time than reading, nor with 8-bit integers, where reading takes less. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <stdint.h>

#include "vectors.h"

#define PANEL 16                /* columns */
#define VECTORS (PANEL / WIDTH) /* of a panel's width */
/* Rows per block, so that their sums fit in the registers: with one panel and with two, and with two of integers, which
   need registers while they become floats. Of few rows two panels are computed together, since there are then enough
   sums that none waits for itself. */
#if defined(__AVX512F__)
#define MOST_ROWS 12
#define FEW_ROWS 12
#define FEW_ROWS_OF_INT8 12
#elif defined(__AVX2__) || defined(__aarch64__)
#define MOST_ROWS 6
#define FEW_ROWS 3
#define FEW_ROWS_OF_INT8 2
#else
#define MOST_ROWS 3
#define FEW_ROWS 1
#define FEW_ROWS_OF_INT8 1
#endif
#define LEAST_FETCHING_ROWS 4
#define LINE 64 /* bytes that a processor fetches at once, those of a panel's 16 floats */

/* Matrix [panels, length, PANEL] of floats or, if `bytes` is not null, of integers with one scale per column. */
typedef struct {
    const float *floats;
    const int8_t *bytes;
    const float *scales;
} Matrix;

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

/* tiles [panels, rows, PANEL] = inputs [rows, length] · `panels` panels of the matrix, from `first` on. Meanwhile bytes
   from `next` on are fetched, `step` for each input.
   `is_int8`, `rows` and `panels` are compile-time constants, so that each case gets code of its own. */
INLINE void block(
    const int is_int8, const int rows, const int panels, const Matrix *matrix, int64_t first, const float *inputs,
    int64_t length, const char *next, int64_t step, float *tiles) {
    vector sums[MOST_ROWS][2 * VECTORS] = {0};
    for (int64_t i = 0; i < length; i++) {
        if (!is_int8) __builtin_prefetch(next + i * step);
        if (!is_int8 && panels == 2 && rows >= LEAST_FETCHING_ROWS) __builtin_prefetch(next + i * step + LINE);
        vector weights[2 * VECTORS];
        for (int v = 0; v < panels * VECTORS; v++) {
            int64_t from = ((first + v / VECTORS) * length + i) * PANEL + v % VECTORS * WIDTH;
            weights[v] = is_int8 ? load_int8(matrix->bytes + from) : load(matrix->floats + from);
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < panels * VECTORS; v++) sums[r][v] += inputs[r * length + i] * weights[v];
    }
    for (int v = 0; v < panels * VECTORS; v++) {
        int64_t panel = v / VECTORS, column = v % VECTORS * WIDTH;
        for (int r = 0; r < rows; r++) {
            if (is_int8) sums[r][v] *= load(matrix->scales + (first + panel) * PANEL + column);
            store(tiles + (panel * rows + r) * PANEL + column, sums[r][v]);
        }
    }
}

/* `block` for `rows` ≤ MOST_ROWS and `panels` ≤ 2, known at run time. */
#define FEW(is_int8) (is_int8 ? FEW_ROWS_OF_INT8 : FEW_ROWS)
#define CASE(n)                                                                                                \
    case n:                                                                                                    \
        if (n <= FEW(is_int8) && panels == 2)                                                                  \
            block(is_int8, n <= FEW(is_int8) ? n : 1, 2, matrix, first, inputs, length, next, 2 * step, tiles); \
        else if (n <= MOST_ROWS)                                                                               \
            for (int64_t p = 0; p < panels; p++)                                                               \
                block(is_int8, n <= MOST_ROWS ? n : 1, 1, matrix, first + p, inputs, length,                   \
                      next + p * length * step, step, tiles + p * n * PANEL);                                  \
        break;
INLINE void block_typed(
    const int is_int8, int64_t rows, int64_t panels, const Matrix *matrix, int64_t first, const float *inputs,
    int64_t length, const char *next, int64_t step, float *tiles) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
}
#undef CASE

/* tiles [panels, rows, PANEL] = rows of the inputs [all, length] from `row` on · `panels` panels, from `first` on.
   Each row fetches its share of as many panels that follow. */
static void products(
    const Matrix *matrix, int64_t first, int64_t panels, const float *inputs, int64_t length, int64_t row,
    int64_t rows, int64_t all, float *tiles) {
    inputs += row * length;
    if (matrix->bytes) {
        block_typed(1, rows, panels, matrix, first, inputs, length, 0, 0, tiles);
        return;
    }
    const char *next = (const char *)(matrix->floats + (first + panels) * length * PANEL);
    int64_t step = all < LEAST_FETCHING_ROWS ? 0 : LINE * rows / all;
    block_typed(0, rows, panels, matrix, first, inputs, length, next + panels * length * LINE * row / all, step, tiles);
}

/* Rows of the next block if `left` are left: as many as fit, and else equal parts. */
static inline int64_t block_rows(int64_t left) {
    if (left > MOST_ROWS && left <= MOST_ROWS + FEW_ROWS) return MOST_ROWS;
    int64_t blocks = (left + MOST_ROWS - 1) / MOST_ROWS;
    return (left + blocks - 1) / blocks;
}

/* output [rows, columns] = inputs [rows, length] · matrix + bias; with `add`, += instead. `bias` may be null.
   The threads of the team share the work; there is no barrier at the end. */
static void multiply(
    const Matrix *matrix, const float *bias, int64_t columns, const float *inputs, int64_t length, int64_t rows,
    float *output, int add) {
    int64_t count = (columns + PANEL - 1) / PANEL;
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < count; first += 2) {
        int64_t panels = min_int64(2, count - first), part;
        for (int64_t row = 0; row < rows; row += part) {
            float tiles[2 * MOST_ROWS * PANEL];
            part = block_rows(rows - row);
            products(matrix, first, panels, inputs, length, row, part, rows, tiles);
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t r = 0; r < part; r++) {
                    int64_t column = (first + panel) * PANEL, width = min_int64(PANEL, columns - column);
                    const float *sums = tiles + (panel * part + r) * PANEL;
                    float *to = output + (row + r) * columns + column;
                    for (int64_t c = 0; c < width; c++)
                        to[c] = sums[c] + (bias ? bias[column + c] : 0) + (add ? to[c] : 0);
                }
        }
    }
}

/* SwiGLU: output [rows, intermediate] = silu(gate) · up, where gate and up are the products of inputs with the first
   and the second half of the panels of gate_up. Shared, and without a barrier at the end, like `multiply`. */
static void swiglu(
    const Matrix *gate_up, int64_t intermediate, const float *inputs, int64_t length, int64_t rows, float *output) {
    int64_t count = (intermediate + PANEL - 1) / PANEL;
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < count; first += 2) {
        int64_t panels = min_int64(2, count - first), part;
        for (int64_t row = 0; row < rows; row += part) {
            float gates[2 * MOST_ROWS * PANEL], ups[2 * MOST_ROWS * PANEL];
            part = block_rows(rows - row);
            products(gate_up, first, panels, inputs, length, row, part, rows, gates);
            products(gate_up, count + first, panels, inputs, length, row, part, rows, ups);
            for (int64_t i = 0; i < panels * part * PANEL; i += WIDTH) {
                vector gate = load(gates + i);
                store(ups + i, gate / (1 + exponential(-gate)) * load(ups + i));
            }
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t r = 0; r < part; r++) {
                    int64_t column = (first + panel) * PANEL, width = min_int64(PANEL, intermediate - column);
                    memcpy(output + (row + r) * intermediate + column, ups + (panel * part + r) * PANEL,
                           width * sizeof(float));
                }
        }
    }
}

#endif
