/* The decoder step in float32 as one function, where PyTorch needs many calls. Prompts are read by the same
   function: a step of all their tokens.

   A step of few rows reads every weight once and computes little with it. In a general library most of its time
   goes into calls, copies and threads that wait for each other. Here one team of threads goes through all layers
   with five barriers per layer, or six where rows attend to each other. The result of a row does not depend on how
   many other rows are computed in the same call. model/cpu/library.py compiles this file; model/cpu/step.py declares
   the same structures. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "products.h"
#include "vectors.h"

#define MEANS 4 /* vectors of values averaged together */

typedef struct {
    const float *attention_norm, *mlp_norm;
    Matrix qkv, out, gate_up, down;
} Layer;

typedef struct {
    const Layer *layers;
    const float *norm, *head_in_bias, *head_out_bias;
    const float *rotations; /* [2, positions, head_dim], cosines and signed sines */
    Matrix head_in, head_out;
    int64_t layer_count, hidden, heads, kv_heads, head_dim, intermediate, head_hidden, vocabulary, positions;
    float epsilon;
} Model;

typedef struct {
    float *keys, *values; /* [layers, rows, kv_heads, length, head_dim] */
    int64_t rows, length;
} Cache;

/* output [rows, width] = x / sqrt(mean(x²) + epsilon) · weight. */
static void rms_norm(const float *x, const float *weight, int64_t width, int64_t rows, float epsilon, float *output) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width;
        float *to = output + row * width;
        float scale = 1 / sqrtf(dot(from, from, width) / width + epsilon);
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
    }
}

/* Rotary position embedding of one head [width]; the sines of the first half are negated. */
static void rotate(const float *from, const float *cosines, const float *sines, int64_t width, float *to) {
    int64_t half = width / 2;
    for (int64_t i = 0; i < half; i++) to[i] = from[i] * cosines[i] + from[i + half] * sines[i];
    for (int64_t i = half; i < width; i++) to[i] = from[i] * cosines[i] + from[i - half] * sines[i];
}

/* scores [count] = keys [count, width] · query · scale; returns the largest. */
static float score(const float *query, const float *keys, int64_t count, int64_t width, float scale, float *scores) {
    float peak = -INFINITY;
    for (int64_t first = 0; first < count; first += WIDTH) {
        int64_t block = min_int64(WIDTH, count - first);
        const float *key = keys + first * width;
        if (block == WIDTH && width % WIDTH == 0) {
            vector totals[WIDTH] = {0};
            for (int64_t i = 0; i < width; i += WIDTH) {
                vector part = load(query + i);
                for (int k = 0; k < WIDTH; k++) totals[k] += load(key + k * width + i) * part;
            }
            vector products = horizontal_sums(totals) * scale;
            memcpy(scores + first, &products, sizeof products);
        } else {
            for (int64_t k = 0; k < block; k++) scores[first + k] = dot(key + k * width, query, width) * scale;
        }
        for (int64_t k = first; k < first + block; k++) peak = scores[k] > peak ? scores[k] : peak;
    }
    return peak;
}

/* output [vectors · WIDTH] = weights [count] · values / total. Rows of values are `width` floats apart; `total` is the
   sum of the weights. */
INLINE void weighted_mean(
    const float *weights, const float *values, int64_t count, int64_t width, int vectors, float total, float *output) {
    vector totals[MEANS] = {0};
    for (int64_t t = 0; t < count; t++)
        for (int i = 0; i < vectors; i++) totals[i] += weights[t] * load(values + t * width + i * WIDTH);
    for (int i = 0; i < vectors; i++) {
        vector mean = totals[i] / total;
        memcpy(output + i * WIDTH, &mean, sizeof mean);
    }
}

/* Offset of the keys, and of the values, of one cache row for one layer and key-value head. */
static inline int64_t cache_offset(
    const Model *model, const Cache *cache, int64_t layer, int64_t cache_row, int64_t head) {
    return ((layer * cache->rows + cache_row) * model->kv_heads + head) * cache->length * model->head_dim;
}

/* Rotate a token's key for one key-value head, and write it and the value into the cache.
   qkv is the token's [queries, keys, values]. */
static void store_key_value(
    const Model *model, const Cache *cache, int64_t layer, int64_t cache_row, int64_t position, int64_t head,
    const float *qkv) {
    int64_t width = model->head_dim, offset = cache_offset(model, cache, layer, cache_row, head) + position * width;
    const float *cosines = model->rotations + position * width, *key = qkv + (model->heads + head) * width;
    rotate(key, cosines, cosines + model->positions * width, width, cache->keys + offset);
    memcpy(cache->values + offset, key + model->kv_heads * width, width * sizeof(float));
}

/* Attention of a token's query heads that share one key-value head, over positions 0 … position of its cache row,
   which must be in the cache. `scores` is scratch memory [cache length]. */
static void attend(
    const Model *model, const Cache *cache, int64_t layer, int64_t cache_row, int64_t position, int64_t head,
    const float *qkv, float *scores, float *output) {
    int64_t width = model->head_dim, group = model->heads / model->kv_heads, count = position + 1;
    int64_t offset = cache_offset(model, cache, layer, cache_row, head);
    const float *cosines = model->rotations + position * width, *sines = cosines + model->positions * width;
    const float *keys = cache->keys + offset, *values = cache->values + offset;
    float scale = 1 / sqrtf((float)width);
    for (int64_t q = head * group; q < (head + 1) * group; q++) {
        float query[width], *to = output + q * width;
        rotate(qkv + q * width, cosines, sines, width, query);
        float peak = score(query, keys, count, width, scale, scores);
        vector totals = {0};
        int64_t past = 0;
        for (; past + WIDTH <= count; past += WIDTH) {
            vector weight = exponential(load(scores + past) - peak);
            store(scores + past, weight);
            totals += weight;
        }
        float total = horizontal_sum(totals);
        for (; past < count; past++) total += scores[past] = expf(scores[past] - peak);
        int64_t i = 0;
        for (; i + MEANS * WIDTH <= width; i += MEANS * WIDTH)
            weighted_mean(scores, values + i, count, width, MEANS, total, to + i);
        for (; i + WIDTH <= width; i += WIDTH) weighted_mean(scores, values + i, count, width, 1, total, to + i);
        for (; i < width; i++) {
            to[i] = 0;
            for (int64_t t = 0; t < count; t++) to[i] += scores[t] * values[t * width + i];
            to[i] /= total;
        }
    }
}

