"""A step of molecular dynamics: one molecule in ASE beside SchNetPack's model there, and a hundred copies in a pack.

    python benchmarks/md_step.py [--quick] [--shared PATH] [--no-goals]

PaiNN of 128 features and three blocks, cutoff 5 Å, float32, one thread, velocity Verlet. Our run is trained for
seconds on frames of revised MD17 and moves at 300 K. SchNetPack's model has drawn weights that hardly move its atoms,
so that its neighbor list with a skin is never searched anew, which is in its favor; the faster of its lists counts. A
hundred copies move by pack and integrator alone, and by `ipu-chem md --copies 100` whole: loading, checks, frames,
plot. Seconds are CPU seconds. SchNetPack 2 has to be installed by itself.
"""

import os
import statistics
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from benchmarks.common import (
    Goals,
    Timing,
    arguments,
    in_child,
    interleaved,
    machine_line,
    median_ratio,
    print_table,
    throughput_line,
)
from benchmarks.engines import frames_of, train_run
from benchmarks.schnetpack_peer import modules

FEATURES, CUTOFF, COPIES, STEP_FS = 128, 5.0, 100, 0.5
STEPS, PACK_STEPS, COMMAND_STEPS, EPOCHS = 50, 20, 60, 15  # of a repetition; of the training
GOALS = {"one": 5.0, "pack": 10.0}
OURS, PACK, COMMAND = "ours in ASE", f"pack of {COPIES}", f"ipu-chem md --copies {COPIES}"
LISTS = ("SchNetPack, MatScipy's list", "SchNetPack, list with a skin")


def in_ase(calculator: Any, atoms: Any, temperature: float) -> Callable[[], Any]:
    """Steps of one molecule by ASE, from the same start each time."""
    from ase import units
    from ase.md.verlet import VelocityVerlet

    from ipu_chem.simulation.velocities import degrees_of_freedom, draw_velocities

    moving = atoms.copy()
    degrees = degrees_of_freedom(atoms.positions, "none")
    draw_velocities(moving, temperature, degrees, np.random.RandomState(0))
    momenta = moving.get_momenta()
    moving.calc = calculator
    dynamics = VelocityVerlet(moving, STEP_FS * units.fs)

    def steps() -> None:
        moving.set_positions(atoms.positions)
        moving.set_momenta(momenta)
        for _ in range(STEPS):
            dynamics.step()

    return steps


def schnetpack(atoms: Any) -> Dict[str, Callable[[], Any]]:
    """SchNetPack's calculator in ASE, by neighbor list."""
    spk, atomistic, representation, _ = modules()
    from schnetpack.interfaces import SpkCalculator
    from schnetpack.transform import MatScipyNeighborList, SkinNeighborList

    class Loaded(SpkCalculator):
        """The calculator of a model in memory; its file's form is one that this torch refuses to read."""

        def _load_model(self, model_file: Any) -> Any:
            return model_file.eval()

    basis = spk.nn.BesselRBF(20, CUTOFF)
    body = representation.PaiNN(FEATURES, 3, radial_basis=basis, cutoff_fn=spk.nn.CosineCutoff(CUTOFF))
    head = atomistic.Atomwise(FEATURES, output_key="energy")
    for layer in head.outnet.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1e-6)
    model = spk.model.NeuralNetworkPotential(
        body,
        input_modules=[atomistic.PairwiseDistances()],
        output_modules=[head, atomistic.Forces()],
        postprocessors=[spk.transform.CastTo64()],
    )
    made = {}
    neighbors = (MatScipyNeighborList(CUTOFF), SkinNeighborList(MatScipyNeighborList(CUTOFF), cutoff_skin=0.3))
    for name, neighbor_list in zip(LISTS, neighbors):
        calculator = Loaded(model, neighbor_list, energy_unit="eV", dtype=torch.float32)
        made[name] = in_ase(calculator, atoms, 0.0)
    return made


