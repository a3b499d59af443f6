/* PaiNN's loops over pairs, one a pass: messages g = phi_j w from atom j to atom i. In the first block v is 0, and phi
   has no tangent, as it depends on elements alone: terms with them are left out where `first` is 1, a constant of the
   compiler, and so are g3 and what it would be multiplied with. */

#ifndef PAINN_MESSAGES_H
#define PAINN_MESSAGES_H

#include "painn.h"

/* BY_WIDTH with `first`. */
#define BY_BLOCK(b, F, body, ...)                                                                                      \
    if (b) {                                                                                                           \
        BY_WIDTH(F, body, __VA_ARGS__, 0)                                                                              \
    } else {                                                                                                           \
        BY_WIDTH(F, body, __VA_ARGS__, 1)                                                                              \
    }

/* Atoms j and i of the message from source to target, or of the one back, and the unit vector from j to i. */
#define ENDS(p, back)                                                                                                  \
    const int64_t j = (back) ? all->target[p] : all->source[p], i = (back) ? all->source[p] : all->target[p];          \
    const real sign = (back) ? -1 : 1, x = sign * unit[0], y = sign * unit[1], z = sign * unit[2];

/* s_i += sum over j of g1,  v_i += sum over j of v_j g3 + u g2,  g = phi_j w. */
INLINE void messages(const Molecules *all, const Geometry *geometry, const Block *block, real *restrict s,
                     real *restrict v, int first, int64_t F) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + 3 * p * F, *unit = geometry->unit + 3 * p;
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            const real *restrict phi_j = block->at.phi + 3 * j * F, *restrict v_j = block->at.v + 3 * j * F;
            real *restrict s_i = s + i * F, *restrict v_i = v + 3 * i * F;
            EACH(f, F) {
                const real g2 = phi_j[F + f] * w[F + f], g3 = first ? 0 : phi_j[2 * F + f] * w[2 * F + f];
                s_i[f] += phi_j[f] * w[f];
                v_i[f] += (first ? 0 : v_j[f] * g3) + x * g2;
                v_i[F + f] += (first ? 0 : v_j[F + f] * g3) + y * g2;
                v_i[2 * F + f] += (first ? 0 : v_j[2 * F + f] * g3) + z * g2;
            }
        }
    }
}

/* g_adj = (s_adj_i, u . v_adj_i, v_j . v_adj_i),  phi_adj_j += w g_adj,  v_adj_j += g3 v_adj_i,
   d_adj += dw/dd phi_j g_adj,  u_adj += g2 v_adj_i; s_adj_i and v_adj_i are those behind the messages. */
INLINE void messages_adjoint(const Molecules *all, const Passes *now, const Block *block, real *restrict v_adj,
                             int first, int64_t F) {
    const real *s_moved = block->adj.s, *v_moved = block->adj.v;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + 3 * p * F, *restrict slope = block->filter_slope + 3 * p * F;
        const real *unit = now->geometry.unit + 3 * p;
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            const real *restrict phi_j = block->at.phi + 3 * j * F, *restrict v_j = block->at.v + 3 * j * F;
            const real *restrict s_i = s_moved + i * F, *restrict v_i = v_moved + 3 * i * F;
            real *restrict phi_adj_j = block->adj.phi + 3 * j * F, *restrict v_adj_j = v_adj + 3 * j * F;
            real along = 0, x_adj = 0, y_adj = 0, z_adj = 0;
            EACH(f, F) {
                const real second = x * v_i[f] + y * v_i[F + f] + z * v_i[2 * F + f];
                const real g2 = phi_j[F + f] * w[F + f];
                phi_adj_j[f] += w[f] * s_i[f];
                phi_adj_j[F + f] += w[F + f] * second;
                along += slope[f] * phi_j[f] * s_i[f] + slope[F + f] * phi_j[F + f] * second;
                if (!first) {
                    const real third = v_j[f] * v_i[f] + v_j[F + f] * v_i[F + f] + v_j[2 * F + f] * v_i[2 * F + f];
                    const real g3 = phi_j[2 * F + f] * w[2 * F + f];
                    phi_adj_j[2 * F + f] += w[2 * F + f] * third;
                    v_adj_j[f] += g3 * v_i[f];
                    v_adj_j[F + f] += g3 * v_i[F + f];
                    v_adj_j[2 * F + f] += g3 * v_i[2 * F + f];
                    along += slope[2 * F + f] * phi_j[2 * F + f] * third;
                }
                x_adj += g2 * v_i[f];
                y_adj += g2 * v_i[F + f];
                z_adj += g2 * v_i[2 * F + f];
            }
            now->d_adj[p] += along;
            now->u_adj[3 * p] += sign * x_adj;
            now->u_adj[3 * p + 1] += sign * y_adj;
            now->u_adj[3 * p + 2] += sign * z_adj;
        }
    }
}

/* g_tan = phi_tan_j w + phi_j d_tan dw/dd,
   s_tan_i += g1_tan,  v_tan_i += v_tan_j g3 + v_j g3_tan + u_tan g2 + u g2_tan. */
