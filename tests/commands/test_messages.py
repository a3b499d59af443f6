"""Options that messages and help name exist as they are typed."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from ipu_chem.cli import COMMANDS
from ipu_chem.config import DataConfig, ModelConfig, RunConfig
from ipu_chem.options import walk

PACKAGE = Path(__file__).parents[2] / "ipu_chem"
SETS = [DataConfig.of(name) for name in DataConfig.registered()]
OPTIONS = {
    option.name for name in ModelConfig.registered() for option in walk(RunConfig, {"model": ModelConfig.of(name)})
}
OPTIONS |= {option.name for one in SETS for option in walk(RunConfig, {"data": one})}
FLAGS = {*OPTIONS, "config", "help", "help-all", "model.help", "data.help", "flag"}
FLAGS |= {"condition.logp"}  # of a run that was trained with it
for module in (importlib.import_module(f"ipu_chem.commands.{command}") for command in COMMANDS):
    FLAGS |= {option.name for option in walk(module.Options)}
    if "" in getattr(module, "SECTIONS", {}):
        FLAGS |= {option.name for one in SETS for option in walk(one)}
OTHERS = {"num-replicas", "nproc-per-node"}  # flags of poprun and torchrun
SECTIONS = sorted({name.split(".")[0] for name in OPTIONS if "." in name} - {"torch"})
NO_OPTIONS = {"data.csv", "model.float", "model.load_state_dict"}  # a file, methods


def texts(file):
    """Strings of a module that may be shown, docstrings left out; {} for what is filled in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_options_in_messages_exist(file):
    unknown = []
    for line, text in texts(file):
        flags = {name.rstrip(".") for name in re.findall(r"(?<![\w-])--([a-zA-Z][\w.-]*)", text)}
        unknown += [
            (line, f"--{name}") for name in flags if name.replace("-", "_") not in FLAGS and name not in FLAGS | OTHERS
        ]
        named = set(re.findall(rf"(?<![\w./{{}}])((?:{'|'.join(SECTIONS)})\.[a-z_0-9]+)\b(?!\()", text)) - NO_OPTIONS
        named |= {f"torch.{name}" for name in re.findall(r"(?<![\w.])torch\.([a-z_]+)=", text)}
        unknown += [(line, name) for name in named if name not in OPTIONS]
    assert not unknown


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_extras_in_messages_exist(file):
    extras = (
        (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")
    )
    known = set(re.findall(r"^([a-z]+) = \[", extras[2].partition("[project.")[0], re.M))
    assert {"cpu", "log", "plot"} <= known
    named = [extra for _, text in texts(file) for extra in re.findall(r"(?:ipu-chem|'\.)\[([a-z,]+)\]", text)]
    assert {extra for words in named for extra in words.split(",")} <= known
