"""Errors in the units people think in, with the unit in the metric's name.

On data's way: predictions and labels of a split, in the target's unit -> metrics -> log, checkpoint, report.
"""

from dataclasses import dataclass
from typing import Dict, List, Sequence

import numpy as np

from ipu_chem.data.units import KCAL_PER_MOL

# Errors are shown in the customary smaller unit.
_SHOWN_IN = {
    "eV": ("meV", 1000.0),
    "eV/Å": ("meV/Å", 1000.0),
    "Ha": ("mHa", 1000.0),
    "Ha/Å": ("mHa/Å", 1000.0),
}
FORCES = "forces"  # name of the quantity that every atom has three of


@dataclass(frozen=True)
class Target:
    """One predicted quantity.

    Attributes:
        name: short name, e.g. "u0".
        unit: of labels and predictions, e.g. "eV"; "" for none.
        extensive: grows with the molecule, so that atoms add up.
    """

    name: str
    unit: str
    extensive: bool = True

    @property
    def error_unit(self) -> str:
        """Unit in which errors are shown."""
        return _SHOWN_IN.get(self.unit, (self.unit, 1.0))[0]

    @property
    def error_factor(self) -> float:
        """Turns an error in ``unit`` into ``error_unit``."""
        return _SHOWN_IN.get(self.unit, (self.unit, 1.0))[1]

    def metric(self, kind: str) -> str:
        """Name of a metric such as ``mae_forces_meV_per_A``: plain letters, so that it can name a column."""
        unit = self.error_unit.replace("/", "_per_").replace("*", "_").replace("^", "").replace("Å", "A")
        return f"{kind}_{self.name}_{unit}" if unit else f"{kind}_{self.name}"

    def other_unit(self, error: float) -> str:
        """The same error for those who think in kcal/mol, such as "0.231 kcal/mol/Å"; "" for what is no energy."""
        if not self.unit.startswith("eV"):
            return ""
        return f"{error / self.error_factor / KCAL_PER_MOL:.3g} kcal/mol{self.unit[2:]}"


def regression_metrics(prediction: np.ndarray, label: np.ndarray, targets: Sequence[Target]) -> Dict[str, float]:
    """MAE and RMSE of every target over the molecules that have its label.

    Args:
        prediction: [I, T] float64 in the targets' units.
        label: [I, T] float64, NaN where missing.
        targets: T of them.

    Returns:
        {"mae_u0_meV": ..., "rmse_u0_meV": ...}; NaN for a target without labels.
    """
    result: Dict[str, float] = {}
    for column, target in enumerate(targets):
        error = (prediction[:, column] - label[:, column]) * target.error_factor
        error = error[np.isfinite(label[:, column])]
        result[target.metric("mae")] = float(np.abs(error).mean()) if len(error) else float("nan")
        result[target.metric("rmse")] = float(np.sqrt(np.square(error).mean())) if len(error) else float("nan")
    return result


def selection_metric(metrics: Dict[str, float], targets: Sequence[Target], scale: Sequence[float]) -> float:
    """One number to choose checkpoints by: the mean over targets of MAE / scale (lower is better).

    Args:
        metrics: of `regression_metrics`.
        targets: T of them.
        scale: [T] standard deviation of each target, so that targets of different units count alike.
    """
    shares: List[float] = [
        metrics[target.metric("mae")] / target.error_factor / max(float(size), 1e-12)
        for target, size in zip(targets, scale)
    ]
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else float("nan")
