/* Gated layers y = W f(x) + b, f(x) = alpha x / (1 + exp(-beta x)), and the chains of them that SpookyNet is made of
   (ipu_chem/models/residual.py), in the four passes that spooky.c names.

   A residual block is d = x + W2 f2(b), b = W1 f1(x) (biases left out), an MLP has y = W3 f3(d) behind it. Shapes: M
   atoms, F features; all arrays of the passes are [M, F]. */

#ifndef GATED_H
#define GATED_H

#include "../exponential.h"
#include "../forces/products.h"

enum { ALPHA, BETA, WEIGHT, BIAS, PER_GATE };

typedef struct {
    const real *const *weight; /* PER_GATE of each layer */
    const real *transposed;    /* [F, F] of each, in panels */
    real *const *gradient;     /* as weight, in pass 4 */
} Gates;

/* What the passes keep of a chain; y of MLPs alone. */
typedef struct {
    real *b, *d, *y, *b_tan, *d_tan, *y_tan, *b_adj, *d_adj, *y_adj;
    real *h_adj[3]; /* adjoint of f1(x), f2(b), f3(d) */
} Chain;

typedef struct {
    int64_t M, F;
    real *h, *h_tan, *h_adj2, *b_adj2, *d_adj2; /* scratch of pass 4; h also of passes 1 and 3 */
} Rows;

/* The gate at x: value, first and second derivative, and the derivatives of value and of first by alpha and beta. */
typedef struct {
    real value, first, second, by_alpha, first_by_alpha, by_beta, first_by_beta;
} Gate;

INLINE Gate gate_at(real x, real alpha, real beta) {
    const real t = beta * x, e = NAME(exp_minus)(t), below = 1 / (1 + e), sigma = t < 0 ? e * below : below;
    const real sigma_1 = sigma * (1 - sigma), first = sigma + t * sigma_1;
    const real second = sigma_1 * (2 + t * (1 - 2 * sigma)); /* of t / (1 + exp(-t)) */
    return (Gate){alpha * x * sigma, alpha * first,           alpha * beta * second, x * sigma,
                  first,             alpha * x * x * sigma_1, alpha * x * second};
}

#define EACH_ENTRY(i, f, rows)                                                                                         \
    for (int64_t m = 0, i = 0; m < (rows)->M; m++)                                                                     \
        _Pragma("GCC ivdep") for (int64_t f = 0; f < (rows)->F; f++, i++)

static Chain take_chain(Workspace *space, int64_t size, int is_mlp, int training) {
    Chain made = {0};
    made.b = take(space, size), made.b_adj = take(space, size);
    made.d = take(space, size), made.d_adj = take(space, size);
    if (is_mlp) made.y = take(space, size), made.y_adj = take(space, size);
    for (int k = 0; k < (is_mlp ? 3 : 2); k++) made.h_adj[k] = take(space, size);
    if (training) {
        made.b_tan = take(space, size), made.d_tan = take(space, size);
        if (is_mlp) made.y_tan = take(space, size);
    }
    return made;
}

static const real *of_gate(const Gates *gates, int layer, int kind) { return gates->weight[layer * PER_GATE + kind]; }

static const real *transposed_of(const Rows *rows, const Gates *gates, int layer) {
    return gates->transposed + layer * rows->F * rows->F;
}

/* Pass 1 of one layer: y = W f(x) + bias (+ residual). */
static void gated(const Rows *rows, const Gates *gates, int k, const real *x, const real *residual, real *y) {
    const int64_t M = rows->M, F = rows->F;
    const real *alpha = of_gate(gates, k, ALPHA), *beta = of_gate(gates, k, BETA), *bias = of_gate(gates, k, BIAS);
    real *h = rows->h;
    EACH_ENTRY(i, f, rows) h[i] = gate_at(x[i], alpha[f], beta[f]).value;
    layer(M, F, F, h, transposed_of(rows, gates, k), bias, y);
    if (residual) add_to(M * F, residual, y);
}

/* Pass 2 of one layer: the adjoint of f(x) is h_adj = y_adj W, that of x gets f'(x) h_adj (+ residual). */
static void gated_adjoint(const Rows *rows, const Gates *gates, int k, const real *x, const real *y_adj, real *h_adj,
                          const real *residual, real *x_adj, How how) {
    const int64_t M = rows->M, F = rows->F;
    const real *alpha = of_gate(gates, k, ALPHA), *beta = of_gate(gates, k, BETA);
    layer_adjoint(M, F, F, y_adj, of_gate(gates, k, WEIGHT), h_adj, SET);
    if (how == SET) {
        if (residual)
            memcpy(x_adj, residual, (size_t)(M * F) * sizeof(real));
        else
            clear(M * F, x_adj);
    } else if (residual) {
        add_to(M * F, residual, x_adj);
    }
    EACH_ENTRY(i, f, rows) x_adj[i] += gate_at(x[i], alpha[f], beta[f]).first * h_adj[i];
}

/* Pass 3 of one layer: y_tan = W f'(x) x_tan (+ residual). */
static void gated_tangent(const Rows *rows, const Gates *gates, int k, const real *x, const real *x_tan,
                          const real *residual, real *y_tan) {
    const int64_t M = rows->M, F = rows->F;
    const real *alpha = of_gate(gates, k, ALPHA), *beta = of_gate(gates, k, BETA);
    real *h = rows->h;
    EACH_ENTRY(i, f, rows) h[i] = gate_at(x[i], alpha[f], beta[f]).first * x_tan[i];
    layer(M, F, F, h, transposed_of(rows, gates, k), 0, y_tan);
    if (residual) add_to(M * F, residual, y_tan);
}

