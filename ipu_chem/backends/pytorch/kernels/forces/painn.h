/* PaiNN's sizes, weights and workspace, for painn.c and the loops over pairs and atoms beside it. */

#ifndef PAINN_H
#define PAINN_H

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
    real *s_adj, *v_adj;         /* pass 4: second adjoints of what goes from block to block */
    real *distance, *d_adj, *d_tan, *u_adj, *u_tan;
    Places adj2;                 /* scratch of pass 4 */
    real *v_moved_adj2;          /* scratch: [M, 3, F] */
    real *kinds, *kinds_phi;     /* [U, F]: embeddings; [U, 3 F]: first block's phi, in pass 4 its second adjoint */
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
    made->kinds = take(space, all->kinds * F), made->kinds_phi = take(space, 3 * all->kinds * F);
    made->distance = take(space, P), made->d_adj = take(space, P), made->u_adj = take(space, 3 * P);
    if (training) {
        made->d_tan = take(space, P), made->u_tan = take(space, 3 * P);
        made->s_tan = take(space, M * F), made->v_tan = take(space, 3 * M * F);
        made->s_adj = take(space, M * F), made->v_adj = take(space, 3 * M * F);
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
    const int64_t F = net->F, R = net->R;
    const int64_t sizes[TRANSPOSED] = {F * F, 3 * F * F, 3 * F * (R + 1), 2 * F * F, 3 * F * F, 2 * F * F};
    int64_t before = 0, whole = 0;
    for (int i = 0; i < TRANSPOSED; i++) before += i < which ? sizes[i] : 0, whole += sizes[i];
    return net->transposed + F * net->H + b * whole + before;
}

#endif
