"""Similarities of molecules by their fingerprints, and of tables of counts."""

import math
from typing import Iterator, Mapping

import numpy as np

_BLOCK = 1 << 24  # pairs at once: 64 MiB of float32


def tanimoto_blocks(left: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
    """Tanimoto similarities of all pairs, some rows at a time.

    Args:
        left: [N, bits / 8] uint8, packed.
        right: [M, bits / 8] uint8, packed.

    Yields:
        [n, M] float32 for the next n rows of ``left``; 1 where neither has a bit.
    """
    other = np.unpackbits(right, axis=1).astype(np.float32)
    other_count = other.sum(1)
    rows = max(1, _BLOCK // max(len(other), 1))
    for first in range(0, len(left), rows):
        some = np.unpackbits(left[first : first + rows], axis=1).astype(np.float32)
        common = some @ other.T
        either = some.sum(1)[:, None] + other_count - common
        empty = either == 0
        common[empty] = either[empty] = 1.0
        yield np.divide(common, either, out=common)


def internal_diversity(fingerprints: np.ndarray, p: int = 1) -> float:
    """1 - the mean over molecules of (the mean over all molecules of Tanimoto^p)^(1/p), as MOSES computes it.

    For p = 2 the article takes the root after both means instead; fingerprints are [N, bits / 8] uint8, packed.
    """
    means = [
        (block if p == 1 else block**p).mean(1, dtype=np.float64)
        for block in tanimoto_blocks(fingerprints, fingerprints)
    ]
    return float(1.0 - (np.concatenate(means) ** (1.0 / p)).mean())


def nearest_similarity(fingerprints: np.ndarray, reference: np.ndarray) -> float:
    """Mean over molecules of the Tanimoto similarity to the nearest of ``reference``, both packed [N, bits / 8]."""
    nearest = [block.max(1) for block in tanimoto_blocks(fingerprints, reference)]
    return float(np.concatenate(nearest).mean(dtype=np.float64))


def cosine_similarity(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """Cosine of two tables of counts, neither of them empty."""
    product = sum(count * other.get(name, 0) for name, count in one.items())
    # One root of an exact product, so that equal tables have exactly 1.
    return product / math.sqrt(sum(c * c for c in one.values()) * sum(c * c for c in other.values()))
