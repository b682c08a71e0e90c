/* 3 × 3 convolutions in float32 by Winograd's F(4 × 4, 3 × 3), with a quarter of the multiplications.

   Convolutions over large pictures, each after a group norm and SiLU, are most of an image tokenizer's decoder. A tile
   of 4 × 4 outputs needs 6 × 6 inputs. They are transformed to 36 elements, multiplied by the 36 elements of the
   transformed weights, and transformed back (Lavin and Gray 2016, "Fast algorithms for convolutional neural
   networks"). A thread takes a block of tiles through all of this while its cache holds them. Pictures are
   [height, width, channels]. An output depends neither on the number of threads nor on the other pictures.
   model/cpu/library.py compiles this file; model/cpu/pixels.py declares the same structures. */

#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

#define SIDE 6 /* of a tile's inputs */
#define ELEMENTS (SIDE * SIDE) /* of a transformed tile */
#define STRIDE 4 /* between tiles; the side of a tile's outputs */
#define BLOCK_ROWS 4 /* tiles in a block */
#define BLOCK_COLUMNS 6
#define BLOCK_TILES (BLOCK_ROWS * BLOCK_COLUMNS)
#define BLOCK_HEIGHT (STRIDE * BLOCK_ROWS + 2) /* inputs of a block */
#define BLOCK_WIDTH (STRIDE * BLOCK_COLUMNS + 2)
#ifdef __AVX512F__
#define ROWS 12 /* tiles multiplied together: registers hold ROWS × VECTORS accumulators */
#else
#define ROWS 6
#endif
#define VECTORS 2 /* of output channels, multiplied together */
#define OUTPUTS 32 /* channels computed in one pass over a block's elements */
#define CHUNK 512 /* pixels summed in floats; the sums of chunks are added in doubles */

typedef struct {
    const float *table; /* [outputs / OUTPUTS, ELEMENTS, inputs, OUTPUTS], outputs padded with zeros */
    const float *bias;  /* [outputs], padded likewise */
    int64_t inputs, outputs;
} Convolution;

typedef struct {
    const float *input;    /* [count, height, width, inputs]; half the height and width if `doubled` */
    const float *residual; /* added to the output; may be null */
    float *output;         /* [count, height, width, outputs] */
    int64_t count, height, width;
    int64_t doubled; /* whether to upsample the input by 2 first, nearest neighbour */
} Pictures;

typedef struct {
    const float *weight, *bias; /* [channels] */
    int64_t channels, groups;
    double epsilon;
} Norm;

/* Store past the caches, where a large picture would only evict other data. */
INLINE void store_streaming(float *to, vector value) {
#ifdef __AVX512F__
    if ((uintptr_t)to % sizeof value == 0) {
        _mm512_stream_ps(to, (__m512)value);
        return;
    }
#endif
    store(to, value);
}

/* Complete all streaming stores; until then they may be in flight. */
static inline void store_fence(void) {
#ifdef __AVX512F__
    _mm_sfence();
#endif
}

