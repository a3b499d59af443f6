"""Half-widths of conformal intervals: exact ranks, coverage for any n, and refusals of what n cannot hold."""

import numpy as np
import pytest

from ipu_chem.uncertainty.conformal import half_width, needed, rank
from ipu_chem.uncertainty.intervals import Intervals, spread_of
from ipu_chem.uncertainty.residuals import FORCES, LABELS, Residuals
from packing.types import Ragged


@pytest.mark.parametrize(
    "count, coverage, expected",
    [
        (9, 0.9, 9),
        (10, 0.9, 10),
        (19, 0.9, 18),
        (19, 0.95, 19),
        (99, 0.99, 99),
        (100, 0.9, 91),
        (1, 0.5, 1),
        (3, 0.5, 2),
    ],
)
def test_ranks_are_those_of_the_formula(count, coverage, expected):
    assert rank(count, coverage) == expected
    errors = np.random.default_rng(count).permutation(np.arange(1.0, count + 1))
    assert half_width(errors, coverage) == expected
    assert half_width(np.concatenate([errors, [np.nan, np.nan]]), coverage) == expected  # missing labels do not count


@pytest.mark.parametrize("coverage, count", [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.98, 49), (0.99, 99)])
def test_too_few_molecules_are_refused_with_the_number_that_suffices(coverage, count):
    assert needed(coverage) == count and rank(count, coverage) == count
    with pytest.raises(ValueError, match=f"intervals of {coverage:g} need {count} molecules of the validation split"):
        rank(count - 1, coverage)


def test_the_coverage_that_a_refusal_offers_is_accepted():
    with pytest.raises(ValueError, match="30 of it have a label; ask for 0.967 or less"):
        rank(30, 0.99)
    assert rank(30, 0.967) == 30
    with pytest.raises(ValueError, match="0 of it have a label; train with a larger --data.validation"):
        half_width(np.full(5, np.nan), 0.5)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, float("nan")])
def test_a_coverage_is_a_probability(coverage):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        rank(100, coverage)


def within(covered, total, coverage, deviations=4.0):
    """A count is no farther from its expectation than a binomial distribution has it once in 10,000 times."""
    return abs(covered - total * coverage) <= deviations * np.sqrt(total * coverage * (1 - coverage))


@pytest.mark.parametrize("count", [9, 50, 199])
def test_coverage_over_200_seeds(count):
    """One test molecule a seed, so that outcomes are independent; errors have a heavy tail and no mean."""
    for coverage in (0.5, 0.8, 0.9):
        inside = 0
        for seed in range(200):
            errors = np.abs(np.random.default_rng([seed, count]).standard_t(1.5, count + 1))
            inside += errors[-1] <= half_width(errors[:-1], coverage)
        exact = rank(count, coverage) / (count + 1)  # of continuous errors the coverage is this, not only at least
        assert exact >= coverage - 1e-12 and within(inside, 200, exact)


def test_coverage_of_force_components_whose_molecules_differ():
    """Components of one molecule share their difficulty, and large molecules are the bad ones: n counts molecules."""
    inside, coverage, count = [], 0.9, 40
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 20, count + 1)
        offsets = np.concatenate([[0], np.cumsum(3 * sizes)])
        difficulty = np.repeat(sizes * np.exp(rng.normal(size=count + 1)), 3 * sizes)
        errors = difficulty * np.abs(rng.normal(size=offsets[-1]))
        width = half_width(errors[: offsets[-2]], coverage, offsets[:-1])
        inside.append(np.mean(errors[offsets[-2] :] <= width))
    # A molecule's fraction lies in [0, 1], so its standard deviation is at most that of a coin.
    assert coverage - 4 * np.std(inside) / np.sqrt(200) <= np.mean(inside) <= coverage + 0.06


def test_weights_of_molecules_are_equal_whatever_their_size():
    scores = np.array([1.0, 2.0, 3.0, 10.0, 20.0])
    offsets = np.array([0, 3, 4, 5])
    assert half_width(scores, 0.25, offsets) == 3.0  # rank 1 of 3: all of the first molecule
    assert half_width(scores, 0.5, offsets) == 10.0 and half_width(scores, 0.75, offsets) == 20.0
    assert half_width(scores, 0.7, np.arange(6)) == half_width(scores, 0.7) == 20.0
    with pytest.raises(ValueError, match="and 3 of it have a label"):
        half_width(scores, 0.8, offsets)
    scores[3] = np.nan  # a molecule without forces
    with pytest.raises(ValueError, match="and 2 of it have a label"):
        half_width(scores, 0.75, offsets)


def residuals(labels, forces=None, names=("y",)):
    labels = np.asarray(labels, np.float64)
    outputs = {LABELS: Ragged(labels, np.arange(len(labels) + 1))}
    if forces is not None:
        outputs[FORCES] = forces
    return Residuals(outputs, [[name, "eV"] for name in names], ["a", "b"], [1.0, 0.5])


def test_coverage_of_intervals_that_grow_with_the_spread_of_runs():
    inside, width_hard, width_easy = 0, [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        difficulty = np.exp(rng.normal(size=100))
        found = difficulty * (rng.normal(size=100) + rng.normal(size=(4, 100)))  # label 0
        members = [residuals(one[:99, None]) for one in found]
        intervals = Intervals(members, 0.9)
        half = intervals.of_labels(spread_of(found)[99:, None], 1)[0, 0]
        inside += abs(found[:, 99].mean()) <= half
        (width_hard if difficulty[99] > 1 else width_easy).append(half)
    assert within(inside, 200, 0.9) and np.mean(width_hard) > 2 * np.mean(width_easy)


def test_targets_and_forces_have_their_own_widths():
    forces = Ragged(np.full((6, 3), 0.25), np.array([0, 2, 4, 6]))
    one = residuals([[1.0, -30.0], [-2.0, 10.0], [3.0, np.nan]], forces, ("a", "b"))
    intervals = Intervals([one], 0.6)
    np.testing.assert_array_equal(intervals.of_labels(None, 2), [[3.0, 30.0]] * 2)
    assert intervals.forces.half_widths(None, (4, 3)).tolist() == [[0.25] * 3] * 4
    assert [each.count for each in intervals.labels] == [3, 2] and intervals.forces.count == 3
    with pytest.raises(ValueError, match="b: intervals of 0.75 need 3 molecules"):
        Intervals([one], 0.75)
    assert Intervals([residuals([[1.0]])], 0.5).forces is None


def test_runs_that_agree_in_everything_have_the_intervals_of_one():
    one = residuals([[1.0], [-2.0], [4.0]])
    half = Intervals([one, one], 0.75).of_labels(np.zeros((1, 1)), 1)
    assert half.tolist() == Intervals([one], 0.75).of_labels(None, 1).tolist() == [[4.0]]
