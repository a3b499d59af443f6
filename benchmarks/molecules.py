"""Molecules with chemistry's distances, which decide how many edges there are: real QM9, water clusters made up."""

from pathlib import Path
from typing import Tuple

import numpy as np

from benchmarks.histograms import HYDRONET_500K, QM9, sizes_of
from packing import Ragged
from packing.store import Store

_O_O = (2.6, 2.95)  # Å, between neighboring oxygens of a cluster
_O_H = 0.96  # Å
_NEAREST = 2.5  # Å, no two oxygens are nearer


def qm9(shared: Path, count: int, seed: int = 0) -> Tuple[Store, str]:
    """Molecules of QM9 at random, and a line that says what they are.

    Args:
        shared: folder of real data; without ``data/qm9/qm9_geometries.npz`` molecules of QM9's sizes are made up.
        count: of molecules.
        seed: of the choice.
    """
    random = np.random.default_rng(seed)
    file = shared / "data" / "qm9" / "qm9_geometries.npz"
    if file.is_file():
        with np.load(file) as data:
            atoms, z = data["N"].astype(np.int64), data["Z"]
            pos = ((data["R_hi"].astype(np.int32) << 16) | data["R_lo"]) / 1e4
        origin = f"{count:,} molecules of QM9"
    else:
        atoms = random.permutation(sizes_of(QM9))[:count]
        z = random.choice(np.array([1, 6, 7, 8], np.uint8), atoms.sum())
        # Neighbouring places of a grid a bond length apart, shaken a little.
        grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3) * 1.5
        pos = np.concatenate([grid[random.permutation(64)[:n]] for n in atoms]) + random.uniform(-0.1, 0.1, (len(z), 3))
        origin = f"{count:,} SYNTHETIC molecules of QM9's sizes"
    offsets = np.concatenate([[0], np.cumsum(atoms)])
    chosen = random.permutation(len(atoms))[:count]
    nodes, places = Ragged(z, offsets).take(chosen), Ragged(pos.astype(np.float32), offsets).take(chosen)
    return _store(random, nodes, places), origin


def water_clusters(count: int, seed: int = 0) -> Tuple[Store, str]:
    """Water clusters in the sizes of HydroNet's 500,000, grown at random, and a line that says so."""
    random = np.random.default_rng(seed)
    sizes = random.permutation(sizes_of(HYDRONET_500K))[:count]
    clusters = [_cluster(random, int(size) // 3) for size in sizes]
    z = Ragged.from_list([np.tile(np.array([8, 1, 1], np.uint8), len(cluster) // 3) for cluster in clusters])
    return _store(random, z, Ragged.from_list(clusters)), f"{count:,} SYNTHETIC water clusters of HydroNet's sizes"


def _cluster(random: np.random.Generator, waters: int) -> np.ndarray:
    """[3 * waters, 3] float32, Å: every oxygen next to one that was there before."""
    oxygens = np.zeros((waters, 3))
    placed = 1
    while placed < waters:
        beside = oxygens[random.integers(0, placed)]
        place = beside + _directions(random, 1)[0] * random.uniform(*_O_O)
        if np.linalg.norm(oxygens[:placed] - place, axis=1).min() >= _NEAREST:
            oxygens[placed] = place
            placed += 1
    hydrogens = oxygens[:, None] + _O_H * _directions(random, 2 * waters).reshape(waters, 2, 3)
    return np.concatenate([oxygens[:, None], hydrogens], 1).reshape(-1, 3).astype(np.float32)


def _directions(random: np.random.Generator, count: int) -> np.ndarray:
    """[count, 3] unit vectors."""
    vectors = random.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _store(random: np.random.Generator, z: Ragged, pos: Ragged) -> Store:
    """Molecules with random labels."""
    fields = {"z": z.values, "pos": pos.values, "y": random.normal(size=(len(z), 1))}
    return Store({"nodes": z.offsets}, fields, {"z": "nodes", "pos": "nodes"}, {})
