/* Matrix products, by tiles whose sums stay in registers: 6 rows of 4 vectors with AVX-512 (32 registers), 6 of 2
   with AVX2 (16). Nothing is packed: operands are a few hundred rows and columns and stay in the second cache. */

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

/* C[r, n] = (bias[n] or C[r, n] or 0) + sum over k of A[r, k] B[k, n], for `rows` rows and `vectors` * LANES columns,
   both constants where this is inlined. A's element [r, k] is at r * a_row + k * a_column. */
INLINE void tile(int rows, int vectors, int64_t depth, const real *A, int64_t a_row, int64_t a_column, const real *B,
                 int64_t b_row, real *C, int64_t c_row, const real *bias, How how) {
    vector sum[ROWS][WIDEST];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const real *start = how == ADD ? C + r * c_row : bias;
            sum[r][v] = start ? *(const vector *)(start + v * LANES) : (vector){0};
        }
    for (int64_t k = 0; k < depth; k++) {
        vector b[WIDEST];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) b[v] = *(const vector *)(B + k * b_row + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            const real a = A[r * a_row + k * a_column];
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
INLINE void tiles(int vectors, int64_t rows, int64_t depth, const real *A, int64_t a_row, int64_t a_column,
                  const real *B, int64_t b_row, real *C, int64_t c_row, const real *bias, How how) {
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        tile(ROWS, vectors, depth, A + r * a_row, a_row, a_column, B, b_row, C + r * c_row, c_row, bias, how);
    const real *a = A + r * a_row;
    real *c = C + r * c_row;
    switch (rows - r) {
    case 5: tile(5, vectors, depth, a, a_row, a_column, B, b_row, c, c_row, bias, how); break;
    case 4: tile(4, vectors, depth, a, a_row, a_column, B, b_row, c, c_row, bias, how); break;
    case 3: tile(3, vectors, depth, a, a_row, a_column, B, b_row, c, c_row, bias, how); break;
    case 2: tile(2, vectors, depth, a, a_row, a_column, B, b_row, c, c_row, bias, how); break;
    case 1: tile(1, vectors, depth, a, a_row, a_column, B, b_row, c, c_row, bias, how); break;
    }
}

static void product(int64_t rows, int64_t columns, int64_t depth, const real *A, int64_t a_row, int64_t a_column,
                    const real *B, int64_t b_row, real *C, int64_t c_row, const real *bias, How how) {
    int64_t n = 0;
#define TILES(vectors)                                                                                                 \
    for (; n + (vectors) * LANES <= columns; n += (vectors) * LANES)                                                   \
        tiles(vectors, rows, depth, A, a_row, a_column, B + n, b_row, C + n, c_row, bias ? bias + n : 0, how);
#if WIDEST == 4
    TILES(4)
#endif
    TILES(2)
    TILES(1)
#undef TILES
    for (; n < columns; n++) /* columns that fill no vector */
        for (int64_t r = 0; r < rows; r++) {
            real sum = how == ADD ? C[r * c_row + n] : bias ? bias[n] : 0;
            for (int64_t k = 0; k < depth; k++) sum += A[r * a_row + k * a_column] * B[k * b_row + n];
            C[r * c_row + n] = sum;
        }
}

/* A layer y = x W^T + bias of x [rows, in], from the transposed weights [in, out]; bias may be 0. */
static void layer(int64_t rows, int64_t in, int64_t out, const real *x, const real *transposed, const real *bias,
                  real *y) {
    product(rows, out, in, x, in, 1, transposed, out, y, out, bias, SET);
}

/* What the layer's adjoint y [rows, out] is at its input: x (+)= y W, W [out, in]. */
static void layer_adjoint(int64_t rows, int64_t in, int64_t out, const real *y, const real *weights, real *x,
                          How how) {
    product(rows, in, out, y, out, 1, weights, in, x, in, 0, how);
}

/* gradient [out, in] += y^T x, of an adjoint y [rows, out] of the layer's output and an input x [rows, in]. */
static void weight_gradient(int64_t rows, int64_t in, int64_t out, const real *y, const real *x, real *gradient) {
    product(out, in, rows, y, 1, out, x, in, gradient, in, 0, ADD);
}

static void bias_gradient(int64_t rows, int64_t out, const real *y, real *gradient) {
    for (int64_t r = 0; r < rows; r++) add_to(out, y + r * out, gradient);
}

/* to [columns, rows] = from^T, [rows, columns]. Tiles of LANES rows are transposed in registers: interleaving row r with
   row r + LANES / 2, log2(LANES) times, turns a tile over. */
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

#endif
