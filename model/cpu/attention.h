/* Attention of new tokens to the keys and values of their cache rows.

   Keys of BLOCK positions are stored dimension by dimension, so that each lane of a vector is a position of its own: scores
   need no sums over lanes. Tokens of one cache row are computed together, up to MOST_TOKENS, and read each key and value
   once. A token's result does not depend on how many others are computed with it. With many rows, reading keys and values takes
   longer than reading weights: beside int8 weights they are bfloat16. */

#ifndef ATTENTION_H
#define ATTENTION_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define BLOCK 16              /* positions */
#define PARTS (BLOCK / WIDTH) /* vectors of a block's width */
#define CHAINS 2              /* sums over dimensions, added at the end: one would wait for itself */
#define MEANS 4               /* vectors of values averaged together; twice as many for up to MOST_TOKENS / 2 tokens */
#define AHEAD 2048            /* bytes to fetch ahead of what is read: processors by themselves stop at the end of a page */

/* Sums fill the registers: CHAINS of as many tokens and blocks of keys, or a token's MEANS. */
#if defined(__AVX512F__)
#define MOST_TOKENS 4
#define BLOCKS 2
#elif defined(__AVX2__) || defined(__aarch64__)
#define MOST_TOKENS 2
#define BLOCKS 1
#else
#define MOST_TOKENS 1
#define BLOCKS 1
#endif

/* `narrow`: whether keys and values are bfloat16, else floats. */
typedef struct {
    void *keys;   /* [layers, rows, kv_heads, blocks, head_dim, BLOCK] */
    void *values; /* [layers, rows, kv_heads, length, head_dim] */
    int64_t rows, length, narrow;
} Cache;

/* rotations: [2, positions, head_dim], cosines and signed sines. */
typedef struct {
    const Cache *cache;
    const float *rotations;
    int64_t positions, heads, kv_heads, head_dim;
} Attention;

INLINE int64_t blocks_of(int64_t length) { return (length + BLOCK - 1) / BLOCK; }

/* Floats of scratch memory that `attend` needs. */
INLINE int64_t attention_floats(int64_t length, int64_t head_dim) {
    return MOST_TOKENS * (blocks_of(length) * BLOCK + head_dim);
}

/* Rotary position embedding of one head [width]; the sines of the first half are negated. */
static void rotate(const Attention *attention, int64_t position, const float *from, float *to) {
    int64_t width = attention->head_dim, half = width / 2;
    const float *cosines = attention->rotations + position * width, *sines = cosines + attention->positions * width;
    for (int64_t i = 0; i < half; i++) to[i] = from[i] * cosines[i] + from[i + half] * sines[i];
    for (int64_t i = half; i < width; i++) to[i] = from[i] * cosines[i] + from[i - half] * sines[i];
}

/* Number of a cache row's key-value head among those of all layers. */
INLINE int64_t head_number(const Attention *attention, int64_t layer, int64_t cache_row, int64_t head) {
    return (layer * attention->cache->rows + cache_row) * attention->kv_heads + head;
}

/* Numbers of keys or values from number `at` on. `narrow` is known to the compiler. */
INLINE vector load_kept(const int narrow, const void *kept, int64_t at) {
    const char *from = (const char *)kept + at * (narrow ? sizeof(bfloat16) : sizeof(float));
    __builtin_prefetch(from + AHEAD);
    return narrow ? load_bfloat16((const bfloat16 *)from) : load((const float *)from);
}

INLINE float kept_number(const int narrow, const void *kept, int64_t at) {
    return narrow ? from_bfloat16(((const bfloat16 *)kept)[at]) : ((const float *)kept)[at];
}

/* Write `count` numbers, `step` apart from number `at` on. */
INLINE void keep(const Cache *cache, void *kept, int64_t at, int64_t step, const float *from, int64_t count) {
    if (cache->narrow)
        for (int64_t i = 0; i < count; i++) ((bfloat16 *)kept)[at + i * step] = to_bfloat16(from[i]);
    else
        for (int64_t i = 0; i < count; i++) ((float *)kept)[at + i * step] = from[i];
}

/* Rotate a token's key for one key-value head, and write it and the value into the cache.
   qkv is the token's [queries, keys, values]. */
