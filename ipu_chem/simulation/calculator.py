"""A trained run as a calculator of ASE, for its dynamics, optimizers and everything else that moves atoms."""

from typing import Any, List, Optional, Sequence

import numpy as np
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes

from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.simulation.batch import Runs, load_force_fields
from ipu_chem.simulation.checks import charges_of, check_structure
from ipu_chem.simulation.program import DTYPES, OneMolecule, check_can_run, frozen_models
from ipu_chem.trained_run import ForceField
from packing.types import Ragged


class Calculator(AseCalculator):
    """Energies and forces of free molecules by one run, or the means of several.

    Forces are exact derivatives of the energy, also of runs that were trained on energies alone (which know them less
    well). Of several runs results also has "energy_std", eV, and "forces_std", [n, 3] eV/Å: their standard
    deviation. They run one after the other, in one recorded program.

    Models that take the charge and the unpaired electrons of a molecule read atoms.info["charge"] and ["spin"].
    """

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(
        self,
        members: Sequence[ForceField],
        accelerator: str = "cpu",
        skin: float = 0.5,
        threads: int = 0,
        dtype: str = "float32",
    ) -> None:
        """Get ready.

        Args:
            members: one force field, or several of the same architecture.
            accelerator: cpu or cuda.
            skin: Å, by which pairs that are kept may exceed the cutoff; they are searched anew when some atom has
                moved half of it, and change nothing until they come within the cutoff.
            threads: of torch, while it computes; 0 is one for less than 200 atoms, else as many as torch has.
            dtype: float32, or float64 for forces exact to more digits than the model knows.

        Raises:
            ValueError: no such accelerator or format, or a skin below 0.
        """
        super().__init__()
        check_can_run(accelerator, dtype, skin)
        self.members = list(members)
        self.skin = float(skin)
        self._program = OneMolecule(frozen_models(self.members), accelerator, DTYPES[dtype], threads)
        model: Any = self.members[0].config.model
        self._cutoff = model.cutoff
        self._numbers = np.zeros(0, np.int64)
        self._charges: List[int] = []
        self._built_at: Optional[np.ndarray] = None

    @classmethod
    def from_run(cls, runs: Runs, *options: Any, **named: Any) -> "Calculator":
        """The calculator of a run's folder, or of several runs' folders; other arguments as of the class.

        Raises:
            FileNotFoundError: there is no finished run.
            ValueError: the run did not learn an energy, or runs differ in their model.
        """
        return cls(load_force_fields(runs), *options, **named)

    def check_state(self, atoms: Any, tol: float = 1e-15) -> List[str]:
        """Changes that matter to energies: neither the cell nor magnetic moments."""
        before = self.atoms
        if before is None:
            return list(all_changes)
        changes = [name for name in ("positions", "numbers", "pbc") if not _same(before, atoms, name)]
        return changes + ["initial_charges"] * (charges_of(atoms, self.members) != self._charges)

    def calculate(
        self, atoms: Any = None, properties: Optional[List[str]] = None, system_changes: List[str] = all_changes
    ) -> None:
        """See ASE's; every call computes energy and forces.

        Raises:
            ValueError: periodic atoms, an element or a place that the model cannot have learned; says which.
        """
        super().calculate(atoms, properties or ["energy"], system_changes)
        positions = self.atoms.positions
        self._prepare(self.atoms, positions)
        energies, forces = self._program(positions)
        scales = np.array([member.scale for member in self.members])
        energies, forces = energies * scales + self._offsets, forces * scales[:, None, None]
        self.results = {"energy": float(energies.mean()), "forces": forces.mean(0)}
        self.results["free_energy"] = self.results["energy"]
        if len(self.members) > 1:
            self.results.update(energy_std=float(energies.std()), forces_std=forces.std(0))

    def check(self, atoms: Any) -> None:
        """Refuse atoms that `calculate` would refuse; computes nothing."""
        check_structure(atoms, self.members)

    def _prepare(self, atoms: Any, positions: np.ndarray) -> None:
        """Tensors of another molecule, pairs of other places."""
        numbers, charges = atoms.numbers, charges_of(atoms, self.members)
        same = np.array_equal(numbers, self._numbers) and charges == self._charges
        if same and self._built_at is not None and not atoms.pbc.any():
            moved = positions - self._built_at
            # A coordinate that is no number compares as False, and is refused below.
            if np.einsum("ij,ij->i", moved, moved).max() <= (self.skin / 2) ** 2:
                return
        self.check(atoms)
        if not same or self._built_at is None:
            extras = [np.array(value, kind) for value, kind in zip(charges, (np.int8, np.uint8))]
            self._program.set_atoms(numbers, extras)
            z = Ragged(np.asarray(numbers, np.uint8), np.array([0, len(numbers)]))
            self._offsets = np.array([member.offsets(z)[0] for member in self.members])
            self._numbers, self._charges = numbers.copy(), charges
        pairs = radius_pairs(positions, np.array([0, len(numbers)]), self._cutoff + self.skin)
        self._program.set_pairs(pairs.values)
        self._built_at = positions.copy()


def _same(one: Any, other: Any, name: str) -> bool:
    return np.array_equal(getattr(one, name), getattr(other, name))
