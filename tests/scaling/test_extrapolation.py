"""Predictions beyond the runs: intervals that hold, refusals outside the reach, laws that are checked first."""

import math

import numpy as np
import pytest

from ipu_chem.scaling.extrapolation import extrapolation_of, predict
from ipu_chem.scaling.held_out_check import Check, check_lines, gain_lines, gains_of, held_out_checks
from ipu_chem.scaling.points import STEPS_HELD, Point


def truth(n, d):
    return 0.3 + 40 * n**-0.4 + 90 * d**-0.45


def points(sizes=5, amounts=4, seeds=2, noise=0.004, loss=truth, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Point(n, d, d // 30, 6.0 * n * 500 * 2048, 500, one, value, "nats_per_heavy_atom", STEPS_HELD, "v1")
        for n in (1000 * 4 ** np.arange(sizes)).tolist()
        for d in (5000 * 4 ** np.arange(amounts)).tolist()
        for one in range(seeds)
        for value in [loss(n, d) * math.exp(noise * generator.normal())]
    ]


def at_most_data(found):
    most = max(point.tokens for point in found)
    return [point for point in found if point.tokens == most]


def test_intervals_of_a_power_law_are_those_of_regression():
    """Student's t on the logarithms, as textbooks have it for a new observation."""
    from scipy.stats import linregress, t

    line = at_most_data(points(sizes=6, seeds=1, noise=0.05, loss=lambda n, d: 9 * n**-0.2))[:5]
    law = extrapolation_of(line, "parameters", draws=3000)
    x, y = (np.log([getattr(one, name) for one in line]) for name in ("parameters", "loss"))
    fit = linregress(x, y)
    new = math.log(4 * line[-1].parameters)
    scatter = math.sqrt(np.square(y - fit.intercept - fit.slope * x).sum() / 3)
    error = scatter * math.sqrt(1 + 1 / 5 + (new - x.mean()) ** 2 / np.square(x - x.mean()).sum())
    found = predict(law, 4 * line[-1].parameters, line[0].tokens)
    assert math.log(found.value) == pytest.approx(fit.intercept + fit.slope * new)
    assert math.log(found.high / found.value) == pytest.approx(t.ppf(0.975, 3) * error, rel=0.05)


def test_new_sizes_lie_in_their_intervals():
    held = [0, 0]
    for seed in range(3000, 3040):
        found = points(seed=seed)
        line, size, data = at_most_data(found), 4 * 1000 * 4**4, 5000 * 4**3
        measured = truth(size, data) * math.exp(0.004 / math.sqrt(2) * np.random.default_rng(20_000 + seed).normal())
        for index, law in enumerate((extrapolation_of(found, draws=60), extrapolation_of(line, "parameters"))):
            held[index] += predict(law, size, data).holds(measured)
    assert min(held) >= 35, held  # of 40, at 95 %


def test_nothing_is_predicted_outside_the_reach():
    found = points()
    law = extrapolation_of(found)
    largest, most = max(p.parameters for p in found), max(p.tokens for p in found)
    assert predict(law, 10 * largest, most).value < truth(largest, most)
    with pytest.raises(ValueError, match=r"N=5,120,000 is more than 10 times beyond .* no prediction"):
        predict(law, 20 * largest, most)
    with pytest.raises(ValueError, match="D=200 is more than 10 times"):
        predict(law, largest, 200)
    line = extrapolation_of(at_most_data(found), "parameters")
    with pytest.raises(ValueError, match=r"knows nothing of D=5,000: ask for D=320,000"):
        predict(line, largest, 5000)


def test_laws_with_nothing_to_tell_how_far_they_are_off_are_refused():
    with pytest.raises(ValueError, match="3 sizes and there are 2"):
        extrapolation_of(at_most_data(points(sizes=2)), "parameters")
    with pytest.raises(ValueError, match="over='flops'"):
        extrapolation_of(points(), "flops")


def test_a_law_that_holds_predicts_and_one_that_breaks_does_not():
    found = points()
    checks, reasons = held_out_checks(found)
    assert not reasons and len(checks) == 1 + 4 + 1 + 5  # a line over each, and the joint law without each end
    assert sum(one.holds for one in checks) >= 10
    gains, without = gains_of(found, checks)
    assert not without and {one.more for one in gains} >= {"2 x parameters", "10 x data", "10 x both"}
    for one in gains:
        if one.law == "L(N, D)":
            assert one.loss.holds(truth(one.parameters, one.tokens)) and one.change < -0.1
    text = "\n".join([*check_lines(checks), *gain_lines(gains)])
    assert "EXTRAPOLATED, not measured" in text and f"{sum(one.holds for one in checks)} of 11 predictions hold" in text

    def broken(n, d):  # sizes help no more above 64,000
        return 0.5 + 40 * min(n, 64_000) ** -0.4 + (0.2 if n > 200_000 else 0) + 90 * d**-0.45

    checks, _ = held_out_checks(points(loss=broken))
    failed = [one for one in checks if one.law == "L(N, D)" and one.left_out == "parameters"]
    assert failed and not any(one.holds for one in failed)
    gains, without = gains_of(points(loss=broken), checks)
    assert not any(one.law == "L(N, D)" for one in gains)
    assert any("held-out prediction without N" in reason for reason in without)


def test_a_perfect_law_holds_in_its_checks():
    checks, _ = held_out_checks(points(seeds=1, noise=0.0))
    joint = [one for one in checks if one.law == "L(N, D)"]
    assert len(joint) == 9 and all(one.holds for one in joint)


def test_an_end_that_is_not_bounded_is_open_in_the_table():
    """One degree of freedom and losses that scatter by decades: the exponential of the end is beyond float64."""
    line = at_most_data(points(sizes=3, amounts=1, seeds=1, noise=60.0, loss=lambda n, d: 1.0))
    found = predict(extrapolation_of(line, "parameters"), 10 * line[-1].parameters, line[0].tokens)
    assert found.high == math.inf and found.low < found.value
    check = Check("a law", "parameters", 1, 1, found, 1.0)
    assert ", open)" in check_lines([check])[2]


def test_studies_too_small_to_check_predict_nothing():
    found = points(sizes=3, amounts=3)
    checks, reasons = held_out_checks(found)
    assert not checks and len(reasons) == 4
    gains, without = gains_of(found, checks)
    assert not gains and len(without) == 1 and "no law could be checked" in without[0]
    assert held_out_checks(points(sizes=1, amounts=1)) == ([], [])
    assert check_lines(checks) == gain_lines(gains) == []
