"""Every bad input of the tables is refused in a sentence, the one of answers.txt; every good one passes."""

import importlib
import os

import pytest

from bad_inputs.harness import answer, lines, read_answers, write_answers, write_files

TABLES = (
    *("options", "yaml_files", "commands", "checkpoints", "simulation", "generation"),
    *("tables", "structures", "packing_api"),
)
LEAST = 300
WRITES = os.environ.get("IPU_CHEM_WRITE_ANSWERS", "") not in ("", "0")
_found = {}


def table_of(name):
    return importlib.import_module(f"bad_inputs.{name}").TABLE


@pytest.mark.parametrize("name", TABLES)
def test_bad_inputs_are_answered_and_good_ones_pass(name, tmp_path, monkeypatch, make_run, text_run):
    table, folder = table_of(name), tmp_path / "bad_inputs"
    folder.mkdir()
    for run in table.runs:
        make = make_run if run == "run" else text_run
        make(f"bad_inputs/{run}")
    write_files(folder, table.files)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("IPU_CHEM_CACHE", str(folder / "cache"))
    monkeypatch.delenv("IPU_CHEM_TRACEBACK", raising=False)
    found, wrong = {}, {}
    for line in lines(table.bad):
        status, found[line] = answer(line, table.names)
        if status not in (1, 2):
            wrong[line] = status, found[line]
    for line in lines(table.good):
        status, said = answer(line, table.names)
        if status != 0:
            wrong[line] = "a good input is refused", said
    _found[name] = found
    assert not wrong
    if not WRITES:
        known = read_answers()
        assert {line: known.get(line) for line in found} == found


def test_there_are_many_and_the_file_holds_them_all():
    if WRITES:
        write_answers(_found)
    known = set(read_answers())
    cases = [line for name in TABLES for line in lines(table_of(name).bad)]
    assert len(cases) == len(set(cases)) >= LEAST and set(cases) == known
