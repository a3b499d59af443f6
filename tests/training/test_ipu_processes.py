"""A run that poprun starts in two processes is the run in one: plans shared, steps the same, files written once."""

from pathlib import Path

import pytest
import torch
import yaml
from poptorch_helpers import started_by_poprun

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.train import train
from ipu_chem.training.logging import read_rows


def test_two_processes_train_as_one(options, make_config, tmp_path):
    options["batching"] = {"micro_batch_size": 1, "gradient_accumulation": 2, "replication_factor": 4}
    options["optimizer"] = {"name": "sgd", "learning_rate": 0.002}  # adam makes steps out of rounding noise
    options["out"] = str(tmp_path / "one")
    expected = train(make_config(options))

    options.update(accelerator="ipu", out=str(tmp_path / "two"))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(options))
    command = ["-m", "ipu_chem", "train", "--config", str(config)]
    processes = started_by_poprun(command, 2, 2, tmp_path / "meeting")
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "validation: mae" in outputs[0] and "validation: mae" not in outputs[1]

    folders = [Path(options["out"]).with_name(name) for name in ("one", "two")]
    weights = [load_checkpoint(folder / "checkpoints" / "last.safetensors")[0]["model"] for folder in folders]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-6, msg=name)
    rows = [[row for row in read_rows(folder) if row["kind"] == "validation"] for folder in folders]
    assert len(rows[0]) == len(rows[1]) == 3
    name = next(iter(expected["results"]["validation"]))
    for one, two in zip(*rows):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
        # Each process knows the losses of its own replicas only: their mean stands for all.
        assert two["loss"] == pytest.approx(one["loss"], rel=0.5)
