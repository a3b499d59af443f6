"""Scaling laws find back the laws that synthetic losses were made of, as often as their intervals promise.

Intervals are of nominal 95 %; fewer than 86 % of 60 draws would be seen once in about 300 times.
"""

from collections import Counter

import numpy as np
import pytest

from ipu_chem.scaling.broken_law import BROKEN, SINGLE, SINGLE_FLOOR, broken_law
from ipu_chem.scaling.fitting import fit, huber
from ipu_chem.scaling.frontier import compute_frontier
from ipu_chem.scaling.joint_law import _Law, _starts, joint_law
from ipu_chem.scaling.power_law import power_law

DRAWS = 60
NOISE = 0.01  # of log L between seeds
SEEDS = 3


def noisy(loss, rng, noise=NOISE):
    return loss * np.exp(rng.normal(0, noise, len(loss)))


def test_a_perfect_power_law_is_found_exactly():
    size = np.geomspace(1e4, 1e7, 5)
    law = power_law(size, 12 * size**-0.17)
    assert law.beta.value == pytest.approx(0.17, abs=1e-12) and law.alpha.value == pytest.approx(12, rel=1e-10)
    assert law.r2 == pytest.approx(1) and law([1e5])[0] == pytest.approx(12 * 1e5**-0.17)
    assert law.beta.low == pytest.approx(law.beta.high)


@pytest.mark.parametrize("seeds", [1, SEEDS])
def test_power_law_is_recovered(seeds):
    rng = np.random.default_rng(0)
    size = np.repeat(np.geomspace(1e4, 1e8, 8), seeds)
    laws = [power_law(size, noisy(12 * size**-0.17, rng)) for _ in range(DRAWS)]
    assert 0.86 <= np.mean([law.beta.holds(0.17) for law in laws]) < 1
    assert 0.86 <= np.mean([law.alpha.holds(12) for law in laws]) < 1
    # Narrow, too: as wide as least squares' standard errors, 4.0 to 5 of them.
    error = NOISE / np.sqrt(np.square(np.log(size) - np.log(size).mean()).sum())
    assert 3 < np.mean([law.beta.high - law.beta.low for law in laws]) / error < 6


def joint(size, data):
    return 0.8 + 12 * size**-0.34 + 30 * data**-0.28


SIZE, DATA, _ = (
    column.ravel() for column in np.meshgrid(np.geomspace(1e4, 1e7, 5), np.geomspace(1e5, 1e8, 5), [1] * 3)
)


def test_law_of_size_and_data_is_recovered():
    rng = np.random.default_rng(1)
    truth = {"floor": 0.8, "size_factor": 12, "data_factor": 30, "size_exponent": 0.34, "data_exponent": 0.28}
    held = Counter()
    for _ in range(DRAWS):
        law = joint_law(SIZE, DATA, noisy(joint(SIZE, DATA), rng))
        held.update(name for name, value in truth.items() if getattr(law, name).holds(value))
    assert all(0.86 * DRAWS <= held[name] for name in truth), held
    assert min(held.values()) < DRAWS


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
@pytest.mark.parametrize("delta", [None, 1e-3])
def test_a_perfect_law_of_size_and_data_is_found(delta, scale):
    law = joint_law(scale * SIZE[::3], DATA[::3] / scale, scale * joint(SIZE, DATA)[::3], delta=delta, draws=10)
    factors = 12 * scale**1.34, 30 * scale**0.72
    found = [law.floor, law.size_factor, law.data_factor, law.size_exponent, law.data_exponent]
    assert [one.value for one in found] == pytest.approx([0.8 * scale, *factors, 0.34, 0.28], rel=1e-6)
    assert law(scale * 1e5, 1e6 / scale) == pytest.approx(scale * joint(1e5, 1e6), rel=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 0.02, np.inf])
def test_the_minimum_is_not_above_that_of_lbfgs(delta):
    """Hoffmann et al. minimize the same sum by L-BFGS from a grid of starts."""
    from scipy.optimize import minimize

    loss = noisy(joint(SIZE, DATA), np.random.default_rng(2), 0.02)
    x = np.stack([np.log(SIZE) - np.log(SIZE).mean(), np.log(DATA) - np.log(DATA).mean()])
    law = _Law(x)
    _, cost = fit(law, _starts(x, loss), np.log(loss), delta)

    def objective(theta):
        predicted, jacobian = law(theta[None])
        residuals = np.log(loss) - predicted[0]
        return huber(residuals, delta), -jacobian[0].T @ np.clip(residuals, -delta, delta)

    lowest = min(
        minimize(objective, [e, a, b, 0.5, 0.5], jac=True, method="L-BFGS-B", options={"ftol": 1e-15}).fun
        for e in (-1, 0)
        for a in (-2, 0)
        for b in (-2, 0)
    )
    assert cost.min() <= lowest * (1 + 1e-5)


def test_jacobians_are_derivatives():
    from ipu_chem.scaling.broken_law import _Law as Broken

    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 7))
    for law, theta in (
        (_Law(x), np.array([0.1, 0.2, -0.3, 0.4, 0.5])),
        (Broken(x[0]), np.array([0.3, 0.2, -0.1, 0.1, -0.5, -1.0])),
    ):
        step = 1e-6 * np.eye(len(theta))
        numeric = (law(theta + step)[0] - law(theta - step)[0]) / 2e-6
        np.testing.assert_allclose(law(theta[None])[1][0].T, numeric, atol=1e-8)


