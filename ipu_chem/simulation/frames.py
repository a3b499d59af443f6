"""Frames of a trajectory as extended XYZ: the lines that ASE would write, from values alone."""

from typing import Any, Mapping

import numpy as np

from ipu_chem.run_intervals import UncertaintyNames


class FrameText:
    """Text of the frames of one molecule, whose names, numbers and charges stay what they are."""

    def __init__(self, atoms: Any, names: UncertaintyNames) -> None:
        """Take the molecule.

        Args:
            atoms: ase.Atoms; strings and numbers in its ``info`` stand in the second line.
            names: of the uncertainties that every frame will have.
        """
        from ase.io.extxyz import key_val_dict_to_str

        known = key_val_dict_to_str({key: value for key, value in atoms.info.items() if key != "time_ps"})
        self._names = names
        properties = ":".join(["species:S:1:pos:R:3:momenta:R:3:forces:R:3", *(f"{one}:R:3" for one in names.arrays)])
        begin = f"{len(atoms)}\nProperties={properties} {known}".rstrip() + " "
        # Braces and signs of percent in names are not ours to fill.
        numbers = "".join(f"{one}=%r " for one in ("time_ps", "energy", *names.info))
        self._begin = begin.replace("%", "%%") + numbers + 'pbc="F F F"\n'
        columns = (9 + 3 * len(names.arrays)) * " %16.8f"
        self._lines = "".join(f"{symbol:<2}{columns}\n" for symbol in atoms.get_chemical_symbols())

    def text(
        self,
        time: float,
        energy: float,
        positions: np.ndarray,
        momenta: np.ndarray,
        forces: np.ndarray,
        info: Mapping[str, float],
        arrays: Mapping[str, np.ndarray],
    ) -> str:
        """One frame.

        Args:
            time: ps.
            energy: eV.
            positions: [n, 3], Å.
            momenta: [n, 3], in ASE's units.
            forces: [n, 3], eV/Å.
            info, arrays: uncertainties, see `ipu_chem.run_intervals.uncertainties`.
        """
        columns = [positions, momenta, forces, *(arrays[name] for name in self._names.arrays)]
        numbers = (float(time), float(energy), *(info[name] for name in self._names.info))
        return self._begin % numbers + self._lines % tuple(np.concatenate(columns, axis=1).reshape(-1).tolist())
