/* SchNet's energies and forces, and the gradients of a loss of both, in four passes (ipu_chem/models/schnet.py):

   1. energies, from atoms to molecules;
   2. adjoints (_adj) of the sum of energies, back to positions, which are minus the forces;
   3. tangents (_tan) of pass 1, along the tangent -dL/dF of the positions;
   4. second adjoints (_adj2), of dL/dE-weighted energies and of the tangent of pass 3, with the weights' gradients.

   For a layer y = x W^T the gradient of W is y_adj2^T x + y_adj^T x_tan: the adjoint of a tangent is the adjoint of
   pass 2. Shapes: M atoms, P pairs, F features, K filters, R Gaussians; rows are atoms or pairs. */

#define ACTIVATION shifted_softplus
#include "head.h"

enum { FILTER_1, FILTER_BIAS_1, FILTER_2, FILTER_BIAS_2, IN, OUT, OUT_BIAS, LAST, LAST_BIAS, PER_BLOCK };
enum { EMBEDDING, HEAD_1, HEAD_BIAS_1, HEAD_2, HEAD_BIAS_2, REFERENCES, CENTRES, BLOCKS };
enum { MOST_BLOCKS = 32 };
enum { FILTER_1_T, FILTER_2_T, IN_T, OUT_T, LAST_T, TRANSPOSED };

typedef struct {
    int64_t F, K, R, H, blocks;
    double cutoff, factor;        /* of a Gaussian exp(factor (d - centre)^2) */
    const real *const *weights;   /* BLOCKS of the whole model, then PER_BLOCK of each block */
    real *const *gradients;       /* the same, in pass 4 */
    const real *transposed;       /* see NAME(schnet_prepare) */
} Schnet;

/* What the passes keep of a block. */
typedef struct {
    real *in_1, *out_1;           /* [2 P, K]: filter network before and after its activation; values, derivatives */
    real *filter, *filter_slope;  /* [P, K], with the envelope; in pass 4 their second adjoints take their place */
    real *x, *sent, *received, *a, *h;              /* [M, ...]: block's input, ..., before and after activation */
    real *sent_tan, *received_tan, *a_tan, *h_tan, *x_tan;
    real *sent_adj, *received_adj, *a_adj, *h_adj, *x_adj;  /* x_adj: of the block's output */
} Block;

typedef struct {
    Geometry geometry;
    Head head;
    real *x, *x_tan, *x_adj;                        /* [M, F], at the head */
    real *kinds, *kinds_sent;                       /* [U, F]: embeddings; [U, K]: sent, in pass 4 its adjoint */
    real *distance, *d_adj, *d_tan;                 /* [P] */
    int32_t *first, *count;                         /* [P]: Gaussians of a pair */
    real *a_adj2, *sent_adj2, *received_adj2;       /* scratch: [M, F], [M, K], [M, K] */
    real *row;                                      /* scratch: [2 K] */
    real *transposed_gradient;                      /* scratch: [R, K] */
    Block block[MOST_BLOCKS];
} Passes;

static void lay_out(Workspace *space, const Molecules *all, const Schnet *net, int training, Passes *made) {
    const int64_t M = all->atoms, P = all->pairs, F = net->F, K = net->K;
    made->geometry = take_geometry(space, P, net->R);
    made->head = take_head(space, M, net->H);
    made->x = take(space, M * F), made->x_adj = take(space, M * F);
    made->kinds = take(space, all->kinds * F), made->kinds_sent = take(space, all->kinds * K);
    made->distance = take(space, P), made->d_adj = take(space, P), made->d_tan = take(space, P);
    made->first = (int32_t *)take(space, P), made->count = (int32_t *)take(space, P);
    if (training) {
        made->x_tan = take(space, M * F);
        made->a_adj2 = take(space, M * F), made->sent_adj2 = take(space, M * K);
        made->received_adj2 = take(space, M * K);
        made->row = take(space, 2 * K);
        made->transposed_gradient = take(space, net->R * K);
    }
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = made->block + b;
        block->in_1 = take(space, 2 * P * K), block->out_1 = take(space, 2 * P * K);
        block->filter = take(space, 2 * P * K), block->filter_slope = block->filter ? block->filter + P * K : 0;
        block->x = take(space, M * F), block->sent = take(space, M * K), block->received = take(space, M * K);
        block->a = take(space, M * F), block->h = take(space, M * F);
        block->sent_adj = take(space, M * K), block->received_adj = take(space, M * K);
        block->a_adj = take(space, M * F), block->h_adj = take(space, M * F), block->x_adj = take(space, M * F);
        if (!training) continue;
        block->sent_tan = take(space, M * K), block->received_tan = take(space, M * K);
        block->a_tan = take(space, M * F), block->h_tan = take(space, M * F), block->x_tan = take(space, M * F);
    }
}

