"""Options decide which task a run is, once; a task comes back from its checkpoint without any data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import CHAINS

from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import DataConfig, ModelConfig, RunConfig, from_dict
from ipu_chem.tasks.registry import TASKS, load_task, task_of
from ipu_chem.train import train

CHEMGPT = ModelConfig("chemgpt", hidden_features=16, num_layers=1)
CASES = {
    "graphs": RunConfig(),
    "text": RunConfig(data=DataConfig("nci"), model=CHEMGPT),
    "text property": RunConfig(data=DataConfig("file", path="a.csv", target="y"), model=CHEMGPT),
}


def test_options_decide():
    assert CASES.keys() == TASKS.keys()
    for kind, config in CASES.items():
        assert task_of(config).kind == kind
    assert task_of(replace(CASES["text"], data=DataConfig("ogbg-molesol"))).kind == "text property"
    assert task_of(replace(CASES["graphs"], data=DataConfig("ogbg-molesol"))).kind == "graphs"
    with pytest.raises(ValueError, match=r"model.name='schnit' \(did you mean 'schnet'\?\): choose one of schnet"):
        task_of(replace(CASES["graphs"], model=ModelConfig("schnit")))


@pytest.mark.parametrize("kind", CASES)
def test_a_planned_task_has_a_model_a_loss_and_examples_that_go_together(kind):
    task = task_of(CASES[kind]).planned(CASES[kind])
    assert task.assumed and not task.plans and task.evaluator("train") is None
    batch = task.example(training=True)
    prediction = task.model().train()(*batch.inputs)
    loss = task.loss()(prediction, *batch.targets)
    assert loss.ndim == 0 and torch.isfinite(loss)


@pytest.fixture
def text_options(tmp_path):
    rows = "".join(f"{smiles},{len(smiles)}\n" for smiles in CHAINS)
    (tmp_path / "chains.csv").write_text("smiles,size\n" + rows)
    data = {"name": "file", "path": str(tmp_path / "chains.csv"), "cache": str(tmp_path / "cache"), "workers": 1}
    return {
        "data": {**data, "validation": 8, "test": 8},
        "model": {"name": "chemgpt", "hidden_features": 16, "num_layers": 1},
        "training": {"epochs": 1, "progress": False, "report": False, "samples": 0},
        "accelerator": "cpu",
        "out": str(tmp_path / "run"),
    }


@pytest.mark.parametrize("target", ["", "size"])
def test_a_checkpoint_gives_its_task_back_without_data(text_options, target, tmp_path):
    text_options["data"]["target"] = target
    config = from_dict(text_options)
    train(config)
    tensors, state = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.safetensors")
    loaded, restored = load_task(config, tmp_path / "run" / "plans", state), task_of(config).restored(config, state)
    assert restored.state() == loaded.state() == {name: state[name] for name in loaded.state()}
    assert restored.budget == loaded.budget and restored.targets == loaded.targets and not restored.plans
    models = [task.model().eval() for task in (loaded, restored)]
    batch = loaded.example(training=False)
    for model in models:
        model.load_state_dict(tensors["model"])
    with torch.no_grad():
        first, second = (model(*batch.inputs) for model in models)
    assert torch.equal(first, second) and np.isfinite(first.numpy()).all()
