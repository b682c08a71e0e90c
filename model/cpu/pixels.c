/* Convolutions of 3 × 3 in float32 that multiply a quarter as often: Winograd's F(4 × 4, 3 × 3).

   Most of an image tokenizer's decoder is such convolutions over large pictures, each after a group
   norm and SiLU. A tile of 4 × 4 outputs needs 6 × 6 inputs; turned into 36 numbers, they are
   multiplied with the weights' 36, and turned back (Lavin and Gray 2016, "Fast algorithms for
   convolutional neural networks"). A thread takes a block of tiles through all of this while its
   cache holds them. Pictures are [height, width, channels]. What an output comes to depends neither
   on the number of threads nor on other pictures. model/cpu/pixels.py holds the other half of the
   structures. */

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define SIDE 6 /* of a tile's inputs */
#define NUMBERS (SIDE * SIDE)
#define STRIDE 4 /* between tiles, the side of their outputs */
#define DOWN 4 /* tiles in a block */
#define ACROSS 6
#define TILES (DOWN * ACROSS)
#define HIGH (STRIDE * DOWN + 2) /* inputs of a block */
#define WIDE (STRIDE * ACROSS + 2)
#ifdef __AVX512F__
#define ROWS 12 /* tiles and vectors of outputs whose sums the registers hold */
#else
#define ROWS 6
#endif
#define VECTORS 2
#define OUTPUTS 32 /* channels that are computed with one pass over a block's numbers */
#define PIXELS 512 /* that are summed together: in floats, these sums then in doubles */

typedef struct {
    const float *table; /* [outputs / OUTPUTS, NUMBERS, inputs, OUTPUTS], filled up with zeros */
    const float *bias; /* [outputs], filled up likewise */
    int64_t inputs, outputs;
} Convolution;

typedef struct {
    const float *input; /* [count, height, width, inputs], sides halved where the picture is to be doubled first */
    const float *residual; /* added to the output, or none */
    float *output; /* [count, height, width, outputs] */
    int64_t count, height, width, doubled;
} Pictures;

typedef struct {
    const float *weight, *bias; /* [channels] */
    int64_t channels, groups;
    double epsilon;
} Norm;

/* Past the caches, which a large picture would only push other things out of. */
INLINE void store_far(float *to, vector value) {
#ifdef __AVX512F__
    if ((uintptr_t)to % sizeof value == 0) {
        _mm512_stream_ps(to, (__m512)value);
        return;
    }
#endif
    store(to, value);
}

/* Until then what was stored so may be on its way. */
static inline void arrive(void) {
#ifdef __AVX512F__
    _mm_sfence();
#endif
}

/* x / (1 + e^−x); e^y = 2^n · e^r with |r| ≤ ln 2 / 2, the latter by its series. */
INLINE vector silu(vector x) {
    const float shift = 12582912.0f; /* 1.5 · 2^23: adding it rounds to a whole number in the lowest bits */
    const vector bound = (vector){0} + 87; /* beyond, e^y is no normal float */
    vector y = either(x > bound, -bound, either(x < -bound, bound, -x));
    vector shifted = y * 1.44269504f + shift, whole = shifted - shift;
    vector r = y - whole * 0.693145752f - whole * 1.42860677e-6f;
    vector e = 1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
    vector power = (vector)(((int32s)shifted << 23) + (127 << 23));
    return x / (1 + e * power);
}

/* With scales [count, 2, channels], the factors and summands before SiLU, or none:
   a block's inputs from (top, left) on: [high, wide, channels]; outside the picture is 0. */
static void gather(
    const Pictures *pictures, const float *scales, int64_t picture, int64_t channels, int64_t top, int64_t left,
    int64_t high, int64_t wide, float *band) {
    int64_t halved = pictures->doubled ? 1 : 0, across = pictures->width >> halved;
    const float *from = pictures->input + picture * (pictures->height >> halved) * across * channels;
    const float *factors = scales + picture * 2 * channels, *summands = factors + channels;
    for (int64_t y = 0; y < high; y++)
        for (int64_t x = 0; x < wide; x++) {
            int64_t line = top + y, column = left + x;
            float *to = band + (y * wide + x) * channels;
            if (line < 0 || line >= pictures->height || column < 0 || column >= pictures->width) {
                memset(to, 0, channels * sizeof(float));
                continue;
            }
            const float *pixel = from + ((line >> halved) * across + (column >> halved)) * channels;
            if (!scales)
                memcpy(to, pixel, channels * sizeof(float));
            else
                for (int64_t c = 0; c < channels; c += WIDTH)
                    store(to + c, silu(load(pixel + c) * load(factors + c) + load(summands + c)));
        }
}

