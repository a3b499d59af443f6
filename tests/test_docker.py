"""The images: what they copy is in the repository, what they install is in pyproject.toml, what they run is there."""

import json
import re
from pathlib import Path

import pytest

try:
    import tomllib
except ImportError:  # before Python 3.11 pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
TEXTS = {
    path.name.split(".")[0]: re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "docker").glob("*.Dockerfile"))
}


def every(name, kind):
    """Arguments of all instructions of a kind."""
    return re.findall(rf"(?m)^{kind} (.*)$", TEXTS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_an_image_installs_what_is_there(name):
    copied = {source for line in every(name, "COPY") for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied), copied
    # What the build reads, and the versions that the tests have run with.
    needed = {"pyproject.toml", PROJECT["project"]["readme"], ".ci/constraints.txt"}
    assert needed | set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    (install,) = [line for line in every(name, "RUN") if '".[' in line]
    assert "-c .ci/constraints.txt" in install and "--no-cache-dir" in install
    extras = re.search(r'"\.\[([\w,]+)\]"', install).group(1).split(",")
    assert extras == [name, "plot"] and set(extras) <= set(EXTRAS)


@pytest.mark.parametrize("name", TEXTS)
def test_an_image_runs_a_command_of_ours_and_not_as_root(name):
    assert every(name, "USER") == ["chemist"]
    copied = {source for line in every(name, "COPY") for source in line.split()[:-1]}
    for words in map(json.loads, every(name, "ENTRYPOINT")):
        if words[:2] == ["python", "-m"]:
            assert words[2].split(".")[0] in copied and (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
        else:
            assert words[0] in PROJECT["project"]["scripts"]
    assert all(isinstance(json.loads(words), list) for words in every(name, "CMD"))


def test_there_is_an_image_for_every_kind_of_device_on_a_version_that_is_named():
    bases = {name: [line.split()[0] for line in every(name, "FROM") if ":" in line] for name in TEXTS}
    python = ["python:3.11-slim-bookworm"]
    assert bases == {"cpu": python, "gpu": python, "ipu": ["graphcore/pytorch:3.3.0-ubuntu-20.04-20230703"]}
    assert 'python_version >= "3.11"' in (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")


def test_the_ipu_image_keeps_graphcores_torch_and_runs_training_and_benchmarks():
    # The extra, and the constraints of its Python, ask for the very torch that the image has.
    assert "torch==2.0.1" in EXTRAS["ipu"] and not any(word.startswith("poptorch") for word in EXTRAS["ipu"])
    assert 'torch==2.0.1; python_version == "3.8"' in (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")
    (install,) = [line for line in every("ipu", "RUN") if '".[' in line]
    assert not re.search(r"install[^&]* (torch|poptorch)\b", install) and 'test "$(python3' in install
    assert every("ipu", "FROM")[1:] == ["base AS benchmarks", "base AS train"]  # the last is what docker build makes
    assert every("ipu", "ENTRYPOINT") == ['["python", "-m", "benchmarks.pod"]', '["ipu-chem"]']
