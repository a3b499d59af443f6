"""One run, several devices: what is trained does not depend on who executes it, nor on how a step is cut."""

import csv
import json
import re
from pathlib import Path
from typing import Any, List

import pytest
import torch
from poptorch_helpers import installed_double

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.prediction.predict import predict_file
from ipu_chem.train import evaluate, train


@pytest.fixture(autouse=True)
def poptorch() -> Any:
    with installed_double() as module:
        yield module


def weights(folder: str) -> Any:
    return load_checkpoint(Path(folder) / "checkpoints" / "last.safetensors")[0]["model"]


def predictions(path: Path) -> List[float]:
    with open(path, newline="") as file:
        return [float(row[3]) for row in list(csv.reader(file))[1:]]


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


def test_a_run_whose_device_finds_the_edges(options, make_config, tmp_path):
    """The run that sends edges and the one that does not are the same run."""
    options["pack"] = {"nodes": 80, "graphs": 40, "algorithm": "column_generation"}
    options["batching"] = {"micro_batch_size": 1, "gradient_accumulation": 12}  # all molecules in every step
    options["optimizer"] = {"name": "sgd", "learning_rate": 0.05}  # adam makes steps out of rounding noise
    results = {}
    for name, accelerator, neighbors in (("sent", "cpu", 0), ("found", "cpu", -1), ("found-ipu", "ipu", -1)):
        options.update(accelerator=accelerator, out=str(tmp_path / name))
        options["pack"] = {**options["pack"], "edges": 0 if neighbors else 4000, "device_neighbors": neighbors}
        results[name] = train(make_config(options))["results"]
    for name in ("found", "found-ipu"):
        for split in ("validation", "test"):
            assert results[name][split] == pytest.approx(results["sent"][split], rel=1e-4)
    evaluated = evaluate(tmp_path / "found", "test")
    assert evaluated == pytest.approx(results["found"]["test"], rel=1e-6)
    molecules = tmp_path / "molecules.smi"
    molecules.write_text("CCO ethanol\nc1ccccc1 benzene\n")
    for name in ("sent", "found"):
        predict_file(tmp_path / name, molecules, tmp_path / f"{name}.csv", workers=1)
    sent, found = (predictions(tmp_path / f"{name}.csv") for name in ("sent", "found"))
    assert len(sent) == 2 and found == pytest.approx(sent, rel=1e-3)


def test_programs_compiled_without_a_device_start_the_run_later(options, make_config, tmp_path, capsys):
    cache = tmp_path / "cache"
    options.update(accelerator="ipu", ipu={"offline": 2, "executable_cache": str(cache)})
    result = train(make_config(options))
    assert not result["finished"] and "compiled; start the run without the option" in capsys.readouterr().out
    assert not Path(options["out"]).exists()
    options["ipu"] = {"executable_cache": str(cache)}
    assert train(make_config(options))["finished"]


def test_too_few_neighbors_are_refused(options, make_config):
    options["pack"] = {"nodes": 80, "device_neighbors": 3}
    with pytest.raises(ValueError, match="pack.device_neighbors=3: some atoms have .* neighbors within the cutoff"):
        train(make_config(options))


def test_positions_in_sixteen_bits_are_said_and_change_next_to_nothing(options, make_config, tmp_path, capsys):
    options["batching"] = {"micro_batch_size": 1, "gradient_accumulation": 12}  # all molecules in every step
    options["optimizer"] = {"name": "sgd", "learning_rate": 0.05}  # adam makes steps out of rounding noise
    results, said = {}, {}
    for positions in ("float32", "int16"):
        options.update(out=str(tmp_path / positions))
        options["pack"].update(positions=positions, algorithm="column_generation")
        results[positions] = train(make_config(options))["results"]["validation"]
        said[positions] = json.loads((tmp_path / positions / "run.json").read_text())["packs"]["positions"]
        assert f"\npositions: {said[positions]}" in capsys.readouterr().out
    assert said["float32"] == "float32" and re.match(r"int16, steps of \S+ Å, off by at most \S+ Å$", said["int16"])
    assert results["int16"] == pytest.approx(results["float32"], rel=1e-3) and results["int16"] != results["float32"]
