/* The real atoms and pairs of a batch of packs, and what all models need of their geometry.

   Shapes: B packs, N node, E edge and G graph slots; M real atoms of U elements, P real pairs, R functions of the
   distance. */

#ifndef MOLECULES_H
#define MOLECULES_H

#include "real.h"

typedef struct {
    int64_t atoms, pairs, kinds, both;           /* M, P, U, and whether a pair works in both directions */
    const int32_t *z, *slot, *molecule, *kind;   /* [M]; slot of B * N, molecule of B * G, kind of U */
    const int32_t *source, *target;              /* [P], of M */
    const int32_t *element;                      /* [U], atomic numbers of the kinds */
} Molecules;

/* From what `compact_molecules` writes, in its order; sizes are M, P, U, both, ... */
static inline Molecules molecules(const int64_t *sizes, const int32_t *index) {
    const int64_t M = sizes[0], P = sizes[1];
    Molecules made = {M, P, sizes[2], sizes[3], 0, 0, 0, 0, 0, 0, 0};
    if (index) {
        made.z = index, made.slot = index + M, made.molecule = index + 2 * M;
        made.source = index + 3 * M, made.target = made.source + P;
        made.kind = made.target + P, made.element = made.kind + M;
    }
    return made;
}

/* Rows of kinds become rows of their atoms, [U, width] to [M, width]. */
static inline void to_atoms(const Molecules *all, int64_t width, const real *of_kinds, real *of_atoms) {
    for (int64_t m = 0; m < all->atoms; m++)
        memcpy(of_atoms + m * width, of_kinds + all->kind[m] * width, (size_t)width * sizeof(real));
}

/* The adjoint of that: rows of atoms add up to rows of their kinds. */
static inline void to_kinds(const Molecules *all, int64_t width, const real *of_atoms, real *of_kinds) {
    clear(all->kinds * width, of_kinds);
    for (int64_t m = 0; m < all->atoms; m++) add_to(width, of_atoms + m * width, of_kinds + all->kind[m] * width);
}

/* What depends on the distance d of a pair, and the derivatives by d. */
typedef struct {
    real *unit;                          /* [P, 3], (r_target - r_source) / d */
    real *inverse;                       /* [P], 1 / d */
    real *envelope, *envelope_slope;     /* [P], 1/2 cos(pi d / cutoff) + 1/2 */
    real *basis, *basis_slope;           /* [P, R], one below the other: [2 P, R] */
} Geometry;

static Geometry take_geometry(Workspace *space, int64_t pairs, int64_t functions) {
    Geometry made;
    made.unit = take(space, 3 * pairs);
    made.inverse = take(space, pairs);
    made.envelope = take(space, pairs);
    made.envelope_slope = take(space, pairs);
    made.basis = take(space, 2 * pairs * functions);
    made.basis_slope = made.basis ? made.basis + pairs * functions : 0;
    return made;
}

/* Distances of pairs, [P], with everything of the geometry but the basis. As in torch, d = sqrt(r^2 + 1e-12). */
static void measure(const Molecules *all, const real *positions, real cutoff, Geometry *geometry, real *distance) {
    const real pi = (real)3.14159265358979323846;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *from = positions + 3 * all->slot[all->source[p]], *to = positions + 3 * all->slot[all->target[p]];
        real r[3], square = (real)1e-12;
        EACH_AXIS(c) r[c] = to[c] - from[c], square += r[c] * r[c];
        const real d = sizeof(real) == 4 ? sqrtf((float)square) : (real)sqrt((double)square);
        distance[p] = d;
        geometry->inverse[p] = 1 / d;
        EACH_AXIS(c) geometry->unit[3 * p + c] = r[c] / d;
        const int inside = d < cutoff;
        const double angle = (double)(pi * d / cutoff);
        geometry->envelope[p] = inside ? (real)(0.5 * cos(angle) + 0.5) : 0;
        geometry->envelope_slope[p] = inside ? (real)(-0.5 * sin(angle)) * pi / cutoff : 0;
    }
}

/* Pass 2, the end: adjoints of distances [P] and of unit vectors [P, 3], or 0, become forces, -adjoint of positions,
   in slots [B * N, 3]. With u = r / d the adjoint of r is u d_adj + (u_adj - u (u . u_adj)) / d. */
static void forces_of_pairs(const Molecules *all, const Geometry *geometry, const real *d_adj, const real *u_adj,
                            real *forces) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *u = geometry->unit + 3 * p;
        real along = d_adj[p], across[3] = {0, 0, 0};
        if (u_adj)
            EACH_AXIS(c) {
                across[c] = u_adj[3 * p + c] * geometry->inverse[p];
                along -= u[c] * across[c];
            }
        real *from = forces + 3 * all->slot[all->source[p]], *to = forces + 3 * all->slot[all->target[p]];
        EACH_AXIS(c) {
            const real r_adj = u[c] * along + across[c];
            from[c] += r_adj;
            to[c] -= r_adj;
        }
    }
}

/* Pass 3, the beginning: tangents of distances [P] and, unless 0, of unit vectors [P, 3], along the tangent of
   positions, which is -dL/dF, [B * N, 3] in slots. */
static void tangents_of_pairs(const Molecules *all, const Geometry *geometry, const real *grad_forces, real *d_tan,
                              real *u_tan) {
    for (int64_t p = 0; p < all->pairs; p++) {
        const real *u = geometry->unit + 3 * p;
        const real *from = grad_forces + 3 * all->slot[all->source[p]];
        const real *to = grad_forces + 3 * all->slot[all->target[p]];
        real r_tan[3], along = 0;
        EACH_AXIS(c) r_tan[c] = from[c] - to[c], along += u[c] * r_tan[c];
        d_tan[p] = along;
        if (u_tan)
            EACH_AXIS(c) u_tan[3 * p + c] = (r_tan[c] - u[c] * along) * geometry->inverse[p];
    }
}

#endif
