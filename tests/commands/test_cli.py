"""The command line as people type it."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ipu_chem.cli import COMMANDS, main
from ipu_chem.commands.recipes import recipes

ROOT = Path(__file__).parents[2]


def fails(capsys, *argv):
    """What a command that must fail says, in one line on stderr."""
    try:
        assert main(list(argv)) != 0
    except SystemExit as stop:
        assert stop.code == 2
    return capsys.readouterr().err


def python(*code):
    return subprocess.run([sys.executable, *code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_help_loads_nothing_heavy():
    heavy = ("torch", "rdkit", "scipy", "matplotlib", "torch_geometric", "ase")
    code = f"""
import sys
from ipu_chem.cli import main
try:
    main(["train", "--help"])
except SystemExit:
    pass
print([name for name in {heavy!r} if name in sys.modules])
"""
    result = python("-c", code)
    assert result.stdout.strip().endswith("[]"), result.stdout[-300:] + result.stderr


def test_the_module_is_the_command():
    result = python("-m", "ipu_chem", "--help")
    assert result.returncode == 0 and all(command in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "default" in capsys.readouterr().out or command in ("report", "recipes", "doctor")


def test_train_help_gives_defaults_and_units(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert "longest edge" in text and "default: 5.0" in text and "Å" in text
    assert "peak learning rate" in text and "default: 0.001" in text


def test_pack_prints_the_published_and_the_best_packing(tmp_path, capsys):
    histogram = {"3": 2, "4": 4, "5": 5, "9": 172, "12": 2189, "15": 10216, "18": 17442, "21": 13166, "29": 35}
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps({"small": histogram}))
    picture = tmp_path / "curve.png"
    argv = ["pack", "--sizes", str(file), "--dataset", "small", "--nodes", "36", "64", "--plot", str(picture)]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["budget", "algorithm"] and "lower bound" in lines[1] and "gap" in lines[1]
    rows = [line.split("  ") for line in lines[2:8]]
    assert [row[0] for row in rows] == ["nodes=36"] * 3 + ["nodes=64"] * 3
    assert sum("auto (column_generation)" in line or "auto (best_fit)" in line for line in lines) == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "histogram, message",
    [
        ({"9": 10**12}, "counts 1,000,000,000,000 molecules; 1 to 268,435,456 can be packed"),
        ({"9": 10**30}, "molecules; 1 to 268,435,456 can be packed"),
        ({"9": 0}, "counts 0 molecules"),
        ({str(2**31): 1}, r"are from 1 to 2\*\*31 - 1"),
        ({"9": 2.5}, r"must be integers \(there is 2.5\)"),
        ({"9": float("inf")}, "must be integers"),
    ],
)
def test_histograms_that_cannot_be_packed(tmp_path, capsys, histogram, message):
    (tmp_path / "sizes.json").write_text(json.dumps(histogram))
    assert main(["pack", "--sizes", str(tmp_path / "sizes.json"), "--nodes", "36"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_pack_reproduces_golden_figures(shared, capsys):
    for flags, lpfhp, best in [
        (["qm9", "--nodes", "36"], "66,433", "66,433"),
        (["hydronet_500k", "--nodes", "192", "--graphs", "5"], "167,046", "164,032"),
        (["qm9", "--nodes", "128"], "18,907", "18,432"),
    ]:
        path, patient = str(shared / "golden" / "histograms.json"), ["--time_limit", "300"]  # on a busy machine, too
        assert main(["pack", "--sizes", path, "--dataset", *flags, "--algorithms", "lpfhp", "auto", *patient]) == 0
        first, second = capsys.readouterr().out.splitlines()[2:4]
        assert lpfhp in first and best in second


def test_pack_of_molecules_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "library.smi").write_text("CCO\nCCC\nc1ccccc1\nC1CC\n")
    assert main(["pack", "--data", "file", "--path", str(tmp_path / "library.smi"), "--nodes", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 molecules of 4.0 heavy atoms (largest 6) counted, 1 left out (the first is line 4" in lines[0]
    assert "3 molecules, 32 nodes" in lines[1] and not (tmp_path / "cache").exists(), "nothing is embedded"
    assert lines[-1].split()[3:6] == ["1", "1", "0"] and "100.00%" in lines[-1]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--sizes", "no.json", "--nodes", "8"], "there is no file no.json"),
        (["--nodes", "8"], "either --sizes FILE"),
        (["--sizes", "{file}", "--dataset", "b", "--nodes", "8"], "no data set 'b'; choose --dataset from a"),
        (["--sizes", "{file}", "--dataset", "a", "--nodes", "4"], "would hold every item"),
        (["--sizes", "{file}", "--dataset", "a", "--nodes", "8", "--algorithms", "ffd"], "unknown packing algorithm"),
    ],
)
def test_pack_says_what_is_wrong(tmp_path, capsys, argv, words):
    file = tmp_path / "sizes.json"
    file.write_text('{"a": {"5": 3}}')
    message = fails(capsys, "pack", *[str(file) if word == "{file}" else word for word in argv])
    assert words in message and "Traceback" not in message


def test_unknown_flags_and_keys_name_the_nearest(tmp_path, capsys):
    assert "did you mean --optimizer.learning_rate?" in fails(capsys, "train", "--optimizer.learningrate", "1")
    config = tmp_path / "config.yaml"
    config.write_text("optimizer:\n  learnin_rate: 0.1\n")
    message = fails(capsys, "train", "--config", str(config))
    assert "unknown option optimizer.learnin_rate; did you mean optimizer.learning_rate?" in message
    assert str(config) in message
    assert "the recipes are" in fails(capsys, "train", "--config", "qm8_u0")
    assert "--training.epochs many: give an integer." in fails(capsys, "train", "--training.epochs", "many")


def test_train_evaluate_predict_report(tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--data.limit", "60", "--data.cache", str(tmp_path / "cache"), "--pack.nodes", "80", "--out", str(out)]
    flags += ["--model.hidden_features", "8", "--training.epochs", "2", "--training.progress", "false"]
    flags += ["--training.report", "false", "--accelerator", "cpu", "--torch.threads", "1"]
    assert main(["train", "--config", "nci3d_demo", *flags]) == 0
    output = capsys.readouterr().out
    assert "hidden_features: 8" in output and "num_gaussians: 40" in output, "the resolved config is printed"
    assert "filled: nodes" in output and "test: mae_mmff94_energy_kcal_per_mol" in output and "baseline" in output
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["model"]["hidden_features"] == 8 and saved["model"]["num_filters"] == 64

    assert main(["evaluate", str(out), "--split", "validation"]) == 0
    assert "validation: mae_mmff94_energy_kcal_per_mol" in capsys.readouterr().out
    (tmp_path / "in.smi").write_text("CCO\nC1CC\n")
    assert main(["predict", str(out), str(tmp_path / "in.smi"), "--output", str(tmp_path / "out.csv")]) == 0
    assert "1 molecules predicted, 1 refused" in capsys.readouterr().out
    assert main(["report", str(out)]) == 0 and (out / "report.html").is_file()
    capsys.readouterr()
    assert "holds a run already" in fails(capsys, "train", "--config", "nci3d_demo", *flags)
    assert main(["train", "--resume", str(out), "--training.epochs", "3", "--training.report", "false"]) == 0
    assert "epochs: 3" in capsys.readouterr().out
    assert "model.hidden_features=8" in fails(capsys, "train", "--resume", str(out), "--model.hidden_features", "9")


def test_prepare_prints_what_is_in_a_data_set(tmp_path, capsys):
    assert main(["prepare", "--limit", "60", "--cache", str(tmp_path), "--workers", "1"]) == 0
    output = capsys.readouterr().out
    for words in ("mmff94_energy", "kcal/mol", "licence", "fingerprint"):
        assert words in output
    figures = {line[:13].strip(): line[13:] for line in output.splitlines()}
    assert int(figures["molecules"]) > 40 and int(figures["molecules"]) + int(figures["left out"]) == 60


def test_train_on_real_qm9(shared, tmp_path, capsys):
    flags = ["--config", "qm9_u0_10k", "--data.path", str(shared / "data" / "qm9"), "--data.cache", str(tmp_path)]
    flags += ["--data.limit", "2500", "--data.train", "300", "--data.validation", "40", "--data.test", "40"]
    flags += ["--pack.time_limit", "60"]  # a busy machine must not decide how full packs are
    flags += ["--training.epochs", "3", "--training.report", "false", "--training.progress", "false"]
    assert main(["train", *flags, "--accelerator", "cpu", "--out", str(tmp_path / "run")]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["splits"] == {"train": 300, "validation": 40, "test": 40} and run["data"]["name"] == "qm9"
    assert run["packs"]["budget"]["nodes"] == 128 and run["packs"]["efficiency"]["nodes"] > 0.95
    # Atomic references leave some eV an atom; anything near 1e5 meV would be total energies.
    assert 0 < run["results"]["test"]["mae_u0_meV"] < 5000 and 0 < run["baseline"]["test"]["mae_u0_meV"] < 5000
    assert "validation: mae_u0_meV" in capsys.readouterr().out


def test_commands_without_their_run_say_so(tmp_path, capsys):
    assert "there is no checkpoint" in fails(capsys, "evaluate", str(tmp_path))
    assert "there is no file x.smi" in fails(capsys, "predict", str(tmp_path), "x.smi")
    (tmp_path / "in.smi").write_text("CCO\n")
    assert "there is no checkpoint" in fails(capsys, "predict", str(tmp_path), str(tmp_path / "in.smi"))
    assert "give the --out folder of a trained run" in fails(capsys, "evaluate", str(tmp_path))
    assert "holds no run" in fails(capsys, "report", str(tmp_path))
    assert "holds no run to resume" in fails(capsys, "train", "--resume", str(tmp_path))


def test_a_library_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    (tmp_path / "own.sdf").write_text("no structure\n")
    options = ("--path", str(tmp_path / "own.sdf"), "--target", "e", "--cache", str(tmp_path))
    printed = fails(capsys, "prepare", "--name", "file", *options)
    assert printed == "ipu-chem: rdkit is not installed: `ipu-chem doctor` says how to get what is missing.\n"


def test_doctor_names_what_is_missing(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[1]: line for line in lines}
    assert found["torch"].startswith("ok") and found["auto"].startswith("ok")
    there = importlib.util.find_spec("poptorch") is not None
    assert found["poptorch"].startswith("ok" if there else "missing") and (there or "Poplar SDK" in found["poptorch"])


@pytest.mark.parametrize("recipe", recipes())
def test_every_recipe_is_a_valid_run(recipe):
    from ipu_chem.config import check_keys, from_dict
    from ipu_chem.losses import AUTO, LOSSES
    from ipu_chem.models.registry import LANGUAGE_MODELS, MODELS

    values = yaml.safe_load((ROOT / "ipu_chem" / "recipes" / f"{recipe}.yaml").read_text())
    check_keys(values)
    config = from_dict(values)
    assert config.model.name in {**MODELS, **LANGUAGE_MODELS} and config.loss in (AUTO, *LOSSES)


def test_every_module_of_commands_is_a_command():
    modules = {path.stem for path in (ROOT / "ipu_chem" / "commands").glob("*.py")}
    assert modules == {*COMMANDS, "parsing", "__init__"}
