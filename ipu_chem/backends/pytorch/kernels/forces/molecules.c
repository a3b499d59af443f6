/* The real atoms and pairs of a batch of packs, without padding. */

#include <stdint.h>

/* Writes z, slot, molecule of the real atoms, source, target of the real pairs, kind of the atoms and element of the
   kinds, one behind the other, into index, which has room for 6 B N + 2 B E numbers, and their counts M, P and U to
   sizes: atoms of an element are of one kind. Returns 0; or 1 for what the passes do not take: an edge from an atom to
   itself or to padding, and elements, molecules or atoms that there are not. */
int64_t compact_molecules(int64_t B, int64_t N, int64_t E, int64_t G, int64_t elements, const int64_t *z,
                          const int64_t *graph_index, const int64_t *edge_index, const uint8_t *node_mask,
                          const uint8_t *edge_mask, int64_t *sizes, int32_t *index) {
    int64_t atoms = 0, pairs = 0, kinds = 0, m = 0, p = 0;
    int32_t *place = index + 5 * B * N + 2 * B * E; /* of a slot among the real atoms, or -1 */
    for (int64_t slot = 0; slot < B * N; slot++) atoms += node_mask[slot] != 0;
    for (int64_t slot = 0; slot < B * N; slot++) {
        place[slot] = -1;
        if (!node_mask[slot]) continue;
        if (z[slot] < 0 || z[slot] >= elements || graph_index[slot] < 0 || graph_index[slot] >= G) return 1;
        place[slot] = (int32_t)m;
        index[m] = (int32_t)z[slot];
        index[atoms + m] = (int32_t)slot;
        index[2 * atoms + m] = (int32_t)(slot / N * G + graph_index[slot]);
        m++;
    }
    for (int64_t e = 0; e < B * E; e++) pairs += edge_mask[e] != 0;
    int32_t *source = index + 3 * atoms, *target = source + pairs;
    for (int64_t b = 0; b < B; b++)
        for (int64_t e = 0; e < E; e++) {
            if (!edge_mask[b * E + e]) continue;
            const int64_t from = edge_index[2 * b * E + e], to = edge_index[(2 * b + 1) * E + e];
            if (from == to || from < 0 || from >= N || to < 0 || to >= N) return 1;
            source[p] = place[b * N + from];
            target[p] = place[b * N + to];
            if (source[p] < 0 || target[p] < 0) return 1;
            p++;
        }
    int32_t *kind = target + pairs, *element = kind + atoms;
    for (m = 0; m < atoms; m++) {
        int32_t k = 0;
        while (k < kinds && element[k] != index[m]) k++;
        if (k == kinds) element[kinds++] = index[m];
        kind[m] = k;
    }
    sizes[0] = atoms;
    sizes[1] = pairs;
    sizes[2] = kinds;
    return 0;
}
