"""From estimates to choices: calibration, ranking, regret, cost, successive halving."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipu_chem.scaling.selection import Rung, cost, cost_of_rungs, rungs_of, survivors
from ipu_chem.scaling.tpe import Trial, assess, calibrate, over_seeds

INF, NAN = math.inf, math.nan


def test_calibration_by_hand():
    line = calibrate([1, 2, 3], [1.0, 3.0, 4.0])
    assert (line.coefficient, line.intercept) == pytest.approx((1.5, 8 / 3 - 3))
    # Errors 1/6, -1/3, 1/6; variance of 1, 3, 4 is 14/3 in sum.
    assert line.rmse == pytest.approx(math.sqrt(1 / 6 / 3)) and line.r2 == pytest.approx(1 - 1 / 6 / (14 / 3))
    assert line([0.0, 2.0, NAN]).tolist() == pytest.approx([-1 / 3, 8 / 3, INF])


def test_calibration_agrees_with_scipy():
    from scipy.stats import linregress, theilslopes

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20), rng.normal(size=20)
    plain, robust = linregress(x, y), theilslopes(y, x, method="joint")
    assert (calibrate(x, y).coefficient, calibrate(x, y).intercept) == pytest.approx((plain.slope, plain.intercept))
    assert calibrate(x, y).r2 == pytest.approx(plain.rvalue**2)
    line = calibrate(x, y, robust=True)
    assert (line.coefficient, line.intercept) == pytest.approx((robust[0], robust[1]))


def test_robust_calibration_ignores_a_run_that_went_astray():
    x = np.arange(9.0)
    y = 1 + 0.5 * x
    y[8] = 50
    assert calibrate(x, y, robust=True).coefficient == pytest.approx(0.5)
    assert calibrate(x, y).coefficient > 2


def test_a_power_is_found_where_final_values_span_a_decade():
    estimates = np.array([100.0, 200.0, 500.0, 1200.0, 2300.0, INF])
    power = calibrate(estimates, 7 * estimates**0.55, is_power=True)
    assert power.coefficient == pytest.approx(0.55) and math.exp(power.intercept) == pytest.approx(7)
    assert power.r2 == pytest.approx(1) and power.rmse == pytest.approx(0, abs=1e-9) and power.points == 5
    np.testing.assert_allclose(power([400.0, INF]), [7 * 400**0.55, INF])
    assert str(power) == "final = 7 * estimate^0.55"
    line = calibrate(estimates, 7 * estimates**0.55)
    assert line.r2 < 0.98 and str(line).startswith("final = ") and "estimate^" not in str(line)
    # R2 and RMSE are of the values, not of their logarithms.
    finals = np.array([90.0, 130.0, 200.0, 380.0, 480.0])
    power = calibrate(estimates[:5], finals, is_power=True)
    errors = finals - power(estimates[:5])
    assert power.rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert power.r2 == pytest.approx(1 - np.sum(errors**2) / np.sum((finals - finals.mean()) ** 2))


def test_diverged_and_unfinished_candidates():
    line = calibrate([1, 2, INF, 3, 4, 0.5], [2.0, 4.0, NAN, 6.0, INF, None])
    assert (line.points, line.diverged, line.coefficient) == (3, 2, pytest.approx(2))
    seen = assess([1, 2, INF, 3, 4, 0.5], [2.0, 4.0, NAN, 6.0, INF, None], kept=[0, 1])
    assert (seen.candidates, seen.diverged, seen.regret) == (5, 2, 0)
    # Ranks 1 2 5 3 4 by estimate, 1 2 4.5 3 4.5 by loss: the two that diverged are equally bad.
    assert seen.spearman == pytest.approx(np.corrcoef([1, 2, 5, 3, 4], [1, 2, 4.5, 3, 4.5])[0, 1])


def test_rank_correlations_by_hand():
    seen = assess([1, 2, 3, 4], [1, 3, 2, 4], kept=[0, 1])
    assert seen.spearman == pytest.approx(1 - 6 * 2 / (4 * 15)) and seen.kendall == pytest.approx((5 - 1) / 6)
    assert assess([1, 2, 3], [3, 2, 1], kept=[0, 1]).kendall == -1
    assert math.isnan(assess([1, 1, 1], [3, 2, 1], kept=[0, 1]).spearman)


def test_regret_is_what_the_best_of_the_kept_lacks():
    estimates, finals = [1.0, 1.1, 1.2, 9.0], [3.0, 2.5, 2.0, 4.0]
    assert assess(estimates, finals, survivors(estimates, 2).tolist()).regret == 0.5
    assert assess(estimates, finals, survivors(estimates, 3).tolist()).regret == 0
    assert assess(estimates, finals, [3, 0]).regret == 1.0  # a later evaluation may choose others
    assert assess([1.0, 1.1, 1.2], [INF, INF, 2.0], [0, 1]).regret == INF
    assert assess([1.0, 1.1, 1.2], [3.0, 3.0, 2.0], []).regret == INF  # all that went on have diverged


def test_survivors_are_the_best_in_order_and_never_diverged():
    assert survivors([3.0, NAN, 1.0, 2.0, 1.0], 3).tolist() == [2, 4, 3]
    assert survivors([3.0, NAN, 1.0, INF], 3).tolist() == [2, 0]


def test_rungs_by_hand():
    assert rungs_of(12, 0.2, keep=3) == [Rung(0.2, 12), Rung(1.0, 3)]
    assert rungs_of(2, 0.2, keep=3, eta=3) == [Rung(0.2, 2), Rung(1.0, 2)]
    assert rungs_of(27, 0.125, keep=3, eta=3) == [Rung(0.125, 27), Rung(0.375, 9), Rung(1.0, 3)]
    assert rungs_of(10, 0.125, keep=2, eta=2) == [Rung(0.125, 10), Rung(0.25, 5), Rung(0.5, 3), Rung(1.0, 2)]
    # 100 to 25 at budgets below 1, and from there to those that are kept.
    assert rungs_of(100, 0.2, keep=3, eta=2) == [Rung(0.2, 100), Rung(0.4, 50), Rung(0.8, 25), Rung(1.0, 3)]
    paid = cost_of_rungs(rungs_of(27, 0.125, keep=3, eta=3))
    assert paid == (0.125 * 27 + 0.25 * 9 + 0.625 * 3, 27)
    assert cost_of_rungs(rungs_of(12, 0.25, keep=3)).saving == pytest.approx(1 - (0.25 * 12 + 0.75 * 3) / 12)


@given(st.integers(1, 300), st.floats(1e-3, 0.999), st.integers(2, 9), st.sampled_from([0, 2, 3, 4, 10]))
def test_rungs(count, first, keep, eta):
    rungs = rungs_of(count, first, keep, eta)
    assert rungs[0] == (first, count) and rungs[-1] == (1.0, min(keep, count))
    assert all(before.budget < after.budget for before, after in zip(rungs, rungs[1:]))
    for before, after in zip(rungs[:-1], rungs[1:-1]):  # between the first and the end
        assert after.budget == before.budget * eta < 1
        assert keep < after.candidates == math.ceil(before.candidates / eta)
    if not eta:
        assert len(rungs) == 2
    elif len(rungs) == 2 and count > eta * keep:
        assert first * eta >= 1 - 1e-9  # no room for a second evaluation
    paid, single = (cost_of_rungs(one) for one in (rungs, rungs_of(count, first, keep)))
    assert count * first <= paid.spent + 1e-9 and paid.spent <= paid.full == count
    assert single.spent <= paid.spent + 1e-9  # more evaluations cost more, as long as the first is as early


@pytest.mark.parametrize("budget, count", [(0.2, 12), (0.1, 12), (0.1, 1000)])
def test_saving_of_one_finisher_is_what_the_formula_says(budget, count):
    """1 - (b + (1 - b) / n): 73 % and 82.5 % of 12 candidates, 90 % in the limit of many at a tenth."""
    paid = cost([1.0] + [budget] * (count - 1), [1.0] * count)
    assert paid.saving == pytest.approx(1 - (budget + (1 - budget) / count))


def test_candidates_over_seeds():
    trials = [
        Trial("a", 0, 1.0, 2.0),
        Trial("b", 0, 3.0),
        Trial("a", 1, 2.0, 4.0),
        Trial("b", 1, NAN),
        Trial("c", 1, 1.0, NAN),
        Trial("c", 0, 1.0, 1.0),
    ]
    assert over_seeds(trials) == (["a", "b", "c"], [1.5, INF, 1.0], [3.0, None, INF])


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: calibrate([1, 2], [1, 2]), "needs 3 finished candidates and there are 2: train more"),
        (lambda: calibrate([1, 2, NAN], [1, 2, 3]), "there are 2, since 1 of 3 diverged"),
        (lambda: calibrate([1, 2, 3], [1, 2, None]), "there are 2"),
        (lambda: calibrate([2, 2, 2], [1, 2, 3]), "same estimate"),
        (lambda: calibrate([1, 2, 3], [1, 2]), "not 3 and 2"),
        (lambda: calibrate([1, 2, 0], [1, 2, 3], is_power=True), "above 0: calibrate by a line"),
        (lambda: assess([1, 2], [1, 2], [0, 1]), "and 2 finished"),
        (lambda: assess([1, 2, 3, 4], [1, 2, None, 3], [0, 2]), "candidate 2 was kept and has no final loss"),
        (lambda: assess([1, 2, 3], [INF, NAN, INF], [0, 1]), "all 3 candidates diverged: search lower"),
        (lambda: survivors([NAN, INF], 2), "all 2 candidates diverged"),
        (lambda: survivors([1, 2, 3], 1), "keep=1: keep 2 candidates or more"),
        (lambda: rungs_of(10, 0.2, keep=1), "keep=1: give"),
        (lambda: rungs_of(0, 0.2, keep=3), "0 candidates"),
        (lambda: rungs_of(10, 1.0, keep=3), "budget=1, "),
        (lambda: rungs_of(10, 0.2, keep=3, eta=1), "halving=1: give 2 or more"),
        (lambda: rungs_of(10, 0.2, keep=3, eta=-2), "halving=-2"),
        (lambda: cost([1.0], [1.0, 2.0]), "not 1 and 2 values"),
        (lambda: cost([3.0], [2.0]), "candidate 0 has taken 3 of 2"),
        (lambda: over_seeds([]), "no candidates"),
        (lambda: over_seeds([Trial("a", 0, 1), Trial("a", 0, 1)]), "candidate a, seed 0 is there twice"),
        (lambda: over_seeds([Trial("a", 0, 1), Trial("a", 1, 1), Trial("b", 0, 1)]), "candidate b lacks seed 1"),
        (lambda: over_seeds([Trial("a", 0, 1, 2.0), Trial("a", 1, 1)]), "finished without its seed 1"),
    ],
)
def test_what_cannot_be_said_is_refused(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()
