"""Energies and forces of many structures at once, in packs of one shape."""

from contextlib import closing
from dataclasses import replace
from io import StringIO
from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.backends import get_backend
from ipu_chem.backends.options import Precision
from ipu_chem.batches.loader import PackLoader
from ipu_chem.config import RunConfig
from ipu_chem.data.edges import edges_in_memory
from ipu_chem.data.molecule import molecules_to_store
from ipu_chem.losses import loss_by_name, with_forces
from ipu_chem.models.registry import needs_charge
from ipu_chem.simulation.force_field import Runs, load_force_fields
from ipu_chem.simulation.structures import to_atoms, to_molecule
from ipu_chem.tasks.evaluation import PerAtom, PerMolecule, predict
from ipu_chem.tasks.graphs import check_charges
from packing import make_plan
from packing.files import PathLike, atomic_file
from packing.store import Store
from packing.tune import fit_budget


class Evaluation(NamedTuple):
    """What one run, or the mean of several, says of I structures.

    Attributes:
        energies: [I] float64, eV.
        forces: I arrays [n, 3] float64, eV/Å.
        energies_std: [I], how far several runs disagree, see `Calculator`; None for one run.
        forces_std: I arrays [n, 3]; None for one run.
    """

    energies: np.ndarray
    forces: List[np.ndarray]
    energies_std: Optional[np.ndarray] = None
    forces_std: Optional[List[np.ndarray]] = None


def evaluate_many(runs: Runs, structures: Sequence[Any], accelerator: Optional[str] = None) -> Evaluation:
    """Energies and forces of structures of any sizes; the program is compiled once, also for several runs.

    Args:
        runs: folders of one run, or of several of the same architecture.
        structures: ase.Atoms or `Molecule`, charge and spin in ``info`` or attributes where the model takes them.
        accelerator: another device than the first run was trained on.

    Raises:
        FileNotFoundError: there is no finished run.
        ValueError: a run is no force field, or a structure is one that the runs cannot take; names it.
    """
    members = load_force_fields(runs)
    config = _plain(members[0].config, accelerator)
    molecules = [to_molecule(one) for one in structures]
    store = edges_in_memory(molecules_to_store(molecules), config.model.cutoff)
    for number, molecule in enumerate(molecules):
        for member in members:
            member.check_elements(molecule.z, molecule.name or f"structure {number}")
    check_charges(store, config.model)
    loader = _loader(store, config)
    # Runs may differ in where they have their filters from, but not in the program.
    exact = len({member.config.model.filter for member in members}) > 1
    z, energies, forces = store.ragged("z"), [], []
    with closing(get_backend(config.accelerator, config.torch, config.ipu, config.precision)) as backend:
        loss = with_forces(loss_by_name(config.loss), config.force_share or 0.5)  # of no labels, but a part of programs
        model, example = members[0].model(exact), loader.example(training=False)
        backend.compile(model, loss, None, config.batching, example)
        for member in members:
            backend.load_state_dict({"model": member.weights})
            energy, force = predict(backend, loader, [PerMolecule(len(z), 1), PerAtom(z.offsets)])
            energies.append(energy[:, 0] * member.scale + member.offsets(z))
            forces.append(force * member.scale)
    mean = Evaluation(np.mean(energies, 0), _split(np.mean(forces, 0), z.offsets))
    if len(members) == 1:
        return mean
    return mean._replace(energies_std=np.std(energies, 0), forces_std=_split(np.std(forces, 0), z.offsets))


def write_extxyz(path: PathLike, structures: Sequence[Any], evaluation: Evaluation) -> None:
    """Structures with energy in their comment lines, eV, and a column of forces, eV/Å.

    Args:
        path: to write.
        structures: as for `evaluate_many`.
        evaluation: of them.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    text = StringIO()
    for number, structure in enumerate(structures):
        atoms = to_atoms(to_molecule(structure))
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(evaluation.energies[number]), forces=evaluation.forces[number]
        )
        write(text, atoms, format="extxyz")
    with atomic_file(path, "w") as file:
        file.write(text.getvalue())


def _plain(config: RunConfig, accelerator: Optional[str]) -> RunConfig:
    """The run's configuration without what does not go with forces."""
    torch = replace(config.torch, compile=False, compile_blocks=False, cuda_graphs=False)
    return replace(config, torch=torch, precision=Precision(), accelerator=accelerator or config.accelerator)


def _loader(store: Store, config: RunConfig) -> PackLoader:
    """Packs of all structures, without labels."""
    sizes = {axis: store.sizes()[axis] for axis in ("nodes", "edges")}
    budget = fit_budget(sizes, {})
    plan = make_plan(sizes, budget, "best_fit")
    return PackLoader(
        store,
        np.arange(len(store)),
        plan,
        np.full((len(store), 1), np.nan),
        budget.replace(graphs=plan.max_items_per_pack),
        config.batching,
        charges=needs_charge(config.model.name),
        forces=np.full((len(store.fields["z"]), 3), np.nan),
    )


def _split(values: np.ndarray, offsets: np.ndarray) -> List[np.ndarray]:
    return np.split(values, offsets[1:-1])
