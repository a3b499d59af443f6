"""Molecular dynamics of many free molecules at once, in a pack; each is checked at every step, and stops alone."""

import sys
import time
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from tqdm import tqdm

from ipu_chem.run_intervals import ForceIntervals, uncertainties, uncertainty_names
from ipu_chem.simulation.bonds import Bonds
from ipu_chem.simulation.explosions import LONGEST, explosion, hottest
from ipu_chem.simulation.frames import FrameText
from ipu_chem.simulation.integrators import Langevin, Moving, Noise, VelocityVerlet, random_of
from ipu_chem.simulation.md_summary import energy_figures, figures_of_copies, plot, tables_of_copies
from ipu_chem.simulation.moving import MovingPack
from ipu_chem.simulation.options import MdOptions
from ipu_chem.simulation.records import Records, half_width_cells
from ipu_chem.simulation.velocities import degrees_of_freedom, draw_velocities
from ipu_chem.trained_run import ForceField
from ipu_chem.training.signals import StopSignals


def run_copies(
    members: Sequence[ForceField],
    options: MdOptions,
    records: Records,
    asked: Dict[str, Any],
    structures: Sequence[Any],
    intervals: Optional[ForceIntervals] = None,
) -> Dict[str, Any]:
    """Simulate molecules together.

    Args:
        members: one force field, or several of the same architecture, whose mean forces move the atoms.
        options: of the simulation.
        records: of its folder.
        asked: options to go on with.
        structures: ase.Atoms to start from; those of the state in records, if it has one.
        intervals: of the members, for frames and table.

    Returns:
        The contents of summary.json.

    Raises:
        ValueError: all molecules exploded; everything up to there is kept.
    """
    return _Copies(members, options, records, asked, structures, intervals).run()


