"""Consistency of forces and energies: between two near frames, the energy changes by the work of the forces.

For frames 1 and 2 of a molecule, E2 - E1 = -(F1 + F2)/2 . (r2 - r1) up to the third order of the step (trapezoidal
rule). The ratio of the left side to the right is 1; -1 for gradients that are called forces; and the ratio of two
units where those of energies and forces are mixed. The stored frames do not have to be of one trajectory: any two that
happen to be near each other will do, after each has been turned onto the first frame.
"""

import itertools
from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from ipu_chem.units import BOHR, ENERGIES, energy_unit
from packing.store import Store

# Å, largest step of any atom, and how far from 1 a ratio may be: up to the first, those of rMD17 and S66x8 are 0.93 to
# 1.01; up to the second, which is taken where there are too few, those of 3BPA 0.89 to 0.99.
_REACHES = ((0.2, 0.15), (0.5, 0.3))
_ENOUGH = 10  # pairs
_FRAMES = 2000  # of one molecule that are compared with each other
_MOLECULES = 200  # with frames that are compared
_CORRELATION = 0.8  # below it, forces have little to do with the energies; rMD17, S66x8 and 3BPA have more than 0.93
_NET = 0.01  # fraction of the forces that may be left when those on a molecule are summed
_UNITS = ("eV", "Hartree", "kcal/mol", "kJ/mol")


class ForceCheck(NamedTuple):
    """Result of a check.

    Attributes:
        pairs: near frames that were compared; the next two are NaN if they are too few.
        reach: Å, no atom of a pair moves farther.
        ratio: of changes of energy to the work of the forces; 1 if all is well.
        correlation: of the two.
        net: median over molecules of |sum of forces| / sum of |forces|; 0 for a free molecule.
    """

    pairs: int
    reach: float
    ratio: float
    correlation: float
    net: float


def check_energy_forces(store: Store) -> ForceCheck:
    """Compare forces with changes of energy.

    Args:
        store: with forces of info["forces_of"] and its label in y.

    Raises:
        ValueError: the store has no forces.
    """
    if "forces" not in store or "forces_of" not in store.info:
        raise ValueError("these molecules have no forces to check; name their energy with data.target.")
    names = [target["name"] for target in store.info["targets"]]
    energy = np.asarray(store.fields["y"], np.float64)[:, names.index(store.info["forces_of"])]
    parts: List[np.ndarray] = [np.zeros((3, 0))]
    for items in _same_molecule(store, energy):
        pos, forces = (store.ragged(name).take(items).values.reshape(len(items), -1, 3) for name in ("pos", "forces"))
        pos, forces = _turned(pos.astype(np.float64), forces.astype(np.float64))
        one, other = _nearest(pos)
        step = pos[other] - pos[one]
        work = -((forces[one] + forces[other]) / 2 * step).sum((1, 2))
        parts.append(np.stack([np.linalg.norm(step, axis=-1).max(1), work, energy[items[other]] - energy[items[one]]]))
    found = np.concatenate(parts, axis=1)
    near, reach = found, 0.0
    for reach, _ in _REACHES:
        # Two copies of a frame say nothing.
        near = found[:, (found[0] < reach) & (found[0] > 1e-6)]
        if near.shape[1] >= _ENOUGH:
            break
    _, x, y = near
    ratio = correlation = float("nan")
    if len(x) >= _ENOUGH and (x != 0).any() and (y != 0).any():
        ratio = float((x * y).sum() / (x * x).sum())
        correlation = float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
    return ForceCheck(len(x), reach, ratio, correlation, _net(store))


