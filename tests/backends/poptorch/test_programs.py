"""The modules that PopTorch is handed: names that are paths, tied weights tied, indices of 32 bits."""

from collections import defaultdict
from typing import Any, Dict, List

import pytest
import torch
import yaml
from poptorch_helpers import installed_double, small_schnet
from support import example_loss, example_model
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.options import Batching
from ipu_chem.backends.poptorch.backend import PopTorchBackend
from ipu_chem.backends.poptorch.options import IpuOptions
from ipu_chem.backends.poptorch.programs import EvaluationProgram, TrainingProgram
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.types import TokenPack
from ipu_chem.commands.recipes import _RECIPES, recipes
from ipu_chem.config import from_dict
from ipu_chem.losses import mse, token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.layers import as_index
from ipu_chem.models.next_token import NextToken
from ipu_chem.optim import OptimizerConfig


def both(model: nn.Module, loss: Any) -> List[nn.Module]:
    """The training and the evaluation program of a model."""
    return [TrainingProgram(Program(model, loss), lambda x, reduction: x, None), EvaluationProgram(model)]


def tied_as_poptorch_does(program: nn.Module) -> Dict[str, Tensor]:
    """Look up, and set, the tensors that have several names, as PopTorch does after it has copied a model."""
    names = defaultdict(list)
    state = program.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names[id(tensor)].append(name)
    for first, *others in names.values():
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(program.get_submodule(path), attribute, state[first])
    return state


@pytest.mark.parametrize("recipe", recipes())
def test_names_of_all_recipes_are_paths(recipe: str) -> None:
    config = from_dict(yaml.safe_load((_RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")))
    model = example_model(config, "meta")
    expected = [*model.parameters(), *model.buffers()]
    for program in both(model, example_loss(config)):
        state = tied_as_poptorch_does(program)
        assert {id(tensor) for tensor in state.values()} == {id(tensor) for tensor in expected}
        for name, tensor in state.items():
            path, _, attribute = name.rpartition(".")
            assert getattr(program.get_submodule(path), attribute) is tensor, name


def test_a_tied_weight_has_every_path_at_which_it_hangs() -> None:
    model = NextToken(ChemGPT(vocab_size=7, max_positions=9, hidden_features=8, num_layers=1, num_heads=1))
    for program in both(model, token_cross_entropy):
        state = program.state_dict(keep_vars=True)
        assert state["model.model.head.weight"] is state["model.model.embedding.wte.weight"]
        assert not program.state_dict()["model.model.head.weight"].requires_grad
        # By position, as PopTorch asks.
        assert list(program.state_dict({"before": 0}, "prefix.", True))[:2] == [
            "before",
            "prefix.model.model.embedding.wte.weight",
        ]
    # Checkpoints have the model's own names.
    assert "head.weight" in model.state_dict() and not any(name.startswith("model.") for name in model.state_dict())


def tokens(packs: int, seed: int) -> TokenPack:
    """Packs of two molecules each."""
    random = torch.Generator().manual_seed(seed)
    ids, labels = (torch.randint(0, 30, (packs, 16), dtype=torch.int32, generator=random) for _ in range(2))
    places = torch.cat([torch.arange(9), torch.arange(7)]).to(torch.int32).expand(packs, -1).clone()
    return TokenPack(ids, places, labels, torch.full((packs, 16), 1.0 / (packs * 16)))


@pytest.mark.parametrize("ipus", [1, 2])
@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_tied_chemgpt_trains_and_evaluates_as_on_the_cpu(ipus: int, positions: str) -> None:
    """In a wrapper that names tensors as the model does, as runs have it; on two IPUs the head is back on the first."""
    batching = Batching(1, 5, 2, 1)
    with installed_double():
        backends = [TorchBackend("cpu"), PopTorchBackend(IpuOptions(ipus_per_replica=ipus))]
        for backend in backends:
            torch.manual_seed(0)
            model = NextToken(
                ChemGPT(
                    vocab_size=30, max_positions=16, hidden_features=16, num_layers=2, num_heads=2, positions=positions
                )
            )
            backend.compile(model, token_cross_entropy, OptimizerConfig("adamw", 1e-3), batching, tokens(10, 99))
        for step in range(5):
            expected, losses = (backend.train_step(tokens(10, step), 1e-3) for backend in backends)
            torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
        expected, predicted = (backend.evaluate(tokens(2, 7)) for backend in backends)
        torch.testing.assert_close(predicted, expected, rtol=1e-6, atol=1e-5)
        left, right = (backend.state_dict()["model"] for backend in backends)
        assert left.keys() == right.keys() and "head.weight" in right
        assert right["head.weight"].equal(right["embedding.wte.weight"])
        backends[1].close()


def test_indices_are_narrow_inside_and_wide_outside() -> None:
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: List[torch.dtype] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(as_index(x).dtype)
            if len(self.seen) == 3:
                raise RuntimeError("and is left whatever happens")
            return x

    model, x = Look(), torch.zeros(2, dtype=torch.uint8)
    program = EvaluationProgram(model)
    program(x), model(x)
    with pytest.raises(RuntimeError):
        program(x)
    assert model.seen == [torch.int32, torch.int64, torch.int32] and as_index(x).dtype == torch.int64


def test_optimizer_state_has_the_names_that_checkpoints_have() -> None:
    """Of PopTorch's optimizer, which takes them from the training program: an older run can be resumed."""
    program = both(small_schnet(), mse)[0]
    assert [name for name, _ in program.named_parameters()][0] == "model.model.embedding.weight"
