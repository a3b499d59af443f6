/* PaiNN's loops over atoms, two a pass: the lengths |R| and the update by L, R = mix v. */

#ifndef PAINN_UPDATE_H
#define PAINN_UPDATE_H

#include "painn.h"

/* |R| = sqrt(R . R + 1e-8), as in torch, behind s in z = (s, |R|). */
INLINE void lengths(int64_t M, const Places *at, const real *restrict s, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict R = at->mixed + 6 * m * F + F;
        real *restrict z = at->z + 2 * m * F;
        EACH(f, F) {
            const real square = R[f] * R[f] + R[2 * F + f] * R[2 * F + f] + R[4 * F + f] * R[4 * F + f];
            z[f] = s[m * F + f];
            z[F + f] = (real)sqrt(square + (real)1e-8);
        }
    }
}

/* s_out = s + a1 + a2 (L . R),  v_out = v + L a3. */
INLINE void update(int64_t M, const Block *block, real *restrict s_out, real *restrict v_out, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F;
        const real *restrict a = block->at.gates + 3 * m * F;
        const real *restrict s = block->at.z + 2 * m * F, *restrict v = block->v_moved + 3 * m * F;
        EACH(f, F) {
            const real dot = L[f] * R[f] + L[2 * F + f] * R[2 * F + f] + L[4 * F + f] * R[4 * F + f];
            s_out[m * F + f] = s[f] + a[f] + a[F + f] * dot;
            EACH_AXIS(c) v_out[(3 * m + c) * F + f] = v[c * F + f] + L[2 * c * F + f] * a[2 * F + f];
        }
    }
}

/* a_adj = (s_adj, s_adj (L . R), L . v_adj),  L_adj = a3 v_adj + s_adj a2 R,  R_adj = s_adj a2 L, s_adj and v_adj of
   the block's output; what comes by |R| follows. */
INLINE void update_adjoint(int64_t M, const Block *block, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F;
        const real *restrict a = block->at.gates + 3 * m * F;
        const real *restrict s_adj = block->s_out_adj + m * F, *restrict v_adj = block->v_out_adj + 3 * m * F;
        real *restrict a_adj = block->adj.gates + 3 * m * F, *restrict L_adj = block->adj.mixed + 6 * m * F;
        EACH(f, F) {
            const real dot_adj = s_adj[f] * a[F + f], a3 = a[2 * F + f];
            real dot = 0, turned = 0;
            EACH_AXIS(c) {
                dot += L[2 * c * F + f] * R[2 * c * F + f];
                turned += L[2 * c * F + f] * v_adj[c * F + f];
                L_adj[2 * c * F + f] = a3 * v_adj[c * F + f] + dot_adj * R[2 * c * F + f];
                L_adj[(2 * c + 1) * F + f] = dot_adj * L[2 * c * F + f];
            }
            a_adj[f] = s_adj[f];
            a_adj[F + f] = s_adj[f] * dot;
            a_adj[2 * F + f] = turned;
        }
    }
}

/* R_adj += |R|_adj R / |R|;  s_adj before the update = s_adj behind it + that of z. */
INLINE void lengths_adjoint(int64_t M, const Block *block, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict R = block->at.mixed + 6 * m * F + F, *restrict z = block->at.z + 2 * m * F;
        const real *restrict z_adj = block->adj.z + 2 * m * F, *restrict s_out_adj = block->s_out_adj + m * F;
        real *restrict R_adj = block->adj.mixed + 6 * m * F + F, *restrict s_adj = block->adj.s + m * F;
        EACH(f, F) {
            const real scale = z_adj[F + f] / z[F + f];
            EACH_AXIS(c) R_adj[2 * c * F + f] += scale * R[2 * c * F + f];
            s_adj[f] = s_out_adj[f] + z_adj[f];
        }
    }
}

/* |R|_tan = R . R_tan / |R|, behind s_tan. */
INLINE void lengths_tangent(int64_t M, const Block *block, const real *restrict s_tan, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict R = block->at.mixed + 6 * m * F + F, *restrict R_tan = block->tan.mixed + 6 * m * F + F;
        const real *restrict z = block->at.z + 2 * m * F;
        real *restrict z_tan = block->tan.z + 2 * m * F;
        EACH(f, F) {
            real dot = 0;
            EACH_AXIS(c) dot += R[2 * c * F + f] * R_tan[2 * c * F + f];
            z_tan[f] = s_tan[m * F + f];
            z_tan[F + f] = dot / z[F + f];
        }
    }
}

