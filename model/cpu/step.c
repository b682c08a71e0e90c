/* A decode step in float32, which takes PyTorch many calls, in one; and the reading of prompts, which is
   a step of all their tokens.

   A step of so few rows reads every weight once and computes little with it, so that calls, copies
   and threads that wait for each other are most of its time in a general library. Here one team of
   threads goes through all layers; five barriers a layer are all that it waits for, six where rows
   attend to each other. What a row comes to does not depend on how many others are computed beside it.
   model/cpu/library.py compiles this; model/cpu/step.py holds the other half of the structures. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "products.h"
#include "vectors.h"

typedef struct {
    const float *attention_norm, *mlp_norm;
    Matrix qkv, out, gate_up, down;
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm, *head_in_bias, *head_out_bias, *rotations;
    Matrix head_in, head_out;
    int64_t layer_count, hidden, heads, kv_heads, head_dim, intermediate, head_hidden, vocabulary, positions;
    float epsilon;
} Model;

typedef struct {
    float *keys, *values; /* [layers, rows, kv_heads, length, head_dim] */
    int64_t rows, length;
} Cache;

static void normalise(const float *x, const float *weight, int64_t width, int64_t rows, float epsilon, float *output) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width;
        float *to = output + row * width;
        float scale = 1 / sqrtf(dot(from, from, width) / width + epsilon);
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
    }
}

static void rotate(const float *from, const float *cosines, const float *sines, int64_t width, float *to) {
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
static inline int64_t row_start(const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t head) {
    return ((layer * cache->rows + index) * model->kv_heads + head) * cache->length * model->head_dim;
}

/* One token's key and value of one key-value head, out of its [queries, keys, values], into the cache. */
static void keep(
    const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t position, int64_t head,
    const float *joined) {
    int64_t width = model->head_dim, at = row_start(model, cache, layer, index, head) + position * width;
    const float *cosines = model->rotations + position * width, *key = joined + (model->heads + head) * width;
    rotate(key, cosines, cosines + model->positions * width, width, cache->keys + at);
    memcpy(cache->values + at, key + model->kv_heads * width, width * sizeof(float));
}

/* Every query head of a key-value head's group over the tokens of its row up to its own, which are in the cache. */
static void attend(
    const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t position, int64_t head,
    const float *joined, float *scores, float *output) {
    int64_t width = model->head_dim, group = model->heads / model->kv_heads, filled = position + 1;
    int64_t start = row_start(model, cache, layer, index, head);
    const float *cosines = model->rotations + position * width, *sines = cosines + model->positions * width;
    const float *keys = cache->keys + start, *values = cache->values + start;
    float scale = 1 / sqrtf((float)width);
    for (int64_t q = head * group; q < (head + 1) * group; q++) {
        float query[width], *to = output + q * width;
        rotate(joined + q * width, cosines, sines, width, query);
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
