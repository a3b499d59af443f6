"""What IPUs take is not complained about, and the list of operators is PopTorch's."""

from pathlib import Path
from typing import Any, Callable, Dict, Set

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backends.poptorch.operators.op_probes import Probe, check, check_meta, example
from ipu_chem.backends.poptorch.operators.check import Report, check_program
from ipu_chem.backends.poptorch.operators.handlers import (
    BY_VALUE,
    HANDLED,
    HOST_READS,
    LOST_DERIVATIVES,
    MADE_ON_HOST,
    NO_DERIVATIVES,
    RANDOM,
    SAME_AS,
    TAKEN_APART,
    WHOLE,
    base_name,
    handled,
)
from ipu_chem.backends.poptorch.operators.overloads import _REFUSALS

Function = Callable[[Any, Tensor, Tensor], Any]


def rows(i: Tensor) -> Tensor:
    return i.unsqueeze(1).expand(-1, 4)


def written(write: Callable[[Tensor, Tensor], None]) -> Function:
    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        y = x.clone()
        write(y, i)
        return y

    return function


ACCEPTED: Dict[str, Function] = {
    "gather": lambda m, x, i: x.gather(0, rows(i)),
    "index_select": lambda m, x, i: x.index_select(0, i),
    "scatter_add": lambda m, x, i: torch.zeros(6, 4).scatter_add(0, rows(i), x),
    "scatter_reduce": lambda m, x, i: torch.zeros(6, 4).scatter_reduce(0, rows(i), x, "mean"),
    "scatter": lambda m, x, i: torch.zeros(6, 4).scatter(0, rows(i), x),
    "index": lambda m, x, i: x[i],
    "index_put": lambda m, x, i: x.index_put((i,), torch.zeros(4)),
    "write rows": written(lambda y, i: y.__setitem__(i, 0.0)),
    "write a slice": written(lambda y, i: y.__setitem__(slice(2), 0.0)),
    "write a column": written(lambda y, i: y.__setitem__((slice(None), 1), 0.0)),
    "write where a mask is": written(lambda y, i: y.__setitem__(y > 0.5, 0.0)),
    "in place": lambda m, x, i: x.clone().add_(1).mul_(2),
    "topk": lambda m, x, i: torch.topk(x, 2).values,
    "sort": lambda m, x, i: torch.sort(x)[0],
    "argsort": lambda m, x, i: torch.argsort(x),
    "cdist": lambda m, x, i: torch.cdist(x, x),
    "einsum": lambda m, x, i: torch.einsum("ij,kj->ik", x, x),
    "cumsum": lambda m, x, i: x.cumsum(0),
    "roll": lambda m, x, i: x.roll(-1, 0),
    "one_hot": lambda m, x, i: functional.one_hot(i, 4),
    "embedding": lambda m, x, i: functional.embedding(i, m.weight),
    "embedding with padding": lambda m, x, i: functional.embedding(i, m.weight, padding_idx=0),
    "masked_fill": lambda m, x, i: x.masked_fill(x > 0, 0.0),
    "where": lambda m, x, i: torch.where(x > 0, x, torch.zeros(())),
    "where with a number": lambda m, x, i: torch.where(x > 0, x, 0.0),
    "softplus": lambda m, x, i: functional.softplus(x),
    "silu": lambda m, x, i: functional.silu(x),
    "gelu": lambda m, x, i: functional.gelu(x, approximate="tanh"),
    "relu": lambda m, x, i: functional.relu(x),
    "tanh, sigmoid": lambda m, x, i: x.tanh() + x.sigmoid(),
    "layer_norm": lambda m, x, i: functional.layer_norm(x, (4,)),
    "layer_norm with weights": lambda m, x, i: functional.layer_norm(x, (4,), m.weight[0], m.weight[1]),
    "batch_norm": lambda m, x, i: functional.batch_norm(x, None, None, training=True),
    "group_norm": lambda m, x, i: functional.group_norm(x, 2),
    "softmax": lambda m, x, i: torch.softmax(x, -1),
    "cross_entropy": lambda m, x, i: functional.cross_entropy(x, i, ignore_index=-100),
    "cross_entropy, sum": lambda m, x, i: functional.cross_entropy(x, i, reduction="sum"),
    "mse_loss": lambda m, x, i: functional.mse_loss(x, 2 * x),
    "l1_loss": lambda m, x, i: functional.l1_loss(x, 2 * x),
    "smooth_l1_loss": lambda m, x, i: functional.smooth_l1_loss(x, 2 * x),
    "binary_cross_entropy": lambda m, x, i: functional.binary_cross_entropy_with_logits(x, x.sigmoid()),
    "kl_div": lambda m, x, i: functional.kl_div(x, x.sigmoid(), reduction="sum"),
    "logsumexp": lambda m, x, i: torch.logsumexp(x, -1),
    "norms": lambda m, x, i: torch.linalg.norm(x, dim=-1) + x.norm(dim=-1) + torch.linalg.vector_norm(x, dim=-1),
    "acos, erfc, rsqrt": lambda m, x, i: torch.acos(x.clamp(-1, 1)) + torch.erfc(x) + torch.rsqrt(x * x + 1),
    "bucketize": lambda m, x, i: torch.bucketize(x, m.bounds),
    "tril of a constant": lambda m, x, i: x[:4] * torch.tril(torch.ones(4, 4)),
    "triu of a constant": lambda m, x, i: x[:4] * torch.triu(torch.ones(4, 4), 1),
    "a constant": lambda m, x, i: x * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "an identity matrix": lambda m, x, i: x @ torch.eye(4).to(x.device),
    "linear, matmul": lambda m, x, i: functional.linear(x, m.weight) @ m.weight,
    "bmm, baddbmm": lambda m, x, i: torch.baddbmm(x[None], x[None], torch.bmm(x[None, :4], x[None, :4])),
    "cat, stack, split, chunk": lambda m, x, i: torch.cat([*x.split(2, 1), *torch.stack([x, x]).chunk(2)[0]], 1),
    "reductions": lambda m, x, i: x.sum(0) + x.mean(0) + x.amax(0) + x.min(0).values + x.std(0) + x.var(0),
    "reductions to one": lambda m, x, i: x.max() + x.prod() + (x > 0).any() + (x > 0).all(),
    "powers": lambda m, x, i: x**2 + x**3.0 + torch.sqrt(x) + torch.exp(x) + torch.log1p(x),
    "integer arithmetic": lambda m, x, i: (i.to(torch.int32) + 1) * 2 // 3 % 4,
    "masks": lambda m, x, i: ~((x > 0) & (x < 1) | torch.logical_not(x > 2)),
    "casts": lambda m, x, i: x.half().float() + i.to(torch.int32).bool().unsqueeze(1) + x.int(),
    "small integers are cast": lambda m, x, i: x * i.to(torch.uint8).reshape(6, 1).float(),
    "views": lambda m, x, i: x.t().contiguous().reshape(2, 12).unsqueeze(0).permute(2, 0, 1).squeeze(1)[::2].flip(0),
    "repeats": lambda m, x, i: x.repeat(2, 1) + x[None].expand(2, -1, -1).reshape(12, 4) + torch.tile(x, (2, 1)),
    "dropout": lambda m, x, i: functional.dropout(x, 0.5, True) + functional.dropout(x, 0.5, False),
    "random numbers": lambda m, x, i: x + torch.rand(6, 4) + torch.randn_like(x) + torch.bernoulli(x.sigmoid()),
    "finite": lambda m, x, i: torch.isnan(x) | torch.isinf(x),
    "sorted places": lambda m, x, i: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
    "cross": lambda m, x, i: torch.linalg.cross(x[:, :3], x[:, 1:]),
    "bincount": lambda m, x, i: torch.bincount(i, minlength=4),
    "convolution, pooling": lambda m, x, i: functional.max_pool1d(functional.conv1d(x[None], torch.ones(2, 6, 3)), 2),
    "adaptive pooling": lambda m, x, i: functional.adaptive_avg_pool1d(x[None], 2),
    "arange": lambda m, x, i: torch.arange(6) * i,
}  # fmt: skip


