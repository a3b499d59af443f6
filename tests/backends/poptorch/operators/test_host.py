"""Tensors that a program makes on the host are refused where they meet the device's, and the others are not."""

from typing import Any, Callable, Dict

import numpy as np
import pytest
import torch
from torch import Tensor

from backends.poptorch.operators.op_probes import check, check_meta
from ipu_chem.backends.poptorch.operators.check import Report

Function = Callable[[Any, Tensor, Tensor], Any]
RUNS = pytest.mark.parametrize("run", [check, check_meta])
NUMBERS = np.ones(4, np.float32)

# PopTorch replaces some of torch's constructors by its own, and none of these.
MADE_ON_HOST: Dict[str, Function] = {
    "eye": lambda m, x, i: x @ torch.eye(4),
    "scalar_tensor": lambda m, x, i: x * torch.scalar_tensor(2.0),
    "tril_indices": lambda m, x, i: x[torch.tril_indices(3, 3)[0]],
    "triu_indices": lambda m, x, i: x.index_select(0, torch.triu_indices(3, 3)[1]),
    "as_tensor of a list": lambda m, x, i: x * torch.as_tensor([1.0, 2.0, 3.0, 4.0]),
    "as_tensor of an array": lambda m, x, i: x * torch.as_tensor(NUMBERS),
    "asarray": lambda m, x, i: x * torch.asarray([1.0, 2.0, 3.0, 4.0]),
    "from_numpy": lambda m, x, i: x * torch.from_numpy(NUMBERS),
    "Tensor": lambda m, x, i: x * torch.Tensor([1.0, 2.0, 3.0, 4.0]),
    "hann_window": lambda m, x, i: x * torch.hann_window(4),
    "hamming_window": lambda m, x, i: x * torch.hamming_window(4),
    "computed on the host": lambda m, x, i: x @ (torch.eye(4) * 2).t(),
    "in another format": lambda m, x, i: x @ torch.eye(4, dtype=torch.int64).to(torch.float32),
}

MADE_ON_DEVICE: Dict[str, Function] = {
    "replaced ones": lambda m, x, i: x + torch.zeros(4) + torch.ones(4) + torch.full((4,), 1.0) + torch.arange(4),
    "linspace": lambda m, x, i: x + torch.linspace(0, 1, 4) + torch.logspace(0, 1, 4),
    "tensor": lambda m, x, i: x * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "like others": lambda m, x, i: x + torch.zeros_like(x) + x.new_ones(4) + x.new_tensor([1.0, 2.0, 3.0, 4.0]),
    "with a device": lambda m, x, i: x @ torch.eye(4, device=x.device),
    "moved": lambda m, x, i: x @ torch.eye(4).to(x.device) * torch.as_tensor(NUMBERS).to(x),
    "moved by type_as": lambda m, x, i: x @ torch.eye(4).type_as(x),
    "as_tensor of the device's": lambda m, x, i: torch.as_tensor(x) * 2,
    "numbers that operators make": lambda m, x, i: torch.where(x > 0, x, 0.0) * 2,
    "read on the host": lambda m, x, i: x * float(torch.as_tensor(2.0)) * len(torch.from_numpy(NUMBERS).tolist()),
}


@RUNS
@pytest.mark.parametrize("name", MADE_ON_HOST)
def test_what_the_host_makes_is_refused(name: str, run: Callable[[Function], Report]) -> None:
    findings = run(MADE_ON_HOST[name]).findings
    assert [finding.kind for finding in findings] == ["host tensor"]
    assert (
        findings[0].where.startswith("tests/backends/poptorch/operators/test_host.py:")
        or "test_host.py:" in findings[0].where
    )
    assert "use register_buffer, or .to(x.device)" in findings[0].text


@RUNS
@pytest.mark.parametrize("name", MADE_ON_DEVICE)
def test_what_the_device_makes_passes(name: str, run: Callable[[Function], Report]) -> None:
    report = run(MADE_ON_DEVICE[name])
    assert report.findings == (), report.text()


def test_a_tensor_of_the_host_is_told_once_where_it_is_first_used() -> None:
    def function(m: Any, x: Tensor, i: Tensor) -> Tensor:
        square = torch.eye(4)
        return x @ square + x @ square

    (finding,) = check(function).findings
    assert finding.operator == "aten::mm" and finding.count == 1


def test_integer_buffers_are_constants() -> None:
    """PopTorch makes parameters of floats alone: what is computed of integer buffers needs no handler."""
    report = check(lambda m, x, i: x[:3] * torch.hypot(m.rows.float(), m.rows.float()).unsqueeze(1))
    assert report.findings == (), report.text()
    assert check(lambda m, x, i: torch.hypot(m.bounds, m.bounds)).findings != ()
