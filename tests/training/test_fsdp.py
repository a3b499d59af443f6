"""A language model sharded among two processes trains as in one process, and each holds its share alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchrun_helpers import SECOND_OF_TWO, finished, start, torchrun

from ipu_chem.backends.options import Precision, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.fsdp import check_torch
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import from_dict
from ipu_chem.train import evaluate, train
from ipu_chem.training.logging import read_rows


def can_share() -> bool:
    """Whether this torch has what it takes."""
    try:
        check_torch()
    except ValueError:
        return False
    return True


newer_torch = pytest.mark.skipif(not can_share(), reason="this torch cannot shard a model")
older_torch = pytest.mark.skipif(can_share(), reason="this torch can shard a model")


@pytest.fixture
def text_options(text_options):
    """Layers to shard, everything that needs whole weights, and evaluations that do not shard equally."""
    text_options["data"].update(validation=5, test=5)
    text_options["model"]["num_layers"] = 3
    text_options["pack"] = {"tokens": 12}
    text_options["batching"] = {"micro_batch_size": 2, "gradient_accumulation": 2, "replication_factor": 2}
    text_options["optimizer"] = {"learning_rate": 0.01, "max_grad_norm": 1.0, "weight_decay": 0.1, "eps": 0.01}
    text_options["schedule"] = {"name": "constant"}  # no matter how many epochs are still to come
    text_options["training"].update(epochs=2, ema_decay=0.9, samples=2)
    return text_options


def curve(folder):
    """Losses of all rows and nats of evaluations, in order."""
    names = ("step", "loss", "nats_per_token")
    return np.array([[row.get(name, 0.0) for name in names] for row in read_rows(folder)])


@newer_torch
def test_two_processes_that_share_a_model_train_as_one_resumed_by_one_and_by_two(text_options, tmp_path):
    two, one = Path(text_options["out"]), tmp_path / "one"
    shared = {**text_options, "torch": {"threads": 1, "fsdp": True}}
    output = finished(start(shared, tmp_path))
    assert output.count("validation: nats_per_token") == 1 and "2 molecules generated" in output
    text_options["training"]["epochs"] = 3
    train(from_dict(text_options), resume=True)  # alone, with all of the model
    shared["training"]["epochs"] = 4
    shared["torch"].update(compile=True, compile_blocks=True, compile_backend="aot_eager")
    finished(start(shared, tmp_path, "--resume", str(two)))

    whole = {**text_options, "out": str(one)}
    result = train(from_dict(whole))
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-6, atol=1e-6)
    ours, theirs = (load_checkpoint(run / "checkpoints" / "last.safetensors")[0] for run in (two, one))
    for group in ("model", "optimizer", "ema"):
        assert list(ours[group]) == list(theirs[group])
        for name, value in theirs[group].items():
            torch.testing.assert_close(ours[group][name], value, rtol=1e-4, atol=1e-6)
    assert evaluate(two, "test") == pytest.approx(result["results"]["test"], rel=1e-5)  # alone: the option does nothing


@newer_torch
def test_each_process_holds_its_share(tmp_path):
    output = finished(torchrun(str(Path(__file__).with_name("fsdp_shards.py")), str(tmp_path)))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    whole = found[0]["whole"]
    assert found[0]["same start"], output
    for process in found:
        assert process["layers whole at once"] == 1
        assert process["weights"] == pytest.approx(whole / 2, rel=0.02)
        assert process["gradients"] == process["weights"] and process["moments"] == 2 * process["weights"]
    assert sum(process["weights"] for process in found) == whole
    assert "no block that it repeats" in found[0]["one layer"]
    assert "process 0 of 2 gets no answer from the others: one of them has ended" in found[0]["after an end"]


@older_torch
def test_an_older_torch_is_refused_by_name(monkeypatch):
    for name, value in SECOND_OF_TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"torch\.fsdp=true: torch .* install torch 2\.8 or newer"):
        TorchBackend("cpu", TorchOptions(fsdp=True))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"compile": True}, "set torch.compile_blocks=true too"),
        ({"compile": True, "compile_blocks": True, "cuda_graphs": True}, "leave one out"),
        ({"autocast": "float16"}, "use bfloat16 or none"),
    ],
)
def test_what_does_not_go_together_is_refused(other, says):
    with pytest.raises(ValueError, match=f"torch.fsdp=true .*{says}"):
        TorchOptions(fsdp=True, **other)


def test_half_weights_are_refused():
    with pytest.raises(ValueError, match="torch.fsdp=true does not go with precision.weights=float16"):
        TorchBackend("cpu", TorchOptions(fsdp=True), Precision(weights="float16"))


def test_graph_models_are_refused(options, make_config):
    options["torch"]["fsdp"] = True
    with pytest.raises(ValueError, match="torch.fsdp=true is for language models .* schnet does, leave it out"):
        train(make_config(options))
