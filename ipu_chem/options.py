"""Options of a run and of commands: fields of dataclasses, and parameters of the classes that a run chooses by name.

Each option is written once, with its type, default and help, where it is used: see `Chosen`.
"""

import csv
import difflib
import inspect
import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from functools import lru_cache
from typing import (
    Any,
    ClassVar,
    Dict,
    FrozenSet,
    Iterable,
    Iterator,
    List,
    Literal,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
    get_args,
    get_origin,
)

import docstring_parser

from ipu_chem.signatures import REQUIRED, is_plain, load, may_be_empty, parameters
from ipu_chem.yaml_file import integer_of


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> List[Tuple[str, Any, Any]]:
    """Differences of two configs as dicts: (dotted key, old value, new value)."""
    result: List[Tuple[str, Any, Any]] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            result += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            result.append((prefix + key, before, after))
    return result


def listed(text: str) -> List[str]:
    """Names between commas; one that holds a comma itself stands in double quotes, as in a .csv."""
    names = next(csv.reader([text], skipinitialspace=True), [])
    return [name.strip() for name in names if name.strip()]


class Option(NamedTuple):
    """One option of a run or a command.

    Attributes:
        name: dotted, as in "model.hidden_features".
        type: that values are converted to and checked against.
        default: `inspect.Parameter.empty` if there is none.
        help: one line.
        metadata: of the dataclass field, for the command line.
    """

    name: str
    type: Any
    default: Any
    help: str
    metadata: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Chosen:
    """A section of a run that names a class; its further fields are the parameters of that class.

    ``ModelConfig("painn", num_radial=16)`` gives an instance of a subclass that is made for the name.

    Attributes:
        key: of the section in a run's config.
        filled: parameters that the run gives; they are no options.
        fills_own: whether it gives them to classes of a user's own, too. Otherwise those that are called like an
            option of the run are written with an underscore behind, as in ``data.name_``.
        chosen: the name that a made subclass is for.
        emptied: options that are None for the class and "" in a config.
    """

    key: ClassVar[str] = ""
    filled: ClassVar[FrozenSet[str]] = frozenset()
    fills_own: ClassVar[bool] = True
    chosen: ClassVar[str] = ""
    emptied: ClassVar[FrozenSet[str]] = frozenset()

    def __new__(cls, name: str = "", **values: Any) -> Any:
        """An instance of the class that is made for the name."""
        if cls.chosen:
            return object.__new__(cls)
        made = cls.of(name)
        for option in values:
            if option not in made.__dataclass_fields__:
                raise ValueError(cls.unknown_option(made.chosen, option))
        return object.__new__(made)

    def __post_init__(self) -> None:
        if not self.name:  # type: ignore[attr-defined]
            raise ValueError(f"{self.key}.name is empty: choose one of {', '.join(self.registered())}.")
        assert self.name == self.chosen, f"make a new {self.key} section for another name"  # type: ignore[attr-defined]
        for one in fields(self):
            value, choices = getattr(self, one.name), get_args(one.type)
            if one.metadata.get("required") and value is None:
                raise ValueError(f"{self.chosen} needs {self.key}.{one.name}: {one.metadata['help'] or 'give a value'}")
            if get_origin(one.type) is Literal and value not in choices:
                words = [str(choice) for choice in choices]
                raise ValueError(f"{self.key}.{one.name}={value!r}: choose {in_words(words, 'or')}.")

    def __reduce__(self) -> Tuple[Any, ...]:
        return _restored, (type(self).__mro__[1], dict(vars(self)))

    @classmethod
    def registered(cls) -> Mapping[str, Any]:
        """Classes or functions by name; ``module:Class`` of this package is read and not imported."""
        raise NotImplementedError

    @classmethod
    def of(cls, name: str = "") -> Type["Chosen"]:
        """The section's class for a name.

        Raises:
            ValueError: nothing has that name, a module cannot be imported, or a parameter can be no option.
        """
        base: Any = cls.__mro__[1] if cls.chosen else cls
        if not isinstance(name, str):
            raise ValueError(f"{cls.key}.name={name!r}: give one name.")
        name = name or base.name
        known = cls.registered()
        if name not in known and ":" not in str(name):
            raise ValueError(
                f"{cls.key}.name={name!r}{meant(name, known)}: choose one of {', '.join(known)}, or "
                "package.module:Class of your own."
            )
        return _made(base, name, known[name] if name in known else load(name, f"{cls.key}.name"))

    @classmethod
    def unknown_option(cls, name: str, option: str) -> str:
        """Sentence about an option that the section for a name does not have."""
        own, key = cls.of(name).own(), cls.key
        having = cls.owners(option)
        if not having:
            words = [f"{key}.{word}" for word in cls.of(name).__dataclass_fields__]
            return f"unknown option {key}.{option}{nearest(f'{key}.{option}', words)}"
        theirs = set().union(*(cls.of(other).own() for other in having))
        shown = [word for word in own if word not in theirs] or own
        return f"{key}.{option} belongs to {in_words(having)}; {name} has {in_words(shown) or 'none'}."

    @classmethod
    def owners(cls, option: str) -> List[str]:
        """Registered names that have an option of their own so called."""
        return [name for name in cls.registered() if option in cls.of(name).own()]

    @classmethod
    def own(cls) -> List[str]:
        """Names of the options that are parameters of the chosen class."""
        return [one.name for one in fields(cls) if "parameter" in one.metadata]

    def arguments(self) -> Dict[str, Any]:
        """The options of the chosen class, as its constructor takes them."""
        own = [one for one in fields(self) if "parameter" in one.metadata]
        values = {one.metadata["parameter"]: getattr(self, one.name) for one in own}
        return {name: None if value == "" and name in self.emptied else value for name, value in values.items()}


