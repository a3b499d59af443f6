/* The parts of ChemGPT's layers that `decoding.c` and `reading.c` share: normalization, GELU, rotation, attention of one
   query. Keys lie across, values along: keys [places / LANES, F, LANES], so that LANES places have their products with a
   query in one vector; values [places, F]. */

#ifndef DECODER_LAYERS_H
#define DECODER_LAYERS_H

#include "../forces/products.h"

#include "../exponential.h"

enum { LN_1, LN_1_BIAS, QKV, OUT, OUT_BIAS, LN_2, LN_2_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, PER_LAYER };
enum { LN, LN_BIAS, HEAD, TOKENS, PLACES, SINES }; /* behind the layers; PLACES are cosines if there are sines */

typedef real eight __attribute__((vector_size(8 * sizeof(real)), aligned(sizeof(real)), may_alias));
typedef __typeof__((vector){0} < (vector){0}) lanes;

INLINE vector choose(lanes which, vector yes, vector no) {
    return (vector)(((lanes)yes & which) | ((lanes)no & ~which));
}

/* Rows x [rows, F] -> [rows, F], each with mean 0 and variance 1, times weights and a factor, plus biases. */
static void normalize(int64_t rows, int64_t F, double epsilon, double factor, const real *weight, const real *bias,
                      const real *x, real *y) {
    for (int64_t r = 0; r < rows; r++, x += F, y += F) {
        real sum = 0, squares = 0;
        EACH(f, F) sum += x[f];
        const real mean = sum / (real)F;
        EACH(f, F) squares += (x[f] - mean) * (x[f] - mean);
        const real inverse = 1 / (real)sqrt((double)squares / (double)F + epsilon);
        EACH(f, F) y[f] = ((x[f] - mean) * inverse * weight[f] + bias[f]) * (real)factor;
    }
}

/* y += x W^T + bias, of weights from `lay_out_panels`: summed in `space` first, as sums that begin with what is large
   round every time. */
static void add_layer(int64_t rows, int64_t in, int64_t out, const real *x, const real *panels, const real *bias,
                      real *space, real *y) {
    layer(rows, in, out, x, panels, bias, space);
    add_to(rows * out, space, y);
}

/* x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3). */
static void gelu_of(int64_t count, real *restrict x) {
    EACH(i, count) {
        const real twice = x[i] * ((real)1.5957691216057308 + (real)0.07135481627260025 * x[i] * x[i]);
        const real e = NAME(exp_minus)(twice), below = 1 / (1 + e);
        x[i] *= twice < 0 ? e * below : below;
    }
}

/* Features d and d + D / 2 of every head, turned by the angle of the place. */
static void turn(int64_t H, int64_t D, const real *cosine, const real *sine, real *x) {
    for (int64_t h = 0; h < H; h++, x += D)
        for (int64_t d = 0; d < D / 2; d++) {
            const real first = x[d], second = x[d + D / 2];
            x[d] = first * cosine[d] - second * sine[d];
            x[d + D / 2] = second * cosine[d] + first * sine[d];
        }
}

/* What the next row will read, asked for while this one is computed: it comes from far away, in short stretches. */
typedef struct {
    const char *keys, *values;
    int64_t lines_of_keys, lines_of_values;
} Ahead;

static void ask(const char *start, int64_t lines, int64_t part, int64_t parts) {
    for (int64_t i = lines * part / parts; i < lines * (part + 1) / parts; i++) __builtin_prefetch(start + 64 * i, 0, 2);
}

