/* PaiNN's energies and forces, and the gradients of a loss of both, in the four passes that schnet.c names
   (ipu_chem/models/painn.py): energies, adjoints (_adj), tangents (_tan), second adjoints (_adj2).

   A block adds messages, then an update of each atom by itself, to scalars s and vectors v:
       s_i += sum over j of g1,  v_i += sum over j of v_j g3 + u g2,  g = phi_j w,  phi = m2 f(m1 s),
       s += a1 + a2 (L . R),  v += L a3,  (L, R) = mix v,  a = u2 f(u1 (s, |R|)),
   with filters w of the distance and the unit vector u of the pair. Shapes: M atoms, P pairs, F features, R waves, of
   which w is a linear function together with the envelope: [P, R + 1]. Vectors are [M, 3, F], that is 3 M rows. */

#define ACTIVATION silu
#include "head.h"

enum { MESSAGE_1, MESSAGE_BIAS_1, MESSAGE_2, MESSAGE_BIAS_2, FILTER, FILTER_BIAS,
       UPDATE_1, UPDATE_BIAS_1, UPDATE_2, UPDATE_BIAS_2, MIX, PER_BLOCK };
enum { EMBEDDING, HEAD_1, HEAD_BIAS_1, HEAD_2, HEAD_BIAS_2, REFERENCES, BLOCKS };
enum { MOST_BLOCKS = 32 };
enum { MESSAGE_1_T, MESSAGE_2_T, FILTER_T, UPDATE_1_T, UPDATE_2_T, MIX_T, TRANSPOSED };

typedef struct {
    int64_t F, R, H, blocks;
    double cutoff, factor;       /* of a wave sin(n factor d) / d */
    const real *const *weights;  /* BLOCKS of the whole model, then PER_BLOCK of each block */
    real *const *gradients;      /* the same, in pass 4 */
    const real *transposed;      /* see NAME(painn_prepare) */
} Painn;

/* Values of a pass at the places of a block where weights or messages act. */
typedef struct {
    real *s, *v;                 /* [M, F], [M, 3, F]: block's input; of adjoints, before the update */
    real *a, *h, *phi;           /* [M, F], [M, F], [M, 3 F]: message network around its activation, output */
    real *mixed;                 /* [M, 3, 2 F]: L and R */
    real *z;                     /* [M, 2 F]: s and |R| before the update */
    real *k, *t, *gates;         /* [M, F], [M, F], [M, 3 F]: update network around its activation, output */
} Places;

typedef struct {
    real *filter, *filter_slope; /* [P, 3 F] each, one below the other: [2 P, 3 F] */
    real *s_out_adj, *v_out_adj; /* adjoints of the block's output */
    real *v_moved, *v_moved_tan; /* [M, 3, F]: v after the messages and its tangent; s is in z */
    Places at, adj, tan;
} Block;

typedef struct {
    Geometry geometry;
    Head head;
    real *s, *v, *s_tan, *v_tan; /* behind the last block */
    real *s_adj, *v_adj;         /* pass 2: of the first block's input, which nothing needs; pass 4: second adjoints */
    real *distance, *d_adj, *d_tan, *u_adj, *u_tan;
    Places adj2;                 /* scratch of pass 4 */
    real *v_moved_adj2;          /* scratch: [M, 3, F] */
    real *pairs;                 /* scratch: [2 P, 3 F] */
    real *transposed_gradient;   /* scratch: [R + 1, 3 F] */
    Block block[MOST_BLOCKS];
} Passes;

static Places take_places(Workspace *space, int64_t M, int64_t F) {
    Places made;
    made.s = take(space, M * F), made.v = take(space, 3 * M * F);
    made.a = take(space, M * F), made.h = take(space, M * F), made.phi = take(space, 3 * M * F);
    made.mixed = take(space, 6 * M * F), made.z = take(space, 2 * M * F);
    made.k = take(space, M * F), made.t = take(space, M * F), made.gates = take(space, 3 * M * F);
    return made;
}

