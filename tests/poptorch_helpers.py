"""PopTorch's double in PopTorch's place; random packs, a small model and compiled backends to compare."""

import importlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.types import CompactPack
from ipu_chem.data.fixed_point import to_fixed_point
from ipu_chem.losses import mse
from ipu_chem.models.compact import CompactInputs
from ipu_chem.models.schnet import SchNet
from ipu_chem.optim import OptimizerConfig
from packing import Budget, Ragged
from packing.collate import collate_graphs

DOUBLE = Path(__file__).resolve().parent / "poptorch_double"
# `make test-sdk` says so: PopTorch itself in place of its double.
ON_SDK = os.environ.get("IPU_CHEM_TEST_SDK", "0") == "1"
if ON_SDK:
    import poptorch  # noqa: TID251 (before any backward pass, after which it cannot differentiate in forward)


def that_runs(batching: Batching) -> Batching:
    """The batching itself, or one replica with the same packs on the SDK's IPU Model, which runs no more."""
    if not (ON_SDK and IpuOptions().on_ipu_model):
        return batching
    micro_batches = batching.gradient_accumulation * batching.replication_factor
    return Batching(batching.micro_batch_size, micro_batches, 1, batching.device_iterations)


BATCHING = that_runs(Batching(micro_batch_size=2, gradient_accumulation=2, replication_factor=2, device_iterations=2))
POSITION_STEP = 2.0**-12
ADAMW = OptimizerConfig("adamw", 1e-3, weight_decay=0.01)


