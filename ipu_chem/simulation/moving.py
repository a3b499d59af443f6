"""Energies and forces of many molecules whose atoms move, in a pack of one shape, by one run or the mean of several."""

from typing import Any, Dict, NamedTuple, Sequence, Tuple, Union

import numpy as np
import torch

from ipu_chem.backends.pytorch.numerics import denormals_flushed
from ipu_chem.simulation.checks import charges_of, check_structure
from ipu_chem.simulation.pack_programs import Groups, OneGraph
from ipu_chem.simulation.pairs import NeighborLists, formula, pairs_per_atom
from ipu_chem.simulation.program import DTYPES, are_whole, check_can_run, frozen_models, on_device, own_threads
from ipu_chem.simulation.slots import Slots
from ipu_chem.trained_run import ForceField
from packing.types import Ragged


class Found(NamedTuple):
    """Energies and forces of M runs, where G slots and N atoms have places; 0 in those that are empty or refused.

    Attributes:
        energies: [M, G] float64, eV.
        forces: [M, N, 3] float64, eV/Å.
        refused: slot -> why its molecule has no energy; the others do not notice.
    """

    energies: np.ndarray
    forces: np.ndarray
    refused: Dict[int, str]

    @property
    def energy(self) -> np.ndarray:
        """Means of the runs, [G]."""
        return self.energies[0] if len(self.energies) == 1 else self.energies.mean(0)

    @property
    def force(self) -> np.ndarray:
        """Means of the runs, [N, 3]."""
        return self.forces[0] if len(self.forces) == 1 else self.forces.mean(0)

    @property
    def spread(self) -> Tuple[np.ndarray, np.ndarray]:
        """Standard deviations of energies, [G], and of forces, [N, 3], among the runs."""
        return self.energies.std(0), self.forces.std(0)


class MovingPack(Slots):
    """Molecules in slots; a call gives their energies and forces wherever ``positions`` are then."""

    def __init__(
        self,
        members: Sequence[ForceField],
        waiting: Sequence[Any],
        atoms: int,
        accelerator: str = "cpu",
        skin: float = 0.5,
        threads: int = 0,
        dtype: str = "float32",
    ) -> None:
        """Choose a shape, and wait for molecules to `enter`.

        Args:
            members: one force field, or several of the same architecture.
            waiting: ase.Atoms that shall enter now or later; sizes and pairs decide on the shape.
            atoms: at most, unless one molecule has more.
            accelerator: cpu or cuda.
            skin: Å, by which pairs that are kept may exceed the cutoff; see `Calculator`.
            threads: of torch, while it computes; 0 is one for less than 200 atoms, else as many as torch has.
            dtype: of weights and positions in the model, float32 or float64.

        Raises:
            ValueError: no such accelerator or format, a skin below 0, or nothing waits.
        """
        check_can_run(accelerator, dtype, skin)
        if not waiting:
            raise ValueError("no molecules are waiting: give one or more.")
        sizes = np.sort([len(one) for one in waiting])
        total = int(max(min(atoms, sizes.sum()), sizes[-1]))
        most = max(int(np.searchsorted(np.cumsum(sizes), total, side="right")), 1)
        super().__init__(total, most)
        self.members = list(members)
        model: Any = members[0].config.model
        self._cutoff = float(model.cutoff)
        self.lists = NeighborLists(self, self._cutoff, float(skin))
        self._scales = np.array([member.scale for member in members])
        self._offsets = np.zeros((len(members), most))
        self._device, self._threads = torch.device(accelerator), threads
        models, _ = on_device(frozen_models(members), accelerator, DTYPES[dtype])
        # The model's positions, in the host's memory.
        self._pos = torch.zeros((total, 3), dtype=DTYPES[dtype])
        # Charge and unpaired electrons of each slot, for models that take them.
        self._charges = np.zeros((len(charges_of(waiting[0], members)), most), np.int64)
        self._program: Union[Groups, OneGraph]
        if are_whole(models):
            self._program = Groups(self, self.lists, models, self._cutoff)
        else:
            pairs = int(np.ceil(pairs_per_atom(waiting, self._cutoff + skin) * total))
            self._program = OneGraph(self, self.lists, models, pairs, self._charges, self._device)

    def enter(self, atoms: Any) -> int:
        """Take ase.Atoms in; returns their slot.

        Raises:
            ValueError: the runs cannot take it, or there is no room; see `fits`.
        """
        check_structure(atoms, self.members)
        slot = super().enter(atoms)
        z = Ragged(np.asarray(atoms.numbers, np.uint8), np.array([0, len(atoms)]))
        self._offsets[:, slot] = [member.offsets(z)[0] for member in self.members]
        self._charges[:, slot] = charges_of(atoms, self.members)
        self.lists.enter(slot)
        self._program.is_old = True
        return slot

    def leave(self, slot: int) -> None:
        """Empty a slot."""
        self.lists.leave(slot)
        super().leave(slot)
        self._offsets[:, slot] = 0.0
        self._program.is_old = True

    def __call__(self) -> Found:
        """Compute energies and forces."""
        self._program.is_old |= self.lists.update()
        # From the middle: far from the origin float32 would have no digits left for bonds.
        np.subtract(self.positions, self.lists.middle, out=self._pos.numpy(), casting="same_kind")
        with torch.no_grad(), denormals_flushed(self._device.type == "cpu"), own_threads(
            self._threads, len(self.system)
        ):
            energies, forces = self._program(self._pos)
        return self._in_ev(energies.double().cpu().numpy(), forces.double().cpu().numpy())

    def _in_ev(self, energies: np.ndarray, forces: np.ndarray) -> Found:
        """Real units, and molecules without finite values set apart."""
        refused = dict(self.lists.refused)
        energies, forces = energies * self._scales[:, None] + self._offsets, forces * self._scales[:, None, None]
        if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
            bad = self.sum((~np.isfinite(forces)).any(axis=(0, 2)).astype(float)) > 0
            for slot in np.flatnonzero(bad | ~np.isfinite(energies).all(0)).tolist():
                refused[slot] = f"{formula(self.numbers[self.places(slot)])}: its energy or a force is not finite."
        for slot in refused:
            energies[:, slot], forces[:, self.places(slot)] = 0.0, 0.0
        return Found(energies, forces, refused)
