"""Programs of one or two operators, and where a finding must point to."""

import inspect
import os
from typing import Any, Callable, Tuple

import torch
from torch import Tensor, nn

from ipu_chem.backends.poptorch.operators.check import Report, check_program


class Probe(nn.Module):
    """A function of (module, x [6, 4] float, i [6] int64 in 0..3) as a program with weights and buffers."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.linspace(-1, 1, 32).reshape(8, 4))
        self.register_buffer("bounds", torch.linspace(0, 1, 5))
        self.register_buffer("rows", torch.tensor([0, 2, 1]))
        self.calls = 0

    def forward(self, x: Tensor, i: Tensor) -> Any:
        return self.function(self, x, i)


def example(seed: int = 0, positive: bool = True) -> Tuple[Tensor, Tensor]:
    """Other seeds give other contents in the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 4, generator=generator)
    return (x.abs() if positive else -x.abs()), torch.randint(0, 4, (6,), generator=generator)


def check(function: Callable[..., Any]) -> Report:
    """On two examples of equal contents in what decides, so that only the operators are judged."""
    return check_program(Probe(function), example(0), example(1))


def marked(function: Callable[..., Any]) -> str:
    """file:line of the line with the comment "here"."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [number for number, line in enumerate(lines) if line.rstrip().endswith("# here")]
    file = inspect.getsourcefile(function)
    assert file is not None
    relative = os.path.relpath(file)
    return f"{file if relative.startswith('..') else relative}:{first + offset}"


def check_meta(function: Callable[..., Any]) -> Report:
    """`check` on the meta device, where tensors have no values."""
    examples = [tuple(tensor.to("meta") for tensor in example(seed)) for seed in (0, 1)]
    return check_program(Probe(function).to("meta"), *examples)
