"""What a block weighs: parameters, activations, what it hands on; checked against sums done by hand."""

from typing import Any, List, NamedTuple, Tuple

import pytest
import torch
from support import example_model, example_packs
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.poptorch.meta import meta_copy, to_meta
from ipu_chem.backends.poptorch.profile import BlockProfile, profile_blocks
from ipu_chem.batches.types import TokenPack
from ipu_chem.config import Batching, ModelConfig, PackConfig, RunConfig
from ipu_chem.losses import mse, token_cross_entropy
from ipu_chem.models.base import Model
from ipu_chem.models.chemgpt import SIZES, ChemGPT

PACKS, WIDTH = 3, 8


class Batch(NamedTuple):
    x: Tensor
    side: Tensor
    y: Tensor
    weight: Tensor


class Cut(Model):
    """Three layers; the side input is used by the last one, the first one's result too."""

    def __init__(self, order: Tuple[str, ...] = ("first", "second", "third")) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.second.weight.requires_grad_(False)
        self.register_buffer("scale", torch.ones(5))
        self.order = order

    def blocks(self) -> List[str]:
        return list(self.order)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        one = torch.relu(self.first(x))
        two = torch.tanh(self.second(one))
        return self.third(two) + one + side.to(x.dtype) * self.scale.sum()


def loss(prediction: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return ((prediction - y) ** 2 * weight).sum()


def batch(packs: int = PACKS, dtype: torch.dtype = torch.float32) -> Batch:
    float_field = torch.zeros(packs, WIDTH, dtype=dtype)
    return Batch(float_field, torch.zeros(packs, 1, dtype=torch.uint8), float_field.clone(), torch.ones(packs, 1))


def profiles(model: nn.Module, example: Any = None) -> List[BlockProfile]:
    return profile_blocks(Program(model, loss), batch() if example is None else example)


def test_parts_of_every_block() -> None:
    first, second, third = profiles(Cut())
    weights, bias, rows = WIDTH * WIDTH, WIDTH, 4 * PACKS * WIDTH
    assert [block.name for block in (first, second, third)] == ["first", "second", "third"]
    assert first.parameters == third.parameters == weights + bias
    # A frozen weight is a constant; so is the buffer, which the last block is the first to use.
    assert second.parameters == bias and second.constant_bytes == 4 * weights and third.constant_bytes == 4 * 5
    assert first.parameter_bytes == 4 * first.parameters
    # Saved: the result of relu, which the next product takes, too; of tanh; the error that is squared.
    assert first.activation_bytes == second.activation_bytes == third.activation_bytes == rows
    # The first block's result goes on to the third block through the second.
    assert (first.output_bytes, second.output_bytes, third.output_bytes) == (rows, 2 * rows, 0)
    assert (first.input_bytes, second.input_bytes) == (rows, 0)
    assert third.input_bytes == PACKS + rows + 4 * PACKS  # one byte each of the side input, labels, weights
    assert first.working_bytes == 4 * (weights + bias) + 2 * rows  # the product
    product = 2 * WIDTH * PACKS * WIDTH  # with the sum of the bias
    assert first.flops == product + PACKS * WIDTH


def test_micro_batches_scale_what_is_not_parameters() -> None:
    once, twice = profiles(Cut()), profiles(Cut(), to_meta(batch(), 2 * PACKS))
    for one, two in zip(once, twice):
        assert two.parameter_bytes == one.parameter_bytes and two.constant_bytes == one.constant_bytes
        assert two.activation_bytes == 2 * one.activation_bytes and two.output_bytes == 2 * one.output_bytes
        assert two.input_bytes == 2 * one.input_bytes


def test_half_precision_halves_parameters_and_activations_but_not_buffers() -> None:
    program = meta_copy(Program(Cut(), loss), torch.float16)
    first, _, third = profile_blocks(program, batch(dtype=torch.float16))
    assert first.parameter_bytes == 2 * first.parameters and first.activation_bytes == 2 * PACKS * WIDTH
    assert third.constant_bytes == 4 * 5


def test_integers_of_64_bits_count_as_32() -> None:
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(7, WIDTH))

        def forward(self, x: Tensor, side: Tensor) -> Tensor:
            return self.table.index_select(0, side.long().reshape(-1) + 1)

    block = profiles(Look())[0]
    # Saved: the index and the error of the loss.
    assert block.name == "" and block.activation_bytes == 4 * PACKS + 4 * PACKS * WIDTH


