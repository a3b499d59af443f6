"""The whole way of training on pipelined IPU replicas: loader, schedule, checkpoint, resume, step by step.

What comes out is the torch backend's loss of every step, which is that of plain accumulation on one device.
"""

from pathlib import Path
from typing import Any, List

import pytest
import torch
from poptorch_cases import CASES, Case
from poptorch_helpers import installed_double, that_runs
from torch import Tensor

from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.config import TrainingConfig
from ipu_chem.optim import OptimizerConfig, Schedule, ScheduleConfig
from ipu_chem.training.trainer import Trainer

STEPS = 50
BATCHING = that_runs(Batching(micro_batch_size=1, gradient_accumulation=4, replication_factor=2, device_iterations=2))
OPTIMIZER = OptimizerConfig("adamw", 1e-3, weight_decay=0.01)
NAMES = ["schnet", "painn", "transformer", "tied-transformer"]


@pytest.fixture(autouse=True)
def poptorch() -> Any:
    with installed_double() as module:
        yield module


class Recorder:
    """The losses that a backend returns, step by step; stops the trainer after some calls."""

    def __init__(self, backend: Backend, calls: int) -> None:
        self.losses: List[Tensor] = []
        self.rates: List[float] = []
        original = backend.train_step

        def train_step(batch: Any, learning_rate: float) -> Tensor:
            if len(self.losses) == calls:
                raise Stop
            self.losses.append(original(batch, learning_rate))
            self.rates.append(learning_rate)
            return self.losses[-1]

        backend.train_step = train_step  # type: ignore[method-assign]


class Stop(Exception):
    """Enough."""


def fit(backend: Backend, case: Case, batching: Batching, folder: Path, calls: int, resume: bool = False) -> Recorder:
    """Train for a number of calls, with a checkpoint after each."""
    loader = case.loader(batching)
    backend.compile(case.model(), case.loss, OPTIMIZER, batching, loader.example(training=True))
    schedule = Schedule(ScheduleConfig("cosine", warmup_steps=5), OPTIMIZER.learning_rate, STEPS)
    config = TrainingConfig(epochs=1000, checkpoint_every=1, progress=False, log_every=1)
    trainer = Trainer(config, backend, loader, None, schedule, folder, {"config": {}})
    if resume:
        trainer.resume()
    recorder = Recorder(backend, calls)
    with pytest.raises(Stop):
        trainer.fit()
    return recorder


@pytest.mark.parametrize("name", NAMES)
def test_fifty_steps_on_pipelined_replicas(name: str, tmp_path: Path) -> None:
    case, batching = CASES[name], BATCHING
    if case.stages == 3:
        batching = that_runs(Batching(1, 5, 2, 2))
    calls = STEPS // batching.device_iterations
    expected = fit(TorchBackend("cpu"), case, batching, tmp_path / "cpu", calls)
    assert len(set(expected.rates)) > 20, "the learning rate moves"

    options = IpuOptions(ipus_per_replica=2, executable_cache=str(tmp_path / "cache"))
    found: List[Tensor] = []
    for part, resume in ((13, False), (calls - 13, True)):  # a checkpoint and a new process in the middle
        backend = PopTorchBackend(options)
        recorder = fit(backend, case, batching, tmp_path / "ipu", part, resume)
        found += recorder.losses
        assert len({stage.ipu for stage in backend._stages}) == 2 and len(backend._stages) == case.stages
        weights = backend.state_dict()["model"]
        backend.close()
    losses, wanted = torch.cat(found), torch.cat(expected.losses)
    assert losses.shape == (STEPS,) and losses[-10:].mean() < losses[:10].mean()
    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=1e-6)
    assert all(torch.isfinite(value).all() for value in weights.values())
