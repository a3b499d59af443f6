"""A trained run as a calculator of ASE, for its dynamics, optimizers and everything else that moves atoms."""

from typing import Any, List, Optional, Sequence

import numpy as np
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes

from ipu_chem.data.neighbors import radius_pairs
from ipu_chem.models.registry import needs_charge
from ipu_chem.simulation.batch import Runs, load_force_fields
from ipu_chem.simulation.checks import charges_of, check_structure
from ipu_chem.simulation.program import DTYPES, OneMolecule, check_can_run, frozen_models
from ipu_chem.trained_run import ForceField
from packing.types import Ragged

_SUSPECT = 0.2  # Å; atoms this close may be some that `check` refuses


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
        self._cutoff, self._takes_charge = model.cutoff, needs_charge(model.name)
        self._scales = np.array([member.scale for member in self.members])
        self.use_cache = False  # of ASE, which would copy atoms once more: `calculate` does
        self._last: Any = None  # copy of the atoms of the last call
        self._numbers = np.zeros(0, np.int64)
        self._charges: List[int] = []
        self._built_at: Optional[np.ndarray] = None
        self._pairs = np.zeros((0, 2), np.int64)

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
        return changes + ["initial_charges"] * (self._charges_of(atoms) != self._charges)

    def calculate(
        self, atoms: Any = None, properties: Optional[List[str]] = None, system_changes: List[str] = all_changes
    ) -> None:
        """See ASE's; every call computes energy and forces.

        Raises:
            ValueError: periodic atoms, an element or a place that the model cannot have learned; says which.
        """
        if atoms is not None:
            if system_changes == ["positions"] and self._last is not None:
                self._last.positions[:] = atoms.positions
            else:
                self._last = atoms.copy()
            self.atoms = self._last
        positions = self.atoms.positions
        self._prepare(self.atoms, positions)
        energies, forces = self._program(positions)
        energies, forces = energies * self._scales + self._offsets, forces * self._scales[:, None, None]
        if len(self.members) == 1:
            energy = float(energies[0])
            self.results = {"energy": energy, "free_energy": energy, "forces": forces[0]}
            return
        energy = float(energies.mean())
        self.results = {"energy": energy, "free_energy": energy, "forces": forces.mean(0)}
        self.results.update(energy_std=float(energies.std()), forces_std=forces.std(0))

    def check(self, atoms: Any) -> None:
        """Refuse atoms that `calculate` would refuse; computes nothing."""
        check_structure(atoms, self.members)

    def _prepare(self, atoms: Any, positions: np.ndarray) -> None:
        """Tensors of another molecule, pairs of other places."""
        numbers, charges = atoms.numbers, self._charges_of(atoms)
        same = self._built_at is not None and numbers.tobytes() == self._numbers.tobytes() and charges == self._charges
        if same and not atoms.pbc.any():
            moved = positions - self._built_at
            farthest = np.einsum("ij,ij->i", moved, moved).max()
            if farthest <= (self.skin / 2) ** 2:
                return
            same = bool(np.isfinite(farthest))
        self._built_at = None  # until all is well: what is refused below must not leave its pairs to other places
        if not same or atoms.pbc.any():
            self.check(atoms)
            extras = [np.array(value, kind) for value, kind in zip(charges, (np.int8, np.uint8))]
            self._program.set_atoms(numbers, extras)
            z = Ragged(np.asarray(numbers, np.uint8), np.array([0, len(numbers)]))
            self._offsets = np.array([member.offsets(z)[0] for member in self.members])
            self._numbers, self._charges = numbers.copy(), charges
        every = len(numbers) * (len(numbers) - 1) // 2
        if not same or len(self._pairs) < every:  # no search finds more than every pair
            self._pairs = radius_pairs(positions, np.array([0, len(numbers)]), self._cutoff + self.skin).values
            self._program.set_pairs(self._pairs)
        if same and len(self._pairs):
            apart = positions[self._pairs[:, 0]] - positions[self._pairs[:, 1]]
            if np.einsum("ij,ij->i", apart, apart).min() < _SUSPECT**2:
                self.check(atoms)
        self._built_at = positions.copy()

    def _charges_of(self, atoms: Any) -> List[int]:
        return charges_of(atoms, self.members) if self._takes_charge else []


def _same(one: Any, other: Any, name: str) -> bool:
    return getattr(one, name).tobytes() == getattr(other, name).tobytes()
