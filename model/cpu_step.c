/* A decode step in float32, which takes PyTorch many calls, in one; and the reading of prompts, which is
   a step of all their tokens.

   A step of so few rows reads every weight once and computes little with it, so that calls, copies
   and threads that wait for each other are most of its time in a general library. Here one team of
   threads goes through all layers; five barriers a layer are all that it waits for, six where rows
   attend to each other. What a row comes to does not depend on how many others are computed beside it.
   model/native.py compiles this; model/cpu_step.py holds the other half of the structures. */

#ifdef __AVX2__
#include <immintrin.h>
#endif
#include <math.h>
#include <omp.h>
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

typedef struct {
    const float *attention_norm, *mlp_norm;
    Matrix qkv, out, gate_up, down;
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm, *head_in_bias, *head_out_bias, *turns;
    Matrix head_in, head_out;
    int64_t layer_count, hidden, heads, kv_heads, head_dim, intermediate, head_hidden, vocabulary, positions;
    float epsilon;
} Model;

typedef struct {
    float *keys, *values; /* [layers, rows, kv_heads, length, head_dim] */
    int64_t rows, length;
} Cache;

/* Of two vectors, halves, then quarters of each, and so on. */
static const places LOW[] = {
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

static void normalise(const float *x, const float *weight, int64_t width, int64_t rows, float epsilon, float *output) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width;
        float *to = output + row * width;
        float scale = 1 / sqrtf(dot(from, from, width) / width + epsilon);
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
    }
}

static void turn(const float *from, const float *cosines, const float *sines, int64_t width, float *to) {
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i++) to[i] = from[i] * cosines[i] + from[i + half] * sines[i];
    for (int64_t i = half; i < width; i++) to[i] = from[i] * cosines[i] + from[i - half] * sines[i];
}

/* scores [count] = keys [count, width] · query · scale; returns the largest. */
static float score(const float *query, const float *keys, int64_t count, int64_t width, float scale, float *scores) {
    float peak = -INFINITY;
    for (int64_t first = 0; first < count; first += WIDTH) {
        int64_t many = least(WIDTH, count - first);
        const float *key = keys + first * width;
        if (many == WIDTH && width % WIDTH == 0) {
            vector totals[WIDTH] = {0};
            for (int64_t i = 0; i < width; i += WIDTH) {
                vector part = load(query + i);
                for (int k = 0; k < WIDTH; k++) totals[k] += load(key + k * width + i) * part;
            }
            vector all = sums(totals) * scale;
            memcpy(scores + first, &all, sizeof all);
        } else {
            for (int64_t k = 0; k < many; k++) scores[first + k] = dot(key + k * width, query, width) * scale;
        }
        for (int64_t k = first; k < first + many; k++) peak = scores[k] > peak ? scores[k] : peak;
    }
    return peak;
}

/* output [wide] = the rows of values [count, width] in the proportion of their weights, which sum to `total`. */
INLINE void mix(
    const float *weights, const float *values, int64_t count, int64_t width, int wide, float total, float *output) {
    vector mixed[COLUMNS] = {0};
    for (int64_t t = 0; t < count; t++)
        for (int i = 0; i < wide; i++) mixed[i] += weights[t] * load(values + t * width + i * WIDTH);
    for (int i = 0; i < wide; i++) {
        vector share = mixed[i] / total;
        memcpy(output + i * WIDTH, &share, sizeof share);
    }
}

/* Where the keys of a row of the cache begin, for one layer and key-value head; its values likewise. */
static inline int64_t place(const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t head) {
    return ((layer * cache->rows + index) * model->kv_heads + head) * cache->length * model->head_dim;
}

/* One token's key and value of one key-value head, out of its [queries, keys, values], into the cache. */
static void keep(
    const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t position, int64_t head,
    const float *joined) {
    int64_t width = model->head_dim, at = place(model, cache, layer, index, head) + position * width;
    const float *cosines = model->turns + position * width, *key = joined + (model->heads + head) * width;
    turn(key, cosines, cosines + model->positions * width, width, cache->keys + at);
    memcpy(cache->values + at, key + model->kv_heads * width, width * sizeof(float));
}

