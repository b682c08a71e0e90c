/* Products of rows of floats with a matrix of floats or 8-bit integers, shared among a team of threads.

   A matrix is stored in panels of 16 columns (`model.decoder_weights.PackedMatrix`): the weights of an input lie side by
   side, so each lane of a vector is a column of its own, and an input is multiplied with all of them at once. Every sum
   runs over the inputs in their order. So the result of a row does not depend on how many other rows are computed in
   the same call, nor on the number of threads.

   Weights that are in no cache take as long to read as up to a dozen rows take to multiply. So that neither waits for
   the other, panels are multiplied chunk by chunk, and floats of the next chunk are fetched meanwhile. A processor
   reads faster from several places at once: with few rows four panels are multiplied side by side. Nothing is gained
   with 8-bit integers, where reading takes less: they are one chunk. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <omp.h>
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
#define GROUP 4          /* panels of floats side by side, of up to MOST_ROWS rows; else 2 */
#define CHUNK 64         /* inputs; their weights in two panels, and the next ones, fit in the first cache */
#define MOST_TOGETHER 24 /* rows whose sums are kept from chunk to chunk */
#define TILE (MOST_TOGETHER * PANEL)
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

/* Lines that a block fetches for each input: at `from` and at places that lie `apart` bytes from each other, each `step`
   bytes further than for the input before. */
typedef struct {
    const char *from;
    int64_t step, apart;
} Fetch;

/* A chunk of some panels of a matrix, and of inputs. `offset` is where its weights begin, in weights; panels lie
   `length` · PANEL weights apart, and rows of inputs `length` floats. */
typedef struct {
    const Matrix *matrix;
    int64_t offset, length, count;
    const float *inputs;
    int is_first; /* of its panels */
} Chunk;

/* tiles [panels, MOST_TOGETHER, PANEL] += `rows` rows of a chunk's inputs · `panels` of its panels; with the first
   chunk, = instead. `is_int8`, `rows`, `panels` and `places` are known to the compiler: each case gets its own code. */
INLINE void block(
    const int is_int8, const int rows, const int panels, const int places, const Chunk *chunk, Fetch fetch,
    float *tiles) {
    const float *inputs = chunk->inputs;
    int64_t length = chunk->length;
    vector sums[MOST_ROWS][2 * VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) {
            const float *sum = tiles + v / VECTORS * TILE + r * PANEL + v % VECTORS * WIDTH;
            sums[r][v] = chunk->is_first ? (vector){0} : load(sum);
        }
    for (int64_t i = 0; i < chunk->count; i++) {
        for (int p = 0; p < places; p++) __builtin_prefetch(fetch.from + p * fetch.apart + i * fetch.step);
        vector weights[2 * VECTORS];
        for (int v = 0; v < panels * VECTORS; v++) {
            int64_t from = chunk->offset + (v / VECTORS * length + i) * PANEL + v % VECTORS * WIDTH;
            weights[v] = is_int8 ? load_int8(chunk->matrix->bytes + from) : load(chunk->matrix->floats + from);
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < panels * VECTORS; v++) sums[r][v] += inputs[r * length + i] * weights[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++)
            store(tiles + v / VECTORS * TILE + r * PANEL + v % VECTORS * WIDTH, sums[r][v]);
}

/* `block` for `rows` ≤ MOST_ROWS and `panels` ≤ 2, known at run time. If `places` is 0, blocks of floats fetch from one
   place for each of their panels, which lie as far apart as the panels. */
#define FEW(is_int8) (is_int8 ? FEW_ROWS_OF_INT8 : FEW_ROWS)
#define PLACES(panels) (is_int8 ? 0 : places ? places : panels)
#define CASE(n)                                                                                             \
    case n:                                                                                                 \
        if (n <= FEW(is_int8) && panels == 2) {                                                             \
            if (places) fetch.step *= 2;                                                                    \
            block(is_int8, n <= FEW(is_int8) ? n : 1, 2, PLACES(2), &chunk, fetch, tiles);                  \
        } else if (n <= MOST_ROWS)                                                                          \
            for (int64_t p = 0; p < panels; p++) {                                                          \
                block(is_int8, n <= MOST_ROWS ? n : 1, 1, PLACES(1), &chunk, fetch, tiles + p * TILE);      \
                chunk.offset += chunk.length * PANEL;                                                       \
                fetch.from += places ? chunk.count * fetch.step : fetch.apart;                              \
            }                                                                                               \
        break;
INLINE void two_panels(
    const int is_int8, const int places, int64_t rows, int64_t panels, Chunk chunk, Fetch fetch, float *tiles) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
}
#undef CASE
#undef PLACES
#undef FEW

/* Rows of the next block if `left` are left: as many as fit, and else equal parts. */
static inline int64_t block_rows(int64_t left) {
    if (left > MOST_ROWS && left <= MOST_ROWS + FEW_ROWS) return MOST_ROWS;
    int64_t blocks = (left + MOST_ROWS - 1) / MOST_ROWS;
    return (left + blocks - 1) / blocks;
}