static HeadWeights head_weights(const Schnet *net, const real *const *w) {
    return (HeadWeights){w[EMBEDDING], w[HEAD_1], w[HEAD_BIAS_1], w[HEAD_2], w[HEAD_BIAS_2], w[REFERENCES],
                         net->transposed};
}

static const real *const *block_weights(const Schnet *net, int64_t b) {
    return net->weights + BLOCKS + b * PER_BLOCK;
}

static int64_t transposed_size(const Schnet *net) {
    return net->R * net->K + net->K * net->K + 2 * net->F * net->K + net->F * net->F;
}

/* Transposed weights of a block, in the order of their enumeration. */
static const real *block_transposed(const Schnet *net, int64_t b, int which) {
    const int64_t R = net->R, K = net->K, F = net->F;
    const int64_t at[TRANSPOSED] = {0, R * K, R * K + K * K, R * K + K * K + F * K, R * K + K * K + 2 * F * K};
    return net->transposed + F * net->H + b * transposed_size(net) + at[which];
}

/* Gaussians of the distance and their derivatives where they are more than rounding errors, which is near a few of
   the centres: `count` from `first` on. */
static void gaussians(const Molecules *all, const Schnet *net, Passes *now) {
    const real factor = (real)net->factor, *centres = net->weights[CENTRES], least = sizeof(real) == 4 ? -20 : -40;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real d = now->distance[p];
        real *basis = now->geometry.basis + p * net->R, *slope = now->geometry.basis_slope + p * net->R;
        int32_t first = (int32_t)net->R, end = 0;
        for (int32_t k = 0; k < net->R; k++)
            if (factor * (d - centres[k]) * (d - centres[k]) > least) first = k < first ? k : first, end = k + 1;
        now->first[p] = first, now->count[p] = end > first ? end - first : 0;
        for (int64_t k = first; k < end; k++) {
            const real offset = d - centres[k];
            basis[k] = NAME(exp_minus)(factor * offset * offset);
            slope[k] = 2 * factor * offset * basis[k];
        }
    }
}

/* w1 g + b1 and w1 g', values and derivatives of a pair together, as they take the same part of w1. */
static void filters_in(const Molecules *all, const Schnet *net, int64_t b, Passes *now) {
    const int64_t P = all->pairs, K = net->K, R = net->R;
    const real *bias = block_weights(net, b)[FILTER_BIAS_1], *panels = block_transposed(net, b, FILTER_1_T);
    real *in = now->block[b].in_1;
    for (int64_t p = 0; p < P; p++) memcpy(in + p * K, bias, (size_t)K * sizeof(real));
    clear(P * K, in + P * K);
    for (int64_t n = 0; n < K; n += PANEL) {
        const int64_t width = K - n < PANEL ? K - n : PANEL;
        for (int64_t p = 0; p < P; p++) {
            const Matrix g = {now->geometry.basis + p * R + now->first[p], P * R, 1, 0};
            const Matrix w = {panels + n * R + now->first[p] * width, width, 1, 0};
            product(1, 2, width, now->count[p], g, w, in + p * K + n, P * K, 0, ADD);
        }
    }
}

/* Filters W = (w2 f(w1 g + b1) + b2) envelope and dW / dd: the network on values, and in forward mode on derivatives,
   one below the other. */