class _Copies:
    """I molecules of N atoms in all, one behind the other in all arrays."""

    def __init__(
        self,
        members: Sequence[ForceField],
        options: MdOptions,
        records: Records,
        asked: Dict[str, Any],
        given: Any,
        intervals: Optional[ForceIntervals],
    ) -> None:
        state = records.state
        structures = _restored(state) if state else list(given)
        self.options, self.records, self._asked, self._intervals = options, records, asked, intervals
        self._offsets = np.cumsum([0, *(len(atoms) for atoms in structures)])
        self._sizes, self._starts = np.diff(self._offsets), self._offsets[:-1]
        self._randoms = [random_of(options.seed, copy) for copy in range(len(structures))]
        self._begin = np.array(state.get("begin", np.concatenate([atoms.positions for atoms in structures])))
        begins = np.split(self._begin, self._offsets[1:-1])
        self._degrees = np.array([degrees_of_freedom(one, options.thermostat) for one in begins])
        if not state:
            for atoms, degrees, random in zip(structures, self._degrees.tolist(), self._randoms):
                draw_velocities(atoms, options.temperature, degrees, random)
        self._infos = [
            {name: atoms.info[name] for name in ("name", "charge", "spin") if name in atoms.info}
            for atoms in structures
        ]
        self._numbers = np.concatenate([atoms.numbers for atoms in structures])
        self.bonds = Bonds(self._numbers, self._begin, self._offsets)
        self.bonds.longest[:] = state.get("longest", self.bonds.longest)
        names = uncertainty_names(len(members), intervals)
        self._texts = [FrameText(atoms, names) for atoms in structures]
        positions, momenta, masses = (
            np.concatenate([getattr(atoms, f"get_{name}")() for atoms in structures])
            for name in ("positions", "momenta", "masses")
        )
        self.atoms = Moving(positions, momenta, np.zeros_like(positions), masses[:, None])
        self._integrator = self._integrator_of(state)
        self.step, self._stops = int(state.get("step", 0)), dict(state.get("stops", {}))
        self._moves = np.ones(len(structures), bool)  # False for copies that have been stopped
        self._fill(members, structures, state)

    def _integrator_of(self, state: Dict[str, Any]) -> Any:
        """Velocity Verlet, or Langevin with random numbers from where they were."""
        options = self.options
        self._noise: Optional[Noise] = None
        if options.thermostat == "none":
            return VelocityVerlet(options.timestep)
        self._noise = Noise(self._randoms, self._offsets)
        if state:
            for random, keys, at in zip(self._randoms, state["random"], state["random_at"]):
                random.set_state(("MT19937", keys, *at))
        return Langevin(options.timestep, options.temperature, options.friction, self.atoms.masses, self._noise)

    def _fill(self, members: Sequence[ForceField], structures: Sequence[Any], state: Dict[str, Any]) -> None:
        """The pack, and forces where the atoms are now."""
        options = self.options
        self._pack = MovingPack(
            members,
            structures,
            len(self._numbers),
            options.accelerator,
            options.skin,
            options.threads,
            options.dtype,
        )
        for copy, atoms in enumerate(structures):
            slot = self._pack.enter(atoms)
            assert slot == copy and self._pack.start[slot] == self._starts[copy]
        for copy in self._stops:
            self._leave(int(copy))
        if state:  # neighbor lists and middles as they were, or sums would be rounded in another way
            self._pack.positions[:] = state["built_at"]
            self._pack.lists.update()
        self.atoms.forces = self._compute(self.atoms.positions)
        for copy, why in self.found.refused.items():
            raise ValueError(f"copy {copy} cannot begin: {why}")

    def _compute(self, positions: np.ndarray) -> np.ndarray:
        self._pack.positions[:] = positions
        self.found = self._pack()
        return self.found.force

    def run(self) -> Dict[str, Any]:
        """To the end, to a signal, or until no copy is left."""
        options, began, done = self.options, time.monotonic(), 0
        steps = options.steps
        with StopSignals() as stop, self._bar() as bar:
            if not self.records.state:
                self._record()
            while self.step < steps and self._moves.any() and not stop.received:
                with np.errstate(all="ignore"):  # of copies that explode, which the check finds
                    self._integrator.step(self.atoms, self._compute)
                self.step += 1
                self._check(bar)
                moving = int(self._moves.sum())
                done += moving
                bar.update(moving)
                if self.step % options.stride == 0 or self.step == steps:
                    self._record()
        seconds = (time.monotonic() - began) / done if done else 0.0
        all_stopped = "" if self._moves.any() else f"all {len(self._moves):,} copies exploded"
        summary = self._summary(all_stopped or (f"stopped by signal {stop.received}" if stop.received else ""), seconds)
        if all_stopped:
            copy, stop_of = min(self._stops.items(), key=lambda item: item[1]["step"])
            raise ValueError(f"{all_stopped}, the first of them: {stop_of['why']}")
        return {**summary, "signal": stop.received}

    def _bar(self) -> Any:
        """Progress in steps of single molecules."""
        moving, shown = int(self._moves.sum()), self.options.progress
        return tqdm(
            total=self.options.steps * moving,
            initial=self.step * moving,
            desc=f"dynamics of {moving:,}",
            unit=" molecule-steps",
            unit_scale=True,
            disable=None if shown else True,
        )

    def _check(self, bar: Any) -> None:
        """Stop copies whose energies, velocities or bonds are not physical any more."""
        with np.errstate(all="ignore"):
            hot, ratios = self._temperatures(), self.bonds.update(self.atoms.positions)
            limit = hottest(self.options.temperature)
            calm = hot <= limit  # False where velocities are no numbers; of energies the pack says so
            too_long = np.unique(self.bonds.molecule[ratios > LONGEST])
        if calm.all() and not len(too_long) and not self.found.refused:
            return
        exploded = np.union1d(np.flatnonzero(~calm), [*too_long.tolist(), *self.found.refused])
        for copy in exploded.astype(int).tolist():
            if not self._moves[copy]:
                continue
            if copy in self.found.refused:
                what = self.found.refused[copy]
            elif not np.isfinite(hot[copy]):
                what = "velocities are not finite"
            elif hot[copy] > limit:
                what = f"the temperature is {hot[copy]:,.0f} K, above {limit:,.0f} K"
            else:
                what = self.bonds.worst(ratios, copy)
            self._stop(copy, what, bar)

    def _stop(self, copy: int, what: str, bar: Any) -> None:
        """Take a copy out, say so, and leave the others alone."""
        who = f"copy {copy}" + f" ({self._infos[copy]['name']})" * ("name" in self._infos[copy])
        why = explosion(who, self.step, self.options.timestep, what, self.records.trajectories[copy])
        self._stops[str(copy)] = {"step": self.step, "why": why}
        self._leave(copy)
        tqdm.write(f"warning: {why}", file=sys.stderr)
        bar.total -= self.options.steps - self.step + 1

    def _leave(self, copy: int) -> None:
        """Empty the slot of a copy, whose atoms rest from now on."""
        own = slice(self._offsets[copy], self._offsets[copy + 1])
        self._pack.leave(copy)
        self._moves[copy] = False
        for values in (self.atoms.positions, self.atoms.momenta, self.atoms.forces):
            values[own] = 0.0
        if self._noise is not None:
            self._noise.draws[copy] = False

    def _kinetic(self) -> np.ndarray:
        return 0.5 * np.add.reduceat((self.atoms.momenta**2 / self.atoms.masses).sum(1), self._starts)

    def _temperatures(self) -> np.ndarray:
        from ase.units import kB

        return 2.0 * self._kinetic() / (self._degrees * kB)

    def _record(self) -> None:
        """A frame and a row of each copy that moves, and the state to go on from."""
        atoms, now = self.atoms, self.step * self.options.timestep / 1000
        kinetic, hot, potential = self._kinetic(), self._temperatures(), self.found.energy
        energies_std, forces_std = self.found.spread
        spread = np.maximum.reduceat(np.abs(forces_std).max(1), self._starts)
        several = len(self.found.energies) > 1
        rows: List[Sequence[float]] = []
        frames: Dict[int, str] = {}
        for copy in np.flatnonzero(self._moves).tolist():
            energy = float(potential[copy])
            total = energy + float(kinetic[copy])
            own = slice(self._offsets[copy], self._offsets[copy + 1])
            energy_std = float(energies_std[copy]) if several else None
            own_std = forces_std[own] if several else None
            info, arrays = uncertainties(energy_std, own_std, int(self._sizes[copy]), self._intervals)
            row = (copy, now, energy, float(kinetic[copy]), total, float(hot[copy]), float(spread[copy]))
            rows.append((*row, *half_width_cells(info, arrays)))
            values = (one[own] for one in (atoms.positions, atoms.momenta, atoms.forces))
            frames[copy] = self._texts[copy].text(now, energy, *values, info, arrays)
        state = {"step": self.step, "asked": self._asked, "info": self._infos, "stops": {**self._stops}}
        arrays = {"numbers": self._numbers, "offsets": self._offsets, "built_at": self._pack.lists.built_at}
        arrays.update(positions=atoms.positions, momenta=atoms.momenta, begin=self._begin, longest=self.bonds.longest)
        if self._noise is not None:
            randoms: List[Any] = [random.get_state() for random in self._randoms]
            state["random_at"] = [at[2:] for at in randoms]
            arrays["random"] = np.array([at[1] for at in randoms])
        self.records.frame(rows, frames, state, **arrays)

    def _summary(self, stopped: str, seconds: float) -> Dict[str, Any]:
        """Figures of the whole simulation, resumed parts included; written and plotted."""
        conserved = self.options.thermostat == "none"
        tables = tables_of_copies(self.records.table())
        each: List[Dict[str, Any]] = []
        for copy, (table, atoms) in enumerate(zip(tables, self._sizes.tolist())):
            ratio, pair, longest_oh = self.bonds.stretched(copy)
            stop = self._stops.get(str(copy), {"step": self.step, "why": ""})
            bonds = {"largest_bond_ratio": ratio, "most_stretched_bond": list(pair), "largest_OH_angstrom": longest_oh}
            about = {"copy": copy, **self._infos[copy], "atoms": atoms, "steps": stop["step"], "stopped": stop["why"]}
            each.append({**about, **energy_figures(table, atoms, conserved), **bonds})
        summary = {
            "copies": len(each),
            "copies_that_exploded": len(self._stops),
            "atoms": int(self._offsets[-1]),
            "steps": self.step,
            "time_ps": max(one["time_ps"] for one in each),
            **figures_of_copies(each),
            "largest_bond_ratio": max(one["largest_bond_ratio"] for one in each),
            "largest_OH_angstrom": max(one["largest_OH_angstrom"] for one in each),
            "microseconds_per_molecule_step": 1e6 * seconds,
            "stopped": stopped,
            "each": each,
            "options": self._asked,
        }
        self.records.write_json("summary.json", summary)
        plot(self.records.folder, tables, self._sizes.tolist())
        return summary


def _restored(state: Dict[str, Any]) -> List[Any]:
    """Molecules of a state, where they were; those that had been stopped, where they began."""
    from ase import Atoms

    offsets = state["offsets"][1:-1]
    numbers, positions, momenta, begin = (
        np.split(state[name], offsets) for name in ("numbers", "positions", "momenta", "begin")
    )
    places = [begin[copy] if str(copy) in state["stops"] else place for copy, place in enumerate(positions)]
    return [Atoms(z, place, momenta=p, info=info) for z, place, p, info in zip(numbers, places, momenta, state["info"])]
