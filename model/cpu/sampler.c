/* From logits to codes: guidance, filters, Gumbel noise and arg-max.

   Codes equal those of model/sampling.py. So guidance must round after the product and again after the sum, as it
   does there: this file is compiled with -ffp-contract=off. Noise has a few digits less than there. Where the best
   codes are closer than that, about one draw in ten thousand, or where rounding decides what top-p keeps, the image
   is marked as ambiguous and model/sampling.py samples it again. model/cpu/library.py compiles this file;
   model/cpu/sampler.py declares the same structure. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

typedef uint32_t uint32s __attribute__((vector_size(4 * WIDTH)));
typedef uint64_t uint64s __attribute__((vector_size(4 * WIDTH)));

/* High and low words of the 64-bit products of each lane with a constant; even and odd lanes are multiplied apart. */
INLINE void mulhilo(uint64_t factor, uint32s lanes, uint32s *high, uint32s *low) {
    const uint64_t low_word = 0xFFFFFFFF;
    uint64s even = ((uint64s)lanes & low_word) * factor, odd = ((uint64s)lanes >> 32) * factor;
    *high = (uint32s)(even >> 32 | (odd & ~low_word));
    *low = (uint32s)((even & low_word) | odd << 32);
}

/* Philox4x32-10 (Salmon et al. 2011) of the counters (first + i, 0, 0, 0): each word as (word + ½) / 2³². */
static void philox(uint32_t first, uint32_t key0, uint32_t key1, float uniform[WIDTH][4]) {
    uint32s zero = {0}, c0 = zero, c1 = zero, c2 = zero, c3 = zero;
    for (int i = 0; i < WIDTH; i++) c0[i] = first + i;
    for (int round = 0; round < 10; round++, key0 += 0x9E3779B9, key1 += 0xBB67AE85) {
        uint32s high0, low0, high2, low2;
        mulhilo(0xD2511F53, c0, &high0, &low0);
        mulhilo(0xCD9E8D57, c2, &high2, &low2);
        c0 = high2 ^ c1 ^ key0, c1 = low2, c2 = high0 ^ c3 ^ key1, c3 = low0;
    }
    for (int i = 0; i < WIDTH; i++) {
        const uint32_t word[4] = {c0[i], c1[i], c2[i], c3[i]};
        for (int w = 0; w < 4; w++) uniform[i][w] = ((float)word[w] + 0.5f) * 0x1p-32f;
    }
}

/* Natural logarithm of normal floats above 0. x = 2^exponent · m with m in [sqrt(1/2), sqrt(2)), and by the series of
   the inverse hyperbolic tangent log m = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = (m - 1) / (m + 1). */
INLINE vector logarithm(vector x) {
    int32s bits = (int32s)x, exponent = (bits - 0x3F3504F3) >> 23;
    vector m = (vector)(bits - (exponent << 23));
    vector s = (m - 1) / (m + 1), q = s * s;
    vector series = 1 + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9))));
    return __builtin_convertvector(exponent, vector) * 0.69314718f + 2 * s * series;
}

#define NOISE_ERROR 1e-5f /* largest difference from model/noise.py */

/* Gumbel noise -log(-log(1 - u)) of uniform numbers in (0, 1], as in model/noise.py. */
INLINE vector gumbel(vector u) {
    const vector zero = {0}, one = zero + 1;
    vector left = select_lanes(u < one, one - u, zero + 0x1p-126f);
    vector exponential = (u - (one - left)) / left - logarithm(left); /* first term: rounding error of 1 - u */
    return -logarithm(select_lanes(exponential < 32 * one, exponential, 32 * one));
}

/* The images that are sampled together. Arrays are [images] unless stated otherwise. A step computes a window of places
   for each image: the next one, and others behind it as if the guesses between them were right. A draw is one place of
   one image. */