def test_random_masks_are_drawn_again_instead_of_kept() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, side: Tensor) -> Tensor:
            return self.second(nn.functional.dropout(torch.relu(self.first(x)), 0.5, True))

    # Saved: the results of relu and of the dropout, the error of the loss, and no mask.
    assert profiles(Dropped())[0].activation_bytes == 3 * 4 * PACKS * WIDTH


def test_the_program_stays_as_it_was() -> None:
    program = Program(Cut(), loss)
    before = {name: value.clone() for name, value in program.state_dict().items()}
    profile_blocks(program, batch())
    assert all(value.device.type == "cpu" and value.equal(before[name]) for name, value in program.state_dict().items())
    assert all(not module._forward_pre_hooks for module in program.modules())


def test_tied_weights_stay_tied_and_count_once() -> None:
    model = ChemGPT(vocab_size=11, max_positions=16, hidden_features=8, num_layers=2, num_heads=2)
    twin = meta_copy(model, torch.float16)
    assert twin.head.weight is twin.embedding.wte.weight and twin.head.weight.dtype == torch.float16
    ids = torch.zeros(1, 16, dtype=torch.int32)
    blocks = profile_blocks(Program(model, token_cross_entropy), TokenPack(ids, ids, ids, torch.ones(1, 16)))
    assert sum(block.parameters for block in blocks) == sum(parameter.numel() for parameter in model.parameters())
    assert blocks[-1].parameters == 2 * 8  # the last normalization; the tied weight is the embedding's


@pytest.mark.parametrize(
    "model, words",
    [
        (Cut(("first", "nowhere")), "names 'nowhere', which is no submodule"),
        (Cut(("second", "first", "third")), "calls the block 'first' as number 0, blocks\\(\\) has it as number 1"),
        (Cut(("first", "second", "third", "order_")), "no submodule"),
    ],
)
def test_blocks_that_do_not_run_in_order_are_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        profiles(model)


def test_a_block_that_never_runs_is_refused() -> None:
    model = Cut(("first", "second", "third", "spare"))
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="does not call the block 'spare'"):
        profiles(model)


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tokens", [128, 256])
def test_chemgpt_layers_are_the_closed_form(size: str, tokens: int, weights: str) -> None:
    with torch.device("meta"):
        model = ChemGPT(size, 684, tokens, num_layers=3)
    hidden, heads, width = SIZES[size], 16, 4 if weights == "float32" else 2
    ids = torch.zeros(1, tokens, dtype=torch.int16)
    program = meta_copy(Program(model, token_cross_entropy), getattr(torch, weights))
    blocks = profile_blocks(program, TokenPack(ids, ids, ids, torch.ones(1, tokens)))
    layer = blocks[1]
    assert layer.parameters == 12 * hidden**2 + 10 * hidden
    if weights == "float32":
        # Inputs and results of two normalizations with mean and deviation, query, key, value and what was seen;
        # the wide features before and behind their activation; a share for every pair.
        kept = 4 * ((4 + 4 + 8) * tokens * hidden + 4 * tokens + heads * tokens**2)
        assert layer.activation_bytes == kept
    else:
        # What a GPT-2 layer with dropout keeps; scores are in 32 bits here.
        closed = 34 * tokens * hidden + 4 * heads * tokens**2
        assert closed < layer.activation_bytes < 1.45 * closed
    assert layer == blocks[2]._replace(name=layer.name)
    assert layer.output_bytes == width * (tokens * hidden + tokens**2)  # features and the mask


def test_schnet_keeps_a_handful_of_features_for_every_edge() -> None:
    """An interaction: filters before, between and behind their activation, the cutoff's factor, messages, and the
    same of atoms, which are fewer."""
    nodes, edges, features = 36, 36 * 28, 100
    config = RunConfig(
        pack=PackConfig(nodes=nodes, edges=edges, graphs=4),
        model=ModelConfig(
            "schnet", hidden_features=features, num_filters=features, num_interactions=4, num_gaussians=25, cutoff=6.0
        ),
        batching=Batching(1),
    )
    blocks = profile_blocks(Program(example_model(config, "meta"), mse), example_packs(config, 1))
    names = ["embedding", *(f"interactions.{n}" for n in range(4)), "head"]
    assert [block.name for block in blocks] == [f"model.{name}" for name in names]
    each = blocks[2].activation_bytes / (4 * edges * features)
    assert 4 < each < 8
    assert blocks[2] == blocks[3]._replace(name=blocks[2].name)
