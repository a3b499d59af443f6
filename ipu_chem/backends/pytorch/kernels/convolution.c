/* Messages along edges, with filters read from a table or given, and the activation between them, for one CPU thread.

   Nothing of the size of edges times features is ever stored: a filter lives for as long as its edge is worked
   on. Shapes as in ipu_chem/models/convolution.py: x and received [M, F], table [K + 1, 2 F] (values, then
   derivatives), low [P], weights 4 of [P] (value and derivative of the grid point below, of the one above). All float32
   and int64, contiguous. Padding has four weights of 0 and is left out.

   Inner loops are functions of their own, because compilers believe `restrict` of arguments only. */

#include <math.h>
#include <stdint.h>

#include "exponential.h"

#define ROW(r, n, f) (r[(n) * F + (f)])
#define FILTER(w, r, f) (w[0] * ROW(r, 0, f) + w[1] * ROW(r, 1, f) + w[2] * ROW(r, 2, f) + w[3] * ROW(r, 3, f))

static void send(int64_t F, const float w[4], const float *restrict row, const float *restrict from,
                 float *restrict to) {
    for (int64_t f = 0; f < F; f++) to[f] += FILTER(w, row, f) * from[f];
}

static void exchange(int64_t F, const float w[4], const float *restrict row, const float *restrict one,
                     const float *restrict other, float *restrict to_one, float *restrict to_other) {
    for (int64_t f = 0; f < F; f++) {
        const float filter = FILTER(w, row, f);
        to_one[f] += filter * other[f];
        to_other[f] += filter * one[f];
    }
}

static void add_product(int64_t F, const float *restrict a, const float *restrict b, float *restrict sum) {
    for (int64_t f = 0; f < F; f++) sum[f] += a[f] * b[f];
}

static void product(int64_t F, const float *restrict a, const float *restrict b, float *restrict result) {
    for (int64_t f = 0; f < F; f++) result[f] = a[f] * b[f];
}

/* Of a pair: x_one, x_other and what comes down to both; derivatives are added to. */
static void exchange_back(int64_t F, const float w[4], const float *restrict row, const float *restrict one,
                          const float *restrict other, const float *restrict down_one,
                          const float *restrict down_other, float *restrict grad_one, float *restrict grad_other,
                          float *restrict grad_row) {
    for (int64_t f = 0; f < F; f++) {
        const float filter = FILTER(w, row, f);
        const float slope = down_one[f] * other[f] + down_other[f] * one[f];
        grad_one[f] += filter * down_other[f];
        grad_other[f] += filter * down_one[f];
        ROW(grad_row, 0, f) += w[0] * slope;
        ROW(grad_row, 1, f) += w[1] * slope;
        ROW(grad_row, 2, f) += w[2] * slope;
        ROW(grad_row, 3, f) += w[3] * slope;
    }
}

static void send_back(int64_t F, const float w[4], const float *restrict row, const float *restrict from,
                      const float *restrict down, float *restrict grad_from, float *restrict grad_row) {
    for (int64_t f = 0; f < F; f++) {
        const float slope = down[f] * from[f];
        grad_from[f] += FILTER(w, row, f) * down[f];
        ROW(grad_row, 0, f) += w[0] * slope;
        ROW(grad_row, 1, f) += w[1] * slope;
        ROW(grad_row, 2, f) += w[2] * slope;
        ROW(grad_row, 3, f) += w[3] * slope;
    }
}

/* Slopes of the four weights along one direction. */
static void weigh_back(int64_t F, float times, const float *restrict row, const float *restrict from,
                       const float *restrict down, float of[4]) {
    float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
    for (int64_t f = 0; f < F; f++) {
        const float slope = down[f] * from[f];
        a += slope * ROW(row, 0, f), b += slope * ROW(row, 1, f);
        c += slope * ROW(row, 2, f), d += slope * ROW(row, 3, f);
    }
    of[0] += times * a, of[1] += times * b, of[2] += times * c, of[3] += times * d;
}

/* The weights of an edge; 0 for padding. A pair of an atom with itself would make two pointers one: it is sent
   along one direction, twice. */
