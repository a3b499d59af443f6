"""Every model with every loss is made of operators that IPUs have, in training and in evaluation, in both formats."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import example_model, example_packs, model_values
from torch import Tensor

from backends.poptorch.operators.op_probes import marked
from ipu_chem.backends.base import Program
from ipu_chem.backends.half import HalfOnCpu, weights_to_half
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.poptorch.operators.check import check_program
from ipu_chem.batches.types import TokenPack
from ipu_chem.config import DataConfig, ModelConfig, PackConfig, RunConfig
from ipu_chem.doctor.check import check_config
from ipu_chem.losses import LOSSES, token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.pooling import POOLINGS
from ipu_chem.models.schnet import Edges, Interaction
from ipu_chem.models.tables import FILTERS

SIZES = dict(hidden_features=8, num_filters=8, num_interactions=2, num_gaussians=5, num_radial=4)
CONFIG = RunConfig(
    data=DataConfig("file", target="a,b"),
    pack=PackConfig(nodes=24, edges=120, graphs=5),
    model=ModelConfig(hidden_features=8, num_filters=8, num_interactions=2, num_gaussians=5),
    batching=Batching(2),
)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("edges", ["host", "device"])
@pytest.mark.parametrize("model", ["schnet", "painn"])
def test_models_of_molecules(model: str, edges: str, weights: str, loss: str) -> None:
    pack = CONFIG.pack if edges == "host" else replace(CONFIG.pack, edges=0, device_neighbors=6)
    for readout in ("sum", "mean") if loss == "mse" else ("sum",):
        config = replace(
            CONFIG,
            model=ModelConfig(**model_values(model, **SIZES, readout=readout)),
            pack=pack,
            loss=loss,
            data=DataConfig("file", kind="binary" if loss == "bce" else "number"),
            precision=Precision(weights=weights),
        )
        report = check_config(config)
        assert report.findings == (), report.text()
        assert report.operators["scatter_add"] > 2 and ("topk" in report.operators) == (edges == "device")


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("model", ["schnet", "painn"])
def test_every_kind_of_filter(model: str, filter: str, weights: str) -> None:
    sizes = ModelConfig(**model_values(model, **SIZES, filter=filter))
    report = check_config(replace(CONFIG, model=sizes, precision=Precision(weights=weights)))
    assert report.findings == (), report.text()


@pytest.mark.parametrize("references", [False, True])
def test_atomic_references(references: bool) -> None:
    from ipu_chem.losses import mse

    model = example_model(CONFIG)
    model.atom_references = torch.zeros(100, 2) if references else None
    report = check_program(Program(model, mse), example_packs(CONFIG, 2), example_packs(CONFIG, 2, 1))
    assert report.findings == (), report.text()


def tokens(seed: int) -> TokenPack:
    """Two packs of two molecules each, whose boundary the seed decides."""
    generator = torch.Generator().manual_seed(seed)
    first = 3 + seed
    places = torch.tensor([[*range(first), *range(10 - first), 0, 0]] * 2, dtype=torch.uint8)
    ids, labels = torch.randint(0, 11, (2, 2, 12), generator=generator).to(torch.int16)
    weight = torch.rand(2, 12, generator=generator)
    return TokenPack(ids, places, labels, weight / weight.sum())


CHEMGPTS = {
    "published": {"scale_attention": False},
    "scaled": {},
    "local": {"scale_attention": False, "local_window": 4},
    "rope": {"positions": "rope"},
    "rope-local-mup-untied": {"positions": "rope", "local_window": 4, "mup_base_width": 4, "tie_embeddings": False},
}


@pytest.mark.parametrize("variant", CHEMGPTS)
@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("training", [True, False])
def test_chemgpt(training: bool, weights: str, variant: str) -> None:
    sizes: Any = dict(vocab_size=11, max_positions=12, hidden_features=8, num_layers=2, num_heads=2)
    model = ChemGPT(**sizes, **CHEMGPTS[variant])
    half: Any = nullcontext()
    if weights == "float16":
        weights_to_half(model)
        half = HalfOnCpu()
    with half:
        report = check_program(Program(model.train(training), token_cross_entropy), tokens(0), tokens(1))
    assert report.findings == (), report.text()
    assert report.operators["bmm"] == 4 and report.operators["_softmax"] == 2


@pytest.mark.parametrize("readout", ["auto", *POOLINGS])
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_labels_of_text(weights: str, freeze: bool, readout: str) -> None:
    config = replace(
        CONFIG,
        data=replace(CONFIG.data, extensive=readout == "sum"),
        pack=PackConfig(tokens=48, graphs=6),
        model=ModelConfig(name="chemgpt", hidden_features=8, num_layers=2, readout=readout, freeze=freeze),
        precision=Precision(weights=weights),
    )
    report = check_config(config)
    assert report.findings == (), report.text()
    pack = example_packs(config, 2)
    assert pack.ids.shape == (2, 48) and pack.y.shape == (2, 6, 2) and float(pack.weight.sum()) == pytest.approx(1)
    trained = [name for name, weight in example_model(config).named_parameters() if weight.requires_grad]
    assert all(".lin_" in name for name in trained) == freeze


def test_a_model_that_goes_wrong_is_pointed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, x: Tensor, edges: Edges, table: Any) -> Tensor:
        source, target, _ = edges.list
        filters = table.read(table.tabulate(self.filters(edges.basis, edges.envelope)), edges.places)
        messages = self.lin_in(x).index_select(0, source) * filters
        received = torch.zeros_like(x).index_add(0, target, messages)  # here
        return self.lin_last(self.activation(self.lin_out(received)))

    monkeypatch.setattr(Interaction, "forward", forward)
    (finding,) = check_config(CONFIG).findings
    assert (finding.kind, finding.operator, finding.where) == ("no handler", "aten::index_add", marked(forward))
    assert finding.count == 2  # interactions


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="loss='mes': choose one of auto, mse, mae, huber, bce"):
        check_config(replace(CONFIG, loss="mes"))