static void filters(const Molecules *all, const Schnet *net, int64_t b, Passes *now) {
    const int64_t P = all->pairs, K = net->K;
    const real *const *w = block_weights(net, b);
    Block *block = now->block + b;
    filters_in(all, net, b, now);
    activate(P * K, block->in_1, block->out_1);
    activate_first(P * K, block->in_1, block->in_1 + P * K, block->out_1 + P * K);
    layer(P, K, K, block->out_1, block_transposed(net, b, FILTER_2_T), w[FILTER_BIAS_2], block->filter);
    layer(P, K, K, block->out_1 + P * K, block_transposed(net, b, FILTER_2_T), 0, block->filter_slope);
    for (int64_t p = 0; p < P; p++) {
        const real c = now->geometry.envelope[p], c_slope = now->geometry.envelope_slope[p];
        real *restrict value = block->filter + p * K, *restrict slope = block->filter_slope + p * K;
        EACH(k, K) {
            slope[k] = slope[k] * c + value[k] * c_slope;
            value[k] *= c;
        }
    }
}

/* Features of atoms j and i of the message from source to target, or of the one back. */
#define ENDS(p, back)                                                                                                  \
    const int64_t j = K * ((back) ? all->target[p] : all->source[p]);                                                  \
    const int64_t i = K * ((back) ? all->source[p] : all->target[p]);

/* received_i = sum over j of W_ij sent_j */
INLINE void messages(const Molecules *all, const Block *block, real *restrict received, int64_t K) {
    const real *restrict sent = block->sent;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + p * K;
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            EACH(k, K) received[i + k] += w[k] * sent[j + k];
        }
    }
}

/* sent_adj_j = sum over i of W_ij received_adj_i,  d_adj = sum over features of dW/dd sent_j received_adj_i */
INLINE void messages_adjoint(const Molecules *all, const Block *block, real *restrict d_adj, int64_t K) {
    const real *restrict received_adj = block->received_adj, *restrict sent = block->sent;
    real *restrict sent_adj = block->sent_adj;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + p * K, *restrict slope = block->filter_slope + p * K;
        real along = 0;
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            EACH(k, K) {
            sent_adj[j + k] += w[k] * received_adj[i + k];
            along += slope[k] * sent[j + k] * received_adj[i + k];
        }
        }
        d_adj[p] += along;
    }
}

/* received_tan_i = sum over j of W_ij sent_tan_j + d_tan dW/dd sent_j */
INLINE void messages_tangent(const Molecules *all, const Block *block, const real *d_tan, real *restrict received_tan,
                             int64_t K) {
    const real *restrict sent = block->sent, *restrict sent_tan = block->sent_tan;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *restrict w = block->filter + p * K, *restrict slope = block->filter_slope + p * K;
        const real d = d_tan[p];
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            EACH(k, K) received_tan[i + k] +=
                       w[k] * sent_tan[j + k] + d * slope[k] * sent[j + k];
        }
    }
}

/* sent_adj2_j = sum over i of W_ij received_adj2_i + d_tan dW/dd received_adj_i.

   The filter's second adjoint is W_adj2 = sent_j received_adj2_i + sent_tan_j received_adj_i, the adjoint of its
   tangent W_adj = sent_j received_adj_i. As W = c y and its tangent d_tan (c y' + c' y) with the envelope c, the
   network's output y and its derivative y' have y_adj2 = c W_adj2 + c' d_tan W_adj and y'_adj2 = c d_tan W_adj. They
   are written over W and dW/dd, which are needed no more but in the copy of a pair. */
INLINE void messages_second(const Molecules *all, const Block *block, const Passes *now, int64_t K) {
    const real *restrict sent = block->sent, *restrict sent_tan = block->sent_tan;
    const real *restrict received_adj = block->received_adj, *restrict received_adj2 = now->received_adj2;
    real *restrict sent_adj2 = now->sent_adj2, *restrict w = now->row, *restrict slope = now->row + K;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real c = now->geometry.envelope[p], d = now->d_tan[p], turned = now->geometry.envelope_slope[p] * d;
        real *restrict of_value = block->filter + p * K, *restrict of_slope = block->filter_slope + p * K;
        memcpy(w, of_value, (size_t)K * sizeof(real));
        memcpy(slope, of_slope, (size_t)K * sizeof(real));
        clear(K, of_value);
        clear(K, of_slope);
        for (int back = 0; back <= all->both; back++) {
            ENDS(p, back)
            EACH(k, K) {
            const real first = sent[j + k] * received_adj[i + k];
            sent_adj2[j + k] += w[k] * received_adj2[i + k] + d * slope[k] * received_adj[i + k];
            of_value[k] += c * (sent[j + k] * received_adj2[i + k] + sent_tan[j + k] * received_adj[i + k]);
            of_value[k] += turned * first;
            of_slope[k] += c * d * first;
        }
        }
    }
}

