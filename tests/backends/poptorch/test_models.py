"""Every model, with every term, trains and evaluates on IPUs as on the CPU: energies, forces, text, properties."""

from dataclasses import replace
from typing import Any, Dict, Iterator, List

import pytest
import torch
from poptorch_helpers import installed_double
from support import example_loss, example_model, example_packs
from torch import Tensor, nn

from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import Precision
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.config import RunConfig, from_dict
from ipu_chem.optim import OptimizerConfig

STEPS = 3
FLAT = {"micro_batch_size": 2, "gradient_accumulation": 2, "replication_factor": 2}
PIPELINE = {"micro_batch_size": 1, "gradient_accumulation": 4, "replication_factor": 2}


@pytest.fixture(autouse=True)
def poptorch() -> Iterator[Any]:
    with installed_double() as module:
        yield module


def run(model: Dict[str, Any], batching: Dict[str, int], forces: float = 0.0, **other: Any) -> RunConfig:
    data: Dict[str, Any] = {"name": "rmd17", "molecule": "ethanol"}
    if model["name"] == "chemgpt":
        sizes: Dict[str, Any] = {"hidden_features": 16, "num_layers": 2}
        pack: Dict[str, Any] = {"tokens": 96}
        data = other.pop("data", {"name": "nci"})
    else:
        sizes = {"hidden_features": 8, "num_interactions": 2}
        pack = {"nodes": 24, "graphs": 4, "device_neighbors": other.pop("device_neighbors", 0)}
    values = {"data": data, "model": {**sizes, **model}, "pack": pack, "batching": batching, "force_share": forces}
    return from_dict({**values, **other})


def trained(config: RunConfig, backend: Backend) -> List[Tensor]:
    """Losses of some steps, then predictions."""
    torch.manual_seed(0)
    model = example_model(config)
    for weight in model.parameters():
        if not weight.any():  # else nothing before it learns at first
            nn.init.normal_(weight, std=0.1)
    batching = config.batching
    packs = [example_packs(config, batching.packs_per_call, seed) for seed in range(STEPS)]
    optimizer = OptimizerConfig("adam", 1e-4)
    backend.compile(model, example_loss(config), optimizer, batching, packs[0])
    losses = torch.cat([backend.train_step(batch, 1e-4) for batch in packs])
    predicted = backend.evaluate(example_packs(config, batching.packs_per_evaluation, 99))
    backend.close()
    return [losses, *(predicted if isinstance(predicted, tuple) else (predicted,))]


def agree(config: RunConfig, tolerance: float = 1e-5, **options: Any) -> None:
    expected = trained(config, TorchBackend("cpu", precision=config.precision))
    found = trained(config, PopTorchBackend(IpuOptions(**options), config.precision))
    assert len(expected) == len(found) and len(set(found[0].tolist())) == STEPS
    for wanted, result in zip(expected, found):
        assert torch.isfinite(wanted).all()
        scale = float(wanted.abs().max())
        torch.testing.assert_close(result / scale, wanted.float() / scale, rtol=tolerance, atol=tolerance)


SPOOKY = {"name": "spookynet"}
MODELS = {
    "schnet": {"name": "schnet", "filter": "exact"},
    "schnet-table": {"name": "schnet", "filter": "table"},
    "painn": {"name": "painn"},
    "spookynet": SPOOKY,
    "spookynet-plain": {**SPOOKY, "use_zbl": False, "use_electrostatics": False, "use_dispersion": False},
}


@pytest.mark.parametrize("forces", [0.0, 0.9], ids=["energies", "forces"])
@pytest.mark.parametrize("name", MODELS)
def test_graph_models_on_replicas(name: str, forces: float) -> None:
    # Forces are differences of a table's values, divided by how far they are apart.
    agree(run(MODELS[name], FLAT, forces), 1e-4 if name == "schnet-table" and forces else 1e-5)


@pytest.mark.parametrize("name", ["schnet", "painn", "spookynet"])
def test_graph_models_in_a_pipeline(name: str) -> None:
    agree(run(MODELS[name], PIPELINE), ipus_per_replica=2)


@pytest.mark.parametrize("name", ["schnet", "spookynet"])
def test_forces_along_neighbors_that_the_device_finds(name: str) -> None:
    agree(run(MODELS[name], FLAT, 0.9, device_neighbors=4))


def test_a_single_molecule_a_pack() -> None:
    """The one row that its values are then is no gather of one row."""
    config = run(SPOOKY, {**FLAT, "micro_batch_size": 1}, 0.9)
    agree(replace(config, pack=replace(config.pack, graphs=1)))


@pytest.mark.parametrize(
    ("name", "forces"),
    [("schnet", 0.0), ("schnet", 0.9), ("painn", 0.0), ("spookynet", 0.0), ("spookynet", 0.9)],
)
def test_graph_models_with_weights_of_16_bits(name: str, forces: float) -> None:
    # Energies of made-up molecules are large: their squares would not fit.
    config = run(MODELS[name], FLAT, forces, loss="huber")
    agree(replace(config, precision=Precision("float16")), tolerance=5e-3)


@pytest.mark.parametrize("ipus", [1, 2])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_chemgpt(tied: bool, ipus: int) -> None:
    batching = {**PIPELINE, "gradient_accumulation": 6}
    agree(run({"name": "chemgpt", "tie_embeddings": tied}, batching), ipus_per_replica=ipus)


@pytest.mark.parametrize("readout", ["sum", "mean", "max"])
@pytest.mark.parametrize("ipus", [1, 2])
def test_property_heads(readout: str, ipus: int) -> None:
    data = {"name": "file", "path": "x.csv", "target": "y", "extensive": readout == "sum"}
    agree(run({"name": "chemgpt", "readout": readout}, PIPELINE, data=data), ipus_per_replica=ipus)
