/* SpookyNet's blocks: their weights, and what the passes keep of them. */

#ifndef BLOCKS_H
#define BLOCKS_H

#include "attention.h"
#include "gated.h"
#include "orbitals.h"

/* Weights of a block: chains in this order, PER_GATE of each layer, then three maps. */
enum { BEFORE, OWN, SENT_S, SENT_P, SENT_D, MIXED, QUERY, KEY, VALUE, AFTER, OUTPUT, CHAINS };
enum { LAYERS = 9 * 3 + 2 * 2 }; /* nine MLPs and two residual blocks */
enum { FILTERS = LAYERS * PER_GATE, MIX_P, MIX_D, PER_BLOCK };
enum { MOST_BLOCKS = 32 };

static int is_mlp(int chain) { return chain != BEFORE && chain != AFTER; }

/* Number of a chain's first layer among those of its block. */
static int first_layer(int chain) {
    int layer = 0;
    for (int k = 0; k < chain; k++) layer += is_mlp(k) ? 3 : 2;
    return layer;
}

typedef struct {
    int64_t F, R, blocks;        /* features, radial functions as rows are long: a multiple of LANES */
    int64_t functions;           /* radial functions */
    const real *const *weights;  /* PER_BLOCK of each block */
    real *const *gradients;      /* the same, in pass 4 */
    real *prepared;              /* see spooky_prepare */
} Spooky;

/* Weights in other forms, of one block: layers in panels, filters transposed [R, 3 F] and padded [3 F, R], mixing
   maps in panels. */
enum { FILTERS_T, FILTERS_PADDED, MIX_P_T, MIX_D_T };

static int64_t prepared_size(const Spooky *net) {
    return LAYERS * net->F * net->F + 2 * net->R * 3 * net->F + 2 * 2 * net->F * net->F;
}

static real *prepared_of(const Spooky *net, int64_t block, int part) {
    const int64_t square = net->F * net->F, filters = net->R * 3 * net->F;
    real *start = net->prepared + block * prepared_size(net) + LAYERS * square;
    switch (part) {
    case FILTERS_T: return start;
    case FILTERS_PADDED: return start + filters;
    case MIX_P_T: return start + 2 * filters;
    default: return start + 2 * filters + 2 * square;
    }
}

static const real *weight_of(const Spooky *net, int64_t block, int number) {
    return net->weights[block * PER_BLOCK + number];
}

static Gates gates_of(const Spooky *net, int64_t block, int chain) {
    const int layer = first_layer(chain);
    const int64_t first = block * PER_BLOCK + layer * PER_GATE;
    return (Gates){net->weights + first,
                   net->prepared + block * prepared_size(net) + layer * net->F * net->F,
                   net->gradients ? net->gradients + first : 0};
}

/* Real atoms and pairs of a batch; atoms of a molecule follow each other. */
typedef struct {
    Pairs pairs;
    int64_t atoms, scores;      /* M, and the sum of n^2 over molecules of n atoms */
    const int32_t *slot;        /* [M], of B * N */
    const int32_t *molecule;    /* [M], rising */
} Batch;

#define EACH_MOLECULE(all, first, place, n)                                                                            \
    for (int64_t first = 0, place = 0, n = 0; first < (all)->atoms && (n = atoms_of(all, first)) > 0;                  \
         first += n, place += n * n)

static int64_t atoms_of(const Batch *all, int64_t first) {
    int64_t end = first;
    while (end < all->atoms && all->molecule[end] == all->molecule[first]) end++;
    return end - first;
}

/* What the passes keep of a block. x is the block's input and u what comes together behind both interactions. */
typedef struct {
    Chain chain[CHAINS];
    Orbitals at, tan, adj;      /* S is t, the input of MIXED */
    real *mixed_p, *mixed_d, *mixed_p_tan, *mixed_d_tan; /* [M, 3, 2 F], [M, 5, 2 F] */
    real *u, *u_tan, *u_adj;
    real *w, *w_tan, *s_adj;    /* of attention */
} Block;

