"""Metrics: units in names, missing labels left out."""

import numpy as np
import pytest

from ipu_chem.metrics import Target, regression_metrics, selection_metric

ENERGY, DIPOLE = Target("u0", "eV"), Target("mu", "D", extensive=False)


def test_energies_in_ev_are_measured_in_mev():
    metrics = regression_metrics(np.array([[1.0], [2.0]]), np.array([[1.1], [1.7]]), [ENERGY])
    assert metrics == pytest.approx({"mae_u0_meV": 200.0, "rmse_u0_meV": np.sqrt((100**2 + 300**2) / 2)})


def test_missing_labels_do_not_count():
    prediction = np.array([[1.0, 5.0], [2.0, 7.0]])
    label = np.array([[1.5, np.nan], [np.nan, np.nan]])
    metrics = regression_metrics(prediction, label, [ENERGY, DIPOLE])
    assert metrics["mae_u0_meV"] == pytest.approx(500.0)
    assert np.isnan(metrics["mae_mu_D"])
    assert selection_metric(metrics, [ENERGY, DIPOLE], [2.0, 1.0]) == pytest.approx(0.25)


@pytest.mark.parametrize("unit, name", [("kcal/mol", "mae_x_kcal_per_mol"), ("", "mae_x"), ("a0^3", "mae_x_a03")])
def test_units_make_column_names(unit, name):
    assert Target("x", unit).metric("mae") == name
