"""Proof on the Poplar SDK: the table of models, what `make test-sdk` refuses, what it leaves out, and its workflow."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import poptorch_table
import pytest
import yaml
from poptorch_cases import CASES
from poptorch_helpers import DOUBLE
from poptorch_table import LAYOUTS, main

from ipu_chem.backends.options import FLOATS

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


def lines_of(capsys: Any) -> List[str]:
    """Of the table, without heading and sum."""
    return capsys.readouterr().out.splitlines()[2:-1]


def test_a_part_of_the_table_is_right_on_the_double(capsys: Any) -> None:
    cases = ["painn-forces", "tied-transformer", "property-classes"]
    assert main(["--double", "--steps", "4", "--cases", *cases, "--weights", "float32"]) == 0
    lines = lines_of(capsys)
    assert len(lines) == len(cases) * len(LAYOUTS)
    for line in lines:
        if " forces " in line and "pipelined" in line:
            assert "not applicable: 1 blocks cannot be spread over 2 IPUs" in line
        else:
            assert line.endswith("  yes") and re.search(r" float32 +\d\.\de[-+]\d+ +\d\.\de[-+]\d+ +\d+\.\d  ", line)


def test_float16_is_in_the_table_with_a_tolerance_of_its_own(capsys: Any) -> None:
    asked = ["--double", "--steps", "4", "--cases", "schnet-table", "--layouts", "single", "--weights", "float16"]
    assert main(asked) == 0
    (line,) = lines_of(capsys)
    assert "float16" in line and line.endswith("  yes")


def test_the_whole_table_has_every_model_layout_and_format() -> None:
    grid = list(poptorch_table.every(list(CASES), list(LAYOUTS), FLOATS))
    assert len(set(grid)) == len(grid) == len(CASES) * 3 * 2
    assert {case.name for case in CASES.values()} == {
        *("SchNet", "SchNet, table", "PaiNN", "SpookyNet", "ChemGPT", "ChemGPT, tied", "property head")
    }
    assert {case.name for case in CASES.values() if not case.stages} == {
        *("SchNet", "SchNet, table", "PaiNN", "SpookyNet")
    }
    short = list(poptorch_table.quick(list(CASES)))
    assert [name for name, *_ in short] == list(CASES) and ("tied-transformer", "pipelined", "float32") in short


def test_losses_that_differ_and_models_that_do_not_compile_are_wrong(capsys: Any, monkeypatch: Any) -> None:
    asked = ["--double", "--steps", "4", "--cases", "transformer", "--layouts", "single", "--weights", "float32"]
    case = CASES["transformer"]

    def other_weights() -> Any:  # on every second call: on torch, after PopTorch
        model = case.model()
        calls.append(0)
        if len(calls) % 2 == 0:
            model.model.head.ln_f.weight.data *= 1.001
        return model

    def reads_values() -> Any:
        model = case.model()
        model.model.head.register_forward_hook(lambda module, inputs, output: output * output.mean().item())
        return model

    calls: List[int] = []
    for model, sentence in ((other_weights, r"  yes   <- WRONG$"), (reads_values, r"  no: .*<- WRONG$")):
        monkeypatch.setitem(CASES, "transformer", case._replace(model=model))
        assert main(asked) == 1
        (line,) = lines_of(capsys)
        assert re.search(sentence, line), line


def test_replicas_are_left_out_on_the_ipu_model(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("POPTORCH_SMALL_IPU_MODEL", "1")
    layouts = ["replicated", "pipelined"]
    asked = ["--double", "--steps", "2", "--cases", "transformer", "--layouts", *layouts, "--weights", "float32"]
    assert main(asked) == 0
    replicated, pipelined = lines_of(capsys)
    assert "not run: the SDK's IPU Model runs one replica" in replicated and pipelined.endswith("  yes")


def test_without_poptorch_the_table_says_so() -> None:
    done = subprocess.run([sys.executable, "tests/poptorch_table.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert re.search(r"PopTorch cannot be imported here .*enable script.* Or give --double", done.stderr)


def test_on_the_sdk_the_double_is_left_out_and_counted() -> None:
    """The double stands for the PopTorch that is installed there."""
    environment = {**os.environ, "PYTHONPATH": f"{DOUBLE}{os.pathsep}{ROOT}", "IPU_CHEM_TEST_SDK": "1"}
    environment.update(POPTORCH_SMALL_IPU_MODEL="1", POPTORCH_IPU_MODEL="0")
    files = ["tests/backends/poptorch/test_backend.py", "tests/backends/poptorch/double/test_popdist.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files, "-k", "nesting or double or close or world"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for reason in ("tests the double", "looks inside the double", "its IPU Model runs one replica"):
        assert re.search(rf"\d+ tests were NOT run on the SDK: {reason}\.", done.stdout), done.stdout
    assert re.search(r"[1-9]\d* passed", done.stdout)


@pytest.mark.skipif(not shutil.which("make") or not shutil.which("bash"), reason="make or bash is not installed")
def test_make_test_sdk_refuses_in_one_sentence(tmp_path: Path) -> None:
    empty, cut, whole = (tmp_path / name for name in ("empty", "cut", "whole"))
    for folder in (empty, cut, whole):
        folder.mkdir()
    for folder in (cut, whole):
        (folder / "poptorch-3.3.0+1_ubuntu_20_04-cp38-cp38-linux_x86_64.whl").touch()
    (empty / "poptorch-3.3.0+1_ubuntu_22_04-cp310-cp310-linux_x86_64.whl").touch()  # of another Python
    (empty / "poptorch_geometric-3.3.0-py3-none-any.whl").touch()
    (whole / "enable").touch()
    newer = sys.executable if sys.version_info[:2] != (3, 8) else "false"
    # Of a make around this test, which would give this one its options and another name.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    for asked, sentence in [
        ("POPLAR_SDK=", "NO POPLAR SDK, nothing was tested; unpack one"),
        (f"POPLAR_SDK={tmp_path / 'none'}", "is no folder, nothing was tested"),
        (f"POPLAR_SDK={empty}", "holds no poptorch-.-cp38-..whl, nothing was tested"),
        (f"POPLAR_SDK={cut}", "has no script enable, nor .*enable.sh, nothing was tested"),
        (f"POPLAR_SDK={whole} PYTHON38=", "NO PYTHON 3.8 FOUND, nothing was tested; set PYTHON38="),
        (
            f"POPLAR_SDK={whole} PYTHON38={newer}",
            "is not Python 3.8, the only one of this PopTorch; nothing was tested",
        ),
    ]:
        words = ["make", "--no-print-directory", "test-sdk", f"VENV_SDK={tmp_path / 'venv'}", *asked.split()]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
        assert done.returncode == 2 and len(said) == 1, done.stderr
        assert re.match(f"make test-sdk: .*{sentence}", said[0]), said
    assert not (tmp_path / "venv").exists()


def test_the_workflow_of_the_sdk() -> None:
    workflow = yaml.safe_load((WORKFLOWS / "sdk.yml").read_text(encoding="utf-8"))
    started = workflow[True]  # `on`, as YAML 1.1 reads it
    assert list(started) == ["workflow_dispatch"] and started["workflow_dispatch"]["inputs"]["sdk"]["required"] is True
    (job,) = workflow["jobs"].values()
    assert job["container"] == "ubuntu:20.04" and job["timeout-minutes"] <= 360
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert "sha256sum" in runs[1] and runs[-1].splitlines()[-1].startswith("make test-sdk POPLAR_SDK=")
    assert not any("${{" in run for run in runs), "an input is an environment variable, never part of a script"
    # Actions in the versions of the other workflow.
    pinned = set(re.findall(r"uses: (\S+)", (WORKFLOWS / "test.yml").read_text(encoding="utf-8")))
    used = {step["uses"] for step in job["steps"] if "uses" in step}
    assert used and used <= pinned
    assert re.search(r"^test-sdk:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
