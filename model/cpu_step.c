/* One decode step in float32: what model/decoder.py does in many calls, in one.

   A step of so few rows reads every weight once and computes little with it, so that calls, copies
   and threads that wait for each other are most of its time in a general library. Here one team of
   threads goes through all layers; five barriers a layer are all that it waits for. What a row comes
   to does not depend on how many others are computed beside it. model/cpu_step.py holds the other
   half of these declarations. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define WIDTH 16 /* floats in a vector */
#define COLUMNS 4 /* outputs computed together, so that an input is loaded once for them */
#ifdef __AVX512F__
#define ROWS 4 /* rows computed together, so that a weight is loaded once for them: what registers hold */
#else
#define ROWS 2
#endif

typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

typedef struct {
    const float *attention_norm, *qkv, *out, *mlp_norm, *gate_up, *down;
} Layer;

typedef struct {
    const Layer *layers;
    const float *inputs, *norm, *head_in, *head_in_bias, *head_out, *head_out_bias, *turns;
    int64_t layer_count, hidden, heads, kv_heads, head_dim, intermediate, head_hidden, vocabulary, positions;
    float epsilon;
} Model;

typedef struct {
    float *keys, *values; /* [layers, rows, kv_heads, length, head_dim] */
    int64_t rows, length;
} Cache;

static inline __attribute__((always_inline)) vector load(const float *from) {
    return *(const vector *)from;
}

/* By halves, always in the same order. */
static inline __attribute__((always_inline)) float sum(vector v) {
    float parts[WIDTH];
    memcpy(parts, &v, sizeof parts);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

_Static_assert(WIDTH == 16 && COLUMNS * ROWS <= WIDTH, "what sums takes");

typedef int32_t places __attribute__((vector_size(4 * WIDTH)));

/* The sums of WIDTH vectors, as one: each fold adds halves as `sum` does, of two vectors at a time. */
static inline __attribute__((always_inline)) vector sums(const vector v[WIDTH]) {
    const places low[4] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
        {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27},
        {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29},
        {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30},
    };
    vector folded[WIDTH];
    memcpy(folded, v, sizeof folded);
    for (int level = 0, count = WIDTH / 2, apart = WIDTH / 2; count; level++, count /= 2, apart /= 2)
        for (int i = 0; i < count; i++) {
            vector a = folded[2 * i], b = folded[2 * i + 1];
            folded[i] = __builtin_shuffle(a, b, low[level]) + __builtin_shuffle(a, b, low[level] + apart);
        }
    return folded[0];
}

static inline __attribute__((always_inline)) float dot(const float *a, const float *b, int64_t length) {
    vector totals = {0};
    int64_t i = 0;
    for (; i + WIDTH <= length; i += WIDTH) totals += load(a + i) * load(b + i);
    float total = sum(totals);
    for (; i < length; i++) total += a[i] * b[i];
    return total;
}

/* Products of `columns` weight rows [n] with `rows` inputs, each over `length` numbers. */
static inline __attribute__((always_inline)) void products(
    const int columns, const int rows, const float *weights, const float *inputs, int64_t length,
    float result[COLUMNS][ROWS]) {
    vector totals[WIDTH] = {0};
    int64_t i = 0;
    for (; i + WIDTH <= length; i += WIDTH)
        for (int c = 0; c < columns; c++) {
            vector weight = load(weights + c * length + i);
            for (int r = 0; r < rows; r++) totals[c * rows + r] += weight * load(inputs + r * length + i);
        }
    vector all = {0};
    if (columns * rows > 1)
        all = sums(totals);
    else
        all[0] = sum(totals[0]);
    for (int c = 0; c < columns; c++)
        for (int r = 0; r < rows; r++) {
            float total = all[c * rows + r];
            for (int64_t j = i; j < length; j++) total += weights[c * length + j] * inputs[r * length + j];
            result[c][r] = total;
        }
}

static void products_of(
    int64_t columns, int64_t rows, const float *weights, const float *inputs, int64_t length,
    float result[COLUMNS][ROWS]) {
    if (columns == COLUMNS && rows == ROWS) {
        products(COLUMNS, ROWS, weights, inputs, length, result);
    } else if (columns == COLUMNS && rows == 2) {
        products(COLUMNS, 2, weights, inputs, length, result);
    } else if (columns == COLUMNS && rows == 1) {
        products(COLUMNS, 1, weights, inputs, length, result);
    } else {
        for (int64_t c = 0; c < columns; c++)
            for (int64_t r = 0; r < rows; r++) {
                float one[COLUMNS][ROWS];
                products(1, 1, weights + c * length, inputs + r * length, length, one);
                result[c][r] = one[0][0];
            }
    }
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* output [rows, columns] = inputs [rows, length] · weights [columns, length] transposed + bias, or added to it.
   Shared among the team, without a barrier at the end. */
static void multiply(
    const float *weights, const float *bias, int64_t columns, const float *inputs, int64_t length, int64_t rows,
    float *output, int add) {
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < columns; first += COLUMNS) {
        int64_t wide = least(COLUMNS, columns - first);
        for (int64_t row = 0; row < rows; row += ROWS) {
            int64_t high = least(ROWS, rows - row);
            float result[COLUMNS][ROWS];
            products_of(wide, high, weights + first * length, inputs + row * length, length, result);
            for (int64_t c = 0; c < wide; c++)
                for (int64_t r = 0; r < high; r++) {
                    float *to = output + (row + r) * columns + first + c;
                    *to = result[c][r] + (bias ? bias[first + c] : 0) + (add ? *to : 0);
                }
        }
    }
}

