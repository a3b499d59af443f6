/* One token of many molecules at a time through ChemGPT: what ipu_chem/models/decoding.py computes, for one CPU
   thread. Molecules stand in slots, each at a place of its own. Rows of different slots never meet, and a sum has the
   same order in any tile, so a molecule's numbers do not depend on who is computed beside it.

   Keys [layers, slots, places / LANES, F, LANES] and values [layers, slots, places, F] lie as layers.h has them. */

#include "layers.h"

typedef struct {
    int64_t F, H, V, layers, window, places, slots;
    double scale, multiplier, epsilon;
    const real *const *weights;
    real *keys, *values;
} Decoder;

static Decoder decoder(const int64_t *sizes, const double *numbers, const real *const *weights, real *keys,
                       real *values) {
    return (Decoder){sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5],
                     sizes[6], numbers[0], numbers[1], numbers[2], weights, keys, values};
}

static int64_t stretch(const Decoder *net, int64_t layer, int64_t slot) {
    return (layer * net->slots + slot) * net->places * net->F;
}

static Ahead ahead_of(const Decoder *net, int64_t layer, int64_t slot, int64_t place, int64_t window) {
    const int64_t from = first_of(window, place), start = from / LANES * LANES;
    const int64_t blocks = place / LANES - from / LANES + 1;
    const int64_t line = 64 / sizeof(real), at = stretch(net, layer, slot);
    return (Ahead){(const char *)(net->keys + at + start * net->F), (const char *)(net->values + at + from * net->F),
                   blocks * LANES * net->F / line, (place - from) * net->F / line};
}

/* Attention of one row of queries, keys and values [3 F], whose key and value are kept. */
static void attention_of(const Decoder *net, int64_t layer, int64_t slot, int64_t place, int64_t window, Ahead ahead,
                         real *qkv, real *scores, real *seen) {
    const int64_t half = net->F / net->H / 2, at = stretch(net, layer, slot);
    const real *const *last = net->weights + net->layers * PER_LAYER, *const sines = last[SINES];
    attend_at(net->F, net->H, first_of(window, place), place, net->scale, last[PLACES] + place * half,
              sines ? sines + place * half : 0, ahead, qkv, net->keys + at, net->values + at, scores, seen);
}

typedef struct {
    real *x, *normal, *qkv, *seen, *wide, *scores;
} Rows;

static int64_t lay_out(const Decoder *net, int64_t rows, real *workspace, Rows *now) {
    Workspace space = {workspace, 0};
    const int64_t size = rows * net->F;
    *now = (Rows){take(&space, size), take(&space, size), take(&space, 3 * size),
                  take(&space, size), take(&space, 4 * size), take(&space, net->H * (net->places + 2 * LANES))};
    return space.used;
}

/* What Python calls. sizes: F, H, V, layers, window, places, slots; numbers: scale, multiplier, epsilon. */

/* Weights [out, in] as `decoder_step` takes them. */
void NAME(decoder_panels)(int64_t out, int64_t in, const real *weights, real *panels) {
    lay_out_panels(out, in, weights, panels);
}

/* Numbers of a workspace. */
int64_t NAME(decoder_workspace)(const int64_t *sizes, int64_t rows) {
    const Decoder net = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], 0, 0, 0, 0, 0, 0};
    Rows now;
    return lay_out(&net, rows, 0, &now);
}

/* Logits [rows, V] after ids [rows], each at its place of its slot; local [layers] is 1 where the window holds. */
void NAME(decoder_step)(const int64_t *sizes, const double *numbers, const int64_t *local, const real *const *weights,
                        int64_t rows, const int64_t *ids, const int64_t *places, const int64_t *slots, real *keys,
                        real *values, real *workspace, real *logits) {
    const Decoder net = decoder(sizes, numbers, weights, keys, values);
    const int64_t F = net.F;
    const real *const *last = weights + net.layers * PER_LAYER;
    Rows now;
    lay_out(&net, rows, workspace, &now);
    for (int64_t r = 0; r < rows; r++) {
        memcpy(now.x + r * F, last[TOKENS] + ids[r] * F, (size_t)F * sizeof(real));
        if (!last[SINES]) add_to(F, last[PLACES] + places[r] * F, now.x + r * F);
    }
    for (int64_t l = 0; l < net.layers; l++) {
        const real *const *w = weights + l * PER_LAYER;
        normalize(rows, F, net.epsilon, 1, w[LN_1], w[LN_1_BIAS], now.x, now.normal);
        layer(rows, F, 3 * F, now.normal, w[QKV], 0, now.qkv);
        const int64_t window = local[l] ? net.window : 0;
        for (int64_t r = 0; r < rows; r++) {
            Ahead ahead = {0, 0, 0, 0};
            if (r + 1 < rows) ahead = ahead_of(&net, l, slots[r + 1], places[r + 1], window);
            attention_of(&net, l, slots[r], places[r], window, ahead, now.qkv + r * 3 * F, now.scores, now.seen + r * F);
        }
        add_layer(rows, F, F, now.seen, w[OUT], w[OUT_BIAS], now.normal, now.x);
        normalize(rows, F, net.epsilon, 1, w[LN_2], w[LN_2_BIAS], now.x, now.normal);
        layer(rows, F, 4 * F, now.normal, w[UP], w[UP_BIAS], now.wide);
        gelu_of(rows * 4 * F, now.wide);
        add_layer(rows, 4 * F, F, now.wide, w[DOWN], w[DOWN_BIAS], now.normal, now.x);
    }
    normalize(rows, F, net.epsilon, net.multiplier, last[LN], last[LN_BIAS], now.x, now.normal);
    layer(rows, F, net.V, now.normal, last[HEAD], 0, logits);
}

/* Copies of keys and values of single places, [layers, 2, F] each: out of slots (keep) or back into them. */
void NAME(decoder_copy)(const int64_t *sizes, int64_t count, const int64_t *slots, const int64_t *places,
                        const int64_t *entries, int64_t keep, real *keys, real *values, real *kept) {
    const Decoder net = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], 0, 0, 0, 0, 0, 0};
    const int64_t F = net.F;
    for (int64_t c = 0; c < count; c++)
        for (int64_t l = 0; l < net.layers; l++) {
            real *const entry = kept + (entries[c] * net.layers + l) * 2 * F;
            real *const value = values + stretch(&net, l, slots[c]) + places[c] * F;
            real *const key = keys + stretch(&net, l, slots[c]) + places[c] / LANES * F * LANES + places[c] % LANES;
            if (keep)
                for (int64_t f = 0; f < F; f++) entry[f] = key[f * LANES], entry[F + f] = value[f];
            else
                for (int64_t f = 0; f < F; f++) key[f * LANES] = entry[f], value[f] = entry[F + f];
        }
}
