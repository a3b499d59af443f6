/* Matrix products, by tiles whose sums stay in registers: 6 rows of 4 vectors with AVX-512 (32 registers), 6 of 2
   with AVX2 (16). Only weights of layers are laid out for it, in panels as wide as a tile, once a step. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "real.h"

#define ROWS 6
#if defined(__AVX512F__)
#define WIDEST 4
#else
#define WIDEST 2
#endif

typedef enum { SET, ADD } How;

/* Where the element [r, k] of A is: at r * row + k * column. A second matrix, if there is one, is `second` behind. */
typedef struct {
    const real *start;
    int64_t row, column, second;
} Matrix;

/* C[r, n] = (bias[n] or C[r, n] or 0) + sum over k of A[r, k] B[k, n], over both matrices A and B where `terms` is 2,
   for `rows` rows and `vectors` * LANES columns, which are constants where this is inlined. What the next column of
   tiles will take of B is asked for meanwhile: weights come from far away, and rows of a matrix are no stream. */
INLINE void tile(int rows, int vectors, int terms, int64_t depth, Matrix A, Matrix B, real *C, int64_t c_row,
                 const real *bias, How how) {
    const int64_t next = B.row == vectors * LANES ? depth * B.row : vectors * LANES; /* panels follow each other */
    vector sum[ROWS][WIDEST];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const real *start = how == ADD ? C + r * c_row : bias;
            sum[r][v] = start ? *(const vector *)(start + v * LANES) : (vector){0};
        }
    for (int term = 0; term < terms; term++)
        for (int64_t k = 0; k < depth; k++) {
            const real *const row = B.start + term * B.second + k * B.row;
            vector b[WIDEST];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                b[v] = *(const vector *)(row + v * LANES);
                if (rows == ROWS) __builtin_prefetch(row + next + v * LANES);
            }
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const real a = A.start[term * A.second + r * A.row + k * A.column];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) sum[r][v] += a * b[v];
            }
        }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) *(vector *)(C + r * c_row + v * LANES) = sum[r][v];
}

/* All rows of a column of tiles. */
INLINE void tiles(int vectors, int terms, int64_t rows, int64_t depth, Matrix A, Matrix B, real *C, int64_t c_row,
                  const real *bias, How how) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS, A.start += ROWS * A.row, C += ROWS * c_row)
        tile(ROWS, vectors, terms, depth, A, B, C, c_row, bias, how);
    switch (rows - r) {
    case 5: tile(5, vectors, terms, depth, A, B, C, c_row, bias, how); break;
    case 4: tile(4, vectors, terms, depth, A, B, C, c_row, bias, how); break;
    case 3: tile(3, vectors, terms, depth, A, B, C, c_row, bias, how); break;
    case 2: tile(2, vectors, terms, depth, A, B, C, c_row, bias, how); break;
    case 1: tile(1, vectors, terms, depth, A, B, C, c_row, bias, how); break;
    }
}

static void product(int terms, int64_t rows, int64_t columns, int64_t depth, Matrix A, Matrix B, real *C,
                    int64_t c_row, const real *bias, How how) {
    int64_t n = 0;
#define TILES(vectors)                                                                                                 \
    for (; n + (vectors) * LANES <= columns; n += (vectors) * LANES, B.start += (vectors) * LANES)                     \
        tiles(vectors, terms, rows, depth, A, B, C + n, c_row, bias ? bias + n : 0, how);
#if WIDEST == 4
    TILES(4)
#endif
    TILES(2)
    TILES(1)
#undef TILES
    for (; n < columns; n++, B.start++) /* columns that fill no vector */
        for (int64_t r = 0; r < rows; r++) {
            real sum = how == ADD ? C[r * c_row + n] : bias ? bias[n] : 0;
            for (int term = 0; term < terms; term++) {
                const real *a = A.start + term * A.second + r * A.row, *b = B.start + term * B.second;
                for (int64_t k = 0; k < depth; k++) sum += a[k * A.column] * b[k * B.row];
            }
            C[r * c_row + n] = sum;
        }
}

enum { PANEL = WIDEST * VECTOR_BYTES / sizeof(real) };

/* A layer y = x W^T + bias of x [rows, in] for the first `some` of its outputs, of which a row of y has `out`. Weights
   come from `lay_out_panels`; bias may be 0. */
static void layer_of(int64_t some, int64_t rows, int64_t in, int64_t out, const real *x, const real *panels,
                     const real *bias, real *y) {
    for (int64_t n = 0; n < some; n += PANEL) {
        const int64_t width = out - n < PANEL ? out - n : PANEL, used = some - n < width ? some - n : width;
        product(1, rows, used, in, (Matrix){x, in, 1, 0}, (Matrix){panels + n * in, width, 1, 0}, y + n, out,
                bias ? bias + n : 0, SET);
    }
}