/* Values of the places from `from` to `end`, weighted by the softmax of the products of a query with their keys. */
INLINE void attend(int64_t F, int64_t H, int64_t from, int64_t end, real scale, const real *query, const real *keys,
                   const real *values, real *scores, real *seen, Ahead ahead, int64_t D) {
    enum { WIDE = VECTOR_BYTES / sizeof(real) };
    const int64_t first = from / WIDE, blocks = (end + WIDE - 1) / WIDE - first;
    const vector none = (vector){0} - (real)1e30;
    lanes lane;
    for (int i = 0; i < WIDE; i++) lane[i] = i;
    for (int64_t h = 0; h < H; h++) {
        real *const row = scores + h * blocks * WIDE;
        vector most = none;
        ask(ahead.keys, ahead.lines_of_keys, h, H);
        ask(ahead.values, ahead.lines_of_values, h, H);
        for (int64_t b = 0; b < blocks; b++) {
            const real *key = keys + ((first + b) * F + h * D) * WIDE;
            vector even = {0}, odd = {0};
            int64_t d = 0;
            for (; d + 1 < D; d += 2) {
                even += query[h * D + d] * *(const vector *)(key + d * WIDE);
                odd += query[h * D + d + 1] * *(const vector *)(key + (d + 1) * WIDE);
            }
            if (d < D) even += query[h * D + d] * *(const vector *)(key + d * WIDE);
            vector score = (even + odd) * scale;
            const int64_t start = (first + b) * WIDE;
            if (start < from || start + WIDE > end)
                score = choose((lane >= (int)(from - start)) & (lane < (int)(end - start)), score, none);
            most = choose(score > most, score, most);
            *(vector *)(row + b * WIDE) = score;
        }
        real largest = most[0];
        for (int i = 1; i < WIDE; i++) largest = most[i] > largest ? most[i] : largest;
        vector sums = {0};
        for (int64_t b = 0; b < blocks; b++) {
            EACH(i, WIDE) row[b * WIDE + i] = NAME(exp_minus)(row[b * WIDE + i] - largest);
            sums += *(const vector *)(row + b * WIDE); /* of places out of sight, as good as 0 */
        }
        real total = 0;
        for (int i = 0; i < WIDE; i++) total += sums[i];
        const real inverse = 1 / total, *const weight = row - first * WIDE, *const value = values + h * D;
        if (D % 8 == 0) {
            for (int64_t d = 0; d < D; d += 8) {
                eight even = {0}, odd = {0};
                int64_t j = from;
                for (; j + 1 < end; j += 2) {
                    even += weight[j] * *(const eight *)(value + j * F + d);
                    odd += weight[j + 1] * *(const eight *)(value + (j + 1) * F + d);
                }
                if (j < end) even += weight[j] * *(const eight *)(value + j * F + d);
                *(eight *)(seen + h * D + d) = (even + odd) * inverse;
            }
        } else {
            for (int64_t d = 0; d < D; d++) {
                real sum = 0;
                for (int64_t j = from; j < end; j++) sum += weight[j] * value[j * F + d];
                seen[h * D + d] = sum * inverse;
            }
        }
    }
}

/* The first place that a token sees. */
static int64_t first_of(int64_t window, int64_t place) {
    return window && place >= window ? place + 1 - window : 0;
}

/* Turns queries and keys [2 F], keeps key and value of a place and gives what its query sees from `from` on. */
static void attend_at(int64_t F, int64_t H, int64_t from, int64_t place, double scale, const real *cosines,
                      const real *sines, Ahead ahead, real *qkv, real *keys, real *values, real *scores, real *seen) {
    const int64_t D = F / H;
    if (sines) turn(2 * H, D, cosines, sines, qkv);
    real *const key = keys + place / LANES * F * LANES + place % LANES;
    for (int64_t f = 0; f < F; f++) key[f * LANES] = qkv[F + f];
    memcpy(values + place * F, qkv + 2 * F, (size_t)F * sizeof(real));
#define ATTEND(width) attend(F, H, from, place + 1, (real)scale, qkv, keys, values, scores, seen, ahead, width)
    switch (D) {
    case 8: ATTEND(8); break;
    case 16: ATTEND(16); break;
    case 32: ATTEND(32); break;
    case 64: ATTEND(64); break;
    default: ATTEND(D);
    }
#undef ATTEND
}

#endif
