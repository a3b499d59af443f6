"""Gathers whose index PopTorch's graph cannot shape are counted; those that it would merge wrongly are refused."""

from typing import Any, Callable, Dict, Tuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backends.poptorch.operators.op_probes import Probe, check, check_meta, example, marked
from ipu_chem.backends.poptorch.operators.check import Finding, Report, check_program

Function = Callable[[Any, Tensor, Tensor], Any]


def forces(m: Any, x: Tensor, energy: Callable[[Tensor], Tensor]) -> Tensor:
    pos = x.detach().requires_grad_(True)
    return torch.autograd.grad(energy(pos).sum(), pos, create_graph=True)[0]


def column(x: Tensor) -> Tensor:
    return x.split(1, 1)[0]  # whose derivative is right


def wide(values: Tensor) -> Tensor:
    return (0.5 * values).expand(-1, 2)


def rows(i: Tensor, columns: int = 4) -> Tensor:
    return i.unsqueeze(1).expand(-1, columns)


# Rows that are read as rows, and everything else that PopTorch knows the shapes of.
SHAPED: Dict[str, Function] = {
    "whole rows": lambda m, x, i: x.gather(0, rows(i)),
    "whole rows, counted from the end": lambda m, x, i: x.gather(-2, rows(i)),
    "whole columns": lambda m, x, i: x.gather(1, i[:3].unsqueeze(0).expand(6, -1)),
    "one of two columns": lambda m, x, i: wide(column(x)).gather(0, rows(i, 2)).sum(1, keepdim=True),
    "expand_as": lambda m, x, i: x.gather(0, i.unsqueeze(1).expand_as(x)),
    "broadcast_to": lambda m, x, i: x.gather(0, torch.broadcast_to(i.unsqueeze(1), x.shape)),
    "an axis of length 1": lambda m, x, i: x.unsqueeze(1).gather(0, i.reshape(6, 1, 1).expand(-1, -1, 4)),
    "a column read by index": lambda m, x, i: x[:, 0][i] + x[:, 1][i[:1]],
    "index_select": lambda m, x, i: x[:, :1].index_select(0, i) + x[:2, :1].index_select(0, i.clamp(max=1)),
    "embedding": lambda m, x, i: functional.embedding(i, m.weight),
    "derivative of rows": lambda m, x, i: forces(m, x, lambda pos: pos.gather(0, rows(i)) ** 2),
    "derivative of a sum of rows": lambda m, x, i: forces(
        m, x, lambda pos: torch.zeros(4, 4, device=x.device).scatter_add(0, rows(i), pos) ** 2
    ),
    "derivative of two columns": lambda m, x, i: forces(
        m, x, lambda pos: torch.zeros(4, 2, device=x.device).scatter_add(0, rows(i, 2), wide(column(pos))).sum(1) ** 2
    ),
    "constants, evaluated early": lambda m, x, i: x * torch.ones(6, 1).gather(0, torch.zeros(6, 1, dtype=torch.int64)),
}  # fmt: skip


@pytest.mark.parametrize("run", [check, check_meta])
@pytest.mark.parametrize("name", SHAPED)
def test_gathers_with_a_shape_are_not_counted(name: str, run: Callable[[Function], Report]) -> None:
    report = run(SHAPED[name])
    assert report.findings == () and report.shapeless_gathers == 0, report.text()
    assert ", no gathers without a shape: " in report.text()