/* Pass 1. */
static void energies(const Molecules *all, const Schnet *net, Passes *now, real *energy) {
    const int64_t M = all->atoms, F = net->F, K = net->K;
    const HeadWeights head = head_weights(net, net->weights);
    gaussians(all, net, now);
    embed(all, F, head.embedding, now->kinds);
    to_atoms(all, F, now->kinds, net->blocks ? now->block[0].x : now->x);
    for (int64_t b = 0; b < net->blocks; b++) {
        const real *const *w = block_weights(net, b);
        Block *block = now->block + b;
        real *next = b + 1 < net->blocks ? now->block[b + 1].x : now->x;
        filters(all, net, b, now);
        if (b)
            layer(M, F, K, block->x, block_transposed(net, b, IN_T), 0, block->sent);
        else { /* of embeddings: one row for all atoms of an element */
            layer(all->kinds, F, K, now->kinds, block_transposed(net, b, IN_T), 0, now->kinds_sent);
            to_atoms(all, K, now->kinds_sent, block->sent);
        }
        clear(M * K, block->received);
        BY_WIDTH(K, messages, all, block, block->received);
        layer(M, K, F, block->received, block_transposed(net, b, OUT_T), w[OUT_BIAS], block->a);
        activate(M * F, block->a, block->h);
        layer(M, F, F, block->h, block_transposed(net, b, LAST_T), w[LAST_BIAS], next);
        add_to(M * F, block->x, next);
    }
    head_energy(all, F, net->H, &head, &now->head, now->x, energy);
}

/* Pass 2. */
static void adjoints(const Molecules *all, const Schnet *net, Passes *now, real *forces) {
    const int64_t M = all->atoms, F = net->F, K = net->K;
    const HeadWeights head = head_weights(net, net->weights);
    clear(all->pairs, now->d_adj);
    real *output = net->blocks ? now->block[net->blocks - 1].x_adj : now->x_adj;
    head_adjoint(all, F, net->H, &head, &now->head, output);
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        const real *const *w = block_weights(net, b);
        Block *block = now->block + b;
        layer_adjoint(M, F, F, block->x_adj, w[LAST], block->h_adj, SET);
        activate_first(M * F, block->a, block->h_adj, block->a_adj);
        layer_adjoint(M, K, F, block->a_adj, w[OUT], block->received_adj, SET);
        clear(M * K, block->sent_adj);
        BY_WIDTH(K, messages_adjoint, all, block, now->d_adj);
        if (!b) break; /* below are embeddings, on which no position acts */
        real *input = now->block[b - 1].x_adj;
        memcpy(input, block->x_adj, (size_t)(M * F) * sizeof(real));
        layer_adjoint(M, F, K, block->sent_adj, w[IN], input, ADD);
    }
    forces_of_pairs(all, &now->geometry, now->d_adj, 0, forces);
}

/* Pass 3. */
static void tangents(const Molecules *all, const Schnet *net, Passes *now, const real *grad_forces) {
    const int64_t M = all->atoms, F = net->F, K = net->K;
    tangents_of_pairs(all, &now->geometry, grad_forces, now->d_tan, 0);
    clear(M * F, net->blocks ? now->block[0].x_tan : now->x_tan);
    for (int64_t b = 0; b < net->blocks; b++) {
        Block *block = now->block + b;
        real *next = b + 1 < net->blocks ? now->block[b + 1].x_tan : now->x_tan;
        if (b)
            layer(M, F, K, block->x_tan, block_transposed(net, b, IN_T), 0, block->sent_tan);
        else
            clear(M * K, block->sent_tan);
        clear(M * K, block->received_tan);
        BY_WIDTH(K, messages_tangent, all, block, now->d_tan, block->received_tan);
        layer(M, K, F, block->received_tan, block_transposed(net, b, OUT_T), 0, block->a_tan);
        activate_first(M * F, block->a, block->a_tan, block->h_tan);
        layer(M, F, F, block->h_tan, block_transposed(net, b, LAST_T), 0, next);
        add_to(M * F, block->x_tan, next);
    }
}

