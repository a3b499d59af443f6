/* The interactions of SpookyNet, from features of elements and functions of pairs to the features that energies and
   charges are read from (ipu_chem/models/spookynet.py), in four passes:

   1. values, of all blocks one after the other;
   2. adjoints (_adj) of the features, back to functions of pairs;
   3. tangents (_tan) of pass 1, along tangents of the functions of pairs;
   4. second adjoints (_adj2): pass 2 once more, of other adjoints, and the tangent of pass 2 along pass 3, with the
      gradients of the weights. For a product y = x W^T they are y_adj2^T x + y_adj^T x_tan.

   A block is
       x1 = before(x), t = own(x1) + S + sum of L R over P and D mixed, u = x1 + mixed(t) + attention(x1),
       next x = after(u), features += output(next x),
   with S, P, D of orbitals.h and residual networks of gated.h. Features of elements do not move with atoms: in the
   first block all before the messages has no tangent and no adjoint of pass 2. Shapes: M atoms, P pairs, F features. */

#include "blocks.h"

static void copy(int64_t count, const real *from, real *to) { memcpy(to, from, (size_t)count * sizeof(real)); }

static Attended attended(const Block *block, int which) {
    const Chain *q = block->chain + QUERY, *k = block->chain + KEY, *v = block->chain + VALUE;
    if (which == 0) return (Attended){q->y, k->y, v->y, block->w};
    if (which == 1) return (Attended){q->y_tan, k->y_tan, v->y_tan, block->w_tan};
    return (Attended){q->y_adj, k->y_adj, v->y_adj, block->s_adj};
}

/* Chains that begin at x1. */
static const int FROM_X1[] = {OWN, SENT_S, SENT_P, SENT_D, QUERY, KEY, VALUE};
enum { FROM_X1_COUNT = 7 };

/* Filters of all pairs, [P, 3 F], or their tangents, from functions of the distance. */
static void filter(const Batch *all, const Spooky *net, int64_t block, const real *radial, real *filters) {
    const int64_t width = 3 * net->F;
    const Matrix A = {radial, net->R, 1, 0}, B = {prepared_of(net, block, FILTERS_T), width, 1, 0};
    product(1, all->pairs.pairs, width, net->functions, A, B, filters, width, 0, SET);
}

/* Functions of the distance are too few to fill tiles as columns: gradients of filters are made transposed. */
static void filter_gradient(const Batch *all, const Spooky *net, const real *radial, const real *adjoint,
                            real *transposed) {
    const int64_t width = 3 * net->F;
    const Matrix A = {radial, 1, net->R, 0}, B = {adjoint, width, 1, 0};
    product(1, net->functions, width, all->pairs.pairs, A, B, transposed, width, 0, ADD);
}

/* Pass 1. */
static void values(const Batch *all, const Spooky *net, Passes *now) {
    const int64_t M = all->atoms, F = net->F, size = M * F;
    const Rows *rows = &now->rows;
    clear(size, now->features);
    const real *x = now->x;
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = now->block + b;
        const Chain *chains = block->chain;
        const Orbitals *at = &block->at;
        Gates gates = gates_of(net, b, BEFORE);
        chain(rows, &gates, chains + BEFORE, x);
        const real *x1 = chains[BEFORE].d;
        for (int k = 0; k < FROM_X1_COUNT; k++) {
            gates = gates_of(net, b, FROM_X1[k]);
            chain(rows, &gates, chains + FROM_X1[k], x1);
        }
        filter(all, net, b, now->radial, at->filter);
        copy(size, chains[OWN].y, at->S);
        clear(P_AXES * size, at->P), clear(D_AXES * size, at->D);
        BY_WIDTH(F, orbitals, &all->pairs, at);
        layer(P_AXES * M, F, 2 * F, at->P, prepared_of(net, b, MIX_P_T), 0, block->mixed_p);
        layer(D_AXES * M, F, 2 * F, at->D, prepared_of(net, b, MIX_D_T), 0, block->mixed_d);
        meet(M, P_AXES, block->mixed_p, at->S, F);
        meet(M, D_AXES, block->mixed_d, at->S, F);
        gates = gates_of(net, b, MIXED);
        chain(rows, &gates, chains + MIXED, at->S);
        copy(size, x1, block->u);
        add_to(size, chains[MIXED].y, block->u);
        const Attended seen = attended(block, 0);
        EACH_MOLECULE(all, first, place, n) {
            const Attended one = part(&seen, first, place, F);
            attention(n, F, &one, block->u + first * F);
        }
        gates = gates_of(net, b, AFTER);
        chain(rows, &gates, chains + AFTER, block->u);
        x = chains[AFTER].d;
        gates = gates_of(net, b, OUTPUT);
        chain(rows, &gates, chains + OUTPUT, x);
        add_to(size, chains[OUTPUT].y, now->features);
    }
}