/* Pass 4 of one layer. With h = f(x), h_tan = f'(x) x_tan and h_adj2 = y_adj2 W,
       W_adj2 = y_adj2^T h + y_adj^T h_tan,  x_adj2 = f'(x) h_adj2 + f''(x) x_tan h_adj (+ residual);
   x_tan is 0 where nothing moves x. */
static void gated_second(const Rows *rows, const Gates *gates, int k, const real *x, const real *x_tan,
                         const real *y_adj, const real *h_adj, const real *y_adj2, const real *residual, real *x_adj2,
                         How how) {
    const int64_t M = rows->M, F = rows->F;
    const real *alpha = of_gate(gates, k, ALPHA), *beta = of_gate(gates, k, BETA);
    real *const *grad = gates->gradient + k * PER_GATE;
    real *h = rows->h, *h_tan = rows->h_tan, *h_adj2 = rows->h_adj2;
    real *grad_alpha = grad[ALPHA], *grad_beta = grad[BETA];
    if (x_tan)
        EACH_ENTRY(i, f, rows) {
            const Gate at = gate_at(x[i], alpha[f], beta[f]);
            h[i] = at.value, h_tan[i] = at.first * x_tan[i];
        }
    else
        EACH_ENTRY(i, f, rows) h[i] = gate_at(x[i], alpha[f], beta[f]).value;
    weight_gradient_of(F, M, F, F, y_adj2, h, y_adj, x_tan ? h_tan : 0, grad[WEIGHT]);
    bias_gradient(M, F, y_adj2, grad[BIAS]);
    layer_adjoint(M, F, F, y_adj2, of_gate(gates, k, WEIGHT), h_adj2, SET);
    if (how == SET) clear(M * F, x_adj2);
    if (residual) add_to(M * F, residual, x_adj2);
    if (x_tan)
        EACH_ENTRY(i, f, rows) {
            const Gate at = gate_at(x[i], alpha[f], beta[f]);
            const real along = x_tan[i] * h_adj[i];
            x_adj2[i] += at.first * h_adj2[i] + at.second * along;
            grad_alpha[f] += at.by_alpha * h_adj2[i] + at.first_by_alpha * along;
            grad_beta[f] += at.by_beta * h_adj2[i] + at.first_by_beta * along;
        }
    else
        EACH_ENTRY(i, f, rows) {
            const Gate at = gate_at(x[i], alpha[f], beta[f]);
            x_adj2[i] += at.first * h_adj2[i];
            grad_alpha[f] += at.by_alpha * h_adj2[i];
            grad_beta[f] += at.by_beta * h_adj2[i];
        }
}

/* Pass 1 of a chain; y only where it is an MLP. */
static void chain(const Rows *rows, const Gates *gates, const Chain *own, const real *x) {
    gated(rows, gates, 0, x, 0, own->b);
    gated(rows, gates, 1, own->b, x, own->d);
    if (own->y) gated(rows, gates, 2, own->d, 0, own->y);
}

/* Pass 2, from y_adj for an MLP and from own->d_adj for a residual block, to x_adj. */
static void chain_adjoint(const Rows *rows, const Gates *gates, const Chain *own, const real *x, const real *y_adj,
                          real *x_adj, How how) {
    if (own->y) gated_adjoint(rows, gates, 2, own->d, y_adj, own->h_adj[2], 0, own->d_adj, SET);
    gated_adjoint(rows, gates, 1, own->b, own->d_adj, own->h_adj[1], 0, own->b_adj, SET);
    gated_adjoint(rows, gates, 0, x, own->b_adj, own->h_adj[0], own->d_adj, x_adj, how);
}

/* Pass 3. */
static void chain_tangent(const Rows *rows, const Gates *gates, const Chain *own, const real *x, const real *x_tan) {
    gated_tangent(rows, gates, 0, x, x_tan, 0, own->b_tan);
    gated_tangent(rows, gates, 1, own->b, own->b_tan, x_tan, own->d_tan);
    if (own->y) gated_tangent(rows, gates, 2, own->d, own->d_tan, 0, own->y_tan);
}

/* Pass 4, from out_adj2, of y or of d; x_tan is 0 where nothing moves x. y_adj as in pass 2. */
static void chain_second(const Rows *rows, const Gates *gates, const Chain *own, const real *x, const real *x_tan,
                         const real *y_adj, const real *out_adj2, real *x_adj2, How how) {
    const real *b_tan = x_tan ? own->b_tan : 0, *d_tan = x_tan ? own->d_tan : 0, *d_adj2 = out_adj2;
    if (own->y) {
        gated_second(rows, gates, 2, own->d, d_tan, y_adj, own->h_adj[2], out_adj2, 0, rows->d_adj2, SET);
        d_adj2 = rows->d_adj2;
    }
    gated_second(rows, gates, 1, own->b, b_tan, own->d_adj, own->h_adj[1], d_adj2, 0, rows->b_adj2, SET);
    gated_second(rows, gates, 0, x, x_tan, own->b_adj, own->h_adj[0], rows->b_adj2, d_adj2, x_adj2, how);
}

#endif