typedef struct {
    const float *guidance, *temperature; /* guidance scale; temperature 0 is greedy */
    const int64_t *top_k;                /* 0 keeps all */
    const double *top_p;                 /* 1 keeps all */
    const int64_t *seeds;
    const int64_t *row_counts;     /* rows of the KV cache: 1, or 2 if guided */
    const int64_t *cache_rows;     /* [images, 2], the conditional one first; it is also the image's row of `codes` */
    const int64_t *prompt_lengths; /* [images, 2], tokens before the first code in each of them */
    const int64_t *widths;         /* places wanted in a step; fewer at an image's end */
    int64_t *sampled;              /* number of codes so far */
    int64_t *codes;                /* [rows, tokens]; those from `sampled` on are guesses */
    int64_t *guessed;              /* [rows], places that have a code or a guess which is better than the code above */
    float *sums;       /* [rows], running sums of all guided logits: finite as long as every logit is */
    float *logprobs;   /* [rows, tokens], of each code among those that the filters keep; NULL if not wanted */
    /* Inputs of the next step, [tokens fed]: codes, rows of the cache, positions. */
    int64_t *fed, *fed_rows, *fed_positions;
    int64_t *windows, *starts; /* width of each image in this step; the first of its logits */
    int64_t *confirmed;        /* codes that the last step added */
    /* Draws of this step. `ambiguous` is 1 where the code may differ from model/sampling.py. */
    int64_t *draw_images, *draw_places, *draw_codes;
    float *draw_sums, *draw_logprobs;
    int8_t *ambiguous;
    int64_t images, vocabulary, tokens, grid;
    int64_t fed_count, draw_count;
} Batch;

#define BITS 11 /* per digit of a radix selection */
#define BINS (1 << BITS)
#define LEVELS 3 /* digits of a 32-bit key: BITS, BITS and the remaining 10 bits */

/* The logits that top-p keeps: all above `bound`, and the first `equals` of those equal to it. */
typedef struct {
    float bound;
    int64_t equals;
    int close; /* whether rounding decides which logit is the last */
} Nucleus;

/* Whether rounding could decide if `sum` reaches `goal`: in float64, sums over all codes err by far less than this. */
static inline int is_close(double sum, double goal, double total) { return fabs(sum - goal) < 1e-9 * total; }

/* Integer key that sorts like the float. -0 would sort below 0, but no guided logit is -0: c - u is 0 for c = u. */
INLINE uint32_t float_to_key(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

/* Inverse of `float_to_key`. */
static inline float key_to_float(uint32_t key) {
    uint32_t bits = key & 0x80000000 ? key ^ 0x80000000 : ~key;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Number of bits below the digit of a level; level 0 is the highest digit. */
static inline int digit_shift(int level) { return level == LEVELS - 1 ? 0 : 32 - BITS * (level + 1); }

static inline uint32_t digit(uint32_t key, int level) {
    return key >> digit_shift(level) & ((level == LEVELS - 1 ? 1 << (32 - BITS * (LEVELS - 1)) : BINS) - 1);
}

/* The k-th largest of the logits, by radix selection: count the keys by one digit, keep those in the bin of the k-th,
   go on with the next digit. `keys` [count] is scratch memory. */
static float kth_largest(const float *logits, int64_t count, int64_t k, uint32_t *keys) {
    for (int64_t i = 0; i < count; i++) keys[i] = float_to_key(logits[i]);
    uint32_t found = 0;
    for (int level = 0; level < LEVELS; level++) {
        int32_t bins[BINS] = {0};
        for (int64_t i = 0; i < count; i++) bins[digit(keys[i], level)]++;
        uint32_t bin = BINS - 1;
        while (bins[bin] < k) k -= bins[bin--];
        found |= bin << digit_shift(level);
        int64_t remaining = 0;
        for (int64_t i = 0; i < count; i++)
            if (digit(keys[i], level) == bin) keys[remaining++] = keys[i];
        count = remaining;
    }
    return key_to_float(found);
}

/* The smallest set of logits >= `min_logit` that reaches probability p: a logit is in it if all before it, from the
   largest down, have less. By radix selection; `keys` and `weights` [count] are scratch memory. */
static Nucleus find_nucleus(
    const float *logits, int64_t count, float min_logit, double p, uint32_t *keys, double *weights) {
    float peak = -INFINITY;
    for (int64_t i = 0; i < count; i++) peak = logits[i] > peak ? logits[i] : peak;
    int64_t remaining = 0;
    double total = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!(logits[i] >= min_logit)) continue;
        keys[remaining] = float_to_key(logits[i]);
        total += weights[remaining++] = exp((double)logits[i] - peak);
    }
    const double goal = p * total;
    int close = 0;
    uint32_t found = 0;
    double above = 0; /* weight of all keys in higher bins */
    for (int level = 0; level < LEVELS; level++) {
        double bins[BINS] = {0};
        int32_t counts[BINS] = {0};
        for (int64_t i = 0; i < remaining; i++) {
            uint32_t bin = digit(keys[i], level);
            bins[bin] += weights[i];
            counts[bin]++;
        }
        /* the lowest non-empty bin such that the keys above it do not reach p */
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
        if (bin < 0) return (Nucleus){INFINITY, 0, 0}; /* no logit reaches `min_logit`: NaN */
        found |= (uint32_t)bin << digit_shift(level);
        int64_t kept = 0;
        for (int64_t i = 0; i < remaining; i++)
            if (digit(keys[i], level) == bin) {
                keys[kept] = keys[i];
                weights[kept++] = weights[i];
            }
        remaining = kept;
    }
    int64_t equals = 1;
    while (equals < remaining && above + equals * weights[0] < goal) equals++;
    close |= equals < remaining && is_close(above + equals * weights[0], goal, total);
    close |= equals > 1 && is_close(above + (equals - 1) * weights[0], goal, total);
    return (Nucleus){key_to_float(found), equals, close};
}

