"""Units of energy and length that data come in, in eV and Å (CODATA 2018, whose constants of the SI are exact).

QM9 keeps the constants of torch_geometric instead, so that its figures compare to the last digit.
"""

import re
import unicodedata
from typing import Optional

KCAL_PER_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)  # 0.0433641042...
HARTREE = 27.211386245988
BOHR = 0.529177210903  # Å
_PER_CM = 6.62607015e-34 * 299792458 * 100 / 1.602176634e-19  # 1.2398e-4 eV

# By their usual names in lower case.
ENERGIES = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": HARTREE,
    "ha": HARTREE,
    "mha": 1e-3 * HARTREE,
    "kcal/mol": KCAL_PER_MOL,
    "kj/mol": KCAL_PER_MOL / 4.184,
    "cm-1": _PER_CM,
    "ry": HARTREE / 2,
}
_ATOMIC = ("atomic", "atomic units", "atomic_units")
_ENERGY_WORDS = {
    **{word: "ev" for word in ("electronvolt", "electronvolts", "electron_volt")},
    **{word: "hartree" for word in ("hartrees", "eh", "e_h", "au", "a.u.", *_ATOMIC)},
    **{word: "mha" for word in ("mhartree", "millihartree", "meh")},
    **{word: "cm-1" for word in ("1/cm", "/cm", "wavenumber", "wavenumbers")},
    **{word: "ry" for word in ("rydberg", "rydbergs")},
}
LENGTHS = {"å": 1.0, "bohr": BOHR, "nm": 10.0, "pm": 0.01}
_LENGTH_WORDS = {
    **{word: "å" for word in ("a", "ang", "angs", "angstrom", "angstroms", "ångström", "ångstrom", "ångströms")},
    **{word: "bohr" for word in ("bohrs", "au", "a.u.", "a0", "a_0", *_ATOMIC)},
    **{word: "nm" for word in ("nanometer", "nanometers", "nanometre", "nanometres")},
    **{word: "pm" for word in ("picometer", "picometers", "picometre", "picometres")},
}
KNOWN_ENERGIES = "eV, meV, Hartree (Ha, Eh), mHa, Ry, kcal/mol, kJ/mol, cm-1"
KNOWN_LENGTHS = "Å (A, Ang, angstrom), bohr (au), nm, pm"


def energy_unit(unit: str) -> Optional[float]:
    """eV in a unit of energy, spelled as people do, such as "Eh" or "kcal mol^-1"; None if it is none that is known."""
    word = unicodedata.normalize("NFKC", unit.strip()).replace("−", "-")
    if word.startswith(("Me", "ME")):  # MeV, a million eV: no milli
        return None
    word = re.sub(r"\^|\*\*|[{}()]", "", word.lower()).replace("mole", "mol")
    word = re.sub(r"[\s*·⋅]*(?:per\s*|/\s*)mol$|[\s*·⋅]*mol-1$", "/mol", word)
    return ENERGIES.get(_ENERGY_WORDS.get(word, word))


def in_ev(unit: str) -> float:
    """eV in a unit of energy; capitals do not count.

    Raises:
        ValueError: it is none of those known.
    """
    found = energy_unit(unit)
    if found is None:
        raise ValueError(f"{unit!r} is no unit of energy that is known here; known are {KNOWN_ENERGIES}.")
    return found


def force_unit(unit: str) -> Optional[float]:
    """eV/Å in a unit of force, such as "kcal/mol/Å", "Hartree/bohr", "eV Å^-1" or "au"; None if it is none known."""
    word = re.sub(r"\^|\*\*|[{}()]", "", unicodedata.normalize("NFKC", unit.strip()).replace("−", "-"))
    if word.lower() in ("au", "a.u.", *_ATOMIC):
        return HARTREE / BOHR
    found = re.fullmatch(r"(.+?)\s*(?:/|per\s|[\s*·⋅])\s*([^\W\d]+0?)(?:-1)?", word)
    energy = energy_unit(found.group(1)) if found else None
    if found is None or energy is None or not is_length(found.group(2)):
        return None
    return energy / in_angstrom(found.group(2))


def is_length(unit: str) -> bool:
    """Test if a unit of length is known."""
    return _length_word(unit) in LENGTHS


def is_dipole(unit: str) -> bool:
    """Test if a unit of dipole moments is known, such as "D", "Debye", "e*Å", "e a0" or "au"."""
    word = re.sub(r"[\s*·⋅]", "", unicodedata.normalize("NFKC", unit)).lower()
    return word in ("d", "debye", "debyes", "au", "a.u.") or (word.startswith("e") and is_length(word[1:]))


def is_area(unit: str) -> bool:
    """Test if a unit of area is known, such as "a0^2", "bohr**2", "Å2" or "au"."""
    word = re.sub(r"\s|\^|\*\*|[{}()]", "", unicodedata.normalize("NFKC", unit))
    return word.lower() in ("au", "a.u.") or (word.endswith("2") and is_length(word[:-1]))


def in_angstrom(unit: str) -> float:
    """Å in a unit of length, spelled as people do, such as "Ang" or "au"; capitals do not count.

    Raises:
        ValueError: it is none of those known.
    """
    word = _length_word(unit)
    if word not in LENGTHS:
        raise ValueError(f"{unit!r} is no unit of length that is known here; known are {KNOWN_LENGTHS}.")
    return LENGTHS[word]


def _length_word(unit: str) -> str:
    word = unicodedata.normalize("NFKC", unit.strip()).lower()
    return _LENGTH_WORDS.get(word, word)
