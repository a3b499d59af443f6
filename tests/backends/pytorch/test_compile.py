"""Programs of one shape are compiled once for training and once for evaluation, blocks once for all layers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support import random_store

from ipu_chem.backends.options import Batching, TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.backends.pytorch.compile import compiled, repeated_blocks
from ipu_chem.batches.loader import PackLoader
from ipu_chem.batches.tokens import TokenLoader
from ipu_chem.losses import mse, token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, Ragged, make_plan

BATCHING = Batching(2, 2)
SHARES_BLOCKS = hasattr(getattr(torch, "compiler", None), "set_stance")


def molecules():
    store = random_store(np.random.default_rng(0), 40)
    budget = Budget(nodes=24, edges=220, graphs=7)
    plan = make_plan(store.sizes(), budget)
    return PackLoader(store, np.arange(40), plan, store.fields["y"], budget, BATCHING)


def sequences():
    random = np.random.default_rng(0)
    sizes = random.integers(3, 12, 40)
    ids = Ragged(random.integers(1, 20, sizes.sum()), np.append(0, np.cumsum(sizes)))
    budget = Budget(tokens=24, segments=6)
    return TokenLoader(ids, make_plan(sizes, budget), budget, BATCHING, 20)


def schnet():
    return CompactInputs(SchNet(8, 8, 3, 8, 4.0))


def chemgpt():
    return ChemGPT(vocab_size=20, max_positions=12, hidden_features=8, num_layers=4, num_heads=2)


def run(make_model, loader, loss, options):
    """Losses of three epochs and the predictions after each."""
    torch.manual_seed(0)
    backend = TorchBackend("cpu", options)
    backend.compile(make_model(), loss, OptimizerConfig(), BATCHING, None)
    results = []
    for epoch in range(3):
        results += [backend.train_step(batch, 1e-3) for batch, _ in loader.epoch(0, epoch)]
        results += [backend.evaluate(batch).reshape(-1) for batch, _ in loader.evaluation()]
    backend.close()
    return torch.cat(results)


@pytest.fixture
def captures():
    """Number of graphs that torch.compile has captured since the start of the test."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    dynamo.utils.counters.clear()
    yield lambda: dynamo.utils.counters["stats"]["unique_graphs"]
    dynamo.reset()


@pytest.mark.parametrize(
    "blocks", [False, pytest.param(True, marks=pytest.mark.skipif(not SHARES_BLOCKS, reason="old"))]
)
@pytest.mark.parametrize(
    "make_model, make_loader, loss", [(schnet, molecules, mse), (chemgpt, sequences, token_cross_entropy)]
)
def test_one_capture_for_training_and_one_for_evaluation(make_model, make_loader, loss, blocks, captures):
    loader = make_loader()
    options = TorchOptions(compile=True, compile_blocks=blocks, compile_backend="aot_eager")
    got = run(make_model, loader, loss, options)
    assert captures() == 2
    torch.testing.assert_close(got, run(make_model, loader, loss, None), rtol=1e-4, atol=1e-5)


def test_one_process_compiles_the_programs_of_many_runs(captures):
    loader, options = molecules(), TorchOptions(compile=True, compile_backend="eager")
    for count in range(1, 11):
        backend = TorchBackend("cpu", options)
        model = CompactInputs(SchNet(8 + count, 8, 1, 8, 4.0))  # one of the same shapes would share its program
        backend.compile(model, mse, OptimizerConfig(), BATCHING, None)
        backend.train_step(next(loader.epoch(0, 0))[0], 1e-3)
        assert captures() == count
        backend.close()


def test_blocks_are_what_is_compiled():
    """Of kinds that are repeated: neither embedding nor head, and nothing of a model that names no blocks."""
    model = chemgpt()
    assert repeated_blocks(model) == list(model.layers)
    model = schnet()
    assert repeated_blocks(model) == list(model.model.interactions)
    backend = TorchBackend("cpu", TorchOptions(compile=True, compile_blocks=True))
    with pytest.raises(ValueError, match="names no blocks that it repeats; leave it out"):
        backend.compile(torch.nn.Linear(2, 2), None, None, BATCHING, None)


@pytest.mark.skipif(SHARES_BLOCKS, reason="this torch shares blocks")
def test_a_torch_that_cannot_share_blocks_says_so():
    backend = TorchBackend("cpu", TorchOptions(compile=True, compile_blocks=True))
    with pytest.raises(ValueError, match="would compile every block anew; use torch 2.6 or newer"):
        backend.compile(chemgpt(), token_cross_entropy, None, BATCHING, None)


def test_programs_are_kept_in_the_cache_folder_unless_the_user_has_one(tmp_path, monkeypatch):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    compiled(torch.nn.Linear(2, 2), TorchOptions(compile=True))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "own")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compiled(torch.nn.Linear(2, 2), TorchOptions(compile=True))
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.parent == tmp_path / "cache" and torch.__version__ in folder.name


def test_inductor_gets_the_options_that_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    asked = []
    monkeypatch.setattr(torch, "compile", lambda module, **arguments: asked.append(arguments))
    compiled(torch.nn.Linear(2, 2), TorchOptions(compile=True, cuda_graphs=True))
    (arguments,) = asked
    assert arguments["dynamic"] is False and arguments["options"]["triton.cudagraphs"] is True
    has_checks = hasattr(torch._inductor.config, "assert_indirect_indexing")
    assert arguments["options"].get("assert_indirect_indexing") is (False if has_checks else None)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"compile_blocks": True}, "torch.compile_blocks=true is a way to compile: set torch.compile=true too"),
        ({"cuda_graphs": True}, "torch.cuda_graphs=true is a way to compile"),
        ({"compile": True, "cuda_graphs": True, "compile_backend": "eager"}, "needs torch.compile_backend=inductor"),
        ({"compile": True, "cuda_graphs": True}, "is for CUDA devices; leave it out on a CPU"),
        ({"timeout": 0.0}, "torch.timeout=0.0: give a number from 1 to 10,000,000"),
        ({"autocast": "float8"}, "torch.autocast='float8': choose one of none, bfloat16, float16"),
    ],
)
def test_options_that_cannot_work_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TorchBackend("cpu", TorchOptions(**options))