def _restored(cls: Type[Chosen], values: Dict[str, Any]) -> Chosen:
    return cls(**values)


@lru_cache(maxsize=None)
def _made(base: Type[Chosen], name: str, target: Any) -> Type[Chosen]:
    """A subclass with the parameters of ``target`` as fields."""
    shared = {one.name for one in fields(base)}
    filled = base.filled if base.fills_own or name in base.registered() else frozenset()
    made: List[Tuple[str, Any, Any]] = [("name", str, field(default=name))]
    emptied = set()
    for parameter, text in parameters(target):
        kind, default = parameter.annotation, parameter.default
        if parameter.name in filled:
            continue
        if kind is REQUIRED:
            kind = type(default) if type(default) in (bool, int, float, str) else Any
        if may_be_empty(kind) and default in (None, REQUIRED):
            kind, default, text = str, "", text.replace("None ", "empty ")
            emptied.add(parameter.name)
        if not is_plain(kind):
            if default is REQUIRED:
                raise ValueError(
                    f"{name} needs {parameter.name}, whose type {kind} cannot be written in a config; give a default."
                )
            continue
        metadata = {"parameter": parameter.name, "help": text, "required": default is REQUIRED}
        if default is REQUIRED:
            kind, default = Optional[kind], None
        is_mutable = isinstance(default, (list, dict))
        how = {"default_factory": lambda value=default: type(value)(value)} if is_mutable else {"default": default}
        option = parameter.name + ("_" if parameter.name in shared else "")
        made.append((option, kind, field(metadata=metadata, **how)))
    values = {"chosen": name, "emptied": frozenset(emptied), "__doc__": base.__doc__}
    return make_dataclass(base.__name__, made, bases=(base,), namespace=values, frozen=True)


def walk(section: Any, chosen: Mapping[str, Any] = {}, prefix: str = "", usual: Any = None) -> Iterator[Option]:
    """Every option of a dataclass and of those in it, with its help.

    Args:
        section: the dataclass.
        chosen: classes in place of the declared ones, by key, such as `ModelConfig.of("painn")` for "model".
        prefix: of the dotted names.
        usual: an instance that holds the defaults; None takes those of the fields.
    """
    helps = {one.arg_name: " ".join((one.description or "").split()) for one in docs(section)}
    for one in fields(section):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        default = default if usual is None else getattr(usual, one.name)
        if one.name in chosen:
            yield from walk(chosen[one.name], {}, f"{prefix}{one.name}.")
        elif is_dataclass(one.type):
            yield from walk(one.type, {}, f"{prefix}{one.name}.", default)
        else:
            text = one.metadata.get("help") or helps.get(one.name, "")
            yield Option(prefix + one.name, one.type, REQUIRED if default is MISSING else default, text, one.metadata)


@lru_cache(maxsize=None)
def docs(section: Any) -> Sequence[Any]:
    """Help in the docstrings of a dataclass and of its bases, attribute by attribute."""
    texts = [inspect.cleandoc(one.__doc__ or "") for one in section.__mro__[:-1]]
    return [one for text in texts for one in docstring_parser.parse(text).params]


def make(section: Any, values: Mapping[str, Any], chosen: Mapping[str, Any]) -> Any:
    """An instance of a dataclass of sections, from nested values that are converted and checked; see `walk`.

    Raises:
        ValueError: a value has the wrong type, or a section refuses it.
    """
    from jsonargparse import ArgumentError

    kinds = {option.name: option.type for option in walk(section, chosen)}
    for name, value in _flat(values):
        if isinstance(value, str) and name in kinds:
            try:
                number_of(value, kinds[name])
            except ValueError:
                raise ValueError(f"{name}={value}: give {in_type_words(kinds[name])}.") from None
    try:
        parsed = _parser(section, tuple(chosen.items())).parse_object(dict(values))
    except ArgumentError as error:
        raise ValueError(wrong_value(str(error), kinds, "{}={}")) from None
    return _built(section, parsed.as_dict(), chosen)


