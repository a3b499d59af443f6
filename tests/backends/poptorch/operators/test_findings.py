"""Each thing that an IPU would not take is found, called by its name and placed on its line."""

import inspect
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.poptorch.operators.op_probes import Probe, check, check_meta, example, marked
from ipu_chem.backends.poptorch.operators.check import Finding, Report, check_program, merge

HOST = torch.full((4,), 2.0)


def index_add(m: Any, x: Tensor, i: Tensor) -> Tensor:
    zeros = torch.zeros(6, 4)
    return zeros.index_add(0, i, x)  # here


def segment_reduce(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return torch.segment_reduce(x, "sum", lengths=m.rows + 1, unsafe=True)  # here


def unsupported(m: Any, x: Tensor, i: Tensor) -> Tensor:
    y = x * 2
    return torch.hypot(x, y)  # here


def boolean_mask(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x[x > 0.5].sum()  # here


def masked_write(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.index_put((torch.arange(6) < 2,), x[:2])  # here


def nonzero(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.nonzero()  # here


def unique(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return torch.unique(i)  # here


def one_hot_of_unknown_width(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return functional.one_hot(i)  # here


def repeats_by_value(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return torch.repeat_interleave(x, i, 0)  # here


def item(m: Any, x: Tensor, i: Tensor) -> Tensor:
    scale = x.sum().item()  # here
    return x * scale


def if_tensor(m: Any, x: Tensor, i: Tensor) -> Tensor:
    if x.sum() > 0:  # here
        return x
    return -x


def to_list(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x * len(i.tolist())  # here


def to_numpy(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x * len(i.numpy())  # here


def printed(m: Any, x: Tensor, i: Tensor) -> Tensor:
    assert f"{x}"  # here
    return x


def double(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.to(torch.float64)  # here


def bfloat16(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.to(torch.bfloat16)  # here


def narrow_arithmetic(m: Any, x: Tensor, i: Tensor) -> Tensor:
    small = i.to(torch.uint8)
    return small + 1  # here


def attention(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(x[None], x[None], x[None])  # here


def multi_head_attention(m: Any, x: Tensor, i: Tensor) -> Tensor:
    weight, bias = m.weight[:6].t().reshape(6, 4)[:, :2], torch.zeros(6)
    square = torch.ones(2, 2)
    return functional.multi_head_attention_forward(  # here
        x[:, None, :2], x[:, None, :2], x[:, None, :2], 2, 1, weight, bias, None, None, False, 0.0, square,
        bias[:2], need_weights=False,
    )[0]  # fmt: skip


def tril_of_values(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return torch.tril(x @ m.weight.t())  # here


def triu_of_values(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return torch.triu(x)  # here


def host_tensor(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x * HOST  # here


def empty_slice(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x[:0]  # here


def exception(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x @ x  # here


def accumulating_write(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x.index_put((i,), x, accumulate=True)  # here


def write_with_a_step(m: Any, x: Tensor, i: Tensor) -> Tensor:
    y = x.clone()
    y[::2] = 0.0  # here
    return y


def rounded_division(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return torch.div(x, 3, rounding_mode="floor")  # here


def unequal_indices(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return x[i[:, None], i[None, :4]]  # here


def one_hot_of_a_buffer(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return functional.one_hot(m.rows.long(), 4)  # here


def class_weights(m: Any, x: Tensor, i: Tensor) -> Tensor:
    return functional.cross_entropy(x, i, weight=m.bounds[:4])  # here


CASES = [
    (index_add, "no handler", "aten::index_add", "scatter_add"),
    (segment_reduce, "no handler", "aten::segment_reduce", "scatter_reduce"),
    (unsupported, "no handler", "aten::hypot", "sqrt"),
    (boolean_mask, "data-dependent shape", "aten::index", "torch.where"),
    (masked_write, "data-dependent shape", "aten::index_put", "torch.where(mask, values, x)"),
    (nonzero, "data-dependent shape", "aten::nonzero", "mask"),
    (unique, "data-dependent shape", "aten::_unique2", "count on the host"),
    (one_hot_of_unknown_width, "data-dependent shape", "aten::one_hot", "give num_classes"),
    (repeats_by_value, "data-dependent shape", "aten::repeat_interleave", "expand"),
    (item, "host read", "aten::_local_scalar_dense", "before there are values"),
    (if_tensor, "host read", "aten::_local_scalar_dense", "torch.where"),
    (to_list, "host read", "Tensor.tolist", "before there are values"),
    (to_numpy, "host read", "Tensor.numpy", "before there are values"),
    (printed, "host read", "Tensor.__format__", "before there are values"),
    (double, "float64", "aten::_to_copy", "float32"),
    (bfloat16, "bfloat16", "aten::_to_copy", "float16 or float32"),
    (narrow_arithmetic, "narrow integers", "aten::add", "cast to int32 first"),
    (attention, "no handler", "aten::scaled_dot_product_attention", "softmax"),
    (multi_head_attention, "no handler", "aten::scaled_dot_product_attention", "softmax"),
    (tril_of_values, "no handler", "aten::tril", "constants"),
    (triu_of_values, "overload", "aten::triu", "constants only"),
    (host_tensor, "host tensor", "aten::mul", "register_buffer"),
    (empty_slice, "empty tensor", "aten::slice", "without elements"),
    (exception, "error", "RuntimeError", "the program stops: "),
    (accumulating_write, "overload", "aten::index_put", "scatter_add"),
    (write_with_a_step, "overload", "aten::copy_", "slices with a step"),
    (rounded_division, "overload", "aten::div", "floor_divide"),
    (unequal_indices, "overload", "aten::index", "expand them to one shape"),
    (one_hot_of_a_buffer, "overload", "aten::one_hot", "compare with torch.arange"),
    (class_weights, "overload", "aten::nll_loss_forward", "no class weights"),
]


@pytest.mark.parametrize("run", [check, check_meta])
@pytest.mark.parametrize("function, kind, operator, words", CASES, ids=[case[0].__name__ for case in CASES])
def test_what_an_ipu_would_not_take_is_found(
    function: Callable[..., Any], kind: str, operator: str, words: str, run: Callable[..., Report]
) -> None:
    findings = run(function).findings
    assert findings, "nothing was found"
    first = findings[0]
    assert (first.kind, first.operator, first.where) == (kind, operator, marked(function))
    assert words in first.text
    assert {finding.where for finding in findings} == {first.where}, "one line is wrong, and no other"


def energies(features: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A model that differentiates its energies by its positions itself, as force fields do."""

    def forces(m: Any, x: Tensor, i: Tensor) -> Tensor:
        pos = x.detach().requires_grad_(True)
        energy = features(pos).sum()
        return torch.autograd.grad(energy, pos, create_graph=True)[0]  # here

    return forces


ROWS = torch.tensor([0, 2, 1, 1, 0, 3])


@pytest.mark.parametrize(
    "features, operator, words",
    [
        (lambda pos: pos.index_select(0, torch.tensor([0, 2, 1])) ** 2, "aten::index_add", "gather"),
        (functional.softplus, "aten::softplus_backward", "elementary operators"),
        (functional.gelu, "aten::gelu_backward", "elementary operators"),
        (torch.tanh, "aten::tanh_backward", "elementary operators"),
        (torch.sigmoid, "aten::sigmoid_backward", "elementary operators"),
        (lambda pos: (pos * pos).abs(), "aten::sgn", "no abs"),
        (lambda pos: functional.layer_norm(pos, (4,)) ** 2, "aten::native_layer_norm_backward", "mean, sub, mul"),
        (lambda pos: pos.softmax(-1) ** 2, "aten::_softmax_backward_data", "exp"),
        (lambda pos: torch.cdist(pos, pos + 1), "aten::_cdist_backward", "sqrt"),
    ],
)  # fmt: skip
def test_derivatives_taken_inside_are_judged(features: Callable[[Tensor], Tensor], operator: str, words: str) -> None:
    function = energies(features)
    found = {finding.operator: finding for finding in check(function).findings}
    assert found[operator].kind == "no handler" and found[operator].where == marked(function)
    assert words in found[operator].text


def test_derivatives_in_the_recommended_forms_are_accepted() -> None:
    def softplus(x: Tensor) -> Tensor:
        up, down = torch.clamp(x, min=0), torch.clamp(-x, min=0)
        return torch.log1p(torch.exp(-(up + down))) + up

    def features(pos: Tensor) -> Tensor:
        rows = torch.zeros(6, 1, dtype=torch.int64).expand(-1, 4)
        offset = pos - pos.gather(0, rows)
        distance = torch.sqrt((offset * offset).sum(1) + 1e-12)
        middle = pos.split([1, 2, 1], 1)[1]
        return softplus(distance) * torch.cos(distance) + middle.sum(1) + torch.cat([pos, pos], 1).sum(1)

    assert check(energies(features)).findings == ()


def test_a_branch_on_the_data_is_found_without_any_read() -> None:
    """What Python keeps between calls decides; no operator tells."""

    def counting(m: Any, x: Tensor, i: Tensor) -> Tensor:
        m.calls += 1
        if m.calls % 2:
            return x * 2
        return x + 2  # here

    (finding,) = check(counting).findings
    assert finding.kind == "dynamic shape" and "mul at" in finding.text and "add at" in finding.text
    assert "shapes and operators must not depend on values" in finding.text


def test_a_branch_on_values_is_found_with_its_read_and_its_difference() -> None:
    def branching(m: Any, x: Tensor, i: Tensor) -> Tensor:
        if bool((x > 0).all()):
            return x
        return -x  # here

    report = check_program(Probe(branching), example(0, True), example(1, False))
    read, difference = report.findings
    assert read.kind == "host read"
    assert difference.kind == "dynamic shape" and difference.where == marked(branching)
    assert "the program has ended" in difference.text


def test_shapes_that_follow_values_are_found_once() -> None:
    def filtered(m: Any, x: Tensor, i: Tensor) -> Tensor:
        kept = x[x > 0.3]  # here
        return kept * 2

    (finding,) = check_program(Probe(filtered), example(0), example(1)).findings
    assert finding.kind == "data-dependent shape" and finding.where == marked(filtered)


def test_repeated_findings_are_counted() -> None:
    def loop(m: Any, x: Tensor, i: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.hypot(x, x)  # here
        return x

    report = check(loop)
    assert [finding.count for finding in report.findings] == [3]
    assert report.text() == (
        f"{marked(loop)}: no handler: aten::hypot (3 times): PopTorch has no handler for it; write sqrt(x * x + y * y)"
    )


def test_of_several_runs_the_largest_count_is_told() -> None:
    few, many = Finding("kind", "operator", "line", "text", 1), Finding("kind", "operator", "line", "text", 3)
    other = Finding("kind", "operator", "another line", "text")
    assert merge([[few], [many, other], [few]]) == [many, other]


def test_findings_before_an_exception_are_told_too() -> None:
    def breaks(m: Any, x: Tensor, i: Tensor) -> Tensor:
        torch.hypot(x, x)
        raise KeyError("no such thing")  # here

    first, second = check(breaks).findings
    assert first.operator == "aten::hypot"
    assert (second.kind, second.operator, second.where) == ("error", "KeyError", marked(breaks))
    assert "no such thing" in second.text


def test_what_no_line_outside_torch_ran_points_at_the_class() -> None:
    x = example()[0]
    (finding,) = check_program(nn.HuberLoss(), (x, x + 1)).findings
    assert finding.operator == "aten::huber_loss"
    file, line = finding.where.rsplit(":", 1)
    assert file == inspect.getsourcefile(nn.HuberLoss)
    assert int(line) == inspect.getsourcelines(nn.HuberLoss)[1]


def test_the_first_finding_is_raised_with_the_number_of_others() -> None:
    def several(m: Any, x: Tensor, i: Tensor) -> Tensor:
        return torch.hypot(x, x) + torch.lerp(x, x, 0.5) + torch.logaddexp(x, x)  # here

    with pytest.raises(ValueError, match=r"test_findings.py:\d+: IPUs cannot run aten::hypot: .*\(2 more findings\)"):
        check(several).raise_if_refused()
    check(lambda m, x, i: x * 2).raise_if_refused()


def test_a_clean_report_counts_its_operators() -> None:
    report = check(lambda m, x, i: x * 2 + x)
    assert report == Report((), {"add": 1, "mul": 1}, 0)
    assert report.text() == "2 calls of 2 operators, no gathers without a shape: PopTorch lowers them all"
    assert Finding("a", "b", "c", "d").count == 1


def test_examples_must_be_alike() -> None:
    program = Probe(lambda m, x, i: x)
    with pytest.raises(ValueError, match="needs an example"):
        check_program(program)
    x, i = example()
    for other in ((x[:3], i), (x.double(), i)):
        with pytest.raises(ValueError, match="equal shapes and dtypes"):
            check_program(program, (x, i), other)


def test_checking_changes_nothing() -> None:
    program = Probe(lambda m, x, i: (x @ m.weight.t()).relu().sum())
    before = {name: value.clone() for name, value in program.state_dict().items()}
    check_program(program, example())
    assert all(value.equal(before[name]) for name, value in program.state_dict().items())
    assert all(parameter.grad is None for parameter in program.parameters())
