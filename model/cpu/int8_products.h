/* Products of rounded rows of floats with panels of 8-bit integers.

   Processors multiply 16-bit integers, two by two, at twice the rate of floats, and those that have tiles multiply bytes
   much faster still. Sums of a chunk of inputs are exact; then they are scaled and added as floats. */

#ifndef INT8_PRODUCTS_H
#define INT8_PRODUCTS_H

#include <stdint.h>
#include <string.h>

#include "matrix.h"
#include "rounded_rows.h"
#include "tiles.h"

/* With more rows the widened weights of two panels and the sums do not fit in the registers. */
#if defined(__AVX512F__)
#define FEW_ROWS_OF_INT8 12
#elif defined(__AVX2__) || defined(__aarch64__)
#define FEW_ROWS_OF_INT8 2
#else
#define FEW_ROWS_OF_INT8 1
#endif

/* 2 · WIDTH integers, widened to 16 bits; by intrinsics, since compilers use many instructions where processors have
   one. */
INLINE int32s load_pairs(const int8_t *from) {
#if defined(__AVX512BW__)
    return (int32s)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)from));
#elif defined(__AVX2__) && WIDTH == 8
    return (int32s)_mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)from));
#elif defined(__SSE4_1__) && WIDTH == 4
    return (int32s)_mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)from));
#else
    typedef int16_t int16s __attribute__((vector_size(4 * WIDTH)));
    typedef int8_t int8s __attribute__((vector_size(2 * WIDTH), aligned(1), may_alias));
    return (int32s)__builtin_convertvector(*(const int8s *)from, int16s);
#endif
}

/* The pair of inputs at `from` in every lane. */
INLINE int32s broadcast_pair(const int16_t *from) {
    int32_t pair;
    memcpy(&pair, from, sizeof pair);
    return pair - (int32s){0};
}

/* Per lane: sum + a's low half · b's low half + a's high half · b's high half. */
INLINE int32s add_products(int32s sum, int32s a, int32s b) {
#if defined(__AVX512VNNI__)
    return (int32s)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return sum + (int32s)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVXVNNI__) && WIDTH == 8
    return (int32s)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
#elif defined(__AVX2__) && WIDTH == 8
    return sum + (int32s)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE4_1__) && WIDTH == 4
    return sum + (int32s)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return sum + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

/* Integers of a column that lie side by side (`model.decoder_weights.PackedMatrix`). */
int64_t integers_together(void) { return has_tiles ? 4 : 2; }

/* A chunk of some panels of integers: `count` inputs from `at` on. Panels lie `apart` integers from each other. `fetch`: the
   next chunk of as many panels. */
typedef struct {
    const int8_t *weights, *fetch;
    int64_t apart, at, count;
} ChunkOfInt8;

/* totals [WIDTH] += sums · the scale of a row's chunk; with the first chunk, = instead. */
INLINE void add_scaled(int32s sums, const Rounded *rounded, int64_t row, int64_t at, float *totals) {
    vector before = at == 0 ? (vector){0} : load(totals);
    float scale = rounded->scales[row * rounded->chunks + at / SCALED];
    store(totals, before + __builtin_convertvector(sums, vector) * scale);
}

/* totals [panels, MOST_TOGETHER, PANEL] += `rows` rounded rows from `begin` on · `panels` panels, of a chunk; with the first
   chunk, = instead. `rows` and `panels` are known to the compiler: each case gets its own code. */
INLINE void block_of_int8(
    const int rows, const int panels, const ChunkOfInt8 *chunk, const Rounded *rounded, int64_t begin, float *totals) {
    const int16_t *inputs = rounded->integers + begin * rounded->width + chunk->at;
    int32s sums[MOST_ROWS][2 * VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) sums[r][v] = (int32s){0};
    for (int64_t i = 0; i < chunk->count; i += 2) {
        int32s weights[2 * VECTORS];
        for (int p = 0; p < panels; p++) FETCH(chunk->fetch + p * chunk->apart + i * PANEL);
        for (int v = 0; v < panels * VECTORS; v++)
            weights[v] =
                load_pairs(chunk->weights + v / VECTORS * chunk->apart + i * PANEL + v % VECTORS * 2 * WIDTH);
        for (int r = 0; r < rows; r++) {
            int32s pair = broadcast_pair(inputs + r * rounded->width + i);
            for (int v = 0; v < panels * VECTORS; v++) sums[r][v] = add_products(sums[r][v], weights[v], pair);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++)
            add_scaled(sums[r][v], rounded, begin + r, chunk->at,
                       totals + v / VECTORS * TOTALS + r * PANEL + v % VECTORS * WIDTH);
}

/* `block_of_int8` for `rows` ≤ MOST_ROWS and `panels` ≤ 2, known at run time. */
#define CASE(n)                                                                                        \
    case n:                                                                                            \
        if (n <= FEW_ROWS_OF_INT8 && panels == 2)                                                      \
            block_of_int8(n <= FEW_ROWS_OF_INT8 ? n : 1, 2, &chunk, rounded, begin, totals);           \
        else if (n <= MOST_ROWS)                                                                       \
            for (int64_t p = 0; p < panels; p++) {                                                     \
                block_of_int8(n <= MOST_ROWS ? n : 1, 1, &chunk, rounded, begin, totals + p * TOTALS); \
                chunk.weights += chunk.apart, chunk.fetch += chunk.apart;                              \
            }                                                                                          \
        break;
static void two_panels_of_int8(
    int64_t rows, int64_t panels, ChunkOfInt8 chunk, const Rounded *rounded, int64_t begin, float *totals) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
}
#undef CASE

