"""Options of dynamics and relaxation, in plain values. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any, Dict, Optional

from ipu_chem.ranges import SLOTS, THREADS, check_choice, check_fields

THERMOSTATS = ("none", "langevin")
OPTIMIZERS = ("bfgs", "fire")
MOST_COPIES = 100_000  # that move at once; each has a file of its own
_MOST_STEPS = 1e12
_COVERAGE = "above 0 and below 1"


@dataclass(frozen=True)
class MdOptions:
    """A simulation.

    Attributes:
        structure: .xyz, .extxyz, .sdf, .db or .npz file with the molecule to start from.
        frame: which structure of the file, from 0; -1 is the last.
        frames: all, or some as Python slices them, such as 0:100:10; they move at once, each like a simulation alone.
        copies: of each structure, with velocities of their own, that move at once.
        thermostat: none keeps the energy (NVE, velocity Verlet); langevin keeps the temperature (NVT).
        temperature: K, that velocities are drawn for, and that langevin keeps.
        timestep: fs.
        time: ps, from the start.
        friction: 1/ps, of langevin.
        seed: of the velocities and of langevin's random forces.
        stride: steps between frames of the trajectory and rows of the table.
        interval: coverage, such as 0.9, of intervals whose half-widths stand in frames and table.
        trajectory: extxyz (text, any program) or traj (ASE's own).
        out: folder that everything is written to.
        accelerator: cpu or cuda.
        dtype: float32, or float64 for energies that are kept to more digits.
        skin: Å, by which pairs that are kept exceed the cutoff.
        threads: of torch; 0 is one for less than 200 atoms.
        progress: show a progress bar.
        length_unit: of positions in the file: A, bohr, nm or pm; empty takes what the file states, else Å.
        charge: e, of structures whose file states none.
        multiplicity: 2S + 1, of structures whose file states none.
    """

    structure: str
    frame: int = 0
    frames: str = ""
    copies: int = 1
    thermostat: str = "none"
    temperature: float = 300.0
    timestep: float = 0.5
    time: float = 1.0
    friction: float = 10.0
    seed: int = 0
    stride: int = 10
    interval: Optional[float] = None
    trajectory: str = "extxyz"
    out: str = "md"
    accelerator: str = "cpu"
    dtype: str = "float32"
    skin: float = 0.5
    threads: int = 0
    progress: bool = True
    length_unit: str = ""
    charge: Optional[int] = None
    multiplicity: Optional[int] = None

    def __post_init__(self) -> None:
        check_choice("thermostat", self.thermostat, THERMOSTATS)
        check_choice("trajectory", self.trajectory, ("extxyz", "traj"))
        check_device(self.accelerator, self.dtype)
        least = dict.fromkeys(("temperature", "friction", "skin"), "0 or more")
        above = dict.fromkeys(("timestep", "time"), "above 0")
        seeds = "from 0 to 4,294,967,295"
        if isinstance(self.interval, (int, float)) and self.interval >= 1:  # as it was once asked for
            raise ValueError(
                f"interval={self.interval:g}: give the coverage of intervals, above 0 and below 1; steps between "
                f"frames are --stride {self.interval:g}."
            )
        counts = {"stride": "1 or more", "interval": _COVERAGE, "copies": f"from 1 to {MOST_COPIES:,}"}
        check_fields(self, seed=seeds, threads=THREADS, **counts, **least, **above)
        if self.frames:
            slice_of(self.frames)  # refuses words that are none
            if self.frame:
                raise ValueError(f"frame={self.frame} and frames={self.frames} are both given: leave one out.")
        if self.time * 1000 / self.timestep > _MOST_STEPS:
            raise ValueError(
                f"time={self.time} ps are {self.time * 1000 / self.timestep:.2g} steps: give a shorter time."
            )

    @property
    def steps(self) -> int:
        """All of them, from the start."""
        return max(round(self.time * 1000 / self.timestep), 1)


@dataclass(frozen=True)
class RelaxOptions:
    """Relaxations.

    Attributes:
        output: .extxyz file to write.
        fmax: eV/Å, largest force on an atom of a relaxed structure.
        steps: at most, for each structure.
        optimizer: bfgs, or fire, which is slower and harder to upset.
        interval: coverage, such as 0.9, of intervals whose half-widths are written with every structure.
        batch: atoms of the structures that move at once; 0 takes 1,024 on a CPU and 4,096 on cuda.
        accelerator: cpu or cuda.
        dtype: float32, or float64 for an fmax below 0.001.
        threads: of torch, where no native kernel computes; 0 is one for less than 200 atoms in a pack.
        length_unit: of positions in the file: A, bohr, nm or pm; empty takes what the file states, else Å.
        charge: e, of structures whose file states none.
        multiplicity: 2S + 1, of structures whose file states none.
    """

    output: str = "relaxed.extxyz"
    fmax: float = 0.01
    steps: int = 500
    optimizer: str = "bfgs"
    interval: Optional[float] = None
    batch: int = 0
    accelerator: str = "cpu"
    dtype: str = "float32"
    threads: int = 0
    length_unit: str = ""
    charge: Optional[int] = None
    multiplicity: Optional[int] = None

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_device(self.accelerator, self.dtype)
        check_fields(self, fmax="above 0", steps="1 or more", batch=SLOTS, threads=THREADS, interval=_COVERAGE)

    @property
    def atoms(self) -> int:
        """Atoms of a pack."""
        return self.batch or {"cpu": 1024, "cuda": 4096}[self.accelerator]


def check_device(accelerator: str, dtype: str) -> None:
    """Refuse a device or a number format that a calculator does not have.

    Raises:
        ValueError: names the option and what there is.
    """
    if accelerator not in ("cpu", "cuda"):
        raise ValueError(f"accelerator={accelerator!r}: simulations run on cpu or cuda.")
    check_choice("dtype", dtype, ("float32", "float64"))


def said_of_structures(options: Any) -> Dict[str, Any]:
    """The options among those of `read_molecules`."""
    return {name: getattr(options, name) for name in ("length_unit", "charge", "multiplicity")}


def slice_of(frames: str) -> slice:
    """Structures of a file that the option ``frames`` names.

    Raises:
        ValueError: it is neither all nor a slice.
    """
    ends = ["", ""] if frames == "all" else frames.split(":")
    try:
        if not 2 <= len(ends) <= 3 or ends[2:] == ["0"]:
            raise ValueError
        return slice(*(int(end) if end else None for end in ends))
    except ValueError:
        raise ValueError(
            f"frames={frames}: give all, or a slice such as 0:100:10; one structure is --frame 7."
        ) from None
