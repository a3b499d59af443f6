"""The metric by which runs are compared: which one, what it is worth where it is not finite, and what is refused."""

import csv
import json
import math

import pytest
import yaml
from support import CHAINS

from ipu_chem.cli import main
from ipu_chem.scaling.counted import counted_metric, names_of, usual_metric, value_of

CLASSES = {"rocauc_rare": None, "ap_rare": None, "rocauc_nitrogen": 0.75, "ap_nitrogen": 0.5, "rocauc": 0.75, "ap": 0.5}
RATES = {"optimizer.learning_rate": [0.001, 0.003, 0.01, 2e37]}


def command(tmp_path, base, grid, *more, name="search"):
    base = {key: value for key, value in base.items() if key != "out"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    words = [name, "--config", f"{tmp_path}/base.yaml", "--grid", f"{tmp_path}/grid.yaml"]
    return [*words, "--out", str(tmp_path / "out"), *more]


@pytest.fixture
def rare_class(text_options, tmp_path):
    """Options of runs that learn two classes, of one of which the validation molecules hold one kind alone."""
    with open(tmp_path / "classes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["smiles", "rare", "nitrogen"])
        rows.writerows([one, int(one in ("CCCN", "CCCO")), int("N" in one)] for one in CHAINS)
    data = {"path": str(tmp_path / "classes.csv"), "target": "rare,nitrogen", "kind": "binary", "split_seed": 11}
    text_options["data"].update(data, validation=16)
    text_options["model"]["hidden_features"] = 8
    text_options["training"]["epochs"] = 5
    return text_options


def test_the_usual_metric():
    assert usual_metric(["mae_u0_meV", "mae_forces_meV_per_A"]) == "mae_forces_meV_per_A"
    assert usual_metric(list(CLASSES)) == "rocauc" and usual_metric(["rocauc_a", "ap_a"]) == "rocauc_a"
    assert usual_metric([]) == "" and counted_metric(["mae", "rmse"], "rmse") == "rmse"
    with pytest.raises(ValueError, match="--metric mae_typo: the runs have mae, rmse"):
        counted_metric(["mae", "rmse"], "mae_typo")
    with pytest.raises(ValueError, match="no validation metric to compare: set data.validation"):
        counted_metric([])


def test_a_metric_that_is_not_finite_is_the_worst_or_not_known():
    row = {"kind": "validation", "step": 3, "epoch": 1, "loss": 0.5, "seconds": 1.0, **CLASSES}
    assert names_of(row) == list(CLASSES)
    assert value_of("rocauc", row) == ("1 - rocauc", 0.25)
    with pytest.raises(
        ValueError, match=r"rocauc_rare is not known .* \(one class in validation\): give --metric roca"
    ):
        value_of("rocauc_rare", row)
    with pytest.raises(ValueError, match="no values of it in validation.*: give --metric mae_b_meV"):
        value_of("mae_a_meV", {"mae_a_meV": math.nan, "rmse_a_meV": math.nan, "mae_b_meV": 2.0, "rmse_b_meV": 3.0})
    assert value_of("rocauc", dict.fromkeys(CLASSES)) == ("1 - rocauc", math.inf)  # a model that diverged
    assert value_of("mae_forces_meV_per_A", {"mae_forces_meV_per_A": None, "mae_u0_meV": 1.0})[1] == math.inf
    assert value_of("perplexity", {"nats_per_token": 900.0, "perplexity": math.inf}) == ("perplexity", math.inf)


def test_a_run_whose_only_evaluation_is_not_finite_ranks_last(options, tmp_path, capsys):
    options["batching"] = {"micro_batch_size": 64}  # one step, after which nothing notices
    options["training"]["epochs"] = 1
    words = command(tmp_path, options, RATES, "--keep", "2", "--finish_all", "true")
    for estimator in ("tail", "validation"):
        assert main([*words, "--estimator", estimator]) == 0, capsys.readouterr().err
        found = json.loads((tmp_path / "out" / "search.json").read_text())
        last = found["rows"][-1]
        assert (last["name"], last["status"], last["final"]) == ("learning_rate=2e+37", "finished", None)
        assert all(row["final"] > 0 for row in found["rows"][:-1]) and found["metric"].startswith("mae_")
        assert "learning_rate=2e+37, seed 0: no evaluation of it was finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, metric, words",
    [
        (
            "search",
            "rocauc_rare",
            "rocauc_rare is not known for these runs (one class in validation): give --metric rocauc.",
        ),
        (
            "scale",
            "mae_typo",
            "--metric mae_typo: the runs have rocauc_rare, ap_rare, rocauc_nitrogen, ap_nitrogen, rocauc, ap.",
        ),
    ],
)
def test_a_metric_that_is_not_there_is_refused_by_the_first_evaluation(
    rare_class, tmp_path, capsys, name, metric, words
):
    grid = RATES if name == "search" else {"model.hidden_features": [8, 16]}
    assert main(command(tmp_path, rare_class, grid, "--metric", metric, name=name)) == 1
    candidate, said = capsys.readouterr().err.strip().splitlines()[-1].split(": ", 2)[1:]
    assert candidate.startswith("candidate ") and said == words  # what a worker refuses is a sentence, and no more
    assert not list((tmp_path / "out").glob("*/candidate.json"))
