/* Attention of every atom to its molecule (ipu_chem/models/spooky_interaction.py), in the four passes that spooky.c
   names: o_i += sum over j of w_ij v_j, w_ij = exp(s_ij) / sum over k of exp(s_ik), s_ij = scale q_i . k_j.

   Atoms of a molecule follow each other: its n atoms are rows of [n, F], its scores are [n, n]. */

#ifndef ATTENTION_H
#define ATTENTION_H

#include "../exponential.h"
#include "../forces/products.h"

/* What goes through attention, or its tangents, or its adjoints. */
typedef struct {
    real *q, *k, *v; /* [M, F] */
    real *scores;    /* [n, n] of each molecule: w, w_tan or s_adj */
} Attended;

/* The part of one molecule, from atom `first` on, its scores from `place` on. */
static Attended part(const Attended *whole, int64_t first, int64_t place, int64_t F) {
    return (Attended){whole->q + first * F, whole->k + first * F, whole->v + first * F, whole->scores + place};
}

/* s (+)= scale x y^T of x, y [n, F]. */
static void dots(int64_t n, int64_t F, real scale, const real *x, const real *y, real *s, How how) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            const real *a = x + i * F, *b = y + j * F;
            real sum = 0;
            EACH(f, F) sum += a[f] * b[f];
            s[i * n + j] = (how == ADD ? s[i * n + j] : 0) + scale * sum;
        }
}

/* out += w x, or w^T x, of w [n, n] and x, out [n, F]. */
static void mix(int64_t n, int64_t F, const real *w, int transposed, const real *x, real *out) {
    const Matrix A = {w, transposed ? 1 : n, transposed ? n : 1, 0};
    product(1, n, F, n, A, (Matrix){x, F, 1, 0}, out, F, 0, ADD);
}

/* Pass 1. */
static void attention(int64_t n, int64_t F, const Attended *at, real *o) {
    real *w = at->scores;
    dots(n, F, (real)(1 / sqrt((double)F)), at->q, at->k, w, SET);
    for (int64_t i = 0; i < n; i++, w += n) {
        real most = w[0], sum = 0;
        for (int64_t j = 1; j < n; j++) most = w[j] > most ? w[j] : most;
        for (int64_t j = 0; j < n; j++) w[j] = NAME(exp_minus)(w[j] - most), sum += w[j];
        for (int64_t j = 0; j < n; j++) w[j] /= sum;
    }
    mix(n, F, at->scores, 0, at->v, o);
}

/* Pass 2: v_adj = w^T o_adj, w_adj = o_adj v^T, s_adj = scale w (w_adj - sum over j of w w_adj), q_adj = s_adj k,
   k_adj = s_adj^T q. The scale is in s_adj. */
static void attention_adjoint(int64_t n, int64_t F, const Attended *at, const real *o_adj, const Attended *adj) {
    const real *w = at->scores, scale = (real)(1 / sqrt((double)F));
    real *s_adj = adj->scores;
    mix(n, F, w, 1, o_adj, adj->v);
    dots(n, F, 1, o_adj, at->v, s_adj, SET);
    for (int64_t i = 0; i < n; i++, w += n, s_adj += n) {
        real mean = 0;
        for (int64_t j = 0; j < n; j++) mean += w[j] * s_adj[j];
        for (int64_t j = 0; j < n; j++) s_adj[j] = scale * w[j] * (s_adj[j] - mean);
    }
    mix(n, F, adj->scores, 0, at->k, adj->q);
    mix(n, F, adj->scores, 1, at->q, adj->k);
}

/* Pass 3: s_tan = scale (q_tan . k + q . k_tan), w_tan = w (s_tan - sum over j of w s_tan),
   o_tan = w_tan v + w v_tan. */
static void attention_tangent(int64_t n, int64_t F, const Attended *at, const Attended *tan, real *o_tan) {
    const real *w = at->scores, scale = (real)(1 / sqrt((double)F));
    real *w_tan = tan->scores;
    dots(n, F, scale, tan->q, at->k, w_tan, SET);
    dots(n, F, scale, at->q, tan->k, w_tan, ADD);
    for (int64_t i = 0; i < n; i++, w += n, w_tan += n) {
        real mean = 0;
        for (int64_t j = 0; j < n; j++) mean += w[j] * w_tan[j];
        for (int64_t j = 0; j < n; j++) w_tan[j] = w[j] * (w_tan[j] - mean);
    }
    mix(n, F, tan->scores, 0, at->v, o_tan);
    mix(n, F, at->scores, 0, tan->v, o_tan);
}

/* Pass 4: the tangent of pass 2 together with pass 2 of the second adjoint. `tan` and `adj` are 0 where nothing moves
   queries, keys and values; scratch is [n, n]. */
static void attention_second(int64_t n, int64_t F, const Attended *at, const Attended *tan, const real *o_adj,
                             const Attended *adj, const real *o_adj2, const Attended *adj2, real *scratch) {
    if (!tan) {
        attention_adjoint(n, F, at, o_adj2, adj2);
        return;
    }
    const real *w = at->scores, *w_tan = tan->scores, scale = (real)(1 / sqrt((double)F));
    real *w_adj = scratch, *s_adj2 = adj2->scores;
    mix(n, F, w, 1, o_adj2, adj2->v);
    mix(n, F, w_tan, 1, o_adj, adj2->v);
    dots(n, F, 1, o_adj, at->v, w_adj, SET);
    dots(n, F, 1, o_adj2, at->v, s_adj2, SET);
    dots(n, F, 1, o_adj, tan->v, s_adj2, ADD);
    for (int64_t i = 0; i < n; i++, w += n, w_tan += n, w_adj += n, s_adj2 += n) {
        real mean = 0, mean_tan = 0;
        for (int64_t j = 0; j < n; j++) {
            mean += w[j] * w_adj[j];
            mean_tan += w_tan[j] * w_adj[j] + w[j] * s_adj2[j];
        }
        for (int64_t j = 0; j < n; j++)
            s_adj2[j] = scale * (w_tan[j] * (w_adj[j] - mean) + w[j] * (s_adj2[j] - mean_tan));
    }
    mix(n, F, adj2->scores, 0, at->k, adj2->q);
    mix(n, F, adj->scores, 0, tan->k, adj2->q);
    mix(n, F, adj2->scores, 1, at->q, adj2->k);
    mix(n, F, adj->scores, 1, tan->q, adj2->k);
}

#endif
