"""The images: every Dockerfile keeps to the rules of hadolint that matter here, and to what this repository holds."""

import json
import re
import shlex
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set

import pytest

try:
    import tomllib
except ImportError:  # before Python 3.11 pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
KNOWN = "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split()


class Instruction(NamedTuple):
    name: str
    text: str
    line: int
    comment: str  # what stands above it


class Stage(NamedTuple):
    base: str
    name: str
    own: List[Instruction]
    all: List[Instruction]  # with those of the stages it is based on


def instructions(text: str) -> Iterator[Instruction]:
    """Instructions with continued lines joined."""
    comment, joined, start = "", "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            comment += line.lstrip("# ") + " "
            continue
        if not joined and not line.strip():
            comment = ""
            continue
        start = start if joined else number
        joined += line.strip()
        if joined.endswith("\\"):
            joined = joined[:-1]
            continue
        name, _, rest = joined.partition(" ")
        yield Instruction(name.upper(), rest.strip(), start, comment)
        comment, joined = "", ""


def stages(text: str) -> List[Stage]:
    found: Dict[str, Stage] = {}
    for one in instructions(text):
        if one.name == "FROM":
            words = one.text.split()
            name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(found))
            inherited = found[words[0]].all if words[0] in found else []
            found[name] = Stage(words[0], name, [], list(inherited))
        elif found:
            last = list(found.values())[-1]
            last.own.append(one)
            last.all.append(one)
    return list(found.values())


