"""Molecular dynamics of one free molecule by trained runs, through ASE, checked at every step."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from tqdm import tqdm

from ipu_chem.data.structures import read_structures
from ipu_chem.locks import locked
from ipu_chem.simulation.batch import load_force_fields, say_doubts
from ipu_chem.simulation.bonds import Bonds
from ipu_chem.simulation.options import MdOptions, said_of_structures
from ipu_chem.simulation.records import COLUMNS, Records
from ipu_chem.training.signals import StopSignals

_HOTTEST = 10.0  # times the temperature asked for
_LONGEST = 2.0  # times a bond's length at the start
_COOL = 100.0  # K; a cold start may warm up to ten times this
_MAY_CHANGE = ("time", "accelerator", "threads", "progress", "out", "skin")  # when a simulation is resumed


def run_md(runs: List[str], options: MdOptions, resume: bool = False) -> Dict[str, Any]:
    """Simulate.

    Args:
        runs: folders of one run, or of several, whose mean forces move the atoms.
        options: of the simulation.
        resume: go on with the simulation in ``options.out`` up to ``options.time``.

    Returns:
        The contents of summary.json: drift of the total energy, temperature, bonds, and "stopped", why it did not reach
        its end ("" if it did).

    Raises:
        ValueError: runs, options or structure cannot work, or the simulation exploded; everything up to there is kept.
    """
    with locked(options.out):
        return _run(runs, options, resume)


def _run(runs: List[str], options: MdOptions, resume: bool) -> Dict[str, Any]:
    """`run_md`, alone in its folder."""
    from ipu_chem.simulation.calculator import Calculator

    members = load_force_fields(runs)
    calculator = Calculator(members, options.accelerator, options.skin, options.threads, options.dtype)
    start = None if resume else _start(options, calculator)
    records = Records(Path(options.out), options.trajectory, resume)
    asked = {**asdict(options), "runs": [str(run) for run in runs]}
    if resume:
        _check_same(records.state["asked"], asked)
    simulation = _Simulation(calculator, options, records, asked, start)
    return simulation.run()


class _Simulation:
    """One molecule that moves."""

    def __init__(self, calculator: Any, options: MdOptions, records: Records, asked: Dict[str, Any], start: Any):
        from ase import Atoms

        state = records.state
        self.random = np.random.RandomState(options.seed)
        self.step = 0
        if start is None:
            start = Atoms(state["numbers"], state["positions"], momenta=state["momenta"], info=state["info"])
            self.step = int(state["step"])
            self.random.set_state(("MT19937", state["random"], *state["random_at"]))
        self.atoms, self.options, self.records, self._asked = start, options, records, asked
        self._begin = np.array(state.get("begin", start.positions))
        self.bonds = Bonds(start.numbers, self._begin)
        if "bonds" in state:
            self.bonds.restore(state["bonds"])
        self._degrees = degrees_of_freedom(self._begin, options.thermostat)
        if not state:
            draw_velocities(start, options.temperature, self._degrees, self.random)
        start.calc = calculator
        self._dynamics = _dynamics(start, options, self.random)

    def run(self) -> Dict[str, Any]:
        """To the end, or to a signal."""
        options, began, first = self.options, time.monotonic(), self.step
        exploded = ""
        with StopSignals() as stop, tqdm(
            total=options.steps, initial=first, desc="dynamics", unit="step", disable=None if options.progress else True
        ) as bar:
            try:
                if first == 0:
                    self._record(bar)
                while self.step < options.steps and not stop.received:
                    self._dynamics.step()
                    self.step += 1
                    self._check()
                    bar.update()
                    if self.step % options.interval == 0 or self.step == options.steps:
                        self._record(bar)
            except _Exploded as error:
                exploded = str(error)
            except ValueError as error:  # of the calculator, which refuses places where no atoms can be
                self.step += 1
                exploded = self._where(str(error))
        seconds = (time.monotonic() - began) / max(self.step - first, 1)
        summary = self._summary(exploded or (f"stopped by signal {stop.received}" if stop.received else ""), seconds)
        self.records.keep()
        self.records.write_json("summary.json", summary)
        self.records.plot(len(self.atoms))
        if exploded:
            raise ValueError(exploded)
        return {**summary, "signal": stop.received}

    def _check(self) -> None:
        """Stop where energies, velocities or bonds are not physical any more."""
        hot = self._temperature()
        if not np.isfinite(hot) or not np.isfinite(self.atoms.calc.results["energy"]):
            raise _Exploded(self._where("energies or velocities are not finite"))
        limit = _HOTTEST * max(self.options.temperature, _COOL)
        if hot > limit:
            raise _Exploded(self._where(f"the temperature is {hot:,.0f} K, above {limit:,.0f} K"))
        ratio, what = self.bonds.update(self.atoms.positions)
        if ratio > _LONGEST:
            raise _Exploded(self._where(f"{what}, {ratio:.2f} times that at the start"))

    def _where(self, what: str) -> str:
        at = f"step {self.step} ({self.step * self.options.timestep / 1000:.4g} ps)"
        return (
            f"the simulation exploded at {at}: {what.rstrip('.')}; a shorter timestep, a lower temperature or a run "
            f"trained on such geometries would help. Frames up to there are in {self.records.trajectory}."
        )

    def _temperature(self) -> float:
        from ase.units import kB

        return 2.0 * self.atoms.get_kinetic_energy() / (self._degrees * kB)

    def _record(self, bar: Any) -> None:
        """A frame, a row, and the state to go on from."""
        atoms = self.atoms
        potential, kinetic, hot = atoms.get_potential_energy(), atoms.get_kinetic_energy(), self._temperature()
        spread = float(np.abs(atoms.calc.results.get("forces_std", 0.0)).max())
        now = self.step * self.options.timestep / 1000
        values = (now, potential, kinetic, potential + kinetic, hot, spread)
        key, keys, *at = self.random.get_state()
        state = {"step": self.step, "asked": self._asked, "bonds": self.bonds.state(), "random_at": at}
        state["info"] = {name: atoms.info[name] for name in ("name", "charge", "spin") if name in atoms.info}
        arrays = {"numbers": atoms.numbers, "positions": atoms.positions, "momenta": atoms.get_momenta()}
        self.records.frame(
            atoms, dict(zip(COLUMNS, values)), state, begin=self._begin, random=np.asarray(keys), **arrays
        )
        bar.set_postfix_str(f"{hot:.0f} K, {potential + kinetic:.4f} eV", refresh=False)

    def _summary(self, stopped: str, seconds: float) -> Dict[str, Any]:
        """Figures of the whole simulation, resumed parts included."""
        table, atoms = self.records.table(), len(self.atoms)
        total = table["total_eV"] / atoms * 1000
        # A thermostat exchanges energy with the molecule: its total is not conserved, and has no drift.
        conserved = self.options.thermostat == "none"
        drift = float(np.polyfit(table["time_ps"], total, 1)[0]) if len(total) > 1 else 0.0
        return {
            "atoms": atoms,
            "steps": self.step,
            "time_ps": float(table["time_ps"][-1]),
            "drift_meV_per_atom_per_ps": drift if conserved else None,
            "largest_deviation_meV_per_atom": float(np.abs(total - total[0]).max()) if conserved else None,
            "total_energy_std_meV_per_atom": float(total.std()),
            "temperature_mean_K": float(table["temperature_K"].mean()),
            "temperature_std_K": float(table["temperature_K"].std()),
            "bonds": len(self.bonds.pairs),
            "largest_bond_ratio": self.bonds.largest_ratio,
            "most_stretched_bond": list(self.bonds.stretched),
            "largest_OH_angstrom": self.bonds.largest_oh,
            "largest_force_std_eV_per_A": float(table["largest_force_std_eV_per_A"].max()),
            "milliseconds_per_step": 1000 * seconds,
            "stopped": stopped,
            "options": self._asked,
        }


class _Exploded(Exception):
    """Energies, velocities or bonds that no molecule has."""


def degrees_of_freedom(positions: np.ndarray, thermostat: str) -> int:
    """Degrees of freedom that have kinetic energy: without thermostat the molecule neither moves as a whole nor turns.

    Raises:
        ValueError: a lone atom, whose energy is all in moving as a whole.
    """
    if thermostat != "none":
        return 3 * len(positions)
    turns = int(np.linalg.matrix_rank(positions - positions.mean(0), tol=1e-3))
    degrees = 3 * len(positions) - 3 - (3 if turns > 1 else 2)
    if turns == 0 or degrees < 1:
        raise ValueError("a lone atom has nothing to vibrate against; simulate a molecule.")
    return degrees


def draw_velocities(atoms: Any, temperature: float, degrees: int, random: np.random.RandomState) -> None:
    """Maxwell and Boltzmann's, without momentum and rotation, of exactly this temperature in K."""
    from ase.units import kB

    masses = atoms.get_masses()[:, None]
    velocities = random.standard_normal((len(atoms), 3)) / np.sqrt(masses)
    velocities -= (masses * velocities).sum(0) / masses.sum()
    # Rotation goes with its angular momentum; about the axis of a linear molecule there is none to be had.
    place = atoms.positions - atoms.get_center_of_mass()
    inertia = (masses * place**2).sum() * np.eye(3) - (masses * place).T @ place
    spin = np.linalg.pinv(inertia, rcond=1e-9) @ (masses * np.cross(place, velocities)).sum(0)
    velocities -= np.cross(spin, place)
    kinetic = 0.5 * float((masses * velocities**2).sum())
    atoms.set_velocities(velocities * np.sqrt(0.5 * degrees * kB * temperature / max(kinetic, 1e-30)))