static void store_key_value(
    const Attention *attention, int64_t layer, int64_t cache_row, int64_t position, int64_t head, const float *qkv) {
    const Cache *cache = attention->cache;
    int64_t width = attention->head_dim, number = head_number(attention, layer, cache_row, head);
    int64_t block = number * blocks_of(cache->length) + position / BLOCK;
    float rotated[width];
    const float *key = qkv + (attention->heads + head) * width;
    rotate(attention, position, key, rotated);
    keep(cache, cache->keys, block * BLOCK * width + position % BLOCK, BLOCK, rotated, width);
    keep(cache, cache->values, (number * cache->length + position) * width, 1, key + attention->kv_heads * width, width);
}

/* A row's keys and values of one head. */
typedef struct {
    const void *keys, *values;
    int64_t width; /* head_dim */
} Head;

/* scores [tokens, stride] of `blocks` blocks of keys, from `block` on = queries [tokens, width] · keys · scale. `narrow`, `tokens`
   and `blocks` are known to the compiler. */
INLINE void score_blocks(
    const int narrow, const int tokens, const int blocks, const float *queries, const Head *head, int64_t block,
    float scale, float *scores, int64_t stride) {
    int64_t width = head->width, first = block * BLOCK * width;
    vector sums[MOST_TOKENS][BLOCKS * PARTS][CHAINS];
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < blocks * PARTS; v++)
            for (int c = 0; c < CHAINS; c++) sums[t][v][c] = (vector){0};
    for (int64_t i = 0; i + CHAINS <= width; i += CHAINS)
        for (int c = 0; c < CHAINS; c++)
            for (int v = 0; v < blocks * PARTS; v++) {
                int64_t at = first + v / PARTS * BLOCK * width + (i + c) * BLOCK + v % PARTS * WIDTH;
                vector key = load_kept(narrow, head->keys, at);
                if (tokens > 1) IN_REGISTER(key);
                for (int t = 0; t < tokens; t++) sums[t][v][c] += queries[t * width + i + c] * key;
            }
    for (int t = 0; t < tokens; t++)
        for (int v = 0; v < blocks * PARTS; v++)
            store(scores + t * stride + block * BLOCK + v * WIDTH, (sums[t][v][0] + sums[t][v][1]) * scale);
}

/* Turn scores [stride], of which `count` count, into weights; the others become zero. Returns the weights' sum. */
static float weigh(float *scores, int64_t count, int64_t stride) {
    vector peaks = (vector){0} - INFINITY, totals = {0};
    int32s lanes = lane_numbers();
    for (int64_t at = 0; at < stride; at += WIDTH) {
        vector part = load(scores + at);
        peaks = select_lanes((part > peaks) & (lanes < (int32_t)(count - at)), part, peaks);
    }
    float peak = peaks[0];
    for (int i = 1; i < WIDTH; i++) peak = peaks[i] > peak ? peaks[i] : peak;
    for (int64_t at = 0; at < stride; at += WIDTH) {
        vector weight = exponential(load(scores + at) - peak);
        weight = select_lanes(lanes < (int32_t)(count - at), weight, (vector){0});
        store(scores + at, weight);
        totals += weight;
    }
    return horizontal_sum(totals);
}

/* outputs [tokens][vectors · WIDTH] = weights [tokens, stride] · values / totals. Token t attends to `count` + t positions.
   `narrow`, `tokens` and `vectors` are known to the compiler. */
INLINE void weighted_means(
    const int narrow, const int tokens, const int vectors, const float *weights, int64_t stride, const Head *head,
    int64_t count, const float *totals, float *const *outputs, int64_t at) {
    int64_t width = head->width;
    vector sums[MOST_TOKENS][2 * MEANS];
    for (int t = 0; t < tokens; t++)
        for (int i = 0; i < vectors; i++) sums[t][i] = (vector){0};
    for (int64_t p = 0; p < count; p++)
        for (int i = 0; i < vectors; i++) {
            vector value = load_kept(narrow, head->values, p * width + at + i * WIDTH);
            if (tokens > 1) IN_REGISTER(value);
            for (int t = 0; t < tokens; t++) sums[t][i] += weights[t * stride + p] * value;
        }
    for (int t = 0; t < tokens; t++) {
        for (int64_t p = count; p < count + t; p++)
            for (int i = 0; i < vectors; i++)
                sums[t][i] += weights[t * stride + p] * load_kept(narrow, head->values, p * width + at + i * WIDTH);
        for (int i = 0; i < vectors; i++) store(outputs[t] + at + i * WIDTH, sums[t][i] / totals[t]);
    }
}