SHAPELESS: Dict[str, Function] = {
    "one column": lambda m, x, i: column(x).gather(0, i.unsqueeze(1)),
    "one column, expanded": lambda m, x, i: column(x).gather(0, i.unsqueeze(1).expand(-1, 1)),
    "one axis": lambda m, x, i: x[:, 0].gather(0, i),
    "three axes": lambda m, x, i: x.unsqueeze(2).expand(-1, -1, 3).gather(0, i.reshape(6, 1, 1).expand(-1, 4, 3)),
    "an index for every place": lambda m, x, i: x.gather(0, i.unsqueeze(1).repeat(1, 4)),
    "expanded along the gathered axis": lambda m, x, i: x.gather(0, i[:4].unsqueeze(0).expand(6, -1)),
    "expanded with a new axis": lambda m, x, i: x.t().gather(1, i.expand(4, -1)),
    "expanded, then something else": lambda m, x, i: x.gather(0, rows(i).detach()),
    "a constant index": lambda m, x, i: x.gather(0, rows(torch.tensor([0, 2, 1], device=x.device))),
    "an index that is an integer buffer": lambda m, x, i: x.gather(0, rows(m.rows)),
    "take_along_dim": lambda m, x, i: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
    "derivative of a sum of one column": lambda m, x, i: forces(
        m, x, lambda pos: torch.zeros(4, 1, device=x.device).scatter_add(0, i.unsqueeze(1), column(pos)) ** 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("run", [check, check_meta])
@pytest.mark.parametrize("name", SHAPELESS)
def test_gathers_without_a_shape_are_counted(name: str, run: Callable[[Function], Report]) -> None:
    report = run(SHAPELESS[name])
    assert report.findings == () and report.shapeless_gathers == 1, report.text()
    assert ", 1 gather without a shape: PopTorch lowers them all" in report.text()


def two_sizes(m: Any, x: Tensor, i: Tensor) -> Tensor:
    first = column(x).gather(0, i.unsqueeze(1))
    second = column(x).gather(0, i[:3].unsqueeze(1))  # here
    return first.sum() + second.sum()


def two_values(m: Any, x: Tensor, i: Tensor) -> Tensor:
    first = x[:, 0].gather(0, i)
    return first + x[:5, 0].gather(0, i)  # here


def in_a_derivative(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        charges = torch.zeros(4, 1, device=x.device).scatter_add(0, i.unsqueeze(1), column(pos))  # here
        return charges * charges + pos.gather(0, rows(i)).sum()

    before = x[:, 3].gather(0, i[:2])
    return forces(m, x, energy) * before.sum()


def of_integers(m: Any, x: Tensor, i: Tensor) -> Tensor:
    narrow, long = i.to(torch.int32), i[:4].clone()
    first = narrow.gather(0, i)
    return first.sum() + long.gather(0, i).sum()  # here


def of_cross_products(m: Any, x: Tensor, i: Tensor) -> Tensor:
    first, second = x.split([3, 1], 1)
    normal = torch.linalg.cross(first, first + 1)
    return normal.sum() + torch.linalg.cross(first[:2], first[2:4]).sum()  # here


@pytest.mark.parametrize("run", [check, check_meta])
@pytest.mark.parametrize("function", [two_sizes, two_values, in_a_derivative, of_integers, of_cross_products])
def test_gathers_that_would_be_merged_are_refused(function: Function, run: Callable[[Function], Report]) -> None:
    report = run(function)
    (finding,) = report.findings
    assert finding.kind == "merged gathers" and finding.where == marked(function)
    assert "of other sizes" in finding.text and "ipu_chem.models.layers.take_rows" in finding.text
    assert report.shapeless_gathers == (0 if function is of_cross_products else 2)
    assert report.text().endswith("gathers without a shape: 2") == (function is not of_cross_products)


def test_both_sizes_and_both_lines_are_told() -> None:
    file, line = marked(two_sizes).rsplit(":", 1)
    text = check(two_sizes).findings[0].text
    assert f"[6, 1] of 6 values at {file}:{int(line) - 1}, [3, 1] of 6 values here" in text


def remedied(m: Any, x: Tensor, i: Tensor) -> Tensor:
    first = wide(column(x)).gather(0, rows(i, 2)).sum(1, keepdim=True)
    second = wide(column(x)).gather(0, rows(i[:3], 2)).sum(1, keepdim=True)
    return first.sum() + second.sum()


def test_the_remedy_works_as_it_is_told() -> None:
    report = check(remedied)
    assert report.findings == () and report.shapeless_gathers == 0
    x, i = example()
    assert torch.equal(remedied(None, x, i), two_sizes(None, x, i))


UNMERGED: Dict[str, Tuple[int, Function]] = {
    "equal sizes": (2, lambda m, x, i: x[:, 0].gather(0, i) + x[:, 1].gather(0, 3 - i)),
    "one needs the other": (2, lambda m, x, i: x[:, 0].gather(0, i)[:4].gather(0, i[:3])),
    "one needs the other's index": (
        2,
        lambda m, x, i: x[:4, 0].gather(0, x[:, 1].gather(0, i).argsort().clamp(max=3)),
    ),
    "other dtypes": (2, lambda m, x, i: x[:, 0].gather(0, i).sum() + i[:4].clone().gather(0, i).sum()),
    "as rows": (1, lambda m, x, i: x[:, 0].gather(0, i).sum() + x.gather(0, rows(i[:3])).sum()),
}


@pytest.mark.parametrize("name", UNMERGED)
def test_gathers_that_would_not_be_merged_are_only_counted(name: str) -> None:
    count, function = UNMERGED[name]
    report = check(function)
    assert report.findings == () and report.shapeless_gathers == count, report.text()


def test_what_needs_a_shape_alone_waits_for_nothing() -> None:
    """ones_like of a gather's result is a constant: what is read from it later is read beside the gather."""

    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        first = x[:, 0].gather(0, i)
        return first.sum() + (torch.ones_like(first) * x[:, 1])[:4].gather(0, i).sum()  # here

    (finding,) = check(function).findings
    assert finding.kind == "merged gathers" and finding.where == marked(function)


def part_of_a_row(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.gather(0, rows(i, 2))  # here


def single_row(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.gather(0, rows(i[:1]))  # here


@pytest.mark.parametrize("run", [check, check_meta])
@pytest.mark.parametrize("function, words", [(part_of_a_row, "split the columns"), (single_row, "use index_select")])
def test_rows_that_come_out_in_another_shape_are_refused(
    function: Function, words: str, run: Callable[[Function], Report]
) -> None:
    """PopTorch's index_select gives whole rows, and none an axis of length 1, whatever its graph says."""
    (finding,) = run(function).findings
    assert (finding.kind, finding.operator, finding.where) == ("overload", "aten::gather", marked(function))
    assert words in finding.text


def test_of_several_examples_and_runs_the_largest_count_is_told() -> None:
    def counting(m: Any, x: Tensor, i: Tensor) -> Tensor:
        m.calls += 1
        return x[:, 0].gather(0, i) if m.calls == 2 else x[:, 0]

    report = check_program(Probe(counting), example(0), example(1))
    assert report.shapeless_gathers == 1


def test_the_count_is_told_beside_findings() -> None:
    finding = Finding("kind", "operator", "line", "text")
    assert Report((finding,), {}, 1).text() == "line: kind: operator: text\ngathers without a shape: 1"
    assert Report((finding,), {}).text() == "line: kind: operator: text"
    assert Report((), {"gather": 3}, 2).text().startswith("3 calls of 1 operators, 2 gathers without a shape: ")