static void lay_out(Workspace *space, const Molecules *all, const Painn *net, int training, Passes *made) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F;
    made->geometry = take_geometry(space, P, net->R + 1);
    made->head = take_head(space, M, net->H);
    made->s = take(space, M * F), made->v = take(space, 3 * M * F);
    made->s_adj = take(space, M * F), made->v_adj = take(space, 3 * M * F);
    made->distance = take(space, P), made->d_adj = take(space, P), made->u_adj = take(space, 3 * P);
    if (training) {
        made->d_tan = take(space, P), made->u_tan = take(space, 3 * P);
        made->s_tan = take(space, M * F), made->v_tan = take(space, 3 * M * F);
        made->adj2 = take_places(space, M, F), made->v_moved_adj2 = take(space, 3 * M * F);
        made->pairs = take(space, 6 * P * F);
        made->transposed_gradient = take(space, 3 * F * (net->R + 1));
    }
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = made->block + b;
        block->filter = take(space, 6 * P * F);
        block->filter_slope = block->filter ? block->filter + 3 * P * F : 0;
        block->s_out_adj = take(space, M * F), block->v_out_adj = take(space, 3 * M * F);
        block->v_moved = take(space, 3 * M * F);
        block->at = take_places(space, M, F), block->adj = take_places(space, M, F);
        if (!training) continue;
        block->v_moved_tan = take(space, 3 * M * F);
        block->tan = take_places(space, M, F);
    }
}

static HeadWeights head_weights(const Painn *net) {
    const real *const *w = net->weights;
    return (HeadWeights){w[EMBEDDING], w[HEAD_1], w[HEAD_BIAS_1], w[HEAD_2], w[HEAD_BIAS_2], w[REFERENCES],
                         net->transposed};
}

static const real *const *block_weights(const Painn *net, int64_t b) { return net->weights + BLOCKS + b * PER_BLOCK; }

/* Transposed weights of a block, in the order of their enumeration; TRANSPOSED is the end of them. */
static const real *block_transposed(const Painn *net, int64_t b, int which) {
    const int64_t F = net->F, sizes[TRANSPOSED] = {F * F, 3 * F * F, 3 * F * (net->R + 1), 2 * F * F, 3 * F * F, 2 * F * F};
    int64_t before = 0, whole = 0;
    for (int i = 0; i < TRANSPOSED; i++) before += i < which ? sizes[i] : 0, whole += sizes[i];
    return net->transposed + F * net->H + b * whole + before;
}

/* Waves sin(n factor d) / d, n = 1..R, times the envelope, then the envelope itself, and the derivatives of all. */
static void waves(const Molecules *all, const Painn *net, Passes *now) {
    const int64_t width = net->R + 1;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real d = now->distance[p], inverse = now->geometry.inverse[p];
        const real c = now->geometry.envelope[p], c_slope = now->geometry.envelope_slope[p];
        real *basis = now->geometry.basis + p * width, *slope = now->geometry.basis_slope + p * width;
        /* sin and cos of multiples of an angle by turning on, in double: exact to float's last digit. */
        const double angle = net->factor * (double)d, cosine = cos(angle), sine = sin(angle);
        double s = 0, co = 1;
        for (int64_t n = 0; n < net->R; n++) {
            const double next = s * cosine + co * sine;
            co = co * cosine - s * sine, s = next;
            const real wave = (real)s * inverse;
            const real wave_slope = ((real)(co * net->factor * (double)(n + 1)) - wave) * inverse;
            basis[n] = c * wave;
            slope[n] = c_slope * wave + c * wave_slope;
        }
        basis[net->R] = c;
        slope[net->R] = c_slope;
    }
}

/* Atoms j and i of the message from source to target, or of the one back, and the unit vector from j to i. */
#define ENDS(p, back)                                                                                                  \
    const int64_t j = (back) ? all->target[p] : all->source[p], i = (back) ? all->source[p] : all->target[p];          \
    const real sign = (back) ? -1 : 1, x = sign * unit[0], y = sign * unit[1], z = sign * unit[2];