typedef struct {
    Rows rows;
    real *radial, *radial_tan, *radial_adj;             /* [P, R] */
    real *angular, *angular_tan, *angular_adj;          /* [P, 8] */
    real *x, *x_adj, *features, *features_adj;          /* [M, F]: the input, the output */
    real *wide, *wide_adj;                              /* scratch: [M, 5, 2 F] */
    real *x_adj2, *x1_adj2, *u_adj2, *features_adj2;    /* of pass 4: [M, F] */
    real *radial_adj2, *q_adj2, *k_adj2, *v_adj2, *s_adj2, *scratch, *filter_gradient;
    Orbitals adj2;
    Block block[MOST_BLOCKS];
} Passes;

static Orbitals take_orbitals(Workspace *space, const Batch *all, int64_t F, int sends) {
    const int64_t size = all->atoms * F;
    Orbitals made = {0};
    made.filter = take(space, all->pairs.pairs * 3 * F);
    made.S = take(space, size), made.P = take(space, P_AXES * size), made.D = take(space, D_AXES * size);
    if (sends) made.s = take(space, size), made.p = take(space, size), made.d = take(space, size);
    return made;
}

static void take_block(Workspace *space, const Batch *all, int64_t F, int training, Block *made) {
    const int64_t size = all->atoms * F;
    for (int k = 0; k < CHAINS; k++) made->chain[k] = take_chain(space, size, is_mlp(k), training);
    made->at = take_orbitals(space, all, F, 0), made->adj = take_orbitals(space, all, F, 0);
    made->mixed_p = take(space, 2 * P_AXES * size), made->mixed_d = take(space, 2 * D_AXES * size);
    made->u = take(space, size), made->u_adj = take(space, size);
    made->w = take(space, all->scores), made->s_adj = take(space, all->scores);
    if (training) {
        made->tan = take_orbitals(space, all, F, 0);
        made->mixed_p_tan = take(space, 2 * P_AXES * size), made->mixed_d_tan = take(space, 2 * D_AXES * size);
        made->u_tan = take(space, size), made->w_tan = take(space, all->scores);
    }
    Orbitals *each[] = {&made->at, &made->tan, &made->adj};
    for (int k = 0; k < 3; k++) {
        const Chain *s = made->chain + SENT_S, *p = made->chain + SENT_P, *d = made->chain + SENT_D;
        each[k]->s = k == 0 ? s->y : k == 1 ? s->y_tan : s->y_adj;
        each[k]->p = k == 0 ? p->y : k == 1 ? p->y_tan : p->y_adj;
        each[k]->d = k == 0 ? d->y : k == 1 ? d->y_tan : d->y_adj;
    }
}

static void lay_out(Workspace *space, const Batch *all, const Spooky *net, int training, Passes *made) {
    const int64_t M = all->atoms, P = all->pairs.pairs, F = net->F, size = M * F;
    memset(made, 0, sizeof *made);
    made->rows.M = M, made->rows.F = F, made->rows.h = take(space, size);
    made->radial = take(space, P * net->R), made->radial_adj = take(space, P * net->R);
    made->angular = take(space, P * AXES), made->angular_adj = take(space, P * AXES);
    made->x = take(space, size), made->x_adj = take(space, size);
    made->features = take(space, size), made->features_adj = take(space, size);
    made->wide = take(space, 2 * D_AXES * size);
    if (training) {
        Rows *rows = &made->rows;
        rows->h_tan = take(space, size), rows->h_adj2 = take(space, size);
        rows->b_adj2 = take(space, size), rows->d_adj2 = take(space, size);
        made->wide_adj = take(space, 2 * D_AXES * size);
        made->radial_tan = take(space, P * net->R), made->angular_tan = take(space, P * AXES);
        made->radial_adj2 = take(space, P * net->R);
        made->x_adj2 = take(space, size), made->x1_adj2 = take(space, size), made->u_adj2 = take(space, size);
        made->features_adj2 = take(space, size);
        made->q_adj2 = take(space, size), made->k_adj2 = take(space, size), made->v_adj2 = take(space, size);
        made->s_adj2 = take(space, all->scores), made->scratch = take(space, all->scores);
        made->filter_gradient = take(space, 3 * F * net->functions);
        made->adj2 = take_orbitals(space, all, F, 1);
        made->adj2.angular = take(space, P * AXES);
    }
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = made->block + b;
        take_block(space, all, F, training, block);
        block->at.angular = made->angular, block->tan.angular = made->angular_tan;
        block->adj.angular = made->angular_adj;
    }
}

#endif
