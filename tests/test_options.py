"""Options of a run: those of constructors, read as they are, refused by name, saved and read back."""

import copy
import importlib
import inspect
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ipu_chem.commands.recipes import recipes
from ipu_chem.config import DataConfig, ModelConfig, RunConfig, from_dict, keys, to_dict
from ipu_chem.options import merge, walk
from ipu_chem.signatures import parameters

RECIPES = Path(inspect.getfile(RunConfig)).parent / "recipes"
# What runs saved when a model's section had the options of all models, and a data set's those of all data sets.
FLAT = json.loads((Path(__file__).parent / "flat_configs.json").read_text())

OWN = '''
"""A model and data sets as people write them."""
from __future__ import annotations

from typing import Callable, List, Literal, Optional

from torch import nn


class Base(nn.Module):
    def __init__(self, cutoff: float = 4.0, num_targets: int = 1, depth: int = 2):
        """Build.

        Args:
            cutoff: longest edge, Å.
            depth: blocks.
        """
        super().__init__()


class Net(Base):
    def __init__(
        self, widths: List[int] = [3, 4], kind: Literal["a", "b"] = "a", act: Callable = max, gain=2.0, **rest
    ):
        super().__init__(**rest)


class NoCutoff(nn.Module):
    def __init__(self, width: int = 3): ...


class Named(nn.Module):
    def __init__(self, loss: Callable, cutoff: float = 3.0): ...


def read(root: str, name: str = "aspirin", split: Optional[str] = None):
    """Read it.

    Args:
        root: folder of the files.
    """
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the working directory."""
    name = f"own_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def read(recipe):
    return yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text()) if recipe else {}


@pytest.mark.parametrize("name", ModelConfig.registered())
def test_what_is_read_from_source_is_the_signature_of_the_class(name):
    module, cls = ModelConfig.registered()[name].split(":")
    true = inspect.signature(getattr(importlib.import_module(module), cls)).parameters
    found = {parameter.name: parameter for parameter, _ in parameters(f"{module}:{cls}")}
    assert list(found) == list(true)
    assert [one.default for one in found.values()] == [one.default for one in true.values()]
    plain = [one for one in found.values() if one.name != "atom_references"]  # a tensor is no option
    assert [one.annotation for one in plain] == [true[one.name].annotation for one in plain]


@pytest.mark.parametrize("kind", [DataConfig, ModelConfig])
def test_every_option_has_help(kind):
    for name in kind.registered():
        assert not [option.name for option in walk(kind.of(name)) if not option.help], name


@pytest.mark.parametrize("recipe", FLAT)
def test_recipes_are_what_they_were(recipe):
    before, now = FLAT[recipe], to_dict(from_dict(read(recipe)))
    for section, kind in (("model", ModelConfig), ("data", DataConfig)):
        added = {option.name: option.default for option in walk(kind.of(now[section]["name"]))}
        assert now[section] == {name: before[section].get(name, value) for name, value in added.items()}


@pytest.mark.parametrize("recipe", ["", *recipes()])
def test_what_is_saved_is_read_back_also_of_earlier_versions(recipe):
    config = from_dict(read(recipe))
    assert from_dict(to_dict(config)) == config
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config
    assert from_dict({**to_dict(config), **FLAT.get(recipe, {})}) == config
    assert set(keys(to_dict(config))) >= {f"{key}.{name}" for key in ("data", "model") for name in to_dict(config)[key]}


@pytest.mark.parametrize("kind", [DataConfig, ModelConfig])
def test_sections_are_values(kind):
    for name in kind.registered():
        section = kind(name)
        assert pickle.loads(pickle.dumps(section)) == section == copy.deepcopy(section) != "" and section.name == name
        assert isinstance(section, kind) and type(section) is kind.of(name)
    assert replace(ModelConfig("painn", num_radial=7), filter="exact") == ModelConfig(
        "painn", filter="exact", num_radial=7
    )


@pytest.mark.parametrize(
    "values, sentence",
    [
        (
            {"model": {"num_radial": 8}},
            "^model.num_radial belongs to painn and spookynet; schnet has num_filters and num_g",
        ),
        ({"model": {"name": "painn", "size": "x"}}, "^model.size belongs to chemgpt; painn has "),
        ({"model": {"hiden_features": 8}}, "^unknown option model.hiden_features; did you mean model.hidden_features?"),
        (
            {"model": {"name": "schnit"}},
            r"^model.name='schnit' \(did you mean 'schnet'\?\): choose one of schnet, painn",
        ),
        ({"data": {"name": "qm8"}}, r"^data.name='qm8' \(did you mean 'qm9'\?\): choose one of nci3d, qm9"),
        ({"data": {"name": "qm9", "molecule": "x"}}, "^data.molecule belongs to rmd17 and md17; qm9 has keep_"),
        ({"data": {"name": "qm9", "kind": "binary"}}, "^qm9 knows what its labels are; data.unit, data.extensive and"),
        ({"data": {"name": "file", "kind": "word"}}, "^data.kind='word': choose number or binary.$"),
        ({"data": {"long": "cut"}}, "^data.long='cut': choose error, drop or truncate.$"),
        ({"model": "painn"}, "^model: give options of it, such as `model: {name: painn}`"),
        ({"optimizr": {}}, "^unknown option optimizr; did you mean optimizer?"),
        (
            {"model": {"name": "nowhere_to_be:Found"}},
            "^model.name=nowhere_to_be:Found: nowhere_to_be cannot be imported",
        ),
        ({"model": {"cutoff": "far"}}, "model.cutoff"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_dict(values)


def test_options_of_ones_own_class(own):
    config = from_dict({"model": {"name": f"{own}:Net", "widths": [1, 2], "depth": 5}})
    assert config.model.arguments() == {"widths": [1, 2], "kind": "a", "gain": 2.0, "cutoff": 4.0, "depth": 5}
    assert from_dict(to_dict(config)) == config and pickle.loads(pickle.dumps(config)) == config
    assert {option.name: option.help for option in walk(type(config.model))}["depth"] == "blocks."
    for name, values, sentence in (
        ("Net", {"kind": "c"}, "model.kind='c': choose a or b"),
        (
            "Net",
            {"hidden_features": 8},
            "model.hidden_features belongs to schnet, painn, spookynet and chemgpt; .*:Net has",
        ),
        ("Net", {"widht": 8}, "unknown option model.widht; did you mean model.width"),
        ("NoCutoff", {}, "has no cutoff: give its constructor"),
        ("Named", {}, "needs loss, whose type .* cannot be written in a config"),
        ("Nett", {}, f"has no class or function Nett; did you mean {own}:Net?"),
    ):
        with pytest.raises(ValueError, match=sentence):
            from_dict({"model": {"name": f"{own}:{name}", **values}})


def test_options_of_ones_own_data_set(own):
    with pytest.raises(ValueError, match=f"{own}:read needs data.root: folder of the files."):
        from_dict({"data": {"name": f"{own}:read"}})
    config = from_dict({"data": {"name": f"{own}:read", "root": "here", "name_": "uracil", "split": "official"}})
    assert config.data.split == "official", "the run's"
    assert config.data.arguments() == {"root": "here", "name": "uracil", "split": None}
    assert from_dict(to_dict(config)) == config


def test_another_name_leaves_options_of_the_first_behind():
    base = {"model": {"name": "painn", "num_radial": 9, "cutoff": 4.0, "nonsense": 1}}
    merged, left_out = merge((DataConfig, ModelConfig), base, {"model": {"name": "schnet", "num_filters": 5}})
    assert merged == {"model": {"name": "schnet", "cutoff": 4.0, "nonsense": 1, "num_filters": 5}}
    assert left_out == ["model.num_radial"] and base["model"]["num_radial"] == 9