/* Pass 2. */
static void adjoints(const Batch *all, const Spooky *net, Passes *now) {
    const int64_t M = all->atoms, P = all->pairs.pairs, F = net->F, size = M * F;
    const Rows *rows = &now->rows;
    clear(P * net->R, now->radial_adj), clear(P * AXES, now->angular_adj);
    clear(size, now->block[net->blocks - 1].chain[AFTER].d_adj);
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        Block *block = now->block + b;
        Chain *chains = block->chain;
        Orbitals *adj = &block->adj;
        Gates gates = gates_of(net, b, OUTPUT);
        chain_adjoint(rows, &gates, chains + OUTPUT, chains[AFTER].d, now->features_adj, chains[AFTER].d_adj, ADD);
        gates = gates_of(net, b, AFTER);
        chain_adjoint(rows, &gates, chains + AFTER, block->u, 0, block->u_adj, SET);
        gates = gates_of(net, b, MIXED);
        chain_adjoint(rows, &gates, chains + MIXED, block->at.S, block->u_adj, adj->S, SET);
        meet_adjoint(M, P_AXES, block->mixed_p, adj->S, now->wide, 0, F);
        layer_adjoint(P_AXES * M, F, 2 * F, now->wide, weight_of(net, b, MIX_P), adj->P, SET);
        meet_adjoint(M, D_AXES, block->mixed_d, adj->S, now->wide, 0, F);
        layer_adjoint(D_AXES * M, F, 2 * F, now->wide, weight_of(net, b, MIX_D), adj->D, SET);
        clear(P * 3 * F, adj->filter), clear(size, adj->s), clear(size, adj->p), clear(size, adj->d);
        BY_WIDTH(F, orbitals_adjoint, &all->pairs, &block->at, adj);
        layer_adjoint(P, net->R, 3 * F, adj->filter, prepared_of(net, b, FILTERS_PADDED), now->radial_adj, ADD);
        if (!b) break; /* below are features of elements, on which no position acts */
        const Attended seen = attended(block, 0), back = attended(block, 2);
        clear(size, back.q), clear(size, back.k), clear(size, back.v);
        EACH_MOLECULE(all, first, place, n) {
            const Attended one = part(&seen, first, place, F), its = part(&back, first, place, F);
            attention_adjoint(n, F, &one, block->u_adj + first * F, &its);
        }
        real *x1_adj = chains[BEFORE].d_adj;
        copy(size, block->u_adj, x1_adj);
        for (int k = 0; k < FROM_X1_COUNT; k++) {
            const int number = FROM_X1[k];
            gates = gates_of(net, b, number);
            const real *y_adj = number == OWN ? adj->S : chains[number].y_adj;
            chain_adjoint(rows, &gates, chains + number, chains[BEFORE].d, y_adj, x1_adj, ADD);
        }
        gates = gates_of(net, b, BEFORE);
        const Chain *below = now->block[b - 1].chain + AFTER;
        chain_adjoint(rows, &gates, chains + BEFORE, below->d, 0, below->d_adj, SET);
    }
}

