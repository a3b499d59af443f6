"""When a run looks at its validation molecules: by epochs, or by calls of the device program."""

import pytest
from support import StopAt
from test_runs import assert_same_state, last

from ipu_chem.train import train
from ipu_chem.training.logging import read_rows


def looks(folder):
    return [(row["step"], row["loss"]) for row in read_rows(folder) if row["kind"] == "validation"]


@pytest.mark.parametrize("every", [1, 3, 5, 1000])
def test_evaluations_by_calls_come_as_often_in_every_epoch_and_at_the_end(options, make_config, every):
    options["training"].update(epochs=3, evaluate_calls=every, log_every=1)
    result = train(make_config(options))
    steps = result["step"]
    assert steps > 6
    expected = sorted({*range(every, steps + 1, every), steps})
    found = looks(options["out"])
    assert [step for step, _ in found] == expected
    # The loss beside an evaluation is the mean over its epoch so far.
    losses = {row["step"]: row["loss"] for row in read_rows(options["out"]) if row["kind"] == "train"}
    epoch = steps // 3
    for step, loss in found:
        part = range((step - 1) // epoch * epoch + 1, step + 1)
        assert loss == pytest.approx(sum(losses[one] for one in part) / len(part))


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_that_stops_around_an_evaluation_goes_on_as_if_it_had_not(options, make_config, tmp_path, stop):
    options["schedule"] = {"name": "plateau", "plateau_patience": 1}
    options["training"].update(epochs=3, evaluate_calls=3, ema_decay=0.9)
    train(make_config(options))
    whole, expected = last(options["out"]), looks(options["out"])
    options["out"] = str(tmp_path / "stopped")
    assert train(make_config(options), callbacks=[StopAt(stop)])["step"] == stop
    assert train(make_config(options), resume=True)["finished"]
    assert_same_state(whole, last(options["out"]))
    assert looks(options["out"]) == expected


def test_patience_ends_a_run_inside_an_epoch(options, make_config):
    options["training"].update(epochs=50, evaluate_calls=1, early_stopping=2)
    options["optimizer"] = {"learning_rate": 1e-30}
    options["schedule"] = {"name": "constant"}
    result = train(make_config(options))
    assert result["finished"] and (result["epoch"], result["step"]) == (0, 3)
    again = train(make_config(options), resume=True)
    assert again["finished"] and again["step"] == 3