/* tiles [panels, MOST_TOGETHER, PANEL] = `rows` ≤ MOST_TOGETHER rows of inputs [rows, length] · `panels` ≤ GROUP
   panels, from `first` on. Those multiplied afterwards begin with panel `then`. The blocks of a chunk fetch equal parts
   of the next one: of all its panels or, if `places` is 0, of those that they multiply. */
INLINE void products_typed(
    const int is_int8, const int places, const Matrix *matrix, int64_t first, int64_t panels, int64_t then,
    const float *inputs, int64_t length, int64_t rows, float *tiles) {
    for (int64_t at = 0, count, part; at < length; at += count) {
        count = is_int8 ? length : min_int64(CHUNK, length - at);
        int64_t next = at + count < length ? first * length + at + count : then * length;
        for (int64_t panel = 0; panel < panels; panel += 2)
            for (int64_t row = 0; row < rows; row += part) {
                part = block_rows(rows - row);
                Chunk chunk = {matrix, ((first + panel) * length + at) * PANEL, length, count,
                               inputs + row * length + at, at == 0};
                Fetch fetch = {is_int8 ? 0 : (const char *)(matrix->floats + next * PANEL), LINE * part / rows,
                               length * LINE};
                if (places) {
                    fetch.from += count * LINE * panel / panels;
                    fetch.step /= places;
                } else
                    fetch.from += panel * fetch.apart + count * LINE * row / rows;
                two_panels(is_int8, places, part, min_int64(2, panels - panel), chunk, fetch,
                           tiles + panel * TILE + row * PANEL);
            }
    }
    if (is_int8)
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < PANEL; c++)
                    tiles[panel * TILE + r * PANEL + c] *= matrix->scales[(first + panel) * PANEL + c];
}

/* `products_typed` for any matrix. */
static void products(
    const Matrix *matrix, int64_t first, int64_t panels, int64_t then, const float *inputs, int64_t length,
    int64_t rows, float *tiles) {
    if (matrix->bytes)
        products_typed(1, 0, matrix, first, panels, then, inputs, length, rows, tiles);
    else if (panels == GROUP)
        products_typed(0, GROUP, matrix, first, panels, then, inputs, length, rows, tiles);
    else
        products_typed(0, 0, matrix, first, panels, then, inputs, length, rows, tiles);
}

/* A thread's panels, and how many of them it multiplies side by side. */
typedef struct {
    int64_t first, end, group;
} Share;

/* This thread's share of `count` panels, by pairs. */
static inline Share own_share(const Matrix *matrix, int64_t count, int64_t rows) {
    int64_t pairs = (count + 1) / 2, thread = omp_get_thread_num(), threads = omp_get_num_threads();
    Share share = {2 * (pairs * thread / threads), min_int64(2 * (pairs * (thread + 1) / threads), count),
                   rows <= MOST_ROWS && matrix->floats ? GROUP : 2};
    return share;
}

/* output [rows, columns] = inputs [rows, length] · matrix + bias; with `add`, += instead. `bias` may be null.
   The threads of the team share the work; there is no barrier at the end. */
static void multiply(
    const Matrix *matrix, const float *bias, int64_t columns, const float *inputs, int64_t length, int64_t rows,
    float *output, int add) {
    Share share = own_share(matrix, (columns + PANEL - 1) / PANEL, rows);
    for (int64_t first = share.first, panels; first < share.end; first += panels) {
        panels = min_int64(share.group, share.end - first);
        for (int64_t row = 0, part; row < rows; row += part) {
            float tiles[GROUP * TILE];
            part = min_int64(MOST_TOGETHER, rows - row);
            products(matrix, first, panels, first + panels, inputs + row * length, length, part, tiles);
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t r = 0; r < part; r++) {
                    int64_t column = (first + panel) * PANEL, width = min_int64(PANEL, columns - column);
                    const float *sums = tiles + panel * TILE + r * PANEL;
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
    Share share = own_share(gate_up, count, rows);
    for (int64_t first = share.first, panels; first < share.end; first += panels) {
        panels = min_int64(share.group, share.end - first);
        for (int64_t row = 0, part; row < rows; row += part) {
            float gates[GROUP * TILE], ups[GROUP * TILE];
            part = min_int64(MOST_TOGETHER, rows - row);
            products(gate_up, first, panels, count + first, inputs + row * length, length, part, gates);
            products(gate_up, count + first, panels, first + panels, inputs + row * length, length, part, ups);
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t r = 0; r < part; r++) {
                    int64_t column = (first + panel) * PANEL, width = min_int64(PANEL, intermediate - column);
                    float *gate = gates + panel * TILE + r * PANEL, *product = ups + panel * TILE + r * PANEL;
                    for (int64_t i = 0; i < PANEL; i += WIDTH) {
                        vector x = load(gate + i);
                        store(product + i, x / (1 + exponential(-x)) * load(product + i));
                    }
                    memcpy(output + (row + r) * intermediate + column, product, width * sizeof(float));
                }
        }
    }
}

#endif
