"""Signatures of classes and functions: parameters with their types, defaults and help, read where they are written.

Those of this package's models are read from their source, so that ``--help`` does not load torch; a user's own,
``package.module:Class``, are imported.
"""

import ast
import builtins
import difflib
import importlib
import inspect
import os
import sys
import types
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Literal, Tuple, get_args, get_origin

import docstring_parser

REQUIRED = inspect.Parameter.empty  # of a parameter without a default
_PLAIN = (bool, int, float, str, type(None), Path, list, dict, tuple)


def parameters(target: Any) -> List[Tuple[inspect.Parameter, str]]:
    """Parameters of a class's constructor or of a function, with the help of its docstring.

    Args:
        target: the class or function, or ``module:Class`` of this package, whose source is read without importing it.
    """
    found, documentation = _read(*target.split(":")) if isinstance(target, str) else _inspected(target)
    helps: Dict[str, str] = {}
    for text in documentation:
        for one in docstring_parser.parse(text).params:
            for name in one.arg_name.split(", "):
                helps.setdefault(name, " ".join((one.description or "").split()))
    return [(parameter, helps.get(parameter.name, "")) for parameter in found]


@lru_cache(maxsize=None)
def _read(module: str, name: str) -> Tuple[List[inspect.Parameter], List[str]]:
    """Signature and docstrings of a class or function of this package, from its source."""
    file = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names: Dict[str, Any] = {**vars(typing), **vars(builtins)}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = _evaluated(node.value, names, None)
    definition: Any = next(node for node in tree.body if getattr(node, "name", "") == name)
    texts = [ast.get_docstring(definition) or ""]
    if isinstance(definition, ast.ClassDef):
        definition = next(node for node in definition.body if getattr(node, "name", "") == "__init__")
        texts.insert(0, ast.get_docstring(definition) or "")
    words = [word for word in definition.args.args if word.arg != "self"]
    defaults = [None] * (len(words) - len(definition.args.defaults)) + definition.args.defaults
    found = []
    for word, default in zip(words, defaults):
        value = REQUIRED if default is None else _evaluated(default, names, None)
        kind = REQUIRED if word.annotation is None else _evaluated(word.annotation, names, Any)
        found.append(inspect.Parameter(word.arg, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind))
    return found, texts


def _evaluated(node: Any, names: Dict[str, Any], otherwise: Any) -> Any:
    """An annotation or a default of the source; names of other modules, such as Tensor, are not known."""
    try:
        return eval(compile(ast.Expression(node), "<signature>", "eval"), {"__builtins__": {}}, names)
    except (NameError, TypeError, AttributeError):
        return otherwise


def _inspected(target: Any) -> Tuple[List[inspect.Parameter], List[str]]:
    """The same of what is imported; ``**kwargs`` are those of the base class's constructor."""
    functions = [target]
    if inspect.isclass(target):
        functions = [vars(one)["__init__"] for one in target.__mro__[:-1] if "__init__" in vars(one)]
    found: Dict[str, inspect.Parameter] = {}
    for function in functions:
        try:
            hints = typing.get_type_hints(getattr(function, "func", function))
        except (NameError, TypeError):  # `str | None` before Python 3.10, names that are not imported
            hints = {}
        signature = inspect.signature(function).parameters
        for name, parameter in signature.items():
            if name != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                given = REQUIRED if isinstance(parameter.annotation, str) else parameter.annotation
                found.setdefault(name, parameter.replace(annotation=hints.get(name, given)))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
            break
    texts = [inspect.getdoc(one) or "" for one in (*functions, getattr(target, "func", target))]
    return list(found.values()), texts


def load(name: str, key: str) -> Any:
    """The class or function ``package.module:Class``, from the working directory or the installed packages.

    Raises:
        ValueError: there is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{key}={name}: {module} cannot be imported ({error}); run the command in the folder that holds it, or "
            "install it."
        ) from error
    if not callable(getattr(found, attribute, None)):
        close = difflib.get_close_matches(attribute, [word for word in vars(found) if not word.startswith("_")], 1)
        hint = f"; did you mean {module}:{close[0]}?" if close else "."
        file = getattr(found, "__file__", None) or module
        raise ValueError(f"{key}={name}: {file} has no class or function {attribute}{hint}")
    return getattr(found, attribute)


def is_plain(kind: Any) -> bool:
    """True if values of a type can be written in YAML and read back."""
    if kind is Any or kind in _PLAIN or get_origin(kind) is Literal:
        return True
    inner = [one for one in get_args(kind) if one is not Ellipsis]
    return (_is_union(kind) or get_origin(kind) in (list, tuple, dict)) and all(is_plain(one) for one in inner)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, getattr(types, "UnionType", None))


def may_be_empty(kind: Any) -> bool:
    """An optional text or path, which is "" in a config."""
    words = get_args(kind)
    return _is_union(kind) and type(None) in words and all(w in (str, type(None)) or "Path" in str(w) for w in words)
