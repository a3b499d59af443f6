/* Messages of SpookyNet's local interaction as s, p and d orbitals (ipu_chem/models/spooky_interaction.py), in the
   four passes that spooky.c names: at an atom i, over its neighbors j,
       S_i += f_s s_j,  P_i[c] += u[c] f_p p_j (c = 1..3),  D_i[c] += q[c] f_d d_j (c = 1..5),
   with filters f of the pair, [P, 3 F], its direction u and the five products q of directions, [P, 8] together. Seen
   from the other end u has the other sign. Shapes: M atoms, P pairs, F features; P_i is [M, 3, F], D_i [M, 5, F]. */

#ifndef ORBITALS_H
#define ORBITALS_H

#include "../forces/real.h"

enum { P_AXES = 3, D_AXES = 5, AXES = 8 };

typedef struct {
    int64_t atoms, pairs, both;     /* M, P, and whether a pair works in both directions */
    const int32_t *source, *target; /* [P], of M */
} Pairs;

/* What goes along pairs, or its tangents, or its adjoints. */
typedef struct {
    real *angular; /* [P, 8] */
    real *filter;  /* [P, 3 F] */
    real *s, *p, *d; /* [M, F] each */
    real *S, *P, *D; /* [M, F], [M, 3, F], [M, 5, F] */
} Orbitals;

/* Rows of one direction of a pair: i receives, j sends. */
typedef struct {
    const real *fs, *fp, *fd;
    real *s, *p, *d, *S, *P, *D;
    real u[P_AXES], q[D_AXES];
} Way;

INLINE Way way(const Pairs *all, const Orbitals *of, int64_t pair, int back, int64_t F) {
    const int64_t i = back ? all->source[pair] : all->target[pair], j = back ? all->target[pair] : all->source[pair];
    const real *filter = of->filter + pair * 3 * F, *angular = of->angular + pair * AXES;
    Way made = {filter,          filter + F,      filter + 2 * F,           of->s + j * F,           of->p + j * F,
                of->d + j * F,   of->S + i * F,   of->P + i * P_AXES * F,   of->D + i * D_AXES * F,  {0}, {0}};
    for (int c = 0; c < P_AXES; c++) made.u[c] = back ? -angular[c] : angular[c];
    for (int c = 0; c < D_AXES; c++) made.q[c] = angular[P_AXES + c];
    return made;
}

#define EACH_WAY(pair, back, all)                                                                                      \
    for (int64_t pair = 0; pair < (all)->pairs; pair++)                                                                \
        for (int back = 0; back <= (int)(all)->both; back++)
#define EACH_P(c) _Pragma("GCC unroll 3") for (int c = 0; c < P_AXES; c++)
#define EACH_D(c) _Pragma("GCC unroll 5") for (int c = 0; c < D_AXES; c++)

/* Pass 1; adds to S, P and D. */
INLINE void orbitals(const Pairs *all, const Orbitals *at, int64_t F) {
    EACH_WAY(pair, back, all) {
        const Way a = way(all, at, pair, back, F);
        EACH(f, F) {
            const real p = a.fp[f] * a.p[f], d = a.fd[f] * a.d[f];
            a.S[f] += a.fs[f] * a.s[f];
            EACH_P(c) a.P[c * F + f] += a.u[c] * p;
            EACH_D(c) a.D[c * F + f] += a.q[c] * d;
        }
    }
}

/* Adds sums over features to the adjoint of a pair's direction. */
INLINE void to_angular(const real *u, const real *q, int back, real *angular_adj) {
    EACH_P(c) angular_adj[c] += back ? -u[c] : u[c];
    EACH_D(c) angular_adj[P_AXES + c] += q[c];
}

/* Pass 2; from S, P and D of the adjoints, adds to all others of them. */
INLINE void orbitals_adjoint(const Pairs *all, const Orbitals *at, const Orbitals *adj, int64_t F) {
    EACH_WAY(pair, back, all) {
        const Way a = way(all, at, pair, back, F), z = way(all, adj, pair, back, F);
        real *filter = adj->filter + pair * 3 * F, u[P_AXES] = {0}, q[D_AXES] = {0};
        EACH(f, F) {
            const real p = a.fp[f] * a.p[f], d = a.fd[f] * a.d[f], of_s = z.S[f];
            real of_p = 0, of_d = 0; /* adjoints of f_p p and of f_d d */
            EACH_P(c) of_p += a.u[c] * z.P[c * F + f], u[c] += p * z.P[c * F + f];
            EACH_D(c) of_d += a.q[c] * z.D[c * F + f], q[c] += d * z.D[c * F + f];
            z.s[f] += a.fs[f] * of_s, z.p[f] += a.fp[f] * of_p, z.d[f] += a.fd[f] * of_d;
            filter[f] += a.s[f] * of_s, filter[F + f] += a.p[f] * of_p, filter[2 * F + f] += a.d[f] * of_d;
        }
        to_angular(u, q, back, adj->angular + pair * AXES);
    }
}

