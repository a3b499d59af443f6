"""One run, several devices: what is trained does not depend on who executes it, nor on how a step is cut."""

from pathlib import Path
from typing import Any

import pytest
import torch
from poptorch_helpers import installed_double

from ipu_chem.training.checkpoint import load_checkpoint
from ipu_chem.training.workflow import train


@pytest.fixture(autouse=True)
def poptorch() -> Any:
    with installed_double() as module:
        yield module


def weights(folder: str) -> Any:
    return load_checkpoint(Path(folder) / "checkpoints" / "last.safetensors")[0]["model"]


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_run_on_ipus_is_the_run_on_the_cpu(options, make_config, tmp_path, schedule):
    options["schedule"] = {"name": schedule, "warmup_steps": 4}
    options["batching"] = {"micro_batch_size": 1, "gradient_accumulation": 2, "replication_factor": 2}
    results = {}
    for accelerator in ("cpu", "ipu"):
        options.update(accelerator=accelerator, out=str(tmp_path / accelerator))
        results[accelerator] = train(make_config(options))["results"]
    cpu, ipu = weights(str(tmp_path / "cpu")), weights(str(tmp_path / "ipu"))
    assert set(cpu) == set(ipu)
    for name in cpu:
        torch.testing.assert_close(ipu[name], cpu[name], rtol=1e-4, atol=1e-6, msg=name)
    for split in ("validation", "test"):
        assert results["ipu"][split] == pytest.approx(results["cpu"][split], rel=1e-4)


def test_a_run_on_ipus_resumes(options, make_config, tmp_path):
    options.update(accelerator="ipu", schedule={"name": "constant"})
    for name, ends in (("whole", [4]), ("parts", [2, 4])):
        options["out"] = str(tmp_path / name)
        for number, epochs in enumerate(ends):
            options["training"]["epochs"] = epochs
            train(make_config(options), resume=number > 0)
    whole, parts = weights(str(tmp_path / "whole")), weights(str(tmp_path / "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