/* output [rows, intermediate] = silu(gate) · up; gate_up [2 · intermediate, length] holds both. */
static void gated(
    const float *gate_up, int64_t intermediate, const float *inputs, int64_t length, int64_t rows, float *output) {
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < intermediate; first += COLUMNS) {
        int64_t wide = least(COLUMNS, intermediate - first);
        for (int64_t row = 0; row < rows; row += ROWS) {
            int64_t high = least(ROWS, rows - row);
            float gate[COLUMNS][ROWS], up[COLUMNS][ROWS];
            const float *in = inputs + row * length;
            products_of(wide, high, gate_up + first * length, in, length, gate);
            products_of(wide, high, gate_up + (intermediate + first) * length, in, length, up);
            for (int64_t c = 0; c < wide; c++)
                for (int64_t r = 0; r < high; r++)
                    output[(row + r) * intermediate + first + c] = gate[c][r] / (1 + expf(-gate[c][r])) * up[c][r];
        }
    }
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
    for (int64_t i = 0; i < width; i++)
        to[i] = from[i] * cosines[i] + from[(i + width / 2) % width] * sines[i];
}

/* One row's new token and one key-value head: into the cache, then every query head of its group over what is filled. */
static void attend(
    const Model *model, const Cache *cache, int64_t layer, int64_t index, int64_t position, int64_t head,
    const float *joined, float *scores, float *output) {
    int64_t width = model->head_dim, group = model->heads / model->kv_heads, filled = position + 1;
    const float *cosines = model->turns + position * width;
    const float *sines = cosines + model->positions * width;
    int64_t start = (((layer * cache->rows + index) * model->kv_heads + head) * cache->length) * width;
    float *keys = cache->keys + start, *values = cache->values + start;
    const float *key = joined + (model->heads + head) * width;
    turn(key, cosines, sines, width, keys + position * width);
    memcpy(values + position * width, key + model->kv_heads * width, width * sizeof(float));
    float scale = 1 / sqrtf((float)width);
    for (int64_t q = head * group; q < (head + 1) * group; q++) {
        float query[width], *to = output + q * width;
        turn(joined + q * width, cosines, sines, width, query);
        float peak = -INFINITY, total = 0;
        for (int64_t t = 0; t < filled; t++) {
            scores[t] = dot(query, keys + t * width, width) * scale;
            if (scores[t] > peak) peak = scores[t];
        }
        memset(to, 0, width * sizeof(float));
        for (int64_t t = 0; t < filled; t++) {
            float weight = expf(scores[t] - peak);
            total += weight;
            for (int64_t i = 0; i < width; i++) to[i] += weight * values[t * width + i];
        }
        for (int64_t i = 0; i < width; i++) to[i] /= total;
    }
}

/* Numbers of scratch memory that a step of so many rows needs. */
int64_t scratch_size(const Model *model, int64_t rows, int64_t length, int64_t threads) {
    int64_t qkv = (model->heads + 2 * model->kv_heads) * model->head_dim;
    int64_t wide = model->intermediate > model->head_hidden ? model->intermediate : model->head_hidden;
    return rows * (model->hidden + qkv + model->heads * model->head_dim + wide) +
           threads * (rows * model->hidden + length);
}

/* codes, index, positions [rows] → logits [rows, vocabulary]; the cache gains one token a row. */
void step(
    const Model *model, const Cache *cache, int64_t rows, const int64_t *codes, const int64_t *index,
    const int64_t *positions, float *logits, float *scratch, int64_t threads) {
    int64_t hidden = model->hidden, attended_width = model->heads * model->head_dim;
    int64_t qkv = attended_width + 2 * model->kv_heads * model->head_dim;
    float *x = scratch;
    float *joined = x + rows * hidden;
    float *attended = joined + rows * qkv;
    float *inner = attended + rows * attended_width;
    float *private = inner + rows * (model->intermediate > model->head_hidden ? model->intermediate : model->head_hidden);
    for (int64_t row = 0; row < rows; row++)
        memcpy(x + row * hidden, model->inputs + codes[row] * hidden, hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        /* each thread normalises for itself: that costs less than waiting for another to do it */
        float *normed = private + omp_get_thread_num() * (rows * hidden + cache->length);
        float *scores = normed + rows * hidden;
        for (int64_t number = 0; number < model->layer_count; number++) {
            const Layer *layer = model->layers + number;
            normalise(x, layer->attention_norm, hidden, rows, model->epsilon, normed);
            multiply(layer->qkv, 0, qkv, normed, hidden, rows, joined, 0);
#pragma omp barrier
#pragma omp for schedule(static)
            for (int64_t item = 0; item < rows * model->kv_heads; item++) {
                int64_t row = item / model->kv_heads, head = item % model->kv_heads;
                attend(model, cache, number, index[row], positions[row], head, joined + row * qkv, scores,
                       attended + row * attended_width);
            }
            multiply(layer->out, 0, hidden, attended, attended_width, rows, x, 1);
#pragma omp barrier
            normalise(x, layer->mlp_norm, hidden, rows, model->epsilon, normed);
            gated(layer->gate_up, model->intermediate, normed, hidden, rows, inner);
#pragma omp barrier
            multiply(layer->down, 0, hidden, inner, model->intermediate, rows, x, 1);
#pragma omp barrier
        }
        normalise(x, model->norm, hidden, rows, model->epsilon, normed);
        multiply(model->head_in, model->head_in_bias, model->head_hidden, normed, hidden, rows, inner, 0);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows * model->head_hidden; i++)
            inner[i] = 0.5f * inner[i] * (1 + erff(inner[i] * 0.70710678f)); /* GELU */
        multiply(model->head_out, model->head_out_bias, model->vocabulary, inner, model->head_hidden, rows, logits, 0);
    }
}
