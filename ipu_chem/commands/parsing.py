"""Words of a command line -> the options of a command, and of a run where it takes one.

A command is a module with ``Options``, a dataclass whose fields are its flags, and ``run``. ``SECTIONS`` of a module
are classes of `ipu_chem.options.Chosen` by the prefix of their flags; their options follow the name given. Where it has
``WITHOUT_RUN``, it also runs without any option of a run, and then takes None. ``respelled`` of a module gives words
as they are parsed.
"""

import re
from dataclasses import field, fields
from itertools import chain
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, NoReturn, Optional, Sequence, Tuple, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ipu_chem.commands.recipes import path_of
from ipu_chem.config import KINDS, RunConfig, check_keys, checked_sections, chosen, from_dict, of_any_version
from ipu_chem.options import Option, in_type_words, merge, nearest, nested, number_of, walk, wrong_value
from ipu_chem.signatures import REQUIRED
from ipu_chem.yaml_file import located, read_yaml

_USUAL = (
    *("name", "path", "target", "data.name", "data.path", "data.target", "model.name", "training.epochs"),
    *("optimizer.learning_rate", "batching.micro_batch_size", "accelerator", "out"),
)
_CONFIG = Option("config", str, "", "YAML file, or the name of a recipe (ipu-chem recipes); flags win over it")
ELSEWHERE = "--resume goes on in the folder that it names; leave --out out."
TRUTH = ("true", "false", "yes", "no")
_METAVARS: Dict[Any, str] = {bool: "[true|false]", int: "INT", float: "FLOAT", str: "TEXT"}


def positional(help: str, many: str = "", behind_many: bool = False) -> Any:
    """A field of ``Options`` that is given without a flag; ``many`` is "+" for one word or more, "*" also for none.

    One ``behind_many``, which have a default, has one for the dataclass alone.
    """
    how: Dict[str, Any] = {"default_factory": list} if many else {"default": ""} if behind_many else {}
    return field(metadata={"positional": True, "many": many, "help": help}, **how)


def several(help: str, default: Sequence[Any] = ()) -> Any:
    """A field of ``Options`` with one or more words behind its flag; without a default it is needed."""
    how = {"default_factory": lambda: list(default)} if default else {}
    return field(metadata={"many": "+", "help": help}, **how)


def part(options: Any, cls: Any) -> Any:
    """The fields of a dataclass among the options of a command."""
    return cls(**{one.name: getattr(options, one.name) for one in fields(cls)})


class Helped(Exception):
    """Help was asked for; the argument is the text."""


class _Formatter(DefaultHelpFormatter):
    """Help without the types and defaults that jsonargparse adds: those worth a word are written by `make_parser`."""

    def _get_help_string(self, action: Any) -> str:
        return action.help


class Parser(ArgumentParser):
    """A parser whose complaints fit a line.

    Attributes:
        kinds: types of the options by name.
    """

    kinds: Mapping[str, Any] = {}

    def error(self, message: str, *args: Any, **kwargs: Any) -> NoReturn:
        """Print usage and message, and exit with status 2."""
        message = " ".join(message.split())
        if re.search(
            r"arguments are required|is required but not included", message
        ):  # as versions of jsonargparse say
            message = f"words are missing: {self.usage}"
        stray = re.match(r"[Uu]nrecognized arguments: (.*)", message)
        if stray is not None:
            message = f"{stray[1]}: no option takes this; a value stands behind its option, as in --name VALUE"
        else:
            message = wrong_value(message, self.kinds, "--{} {}")
        super().error(message, *args, **kwargs)


