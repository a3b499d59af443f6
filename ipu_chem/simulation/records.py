"""The folder of a simulation: frames, a table of energies, and the state to resume from."""

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import numpy as np

from ipu_chem.data.structures import with_results
from packing.arrays import open_arrays
from packing.files import PathLike, atomic_file, disk_full_named, remove_leftovers

COLUMNS = ("time_ps", "potential_eV", "kinetic_eV", "total_eV", "temperature_K", "largest_force_std_eV_per_A")
_HEADER = (",".join(COLUMNS) + "\n").encode()
_AGAIN = ", so the simulation cannot go on: begin it again with another --out."
_SECONDS = 1.0  # between states on disk: they cost more than a frame


class Records:
    """Writes frames and energies so that whatever is on disk at any moment belongs together."""

    def __init__(self, folder: Path, suffix: str, resume: bool) -> None:
        """Begin, or cut off what was written after the state that a simulation resumes from.

        Args:
            folder: of the simulation.
            suffix: extxyz or traj.
            resume: go on from restart.npz.

        Raises:
            ValueError: there is something already, or nothing to resume.
        """
        self.folder, self.suffix = folder, suffix
        self.trajectory, self.log = folder / f"trajectory.{suffix}", folder / "log.csv"
        self._restart = folder / "restart.npz"
        self.state: Dict[str, Any] = {}
        self._latest: Dict[str, np.ndarray] = {}
        self._kept = float("-inf")
        self._digest = hashlib.blake2b(digest_size=16)  # of the log
        if resume:
            remove_leftovers(folder)
            self.state = read_state(folder)
            for path, size in ((self.log, self.state["log"]), (self.trajectory, self.state["trajectory"])):
                if not path.is_file() or path.stat().st_size < size:
                    raise ValueError(f"{path} is gone or cut short{_AGAIN}")
                if suffix == "extxyz" or path == self.log:
                    with open(path, "r+b") as file:
                        file.truncate(size)
            self._digest.update(self.log.read_bytes())
            if self.state.get("log_digest", self._digest.hexdigest()) != self._digest.hexdigest():
                raise ValueError(f"{self.log} is damaged: its checksum does not match{_AGAIN}")
        elif self._restart.is_file():
            raise ValueError(
                f"{folder} holds a simulation already; go on with it by `ipu-chem md --resume {folder}`, or choose "
                "another --out."
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._check_foreign()
            self._digest.update(_HEADER)
            with disk_full_named(self.log):
                self.log.write_bytes(_HEADER)
            self.trajectory.unlink() if self.trajectory.exists() else None

    def frame(self, atoms: Any, row: Mapping[str, float], state: Mapping[str, Any], **arrays: np.ndarray) -> None:
        """Append a frame with its energies; the state to go on from follows every second.

        Args:
            atoms: with a calculator that has results for these positions.
            row: by `COLUMNS`.
            state: JSON values to find again in `state`.
            **arrays: likewise.
        """
        frame = with_results(atoms.copy(), atoms.calc.results["energy"], atoms.calc.results["forces"])
        frame.info["time_ps"] = row["time_ps"]
        if self.suffix == "extxyz":
            from ase.io import write

            with disk_full_named(self.trajectory), open(self.trajectory, "a", encoding="utf-8") as file:
                write(file, frame, format="extxyz")
        else:
            from ase.io.trajectory import Trajectory

            with disk_full_named(self.trajectory), Trajectory(str(self.trajectory), "a") as trajectory:
                trajectory.write(frame)
        line = (",".join(f"{row[name]:.10g}" for name in COLUMNS) + "\n").encode()
        with disk_full_named(self.log), open(self.log, "ab") as file:
            file.write(line)
        self._digest.update(line)
        sizes = {"log": self.log.stat().st_size, "trajectory": self.trajectory.stat().st_size}
        written = {**state, **sizes, "log_digest": self._digest.hexdigest()}
        self._latest = {"json": np.array(json.dumps(written)), **arrays}
        if time.monotonic() - self._kept >= _SECONDS:
            self.keep()

    def _check_foreign(self) -> None:
        """Refuse a folder with files of these names that no simulation has written."""
        with suppress(OSError), open(self.log, "rb") as file:
            if file.readline() == _HEADER:  # of one that was killed in its first moment
                return
        for path in (self.log, self.trajectory):
            if path.exists():
                raise ValueError(f"{path} is there, and is of no simulation: choose another --out.")

    def keep(self) -> None:
        """Write the state of the last frame to disk, at which a resumed simulation goes on."""
        if self._latest:
            arrays: Dict[str, Any] = {name: np.array(array) for name, array in self._latest.items()}
            with atomic_file(self._restart) as file:
                np.savez(file, **arrays)
            self._kept = time.monotonic()

    def table(self) -> Dict[str, np.ndarray]:
        """The table so far, by `COLUMNS`."""
        values = np.loadtxt(self.log, delimiter=",", skiprows=1, ndmin=2)
        return dict(zip(COLUMNS, values.T))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """A file of the folder."""
        with atomic_file(self.folder / name, "w") as file:
            json.dump(values, file, indent=1)

    def plot(self, atoms: int) -> Optional[Path]:
        """energy_drift.png, over time; None where there is no matplotlib."""
        from ipu_chem.reports.figures import BLUE, ORANGE, figure_of, save

        try:
            figure, (left, right) = figure_of(1, 2)
        except ValueError:
            return None
        table = self.table()
        drift = (table["total_eV"] - table["total_eV"][0]) / atoms * 1000
        left.plot(table["time_ps"], drift, color=BLUE, linewidth=1)
        left.set(xlabel="time (ps)", ylabel="drift of the total energy (meV/atom)")
        right.plot(table["time_ps"], table["temperature_K"], color=ORANGE, linewidth=1)
        right.set(xlabel="time (ps)", ylabel="temperature (K)")
        return save(figure, self.folder / "energy_drift.png")


def read_state(folder: PathLike) -> Dict[str, Any]:
    """Read the state that a simulation resumes from; "asked" are the options of its start.

    Raises:
        ValueError: there is none.
    """
    file = Path(folder) / "restart.npz"
    if not file.is_file():
        raise ValueError(f"{folder} holds no simulation to resume (no restart.npz).")
    try:
        with open_arrays(file) as arrays:
            return {**{name: arrays[name] for name in arrays.files}, **json.loads(str(arrays["json"]))}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}){_AGAIN}") from None
