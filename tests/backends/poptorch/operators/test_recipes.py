"""Every recipe, and every kind of run that there is no recipe of, is one that PopTorch takes, derivatives included."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import pytest
import yaml
from support import model_values

from ipu_chem.backends.options import Batching, Precision
from ipu_chem.commands.recipes import recipes
from ipu_chem.config import DataConfig, ModelConfig, PackConfig, RunConfig, from_dict
from ipu_chem.doctor.check import check_config

RECIPES = Path(__file__).resolve().parents[4] / "ipu_chem" / "recipes"


@pytest.mark.parametrize("name", recipes())
def test_every_recipe(name: str) -> None:
    config = from_dict(yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))
    report = check_config(config)
    assert report.findings == (), report.text()
    assert report.shapeless_gathers <= 1, report.text()
    assert sum(report.operators.values()) > 200


SMALL = RunConfig(
    data=DataConfig(target="a"),
    pack=PackConfig(nodes=24, edges=120, graphs=5),
    batching=Batching(2),
)
SIZES = {"hidden_features": 8, "num_filters": 8, "num_interactions": 2, "num_gaussians": 5, "num_radial": 4}
FORCES: Dict[str, Any] = {"force_share": 0.9, "data": DataConfig(name="rmd17", molecule="ethanol")}
# All terms of SpookyNet are on by default.
MOLECULES: Dict[str, Dict[str, Any]] = {
    "schnet": {"filter": "table"},
    "schnet, exact": {"name": "schnet", "filter": "exact"},
    "painn": {},
    "painn, table": {"name": "painn", "filter": "table"},
    "spookynet": {},
}


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("forces", [False, True])
@pytest.mark.parametrize("model", MOLECULES)
def test_models_of_molecules_with_and_without_forces(model: str, forces: bool, weights: str) -> None:
    options = {"name": model, **MOLECULES[model]}
    sizes = model_values(options["name"], **SIZES)
    config = replace(SMALL, model=ModelConfig(**{**sizes, **options}), precision=Precision(weights=weights))
    assert not options["name"].startswith("spooky") or config.model.use_dispersion and config.model.use_electrostatics
    report = check_config(replace(config, **FORCES) if forces else config)
    assert report.findings == (), report.text()
    assert report.shapeless_gathers <= 1, report.text()
    assert report.operators["gather"] > 1 and report.operators["scatter_add"] > 1


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_language_models(tied: bool, weights: str) -> None:
    model = ModelConfig(name="chemgpt", hidden_features=8, num_layers=2, tie_embeddings=tied)
    config = RunConfig(pack=PackConfig(tokens=48), model=model, precision=Precision(weights=weights))
    report = check_config(config)
    assert report.findings == () and report.shapeless_gathers == 0, report.text()


@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_labels_of_text(weights: str) -> None:
    model = ModelConfig(name="chemgpt", hidden_features=8, num_layers=2, readout="sum")
    config = replace(SMALL, pack=PackConfig(tokens=48, graphs=6), model=model, precision=Precision(weights=weights))
    report = check_config(config)
    assert report.findings == () and report.shapeless_gathers == 0, report.text()
