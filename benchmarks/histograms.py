"""Sizes of the data sets that packing is judged by: molecules per number of atoms.

QM9: R. Ramakrishnan et al., Sci. Data 1, 140022 (2014), the 130,831 molecules that remain without the 3,054
uncharacterised ones. HydroNet: S. Choudhury et al., arXiv:2012.00131, water clusters; its three sizes are
those of the packing study (H. Helal et al., arXiv:2211.13853, repository graphcore-research/hydronet-gnn).
"""

from typing import Dict

import numpy as np

# fmt: off
QM9 = {
    3: 2, 4: 4, 5: 5, 6: 12, 7: 20, 8: 65, 9: 172, 10: 483, 11: 1053, 12: 2189, 13: 4027, 14: 6758,
    15: 10216, 16: 13824, 17: 16969, 18: 17442, 19: 18146, 20: 12403, 21: 13166, 22: 4428, 23: 6362,
    24: 712, 25: 1923, 26: 59, 27: 356, 29: 35,
}
HYDRONET = {
    9: 2, 12: 10, 15: 19, 18: 106, 21: 470, 24: 577, 27: 4126, 30: 11448, 33: 26824, 36: 42641,
    39: 58452, 42: 80533, 45: 95820, 48: 96859, 51: 106987, 54: 112679, 57: 106808, 60: 121376,
    63: 314062, 66: 394711, 69: 353964, 72: 315329, 75: 482907, 78: 530503, 81: 392145, 84: 276037,
    87: 295831, 90: 243514,
}
HYDRONET_500K = {
    12: 1, 15: 5, 18: 23, 21: 87, 24: 97, 27: 763, 30: 2106, 33: 4917, 36: 7967, 39: 10704,
    42: 14935, 45: 17822, 48: 17662, 51: 19534, 54: 20736, 57: 19489, 60: 22139, 63: 57318,
    66: 72693, 69: 64525, 72: 57671, 75: 88806,
}
# fmt: on
HYDRONET_2_7M = {atoms: count for atoms, count in HYDRONET.items() if atoms <= 75}


def sizes_of(histogram: Dict[int, int]) -> np.ndarray:
    """Atoms of every molecule, [I] int64, smallest first."""
    return np.repeat(list(histogram), list(histogram.values()))


def all_pairs(atoms: np.ndarray) -> np.ndarray:
    """Edges of molecules in which every atom sees every other, [I]."""
    return atoms * (atoms - 1)
