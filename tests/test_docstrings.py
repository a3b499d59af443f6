"""Public methods are documented, themselves or by the base class of ours whose method they override."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("packing", "ipu_chem")
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
    if file.stem not in ("__main__", "__init__")
)


def documented(cls, name):
    members = [vars(one)[name] for one in cls.__mro__ if one.__module__.split(".")[0] in PACKAGES and name in vars(one)]
    return any(getattr(member, "__func__", member).__doc__ for member in members)


@pytest.mark.parametrize("module", MODULES)
def test_public_methods_are_documented(module):
    try:
        found = import_module(module)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed")
    missing = []
    for cls in vars(found).values():
        if not inspect.isclass(cls) or cls.__module__ != module or cls.__name__.startswith("_"):
            continue
        for name, member in vars(cls).items():
            is_method = inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod))
            if is_method and not name.startswith("_") and not documented(cls, name):
                missing.append(f"{cls.__name__}.{name}")
    assert missing == []
