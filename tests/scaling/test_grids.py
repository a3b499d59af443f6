"""Grids of searches and studies: the shipped ones fit their recipes, options of a run reach every candidate."""

import math

import pytest

from ipu_chem.cli import parse
from ipu_chem.commands.recipes import path_of
from ipu_chem.commands.search import read_grid
from ipu_chem.config import check_keys, to_dict
from ipu_chem.options import nested
from ipu_chem.scaling.candidates import make_candidates
from ipu_chem.scaling.cost import cost_lines, costs_of
from ipu_chem.scaling.study import Amount, Plan

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
    "chemgpt_decade": ("chemgpt_study", 56),
    "chemgpt_decades_gpu": ("chemgpt_study", 135),
    "painn_decade": ("rmd17_ethanol_study", 48),
    "schnet_decade": ("rmd17_ethanol_study", 48),
    "spookynet_decade": ("rmd17_ethanol_study", 56),
}


def model_of(name):
    """Options of the model that a grid is for, which its name begins with."""
    model = name.partition("_")[0]
    return ["--model.name", model] if "decade" in name or model == "spookynet" else []


def test_every_shipped_grid_is_known():
    folder = path_of("grid", "demo_rates").parent
    assert {path.stem for path in folder.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_grids_fit_their_recipes(name, tmp_path):
    recipe, count = SHIPPED[name]
    grid = read_grid(name)
    command = "search" if "rates" in name else "scale"
    base = to_dict(parse([command, "--config", recipe, "--grid", name, *model_of(name)])[1][1])
    for key in grid:
        check_keys(nested({"model.name": base["model"]["name"], key: None}))
    assert math.prod(len(values) for values in grid.values()) == count
    words = path_of("grid", name).read_text().splitlines()[0]
    assert f" {count} " in words, "its first line says how many runs it is"
    ends = {key: [values[0], values[-1]] for key, values in grid.items() if len(values) > 1}  # the largest, the least
    assert make_candidates(base, ends, tmp_path)


@pytest.mark.parametrize("name", [name for name in SHIPPED if "decade" in name])
def test_decades_reach_from_thousands_to_millions_of_parameters(name, tmp_path):
    base = to_dict(parse(["scale", "--config", SHIPPED[name][0], "--grid", name, *model_of(name)])[1][1])
    sizes = {key: values for key, values in read_grid(name).items() if key.startswith("model.")}
    plan = Plan(make_candidates(base, sizes, tmp_path), [Amount(base["data"]["train"], 50, 450, 10, 360, 1, 45)], "")
    costs = costs_of(plan, jobs=2, seconds=0)  # counts only, as for a machine that is not here
    assert len(costs) >= 6 and costs[0].parameters < 4500
    assert costs[-1].parameters > (5e8 if "gpu" in name else 5e6)
    ratios = [after.parameters / before.parameters for before, after in zip(costs, costs[1:])]
    assert max(ratios) < 10 and all(one.seconds is None for one in costs)
    assert sum(one.flops for one in costs) == pytest.approx(sum(6 * one.parameters * 450 * 360 for one in costs))
    assert f"{costs[-1].parameters:,}" in "\n".join(cost_lines(costs, 2))


def test_options_of_a_run_reach_every_candidate(tmp_path):
    words = ["--config", "chemgpt_study", "--grid", "chemgpt_rates", "--training.epochs", "7", "--out", str(tmp_path)]
    _, (options, config) = parse(["search", *words])
    assert options.out == str(tmp_path)
    (one, other) = make_candidates(to_dict(config), {"optimizer.learning_rate": [1e-3, 2e-3]}, tmp_path)
    for candidate in (one, other):
        assert candidate.config["training"]["epochs"] == 7 and candidate.config["model"]["mup_base_width"] == 64
        assert candidate.folder.parent == tmp_path


def test_a_grid_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--grid nothing: there is no such file, and the grids are chemgpt_decade, "):
        read_grid("nothing")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold options and their values"):
        read_grid(str(tmp_path / "list.yaml"))