/* s_i += sum over j of g1,  v_i += sum over j of v_j g3 + u g2,  g = phi_j w. */
INLINE void messages(const Molecules *all, const Geometry *geometry, const Block *block, real *restrict s,
                     real *restrict v, int64_t F) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + 3 * p * F, *unit = geometry->unit + 3 * p;
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            const real *restrict phi_j = block->at.phi + 3 * j * F, *restrict v_j = block->at.v + 3 * j * F;
            real *restrict s_i = s + i * F, *restrict v_i = v + 3 * i * F;
            EACH(f, F) {
                const real g2 = phi_j[F + f] * w[F + f], g3 = phi_j[2 * F + f] * w[2 * F + f];
                s_i[f] += phi_j[f] * w[f];
                v_i[f] += v_j[f] * g3 + x * g2;
                v_i[F + f] += v_j[F + f] * g3 + y * g2;
                v_i[2 * F + f] += v_j[2 * F + f] * g3 + z * g2;
            }
        }
    }
}

/* g_adj = (s_adj_i, u . v_adj_i, v_j . v_adj_i),  phi_adj_j += w g_adj,  v_adj_j += g3 v_adj_i,
   d_adj += dw/dd phi_j g_adj,  u_adj += g2 v_adj_i; s_adj_i and v_adj_i are those behind the messages. */
INLINE void messages_adjoint(const Molecules *all, const Passes *now, const Block *block, real *restrict v_adj,
                             int64_t F) {
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
                const real first = s_i[f], second = x * v_i[f] + y * v_i[F + f] + z * v_i[2 * F + f];
                const real third = v_j[f] * v_i[f] + v_j[F + f] * v_i[F + f] + v_j[2 * F + f] * v_i[2 * F + f];
                const real g2 = phi_j[F + f] * w[F + f], g3 = phi_j[2 * F + f] * w[2 * F + f];
                phi_adj_j[f] += w[f] * first;
                phi_adj_j[F + f] += w[F + f] * second;
                phi_adj_j[2 * F + f] += w[2 * F + f] * third;
                v_adj_j[f] += g3 * v_i[f];
                v_adj_j[F + f] += g3 * v_i[F + f];
                v_adj_j[2 * F + f] += g3 * v_i[2 * F + f];
                along += slope[f] * phi_j[f] * first + slope[F + f] * phi_j[F + f] * second +
                         slope[2 * F + f] * phi_j[2 * F + f] * third;
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
                             real *restrict v_tan, int64_t F) {
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
                const real g2 = phi_j[F + f] * w[F + f], g3 = phi_j[2 * F + f] * w[2 * F + f];
                const real g2_tan = phi_tan_j[F + f] * w[F + f] + d * phi_j[F + f] * slope[F + f];
                const real g3_tan = phi_tan_j[2 * F + f] * w[2 * F + f] + d * phi_j[2 * F + f] * slope[2 * F + f];
                s_i[f] += phi_tan_j[f] * w[f] + d * phi_j[f] * slope[f];
                v_i[f] += v_tan_j[f] * g3 + v_j[f] * g3_tan + x_tan * g2 + x * g2_tan;
                v_i[F + f] += v_tan_j[F + f] * g3 + v_j[F + f] * g3_tan + y_tan * g2 + y * g2_tan;
                v_i[2 * F + f] += v_tan_j[2 * F + f] * g3 + v_j[2 * F + f] * g3_tan + z_tan * g2 + z * g2_tan;
            }
        }
    }
}

/* g_adj as in pass 2, and with the second adjoints behind the messages
   g_adj2 = (s_adj2_i, u . v_adj2_i + u_tan . v_adj_i, v_j . v_adj2_i + v_tan_j . v_adj_i),
   phi_adj2_j += w g_adj2 + d_tan dw/dd g_adj,  v_adj2_j += g3 v_adj2_i + g3_tan v_adj_i,
   w_adj2 = phi_j g_adj2 + phi_tan_j g_adj  and for dw/dd  d_tan phi_j g_adj, one below the other. */
