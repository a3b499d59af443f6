"""What models and losses make inside a program for IPUs: nothing 64 bits wide, no wrong derivative."""

from collections import Counter
from typing import Any, Dict, List

import pytest
import torch
from support import example_loss, example_model, example_packs
from torch.utils._python_dispatch import TorchDispatchMode

from ipu_chem.backends.base import Program
from ipu_chem.backends.poptorch.backend import to_ipu_types
from ipu_chem.backends.poptorch.programs import EvaluationProgram, TrainingProgram
from ipu_chem.batches.types import first_target, inputs_of
from ipu_chem.config import RunConfig, from_dict

INDEXED = ("gather", "scatter_add", "scatter_add_")  # take 64-bit indices alone on CPUs, not in PopTorch
WRONG = frozenset(
    "slice_backward select_backward index_add index_put diagonal_backward unfold_backward as_strided".split()
)


class Recorder(TorchDispatchMode):
    """Counts, of every operator, results that are 64 bits wide."""

    def __init__(self) -> None:
        super().__init__()
        self.wide: Counter = Counter()
        self.operators: Counter = Counter()
        self.shapeless = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        self.operators[name] += 1
        if name in INDEXED:
            assert args[2].dtype == torch.int32
            args = (*args[:2], args[2].long(), *args[3:])
        self.shapeless += name == "gather" and min(args[0].shape) < 2
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.int64, torch.float64):
                self.wide[f"{name} {tensor.dtype}"] += 1
        return result


def graphs(name: str, forces: bool = False, neighbors: int = 0, loss: str = "auto", **model: Any) -> RunConfig:
    return from_dict(
        {
            "data": {"name": "rmd17", "molecule": "ethanol"},
            "model": {"name": name, "hidden_features": 8, "num_interactions": 2, **model},
            "pack": {"nodes": 24, "graphs": 4, "device_neighbors": neighbors},
            "batching": {"micro_batch_size": 2},
            "force_share": 0.9 if forces else 0.0,
            "loss": loss,
        }
    )


def text(target: str = "", kind: str = "number", **model: Any) -> RunConfig:
    data: Dict[str, Any] = {"name": "nci"}
    if target:
        data = {
            "name": "file",
            "path": "molecules.csv",
            "target": target,
            "kind": kind,
            "extensive": model.get("readout") == "sum",
        }
    return from_dict(
        {
            "data": data,
            "model": {"name": "chemgpt", "hidden_features": 16, "num_layers": 2, **model},
            "pack": {"tokens": 128},
            "batching": {"micro_batch_size": 2},
        }
    )


CASES = {
    **{f"schnet-{filter}": graphs("schnet", filter=filter) for filter in ("exact", "table", "chebyshev")},
    "schnet-mae": graphs("schnet", loss="mae"),
    "schnet-huber-mean": graphs("schnet", loss="huber", readout="mean"),
    "schnet-forces": graphs("schnet", True),
    "schnet-forces-table": graphs("schnet", True, filter="table"),
    "schnet-device-edges": graphs("schnet", neighbors=4),
    "schnet-forces-device-edges": graphs("schnet", True, neighbors=4),
    "painn": graphs("painn"),
    "painn-table": graphs("painn", filter="table"),
    "painn-forces": graphs("painn", True),
    "painn-forces-table": graphs("painn", True, filter="table"),
    "spookynet": graphs("spookynet"),
    "spookynet-forces": graphs("spookynet", True),
    "spookynet-forces-device-edges": graphs("spookynet", True, neighbors=4),
    "chemgpt": text(),
    "chemgpt-untied-rope-local": text(tie_embeddings=False, positions="rope", local_window=32),
    **{f"property-{readout}": text("y", readout=readout) for readout in ("sum", "mean", "max", "last", "eos")},
    "property-classes": text("y", "binary"),
}


def recorded(config: RunConfig, training: bool) -> Recorder:
    """A program of a run as PopTorch would trace it."""
    torch.manual_seed(0)
    model = example_model(config)
    assert not [name for name, tensor in model.state_dict().items() if tensor.dtype in (torch.int64, torch.float64)]
    batch = to_ipu_types(example_packs(config, 2))
    program: Any = EvaluationProgram(model)
    if training:
        whole = Program(model, example_loss(config), first_target(batch))
        program = TrainingProgram(whole, lambda loss, reduction: loss.sum(), None)
    arguments: List[Any] = [batch] if training else list(inputs_of(batch))
    program.train(training)
    with Recorder() as seen:
        program(*arguments)
    return seen


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", CASES)
def test_nothing_wide_nothing_wrong(name: str, training: bool) -> None:
    seen = recorded(CASES[name], training)
    assert len(seen.operators) > 15
    # PopTorch makes the indices of topk narrow itself, with a line in its log; there is no other search of that kind.
    expected = {"topk torch.int64": 1} if name.endswith("device-edges") else {}
    assert dict(seen.wide) == expected
    assert not WRONG & set(seen.operators) and seen.shapeless == 0
    assert ("gather" in seen.operators) == (not name.startswith(("chemgpt", "property")))


def test_the_recorder_sees_what_it_should() -> None:
    with Recorder() as seen:
        x = torch.zeros(3, 1, requires_grad=True)
        torch.autograd.grad((x[:1] ** 2).sum(), x)
        torch.arange(3), torch.zeros(3).double(), torch.zeros(3, 1).gather(0, torch.zeros(2, 1, dtype=torch.int32))
    assert {name.split()[0] for name in seen.wide} == {"arange", "_to_copy"} and seen.shapeless == 1
    assert "slice_backward" in seen.operators
