/* Activations and their first two derivatives. Choose one before the file is included: ACTIVATION is
   shifted_softplus or silu. */

#ifndef ACTIVATIONS_H
#define ACTIVATIONS_H

#include "../exponential.h"
#include "real.h"

typedef struct {
    real value, first, second;
} Activated;

/* ln(1/2 exp(a) + 1/2); its derivative is the logistic function. */
INLINE Activated shifted_softplus_at(real a) {
    const real e = NAME(exp_minus)(a), size = a < 0 ? -a : a, below = 1 / (1 + e);
    const real sigma = a < 0 ? e * below : below;
    return (Activated){(real)0.5 * (a + size) + NAME(log_plus)(e) - (real)0.693147180559945309, sigma,
                       sigma * (1 - sigma)};
}

/* a / (1 + exp(-a)). */
INLINE Activated silu_at(real a) {
    const real e = NAME(exp_minus)(a), below = 1 / (1 + e), sigma = a < 0 ? e * below : below, rest = 1 - sigma;
    return (Activated){a * sigma, sigma * (1 + a * rest), sigma * rest * (2 + a * (1 - 2 * sigma))};
}

#define AT_(name) name##_at
#define AT(name) AT_(name)
#define ACTIVATED AT(ACTIVATION)

/* Pass 1: y = f(a). */
static void activate(int64_t count, const real *restrict a, real *restrict y) {
    EACH(i, count) y[i] = ACTIVATED(a[i]).value;
}

/* Passes 2 and 3, of adjoints and of tangents: y = f'(a) x; x and y may be the same. */
static void activate_first(int64_t count, const real *a, const real *x, real *y) {
    EACH(i, count) y[i] = ACTIVATED(a[i]).first * x[i];
}

/* Pass 4: y = f'(a) x2 + f''(a) a_tangent x, x being the adjoint of pass 2 and x2 the second one; x2 and y may be
   the same. */
static void activate_second(int64_t count, const real *a, const real *a_tangent, const real *x, const real *x2,
                            real *y) {
    EACH(i, count) {
        const Activated at = ACTIVATED(a[i]);
        y[i] = at.first * x2[i] + at.second * a_tangent[i] * x[i];
    }
}

#endif