/* Every query head of a key-value head's group over the tokens of its row up to its own, which are in the cache. */
static void attend(
    const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t position, int64_t head,
    const float *joined, float *scores, float *output) {
    int64_t width = model->head_dim, group = model->heads / model->kv_heads, filled = position + 1;
    int64_t start = place(model, cache, layer, index, head);
    const float *cosines = model->turns + position * width, *sines = cosines + model->positions * width;
    const float *keys = cache->keys + start, *values = cache->values + start;
    float scale = 1 / sqrtf((float)width);
    for (int64_t q = head * group; q < (head + 1) * group; q++) {
        float query[width], *to = output + q * width;
        turn(joined + q * width, cosines, sines, width, query);
        float total = 0, peak = score(query, keys, filled, width, scale, scores);
        for (int64_t t = 0; t < filled; t++) total += scores[t] = expf(scores[t] - peak);
        int64_t i = 0;
        for (; i + COLUMNS * WIDTH <= width; i += COLUMNS * WIDTH)
            mix(scores, values + i, filled, width, COLUMNS, total, to + i);
        for (; i + WIDTH <= width; i += WIDTH) mix(scores, values + i, filled, width, 1, total, to + i);
        for (; i < width; i++) {
            to[i] = 0;
            for (int64_t t = 0; t < filled; t++) to[i] += scores[t] * values[t * width + i];
            to[i] /= total;
        }
    }
}

/* Numbers of scratch memory that a step of so many rows needs. */
int64_t step_scratch(const Model *model, int64_t rows, int64_t length, int64_t threads) {
    int64_t qkv = (model->heads + 2 * model->kv_heads) * model->head_dim;
    int64_t wide = model->intermediate > model->head_hidden ? model->intermediate : model->head_hidden;
    return rows * (model->hidden + qkv + model->heads * model->head_dim + wide) +
           threads * (rows * model->hidden + length);
}

/* tokens, index, positions [rows] → logits [ends, vocabulary].

   A token is what `table` […, hidden] holds at its number; the cache gains each at its position of its row
   `index`, and it sees what is there up to itself. Where `last` [ends] is given, the rows may be tokens of the
   same sequences, and only those that it counts up, ascending, get logits; else all do. Positions go on by one. */
void step(
    const Model *model, const Cache *cache, const float *table, int64_t rows, const int64_t *tokens,
    const int64_t *index, int64_t *positions, int64_t ends, const int64_t *last, float *logits, float *scratch,
    int64_t threads) {
    int64_t hidden = model->hidden, attended_width = model->heads * model->head_dim;
    int64_t qkv = attended_width + 2 * model->kv_heads * model->head_dim;
    float *x = scratch;
    float *joined = x + rows * hidden;
    float *attended = joined + rows * qkv;
    float *inner = attended + rows * attended_width;
    float *private = inner + rows * (model->intermediate > model->head_hidden ? model->intermediate : model->head_hidden);
    for (int64_t row = 0; row < rows; row++)
        memcpy(x + row * hidden, table + tokens[row] * hidden, hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        /* each thread normalises for itself: that costs less than waiting for another to do it */
        float *normed = private + omp_get_thread_num() * (rows * hidden + cache->length);
        float *scores = normed + rows * hidden;
        for (int64_t number = 0; number < model->layer_count; number++) {
            const Layer *layer = model->layers + number;
            normalise(x, layer->attention_norm, hidden, rows, model->epsilon, normed);
            multiply(&layer->qkv, 0, qkv, normed, hidden, rows, joined, 0);
#pragma omp barrier
            if (last) { /* a token's keys have to be there before the later ones look at them */
#pragma omp for schedule(static)
                for (int64_t item = 0; item < rows * model->kv_heads; item++) {
                    int64_t row = item / model->kv_heads, head = item % model->kv_heads;
                    keep(model, cache, number, index[row], positions[row], head, joined + row * qkv);
                }
            }
#pragma omp for schedule(static)
            for (int64_t item = 0; item < rows * model->kv_heads; item++) {
                int64_t row = item / model->kv_heads, head = item % model->kv_heads;
                const float *own = joined + row * qkv;
                if (!last) keep(model, cache, number, index[row], positions[row], head, own);
                attend(model, cache, number, index[row], positions[row], head, own, scores,
                       attended + row * attended_width);
            }
            multiply(&layer->out, 0, hidden, attended, attended_width, rows, x, 1);
#pragma omp barrier
            normalise(x, layer->mlp_norm, hidden, rows, model->epsilon, normed);
            gated(&layer->gate_up, model->intermediate, normed, hidden, rows, inner);
#pragma omp barrier
            multiply(&layer->down, 0, hidden, inner, model->intermediate, rows, x, 1);
#pragma omp barrier
        }
        for (int64_t end = 0; end < ends; end++)
            normalise(x + (last ? last[end] : end) * hidden, model->norm, hidden, 1, model->epsilon, normed + end * hidden);
        multiply(&model->head_in, model->head_in_bias, model->head_hidden, normed, hidden, ends, inner, 0);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t i = 0; i < ends * model->head_hidden; i++)
            inner[i] = 0.5f * inner[i] * (1 + erff(inner[i] * 0.70710678f)); /* GELU */
        multiply(&model->head_out, model->head_out_bias, model->vocabulary, inner, model->head_hidden, ends, logits, 0);
    }
    for (int64_t row = 0; row < rows; row++) positions[row]++;
}
