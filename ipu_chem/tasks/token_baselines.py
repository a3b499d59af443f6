"""Baselines of a language model: tokens drawn one by one, and each by the one before it."""

from typing import Iterator, Tuple

import numpy as np

from packing import Ragged

_BLOCK = 1 << 22  # tokens at once, so that a corpus on disk need not fit into memory


def unigram_nats(train: Ragged, held_out: Ragged, vocab_size: int) -> float:
    """Nats of all held-out tokens, each with its probability (count + 1) / (all + V) of the training tokens.

    Args:
        train: ids of molecules, first and last token included.
        held_out: the same; the first token of a molecule is given, the others are predicted.
        vocab_size: V.

    Raises:
        ValueError: no training token to count, or an id outside 0 .. V - 1.
    """
    counts = _counts(train, vocab_size, pairs=False) + 1
    return float(_counts(held_out, vocab_size, pairs=False) @ (np.log(counts.sum()) - np.log(counts)))


def bigram_nats(train: Ragged, held_out: Ragged, vocab_size: int) -> float:
    """Nats of all held-out tokens, each with its probability (count + 1) / (all + V) after the token before it.

    Arguments as of `unigram_nats`.
    """
    counts = _counts(train, vocab_size, pairs=True).reshape(vocab_size, vocab_size) + 1
    nats = np.log(counts.sum(1, keepdims=True)) - np.log(counts)
    return float(_counts(held_out, vocab_size, pairs=True) @ nats.reshape(-1))


def _counts(molecules: Ragged, vocab_size: int, pairs: bool) -> np.ndarray:
    """Counts of predicted tokens [V], or of pairs [V * V] of the one before and it; int64."""
    total = np.zeros(vocab_size**2 if pairs else vocab_size, np.int64)
    for before, token in _predicted(molecules):
        for ids in (before, token):
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
                raise ValueError(f"ids reach from {ids.min()} to {ids.max()}, but vocab_size is {vocab_size}.")
        total += np.bincount(before * vocab_size + token if pairs else token, minlength=len(total))
    if not total.any():
        raise ValueError("there is no token to count: every molecule needs a first and a last one.")
    return total


def _predicted(molecules: Ragged) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Blocks of (token before, token predicted), both [n] int64."""
    values, starts = molecules.values, molecules.offsets[:-1][molecules.lengths > 0]
    for first in range(1, len(values), _BLOCK):
        last = min(first + _BLOCK, len(values))
        ids = np.asarray(values[first - 1 : last]).astype(np.int64)
        is_predicted = np.ones(last - first, bool)
        inside = starts[np.searchsorted(starts, first) : np.searchsorted(starts, last)]
        is_predicted[inside - first] = False
        yield ids[:-1][is_predicted], ids[1:][is_predicted]
