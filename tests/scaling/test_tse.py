"""Estimates from the first losses: published values, values by hand, divergence, intervals."""

import csv

import numpy as np
import pytest

from ipu_chem.scaling.tse import block_means, step_losses, tail_mean, tse, tse_e, tse_ema

# Three epochs of two steps: means 3.5, 1.5, 1.
MADE_UP = [4.0, 3.0, 2.0, 1.0, 1.5, 0.5]


def litmatter_estimates(losses, steps_per_epoch, epochs, last=1, gamma=0.999):
    """The three as LitMatter's `TrainingSpeedEstimator` counts epochs, to compare with its published values.

    There, T = 10 is ten epochs for TSE and the eleventh, numbered 10 from 0, as well for TSE-E and TSE-EMA.
    """
    return {
        "tse": tse(losses, steps_per_epoch, epochs),
        "tsee": tse_e(losses, steps_per_epoch, epochs + 1, last),
        "tseema": tse_ema(losses, steps_per_epoch, epochs + 1, gamma),
    }


def test_published_example_to_all_its_digits(shared):
    with open(shared / "data" / "published_results" / "litmatter_metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train_loss_step"]]
    losses = [float(row["train_loss_step"]) for row in rows]
    assert len(losses) == 30 * 63
    estimates = litmatter_estimates(losses, 63, epochs=10, last=1, gamma=0.999)
    published = {"tse": 129.8276312691825, "tsee": 5.670970326378232, "tseema": 134.53728970599116}
    assert {name: estimate.value for name, estimate in estimates.items()} == pytest.approx(published, rel=0, abs=1e-9)
    assert all(estimate.low < estimate.value < estimate.high for estimate in estimates.values())


def test_values_by_hand():
    assert tse(MADE_UP, 2, 3).value == 3.5 + 1.5 + 1.0
    assert tse(MADE_UP, 2, 2).value == 3.5 + 1.5
    assert tse_e(MADE_UP, 2, 3).value == 1.0
    assert tse_e(MADE_UP, 2, 3, last=2).value == 2.5
    assert tse_ema(MADE_UP, 2, 3, gamma=0.5).value == 0.25 * 3.5 + 0.5 * 1.5 + 1.0
    assert tail_mean(MADE_UP, 0.5).value == 1.0  # of 1, 1.5, 0.5
    assert tail_mean(MADE_UP, 0.01).value == 0.5
    # One epoch more than the others for TSE-E and TSE-EMA.
    published = litmatter_estimates(MADE_UP, 2, epochs=2, gamma=0.5)
    assert [published[name].value for name in ("tse", "tsee", "tseema")] == [5.0, 1.0, 0.25 * 3.5 + 0.5 * 1.5 + 1.0]


def test_the_tail_compares_batch_sizes():
    """The same curve in half as many steps of twice the batch has the same estimate."""
    fine = 1 + np.exp(-np.arange(1000) / 100)
    coarse = fine.reshape(500, 2).mean(1)
    assert tail_mean(fine).value == pytest.approx(tail_mean(coarse).value, rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_diverged_run_is_the_worst_and_says_so(value):
    losses = np.array(MADE_UP)
    losses[2] = value
    for estimate in (tail_mean(losses, 0.2), tse(losses, 2, 3), tse_e(losses, 2, 3), tse_ema(losses, 2, 3)):
        assert estimate.value == estimate.low == np.inf and estimate.diverged_at == 3
        assert "not finite at step 3" in str(estimate) and "last" in str(estimate)
    assert np.isfinite(tse(losses, 2, 1).value)  # the first epoch was well


def test_the_interval_covers_the_mean_of_correlated_losses():
    """Nominal 95 %: neighbors that are alike make independent resampling cover far less."""
    rng = np.random.default_rng(0)
    covered, naive = 0, 0
    for draw in range(200):
        noise = rng.normal(size=500)
        for step in range(1, 500):
            noise[step] += 0.6 * noise[step - 1]
        estimate = tail_mean(2 + 0.05 * noise, 1.0, draws=300, seed=draw)
        covered += estimate.low <= 2 <= estimate.high
        half = 1.96 * 0.05 * noise.std() / np.sqrt(500)
        naive += abs(estimate.value - 2) <= half
    assert covered >= 170 > naive + 15


def test_bootstrap_is_seeded_and_centered():
    rng = np.random.default_rng(1)
    losses = np.linspace(3, 1, 400) + rng.normal(0, 0.1, 400)
    assert tail_mean(losses, seed=3) == tail_mean(losses, seed=3) != tail_mean(losses, seed=4)
    drawn = block_means(losses, 4000, rng)
    assert drawn.mean() == pytest.approx(losses.mean(), abs=4 * drawn.std() / np.sqrt(4000))
    assert np.isnan(tail_mean(losses, draws=0).low)
    assert tail_mean([1.5]).low == tail_mean([1.5]).high == 1.5


def test_losses_of_a_runs_rows():
    rows = [
        {"kind": "train", "step": 2, "loss": 4.0},
        {"kind": "validation", "step": 2, "loss": 9.0},
        {"kind": "train", "step": 3, "loss": 3.0},
        {"kind": "train", "step": 4, "loss": None},
    ]
    assert step_losses(rows[:3]).tolist() == [4.0, 4.0, 3.0]
    assert step_losses(rows).tolist() == [4.0, 4.0, 3.0, np.inf]
    with pytest.raises(ValueError, match="no losses"):
        step_losses(rows[1:2])
    with pytest.raises(ValueError, match="step 2 comes again"):
        step_losses([*rows, rows[0]])


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda: tse(MADE_UP, 2, 4), "losses of 8 steps and there are 6"),
        (lambda: tail_mean([]), "losses of 1 steps and there are 0"),
        (lambda: tail_mean(MADE_UP, 0), "fraction=0"),
        (lambda: tse_e(MADE_UP, 2, 3, last=4), "last 4 of 3"),
        (lambda: tse_ema(MADE_UP, 2, 3, gamma=0), "gamma=0"),
        (lambda: tse(MADE_UP, 0, 3), "steps_per_epoch=0"),
    ],
)
def test_what_cannot_be_estimated_is_refused(ask, words):
    with pytest.raises(ValueError, match=words):
        ask()
