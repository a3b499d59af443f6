"""Every README: its Python runs, its commands parse, its links and names lead somewhere."""

import re
import shlex
from pathlib import Path
from typing import List, NamedTuple

import pytest
import yaml

from benchmarks import poprun
from ipu_chem.cli import COMMANDS as KNOWN
from ipu_chem.cli import parse
from ipu_chem.commands.recipes import recipes
from ipu_chem.config import DataConfig, ModelConfig, keys

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"README.md": 7 * 1024, "benchmarks/README.md": 6 * 1024}
# Run as it stands by tests of its own, since it needs the files that it shows.
PAGE = "ipu_chem/README.md"
FOLDERS = (ROOT, *(ROOT / name for name in ("packing", "ipu_chem", "benchmarks", "docker", "tests")))
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in sorted(folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
}
README, TRAINING = TEXTS["README.md"], TEXTS["ipu_chem/training/README.md"]
ALL = "\n".join(TEXTS.values())
LANGUAGES = ("python", "py", "sh", "yaml", "text")
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


class Block(NamedTuple):
    """A block of code of a README."""

    where: str
    language: str
    source: str


BLOCKS = [
    Block(name, language, source)
    for name, text in TEXTS.items()
    for language, source in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
]
# Libraries that a block may need, which is skipped without it; loudly, see conftest.py.
OPTIONAL = re.compile(r"^(?:import|from) (torch_geometric|datasets|jraph|grain)\b", re.MULTILINE)
PYTHON = [one for one in BLOCKS if one.language == "python" and one.where != PAGE and not OPTIONAL.search(one.source)]
DROP_INS = {
    library.group(1): one
    for one in BLOCKS
    for library in [OPTIONAL.search(one.source)]
    if library and one.language == "python" and one.where != PAGE
}
LINES = [(one.where, line) for one in BLOCKS if one.language == "sh" for line in one.source.splitlines()]
# What the examples promise to print.
PRINTED = {
    "README.md": ["z': (8, 128)", "graph_ends"],
    "packing/README.md": [
        "gap",
        "[1 2 3 4 5 6 7 0]",
        "packs, at least",
        "{'nodes': array([3, 2])}",
        "on each of 4",
        "cases kept all rules",
    ],
    "ipu_chem/training/README.md": ["5.0 Å"],
    "ipu_chem/generation/README.md": ["(1, 5, ", "0.75 "],
    "ipu_chem/scaling/README.md": ["exponent 0.2"],
}


def words_of(start: str) -> List[List[str]]:
    """Commands of all READMEs that begin with a word; those behind `&&` as well."""
    pieces = [piece.strip() for where, line in LINES if where != PAGE for piece in line.split(" && ")]
    return [shlex.split(piece, comments=True) for piece in pieces if piece.startswith(start)]


COMMANDS = words_of("ipu-chem ")


def test_there_is_something_to_check():
    assert len(TEXTS) > 25 and len(BLOCKS) > 25 and len(COMMANDS) > 35 and len(PYTHON) >= 8 and len(DROP_INS) == 4
    assert {one.where for one in PYTHON} == set(PRINTED)
    assert not [one.where for one in BLOCKS if one.language not in LANGUAGES and one.where != PAGE]


