/* PaiNN's scalars and vectors of atoms, and the gradients of the weights by anything that is made of them: for
   training on energies and other properties, where nobody asks for a derivative by positions.

   Two passes: features, which is pass 1 of painn.c without the head, and adjoints (_adj) of a loss, which here go down
   to the weights; formulas are those of painn.c. The caller sends molecules in groups that stay in the cache. Shapes:
   M atoms and P pairs of a group, F features, R waves. */

#define ACTIVATION silu
#include "painn_messages.h"
#include "painn_update.h"
#include "painn_waves.h"

typedef struct {
    Geometry geometry;
    real *distance;
    real *s, *v;               /* behind the last block, [M, F], [M, 3, F] */
    Block block[MOST_BLOCKS];  /* `at` of each; `adj` and the adjoints of its output are the same memory in all */
    real *s_adj, *v_adj;       /* of a block's output, then of its input */
    real *pairs;               /* scratch: [P, 3 F] */
    real *transposed_gradient; /* scratch: [R + 1, 3 F] */
} Features;

static void lay_out_features(Workspace *space, const Molecules *all, const Painn *net, int training, Features *made) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F;
    made->geometry = take_geometry(space, P, net->R + 1);
    made->distance = take(space, P);
    made->s = take(space, M * F), made->v = take(space, 3 * M * F);
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = made->block + b;
        if (b && !training) { /* nobody comes back to it */
            *block = *made->block;
            continue;
        }
        block->filter = take(space, 3 * P * F);
        block->v_moved = take(space, 3 * M * F);
        block->at = take_places(space, M, F);
    }
}

/* Scratch of the adjoints, in a workspace of its own, which all groups use in turn. */
static void lay_out_adjoints(Workspace *space, const Molecules *all, const Painn *net, Features *made) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F;
    const Places adj = take_places(space, M, F);
    made->s_adj = take(space, M * F), made->v_adj = take(space, 3 * M * F);
    made->pairs = take(space, 3 * P * F);
    made->transposed_gradient = take(space, 3 * F * (net->R + 1));
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = made->block + b;
        block->adj = adj, block->s_out_adj = made->s_adj, block->v_out_adj = made->v_adj;
    }
}

/* Pass 1. */
static void features(const Molecules *all, const Painn *net, Features *now) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F;
    waves(all, net, now->distance, &now->geometry);
    embed(all, F, net->weights[EMBEDDING], now->block[0].at.s);
    clear(3 * M * F, now->block[0].at.v);
    for (int64_t b = 0; b < net->blocks; b++) {
        const real *const *w = block_weights(net, b);
        Block *block = now->block + b;
        const Places *at = &block->at;
        const int last = b + 1 == net->blocks;
        real *s = now->s, *v = block->v_moved; /* s for a moment: it goes on in z */
        layer(P, net->R + 1, 3 * F, now->geometry.basis, block_transposed(net, b, FILTER_T), 0, block->filter);
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
        BY_WIDTH(F, update, M, block, last ? now->s : now->block[b + 1].at.s, last ? now->v : now->block[b + 1].at.v);
    }
}