/* Pass 4 of the filter network, whose second adjoints at its output are where the filters were: values and derivatives
   are 2 P inputs of the same layers, and f' of the derivatives' activation depends on the values. */
static void filters_second(const Molecules *all, const Schnet *net, int64_t b, Passes *now) {
    const int64_t P = all->pairs, K = net->K, R = net->R;
    const real *const *w = block_weights(net, b);
    real *const *grad = net->gradients + BLOCKS + b * PER_BLOCK;
    Block *block = now->block + b;
    weight_gradient(2 * P, K, K, block->filter, block->out_1, grad[FILTER_2]);
    bias_gradient(P, K, block->filter, grad[FILTER_BIAS_2]);
    real *adj2 = block->out_1; /* which was needed for the weights' gradient last */
    layer_adjoint(2 * P, K, K, block->filter, w[FILTER_2], adj2, SET);
    activate_second(P * K, block->in_1, block->in_1 + P * K, adj2 + P * K, adj2, adj2);
    activate_first(P * K, block->in_1, adj2 + P * K, adj2 + P * K);
    bias_gradient(P, K, adj2, grad[FILTER_BIAS_1]);
    /* Gaussians are too few to fill tiles as columns: the gradient is made transposed. */
    clear(R * K, now->transposed_gradient);
    for (int64_t p = 0; p < P; p++) {
        const Matrix g = {now->geometry.basis + p * R + now->first[p], 1, P * R, 0}, y = {adj2 + p * K, P * K, 1, 0};
        product(1, now->count[p], K, 2, g, y, now->transposed_gradient + now->first[p] * K, K, 0, ADD);
    }
    EACH(k, K)
        for (int64_t r = 0; r < R; r++) grad[FILTER_1][k * R + r] += now->transposed_gradient[r * K + k];
}

/* Pass 4. */
static void second_adjoints(const Molecules *all, const Schnet *net, Passes *now, const real *grad_energy) {
    const int64_t M = all->atoms, F = net->F, K = net->K;
    const HeadWeights head = head_weights(net, net->weights);
    real *const *grads = net->gradients;
    HeadGradients head_grad = {grads[EMBEDDING], grads[HEAD_1], grads[HEAD_BIAS_1], grads[HEAD_2], grads[HEAD_BIAS_2]};
    real *x_adj2 = now->x_adj;
    head_second(all, F, net->H, &head, &now->head, now->x, now->x_tan, grad_energy, x_adj2, &head_grad);
    for (int64_t b = net->blocks - 1; b >= 0; b--) {
        const real *const *w = block_weights(net, b);
        real *const *grad = grads + BLOCKS + b * PER_BLOCK;
        Block *block = now->block + b;
        weight_gradient_of(F, M, F, F, x_adj2, block->h, block->x_adj, block->h_tan, grad[LAST]);
        bias_gradient(M, F, x_adj2, grad[LAST_BIAS]);
        layer_adjoint(M, F, F, x_adj2, w[LAST], now->a_adj2, SET);
        activate_second(M * F, block->a, block->a_tan, block->h_adj, now->a_adj2, now->a_adj2);
        weight_gradient_of(F, M, K, F, now->a_adj2, block->received, block->a_adj, block->received_tan, grad[OUT]);
        bias_gradient(M, F, now->a_adj2, grad[OUT_BIAS]);
        layer_adjoint(M, K, F, now->a_adj2, w[OUT], now->received_adj2, SET);
        clear(M * K, now->sent_adj2);
        BY_WIDTH(K, messages_second, all, block, now);
        filters_second(all, net, b, now);
        if (!b) break;
        weight_gradient_of(K, M, F, K, now->sent_adj2, block->x, block->sent_adj, block->x_tan, grad[IN]);
        layer_adjoint(M, F, K, now->sent_adj2, w[IN], x_adj2, ADD);
    }
    /* Below are embeddings, which have no tangent, one row for each kind of atoms. */
    real *of_kinds = now->a_adj2;
    to_kinds(all, F, x_adj2, of_kinds);
    if (net->blocks) {
        to_kinds(all, K, now->sent_adj2, now->kinds_sent);
        weight_gradient(all->kinds, F, K, now->kinds_sent, now->kinds, grads[BLOCKS + IN]);
        layer_adjoint(all->kinds, F, K, now->kinds_sent, net->weights[BLOCKS + IN], of_kinds, ADD);
    }
    embedding_gradient(all, F, of_kinds, head_grad.embedding);
}

