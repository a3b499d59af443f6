"""Doubts about the unit of positions, from the shortest distances between atoms."""

from typing import Optional, Sequence, Tuple

import numpy as np

_SAMPLE = 200  # molecules, evenly from all
_ATOMS = 400  # of each, the first
_NOBLE = (2, 10, 18, 36, 54, 86)  # which no bond holds
# Shortest distance in a molecule by the sum of covalent radii, median over molecules: H2 1.19, N2 0.77 when it is in
# Å. Bounds of what it is in bohr (1.89 times as much), nm and pm.
_RATIOS = (("bohr", 1.4, 2.3), ("nm", 0.05, 0.15), ("pm", 60.0, 130.0))


def length_doubt(z: Sequence[np.ndarray], pos: Sequence[np.ndarray]) -> Optional[Tuple[str, str]]:
    """The unit that positions are likely in, and a sentence on distances; None if Å fits.

    Args:
        z: [n] atomic numbers of every molecule.
        pos: [n, 3] of every molecule, taken for Å.
    """
    from ase.data import covalent_radii

    shortest, ratios = [], []
    for item in np.unique(np.linspace(0, len(z) - 1, _SAMPLE).astype(int)) if len(z) else ():
        numbers = np.clip(np.asarray(z[item][:_ATOMS], np.int64), 0, len(covalent_radii) - 1)
        places = np.asarray(pos[item][:_ATOMS], np.float64)
        if len(numbers) < 2 or not np.isfinite(places).all() or np.isin(numbers, _NOBLE).any():
            continue
        one, other = np.triu_indices(len(numbers), 1)
        distances = np.linalg.norm(places[one] - places[other], axis=1)
        relative = distances / (covalent_radii[numbers[one]] + covalent_radii[numbers[other]])
        nearest = int(relative.argmin())
        shortest.append(distances[nearest])
        ratios.append(relative[nearest])
    if not ratios:
        return None
    median = float(np.median(ratios))
    for unit, low, high in _RATIOS:
        if low < median < high:
            span = f"{min(shortest):.3g} to {max(shortest):.3g}" if len(shortest) > 1 else f"{shortest[0]:.3g}"
            usual = float(np.median(shortest)) / median
            return unit, (
                f"the shortest distances between atoms are {span} (median {np.median(shortest):.3g}), where bonds of "
                f"these elements have about {usual:.2g} Å; positions look like {unit}"
            )
    return None
