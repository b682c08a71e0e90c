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

#include "attention.h"
#include "products.h"
#include "vectors.h"

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

/* output [rows, width] = x / sqrt(mean(x²) + epsilon) · weight. */
static void rms_norm(const float *x, const float *weight, int64_t width, int64_t rows, float epsilon, float *output) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * width;
        float *to = output + row * width;
        float scale = 1 / sqrtf(dot(from, from, width) / width + epsilon);
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
    }
}

static inline int64_t max_int64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Widest activation between two matrices of a block or of the head. */
static inline int64_t inner_width(const Model *model) { return max_int64(model->intermediate, model->head_hidden); }

/* Floats of a thread's own scratch memory: normalised rows, attention's, rounded rows. */
static inline int64_t thread_scratch_of(const Model *model, int64_t rows, int64_t length) {
    int64_t longest = max_int64(max_int64(model->hidden, model->heads * model->head_dim), inner_width(model));
    int is_rounded = model->head_in.bytes != 0;
    int64_t rounded = is_rounded ? rounded_floats(longest, rows) : 0;
    return rows * model->hidden + attention_floats(length, model->head_dim) + rounded;
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
    Attention attention = {cache, model->rotations, model->positions, model->heads, model->kv_heads, model->head_dim};
    int64_t groups = 0, firsts[rows + 1]; /* rows that attend together */
    for (int64_t row = 0; row < rows; row++)
        if (row == 0 || cache_rows[row] != cache_rows[row - 1] || positions[row] != positions[row - 1] + 1 ||
            row == firsts[groups - 1] + MOST_TOKENS)
            firsts[groups++] = row;
    firsts[groups] = rows;
#pragma omp parallel num_threads(threads)
    {
        /* each thread normalises all rows for itself, which costs less than waiting for another thread */
        float *normed = thread_scratch + omp_get_thread_num() * thread_scratch_of(model, rows, cache->length);
        float *own = normed + rows * hidden, *rounded = own + attention_floats(cache->length, model->head_dim);
        for (int64_t l = 0; l < model->layer_count; l++) {
            const Layer *layer = model->layers + l;
            rms_norm(x, layer->attention_norm, hidden, rows, model->epsilon, normed);
            multiply(&layer->qkv, 0, qkv_width, normed, hidden, rows, qkv, 0, rounded);
#pragma omp barrier
            if (ends) { /* all keys of a sequence must be in the cache before its later tokens attend to them */
#pragma omp for schedule(static)
                for (int64_t item = 0; item < rows * model->kv_heads; item++) {
                    int64_t row = item / model->kv_heads, head = item % model->kv_heads;
                    store_key_value(&attention, l, cache_rows[row], positions[row], head, qkv + row * qkv_width);
                }
            }
            /* one head of all rows after the other: tokens of a sequence find its keys and values in the core's cache */
#pragma omp for schedule(static)
            for (int64_t item = 0; item < groups * model->kv_heads; item++) {
                int64_t row = firsts[item % groups], count = firsts[item % groups + 1] - row, head = item / groups;
                const float *row_qkv = qkv + row * qkv_width;
                if (!ends) store_key_value(&attention, l, cache_rows[row], positions[row], head, row_qkv);
                attend(&attention, l, cache_rows[row], positions[row], count, head, row_qkv, qkv_width, own,
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
