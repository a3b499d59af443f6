"""Frames of a trajectory as extended XYZ: the lines that ASE would write, from values alone."""

from typing import Any

import numpy as np


class FrameText:
    """Text of the frames of one molecule, whose names, numbers and charges stay what they are."""

    def __init__(self, atoms: Any) -> None:
        """Take the molecule, ase.Atoms; strings and numbers in its ``info`` stand in the second line."""
        from ase.io.extxyz import key_val_dict_to_str

        known = key_val_dict_to_str({key: value for key, value in atoms.info.items() if key != "time_ps"})
        properties = "species:S:1:pos:R:3:momenta:R:3:forces:R:3"
        begin = f"{len(atoms)}\nProperties={properties} {known}".rstrip() + " "
        # Braces and signs of percent in names are not ours to fill.
        self._begin = begin.replace("%", "%%") + 'time_ps=%r energy=%r pbc="F F F"\n'
        self._lines = "".join(f"{symbol:<2}" + 9 * " %16.8f" + "\n" for symbol in atoms.get_chemical_symbols())

    def text(self, time: float, energy: float, positions: np.ndarray, momenta: np.ndarray, forces: np.ndarray) -> str:
        """One frame.

        Args:
            time: ps.
            energy: eV.
            positions: [n, 3], Å.
            momenta: [n, 3], in ASE's units.
            forces: [n, 3], eV/Å.
        """
        values = np.concatenate([positions, momenta, forces], axis=1).reshape(-1).tolist()
        return self._begin % (float(time), float(energy)) + self._lines % tuple(values)
