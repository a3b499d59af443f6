/* Whole molecules through ChemGPT's layers: what its last layer gives for every token of packed molecules, as
   ipu_chem/models/chemgpt.py computes it, for one CPU thread. Keys and values of one molecule at a time are kept, so
   that they stay in the cache; a token reads those before it in its own molecule and never meets another one. */

#include "layers.h"

typedef struct {
    real *normal, *qkv, *seen, *wide, *keys, *values, *scores;
} Space;

static int64_t lay_out(int64_t rows, int64_t F, int64_t H, real *workspace, Space *now) {
    Workspace space = {workspace, 0};
    const int64_t size = rows * F, places = (rows + LANES - 1) / LANES * LANES;
    *now = (Space){take(&space, size),       take(&space, 3 * size),   take(&space, size), take(&space, 4 * size),
                   take(&space, places * F), take(&space, places * F), take(&space, H * (places + 2 * LANES))};
    return space.used;
}

/* Numbers of a workspace. */
int64_t NAME(reader_workspace)(const int64_t *sizes, int64_t rows) {
    Space now;
    return lay_out(rows, sizes[0], sizes[1], 0, &now);
}

/* x [rows, F] after all layers, of ids [rows] and their places; a molecule begins where places do not count on.

   sizes: F, H, layers, window; numbers: scale, epsilon; local [layers] is 1 where the window holds. */
void NAME(reader_read)(const int64_t *sizes, const double *numbers, const int64_t *local, const real *const *weights,
                       int64_t rows, const int64_t *ids, const int64_t *places, real *workspace, real *x) {
    const int64_t F = sizes[0], H = sizes[1], layers = sizes[2], half = F / H / 2;
    const real *const *last = weights + layers * PER_LAYER, *const sines = last[SINES];
    const Ahead none = {0, 0, 0, 0};
    Space now;
    lay_out(rows, F, H, workspace, &now);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(x + r * F, last[TOKENS] + ids[r] * F, (size_t)F * sizeof(real));
        if (!sines) add_to(F, last[PLACES] + places[r] * F, x + r * F);
    }
    for (int64_t l = 0; l < layers; l++) {
        const real *const *w = weights + l * PER_LAYER;
        const int64_t window = local[l] ? sizes[3] : 0;
        normalize(rows, F, numbers[1], 1, w[LN_1], w[LN_1_BIAS], x, now.normal);
        layer(rows, F, 3 * F, now.normal, w[QKV], 0, now.qkv);
        for (int64_t r = 0, begin = 0; r < rows; r++) {
            if (r && places[r] != places[r - 1] + 1) begin = r;
            const int64_t place = r - begin;
            attend_at(F, H, first_of(window, place), place, numbers[0], last[PLACES] + places[r] * half,
                      sines ? sines + places[r] * half : 0, none, now.qkv + r * 3 * F, now.keys, now.values, now.scores,
                      now.seen + r * F);
        }
        add_layer(rows, F, F, now.seen, w[OUT], w[OUT_BIAS], now.normal, x);
        normalize(rows, F, numbers[1], 1, w[LN_2], w[LN_2_BIAS], x, now.normal);
        layer(rows, F, 4 * F, now.normal, w[UP], w[UP_BIAS], now.wide);
        gelu_of(rows * 4 * F, now.wide);
        add_layer(rows, 4 * F, F, now.wide, w[DOWN], w[DOWN_BIAS], now.normal, x);
    }
}
