/* PaiNN's energies and forces, and the gradients of a loss of both, in the four passes that schnet.c names
   (ipu_chem/models/painn.py): energies, adjoints (_adj), tangents (_tan), second adjoints (_adj2).

   A block adds messages, then an update of each atom by itself, to scalars s and vectors v:
       s_i += sum over j of g1,  v_i += sum over j of v_j g3 + u g2,  g = phi_j w,  phi = m2 f(m1 s),
       s += a1 + a2 (L . R),  v += L a3,  (L, R) = mix v,  a = u2 f(u1 (s, |R|)),
   with filters w of the distance and the unit vector u of the pair. Shapes: M atoms, P pairs, F features, R waves, of
   which w is a linear function together with the envelope: [P, R + 1]. Vectors are [M, 3, F], that is 3 M rows. */

#define ACTIVATION silu
#include "painn_messages.h"
#include "painn_update.h"

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

/* Filters of a block that are needed: in the first one nothing is multiplied with w3. */
static int64_t filters_used(int64_t b, int64_t F) { return (b ? 3 : 2) * F; }

/* Gates of a block that are needed: nothing takes the last block's vectors, so its a3 counts as 0. */
static int64_t gates_used(const Painn *net, int64_t b) { return (b + 1 == net->blocks ? 2 : 3) * net->F; }

static void clear_last_gates(int64_t M, int64_t F, real *gates) {
    for (int64_t m = 0; m < M; m++) clear(F, gates + (3 * m + 2) * F);
}

/* Pass 1. */
static void energies(const Molecules *all, const Painn *net, Passes *now, real *energy) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F;
    const HeadWeights head = head_weights(net);
    waves(all, net, now);
    embed(all, F, head.embedding, now->kinds);
    to_atoms(all, F, now->kinds, now->block[0].at.s);
    for (int64_t b = 0; b < net->blocks; b++) {
        const real *const *w = block_weights(net, b);
        Block *block = now->block + b;
        const Places *at = &block->at;
        real *s = now->s, *v = block->v_moved; /* s for a moment: it goes on in z */
        layer_of(filters_used(b, F), 2 * P, net->R + 1, 3 * F, now->geometry.basis, block_transposed(net, b, FILTER_T),
                 0, block->filter);
        /* The first block's scalars are embeddings: one row for all atoms of an element. */
        const int64_t rows = b ? M : all->kinds;
        layer(rows, F, F, b ? at->s : now->kinds, block_transposed(net, b, MESSAGE_1_T), w[MESSAGE_BIAS_1], at->a);
        activate(rows * F, at->a, at->h);
        real *phi = b ? at->phi : now->kinds_phi;
        layer(rows, F, 3 * F, at->h, block_transposed(net, b, MESSAGE_2_T), w[MESSAGE_BIAS_2], phi);
        if (!b) to_atoms(all, 3 * F, phi, at->phi);
        memcpy(s, at->s, (size_t)(M * F) * sizeof(real));
        if (b)
            memcpy(v, at->v, (size_t)(3 * M * F) * sizeof(real));
        else
            clear(3 * M * F, v);
        BY_BLOCK(b, F, messages, all, &now->geometry, block, s, v)
        layer(3 * M, F, 2 * F, v, block_transposed(net, b, MIX_T), 0, at->mixed);
        BY_WIDTH(F, lengths, M, at, s);
        layer(M, 2 * F, F, at->z, block_transposed(net, b, UPDATE_1_T), w[UPDATE_BIAS_1], at->k);
        activate(M * F, at->k, at->t);
        const int last = b + 1 == net->blocks;
        layer_of(gates_used(net, b), M, F, 3 * F, at->t, block_transposed(net, b, UPDATE_2_T), w[UPDATE_BIAS_2],
                 at->gates);
        if (last) clear_last_gates(M, F, at->gates);
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
        layer_adjoint_of(gates_used(net, b), M, F, 3 * F, adj->gates, w[UPDATE_2], adj->t, SET);
        activate_first(M * F, block->at.k, adj->t, adj->k);
        layer_adjoint(M, 2 * F, F, adj->k, w[UPDATE_1], adj->z, SET);
        BY_WIDTH(F, lengths_adjoint, M, block);
        memcpy(adj->v, block->v_out_adj, (size_t)(3 * M * F) * sizeof(real));
        layer_adjoint(3 * M, F, 2 * F, adj->mixed, w[MIX], adj->v, ADD);
        real *s_adj = b ? now->block[b - 1].s_out_adj : 0, *v_adj = b ? now->block[b - 1].v_out_adj : 0;
        if (b) memcpy(v_adj, adj->v, (size_t)(3 * M * F) * sizeof(real));
        clear(3 * M * F, adj->phi);
        BY_BLOCK(b, F, messages_adjoint, all, now, block, v_adj)
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
            clear(M * F, s), clear(3 * M * F, v);
        }
        BY_BLOCK(b, F, messages_tangent, all, now, block, s, v)
        layer(3 * M, F, 2 * F, v, block_transposed(net, b, MIX_T), 0, tan->mixed);
        BY_WIDTH(F, lengths_tangent, M, block, s);
        layer(M, 2 * F, F, tan->z, block_transposed(net, b, UPDATE_1_T), 0, tan->k);
        activate_first(M * F, block->at.k, tan->k, tan->t);
        const int last = b + 1 == net->blocks;
        layer_of(gates_used(net, b), M, F, 3 * F, tan->t, block_transposed(net, b, UPDATE_2_T), 0, tan->gates);
        if (last) clear_last_gates(M, F, tan->gates);
        BY_WIDTH(F, update_tangent, M, block, last ? now->s_tan : now->block[b + 1].tan.s,
                 last ? now->v_tan : now->block[b + 1].tan.v);
    }
}

