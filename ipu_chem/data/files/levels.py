"""Labels of a structure, and the forces that belong to an energy: those of its level, never another's."""

import re
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from ipu_chem.data.energy_units import is_energy
from ipu_chem.data.files.frame import MISSING, Frame, listed, numbers

# What an energy may be called beside its level.
_WIDER = re.compile(r"^(?:total|tot|potential|free)_?|_?(?:total|tot)$")


def label(frame: Frame, targets: Sequence[str], option: str) -> np.ndarray:
    """[T] float64: the values of some keys, NaN where missing.

    Args:
        frame: that has them.
        targets: their names.
        option: as the command line calls the names, for messages.

    Raises:
        ValueError: a key is not there, stands there twice, or is no number; lists what there is.
    """
    found = []
    for key in targets:
        if key in frame.twice:
            ways = [name for name in frame.values if name.endswith(f".{key}")]
            remedy = f"choose with {option} {' or '.join(ways)}" if ways else "leave one of them"
            raise ValueError(f"{frame.where} states {key} more than once, with different values; {remedy}.")
        if key not in frame.values:
            raise ValueError(f"{frame.where} has no {key!r}; {_offer(frame, option)}")
        try:
            if is_energy(key) and isinstance(frame.values[key], (bool, np.bool_)):
                raise ValueError
            values = np.array([np.nan]) if _is_missing(frame.values[key]) else numbers(frame.values[key])
        except (TypeError, ValueError):
            raise ValueError(f"{frame.where}: {key}={frame.values[key]!r} is not a number.") from None
        if np.isinf(values).any():
            raise ValueError(f"{frame.where}: {key} is infinite; correct it, or write nan where it is missing.")
        found.append(values)
    return np.concatenate(found)


def _is_missing(value: Any) -> bool:
    """Test if a label is a word for none, as in tables."""
    return isinstance(value, str) and value.strip().lower() in MISSING


def _offer(frame: Frame, option: str) -> str:
    """Labels that a structure has instead of a label."""
    names = [name for name in frame.values if name not in ("name",)]
    if names == ["comment"]:
        return f"its comment is the number {frame.values['comment']}: take it with {option} comment."
    energies = [name for name in names if is_energy(name)]
    offer = f"it has {listed(list(frame.values)) or 'no labels at all'}"
    return f"{offer}; choose with {option} {' or '.join(energies)}." if energies else f"{offer}."


class ForceChoice:
    """Choice of the columns of forces that belong to an energy.

    Attributes:
        key: that the user gives; "" takes those that the names of the energies mean.
        energies: names of labels, in order, that may have forces.
        columns: of three numbers an atom, of all structures so far.
        passed_over: columns of forces that belong to none of the energies.
    """

    def __init__(self, targets: Sequence[str], key: str, option: str) -> None:
        """Bind labels.

        Args:
            targets: names of labels.
            key: of the forces of the first one; "" if it is not given.
            option: as the command line calls the key, for messages.
        """
        self.key, self._option = key, option
        self.energies = list(targets[:1]) if key else [name for name in targets if is_energy(name)]
        self.columns: List[str] = []
        self.passed_over: List[str] = []
        self._seen: Dict[Tuple[str, ...], Dict[str, str]] = {}

    def of(self, frame: Frame) -> Dict[str, str]:
        """Energies of a structure that have forces, with the columns that hold them.

        Raises:
            ValueError: two columns could be meant.
        """
        self.columns += [name for name in frame.arrays if name not in self.columns]
        if self.key:
            return {self.energies[0]: self.key} if self.key in frame.arrays else {}
        if not frame.arrays:
            return {}
        have = tuple(frame.arrays) + tuple(frame.values)
        if have not in self._seen:
            self._seen[have] = self._pairs(frame)
        return self._seen[have]

    def _pairs(self, frame: Frame) -> Dict[str, str]:
        columns = {name: _stem(name, "forces?|f") for name in frame.arrays if is_forces(name) and not is_gradient(name)}
        stems = {name: _stem(name, "energies|energy|e|u0?") for name in frame.values if is_energy(name)}
        found: Dict[str, str] = {}
        for name in self.energies:
            stem = _stem(name, "energies|energy|e|u0?")
            fits = [column for column, its in columns.items() if its == stem]
            wider = _WIDER.sub("", stem)
            if not fits and wider == "@" and not any(its == "@" for other, its in stems.items() if other != name):
                fits = [column for column, its in columns.items() if its == wider]
            if len(fits) > 1:
                raise ValueError(
                    f"{frame.where} has forces of {name} twice, {' and '.join(fits)}; choose with {self._option} "
                    f"{' or '.join(fits)}."
                )
            if fits:
                found[name] = fits[0]
        others = [name for name in frame.arrays if is_gradient(name) or name in columns and name not in found.values()]
        self.passed_over += [one for one in others if one not in self.passed_over]
        return found

    def note(self, forces_of: str) -> str:
        """A sentence on forces that were not taken; "" if there are none."""
        if forces_of or not self.energies or not self.passed_over:
            return ""
        other = listed(self.passed_over)
        ways = " or ".join(f"{self._option} {name}" for name in self.passed_over[:4])
        return (
            f"no forces are taken for {self.energies[0]}: the file has {other}, which by name belong to another "
            f"energy or are gradients; {ways} takes them."
        )


def is_forces(name: str) -> bool:
    """Test if a column of this name holds forces."""
    return re.search(r"forces?|(?:^|[_.])f(?:$|_)", name, re.IGNORECASE) is not None


def is_gradient(name: str) -> bool:
    """Test if a column of this name holds gradients of an energy, which are forces with the other sign."""
    return re.search(r"grad(?:ient)?s?(?:$|_)", name, re.IGNORECASE) is not None


def _stem(name: str, word: str) -> str:
    """A name with its energy or forces as @, without separators: dft_energy and DFT_forces are both dft@."""
    place, dot, plain = name.lower().rpartition(".")
    plain = re.sub(rf"(?:^|(?<=[_-]))(?:{word})(?=$|[_-])", "@", plain, count=1) if "@" not in plain else plain
    if "@" not in plain:
        plain = re.sub(r"energies|energy|forces?", "@", plain, count=1)
    return place + dot + re.sub(r"[_-]", "", plain)
