/* Tokens drawn from logits: `ipu_chem.generation.chance` of plain softmax probabilities, in double whatever the
   logits are. */

#include "../forces/real.h"

/* exp(-|x|) to double's last digit but one, and not below exp(-700): 2^-n times Taylor's polynomial. */
static inline double exp_minus_wide(double x) {
    double a = x < 0 ? -x : x;
    a = a < 700 ? a : 700;
    const int32_t n = (int32_t)(a * 1.4426950408889634 + 0.5);
    const double r = (n * 0.693147180369123816490 - a) + n * 1.90821492927058770002e-10;
    double y = 1.0 / 6227020800.0;
    y = y * r + 1.0 / 479001600.0;
    y = y * r + 1.0 / 39916800.0;
    y = y * r + 1.0 / 3628800.0;
    y = y * r + 1.0 / 362880.0;
    y = y * r + 1.0 / 40320.0;
    y = y * r + 1.0 / 5040.0;
    y = y * r + 1.0 / 720.0;
    y = y * r + 1.0 / 120.0;
    y = y * r + 1.0 / 24.0;
    y = y * r + 1.0 / 6.0;
    y = y * r + 0.5;
    y = y * r * r + r + 1.0;
    const int64_t bits = (int64_t)(1023 - n) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

/* Logits [rows, stride], of which V count; `allowed` [V] is 1 or 0; `given` [rows] is a token that is not drawn, or
   -1. Writes tokens and their log-probabilities among all V at temperature 1: NaN if logits are no numbers. Where
   `entries` [rows] is not -1, also log-probabilities of all tokens and the running sums of the weights that are drawn
   by, into that row of nats and ends [any, V]. */
void NAME(decoder_draw)(int64_t rows, int64_t V, int64_t stride, const real *logits, double temperature,
                        const double *allowed, const double *uniform, const int64_t *given, const int64_t *entries,
                        double *space, int64_t *tokens, double *likelihoods, double *nats, double *ends) {
    for (int64_t r = 0; r < rows; r++, logits += stride) {
        double most = -INFINITY, best = -INFINITY, poison = 0, sum = 0, running = 0;
        for (int64_t v = 0; v < V; v++) {
            const double logit = logits[v], drawable = allowed[v] > 0 ? logit : -INFINITY;
            most = logit > most ? logit : most;
            best = drawable > best ? drawable : best;
            poison += logit - logit; /* 0, or NaN */
        }
        EACH(v, V) {
            space[v] = exp_minus_wide((double)logits[v] - most);
            sum += space[v];
        }
        if (best != most || temperature != 1.0) EACH(v, V) space[v] = exp_minus_wide((logits[v] - best) / temperature);
        for (int64_t v = 0; v < V; v++) space[v] = running += space[v] * allowed[v];
        const double below = uniform[r] * running;
        int64_t token = given[r];
        if (token < 0)
            for (token = 0; token < V - 1 && !(space[token] > below) && space[token] < running;) token++;
        const double rest = most + log(sum) + poison;
        tokens[r] = token, likelihoods[r] = logits[token] - rest;
        if (entries[r] < 0) continue;
        memcpy(ends + entries[r] * V, space, (size_t)V * sizeof(double));
        for (int64_t v = 0; v < V; v++) nats[entries[r] * V + v] = logits[v] - rest;
    }
}
