"""`ipu-chem doctor --config X --ipus N`: a plan, or a refusal with its reason, for every recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import torch
import yaml
from torch import Tensor

from ipu_chem.cli import main
from ipu_chem.commands.recipes import recipes
from ipu_chem.config import RunConfig, from_dict, to_dict
from ipu_chem.doctor.diagnosis import print_plan
from ipu_chem.models.schnet import Edges, Interaction

RECIPES = Path(__file__).resolve().parents[2] / "ipu_chem" / "recipes"
IPUS = (1, 4, 16, 64)


def recipe(name: str) -> RunConfig:
    return from_dict(yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8")))


def doctor(capsys: pytest.CaptureFixture, *words: str) -> Tuple[int, str]:
    """Exit code and output of the command; the loader is measured where that is asked for only."""
    code = main(["doctor", "--loader_seconds", "0", *words])
    return code, capsys.readouterr().out


def pasted(output: str) -> Dict[str, Any]:
    """The options at the end of the output."""
    lines = output.split("\n")
    return yaml.safe_load("\n".join(lines[lines.index("accelerator: ipu") :]))


def write(folder: Path, values: Dict[str, Any]) -> str:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(file)


def test_a_model_is_judged_without_a_file(capsys: Any) -> None:
    code, output = doctor(capsys, "--model.name", "painn", "--model.hidden_features", "32")
    assert code == 0 and pasted(output)["accelerator"] == "ipu"


# Deep models take seconds each: a number of IPUs below and one above what the largest needs are enough.
CASES = [(name, ipus) for name in recipes() for ipus in IPUS if not name.startswith("chemgpt") or ipus in (4, 16)]


@pytest.mark.parametrize(("name", "ipus"), CASES)
def test_every_recipe_ends_in_a_plan_or_a_reason(name: str, ipus: int, capsys: Any) -> None:
    code, output = doctor(capsys, "--config", name, "--ipus", str(ipus))
    assert "calls of" in output and "PopTorch lowers them all" in output
    assert ", no gathers without a shape: " in output or ", 1 gather without a shape: " in output
    assert "\nipu  stage  blocks" in output
    if code == 1:
        assert "\nrefused: " in output and " need" in output and "Next that fits: " in output
        return
    assert code == 0 and f"\n{ipus} IPU{'s' if ipus > 1 else ''}" in output
    if "fits as it is configured" not in output:
        options = pasted(output)
        ours = options["batching"]["replication_factor"] * options.get("ipu", {}).get("ipus_per_replica", 1)
        assert "fits with these options" in output and ours == ipus


@pytest.mark.parametrize("name", [name for name in recipes() if name not in ("chemgpt_19m", "chemgpt_1.2b_pod16")])
def test_printed_options_are_of_a_run_that_fits(name: str, tmp_path: Path, capsys: Any) -> None:
    _, output = doctor(capsys, "--config", name, "--ipus", "8")
    merged = {**to_dict(recipe(name)), "precision": {}, "ipu": {}, **pasted(output)}
    code, again = doctor(capsys, "--config", write(tmp_path, merged))
    assert code == 0 and "fits as it is configured" in again
    for start in ("8 IPUs: ", "  0  0 "):  # what it is, and how full
        one, other = [[line for line in text.split("\n") if line.startswith(start)] for text in (output, again)]
        assert one == other and len(one) == 1


def test_the_pods_recipe_fits_as_it_is(capsys: Any) -> None:
    code, output = doctor(capsys, "--config", "qm9_u0_pod16")
    assert code == 0 and "fits as it is configured" in output
    assert "16 IPUs: 4 machines of a POD16: 16 replicas of 1 IPU" in output
    assert "128 packs in an optimizer step: 2 in a micro-batch x 4 accumulated x 16 replicas" in output


def test_a_configuration_for_other_ipus_gets_a_new_layout(capsys: Any) -> None:
    code, output = doctor(capsys, "--config", "qm9_u0_pod16", "--ipus", "4")
    assert code == 0 and "fits with these options:" in output
    options = pasted(output)
    assert options["batching"]["replication_factor"] == 4 and options["batching"]["device_iterations"] == 4
    assert options["ipu"] == {"prefetch_depth": 4, "merge_all_reduce": True}, "what else was chosen stays"


def test_what_the_data_would_decide_is_said(capsys: Any) -> None:
    _, output = doctor(capsys, "--config", "qm9_u0", "--ipus", "1")
    assert output.startswith("pack.edges: 1024 assumed, 8 for every node\npack.graphs: 16 assumed")
    _, output = doctor(capsys, "--config", "qm9_u0", "--ipus", "64")
    assert "The configuration has 8 packs in an optimizer step." in output


def test_what_does_not_fit_is_refused_with_what_does(tmp_path: Path, capsys: Any) -> None:
    values = {
        "accelerator": "ipu",
        "pack": {"nodes": 64, "edges": 1024, "graphs": 8},
        "model": {"hidden_features": 64, "num_filters": 64},
        "batching": {"micro_batch_size": 512},
    }
    file = write(tmp_path, values)
    code, output = doctor(capsys, "--config", file)
    assert code == 1
    refusal = next(line for line in output.split("\n") if line.startswith("refused: "))
    assert "stage 0 (embedding..head) on the IPU needs" in refusal and "most of it activations" in refusal
    assert "Next that fits: 1 IPU, 1 replica of 1 IPU, micro-batches of 128" in refusal
    write(tmp_path, {**values, **pasted(output)})
    code, output = doctor(capsys, "--config", file)
    assert code == 0 and "fits as it is configured" in output


def test_a_missing_operator_fails_though_there_is_room(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def forward(self: Any, x: Tensor, edges: Edges, table: Any) -> Tensor:
        source, target, _ = edges.list
        filters = table.read(table.tabulate(self.filters(edges.basis, edges.envelope)), edges.places)
        return torch.zeros_like(x).index_add(0, target, self.lin_in(x).index_select(0, source) * filters)

    monkeypatch.setattr(Interaction, "forward", forward)
    assert print_plan(recipe("nci3d_demo"), 1, loader_seconds=0) == 1
    output = capsys.readouterr().out
    assert "test_doctor.py:" in output and "no handler: aten::index_add (3 times)" in output
    assert "fits with these options" in output and output.endswith("but PopTorch would not compile it, see above\n")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--ipus", "4"], "name it with --config"),
        (["--config", "nci3d_demo", "--ipus", "3"], "3 IPUs: they are lent in powers of two"),
        (["--config", "nci3d_demo", "--ipus", "0"], "ipus=0: give an integer from 1 to 65,536"),
        (["--config", "nowhere"], "the recipes are"),
    ],
)
def test_wrong_words_are_told_in_one_line(words: List[str], message: str, capsys: Any) -> None:
    assert main(["doctor", *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_cut_that_cannot_be_is_told_in_one_line(tmp_path: Path, capsys: Any) -> None:
    config = to_dict(replace(recipe("nci3d_demo"), accelerator="ipu"))
    config["ipu"]["ipus_per_replica"] = 2
    assert main(["doctor", "--config", write(tmp_path, config)]) == 1
    assert "batching.gradient_accumulation=2: a pipeline of 2 stages needs 3 or more" in capsys.readouterr().err
    config["ipu"]["ipus_per_replica"] = 16
    assert main(["doctor", "--config", write(tmp_path, config)]) == 1
    assert "5 blocks cannot be spread over 16 IPUs; use ipu.ipus_per_replica=4" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["schnet", "painn"])
@pytest.mark.parametrize("neighbors", [0, -1])
def test_every_model_is_planned(name: str, neighbors: int, tmp_path: Path, capsys: Any) -> None:
    values = {"model": {"name": name}, "pack": {"nodes": 64, "device_neighbors": neighbors}, "loss": "huber"}
    code, output = doctor(capsys, "--config", write(tmp_path, values), "--ipus", "4")
    assert code == 0 and "4 replicas of 1 IPU" in output
    assert ("pack.device_neighbors: 16 assumed" in output) == (neighbors == -1)
