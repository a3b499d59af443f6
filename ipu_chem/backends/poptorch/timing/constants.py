"""Every number that the time model rests on, in one place, with where it comes from.

Measured: published. Fitted: by benchmarks/ipu_time.py to published figures of Bow IPUs; it misses a goal if it finds
others. Guessed: from counts of operations. What cannot be known is in `UNKNOWN`.

Source of the figures: graphcore-research/hydronet-gnn (arXiv:2211.13853): experiments/bow/*.csv (594 shapes of each of
three operators, float32, forward) and notebooks; argonne-lcf/user-guides and Graphcore's model cards (transformers).
"""

from ipu_chem.backends.poptorch.machine import TILES

CLOCK = 1.85e9  # cycles a second, measured (Bow; 1.33e9 on GC200, which the time model does not know)

# Cycles of one operator on T tiles. N rows of a table, F columns, E rows taken, S = sqrt(N E F / T); fitted.
GATHER = (1115.4, 7.013, 3.159, 90.11)  # 1, S, E F / T, sqrt(N)
# N rows added up into E rows.
SCATTER = (2898.2, 27.69, 2.371, 5.338)  # 1, S, E F / T, N F / T
# One block of SchNet, forward: N atoms, E messages, F features; filter network of two layers and three layers on atoms.
BLOCK = (118_221.0, 64.40, 92.30, 41.50, 0.08562, 0.2844)  # 1, E F / T, N F / T, S, E F^2 / T, N F^2 / T
# Cycles of a block that only its microbenchmark has: training takes 3 (BLOCK - BLOCK_LOOP); fitted.
BLOCK_LOOP = 102_200.0
BLOCK_GAUSSIANS = 25  # of the trainings to which that was fitted
# Cycles that torch's own softplus takes longer than log1p(exp(-|x|)) + max(x, 0), forward and backward, an element and
# tile; fitted.
PLAIN_SOFTPLUS = 90.23
# Largest sizes that were measured: E, N and F. Beyond twice these, figures of a block are extrapolated.
LARGEST_BLOCK = (32_768, 4_096, 512)

# Cycles of one operator of other kinds; guessed.
OPERATOR = 400.0  # of any, whatever its size
ELEMENT = 1.5  # an element and tile: additions, products, comparisons, copies
FUNCTION = 17.0  # an element and tile: exp, log, tanh, square root, division
REDUCTION = 1.5  # an element and tile
SOFTPLUS = 2 * FUNCTION + 4 * ELEMENT  # an element and tile, of the fast form
SOFTMAX = FUNCTION + 2 * REDUCTION + 2 * ELEMENT
# Nearest neighbors of N atoms, all together: 98 us at 576 atoms, 223 at 1,344; the sum with its distances is guessed.
SEARCH = (123_600.0, 206.0)  # 1, N^2 / T
# Multiply-adds a cycle and tile, measured (data sheet); and what products of some size reach of them, fitted (BLOCK).
PRODUCTS_SINGLE, PRODUCTS_HALF, PRODUCTS_REACH = 16, 64, 0.7

# Passes of the same work that training takes: forward and backward; fitted.
PASSES, PASSES_RECOMPUTED = 3, 4

# Seconds.
CALL = 1.353e-3  # host and engine, each call of PopTorch; fitted (QM9, 64 IPUs)
# Each trained tensor and optimizer step: Adam, accumulation and what else is missing; fitted (QM9, 1 IPU).
UPDATE = 4.433e-6
UPDATE_PARAMETER = 20.0 / (CLOCK * TILES)  # each trained number; guessed
UNMERGED_EXCHANGE = 54.68e-6  # each trained tensor, step and exchange between replicas of its own; fitted (16 IPUs)
EXCHANGE_HOP = 6e-6  # each doubling of the replicas, all tensors in one exchange; guessed
EXCHANGE_BYTES = 64e9  # bytes a second between replicas; guessed
STREAMING_BYTES = 20e9  # bytes a second between an IPU and its streaming memory; guessed

# Transformers: fraction of the peak of 16-bit products (350 TFLOP/s) that tuned trainings reach; measured, 13 to 20 %.
TRANSFORMER_REACH = 0.175
TRANSFORMER_WIDTH = 768  # features from which that holds
PEAK_HALF = 2.0 * PRODUCTS_HALF * TILES * CLOCK  # FLOP/s

# Bytes a second from the host to all IPUs: more than the first came through in a published run, measured (copies on the
# host included); one port of 100 Gb/s carries the second, data sheet.
LINK_LEAST, LINK_PORT = 1.0e9, 12.5e9

# Factors within which seconds are, up and down.
MEASURED_FACTOR = 1.1  # a block inside the measured sizes; the host's part of a call
EXTRAPOLATED_FACTOR = 1.5  # a block beyond them; updates and exchanges
OPERATORS_FACTOR = 2.0  # operators added up; blocks in 16 bits
TRANSFORMER_FACTOR = 1.35
SMALL_TRANSFORMER_FACTOR = 3.0

UNKNOWN = (
    "which layouts the compiler takes (gathers of equal work differ by half), 16-bit work at small widths, scatters of "
    "more than 4,096 messages, backward passes one by one, transfers between stages and while tiles compute, several "
    "hosts, exchanges above 1 MB"
)
