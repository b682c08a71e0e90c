/* What follows a decode step, in one call: guidance, filters and the Gumbel arg-max; and the words of the noise.

   Codes are equal to those of model/sampling.py. So guidance may not be fused into one rounding that is
   two there: this file is compiled without contraction of products and sums. Noise is made here to some
   digits less than there, which decides between all codes but those that are as good as equal; such an
   image is left to model/sampling.py itself, one of some ten thousands. model/cpu/library.py compiles this;
   model/cpu/sampler.py holds the other half of the structure. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

typedef uint32_t uint32s __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t uint64s __attribute__((vector_size(4 * WIDTH)));

/* High and low words of products with a constant: of the even int32s, then of the odd ones. */
INLINE void product(uint64_t factor, uint32s by, uint32s *high, uint32s *low) {
    const uint64_t lower = 0xFFFFFFFF;
    uint64s even = ((uint64s)by & lower) * factor, odd = ((uint64s)by >> 32) * factor;
    *high = (uint32s)(even >> 32 | (odd & ~lower));
    *low = (uint32s)((even & lower) | odd << 32);
}

/* Philox4x32-10 (Salmon et al. 2011) of the counters (first + i, 0, 0, 0), each word as (word + ½) / 2³². */
static void philox(uint32_t first, uint32_t key0, uint32_t key1, float uniform[WIDTH][4]) {
    uint32s zero = {0}, c0 = zero, c1 = zero, c2 = zero, c3 = zero;
    for (int i = 0; i < WIDTH; i++) c0[i] = first + i;
    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9, key1 += 0xBB67AE85) {
        uint32s high0, low0, high2, low2;
        product(0xD2511F53, c0, &high0, &low0);
        product(0xCD9E8D57, c2, &high2, &low2);
        c0 = high2 ^ c1 ^ key0, c1 = low2, c2 = high0 ^ c3 ^ key1, c3 = low0;
    }
    for (int i = 0; i < WIDTH; i++) {
        const uint32_t word[4] = {c0[i], c1[i], c2[i], c3[i]};
        for (int w = 0; w < 4; w++) uniform[i][w] = ((float)word[w] + 0.5f) * 0x1p-32f;
    }
}

/* Logarithms of normal numbers above 0: of m in [sqrt(1/2), sqrt(2)) and a power of 2, the former by the series
   of the area hyperbolic tangent, log m = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = (m - 1) / (m + 1). */
INLINE vector logarithm(vector x) {
    int32s bits = (int32s)x, exponent = (bits - 0x3F3504F3) >> 23;
    vector m = (vector)(bits - (exponent << 23));
    vector s = (m - 1) / (m + 1), q = s * s;
    vector series = 1 + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9))));
    return __builtin_convertvector(exponent, vector) * 0.69314718f + 2 * s * series;
}

#define NOISE_ERROR 1e-5f /* at most, against model/noise.py */

/* -log(-log(1 - u)): the noise of model/noise.py of uniform numbers in (0, 1]. */
INLINE vector gumbel(vector u) {
    const vector zero = {0}, one = zero + 1;
    vector left = either(u < one, one - u, zero + 0x1p-126f);
    vector exponential = (u - (one - left)) / left - logarithm(left); /* what 1 - u has lost is put back */
    return -logarithm(either(exponential < 32 * one, exponential, 32 * one));
}

/* What images draw from, each array [images] or as said. A row of the logits is [vocabulary]. */
typedef struct {
    const int64_t *conditional, *unconditional; /* rows of the logits; the same one twice where nothing guides */
    const float *guidance, *temperature;        /* temperature 0 is greedy */
    const int64_t *top_k;                       /* 0 keeps all */
    const double *top_p;                        /* 1 keeps all */
    const int64_t *rows;
    int64_t *sampled;     /* how many codes each image has; one more after the call */
    int64_t *latest;       /* [rows], the latest code of each row's image */
    const int64_t *seeds;
    int64_t *codes;     /* [rows, tokens] */
    float *sums;        /* [rows], of guided logits: finite while all of them are */
    int8_t *ambiguous;     /* 1 where the best codes are as good as equal */
    int64_t images, vocabulary, tokens;
} Batch;

#define BITS 11
#define BINS (1 << BITS)
#define LEVELS 3 /* of BITS bits; the last has what 32 bits leave */

/* What top-p keeps: every logit above a bound, and of those equal to it the first ones. */
typedef struct {
    float bound;
    int64_t equals;
    int close; /* whether rounding decides where it ends */
} Kept;

