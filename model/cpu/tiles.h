/* Products of tiles of 8-bit integers, which some processors have (AMX): of up to 16 rows of 64 inputs with 16 columns. In a
   cycle they multiply 1024 pairs of bytes, where vectors multiply 64 pairs of 16-bit integers.

   A 16-bit integer is 256 times its upper byte, which has a sign, plus its lower byte, which has none. Sums of products
   with either are exact, so results are those of vectors, bit for bit. */

#ifndef TILES_H
#define TILES_H

#include <stdint.h>

#define TILE_ROWS 16
#define TILE_INPUTS 64
#define TILE_COLUMNS 16

/* Rows as tiles, [inputs / TILE_INPUTS, rows, TILE_INPUTS] of upper bytes, and of lower ones. */
typedef struct {
    int8_t *upper;
    uint8_t *lower;
    int64_t rows;
} Halves;

#ifdef __AMX_INT8__
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUEST_PERMISSION 0x1023 /* of arch_prctl: Linux gives no process its tiles unasked */
#define TILE_DATA 18              /* the tiles' number among the parts of a processor's state */

static int has_tiles = 0;

/* Ask for tiles, for all threads of this process. Where the system refuses, vectors are used. */
void request_tiles(void) { has_tiles = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0; }

/* Tiles for `rows` rows at once, of this thread alone, until `end_tiles`. */
static void begin_tiles(int64_t rows) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shapes.bytes[tile] = TILE_INPUTS;
        shapes.rows[tile] = tile < 6 ? rows : TILE_INPUTS / 4; /* sums and inputs, or weights */
    }
    /* GCC's intrinsic (12) does not tell the compiler that all of `shapes` is read, nor those for tiles that memory is */
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
}

static void end_tiles(void) { _tile_release(); }

/* Write `count` integers of a row, a multiple of TILE_INPUTS, as halves, from input `at` on. */
static void write_halves(const int16_t *integers, int64_t count, Halves halves, int64_t row, int64_t at) {
    for (int64_t i = 0; i < count; i += 32) {
        int64_t place = ((at + i) / TILE_INPUTS * halves.rows + row) * TILE_INPUTS + i % TILE_INPUTS;
        __m512i part = _mm512_loadu_si512(integers + i);
        _mm256_storeu_si256((void *)(halves.upper + place), _mm512_cvtepi16_epi8(_mm512_srai_epi16(part, 8)));
        _mm256_storeu_si256((void *)(halves.lower + place), _mm512_cvtepi16_epi8(part));
    }
}

/* sums [blocks · panels, 2, TILE_ROWS, TILE_COLUMNS] = upper and lower halves of one or two blocks of `block` rows from `row` and
   input `at` on, `count` inputs, · one or two panels of weights, `apart` bytes from each other; with two blocks, one panel.
   Fetches as many bytes from `fetch` on. */
static inline __attribute__((always_inline)) void multiply_tiles(
    const int blocks, const int panels, Halves halves, int64_t row, int64_t block, int64_t at, int64_t count,
    const int8_t *weights, const int8_t *fetch, int64_t apart, int32_t *sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < count; i += TILE_INPUTS) {
        for (int line = 0; line < TILE_INPUTS / 4; line++)
            for (int p = 0; p < panels; p++) FETCH(fetch + p * apart + (i + 4 * line) * TILE_COLUMNS);
        int64_t place = ((at + i) / TILE_INPUTS * halves.rows + row) * TILE_INPUTS;
        _tile_loadd(6, weights + i * TILE_COLUMNS, 4 * TILE_COLUMNS);
        _tile_loadd(4, halves.upper + place, TILE_INPUTS);
        _tile_dpbssd(0, 4, 6);
        _tile_loadd(5, halves.lower + place, TILE_INPUTS);
        _tile_dpbusd(1, 5, 6);
        if (blocks == 2) {
            place += block * TILE_INPUTS;
            _tile_loadd(4, halves.upper + place, TILE_INPUTS);
            _tile_dpbssd(2, 4, 6);
            _tile_loadd(5, halves.lower + place, TILE_INPUTS);
            _tile_dpbusd(3, 5, 6);
        } else if (panels == 2) {
            _tile_loadd(7, weights + apart + i * TILE_COLUMNS, 4 * TILE_COLUMNS);
            _tile_dpbssd(2, 4, 7);
            _tile_dpbusd(3, 5, 7);
        }
    }
    const int size = TILE_ROWS * TILE_COLUMNS;
    _tile_stored(0, sums, 4 * TILE_COLUMNS);
    _tile_stored(1, sums + size, 4 * TILE_COLUMNS);
    if (blocks * panels == 2) {
        _tile_stored(2, sums + 2 * size, 4 * TILE_COLUMNS);
        _tile_stored(3, sums + 3 * size, 4 * TILE_COLUMNS);
    }
}
#else
enum { has_tiles = 0 };
void request_tiles(void) {}
static inline void begin_tiles(int64_t rows) {}
static inline void end_tiles(void) {}
static inline void write_halves(const int16_t *integers, int64_t count, Halves halves, int64_t row, int64_t at) {}
static inline void multiply_tiles(
    int blocks, int panels, Halves halves, int64_t row, int64_t block, int64_t at, int64_t count, const int8_t *weights,
    const int8_t *fetch, int64_t apart, int32_t *sums) {}
#endif

#endif