INLINE void messages_second(const Molecules *all, const Passes *now, const Block *block, real *restrict v_adj2,
                            int64_t F) {
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
                const real first = s_1[f], first_2 = s_2[f];
                const real second = x * v_1[f] + y * v_1[F + f] + z * v_1[2 * F + f];
                const real second_2 = x * v_2[f] + y * v_2[F + f] + z * v_2[2 * F + f] +
                                      x_tan * v_1[f] + y_tan * v_1[F + f] + z_tan * v_1[2 * F + f];
                const real third = v_j[f] * v_1[f] + v_j[F + f] * v_1[F + f] + v_j[2 * F + f] * v_1[2 * F + f];
                const real third_2 = v_j[f] * v_2[f] + v_j[F + f] * v_2[F + f] + v_j[2 * F + f] * v_2[2 * F + f] +
                                     v_tan_j[f] * v_1[f] + v_tan_j[F + f] * v_1[F + f] +
                                     v_tan_j[2 * F + f] * v_1[2 * F + f];
                const real g3 = phi_j[2 * F + f] * w[2 * F + f];
                const real g3_tan = phi_tan_j[2 * F + f] * w[2 * F + f] + d * phi_j[2 * F + f] * slope[2 * F + f];
                phi_adj2_j[f] += w[f] * first_2 + d * slope[f] * first;
                phi_adj2_j[F + f] += w[F + f] * second_2 + d * slope[F + f] * second;
                phi_adj2_j[2 * F + f] += w[2 * F + f] * third_2 + d * slope[2 * F + f] * third;
                v_adj2_j[f] += g3 * v_2[f] + g3_tan * v_1[f];
                v_adj2_j[F + f] += g3 * v_2[F + f] + g3_tan * v_1[F + f];
                v_adj2_j[2 * F + f] += g3 * v_2[2 * F + f] + g3_tan * v_1[2 * F + f];
                of_value[f] += phi_j[f] * first_2 + phi_tan_j[f] * first;
                of_value[F + f] += phi_j[F + f] * second_2 + phi_tan_j[F + f] * second;
                of_value[2 * F + f] += phi_j[2 * F + f] * third_2 + phi_tan_j[2 * F + f] * third;
                of_slope[f] += d * phi_j[f] * first;
                of_slope[F + f] += d * phi_j[F + f] * second;
                of_slope[2 * F + f] += d * phi_j[2 * F + f] * third;
            }
        }
    }
}

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
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F, *restrict a = block->at.gates + 3 * m * F;
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
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F, *restrict a = block->at.gates + 3 * m * F;
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
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F, *restrict a = block->at.gates + 3 * m * F;
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
        const real *restrict L = block->at.mixed + 6 * m * F, *restrict R = L + F, *restrict a = block->at.gates + 3 * m * F;
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
                L_adj2[at] = a[2 * F + f] * v_2[of] + a_tan[2 * F + f] * v_1[of] + dot_adj2 * R[at] + dot_adj * R_tan[at];
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
            EACH_AXIS(c) R_adj2[2 * c * F + f] += second * R[2 * c * F + f] + first * R_tan[2 * c * F + f];
            s_adj2[f] = s_out[f] + z_adj2[f];
        }
    }
}

/* Pass 1. */
static void energies(const Molecules *all, const Painn *net, Passes *now, real *energy) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F;
    const HeadWeights head = head_weights(net);
    waves(all, net, now);
    embed(all, F, head.embedding, now->block[0].at.s);
    clear(3 * M * F, now->block[0].at.v);
    for (int64_t b = 0; b < net->blocks; b++) {
        const real *const *w = block_weights(net, b);
        Block *block = now->block + b;
        const Places *at = &block->at;
        real *s = now->s, *v = block->v_moved; /* s for a moment: it goes on in z */
        layer(2 * P, net->R + 1, 3 * F, now->geometry.basis, block_transposed(net, b, FILTER_T), 0, block->filter);
        layer(M, F, F, at->s, block_transposed(net, b, MESSAGE_1_T), w[MESSAGE_BIAS_1], at->a);
        activate(M * F, at->a, at->h);
        layer(M, F, 3 * F, at->h, block_transposed(net, b, MESSAGE_2_T), w[MESSAGE_BIAS_2], at->phi);
        memcpy(s, at->s, (size_t)(M * F) * sizeof(real));
        memcpy(v, at->v, (size_t)(3 * M * F) * sizeof(real));
        BY_WIDTH(F, messages, all, &now->geometry, block, s, v);
        layer(3 * M, F, 2 * F, v, block_transposed(net, b, MIX_T), 0, at->mixed);
        BY_WIDTH(F, lengths, M, at, s);
        layer(M, 2 * F, F, at->z, block_transposed(net, b, UPDATE_1_T), w[UPDATE_BIAS_1], at->k);
        activate(M * F, at->k, at->t);
        layer(M, F, 3 * F, at->t, block_transposed(net, b, UPDATE_2_T), w[UPDATE_BIAS_2], at->gates);
        const int last = b + 1 == net->blocks;
        BY_WIDTH(F, update, M, block, last ? now->s : now->block[b + 1].at.s, last ? now->v : now->block[b + 1].at.v);
    }
    head_energy(all, F, net->H, &head, &now->head, now->s, energy);
}

