"""Best sizes over compute are those of the law, without the bias of parabolas."""

import numpy as np
import pytest

from ipu_chem.scaling.isoflop import _IsoLaw, isoflop_optima, optima
from ipu_chem.scaling.points import Point

FLOOR, A, B = 1.69, 400.0, 410.0
BUDGETS = np.geomspace(1e17, 1e21, 5)


def experiment(a, b, width, off=1.0, drift=0.0):
    """Runs of nine sizes at five budgets, ``off`` times the best ones, from low to high by ``drift`` decades."""
    best = (a * A / (b * B)) ** (1 / (a + b)) * (BUDGETS / 6) ** (b / (a + b))
    middle = best * off * 10 ** (drift * np.linspace(-0.5, 0.5, 5))
    size = (middle[:, None] * np.geomspace(1 / width, width, 9)).ravel()
    flops = np.repeat(BUDGETS, 9)
    return best, size, flops, FLOOR + A * size**-a + B * (flops / 6 / size) ** -b


@pytest.mark.parametrize(
    "a, b, width, off, drift, least, exponent",
    [
        (0.34, 0.28, 4, 1, 0, 0.01, 0),  # nearly a parabola
        (0.46, 0.15, 16, 1, 0, 0.25, 0),  # unequal exponents, wide
        (0.46, 0.15, 16, 3, 0, 0.1, 0),  # and off the optimum
        (0.46, 0.15, 16, 3**0.5, np.log10(3), 0.1, 0.008),  # drifting off it
    ],
)
def test_parabolas_are_biased_and_the_law_is_not(a, b, width, off, drift, least, exponent):
    best, size, flops, loss = experiment(a, b, width, off, drift)
    found = optima(size, flops, loss)
    np.testing.assert_allclose([one.parameters.value for one in found.budgets], best, rtol=1e-6)
    np.testing.assert_allclose([one.tokens.value for one in found.budgets], BUDGETS / 6 / best, rtol=1e-6)
    assert found.exponent.value == pytest.approx(b / (a + b), rel=1e-6)
    loss_there = FLOOR + A * best**-a + B * (BUDGETS / 6 / best) ** -b
    np.testing.assert_allclose([one.loss for one in found.budgets], loss_there, rtol=1e-9)
    vertices = np.array([one.parabola for one in found.budgets])
    assert np.max(np.abs(vertices / best - 1)) > least
    assert abs(found.parabola_exponent.value - b / (a + b)) >= exponent


def test_intervals_hold_the_optimum_and_parabolas_do_not():
    best, size, flops, loss = experiment(0.46, 0.15, 16)
    rng = np.random.default_rng(0)
    held, exponents, near = 0, 0, 0
    for _ in range(20):
        found = optima(size, flops, loss * np.exp(rng.normal(0, 0.005, len(size))), level=0.9)
        held += found.budgets[2].parameters.holds(best[2])
        exponents += found.exponent.holds(0.15 / 0.61)
        near += found.budgets[2].parameters.holds(found.budgets[2].parabola)
    assert 14 <= held and 14 <= exponents and near <= 4  # 18 and 18 expected


def test_derivatives():
    rng = np.random.default_rng(1)
    law, theta, step = _IsoLaw(rng.normal(size=(2, 5)), 0.5), np.array([0.1, 0.2, 0.3, 0.9, 0.4]), 1e-6 * np.eye(5)
    numeric = (law(theta + step)[0] - law(theta - step)[0]) / 2e-6
    np.testing.assert_allclose(law(theta[None])[1][0].T, numeric, atol=1e-8)


def test_points_of_runs():
    _, size, flops, loss = experiment(0.34, 0.28, 4)
    points = [
        Point(max(int(n), 1), max(int(c / 6 / n), 1), 1, float(c) * factor, 1, 0, float(one), "nats", "epochs held")
        for n, c, one, factor in zip(size, flops, loss, np.tile([1.0, 1.01, 0.99], 15))
    ]
    found = isoflop_optima(points)
    assert [one.sizes for one in found.budgets] == [9] * 5 and found.runs == 45
    assert found.exponent.value == pytest.approx(0.28 / 0.62, abs=0.01)
    text = "\n".join(found.lines())
    assert "95%" in text and text.count("parabola's N") == 5 and f"N ~ C^{found.exponent}" in text


def test_one_budget_is_refused():
    _, size, flops, loss = experiment(0.34, 0.28, 4)
    with pytest.raises(ValueError, match="one budget of compute: train as many sizes at another one"):
        optima(size[:9], flops[:9], loss[:9])