/* Pass 3; adds to S, P and D of the tangents. */
INLINE void orbitals_tangent(const Pairs *all, const Orbitals *at, const Orbitals *tan, int64_t F) {
    EACH_WAY(pair, back, all) {
        const Way a = way(all, at, pair, back, F), t = way(all, tan, pair, back, F);
        EACH(f, F) {
            const real p = a.fp[f] * a.p[f], p_tan = t.fp[f] * a.p[f] + a.fp[f] * t.p[f];
            const real d = a.fd[f] * a.d[f], d_tan = t.fd[f] * a.d[f] + a.fd[f] * t.d[f];
            t.S[f] += t.fs[f] * a.s[f] + a.fs[f] * t.s[f];
            EACH_P(c) t.P[c * F + f] += a.u[c] * p_tan + t.u[c] * p;
            EACH_D(c) t.D[c * F + f] += a.q[c] * d_tan + t.q[c] * d;
        }
    }
}

/* Pass 4; from S, P and D of the second adjoints, adds to all others of them: every product of pass 2 once with the
   second adjoint, once with the adjoint and the tangent of the other factor. */
INLINE void orbitals_second(const Pairs *all, const Orbitals *at, const Orbitals *tan, const Orbitals *adj,
                            const Orbitals *adj2, int64_t F) {
    EACH_WAY(pair, back, all) {
        const Way a = way(all, at, pair, back, F), t = way(all, tan, pair, back, F);
        const Way z = way(all, adj, pair, back, F), y = way(all, adj2, pair, back, F);
        real *filter = adj2->filter + pair * 3 * F, u[P_AXES] = {0}, q[D_AXES] = {0};
        EACH(f, F) {
            const real p = a.fp[f] * a.p[f], p_tan = t.fp[f] * a.p[f] + a.fp[f] * t.p[f];
            const real d = a.fd[f] * a.d[f], d_tan = t.fd[f] * a.d[f] + a.fd[f] * t.d[f];
            const real of_s = z.S[f], of_s2 = y.S[f];
            real of_p = 0, of_p2 = 0, of_d = 0, of_d2 = 0;
            EACH_P(c) {
                const real one = z.P[c * F + f], two = y.P[c * F + f];
                of_p += a.u[c] * one, of_p2 += a.u[c] * two + t.u[c] * one;
                u[c] += p * two + p_tan * one;
            }
            EACH_D(c) {
                const real one = z.D[c * F + f], two = y.D[c * F + f];
                of_d += a.q[c] * one, of_d2 += a.q[c] * two + t.q[c] * one;
                q[c] += d * two + d_tan * one;
            }
            y.s[f] += a.fs[f] * of_s2 + t.fs[f] * of_s;
            y.p[f] += a.fp[f] * of_p2 + t.fp[f] * of_p;
            y.d[f] += a.fd[f] * of_d2 + t.fd[f] * of_d;
            filter[f] += a.s[f] * of_s2 + t.s[f] * of_s;
            filter[F + f] += a.p[f] * of_p2 + t.p[f] * of_p;
            filter[2 * F + f] += a.d[f] * of_d2 + t.d[f] * of_d;
        }
        to_angular(u, q, back, adj2->angular + pair * AXES);
    }
}

/* Products of both halves (L, R) of `axes` rows [2 F] an atom, summed over the rows: t += sum of L R. */
INLINE void meet(int64_t M, int64_t axes, const real *mixed, real *t, int64_t F) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t c = 0; c < axes; c++, mixed += 2 * F) EACH(f, F) t[m * F + f] += mixed[f] * mixed[F + f];
}

INLINE void meet_tangent(int64_t M, int64_t axes, const real *mixed, const real *mixed_tan, real *t_tan, int64_t F) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t c = 0; c < axes; c++, mixed += 2 * F, mixed_tan += 2 * F)
            EACH(f, F) t_tan[m * F + f] += mixed[f] * mixed_tan[F + f] + mixed_tan[f] * mixed[F + f];
}

/* Of t_adj, the adjoint of `mixed`: (R t_adj, L t_adj); added where it is of the tangent of `mixed`. */
INLINE void meet_adjoint(int64_t M, int64_t axes, const real *mixed, const real *t_adj, real *mixed_adj, int adds,
                         int64_t F) {
    for (int64_t m = 0; m < M; m++)
        for (int64_t c = 0; c < axes; c++, mixed += 2 * F, mixed_adj += 2 * F)
            EACH(f, F) {
                const real t = t_adj[m * F + f], left = adds ? mixed_adj[f] : 0, right = adds ? mixed_adj[F + f] : 0;
                mixed_adj[f] = left + mixed[F + f] * t, mixed_adj[F + f] = right + mixed[f] * t;
            }
}

#endif