def number_of(word: str, kind: Any) -> Any:
    """The number that a word is for an option of that type: 010 is ten, and 1:30 none, which YAML 1.1 takes for 90.

    Returns:
        An int or a float; the word itself where the type is no number.

    Raises:
        ValueError: it is none of that type.
    """
    inner = next((one for one in get_args(kind) if one is not type(None)), kind) if get_origin(kind) is Union else kind
    if inner not in (int, float) or (inner is not kind and word in ("null", "None")):
        return word
    if inner is int:
        return integer_of(word)
    text = word.strip().replace("_", "")
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text, flags=re.IGNORECASE))


def wrong_value(message: str, kinds: Mapping[str, Any], written: str) -> str:
    """The sentence about a value of the wrong type, in place of jsonargparse's.

    Args:
        message: of jsonargparse.
        kinds: types of all options.
        written: how an option and its value are written, as in "{}={}".
    """
    message = " ".join(message.split())
    named = re.search(r'(?:Parser key "|argument --)([\w.-]+)', message)
    if named is None or named[1] not in kinds:
        return message
    value = re.search(r"(?:Got value|Given value|invalid choice): (.*?)(?: \(choose from .*)?$", message)
    if value is None or value[1] == "None":
        option = written.format(named[1], "").strip(" =")
        return f"{option} needs a value: give {in_type_words(kinds[named[1]])}."
    given = value[1].strip("'") or "''"
    return f"{written.format(named[1], given)}: give {in_type_words(kinds[named[1]])}."


def in_type_words(kind: Any) -> str:
    """A type as a sentence says it, such as "an integer"."""
    inner = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is Literal:
        return f"one of {in_words([str(word) for word in inner], 'or')}"
    if get_origin(kind) in (list, tuple, set):
        of = {int: ("integers", "[2, 4]"), float: ("numbers", "[0.9, 0.999]"), str: ("words", "[one, two]")}
        what, such = of.get(inner[0], ("values", "[...]"))
        return f"a list of {what}, such as {such}"
    if inner:
        words = in_words([in_type_words(one) for one in inner], "or")
        return words if len(inner) == len(get_args(kind)) else f"{words}, or null"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(kind, "another value")


@lru_cache(maxsize=8)
def _parser(section: Any, chosen: Tuple[Tuple[str, Any], ...]) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    for option in walk(section, dict(chosen)):
        kind = type(get_args(option.type)[0]) if get_origin(option.type) is Literal else option.type
        parser.add_argument(f"--{option.name}", type=kind, default=option.default)
    return parser


def _built(section: Any, values: Mapping[str, Any], chosen: Mapping[str, Any]) -> Any:
    found = dict(values)
    for one in fields(section):
        kind = chosen.get(one.name, one.type)
        if is_dataclass(kind):
            found[one.name] = _built(kind, values[one.name], {})
    return section(**found)


def merge(kinds: Iterable[Any], base: Mapping[str, Any], new: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[str]]:
    """Nested values of a run with others over them, and what was left out: options that another name does not have.

    A recipe's options of painn are no mistake where ``model.name`` is then set to schnet.

    Args:
        kinds: of the sections that follow a name.
        base: values of a run.
        new: further ones.
    """
    result, left_out = _over(base, new), []
    for kind in kinds:
        before, after = base.get(kind.key) or {}, new.get(kind.key) or {}
        if after.get("name", before.get("name")) != before.get("name"):
            old, other = kind.of(before.get("name") or "").own(), kind.of(after["name"]).__dataclass_fields__
            for option in [one for one in before if one in old and one not in other and one not in after]:
                left_out.append(f"{kind.key}.{option}")
                del result[kind.key][option]
    return result, left_out


def _over(base: Mapping[str, Any], new: Mapping[str, Any]) -> Dict[str, Any]:
    inner = {
        key: _over(base.get(key) or {}, value) if isinstance(value, Mapping) else value for key, value in new.items()
    }
    return {**base, **inner}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested(values: Mapping[str, Any]) -> Dict[str, Any]:
    """{"model.name": ...} as {"model": {"name": ...}}."""
    result: Dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (result.setdefault(section, {}) if section else result)[name] = value
    return result


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence: "; did you mean ...?" when one of the words is close, else a full stop."""
    # A mistyped last part is most common: look for it under the same parent first.
    parent = word.rpartition(".")[0]
    siblings = [other for other in words if other.rpartition(".")[0] == parent]
    close = difflib.get_close_matches(word, siblings, 1) or difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {close[0]}?" if close else "."


def meant(word: str, words: Iterable[str]) -> str:
    """A question in brackets behind a word that is likely misspelled; "" if none of the words is close."""
    close = difflib.get_close_matches(word, list(words), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def in_words(words: Sequence[str], last: str = "and") -> str:
    """Words as a sentence lists them."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
