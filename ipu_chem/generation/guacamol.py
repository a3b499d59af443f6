"""Measures of GuacaMol for molecules that follow a distribution: KL divergences and the score of FCD.

N. Brown et al., "GuacaMol: benchmarking models for de novo molecular design", J. Chem. Inf. Model. 59, 1096 (2019).
There as here up to 10,000 different molecules without stereochemistry are compared with up to 10,000 of the training
set. Continuous values: densities by Gaussian kernels at 1,000 points between the least and the largest value of both
sides. Whole numbers: ten bins of the training set's range. 1e-10 is added to every density. The divergence is
KL(training || generated) in nats, the score the mean of exp(-KL).
"""

import math
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.generation.molecules import some
from ipu_chem.generation.similarity import tanimoto_blocks
from ipu_chem.parallel import in_parallel

CONTINUOUS = ("BertzCT", "MolLogP", "MolWt", "TPSA")  # of rdkit.Chem.Descriptors
WHOLE = ("NumHAcceptors", "NumHDonors", "NumRotatableBonds", "NumAliphaticRings", "NumAromaticRings")
SIMILARITY = "internal_similarity"
_COMPARED = 10_000
_BITS = 4096
_POINTS = 1000
_BINS = 10
_LEAST = 1e-10  # of a density


def kl_divergences(
    generated: Sequence[str], train: Sequence[str], workers: Optional[int] = None, progress: bool = False
) -> Dict[str, float]:
    """KL divergences of nine descriptors and of the similarity to the nearest other molecule of the same side.

    Args:
        generated: SMILES, in the order they were made.
        train: SMILES of the training set.
        workers: processes; None takes the cores this process may use.
        progress: show bars on stderr.

    Returns:
        Name -> nats; one that is not defined is left out, such as those of values that are all the same.
    """
    baseline = _described(some(train, _COMPARED), workers, "training" if progress else None)
    sampled = _described(generated, workers, "GuacaMol" if progress else None, _COMPARED)
    if min(len(baseline[0]), len(sampled[0])) < 2:
        return {}
    found = {}
    for column, name in enumerate(CONTINUOUS):
        found[name] = _of_densities(baseline[0][:, column], sampled[0][:, column])
    for column, name in enumerate(WHOLE, start=len(CONTINUOUS)):
        found[name] = _of_counts(baseline[0][:, column], sampled[0][:, column])
    found[SIMILARITY] = _of_densities(*(_nearest_other(prints) for _, prints in (baseline, sampled)))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def kl_score(divergences: Dict[str, float]) -> Optional[float]:
    """Mean of exp(-KL): 1 of the same distributions; None unless all ten are defined."""
    whole = len(divergences) == len(CONTINUOUS) + len(WHOLE) + 1
    return float(np.mean([math.exp(-value) for value in divergences.values()])) if whole else None


def fcd_score(distance: float) -> float:
    """Score of a Fréchet ChemNet distance to the training set: exp(-0.2 FCD), 1 of the same distributions."""
    return math.exp(-0.2 * distance)


def _described(
    smiles: Sequence[str], workers: Optional[int], title: Optional[str], most: int = 0
) -> Tuple[np.ndarray, np.ndarray]:
    """Descriptors [N, 9] and packed fingerprints [N, 512] of different molecules, the first `most` of them."""
    # RDKit writes the same molecule the same way, whatever stereochemistry was left out of it.
    flat: List[str] = [text for text in in_parallel(_without_stereo, smiles, workers) if text]
    different = list(dict.fromkeys(flat))
    rows = list(in_parallel(_describe, different[: most or None], workers, title=title))
    count = len(CONTINUOUS) + len(WHOLE)
    return (
        np.array([row[0] for row in rows], np.float64).reshape(-1, count),
        np.array([row[1] for row in rows], np.uint8).reshape(-1, _BITS // 8),
    )


def _without_stereo(smiles: str) -> str:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        return "" if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False)


def _describe(smiles: str) -> Tuple[List[float], np.ndarray]:
    from rdkit import Chem, rdBase
    from rdkit.Chem import Descriptors
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        values: List[Any] = [getattr(Descriptors, name)(mol) for name in (*CONTINUOUS, *WHOLE)]
        values = [value if math.isfinite(value) else 0.0 for value in values]
        return values, np.packbits(GetMorganGenerator(radius=2, fpSize=_BITS).GetFingerprintAsNumPy(mol))


def _nearest_other(prints: np.ndarray) -> np.ndarray:
    """Tanimoto similarity of each molecule to the nearest other, [N]."""
    nearest, first = [], 0
    for block in tanimoto_blocks(prints, prints):
        rows = np.arange(len(block))
        block[rows, first + rows] = 0.0
        nearest.append(block.max(1))
        first += len(block)
    return np.concatenate(nearest).astype(np.float64)


def _of_densities(baseline: np.ndarray, sampled: np.ndarray) -> float:
    """KL divergence of densities by Gaussian kernels; NaN where the values of a side are all the same."""
    from scipy.stats import entropy, gaussian_kde

    if min(np.ptp(baseline), np.ptp(sampled)) == 0.0:
        return math.nan
    both = np.concatenate([baseline, sampled])
    points = np.linspace(both.min(), both.max(), _POINTS)
    return float(entropy(*(gaussian_kde(side)(points) + _LEAST for side in (baseline, sampled))))


def _of_counts(baseline: np.ndarray, sampled: np.ndarray) -> float:
    """KL divergence of histograms; NaN where no value of the sample lies in the baseline's range."""
    from scipy.stats import entropy

    one, edges = np.histogram(baseline, _BINS, density=True)
    if not ((sampled >= edges[0]) & (sampled <= edges[-1])).any():
        return math.nan
    return float(entropy(one + _LEAST, np.histogram(sampled, edges, density=True)[0] + _LEAST))
