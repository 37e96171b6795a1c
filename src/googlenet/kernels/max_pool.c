/* Max pooling over channels-last maps, with one byte a value to remember where each maximum came from.
 *
 * PyTorch's own pool keeps an index of eight bytes beside every bfloat16 of two, and adds gradients up one by one.
 * Here the byte is the place in the window, row by row; of equal values the first counts, as in PyTorch.
 * x is (n, height, width, c), y and place are (n, out_height, out_width, c). This file is compiled once for bfloat16
 * and once for float32 (library.py).
 */
#include <stddef.h>
#include <stdint.h>

#define BLOCK 64 /* channels at a time: enough for the widest vector registers, few enough to stay in them */

#ifdef BFLOAT16
typedef uint16_t value;
typedef int16_t ordered;
/* Integers that compare as the bfloat16 numbers do, with every NaN above them all: a maximum over one is NaN. */
static inline ordered flip(ordered s) { return (ordered)(s ^ ((s >> 15) & 0x7fff)); }
static inline ordered order(value bits) { return (bits & 0x7fff) > 0x7f80 ? 0x7fff : flip((ordered)bits); }
static inline value unorder(ordered s) { return (value)flip(s); }
static inline int beats(ordered candidate, ordered best) { return candidate > best; }
static inline float widen(value bits) { union { uint32_t u; float f; } x = {(uint32_t)bits << 16}; return x.f; }
static inline value narrow(float number) {
    union { float f; uint32_t u; } x = {number};
    if (number != number) return 0x7fc0; /* rounding could make another number of a NaN */
    return (value)((x.u + 0x7fff + ((x.u >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}
#else
typedef float value;
typedef float ordered;
static inline ordered order(value number) { return number; }
static inline value unorder(ordered number) { return number; }
static inline int beats(ordered candidate, ordered best) { return candidate > best || candidate != candidate; }
static inline float widen(value number) { return number; }
static inline value narrow(float number) { return number; }
#endif

typedef struct { long n, height, width, channels, out_height, out_width, kernel, stride, padding; } geometry;

/* The innermost loops have a constant length wherever a whole block of channels is left: the compiler unrolls those. */
#define EACH(count, body) \
    if ((count) == BLOCK) { for (int j = 0; j < BLOCK; j++) body } else { for (int j = 0; j < (count); j++) body }

static void pool_pixel(const value *restrict x, value *restrict y, uint8_t *restrict place, const geometry *g,
                       long top, long left, long count) {
    ordered best[BLOCK];
    uint16_t where[BLOCK];
    int begun = 0;
    for (long row = 0; row < g->kernel; row++) {
        if (top + row < 0 || top + row >= g->height) continue;
        for (long column = 0; column < g->kernel; column++) {
            if (left + column < 0 || left + column >= g->width) continue;
            const value *restrict from = x + ((top + row) * g->width + left + column) * g->channels;
            uint16_t here = (uint16_t)(row * g->kernel + column);
            if (!begun) {
                EACH(count, { best[j] = order(from[j]); where[j] = here; })
                begun = 1;
                continue;
            }
            EACH(count, {
                ordered candidate = order(from[j]);
                int better = beats(candidate, best[j]);
                where[j] = better ? here : where[j];
                best[j] = better ? candidate : best[j];
            })
        }
    }
    EACH(count, { y[j] = unorder(best[j]); place[j] = (uint8_t)where[j]; })
}

void max_pool(const value *x, value *y, uint8_t *place, const geometry *g) {
#pragma omp parallel for collapse(2) schedule(static)
    for (long image = 0; image < g->n; image++) {
        for (long row = 0; row < g->out_height; row++) {
            for (long column = 0; column < g->out_width; column++) {
                size_t out = (size_t)((image * g->out_height + row) * g->out_width + column) * g->channels;
                const value *map = x + (size_t)image * g->height * g->width * g->channels;
                for (long c = 0; c < g->channels; c += BLOCK) {
                    long count = g->channels - c < BLOCK ? g->channels - c : BLOCK;
                    pool_pixel(map + c, y + out + c, place + out + c, g, row * g->stride - g->padding,
                               column * g->stride - g->padding, count);
                }
            }
        }
    }
}

/* Every pixel of the input gathers the gradients of the windows whose maximum it was; the sum is taken in float32. */
static void gather_pixel(const value *restrict gradient, const uint8_t *restrict place, value *restrict result,
                         const geometry *g, long y, long x, long count) {
    float sum[BLOCK] = {0};
    for (long row = 0; row < g->kernel; row++) {
        long window_row = y + g->padding - row;
        if (window_row < 0 || window_row % g->stride || window_row / g->stride >= g->out_height) continue;
        for (long column = 0; column < g->kernel; column++) {
            long window_column = x + g->padding - column;
            if (window_column < 0 || window_column % g->stride || window_column / g->stride >= g->out_width) continue;
            size_t at = (size_t)(window_row / g->stride * g->out_width + window_column / g->stride) * g->channels;
            uint8_t here = (uint8_t)(row * g->kernel + column);
            EACH(count, { sum[j] += place[at + j] == here ? widen(gradient[at + j]) : 0.0f; })
        }
    }
    EACH(count, { result[j] = narrow(sum[j]); })
}

void max_pool_backward(const value *gradient, const uint8_t *place, value *result, const geometry *g) {
    size_t window_map = (size_t)g->out_height * g->out_width * g->channels;
#pragma omp parallel for collapse(2) schedule(static)
    for (long image = 0; image < g->n; image++) {
        for (long y = 0; y < g->height; y++) {
            for (long x = 0; x < g->width; x++) {
                value *to = result + (size_t)((image * g->height + y) * g->width + x) * g->channels;
                for (long c = 0; c < g->channels; c += BLOCK) {
                    long count = g->channels - c < BLOCK ? g->channels - c : BLOCK;
                    gather_pixel(gradient + image * window_map + c, place + image * window_map + c, to + c, g, y, x, count);
                }
            }
        }
    }
}