static inline int64_t max_int64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Widest activation between two matrices of a block or of the head. */
static inline int64_t inner_width(const Model *model) { return max_int64(model->intermediate, model->head_hidden); }

/* Floats of a thread's own scratch memory: normalised rows, scores, rounded rows. */
static inline int64_t thread_scratch_of(const Model *model, int64_t rows, int64_t length) {
    int64_t longest = max_int64(max_int64(model->hidden, model->heads * model->head_dim), inner_width(model));
    int is_rounded = model->head_in.bytes != 0;
    return rows * model->hidden + length + (is_rounded ? rounded_floats(longest, rows) : 0);
}

/* Floats of scratch memory for a step of `rows` rows over a cache of `length` positions per row. */
int64_t step_scratch(const Model *model, int64_t rows, int64_t length, int64_t threads) {
    int64_t qkv_width = (model->heads + 2 * model->kv_heads) * model->head_dim;
    return rows * (model->hidden + qkv_width + model->heads * model->head_dim + inner_width(model)) +
           threads * thread_scratch_of(model, rows, length);
}

/* tokens, cache_rows, positions [rows] → logits [end_count, vocabulary].

   Row r looks up tokens[r] in `embedding` [tokens, hidden], writes its key and value into the cache at row
   cache_rows[r] and positions[r], and attends to that cache row up to this position. Without `ends` each row is of
   another sequence, and all get logits: end_count = rows. With `ends` [end_count], row numbers in ascending order,
   rows may be tokens of the same sequences, and only these get logits. Every position is incremented. */
void step(
    const Model *model, const Cache *cache, const float *embedding, int64_t rows, const int64_t *tokens,
    const int64_t *cache_rows, int64_t *positions, int64_t end_count, const int64_t *ends, float *logits,
    float *scratch, int64_t threads) {
    int64_t hidden = model->hidden, attended_width = model->heads * model->head_dim;
    int64_t qkv_width = attended_width + 2 * model->kv_heads * model->head_dim;
    float *x = scratch;
    float *qkv = x + rows * hidden;
    float *attended = qkv + rows * qkv_width;
    float *inner = attended + rows * attended_width;
    float *thread_scratch = inner + rows * inner_width(model);
    for (int64_t row = 0; row < rows; row++)
        memcpy(x + row * hidden, embedding + tokens[row] * hidden, hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        /* each thread normalises all rows for itself, which costs less than waiting for another thread */
        float *normed = thread_scratch + omp_get_thread_num() * thread_scratch_of(model, rows, cache->length);
        float *scores = normed + rows * hidden, *rounded = scores + cache->length;
        for (int64_t l = 0; l < model->layer_count; l++) {
            const Layer *layer = model->layers + l;
            rms_norm(x, layer->attention_norm, hidden, rows, model->epsilon, normed);
            multiply(&layer->qkv, 0, qkv_width, normed, hidden, rows, qkv, 0, rounded);
#pragma omp barrier
            if (ends) { /* all keys of a sequence must be in the cache before its later tokens attend to them */
#pragma omp for schedule(static)
                for (int64_t item = 0; item < rows * model->kv_heads; item++) {
                    int64_t row = item / model->kv_heads, head = item % model->kv_heads;
                    store_key_value(model, cache, l, cache_rows[row], positions[row], head, qkv + row * qkv_width);
                }
            }
            /* one head of all rows after the other: tokens of a sequence find its keys and values in the core's cache */
#pragma omp for schedule(static)
            for (int64_t item = 0; item < rows * model->kv_heads; item++) {
                int64_t row = item % rows, head = item / rows;
                const float *row_qkv = qkv + row * qkv_width;
                if (!ends) store_key_value(model, cache, l, cache_rows[row], positions[row], head, row_qkv);
                attend(model, cache, l, cache_rows[row], positions[row], head, row_qkv, scores,
                       attended + row * attended_width);
            }
            multiply(&layer->out, 0, hidden, attended, attended_width, rows, x, 1, rounded);
#pragma omp barrier
            rms_norm(x, layer->mlp_norm, hidden, rows, model->epsilon, normed);
            swiglu(&layer->gate_up, model->intermediate, normed, hidden, rows, inner, rounded);
#pragma omp barrier
            multiply(&layer->down, 0, hidden, inner, model->intermediate, rows, x, 1, rounded);
#pragma omp barrier
        }
        for (int64_t i = 0; i < end_count; i++)
            rms_norm(x + (ends ? ends[i] : i) * hidden, model->norm, hidden, 1, model->epsilon, normed + i * hidden);
        multiply(&model->head_in, model->head_in_bias, model->head_hidden, normed, hidden, end_count, inner, 0,
                 rounded);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t i = 0; i < end_count * model->head_hidden; i++)
            inner[i] = 0.5f * inner[i] * (1 + erff(inner[i] * 0.70710678f)); /* GELU */
        multiply(&model->head_out, model->head_out_bias, model->vocabulary, inner, model->head_hidden, end_count,
                 logits, 0, rounded);
    }
    for (int64_t row = 0; row < rows; row++) positions[row]++;
}