/* Six inputs of a line as the six numbers that are multiplied, in place; `step` vectors apart. */
INLINE void transform_input(vector *d, int step) {
    vector a = d[0], b = d[step], c = d[2 * step], e = d[3 * step], f = d[4 * step], g = d[5 * step];
    vector even = f - 4 * c, odd = e - 4 * b, near = f - c, far = 2 * (e - b);
    d[0] = 4 * a - 5 * c + f;
    d[step] = even + odd;
    d[2 * step] = even - odd;
    d[3 * step] = near + far;
    d[4 * step] = near - far;
    d[5 * step] = 4 * b - 5 * e + g;
}

/* Six products of a line as its four outputs, in the first four places. */
INLINE void transform_output(vector *m, int step) {
    vector s = m[step] + m[2 * step], d = m[step] - m[2 * step];
    vector t = m[3 * step] + m[4 * step], u = m[3 * step] - m[4 * step];
    m[0] = m[0] + s + t;
    m[step] = d + 2 * u;
    m[2 * step] = s + 4 * t;
    m[3 * step] = d + 8 * u + m[5 * step];
}

/* From one of a tile's numbers to its next, in block after block of [TILES, channels]: were the distance
   a multiple of 4 KiB, all would fall on the same few places of the first cache. */
static inline int64_t apart(int64_t channels) { return TILES * channels + 16; }

/* numbers [NUMBERS, TILES, channels] of the tile number `tile`, whose inputs begin at `band`. */
static void transform_tile(const float *band, int64_t wide, int64_t channels, int64_t tile, float *numbers) {
    for (int64_t c = 0; c < channels; c += WIDTH) {
        vector d[NUMBERS];
        for (int y = 0; y < SIDE; y++) {
            for (int x = 0; x < SIDE; x++) d[y * SIDE + x] = load(band + (y * wide + x) * channels + c);
            transform_input(d + y * SIDE, 1);
        }
        for (int x = 0; x < SIDE; x++) transform_input(d + x, SIDE);
        for (int i = 0; i < NUMBERS; i++) store(numbers + i * apart(channels) + tile * channels + c, d[i]);
    }
}

/* products [tiles, OUTPUTS] = numbers [tiles, channels] · table [channels, OUTPUTS], tiles rounded up to ROWS. */
static void multiply(const float *numbers, const float *table, int64_t tiles, int64_t channels, float *products) {
    for (int64_t first = 0; first < tiles; first += ROWS)
        for (int64_t out = 0; out < OUTPUTS; out += VECTORS * WIDTH) {
            vector totals[ROWS][VECTORS] = {0};
            const float *from = numbers + first * channels;
            for (int64_t c = 0; c < channels; c++) {
                vector weights[VECTORS];
                for (int v = 0; v < VECTORS; v++) weights[v] = load(table + c * OUTPUTS + out + v * WIDTH);
#pragma GCC unroll 12
                for (int r = 0; r < ROWS; r++)
                    for (int v = 0; v < VECTORS; v++) totals[r][v] += from[r * channels + c] * weights[v];
            }
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < VECTORS; v++)
                    store(products + (first + r) * OUTPUTS + out + v * WIDTH, totals[r][v]);
        }
}

/* Outputs of a tile at (top, left), channels from `first` on, of products [NUMBERS, TILES, OUTPUTS]. */
static void write_tile(
    const Convolution *convolution, const Pictures *pictures, int64_t picture, int64_t top, int64_t left, int64_t first,
    const float *products) {
    const int whole = convolution->outputs % WIDTH == 0;
    for (int64_t part = 0; part < OUTPUTS && first + part < convolution->outputs; part += WIDTH) {
        vector m[NUMBERS];
        for (int i = 0; i < NUMBERS; i++) m[i] = load(products + i * apart(OUTPUTS) + part);
        for (int y = 0; y < SIDE; y++) transform_output(m + y * SIDE, 1);
        for (int x = 0; x < STRIDE; x++) transform_output(m + x, SIDE);
        vector bias = load(convolution->bias + first + part);
        for (int64_t y = 0; y < least(STRIDE, pictures->height - top); y++)
            for (int64_t x = 0; x < least(STRIDE, pictures->width - left); x++) {
                int64_t pixel = (picture * pictures->height + top + y) * pictures->width + left + x;
                int64_t at = pixel * convolution->outputs + first + part;
                vector value = m[y * SIDE + x] + bias;
                if (whole) {
                    if (pictures->residual) value += load(pictures->residual + at);
                    store_far(pictures->output + at, value);
                } else {
                    for (int64_t i = 0; i < least(WIDTH, convolution->outputs - first - part); i++)
                        pictures->output[at + i] = value[i] + (pictures->residual ? pictures->residual[at + i] : 0);
                }
            }
    }
}

static inline int64_t chunks(int64_t pixels) { return (pixels + PIXELS - 1) / PIXELS; }

static int64_t moments_scratch(int64_t count, int64_t pixels, int64_t channels) {
    return count * chunks(pixels) * 2 * channels;
}