static void layer(int64_t rows, int64_t in, int64_t out, const real *x, const real *panels, const real *bias,
                  real *y) {
    layer_of(out, rows, in, out, x, panels, bias, y);
}

/* What the layer's adjoint y [rows, out] is at its input: x (+)= y W, W [out, in]; again of `some` outputs. */
static void layer_adjoint_of(int64_t some, int64_t rows, int64_t in, int64_t out, const real *y, const real *weights,
                             real *x, How how) {
    product(1, rows, in, some, (Matrix){y, out, 1, 0}, (Matrix){weights, in, 1, 0}, x, in, 0, how);
}

static void layer_adjoint(int64_t rows, int64_t in, int64_t out, const real *y, const real *weights, real *x,
                          How how) {
    layer_adjoint_of(out, rows, in, out, y, weights, x, how);
}

/* gradient [out, in] += y^T x, of an adjoint y [rows, out] of the layer's output and an input x [rows, in]. */
static void weight_gradient(int64_t rows, int64_t in, int64_t out, const real *y, const real *x, real *gradient) {
    product(1, out, in, rows, (Matrix){y, 1, out, 0}, (Matrix){x, in, 1, 0}, gradient, in, 0, ADD);
}

/* gradient [out, in] += y_adj2^T x + y_adj^T x_tan for the first `some` outputs, without the second product where
   x_tan is 0. */
static void weight_gradient_of(int64_t some, int64_t rows, int64_t in, int64_t out, const real *y_adj2, const real *x,
                               const real *y_adj, const real *x_tan, real *gradient) {
    const Matrix A = {y_adj2, 1, out, x_tan ? y_adj - y_adj2 : 0}, B = {x, in, 1, x_tan ? x_tan - x : 0};
    product(x_tan ? 2 : 1, some, in, rows, A, B, gradient, in, 0, ADD);
}

static void bias_gradient(int64_t rows, int64_t out, const real *y, real *gradient) {
    for (int64_t r = 0; r < rows; r++) add_to(out, y + r * out, gradient);
}

/* to [columns, rows] = from^T, [rows, columns]. Tiles of LANES rows are transposed in registers: interleaving row r
   with row r + LANES / 2, log2(LANES) times, turns a tile over. */
static void transpose(int64_t rows, int64_t columns, const real *restrict from, real *restrict to) {
    int64_t i = 0;
#if defined(__GNUC__) && !defined(__clang__)
    enum { TILE = VECTOR_BYTES / sizeof(real), HALF = TILE / 2 };
    __typeof__((vector){0} < (vector){0}) low, high; /* integers: lanes of two vectors, one behind the other */
    for (int k = 0; k < HALF; k++) {
        low[2 * k] = k, low[2 * k + 1] = TILE + k;
        high[2 * k] = HALF + k, high[2 * k + 1] = TILE + HALF + k;
    }
    const int64_t whole = columns / TILE * TILE;
    for (; i + TILE <= rows; i += TILE) {
        for (int64_t j = 0; j < whole; j += TILE) {
            vector now[TILE], next[TILE];
#pragma GCC unroll 16
            for (int r = 0; r < TILE; r++) now[r] = *(const vector *)(from + (i + r) * columns + j);
#pragma GCC unroll 4
            for (int turn = 1; turn < TILE; turn *= 2) {
#pragma GCC unroll 8
                for (int r = 0; r < HALF; r++) {
                    next[2 * r] = __builtin_shuffle(now[r], now[r + HALF], low);
                    next[2 * r + 1] = __builtin_shuffle(now[r], now[r + HALF], high);
                }
#pragma GCC unroll 16
                for (int r = 0; r < TILE; r++) now[r] = next[r];
            }
#pragma GCC unroll 16
            for (int r = 0; r < TILE; r++) *(vector *)(to + (j + r) * rows + i) = now[r];
        }
        for (int64_t j = whole; j < columns; j++)
            for (int r = 0; r < TILE; r++) to[j * rows + i + r] = from[(i + r) * columns + j];
    }
#endif
    for (; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}

/* Weights [out, in] as layers take them: transposed, PANEL outputs after the other, [in, PANEL] each. */
static void lay_out_panels(int64_t out, int64_t in, const real *weights, real *panels) {
    for (int64_t n = 0; n < out; n += PANEL)
        transpose(out - n < PANEL ? out - n : PANEL, in, weights + n * in, panels + n * in);
}

#endif