/* Pass 3; the tangent of the features goes where their values were. */
static void tangents(const Batch *all, const Spooky *net, Passes *now) {
    const int64_t M = all->atoms, F = net->F, size = M * F;
    const Rows *rows = &now->rows;
    clear(size, now->features);
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = now->block + b;
        Chain *chains = block->chain;
        Orbitals *tan = &block->tan;
        const Chain *before = chains + BEFORE;
        Gates gates = gates_of(net, b, BEFORE);
        if (b) {
            const Chain *below = now->block[b - 1].chain + AFTER;
            chain_tangent(rows, &gates, before, below->d, below->d_tan);
            for (int k = 0; k < FROM_X1_COUNT; k++) {
                gates = gates_of(net, b, FROM_X1[k]);
                chain_tangent(rows, &gates, chains + FROM_X1[k], before->d, before->d_tan);
            }
            copy(size, chains[OWN].y_tan, tan->S);
        } else {
            clear(size, tan->s), clear(size, tan->p), clear(size, tan->d), clear(size, tan->S);
        }
        filter(all, net, b, now->radial_tan, tan->filter);
        clear(P_AXES * size, tan->P), clear(D_AXES * size, tan->D);
        BY_WIDTH(F, orbitals_tangent, &all->pairs, &block->at, tan);
        layer(P_AXES * M, F, 2 * F, tan->P, prepared_of(net, b, MIX_P_T), 0, block->mixed_p_tan);
        layer(D_AXES * M, F, 2 * F, tan->D, prepared_of(net, b, MIX_D_T), 0, block->mixed_d_tan);
        meet_tangent(M, P_AXES, block->mixed_p, block->mixed_p_tan, tan->S, F);
        meet_tangent(M, D_AXES, block->mixed_d, block->mixed_d_tan, tan->S, F);
        gates = gates_of(net, b, MIXED);
        chain_tangent(rows, &gates, chains + MIXED, block->at.S, tan->S);
        copy(size, chains[MIXED].y_tan, block->u_tan);
        if (b) {
            add_to(size, before->d_tan, block->u_tan);
            const Attended seen = attended(block, 0), moved = attended(block, 1);
            EACH_MOLECULE(all, first, place, n) {
                const Attended one = part(&seen, first, place, F), its = part(&moved, first, place, F);
                attention_tangent(n, F, &one, &its, block->u_tan + first * F);
            }
        }
        gates = gates_of(net, b, AFTER);
        chain_tangent(rows, &gates, chains + AFTER, block->u, block->u_tan);
        gates = gates_of(net, b, OUTPUT);
        chain_tangent(rows, &gates, chains + OUTPUT, chains[AFTER].d, chains[AFTER].d_tan);
        add_to(size, chains[OUTPUT].y_tan, now->features);
    }
}

/* Pass 4 of one kind of orbital, of `axes` rows an atom: received from the map that mixes it. */
static void mixed_second(const Spooky *net, Passes *now, int64_t b, int64_t rows, int64_t axes, int map, int moves) {
    const int64_t F = net->F;
    const Block *block = now->block + b;
    const int is_p = map == MIX_P;
    const real *mixed = is_p ? block->mixed_p : block->mixed_d;
    const real *mixed_tan = is_p ? block->mixed_p_tan : block->mixed_d_tan;
    const real *received = is_p ? block->at.P : block->at.D, *received_tan = is_p ? block->tan.P : block->tan.D;
    real *gradient = net->gradients[b * PER_BLOCK + map];
    meet_adjoint(rows, axes, mixed, now->adj2.S, now->wide, 0, F);
    if (moves) {
        meet_adjoint(rows, axes, mixed_tan, block->adj.S, now->wide, 1, F);
        meet_adjoint(rows, axes, mixed, block->adj.S, now->wide_adj, 0, F);
    }
    weight_gradient_of(2 * F, axes * rows, F, 2 * F, now->wide, received, now->wide_adj, moves ? received_tan : 0,
                       gradient);
    layer_adjoint(axes * rows, F, 2 * F, now->wide, weight_of(net, b, map), is_p ? now->adj2.P : now->adj2.D, SET);
}

