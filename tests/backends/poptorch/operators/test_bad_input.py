"""A user's own model that IPUs cannot run: one sentence with its line, from the check and from `ipu-chem doctor`."""

import inspect
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
import yaml
from torch import Tensor

from backends.poptorch.operators.op_probes import marked
from ipu_chem.cli import main
from ipu_chem.config import from_dict
from ipu_chem.doctor.check import check_config
from ipu_chem.models.base import Graph
from ipu_chem.models.registry import MODELS
from ipu_chem.models.schnet import SchNet


class Item(SchNet):
    def forward(self, graph: Graph) -> Tensor:
        scale = graph.pos.abs().amax().item()  # here
        return super().forward(graph._replace(pos=graph.pos / scale))


class Branch(SchNet):
    def forward(self, graph: Graph) -> Tensor:
        if graph.pos.sum() > 1e9:  # here
            graph = graph._replace(pos=graph.pos * 0.5)
        return super().forward(graph)


class Mask(SchNet):
    def forward(self, graph: Graph) -> Tensor:
        center = graph.pos[graph.pos.sum(-1) != 0.0].mean()  # here
        return super().forward(graph._replace(pos=graph.pos - center))


class Numpy(SchNet):
    def forward(self, graph: Graph) -> Tensor:
        heaviest = int(graph.z.numpy().max())  # here
        return super().forward(graph._replace(pos=graph.pos + heaviest * 0.0))


class Slice(SchNet):
    def forward(self, graph: Graph) -> Tensor:
        height = graph.pos[..., 2:]  # here
        return super().forward(graph._replace(pos=graph.pos + height * 1e-3))


class Constructor(SchNet):
    def forward(self, graph: Graph) -> Tensor:
        turned = graph.pos @ torch.eye(3)  # here
        return super().forward(graph._replace(pos=turned))


class Double(SchNet):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.double()


class Bfloat(SchNet):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.to(torch.bfloat16)


def options(model: str, forces: bool) -> Dict[str, Any]:
    return {
        "accelerator": "ipu",
        "data": {"name": "rmd17", "molecule": "ethanol"} if forces else {"target": "a"},
        "force_share": 0.9 if forces else 0.0,
        "pack": {"nodes": 24, "edges": 120, "graphs": 5},
        "model": {"name": model, "filter": "exact"},
        "batching": {"micro_batch_size": 2},
    }


def registered(monkeypatch: pytest.MonkeyPatch, kind: type) -> str:
    """The name of a model with the options of SchNet."""

    def build(
        num_targets: int,
        readout: str = "sum",
        undirected: bool = False,
        hidden_features: int = 8,
        num_filters: int = 8,
        num_interactions: int = 1,
        num_gaussians: int = 5,
        cutoff: float = 5.0,
    ) -> Any:
        return kind(
            num_targets=num_targets,
            readout=readout,
            undirected=undirected,
            hidden_features=8,
            num_filters=8,
            num_interactions=1,
            num_gaussians=5,
            cutoff=cutoff,
        )

    monkeypatch.setitem(MODELS, "mine", build)
    return "mine"


CASES = [
    (Item, False, "host read", "aten::_local_scalar_dense", "compiled before there are values"),
    (Branch, False, "host read", "aten::_local_scalar_dense", "use torch.where"),
    (Mask, False, "data-dependent shape", "aten::index", "torch.where(mask, values, 0)"),
    (Numpy, False, "host read", "Tensor.numpy", "hands a tensor's values to the host"),
    (Slice, True, "lost derivative", "aten::slice_backward", "use split, chunk or unbind"),
    (Constructor, False, "host tensor", "aten::mm", ".to(x.device)"),
    (Double, False, "float64", "parameter embedding.weight", "call .float() on the model"),
    (Bfloat, False, "bfloat16", "parameter embedding.weight", "call .float() on the model"),
]


@pytest.mark.parametrize("kind, forces, finding, operator, words", CASES, ids=[case[0].__name__ for case in CASES])
def test_a_users_model_is_refused_in_one_sentence(
    kind: type,
    forces: bool,
    finding: str,
    operator: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    values = options(registered(monkeypatch, kind), forces)
    report = check_config(from_dict(values))
    first = report.findings[0]
    assert (first.kind, first.operator) == (finding, operator)
    where = first.where
    if finding in ("float64", "bfloat16"):
        assert where == f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}"
    else:
        assert where == marked(kind.forward)
    with pytest.raises(ValueError) as caught:
        report.raise_if_refused()
    sentence = str(caught.value)
    assert sentence.startswith(f"{where}: IPUs cannot run {operator}: ") and words in sentence
    assert "\n" not in sentence and sentence.endswith(".")

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["doctor", "--config", str(file)]) == 1
    output = capsys.readouterr()
    lines = [line for line in output.out.split("\n") if line.startswith(f"{where}: {finding}: {operator}")]
    assert len(lines) == 1 and words in lines[0]
    assert "Traceback" not in output.out + output.err


def test_the_same_model_without_the_line_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for forces in (False, True):
        report = check_config(from_dict(options(registered(monkeypatch, SchNet), forces)))
        assert report.findings == (), report.text()
    # A slice is no harm where nothing is differentiated inside.
    assert check_config(from_dict(options(registered(monkeypatch, Slice), False))).findings == ()