static int weights_of(const float *const *weights, int64_t p, int twice, float w[4]) {
    int real = 0;
    for (int k = 0; k < 4; k++) {
        real |= weights[k][p] != 0.0f;
        w[k] = twice ? 2.0f * weights[k][p] : weights[k][p];
    }
    return real;
}

void table_convolution(int64_t pairs, int64_t F, int64_t undirected, const float *x, const float *table,
                       const int64_t *low, const float *const *weights, const int64_t *source, const int64_t *target,
                       float *received) {
    for (int64_t p = 0; p < pairs; p++) {
        const int64_t from = F * source[p], to = F * target[p];
        float w[4];
        if (!weights_of(weights, p, undirected && from == to, w)) continue;
        const float *row = table + 2 * F * low[p];
        if (undirected && from != to)
            exchange(F, w, row, x + from, x + to, received + from, received + to);
        else
            send(F, w, row, x + from, received + to);
    }
}

/* What a loss gains per unit of x, of the table and, unless grad_weights is NULL, of the weights; all are added to. */
void table_convolution_backward(int64_t pairs, int64_t F, int64_t undirected, const float *x, const float *table,
                                const int64_t *low, const float *const *weights, const int64_t *source,
                                const int64_t *target, const float *grad, float *grad_x, float *grad_table,
                                float *const *grad_weights) {
    for (int64_t p = 0; p < pairs; p++) {
        const int64_t from = F * source[p], to = F * target[p];
        const int twice = undirected && from == to;
        float w[4];
        if (!weights_of(weights, p, twice, w)) continue;
        const float *row = table + 2 * F * low[p];
        float *grad_row = grad_table + 2 * F * low[p];
        if (undirected && from != to)
            exchange_back(F, w, row, x + from, x + to, grad + from, grad + to, grad_x + from, grad_x + to, grad_row);
        else
            send_back(F, w, row, x + from, grad + to, grad_x + from, grad_row);
        if (grad_weights) {
            float of[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            weigh_back(F, twice ? 2.0f : 1.0f, row, x + from, grad + to, of);
            if (undirected && from != to) weigh_back(F, 1.0f, row, x + to, grad + from, of);
            for (int k = 0; k < 4; k++) grad_weights[k][p] += of[k];
        }
    }
}

/* The same with a filter for every pair, [P, F], as the filter network gives them. */
void convolution(int64_t pairs, int64_t F, int64_t undirected, const float *x, const float *filters,
                 const int64_t *source, const int64_t *target, float *received) {
    for (int64_t p = 0; p < pairs; p++) {
        const int64_t from = F * source[p], to = F * target[p];
        add_product(F, filters + F * p, x + from, received + to);
        if (undirected) add_product(F, filters + F * p, x + to, received + from);
    }
}

/* Slopes of x are added to, those of the filters written. */
void convolution_backward(int64_t pairs, int64_t F, int64_t undirected, const float *x, const float *filters,
                          const int64_t *source, const int64_t *target, const float *grad, float *grad_x,
                          float *grad_filters) {
    for (int64_t p = 0; p < pairs; p++) {
        const int64_t from = F * source[p], to = F * target[p];
        add_product(F, filters + F * p, grad + to, grad_x + from);
        product(F, x + from, grad + to, grad_filters + F * p);
        if (undirected) {
            add_product(F, filters + F * p, grad + from, grad_x + to);
            add_product(F, x + to, grad + from, grad_filters + F * p);
        }
    }
}

/* ln(0.5 exp(x) + 0.5) = max(x, 0) + ln(1 + exp(-|x|)) - ln 2. */
void shifted_softplus(int64_t size, const float *restrict x, float *restrict result) {
    for (int64_t i = 0; i < size; i++) {
        result[i] = 0.5f * (x[i] + fabsf(x[i])) + (log_plus_float(exp_minus_float(x[i])) - 0.693147181f);
    }
}

/* The derivative, 1 / (1 + exp(-x)), times what comes from above. */
void shifted_softplus_backward(int64_t size, const float *restrict x, const float *restrict grad,
                               float *restrict result) {
    for (int64_t i = 0; i < size; i++) {
        const float e = exp_minus_float(x[i]);
        result[i] = grad[i] * (x[i] > 0.0f ? 1.0f : e) / (1.0f + e);
    }
}
