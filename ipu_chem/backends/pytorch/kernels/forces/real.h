/* Numbers, vectors and memory of the force kernels. Every file is compiled twice, REAL being float or double: the
   second is what tests compare with autograd to 1e-10. */

#ifndef REAL_H
#define REAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef REAL
#define REAL float
#endif
typedef REAL real;

#define JOIN_(name, type) name##_##type
#define JOIN(name, type) JOIN_(name, type)
#define NAME(name) JOIN(name, REAL) /* schnet_energy_float, schnet_energy_double */

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(real)))
typedef real vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* Calls body(..., F) with the width as a constant of the compiler where it is one of the usual ones: loops over
   features are then unrolled, and what they add up stays in registers. */
#define BY_WIDTH(width, body, ...)                                                                                     \
    switch (width) {                                                                                                   \
    case 64: body(__VA_ARGS__, 64); break;                                                                             \
    case 128: body(__VA_ARGS__, 128); break;                                                                           \
    case 256: body(__VA_ARGS__, 256); break;                                                                           \
    default: body(__VA_ARGS__, width);                                                                                 \
    }

/* Loops over the features of one atom or pair, whose arrays never overlap: GCC forgets what `restrict` says of local
   pointers once a function is inlined, and leaves loops of many arrays scalar. */
#define EACH(f, F) _Pragma("GCC ivdep") for (int64_t f = 0; f < (F); f++)
#define EACH_AXIS(c) _Pragma("GCC unroll 3") for (int c = 0; c < 3; c++)

/* The next `count` numbers of a workspace, on a cache line of their own. With base 0 it counts what is needed. */
typedef struct {
    real *base;
    int64_t used;
} Workspace;

static inline real *take(Workspace *space, int64_t count) {
    const int64_t line = 64 / sizeof(real);
    real *taken = space->base ? space->base + space->used : 0;
    space->used += (count + line - 1) / line * line;
    return taken;
}

static inline void clear(int64_t count, real *values) { memset(values, 0, (size_t)count * sizeof(real)); }

static inline void add_to(int64_t count, const real *restrict values, real *restrict sum) {
    EACH(i, count) sum[i] += values[i];
}

#endif
