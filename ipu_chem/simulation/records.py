"""The folder of a simulation: frames, a table of energies, and the state to resume from."""

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np

from ipu_chem.run_intervals import UncertaintyNames
from packing.arrays import open_arrays
from packing.files import PathLike, atomic_file, disk_full_named, remove_leftovers

COLUMNS = ("time_ps", "potential_eV", "kinetic_eV", "total_eV", "temperature_K", "largest_force_std_eV_per_A")
_HALF_WIDTHS = (
    ("energy_half_width", "energy_half_width_eV"),
    ("forces_half_width", "largest_force_half_width_eV_per_A"),
)
_AGAIN = ", so the simulation cannot go on: begin it again with another --out."
_SECONDS = 1.0  # between states on disk: they cost more than a frame

Frame = Union[str, Any]  # text of extxyz, or ase.Atoms for a traj


class Records:
    """Writes frames and energies so that whatever is on disk at any moment belongs together.

    Attributes:
        trajectories: file of each copy.
        columns: of the table.
        state: that a simulation resumes from; empty for a new one.
    """

    def __init__(self, folder: Path, suffix: str, resume: bool, copies: int = 1, more: Sequence[str] = ()) -> None:
        """Begin, or cut off what was written after the state that a simulation resumes from.

        Args:
            folder: of the simulation.
            suffix: extxyz or traj.
            resume: go on from restart.npz.
            copies: that move together, of which each has a trajectory of its own.
            more: columns of the table behind the usual ones.

        Raises:
            ValueError: there is something already, or nothing to resume.
        """
        self.folder, self.suffix = folder, suffix
        digits = len(str(copies - 1))
        names = [f"copy_{copy:0{digits}d}" for copy in range(copies)] if copies > 1 else ["trajectory"]
        self.trajectories, self.log = [folder / f"{name}.{suffix}" for name in names], folder / "log.csv"
        self.columns = (*(("copy",) if copies > 1 else ()), *COLUMNS, *more)
        self._header = (",".join(self.columns) + "\n").encode()
        self._restart = folder / "restart.npz"
        self.state: Dict[str, Any] = {}
        self._latest: Tuple[Mapping[str, Any], Mapping[str, np.ndarray]] = ({}, {})
        self._waiting: Dict[Path, List[str]] = {}  # for the next time that files are written
        self._kept = time.monotonic()
        self._digest = hashlib.blake2b(digest_size=16)  # of the log
        if resume:
            remove_leftovers(folder)
            self.state = read_state(folder)
            self._cut()
        elif self._restart.is_file():
            raise ValueError(
                f"{folder} holds a simulation already; go on with it by `ipu-chem md --resume {folder}`, or choose "
                "another --out."
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._check_foreign()
            self._digest.update(self._header)
            with disk_full_named(self.log):
                self.log.write_bytes(self._header)
            for path in self.trajectories:
                path.unlink() if path.exists() else None

    def frame(
        self, rows: Sequence[Sequence[float]], frames: Mapping[int, Frame], state: Mapping[str, Any], **arrays: Any
    ) -> None:
        """Take frames with their energies; files, and the state to go on from, follow at the latest a second later.

        Args:
            rows: values of `columns`.
            frames: copy -> frame.
            state: JSON values to find again in `state`.
            **arrays: likewise.
        """
        for copy, frame in frames.items():
            path = self.trajectories[copy]
            if isinstance(frame, str):
                self._waiting.setdefault(path, []).append(frame)
            else:
                from ase.io.trajectory import Trajectory

                with disk_full_named(path), Trajectory(str(path), "a") as trajectory:
                    trajectory.write(frame)
        lines = self._waiting.setdefault(self.log, [])
        lines.extend(",".join([f"{value:.10g}" for value in row]) + "\n" for row in rows)
        self._latest = (state, {name: np.array(array) for name, array in arrays.items()})
        if time.monotonic() - self._kept >= _SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write what waits, and the state of the last frame, at which a resumed simulation goes on."""
        for path, texts in self._waiting.items():
            content = "".join(texts).encode()
            with disk_full_named(path), open(path, "ab") as file:
                file.write(content)
            if path == self.log:
                self._digest.update(content)
        self._waiting = {}
        state, arrays = self._latest
        if state:
            sizes = [path.stat().st_size if path.exists() else 0 for path in self.trajectories]
            written = {**state, "log": self.log.stat().st_size, "trajectories": sizes}
            written["log_digest"] = self._digest.hexdigest()
            with atomic_file(self._restart) as file:
                np.savez(file, json=np.array(json.dumps(written)), **arrays)  # type: ignore[arg-type]
        self._kept = time.monotonic()

    def table(self) -> Dict[str, np.ndarray]:
        """The table so far, by `columns`."""
        self.keep()
        values = np.loadtxt(self.log, delimiter=",", skiprows=1, ndmin=2)
        return dict(zip(self.columns, values.reshape(-1, len(self.columns)).T))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """A file of the folder."""
        with atomic_file(self.folder / name, "w") as file:
            json.dump(values, file, indent=1)

    def _cut(self) -> None:
        """Cut off what was written after the state."""
        if len(self.state.get("trajectories", ())) != len(self.trajectories):
            raise ValueError(f"{self._restart} is of an earlier version, or of other copies{_AGAIN}")
        for path, size in zip([self.log, *self.trajectories], [self.state["log"], *self.state["trajectories"]]):
            if size and (not path.is_file() or path.stat().st_size < size):
                raise ValueError(f"{path} is gone or cut short{_AGAIN}")
            if path.is_file() and (self.suffix == "extxyz" or path == self.log):
                with open(path, "r+b") as file:
                    file.truncate(size)
        self._digest.update(self.log.read_bytes())
        if self.state["log_digest"] != self._digest.hexdigest():
            raise ValueError(f"{self.log} is damaged: its checksum does not match{_AGAIN}")

    def _check_foreign(self) -> None:
        """Refuse a folder with files of these names that no simulation has written."""
        with suppress(OSError), open(self.log, "rb") as file:
            if file.readline() == self._header:  # of one that was killed in its first moment
                return
        for path in (self.log, *self.trajectories):
            if path.exists():
                raise ValueError(f"{path} is there, and is of no simulation: choose another --out.")


def half_width_columns(names: UncertaintyNames) -> Tuple[str, ...]:
    """Columns of the table for the half-widths among the uncertainties of frames."""
    return tuple(column for name, column in _HALF_WIDTHS if name in (*names.info, *names.arrays))


def half_width_cells(info: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> List[float]:
    """Their values: of the energy, eV, and the largest of the forces, eV/Å."""
    found = {**info, **arrays}
    return [float(np.max(found[name])) for name, _ in _HALF_WIDTHS if name in found]


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
            state = {**{name: arrays[name] for name in arrays.files}, **json.loads(str(arrays["json"]))}
            asked = state.get("asked", {})
            # Steps between frames were called so before there were intervals of energies.
            if "interval" in asked and "stride" not in asked:
                asked.update(stride=asked["interval"], interval=None)
            return state
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}){_AGAIN}") from None
