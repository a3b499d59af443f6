"""Metrics: units in names, missing labels left out."""

import sys

import numpy as np
import pytest
from ogb_folders import needs_ogb

from ipu_chem.data.datasets.ogb import ogb_module
from ipu_chem.metrics import (
    Target,
    binary_metrics,
    label_metrics,
    lower_is_better,
    metric_names,
    regression_metrics,
    selection_metric,
)

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


A, B = Target("a", "", False, True), Target("b", "", False, True)


def pairs(score, positive):
    """ROC-AUC by counting pairs."""
    wins = score[positive][:, None] - score[~positive][None]
    return float(((wins > 0) + 0.5 * (wins == 0)).mean())


def rocauc_and_ap(score, positive):
    metrics = binary_metrics(score[:, None], positive[:, None].astype(float), [A])
    return metrics["rocauc_a"], metrics["ap_a"]


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_roc_auc_counts_pairs_and_average_precision_thresholds(levels, seed):
    random = np.random.default_rng(seed)
    score = random.integers(0, levels, 60) / levels
    positive = random.random(60) < 0.3
    rocauc, ap = rocauc_and_ap(score, positive)
    assert rocauc == pytest.approx(pairs(score, positive), rel=1e-12)
    by_hand, recall = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        now = positive[chosen].sum() / positive.sum()
        by_hand, recall = by_hand + (now - recall) * positive[chosen].mean(), now
    assert ap == pytest.approx(by_hand, rel=1e-12)


def test_without_scikit_learn_a_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ValueError, match="metrics of classes are scikit-learn's: pip install scikit-learn"):
        rocauc_and_ap(np.arange(4), np.arange(4) > 1)


def test_missing_labels_and_tasks_of_one_class_are_left_out_as_ogb_does():
    probability = np.array([[0.1, 0.3], [0.4, 0.2], [0.35, 0.9], [0.8, 0.5]])
    label = np.array([[0, 1], [0, np.nan], [1, 1], [1, np.nan]], float)
    metrics = binary_metrics(probability, label, [A, B])
    assert metrics["rocauc_a"] == metrics["rocauc"] == 0.75 and metrics["ap"] == pytest.approx(5 / 6)
    assert np.isnan([metrics["rocauc_b"], metrics["ap_b"]]).all() and set(metrics) == set(metric_names([A, B]))
    assert selection_metric(metrics, [A, B], [1, 1]) == pytest.approx(0.25)
    label[1, 1] = 0
    metrics = binary_metrics(probability, label, [A, B])
    assert metrics["rocauc_b"] == 1.0 and metrics["rocauc"] == 0.875
    assert selection_metric(metrics, [A, B], [1, 1]) == pytest.approx(0.125)
    one = binary_metrics(probability[:, :1], label[:, :1], [A])
    assert set(one) == {"rocauc_a", "ap_a"} == set(metric_names([A]))


@needs_ogb
def test_it_is_ogbs_evaluator():
    ogb = ogb_module("the test", "ogb.graphproppred")
    random = np.random.default_rng(1)
    label = np.where(random.random((99, 12)) < 0.2, np.nan, random.random((99, 12)) < 0.1)
    score = random.normal(size=(99, 12))
    theirs = ogb.Evaluator("ogbg-moltox21").eval({"y_true": label, "y_pred": score})["rocauc"]
    ours = binary_metrics(score, label, [Target(str(i), "", False, True) for i in range(12)])
    assert ours["rocauc"] == pytest.approx(theirs, rel=1e-15)
    theirs = ogb.Evaluator("ogbg-molhiv").eval({"y_true": label[:, :1], "y_pred": score[:, :1]})
    assert ours["rocauc_0"] == theirs["rocauc"]
    y, prediction = random.normal(size=(2, 99, 1))
    theirs = ogb.Evaluator("ogbg-molesol").eval({"y_true": y, "y_pred": prediction})["rmse"]
    assert regression_metrics(prediction, y, [Target("logS", "", False)])["rmse_logS"] == pytest.approx(
        theirs, rel=1e-15
    )


def test_a_constant_has_half_the_pairs_and_the_share_of_ones():
    metrics = label_metrics(np.full((10, 1), 0.5), np.arange(10)[:, None] < 3.0, [A])
    assert metrics == pytest.approx({"rocauc_a": 0.5, "ap_a": 0.3})


def test_predictions_that_are_none_have_no_figure():
    metrics = label_metrics(np.full((4, 1), np.nan), np.arange(4)[:, None] % 2.0, [A])
    assert np.isnan(list(metrics.values())).all() and np.isnan(selection_metric(metrics, [A], [1]))


@pytest.mark.parametrize(
    "name, value, counted",
    [("mae_u0", 0.3, ("mae_u0", 0.3)), ("rocauc_p_np", 0.8, ("1 - rocauc_p_np", 0.2)), ("ap", 1.0, ("1 - ap", 0.0))],
)
def test_lowest_counts_as_best(name, value, counted):
    assert lower_is_better(name, value) == (counted[0], pytest.approx(counted[1]))
