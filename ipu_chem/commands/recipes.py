"""List the shipped recipes and grids, each with what it is for."""

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from textwrap import shorten
from typing import List

from ipu_chem.options import nearest

_LONGEST = 100  # characters of a summary
_RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Options:
    """None."""


def run(options: Options) -> int:
    """Print a line for each."""
    for title, flag, folder in (("recipes", "config", _RECIPES), ("grids", "grid", _RECIPES / "grids")):
        files = sorted(folder.glob("*.yaml"))
        width = max(len(file.stem) for file in files)
        print(f"{title} (--{flag} NAME):")
        print("\n".join(f"  {file.stem:{width}}  {summary(file)}" for file in files))
    return 0


def summary(file: Path) -> str:
    """The first sentence of a YAML file's first comment, cut to a line."""
    comment = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    text = " ".join(takewhile(lambda line: not line.startswith(" "), (line[2:] for line in comment)))
    return shorten(re.split(r"(?<![A-Z])\. ", text)[0].rstrip(".:"), _LONGEST, placeholder=" ...")


def recipes() -> List[str]:
    """Names of the shipped configurations."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def path_of(flag: str, word: str) -> Path:
    """A file as it is, or what is shipped under a name: a recipe for --config, a grid for --grid.

    Raises:
        ValueError: there is neither.
    """
    what, folder = ("grids", _RECIPES / "grids") if flag == "grid" else ("recipes", _RECIPES)
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if Path(word).is_file():
        return Path(word)
    if word in names:
        return folder / f"{word}.yaml"
    if Path(word).is_dir():
        raise ValueError(f"--{flag} {word} is a folder: give a file, such as {Path(word) / f'{flag}.yaml'}.")
    raise ValueError(
        f"--{flag} {word}: there is no such file, and the {what} are {', '.join(names)}{nearest(word, names)}"
    )
