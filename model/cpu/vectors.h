/* Vectors of floats, as many as a register of this processor holds. Compilers take several registers for a
   larger one, but through memory: with 16 floats a step of 32 rows took five times as long on AVX2. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>

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

/* Of each place, the first number where `mask` is set, the second elsewhere. */
INLINE vector either(int32s mask, vector a, vector b) { return (vector)(((int32s)a & mask) | ((int32s)b & ~mask)); }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

#endif