/* g_adj = (s_adj_i, u . v_adj_i, v_j . v_adj_i),  phi_adj_j += w g_adj,  v_adj_j += g3 v_adj_i,  w_adj = phi_j g_adj. */
INLINE void messages_gradient(const Molecules *all, const Features *now, const Block *block, int64_t F) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + 3 * p * F, *unit = now->geometry.unit + 3 * p;
        real *restrict w_adj = now->pairs + 3 * p * F;
        clear(3 * F, w_adj);
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            const real *restrict phi_j = block->at.phi + 3 * j * F, *restrict v_j = block->at.v + 3 * j * F;
            const real *restrict s_i = block->adj.s + i * F, *restrict v_i = block->adj.v + 3 * i * F;
            real *restrict phi_adj_j = block->adj.phi + 3 * j * F, *restrict v_adj_j = now->v_adj + 3 * j * F;
            EACH(f, F) {
                const real first = s_i[f], second = x * v_i[f] + y * v_i[F + f] + z * v_i[2 * F + f];
                const real third = v_j[f] * v_i[f] + v_j[F + f] * v_i[F + f] + v_j[2 * F + f] * v_i[2 * F + f];
                const real g3 = phi_j[2 * F + f] * w[2 * F + f];
                phi_adj_j[f] += w[f] * first;
                phi_adj_j[F + f] += w[F + f] * second;
                phi_adj_j[2 * F + f] += w[2 * F + f] * third;
                v_adj_j[f] += g3 * v_i[f];
                v_adj_j[F + f] += g3 * v_i[F + f];
                v_adj_j[2 * F + f] += g3 * v_i[2 * F + f];
                w_adj[f] += phi_j[f] * first;
                w_adj[F + f] += phi_j[F + f] * second;
                w_adj[2 * F + f] += phi_j[2 * F + f] * third;
            }
        }
    }
}

/* Adds gradients [out, in] and [out] of a layer from its input x and the adjoint y_adj of its output. */
static void layer_gradient(int64_t rows, int64_t in, int64_t out, const real *x, const real *y_adj, real *gradient,
                           real *of_bias) {
    weight_gradient(rows, in, out, y_adj, x, gradient);
    if (of_bias) bias_gradient(rows, out, y_adj, of_bias);
}

/* From the adjoints of scalars and vectors in s_adj and v_adj, which are overwritten. */
static void adjoints_of_weights(const Molecules *all, const Painn *net, Features *now) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F, width = net->R + 1;
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        const real *const *w = block_weights(net, b);
        real *const *grad = net->gradients + BLOCKS + b * PER_BLOCK;
        Block *block = now->block + b;
        const Places *at = &block->at, *adj = &block->adj;
        BY_WIDTH(F, update_adjoint, M, block);
        layer_gradient(M, F, 3 * F, at->t, adj->gates, grad[UPDATE_2], grad[UPDATE_BIAS_2]);
        layer_adjoint(M, F, 3 * F, adj->gates, w[UPDATE_2], adj->t, SET);
        activate_first(M * F, at->k, adj->t, adj->k);
        layer_gradient(M, 2 * F, F, at->z, adj->k, grad[UPDATE_1], grad[UPDATE_BIAS_1]);
        layer_adjoint(M, 2 * F, F, adj->k, w[UPDATE_1], adj->z, SET);
        BY_WIDTH(F, lengths_adjoint, M, block);
        layer_gradient(3 * M, F, 2 * F, block->v_moved, adj->mixed, grad[MIX], 0);
        memcpy(adj->v, now->v_adj, (size_t)(3 * M * F) * sizeof(real));
        layer_adjoint(3 * M, F, 2 * F, adj->mixed, w[MIX], adj->v, ADD);
        memcpy(now->v_adj, adj->v, (size_t)(3 * M * F) * sizeof(real));
        clear(3 * M * F, adj->phi);
        BY_WIDTH(F, messages_gradient, all, now, block);
        /* Waves are too few to fill tiles as columns: the gradient is made transposed. */
        clear(3 * F * width, now->transposed_gradient);
        weight_gradient(P, 3 * F, width, now->geometry.basis, now->pairs, now->transposed_gradient);
        for (int64_t f = 0; f < 3 * F; f++) {
            for (int64_t r = 0; r < net->R; r++)
                grad[FILTER][f * net->R + r] += now->transposed_gradient[r * 3 * F + f];
            grad[FILTER_BIAS][f] += now->transposed_gradient[net->R * 3 * F + f];
        }
        layer_gradient(M, F, 3 * F, at->h, adj->phi, grad[MESSAGE_2], grad[MESSAGE_BIAS_2]);
        layer_adjoint(M, F, 3 * F, adj->phi, w[MESSAGE_2], adj->h, SET);
        activate_first(M * F, at->a, adj->h, adj->a);
        layer_gradient(M, F, F, at->s, adj->a, grad[MESSAGE_1], grad[MESSAGE_BIAS_1]);
        memcpy(now->s_adj, adj->s, (size_t)(M * F) * sizeof(real));
        layer_adjoint(M, F, F, adj->a, w[MESSAGE_1], now->s_adj, ADD);
    }
    embedding_gradient(all, F, now->s_adj, net->gradients[EMBEDDING]);
}