/* Pass 2. */
static void adjoints(const Molecules *all, const Painn *net, Passes *now, real *forces) {
    const int64_t M = all->atoms, F = net->F;
    const HeadWeights head = head_weights(net);
    clear(all->pairs, now->d_adj);
    clear(3 * all->pairs, now->u_adj);
    head_adjoint(all, F, net->H, &head, &now->head, now->block[net->blocks - 1].s_out_adj);
    clear(3 * M * F, now->block[net->blocks - 1].v_out_adj);
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        const real *const *w = block_weights(net, b);
        Block *block = now->block + b;
        const Places *adj = &block->adj;
        BY_WIDTH(F, update_adjoint, M, block);
        layer_adjoint(M, F, 3 * F, adj->gates, w[UPDATE_2], adj->t, SET);
        activate_first(M * F, block->at.k, adj->t, adj->k);
        layer_adjoint(M, 2 * F, F, adj->k, w[UPDATE_1], adj->z, SET);
        BY_WIDTH(F, lengths_adjoint, M, block);
        memcpy(adj->v, block->v_out_adj, (size_t)(3 * M * F) * sizeof(real));
        layer_adjoint(3 * M, F, 2 * F, adj->mixed, w[MIX], adj->v, ADD);
        real *s_adj = b ? now->block[b - 1].s_out_adj : now->s_adj, *v_adj = b ? now->block[b - 1].v_out_adj : now->v_adj;
        memcpy(v_adj, adj->v, (size_t)(3 * M * F) * sizeof(real));
        clear(3 * M * F, adj->phi);
        BY_WIDTH(F, messages_adjoint, all, now, block, v_adj);
        if (!b) break; /* below are embeddings, on which no position acts */
        layer_adjoint(M, F, 3 * F, adj->phi, w[MESSAGE_2], adj->h, SET);
        activate_first(M * F, block->at.a, adj->h, adj->a);
        memcpy(s_adj, adj->s, (size_t)(M * F) * sizeof(real));
        layer_adjoint(M, F, F, adj->a, w[MESSAGE_1], s_adj, ADD);
    }
    forces_of_pairs(all, &now->geometry, now->d_adj, now->u_adj, forces);
}

/* Pass 3. */
static void tangents(const Molecules *all, const Painn *net, Passes *now, const real *grad_forces) {
    const int64_t M = all->atoms, F = net->F;
    tangents_of_pairs(all, &now->geometry, grad_forces, now->d_tan, now->u_tan);
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = now->block + b;
        const Places *tan = &block->tan;
        real *s = now->s_tan, *v = block->v_moved_tan;
        if (b) {
            layer(M, F, F, tan->s, block_transposed(net, b, MESSAGE_1_T), 0, tan->a);
            activate_first(M * F, block->at.a, tan->a, tan->h);
            layer(M, F, 3 * F, tan->h, block_transposed(net, b, MESSAGE_2_T), 0, tan->phi);
            memcpy(s, tan->s, (size_t)(M * F) * sizeof(real));
            memcpy(v, tan->v, (size_t)(3 * M * F) * sizeof(real));
        } else {
            clear(3 * M * F, tan->v), clear(3 * M * F, tan->phi);
            clear(M * F, s), clear(3 * M * F, v);
        }
        BY_WIDTH(F, messages_tangent, all, now, block, s, v);
        layer(3 * M, F, 2 * F, v, block_transposed(net, b, MIX_T), 0, tan->mixed);
        BY_WIDTH(F, lengths_tangent, M, block, s);
        layer(M, 2 * F, F, tan->z, block_transposed(net, b, UPDATE_1_T), 0, tan->k);
        activate_first(M * F, block->at.k, tan->k, tan->t);
        layer(M, F, 3 * F, tan->t, block_transposed(net, b, UPDATE_2_T), 0, tan->gates);
        const int last = b + 1 == net->blocks;
        BY_WIDTH(F, update_tangent, M, block, last ? now->s_tan : now->block[b + 1].tan.s,
                 last ? now->v_tan : now->block[b + 1].tan.v);
    }
}