def test_an_outlier_moves_huber_less_than_least_squares():
    loss = noisy(joint(SIZE, DATA), np.random.default_rng(4))
    clean = joint_law(SIZE, DATA, loss).size_exponent.value
    loss[-3:] *= 1.2  # runs of the largest size that did not train well
    robust, plain = (joint_law(SIZE, DATA, loss, delta=delta) for delta in (None, np.inf))
    assert abs(robust.size_exponent.value - clean) < 0.5 * abs(plain.size_exponent.value - clean)


RESOURCE = np.repeat(np.geomspace(1e3, 1e8, 12), SEEDS)


def broken(x, c0, c1, d=3e5, f=0.3):
    return 8 * x**-c0 * (1 + (x / d) ** (1 / f)) ** (-c1 * f)


@pytest.mark.parametrize("slopes", [(0.25, -0.2), (0.05, 0.2)], ids=["flattens", "steepens"])
def test_a_break_is_recovered_with_the_slopes_on_its_sides(slopes):
    c0, c1 = slopes
    rng = np.random.default_rng(5)
    held, names = Counter(), Counter()
    for _ in range(DRAWS):
        law = broken_law(RESOURCE, noisy(broken(RESOURCE, c0, c1), rng))
        names[law.name] += 1
        if law.name != BROKEN or len(law.ranges) < 2:  # or the change seems to take the whole of one side
            continue
        below, above = law.ranges
        held["two ranges"] += 1
        held["break"] += law.breaks.holds(3e5)
        held["below"] += below.exponent.holds(c0)
        held["above"] += above.exponent.holds(c0 + c1)
        assert below.low == pytest.approx(1e3) and below.high < 3e5 < above.low and above.high == pytest.approx(1e8)
    assert names[BROKEN] >= 0.85 * DRAWS, names
    assert held["two ranges"] >= 0.95 * names[BROKEN]
    assert all(held[name] >= 0.85 * held["two ranges"] for name in ("break", "below", "above")), (held, names)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_a_perfect_break_is_found(scale):
    law = broken_law(scale * RESOURCE, scale * broken(RESOURCE, 0.25, -0.2))
    found = [law.breaks.value, law.theta[1], law.theta[2], np.exp(law.theta[4])]
    assert found == pytest.approx([scale * 3e5, 0.25, -0.2, 0.3], rel=1e-6)


def test_ranges_in_which_more_helps_and_no_longer_helps():
    law = broken_law(RESOURCE, noisy(broken(RESOURCE, 0.25, -0.25), np.random.default_rng(6)))
    assert [one.limited for one in law.ranges] == [True, False]
    assert law.bic[BROKEN] < law.bic[SINGLE] - 10 and law.r2 > 0.99
    np.testing.assert_allclose(law(RESOURCE), broken(RESOURCE, 0.25, -0.25), rtol=0.02)


@pytest.mark.parametrize(
    "name, loss",
    [
        (SINGLE, 8 * RESOURCE**-0.17),
        (SINGLE_FLOOR, 0.8 + 8 * RESOURCE**-0.2),
        (BROKEN, broken(RESOURCE, 0.25, -0.2)),
        (BROKEN, broken(RESOURCE, 0.05, 0.2)),
    ],
)
def test_bic_picks_the_law_that_made_the_losses(name, loss):
    rng = np.random.default_rng(7)
    picked = Counter(broken_law(RESOURCE, noisy(loss, rng)).name for _ in range(25))
    assert picked[name] >= 21, picked


def test_single_law_has_one_range_and_no_break():
    law = broken_law(RESOURCE, noisy(8 * RESOURCE**-0.17, np.random.default_rng(8)))
    assert law.breaks is None and law.floor is None and len(law.ranges) == 1
    assert law.ranges[0].exponent.holds(0.17) and law.ranges[0].limited


def test_drawn_pairs_are_seeded():
    loss = noisy(joint(SIZE, DATA), np.random.default_rng(9))
    first, again, other = (joint_law(SIZE, DATA, loss, delta=1e-3, draws=20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert joint_law(SIZE, DATA, loss, seed=1) == joint_law(SIZE, DATA, loss, seed=2)  # a profile draws nothing


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: power_law([1, 2, 3], [1.0, -1.0, 1.0]), "run 1 of a scaling law has the value -1"),
        (lambda: power_law([1, 2, 3], [1.0, 1.0]), "columns of one length"),
        (lambda: joint_law(*np.array([[1, 1, 2, 2, 3], [1, 2, 2, 3, 3], [5, 4, 3, 2, 1]])), "and 5; train more"),
        (lambda: broken_law(np.arange(1, 6), np.ones(5)), "6 sizes and there are 5"),
        (lambda: joint_law(SIZE, DATA, joint(SIZE, DATA), delta=0.0), "delta=0.0: give a residual above 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()


def test_compute_frontier_by_hand():
    flops = np.array([1e1, 1e2, 1e2, 1e3, 1e4, 1e5])
    #         0    above 2  hull  above the line 2-4  hull  dearer and worse
    loss = np.exp([4.0, 3.5, 2.5, 2.3, 1.0, 1.1])
    assert compute_frontier(flops, loss).tolist() == [0, 2, 4]
    assert compute_frontier(flops[::-1], loss[::-1]).tolist() == [5, 3, 1]


def test_no_run_lies_below_the_frontier():
    rng = np.random.default_rng(10)
    for _ in range(50):
        flops, loss = np.exp(rng.normal(0, 3, 30)), np.exp(rng.normal(0, 1, 30))
        on = compute_frontier(flops, loss)
        line = np.interp(np.log(flops), np.log(flops[on]), np.log(loss[on]))
        assert np.all(np.log(loss) >= np.where(flops < flops[on[0]], -np.inf, line) - 1e-12)
        assert loss[on[-1]] == loss.min() and flops[on[0]] == flops.min()