/* Index of the largest number, the first one of a tie; 0 if all are NaN. */
static int64_t argmax(const float *numbers, int64_t count) {
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

/* guided [count] = (u + g (c - u)) / temperature; returns the sum of the guided logits before the division. */
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

/* Add noise to the logits [count] that are at min_logit `bound`, in place; set the others to -infinity.
   A block of 4 · WIDTH logits that are all below the bound needs no noise. */
static void add_noise(float *logits, int64_t count, float bound, int64_t seed, int64_t position) {
    const int64_t counters = (count + 3) / 4; /* per position */
    for (int64_t first = 0; first < count; first += 4 * WIDTH) {
        int64_t size = count - first < 4 * WIDTH ? count - first : 4 * WIDTH;
        float *at = logits + first, noise[WIDTH][4];
        int any_kept = 0;
        for (int64_t i = 0; i < size; i++) any_kept |= at[i] >= bound;
        if (any_kept) {
            philox(position * counters + first / 4, seed, seed >> 32, noise);
            vector *parts = (vector *)noise;
            for (int i = 0; i < 4; i++) parts[i] = gumbel(parts[i]);
        }
        for (int64_t i = 0; i < size; i++) at[i] = any_kept && at[i] >= bound ? at[i] + (&noise[0][0])[i] : -INFINITY;
    }
}

/* Logarithm of the sum of the exponentials of the logits [count] that are at least `bound`. */
static double log_sum_exp(const float *logits, int64_t count, float bound) {
    float peak = -INFINITY;
    for (int64_t i = 0; i < count; i++) peak = logits[i] > peak ? logits[i] : peak;
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        if (logits[i] >= bound) sum += expf(logits[i] - peak);
    return peak + log(sum);
}

/* Filter guided logits [count], add noise and return the best code. Overwrites the logits and sets `ambiguous` and,
   unless it is NULL, `normaliser` to `log_sum_exp` of what the filters keep; `keys` and `weights` [count] are scratch
   memory. */
static int64_t sample_code(
    float *logits, int64_t count, int64_t top_k, double top_p, int64_t seed, int64_t position, uint32_t *keys,
    double *weights, int8_t *ambiguous, double *normaliser) {
    float bound = -INFINITY;
    int close = 0;
    if (top_k && top_k < count) bound = kth_largest(logits, count, top_k, keys);
    if (top_p < 1) {
        Nucleus nucleus = find_nucleus(logits, count, bound, top_p, keys, weights);
        bound = nucleus.bound, close = nucleus.close;
        for (int64_t i = 0; i < count; i++)
            if (logits[i] == bound && nucleus.equals-- <= 0) logits[i] = -INFINITY;
    }
    if (normaliser) *normaliser = log_sum_exp(logits, count, bound);
    add_noise(logits, count, bound, seed, position);
    const int64_t best = argmax(logits, count);
    const float peak = logits[best], margin = 2 * (NOISE_ERROR + fabsf(peak) * 0x1p-22f);
    int64_t candidates = 0;
    for (int64_t i = 0; i < count; i++) candidates += logits[i] >= peak - margin;
    *ambiguous = (candidates > 1 || close) && isfinite(peak);
    return best;
}

/* Bytes of scratch memory per thread. */
int64_t sample_scratch(int64_t vocabulary) { return vocabulary * (sizeof(double) + sizeof(uint32_t) + sizeof(float)); }

/* Logits of a draw: the conditional ones, and the unconditional ones; the same for an unguided image. */
static inline const float *draw_logits(const Batch *batch, const float *logits, int64_t draw, int conditional) {
    const int64_t image = batch->draw_images[draw];
    const int64_t own = conditional ? 0 : batch->row_counts[image] - 1;
    return logits + (batch->starts[image] + own * batch->windows[image] + batch->draw_places[draw]) * batch->vocabulary;
}

/* Fill in guesses that are missing, and the inputs of the next step: the latest code of each image, then its guesses.
   The code above is the guess where nothing was drawn yet. */
void feed(Batch *batch) {
    int64_t fed = 0, draws = 0;
    for (int64_t image = 0; image < batch->images; image++) {
        const int64_t *cache_rows = batch->cache_rows + 2 * image, *lengths = batch->prompt_lengths + 2 * image;
        const int64_t next = batch->sampled[image];
        const int64_t window = min_int64(batch->widths[image], batch->tokens - next);
        int64_t *codes = batch->codes + cache_rows[0] * batch->tokens;
        for (int64_t place = next; place < next + window - 1; place++)
            if (place >= batch->guessed[cache_rows[0]])
                codes[place] = place >= batch->grid ? codes[place - batch->grid] : codes[place ? place - 1 : 0];
        batch->windows[image] = window;
        batch->starts[image] = fed;
        for (int64_t own = 0; own < batch->row_counts[image]; own++)
            for (int64_t place = next - 1; place < next - 1 + window; place++, fed++) {
                batch->fed[fed] = place < 0 ? 0 : codes[place]; /* before the first code, the prompt's logits come next */
                batch->fed_rows[fed] = cache_rows[own];
                batch->fed_positions[fed] = lengths[own] + place;
            }
        for (int64_t place = 0; place < window; place++, draws++) {
            batch->draw_images[draws] = image;
            batch->draw_places[draws] = place;
        }
    }
    batch->fed_count = fed;
    batch->draw_count = draws;
}

/* Draw every place of the windows from logits [tokens fed, vocabulary]; returns how many draws are ambiguous. */
int64_t draw(const Batch *batch, const float *logits, char *scratch, int64_t threads) {
    const int64_t count = batch->vocabulary;
    /* always the thread count of a step: a team that changes its size costs more than this function */
#pragma omp parallel for schedule(static) num_threads(threads) if (batch->draw_count > 1)
    for (int64_t draw = 0; draw < batch->draw_count; draw++) {
        const int64_t image = batch->draw_images[draw], place = batch->sampled[image] + batch->draw_places[draw];
        double *weights = (double *)(scratch + omp_get_thread_num() * sample_scratch(count));
        uint32_t *keys = (uint32_t *)(weights + count);
        float *guided = (float *)(keys + count), temperature = batch->temperature[image];
        const float *conditional = draw_logits(batch, logits, draw, 1);
        const float *unconditional = draw_logits(batch, logits, draw, 0);
        batch->draw_sums[draw] = guide(conditional, unconditional, batch->guidance[image], temperature, count, guided);
        batch->ambiguous[draw] = 0;
        double normaliser = 0;
        const int64_t code = temperature == 0
                                 ? argmax(guided, count)
                                 : sample_code(
                                       guided, count, batch->top_k[image], batch->top_p[image], batch->seeds[image],
                                       place, keys, weights, batch->ambiguous + draw,
                                       batch->logprobs ? &normaliser : NULL);
        batch->draw_codes[draw] = code;
        if (batch->logprobs) {
            float logit = (conditional[code] - unconditional[code]) * batch->guidance[image] + unconditional[code];
            batch->draw_logprobs[draw] = temperature == 0 ? 0 : logit / temperature - normaliser;
        }
    }
    int64_t ambiguous = 0;
    for (int64_t draw = 0; draw < batch->draw_count; draw++) ambiguous += batch->ambiguous[draw];
    return ambiguous;
}

/* Add the codes that the draws confirm, keep the others as guesses, and feed the next step.

   The first draw of a window is confirmed: all codes before it are. Another one is if the one before it is confirmed and
   equals the guess that was fed. */
void confirm(Batch *batch) {
    const int64_t *drawn = batch->draw_codes;
    const float *sums = batch->draw_sums, *logprobs = batch->draw_logprobs;
    for (int64_t image = 0; image < batch->images; image++) {
        const int64_t row = batch->cache_rows[2 * image], first = batch->sampled[image], window = batch->windows[image];
        int64_t *codes = batch->codes + row * batch->tokens + first, confirmed = 1;
        while (confirmed < window && codes[confirmed - 1] == drawn[confirmed - 1]) confirmed++;
        memcpy(codes, drawn, window * sizeof *codes);
        if (batch->logprobs)
            memcpy(batch->logprobs + row * batch->tokens + first, logprobs, window * sizeof *logprobs);
        for (int64_t place = 0; place < confirmed; place++) batch->sums[row] += sums[place];
        if (batch->guessed[row] < first + window) batch->guessed[row] = first + window;
        batch->sampled[image] += confirmed;
        batch->confirmed[image] = confirmed;
        drawn += window, sums += window, logprobs += window;
    }
    feed(batch);
}