@pytest.mark.parametrize("run", [check, check_meta])
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_ipus_take_is_not_complained_about(name: str, run: Callable[[Function], Report]) -> None:
    assert run(ACCEPTED[name]).text().endswith("PopTorch lowers them all")


def test_attention_is_taken_where_nothing_is_differentiated() -> None:
    """torch 2.0.1 takes it apart then; in training PopTorch refuses it."""

    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)

    assert check_program(Probe(function).eval(), example()).findings == ()
    (finding,) = check_program(Probe(function).train(), example()).findings
    assert finding.operator == "aten::scaled_dot_product_attention"
    dropped = Probe(lambda m, x, i: functional.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5))
    assert check_program(dropped.eval(), example()).findings != ()


def facts(folder: Path) -> "Dict[str, str]":
    """ATen operators that PopTorch 3.4 knows -> what becomes of them."""
    text = (folder / "facts" / "poptorch_supported_aten.txt").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if line.startswith("aten::")]
    return {name[len("aten::") :]: path for name, path, *_ in lines}


def test_handled_operators_are_poptorchs(shared: Path) -> None:
    known = facts(shared)
    lowered = {name for name, path in known.items() if path.startswith(("canonicalise", "dispatcher"))}
    # In-place names that PopTorch makes out of place are known without their underscore.
    twins = "feature_dropout index_put scatter scatter_add scatter_reduce squeeze transpose".split()
    assert HANDLED == lowered - {f"{name}_" for name in twins} and HANDLED >= set(twins)
    refused = set(known) - lowered
    assert not any(handled(name) for name in refused)
    assert {"alias", "convolution_backward", "select_scatter"} <= refused and {
        "item",
        "_local_scalar_dense",
    } <= HOST_READS


