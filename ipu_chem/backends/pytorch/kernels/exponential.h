/* Exponentials and logarithms that keep the loops around them vectors, which calls of the C library and comparisons of
   floats would not. */

#ifndef EXPONENTIAL_H
#define EXPONENTIAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(-|x|), to float32's last digit but one and not below exp(-87): 2^-n times a polynomial. */
static inline float exp_minus_float(float x) {
    const int32_t most = 0x42ae0000; /* 87.0f; positive floats are in the order of their bits */
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7fffffff;
    bits = bits < most ? bits : most;
    float a;
    memcpy(&a, &bits, sizeof a);
    const int32_t n = (int32_t)(a * 1.44269504f + 0.5f);
    const float r = ((float)n * 0.693359375f - a) - (float)n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    bits = (127 - n) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

static inline double exp_minus_double(double x) { return exp(-fabs(x)); }

/* ln(1 + e) = 2 artanh(e / (2 + e)), for e from 0 to 1. */
static inline float log_plus_float(float e) {
    const float s = e / (2.0f + e), q = s * s;
    float y = 1.0f / 13.0f;
    y = y * q + 1.0f / 11.0f;
    y = y * q + 1.0f / 9.0f;
    y = y * q + 1.0f / 7.0f;
    y = y * q + 1.0f / 5.0f;
    y = y * q + 1.0f / 3.0f;
    y = y * q + 1.0f;
    return 2.0f * s * y;
}

static inline double log_plus_double(double e) { return log1p(e); }

#endif
