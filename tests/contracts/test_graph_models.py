"""Every registered graph model, and the one that ipu_chem/README.md shows, keeps the contract."""

import sys
from pathlib import Path
from types import ModuleType

from contracts.graph_model import GraphModelContract
from ipu_chem.models.moments import MOMENTS
from ipu_chem.models.registry import MODELS

PAGE = (Path(__file__).resolve().parents[2] / "ipu_chem" / "README.md").read_text(encoding="utf-8")


class TestRegistered(GraphModelContract):
    names = list(MODELS)
    moments = {"schnet": ("dipole", "extent"), "painn": MOMENTS}


def shown() -> str:
    """The page's model, by name."""
    module = sys.modules["shown_on_the_page"] = ModuleType("shown_on_the_page")
    exec(
        compile("# mine.py" + PAGE.split("```python\n# mine.py", 1)[1].split("```", 1)[0], "mine.py", "exec"),
        vars(module),
    )
    return f"{module.__name__}:MyNet"


class TestShown(GraphModelContract):
    names = [shown()]