/* Gradients of a layer with bias: the adjoint y_adj of pass 2 with the input's tangent, y_adj2 with the input. */
static void layer_gradients(int64_t rows, int64_t in, int64_t out, const real *x, const real *x_tan, const real *y_adj,
                            const real *y_adj2, real *gradient, real *of_bias) {
    weight_gradient(rows, in, out, y_adj2, x, gradient);
    if (x_tan) weight_gradient(rows, in, out, y_adj, x_tan, gradient);
    if (of_bias) bias_gradient(rows, out, y_adj2, of_bias);
}

/* Pass 4. */
static void second_adjoints(const Molecules *all, const Painn *net, Passes *now, const real *grad_energy) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F, width = net->R + 1;
    const HeadWeights head = head_weights(net);
    real *const *grads = net->gradients;
    const Places *adj2 = &now->adj2;
    HeadGradients head_grad = {grads[EMBEDDING], grads[HEAD_1], grads[HEAD_BIAS_1], grads[HEAD_2], grads[HEAD_BIAS_2]};
    head_second(all, F, net->H, &head, &now->head, now->s, now->s_tan, grad_energy, now->s_adj, &head_grad);
    clear(3 * M * F, now->v_adj);
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        const real *const *w = block_weights(net, b);
        real *const *grad = grads + BLOCKS + b * PER_BLOCK;
        Block *block = now->block + b;
        const Places *at = &block->at, *adj = &block->adj, *tan = &block->tan;
        BY_WIDTH(F, update_second, M, now, block);
        layer_gradients(M, F, 3 * F, at->t, tan->t, adj->gates, adj2->gates, grad[UPDATE_2], grad[UPDATE_BIAS_2]);
        layer_adjoint(M, F, 3 * F, adj2->gates, w[UPDATE_2], adj2->t, SET);
        activate_second(M * F, at->k, tan->k, adj->t, adj2->t, adj2->k);
        layer_gradients(M, 2 * F, F, at->z, tan->z, adj->k, adj2->k, grad[UPDATE_1], grad[UPDATE_BIAS_1]);
        layer_adjoint(M, 2 * F, F, adj2->k, w[UPDATE_1], adj2->z, SET);
        BY_WIDTH(F, lengths_second, M, now, block);
        layer_gradients(3 * M, F, 2 * F, block->v_moved, block->v_moved_tan, adj->mixed, adj2->mixed, grad[MIX], 0);
        memcpy(now->v_moved_adj2, now->v_adj, (size_t)(3 * M * F) * sizeof(real));
        layer_adjoint(3 * M, F, 2 * F, adj2->mixed, w[MIX], now->v_moved_adj2, ADD);
        memcpy(now->v_adj, now->v_moved_adj2, (size_t)(3 * M * F) * sizeof(real));
        clear(3 * M * F, adj2->phi);
        BY_WIDTH(F, messages_second, all, now, block, now->v_adj);
        /* Waves are too few to fill tiles as columns: the gradient is made transposed. */
        clear(3 * F * width, now->transposed_gradient);
        weight_gradient(2 * P, 3 * F, width, now->geometry.basis, now->pairs, now->transposed_gradient);
        for (int64_t f = 0; f < 3 * F; f++) {
            for (int64_t r = 0; r < net->R; r++) grad[FILTER][f * net->R + r] += now->transposed_gradient[r * 3 * F + f];
            grad[FILTER_BIAS][f] += now->transposed_gradient[net->R * 3 * F + f];
        }
        /* The first block's scalars are embeddings, which have no tangent. */
        layer_gradients(M, F, 3 * F, at->h, b ? tan->h : 0, adj->phi, adj2->phi, grad[MESSAGE_2], grad[MESSAGE_BIAS_2]);
        layer_adjoint(M, F, 3 * F, adj2->phi, w[MESSAGE_2], adj2->h, SET);
        if (b)
            activate_second(M * F, at->a, tan->a, adj->h, adj2->h, adj2->a);
        else
            activate_first(M * F, at->a, adj2->h, adj2->a);
        layer_gradients(M, F, F, at->s, b ? tan->s : 0, adj->a, adj2->a, grad[MESSAGE_1], grad[MESSAGE_BIAS_1]);
        memcpy(now->s_adj, adj2->s, (size_t)(M * F) * sizeof(real));
        layer_adjoint(M, F, F, adj2->a, w[MESSAGE_1], now->s_adj, ADD);
    }
    embedding_gradient(all, F, now->s_adj, head_grad.embedding);
}

