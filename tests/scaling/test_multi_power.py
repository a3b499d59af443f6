"""Multi-power law: runs of many learning rates say together what one early part does not."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from ipu_chem.scaling.curves import RunCurve, departures, drift, points_of
from ipu_chem.scaling.multi_power import forecast, noise_left

STEPS, WARMUP = 600, 40
RATES = np.geomspace(3e-4, 3e-2, 8)


def schedule(peak, least=0.01):
    step = np.arange(STEPS)
    fall = least + (1 - least) * 0.5 * (1 + np.cos(np.pi * (step - WARMUP) / (STEPS - WARMUP)))
    return peak * np.where(step < WARMUP, (step + 1) / WARMUP, fall)


def runs_of(seed, seen=1.0):
    """Runs that obey the law, with noise that grows with the learning rate, as far as seen."""
    rng = np.random.default_rng(seed)
    curves = []
    for peak in RATES:
        rates = schedule(peak)
        falling = 0.25 * np.cumsum(rates) ** -0.5 * np.exp(rng.normal(0, 0.05))
        noise = 20 * peak * noise_left(rates, WARMUP, np.arange(1, STEPS + 1)) * np.exp(rng.normal(0, 0.1))
        losses = np.minimum(1 + falling + noise, 4) * (1 + rng.normal(0, 0.05 + peak, STEPS))
        curves.append(RunCurve(f"{peak:.2g}", losses[: round(seen * STEPS)], rates, WARMUP))
    return curves


def finals(curves):
    return np.array([curve.losses[-60:].mean() for curve in curves])


def test_noise_is_what_falling_rates_have_not_taken_away_yet():
    """By the sums of the paper, step by step."""
    rates, least = schedule(0.01), 0.01
    at = np.array([1, 40, 41, 300, 600])
    left = noise_left(rates, WARMUP, at)
    assert left[:2] == pytest.approx([1, 1])
    for step, found in zip(at[2:], left[2:]):
        gained = 0.0
        for k in range(WARMUP + 1, step):
            since = rates[k:step].sum()
            gained += (rates[k - 1] - rates[k]) * (1 - (2 * rates[k] ** -0.64 * since + 1) ** -0.6)
        assert found == pytest.approx(1 - gained / rates.max(), abs=0.02)
    assert least < left[-1] < left[-2] < left[2]


@pytest.mark.parametrize("seen", [0.1, 0.2])
def test_high_rates_are_ranked_by_what_they_reach(seen):
    """The last losses mistake noise that will go for a bad end."""
    ranked, by_tail, inside = [], [], []
    for seed in range(2):
        ends = finals(runs_of(seed))
        early = runs_of(seed, seen)
        found = forecast(early)
        ranked.append(spearmanr(found.values, ends)[0])
        by_tail.append(spearmanr([one.losses[-max(1, len(one.losses) // 10) :].mean() for one in early], ends)[0])
        apart = np.log(found.values / ends)
        inside += list(np.abs(apart - apart.mean()) < 1.645 * found.own / found.values)
    assert min(ranked) > 0.9 > max(by_tail)
    assert np.mean(inside) >= 0.75


def test_whole_runs_teach():
    whole, early = runs_of(0), runs_of(0, 0.1)
    alone = np.abs(np.log(forecast(early).values / finals(whole)))
    taught = np.abs(np.log(forecast([*whole[2:5], *early]).values[3:] / finals(whole)))
    assert taught.mean() < 0.5 * alone.mean()


def test_runs_that_have_come_less_far_widen_no_interval_of_others():
    """What was left out of a search early has more left to fall, which says nothing of those that went on."""
    far, behind = runs_of(0, 0.4)[2:], runs_of(0, 0.1)[:2]
    alone, beside = forecast(far), forecast([*behind, *far])
    assert np.median(beside.own[2:] / alone.own) < 1.5


def test_a_few_steps_are_enough_for_a_number():
    for steps in (1, 2, 5):
        found = forecast([RunCurve("a", np.linspace(2, 1, steps), schedule(0.01), WARMUP)])
        assert np.isfinite(found.values).all() and found.values[0] > 0 and found.errors[0] > 0


def test_points_average_what_comes_after_the_transient():
    losses = np.arange(100.0)
    points = points_of(RunCurve("a", losses, schedule(0.01), 40), count=5)
    assert len(points.steps) == 5 and points.steps[0] > 40
    assert points.means == pytest.approx(points.steps - 1)  # of a straight line, the mean is at the center
    assert points.errors[-1] < points.errors[0]  # more steps in later windows


def test_departures_and_drift():
    falling = [RunCurve(f"{place}", np.linspace(2, 1, 40), schedule(0.01), WARMUP) for place in range(4)]
    spikes = RunCurve("bad", np.concatenate([np.linspace(2, 1.5, 20), np.linspace(1.5, 3, 20)]), schedule(0.1), WARMUP)
    assert departures(falling) == []
    ((place, sentence),) = departures([*falling, spikes])
    assert place == 4 and sentence.startswith("bad: its losses rise by")
    alike, apart = np.full(6, -0.3), np.array([-0.1, -0.2, -0.3, -0.4, -0.5, -0.3])
    assert 0.05 < drift(alike) < drift(apart) < 0.2 and drift(np.array([-0.3])) > 0.3