/* x / (1 + e^y) with y = −x; e^y = 2^n · e^r with |r| ≤ ln 2 / 2, and e^r by its Taylor series. */
INLINE vector silu(vector x) {
    const float shift = 12582912.0f; /* 1.5 · 2^23: adding it rounds to an integer, which is in the lowest bits */
    const vector bound = (vector){0} + 87; /* beyond it e^y is not a normal float */
    vector y = select_lanes(x > bound, -bound, select_lanes(x < -bound, bound, -x));
    vector shifted = y * 1.44269504f + shift, n = shifted - shift;
    vector r = y - n * 0.693145752f - n * 1.42860677e-6f;
    vector e = 1 + r * (1 + r * (0.5f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
    vector power = (vector)(((int32s)shifted << 23) + (127 << 23));
    return x / (1 + e * power);
}

/* Load the inputs of a block from (top, left) on: block [height, width, channels], zero outside the picture.
   `affine` [count, 2, channels], scale and shift of each channel, is applied before SiLU; null copies the inputs. */
static void load_block(
    const Pictures *pictures, const float *affine, int64_t picture, int64_t channels, int64_t top, int64_t left,
    int64_t height, int64_t width, float *block) {
    int64_t halved = pictures->doubled ? 1 : 0, input_width = pictures->width >> halved;
    const float *input = pictures->input + picture * (pictures->height >> halved) * input_width * channels;
    const float *scale = affine + picture * 2 * channels, *shift = scale + channels;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            int64_t row = top + y, column = left + x;
            float *to = block + (y * width + x) * channels;
            if (row < 0 || row >= pictures->height || column < 0 || column >= pictures->width) {
                memset(to, 0, channels * sizeof(float));
                continue;
            }
            const float *pixel = input + ((row >> halved) * input_width + (column >> halved)) * channels;
            if (!affine)
                memcpy(to, pixel, channels * sizeof(float));
            else
                for (int64_t c = 0; c < channels; c += WIDTH)
                    store(to + c, silu(load(pixel + c) * load(scale + c) + load(shift + c)));
        }
}

/* Input transform of a row or column of six, in place (Bᵀ in the paper); its vectors are `stride` apart. */
INLINE void transform_input(vector *d, int stride) {
    vector a = d[0], b = d[stride], c = d[2 * stride], e = d[3 * stride], f = d[4 * stride], g = d[5 * stride];
    vector even = f - 4 * c, odd = e - 4 * b, near = f - c, far = 2 * (e - b);
    d[0] = 4 * a - 5 * c + f;
    d[stride] = even + odd;
    d[2 * stride] = even - odd;
    d[3 * stride] = near + far;
    d[4 * stride] = near - far;
    d[5 * stride] = 4 * b - 5 * e + g;
}

/* Output transform of a row or column from six products to four outputs, in place (Aᵀ in the paper). */
INLINE void transform_output(vector *m, int stride) {
    vector s = m[stride] + m[2 * stride], d = m[stride] - m[2 * stride];
    vector t = m[3 * stride] + m[4 * stride], u = m[3 * stride] - m[4 * stride];
    m[0] = m[0] + s + t;
    m[stride] = d + 2 * u;
    m[2 * stride] = s + 4 * t;
    m[3 * stride] = d + 8 * u + m[5 * stride];
}

/* Distance between the elements of a tile, each in an array [BLOCK_TILES, channels]. The 16 avoid multiples of
   4 KiB, at which all elements would compete for the same few sets of the L1 cache. */
static inline int64_t element_stride(int64_t channels) { return BLOCK_TILES * channels + 16; }

/* Transform the inputs of one tile, the corner of which is `input` in a block of `width` pixels per row, and store
   them at index `tile` of elements [ELEMENTS, BLOCK_TILES, channels]. */
static void transform_tile(const float *input, int64_t width, int64_t channels, int64_t tile, float *elements) {
    for (int64_t c = 0; c < channels; c += WIDTH) {
        vector d[ELEMENTS];
        for (int y = 0; y < SIDE; y++) {
            for (int x = 0; x < SIDE; x++) d[y * SIDE + x] = load(input + (y * width + x) * channels + c);
            transform_input(d + y * SIDE, 1);
        }
        for (int x = 0; x < SIDE; x++) transform_input(d + x, SIDE);
        for (int i = 0; i < ELEMENTS; i++) store(elements + i * element_stride(channels) + tile * channels + c, d[i]);
    }
}

/* products [tiles, OUTPUTS] = element [tiles, channels] · table [channels, OUTPUTS], with tiles rounded up to ROWS. */
static void multiply(const float *element, const float *table, int64_t tiles, int64_t channels, float *products) {
    for (int64_t first = 0; first < tiles; first += ROWS)
        for (int64_t out = 0; out < OUTPUTS; out += VECTORS * WIDTH) {
            vector totals[ROWS][VECTORS] = {0};
            const float *from = element + first * channels;
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

/* Transform a tile of products [ELEMENTS, BLOCK_TILES, OUTPUTS] back, add bias and residual, and store the outputs
   at (top, left) in up to OUTPUTS channels, starting at `first`. */
static void write_tile(
    const Convolution *convolution, const Pictures *pictures, int64_t picture, int64_t top, int64_t left, int64_t first,
    const float *products) {
    const int full_vectors = convolution->outputs % WIDTH == 0;
    for (int64_t part = 0; part < OUTPUTS && first + part < convolution->outputs; part += WIDTH) {
        vector m[ELEMENTS];
        for (int i = 0; i < ELEMENTS; i++) m[i] = load(products + i * element_stride(OUTPUTS) + part);
        for (int y = 0; y < SIDE; y++) transform_output(m + y * SIDE, 1);
        for (int x = 0; x < STRIDE; x++) transform_output(m + x, SIDE);
        vector bias = load(convolution->bias + first + part);
        for (int64_t y = 0; y < min_int64(STRIDE, pictures->height - top); y++)
            for (int64_t x = 0; x < min_int64(STRIDE, pictures->width - left); x++) {
                int64_t pixel = (picture * pictures->height + top + y) * pictures->width + left + x;
                int64_t offset = pixel * convolution->outputs + first + part;
                vector value = m[y * SIDE + x] + bias;
                if (full_vectors) {
                    if (pictures->residual) value += load(pictures->residual + offset);
                    store_streaming(pictures->output + offset, value);
                } else {
                    for (int64_t i = 0; i < min_int64(WIDTH, convolution->outputs - first - part); i++)
                        pictures->output[offset + i] =
                            value[i] + (pictures->residual ? pictures->residual[offset + i] : 0);
                }
            }
    }
}

static inline int64_t chunk_count(int64_t pixels) { return (pixels + CHUNK - 1) / CHUNK; }

static int64_t norm_scratch(int64_t count, int64_t pixels, int64_t channels) {
    return count * chunk_count(pixels) * 2 * channels;
}

/* A group norm of input [count, pixels, channels] as scale and shift of each channel: affine [count, 2, channels]. */
static void norm_affine(
    const Norm *norm, const float *input, int64_t count, int64_t pixels, float *affine, float *scratch,
    int64_t threads) {
    int64_t channels = norm->channels, group_channels = channels / norm->groups, chunks = chunk_count(pixels);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < count * chunks; chunk++) {
            int64_t first = chunk % chunks * CHUNK, size = min_int64(CHUNK, pixels - first);
            const float *from = input + (chunk / chunks * pixels + first) * channels;
            float *sums = scratch + chunk * 2 * channels, *squares = sums + channels;
            memset(sums, 0, 2 * channels * sizeof(float));
            for (int64_t pixel = 0; pixel < size; pixel++)
                for (int64_t c = 0; c < channels; c += WIDTH) {
                    vector x = load(from + pixel * channels + c);
                    store(sums + c, load(sums + c) + x);
                    store(squares + c, load(squares + c) + x * x);
                }
        }
#pragma omp for schedule(static)
        for (int64_t group = 0; group < count * norm->groups; group++) {
            int64_t picture = group / norm->groups, start = group % norm->groups * group_channels;
            double sum = 0, square = 0;
            for (int64_t chunk = 0; chunk < chunks; chunk++) {
                const float *sums = scratch + (picture * chunks + chunk) * 2 * channels;
                for (int64_t c = start; c < start + group_channels; c++) sum += sums[c], square += sums[channels + c];
            }
            double mean = sum / (pixels * group_channels), variance = square / (pixels * group_channels) - mean * mean;
            double factor = 1 / sqrt((variance > 0 ? variance : 0) + norm->epsilon);
            float *scale = affine + picture * 2 * channels, *shift = scale + channels;
            for (int64_t c = start; c < start + group_channels; c++) {
                scale[c] = (float)(norm->weight[c] * factor);
                shift[c] = (float)(norm->bias[c] - mean * factor * norm->weight[c]);
            }
        }
    }
}

static inline int64_t blocks(int64_t side, int64_t tiles) { return (side + STRIDE * tiles - 1) / (STRIDE * tiles); }

static int64_t thread_scratch(int64_t channels) {
    return BLOCK_HEIGHT * BLOCK_WIDTH * channels + ELEMENTS * (element_stride(channels) + element_stride(OUTPUTS));
}

static inline int64_t max_int64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Floats of scratch memory for `channels` inputs and `count` pictures of `pixels` pixels, before doubling. */
int64_t convolve_scratch(int64_t channels, int64_t count, int64_t pixels, int64_t threads) {
    return count * 2 * channels + max_int64(norm_scratch(count, pixels, channels), threads * thread_scratch(channels));
}

/* Zero-padded convolution of the pictures, plus residual. Before it, if `norm` is not null, group norm and SiLU, and
   then, if `doubled`, upsampling. */
void convolve(
    const Convolution *convolution, const Norm *norm, const Pictures *pictures, float *scratch, int64_t threads) {
    int64_t channels = convolution->inputs, halved = pictures->doubled ? 1 : 0;
    float *affine = norm ? scratch : 0, *rest = scratch + pictures->count * 2 * channels;
    if (norm) {
        int64_t pixels = (pictures->height >> halved) * (pictures->width >> halved);
        norm_affine(norm, pictures->input, pictures->count, pixels, affine, rest, threads);
    }
    int64_t down = blocks(pictures->height, BLOCK_ROWS), across = blocks(pictures->width, BLOCK_COLUMNS);
#pragma omp parallel num_threads(threads)
    {
        float *input = rest + omp_get_thread_num() * thread_scratch(channels);
        float *elements = input + BLOCK_HEIGHT * BLOCK_WIDTH * channels;
        float *products = elements + ELEMENTS * element_stride(channels);
#pragma omp for schedule(dynamic, 1)
        for (int64_t block = 0; block < pictures->count * down * across; block++) {
            int64_t picture = block / (down * across), row = block / across % down, column = block % across;
            int64_t top = row * BLOCK_ROWS * STRIDE, left = column * BLOCK_COLUMNS * STRIDE;
            int64_t rows = min_int64(BLOCK_ROWS, (pictures->height - top + STRIDE - 1) / STRIDE);
            int64_t columns = min_int64(BLOCK_COLUMNS, (pictures->width - left + STRIDE - 1) / STRIDE);
            int64_t width = columns * STRIDE + 2;
            load_block(pictures, affine, picture, channels, top - 1, left - 1, rows * STRIDE + 2, width, input);
            for (int64_t tile = 0; tile < rows * columns; tile++) {
                const float *corner = input + (tile / columns * width + tile % columns) * STRIDE * channels;
                transform_tile(corner, width, channels, tile, elements);
            }
            for (int64_t first = 0; first < convolution->outputs; first += OUTPUTS) {
                const float *table = convolution->table + first * ELEMENTS * channels;
                for (int64_t i = 0; i < ELEMENTS; i++)
                    multiply(elements + i * element_stride(channels), table + i * channels * OUTPUTS, rows * columns,
                             channels, products + i * element_stride(OUTPUTS));
                for (int64_t tile = 0; tile < rows * columns; tile++) {
                    int64_t y = top + tile / columns * STRIDE, x = left + tile % columns * STRIDE;
                    write_tile(convolution, pictures, picture, y, x, first, products + tile * OUTPUTS);
                }
            }
        }
        store_fence();
    }
}
