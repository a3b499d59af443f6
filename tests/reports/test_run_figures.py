"""Figures of reports: colors, axes with units, legends, and the numbers of parity plots."""

import numpy as np
import pytest
from figure_checks import check_figure

from ipu_chem.reports.figures import colors, shades, words_of
from ipu_chem.reports.run_figures import class_figure, learning_figure, packing_figure, parity_figure
from packing import Budget, make_plan


def rows_of(names, steps=200):
    """Rows of metrics.jsonl whose figures fall over three decades."""
    train = [{"kind": "train", "step": step, "loss": 1000.0 / step} for step in range(1, steps, 7)]
    epochs = range(20, steps, 20)
    values = [{name: 9 * (place + 1) / step for place, name in enumerate(names)} for step in epochs]
    return train + [{"kind": "validation", "step": s, "loss": 2.0 / s, **one} for s, one in zip(epochs, values)]


def graph_run(count, unit="meV"):
    targets = [
        {"name": f"t{i}", "unit": "eV", "mae": f"mae_t{i}_{unit if i % 2 == 0 else 'meV'}"} for i in range(count)
    ]
    return {"targets": targets, "baseline": {"validation": {"mae_t0_meV": 3.0}}, "baseline_name": "mean"}


@pytest.mark.parametrize("count", [1, 2, 7, 8, 19])
def test_targets_have_colors_of_their_own(count):
    run = graph_run(count)
    figure = learning_figure(run, rows_of([target["mae"] for target in run["targets"]]))
    check_figure(figure)
    left, right = figure.axes
    assert left.get_ylabel() == "training loss (standardized)" and right.get_ylabel() == "validation MAE (meV)"
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels[:count] == [target["mae"] for target in run["targets"]]
    assert labels[count:] == (["mean baseline"] if count == 1 else [])
    assert len(set(colors(count))) == len(set(shades(count))) == count


def test_units_that_differ_are_in_the_names():
    run = graph_run(2, unit="Ha")
    figure = learning_figure(run, rows_of([target["mae"] for target in run["targets"]]))
    assert figure.axes[1].get_ylabel() == "validation MAE (unit in its name)"


def test_text_shows_both_of_its_baselines():
    rows = rows_of(["nats_per_token", "nats_per_heavy_atom"])
    held = {"nats_per_token": 2.0, "nats_per_heavy_atom": 3.0}
    figure = learning_figure({"baseline": {"validation": held}, "bigram": {"validation": held}}, rows)
    check_figure(figure)
    for axis, name in zip(figure.axes, ("token", "heavy atom")):
        labels = [text.get_text() for text in axis.get_legend().get_texts()]
        assert labels[-3:] == ["validation", "bigram baseline", "unigram baseline"]
        assert axis.get_ylabel() == f"loss (nats per {name})"


def test_classes_are_drawn_against_chance():
    run = {"targets": [{"name": "active", "unit": "", "rocauc": "rocauc_active"}], "baseline_name": "constant"}
    run["baseline"] = {"validation": {"rocauc_active": 0.5}}
    rows = [{**row, "rocauc_active": 0.7} for row in rows_of([])]
    figure = learning_figure(run, rows)
    check_figure(figure)
    assert figure.axes[0].get_ylabel() == "training loss (nats)" and figure.axes[1].get_ylim()[1] == 1.0
    rng = np.random.default_rng(0)
    label = np.where(rng.random(200) < 0.1, np.nan, rng.random(200) < 0.5)
    figure = class_figure("active", "test", label, np.clip(np.nan_to_num(label) * 0.4 + rng.random(200) * 0.6, 0, 1))
    check_figure(figure)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()][1] == "chance"


def test_parity_says_r2_and_mae():
    rng = np.random.default_rng(0)
    label = rng.normal(-1e5, 3, 300)
    label[:7] = np.nan
    prediction = label + rng.normal(0, 0.5, 300)
    figure = parity_figure({"name": "u0", "unit": "eV"}, "test", label, prediction)
    check_figure(figure)
    left, right = figure.axes
    known, error = label[7:], (prediction - label)[7:]
    r2 = 1 - np.square(error).sum() / np.square(known - known.mean()).sum()
    assert left.get_title() == f"R² = {r2:.4f}, MAE = {np.abs(error).mean():.3g} eV"
    assert left.get_xlabel() == "u0, label (eV)" and left.get_ylabel() == "prediction (eV)"
    assert right.get_title() == "test split, 293 molecules" and right.get_ylabel() == "number of molecules"
    assert len(left.collections[0].get_offsets()) == 293


def test_packs_are_drawn_with_their_capacities():
    plan = make_plan(np.random.default_rng(0).integers(3, 30, 500), Budget(nodes=128))
    figure = packing_figure(plan)
    check_figure(figure)
    assert figure.axes[0].get_xlabel() == "size of a molecule (nodes)"
    assert (
        figure.axes[1].get_title() == "capacity 128 nodes" and figure.axes[1].get_xlabel() == "fill of a pack (nodes)"
    )


def test_metrics_in_words():
    assert words_of("mae_forces_meV_per_A") == "MAE of forces (meV/Å)"
    assert words_of("mae_mmff94_energy_kcal_per_mol") == "MAE of mmff94 energy (kcal/mol)"
    assert words_of("mae_logS") == "MAE of logS (unit of the target)" and words_of("nats_per_token") == "nats per token"
