"""One sentence about every exception: with the file that was read, the place, and the way to the traceback."""

import errno
import gzip
import json
import os
import subprocess
import sys

import pytest

from ipu_chem.cli import main
from ipu_chem.commands import recipes
from ipu_chem.failures import sentence
from packing.files import DiskFull, disk_full_named


def caught(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        return sentence(error)
    raise AssertionError("nothing was raised")


def fails_with(error):
    def function():
        raise error

    return caught(function)


def test_sentences_of_the_system():
    assert fails_with(OSError(errno.ENOSPC, "No space left on device", "a.bin")) == (
        "a.bin: the disk is full; free some space."
    )
    assert fails_with(PermissionError(errno.EACCES, "Permission denied", "b")).startswith("b: permission denied; give")
    assert "rights" in fails_with(PermissionError(errno.EACCES, "Permission denied", "b"))
    assert fails_with(MemoryError()).startswith("there is not enough memory: give fewer or smaller molecules")
    out_of_memory = RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you")
    assert fails_with(out_of_memory).startswith("there is not enough memory: give fewer")
    assert fails_with(RecursionError("maximum recursion depth exceeded")) == "something is nested too deeply."
    assert fails_with(ModuleNotFoundError("No module named 'wandb'", name="wandb")).startswith("wandb is not installed")


def test_a_full_disk_names_the_file_and_what_to_do(tmp_path):
    path = tmp_path / "plan.npz"
    with pytest.raises(DiskFull) as full, disk_full_named(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert sentence(full.value).startswith(f"{path} could not be written (No space left on device, ")
    assert "free some space, then run the same command again" in sentence(full.value)


def test_what_is_ours_stays_and_what_is_not_names_class_place_and_remedy():
    assert fails_with(ValueError("give 1\nor more.")) == "give 1 or more."
    said = caught(lambda: {}["key"])
    assert said.startswith("KeyError: 'key' (") and "IPU_CHEM_TRACEBACK=1" in said and "test_failures.py:" in said
    assert "json" not in caught(json.loads, "{") and "no JSON" in caught(json.loads, "{")
    assert "IPU_CHEM_TRACEBACK=1" in caught(lambda: int("x"))  # a ValueError, but nobody's sentence


def test_files_are_named_that_ours_have_read(tmp_path, monkeypatch):
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(b"text" * 1000)[:-20])
    source = "import gzip\n\ndef read(path):\n    return gzip.open(path).read()\n"
    names = {}
    exec(compile(source, recipes.__file__, "exec"), names)  # as if it were a reader of ours
    assert caught(names["read"], file) == f"{file} ends too early: it may be cut; copy it again."


def test_tracebacks_are_there_for_who_asks(monkeypatch, capsys):
    def run(options):
        raise KeyError("nobody's")

    monkeypatch.setattr(recipes, "run", run)
    monkeypatch.delenv("IPU_CHEM_TRACEBACK", raising=False)
    assert main(["recipes"]) == 1
    assert capsys.readouterr().err.startswith('ipu-chem: KeyError: "nobody\'s" (')
    monkeypatch.setenv("IPU_CHEM_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(["recipes"])


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m ipu_chem.cli train --help-all | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, env=dict(os.environ))
    assert done.stdout.startswith(b"usage: ipu-chem train") and done.stderr == b""