/* s_out_tan = s_tan + a1_tan + a2_tan (L . R) + a2 (L_tan . R + L . R_tan),  v_out_tan = v_tan + L_tan a3 + L a3_tan. */
INLINE void update_tangent(int64_t M, const Block *block, real *restrict s_out, real *restrict v_out, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F;
        const real *restrict a = block->at.gates + 3 * m * F;
        const real *restrict L_tan = block->tan.mixed + 6 * m * F, *restrict R_tan = L_tan + F;
        const real *restrict a_tan = block->tan.gates + 3 * m * F, *restrict s_tan = block->tan.z + 2 * m * F;
        const real *restrict v_tan = block->v_moved_tan + 3 * m * F;
        EACH(f, F) {
            real dot = 0, dot_tan = 0;
            EACH_AXIS(c) {
                const int64_t at = 2 * c * F + f;
                dot += L[at] * R[at];
                dot_tan += L_tan[at] * R[at] + L[at] * R_tan[at];
                v_out[(3 * m + c) * F + f] = v_tan[c * F + f] + L_tan[at] * a[2 * F + f] + L[at] * a_tan[2 * F + f];
            }
            s_out[m * F + f] = s_tan[f] + a_tan[f] + a_tan[F + f] * dot + a[F + f] * dot_tan;
        }
    }
}

/* Second adjoints of the update, from those of the block's output, s_adj2 and v_adj2:
   a_adj2 = (s_adj2, s_adj2 (L . R) + s_adj (L . R)_tan, L . v_adj2 + L_tan . v_adj),
   L_adj2 = a3 v_adj2 + a3_tan v_adj + dot_adj2 R + dot_adj R_tan,  R_adj2 = dot_adj2 L + dot_adj L_tan,
   with dot_adj = s_adj a2 and dot_adj2 = s_adj2 a2 + s_adj a2_tan. */
INLINE void update_second(int64_t M, const Passes *now, const Block *block, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F;
        const real *restrict a = block->at.gates + 3 * m * F;
        const real *restrict L_tan = block->tan.mixed + 6 * m * F, *restrict R_tan = L_tan + F;
        const real *restrict a_tan = block->tan.gates + 3 * m * F;
        const real *restrict s_1 = block->s_out_adj + m * F, *restrict v_1 = block->v_out_adj + 3 * m * F;
        const real *restrict s_2 = now->s_adj + m * F, *restrict v_2 = now->v_adj + 3 * m * F;
        real *restrict a_adj2 = now->adj2.gates + 3 * m * F, *restrict L_adj2 = now->adj2.mixed + 6 * m * F;
        EACH(f, F) {
            const real dot_adj = s_1[f] * a[F + f], dot_adj2 = s_2[f] * a[F + f] + s_1[f] * a_tan[F + f];
            real dot = 0, dot_tan = 0, turned = 0;
            EACH_AXIS(c) {
                const int64_t at = 2 * c * F + f, of = c * F + f;
                dot += L[at] * R[at];
                dot_tan += L_tan[at] * R[at] + L[at] * R_tan[at];
                turned += L[at] * v_2[of] + L_tan[at] * v_1[of];
                L_adj2[at] = a[2 * F + f] * v_2[of] + a_tan[2 * F + f] * v_1[of];
                L_adj2[at] += dot_adj2 * R[at] + dot_adj * R_tan[at];
                L_adj2[at + F] = dot_adj2 * L[at] + dot_adj * L_tan[at];
            }
            a_adj2[f] = s_2[f];
            a_adj2[F + f] = s_2[f] * dot + s_1[f] * dot_tan;
            a_adj2[2 * F + f] = turned;
        }
    }
}

/* R_adj2 += |R|_adj2 R / |R| + |R|_adj (R_tan - R |R|_tan / |R|) / |R|;  s_adj2 before the update. */
INLINE void lengths_second(int64_t M, const Passes *now, const Block *block, int64_t F) {
    for (int64_t m = 0; m < M; m++) {
        const real *restrict R = block->at.mixed + 6 * m * F + F, *restrict R_tan = block->tan.mixed + 6 * m * F + F;
        const real *restrict z = block->at.z + 2 * m * F, *restrict z_tan = block->tan.z + 2 * m * F;
        const real *restrict z_adj = block->adj.z + 2 * m * F, *restrict z_adj2 = now->adj2.z + 2 * m * F;
        const real *restrict s_out = now->s_adj + m * F;
        real *restrict R_adj2 = now->adj2.mixed + 6 * m * F + F, *restrict s_adj2 = now->adj2.s + m * F;
        EACH(f, F) {
            const real inverse = 1 / z[F + f], first = z_adj[F + f] * inverse;
            const real second = (z_adj2[F + f] - first * z_tan[F + f]) * inverse;
            EACH_AXIS(c)
                R_adj2[2 * c * F + f] += second * R[2 * c * F + f] + first * R_tan[2 * c * F + f];
            s_adj2[f] = s_out[f] + z_adj2[f];
        }
    }
}

#endif
