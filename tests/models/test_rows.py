"""Gathers and scatters of models: what `take_rows` and `sum_into` do, and that nothing else gathers."""

import ast
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
import torch
from torch import Tensor

from ipu_chem.models.layers import as_index, flat_index, indices_in, look_up, sum_into, take_rows

MODELS = Path(__file__).resolve().parents[2] / "ipu_chem" / "models"
GATHERS = frozenset(
    "gather scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_select index_add index_add_ "
    "index_copy index_copy_ index_put index_put_ index_fill index_fill_ take take_along_dim put_ narrow_copy".split()
)
ALLOWED = {("decoding.py", "index_copy_")}  # of sampling, which no program for IPUs does


def plain_rows(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(0, index.unsqueeze(1).expand(-1, values.shape[1]))


def plain_sums(values: Tensor, index: Tensor, slots: int) -> Tensor:
    zeros = torch.zeros((slots, values.shape[1]), dtype=values.dtype)
    return zeros.scatter_add(0, index.unsqueeze(1).expand_as(values), values)


def derivatives(result: Tensor, values: Tensor) -> List[Tensor]:
    """A result, the first and the second derivative of something that is made of it."""
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(result.shape, generator=random, dtype=result.dtype)
    (first,) = torch.autograd.grad((result * result * result * weight).sum(), values, create_graph=True)
    weight = torch.randn(first.shape, generator=random, dtype=first.dtype)
    (second,) = torch.autograd.grad((first * weight).sum(), values)
    return [result.detach(), first.detach(), second]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_equal_the_plain_formulas_to_the_last_bit(rows: int, columns: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(rows * 10 + columns)
    index = torch.randint(0, rows, (40,), generator=random)

    def drawn(count: int) -> Tensor:
        scale = 10.0 ** torch.randint(-12, 8, (count, 1), generator=random, dtype=torch.float64)
        return (torch.randn((count, columns), generator=random, dtype=torch.float64) * scale).to(dtype)

    few, many = drawn(rows).requires_grad_(), drawn(40).requires_grad_()
    for ours, plain in zip(
        derivatives(take_rows(few, index), few) + derivatives(sum_into(many, index, rows), many),
        derivatives(plain_rows(few, index), few) + derivatives(plain_sums(many, index, rows), many),
    ):
        assert ours.shape == plain.shape and ours.dtype == plain.dtype and ours.equal(plain)


@pytest.mark.parametrize("columns", [1, 3])
def test_integers_stay_integers(columns: int) -> None:
    values, index = torch.arange(1, 1 + 4 * columns, dtype=torch.int32).reshape(4, columns), torch.tensor([3, 0, 0])
    assert take_rows(values, index).equal(plain_rows(values, index))
    assert sum_into(values[:3], index, 5).equal(plain_sums(values[:3], index, 5))


class Gathers(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the shapes of what is gathered from."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: List[Tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::gather":
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (6, 1), (6, 3)])
def test_no_gather_is_of_one_row_or_column(rows: int, columns: int) -> None:
    """Neither forwards nor in derivatives; PopTorch would not know their shapes."""
    index = torch.randint(0, rows, (8,))
    with Gathers() as seen:
        few, many = torch.randn(rows, columns).requires_grad_(), torch.randn(8, columns).requires_grad_()
        derivatives(take_rows(few, index), few), derivatives(sum_into(many, index, rows), many)
    assert len(seen.shapes) > 3 and all(min(shape) > 1 for shape in seen.shapes), seen.shapes


def test_constants_are_looked_up() -> None:
    table, index = torch.randn(5, 1), torch.tensor([4, 0, 4])
    assert look_up(table, index).equal(table[index])
    with pytest.raises(AssertionError, match="take_rows"):
        look_up(table.requires_grad_(), index)


def test_indices_of_any_width_count() -> None:
    values = torch.randn(200, 2)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        index = torch.tensor([127, 0, 3]).to(dtype)
        assert take_rows(values, index).equal(values[[127, 0, 3]])
        assert sum_into(values[:3], index, 128)[127].equal(values[0])
        assert as_index(index).dtype == torch.int64
        with indices_in(torch.int32):
            assert as_index(index).dtype == flat_index(as_index(index).reshape(1, 3), 9).dtype == torch.int32
    assert flat_index(torch.tensor([[0, 1], [1, 0]]), 300).tolist() == [0, 1, 301, 300]


def calls(path: Path) -> Iterator[Tuple[str, int]]:
    """Names of the functions and methods that a file calls, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node.lineno


def test_models_gather_by_layers_alone() -> None:
    files = [*MODELS.glob("*.py"), MODELS.parent / "losses.py"]
    assert len(files) > 20 and {name for name, _ in calls(MODELS / "layers.py")} >= {"gather", "scatter_add"}
    found = [
        f"{path.name}:{line} {name}"
        for path in files
        for name, line in calls(path)
        if name in GATHERS and path.name != "layers.py" and (path.name, name) not in ALLOWED
    ]
    assert not found, "use take_rows, sum_into or look_up of ipu_chem.models.layers"