def report(found: ForceCheck, unit: str) -> List[str]:
    """Lines for a reader.

    Args:
        found: by `check_energy_forces`.
        unit: of the energies as the store says; "" if it does not.

    Raises:
        ValueError: forces are gradients, their unit is another, or they do not belong to the energies.
    """
    lines = []
    if found.net > _NET:
        lines.append(
            f"forces on a molecule add up to {found.net:.1%} of their size; on a free molecule they add up to nothing"
        )
    if np.isnan(found.ratio):
        return [
            *lines,
            f"forces not checked: {found.pairs} pairs of frames within {found.reach:g} Å, {_ENOUGH} would be enough",
        ]
    figures = (
        f"ratio {found.ratio:.4g}, correlation {found.correlation:.4f}, {found.pairs:,} pairs of frames within "
        f"{found.reach:g} Å"
    )
    slack = dict(_REACHES)[found.reach]
    if abs(found.correlation) < _CORRELATION:
        raise ValueError(
            f"forces do not give the changes of energies ({figures}): they are of other frames, atoms or a different "
            "level of theory, or of another label."
        )
    size, sign = abs(found.ratio), "" if found.ratio > 0 else ", and they look like gradients: change their sign"
    if abs(size - 1) > slack:
        raise ValueError(
            f"energies change {size:.4g} times as much as forces give ({figures}){_explain(size, unit, slack)}; bring "
            f"both to one unit{sign}."
        )
    if sign:
        raise ValueError(f"forces look like gradients ({figures}): they are -dE/dr, so change their sign.")
    return [*lines, f"forces agree with energies: {figures}"]


def _same_molecule(store: Store, energy: np.ndarray) -> Iterator[np.ndarray]:
    """Items with the same atoms in the same order, which have energies and forces; two or more."""
    offsets = store.axes["nodes"]
    known = np.isfinite(energy) & np.isfinite(np.asarray(store.fields["forces"])[offsets[:-1], 0])
    groups: Dict[bytes, List[int]] = {}
    z = store.ragged("z")
    for item in np.flatnonzero(known).tolist():
        frames = groups.setdefault(z[item].tobytes(), [])
        if len(frames) < _FRAMES:
            frames.append(item)
    found = [np.array(items) for atoms, items in groups.items() if len(items) > 1 and len(atoms) > 1]
    yield from sorted(found, key=len, reverse=True)[:_MOLECULES]


def _turned(pos: np.ndarray, forces: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Frames [k, n, 3] about their centroids, each turned onto the first one with its forces (Kabsch)."""
    pos = pos - pos.mean(1, keepdims=True)
    left, _, right = np.linalg.svd(np.swapaxes(pos, 1, 2) @ pos[0])
    flip = np.sign(np.linalg.det(left @ right))  # no mirror images
    left[:, :, 2] *= flip[:, None]
    return pos @ (left @ right), forces @ (left @ right)


def _nearest(pos: np.ndarray) -> np.ndarray:
    """[2, pairs]: every frame with the nearest other one, each pair once."""
    flat = pos.reshape(len(pos), -1)
    squares = (flat * flat).sum(1)
    distance = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    return np.unique(np.sort(np.stack([np.arange(len(pos)), distance.argmin(1)]), axis=0), axis=1)


def _net(store: Store) -> float:
    """Median over molecules of |sum of forces| / sum of |forces|."""
    forces, starts = np.asarray(store.fields["forces"], np.float64), store.axes["nodes"][:-1]
    size = np.add.reduceat(np.linalg.norm(forces, axis=1), starts)
    fraction = np.linalg.norm(np.add.reduceat(forces, starts), axis=1)[size > 0] / size[size > 0]
    return float(np.median(fraction)) if len(fraction) else 0.0


def _explain(size: float, unit: str, slack: float) -> str:
    """The units that explain a ratio; rather with energies in the unit that they are said to be in."""
    fits = []
    for energy, force, (length, per) in itertools.product(_UNITS, _UNITS, (("Å", 1.0), ("bohr", BOHR))):
        expected = ENERGIES[force.lower()] / ENERGIES[energy.lower()] / per
        off = abs(np.log(size / expected))
        if off < slack:
            said = energy_unit(unit) == ENERGIES[energy.lower()]
            fits.append(
                (not said, off, f", as energies in {energy} and forces in {force}/{length} do ({expected:.4g})")
            )
    return min(fits)[2] if fits else ""