/* Pass 4; without `moves` there were no passes 2 and 3, and it is pass 2 with the gradients of the weights. */
static void second_adjoints(const Batch *all, const Spooky *net, Passes *now, int moves) {
    const int64_t M = all->atoms, P = all->pairs.pairs, F = net->F, R = net->R, size = M * F;
    const Rows *rows = &now->rows;
    Orbitals *adj2 = &now->adj2;
    clear(P * R, now->radial_adj2), clear(P * AXES, adj2->angular), clear(size, now->x_adj2);
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        const Block *block = now->block + b;
        const Chain *chains = block->chain, *before = chains + BEFORE;
        Gates gates = gates_of(net, b, OUTPUT);
        chain_second(rows, &gates, chains + OUTPUT, chains[AFTER].d, moves ? chains[AFTER].d_tan : 0,
                     now->features_adj, now->features_adj2, now->x_adj2, ADD);
        gates = gates_of(net, b, AFTER);
        chain_second(rows, &gates, chains + AFTER, block->u, moves ? block->u_tan : 0, 0, now->x_adj2, now->u_adj2,
                     SET);
        gates = gates_of(net, b, MIXED);
        chain_second(rows, &gates, chains + MIXED, block->at.S, moves ? block->tan.S : 0, block->u_adj, now->u_adj2,
                     adj2->S, SET);
        mixed_second(net, now, b, M, P_AXES, MIX_P, moves);
        mixed_second(net, now, b, M, D_AXES, MIX_D, moves);
        clear(P * 3 * F, adj2->filter), clear(size, adj2->s), clear(size, adj2->p), clear(size, adj2->d);
        if (moves) {
            BY_WIDTH(F, orbitals_second, &all->pairs, &block->at, &block->tan, &block->adj, adj2);
        } else {
            BY_WIDTH(F, orbitals_adjoint, &all->pairs, &block->at, adj2);
        }
        clear(3 * F * net->functions, now->filter_gradient);
        filter_gradient(all, net, now->radial, adj2->filter, now->filter_gradient);
        if (moves) filter_gradient(all, net, now->radial_tan, block->adj.filter, now->filter_gradient);
        real *of_filters = net->gradients[b * PER_BLOCK + FILTERS];
        for (int64_t row = 0; row < 3 * F; row++)
            for (int64_t r = 0; r < net->functions; r++)
                of_filters[row * net->functions + r] += now->filter_gradient[r * 3 * F + row];
        layer_adjoint(P, R, 3 * F, adj2->filter, prepared_of(net, b, FILTERS_PADDED), now->radial_adj2, ADD);

        const int x_moves = moves && b; /* the first block's features are those of elements */
        const Attended seen = attended(block, 0), moved = attended(block, 1), back = attended(block, 2);
        const Attended second = {now->q_adj2, now->k_adj2, now->v_adj2, now->s_adj2};
        clear(size, second.q), clear(size, second.k), clear(size, second.v);
        EACH_MOLECULE(all, first, place, n) {
            const Attended one = part(&seen, first, place, F), its = part(&moved, first, place, F);
            const Attended adj = part(&back, first, place, F), two = part(&second, first, place, F);
            attention_second(n, F, &one, x_moves ? &its : 0, block->u_adj + first * F, &adj, now->u_adj2 + first * F,
                             &two, now->scratch);
        }
        copy(size, now->u_adj2, now->x1_adj2);
        const real *y_adj2[] = {adj2->S, adj2->s, adj2->p, adj2->d, second.q, second.k, second.v};
        for (int k = 0; k < FROM_X1_COUNT; k++) {
            const int number = FROM_X1[k];
            gates = gates_of(net, b, number);
            chain_second(rows, &gates, chains + number, before->d, x_moves ? before->d_tan : 0,
                         number == OWN ? block->adj.S : chains[number].y_adj, y_adj2[k], now->x1_adj2, ADD);
        }
        gates = gates_of(net, b, BEFORE);
        const Chain *below = b ? now->block[b - 1].chain + AFTER : 0;
        chain_second(rows, &gates, before, b ? below->d : now->x, x_moves ? below->d_tan : 0, 0, now->x1_adj2,
                     now->x_adj2, SET);
    }
}

