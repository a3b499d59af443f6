"""Grids of searches and studies: the shipped ones fit their recipes, options of a run reach every candidate."""

import math

import pytest

from ipu_chem.cli import parse
from ipu_chem.commands.recipes import path_of
from ipu_chem.commands.search import read_grid
from ipu_chem.config import check_keys, to_dict
from ipu_chem.options import nested
from ipu_chem.scaling.candidates import make_candidates

# Grid -> its recipe and how many runs it says it is.
SHIPPED = {
    "demo_rates": ("nci3d_demo", 4),
    "demo_sizes": ("chemgpt_demo", 9),
    "chemgpt_rates": ("chemgpt_study", 12),
    "chemgpt_sizes": ("chemgpt_study", 60),
    "chemgpt_sizes_gpu": ("chemgpt_study", 84),
    "force_rates": ("rmd17_ethanol_study", 12),
    "spookynet_rates": ("rmd17_ethanol_study", 12),
    "force_sizes": ("rmd17_ethanol_study", 48),
}


def test_every_shipped_grid_is_known():
    folder = path_of("grid", "demo_rates").parent
    assert {path.stem for path in folder.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_grids_fit_their_recipes(name, tmp_path):
    recipe, count = SHIPPED[name]
    grid = read_grid(name)
    command = "scale" if "sizes" in name else "search"
    base = to_dict(parse([command, "--config", recipe, "--grid", name])[1][1])
    for key in grid:
        check_keys(nested({"model.name": base["model"]["name"], key: None}))
    assert math.prod(len(values) for values in grid.values()) == count
    words = path_of("grid", name).read_text().splitlines()[0]
    assert f" {count} " in words, "its first line says how many runs it is"
    ends = {key: [values[0], values[-1]] for key, values in grid.items() if len(values) > 1}  # the largest, the least
    assert make_candidates(base, ends, tmp_path)


def test_options_of_a_run_reach_every_candidate(tmp_path):
    words = ["--config", "chemgpt_study", "--grid", "chemgpt_rates", "--training.epochs", "7", "--out", str(tmp_path)]
    _, (options, config) = parse(["search", *words])
    assert options.out == str(tmp_path)
    (one, other) = make_candidates(to_dict(config), {"optimizer.learning_rate": [1e-3, 2e-3]}, tmp_path)
    for candidate in (one, other):
        assert candidate.config["training"]["epochs"] == 7 and candidate.config["model"]["mup_base_width"] == 64
        assert candidate.folder.parent == tmp_path


def test_a_grid_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--grid nothing: there is no such file, and the grids are chemgpt_rates, "):
        read_grid("nothing")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold options and their values"):
        read_grid(str(tmp_path / "list.yaml"))
