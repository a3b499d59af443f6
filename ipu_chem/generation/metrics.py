"""Metrics of generated molecules against known ones: those of MOSES, with RDKit's descriptors in place of a net.

D. Polykovskiy et al., "Molecular Sets (MOSES): a benchmarking platform for molecular generation models", Front.
Pharmacol. 11, 565644 (2020). K. Preuer et al., "Frechet ChemNet distance", J. Chem. Inf. Model. 58, 1736 (2018),
compare activations of a network that is not free to ship; the distance here has the same formula on the vector of
`descriptors.DESCRIPTORS` and is not to be compared with theirs.
"""

import math
from collections import Counter
from itertools import chain
from typing import Dict, Iterator, Mapping, Optional, Sequence

import numpy as np

from ipu_chem.generation.descriptors import PROPERTIES, describe
from ipu_chem.generation.molecules import canonical_smiles

UNIQUE_AT = (1000, 10000)
MEANING: Dict[str, str] = {
    "validity": "fraction that RDKit parses; about 1 for any sampler of SELFIES, so it says nothing about the model",
    "unique": "fraction of different molecules among the valid ones",
    **{f"unique@{k}": f"the same among the first {k:,} valid ones" for k in UNIQUE_AT},
    "novelty": "fraction of the different valid molecules that the training set does not hold",
    "IntDiv1": "internal diversity: 1 - mean Tanimoto similarity of pairs",
    "IntDiv2": "internal diversity: 1 - mean over molecules of the root mean square Tanimoto similarity",
    "SNN": "mean Tanimoto similarity to the nearest reference molecule",
    "Frag": "cosine similarity of the counts of BRICS fragments",
    "Scaf": "cosine similarity of the counts of Bemis-Murcko scaffolds of two or more rings",
    **{f"W1_{name}": f"Wasserstein-1 distance of the distributions of {name}" for name in PROPERTIES},
    "Frechet_descriptors": "Frechet distance of RDKit descriptors, each in units of the reference's deviation",
}
_BLOCK = 1 << 24  # pairs at once: 64 MiB of float32
_TRAIN_CHECKED, _RESPELLED = 100, 0.05


def score(
    generated: Sequence[str],
    train: Optional[Sequence[str]],
    reference: Sequence[str],
    workers: Optional[int] = None,
    progress: bool = False,
) -> Dict[str, float]:
    """All metrics, in the order of `MEANING`, which says what each is.

    Args:
        generated: SMILES in the order they were made, duplicates included; "" or what RDKit cannot parse is invalid.
        train: canonical SMILES of the molecules the model has seen; None leaves novelty out.
        reference: SMILES of molecules it has not seen.
        workers: processes; None takes the cores this process may use.
        progress: show bars on stderr.

    Returns:
        Name -> value. What is not defined is left out: ``unique@k`` with fewer than k valid molecules, ``Scaf``
        where one side has no scaffold, ``W1_SA`` where RDKit's Contrib is not installed.

    Raises:
        ValueError: no valid generated or reference molecule, or training SMILES that are not canonical.
    """
    from scipy.stats import wasserstein_distance

    if train is not None:
        _check_canonical(train)
    mine = describe(generated, workers, "generated" if progress else None)
    theirs = describe(reference, workers, "reference" if progress else None)
    if not mine.smiles:
        raise ValueError(f"none of the {len(generated):,} generated molecules is valid: there is nothing to compare.")
    if not theirs.smiles:
        raise ValueError(f"none of the {len(reference):,} reference molecules is valid: there is nothing to compare.")
    result = {"validity": len(mine.smiles) / len(generated), "unique": uniqueness(mine.smiles)}
    result.update({f"unique@{k}": uniqueness(mine.smiles[:k]) for k in UNIQUE_AT if len(mine.smiles) >= k})
    if train is not None:
        result["novelty"] = novelty(mine.smiles, train)
    for p in (1, 2):
        result[f"IntDiv{p}"] = internal_diversity(mine.fingerprints, p)
    result["SNN"] = nearest_similarity(mine.fingerprints, theirs.fingerprints)
    result["Frag"] = cosine_similarity(*(Counter(chain.from_iterable(side.fragments)) for side in (mine, theirs)))
    scaffolds = [Counter(filter(None, side.scaffolds)) for side in (mine, theirs)]
    if all(scaffolds):
        result["Scaf"] = cosine_similarity(*scaffolds)
    for column, name in enumerate(PROPERTIES):
        values = [side.properties[:, column] for side in (mine, theirs)]
        if not np.isnan(values[0]).all():
            result[f"W1_{name}"] = float(wasserstein_distance(*values))
    result["Frechet_descriptors"] = frechet_distance(mine.descriptors, theirs.descriptors)
    return result


def uniqueness(smiles: Sequence[str]) -> float:
    """Fraction of different ones among canonical SMILES."""
    return len(set(smiles)) / len(smiles)


def novelty(smiles: Sequence[str], train: Sequence[str]) -> float:
    """Fraction of the different canonical SMILES that ``train`` does not hold."""
    different = set(smiles)
    return len(different.difference(train)) / len(different)


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


def frechet_distance(values: np.ndarray, reference: np.ndarray) -> float:
    """Frechet distance of Gaussians fitted to two samples: |m - n|^2 + tr(C + D - 2 (C D)^(1/2)).

    Args:
        values: [N, D].
        reference: [M, D]; its standard deviations are the units, 1 for what is constant.
    """
    deviation = reference.std(0)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    values, reference = values / scale, reference / scale
    shift = values.mean(0) - reference.mean(0)
    centered = [sample - sample.mean(0) for sample in (values, reference)]
    one, other = (sample.T @ sample / len(sample) for sample in centered)
    # The trace of the root of C D is that of C^(1/2) D C^(1/2), which is symmetric: real eigenvalues, no noise.
    levels, axes = np.linalg.eigh(one)
    root = (axes * np.sqrt(levels.clip(0.0))) @ axes.T
    common = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0.0)).sum()
    return float(max(0.0, shift @ shift + np.trace(one) + np.trace(other) - 2.0 * common))


def _check_canonical(train: Sequence[str]) -> None:
    """Novelty compares texts: a training set in another spelling would make everything new."""
    checked = train[:: max(1, len(train) // _TRAIN_CHECKED)]
    canonical = [entry.smiles for entry in canonical_smiles(checked, workers=1)]
    others = [pair for pair in zip(checked, canonical) if pair[0] != pair[1]]
    # RDKit writes a few in a thousand of its own canonical SMILES anew.
    if len(others) > _RESPELLED * len(checked):
        raise ValueError(
            f"training SMILES are not canonical (RDKit writes {others[0][0]!r} as {others[0][1]!r}): "
            "take them from a prepared corpus or through canonical_smiles()."
        )
