"""Derivatives of slices and writes into them that PopTorch loses without a word are refused, and no others."""

from typing import Any, Callable, Dict

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backends.poptorch.operators.op_probes import check, check_meta, marked
from ipu_chem.backends.poptorch.operators.check import Report

Function = Callable[[Any, Tensor, Tensor], Any]
RUNS = pytest.mark.parametrize("run", [check, check_meta])


def derivative(energy: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    pos = x.detach().requires_grad_(True)
    return torch.autograd.grad(energy(pos).sum(), pos, create_graph=True)[0]


def of_a_slice(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return pos[:, :1] ** 2  # here

    return derivative(energy, x)


def of_a_column(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        first = pos[..., 0]  # here
        return first * first

    return derivative(energy, x)


def of_narrow(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return pos.narrow(0, 1, 2) ** 2  # here

    return derivative(energy, x)


def of_differences(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        steps = torch.diff(pos * 2, dim=0)  # here
        return steps * steps

    return derivative(energy, x)


def of_a_new_axis_behind_a_slice(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return (pos[:, None] - pos.unsqueeze(0)) ** 2  # here

    return derivative(energy, x)


def of_all_of_an_axis(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return pos[..., 0:9] ** 2  # here

    return derivative(energy, x)


def of_an_unflattened_axis(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return pos.unflatten(1, (2, 2))[..., 0, :] ** 2  # here

    return derivative(energy, x)


def of_every_other_row(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return pos[::2] ** 2  # here

    return derivative(energy, x)


def of_a_tensor_split(m: Any, x: Tensor, i: Tensor) -> Tensor:
    def energy(pos: Tensor) -> Tensor:
        return pos.tensor_split(2, 1)[0] ** 2  # here

    return derivative(energy, x)


def of_a_slice_of_weights(m: Any, x: Tensor, i: Tensor) -> Tensor:
    weight = m.weight[:4]  # here
    return torch.autograd.grad((x @ weight).sum(), m.weight)[0]


@RUNS
@pytest.mark.parametrize(
    "function",
    [
        of_a_slice,
        of_a_column,
        of_narrow,
        of_differences,
        of_a_new_axis_behind_a_slice,
        of_all_of_an_axis,
        of_an_unflattened_axis,
        of_every_other_row,
        of_a_tensor_split,
        of_a_slice_of_weights,
    ],
)
def test_derivatives_of_slices_are_refused_at_the_slice(function: Function, run: Callable[[Function], Report]) -> None:
    findings = run(function).findings
    assert findings and {finding.kind for finding in findings} == {"lost derivative"}
    assert {finding.operator for finding in findings} <= {"aten::slice_backward", "aten::select_backward"}
    assert {finding.where for finding in findings} == {marked(function)}, "the slice's line, not the derivative's"
    with pytest.raises(
        ValueError, match="zeros for the derivative of a slice .* use split, chunk or unbind, or gather"
    ):
        run(function).raise_if_refused()


def test_each_slice_is_told_by_its_own_line() -> None:
    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        pos = x.detach().requires_grad_(True)
        one = pos.narrow(1, 0, 1)
        other = pos.narrow(1, 1, 1)
        (gradient,) = torch.autograd.grad((one * other).sum(), pos, create_graph=True)  # here
        return gradient

    file, line = marked(function).rsplit(":", 1)
    wheres = [finding.where for finding in check(function).findings]
    assert sorted(wheres) == [f"{file}:{int(line) - 2}", f"{file}:{int(line) - 1}"]


def test_equal_slices_are_told_by_their_own_lines() -> None:
    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        pos = x.detach().requires_grad_(True)
        one = pos[:2]
        other = pos[:2]
        product = one * other
        (gradient,) = torch.autograd.grad(product.sum(), pos, create_graph=True)  # here
        return gradient

    file, line = marked(function).rsplit(":", 1)
    wheres = [finding.where for finding in check(function).findings]
    assert sorted(wheres) == [f"{file}:{int(line) - 3}", f"{file}:{int(line) - 2}"]


def test_slices_of_a_derivative_are_told_by_the_derivatives_line() -> None:
    """torch slices in the derivative of cat; a derivative of that is one of a slice."""

    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        pos = x.detach().requires_grad_(True)
        energy = (torch.cat([pos, pos * pos], 1) ** 2).sum()
        (first,) = torch.autograd.grad(energy, pos, create_graph=True)  # here
        (second,) = torch.autograd.grad((first * first).sum(), pos, create_graph=True)
        return second

    findings = check(function).findings
    assert {(finding.kind, finding.where) for finding in findings} == {("lost derivative", marked(function))}


RIGHT: Dict[str, Callable[[Tensor], Tensor]] = {
    "split": lambda pos: pos.split(1, 1)[0] ** 2,
    "split of several sizes": lambda pos: pos.split([1, 3], 1)[0] ** 2,
    "chunk": lambda pos: pos.chunk(2, 1)[0] ** 2,
    "unbind": lambda pos: pos.unbind(1)[0] ** 2,
    "rows one by one": lambda pos: sum(row for row in pos) ** 2,  # type: ignore[misc]
    "pad": lambda pos: functional.pad(pos, (1, 1)) ** 2,
    "cat and stack": lambda pos: torch.cat([pos, 2 * pos], 1) ** 2 + torch.stack([pos, pos * pos]).sum(0).sum(),
    "roll and flip": lambda pos: pos.roll(1, 0) ** 2 + pos.flip(0),
    "rows by a constant": lambda pos: pos.gather(0, torch.zeros(6, 1, dtype=torch.int64, device=pos.device)) ** 2,
    "new axes": lambda pos: (pos.unsqueeze(1) - pos.unsqueeze(0)) ** 2 + pos[..., None].sum() + pos[None].sum(),
    "reductions": lambda pos: pos.amax(1) ** 2 + pos.max(1).values + pos.sort(1).values.sum(1) + pos.cumsum(1).sum(1),
    "a slice of what is no argument of it": lambda pos: pos * pos.detach()[:, :1],
}  # fmt: skip


@RUNS
@pytest.mark.parametrize("name", RIGHT)
def test_derivatives_that_poptorch_takes_rightly_pass(name: str, run: Callable[[Function], Report]) -> None:
    report = run(lambda m, x, i: derivative(RIGHT[name], x))
    assert report.findings == (), report.text()


def test_slices_pass_where_nothing_is_differentiated_inside() -> None:
    assert check(lambda m, x, i: x[:, :1] + x[..., 0:1] + m.weight[:6, None, 0]).findings == ()


@pytest.mark.parametrize(
    "energy, operator",
    [
        (lambda pos: functional.dropout(pos, 0.5), "aten::dropout"),
        (lambda pos: functional.dropout(pos, 0.5, False) * pos, "aten::dropout"),
        (lambda pos: torch.take_along_dim(pos, pos.argmax(1, keepdim=True), 1), "aten::take_along_dim"),
        (lambda pos: functional.l1_loss(pos, 2 * pos), "aten::l1_loss"),
    ],
)
@RUNS
def test_derivatives_that_are_left_out_are_refused(
    energy: Callable[[Tensor], Tensor], operator: str, run: Callable[[Function], Report]
) -> None:
    """PopTorch takes these whole before torch would record what their derivative is made of."""
    found = {finding.operator: finding for finding in run(lambda m, x, i: derivative(energy, x)).findings}
    assert found[operator].kind == "lost derivative" and "leaves out its derivative" in found[operator].text


def test_what_has_no_derivative_inside_may_stand_beside_one() -> None:
    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        return derivative(lambda pos: pos * pos, x) + functional.dropout(x @ m.weight.t()[:, :4], 0.5)

    assert check(function).findings == ()


def into_constants(m: Any, x: Tensor, i: Tensor) -> Tensor:
    y = torch.zeros(6, 4, device=x.device)
    y[:, :2] = x.split(2, 1)[0]  # here
    return y


def by_a_method(m: Any, x: Tensor, i: Tensor) -> Tensor:
    y = x * 2
    y[:2].mul_(3)  # here
    return y.sum()


def into_a_chunk(m: Any, x: Tensor, i: Tensor) -> Tensor:
    y = x * 2
    y.chunk(2, 1)[0].copy_(x.chunk(2, 1)[1])  # here
    return y + 1


def into_a_transposed_tensor(m: Any, x: Tensor, i: Tensor) -> Tensor:
    y = x * 2
    y.t()[0].copy_(x.unbind(1)[1])  # here
    return y


@RUNS
@pytest.mark.parametrize("function", [into_constants, by_a_method, into_a_chunk, into_a_transposed_tensor])
def test_writes_that_would_be_lost_are_refused(function: Function, run: Callable[[Function], Report]) -> None:
    (finding,) = run(function).findings
    assert (finding.kind, finding.where) == ("lost write", marked(function))
    assert "torch.where or torch.cat" in finding.text


def kept(write: Callable[[Tensor, Tensor], Any], start: Callable[[Tensor], Tensor] = torch.clone) -> Function:
    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        y = start(x)
        part = write(y, x)
        return y.sum() if part is None else part

    return function


KEPT: Dict[str, Function] = {
    "assigned": kept(lambda y, x: y.__setitem__(slice(2), x[2:4] * 3)),
    "a number": kept(lambda y, x: y.__setitem__((slice(None), 1), 0.0)),
    "twice": kept(lambda y, x: y.__setitem__(slice(2), y[:2].mul_(3))),
    "into a select of a slice": kept(lambda y, x: y[1:3][0].copy_(x[0] * 2).sum() * 0 + y.sum()),
    "only the part is read": kept(lambda y, x: y.chunk(2, 1)[0].mul_(3) + 1),
    "a part of the part": kept(lambda y, x: y.chunk(2, 1)[0].mul_(3)[:2] + 1),
    "written over as a whole": kept(lambda y, x: (y.chunk(2, 1)[0].mul_(3), y.copy_(x))[1] + 1),
    "like another tensor": kept(lambda y, x: y.__setitem__(slice(2), x[:2] * 2), torch.zeros_like),
    "numbers into constants": kept(lambda y, x: y.__setitem__(slice(2), 2.0), lambda x: torch.ones(6, device=x.device)),
    "an input": lambda m, x, i: (x[:2].mul_(3), x.sum())[1],
    "all of it": kept(lambda y, x: y.add_(x).mul_(2)),
}  # fmt: skip


@RUNS
@pytest.mark.parametrize("name", KEPT)
def test_writes_that_poptorch_keeps_pass(name: str, run: Callable[[Function], Report]) -> None:
    report = run(KEPT[name])
    assert report.findings == (), report.text()
