"""Metrics of predictions, with the unit in the metric's name: energies in eV are measured in meV."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from ipu_chem.units import KCAL_PER_MOL

# Errors are shown in the customary smaller unit.
_SHOWN_IN = {
    "eV": ("meV", 1000.0),
    "eV/Å": ("meV/Å", 1000.0),
    "Ha": ("mHa", 1000.0),
    "Ha/Å": ("mHa/Å", 1000.0),
}
FORCES = "forces"  # name of the quantity that every atom has three of
BINARY = "binary"  # kind of a label that is a class, 0 or 1


@dataclass(frozen=True)
class Target:
    """One predicted quantity.

    Attributes:
        name: short name, e.g. "u0".
        unit: of labels and predictions, e.g. "eV"; "" for none.
        extensive: grows with the molecule, so that atoms add up.
        binary: a class: labels are 0 and 1, predictions are probabilities of 1.
    """

    name: str
    unit: str
    extensive: bool = True
    binary: bool = False

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


def is_binary(target: Mapping[str, Any]) -> bool:
    """Test if an entry of ``info["targets"]`` is a class, not a number."""
    return target.get("kind") == BINARY


def targets_of(entries: Sequence[Mapping[str, Any]]) -> List[Target]:
    """Targets from ``info["targets"]`` of a store, or from those of a standardizer."""
    return [Target(entry["name"], entry["unit"], entry["extensive"], is_binary(entry)) for entry in entries]


def metric_names(targets: Sequence[Target]) -> List[str]:
    """Names that `label_metrics` returns."""
    kinds = ("rocauc", "ap") if targets[0].binary else ("mae", "rmse")
    names = [target.metric(kind) for target in targets for kind in kinds]
    return names + (list(kinds) if targets[0].binary and len(targets) > 1 else [])


def label_metrics(prediction: np.ndarray, label: np.ndarray, targets: Sequence[Target]) -> Dict[str, float]:
    """`binary_metrics` of classes, `regression_metrics` of numbers; targets are of one kind."""
    return (binary_metrics if targets[0].binary else regression_metrics)(prediction, label, targets)


def binary_metrics(probability: np.ndarray, label: np.ndarray, targets: Sequence[Target]) -> Dict[str, float]:
    """ROC-AUC and average precision of every class over the molecules with its label, as ogb's Evaluator.

    Args:
        probability: [I, T] float64, or anything that rises with it.
        label: [I, T] float64, 0 or 1, NaN where missing.
        targets: T of them.

    Returns:
        {"rocauc_p_np": ..., "ap_p_np": ...}, NaN for a target whose labels here are not of both classes; of several
        targets also "rocauc" and "ap", the means over those that have both.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError:
        raise ValueError("metrics of classes are scikit-learn's: pip install scikit-learn") from None
    result: Dict[str, float] = {}
    for column, target in enumerate(targets):
        known = np.isfinite(label[:, column])
        score, positive = probability[known, column], label[known, column] == 1
        both = 0 < positive.sum() < len(positive) and bool(np.isfinite(score).all())
        result[target.metric("rocauc")] = float(roc_auc_score(positive, score)) if both else float("nan")
        result[target.metric("ap")] = float(average_precision_score(positive, score)) if both else float("nan")
    if len(targets) > 1:
        for kind in ("rocauc", "ap"):
            result[kind] = _mean_of_known([result[target.metric(kind)] for target in targets])
    return result


def lower_is_better(name: str, value: float) -> Tuple[str, float]:
    """A metric by which runs are ranked, lowest first: 1 - ROC-AUC and 1 - average precision, others as they are.

    Args:
        name: of an evaluation.
        value: of it.

    Returns:
        (name, value) that counts.
    """
    if name.split("_")[0] in ("rocauc", "ap"):
        return f"1 - {name}", 1.0 - value
    return name, value


def _mean_of_known(values: Sequence[float]) -> float:
    """Mean without NaN; NaN if there is nothing else."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


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
    """One number to choose checkpoints by, lower is better: the mean over targets of MAE / scale, or of 1 - ROC-AUC.

    Args:
        metrics: of `label_metrics`.
        targets: T of them.
        scale: [T] standard deviation of each target, so that targets of different units count alike.
    """
    if targets[0].binary:
        return 1.0 - _mean_of_known([metrics[target.metric("rocauc")] for target in targets])
    errors: List[float] = [
        metrics[target.metric("mae")] / target.error_factor / max(float(size), 1e-12)
        for target, size in zip(targets, scale)
    ]
    return _mean_of_known(errors)
