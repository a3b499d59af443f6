/* PaiNN's functions of the distance of a pair, R waves and their envelope. */

#ifndef PAINN_WAVES_H
#define PAINN_WAVES_H

#include "painn.h"

/* Waves sin(n factor d) / d, n = 1..R, times the envelope, then the envelope itself, and the derivatives of all;
   [P, R + 1] each. */
static void waves(const Molecules *all, const Painn *net, const real *distance, Geometry *geometry) {
    const int64_t width = net->R + 1;
    for (int64_t p = 0; p < all->pairs; p++) {
        const real d = distance[p], inverse = geometry->inverse[p];
        const real c = geometry->envelope[p], c_slope = geometry->envelope_slope[p];
        real *basis = geometry->basis + p * width, *slope = geometry->basis_slope + p * width;
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

#endif
