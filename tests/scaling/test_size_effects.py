"""Runs of one size that share an error count once; what looks like a break in a few runs is noise."""

import numpy as np
import pytest

from ipu_chem.scaling.broken_law import broken_law
from ipu_chem.scaling.joint_law import joint_law
from ipu_chem.scaling.power_law import power_law
from ipu_chem.scaling.size_effects import averaged

STUDIES = 100


def held(sizes, seeds, of_sizes, of_seeds):
    """Fraction of studies whose interval of 95 % holds the exponent."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(sizes), seeds)
    count = 0
    for _ in range(STUDIES):
        noise = of_sizes * rng.normal(size=sizes)[group] + of_seeds * rng.normal(size=len(group))
        count += power_law(10.0**group, 3 * 10 ** (-0.2 * group) * np.exp(noise)).beta.holds(0.2)
    return count / STUDIES


@pytest.mark.parametrize("sizes, seeds", [(4, 3), (5, 5)])
@pytest.mark.parametrize("of_sizes", [0.0, 0.01, 0.03])
def test_an_exponent_is_held_whether_or_not_sizes_scatter_by_themselves(sizes, seeds, of_sizes):
    assert held(sizes, seeds, of_sizes, 0.01) >= 0.85  # 0.47 to 0.58 where seeds count as runs


def test_seeds_that_explain_the_scatter_count_alone_and_exact_losses_too():
    def law(rows):
        return rows @ design.T, np.broadcast_to(design, (len(rows), *design.shape))

    x = np.repeat(np.arange(5.0), 3)
    design = np.stack([np.ones_like(x), x], 1)
    theta = np.array([1.0, -0.2])
    exact, rng = design @ theta, np.random.default_rng(0)
    assert averaged(x, exact, law, theta) is None
    assert averaged(x, exact + 0.1 * np.tile([-1, 0, 1], 5), law, theta) is None
    shared = 0.1 * rng.normal(size=5)
    sizes, means = averaged(x, exact + np.repeat(shared, 3), law, theta)
    np.testing.assert_allclose(means, 1 - 0.2 * np.arange(5) + shared)
    assert sizes.tolist() == list(range(5))
    assert averaged(x, exact + np.repeat(shared, 3), law, theta, unknowns=5) is None  # nothing left to tell by


def test_pairs_of_size_and_data_that_scatter_widen_the_joint_law():
    axes = np.meshgrid(np.geomspace(1e4, 1e7, 5), np.geomspace(1e5, 1e8, 5), np.arange(3))
    size, data = axes[0].ravel(), axes[1].ravel()
    clean, rng = 0.8 + 12 * size**-0.34 + 30 * data**-0.28, np.random.default_rng(1)
    pairs = np.unique(np.stack([size, data]), axis=1, return_inverse=True)[1].reshape(-1)
    seeds = 0.005 * rng.normal(size=75)
    alone = joint_law(size, data, clean * np.exp(seeds)).size_exponent
    shared = joint_law(size, data, clean * np.exp(seeds + 0.03 * rng.normal(size=25)[pairs])).size_exponent
    assert shared.high - shared.low > 4 * (alone.high - alone.low) and shared.holds(0.34)


@pytest.mark.parametrize("sizes, seeds", [(6, 1), (7, 1), (8, 1), (6, 3)])
def test_breaks_of_few_runs_are_not_made_of_noise(sizes, seeds):
    rng = np.random.default_rng(7)
    x = 1e4 * 2.5 ** np.repeat(np.arange(sizes), seeds)
    laws = [broken_law(x, 3 * (x / 1e4) ** -0.2 * np.exp(0.02 * rng.normal(size=len(x)))) for _ in range(40)]
    assert sum(law.breaks is not None for law in laws) <= 4  # a third of them by BIC alone
    assert all(law.chance < 0.05 for law in laws if law.breaks is not None)


def test_a_break_that_is_there_is_found_in_ten_runs():
    rng = np.random.default_rng(8)
    x = 1e4 * 2.5 ** np.arange(10)
    steps = np.minimum(np.log(x / 1e4), 4.1)
    laws = [broken_law(x, 3 * np.exp(-0.2 * steps + 0.02 * rng.normal(size=10))) for _ in range(20)]
    assert sum(law.breaks is not None for law in laws) >= 17
