"""Lines of code to name in findings: the one that runs now, and the one whose derivative is taken now."""

import inspect
import os
import sys
from functools import lru_cache
from types import CodeType
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from ipu_chem.backends.poptorch.meta import tensors_of

_TORCH = os.path.dirname(inspect.getfile(torch)) + os.sep
_RECORDERS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MARK = "ipu_chem.line"  # in the metadata of autograd's nodes
# Nodes whose operators need the line of the forward code: what they run has the same name for every caller.
_FOLLOWED = ("SliceBackward", "SelectBackward", "GatherBackward", "ScatterAddBackward", "AsStridedBackward")


def line_now(last: CodeType, otherwise: str) -> str:
    """file:line of the innermost frame outside torch and this backend, of those that `last` has called."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not last:
        if _is_outside(frame.f_code.co_filename):
            return _place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return otherwise


def line_of(traceback: Any, otherwise: str) -> str:
    """file:line of an exception: the innermost frame outside torch and this backend."""
    frames = [frame for frame in inspect.getinnerframes(traceback) if _is_outside(frame.filename)]
    return _place(frames[-1].filename, frames[-1].lineno) if frames else otherwise


def definition(kind: type) -> str:
    """file:line of a class."""
    try:
        return f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return kind.__name__


class ForwardLines:
    """Lines of the forward code that made nodes of autograd's graph, found while a node's derivative runs."""

    def __init__(self) -> None:
        self.differentiated: Optional[str] = None  # while such a node runs
        self._slices: Dict[Any, List[str]] = {}  # lines of slices, by what was sliced and how

    def label(self, result: Any, line: Callable[[], str]) -> None:
        """Give the nodes that a function has made its line.

        Args:
            result: of the function.
            line: file:line of its call; asked for only if there are new nodes.
        """
        waiting: List[Any] = [tensor.grad_fn for tensor in tensors_of(result) if tensor.grad_fn is not None]
        waiting = [node for node in waiting if _MARK not in node.metadata]
        where = line() if waiting else ""
        while waiting:
            node = waiting.pop()
            if node is None or _MARK in node.metadata:
                continue
            node.metadata[_MARK] = where
            if node.name().startswith(_FOLLOWED):
                node.register_prehook(lambda _: self._enter(where))
                node.register_hook(lambda *_: self._enter(None))
            waiting.extend(parent for parent, _ in node.next_functions)

    def note_slice(self, name: str, arguments: Dict[str, Any], where: str) -> None:
        """Remember a slice or select: torch 2.0.1 shows x[:2] to no function, so that `label` comes a line too late.

        Args:
            name: slice or select.
            arguments: of the operator, by name.
            where: file:line.
        """
        self._slices.setdefault(_slice_key(name, arguments["self"].shape, arguments), []).append(where)

    def of_slice(self, name: str, arguments: Dict[str, Any]) -> Optional[str]:
        """file:line of the slice whose derivative runs now, if it is known.

        Args:
            name: slice_backward or select_backward.
            arguments: of the operator, by name.
        """
        lines = self._slices.get(_slice_key(name[: -len("_backward")], arguments["input_sizes"], arguments), [])
        if not lines or self.differentiated in lines:
            return self.differentiated
        # Equal slices of several lines: derivatives run in the opposite order.
        return lines.pop() if len(set(lines)) > 1 else lines[0]

    def _enter(self, where: Optional[str]) -> None:
        self.differentiated = where


def _slice_key(name: str, shape: Sequence[int], arguments: Dict[str, Any]) -> Any:
    axis = arguments.get("dim", 0) % len(shape)
    if name == "select":
        return name, tuple(shape), axis, arguments["index"] % shape[axis]
    part = slice(arguments.get("start"), arguments.get("end"), arguments.get("step", 1))
    return name, tuple(shape), axis, part.indices(shape[axis])


def call_at_derivative(result: Any, action: Callable[[], None]) -> Any:
    """A function's result, with an action whenever a derivative runs through it."""
    return torch.utils._pytree.tree_map(lambda value: _hooked(value, action), result)


def _hooked(value: Any, action: Callable[[], None]) -> Any:
    if not isinstance(value, Tensor) or not value.requires_grad:
        return value
    value = value.view_as(value)  # a function may return its argument, whose derivative is no matter of it
    value.register_hook(lambda _: action())
    return value


def _is_outside(file: str) -> bool:
    return not file.startswith((_TORCH, _RECORDERS))


def _place(file: str, line: int) -> str:
    """file:line, relative to the working directory where that is shorter."""
    return f"{_shorter(file, os.getcwd())}:{line}"


@lru_cache(maxsize=256)
def _shorter(file: str, folder: str) -> str:
    relative = os.path.relpath(file, folder) if os.path.exists(file) else file
    return file if relative.startswith("..") else relative
