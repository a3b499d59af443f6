"""A graph task asks the class of its model what that needs and adds, never its name."""

from typing import Any, Tuple

import numpy as np
import pytest
from torch import nn

from ipu_chem.config import ModelConfig, from_dict
from ipu_chem.data.molecule import Molecule, molecules_to_store
from ipu_chem.data.standardize import Standardizer
from ipu_chem.metrics import Target
from ipu_chem.models.base import GraphModel
from ipu_chem.models.registry import build_model, graph_model_class
from ipu_chem.tasks.graphs import check_charges, make_model


class Plain(nn.Module):
    """No graph model."""

    def __init__(self, hidden_features: int = 2) -> None:
        super().__init__()


class Physical(GraphModel):
    """Adds an energy of its own, unless it shall not."""

    def __init__(self, gravity: bool = True, energy_scale: float = 1.0, cutoff: float = 5.0) -> None:
        super().__init__()
        self.energy_scale = energy_scale

    @classmethod
    def added_energies(cls, **options: Any) -> Tuple[str, ...]:
        return ("gravity",) if options["gravity"] else ()


def options(name: str, **model: Any) -> ModelConfig:
    return from_dict({"model": {"name": name, **model}}).model


def scaled(unit: str, scale: float) -> Any:
    target = {"name": "e", "unit": unit, "extensive": True}
    zeros = np.zeros(1)
    return [Target("e", unit)], Standardizer(
        [target], ["none"], [1], np.zeros((100, 1)), zeros, zeros, np.array([scale])
    )


def test_what_is_no_graph_model_is_refused():
    with pytest.raises(
        ValueError, match=f"{__name__}:Plain: Plain is no graph model; derive the class from .*GraphModel"
    ):
        build_model(f"{__name__}:Plain", 1, True)
    with pytest.raises(ValueError, match="chemgpt: ChemGPT is no graph model"):
        graph_model_class("chemgpt")


OFF = {"use_zbl": False, "use_electrostatics": False, "use_dispersion": False}


@pytest.mark.parametrize("name, switch", [("spookynet", OFF), (f"{__name__}:Physical", {"gravity": False})])
def test_energies_that_a_model_adds_are_scaled_to_its_predictions(name, switch):
    for unit, expected in (("eV", 0.5), ("meV", 5e-4)):
        targets, standardizer = scaled(unit, 0.5)
        model = make_model(options(name), 0, targets, standardizer=standardizer).model
        inner = getattr(model, "model", model)
        assert inner.energy_scale == pytest.approx(expected)
    targets, standardizer = scaled("Debye", 0.5)
    terms = " and ".join(f"model.{term}" for term in switch)
    with pytest.raises(
        ValueError, match=rf"adds energies of its own \(.*\) in eV, but e is in Debye; .*{terms} to false"
    ):
        make_model(options(name), 0, targets, standardizer=standardizer)
    make_model(options(name, **switch), 0, targets, standardizer=standardizer)


@pytest.mark.parametrize(
    "charge, spin, sentence",
    [
        ([0, -1, 1], [0, 1, 1], "schnet ignores charge; charges -1, 0, 1 vary among 3 molecules"),
        ([0, 0, 0], [0, 2, 0], "schnet ignores spin; numbers of unpaired electrons 0, 2 vary among 3 molecules"),
        ([1, 1, 1], [1, 1, 1], ""),
        (None, None, ""),
    ],
)
def test_charges_that_a_model_ignores_are_named(charge, spin, sentence, capsys):
    made = {"charge": charge, "spin": spin}
    molecules = [
        Molecule(np.array([8, 1, 1], np.uint8), np.eye(3), **{key: one and one[i] for key, one in made.items()})
        for i in range(3)
    ]
    check_charges(molecules_to_store(molecules), options("schnet"))
    said = capsys.readouterr().err
    assert sentence in said and said.count("warning") == bool(sentence)
    assert ("use spookynet" in said) == bool(sentence)
    if charge is not None:
        check_charges(molecules_to_store(molecules), options("spookynet"))
        assert capsys.readouterr().err == ""
    else:
        with pytest.raises(ValueError, match="--data.charge 0 --data.multiplicity 1, or train schnet"):
            check_charges(molecules_to_store(molecules), options("spookynet"))
