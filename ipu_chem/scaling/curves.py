"""Curves of training losses of a search, thinned out so that they can be drawn and kept."""

from dataclasses import dataclass
from typing import List

import numpy as np

from ipu_chem.scaling.candidates import budget_steps
from ipu_chem.scaling.search import Searched
from ipu_chem.scaling.tse import step_losses, tail_mean
from ipu_chem.training.logging import read_rows

_FROM, _POINTS = 0.01, 60  # of the steps, and evenly spaced in their logarithm


@dataclass(frozen=True)
class Curve:
    """Training losses of a candidate.

    Attributes:
        name: of the candidate.
        budgets: fractions of the steps of its runs, rising.
        losses: mean of the last steps up to there, over seeds: the estimate, at an early evaluation.
    """

    name: str
    budgets: List[float]
    losses: List[float]


def curves_of(found: Searched, fraction: float) -> List[Curve]:
    """A curve of each candidate, up to where a run of it ends or diverges.

    Args:
        found: what a search has trained.
        fraction: of the steps so far, the last of which are averaged; see `tail_mean`.
    """
    early = [one.budget for one in found.evaluations]
    grid = sorted({*np.geomspace(min(_FROM, early[0] / 4), 1, _POINTS).tolist(), *early})
    curves = []
    for name in found.names:
        runs = [(one, p) for one, p in zip(found.candidates, found.reached) if one.name == name]
        losses = [step_losses(rows) if (rows := read_rows(one.folder)) else np.zeros(0) for one, _ in runs]
        curve = Curve(name, [], [])
        for budget in grid:
            ends = [budget_steps(p.total, budget) for _, p in runs]
            if any(end > len(seen) for end, seen in zip(ends, losses)):
                break
            mean = float(np.mean([tail_mean(seen[:end], fraction, draws=0).value for end, seen in zip(ends, losses)]))
            if not np.isfinite(mean):
                break
            where = float(f"{ends[0] / runs[0][1].total:.5g}")
            if where not in curve.budgets:  # several in one step
                curve.budgets.append(where)
                curve.losses.append(float(f"{mean:.5g}"))
        curves.append(curve)
    return curves
