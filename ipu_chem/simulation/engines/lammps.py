"""A trained run as a force of LAMMPS, through `fix external` of its Python interface."""

import sys
from typing import Any, Optional, Sequence

import numpy as np

from ipu_chem.simulation.engines.molecule import EngineMolecule
from ipu_chem.units import BOHR, HARTREE, KCAL_PER_MOL

# eV and Å in the units of a simulation, by the name that `units` has.
_UNITS = {"metal": (1.0, 1.0), "real": (KCAL_PER_MOL, 1.0), "electron": (HARTREE, BOHR)}


class LammpsForce:
    """The forces on all atoms of a LAMMPS instance, which hold one free molecule, by one process.

    `run` and `command` raise what went wrong. After ``lmp.command("run ...")`` energies that are no numbers say so, the
    run ends at that step, and `error` has the reason: LAMMPS itself lets no exception through.

    Attributes:
        error: what stopped the last run, or None.
    """

    def __init__(
        self,
        lmp: Any,
        calculator: Any,
        elements: Sequence[str],
        charge: Optional[int] = None,
        spin: Optional[int] = None,
        fix: str = "ipu_chem",
    ) -> None:
        """Add the fix.

        Args:
            lmp: lammps.lammps with its box and atoms, in units metal, real or electron.
            calculator: of `ipu_chem.simulation.calculator`.
            elements: symbol of each atom type, in their order.
            charge: e; of models that take it.
            spin: unpaired electrons; of models that take them.
            fix: its ID.

        Raises:
            ValueError: other units, a periodic box, several processes, elements that are none or not one a type, or see
                `EngineMolecule`.
        """
        from ase.data import atomic_numbers

        self.error: Optional[BaseException] = None
        self._lmp, self._fix = lmp, fix
        units = lmp.extract_global("units")
        if units not in _UNITS:
            raise ValueError(f"units {units} of LAMMPS are not known here; choose one of units {', '.join(_UNITS)}.")
        self._energy, self._length = _UNITS[units]
        if not lmp.extract_setting("box_exist"):
            raise ValueError("LAMMPS has no box yet; create it and its atoms before the forces on them.")
        if any(lmp.extract_box()[5]):
            raise ValueError(
                "the box is periodic; runs know free molecules, so say `boundary f f f` before it is made."
            )
        if lmp.extract_setting("world_size") > 1:
            raise ValueError("a molecule is computed by one process; start LAMMPS without mpirun.")
        unknown = [symbol for symbol in elements if symbol not in atomic_numbers]
        if unknown or len(elements) != lmp.extract_setting("ntypes"):
            raise ValueError(
                f"elements={list(elements)}: give the symbol of each of the {lmp.extract_setting('ntypes')} atom types."
            )
        atoms = lmp.extract_setting("nlocal")
        tags, types = (np.array(lmp.numpy.extract_atom(name)).reshape(-1)[:atoms] for name in ("id", "type"))
        order = np.argsort(tags)
        self._tags = tags[order]
        numbers = np.array([0, *(atomic_numbers[symbol] for symbol in elements)])[types[order]].tolist()
        self._molecule = EngineMolecule(calculator, numbers, charge, spin)
        lmp.command(f"fix {fix} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix} energy yes")
        lmp.set_fix_external_callback(fix, self._callback, None)

    def run(self, steps: int) -> None:
        """Advance by so many steps; raises as `command`."""
        self.command(f"run {steps}")

    def command(self, text: str) -> None:
        """Let LAMMPS do what moves its atoms, such as ``minimize 0 0.01 100 1000``.

        Raises:
            ValueError: the atoms went where no molecule can be; or whatever else the calculator or LAMMPS raised.
        """
        self.error = None
        try:
            self._lmp.command(text)
        except Exception:
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error

    def _callback(
        self, caller: Any, step: int, atoms: int, tags: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        """Write forces in place; LAMMPS sorts its atoms now and then."""
        energy = float("nan")
        try:
            tags = tags.reshape(-1)
            order = np.argsort(tags)
            if not np.array_equal(tags[order], self._tags):
                raise ValueError(f"LAMMPS lost or made atoms: it has {atoms}, and had {len(self._tags)} at the start.")
            energy, found = self._molecule(positions[order] * self._length)
            forces[order] = found * (self._length / self._energy)
        except BaseException as error:  # between frames of C, where an exception would be dropped
            self.error = error
            forces[:] = np.nan
            print(f"LAMMPS stops at step {step}: {error}", file=sys.stderr)
            self._lmp.force_timeout()
        self._lmp.fix_external_set_energy_global(self._fix, energy / self._energy)