/* What Python calls. sizes: M, P, both, sum of n^2, training, F, radial functions, blocks; index: z, slot and molecule
   [M], source and target [P] as of compact_molecules, then slots of pairs [P]; arrays of atoms and pairs come and go
   with their padding, [slots, ...]. */

typedef struct {
    Batch all;
    Spooky net;
    const int32_t *pair_slot;
    Passes now;
} Call;

static void begin(const int64_t *sizes, const int32_t *index, const real *const *weights, real *prepared,
                  real *workspace, Call *made) {
    const int64_t M = sizes[0], P = sizes[1], padded = (sizes[6] + LANES - 1) / LANES * LANES;
    made->all = (Batch){{M, P, sizes[2], index + 3 * M, index + 3 * M + P}, M, sizes[3], index + M, index + 2 * M};
    made->pair_slot = index + 3 * M + 2 * P;
    made->net = (Spooky){sizes[5], padded, sizes[7], sizes[6], weights, 0, prepared};
    Workspace space = {workspace, 0};
    lay_out(&space, &made->all, &made->net, sizes[4] != 0, &made->now);
}

/* Rows of slots one below the other, of `width` numbers in rows of `stride`, the rest of which is 0. */
static void gather(int64_t rows, const int32_t *slot, int64_t width, int64_t stride, const real *from, real *to) {
    clear(rows * stride, to);
    for (int64_t r = 0; r < rows; r++) copy(width, from + slot[r] * width, to + r * stride);
}

static void scatter(int64_t rows, const int32_t *slot, int64_t width, int64_t stride, const real *from, real *to) {
    for (int64_t r = 0; r < rows; r++) copy(width, from + r * stride, to + slot[r] * width);
}

/* Sum of n^2 over molecules of n atoms; -1 if the numbers of molecules do not rise. */
int64_t NAME(spooky_scores)(const int64_t *sizes, const int32_t *index) {
    const Batch all = {{0}, sizes[0], 0, 0, index + 2 * sizes[0]};
    int64_t scores = 0;
    for (int64_t m = 1; m < all.atoms; m++)
        if (all.molecule[m] < all.molecule[m - 1]) return -1;
    EACH_MOLECULE(&all, first, place, n) scores += n * n;
    return scores;
}

/* Numbers of a workspace. */
int64_t NAME(spooky_workspace)(const int64_t *sizes) {
    const int64_t padded = (sizes[6] + LANES - 1) / LANES * LANES;
    const Batch all = {{sizes[0], sizes[1], sizes[2], 0, 0}, sizes[0], sizes[3], 0, 0};
    const Spooky net = {sizes[5], padded, sizes[7], sizes[6], 0, 0, 0};
    Workspace space = {0, 0};
    Passes now;
    lay_out(&space, &all, &net, sizes[4] != 0, &now);
    return space.used;
}

/* Weights in other forms, which change with the weights alone; returns how many numbers, also for prepared = 0. */
int64_t NAME(spooky_prepare)(const int64_t *sizes, const real *const *weights, real *prepared) {
    const int64_t F = sizes[5], functions = sizes[6], R = (functions + LANES - 1) / LANES * LANES;
    const Spooky net = {F, R, sizes[7], functions, weights, 0, prepared};
    for (int64_t b = 0; prepared && b < net.blocks; b++) {
        for (int k = 0; k < LAYERS; k++)
            lay_out_panels(F, F, weight_of(&net, b, k * PER_GATE + WEIGHT),
                           prepared + b * prepared_size(&net) + k * F * F);
        real *wide = prepared_of(&net, b, FILTERS_PADDED);
        clear(3 * F * R, wide);
        for (int64_t row = 0; row < 3 * F; row++)
            copy(functions, weight_of(&net, b, FILTERS) + row * functions, wide + row * R);
        transpose(3 * F, R, wide, prepared_of(&net, b, FILTERS_T));
        lay_out_panels(2 * F, F, weight_of(&net, b, MIX_P), prepared_of(&net, b, MIX_P_T));
        lay_out_panels(2 * F, F, weight_of(&net, b, MIX_D), prepared_of(&net, b, MIX_D_T));
    }
    return net.blocks * prepared_size(&net);
}

