/* Vectors of floats that fill exactly one register of this processor. Compilers also accept longer vectors, but
   move them through memory: with 16 floats a step of 32 rows took five times as long on AVX2. */

#ifndef VECTORS_H
#define VECTORS_H

#ifdef __SSE4_1__
#include <immintrin.h>
#endif
#include <stdint.h>
#include <string.h>

/* Floats per vector. */
#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t int32s __attribute__((vector_size(4 * WIDTH)));

INLINE vector load(const float *from) { return *(const vector *)from; }

INLINE void store(float *to, vector value) { *(vector *)to = value; }

/* bfloat16: the upper half of a float's bits. */
typedef uint16_t bfloat16;

/* By intrinsics, since compilers use many instructions where processors have one. */
INLINE vector load_bfloat16(const bfloat16 *from) {
#if defined(__AVX512F__)
    int32s upper = (int32s)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from));
#elif defined(__AVX2__)
    int32s upper = (int32s)_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from));
#elif defined(__SSE4_1__)
    int32s upper = (int32s)_mm_cvtepu16_epi32(_mm_loadl_epi64((const void *)from));
#else
    typedef uint16_t uint16s __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));
    int32s upper = __builtin_convertvector(*(const uint16s *)from, int32s);
#endif
    return (vector)(upper << 16);
}

/* The nearest bfloat16; of two the even one. NaN stays NaN. */
INLINE bfloat16 to_bfloat16(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return (number != number ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

INLINE float from_bfloat16(bfloat16 number) {
    uint32_t bits = (uint32_t)number << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Have a vector in a register: compilers may else read it from memory for each of its uses. */
#ifdef __aarch64__
#define IN_REGISTER(vector) __asm__("" : "+w"(vector))
#else
#define IN_REGISTER(vector) __asm__("" : "+v"(vector))
#endif

/* Per lane: `a` where all bits of `mask` are set, `b` where none is. */
INLINE vector select_lanes(int32s mask, vector a, vector b) {
    return (vector)(((int32s)a & mask) | ((int32s)b & ~mask));
}

/* e^x in every lane, within 2 units in the last place; below −87 as at −87, above 88 as at 88; NaN stays NaN.

   e^x = 2^n e^r with |r| ≤ ln 2 / 2. The polynomial is the one of Cephes' expf (Moshier). */
INLINE vector exponential(vector x) {
    const vector low = {0}, shift = low + 12582912.0f; /* 1.5 · 2^23: adding it rounds to an integer */
    x = select_lanes(x < -87.0f, low - 87.0f, x);
    x = select_lanes(x > 88.0f, low + 88.0f, x);
    vector shifted = x * 1.44269504f + shift, n = shifted - shift;
    vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vector p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    return (vector)((int32s)p + (((int32s)shifted - (int32s)shift) << 23));
}

INLINE int64_t min_int64(int64_t a, int64_t b) { return a < b ? a : b; }

/* 0, 1, 2 … in the lanes. */
INLINE int32s lane_numbers(void) {
    int32s lanes;
    for (int i = 0; i < WIDTH; i++) lanes[i] = i;
    return lanes;
}

/* Sum over the lanes of a vector. Always adds in the same order, by halves. */
INLINE float horizontal_sum(vector v) {
#pragma GCC unroll 4
    for (int apart = WIDTH / 2; apart; apart /= 2) v += __builtin_shuffle(v, lane_numbers() ^ apart);
    return v[0];
}

/* Load `count` floats; the rest of the vector is zero. */
INLINE vector load_part(const float *from, int64_t count) {
    vector part = {0};
    memcpy(&part, from, count * sizeof(float));
    return part;
}

/* Dot product: accumulates WIDTH partial sums and adds these at the end. */
INLINE float dot(const float *a, const float *b, int64_t length) {
    vector totals = {0};
    int64_t i = 0;
    for (; i + WIDTH <= length; i += WIDTH) totals += load(a + i) * load(b + i);
    if (i < length) totals += load_part(a + i, length - i) * load_part(b + i, length - i);
    return horizontal_sum(totals);
}

#endif
