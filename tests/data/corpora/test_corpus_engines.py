"""A corpus that other engines encode: the same store as by processes, to the bit, also when a worker dies."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from ipu_chem.data.corpora import load_corpus

sys.path.append(str(Path(__file__).resolve().parents[2] / "scaling"))


def chains(count):
    """Different molecules by number: its digits in base 4 are groups of a chain."""
    groups = ("C", "O", "N", "C(F)")
    for number in range(1, count + 1):
        yield "N#C" + "".join(groups[int(digit)] for digit in np.base_repr(number, 4)) + "C"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "chains.smi"
    lines = list(chains(2000))
    lines[500], lines[1500] = "no molecule", lines[3]  # a failure and a duplicate
    path.write_text("\n".join(lines) + "\n")
    return path


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("word", ["dask", "submitit:local", "executors_here:two_threads", "executors_here:Dying"])
def test_the_store_is_the_same_to_the_bit(file, tmp_path, word):
    library = {"dask": "distributed", "submitit:local": "submitit"}.get(word)
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} was NOT tested: it is not installed")
    alone = load_corpus("file", file, tmp_path / "alone", workers=1, progress=False)
    store = load_corpus("file", file, tmp_path / "other", workers=2, progress=False, executor=word)
    assert len(store) == 1998 and store.fingerprint() == alone.fingerprint()
    assert files_of(tmp_path / "other") == files_of(tmp_path / "alone")


def test_workers_that_die_again_and_again_are_named(file, tmp_path):
    with pytest.raises(ValueError, match=r"a worker has died 3 times \(ConnectionError: the worker is gone\)"):
        load_corpus("file", file, tmp_path, progress=False, executor="executors_here:Dead")
    with pytest.raises(ValueError, match="choose processes, submitit, dask"):
        load_corpus("file", file, tmp_path, progress=False, executor="slurm")


def test_parts_that_nobody_sees_are_named(file, tmp_path, monkeypatch):
    monkeypatch.setattr("ipu_chem.data.corpora.build._SEEN_WITHIN", 0.2)
    monkeypatch.setattr("ipu_chem.data.corpora.build.save_chunk", lambda *_: None)
    with pytest.raises(ValueError, match=r"2 of 2 parts that workers have encoded are not in .* \(--cache\) that all"):
        load_corpus("file", file, tmp_path, progress=False, executor="executors_here:two_threads")
