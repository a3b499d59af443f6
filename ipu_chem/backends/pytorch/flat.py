"""Weights in one tensor, so that a step of an optimizer is one call and not one for every weight.

A small model has some fifty weights of a few thousand numbers: its optimizer spends more time on the turn of each than
on the numbers. Checkpoints do not show it, the optimizer's values are kept weight by weight.
"""

from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor, nn

_LINE = 64  # bytes of a cache line, where every weight begins
State = Dict[int, Dict[str, Any]]  # of an optimizer: place of a weight among all -> name -> value


class FlatWeights:
    """Weights of an optimizer's groups, those of a group one after the other in one tensor.

    The weights stay parameters of their model, as views of it, and so are their gradients, which are never None.

    Attributes:
        groups: of the optimizer, as they were but of one tensor each.
        values: those tensors.
    """

    def __init__(self, groups: Sequence[Dict[str, Any]]) -> None:
        """Move weights of one format on the CPU.

        Args:
            groups: dictionaries with "params", a list of weights, and options of the optimizer.
        """
        self._groups = [_Group(list(group["params"])) for group in groups]
        self.values = [group.value for group in self._groups]
        self.groups = [{**group, "params": [value]} for group, value in zip(groups, self.values)]

    def clear_gradients(self) -> None:
        """Set all of them to 0; weights and gradients that somebody has replaced are views again."""
        for group in self._groups:
            group.take()
            assert group.value.grad is not None
            group.value.grad.zero_()

    def apart(self, state: State) -> State:
        """An optimizer's state of the tensors as one of the weights, whose values are views or the same."""
        weights: List[Dict[str, Any]] = []
        for number, group in enumerate(self._groups):
            parts: List[Dict[str, Any]] = [{} for _ in group.weights]
            for name, value in state.get(number, {}).items():
                whole = isinstance(value, Tensor) and value.shape == group.value.shape
                for part, piece in zip(parts, group.views(value) if whole else [value] * len(parts)):
                    part[name] = piece
            weights += parts
        return {place: values for place, values in enumerate(weights) if values}

    def together(self, state: State) -> State:
        """The reverse; a weight without values, which no optimizer has moved yet, gets zeros."""
        joined: State = {}
        first = 0
        for number, group in enumerate(self._groups):
            own = [state.get(first + place, {}) for place in range(len(group.weights))]
            first += len(own)
            for name, value in {name: value for values in own for name, value in values.items()}.items():
                if name != "step" and isinstance(value, Tensor):
                    value = torch.zeros_like(group.value.detach())
                    for view, values in zip(group.views(value), own):
                        if name in values:
                            view.copy_(values[name])
                joined.setdefault(number, {})[name] = value
        return joined


class _Group:
    """Weights of one group."""

    def __init__(self, weights: List[nn.Parameter]) -> None:
        self.weights = weights
        line = _LINE // weights[0].element_size()
        self._starts, size = [], 0
        for weight in weights:
            self._starts.append(size)
            size += -(-weight.numel() // line) * line
        self.value = nn.Parameter(torch.zeros(size, dtype=weights[0].dtype))
        self.value.grad = torch.zeros_like(self.value)
        self.take()

    def take(self) -> None:
        """Make weights and gradients views; otherwise the optimizer would move what no model reads."""
        assert self.value.grad is not None
        size, first, first_gradient = self.value.element_size(), self.value.data_ptr(), self.value.grad.data_ptr()
        for weight, start in zip(self.weights, self._starts):
            gradient = weight.grad
            here = weight.data_ptr() == first + size * start
            if here and gradient is not None and gradient.data_ptr() == first_gradient + size * start:
                continue
            assert weight.dtype == self.value.dtype, "the model has been moved to another format"
            own = slice(start, start + weight.numel())
            if not here:
                weight.data = self.value.data[own].view(weight.shape).copy_(weight.data)
            weight.grad = self.value.grad[own].view(weight.shape)

    def views(self, whole: Tensor) -> List[Tensor]:
        """Parts of a tensor like `value`, in the shapes of the weights."""
        places = zip(self._starts, self.weights)
        return [whole[start : start + weight.numel()].view(weight.shape) for start, weight in places]