/* What Python calls. sizes: M, P, both, training, F, R, H, blocks; numbers: cutoff, factor. */

static Painn network(const int64_t *sizes, const double *numbers, const real *const *weights, const real *transposed) {
    return (Painn){sizes[4], sizes[5], sizes[6], sizes[7], numbers[0], numbers[1], weights, 0, transposed};
}

/* Numbers of a workspace. */
int64_t NAME(painn_workspace)(const int64_t *sizes, const double *numbers) {
    const Molecules all = molecules(sizes, 0);
    const Painn net = network(sizes, numbers, 0, 0);
    Workspace space = {0, 0};
    Passes now;
    lay_out(&space, &all, &net, sizes[3] != 0, &now);
    return space.used;
}

/* Transposed weights, which change with the weights alone; returns how many numbers, also for transposed = 0. */
int64_t NAME(painn_prepare)(const int64_t *sizes, const double *numbers, const real *const *weights, real *transposed) {
    const Painn net = network(sizes, numbers, weights, transposed);
    const int64_t F = net.F, R = net.R;
    for (int64_t b = 0; transposed && b < net.blocks; b++) {
        const real *const *w = block_weights(&net, b);
        real *filter = (real *)block_transposed(&net, b, FILTER_T);
        transpose(F, F, w[MESSAGE_1], (real *)block_transposed(&net, b, MESSAGE_1_T));
        transpose(3 * F, F, w[MESSAGE_2], (real *)block_transposed(&net, b, MESSAGE_2_T));
        transpose(3 * F, R, w[FILTER], filter);
        memcpy(filter + 3 * F * R, w[FILTER_BIAS], (size_t)(3 * F) * sizeof(real)); /* acts on the envelope */
        transpose(F, 2 * F, w[UPDATE_1], (real *)block_transposed(&net, b, UPDATE_1_T));
        transpose(3 * F, F, w[UPDATE_2], (real *)block_transposed(&net, b, UPDATE_2_T));
        transpose(2 * F, F, w[MIX], (real *)block_transposed(&net, b, MIX_T));
    }
    if (transposed) transpose(net.H, F, weights[HEAD_1], transposed);
    return block_transposed(&net, net.blocks, 0) - transposed;
}

/* Passes 1 and 2; energies [B * G] and forces [B * N, 3] are added to. */
void NAME(painn_forward)(const int64_t *sizes, const double *numbers, const int32_t *index, const real *positions,
                         const real *const *weights, const real *transposed, real *workspace, real *energy,
                         real *forces) {
    const Molecules all = molecules(sizes, index);
    const Painn net = network(sizes, numbers, weights, transposed);
    Workspace space = {workspace, 0};
    Passes now;
    lay_out(&space, &all, &net, sizes[3] != 0, &now);
    measure(&all, positions, (real)net.cutoff, &now.geometry, now.distance);
    energies(&all, &net, &now, energy);
    adjoints(&all, &net, &now, forces);
}

/* Passes 3 and 4, in the workspace of the first two; gradients are added to. */
void NAME(painn_backward)(const int64_t *sizes, const double *numbers, const int32_t *index,
                          const real *const *weights, const real *transposed, real *workspace,
                          const real *grad_energy, const real *grad_forces, real *const *gradients) {
    const Molecules all = molecules(sizes, index);
    Painn net = network(sizes, numbers, weights, transposed);
    net.gradients = gradients;
    Workspace space = {workspace, 0};
    Passes now;
    lay_out(&space, &all, &net, 1, &now);
    tangents(&all, &net, &now, grad_forces);
    second_adjoints(&all, &net, &now, grad_energy);
}