/* Of sums of as many numbers as there are codes, what rounding in float64 is far below. */
static inline int is_close(double sum, double goal, double total) { return fabs(sum - goal) < 1e-9 * total; }

/* Numbers in the order of their floats. Of zeros no guided logit is the negative one: c - u is not, for c = u. */
INLINE uint32_t ordered(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

static inline float unordered(uint32_t key) {
    uint32_t bits = key & 0x80000000 ? key ^ 0x80000000 : ~key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int shift_of(int level) { return level == LEVELS - 1 ? 0 : 32 - BITS * (level + 1); }

static inline uint32_t bin_of(uint32_t key, int level) {
    return key >> shift_of(level) & ((level == LEVELS - 1 ? 1 << (32 - BITS * (LEVELS - 1)) : BINS) - 1);
}

/* The k-th largest logit; room for as many keys as there are logits. */
static float kth_largest(const float *logits, int64_t count, int64_t k, uint32_t *keys) {
    for (int64_t i = 0; i < count; i++) keys[i] = ordered(logits[i]);
    uint32_t found = 0;
    for (int level = 0; level < LEVELS; level++) {
        int32_t bins[BINS] = {0};
        for (int64_t i = 0; i < count; i++) bins[bin_of(keys[i], level)]++;
        uint32_t bin = BINS - 1;
        while (bins[bin] < k) k -= bins[bin--];
        found |= bin << shift_of(level);
        int64_t left = 0;
        for (int64_t i = 0; i < count; i++)
            if (bin_of(keys[i], level) == bin) keys[left++] = keys[i];
        count = left;
    }
    return unordered(found);
}

/* The smallest set of the logits from `least_kept` up that reaches probability p: a logit is in it
   if all before it, from the largest down, have less. Room for as many keys and weights as logits. */
static Kept nucleus(
    const float *logits, int64_t count, float least_kept, double p, uint32_t *keys, double *weights) {
    float peak = -INFINITY;
    for (int64_t i = 0; i < count; i++) peak = logits[i] > peak ? logits[i] : peak;
    int64_t left = 0;
    double total = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!(logits[i] >= least_kept)) continue;
        keys[left] = ordered(logits[i]);
        total += weights[left++] = exp((double)logits[i] - peak);
    }
    const double goal = p * total;
    int close = 0;
    uint32_t found = 0;
    double above = 0; /* of all larger ones */
    for (int level = 0; level < LEVELS; level++) {
        double bins[BINS] = {0};
        int32_t counts[BINS] = {0};
        for (int64_t i = 0; i < left; i++) {
            uint32_t bin = bin_of(keys[i], level);
            bins[bin] += weights[i];
            counts[bin]++;
        }
        /* the last bin that anything is in whose larger ones do not reach p */
        int64_t bin = -1;
        double before = above;
        for (int64_t b = BINS - 1; b >= 0; b--) {
            if (!counts[b]) continue;
            close |= bin >= 0 && is_close(before, goal, total);
            if (bin >= 0 && before >= goal) break;
            above = before;
            bin = b;
            before += bins[b];
        }
        if (bin < 0) return (Kept){INFINITY, 0, 0}; /* nothing is a number */
        found |= (uint32_t)bin << shift_of(level);
        int64_t kept = 0;
        for (int64_t i = 0; i < left; i++)
            if (bin_of(keys[i], level) == bin) {
                keys[kept] = keys[i];
                weights[kept++] = weights[i];
            }
        left = kept;
    }
    int64_t equals = 1;
    while (equals < left && above + equals * weights[0] < goal) equals++;
    close |= equals < left && is_close(above + equals * weights[0], goal, total);
    close |= equals > 1 && is_close(above + (equals - 1) * weights[0], goal, total);
    return (Kept){unordered(found), equals, close};
}

/* Where the largest number is, the first of equals; 0 where nothing is a number. */
static int64_t largest(const float *numbers, int64_t count) {
    float peaks[WIDTH];
    for (int w = 0; w < WIDTH; w++) peaks[w] = -INFINITY;
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH)
        for (int w = 0; w < WIDTH; w++) peaks[w] = numbers[i + w] > peaks[w] ? numbers[i + w] : peaks[w];
    float peak = -INFINITY;
    for (; i < count; i++) peak = numbers[i] > peak ? numbers[i] : peak;
    for (int w = 0; w < WIDTH; w++) peak = peaks[w] > peak ? peaks[w] : peak;
    for (i = 0; i < count; i++)
        if (numbers[i] == peak) return i;
    return 0;
}

