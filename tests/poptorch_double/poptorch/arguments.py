"""What a program is called with, bound to the parameters of forward (python/_args_parser.py)."""

import inspect
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from torch import Tensor, nn

from .poptorch_core import Error
from .structures import check_same, flatten, rebuild

_POSITIONAL, _NAMED = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


class Arguments(NamedTuple):
    """Names and values of positional arguments, and those that stay named."""

    names: Tuple[str, ...]
    args: Tuple[Any, ...]
    kwargs: Dict[str, Any]

    def tensors(self, like: "Arguments") -> List[Tensor]:
        """Flat, named ones in the order in which the program was compiled with them."""
        return flatten((self.args, self.kwargs), (like.args, like.kwargs))

    def with_tensors(self, tensors: Sequence[Tensor]) -> "Arguments":
        """The same structure with other tensors, in the order of this one's own."""
        args, kwargs = rebuild((self.args, self.kwargs), tensors)
        return self._replace(args=args, kwargs=kwargs)

    def check(self, given: "Arguments") -> None:
        """Refuse others than those that the program was compiled with."""
        if len(self.args) != len(given.args):
            raise Error(f"{len(given.args)} positional arguments given, compiled for {len(self.args)}")
        for name, mine, other in zip(self.names, self.args, given.args):
            check_same(name, mine, other)
        check_same("named arguments", self.kwargs, given.kwargs)


class ArgumentParser:
    """Binds calls of one module."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(inspect.signature(model.forward).parameters.values())
        self._is_variadic = any(p.kind in (_POSITIONAL, _NAMED) for p in self._parameters)

    def __call__(self, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Arguments:
        given = len(args) + len(kwargs)
        takes = [parameter.name for parameter in self._parameters]
        needed = sum(p.default is p.empty and p.kind not in (_POSITIONAL, _NAMED) for p in self._parameters)
        assert self._is_variadic or given <= len(takes), f"{given} arguments given, forward takes {len(takes)}"
        unknown = [name for name in kwargs if name not in takes]
        assert self._is_variadic or not unknown, f"{unknown} are not among the parameters {takes}"
        names: List[str] = []
        values: List[Any] = []
        named: Dict[str, Any] = {}
        after_all = False  # what follows *args is named
        for index, parameter in enumerate(self._parameters):
            name = parameter.name
            if parameter.kind == _NAMED:
                named.update({key: value for key, value in kwargs.items() if key not in takes[:index]})
            elif parameter.kind == _POSITIONAL:
                names += [f"*{name}[{number}]" for number in range(len(args) - index)]
                values += args[index:]
                args, after_all = (), True
            elif index < len(args):
                assert name not in kwargs, f"parameter {name} was passed more than once"
                names.append(name)
                values.append(args[index])
            else:
                if name not in kwargs and parameter.default is parameter.empty:
                    raise Error(f"parameter {name} is missing: {given} arguments given, forward needs {needed}")
                value = kwargs.get(name, parameter.default)
                if after_all:
                    named[name] = value
                else:
                    names.append(name)
                    values.append(value)
        bound = Arguments(tuple(names), tuple(values), named)
        return bound.with_tensors([tensor.contiguous() for tensor in flatten((bound.args, bound.kwargs))])
