"""Conformers of drug-like molecules relaxed in packs, against ASE's BFGS on one at a time.

    python benchmarks/relax_many.py [--count 1000] [--run FOLDER] [--out FOLDER] [--dtype float64]
        [--moved 100] [--autograd 20] [--quick] [--shared PATH] [--no-goals]

RDKit embeds molecules of ZINC. A small PaiNN that has learned RDKit's MMFF94 for some minutes moves their atoms; with
``--run`` a force field that was trained elsewhere does, on molecules of its elements. Contestants take turns on chunks
of molecules, one thread each: `ipu-chem relax` and our calculator with ``ase.optimize.BFGS``; on fewer molecules the
latter from starts that differ by 1e-6 Å, which shows how far minima depend on rounding, and with autograd in place of
native kernels. After each chunk it says how long the others will take. A figure is molecules per CPU second, a ratio
the median over chunks of times a step. Exits with 1 when a goal is missed.
"""

import argparse
import gzip
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.common import Goals, arguments, machine_line, print_table, throughput_line

PACKS, LOOP, MOVED, AUTOGRAD = "packs", "ASE, one at a time", "ASE, start moved", "ASE with autograd"
FMAX, STEPS, CHUNK = 0.01, 500, 50
COMMON = (1, 6, 7, 8, 9, 16)  # elements of most drugs
_KCAL = 0.0433641153  # eV, one kcal/mol
# Where RDKit cannot be fed with ZINC: some drugs.
_SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CC(=O)Nc1ccc(O)cc1", "CN1C=NC2=C1C(=O)N(C)C(=O)N2C"]


