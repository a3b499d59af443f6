"""Constants of the time model are those that the published figures give."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bow_study as study
from benchmarks import ipu_time
from ipu_chem.ipu import time_constants as known


def test_constants_are_what_is_fitted(shared: Path) -> None:
    for name, (library, found) in ipu_time.fitted_constants(shared).items():
        assert ipu_time.is_same(library, found), f"{name}: {library} in the library, {found} fitted"


@pytest.mark.parametrize("name", ipu_time.OPERATORS)
def test_shapes_held_out_are_predicted(name: str, shared: Path) -> None:
    terms, constants = ipu_time.OPERATORS[name]
    shapes = ipu_time.read_shapes(shared, name)
    assert len(shapes.cycles) == 594
    median, most, _ = ipu_time.held_out_errors(terms(shapes), shapes.cycles, splits=3)
    assert median < 0.15 and most < 0.35
    error = np.abs(terms(shapes) @ np.array(constants) / shapes.cycles - 1)
    assert np.median(error) < 0.10 and np.quantile(error, 0.9) < 0.32


def test_calibration_follows_the_library() -> None:
    """What training adds to the microbenchmarks is fitted without them, so this needs no data."""
    assert ipu_time.is_same(known.BLOCK_LOOP, ipu_time.fit_loop())
    for library, found in zip((known.UPDATE, known.CALL), ipu_time.fit_update_and_call()):
        assert ipu_time.is_same(library, found)
    for library, found in zip((known.PLAIN_SOFTPLUS, known.UNMERGED_EXCHANGE), ipu_time.fit_tuning()):
        assert ipu_time.is_same(library, found)


def test_a_constant_of_one_percent_more_is_another() -> None:
    assert ipu_time.is_same(1.004, 1.0) and not ipu_time.is_same(1.01, 1.0) and not ipu_time.is_same(0.99, 1.0)


def test_without_data_nothing_is_claimed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert ipu_time.main(["--shared", str(tmp_path)]) == 2
    assert capsys.readouterr().out.startswith("NOT RUN: no published microbenchmarks")


def test_an_epoch_waits_for_its_loader() -> None:
    case = study.Case(10, 1, 1_000, 10, 10, 0)
    loader = study.Loader(1e-3, 0.0, 1e9)
    # All ten batches of 0.1 s come at once; then the device runs.
    assert study.epoch_seconds(case, 0.5, loader) == pytest.approx(0.1 + 10 * 0.5)
    assert study.epoch_seconds(case, 0.5, loader, asynchronous=False) == pytest.approx(0.1 + 10 * 0.5 + 0.3)
    # Two at a time: the device waits for pairs.
    pairs = case._replace(workers=2)
    assert study.epoch_seconds(pairs, 0.01, loader) == pytest.approx(0.5 + 2 * 0.01)