/* What Python calls. sizes: M, P, both, training, F, R, H = 0, blocks; numbers: cutoff, factor; weights as in
   painn_forward, transposed by painn_prepare. */

static Painn network_of_features(const int64_t *sizes, const double *numbers, const real *const *weights,
                                 const real *transposed) {
    return (Painn){sizes[4], sizes[5], sizes[6], sizes[7], numbers[0], numbers[1], weights, 0, transposed};
}

/* Numbers of a workspace and of the scratch of its adjoints, which one behind the other. */
int64_t NAME(painn_features_workspace)(const int64_t *sizes, const double *numbers, int64_t of_adjoints) {
    const Molecules all = molecules(sizes, 0);
    const Painn net = network_of_features(sizes, numbers, 0, 0);
    Workspace space = {0, 0};
    Features now;
    if (of_adjoints)
        lay_out_adjoints(&space, &all, &net, &now);
    else
        lay_out_features(&space, &all, &net, sizes[3] != 0, &now);
    return space.used;
}

/* Scalars [B * N, F] and vectors [B * N, 3, F] of real atoms are set. */
void NAME(painn_features)(const int64_t *sizes, const double *numbers, const int32_t *index, const real *positions,
                          const real *const *weights, const real *transposed, real *workspace, real *scalars,
                          real *vectors) {
    const Molecules all = molecules(sizes, index);
    const Painn net = network_of_features(sizes, numbers, weights, transposed);
    const int64_t F = net.F;
    Workspace space = {workspace, 0};
    Features now;
    lay_out_features(&space, &all, &net, sizes[3] != 0, &now);
    measure(&all, positions, (real)net.cutoff, &now.geometry, now.distance);
    features(&all, &net, &now);
    for (int64_t m = 0; m < all.atoms; m++) {
        memcpy(scalars + all.slot[m] * F, now.s + m * F, (size_t)F * sizeof(real));
        memcpy(vectors + 3 * all.slot[m] * F, now.v + 3 * m * F, (size_t)(3 * F) * sizeof(real));
    }
}

/* From the gradients by scalars and by vectors, or 0, in the workspace of the features; gradients are added to. */
void NAME(painn_features_backward)(const int64_t *sizes, const double *numbers, const int32_t *index,
                                   const real *const *weights, const real *transposed, real *workspace, real *scratch,
                                   const real *grad_scalars, const real *grad_vectors, real *const *gradients) {
    const Molecules all = molecules(sizes, index);
    Painn net = network_of_features(sizes, numbers, weights, transposed);
    const int64_t F = net.F;
    net.gradients = gradients;
    Workspace space = {workspace, 0}, second = {scratch, 0};
    Features now;
    lay_out_features(&space, &all, &net, 1, &now);
    lay_out_adjoints(&second, &all, &net, &now);
    for (int64_t m = 0; m < all.atoms; m++) {
        memcpy(now.s_adj + m * F, grad_scalars + all.slot[m] * F, (size_t)F * sizeof(real));
        if (grad_vectors)
            memcpy(now.v_adj + 3 * m * F, grad_vectors + 3 * all.slot[m] * F, (size_t)(3 * F) * sizeof(real));
    }
    if (!grad_vectors) clear(3 * all.atoms * F, now.v_adj);
    adjoints_of_weights(&all, &net, &now);
}
