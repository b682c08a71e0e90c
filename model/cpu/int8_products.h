/* Products of rows of floats with panels of 8-bit integers.

   Processors multiply 16-bit integers, two by two, at twice the rate of floats, and widen 8-bit ones to them in one
   instruction. So rows are rounded to 16-bit integers, with one scale for each chunk of inputs, which keeps inputs apart
   that are much larger than others. Rounding adds an error of about 1/32767 of a chunk's largest input to each, where
   the weights' own is 1/254 of an output's largest weight. Sums of a chunk are exact. */

#ifndef INT8_PRODUCTS_H
#define INT8_PRODUCTS_H

#ifdef __SSE4_1__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "matrix.h"

#define LARGEST 32767   /* magnitude of a rounded input */
#define SMALLEST 1e-30f /* chunks of inputs below it are zero, so that no scale has an infinite inverse */
#define SCALED 128      /* inputs of a chunk: sums of 128 · 32767 · 127 fit in 32 bits */

/* With more rows the widened weights of two panels and the sums do not fit in the registers. */
#if defined(__AVX512F__)
#define FEW_ROWS_OF_INT8 12
#elif defined(__AVX2__) || defined(__aarch64__)
#define FEW_ROWS_OF_INT8 2
#else
#define FEW_ROWS_OF_INT8 1
#endif

/* Rows as integers [rows, 2 · pairs] and scales [rows, chunks]; an input is its integer times its chunk's scale. Where a
   last pair lacks its second input, anything may stand: its weights are zero. */
typedef struct {
    int16_t *integers;
    float *scales;
} Rounded;

INLINE int64_t pairs_of(int64_t length) { return (length + 1) / 2; }
INLINE int64_t chunks_of(int64_t length) { return (length + SCALED - 1) / SCALED; }

/* Floats of memory that `rows` rounded rows take. */
INLINE int64_t rounded_floats(int64_t length, int64_t rows) { return rows * (pairs_of(length) + chunks_of(length)); }

/* Such rows in `memory`. */
INLINE Rounded rounded_in(float *memory, int64_t length, int64_t rows) {
    Rounded rounded = {(int16_t *)memory, memory + rows * pairs_of(length)};
    return rounded;
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

/* Round rows of inputs [rows, length]. */
static void round_rows(const float *inputs, int64_t length, int64_t rows, Rounded rounded) {
    int64_t width = 2 * pairs_of(length), chunks = chunks_of(length);
    for (int64_t row = 0; row < rows; row++) {
        int16_t *integers = rounded.integers + row * width;
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t at = chunk * SCALED;
            rounded.scales[row * chunks + chunk] =
                round_chunk(inputs + row * length + at, min_int64(SCALED, length - at), integers + at);
        }
    }
}

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

INLINE vector to_floats(int32s integers) { return __builtin_convertvector(integers, vector); }

/* A chunk of some panels of integers, and of rounded rows. Panels lie `apart` integers from each other, rows `width`
   inputs and `chunks` scales. `fetch`: the next chunk of the same number of panels. */
typedef struct {
    const int8_t *weights, *fetch;
    int64_t apart, pairs;
    const int16_t *inputs;
    int64_t width;
    const float *scales;
    int64_t chunks;
    int is_first; /* of its panels */
} ChunkOfInt8;

/* tiles [panels, MOST_TOGETHER, PANEL] += `rows` rows of a chunk's inputs · `panels` of its panels; with the first
   chunk, = instead. `rows` and `panels` are known to the compiler: each case gets its own code. */
INLINE void block_of_int8(const int rows, const int panels, const ChunkOfInt8 *chunk, float *tiles) {
    const int16_t *inputs = chunk->inputs;
    int32s sums[MOST_ROWS][2 * VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) sums[r][v] = (int32s){0};
    for (int64_t i = 0; i < chunk->pairs; i++) {
        int32s weights[2 * VECTORS];
        for (int p = 0; p < panels; p++) __builtin_prefetch(chunk->fetch + p * chunk->apart + i * 2 * PANEL);
        for (int v = 0; v < panels * VECTORS; v++)
            weights[v] =
                load_pairs(chunk->weights + v / VECTORS * chunk->apart + i * 2 * PANEL + v % VECTORS * 2 * WIDTH);
        for (int r = 0; r < rows; r++) {
            int32s pair = broadcast_pair(inputs + r * chunk->width + 2 * i);
            for (int v = 0; v < panels * VECTORS; v++) sums[r][v] = add_products(sums[r][v], weights[v], pair);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) {
            float *sum = tiles + v / VECTORS * TILE + r * PANEL + v % VECTORS * WIDTH;
            vector before = chunk->is_first ? (vector){0} : load(sum);
            store(sum, before + to_floats(sums[r][v]) * chunk->scales[r * chunk->chunks]);
        }
}

/* `block_of_int8` for `rows` ≤ MOST_ROWS and `panels` ≤ 2, known at run time. */
#define CASE(n)                                                                        \
    case n:                                                                            \
        if (n <= FEW_ROWS_OF_INT8 && panels == 2)                                      \
            block_of_int8(n <= FEW_ROWS_OF_INT8 ? n : 1, 2, &chunk, tiles);            \
        else if (n <= MOST_ROWS)                                                       \
            for (int64_t p = 0; p < panels; p++) {                                     \
                block_of_int8(n <= MOST_ROWS ? n : 1, 1, &chunk, tiles + p * TILE);    \
                chunk.weights += chunk.apart, chunk.fetch += chunk.apart;              \
            }                                                                          \
        break;
static void two_panels_of_int8(int64_t rows, int64_t panels, ChunkOfInt8 chunk, float *tiles) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
}
#undef CASE

/* tiles [panels, MOST_TOGETHER, PANEL] = rounded rows, `rows` ≤ MOST_TOGETHER from `begin` on, · `panels` ≤ GROUP panels
   from `first` on. Those multiplied afterwards begin with panel `then`. */
static void int8_products(
    const Matrix *matrix, int64_t first, int64_t panels, int64_t then, Rounded rounded, int64_t length, int64_t begin,
    int64_t rows, float *tiles) {
    int64_t width = 2 * pairs_of(length), chunks = chunks_of(length), apart = width * PANEL;
    for (int64_t at = 0, count; at < width; at += count) {
        count = min_int64(SCALED, width - at);
        int64_t next = at + count < width ? first * apart + (at + count) * PANEL : then * apart;
        for (int64_t panel = 0; panel < panels; panel += 2)
            for (int64_t row = begin, part; row < begin + rows; row += part) {
                part = block_rows(begin + rows - row);
                ChunkOfInt8 chunk = {matrix->bytes + (first + panel) * apart + at * PANEL,
                                     matrix->bytes + next + panel * apart,
                                     apart,
                                     count / 2,
                                     rounded.integers + row * width + at,
                                     width,
                                     rounded.scales + row * chunks + at / SCALED,
                                     chunks,
                                     at == 0};
                two_panels_of_int8(
                    part, min_int64(2, panels - panel), chunk, tiles + panel * TILE + (row - begin) * PANEL);
            }
    }
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < PANEL; c++)
                tiles[panel * TILE + r * PANEL + c] *= matrix->scales[(first + panel) * PANEL + c];
}

#endif
