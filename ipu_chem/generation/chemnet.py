"""Fréchet ChemNet distance (FCD), by the network and the definition of the package `fcd`.

K. Preuer et al., J. Chem. Inf. Model. 58, 1736 (2018). The package brings the network's weights: extra `metrics`.
"""

import multiprocessing
from importlib.util import find_spec
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from ipu_chem.parallel import in_parallel

FEW = 2_000  # molecules; a distance of fewer is mostly noise of its 512 x 512 covariances
FEWEST = 2
_WIDTH = 512
_TOGETHER = 128  # molecules that the network reads at once, as in the package
_READ = 350  # characters that the network reads, the end included
_STARTS_PROCESSES = 8  # parts; for fewer, processes take longer to start than they save


class Activations(NamedTuple):
    """Mean [512] and covariance [512, 512], both float64, of what ChemNet makes of `count` molecules."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int


def is_installed() -> bool:
    """True where the package `fcd` can be imported."""
    return find_spec("fcd") is not None


def too_long(smiles: Sequence[str]) -> int:
    """Number of SMILES that the network cannot read at its usual length: the package pads all to the longest then."""
    return sum(len(text) >= _READ for text in smiles)


def activations(smiles: Sequence[str], workers: Optional[int] = None, title: Optional[str] = None) -> Activations:
    """Mean and covariance of ChemNet's activations.

    Args:
        smiles: canonical, of 2 or more molecules.
        workers: processes; None takes the cores this process may use.
        title: of a bar on stderr; None shows none.
    """
    assert len(smiles) >= FEWEST
    length = max(_READ, 1 + max(map(len, smiles)))
    parts = [(list(smiles[first : first + _TOGETHER]), length) for first in range(0, len(smiles), _TOGETHER)]
    total, products = np.zeros(_WIDTH), np.zeros((_WIDTH, _WIDTH))
    with tqdm(None, title, len(smiles), unit="molecule", disable=title is None, mininterval=0.5) as bar:
        for values in in_parallel(_activations, parts, workers, chunk=1, few=_STARTS_PROCESSES):
            wide = values.astype(np.float64)
            total += wide.sum(0)
            products += wide.T @ wide
            bar.update(len(values))
    count, mean = len(smiles), total / len(smiles)
    return Activations(mean, (products - count * np.outer(mean, mean)) / (count - 1), count)


def fcd(one: Activations, other: Activations) -> float:
    """Fréchet ChemNet distance: 0 of the same molecules, the smaller the better."""
    return frechet_distance(one.mean - other.mean, one.covariance, other.covariance)


def frechet_distance(shift: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians: |m - n|^2 + tr(C + D - 2 (C D)^(1/2)).

    Args:
        shift: m - n, [D].
        one: C, [D, D].
        other: D, [D, D].
    """
    # The trace of the root of C D is that of C^(1/2) D C^(1/2), which is symmetric: real eigenvalues, no noise.
    levels, axes = np.linalg.eigh(one)
    root = (axes * np.sqrt(levels.clip(0.0))) @ axes.T
    common = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0.0)).sum()
    return float(max(0.0, shift @ shift + np.trace(one) + np.trace(other) - 2.0 * common))


def _activations(part: Tuple[List[str], int]) -> np.ndarray:
    """Activations [n, 512] float32 of SMILES that are padded to a length."""
    import torch
    from fcd import load_ref_model
    from fcd.utils import SmilesDataset

    smiles, length = part
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)  # the other cores have processes of their own
    texts = SmilesDataset(smiles, pad_len=length)
    with torch.no_grad():
        letters = torch.stack([torch.from_numpy(texts[index]) for index in range(len(texts))])
        return load_ref_model()(letters.transpose(1, 2).float()).numpy()