def pack(members: List[Any], atoms: Any) -> Callable[[], Any]:
    """Steps of all copies, from the same start each time."""
    from ipu_chem.simulation.integrators import Moving, VelocityVerlet, random_of
    from ipu_chem.simulation.moving import MovingPack
    from ipu_chem.simulation.velocities import degrees_of_freedom, draw_velocities

    copies = [atoms.copy() for _ in range(COPIES)]
    for number, one in enumerate(copies):
        degrees = degrees_of_freedom(one.positions, "none")
        draw_velocities(one, 300.0, degrees, random_of(0, number))
    moving_pack = MovingPack(members, copies, COPIES * len(atoms), threads=1)
    for one in copies:
        moving_pack.enter(one)
    positions, momenta, masses = (
        np.concatenate([getattr(one, f"get_{name}")() for one in copies]) for name in ("positions", "momenta", "masses")
    )
    integrator = VelocityVerlet(STEP_FS)

    def compute(places: np.ndarray) -> np.ndarray:
        moving_pack.positions[:] = places
        return moving_pack().force

    def steps() -> None:
        moving = Moving(positions, momenta, compute(positions), masses[:, None])
        for _ in range(PACK_STEPS):
            integrator.step(moving, compute)

    return steps


def command(run: Path, structure: Path, folder: Path) -> Callable[[], Any]:
    """All of the command, its start and end included."""
    from ipu_chem.simulation.md import run_md
    from ipu_chem.simulation.options import MdOptions

    count = iter(range(1000))

    def whole() -> None:
        out = str(folder / f"md{next(count)}")
        time = COMMAND_STEPS * STEP_FS / 1000
        run_md([str(run)], MdOptions(str(structure), copies=COPIES, time=time, out=out, progress=False, threads=1))

    return whole


def race(molecule: str, shared: str, quick: bool) -> Callable[[], Dict[str, Any]]:
    """In a process of its own: one molecule."""
    from ase.io import write

    from ipu_chem.simulation.batch import load_force_fields
    from ipu_chem.simulation.calculator import Calculator

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    folder = tempfile.TemporaryDirectory()
    run = train_run(molecule, Path(shared), Path(folder.name), 2 if quick else EPOCHS, FEATURES)
    atoms = frames_of(molecule, Path(shared), 1)[0]
    write(Path(folder.name) / "start.xyz", atoms, format="extxyz")
    members = load_force_fields(run)
    ours = {OURS: in_ase(Calculator(members, threads=1), atoms, 300.0)}
    many = {PACK: pack(members, atoms), COMMAND: command(run, Path(folder.name) / "start.xyz", Path(folder.name))}
    try:
        peers = schnetpack(atoms)
    except ImportError as error:
        print(f"NOT RUN: SchNetPack ({error})", file=sys.stderr)
        peers = {}

    def work() -> Dict[str, Any]:
        with folder:
            timings = interleaved({**peers, **ours, **many}, 2 if quick else 7, 1)
        done = {name: STEPS for name in timings}
        done.update({PACK: PACK_STEPS * COPIES, COMMAND: COMMAND_STEPS * COPIES})
        each = {name: Timing([s / done[name] for s in timing.seconds]) for name, timing in timings.items()}
        peer = min(peers, key=lambda name: each[name].median, default="")
        ratios = {name: median_ratio(each[peer], timing) for name, timing in each.items()} if peer else {}
        return {"seconds": {name: statistics.median(one.seconds) for name, one in each.items()}, "ratios": ratios}

    return work


def main() -> int:
    """Print the table; the exit status is 1 when a goal is missed."""
    args = arguments(__doc__)
    with suppress(ImportError):
        modules()  # or its version is not to be had
    print(machine_line("float32", "torch", "ase", "schnetpack", "matscipy"))
    goals, rows, best = Goals(), [], 0.0
    for molecule in ("ethanol",) if args.quick else ("ethanol", "aspirin"):
        result = in_child("benchmarks.md_step:race", molecule=molecule, shared=str(args.shared), quick=args.quick)
        found, ratios = result["result"]["seconds"], result["result"]["ratios"]
        for name, seconds in found.items():
            ratio = f"{ratios[name]:.1f}" if name in ratios else "-"
            rows.append([molecule, name, f"{1000 * seconds:.3f}", f"{1 / seconds:,.0f}", ratio])
        if ratios:
            goals.at_least(f"{molecule}: one molecule in ASE against SchNetPack there", ratios[OURS], GOALS["one"])
            goals.at_least(f"{molecule}: {COMMAND} against SchNetPack one at a time", ratios[COMMAND], GOALS["pack"])
        best = max(best, 1 / found[PACK])
    header = ["molecule", "", "ms per step of a molecule", "molecule-steps per CPU second", "x SchNetPack's faster"]
    print_table(f"Steps of {STEP_FS} fs, PaiNN of {FEATURES} features", header, rows)
    print(throughput_line(best, 1.0))
    return goals.finish(not args.no_goals)


if __name__ == "__main__":
    sys.exit(main())