def parse(command: str, about: str, module: Any, argv: Sequence[str]) -> List[Any]:
    """Arguments of ``module.run``: its options, then the config of a run or the section that it takes.

    Args:
        command: its name.
        about: what it does, in a sentence.
        module: of the command.
        argv: words behind the name.

    Raises:
        Helped: help was asked for.
        ValueError: a file that is none, or options that cannot work.
        SystemExit: an unknown flag, or a value of the wrong type; usage and a sentence are printed.
    """
    sections: Mapping[str, Any] = getattr(module, "SECTIONS", {})
    takes_run = "model" in sections
    own = list(walk(module.Options))
    mine = {one.name for one in own}
    # Options of a section without a prefix also go by the one that they have in a run, as messages spell them.
    unprefixed = [kind.key for prefix, kind in sections.items() if not prefix]
    argv = [re.sub(rf"^--({'|'.join(unprefixed)})\.", "--", word) for word in argv] if unprefixed else list(argv)
    argv = getattr(module, "respelled", list)(argv)
    names = {prefix: _value(argv, f"{prefix}.name" if prefix else "name") for prefix in sections}
    named = {prefix: {"name": name} for prefix, name in names.items() if name}
    base: Dict[str, Any] = {}
    paths: List[Path] = []
    if takes_run:
        argv, base, paths = _read_files(argv, "resume" in mine, named)
        classes = chosen(merge(KINDS, base, named)[0])
        options = [_CONFIG, *own, *(one for one in walk(RunConfig, classes) if one.name not in mine)]
    else:
        classes = {prefix: kind.of(names[prefix] or "") for prefix, kind in sections.items()}
        options = [*own, *(one for kind in classes.values() for one in walk(kind))]
    _help(command, about, argv, options, mine, sections)
    parser = make_parser(command, about, options)
    given = vars(parser.parse_args(_checked(argv, options, classes, parser), defaults=False).as_flat())
    taken = getattr(module, "completed", dict)({name: given.pop(name) for name in mine & set(given)})
    for one in own:
        if one.default is REQUIRED and one.name not in taken:
            parser.error(f"--{one.name} is needed: {one.help}")
    arguments = [module.Options(**taken)]
    if takes_run:
        values, left_out = merge(KINDS, base, nested(given))
        if left_out:
            print(f"left out, as others have no such option: {', '.join(left_out)}")
        absent = getattr(module, "WITHOUT_RUN", False) and not values
        try:
            arguments.append(None if absent else from_dict(values))
        except ValueError as error:
            raise located(paths, error, given) from None
    return arguments + [kind(**given) for kind in classes.values() if not takes_run]


def make_parser(command: str, about: str, options: Sequence[Option], epilog: str = "") -> Parser:
    """A parser of these options alone; abbreviations are refused."""
    words = [_in_usage(one) for one in options if _is_positional(one)]
    usage = " ".join([f"ipu-chem {command}", *words, "[options]"])
    parser = Parser(
        prog=f"ipu-chem {command}",
        usage=usage,
        description=about,
        epilog=epilog,
        allow_abbrev=False,
        add_help=False,
        formatter_class=_Formatter,
    )
    parser.kinds = {one.name: one.type for one in options}
    for one in options:
        how: Dict[str, Any] = {"type": one.type}
        if get_origin(one.type) is Literal and all(isinstance(word, str) for word in get_args(one.type)):
            how = {"choices": get_args(one.type)}  # which older versions of jsonargparse refuse without a sentence
        if one.metadata.get("many"):
            how = {"type": get_args(one.type)[0], "nargs": one.metadata["many"]}
        text = one.help.rstrip(".")
        if not _is_positional(one):
            if "choices" not in how:
                how["metavar"] = _METAVARS.get(_inner(how["type"]), "VALUE")
            if one.default is not REQUIRED:
                how["default"] = one.default
            if one.default not in (REQUIRED, None, "") and one.default != []:
                text += f" (default: {_as_typed(one.default)})"
        name = one.name if _is_positional(one) else f"--{one.name}"
        parser.add_argument(name, help=text.replace("%", "%%"), **how)
    return parser


def _in_usage(option: Option) -> str:
    """A word without a flag, as the line of usage has it."""
    name, many = option.name.upper(), option.metadata.get("many")
    return f"[{name} ...]" if many == "*" else f"{name}{' ...' if many else ''}"


def _inner(kind: Any) -> Any:
    """T of Optional[T]."""
    inner = [one for one in get_args(kind) if one is not type(None)]
    return inner[0] if get_origin(kind) is Union and len(inner) < len(get_args(kind)) else kind


