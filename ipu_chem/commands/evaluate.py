"""Measure a trained run, or the mean of several, on one of its splits."""

import sys
from dataclasses import dataclass
from typing import Any, List, Literal, Optional

from ipu_chem.commands.parsing import positional
from ipu_chem.outputs import check_file
from ipu_chem.ranges import check_fields

_USUAL = 0.9  # coverage that is measured unless another is asked for


@dataclass(frozen=True)
class Options:
    """Runs and split to measure.

    Attributes:
        split: which molecules.
        interval: coverage of the intervals that are measured on the test split; 0.9 if not given.
        calibrate: first make the residuals that intervals need from the validation split, for runs that lack them, and
            of graph models how far molecules are from those trained on, by which others are doubted.
        plot: picture of the error over the fraction of molecules on which several runs agree best (.png, .svg).
        accelerator: auto, cpu, cuda or ipu; the run's own if not given.
    """

    runs: List[str] = positional("folder of a run, or of several, whose mean and spread are measured", "+")
    split: Literal["train", "validation", "test"] = "test"
    interval: Optional[float] = None
    calibrate: bool = False
    plot: str = ""
    accelerator: Optional[str] = None

    def __post_init__(self) -> None:
        check_fields(self, interval="above 0 and below 1")
        if self.interval is not None and self.split != "test":
            raise ValueError(
                f"--interval with --split {self.split}: coverage is measured on molecules that neither trained nor "
                "calibrated the run; leave --split out."
            )
        if self.plot and len(self.runs) < 2:
            raise ValueError("--plot draws errors over the spread of several runs: give two folders or more.")


def run(options: Options) -> int:
    """Print the metrics of the best checkpoint, and how many labels lie inside of their intervals."""
    if options.plot:
        check_file("--plot", options.plot, (".png", ".svg", ".pdf"))
    from ipu_chem.prediction.calibration import FRACTIONS, calibrate, measure
    from ipu_chem.run_intervals import check_one_split
    from ipu_chem.trained_run import TrainedRun

    split, members = options.split, [TrainedRun.load(folder, options.accelerator) for folder in options.runs]
    check_one_split(members)
    for member in members if options.calibrate else ():
        calibrate(member)
        print(f"{member.folder}: residuals of its validation split are kept for intervals")
    measured = measure(members, split, _intervals(members, options))
    for name, value in measured.metrics.items():
        print(f"{split}: {name} {value:.4g}")
    for name, one in measured.covered.items():
        width = f"{one.width:.4g} {one.unit}".rstrip()
        what = "components" if name == "forces" else "labels"
        print(
            f"{split}: {options.interval or _USUAL:.4g} intervals of {name} hold {one.fraction:.1%} of {one.count:,} "
            f"{what}, mean width {width}"
        )
    for name, values in measured.selective.items():
        errors = ", ".join(f"{fraction:.0%}: {value:.4g}" for fraction, value in zip(FRACTIONS, values))
        print(f"{split}: {name} of the molecules on which the runs agree best: {errors}")
    if options.plot:
        from ipu_chem.reports.figures import save
        from ipu_chem.reports.selective_figure import selective_figure

        print(f"plot: {save(selective_figure(measured.doubted), options.plot)}")
    return 0


def _intervals(members: List[Any], options: Options) -> Any:
    """Intervals to measure; None of another split, and where runs have none and nobody asked for them."""
    from ipu_chem.run_intervals import intervals_of

    if options.split != "test":
        return None
    try:
        return intervals_of(members, options.interval or _USUAL)
    except ValueError as error:
        if options.interval is not None:
            raise
        targets = [target for member in members for target in member.task.targets]
        if targets and not any(target.binary for target in targets):
            print(f"no intervals: {error}", file=sys.stderr)
        return None
