"""Halving by intervals: who cannot win goes, on top of the fraction; and searches replayed."""

import math

import numpy as np
import pytest

from ipu_chem.scaling.replay import replay, uncertain
from ipu_chem.scaling.selection import Rung, choose, intervals, rungs_of
from ipu_chem.scaling.tpe import covered

NAN = math.nan


def test_who_cannot_win_goes_and_two_stay():
    values, spreads = [1.0, 1.05, 2.0, 1.1, math.inf], [0.02, 0.02, 0.1, 0.2, NAN]
    chosen = choose(values, spreads, keep=4, confidence=0.9)
    assert chosen.kept == [0, 1, 3]  # 1.1 may still be 0.8
    assert chosen.gone[4] == "diverged"
    assert chosen.gone[2].startswith("cannot win: 2 [1.842, 2.171] against 1 [0.9676, 1.033] of another")
    assert choose(values, spreads, keep=4, confidence=0.0).kept == [0, 1, 3, 2]
    assert choose(values, [0.01] * 5, keep=4, confidence=0.9).kept == [0, 1]  # never one alone
    assert choose(values, [NAN] * 5, keep=3, confidence=0.9).kept == [0, 1, 3]
    assert choose(values, [NAN] * 5, keep=3, confidence=0.9).gone[2] == "not among the best 3"


def test_one_whose_interval_reaches_up_does_not_shield_others():
    """The lowest of the upper ends counts, not that of the lowest estimate."""
    chosen = choose([1.0, 1.1, 2.0], [0.5, 0.01, 0.1], keep=3, confidence=0.9)
    assert chosen.kept == [0, 1] and "against 1.1" in chosen.gone[2]


def test_intervals_are_of_logarithms_where_they_can_be():
    low, high = intervals([2.0, 4.0], [0.2, NAN], 0.9)
    assert low[0] * high[0] == pytest.approx(4) and high[0] == pytest.approx(2 * math.exp(0.16449), rel=1e-4)
    assert math.isnan(low[1])
    low, high = intervals([-1.0, 4.0], [1.0, 1.0], 0.9)
    assert (low[0] + high[0]) / 2 == pytest.approx(-1) and high[0] - low[0] == pytest.approx(2 * 1.6449, rel=1e-4)


def test_rungs_of_a_race_go_on_where_all_that_are_left_may_still_win():
    assert rungs_of(12, 0.1, 3, 2) == [Rung(0.1, 12), Rung(0.2, 6), Rung(1.0, 3)]
    assert [rung.candidates for rung in rungs_of(12, 0.1, 3, 2, is_race=True)] == [12, 6, 3, 3, 3]
    assert rungs_of(12, 0.1, 2, 2, is_race=True) == rungs_of(12, 0.1, 2, 2)  # two always go on
    assert rungs_of(12, 0.2, 3, 0, is_race=True) == rungs_of(12, 0.2, 3, 0)


def test_a_replayed_search_by_hand():
    finals = np.array([1.0, 2.0, 3.0, 4.0])
    rungs = [Rung(0.2, 4), Rung(0.4, 3), Rung(1.0, 3)]
    values = np.stack([finals, finals])
    spreads = np.full((2, 4), 0.1)
    by_rank = replay(rungs, values, np.full((2, 4), NAN), finals, 0.9)
    assert by_rank.kept == (0, 1, 2) and by_rank.saving == pytest.approx(1 - 3.2 / 4)
    raced = replay(rungs, values, spreads, finals, 0.9)
    assert raced.kept == (0, 1) and raced.saving == pytest.approx(1 - (2 * 1.0 + 2 * 0.2) / 4)
    # The two that are kept have the most steps: 0.4 and 0.3 of all, the others 0.2 and 0.1.
    uneven = replay(rungs, values, spreads, finals, 0.9, np.array([40, 30, 20, 10]))
    assert uneven.kept == (0, 1) and uneven.saving == pytest.approx(1 - (0.7 + 0.3 * 0.2))
    misled = replay(rungs, values[:, ::-1], spreads, finals, 0.9)
    assert misled.kept == (3, 2) and misled.regret == 2


def test_regret_and_saving_of_other_candidates():
    rng = np.random.default_rng(0)
    finals = rng.uniform(1, 2, 12)
    rungs = rungs_of(12, 0.1, 3, 2)
    exact = np.stack([finals] * 2)
    found = uncertain(rungs, exact, np.full((2, 12), NAN), finals, 0.0, draws=50)
    assert found.regret == (0, 0) and found.saving == pytest.approx((0.65, 0.65))
    blind = rng.uniform(1, 2, (2, 12))
    found = uncertain(rungs, blind, np.full((2, 12), NAN), finals, 0.0, draws=50)
    assert found.regret[0] <= replay(rungs, blind, np.full((2, 12), NAN), finals, 0.0).regret <= found.regret[1]
    assert found.regret[1] > 0


def test_coverage_counts_intervals_through_the_line_of_the_others():
    estimates = np.arange(1.0, 11.0)
    finals = (2 * estimates + 1).tolist()
    assert covered(estimates, np.full(10, 0.1), finals) == 1
    finals[4] += 3.0
    assert covered(estimates, np.full(10, 0.1), finals) < 1
    assert math.isnan(covered(estimates, np.full(10, NAN), finals))
