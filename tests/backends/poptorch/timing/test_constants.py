"""Constants of the time model are those that the published figures give."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bow_study as study
from benchmarks import ipu_time
from ipu_chem.backends.poptorch.timing import constants as known


def test_constants_are_what_is_fitted(shared: Path) -> None:
    for name, (library, found) in ipu_time.fitted_constants(shared).items():
        assert ipu_time.is_same(name, library, found), f"{name}: {library} in the library, {found} fitted"


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
    found = {"BLOCK_LOOP": ipu_time.fit_loop()}
    found["UPDATE"], found["CALL"] = ipu_time.fit_update_and_call()
    found["PLAIN_SOFTPLUS"], found["UNMERGED_EXCHANGE"] = ipu_time.fit_tuning()
    for name, value in found.items():
        assert ipu_time.is_same(name, getattr(known, name), value), f"{name}: {value} fitted"


def test_a_constant_that_is_off_is_another() -> None:
    for name, off in (("gather 0", 1.01), ("BLOCK_LOOP", 1.01), ("CALL", 1.04), ("UPDATE", 1.2)):
        assert ipu_time.is_same(name, 1.0, 1.0) and not ipu_time.is_same(name, off, 1.0)
        assert not ipu_time.is_same(name, 1.0, off)


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
