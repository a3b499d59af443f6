"""YAML files of options: read strictly, and complained about with their lines.

Numbers are those that people write: 1e-3 is one, and 010 is ten. Dates and times of day stay text.
"""

import re
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Sequence, Tuple

import yaml

_MOST = 2_000_000  # characters of a file of options
_INTEGER = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0[0-9_]+|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN))$"
)


class StrictLoader(yaml.SafeLoader):
    """YAML's safe types, every key once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Dict[Any, Any]:
        """A mapping, unless a key is there twice."""
        lines: Dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines and isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: {key.value} is given twice, first on line {lines[key.value]}.")
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
        return super().construct_mapping(node, deep)


def integer_of(text: str) -> int:
    """The integer that people write: 010 is ten, 0x10 is sixteen and 1_000 a thousand.

    Raises:
        ValueError: it is none.
    """
    text = text.strip().replace("_", "")
    return int(text, 0) if re.match(r"[-+]?0[xb]", text) else int(text)


def _integer(loader: Any, node: Any) -> int:
    return integer_of(loader.construct_scalar(node))


_CHANGED = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _CHANGED]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
StrictLoader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(path: Path, holds: str = "options as `name: value` lines") -> Dict[str, Any]:
    """Values of a YAML file.

    Args:
        path: of the file.
        holds: what it should hold, for messages.

    Raises:
        ValueError: it is no YAML mapping of options, a key is given twice; names the line.
    """
    values = _loaded(path, StrictLoader)
    if not isinstance(values, dict):
        raise ValueError(f"the file must hold {holds}.")
    return {str(key): value for key, value in values.items()}


def located(paths: Sequence[Path], error: ValueError, given: Mapping[str, Any] = {}) -> ValueError:
    """An error with the file and line of the option that it is about, if one of these files has given it.

    Args:
        paths: files, later ones over earlier ones.
        error: about an option.
        given: options of the command line, which win over files.
    """
    text = str(error)
    for path in reversed(paths):
        if re.match(r"line \d", text):
            return ValueError(f"{path}, {text}")
        try:
            keys = dict(_keys(_loaded(path, None)))
        except ValueError:
            keys = {}
        for key in sorted(keys, key=len, reverse=True):
            if key not in given and re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", text):
                return ValueError(f"{path}, line {keys[key][0]}: {text}")
    return ValueError(f"{paths[-1]}: {text}") if len(paths) == 1 and not given else error


def _loaded(path: Path, loader: Any) -> Any:
    """Values of a file, or its nodes where there is no loader."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MOST + 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"the file is no UTF-8 text (byte {error.start}): save it as UTF-8.") from None
    if len(text) > _MOST:
        raise ValueError(f"the file has more than {_MOST:,} characters, which no file of options has.")
    try:
        return yaml.compose(text, yaml.SafeLoader) if loader is None else yaml.load(text, loader)
    except RecursionError:
        raise ValueError("the file is nested too deeply.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        tab = "; indent with blanks" if r"'\t'" in str(problem) else ""
        tab = tab or ("; begin all lines of a section with as many blanks" if "block" in str(problem) else "")
        raise ValueError(f"{line}this is no YAML: {problem}{tab}.") from None


def _keys(node: Any, prefix: str = "", depth: int = 2) -> Iterator[Tuple[str, Tuple[int, Any]]]:
    """Dotted keys of a mapping, each with its line and the node of its value."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        yield name, (key.start_mark.line + 1, value)
        if depth > 1:
            yield from _keys(value, f"{name}.", depth - 1)
