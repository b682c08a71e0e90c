/* Vectors of floats that fill exactly one register of this processor. Compilers also accept longer vectors, but
   move them through memory: with 16 floats a step of 32 rows took five times as long on AVX2. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>

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

/* Per lane: `a` where all bits of `mask` are set, `b` where none is. */
INLINE vector select_lanes(int32s mask, vector a, vector b) {
    return (vector)(((int32s)a & mask) | ((int32s)b & ~mask));
}

INLINE int64_t min_int64(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