@pytest.mark.parametrize("name", list(PRINTED))
def test_python_runs_as_printed(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for one in PYTHON:
        if one.where == name:
            exec(compile(one.source, name, "exec"), {})
    printed = capsys.readouterr().out
    assert not [promised for promised in PRINTED[name] if promised not in printed], printed


@pytest.mark.parametrize("library", list(DROP_INS))
def test_drop_ins_run_as_printed(library, tmp_path, monkeypatch):
    pytest.importorskip(library, reason=f"{library} is not installed: its drop-in of packing/README.md was NOT tested")
    if library == "datasets":
        pytest.importorskip(
            "accelerate", reason="accelerate is not installed: Trainer of packing/README.md was NOT tested"
        )
    monkeypatch.chdir(tmp_path)
    exec(compile(DROP_INS[library].source, library, "exec"), {})


def test_other_blocks_parse():
    for one in BLOCKS:
        if one.language == "py":
            compile(one.source, one.where, "exec")
        if one.language == "yaml":
            assert all(isinstance(values, list) for values in yaml.safe_load(one.source).values())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_parse(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "ethanol"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("loss: mse\n")
    module, arguments = parse(words[1:])
    assert module.__name__ == f"ipu_chem.commands.{words[1]}" and isinstance(arguments[0], module.Options)


@pytest.mark.parametrize("words", words_of("torchrun "), ids=" ".join)
def test_torchrun_starts_as_many_replicas_as_processes(words):
    from torch.distributed.run import parse_args

    launch = parse_args(words[1:])
    assert launch.module and launch.training_script == "ipu_chem"
    _, (_, config) = parse(launch.training_script_args)
    processes = int(launch.nproc_per_node) * int(launch.nnodes.split(":")[-1])
    assert config.batching.replication_factor == processes > 1


def test_options_and_launchers_named_in_passing_are_there():
    options = set(re.findall(r"--(\w+\.\w+)", ALL.replace("--model.help", "")))
    known = set(keys())
    for kind in (DataConfig, ModelConfig):
        known.update(key for name in kind.registered() for key in keys({kind.key: {"name": name}}))
    others = {"data.count", "data.name_", "data.root"}  # of a user's own class
    asked = {"condition.logp", "condition.qed"}  # of a run that was trained with them
    assert len(options) > 40 and not options - known - others - asked
    launched = re.findall(r"`(poprun [^`]+)`", ALL)
    assert launched and all(poprun.parse(shlex.split(command)).program for command in launched)


def test_every_command_is_shown_with_its_options_and_in_the_table():
    assert {words[1] for words in COMMANDS} == set(KNOWN)
    assert set(re.findall(r"`ipu-chem (\w+)`", README)) == set(KNOWN)


def test_parts_of_the_readme_come_in_order():
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert titles == [
        "Install", "Pack", "Train, predict, simulate", "Results", "Where to read on", "Contributing", "Citing"
    ]  # fmt: skip
    assert README.index("- **Packs") < README.index("It is *not*") < README.index("## Install")
    assert (
        README.count("- **") == 4
        and README.split("## Results")[1].split("## Where")[0].count("](benchmarks/results") == 6
    )
    for name, limit in LIMITS.items():
        assert (ROOT / name).stat().st_size <= limit, name


def test_links_lead_somewhere():
    found = 0
    for name, text in TEXTS.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"\w+:", link):
                continue
            file, _, anchor = link.partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            assert path.exists(), f"{name}: {link}"
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in titles], (
                link
            )
            found += 1
    assert found > 45


def test_what_is_named_is_there():
    listed = re.search(r"^Recipes: (.*)$", TRAINING, re.MULTILINE)
    assert listed and sorted(re.findall(r"`([\w.]+)`", listed.group(1))) == recipes()
    for path in re.findall(r"\b(?:benchmarks|ipu_chem|docker|tests)/[\w/]+\.\w+", ALL):
        assert (ROOT / path).is_file(), path
    for target in re.findall(r"(?:^|`|: )make ([\w-]+)", ALL, re.MULTILINE):
        assert target in TARGETS, target
    modules = re.findall(r"(?:`|-m )((?:packing|ipu_chem|benchmarks)(?:\.\w+)+)", ALL)
    for module in (one for one in modules if not one.endswith((".py", ".yml"))):
        parts = module.split(".")
        found = any(
            (ROOT / "/".join(parts[:end])).with_suffix(".py").is_file() or (ROOT / "/".join(parts[:end])).is_dir()
            for end in range(2, len(parts) + 1)
        )
        assert found, module


def test_results_are_of_scripts_that_are_there_and_quoted_once():
    index = TEXTS["benchmarks/README.md"]
    for path in (ROOT / "benchmarks" / "results").glob("*.md"):
        assert index.count(f"(results/{path.name})") == 1, path.name
        assert re.search(r"20\d\d-\d\d-\d\d|arXiv", path.read_text(encoding="utf-8")), f"{path.name} has no date"
    scripts = re.findall(r"^\| \[`(\w+\.py)`\]\(results/(\w+)\.md\)", index, re.MULTILINE)
    assert len(scripts) >= 16 and all(script == f"{result}.py" for script, result in scripts)
    assert not [script for script, _ in scripts if not (ROOT / "benchmarks" / script).is_file()]


def test_the_citation_is_valid():
    values = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    from ipu_chem import __version__

    assert values["cff-version"] == "1.2.0" and values["version"] == __version__ and values["license"] == "MIT"
    assert {"message", "title", "authors"} <= set(values)
    for one in (values["preferred-citation"], *values["references"]):
        assert {"type", "title", "authors"} <= set(one)
        assert all({"family-names", "given-names"} <= set(who) or "name" in who for who in one["authors"])


def test_the_changelog_keeps_its_form():
    text = TEXTS["CHANGELOG.md"]
    assert re.match(r"# Changelog\n", text) and "\n## [Unreleased]\n" in text and "- [Breaking] " in text
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"} and kinds
