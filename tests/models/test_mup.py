"""Maximal update parametrization: what grows with width without it stays as it is with it (G. Yang et al. 2022)."""

from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from poptorch_helpers import installed_double

from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import Batching, Precision
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.batches.types import TokenPack
from ipu_chem.losses import token_cross_entropy
from ipu_chem.models.chemgpt import ChemGPT
from ipu_chem.models.next_token import NextToken
from ipu_chem.optim import OptimizerConfig, ParameterGroups

WIDTHS = (32, 64, 128, 256)
BASE = 32


def pack(seed: int, rows: int = 4, slots: int = 16) -> TokenPack:
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, 11, (rows, slots + 1)))
    places = torch.arange(slots).expand(rows, -1).clone()
    return TokenPack(ids[:, :-1], places, ids[:, 1:], torch.full((rows, slots), 1.0 / (rows * slots)))


def chemgpt(width: int, base: int, **options: Any) -> ChemGPT:
    torch.manual_seed(0)
    sizes = dict(vocab_size=11, max_positions=16, num_layers=2, num_heads=2)
    return ChemGPT(**{**sizes, **options}, hidden_features=width, mup_base_width=base)  # type: ignore[arg-type]


def trained(model: ChemGPT, rate: float, steps: int) -> ChemGPT:
    """By Adam as a backend does it."""
    backend = TorchBackend()
    backend.compile(model, token_cross_entropy, OptimizerConfig("adam", rate), Batching(4), pack(0))
    for _ in range(steps):
        backend.train_step(pack(1), rate)
    return model


def moved(old: Any, new: Any) -> float:
    with torch.no_grad():
        return float((new(*pack(2).inputs) - old(*pack(2).inputs)).abs().mean())


def changes(base: int) -> Dict[str, List[float]]:
    """How far a few steps of training move the typical feature and logit, width by width."""
    found: Dict[str, List[float]] = {"features": [], "logits": []}
    for width in WIDTHS:
        fresh, model = chemgpt(width, base), trained(chemgpt(width, base), 0.01, 4)
        found["features"].append(moved(fresh.features, model.features))
        found["logits"].append(moved(fresh, model))
    return found


def test_coordinates_do_not_grow_with_width() -> None:
    """The coordinate check of the paper: sizes after some steps are flat over widths, and grow without it."""
    with_it, without = changes(BASE), changes(0)
    for name in with_it:
        assert max(with_it[name]) < 1.5 * min(with_it[name]), (name, with_it[name])
    assert without["logits"][-1] > 2.5 * without["logits"][0], without
    assert all(with_it[name][0] == pytest.approx(without[name][0], rel=0.5) for name in with_it)


def test_at_the_base_width_heads_of_32_change_nothing() -> None:
    ours, plain = chemgpt(64, 64), chemgpt(64, 0)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ours.state_dict().items())
    torch.testing.assert_close(ours(*pack(0).inputs), plain(*pack(0).inputs), rtol=1e-6, atol=1e-6)
    assert set(ours.learning_rate_multipliers().values()) == {1.0}


def test_multipliers_and_first_weights() -> None:
    model = chemgpt(128, 32, tie_embeddings=False)
    multipliers = model.learning_rate_multipliers()
    assert list(multipliers) == [name for name, _ in model.named_parameters()]
    for name, weight in model.named_parameters():
        is_hidden = name.startswith("layers.") and name.endswith("weight") and ".ln_" not in name
        assert multipliers[name] == (0.25 if is_hidden else 1.0), name
        if weight.dim() == 2:
            assert float(weight.detach().std()) == pytest.approx(0.01 if is_hidden else 0.02, rel=0.1), name
    assert model.head.multiplier == 0.25 and model.layers[0].attention.scale == 32**0.5 / 64
    assert set(chemgpt(128, 0).learning_rate_multipliers().values()) == {1.0}


