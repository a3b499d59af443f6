"""Costs of a study before it trains, and studies of which half diverges: nothing lost, nothing silent."""

import json
import math

import pytest
import yaml

from ipu_chem.cli import main
from ipu_chem.scaling.candidates import Progress
from ipu_chem.scaling.cost import cost_lines, costs_of, duration
from ipu_chem.scaling.points import STEPS_HELD, read_points
from ipu_chem.scaling.study import StudyOptions, make_plan, point_of

# A model whose larger sizes diverge, since their loss is not finite.
FRAGILE = '''
"""A model that breaks from a size on."""

from torch import nn

from ipu_chem.models.base import GraphModel, zero_padded
from ipu_chem.models.layers import read_out


class Fragile(GraphModel):
    """Sums of what atoms contribute by themselves."""

    def __init__(self, hidden_features: int = 8, breaks_from: int = 12, cutoff: float = 4.0, num_targets: int = 1):
        """Build the network.

        Args:
            hidden_features: features of an atom.
            breaks_from: features from which it breaks.
            cutoff: longest edge, Å.
            num_targets: values predicted for every molecule.
        """
        super().__init__()
        self.cutoff = cutoff
        self.factor = float("nan") if hidden_features >= breaks_from else 1.0
        self.embedding = nn.Embedding(100, hidden_features)
        self.head = nn.Linear(hidden_features, num_targets)

    def forward(self, graph):
        graph = zero_padded(graph)
        per_atom = self.head(self.embedding(graph.z.reshape(-1))) * self.factor
        return read_out(per_atom, graph.graph_index, graph.node_mask, graph.graph_mask, mean=False)
'''


@pytest.fixture
def base(tmp_path):
    data = {"name": "nci3d", "cache": str(tmp_path), "limit": 60, "validation": 0.2, "test": 0.1, "references": "none"}
    model = {"name": "schnet", "num_filters": 0, "num_interactions": 1, "num_gaussians": 5, "cutoff": 4.0}
    return {"data": data, "model": model, "batching": {"micro_batch_size": 1}, "training": {"epochs": 12}}


def test_costs_are_those_of_what_is_left(base, tmp_path):
    grid = {"model.hidden_features": [16, 8], "data.train": [15, 30], "training.seed": [0, 1]}
    plan = make_plan(base, grid, tmp_path / "study", StudyOptions())
    assert plan.held_out == 9
    small, large = costs_of(plan, jobs=1, seconds=0.01)
    assert (small.name, small.runs, large.runs) == ("hidden_features=8", 4, 4) and small.parameters < large.parameters
    assert small.flops == sum(12 * small.parameters * one.tokens * one.epochs for one in plan.amounts)
    assert small.steps == sum(2 * one.steps for one in plan.amounts) and small.step > 0
    assert small.seconds > small.steps * small.step and small.longest < small.seconds  # evaluations come on top
    assert "to train: 8 runs" in cost_lines([small, large], 1)[3]
    # A run that is done, and one that is half done, cost that much less.
    for index, status, step in ((0, "finished", 40), (2, "stopped", 20)):
        folder = plan.candidates[index].folder
        folder.mkdir(parents=True)
        values = {**vars(Progress(status, step, 40, 1.0, {"mae": 1.0})), "config": plan.candidates[index].config}
        (folder / "candidate.json").write_text(json.dumps(values))
    _, left = costs_of(plan, jobs=1, seconds=0)
    assert left.runs == 3 and left.seconds is None and left.step is None
    per_run = {one.train: 6.0 * left.parameters * one.tokens * one.epochs for one in plan.amounts}
    done = [plan.candidates[index].config["data"]["train"] for index in (0, 2)]
    assert large.flops - left.flops == pytest.approx(per_run[done[0]] + 0.5 * per_run[done[1]])
    with pytest.raises(ValueError, match="plan_seconds=-1: give seconds from 0"):
        costs_of(plan, jobs=1, seconds=-1)
    assert [duration(one) for one in (45, 600, 7200, 2e5)] == ["45 s", "10.0 min", "2.0 h", "2.3 d"]


@pytest.mark.slow
def test_a_study_of_which_half_diverges(base, tmp_path, monkeypatch, capsys):
    (tmp_path / "fragile_model.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    base["model"] = {"name": "fragile_model:Fragile"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"model.hidden_features": [8, 16], "data.train": [15, 30]}))
    out = tmp_path / "study"
    command = ["scale", "--config", f"{tmp_path}/base.yaml", "--grid", f"{tmp_path}/grid.yaml", "--out", str(out)]
    assert main([*command, "--plan", "--plan_seconds", "0"]) == 0
    printed = capsys.readouterr().out
    assert "held fixed:" in printed and "to train: 4 runs" in printed and not list(out.glob("*/run.json"))
    assert main(command) == 0
    printed = capsys.readouterr().out
    points = read_points(out / "points.json")
    assert len(points) == 4 and sum(one.diverged for one in points) == 2
    assert "2 of 4 runs diverged; points.json keeps all" in printed and "lower learning rate" in printed
    assert "held-out molecules: 9 validation" in printed and "model.hidden_features: 8, 16" in printed
    saved = json.loads((out / "study.json").read_text())
    assert len(saved["points"]) == 4 and len(saved["fitted"]) == 2 and saved["held"]["options"]["model.cutoff"] == 4.0
    assert saved["checks"] == saved["gains"] == [] and any(
        "no predictions beyond the runs" in note for note in saved["notes"]
    )
    assert main([*command, "--plan", "--plan_seconds", "0"]) == 0  # nothing is trained twice, diverged or not
    assert "to train: 0 runs" in capsys.readouterr().out


def test_a_run_without_one_finite_evaluation_has_diverged(base, tmp_path):
    plan = make_plan(base, {"model.hidden_features": [8]}, tmp_path / "study", StudyOptions())
    (candidate,) = plan.candidates
    candidate.folder.mkdir(parents=True)
    run = {"atoms": {"train": 100}, "splits": {"train": 9}, "parameters without embeddings": 7}
    (candidate.folder / "run.json").write_text(json.dumps(run))
    point = point_of(candidate, Progress("finished", 4, 4, 1.0, {}), STEPS_HELD, "mae_logp")
    assert point.diverged and math.isinf(point.loss)