INLINE void messages_tangent(const Molecules *all, const Passes *now, const Block *block, real *restrict s_tan,
                             real *restrict v_tan, int first, int64_t F) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + 3 * p * F, *restrict slope = block->filter_slope + 3 * p * F;
        const real *unit = now->geometry.unit + 3 * p, *turned = now->u_tan + 3 * p, d = now->d_tan[p];
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            const real x_tan = sign * turned[0], y_tan = sign * turned[1], z_tan = sign * turned[2];
            const real *restrict phi_j = block->at.phi + 3 * j * F, *restrict v_j = block->at.v + 3 * j * F;
            const real *restrict phi_tan_j = block->tan.phi + 3 * j * F, *restrict v_tan_j = block->tan.v + 3 * j * F;
            real *restrict s_i = s_tan + i * F, *restrict v_i = v_tan + 3 * i * F;
            EACH(f, F) {
                const real g2 = phi_j[F + f] * w[F + f];
                const real g2_tan = (first ? 0 : phi_tan_j[F + f] * w[F + f]) + d * phi_j[F + f] * slope[F + f];
                s_i[f] += (first ? 0 : phi_tan_j[f] * w[f]) + d * phi_j[f] * slope[f];
                v_i[f] += x_tan * g2 + x * g2_tan;
                v_i[F + f] += y_tan * g2 + y * g2_tan;
                v_i[2 * F + f] += z_tan * g2 + z * g2_tan;
                if (!first) {
                    const real g3 = phi_j[2 * F + f] * w[2 * F + f];
                    const real g3_tan = phi_tan_j[2 * F + f] * w[2 * F + f] + d * phi_j[2 * F + f] * slope[2 * F + f];
                    v_i[f] += v_tan_j[f] * g3 + v_j[f] * g3_tan;
                    v_i[F + f] += v_tan_j[F + f] * g3 + v_j[F + f] * g3_tan;
                    v_i[2 * F + f] += v_tan_j[2 * F + f] * g3 + v_j[2 * F + f] * g3_tan;
                }
            }
        }
    }
}

/* g_adj as in pass 2, and with the second adjoints behind the messages
   g_adj2 = (s_adj2_i, u . v_adj2_i + u_tan . v_adj_i, v_j . v_adj2_i + v_tan_j . v_adj_i),
   phi_adj2_j += w g_adj2 + d_tan dw/dd g_adj,  v_adj2_j += g3 v_adj2_i + g3_tan v_adj_i,
   w_adj2 = phi_j g_adj2 + phi_tan_j g_adj  and for dw/dd  d_tan phi_j g_adj, one below the other. */
INLINE void messages_second(const Molecules *all, const Passes *now, const Block *block, real *restrict v_adj2,
                            int first, int64_t F) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + 3 * p * F, *restrict slope = block->filter_slope + 3 * p * F;
        const real *unit = now->geometry.unit + 3 * p, *turned = now->u_tan + 3 * p, d = now->d_tan[p];
        real *restrict of_value = now->pairs + 3 * p * F, *restrict of_slope = now->pairs + 3 * (all->pairs + p) * F;
        clear(3 * F, of_value);
        clear(3 * F, of_slope);
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            const real x_tan = sign * turned[0], y_tan = sign * turned[1], z_tan = sign * turned[2];
            const real *restrict phi_j = block->at.phi + 3 * j * F, *restrict v_j = block->at.v + 3 * j * F;
            const real *restrict phi_tan_j = block->tan.phi + 3 * j * F, *restrict v_tan_j = block->tan.v + 3 * j * F;
            const real *restrict s_1 = block->adj.s + i * F, *restrict v_1 = block->adj.v + 3 * i * F;
            const real *restrict s_2 = now->adj2.s + i * F, *restrict v_2 = now->v_moved_adj2 + 3 * i * F;
            real *restrict phi_adj2_j = now->adj2.phi + 3 * j * F, *restrict v_adj2_j = v_adj2 + 3 * j * F;
            EACH(f, F) {
                const real second = x * v_1[f] + y * v_1[F + f] + z * v_1[2 * F + f];
                const real second_2 = x * v_2[f] + y * v_2[F + f] + z * v_2[2 * F + f] +
                                      x_tan * v_1[f] + y_tan * v_1[F + f] + z_tan * v_1[2 * F + f];
                phi_adj2_j[f] += w[f] * s_2[f] + d * slope[f] * s_1[f];
                phi_adj2_j[F + f] += w[F + f] * second_2 + d * slope[F + f] * second;
                of_value[f] += phi_j[f] * s_2[f] + (first ? 0 : phi_tan_j[f] * s_1[f]);
                of_value[F + f] += phi_j[F + f] * second_2 + (first ? 0 : phi_tan_j[F + f] * second);
                of_slope[f] += d * phi_j[f] * s_1[f];
                of_slope[F + f] += d * phi_j[F + f] * second;
                if (!first) {
                    const real third = v_j[f] * v_1[f] + v_j[F + f] * v_1[F + f] + v_j[2 * F + f] * v_1[2 * F + f];
                    const real third_2 = v_j[f] * v_2[f] + v_j[F + f] * v_2[F + f] + v_j[2 * F + f] * v_2[2 * F + f] +
                                         v_tan_j[f] * v_1[f] + v_tan_j[F + f] * v_1[F + f] +
                                         v_tan_j[2 * F + f] * v_1[2 * F + f];
                    const real g3 = phi_j[2 * F + f] * w[2 * F + f];
                    const real g3_tan = phi_tan_j[2 * F + f] * w[2 * F + f] + d * phi_j[2 * F + f] * slope[2 * F + f];
                    phi_adj2_j[2 * F + f] += w[2 * F + f] * third_2 + d * slope[2 * F + f] * third;
                    v_adj2_j[f] += g3 * v_2[f] + g3_tan * v_1[f];
                    v_adj2_j[F + f] += g3 * v_2[F + f] + g3_tan * v_1[F + f];
                    v_adj2_j[2 * F + f] += g3 * v_2[2 * F + f] + g3_tan * v_1[2 * F + f];
                    of_value[2 * F + f] += phi_j[2 * F + f] * third_2 + phi_tan_j[2 * F + f] * third;
                    of_slope[2 * F + f] += d * phi_j[2 * F + f] * third;
                }
            }
        }
    }
}

#endif
