/* Products of rows of floats with panels of floats. Every sum runs over the inputs in their order. */

#ifndef FLOAT_PRODUCTS_H
#define FLOAT_PRODUCTS_H

#include "matrix.h"

#define CHUNK 64 /* inputs; their weights in two panels, and the next ones, fit in the first cache */
#define LINE 64  /* bytes that a processor fetches at once, those of a panel's 16 floats */

/* Lines that a block fetches for each input: at `from` and at places that lie `apart` bytes from each other, each `step`
   bytes further than for the input before. */
typedef struct {
    const char *from;
    int64_t step, apart;
} Fetch;

/* A chunk of some panels of a matrix, and of inputs. Panels lie `length` · PANEL weights apart, and rows of inputs
   `length` floats. */
typedef struct {
    const float *weights;
    int64_t length, count;
    const float *inputs;
    int is_first; /* of its panels */
} Chunk;

/* totals [panels, MOST_TOGETHER, PANEL] += `rows` rows of a chunk's inputs · `panels` of its panels; with the first
   chunk, = instead. `rows`, `panels` and `places` are known to the compiler: each case gets its own code. */
INLINE void block(
    const int rows, const int panels, const int places, const Chunk *chunk, Fetch fetch, float *totals) {
    const float *inputs = chunk->inputs;
    int64_t length = chunk->length;
    vector sums[MOST_ROWS][2 * VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++) {
            const float *sum = totals + v / VECTORS * TOTALS + r * PANEL + v % VECTORS * WIDTH;
            sums[r][v] = chunk->is_first ? (vector){0} : load(sum);
        }
    for (int64_t i = 0; i < chunk->count; i++) {
        for (int p = 0; p < places; p++) __builtin_prefetch(fetch.from + p * fetch.apart + i * fetch.step);
        vector weights[2 * VECTORS];
        for (int v = 0; v < panels * VECTORS; v++)
            weights[v] = load(chunk->weights + (v / VECTORS * length + i) * PANEL + v % VECTORS * WIDTH);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < panels * VECTORS; v++) sums[r][v] += inputs[r * length + i] * weights[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels * VECTORS; v++)
            store(totals + v / VECTORS * TOTALS + r * PANEL + v % VECTORS * WIDTH, sums[r][v]);
}

/* `block` for `rows` ≤ MOST_ROWS and `panels` ≤ 2, known at run time. If `places` is 0, blocks fetch from one place for
   each of their panels, which lie as far apart as the panels. */
#define PLACES(panels) (places ? places : panels)
#define CASE(n)                                                                                \
    case n:                                                                                    \
        if (n <= FEW_ROWS && panels == 2) {                                                    \
            if (places) fetch.step *= 2;                                                       \
            block(n <= FEW_ROWS ? n : 1, 2, PLACES(2), &chunk, fetch, totals);                  \
        } else if (n <= MOST_ROWS)                                                             \
            for (int64_t p = 0; p < panels; p++) {                                             \
                block(n <= MOST_ROWS ? n : 1, 1, PLACES(1), &chunk, fetch, totals + p * TOTALS);  \
                chunk.weights += chunk.length * PANEL;                                         \
                fetch.from += places ? chunk.count * fetch.step : fetch.apart;                 \
            }                                                                                  \
        break;
INLINE void two_panels(const int places, int64_t rows, int64_t panels, Chunk chunk, Fetch fetch, float *totals) {
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
    }
}
#undef CASE
#undef PLACES

/* totals [panels, MOST_TOGETHER, PANEL] = `rows` ≤ MOST_TOGETHER rows of inputs [rows, length] · `panels` ≤ GROUP
   panels, from `first` on. Those multiplied afterwards begin with panel `then`. The blocks of a chunk fetch equal parts
   of the next one: of all its panels or, if `places` is 0, of those that they multiply. */
INLINE void float_products(
    const int places, const float *weights, int64_t first, int64_t panels, int64_t then, const float *inputs,
    int64_t length, int64_t rows, float *totals) {
    for (int64_t at = 0, count, part; at < length; at += count) {
        count = min_int64(CHUNK, length - at);
        int64_t next = at + count < length ? first * length + at + count : then * length;
        for (int64_t panel = 0; panel < panels; panel += 2)
            for (int64_t row = 0; row < rows; row += part) {
                part = block_rows(rows - row);
                Chunk chunk = {weights + ((first + panel) * length + at) * PANEL, length, count,
                               inputs + row * length + at, at == 0};
                Fetch fetch = {(const char *)(weights + next * PANEL), LINE * part / rows, length * LINE};
                if (places) {
                    fetch.from += count * LINE * panel / panels;
                    fetch.step /= places;
                } else
                    fetch.from += panel * fetch.apart + count * LINE * row / rows;
                two_panels(places, part, min_int64(2, panels - panel), chunk, fetch, totals + panel * TOTALS + row * PANEL);
            }
    }
}

#endif
