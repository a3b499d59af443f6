"""Estimates of a run's final loss, from the losses of its first optimizer steps.

`tail_mean` is the one to use: a mean per step over the end of what has been seen, which compares over batch sizes and
forgets the warm-up. TSE, TSE-E and TSE-EMA are sums over epochs of the mean loss of an epoch (Ru et al., "Speedy
performance estimation for neural architecture search", NeurIPS 2021). Lower is better for all four, and a loss that is
not finite makes any of them infinite: the worst.
"""

import math
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Union

import numpy as np

Values = Union[Sequence[float], np.ndarray]

DRAWS = 1000
_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """An estimate and its interval.

    Attributes:
        name: of the estimator.
        value: lower is better; inf for a run that diverged.
        low: lower end of its interval.
        high: its upper end.
        steps: optimizer steps that were seen.
        diverged_at: the first of them, counted from 1, whose loss was not finite; None if there was none.
        spread: standard deviation that counts in comparing runs of a search, without what is common to all of them;
            NaN where it is not known.
        note: says that the run leaves the curve that the others have in common.
    """

    name: str
    value: float
    low: float
    high: float
    steps: int
    diverged_at: Optional[int] = None
    spread: float = math.nan
    note: str = ""

    def __str__(self) -> str:
        if self.diverged_at is not None:
            return f"{self.name} inf: the loss was not finite at step {self.diverged_at:,}, so the run ranks last"
        return f"{self.name} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}] from {self.steps:,} steps"


def tail_mean(losses: Values, fraction: float = 0.1, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Mean loss of the last ``fraction`` of the steps so far, at least one.

    Args:
        losses: [S] of every optimizer step so far.
        fraction: of them that counts, above 0 up to 1.
        draws, seed: of the bootstrap; 0 draws give no interval (NaN).

    Raises:
        ValueError: no losses, or a fraction that is none.
    """
    values = _checked(losses, 1)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction={fraction}: give the fraction of the steps that counts, above 0 and at most 1.")
    window = values[-max(1, round(fraction * len(values))) :]
    return _estimate("tail mean", values, window[None], np.ones(1), draws, seed)


def tse(losses: Values, steps_per_epoch: int, epochs: int, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Training speed estimate: the sum over the first epochs of their mean loss.

    Args:
        losses: [S] of every optimizer step, S at least epochs * steps_per_epoch.
        steps_per_epoch: B of the paper.
        epochs: T of the paper.
        draws, seed: of the bootstrap; 0 draws give no interval (NaN).

    Raises:
        ValueError: there are fewer steps than that.
    """
    windows = _epochs(losses, steps_per_epoch, epochs)
    return _estimate("TSE", windows.ravel(), windows, np.ones(epochs), draws, seed)


def tse_e(
    losses: Values, steps_per_epoch: int, epochs: int, last: int = 1, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """TSE of the ``last`` of the epochs only, E of the paper: what comes before is burn-in; see `tse`."""
    windows = _epochs(losses, steps_per_epoch, epochs)
    if not 1 <= last <= epochs:
        raise ValueError(f"TSE-E of the last {last} of {epochs} epochs: give 1 to {epochs}.")
    return _estimate("TSE-E", windows.ravel(), windows[-last:], np.ones(last), draws, seed)


def tse_ema(
    losses: Values, steps_per_epoch: int, epochs: int, gamma: float = 0.999, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """TSE in which an epoch t of T counts gamma**(T - t), so that older ones count less; see `tse`."""
    windows = _epochs(losses, steps_per_epoch, epochs)
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma={gamma}: give a decay per epoch above 0 and at most 1, such as 0.999.")
    return _estimate("TSE-EMA", windows.ravel(), windows, gamma ** np.arange(epochs)[::-1], draws, seed)


def step_losses(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Losses of the optimizer steps of a run, from what `ipu_chem.training.logging.read_rows` reads.

    A row is the mean of the steps since the row before, and stands for each of them; a loss that is missing because it
    was not finite becomes inf.

    Returns:
        [S] float64.

    Raises:
        ValueError: there are no rows of training, or they do not follow each other.
    """
    steps: List[int] = [0]
    losses: List[float] = []
    for row in rows:
        if row["kind"] != "train":
            continue
        loss = row.get("loss")
        steps.append(int(row["step"]))
        losses.append(math.inf if loss is None or not math.isfinite(loss) else float(loss))
    if not losses:
        raise ValueError("there are no losses of training: give the rows of a run that has begun to train.")
    windows = np.diff(steps)
    if windows.min() < 1:
        later = steps[int(windows.argmin()) + 1]
        raise ValueError(f"rows of training must follow each other, and step {later:,} comes again: one run's only.")
    return np.repeat(losses, windows)


def block_means(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Means of moving-block bootstrap samples of a series whose neighbors are alike.

    Blocks of the cube root of its length are drawn with replacement (Künsch, Ann. Statist. 17, 1217 (1989)).

    Args:
        values: [S].
        draws: samples.
        rng: source of the draws.

    Returns:
        [draws], moved so that they lie around the mean of the series, whose ends are in fewer blocks than its middle.
    """
    size = max(1, round(len(values) ** (1 / 3)))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means = (sums[size:] - sums[:-size]) / size
    count = math.ceil(len(values) / size)
    drawn = means[rng.integers(0, len(means), (draws, count))].mean(1)
    return drawn + (values.mean() - means.mean())


def _estimate(name: str, seen: np.ndarray, windows: np.ndarray, weights: np.ndarray, draws: int, seed: int) -> Estimate:
    """The weighted sum of the means of windows [T, B]; windows are resampled one by one, since losses fall."""
    bad = np.nonzero(~np.isfinite(seen))[0]
    if len(bad):
        return Estimate(name, math.inf, math.inf, math.inf, len(seen), int(bad[0]) + 1)
    value = float(weights @ (windows.sum(1) / windows.shape[1]))
    if draws == 0:
        return Estimate(name, value, math.nan, math.nan, len(seen))
    rng = np.random.default_rng(seed)
    drawn = sum(weight * block_means(window, draws, rng) for weight, window in zip(weights, windows))
    low, high = np.quantile(np.asarray(drawn), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Estimate(name, value, float(low), float(high), len(seen))


def _epochs(losses: Values, steps_per_epoch: int, epochs: int) -> np.ndarray:
    """[T, B] losses of the first epochs."""
    if steps_per_epoch < 1 or epochs < 1:
        raise ValueError(f"steps_per_epoch={steps_per_epoch} and epochs={epochs}: give 1 or more of both.")
    needed = steps_per_epoch * epochs
    return _checked(losses, needed)[:needed].reshape(epochs, steps_per_epoch)


def _checked(losses: Values, needed: int) -> np.ndarray:
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or len(values) < max(needed, 1):
        raise ValueError(
            f"the estimate needs the losses of {max(needed, 1):,} steps and there are {values.size:,}; train on, or "
            "ask for fewer epochs."
        )
    return values