class Minimum(NamedTuple):
    """End of a relaxation."""

    energy: float  # eV
    converged: bool
    steps: int


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the table; the exit status is 1 when a goal is missed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--moved", type=int, default=-1, help="molecules whose starts are moved; a tenth by default")
    parser.add_argument("--autograd", type=int, default=-1, help="molecules; a fiftieth by default")
    own, rest = parser.parse_known_args(argv)
    options = arguments(__doc__, rest)
    torch.set_num_threads(1)
    print(machine_line(own.dtype, "torch", "ase", "rdkit"))
    folder = own.out or Path(tempfile.mkdtemp(prefix="relax-"))
    run = own.run or folder / "run"
    smiles = drugs(options.shared)
    elements = COMMON if own.run is None else elements_of(own.run)
    structures = conformers(smiles, min(own.count, 20) if options.quick else own.count, elements)
    if own.run is None and not (run / "checkpoints" / "best.safetensors").is_file():
        train(smiles, folder, 40 if options.quick else 500, 2 if options.quick else 10)
    sizes = [len(atoms) for atoms in structures]
    print(f"{len(structures)} conformers of {min(sizes)} to {max(sizes)} atoms, {np.mean(sizes):.1f} on average")
    few = {
        MOVED: -(-len(structures) // 10) if own.moved < 0 else own.moved,
        AUTOGRAD: -(-len(structures) // 50) if own.autograd < 0 else own.autograd,
    }
    results = race(run, structures, few, own.dtype)
    return report(results, len(structures), options.no_goals)


def drugs(shared: Path) -> Iterator[Any]:
    """Neutral molecules of ZINC with their hydrogen atoms, of RDKit, in an order that is always the same."""
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    file, lines = shared / "data" / "smiles" / "zinc250k.smi.gz", list(_SMILES)
    if file.is_file():
        with gzip.open(file, "rt") as text:
            lines = [line.split()[0] for line in text]
    else:
        print("NOT ZINC: four drugs again and again", file=sys.stderr)
        lines *= 2000
    for number in np.random.default_rng(0).permutation(len(lines)).tolist():
        molecule = Chem.AddHs(Chem.MolFromSmiles(lines[number]))
        if all(atom.GetFormalCharge() == 0 for atom in molecule.GetAtoms()):
            yield molecule


def elements_of(run: Path) -> List[int]:
    """Atomic numbers that a run was trained on."""
    from ipu_chem.trained_run import TrainedRun

    return list(TrainedRun.load(run).force_field().standardizer.elements)


def embedded(smiles: Iterator[Any], count: int, elements: Sequence[int] = COMMON) -> Iterator[Any]:
    """The next molecules of some elements that RDKit embeds and MMFF94 knows."""
    from rdkit.Chem import AllChem

    while count:
        molecule = next(smiles, None)
        if molecule is None:
            raise ValueError(f"there are {count} molecules of the run's elements too few: give a smaller --count.")
        known = {atom.GetAtomicNum() for atom in molecule.GetAtoms()} <= set(elements)
        known = known and AllChem.MMFFHasAllMoleculeParams(molecule)  # type: ignore[attr-defined]
        if known and AllChem.EmbedMolecule(molecule, randomSeed=1) == 0:  # type: ignore[attr-defined]
            count -= 1
            yield molecule


def conformers(smiles: Iterator[Any], count: int, elements: Sequence[int] = COMMON) -> List[Any]:
    """Neutral molecules as RDKit embeds them, ase.Atoms."""
    from ase import Atoms

    neutral = {"charge": 0, "spin": 0}  # for models that take them
    return [
        Atoms([atom.GetAtomicNum() for atom in one.GetAtoms()], one.GetConformer().GetPositions(), info={**neutral})
        for one in embedded(smiles, count, elements)
    ]


def train(smiles: Iterator[Any], folder: Path, molecules: int, epochs: int) -> None:
    """Train a PaiNN on MMFF94's energies and forces on the way from conformers to their minima, and around."""
    from ipu_chem.config import from_dict
    from ipu_chem.data.structures import write_extxyz
    from ipu_chem.train import train as train_run

    folder.mkdir(parents=True, exist_ok=True)
    frames = [frame for molecule in embedded(smiles, molecules) for frame in mmff_frames(molecule)]
    write_extxyz(folder / "frames.extxyz", frames)
    data = {"name": "file", "path": str(folder / "frames.extxyz"), "target": "energy", "unit": "eV"}
    config: Dict[str, Any] = {
        "data": {**data, "validation": 0.05, "test": 0.05},
        "model": {"name": "painn", "hidden_features": 64, "num_interactions": 3, "num_radial": 20, "cutoff": 5.0},
        "force_share": 0.95,
        "optimizer": {"learning_rate": 1e-3, "max_grad_norm": 10.0},
        "schedule": {"name": "cosine", "warmup_steps": 50, "min_factor": 0.01},
        "batching": {"micro_batch_size": 1},
        "training": {"epochs": epochs, "evaluate_every": 3, "ema_decay": 0.99, "report": False},
        "accelerator": "cpu",
        "out": str(folder / "run"),
    }
    train_run(from_dict(config))


def mmff_frames(molecule: Any) -> Iterator[Any]:
    """Four frames of a molecule with energies, eV, and forces, eV/Å, ase.Atoms."""
    from ase import Atoms
    from rdkit.Chem import rdForceFieldHelpers

    from ipu_chem.data.structures import with_results

    random = np.random.default_rng(molecule.GetNumAtoms())
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, properties)
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    for iterations, noise in ((0, 0.0), (5, 0.02), (30, 0.08), (200, 0.04)):
        if iterations:
            field.Minimize(maxIts=iterations)
        place = np.reshape(field.Positions(), (-1, 3)) + random.normal(0, noise, (len(numbers), 3))
        energy, gradient = field.CalcEnergy(place.reshape(-1).tolist()), field.CalcGrad(place.reshape(-1).tolist())
        yield with_results(Atoms(numbers, place), energy * _KCAL, -np.reshape(gradient, (-1, 3)) * _KCAL)


def race(run: Path, structures: Sequence[Any], few: Mapping[str, int], dtype: str) -> Dict[str, Dict[str, Any]]:
    """Relax chunk after chunk by all contestants in turns.

    Args:
        few: contestant -> molecules it takes in all, of chunks that lie evenly among the others.

    Returns:
        seconds, steps: contestant -> chunk -> CPU seconds a molecule, and a step; minima: contestant -> molecule ->
        `Minimum`.
    """
    from ipu_chem.models.forces import EnergyForces
    from ipu_chem.models.spookynet import SpookyNet
    from ipu_chem.simulation.batch import load_force_fields
    from ipu_chem.simulation.calculator import Calculator
    from ipu_chem.simulation.options import RelaxOptions
    from ipu_chem.simulation.relax import relax_many

    members = load_force_fields(run)
    slow = Calculator(members, dtype=dtype)
    for part in (part for model in slow._program._models for part in model.modules()):
        if isinstance(part, (EnergyForces, SpookyNet)):  # as it was before there were native kernels
            part.kernel = None
    slow._program._is_native = False
    options = RelaxOptions(fmax=FMAX, steps=STEPS, dtype=dtype)

    def in_packs(chunk: Sequence[Any]) -> List[Minimum]:
        return [
            Minimum(one.atoms.get_potential_energy(), one.converged, one.steps)
            for one in relax_many(members, chunk, options)
        ]

    contestants: Dict[str, Callable[[Sequence[Any]], List[Minimum]]] = {
        PACKS: in_packs,
        LOOP: lambda chunk: _one_by_one(Calculator(members, dtype=dtype), chunk),
        MOVED: lambda chunk: _one_by_one(Calculator(members, dtype=dtype), _moved(chunk)),
        AUTOGRAD: lambda chunk: _one_by_one(slow, chunk),
    }
    contestants = {name: contestant for name, contestant in contestants.items() if few.get(name, 1)}
    seconds: Dict[str, Dict[int, float]] = {name: {} for name in contestants}
    steps: Dict[str, Dict[int, float]] = {name: {} for name in contestants}
    minima: Dict[str, Dict[int, Minimum]] = {name: {} for name in contestants}
    chunks = [structures[first : first + CHUNK] for first in range(0, len(structures), CHUNK)]
    in_packs(chunks[0][:2])  # libraries are loaded
    began = time.monotonic()
    for number, chunk in enumerate(chunks):
        names = list(contestants)[:: 1 if number % 2 else -1]
        for name in names:
            given = chunk
            if name in few:
                given = chunk[: (number + 1) * few[name] // len(chunks) - number * few[name] // len(chunks)]
            if not given:
                continue
            start = time.process_time()
            found = contestants[name](given)
            spent = time.process_time() - start
            minima[name].update(enumerate(found, number * CHUNK))
            seconds[name][number] = spent / len(given)
            steps[name][number] = spent / sum(one.steps for one in found)
        timed = ", ".join(f"{name} {steps[name][number] * 1000:.2f}" for name in names if number in steps[name])
        left = (time.monotonic() - began) / (number + 1) * (len(chunks) - number - 1) / 60
        print(f"chunk {number + 1} of {len(chunks)}, {left:.0f} minutes left: ms a step: {timed}", file=sys.stderr)
    return {"seconds": seconds, "steps": steps, "minima": minima}


def _moved(structures: Sequence[Any]) -> List[Any]:
    random, moved = np.random.default_rng(0), [one.copy() for one in structures]
    for atoms in moved:
        atoms.positions += random.uniform(-1e-6, 1e-6, atoms.positions.shape)
    return moved


def _one_by_one(calculator: Any, structures: Sequence[Any]) -> List[Minimum]:
    from ase.optimize import BFGS

    found = []
    for one in structures:
        atoms = one.copy()
        atoms.calc = calculator
        optimizer = BFGS(atoms, logfile=None)
        try:
            converged = bool(optimizer.run(fmax=FMAX, steps=STEPS))
            found.append(Minimum(atoms.get_potential_energy(), converged, int(optimizer.nsteps)))
        except ValueError:  # atoms that met
            found.append(Minimum(float("nan"), False, int(optimizer.nsteps)))
    return found


def report(results: Dict[str, Any], count: int, no_goals: bool) -> int:
    """Print figures and goals."""
    seconds, minima = results["seconds"], results["minima"]
    ratios = {
        name: statistics.median(slow / results["steps"][PACKS][chunk] for chunk, slow in each.items())
        for name, each in results["steps"].items()
    }
    rows = [
        [
            name,
            f"{len(minima[name]):,}",
            f"{1 / statistics.median(seconds[name].values()):.2f}",
            f"{statistics.median(results['steps'][name].values()) * 1000:.2f}",
            f"{np.mean([one.steps for one in minima[name].values()]):.0f}",
            f"{np.mean([one.converged for one in minima[name].values()]):.1%}",
            f"{ratios[name]:.2f}",
        ]
        for name in seconds
    ]
    print_table(
        f"BFGS to {FMAX} eV/Å, {STEPS} steps at most, one thread",
        ["", "molecules", "molecules per CPU second", "ms a step", "steps", "at rest", "x packs"],
        rows,
    )
    same = {name: _same(minima[name], minima[LOOP]) for name in (PACKS, MOVED) if name in minima}
    for name, fraction in same.items():
        print(f"{name}: {fraction:.1%} of the minima within 1 meV of those of {LOOP}")
    goals = Goals()
    goals.at_least("fraction of minima within 1 meV of the ASE loop's", same[PACKS], 0.99)
    goals.at_least("packs against the ASE loop, time of a step", ratios[LOOP], 5.0)
    if AUTOGRAD in ratios:
        goals.at_least("packs against the ASE loop with autograd, time of a step", ratios[AUTOGRAD], 5.0)
    print(throughput_line(count, statistics.mean(seconds[PACKS].values()) * count))
    return goals.finish(not no_goals)


def _same(ours: Mapping[int, Minimum], theirs: Mapping[int, Minimum]) -> float:
    """Fraction of the molecules at rest on both sides whose energies differ by less than 1 meV."""
    both = [number for number in ours if ours[number].converged and theirs[number].converged]
    return float(np.mean([abs(ours[number].energy - theirs[number].energy) < 1e-3 for number in both]))


if __name__ == "__main__":
    sys.exit(main())
