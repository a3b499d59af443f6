"""One free molecule of an engine: energy and forces wherever the engine moves its atoms."""

from typing import Any, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.models.registry import needs_charge


class EngineMolecule:
    """Energy and forces of one molecule by a calculator, for engines that hand over positions alone."""

    def __init__(
        self, calculator: Any, numbers: Sequence[int], charge: Optional[int] = None, spin: Optional[int] = None
    ) -> None:
        """Take a molecule; everything but places is checked at once.

        Args:
            calculator: of `ipu_chem.simulation.calculator`.
            numbers: [n] atomic numbers, in the engine's order.
            charge: e; of models that take it.
            spin: unpaired electrons; of models that take them.

        Raises:
            ValueError: no atoms, an element that the run was not trained on, or a charge that the model lacks or does
                not take.
        """
        from ase import Atoms

        if not len(numbers):
            raise ValueError("the engine has no atoms yet; create them before the forces on them.")
        info = {key: value for key, value in (("charge", charge), ("spin", spin)) if value is not None}
        self._atoms = Atoms(numbers, info=info)
        self._calculator = calculator
        name = calculator.members[0].config.model.name
        if needs_charge(name) and len(info) < 2:
            raise ValueError(
                f"{name} takes the charge and the unpaired electrons of a molecule: give charge=0, spin=0 for neutral "
                "molecules with all electrons paired."
            )
        refuse_charge(calculator.members, info, self._atoms.get_chemical_formula())
        for member in calculator.members:
            member.check_elements(self._atoms.numbers, self._atoms.get_chemical_formula())

    def __call__(self, positions: np.ndarray) -> Tuple[float, np.ndarray]:
        """Energy, eV, and forces [n, 3] float64, eV/Å, at positions [n, 3], Å.

        Raises:
            ValueError: another number of atoms, or places that no molecule has.
        """
        if np.shape(positions) != (len(self._atoms), 3):
            raise ValueError(
                f"the engine has positions of shape {np.shape(positions)}, the molecule {len(self._atoms)} atoms; "
                "describe the same atoms to both."
            )
        self._atoms.positions[:] = positions
        self._calculator.calculate(self._atoms)
        return self._calculator.results["energy"], self._calculator.results["forces"]


def refuse_charge(members: Sequence[Any], info: Any, who: str) -> None:
    """Refuse a charge or unpaired electrons where the model would ignore them.

    Args:
        members: force fields.
        info: "charge" and "spin" of the molecule, as far as they are known.
        who: the molecule in the error message.

    Raises:
        ValueError: they are not 0, and the model knows neutral molecules with all electrons paired alone.
    """
    name = members[0].config.model.name
    for key in ("charge", "spin"):
        if info.get(key) and not needs_charge(name):
            raise ValueError(
                f"{who} has {key}={info[key]}, but {name} takes no charges and unpaired electrons, so it would give "
                "the forces of whatever it was trained on; train a model that takes them, such as spookynet."
            )
