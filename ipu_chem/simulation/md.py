"""Molecular dynamics of free molecules by trained runs: one of them through ASE, checked at every step."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from tqdm import tqdm

from ipu_chem.data.structures import with_results
from ipu_chem.locks import locked
from ipu_chem.run_intervals import ForceIntervals, force_intervals, uncertainties, uncertainty_names
from ipu_chem.simulation.batch import load_force_fields
from ipu_chem.simulation.bonds import Bonds
from ipu_chem.simulation.copies import run_copies
from ipu_chem.simulation.explosions import LONGEST, explosion, hottest
from ipu_chem.simulation.frames import FrameText
from ipu_chem.simulation.integrators import random_of
from ipu_chem.simulation.md_start import structures_of
from ipu_chem.simulation.md_summary import energy_figures, plot
from ipu_chem.simulation.options import MdOptions
from ipu_chem.simulation.records import Records, half_width_cells, half_width_columns, read_state
from ipu_chem.simulation.velocities import degrees_of_freedom, draw_velocities
from ipu_chem.training.signals import StopSignals

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
    intervals = force_intervals(members, options.interval)
    structures = [] if resume else structures_of(options, members)
    # A simulation that goes on has as many molecules as trajectories.
    copies = len(read_state(options.out).get("trajectories", [])) if resume else len(structures)
    asked = {**asdict(options), "runs": [str(run) for run in runs]}
    if copies > 1 and options.trajectory != "extxyz":
        raise ValueError("--trajectory traj holds one molecule: leave it out, and every copy has an .extxyz file.")
    more = half_width_columns(uncertainty_names(len(members), intervals))
    records = Records(Path(options.out), options.trajectory, resume, copies, more)
    if resume:
        _check_same(records.state["asked"], asked)
    if copies > 1:
        return run_copies(members, options, records, asked, structures, intervals)
    calculator = Calculator(members, options.accelerator, options.skin, options.threads, options.dtype)
    start = None if resume else structures[0]
    return _Simulation(calculator, options, records, asked, start, intervals).run()


class _Simulation:
    """One molecule that moves."""

    def __init__(
        self,
        calculator: Any,
        options: MdOptions,
        records: Records,
        asked: Dict[str, Any],
        start: Any,
        intervals: Optional[ForceIntervals],
    ) -> None:
        from ase import Atoms

        state = records.state
        self.random = random_of(options.seed, 0)
        self.step = 0
        if start is None:
            start = Atoms(state["numbers"], state["positions"], momenta=state["momenta"], info=state["info"])
            self.step = int(state["step"])
            self.random.set_state(("MT19937", state["random"], *state["random_at"]))
        self.atoms, self.options, self.records, self._asked = start, options, records, asked
        self._intervals = intervals
        self._begin = np.array(state.get("begin", start.positions))
        self.bonds = Bonds(start.numbers, self._begin)
        self.bonds.longest[:] = state.get("longest", self.bonds.longest)
        self._degrees = degrees_of_freedom(self._begin, options.thermostat)
        if not state:
            draw_velocities(start, options.temperature, self._degrees, self.random)
        start.calc = calculator
        self._text = FrameText(start, uncertainty_names(len(calculator.members), intervals))
        self._dynamics = _dynamics(start, options, self.random)

    def run(self) -> Dict[str, Any]:
        """To the end, or to a signal."""
        options, began, first = self.options, time.monotonic(), self.step
        exploded = ""
        with StopSignals() as stop, tqdm(
            total=options.steps, initial=first, desc="dynamics", unit="step", disable=None if options.progress else True
        ) as bar:
            try:
                if not self.records.state:
                    self._record(bar)
                while self.step < options.steps and not stop.received:
                    self._dynamics.step()
                    self.step += 1
                    self._check()
                    bar.update()
                    if self.step % options.stride == 0 or self.step == options.steps:
                        self._record(bar)
            except _Exploded as error:
                exploded = str(error)
            except ValueError as error:  # of the calculator, which refuses places where no atoms can be
                self.step += 1
                exploded = self._where(str(error))
        seconds = (time.monotonic() - began) / (self.step - first) if self.step > first else 0.0
        summary = self._summary(exploded or (f"stopped by signal {stop.received}" if stop.received else ""), seconds)
        self.records.write_json("summary.json", summary)
        plot(self.records.folder, [self.records.table()], [len(self.atoms)])
        if exploded:
            raise ValueError(exploded)
        return {**summary, "signal": stop.received}

    def _check(self) -> None:
        """Stop where energies, velocities or bonds are not physical any more."""
        hot = self._temperature()
        if not np.isfinite(hot) or not np.isfinite(self.atoms.calc.results["energy"]):
            raise _Exploded(self._where("energies or velocities are not finite"))
        limit = hottest(self.options.temperature)
        if hot > limit:
            raise _Exploded(self._where(f"the temperature is {hot:,.0f} K, above {limit:,.0f} K"))
        ratios = self.bonds.update(self.atoms.positions)
        if (ratios > LONGEST).any():
            raise _Exploded(self._where(self.bonds.worst(ratios)))

    def _where(self, what: str) -> str:
        return explosion("the simulation", self.step, self.options.timestep, what, self.records.trajectories[0])

    def _temperature(self) -> float:
        from ase.units import kB

        return 2.0 * self.atoms.get_kinetic_energy() / (self._degrees * kB)

    def _record(self, bar: Any) -> None:
        """A frame, a row, and the state to go on from."""
        atoms = self.atoms
        potential, kinetic, hot = atoms.get_potential_energy(), atoms.get_kinetic_energy(), self._temperature()
        energy_std, forces_std = (atoms.calc.results.get(name) for name in ("energy_std", "forces_std"))
        spread = 0.0 if forces_std is None else float(np.abs(forces_std).max())
        info, columns = uncertainties(energy_std, forces_std, len(atoms), self._intervals)
        now = self.step * self.options.timestep / 1000
        key, keys, *at = self.random.get_state()
        state = {"step": self.step, "asked": self._asked, "random_at": at}
        state["info"] = {name: atoms.info[name] for name in ("name", "charge", "spin") if name in atoms.info}
        arrays = {"numbers": atoms.numbers, "positions": atoms.positions, "momenta": atoms.get_momenta()}
        arrays.update(begin=self._begin, longest=self.bonds.longest, random=np.asarray(keys))
        row = (now, potential, kinetic, potential + kinetic, hot, spread, *half_width_cells(info, columns))
        self.records.frame([row], {0: self._frame(now, potential, info, columns)}, state, **arrays)
        bar.set_postfix_str(f"{hot:.0f} K, {potential + kinetic:.4f} eV", refresh=False)

    def _frame(self, now: float, energy: float, info: Dict[str, float], columns: Dict[str, np.ndarray]) -> Any:
        """The molecule as the trajectory takes it."""
        atoms, forces = self.atoms, self.atoms.get_forces()
        if self.options.trajectory == "extxyz":
            return self._text.text(now, energy, atoms.positions, atoms.get_momenta(), forces, info, columns)
        frame = with_results(atoms.copy(), energy, forces)
        frame.info.update(time_ps=now, **info, **columns)  # ASE's trajectories keep no columns but its own
        return frame

    def _summary(self, stopped: str, seconds: float) -> Dict[str, Any]:
        """Figures of the whole simulation, resumed parts included."""
        ratio, atoms, longest_oh = self.bonds.stretched()
        return {
            "atoms": len(self.atoms),
            "steps": self.step,
            **energy_figures(self.records.table(), len(self.atoms), self.options.thermostat == "none"),
            "bonds": len(self.bonds.pairs),
            "largest_bond_ratio": ratio,
            "most_stretched_bond": list(atoms),
            "largest_OH_angstrom": longest_oh,
            "milliseconds_per_step": 1000 * seconds,
            "stopped": stopped,
            "options": self._asked,
        }


class _Exploded(Exception):
    """Energies, velocities or bonds that no molecule has."""


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


def _check_same(before: Dict[str, Any], now: Dict[str, Any]) -> None:
    """Refuse to go on with another simulation."""
    for name, value in now.items():
        if name not in _MAY_CHANGE and before.get(name, value) != value:
            raise ValueError(
                f"--resume: the simulation was begun with {name}={before[name]}, not {value}; only "
                f"{', '.join(_MAY_CHANGE)} may change."
            )
