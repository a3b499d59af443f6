"""The figure of selective errors: its curves are means of those that are kept, ordered by spread and by error."""

import numpy as np
import pytest
from figure_checks import check_figure

from ipu_chem.reports.selective_figure import selective_figure

pytest.importorskip("matplotlib")


def test_curves_are_means_of_the_molecules_that_are_kept():
    rng = np.random.default_rng(0)
    errors, spread = np.abs(rng.normal(size=50)), rng.random(50)
    errors[7] = np.nan
    figure = selective_figure({"mae_u0_meV": (errors, spread), "mae_forces_meV_per_A": (errors, errors)})
    left, right = figure.axes
    by_spread, by_error, none = (line.get_ydata() for line in left.get_lines())
    known = np.flatnonzero(np.isfinite(errors))
    order = known[np.argsort(spread[known])]
    assert by_spread[9] == pytest.approx(errors[order[:10]].mean())
    assert by_error[9] == pytest.approx(np.sort(errors[known])[:10].mean())
    assert by_spread[-1] == pytest.approx(by_error[-1]) == pytest.approx(none[0])
    np.testing.assert_allclose(*(line.get_ydata() for line in right.get_lines()[:2]))
    assert left.get_ylabel() == "MAE of u0 (meV)" and left.get_title() == "49 molecules"
    check_figure(figure)


def test_one_metric_is_one_plot():
    figure = selective_figure({"mae_u0_meV": (np.arange(9.0), np.arange(9.0))})
    assert len(figure.axes) == 1
    check_figure(figure)
