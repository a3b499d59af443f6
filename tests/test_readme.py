"""What the README shows must work: its Python runs, its commands parse, what it names is there."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import poprun
from ipu_chem.cli import COMMANDS as KNOWN
from ipu_chem.cli import parse
from ipu_chem.commands.recipes import recipes
from ipu_chem.config import DataConfig, ModelConfig, keys

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
LINES = [line for _, block in BLOCKS for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES if line.startswith("ipu-chem ")]
LAUNCHED = [shlex.split(line, comments=True) for line in LINES if line.startswith("torchrun ")]


@pytest.mark.parametrize("source", [source for language, source in BLOCKS if language == "python"])
def test_python_runs_as_printed(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    # The comments of the example promise these shapes and units.
    assert "(8, 128)" in printed and "'graph_ends'" in printed or "5.0 Å" in printed or "(1, 5, " in printed


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("loss: mse\n")
    module, arguments = parse(words[1:])
    assert module.__name__ == f"ipu_chem.commands.{words[1]}" and isinstance(arguments[0], module.Options)


@pytest.mark.parametrize("words", LAUNCHED, ids=" ".join)
def test_what_torchrun_starts_parses_and_shares_out_its_replicas(words):
    from torch.distributed.run import parse_args

    launch = parse_args(words[1:])
    assert launch.module and launch.training_script == "ipu_chem"
    _, (_, config) = parse(launch.training_script_args)
    processes = int(launch.nproc_per_node) * int(launch.nnodes.split(":")[-1])
    assert config.batching.replication_factor == processes > 1


def test_options_and_launchers_named_in_passing_are_there():
    options = set(re.findall(r"--(\w+\.\w+)", README))
    known = set(keys())
    for kind in (DataConfig, ModelConfig):
        known.update(key for name in kind.registered() for key in keys({kind.key: {"name": name}}))
    assert len(options) > 10 and not options - known
    launched = re.findall(r"`(poprun [^`]+)`", README)
    assert launched and all(poprun.parse(shlex.split(command)).program for command in launched)


def test_every_command_is_shown():
    assert {words[1] for words in COMMANDS} == set(KNOWN) - {"recipes"}


def test_what_is_named_is_there():
    listed = re.search(r"^Recipes: (.*)$", README, re.MULTILINE)
    assert listed and sorted(re.findall(r"`([\w.]+)`", listed.group(1))) == recipes()
    for path in re.findall(r"\b(?:benchmarks|ipu_chem|docker)/[\w/]+\.\w+", README):
        assert (ROOT / path).is_file(), path
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([\w-]+)", README, re.MULTILINE):
        assert target in targets, target
    for module in re.findall(r"`((?:packing|ipu_chem)(?:\.\w+)+)", README):
        parts = module.split(".")
        found = any(
            (ROOT / "/".join(parts[:end])).with_suffix(".py").is_file() or (ROOT / "/".join(parts[:end])).is_dir()
            for end in range(2, len(parts) + 1)
        )
        assert found, module