def commands(run: str) -> List[List[str]]:
    """The commands of a RUN, each as its words."""
    lexer = shlex.shlex(run, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    found: List[List[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            found.append([])
        else:
            found[-1].append(word)
    return [words for words in found if words]


def complaints(text: str) -> List[str]:
    """What is wrong with a Dockerfile, as `line: sentence`."""
    found: List[str] = []
    every = list(instructions(text))
    for one in every:
        if one.name not in KNOWN:
            found.append(f"{one.line}: {one.name} is no instruction to use here (ADD fetches and unpacks; use COPY)")
    if not every or every[0].name not in ("FROM", "ARG"):
        found.append("1: the first instruction is FROM")
    made = stages(text)
    names = {stage.name for stage in made}
    for stage in made:
        if stage.base not in names | {"scratch"}:
            found += _of_base(stage.base)
        found += [complaint for one in stage.own for complaint in _of_instruction(one)]
        found += _of_project(stage)
        for kind in ("CMD", "ENTRYPOINT"):
            if sum(one.name == kind for one in stage.own) > 1:
                found.append(f"{stage.name}: only the last {kind} counts")
    # A stage that others are built on is no image that runs.
    for stage in (stage for stage in made if stage.name not in {other.base for other in made}):
        found += _of_image(stage)
    return found


def _of_base(image: str) -> List[str]:
    tag = image.rpartition("@")[2] if "@" in image else image.rpartition("/")[2].partition(":")[2]
    return [] if tag and tag != "latest" else [f"{image}: name the version of the base image, not latest"]


def _of_instruction(one: Instruction) -> Iterator[str]:
    if one.name == "RUN":
        yield from (f"{one.line}: {complaint}" for complaint in _of_run(one.text))
    if one.name == "WORKDIR" and not one.text.startswith("/"):
        yield f"{one.line}: WORKDIR {one.text} is not absolute"
    if one.name in ("CMD", "ENTRYPOINT") and not _exec_form(one.text):
        yield f"{one.line}: {one.name} is a JSON list of words, a shell would take its signals"
    if one.name == "COPY" and "--from=" not in one.text:
        *sources, _ = [word for word in one.text.split() if not word.startswith("--")]
        for source in sources:
            inside = (ROOT / source).resolve()
            if source.startswith("/") or ROOT not in (inside, *inside.parents) or not any(ROOT.glob(source)):
                yield f"{one.line}: there is no {source} in the repository to COPY"


def _of_run(text: str) -> Iterator[str]:
    called = commands(text)
    for words in called:
        if words[0] in ("sudo", "cd", "apt"):
            instead = {"sudo": "USER", "cd": "WORKDIR", "apt": "apt-get"}[words[0]]
            yield f"{words[0]}: use {instead}"
        if words[0] == "apt-get" and {"upgrade", "dist-upgrade"} & set(words):
            yield "apt-get upgrade: take a newer base image"
        if "pip" in words[:3] and "install" in words and "--no-cache-dir" not in words:
            yield "pip install without --no-cache-dir"
    installs = [words for words in called if words[0] == "apt-get" and "install" in words]
    updates = sum(words[:2] == ["apt-get", "update"] for words in called)
    if (installs or updates) and not (len(installs) == updates == 1):
        yield "apt-get update and apt-get install stand in one RUN, once each"
    for words in installs:
        if "--no-install-recommends" not in words or not {"-y", "--yes"} & set(words):
            yield "apt-get install without -y --no-install-recommends"
        if ["rm", "-rf", "/var/lib/apt/lists/*"] not in called:
            yield "apt-get install leaves /var/lib/apt/lists/*"


def _exec_form(text: str) -> bool:
    try:
        words = json.loads(text)
    except ValueError:
        return False
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def _of_project(stage: Stage) -> Iterator[str]:
    """Installing this project: its extras are there, and so is what the build and its constraints read."""
    copied: Set[str] = set()
    for one in stage.all:
        if one.name == "COPY":
            copied |= set(one.text.split()[:-1])
        if one.name != "RUN" or one not in stage.own:
            continue
        for words in commands(one.text):
            for word in words if "pip" in words[:3] and "install" in words else ():
                match = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", word)
                if match is None:
                    continue
                for extra in filter(None, (match.group(1) or "").split(",")):
                    if extra not in PROJECT["project"]["optional-dependencies"]:
                        yield f"{one.line}: pyproject.toml has no extra {extra}"
                needed = {"pyproject.toml", PROJECT["project"]["readme"]}
                needed |= set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
                needed |= {words[words.index("-c") + 1]} if "-c" in words[:-1] else {"a file of constraints, -c"}
                yield from (f"{one.line}: pip install . needs {name}, COPY it before" for name in needed - copied)


def _of_image(stage: Stage) -> Iterator[str]:
    """What an image runs, and as whom."""
    users = [one for one in stage.all if one.name == "USER"]
    if (not users or users[-1].text.split(":")[0] in ("root", "0")) and not (users and "root" in users[-1].comment):
        yield f"{stage.name}: USER is root; name another, or the reason in the comment above USER root"
    last = {one.name: one.text for one in stage.all if one.name in ("CMD", "ENTRYPOINT") and _exec_form(one.text)}
    words = json.loads(last.get("ENTRYPOINT") or last.get("CMD") or "[]")
    copied = {word for one in stage.all if one.name == "COPY" for word in one.text.split()[:-1]}
    if words[:1] and words[0] in ("python", "python3") and words[1:2] == ["-m"]:
        module = "".join(words[2:3])
        path = ROOT / (module.replace(".", "/") + ".py")
        if not path.is_file() or module.split(".")[0] not in copied:
            yield f"{stage.name}: it runs {module}, which is no module that was COPYed"
    elif "".join(words[:1]) not in PROJECT["project"]["scripts"]:
        yield f"{stage.name}: it runs {''.join(words[:1]) or 'nothing'}, which is no script of pyproject.toml"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_keep_to_the_rules(path):
    assert complaints(path.read_text(encoding="utf-8")) == []


def test_there_is_an_image_for_every_kind_of_device():
    extras = {}
    for path in DOCKERFILES:
        named = re.search(r'"\.\[(\w+),plot\]"', path.read_text(encoding="utf-8"))
        assert named, path.name
        extras[path.name.split(".")[0]] = named.group(1)
    assert extras == {"cpu": "cpu", "gpu": "gpu", "ipu": "ipu"}


def test_the_ipu_image_keeps_graphcores_torch_and_runs_training_and_benchmarks():
    text = (ROOT / "docker" / "ipu.Dockerfile").read_text(encoding="utf-8")
    made = {stage.name: stage for stage in stages(text)}
    assert made["base"].base == "graphcore/pytorch:3.3.0-ubuntu-20.04-20230703"
    installed = [
        word for one in made["base"].own if one.name == "RUN" for words in commands(one.text) for word in words
    ]
    assert "torch" not in installed and not any(word.startswith(("torch==", "poptorch")) for word in installed)
    # The extra asks for the very torch that the image has.
    assert "torch==2.0.1" in PROJECT["project"]["optional-dependencies"]["ipu"]
    assert not any(word.startswith("poptorch") for word in PROJECT["project"]["optional-dependencies"]["ipu"])
    runs = {name: json.loads(stage.own[0].text) for name, stage in made.items() if name != "base"}
    assert runs == {"benchmarks": ["python", "-m", "benchmarks.pod"], "train": ["ipu-chem"]}
    assert list(made)[-1] == "train"  # what docker build makes unless told otherwise


GOOD = """\
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends libxext6 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE .ci/constraints.txt ./
COPY packing packing
COPY ipu_chem ipu_chem
RUN pip install --no-cache-dir -c .ci/constraints.txt ".[cpu,plot]"
USER chemist
ENTRYPOINT ["ipu-chem"]
CMD ["--help"]
"""
BAD = {
    "no tag": (":3.11-slim-bookworm", "", "name the version of the base image"),
    "latest": (":3.11-slim-bookworm", ":latest", "name the version of the base image"),
    "registry with a port": ("python:3.11-slim-bookworm", "example.org:5000/python", "name the version"),
    "recommends": (" --no-install-recommends", "", "apt-get install without -y --no-install-recommends"),
    "question": (" -y", "", "apt-get install without -y --no-install-recommends"),
    "lists": (" && rm -rf /var/lib/apt/lists/*", "", "leaves /var/lib/apt/lists/*"),
    "no update": ("apt-get update && ", "", "stand in one RUN, once each"),
    "update alone": ("WORKDIR /src", "RUN apt-get update\nWORKDIR /src", "stand in one RUN, once each"),
    "two RUNs": ("update && apt-get", "update\nRUN apt-get", "stand in one RUN, once each"),
    "upgrade": ("update &&", "update && apt-get upgrade -y &&", "apt-get upgrade: take a newer base image"),
    "apt": ("RUN apt-get update && apt-get", "RUN apt update && apt", "apt: use apt-get"),
    "pip cache": (" --no-cache-dir", "", "pip install without --no-cache-dir"),
    "pip cache of a module": ("RUN pip install --no-cache-dir", "RUN python3 -m pip install", "--no-cache-dir"),
    "extra": ("[cpu,plot]", "[cpu,plots]", "pyproject.toml has no extra plots"),
    "constraints": ("-c .ci/constraints.txt ", "", "needs a file of constraints, -c"),
    "constraints missing": (" .ci/constraints.txt ./", " ./", "pip install . needs .ci/constraints.txt"),
    "package missing": ("COPY packing packing\n", "", "pip install . needs packing, COPY it before"),
    "readme missing": (" README.md", "", "pip install . needs README.md, COPY it before"),
    "nothing to copy": ("COPY packing packing", "COPY packing packing\nCOPY recipes r", "there is no recipes"),
    "outside": ("COPY packing packing", "COPY packing packing\nCOPY ../x x", "there is no ../x in the repository"),
    "absolute source": ("COPY packing packing", "COPY packing packing\nCOPY /etc x", "there is no /etc"),
    "relative folder": ("WORKDIR /src", "WORKDIR src", "WORKDIR src is not absolute"),
    "shell form": ('ENTRYPOINT ["ipu-chem"]', "ENTRYPOINT ipu-chem", "ENTRYPOINT is a JSON list of words"),
    "single quotes": ('CMD ["--help"]', "CMD ['--help']", "CMD is a JSON list of words"),
    "two commands": ('CMD ["--help"]', 'CMD ["--help"]\nCMD ["train"]', "only the last CMD counts"),
    "ADD": ("COPY packing packing", "COPY packing packing\nADD LICENSE .", "ADD is no instruction to use here"),
    "misspelt": ("WORKDIR", "WORKDIRS", "WORKDIRS is no instruction"),
    "sudo": ("RUN pip", "RUN sudo pip", "sudo: use USER"),
    "cd": ("RUN pip", "RUN cd /src && pip", "cd: use WORKDIR"),
    "no user": ("USER chemist\n", "", "USER is root"),
    "root": ("USER chemist", "USER root", "USER is root"),
    "root again": ("USER chemist", "USER chemist\nUSER 0:0", "USER is root"),
    "no script": ("ipu-chem", "ipuchem", "it runs ipuchem, which is no script"),
    "no module": ('"ipu-chem"', '"python", "-m", "benchmarks.pods"', "it runs benchmarks.pods"),
    "module not copied": ('"ipu-chem"', '"python", "-m", "benchmarks.pod"', "no module that was COPYed"),
    "nothing runs": ('ENTRYPOINT ["ipu-chem"]\nCMD ["--help"]\n', "", "it runs nothing"),
    "no base": ("FROM python:3.11-slim-bookworm\n", "", "the first instruction is FROM"),
}


@pytest.mark.parametrize("before, after, complaint", BAD.values(), ids=BAD)
def test_each_rule_catches_what_breaks_it(before, after, complaint):
    assert before in GOOD
    assert any(complaint in one for one in complaints(GOOD.replace(before, after))), complaint


def test_what_keeps_to_the_rules_passes():
    assert complaints(GOOD) == []
    several = GOOD.replace("bookworm\n", "bookworm AS base\n").replace("USER chemist\n", "")
    several = several.replace("ENTRYPOINT", "FROM base AS train\nUSER chemist\nENTRYPOINT")
    assert complaints(several) == []
    (complaint,) = complaints(several.replace("USER chemist\n", ""))
    assert complaint.startswith("train: USER is root")
    assert complaints(GOOD.replace("USER chemist", "# the driver lets only root in\nUSER root")) == []
    assert complaints(GOOD.replace("python:3.11-slim-bookworm", "python@sha256:" + 64 * "a")) == []


def test_lines_are_joined_and_split_as_a_shell_would():
    text = 'FROM a:1\n# why\nRUN one \\\n    # not a line of it\n    "a && b" \\\n    && two; three\n'
    found = list(instructions(text))
    assert [(one.name, one.line) for one in found] == [("FROM", 1), ("RUN", 3)] and "why" in found[1].comment
    assert commands(found[1].text) == [["one", "a && b"], ["two"], ["three"]]
