"""One structure as a file states it: elements and numbers as people write them, every key and column by its name."""

import re
import sys
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ipu_chem.data.checks import MAX_Z, SYMBOLS
from ipu_chem.units import energy_unit, is_length

_NUMBERS = {symbol.lower(): number for number, symbol in enumerate(SYMBOLS) if number}
MISSING = frozenset(("", "na", "nan", "n/a", "#n/a", "<na>", "null", "none"))  # words for no label
ISOTOPES = ("d", "t")  # of hydrogen
_LENGTH_KEYS = [
    f"{word}_unit"
    for word in "r distance length pos position positions coord coords coordinate coordinates geometry xyz".split()
]
_ENERGY_KEYS = "e_unit energy_unit energies_unit".split()
_CHARGE = ("charge", "total_charge")
_SPIN = ("spin", "uhf", "nunpaired", "unpaired_electrons")
_MULTIPLICITY = ("multiplicity", "spin_multiplicity", "mult")
ELECTRONS = (*_CHARGE, *_SPIN, *_MULTIPLICITY)
_FORCE_KEYS = "f_unit force_unit forces_unit".split()


class Frame(NamedTuple):
    """A structure of n atoms, unchecked.

    Attributes:
        where: file, number and line, for messages.
        name: of the molecule.
        z: [n] int64.
        pos: [n, 3] float64, in the unit of the file.
        values: what may be a label, by name; of keys that are ``twice``, by place and name.
        arrays: [n, 3] of the atoms, by name, such as forces.
        units: that the file states, of "length", "energy" and "forces", and of labels by their names.
        twice: keys that stand there with more than one value.
        charge: of the whole molecule, e, None where it is not stated; spin likewise, unpaired electrons.
    """

    where: str
    name: str
    z: np.ndarray
    pos: np.ndarray
    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    units: Mapping[str, str] = {}
    twice: FrozenSet[str] = frozenset()
    charge: Optional[int] = None
    spin: Optional[int] = None


def atomic_number(symbol: str) -> int:
    """1 to 99 for a symbol in any case, D and T included, or a whole number.

    Raises:
        ValueError: says what it is instead, and the remedy.
    """
    word = symbol.strip().lower()
    if word in _NUMBERS or word in ISOTOPES:
        return _NUMBERS.get(word, 1)
    try:
        value = number(word)
    except ValueError:
        raise ValueError(
            f"{symbol!r} is no element; write its symbol, such as C or Cl, or its atomic number, and take ghost atoms "
            "and dummies out"
        ) from None
    if not value.is_integer() or not 1 <= value <= MAX_Z:
        raise ValueError(f"{symbol!r} is no atomic number; elements are whole numbers from 1 (H) to {MAX_Z} (Es)")
    return int(value)


def number(text: Any) -> float:
    """A number as programs write it: also Fortran's 1.0D+00 and 1.0-100 and Mathematica's 1.2*^-6.

    Raises:
        ValueError: it is none.
    """
    try:
        if "_" in str(text):  # which Python alone passes over
            raise ValueError
        return float(text)
    except ValueError:
        plain = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+))(?:(?:[dDeE]|\*\^)([-+]?\d+)|([-+]\d{3}))\s*", str(text))
        if plain is None:
            hint = "; decimals stand behind a point" if re.fullmatch(r"[-+]?\d+,\d+", str(text).strip()) else ""
            raise ValueError(f"{str(text)[:40]!r} is no number{hint}") from None
        return float(f"{plain.group(1)}e{plain.group(2) or plain.group(3)}")


def numbers(value: Any) -> np.ndarray:
    """One value or several as a flat array of float64; TypeError or ValueError if they are no numbers."""
    if isinstance(value, (bool, np.bool_)):
        return np.array([float(value)])
    if isinstance(value, str):
        return np.array([number(value)])
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return np.array([number(one) for one in array.reshape(-1).tolist()])
    return np.asarray(array, np.float64).reshape(-1)


def whole(values: Mapping[str, Any], keys: Sequence[str], where: str) -> Optional[int]:
    """The whole number under one of some keys, in any case; None where there is none.

    Raises:
        ValueError: it is not whole, or two keys disagree.
    """
    result: Optional[int] = None
    for key, value in values.items():
        if key.lower() in keys:
            try:
                found = numbers(value)
            except (TypeError, ValueError):
                found = np.array([np.nan])
            if found.size != 1 or not float(found[0]).is_integer():
                raise ValueError(f"{where}: {key}={value} is no whole number.")
            if result not in (None, int(found[0])):
                raise ValueError(f"{where}: {key}={value}, but it also states {result}; leave one of them.")
            result = int(found[0])
    return result


def electrons(values: Mapping[str, Any], twice: FrozenSet[str], where: str) -> Dict[str, Optional[int]]:
    """``charge`` and ``spin`` from keys such as charge, spin, uhf and multiplicity.

    Raises:
        ValueError: they are not whole, stand there ``twice``, or spin and multiplicity disagree.
    """
    for key in sorted(twice):
        if key.lower() in ELECTRONS:
            raise ValueError(f"{where} states {key} more than once, with different values; leave one of them.")
    charge, spin, multiplicity = (whole(values, keys, where) for keys in (_CHARGE, _SPIN, _MULTIPLICITY))
    if multiplicity is not None:
        if spin is not None and spin != multiplicity - 1:
            raise ValueError(f"{where}: spin={spin} and multiplicity={multiplicity}; spin is the multiplicity less 1.")
        spin = multiplicity - 1
    return {"charge": charge, "spin": spin}


def stated_units(values: Mapping[str, Any]) -> Dict[str, str]:
    """Units under the keys that programs write, such as r_unit, e_unit, _distance_unit and units."""
    found: Dict[str, str] = {}
    for key, value in values.items():
        word = re.sub("^units?_(.+)", r"\1_unit", re.sub("units$", "unit", key.lower().lstrip("_")))
        if not (word.endswith("_unit") or word == "unit"):
            continue
        plain = np.asarray(value).reshape(-1)[0] if np.size(value) == 1 else value
        text = (plain.decode() if isinstance(plain, bytes) else str(plain)).strip()
        if word == "unit":  # of the energy, of lengths, or of both, as "atomic" and "eV, Å" say
            for one in [text, *re.split(r"[\s,;]+", text)]:
                found.update({} if energy_unit(one) is None else {"energy": one})
                found.update({"length": one} if is_length(one) else {})
            continue
        for kind, keys in (("length", _LENGTH_KEYS), ("energy", _ENERGY_KEYS), ("forces", _FORCE_KEYS)):
            if word in keys:
                found[kind] = text
                break
        else:
            found[re.sub(r"^_*units?_|_units?$", "", key, flags=re.IGNORECASE)] = text
    return found


def periodic(where: str, how: str = 'write pbc="F F F" if it is one') -> ValueError:
    """The complaint about a periodic cell."""
    return ValueError(f"{where} has a periodic cell; only free molecules are supported ({how}).")


def say_isotopes(file: str, count: int) -> None:
    """Say on stderr that D and T are read as hydrogen."""
    if count:
        print(
            f"warning: {file}: {count:,} atoms are D or T and are read as hydrogen (H), also its mass in dynamics.",
            file=sys.stderr,
        )


def listed(names: Sequence[str]) -> str:
    """Names as a message lists them: the first dozen."""
    shown: List[str] = sorted(names)
    return ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")