/* Pass 1; x [slots, F], radial [slots, R] and angular [slots, 8] give features [slots, F], 0 before. */
void NAME(spooky_values)(const int64_t *sizes, const int32_t *index, const real *const *weights, real *prepared,
                         real *workspace, const real *x, const real *radial, const real *angular, real *features) {
    Call call;
    begin(sizes, index, weights, prepared, workspace, &call);
    const int64_t M = call.all.atoms, P = call.all.pairs.pairs, F = call.net.F;
    gather(M, call.all.slot, F, F, x, call.now.x);
    gather(P, call.pair_slot, call.net.functions, call.net.R, radial, call.now.radial);
    gather(P, call.pair_slot, AXES, AXES, angular, call.now.angular);
    values(&call.all, &call.net, &call.now);
    scatter(M, call.all.slot, F, F, call.now.features, features);
}

/* Pass 2, of the adjoint of features, in the workspace of pass 1; results are 0 before. */
void NAME(spooky_adjoints)(const int64_t *sizes, const int32_t *index, const real *const *weights, real *prepared,
                           real *workspace, const real *features_adj, real *radial_adj, real *angular_adj) {
    Call call;
    begin(sizes, index, weights, prepared, workspace, &call);
    const int64_t P = call.all.pairs.pairs, F = call.net.F;
    gather(call.all.atoms, call.all.slot, F, F, features_adj, call.now.features_adj);
    adjoints(&call.all, &call.net, &call.now);
    scatter(P, call.pair_slot, call.net.functions, call.net.R, call.now.radial_adj, radial_adj);
    scatter(P, call.pair_slot, AXES, AXES, call.now.angular_adj, angular_adj);
}

/* Pass 3, in the workspace of the first two. */
void NAME(spooky_tangents)(const int64_t *sizes, const int32_t *index, const real *const *weights, real *prepared,
                           real *workspace, const real *radial_tan, const real *angular_tan, real *features_tan) {
    Call call;
    begin(sizes, index, weights, prepared, workspace, &call);
    const int64_t P = call.all.pairs.pairs, F = call.net.F;
    gather(P, call.pair_slot, call.net.functions, call.net.R, radial_tan, call.now.radial_tan);
    gather(P, call.pair_slot, AXES, AXES, angular_tan, call.now.angular_tan);
    tangents(&call.all, &call.net, &call.now);
    scatter(call.all.atoms, call.all.slot, F, F, call.now.features, features_tan);
}

/* Pass 4, in the workspace of the others, or of the first alone without `moves`; gradients are added to. */
void NAME(spooky_second)(const int64_t *sizes, const int32_t *index, const real *const *weights, real *prepared,
                         real *workspace, int64_t moves, const real *features_adj2, real *x_adj2, real *radial_adj2,
                         real *angular_adj2, real *const *gradients) {
    Call call;
    begin(sizes, index, weights, prepared, workspace, &call);
    const int64_t M = call.all.atoms, P = call.all.pairs.pairs, F = call.net.F;
    call.net.gradients = gradients;
    gather(M, call.all.slot, F, F, features_adj2, call.now.features_adj2);
    second_adjoints(&call.all, &call.net, &call.now, (int)moves);
    scatter(M, call.all.slot, F, F, call.now.x_adj2, x_adj2);
    scatter(P, call.pair_slot, call.net.functions, call.net.R, call.now.radial_adj2, radial_adj2);
    scatter(P, call.pair_slot, AXES, AXES, call.now.adj2.angular, angular_adj2);
}