/* u + g (c - u) over temperature; returns their sum before that. */
static float guide(
    const float *conditional, const float *unconditional, float guidance, float temperature, int64_t count,
    float *guided) {
    float sums[WIDTH] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + WIDTH <= count; i += WIDTH)
        for (int w = 0; w < WIDTH; w++) {
            float c = conditional[i + w], u = unconditional[i + w];
            sums[w] += guided[i + w] = (c - u) * guidance + u;
        }
    for (; i < count; i++) sum += guided[i] = (conditional[i] - unconditional[i]) * guidance + unconditional[i];
    for (int w = 0; w < WIDTH; w++) sum += sums[w];
    if (temperature != 0 && temperature != 1)
        for (i = 0; i < count; i++) guided[i] /= temperature;
    return sum;
}

/* logits [vocabulary] -> with noise where they are at least `bound`, -infinity elsewhere. */
static void add_noise(float *logits, int64_t count, float bound, int64_t seed, int64_t position) {
    const int64_t blocks = (count + 3) / 4;
    for (int64_t first = 0; first < count; first += 4 * WIDTH) {
        int64_t left = count - first < 4 * WIDTH ? count - first : 4 * WIDTH;
        float *at = logits + first, numbers[WIDTH][4];
        int some = 0;
        for (int64_t i = 0; i < left; i++) some |= at[i] >= bound;
        if (some) {
            philox(position * blocks + first / 4, seed, seed >> 32, numbers);
            vector *noise = (vector *)numbers;
            for (int i = 0; i < 4; i++) noise[i] = gumbel(noise[i]);
        }
        for (int64_t i = 0; i < left; i++) at[i] = some && at[i] >= bound ? at[i] + (&numbers[0][0])[i] : -INFINITY;
    }
}

/* Guided logits [vocabulary] -> the code, and whether others are as good as equal; the logits are written over. */
static int64_t choose(
    float *logits, int64_t count, int64_t top_k, double top_p, int64_t seed, int64_t position, uint32_t *keys,
    double *weights, int8_t *ambiguous) {
    float bound = -INFINITY;
    int close = 0;
    if (top_k && top_k < count) bound = kth_largest(logits, count, top_k, keys);
    if (top_p < 1) {
        Kept kept = nucleus(logits, count, bound, top_p, keys, weights);
        bound = kept.bound, close = kept.close;
        for (int64_t i = 0; i < count; i++)
            if (logits[i] == bound && kept.equals-- <= 0) logits[i] = -INFINITY;
    }
    add_noise(logits, count, bound, seed, position);
    const int64_t best = largest(logits, count);
    const float peak = logits[best], margin = 2 * (NOISE_ERROR + fabsf(peak) * 0x1p-22f);
    int64_t near = 0;
    for (int64_t i = 0; i < count; i++) near += logits[i] >= peak - margin;
    *ambiguous = (near > 1 || close) && isfinite(peak);
    return best;
}

/* Bytes of scratch memory for one thread. */
int64_t sample_scratch(int64_t vocabulary) { return vocabulary * (sizeof(double) + sizeof(uint32_t) + sizeof(float)); }

/* logits [rows, vocabulary] -> one more code for every image; returns for how many it is ambiguous. */
int64_t sample(const Batch *batch, const float *logits, char *scratch, int64_t threads) {
    const int64_t count = batch->vocabulary;
    /* always as many threads as a step has: a team that changes its size costs more than this */
#pragma omp parallel for schedule(static) num_threads(threads) if (batch->images > 1)
    for (int64_t image = 0; image < batch->images; image++) {
        double *weights = (double *)(scratch + omp_get_thread_num() * sample_scratch(count));
        uint32_t *keys = (uint32_t *)(weights + count);
        float *guided = (float *)(keys + count), temperature = batch->temperature[image];
        const int64_t row = batch->rows[image], position = batch->sampled[image]++;
        batch->sums[row] += guide(
            logits + batch->conditional[image] * count, logits + batch->unconditional[image] * count,
            batch->guidance[image], temperature, count, guided);
        batch->ambiguous[image] = 0;
        const int64_t code = temperature == 0 ? largest(guided, count)
                                              : choose(
                                                    guided, count, batch->top_k[image], batch->top_p[image],
                                                    batch->seeds[image], position, keys, weights, batch->ambiguous + image);
        batch->latest[batch->conditional[image]] = batch->latest[batch->unconditional[image]] = code;
        batch->codes[row * batch->tokens + position] = code;
    }
    int64_t ambiguous = 0;
    for (int64_t image = 0; image < batch->images; image++) ambiguous += batch->ambiguous[image];
    return ambiguous;
}