/* What Python calls. sizes: M, P, U, both, training, F, K, R, H, blocks; numbers: cutoff, factor. */

static Schnet network(const int64_t *sizes, const double *numbers, const real *const *weights,
                      const real *transposed) {
    return (Schnet){sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], numbers[0], numbers[1], weights, 0, transposed};
}

/* Numbers of a workspace. */
int64_t NAME(schnet_workspace)(const int64_t *sizes, const double *numbers) {
    const Molecules all = molecules(sizes, 0);
    const Schnet net = network(sizes, numbers, 0, 0);
    Workspace space = {0, 0};
    Passes now;
    lay_out(&space, &all, &net, sizes[4] != 0, &now);
    return space.used;
}

/* Transposed weights, which change with the weights alone; returns how many numbers, also for transposed = 0. */
int64_t NAME(schnet_prepare)(const int64_t *sizes, const double *numbers, const real *const *weights,
                             real *transposed) {
    const Schnet net = network(sizes, numbers, weights, transposed);
    if (transposed) {
        lay_out_panels(net.H, net.F, weights[HEAD_1], transposed);
        for (int64_t b = 0; b < net.blocks; b++) {
            const real *const *w = block_weights(&net, b);
            lay_out_panels(net.K, net.R, w[FILTER_1], (real *)block_transposed(&net, b, FILTER_1_T));
            lay_out_panels(net.K, net.K, w[FILTER_2], (real *)block_transposed(&net, b, FILTER_2_T));
            lay_out_panels(net.K, net.F, w[IN], (real *)block_transposed(&net, b, IN_T));
            lay_out_panels(net.F, net.K, w[OUT], (real *)block_transposed(&net, b, OUT_T));
            lay_out_panels(net.F, net.F, w[LAST], (real *)block_transposed(&net, b, LAST_T));
        }
    }
    return net.F * net.H + net.blocks * transposed_size(&net);
}

/* Passes 1 and 2; energies [B * G] and forces [B * N, 3] are added to. */
void NAME(schnet_forward)(const int64_t *sizes, const double *numbers, const int32_t *index, const real *positions,
                          const real *const *weights, const real *transposed, real *workspace, real *energy,
                          real *forces) {
    const Molecules all = molecules(sizes, index);
    const Schnet net = network(sizes, numbers, weights, transposed);
    Workspace space = {workspace, 0};
    Passes now;
    lay_out(&space, &all, &net, sizes[4] != 0, &now);
    measure(&all, positions, (real)net.cutoff, &now.geometry, now.distance);
    energies(&all, &net, &now, energy);
    adjoints(&all, &net, &now, forces);
}

/* Passes 3 and 4, in the workspace of the first two; gradients are added to. */
void NAME(schnet_backward)(const int64_t *sizes, const double *numbers, const int32_t *index,
                           const real *const *weights, const real *transposed, real *workspace,
                           const real *grad_energy, const real *grad_forces, real *const *gradients) {
    const Molecules all = molecules(sizes, index);
    Schnet net = network(sizes, numbers, weights, transposed);
    net.gradients = gradients;
    Workspace space = {workspace, 0};
    Passes now;
    lay_out(&space, &all, &net, 1, &now);
    tangents(&all, &net, &now, grad_forces);
    second_adjoints(&all, &net, &now, grad_energy);
}
