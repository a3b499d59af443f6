"""What PopTorch's real front end did with these models: trained and evaluated as on a CPU, through the backend."""

import logging
from typing import Any, Iterator, List

import pytest
import torch
from poptorch_helpers import ADAMW, installed_double
from support import example_loss, example_model, example_packs, model_values
from torch import Tensor, nn

from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.types import TokenPack
from ipu_chem.config import ModelConfig, PackConfig, RunConfig
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.next_token import NextToken

STEPS = 3


@pytest.fixture(autouse=True)
def poptorch() -> Iterator[Any]:
    with installed_double() as module:
        yield module


def losses(backend: Any, model: nn.Module, loss: Any, batching: Batching, packs: List[Any]) -> Tensor:
    backend.compile(model, loss, ADAMW, batching, packs[0])
    return torch.cat([backend.train_step(pack, 1e-3) for pack in packs])


def tokens(packs: int, seed: int) -> TokenPack:
    """Packs of two molecules of random symbols; labels are the next ones."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.tensor([[*range(5), *range(5), 0, 0]] * packs, dtype=torch.uint8)
    ids, labels = torch.randint(0, 11, (2, packs, 12), generator=generator).to(torch.int16)
    weight = torch.rand(packs, 12, generator=generator)
    return TokenPack(ids, places, labels, weight / weight.sum())


def language_model(tied: bool) -> NextToken:
    torch.manual_seed(0)
    sizes: Any = dict(vocab_size=11, max_positions=12, hidden_features=8, num_layers=2, num_heads=2)
    return NextToken(ChemGPT(**sizes, tie_embeddings=tied))


@pytest.mark.parametrize("ipus", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_chemgpt(tied: bool, ipus: int) -> None:
    """The recipes' default is tied: one tensor under two paths."""
    batching = Batching(micro_batch_size=1, gradient_accumulation=5)
    packs = [tokens(5, seed) for seed in range(STEPS)]
    model = language_model(tied)
    backend = PopTorchBackend(IpuOptions(ipus_per_replica=ipus))
    got = losses(backend, model, token_cross_entropy, batching, packs)
    reference = TorchBackend("cpu")
    expected = losses(reference, language_model(tied), token_cross_entropy, batching, packs)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    one = TokenPack(*(field[: batching.packs_per_evaluation] for field in packs[0]))
    torch.testing.assert_close(backend.evaluate(one), reference.evaluate(one), rtol=1e-5, atol=1e-5)
    backend.close()


def graphs(name: str, force_share: float) -> RunConfig:
    sizes = dict(hidden_features=8, num_filters=8, num_interactions=2, num_gaussians=5, num_radial=4)
    return RunConfig(
        pack=PackConfig(nodes=20, edges=90, graphs=4),
        model=ModelConfig(**model_values(name, **sizes)),
        force_share=force_share,
        batching=Batching(micro_batch_size=1, gradient_accumulation=2),
    )


def losses_of(backend: Any, config: RunConfig, steps: int = STEPS) -> Tensor:
    torch.manual_seed(0)
    packs = [example_packs(config, 2, seed) for seed in range(steps)]
    found = losses(backend, example_model(config), example_loss(config), config.batching, packs)
    backend.close()
    return found


@pytest.mark.parametrize("force_share", [0.0, 0.9])
@pytest.mark.parametrize("name", ["schnet", "painn", "spookynet"])
def test_graph_models(name: str, force_share: float) -> None:
    """All terms of SpookyNet on: its forces gather columns of several lengths."""
    config = graphs(name, force_share)
    expected = losses_of(TorchBackend("cpu"), config)
    torch.testing.assert_close(losses_of(PopTorchBackend(), config), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("force_share", [0.0, 0.9])
def test_a_program_is_quiet(caplog: pytest.LogCaptureFixture, force_share: float) -> None:
    """Every 64-bit tensor that a program makes or is given is a line on the user's screen."""
    config = graphs("schnet", force_share)
    packs = [example_packs(config, 2)]
    with caplog.at_level(logging.WARNING, "poptorch"):
        backend = PopTorchBackend()
        losses(backend, example_model(config), example_loss(config), config.batching, packs)
        backend.evaluate(type(packs[0])(*(field[:1] for field in packs[0])))
        backend.close()
    assert [line for line in caplog.messages if "for tensor id" in line] == []


def test_derivatives_inside_need_an_early_import(poptorch: Any) -> None:
    """Where a backward pass came before PopTorch, a program with forces says what to do."""
    poptorch.Machine.imported_after_backward = True
    with pytest.raises(ValueError, match="import"):
        losses_of(PopTorchBackend(), graphs("schnet", 0.9), 1)
