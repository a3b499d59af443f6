"""A trained run as a force of OpenMM (8.6 or later), by its PythonForce: kJ/mol and nm there, eV and Å here."""

from importlib import import_module
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.simulation.engines.molecule import EngineMolecule
from ipu_chem.units import ENERGIES, LENGTHS

_KJ_PER_MOL, _NM = ENERGIES["kj/mol"], LENGTHS["nm"]  # eV, Å


def openmm_force(
    calculator: Any,
    topology: Any,
    atoms: Optional[Sequence[int]] = None,
    charge: Optional[int] = None,
    spin: Optional[int] = None,
) -> Any:
    """A force for ``system.addForce`` on a free molecule.

    Args:
        calculator: of `ipu_chem.simulation.calculator`.
        topology: openmm.app.Topology, which says the elements.
        atoms: indices of the molecule's atoms, if the system has others; forces between both are left to the user.
        charge: e; of models that take it.
        spin: unpaired electrons; of models that take them.

    Returns:
        openmm.PythonForce.

    Raises:
        ImportError: OpenMM is missing or too old; says how to get it.
        ValueError: a periodic topology, an atom without an element, or see `EngineMolecule`.
    """
    try:
        python_force: Any = import_module("openmm").PythonForce
        python_force.setParticles  # noqa: B018 (of 8.6)
    except (ImportError, AttributeError):
        raise ImportError("forces in Python need OpenMM 8.6 or later: pip install 'openmm>=8.6'") from None
    if topology.getPeriodicBoxVectors() is not None:
        raise ValueError(
            "the topology has a periodic box; runs know free molecules, so call "
            "topology.setPeriodicBoxVectors(None) if it holds one."
        )
    everyone = list(topology.atoms())
    chosen = everyone if atoms is None else [everyone[index] for index in atoms]
    for atom in chosen:
        if atom.element is None:
            raise ValueError(f"atom {atom.index} ({atom.name}) of the topology has no element; set atom.element.")
    numbers = [atom.element.atomic_number for atom in chosen]
    force = python_force(_Compute(EngineMolecule(calculator, numbers, charge, spin)))
    force.setName("ipu_chem")
    if atoms is not None:
        force.setParticles(list(atoms))
    return force


class _Compute:
    """The function that OpenMM calls at every step."""

    def __init__(self, molecule: EngineMolecule) -> None:
        self._molecule = molecule

    def __call__(self, state: Any) -> Tuple[float, np.ndarray]:
        """Energy, kJ/mol, and forces [n, 3], kJ/mol/nm, of a state of OpenMM."""
        energy, forces = self._molecule(state.getPositions(asNumpy=True)._value * _NM)
        return energy / _KJ_PER_MOL, forces * (_NM / _KJ_PER_MOL)
