"""A search: all candidates train a little, those that look best go on, the last of them to the end."""

from dataclasses import dataclass
from typing import Dict, List, Sequence

import numpy as np

from ipu_chem.scaling.candidates import Candidate, Progress, train_all
from ipu_chem.scaling.estimators import ESTIMATORS, TAIL, estimate_of
from ipu_chem.scaling.selection import LEAST_KEPT, Rung, rungs_of, survivors
from ipu_chem.scaling.tpe import Trial, over_seeds
from ipu_chem.scaling.tse import Estimate


@dataclass(frozen=True)
class SearchOptions:
    """How a search spends its steps.

    Attributes:
        budget: fraction of its steps that every candidate trains for before the first early evaluation.
        keep: candidates that train to the end, 2 or more.
        halving: 0 is one early evaluation; else there is one more at this many times the steps, again and again, and
            each time the best of this many go on: successive halving, see `rungs_of`.
        estimator: what an early evaluation ranks by: tail, the mean training loss of the last steps; validation, the
            metric of the last evaluation, best with training.ema_decay; tse, tse_e, tse_ema.
        fraction: last fraction of the steps up to an early evaluation, whose mean loss is the estimate (tail).
        calibration: of final values by estimates: line, or power where they span a decade.
        finish_all: train all candidates to the end, to judge the estimates.
        metric: validation metric that counts; empty takes the forces' error, else the first one of the runs.
        jobs: runs side by side, which share the CPU cores.
    """

    budget: float = 0.2
    keep: int = 3
    halving: int = 0
    estimator: str = TAIL
    fraction: float = 0.1
    calibration: str = "line"
    finish_all: bool = False
    metric: str = ""
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1 or not 0 < self.fraction <= 1:
            raise ValueError(f"budget={self.budget}, fraction={self.fraction}: give shares, such as 0.2 and 0.1.")
        if self.keep < LEAST_KEPT or self.jobs < 1:
            raise ValueError(f"keep={self.keep}, jobs={self.jobs}: give {LEAST_KEPT} or more, and 1 or more.")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r}: choose {', '.join(ESTIMATORS)}.")
        if self.calibration not in ("line", "power"):
            raise ValueError(f"calibration={self.calibration!r}: choose line or power.")
        self.rungs(1)  # refuses a halving that is none

    def rungs(self, candidates: int) -> List[Rung]:
        """How far how many candidates train; see `rungs_of`."""
        return rungs_of(candidates, self.budget, self.keep, self.halving)


@dataclass(frozen=True)
class Look:
    """What a search saw at one of its rungs.

    Attributes:
        share: of the steps of every run.
        estimates: of the candidates that had come this far, by name: means over seeds, inf if one diverged.
    """

    share: float
    estimates: Dict[str, float]


@dataclass(frozen=True)
class Searched:
    """What a search has trained and chosen.

    Attributes:
        candidates: all runs.
        reached: how far each is.
        estimates: of each at the first look.
        looks: earliest first.
        kept: names of the candidates that the looks chose for the end, the best at the last look first; none if all
            that were left diverged. They are the same whether or not the others were trained to the end as well.
    """

    candidates: List[Candidate]
    reached: List[Progress]
    estimates: List[Estimate]
    looks: List[Look]
    kept: List[str]

    @property
    def names(self) -> List[str]:
        """Of the candidates, each once."""
        return list(self.looks[0].estimates)


def search(candidates: Sequence[Candidate], options: SearchOptions, progress: bool = True) -> Searched:
    """Train all to the first rung, the best to the next, the last to the end.

    Whatever an earlier call has trained is not trained again: the looks are taken from the losses that were logged, so
    that a search that was stopped chooses as if it had not been.

    Raises:
        ValueError: see `train_all` and `over_seeds`; or all candidates diverged before the first look.
    """
    left = list(dict.fromkeys(one.name for one in candidates))
    rungs = options.rungs(len(left))
    reached: Dict[int, Progress] = {}
    first: Dict[int, Estimate] = {}
    looks: List[Look] = []

    def train(names: Sequence[str], share: float) -> List[int]:
        places = [place for place, one in enumerate(candidates) if one.name in names]
        trained = train_all([candidates[place] for place in places], share, options.jobs, progress)
        reached.update(zip(places, trained))
        return places

    for rung, following in zip(rungs, rungs[1:]):
        places = train(left, rung.share)
        how = options.estimator, options.fraction, options.metric
        seen = {place: estimate_of(candidates[place], reached[place], rung.share, *how) for place in places}
        first = first or seen
        names, means, _ = over_seeds(
            [Trial(candidates[place].name, candidates[place].seed, seen[place].value) for place in places]
        )
        looks.append(Look(rung.share, dict(zip(names, means))))
        if len(looks) > 1 and not np.isfinite(means).any():  # what was left behind is still worth a report
            left = []
            break
        left = [names[index] for index in survivors(means, following.candidates)]
    train([one.name for one in candidates] if options.finish_all else left, 1.0)
    everywhere = range(len(candidates))
    estimates = [first[place] for place in everywhere]
    return Searched(list(candidates), [reached[place] for place in everywhere], estimates, looks, left)