/* A group norm as factors and summands: input [count, pixels, channels] → scales [count, 2, channels]. */
static void moments(
    const Norm *norm, const float *input, int64_t count, int64_t pixels, float *scales, float *scratch,
    int64_t threads) {
    int64_t channels = norm->channels, wide = channels / norm->groups, parts = chunks(pixels);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < count * parts; chunk++) {
            int64_t first = chunk % parts * PIXELS, many = least(PIXELS, pixels - first);
            const float *from = input + (chunk / parts * pixels + first) * channels;
            float *sums = scratch + chunk * 2 * channels, *squares = sums + channels;
            memset(sums, 0, 2 * channels * sizeof(float));
            for (int64_t pixel = 0; pixel < many; pixel++)
                for (int64_t c = 0; c < channels; c += WIDTH) {
                    vector x = load(from + pixel * channels + c);
                    store(sums + c, load(sums + c) + x);
                    store(squares + c, load(squares + c) + x * x);
                }
        }
#pragma omp for schedule(static)
        for (int64_t group = 0; group < count * norm->groups; group++) {
            int64_t picture = group / norm->groups, start = group % norm->groups * wide;
            double sum = 0, square = 0;
            for (int64_t part = 0; part < parts; part++) {
                const float *sums = scratch + (picture * parts + part) * 2 * channels;
                for (int64_t c = start; c < start + wide; c++) sum += sums[c], square += sums[channels + c];
            }
            double mean = sum / (pixels * wide), variance = square / (pixels * wide) - mean * mean;
            double factor = 1 / sqrt((variance > 0 ? variance : 0) + norm->epsilon);
            float *factors = scales + picture * 2 * channels, *summands = factors + channels;
            for (int64_t c = start; c < start + wide; c++) {
                factors[c] = (float)(norm->weight[c] * factor);
                summands[c] = (float)(norm->bias[c] - mean * factor * norm->weight[c]);
            }
        }
    }
}

static inline int64_t blocks(int64_t side, int64_t tiles) { return (side + STRIDE * tiles - 1) / (STRIDE * tiles); }

static int64_t thread_scratch(int64_t channels) {
    return HIGH * WIDE * channels + NUMBERS * (apart(channels) + apart(OUTPUTS));
}

static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Numbers of scratch memory for a convolution of so many channels, over pictures with so many pixels before doubling. */
int64_t convolve_scratch(int64_t channels, int64_t count, int64_t pixels, int64_t threads) {
    return count * 2 * channels + most(moments_scratch(count, pixels, channels), threads * thread_scratch(channels));
}

/* Pictures normed and through SiLU, if there is a norm, then doubled, if they are to be, and convolved. */
void convolve(
    const Convolution *convolution, const Norm *norm, const Pictures *pictures, float *scratch, int64_t threads) {
    int64_t channels = convolution->inputs, halved = pictures->doubled ? 1 : 0;
    float *scales = norm ? scratch : 0, *rest = scratch + pictures->count * 2 * channels;
    if (norm) {
        int64_t pixels = (pictures->height >> halved) * (pictures->width >> halved);
        moments(norm, pictures->input, pictures->count, pixels, scales, rest, threads);
    }
    int64_t down = blocks(pictures->height, DOWN), across = blocks(pictures->width, ACROSS);
#pragma omp parallel num_threads(threads)
    {
        float *band = rest + omp_get_thread_num() * thread_scratch(channels);
        float *numbers = band + HIGH * WIDE * channels, *products = numbers + NUMBERS * apart(channels);
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < pictures->count * down * across; block++) {
            int64_t picture = block / (down * across), row = block / across % down, column = block % across;
            int64_t top = row * DOWN * STRIDE, left = column * ACROSS * STRIDE;
            int64_t high = least(DOWN, (pictures->height - top + STRIDE - 1) / STRIDE);
            int64_t wide = least(ACROSS, (pictures->width - left + STRIDE - 1) / STRIDE);
            int64_t band_wide = wide * STRIDE + 2;
            gather(pictures, scales, picture, channels, top - 1, left - 1, high * STRIDE + 2, band_wide, band);
            for (int64_t tile = 0; tile < high * wide; tile++) {
                const float *corner = band + (tile / wide * band_wide + tile % wide) * STRIDE * channels;
                transform_tile(corner, band_wide, channels, tile, numbers);
            }
            for (int64_t first = 0; first < convolution->outputs; first += OUTPUTS) {
                const float *table = convolution->table + first * NUMBERS * channels;
                for (int64_t i = 0; i < NUMBERS; i++)
                    multiply(numbers + i * apart(channels), table + i * channels * OUTPUTS, high * wide, channels,
                             products + i * apart(OUTPUTS));
                for (int64_t tile = 0; tile < high * wide; tile++) {
                    int64_t y = top + tile / wide * STRIDE, x = left + tile % wide * STRIDE;
                    write_tile(convolution, pictures, picture, y, x, first, products + tile * OUTPUTS);
                }
            }
        }
        arrive();
    }
}