@pytest.mark.parametrize(
    "name, verdict",
    [
        ("aten::add.Tensor", True),
        ("aten::add_.Tensor", True),
        ("aten::__and__.Tensor", True),
        ("aten::copy_", True),
        ("aten::copy", False),  # it exists in place only
        ("aten::scatter_add_", True),
        ("aten::index_add_", False),
        ("aten::_unsafe_index.Tensor", True),
        ("aten::zero_", True),
        ("aten::slice_backward", False),
        ("aten::select_backward", False),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", False),
        ("aten::softplus_backward", False),
        ("torch_scatter::scatter_max", False),
    ],
)
def test_names_of_any_torch_are_understood(name: str, verdict: bool) -> None:
    assert handled(name) is verdict


def test_tables_speak_of_operators_that_there_are() -> None:
    assert all(set(parts) <= HANDLED for parts in TAKEN_APART.values())
    assert not set(TAKEN_APART) & HANDLED and not set(BY_VALUE) & HANDLED
    known: Set[str] = HANDLED | set(TAKEN_APART) | {"scaled_dot_product_attention"}
    assert set(SAME_AS.values()) <= known
    named = {name for entry in _REFUSALS for name in entry.names}
    # Rules are about operators that would pass otherwise.
    assert {name for name in named if not handled(name)} == set()
    assert all(hasattr(torch.ops.aten, base_name(name)) for name in named)
    assert {name for name in RANDOM if handled(name)} >= {"dropout", "bernoulli", "uniform_", "randn"}
    assert all(handled(name) for name in NO_DERIVATIVES) and not any(handled(name) for name in LOST_DERIVATIVES)
    assert all(hasattr(torch, name) for name in MADE_ON_HOST) and not MADE_ON_HOST & WHOLE