def _dynamics(atoms: Any, options: MdOptions, random: np.random.RandomState) -> Any:
    """ASE's integrator."""
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.verlet import VelocityVerlet

    timestep = options.timestep * units.fs
    if options.thermostat == "none":
        return VelocityVerlet(atoms, timestep)
    # All directions take up heat, moving as a whole included: holding that one back is not quite canonical.
    friction = options.friction / (1000 * units.fs)
    return Langevin(atoms, timestep, temperature_K=options.temperature, friction=friction, rng=random, fixcm=False)


def _start(options: MdOptions, calculator: Any) -> Any:
    """The structure asked for, if the calculator can take it."""
    structures = read_structures(options.structure, **said_of_structures(options))
    if not -len(structures) <= options.frame < len(structures):
        raise ValueError(f"frame={options.frame}: {options.structure} has {len(structures)} structures, from 0 on.")
    atoms = structures[options.frame]
    calculator.check(atoms)
    say_doubts(calculator.members, [atoms])
    degrees_of_freedom(atoms.positions, options.thermostat)
    return atoms


def _check_same(before: Dict[str, Any], now: Dict[str, Any]) -> None:
    """Refuse to go on with another simulation."""
    for name, value in now.items():
        if name not in _MAY_CHANGE and before.get(name, value) != value:
            raise ValueError(
                f"--resume: the simulation was begun with {name}={before[name]}, not {value}; only "
                f"{', '.join(_MAY_CHANGE)} may change."
            )
