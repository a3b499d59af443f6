"""Callbacks see a run as its files have it, keep their state in its checkpoints and may stop it."""

import json
from pathlib import Path

import pytest

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.train import train
from ipu_chem.training.callbacks import Callback
from ipu_chem.training.logging import read_rows


class Everything(Callback):
    def __init__(self, stop=None):
        self.calls, self.steps, self.rows, self.stop = [], [], [], stop

    def on_first_call(self, seconds):
        assert seconds > 0 and not self.steps
        self.calls.append("first")

    def on_step(self, step, total, losses):
        self.calls.append("step")
        self.steps += losses
        assert step == len(self.steps) <= total
        return step == self.stop

    def before_evaluation(self):
        self.calls.append("before")

    def on_metrics(self, kind, step, epoch, values):
        self.calls.append(kind)
        self.rows.append({"kind": kind, "step": step, "epoch": epoch, **values})

    def describe(self):
        raise AssertionError("run.json is not theirs")

    def state(self):
        return {"steps seen": len(self.steps)}


def test_a_callback_sees_what_the_files_say(options, make_config):
    options["training"].update(epochs=4, evaluate_every=2)
    seen = Everything()
    result = train(make_config(options), callbacks=[seen])
    assert seen.rows == read_rows(options["out"]) and len(seen.steps) == result["step"]
    assert seen.calls[:3] == ["first", "step", "train"] and seen.calls.count("first") == 1
    assert seen.calls.count("before") == 4 and seen.calls.count("validation") == 2
    places = [place for place, call in enumerate(seen.calls) if call == "validation"]
    assert all(seen.calls[place - 1] == "before" for place in places)
    checkpoints = Path(options["out"]) / "checkpoints"
    assert load_checkpoint(checkpoints / "last.safetensors")[1]["steps seen"] == result["step"]
    assert "filters" in json.loads((Path(options["out"]) / "run.json").read_text())


@pytest.mark.parametrize("first", [True, False])
def test_one_of_several_callbacks_stops_a_run_and_the_others_see_the_same_steps(options, make_config, first):
    stops, follows = Everything(stop=3), Everything()
    result = train(make_config(options), callbacks=[stops, follows] if first else [follows, stops])
    assert (result["finished"], result["stopped_by"], result["step"]) == (False, 0, 3)
    assert stops.steps == follows.steps and len(stops.steps) == 3