/* Gradients of a layer with bias: the adjoint y_adj of pass 2 with the input's tangent, y_adj2 with the input. */
static void layer_gradients(int64_t some, int64_t rows, int64_t in, int64_t out, const real *x, const real *x_tan,
                            const real *y_adj, const real *y_adj2, real *gradient, real *of_bias) {
    weight_gradient_of(some, rows, in, out, y_adj2, x, y_adj, x_tan, gradient);
    if (of_bias) bias_gradient(rows, out, y_adj2, of_bias);
}

/* Pass 4 below the first block's messages: of embeddings, which have no tangent, one row for each kind of atoms. */
static void first_message_gradients(const Molecules *all, const Painn *net, Passes *now) {
    const int64_t U = all->kinds, F = net->F;
    const real *const *w = block_weights(net, 0);
    real *const *grad = net->gradients + BLOCKS;
    const Places *at = &now->block[0].at, *adj2 = &now->adj2;
    real *phi_adj2 = now->kinds_phi, *s_adj2 = now->s_adj;
    to_kinds(all, 3 * F, adj2->phi, phi_adj2);
    to_kinds(all, F, adj2->s, s_adj2);
    layer_gradients(3 * F, U, F, 3 * F, at->h, 0, 0, phi_adj2, grad[MESSAGE_2], grad[MESSAGE_BIAS_2]);
    layer_adjoint(U, F, 3 * F, phi_adj2, w[MESSAGE_2], adj2->h, SET);
    activate_first(U * F, at->a, adj2->h, adj2->a);
    layer_gradients(F, U, F, F, now->kinds, 0, 0, adj2->a, grad[MESSAGE_1], grad[MESSAGE_BIAS_1]);
    layer_adjoint(U, F, F, adj2->a, w[MESSAGE_1], s_adj2, ADD);
    embedding_gradient(all, F, s_adj2, net->gradients[EMBEDDING]);
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
        const int64_t used = gates_used(net, b);
        layer_gradients(used, M, F, 3 * F, at->t, tan->t, adj->gates, adj2->gates, grad[UPDATE_2],
                        grad[UPDATE_BIAS_2]);
        layer_adjoint_of(used, M, F, 3 * F, adj2->gates, w[UPDATE_2], adj2->t, SET);
        activate_second(M * F, at->k, tan->k, adj->t, adj2->t, adj2->k);
        layer_gradients(F, M, 2 * F, F, at->z, tan->z, adj->k, adj2->k, grad[UPDATE_1], grad[UPDATE_BIAS_1]);
        layer_adjoint(M, 2 * F, F, adj2->k, w[UPDATE_1], adj2->z, SET);
        BY_WIDTH(F, lengths_second, M, now, block);
        layer_gradients(2 * F, 3 * M, F, 2 * F, block->v_moved, block->v_moved_tan, adj->mixed, adj2->mixed, grad[MIX],
                        0);
        memcpy(now->v_moved_adj2, now->v_adj, (size_t)(3 * M * F) * sizeof(real));
        layer_adjoint(3 * M, F, 2 * F, adj2->mixed, w[MIX], now->v_moved_adj2, ADD);
        if (b) memcpy(now->v_adj, now->v_moved_adj2, (size_t)(3 * M * F) * sizeof(real));
        clear(3 * M * F, adj2->phi);
        BY_BLOCK(b, F, messages_second, all, now, block, now->v_adj)
        /* Waves are too few to fill tiles as columns: the gradient is made transposed. */
        clear(3 * F * width, now->transposed_gradient);
        product(1, width, filters_used(b, F), 2 * P, (Matrix){now->geometry.basis, 1, width, 0},
                (Matrix){now->pairs, 3 * F, 1, 0}, now->transposed_gradient, 3 * F, 0, ADD);
        for (int64_t f = 0; f < 3 * F; f++) {
            for (int64_t r = 0; r < net->R; r++)
                grad[FILTER][f * net->R + r] += now->transposed_gradient[r * 3 * F + f];
            grad[FILTER_BIAS][f] += now->transposed_gradient[net->R * 3 * F + f];
        }
        if (!b) break;
        layer_gradients(3 * F, M, F, 3 * F, at->h, tan->h, adj->phi, adj2->phi, grad[MESSAGE_2],
                        grad[MESSAGE_BIAS_2]);
        layer_adjoint(M, F, 3 * F, adj2->phi, w[MESSAGE_2], adj2->h, SET);
        activate_second(M * F, at->a, tan->a, adj->h, adj2->h, adj2->a);
        layer_gradients(F, M, F, F, at->s, tan->s, adj->a, adj2->a, grad[MESSAGE_1], grad[MESSAGE_BIAS_1]);
        memcpy(now->s_adj, adj2->s, (size_t)(M * F) * sizeof(real));
        layer_adjoint(M, F, F, adj2->a, w[MESSAGE_1], now->s_adj, ADD);
    }
    first_message_gradients(all, net, now);
}

