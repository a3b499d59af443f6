"""Figures and plot of a simulation from its table: drift of the total energy, temperature, disagreement of runs."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

_MOST_LINES = 100  # of copies in a plot
# Figures of half-widths, where intervals were asked for, and columns of the table.
_WIDEST = {
    "largest_energy_half_width_eV": "energy_half_width_eV",
    "largest_force_half_width_eV_per_A": "largest_force_half_width_eV_per_A",
}


def energy_figures(table: Mapping[str, np.ndarray], atoms: int, conserved: bool) -> Dict[str, Any]:
    """Figures of one molecule.

    Args:
        table: its rows, by `COLUMNS` of records.
        atoms: of the molecule.
        conserved: False under a thermostat, which exchanges energy: then there is no drift.
    """
    total = table["total_eV"] / atoms * 1000
    drift = float(np.polyfit(table["time_ps"], total, 1)[0]) if len(total) > 1 else 0.0
    return {
        "time_ps": float(table["time_ps"][-1]),
        "drift_meV_per_atom_per_ps": drift if conserved else None,
        "largest_deviation_meV_per_atom": float(np.abs(total - total[0]).max()) if conserved else None,
        "total_energy_std_meV_per_atom": float(total.std()),
        "temperature_mean_K": float(table["temperature_K"].mean()),
        "temperature_std_K": float(table["temperature_K"].std()),
        "largest_force_std_eV_per_A": float(table["largest_force_std_eV_per_A"].max()),
        **{name: float(table[column].max()) for name, column in _WIDEST.items() if column in table},
    }


def tables_of_copies(table: Mapping[str, np.ndarray]) -> List[Dict[str, np.ndarray]]:
    """The rows of each copy, in the order of copies; every copy has one row or more."""
    order = np.argsort(table["copy"], kind="stable")
    ends = np.flatnonzero(np.diff(table["copy"][order])) + 1
    parts = np.split(order, ends)
    return [{name: values[part] for name, values in table.items()} for part in parts]


def figures_of_copies(each: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Means and extremes over copies of their `energy_figures`."""

    def values(name: str) -> np.ndarray:
        return np.array([one[name] for one in each if one[name] is not None])

    drifts, deviations = values("drift_meV_per_atom_per_ps"), values("largest_deviation_meV_per_atom")
    conserved = len(drifts) > 0
    return {
        "drift_meV_per_atom_per_ps": float(drifts.mean()) if conserved else None,
        "mean_absolute_drift_meV_per_atom_per_ps": float(np.abs(drifts).mean()) if conserved else None,
        "worst_drift_meV_per_atom_per_ps": float(drifts[np.abs(drifts).argmax()]) if conserved else None,
        "largest_deviation_meV_per_atom": float(deviations.max()) if conserved else None,
        "temperature_mean_K": float(values("temperature_mean_K").mean()),
        "largest_force_std_eV_per_A": float(values("largest_force_std_eV_per_A").max()),
        **{name: float(values(name).max()) for name in _WIDEST if name in each[0]},
    }


def plot(folder: Path, tables: List[Dict[str, np.ndarray]], atoms: List[int]) -> Optional[Path]:
    """energy_drift.png, over time, a line for each of at most a hundred copies; None where there is no matplotlib."""
    from ipu_chem.reports.figures import BLUE, ORANGE, figure_of, save

    try:
        figure, (left, right) = figure_of(1, 2)
    except ValueError:
        return None
    chosen = np.unique(np.linspace(0, len(tables) - 1, min(len(tables), _MOST_LINES)).astype(int)).tolist()
    look = {"linewidth": 1.0, "alpha": max(1.0 / len(chosen) ** 0.5, 0.15)}
    for table, count in ((tables[copy], atoms[copy]) for copy in chosen):
        drift = (table["total_eV"] - table["total_eV"][0]) / count * 1000
        left.plot(table["time_ps"], drift, color=BLUE, **look)
        right.plot(table["time_ps"], table["temperature_K"], color=ORANGE, **look)
    left.set(xlabel="time (ps)", ylabel="drift of the total energy (meV/atom)")
    right.set(xlabel="time (ps)", ylabel="temperature (K)")
    return save(figure, folder / "energy_drift.png")
