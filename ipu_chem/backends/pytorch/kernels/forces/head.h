/* Embedding and energy head, which the models share: e = h2 . f(h1 x + b1) + b2 + the element's reference, added up
   over a molecule's atoms. Include after ACTIVATION is defined. */

#ifndef HEAD_H
#define HEAD_H

#include "activations.h"
#include "molecules.h"
#include "products.h"

typedef struct {
    const real *embedding, *h1, *b1, *h2, *b2, *references; /* [100, F], [H, F], [H], [1, H], [1], [100] or 0 */
    const real *h1_panels;
} HeadWeights;

typedef struct {
    real *embedding, *h1, *b1, *h2, *b2; /* gradients, shaped as the weights */
} HeadGradients;

typedef struct {
    real *a, *adj;      /* [M, H]: before the activation; pass 2's adjoint there */
    real *work, *tan;   /* [M, H]: scratch; pass 3's tangent of a */
} Head;

static Head take_head(Workspace *space, int64_t atoms, int64_t hidden) {
    Head made;
    made.a = take(space, atoms * hidden);
    made.adj = take(space, atoms * hidden);
    made.work = take(space, atoms * hidden);
    made.tan = take(space, atoms * hidden);
    return made;
}

/* Embeddings of the kinds, [U, F]. */
static void embed(const Molecules *all, int64_t F, const real *embedding, real *x) {
    for (int64_t u = 0; u < all->kinds; u++)
        memcpy(x + u * F, embedding + all->element[u] * F, (size_t)F * sizeof(real));
}

/* Pass 1: energies of molecules, [B * G], are added to. */
static void head_energy(const Molecules *all, int64_t F, int64_t H, const HeadWeights *w, Head *head, const real *x,
                        real *energy) {
    layer(all->atoms, F, H, x, w->h1_panels, w->b1, head->a);
    activate(all->atoms * H, head->a, head->work);
    for (int64_t m = 0; m < all->atoms; m++) {
        real e = w->b2[0] + (w->references ? w->references[all->z[m]] : 0);
        EACH(h, H) e += w->h2[h] * head->work[m * H + h];
        energy[all->molecule[m]] += e;
    }
}

/* Pass 2: adjoints x_adj [M, F] of the sum of all energies. */
static void head_adjoint(const Molecules *all, int64_t F, int64_t H, const HeadWeights *w, Head *head, real *x_adj) {
    for (int64_t m = 0; m < all->atoms; m++) memcpy(head->adj + m * H, w->h2, (size_t)H * sizeof(real));
    activate_first(all->atoms * H, head->a, head->adj, head->adj);
    layer_adjoint(all->atoms, F, H, head->adj, w->h1, x_adj, SET);
}

/* Passes 3 and 4: from x_tan [M, F] and the slopes grad_energy [B * G] of the loss to second adjoints x_adj2 [M, F],
   and the head's gradients. The adjoint of a tangent of an energy is 1, that of an energy the slope g:
   h2 gains g f(a) + f'(a) a_tan, and a_adj2 = h2 (g f'(a) + f''(a) a_tan). */
static void head_second(const Molecules *all, int64_t F, int64_t H, const HeadWeights *w, Head *head, const real *x,
                        const real *x_tan, const real *grad_energy, real *x_adj2, HeadGradients *grad) {
    layer(all->atoms, F, H, x_tan, w->h1_panels, 0, head->tan);
    for (int64_t m = 0; m < all->atoms; m++) {
        const real g = grad_energy[all->molecule[m]];
        const real *restrict a = head->a + m * H, *restrict a_tan = head->tan + m * H, *restrict h2 = w->h2;
        real *restrict a_adj2 = head->work + m * H, *restrict grad_h2 = grad->h2;
        EACH(h, H) {
            const Activated at = ACTIVATED(a[h]);
            grad_h2[h] += g * at.value + at.first * a_tan[h];
            a_adj2[h] = h2[h] * (g * at.first + at.second * a_tan[h]);
        }
        grad->b2[0] += g;
    }
    weight_gradient_of(H, all->atoms, F, H, head->work, x, head->adj, x_tan, grad->h1);
    bias_gradient(all->atoms, H, head->work, grad->b1);
    layer_adjoint(all->atoms, F, H, head->work, w->h1, x_adj2, SET);
}

/* From second adjoints of the kinds, [U, F]. */
static void embedding_gradient(const Molecules *all, int64_t F, const real *x_adj2, real *gradient) {
    for (int64_t u = 0; u < all->kinds; u++) add_to(F, x_adj2 + u * F, gradient + all->element[u] * F);
}

#endif