/* `block_of_int8` for up to `tile_rows` rows, or with two blocks twice as many, by tiles. */
INLINE void blocks_of_tiles(
    const int blocks, const int panels, int64_t rows, const ChunkOfInt8 *chunk, const Rounded *rounded, int64_t begin,
    float *totals) {
    int64_t block = rounded->tile_rows;
    int32_t sums[2][2][TILE_ROWS * PANEL];
    multiply_tiles(blocks, panels, rounded->halves, begin, block, chunk->at, chunk->count, chunk->weights, chunk->fetch,
                   chunk->apart, sums[0][0]);
    for (int b = 0; b < blocks; b++)
        for (int p = 0; p < panels; p++)
            for (int64_t r = 0; r < min_int64(block, rows - b * block); r++)
                for (int64_t c = 0; c < PANEL; c += WIDTH) {
                    int64_t row = b * block + r;
                    int32s upper, lower;
                    memcpy(&upper, sums[b + p][0] + r * PANEL + c, sizeof upper);
                    memcpy(&lower, sums[b + p][1] + r * PANEL + c, sizeof lower);
                    add_scaled((upper << 8) + lower, rounded, begin + row, chunk->at,
                               totals + p * TOTALS + row * PANEL + c);
                }
}

/* Choose the case of `blocks_of_tiles`. */
static void tiles_of_int8(
    int64_t rows, int64_t panels, const ChunkOfInt8 *chunk, const Rounded *rounded, int64_t begin, float *totals) {
    if (rows > rounded->tile_rows)
        blocks_of_tiles(2, 1, rows, chunk, rounded, begin, totals);
    else if (panels == 2)
        blocks_of_tiles(1, 2, rows, chunk, rounded, begin, totals);
    else
        blocks_of_tiles(1, 1, rows, chunk, rounded, begin, totals);
}

/* totals [panels, MOST_TOGETHER, PANEL] = rounded rows, `rows` ≤ MOST_TOGETHER from `begin` on, · `panels` ≤ GROUP
   panels from `first` on. Those multiplied afterwards begin with panel `then`. For tiles, `rows` ≤ 2 · `tile_rows`. */
static void int8_products(
    const Matrix *matrix, int64_t first, int64_t panels, int64_t then, const Rounded *rounded, int64_t begin,
    int64_t rows, float *totals) {
    int64_t width = rounded->width, apart = width * PANEL;
    int64_t most = rounded->tile_rows && rows > rounded->tile_rows ? 1 : 2; /* panels at once */
    for (int64_t at = 0, count; at < width; at += count) {
        count = min_int64(SCALED, width - at);
        int64_t next = at + count < width ? first * apart + (at + count) * PANEL : then * apart;
        for (int64_t panel = 0; panel < panels; panel += most) {
            ChunkOfInt8 chunk = {matrix->bytes + (first + panel) * apart + at * PANEL,
                                 matrix->bytes + next + panel * apart, apart, at, count};
            int64_t side = min_int64(most, panels - panel);
            float *to = totals + panel * TOTALS;
            if (rounded->tile_rows)
                tiles_of_int8(rows, side, &chunk, rounded, begin, to);
            else
                for (int64_t row = 0, part; row < rows; row += part) {
                    part = block_rows(rows - row);
                    two_panels_of_int8(part, side, chunk, rounded, begin + row, to + row * PANEL);
                }
        }
    }
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < PANEL; c++)
                totals[panel * TOTALS + r * PANEL + c] *= matrix->scales[(first + panel) * PANEL + c];
}

#endif