/* What Python calls. sizes: M, P, U, both, training, F, R, H, blocks; numbers: cutoff, factor. */

static Painn network(const int64_t *sizes, const double *numbers, const real *const *weights, const real *transposed) {
    return (Painn){sizes[5], sizes[6], sizes[7], sizes[8], numbers[0], numbers[1], weights, 0, transposed};
}

/* Numbers of a workspace. */
int64_t NAME(painn_workspace)(const int64_t *sizes, const double *numbers) {
    const Molecules all = molecules(sizes, 0);
    const Painn net = network(sizes, numbers, 0, 0);
    Workspace space = {0, 0};
    Passes now;
    lay_out(&space, &all, &net, sizes[4] != 0, &now);
    return space.used;
}

/* Transposed weights, which change with the weights alone; returns how many numbers, also for transposed = 0. */
int64_t NAME(painn_prepare)(const int64_t *sizes, const double *numbers, const real *const *weights, real *transposed) {
    const Painn net = network(sizes, numbers, weights, transposed);
    const int64_t F = net.F, R = net.R;
    for (int64_t b = 0; transposed && b < net.blocks; b++) {
        const real *const *w = block_weights(&net, b);
        real *filter = (real *)block_transposed(&net, b, FILTER_T);
        lay_out_panels(F, F, w[MESSAGE_1], (real *)block_transposed(&net, b, MESSAGE_1_T));
        lay_out_panels(3 * F, F, w[MESSAGE_2], (real *)block_transposed(&net, b, MESSAGE_2_T));
        for (int64_t n = 0; n < 3 * F; n += PANEL) { /* bias is one more row, which acts on the envelope */
            const int64_t width = 3 * F - n < PANEL ? 3 * F - n : PANEL;
            transpose(width, R, w[FILTER] + n * R, filter + n * (R + 1));
            memcpy(filter + n * (R + 1) + R * width, w[FILTER_BIAS] + n, (size_t)width * sizeof(real));
        }
        lay_out_panels(F, 2 * F, w[UPDATE_1], (real *)block_transposed(&net, b, UPDATE_1_T));
        lay_out_panels(3 * F, F, w[UPDATE_2], (real *)block_transposed(&net, b, UPDATE_2_T));
        lay_out_panels(2 * F, F, w[MIX], (real *)block_transposed(&net, b, MIX_T));
    }
    if (transposed) lay_out_panels(net.H, F, weights[HEAD_1], transposed);
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
    lay_out(&space, &all, &net, sizes[4] != 0, &now);
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
