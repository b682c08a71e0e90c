/* Products of rows of floats with a matrix of floats or 8-bit integers, shared among a team of threads. The result of a
   row does not depend on how many other rows are computed in the same call, nor on the number of threads. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "float_products.h"
#include "int8_products.h"
#include "matrix.h"
#include "vectors.h"

/* Rows that a matrix is multiplied with: [rows, length], and, for a matrix of integers, the same rounded. `together`: rows
   whose totals are kept from chunk to chunk. `side`: panels side by side. */
typedef struct {
    const float *floats;
    int64_t length, together, side;
    Rounded rounded;
} Inputs;

/* The inputs of products with `matrix`; those rounded are in `scratch`, memory of this thread. */
static Inputs begin_products(
    const Matrix *matrix, const float *floats, int64_t length, int64_t rows, float *scratch) {
    Inputs inputs = {floats, length, MOST_TOGETHER, rows <= MOST_ROWS ? GROUP : 2};
    if (matrix->bytes) inputs.rounded = round_rows(floats, length, rows, scratch);
    int64_t block = inputs.rounded.tile_rows;
    if (block) {
        _Static_assert(2 * TILE_ROWS <= MOST_TOGETHER, "totals of two blocks of tiles");
        inputs.together = 2 * block; /* as many as tiles multiply at once */
        inputs.side = GROUP;
        begin_tiles(block);
    }
    return inputs;
}

static void end_products(const Inputs *inputs) {
    if (inputs->rounded.tile_rows) end_tiles();
}

/* totals [panels, MOST_TOGETHER, PANEL] = `rows` ≤ `together` rows of inputs, from `begin` on, · `panels` ≤ GROUP
   panels, from `first` on. Those multiplied afterwards begin with panel `then`. */
static void products(
    const Matrix *matrix, int64_t first, int64_t panels, int64_t then, const Inputs *inputs, int64_t begin,
    int64_t rows, float *totals) {
    int64_t length = inputs->length;
    const float *floats = inputs->floats + begin * length;
    if (matrix->bytes)
        int8_products(matrix, first, panels, then, &inputs->rounded, begin, rows, totals);
    else if (panels == GROUP)
        float_products(GROUP, matrix->floats, first, panels, then, floats, length, rows, totals);
    else
        float_products(0, matrix->floats, first, panels, then, floats, length, rows, totals);
}

/* A thread's panels. */
typedef struct {
    int64_t first, end;
} Share;

/* This thread's share of `count` panels, by pairs. */
static inline Share own_share(int64_t count) {
    int64_t pairs = (count + 1) / 2, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    Share share = {2 * (pairs * thread / threads), min_int64(2 * (pairs * (thread + 1) / threads), count)};
    return share;
}

/* output [rows, columns] = inputs [rows, length] · matrix + bias; with `add`, += instead. `bias` may be null; `scratch`
   as for `begin_products`. The threads of the team share the work; there is no barrier at the end. */
static void multiply(
    const Matrix *matrix, const float *bias, int64_t columns, const float *floats, int64_t length, int64_t rows,
    float *output, int add, float *scratch) {
    Inputs inputs = begin_products(matrix, floats, length, rows, scratch);
    Share share = own_share((columns + PANEL - 1) / PANEL);
    for (int64_t first = share.first, panels; first < share.end; first += panels) {
        panels = min_int64(inputs.side, share.end - first);
        for (int64_t row = 0, part; row < rows; row += part) {
            float totals[GROUP * TOTALS];
            part = min_int64(inputs.together, rows - row);
            products(matrix, first, panels, first + panels, &inputs, row, part, totals);
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t r = 0; r < part; r++) {
                    int64_t column = (first + panel) * PANEL, width = min_int64(PANEL, columns - column);
                    const float *sums = totals + panel * TOTALS + r * PANEL;
                    float *to = output + (row + r) * columns + column;
                    for (int64_t c = 0; c < width; c++)
                        to[c] = sums[c] + (bias ? bias[column + c] : 0) + (add ? to[c] : 0);
                }
        }
    }
    end_products(&inputs);
}

/* SwiGLU: output [rows, intermediate] = silu(gate) · up, where gate and up are the products of inputs with the first
   and the second half of the panels of gate_up. Shared, and without a barrier at the end, like `multiply`. */
static void swiglu(
    const Matrix *gate_up, int64_t intermediate, const float *floats, int64_t length, int64_t rows, float *output,
    float *scratch) {
    Inputs inputs = begin_products(gate_up, floats, length, rows, scratch);
    int64_t count = (intermediate + PANEL - 1) / PANEL;
    Share share = own_share(count);
    for (int64_t first = share.first, panels; first < share.end; first += panels) {
        panels = min_int64(inputs.side, share.end - first);
        for (int64_t row = 0, part; row < rows; row += part) {
            float gates[GROUP * TOTALS], ups[GROUP * TOTALS];
            part = min_int64(inputs.together, rows - row);
            products(gate_up, first, panels, count + first, &inputs, row, part, gates);
            products(gate_up, count + first, panels, first + panels, &inputs, row, part, ups);
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t r = 0; r < part; r++) {
                    int64_t column = (first + panel) * PANEL, width = min_int64(PANEL, intermediate - column);
                    float *gate = gates + panel * TOTALS + r * PANEL, *product = ups + panel * TOTALS + r * PANEL;
                    for (int64_t i = 0; i < PANEL; i += WIDTH) {
                        vector x = load(gate + i);
                        store(product + i, x / (1 + exponential(-x)) * load(product + i));
                    }
                    memcpy(output + (row + r) * intermediate + column, product, width * sizeof(float));
                }
        }
    }
    end_products(&inputs);
}

#endif
