/* Attention inside the molecules of a pack, and GELU, for one CPU thread.

   A pack of S symbols holds several molecules; a symbol sees a handful of symbols before it. Only those pairs are
   worked on, and no share of a pair is ever stored: the way back works them out again from what is kept of every
   query, the logarithm of its sum. Shapes as in ipu_chem/models/attention.py: query, key, value [B, S, H, D], mask
   [B, S, S], 0 where a key is seen; per query the keys that it sees are one stretch that ends with itself.

   Vectors of 8 floats are written out, because stretches are too short for what compilers make of such loops. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define ROUND_UP(n) (((n) + LANES - 1) / LANES * LANES)

typedef float vector __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(32)));

static inline vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector values) { *(vector *)to = values; }
static inline vector all(float value) { return value - (vector){0}; }

static inline vector choose(whole which, vector yes, vector no) {
    return (vector)(((whole)yes & which) | ((whole)no & ~which));
}

/* Lanes whose number is below n. */
static inline whole first(int64_t n) {
    const whole lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return lane < (int32_t)n;
}

static inline float sum_of(vector x) {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/* exp(x) for x up to 0, to float32's last digit but one and not below exp(-87): 2^n times a polynomial. */
static inline vector exp_negative(vector x) {
    x = choose(x < -87.0f, all(-87.0f), x);
    const whole n = __builtin_convertvector(x * 1.44269504f - 0.5f, whole);
    const vector steps = __builtin_convertvector(n, vector);
    const vector r = (x - steps * 0.693359375f) + steps * 2.12194440e-4f;
    vector y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const whole power = (n + 127) << 23;
    return y * (vector)power;
}

/* One head of one pack, [S, D] out of [S, H, D], as rows that are filled up with zeros to whole vectors. */
static void take(int64_t S, int64_t D, int64_t stride, const float *from, float *rows) {
    const int64_t wide = ROUND_UP(D);
    memset(rows, 0, sizeof(float) * S * wide);
    for (int64_t i = 0; i < S; i++) memcpy(rows + i * wide, from + i * stride, sizeof(float) * D);
}

static void give(int64_t S, int64_t D, int64_t stride, const float *rows, float *to) {
    const int64_t wide = ROUND_UP(D);
    for (int64_t i = 0; i < S; i++) memcpy(to + i * stride, rows + i * wide, sizeof(float) * D);
}

/* The same, turned: [D, S] with room for a vector behind every row. */
static void turn(int64_t S, int64_t D, int64_t stride, const float *from, float *turned) {
    const int64_t room = ROUND_UP(S) + LANES;
    memset(turned, 0, sizeof(float) * D * room);
    for (int64_t i = 0; i < S; i++)
        for (int64_t d = 0; d < D; d++) turned[d * room + i] = from[i * stride + d];
}

/* Products of one row with 8 keys that stand side by side. */
static inline __attribute__((always_inline)) vector products(int64_t D, int64_t room, const float *row,
                                                             const float *turned) {
    vector even = {0}, odd = {0};
    int64_t d = 0;
    for (; d + 1 < D; d += 2) {
        even += row[d] * load(turned + d * room);
        odd += row[d + 1] * load(turned + (d + 1) * room);
    }
    if (d < D) even += row[d] * load(turned + d * room);
    return even + odd;
}

static inline __attribute__((always_inline)) void head_forward(int64_t S, int64_t D, float scale, const int64_t *start,
                                                               const float *query, const float *turned_key,
                                                               const float *value, float *scores, float *seen,
                                                               float *logs) {
    const int64_t wide = ROUND_UP(D), room = ROUND_UP(S) + LANES;
    for (int64_t i = 0; i < S; i++) {
        const int64_t from = start[i], n = i + 1 - from;
        vector most = all(-3.0e38f);
        for (int64_t c = 0; c < n; c += LANES) {
            vector score = scale * products(D, room, query + i * wide, turned_key + from + c);
            score = choose(first(n - c), score, all(-3.0e38f));
            most = choose(score > most, score, most);
            store(scores + c, score);
        }
        float largest = most[0];
        for (int k = 1; k < LANES; k++) largest = most[k] > largest ? most[k] : largest;
        vector total = {0};
        for (int64_t c = 0; c < n; c += LANES) {
            const vector share = exp_negative(load(scores + c) - largest); /* behind the last, as good as 0 */
            total += share;
            store(scores + c, share);
        }
        const float sum = sum_of(total);
        logs[i] = largest + logf(sum);
        for (int64_t d = 0; d < wide; d += LANES) {
            vector even = {0}, odd = {0};
            int64_t j = 0;
            for (; j + 1 < n; j += 2) {
                even += scores[j] * load(value + (from + j) * wide + d);
                odd += scores[j + 1] * load(value + (from + j + 1) * wide + d);
            }
            if (j < n) even += scores[j] * load(value + (from + j) * wide + d);
            store(seen + i * wide + d, (even + odd) * (1.0f / sum));
        }
    }
}

static inline __attribute__((always_inline)) void head_backward(int64_t S, int64_t D, float scale,
                                                                const int64_t *start, const float *query,
                                                                const float *key, const float *turned_key,
                                                                const float *turned_value, const float *seen,
                                                                const float *grad, const float *logs, float *shares,
                                                                float *slopes, float *grad_query, float *grad_key,
                                                                float *grad_value) {
    const int64_t wide = ROUND_UP(D), room = ROUND_UP(S) + LANES;
    for (int64_t i = 0; i < S; i++) {
        const int64_t from = start[i], n = i + 1 - from;
        const float *down = grad + i * wide;
        vector both = {0};
        for (int64_t d = 0; d < wide; d += LANES) both += load(down + d) * load(seen + i * wide + d);
        const float mean = sum_of(both);
        for (int64_t c = 0; c < n; c += LANES) {
            vector below = scale * products(D, room, query + i * wide, turned_key + from + c) - logs[i];
            below = choose(below > 0.0f, all(0.0f), below);
            const vector share = choose(first(n - c), exp_negative(below), all(0.0f));
            const vector gain = products(D, room, down, turned_value + from + c) - mean;
            store(shares + c, share);
            store(slopes + c, choose(first(n - c), share * gain * scale, all(0.0f)));
        }
        for (int64_t d = 0; d < wide; d += LANES) {
            const vector of_query = load(query + i * wide + d), of_grad = load(down + d);
            vector even = {0}, odd = {0};
            int64_t j = 0;
            for (; j < n; j++) {
                const int64_t at = (from + j) * wide + d;
                if (j & 1)
                    odd += slopes[j] * load(key + at);
                else
                    even += slopes[j] * load(key + at);
                store(grad_key + at, load(grad_key + at) + slopes[j] * of_query);
                store(grad_value + at, load(grad_value + at) + shares[j] * of_grad);
            }
            store(grad_query + i * wide + d, even + odd);
        }
    }
}

/* Where the stretch that each query sees begins. */
static void starts(int64_t S, const float *mask, int64_t *start) {
    for (int64_t i = 0; i < S; i++) {
        int64_t j = i;
        while (j > 0 && mask[i * S + j - 1] == 0.0f) j--;
        start[i] = j;
    }
}

/* Heads of these widths are the usual ones: their loops are unrolled. */
#define FOR_WIDTH(call)                                 \
    switch (D) {                                        \
        case 8: { const int64_t W = 8; call; break; }   \
        case 16: { const int64_t W = 16; call; break; } \
        case 32: { const int64_t W = 32; call; break; } \
        default: { const int64_t W = D; call; }         \
    }

/* Also writes logs [B, H, S], which the way back needs; returns 0 when there is no memory. */
int attention(int64_t B, int64_t S, int64_t H, int64_t D, float scale, const float *query, const float *key,
              const float *value, const float *mask, float *seen, float *logs) {
    const int64_t stride = H * D, rows = S * ROUND_UP(D), room = ROUND_UP(S) + LANES;
    float *buffer = malloc(sizeof(float) * (3 * rows + (D + 1) * room));
    int64_t *start = malloc(sizeof(int64_t) * (S + 1));
    const int enough = buffer && start;
    float *q = buffer, *v = q + rows, *out = v + rows, *turned = out + rows, *scores = turned + D * room;
    for (int64_t b = 0; enough && b < B; b++) {
        starts(S, mask + b * S * S, start);
        for (int64_t h = 0; h < H; h++) {
            const int64_t at = b * S * stride + h * D;
            take(S, D, stride, query + at, q);
            take(S, D, stride, value + at, v);
            turn(S, D, stride, key + at, turned);
            FOR_WIDTH(head_forward(S, W, scale, start, q, turned, v, scores, out, logs + (b * H + h) * S))
            give(S, D, stride, out, seen + at);
        }
    }
    free(buffer), free(start);
    return enough;
}

/* Slopes of query, key and value are written; returns 0 when there is no memory. */
int attention_backward(int64_t B, int64_t S, int64_t H, int64_t D, float scale, const float *query, const float *key,
                       const float *value, const float *mask, const float *seen, const float *logs, const float *grad,
                       float *grad_query, float *grad_key, float *grad_value) {
    const int64_t stride = H * D, rows = S * ROUND_UP(D), room = ROUND_UP(S) + LANES;
    float *buffer = malloc(sizeof(float) * (7 * rows + 2 * (D + 1) * room));
    int64_t *start = malloc(sizeof(int64_t) * (S + 1));
    const int enough = buffer && start;
    float *q = buffer, *k = q + rows, *out = k + rows, *down = out + rows, *of_q = down + rows, *of_k = of_q + rows;
    float *of_v = of_k + rows, *turned_k = of_v + rows, *turned_v = turned_k + D * room;
    float *shares = turned_v + D * room, *slopes = shares + room;
    for (int64_t b = 0; enough && b < B; b++) {
        starts(S, mask + b * S * S, start);
        for (int64_t h = 0; h < H; h++) {
            const int64_t at = b * S * stride + h * D;
            take(S, D, stride, query + at, q);
            take(S, D, stride, key + at, k);
            take(S, D, stride, seen + at, out);
            take(S, D, stride, grad + at, down);
            turn(S, D, stride, key + at, turned_k);
            turn(S, D, stride, value + at, turned_v);
            memset(of_k, 0, sizeof(float) * 2 * rows); /* and of_v, behind it */
            FOR_WIDTH(head_backward(S, W, scale, start, q, k, turned_k, turned_v, out, down, logs + (b * H + h) * S,
                                    shares, slopes, of_q, of_k, of_v))
            give(S, D, stride, of_q, grad_query + at);
            give(S, D, stride, of_k, grad_key + at);
            give(S, D, stride, of_v, grad_value + at);
        }
    }
    free(buffer), free(start);
    return enough;
}

#define BEND 10.0f /* from here on GELU is x or 0 as far as float32 can tell, and squares need not fit */

/* 1 / (1 + exp(-2 u)) with u = sqrt(2 / pi) (x + 0.044715 x^3): x times it is x / 2 (1 + tanh(u)). */
static inline vector gate(vector x) {
    x = choose(x < -BEND, all(-BEND), choose(x > BEND, all(BEND), x));
    const vector twice = x * (1.5957691216f + 0.0713548163f * x * x);
    const vector e = exp_negative(choose(twice > 0.0f, -twice, twice));
    return choose(twice > 0.0f, all(1.0f), e) / (1.0f + e);
}

static inline vector gate_slope(vector x) {
    const vector s = gate(x);
    x = choose(x < -BEND, all(-BEND), choose(x > BEND, all(BEND), x));
    return s + x * s * (1.0f - s) * (1.5957691216f + 0.2140644488f * x * x);
}

void gelu(int64_t size, const float *restrict x, float *restrict result) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) store(result + i, load(x + i) * gate(load(x + i)));
    for (; i < size; i++) result[i] = x[i] * gate(all(x[i]))[0];
}

/* The derivative times what comes from above. */
void gelu_backward(int64_t size, const float *restrict x, const float *restrict grad, float *restrict result) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) store(result + i, load(grad + i) * gate_slope(load(x + i)));
    for (; i < size; i++) result[i] = grad[i] * gate_slope(all(x[i]))[0];
}
