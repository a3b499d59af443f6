"""Operators of a program as the time model sees them: kind, sizes, format, whether a backward pass goes through."""

from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.base import Program
from ipu_chem.backends.poptorch.meta import meta_copy
from ipu_chem.backends.poptorch.profile import profile_blocks
from ipu_chem.backends.poptorch.timing.operators import Operator


class Batch(NamedTuple):
    x: Tensor  # [5, 3]
    index: Tensor  # [7]
    y: Tensor
    weight: Tensor


BATCH = Batch(torch.zeros(5, 3), torch.zeros(7, dtype=torch.int64), torch.zeros(5), torch.zeros(5))


class Made(nn.Module):
    """A model whose forward is one function of (its weight [3, 4], x, index)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4))
        self.register_buffer("constant", torch.ones(3, 4))
        self.function = function

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.function(self, x, index)


def recorded(function, dtype: torch.dtype = torch.float32) -> Tuple[Operator, ...]:
    """Operators of a forward pass whose loss is no operator."""
    twin = meta_copy(Program(Made(function), lambda prediction, y, weight: prediction), dtype)
    (profile,) = profile_blocks(twin, BATCH)
    return profile.operators


def kinds(function) -> List[Tuple[str, Tuple[int, ...], bool]]:
    return [(operator.kind, operator.sizes, operator.trained) for operator in recorded(function)]


def test_products_have_four_sizes() -> None:
    assert kinds(lambda self, x, index: x @ self.weight) == [("product", (1, 5, 3, 4), True)]
    both = kinds(lambda self, x, index: torch.bmm(x.expand(2, 5, 3), self.weight.expand(2, 3, 4)))
    assert both[-1] == ("product", (2, 5, 3, 4), True)
    assert Operator("product", (2, 5, 3, 4)).multiply_adds == 120 and Operator("gather", (2, 5, 3)).multiply_adds == 0
    with_bias = kinds(lambda self, x, index: nn.functional.linear(x, self.weight.t(), self.weight[0]))
    assert with_bias == [("product", (1, 5, 3, 4), True)]


def test_rows_taken_and_added_up() -> None:
    assert kinds(lambda self, x, index: x.index_select(0, index)) == [("gather", (5, 3, 7), False)]
    rows = ("gather", (3, 4, 7), True)
    assert kinds(lambda self, x, index: self.weight.gather(0, index.unsqueeze(1).expand(-1, 4))) == [rows]
    assert kinds(lambda self, x, index: nn.functional.embedding(index, self.weight)) == [rows]
    assert kinds(lambda self, x, index: self.weight[index]) == [rows]

    def add_up(self: Made, x: Tensor, index: Tensor) -> Tensor:
        return torch.zeros(9, 4).to(x.device).scatter_add(0, index.unsqueeze(1).expand(-1, 4), self.weight[index])

    assert kinds(add_up)[-1] == ("scatter", (7, 4, 9), True)


def test_other_kinds_go_by_elements() -> None:
    assert kinds(lambda self, x, index: x + 1.0) == [("element-wise", (15,), False)]
    assert kinds(lambda self, x, index: torch.exp(x)) == [("function", (15,), False)]
    assert kinds(lambda self, x, index: x.sum(0)) == [("reduction", (15,), False)]
    assert kinds(lambda self, x, index: torch.softmax(x, 1)) == [("softmax", (15,), False)]
    assert kinds(lambda self, x, index: nn.functional.softplus(x)) == [("softplus", (15,), False)]
    assert kinds(lambda self, x, index: torch.topk(x, 2, dim=1)[0]) == [("search", (15,), False)]


def test_a_view_is_no_work_and_neither_is_what_a_compiler_knows() -> None:
    assert kinds(lambda self, x, index: x.t().unsqueeze(0)) == []
    assert kinds(lambda self, x, index: torch.exp(self.constant * 2.0)) == []
    assert kinds(lambda self, x, index: torch.zeros(3, 4) + torch.arange(4)) == []


def test_trained_is_what_has_a_gradient() -> None:
    flags = [trained for *_, trained in kinds(lambda self, x, index: torch.exp(x) @ self.weight + x.sum())]
    assert flags == [False, True, False, True]
    compared = kinds(lambda self, x, index: (self.weight > 0.0).to(x.dtype) * 2.0)
    assert [trained for *_, trained in compared] == [False, False, False], "a comparison has no gradient"


def test_work_in_16_bits_is_known() -> None:
    operators = recorded(lambda self, x, index: (self.weight * 2.0).float() + 1.0, torch.float16)
    assert [operator.half for operator in operators] == [True, False, False]


def test_in_place_operators_are_work() -> None:
    assert kinds(lambda self, x, index: (x + 1.0).mul_(2.0)) == [("element-wise", (15,), False)] * 2
