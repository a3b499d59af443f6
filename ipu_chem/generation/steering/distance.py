"""Distances of new molecules from those that a model was trained on."""

from typing import List, Optional, Sequence

import numpy as np

from ipu_chem.generation.descriptors import fingerprint
from ipu_chem.generation.similarity import tanimoto_blocks
from ipu_chem.parallel import in_parallel

_BLOCK = 1 << 14  # training molecules whose fingerprints are unpacked at once


def training_distance(smiles: Sequence[str], train: Sequence[str], workers: Optional[int] = None) -> float:
    """Mean Tanimoto distance of molecules to the nearest training molecule, of Morgan fingerprints of radius 2.

    Args:
        smiles: of molecules; those that RDKit cannot parse are left out.
        train: SMILES of the training molecules, one or more that RDKit can parse.
        workers: processes; None takes the cores this process may use.

    Returns:
        1 - the mean similarity, from 0 (all of them are training molecules) to 1; NaN without molecules.
    """
    return nearest_distance(*(fingerprints(one, workers) for one in (smiles, train)))


def nearest_distance(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Mean Tanimoto distance of fingerprints to the nearest of others, both [N, 128] uint8; NaN without any."""
    if not len(mine) or not len(theirs):
        return float("nan")
    nearest = np.zeros(len(mine))
    for first in range(0, len(theirs), _BLOCK):
        blocks = [block.max(1) for block in tanimoto_blocks(mine, theirs[first : first + _BLOCK])]
        nearest = np.maximum(nearest, np.concatenate(blocks))
    return float(1.0 - nearest.mean())


def fingerprints(smiles: Sequence[str], workers: Optional[int] = None) -> np.ndarray:
    """Morgan fingerprints of the molecules that RDKit can parse, [N, 128] uint8: 1,024 bits of radius 2."""
    found: List[np.ndarray] = [one for one in in_parallel(_fingerprint, smiles, workers) if one is not None]
    return np.array(found, np.uint8).reshape(len(found), -1)


def _fingerprint(smiles: str) -> Optional[np.ndarray]:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    return None if mol is None or not mol.GetNumAtoms() else fingerprint(mol)
