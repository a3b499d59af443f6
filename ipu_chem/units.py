"""Units of energy that data sets come in, in eV (CODATA 2018, whose constants of the SI are exact).

QM9 keeps the constants of torch_geometric instead, so that its figures compare to the last digit.
"""

KCAL_PER_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)  # 0.0433641042...
HARTREE = 27.211386245988
BOHR = 0.529177210903  # Å

# By their usual names in lower case.
ENERGIES = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": HARTREE,
    "ha": HARTREE,
    "mha": 1e-3 * HARTREE,
    "kcal/mol": KCAL_PER_MOL,
    "kj/mol": KCAL_PER_MOL / 4.184,
}


def in_ev(unit: str) -> float:
    """eV in a unit of energy; capitals do not count.

    Raises:
        ValueError: it is none of those known.
    """
    if unit.strip().lower() not in ENERGIES:
        raise ValueError(f"{unit!r} is no unit of energy that is known here; known are {', '.join(ENERGIES)}.")
    return ENERGIES[unit.strip().lower()]