def test_groups_follow_the_multipliers_inside_of_other_modules() -> None:
    model = NextToken(chemgpt(64, 32))
    parameters = list(model.parameters())
    config = OptimizerConfig("adamw", 0.1, weight_decay=0.5)
    groups = ParameterGroups(config, model, parameters)
    assert groups.multipliers == [1.0, 0.5]
    assert [(group["lr"], group["weight_decay"]) for group in groups.groups] == [(0.1, 0.5), (0.05, 1.0)]
    assert sorted(map(id, sum((group["params"] for group in groups.groups), []))) == sorted(map(id, parameters))
    optimizer = torch.optim.AdamW(groups.groups, lr=1.0)
    groups.set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]
    adam = ParameterGroups(OptimizerConfig("adam", 0.1, weight_decay=0.5), model, parameters)
    assert all("weight_decay" not in group for group in adam.groups)  # it is part of the gradient there


def test_frozen_weights_are_in_no_group() -> None:
    model = chemgpt(64, 32)
    model.embedding.requires_grad_(False)
    left = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = ParameterGroups(OptimizerConfig(), model, left)
    assert sum(len(group["params"]) for group in groups.groups) == len(left)


def test_a_model_that_says_nothing_has_one_group_as_before() -> None:
    for model in (torch.nn.Linear(3, 3), chemgpt(32, 0)):
        groups = ParameterGroups(OptimizerConfig(), model, list(model.parameters()))
        (group,) = groups.groups
        assert list(group) == ["params"] and groups.multipliers == [1.0]
        assert all(one is other for one, other in zip(group["params"], model.parameters()))


def test_sgd_is_refused() -> None:
    model = chemgpt(64, 32)
    with pytest.raises(ValueError, match="optimizer.name=sgd: learning rates for other widths"):
        ParameterGroups(OptimizerConfig("sgd"), model, list(model.parameters()))


CONFIG = OptimizerConfig("adamw", 0.01, weight_decay=0.1)
RATES = [0.01, 0.01, 0.003, 0.02]  # the first is the one that programs are compiled with


def run(backend: Backend, base: int = 16) -> Dict[str, torch.Tensor]:
    model = chemgpt(32, base, num_heads=1)
    backend.compile(model, token_cross_entropy, CONFIG, Batching(4), pack(0))
    for step, rate in enumerate(RATES):
        backend.train_step(pack(step), rate)
    state = backend.state_dict()["model"]
    backend.close()
    return state


def by_hand() -> Dict[str, torch.Tensor]:
    """Two optimizers, one for the matrices of the layers with half the rate and the same decay a step."""
    model = chemgpt(32, 16, num_heads=1)
    slow = [name for name, share in model.learning_rate_multipliers().items() if share != 1.0]
    assert len(slow) == 2 * 6
    named = dict(model.named_parameters())
    options = dict(betas=CONFIG.betas, eps=CONFIG.eps)
    optimizers = {
        0.5: torch.optim.AdamW([named[name] for name in slow], weight_decay=0.2, **options),  # type: ignore[arg-type]
        1.0: torch.optim.AdamW([named[n] for n in named if n not in slow], weight_decay=0.1, **options),  # type: ignore
    }
    for step, rate in enumerate(RATES):
        model.zero_grad()
        batch = pack(step)
        token_cross_entropy(model(*batch.inputs), *batch.targets).backward()
        for share, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = share * rate
            optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_both_backends_give_every_group_its_rate(weights: str) -> None:
    expected, precision = by_hand(), Precision(weights=weights)
    tolerance = 1e-6 if weights == "float32" else 2e-3
    results = [run(TorchBackend(precision=precision))]
    with installed_double():
        from ipu_chem.backends.poptorch.backend import PopTorchBackend

        results.append(run(PopTorchBackend(precision=precision)))
    for state in results:
        for name, value in state.items():
            # Adam turns rounding of a gradient that is nearly 0 into a step of full size; most weights have none.
            far = (value.float() - expected[name]).abs() > tolerance
            assert far.float().mean() < 0.05, name


def test_a_checkpoint_with_groups_goes_on_where_it_was_left() -> None:
    def backend_at(state: Any) -> TorchBackend:
        backend = TorchBackend()
        backend.compile(chemgpt(32, 16), token_cross_entropy, CONFIG, Batching(4), pack(0))
        if state is not None:
            backend.load_state_dict(state)
        return backend

    first = backend_at(None)
    first.train_step(pack(0), 0.01)
    second = backend_at(first.state_dict())
    losses = [backend.train_step(pack(1), 0.02) for backend in (first, second)]
    weights = [backend.state_dict()["model"] for backend in (first, second)]
    assert torch.equal(*losses) and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
