"""Intervals of finished runs, calibrated with the residuals in their folders, and uncertainties that frames hold."""

import sys
from shlex import quote
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ipu_chem.trained_run import ForceField, TrainedRun
from ipu_chem.uncertainty.intervals import Intervals
from ipu_chem.uncertainty.residuals import Residuals, checkpoint_of, data_of_split, read_residuals


def intervals_of(members: Sequence[TrainedRun], coverage: float) -> Intervals:
    """Intervals of one run, or of several around their mean.

    Raises:
        ValueError: a run learned no numbers, has no validation split, or no residuals of it; runs were validated on
            different molecules; or these are too few. Says what to do.
    """
    found = [_residuals(member) for member in members]
    check_one_split(members)
    try:
        return Intervals(found, coverage)
    except ValueError as error:
        raise ValueError(f"{members[0].folder}: {error}") from None


def check_one_split(members: Sequence[TrainedRun]) -> None:
    """Refuse several runs of different molecules or outputs, as one may have trained on what tests the other.

    Raises:
        ValueError: names two of them.
    """
    for member in members[1:]:
        for one in (members[0], member):
            one.standardizer  # noqa: B018 (raises where there is none)
        same_targets = member.task.targets == members[0].task.targets
        same_targets = same_targets and bool(member.config.force_share) == bool(members[0].config.force_share)
        if not same_targets or data_of_split(member.state) != data_of_split(members[0].state):
            what = "molecules with the same splits" if same_targets else "targets"
            raise ValueError(
                f"{member.folder} and {members[0].folder} have not the same {what}, so that one may have trained on "
                "what tests the other; train them with the same data options and another --training.seed."
            )


class ForceIntervals(NamedTuple):
    """Half-widths of intervals around energies, in eV, and components of forces, in eV/Å.

    Attributes:
        intervals: in the unit of the runs' energy.
        ev: eV, one of that unit.
    """

    intervals: Intervals
    ev: float

    @property
    def have_forces(self) -> bool:
        """False where some run learned energies alone: nothing is known of the errors of its forces."""
        return self.intervals.forces is not None

    def of_energies(self, spread: Optional[np.ndarray], count: int) -> np.ndarray:
        """Half-widths [I] float64, eV.

        Args:
            spread: [I], eV, standard deviation among several runs; None of one.
            count: I.
        """
        spread = None if spread is None else spread[:, None] / self.ev
        return self.intervals.of_labels(spread, count)[:, 0] * self.ev

    def of_forces(self, spread: Optional[np.ndarray], atoms: int) -> np.ndarray:
        """Half-widths [n, 3] float64, eV/Å, of `have_forces`.

        Args:
            spread: [n, 3], eV/Å, standard deviation among several runs; None of one.
            atoms: n.
        """
        assert self.intervals.forces is not None
        spread = None if spread is None else spread / self.ev
        return self.intervals.forces.half_widths(spread, (atoms, 3)) * self.ev


def force_intervals(members: Sequence[ForceField], coverage: Optional[float]) -> Optional[ForceIntervals]:
    """Intervals of force fields around their energies, and around their forces where all have learned some.

    Says on stderr where they have not.

    Args:
        members: one, or several around whose mean they lie.
        coverage: above 0 and below 1; None gives None.

    Raises:
        ValueError: see `intervals_of`.
    """
    if coverage is None:
        return None
    made = ForceIntervals(intervals_of(members, coverage), members[0].ev)
    if not made.have_forces:
        print(
            f"warning: {members[0].folder} learned no forces, so that nothing is known of their errors; frames have "
            "intervals of their energies alone.",
            file=sys.stderr,
        )
    return made


class UncertaintyNames(NamedTuple):
    """Names of the uncertainties of energies and forces that frames hold.

    Attributes:
        info: of numbers in the comment line, eV.
        arrays: of columns [n, 3], eV/Å.
    """

    info: Tuple[str, ...]
    arrays: Tuple[str, ...]


def uncertainty_names(count: int, intervals: Optional[ForceIntervals]) -> UncertaintyNames:
    """Names in frames of ``count`` runs: spreads of several, half-widths of intervals."""
    several = count > 1
    energies = [("energy_std", several), ("energy_half_width", intervals is not None)]
    forces = [("forces_std", several), ("forces_half_width", intervals is not None and intervals.have_forces)]
    return UncertaintyNames(*(tuple(name for name, is_there in names if is_there) for names in (energies, forces)))


def uncertainties(
    energy_std: Optional[float], forces_std: Optional[np.ndarray], atoms: int, intervals: Optional[ForceIntervals]
) -> Tuple[Dict[str, float], Dict[str, np.ndarray]]:
    """Values of `uncertainty_names` of one frame.

    Args:
        energy_std: eV, standard deviation among several runs; None of one.
        forces_std: [n, 3], eV/Å, likewise.
        atoms: n.
        intervals: None where nobody asked for them.

    Returns:
        (numbers in eV, arrays [n, 3] in eV/Å), by name.
    """
    info: Dict[str, float] = {}
    arrays: Dict[str, np.ndarray] = {}
    if energy_std is not None and forces_std is not None:
        info["energy_std"], arrays["forces_std"] = float(energy_std), forces_std
    if intervals is not None:
        spread = None if energy_std is None else np.array([energy_std])
        info["energy_half_width"] = float(intervals.of_energies(spread, 1)[0])
        if intervals.have_forces:
            arrays["forces_half_width"] = intervals.of_forces(forces_std, atoms)
    return info, arrays


def _residuals(run: TrainedRun) -> Residuals:
    """Residuals that were kept with a run, if they are those of its checkpoint."""
    check_learned_numbers(run)
    remedy = f"`ipu-chem evaluate {quote(str(run.folder))} --calibrate` makes them anew from its validation split"
    try:
        found = read_residuals(run.folder)
    except FileNotFoundError:
        if run.config.data.split == "random" and not run.config.data.validation:
            raise ValueError(without_validation(run)) from None
        raise ValueError(f"{run.folder} has no residuals, which intervals are made of; {remedy}.") from None
    except ValueError as error:
        raise ValueError(f"{str(error)[:-1]}; {remedy}.") from None
    theirs = (list(found.data), list(found.checkpoint), [list(one) for one in found.targets])
    labels = run.task.outputs[0].targets
    ours = (data_of_split(run.state), checkpoint_of(run.state), [[one.name, one.unit] for one in labels])
    if theirs != ours:
        raise ValueError(f"{run.folder} has residuals of another checkpoint than its best; {remedy}.")
    return found


def without_validation(run: TrainedRun) -> str:
    """The sentence about a run that held no molecules out."""
    return (
        f"{run.folder} was trained without a validation split, so that nothing is known of its errors on other "
        "molecules; train a run with --data.validation 0.1 to have intervals."
    )


def check_learned_numbers(run: TrainedRun) -> None:
    """Refuse runs whose predictions are no numbers.

    Raises:
        ValueError: the run learned classes, or no labels.
    """
    run.standardizer  # noqa: B018 (raises where there is none)
    classes = [target.name for target in run.task.targets if target.binary]
    if classes:
        raise ValueError(
            f"{run.folder} learned classes ({', '.join(classes)}), whose predictions are probabilities and have no "
            "intervals; leave --interval and --calibrate out."
        )
