"""What people type: help that fits a screen, switches, whole names, recipes, files and flags over each other."""

import subprocess
import sys

import pytest

from ipu_chem.cli import COMMANDS, main, parse
from ipu_chem.commands.recipes import recipes
from ipu_chem.commands.train import changed
from ipu_chem.config import RunConfig, chosen, from_dict
from ipu_chem.options import walk


def shown(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert stop.value.code == 0
    return capsys.readouterr().out


def refused(capsys, *argv):
    """The sentence of a command line that is wrong; the usage before it is short."""
    try:
        assert main(list(argv)) == 1
    except SystemExit as stop:
        assert stop.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 8
    return lines[-1]


def config_of(*argv):
    return parse(["train", *argv])[1][1]


def test_help_fits_a_screen_and_says_where_the_rest_is(capsys):
    text = shown(capsys, "train", "--help")
    assert text.count("\n") <= 60
    assert all(f"--{name}" in text for name in ("model.name", "data.name", "out", "config", "resume", "help-all"))
    assert "--model.help schnet" in text and "--data.help nci3d" in text and "--ipu.io_tiles" not in text
    everything = shown(capsys, "train", "--help-all")
    options = [option.name for option in walk(RunConfig, chosen({}))]
    assert len(options) > 90 and all(f"--{name} " in everything for name in options)
    of_one = shown(capsys, "train", "--model.help", "chemgpt")
    assert "--model.num_heads" in of_one and "--model.cutoff" not in of_one and "--model.freeze" not in of_one
    assert "--data.molecule" in shown(capsys, "search", "--data.help=rmd17")
    assert "--model.num_radial" in shown(capsys, "train", "--model.name", "painn", "--help-all")
    assert shown(capsys, "predict", "-h").startswith("usage: ipu-chem predict RUNS ... INPUT [options]")
    assert all(command in shown(capsys, "--help") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_for_readers(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, command, "--help")
    assert all(len(line) <= 80 for line in text.splitlines()) and text.count("\n") <= 80
    assert not any(word in text for word in ("type: ", "default: )", "null", "Optional", "{true,false}"))


def test_help_says_what_is_typed(capsys):
    text = " ".join(shown(capsys, "md", "--help").split())
    assert "usage: ipu-chem md [RUNS ...] [options]" in text and "--timestep FLOAT fs (default: 0.5)" in text
    assert "--progress [true|false] show a progress bar (default: true)" in text
    assert "(default: lpfhp best_fit auto)" in " ".join(shown(capsys, "pack", "--help").split())


def test_resume_names_the_folder_everywhere(capsys, tmp_path):
    elsewhere = "--resume goes on in the folder that it names; leave --out out."
    (tmp_path / "config.yaml").write_text("model: {name: painn}\n")
    resumed = config_of("--resume", str(tmp_path))
    assert resumed.out == str(tmp_path) and resumed.model.name == "painn"
    assert config_of(f"--resume={tmp_path}", "--out", str(tmp_path)) == resumed
    assert elsewhere in refused(capsys, "train", "--resume", str(tmp_path), "--out", "other")
    assert elsewhere in refused(capsys, "md", "--resume", str(tmp_path), "--out=other")
    assert "--resume needs the folder of the run" in refused(capsys, "train", "--resume")
    assert "unknown option --resume" in refused(capsys, "search", "--grid", "demo_rates", "--resume", str(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--help"],
        ["train", "--model.help", "spookynet"],
        ["recipes"],
        ["md", "run", "--structure", "nowhere.xyz"],
        ["relax", "run", "--structures", "nowhere.xyz"],
    ],
)
def test_help_and_files_that_are_missing_load_no_torch(words):
    code = f"""
import sys
from ipu_chem.cli import main
try:
    main({words!r})
except SystemExit:
    pass
print([name for name in ("torch", "rdkit", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["train", "search", "scale", "prepare", "predict", "md", "generate"])
def test_names_are_not_abbreviated(command, capsys):
    needed = {"search": ["--grid", "demo_rates"], "scale": ["--grid", "demo_sizes"], "predict": ["run", "in.smi"]}
    needed.update(md=["run", "--structure", "x.xyz"], generate=["run"])
    parse([command, *needed.get(command, [])])
    names = {"train": "training.epochs", "search": "training.epochs", "scale": "evaluations", "prepare": "workers"}
    names.update(predict="output", md="thermostat", generate="temperature")
    name = names[command]
    said = refused(capsys, command, *needed.get(command, []), f"--{name[:-1]}", "3")
    assert f"unknown option --{name[:-1]}; did you mean --{name}?" in said
    assert "unknown option" in refused(capsys, command, *needed.get(command, []), f"--{name[:-1]}=3")


def test_switches_are_switches():
    def metrics(*words):
        return parse(["generate", *words])[1][0].metrics

    assert metrics("--metrics", "run") and metrics("run", "--metrics") and metrics("run", "--metrics", "true")
    assert not metrics("run") and not metrics("run", "--metrics", "false") and not metrics("run", "--metrics=false")
    assert config_of("--torch.compile", "--training.report", "false").torch.compile
    assert parse(["prepare", "--check-forces"])[1][0].check_forces
    assert config_of("--model.name", "chemgpt", "--model.scale_attention").model.scale_attention is True


def test_lists_and_negative_numbers():
    pack = parse(["pack", "--sizes", "x", "--nodes", "36", "64", "--algorithms", "auto"])[1][0]
    assert pack.nodes == [36, 64] and pack.algorithms == ["auto"]
    assert config_of("--pack.device_neighbors", "-1").pack.device_neighbors == -1
    config = config_of("--ipu.ipus_per_replica=2", "--ipu.layers_per_ipu", "[1, 2]", "--training.loggers", "[wandb]")
    assert config.ipu.layers_per_ipu == (1, 2) and config.training.loggers == ["wandb"]


def test_flags_win_over_files_and_later_files_over_earlier_ones(tmp_path, capsys):
    (tmp_path / "one.yaml").write_text("model: {name: painn, num_radial: 9, cutoff: 4.0}\nloss: mae\n")
    (tmp_path / "two.yaml").write_text("model: {num_radial: 7}\n")
    one, two = str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")
    both = config_of("--loss", "huber", "--config", one, f"--config={two}", "--model.cutoff", "3")
    assert both == from_dict({"model": {"name": "painn", "num_radial": 7, "cutoff": 3.0}, "loss": "huber"})
    assert config_of("--config", two, "--model.name", "painn").model.num_radial == 7, "a name given by flag"
    assert f"{two}, line 1: model.num_radial belongs to painn" in refused(capsys, "train", "--config", two)
    other = config_of("--config", one, "--model.name", "schnet")
    assert other.model.name == "schnet" and other.model.cutoff == 4.0
    assert "left out, as others have no such option: model.num_radial" in capsys.readouterr().out
    assert "model.num_radial belongs to painn" in refused(
        capsys, "train", "--config", one, "--model.name", "schnet", "--model.num_radial", "3"
    )
    assert config_of("--config", "ogbg_molesol", "--model.name", "chemgpt").model.hidden_features == 64


def test_an_option_without_its_section_is_answered_with_the_whole_name(capsys):
    assert "unknown option --epochs; did you mean --training.epochs?" in refused(capsys, "train", "--epochs", "3")
    said = refused(capsys, "train", "--name", "qm9")
    assert "did you mean --data.name or --model.name" in said


def test_what_is_wrong_is_said_in_a_sentence(capsys):
    assert "unknown option --model.num_radal" in refused(capsys, "train", "--model.num_radal", "3")
    assert "model.num_radial belongs to painn and spookynet" in refused(capsys, "train", "--model.num_radial", "3")
    assert "--model" in refused(capsys, "train", "--model", "painn")
    assert "there is no command trian; did you mean train?" in refused(capsys, "trian")
    assert "name a command" in refused(capsys)
    assert "--grid is needed" in refused(capsys, "search")
    assert "--structures is needed" in refused(capsys, "relax", "run")
    assert "give folders of runs and --structure, or --resume" in refused(capsys, "md")
    assert "--nodes is needed" in refused(capsys, "pack", "--sizes", "x")
    assert "holds no simulation to resume" in refused(capsys, "md", "--resume", "nowhere")
    assert "--split tets: give one of train, validation or test." in refused(
        capsys, "evaluate", "run", "--split", "tets"
    )


def test_recipes_are_listed_with_a_line_each(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= {*recipes(), "demo_rates"}
    assert all(len(line) <= 130 for line in lines)
    assert any("and a head learn ESOL, the 1,128 molecules of" in line for line in lines)


def test_what_differs_from_the_defaults_is_what_a_run_prints():
    config = config_of("--config", "nci3d_demo", "--ipu.ipus_per_replica=2", "--ipu.layers_per_ipu=[2, 2]")
    found = changed(config)
    assert found["data"] == {"name": "nci3d"} and found["ipu"] == {"ipus_per_replica": 2, "layers_per_ipu": [2, 2]}
    assert "accelerator" not in found and from_dict(found) == config