def _as_typed(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _help(
    command: str, about: str, argv: List[str], options: Sequence[Option], mine: "set[str]", sections: Mapping[str, Any]
) -> None:
    """Raise what was asked for: the usual options, all, or those of one model or data set."""
    for prefix, kind in sections.items():
        name = _value(argv, f"{prefix}.help".lstrip("."))
        if name and prefix:
            raise Helped(_of_one(command, prefix, kind, name))
    if "--help-all" in argv:
        raise Helped(make_parser(command, about, options).format_help())
    if not {"--help", "-h"} & set(argv):
        return
    shown = [one for one in options if one.name in (*mine, "config", *_USUAL)]
    epilog = ""
    if len(shown) < len(options):
        ways = ["--help-all lists all options"]
        named = [f"--{prefix}.help {kind.of().chosen}" for prefix, kind in sections.items() if prefix]
        ways += [f"{' and '.join(named)} those of one of them"] if named else []
        epilog = "; ".join(ways) + ". Names are not abbreviated; --flag means --flag true."
    raise Helped(make_parser(command, about, shown, epilog).format_help())


def _of_one(command: str, prefix: str, kind: Any, name: str) -> str:
    """Help on the options of one model or data set."""
    own = [one for one in walk(kind.of(name)) if one.name in kind.of(name).own()]
    options = [one._replace(name=f"{prefix}.{one.name}") for one in own]
    return make_parser(command, f"Options of {prefix}.name={name}.", options).format_help()


def _read_files(argv: List[str], resumes: bool, named: Dict[str, Any]) -> Tuple[List[str], Dict[str, Any], List[Path]]:
    """The other words, and the values of the files of --config and of --resume's run, later ones over earlier ones."""
    rest: List[str] = []
    paths: List[Path] = []
    split = (word.split("=", 1) if word.startswith(("--config=", "--resume=")) else [word] for word in argv)
    words = chain.from_iterable(split)
    for word in words:
        if word == "--config":
            word = next(words, "")
            if not word or word.startswith("--"):
                raise ValueError("--config needs a YAML file, or the name of one of `ipu-chem recipes`.")
            paths.append(path_of("config", word))
        elif word == "--resume" and resumes:
            folder = next(words, "")
            if not folder or folder.startswith("--"):
                raise ValueError("--resume needs the folder of the run that it goes on with.")
            if not (Path(folder) / "config.yaml").is_file():
                raise ValueError(f"--resume {folder}: this folder holds no run to resume (no config.yaml).")
            if _value(argv, "out") not in (None, folder):
                raise ValueError(ELSEWHERE)
            paths.insert(0, Path(folder) / "config.yaml")
            rest += ["--resume", folder, "--out", folder]
        else:
            rest.append(word)
    values: Dict[str, Any] = {}
    for path in paths:
        try:
            read = checked_sections(read_yaml(path))
            values, _ = merge(KINDS, values, of_any_version(read))
            try:
                check_keys(values)
            except ValueError:  # options of a name that a flag gives, where files give none
                if all(one["name"] == (values.get(key) or {}).get("name", one["name"]) for key, one in named.items()):
                    check_keys({**values, **{key: {**(values.get(key) or {}), **one} for key, one in named.items()}})
                else:
                    raise
        except ValueError as error:
            raise located([path], error) from None
    return rest, values, paths


def _value(argv: Sequence[str], name: str) -> Optional[str]:
    """The last value of a flag."""
    found = None
    for place, word in enumerate(argv):
        if word == f"--{name}" and place + 1 < len(argv):
            found = argv[place + 1]
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def _checked(argv: Sequence[str], options: Sequence[Option], classes: Mapping[str, Any], parser: Parser) -> List[str]:
    """The words with whole names of flags that there are; a switch alone is true."""
    known = {one.name: one.type for one in options if not _is_positional(one)}
    result: List[str] = []
    taken = -1
    for place, word in enumerate(argv):
        if place == taken:
            continue
        if not word.startswith("--") or word == "--":
            result.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        plain = name.rstrip("+")  # as in --training.loggers+ wandb
        if plain not in known and plain.replace("-", "_") in known:
            name = plain = plain.replace("-", "_")
        if plain not in known:
            parser.error(_unknown(plain, known, classes))
        if known[plain] in (bool, Optional[bool]) and not equals:
            following = argv[place + 1] if place + 1 < len(argv) else ""
            truths = TRUTH if known[plain] is bool else (*TRUTH, "null")
            if following and following[0] != "-" and following.lower() not in truths and len(known) == len(options):
                parser.error(f"--{name} {following}: give true or false.")
            equals, value = ("", "") if following.lower() in truths else ("=", "true")
        following = "".join(argv[place + 1 : place + 2])
        if not equals and _inner(known[plain]) in (int, float) and following and following[:2] != "--":
            equals, value, taken = "=", following, place + 1  # -1e-3 is no option
        if equals:
            try:
                number = number_of(value, known[plain])
                value = value if str(number) in ("inf", "-inf", "nan") else str(number)
            except ValueError:
                parser.error(f"--{name} {value}: give {in_type_words(known[plain])}.")
        result.append(f"--{name}{equals}{value}")
    return result


def _unknown(name: str, known: Mapping[str, Any], classes: Mapping[str, Any]) -> str:
    prefix, _, option = name.rpartition(".")
    kind: Any = classes.get(prefix)
    if kind is not None and kind.owners(option):
        return kind.unknown_option(kind.chosen, option)
    same = [f"--{other}" for other in known if other.rpartition(".")[2] == name]  # --epochs of --training.epochs
    hint = f"; did you mean {' or '.join(same)}?" if same else nearest(f"--{name}", [f"--{other}" for other in known])
    return f"unknown option --{name}{hint}"


def _is_positional(option: Option) -> bool:
    return bool(option.metadata.get("positional"))
