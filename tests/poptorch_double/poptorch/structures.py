"""Nested values as flat lists of tensors and back (python/_utils.py); NamedTuples keep their class."""

from typing import Any, Iterator, List, Sequence

from torch import Tensor

from .poptorch_core import Error

_END = "; the program is compiled for fixed inputs: call destroy() on it, or make a new one, to compile it for others"


def flatten(value: Any, like: Any = None) -> List[Tensor]:
    """Tensors in order; dicts in the order of those in ``like`` if it is given."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        parts = [None] * len(value) if like is None else like
        return [tensor for part, other in zip(value, parts) for tensor in flatten(part, other)]
    if isinstance(value, dict):
        keys = value if like is None else like
        return [tensor for key in keys for tensor in flatten(value[key], None if like is None else like[key])]
    return []


def rebuild(structure: Any, tensors: Sequence[Tensor]) -> Any:
    """The same structure with other tensors, in the order of `flatten`."""
    return _rebuild(structure, iter(tensors))


def _rebuild(structure: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(structure, Tensor):
        return next(tensors)
    if isinstance(structure, dict):
        return type(structure)({key: _rebuild(part, tensors) for key, part in structure.items()})
    if isinstance(structure, (list, tuple)):
        parts = [_rebuild(part, tensors) for part in structure]
        return type(structure)(*parts) if hasattr(structure, "_fields") else type(structure)(parts)
    return structure


def check_same(name: str, compiled: Any, given: Any) -> None:
    """Refuse arguments of another type, shape or dtype than those that the program was compiled with."""
    if type(compiled) is not type(given):
        raise Error(f"{name} is a {type(given).__name__}, compiled for {type(compiled).__name__}{_END}")
    if isinstance(compiled, Tensor):
        if compiled.dtype != given.dtype:
            raise Error(f"{name} has data type {given.dtype}, compiled for {compiled.dtype}{_END}")
        if compiled.shape != given.shape:
            raise Error(f"{name} has shape {list(given.shape)}, compiled for {list(compiled.shape)}{_END}")
    elif isinstance(compiled, (list, tuple)):
        if len(compiled) != len(given):
            raise Error(f"{name} has {len(given)} elements, compiled for {len(compiled)}{_END}")
        for index, (mine, other) in enumerate(zip(compiled, given)):
            check_same(f"{name}[{index}]", mine, other)
    elif isinstance(compiled, dict):
        if set(compiled) != set(given):
            raise Error(f"{name} has the keys {sorted(given)}, compiled for {sorted(compiled)}{_END}")
        for key, mine in compiled.items():
            check_same(f"{name}[{key}]", mine, given[key])
    elif compiled != given:
        raise Error(f"{name} is {given!r}, compiled for {compiled!r}{_END}")
