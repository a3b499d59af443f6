"""Figures show what they were given: lines, axes, intervals, files."""

from dataclasses import replace

import numpy as np
import pytest
from figure_checks import check_figure

from ipu_chem.reports.figures import save
from ipu_chem.scaling.broken_law import fit_broken
from ipu_chem.scaling.figures import (
    broken_figure,
    compute_frontier_figure,
    loss_over,
    surface,
)
from ipu_chem.scaling.joint_law import fit_joint
from ipu_chem.scaling.points import Point

SIZES, DATA = (77_568, 395_776, 1_578_496, 4_749_312), (10_000, 100_000, 1_000_000)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    return [
        Point(
            parameters=n,
            tokens=37 * molecules,
            molecules=molecules,
            flops=6.0 * n * 37 * molecules * 10,
            steps=1000,
            seed=seed,
            loss=(0.6 + 20 * n**-0.3 + 30 * (37 * molecules) ** -0.25) * float(np.exp(rng.normal(0, 0.01))),
            loss_name="nats_per_token",
            rule="converged: no better in 5 evaluations",
        )
        for n in SIZES
        for molecules in DATA
        for seed in range(3)
    ]


def drawn_lines(axis):
    """Lines of data points, not of laws."""
    return [line for line in axis.get_lines() if line.get_marker() == "o"]


@pytest.mark.parametrize("over, lines, sizes", [("parameters", 3, 4), ("molecules", 4, 3), ("tokens", 4, 3)])
def test_loss_over_one_quantity_has_a_line_per_value_of_the_other(points, over, lines, sizes, tmp_path):
    figure = loss_over(points, over)
    check_figure(figure)
    (axis,) = figure.axes
    assert len(drawn_lines(axis)) == lines and len(axis.get_lines()) == 2 * lines  # each with its law
    assert all(len(line.get_xdata()) == sizes for line in drawn_lines(axis))
    first = drawn_lines(axis)[0]
    where = [p for p in points if getattr(p, over) == first.get_xdata()[0]]
    held = "molecules" if over == "parameters" else "parameters"
    where = [p.loss for p in where if getattr(p, held) == min(getattr(p, held) for p in points)]
    assert first.get_ydata()[0] == pytest.approx(np.mean(where))
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(labels) == lines and all("exponent 0." in one and "R² 0.9" in one for one in labels)
    assert axis.get_ylabel() == "nats per token" and over in axis.get_xlabel()
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert save(figure, tmp_path / "a.pdf").stat().st_size > 5000


def test_data_of_graphs_are_atoms(points):
    (axis,) = loss_over([replace(one, loss_name="mae_forces_meV_per_A") for one in points], "tokens").axes
    assert axis.get_xlabel() == "training atoms"


def test_compute_frontier(points):
    figure = compute_frontier_figure(points)
    check_figure(figure)
    (axis,) = figure.axes
    (line,) = axis.get_lines()
    assert list(line.get_xdata()) == sorted(line.get_xdata()) and len(line.get_xdata()) >= 2
    assert min(line.get_ydata()) == min(point.loss for point in points)
    named = [text.get_text() for text in axis.texts]
    assert named == sorted(set(named), key=named.index) and axis.get_xlabel() == "training FLOPs"  # each size once
    assert len(axis.collections[0].get_offsets()) == len(points)


def test_surface(points, tmp_path):
    law = fit_joint(points)
    figure = surface(points, law)
    check_figure(figure)
    left, right = figure.axes
    assert left.get_xlabel() == "parameters without embeddings" and left.get_ylabel() == "training tokens"
    fitted = right.get_legend().get_title().get_text()
    assert f"a = {law.size_exponent}" in fitted and f"b = {law.data_exponent}" in fitted and "E = " in fitted
    assert right.get_title() == f"R² = {law.r2:.3f}" and right.get_xlabel() == "fitted nats per token"
    assert len(right.collections[0].get_offsets()) == len(points)
    assert save(figure, tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_break(tmp_path):
    rng = np.random.default_rng(1)
    points = [
        Point(int(n), 1, 1, 1.0, 1, seed, float(loss), "nats_per_heavy_atom", "steps held")
        for n in np.geomspace(1e4, 1e8, 9)
        for seed in range(2)
        for loss in [9 * n**-0.2 * (1 + (n / 1e6) ** 3) ** (0.15 / 3) * np.exp(rng.normal(0, 0.005))]
    ]
    law = fit_broken(points)
    figure = broken_figure(points, [(1, law)])
    check_figure(figure)
    (axis,) = figure.axes
    (label,) = [text.get_text() for text in axis.get_legend().get_texts()]
    exponents = [one.exponent.value for one in law.ranges]
    assert len(exponents) == 2 and label == f"1 tokens, exponent {exponents[0]:.3f}, {exponents[1]:.3f}"
    (bar,) = axis.containers[0][2][0].get_segments()
    np.testing.assert_allclose(bar[:, 0], law.breaks[1:])
    assert save(figure, tmp_path / "b.svg").stat().st_size > 5000


def test_what_cannot_be_drawn_is_refused(points, tmp_path):
    with pytest.raises(ValueError, match="over='steps'"):
        loss_over(points, "steps")
    with pytest.raises(ValueError, match="a figure's file ends with .*png"):
        save(compute_frontier_figure(points), tmp_path / "figure.doc")