/* Attention of one query head of `tokens` ≤ MOST_TOKENS tokens of a cache row, whose positions follow each other from `position`
   on, to keys and values. `queries` [tokens, head_dim] are rotated. `narrow` and `tokens` are known to the compiler. */
INLINE void attend_together(
    const int narrow, const int tokens, const float *queries, const Head *head, int64_t position, float *scores,
    float *const *outputs) {
    int64_t count = position + 1, blocks = blocks_of(count + tokens - 1), stride = blocks * BLOCK, block = 0, i = 0;
    int64_t width = head->width;
    float scale = 1 / sqrtf((float)width), totals[MOST_TOKENS];
    for (; block + BLOCKS <= blocks; block += BLOCKS)
        score_blocks(narrow, tokens, BLOCKS, queries, head, block, scale, scores, stride);
    for (; block < blocks; block++) score_blocks(narrow, tokens, 1, queries, head, block, scale, scores, stride);
    for (int t = 0; t < tokens; t++) totals[t] = weigh(scores + t * stride, count + t, stride);
    if (tokens <= MOST_TOKENS / 2)
        for (; i + 2 * MEANS * WIDTH <= width; i += 2 * MEANS * WIDTH)
            weighted_means(narrow, tokens, 2 * MEANS, scores, stride, head, count, totals, outputs, i);
    for (; i + MEANS * WIDTH <= width; i += MEANS * WIDTH)
        weighted_means(narrow, tokens, MEANS, scores, stride, head, count, totals, outputs, i);
    for (; i + WIDTH <= width; i += WIDTH)
        weighted_means(narrow, tokens, 1, scores, stride, head, count, totals, outputs, i);
    for (; i < width; i++)
        for (int t = 0; t < tokens; t++) {
            float sum = 0;
            for (int64_t p = 0; p < count + t; p++)
                sum += scores[t * stride + p] * kept_number(narrow, head->values, p * width + i);
            outputs[t][i] = sum / totals[t];
        }
}

/* Attention of the query heads that share one key-value head, of `tokens` ≤ MOST_TOKENS tokens of a cache row, whose positions
   follow each other from `position` on. Their keys and values must be in the cache.

   qkv [tokens, qkv_width] → output [tokens, heads · head_dim]. `scratch` as `attention_floats` says. */
static void attend(
    const Attention *attention, int64_t layer, int64_t cache_row, int64_t position, int64_t tokens, int64_t head,
    const float *qkv, int64_t qkv_width, float *scratch, float *output) {
    const Cache *cache = attention->cache;
    int64_t width = attention->head_dim, group = attention->heads / attention->kv_heads;
    int64_t number = head_number(attention, layer, cache_row, head);
    int64_t size = cache->narrow ? sizeof(bfloat16) : sizeof(float);
    Head kept = {(const char *)cache->keys + number * blocks_of(cache->length) * BLOCK * width * size,
                 (const char *)cache->values + number * cache->length * width * size, width};
    float *queries = scratch, *scores = scratch + MOST_TOKENS * width, *outputs[MOST_TOKENS];
    for (int64_t q = head * group; q < (head + 1) * group; q++) {
        for (int64_t t = 0; t < tokens; t++) {
            rotate(attention, position + t, qkv + t * qkv_width + q * width, queries + t * width);
            outputs[t] = output + (t * attention->heads + q) * width;
        }
        switch (tokens) {
#define CASE(n)                                                                                   \
    case n:                                                                                       \
        if (cache->narrow)                                                                        \
            attend_together(1, n <= MOST_TOKENS ? n : 1, queries, &kept, position, scores, outputs); \
        else                                                                                      \
            attend_together(0, n <= MOST_TOKENS ? n : 1, queries, &kept, position, scores, outputs); \
        break;
            CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
        }
    }
}

#endif
