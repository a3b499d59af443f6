"""What ipu_chem/README.md shows works: its files, its commands, its backend."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from ipu_chem.cli import main

PAGE = (Path(__file__).resolve().parents[1] / "ipu_chem" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
QUICK = "--accelerator cpu --training.report false --training.progress false --data.workers 1 --torch.threads 1"


def test_files_and_commands_in_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPU_CHEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "molecules.smi").write_text("CCO\nCC\n")
    for language, block in BLOCKS:
        name = re.match(r"# (\w+\.py)\n", block)
        if language == "python" and name:
            assert block.count("\n") < 60
            (tmp_path / name.group(1)).write_text(block)
    commands = [shlex.split(line) for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    assert {words[1] for words in commands} == {"train", "predict", "export", "doctor", "prepare", "evaluate"}
    for words in commands:
        quick = QUICK.split() if words[1] == "train" else []
        if "--model.name" in words:
            quick += ["--data.limit", "40"]
        assert main([*words[1:], *quick]) == 0, words
    printed = capsys.readouterr().out
    assert "mine:MyNet on nci3d" in printed and "2 molecules predicted, 0 refused" in printed
    assert "target       energy: " in printed and "test: mae_energy_meV" in printed
    assert "fits with these options" in printed


def test_the_contract_of_graph_models_is_imported_by_others(tmp_path):
    """From a folder of one's own, without the rest of these tests."""
    for name in ("mine", "test_mine"):
        (block,) = [block for _, block in BLOCKS if block.startswith(f"# {name}.py\n")]
        (tmp_path / f"{name}.py").write_text(block)
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(map(str, [root, root / "tests" / "contracts", tmp_path]))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_mine.py", "-k", "order or blocks"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr


def test_the_backend_runs_as_printed(capsys):
    (source,) = [block for language, block in BLOCKS if language == "python" and not block.startswith("# ")]
    exec(compile(source, "README.md", "exec"), {})
    assert re.search(r"^tensor\(\[\d+\.\d+\]\) 1$", capsys.readouterr().out, re.MULTILINE)


def test_a_model_of_ones_own_is_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mine", "sets"):
        (block,) = [block for _, block in BLOCKS if block.startswith(f"# {name}.py\n")]
        (tmp_path / f"{name}_too.py").write_text(block)
    own = ["--model.name", "mine_too:MyNet", "--data.name", "sets_too:Stretched", *QUICK.split()]
    assert main(["train", *own, "--model.hidden_features", "8", "--training.epochs", "1", "--out", "run"]) == 0
    assert main(["train", "--resume", "run", "--training.epochs", "2"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0 and "test: mae_energy_meV" in capsys.readouterr().out
    (tmp_path / "grid.yaml").write_text("model.hidden_features: [4, 8, 12]\n")
    assert main(["search", *own, "--grid", "grid.yaml", "--training.epochs", "4", "--keep", "2", "--out", "found"]) == 0
    assert (tmp_path / "found" / "hidden_features=12" / "candidate.json").is_file()
    (tmp_path / "mine_too.py").unlink()
    monkeypatch.chdir("/")
    monkeypatch.delitem(sys.modules, "mine_too")
    monkeypatch.delitem(sys.modules, "sets_too")
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    assert "mine_too cannot be imported" in capsys.readouterr().err