@contextmanager
def installed_double() -> Iterator[ModuleType]:
    """The double as ``import poptorch`` and ``import popdist`` see it; afterwards everything is as before.

    On the SDK it is PopTorch itself, which a process imports once.
    """
    if ON_SDK:
        yield poptorch
        return
    before: Dict[str, Any] = {name: module for name, module in sys.modules.items() if _is_poptorch(name)}
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(DOUBLE))
    try:
        yield importlib.import_module("poptorch")
    finally:
        sys.path.remove(str(DOUBLE))
        for name in [name for name in sys.modules if _is_poptorch(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_poptorch(name: str) -> bool:
    return name.split(".")[0] in ("poptorch", "popdist")


def poprun_variables(instance: int, instances: int, local: int, ipus: int = 1) -> Dict[str, str]:
    """What poprun sets for one of its processes.

    Args:
        instance: this process, from 0.
        instances: how many there are.
        local: replicas of each.
        ipus: of a replica.
    """
    values = {
        "NUM_TOTAL_REPLICAS": instances * local,
        "NUM_IPUS_PER_REPLICA": ipus,
        "NUM_LOCAL_REPLICAS": local,
        "UNIFORM_REPLICAS_PER_INSTANCE": 1,
        "REPLICA_INDEX_OFFSET": instance * local,
        "LOCAL_INSTANCE_INDEX": instance,
    }
    return {f"POPDIST_{name}": str(value) for name, value in values.items()}


def started_by_poprun(program: List[str], instances: int, local: int, folder: Path, ipus: int = 1) -> List[Any]:
    """The processes that poprun would start, on the double; ``folder`` is where they meet."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("POPDIST_", "OMPI_"))}
    base.update(PYTHONPATH=f"{DOUBLE}{os.pathsep}{DOUBLE.parent.parent}", POPTORCH_DOUBLE_MEETING=str(folder))
    return [
        subprocess.Popen(
            [sys.executable, *program],
            cwd=str(DOUBLE.parent.parent),
            env={**base, **poprun_variables(instance, instances, local, ipus)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for instance in range(instances)
    ]


def random_packs(num_packs: int, steps: int = 1, seed: int = 0) -> CompactPack:
    """Packs of one to three random molecules.

    Args:
        num_packs: packs, in steps of equal size.
        steps: parts over each of which the weights, unequal ones, sum to 1.
        seed: of everything.
    """
    random = np.random.default_rng(seed)
    per_pack = random.integers(1, 4, num_packs)
    offsets = np.concatenate([[0], np.cumsum(per_pack)])
    sizes = random.integers(2, 5, offsets[-1])
    pairs = [np.argwhere(~np.eye(size, dtype=bool)) for size in sizes]
    node_offsets = np.concatenate([[0], np.cumsum(sizes)])
    edge_offsets = np.concatenate([[0], np.cumsum([len(pair) for pair in pairs])])
    pos = random.normal(size=(node_offsets[-1], 3))
    arrays = collate_graphs(
        (np.arange(offsets[-1], dtype=np.int32), offsets),
        Budget(nodes=14, edges=40, graphs=4),
        {
            "z": Ragged(random.integers(1, 10, node_offsets[-1]).astype(np.uint8), node_offsets),
            "pos": Ragged(to_fixed_point(pos, node_offsets, POSITION_STEP), node_offsets),
        },
        Ragged(np.concatenate(pairs).astype(np.uint8), edge_offsets),
        {
            "y": random.normal(size=(offsets[-1], 1)).astype(np.float32),
            "weight": random.integers(0, 4, (offsets[-1], 1)).astype(np.float32),
        },
        index_dtype="device",
    )
    weight = arrays["weight"].reshape(steps, -1).astype(np.float64)
    arrays["weight"] = (weight / weight.sum(1, keepdims=True)).reshape(arrays["weight"].shape).astype(np.float32)
    return CompactPack(**{name: torch.from_numpy(arrays[name]) for name in CompactPack._fields})


def small_schnet(seed: int = 0, **options: Any) -> CompactInputs:
    """For `random_packs`; with no weight at zero, so that every parameter has a gradient from the first step on."""
    torch.manual_seed(seed)
    model = SchNet(hidden_features=8, num_filters=8, num_interactions=2, num_gaussians=6, cutoff=5.0, **options)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return CompactInputs(model, POSITION_STEP)


def rates(calls: int) -> List[float]:
    """A learning rate that moves, and stands still at times."""
    return [1e-3 * (1 + (call // 2) % 3) for call in range(calls)]


def batches(calls: int, batching: Batching = BATCHING) -> List[CompactPack]:
    packs, steps = batching.packs_per_call, batching.device_iterations
    return [random_packs(packs, steps, seed=call) for call in range(calls)]


def make(kind: str, optimizer: Any = ADAMW, batching: Batching = BATCHING, loss: Any = mse, **options: Any) -> Any:
    """A compiled backend with a fresh model, the same each time."""
    backend = TorchBackend("cpu") if kind == "torch" else PopTorchBackend(IpuOptions(**options))
    packs = batching.packs_per_call if optimizer else batching.packs_per_evaluation
    example = random_packs(packs, batching.device_iterations if optimizer else 1, seed=99)
    backend.compile(small_schnet(), loss if optimizer else None, optimizer, batching, example)
    return backend


def train(backend: Any, calls: int, first: int = 0) -> Tensor:
    data, rate = batches(calls, backend.batching), rates(calls)
    return torch.stack([backend.train_step(data[call], rate[call]) for call in range(first, calls)])


def assert_equal_models(left: Dict[str, Any], right: Dict[str, Any], tolerance: float = 1e-6) -> None:
    assert left["model"].keys() == right["model"].keys()
    for name, value in left["model"].items():
        torch.testing.assert_close(value, right["model"][name], rtol=tolerance, atol=tolerance, msg=name)


class Weighted(nn.Module):
    """One weight per input column; the loss is its product with the inputs, whose gradient is their sum."""

    def __init__(self, poptorch: Any, size: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.register_buffer("scale", torch.ones(1))
        self.mark = poptorch.identity_loss

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        y = x * self.weight * self.scale
        return y, self.mark(y.sum(), "sum")


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def trainer(
    poptorch: Any, model: nn.Module, mode: Any = None, sizes: Tuple[int, int, int] = (1, 1, 1), **kw: Any
) -> Any:
    """(device iterations, accumulation, replicas); SGD with rate 1, gradients summed."""
    options = poptorch.Options()
    options.deviceIterations(sizes[0]).replicationFactor(sizes[2])
    options.Training.gradientAccumulation(sizes[1])
    options.Training.accumulationAndReplicationReductionType(kw.pop("reduction", poptorch.ReductionType.Sum))
    if mode is not None:
        options.outputMode(mode)
    optimizer = kw.pop("optimizer", None) or poptorch.optim.SGD(model.parameters(), lr=1.0)
    return poptorch.trainingModel(model, options, optimizer)
