import gzip
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ipu_chem.data import corpora
from ipu_chem.data.corpora import build, load_corpus
from ipu_chem.data.files import table as lines
from ipu_chem.data.molecule import decode_text
from packing import files

ROOT = Path(__file__).resolve().parents[3]
CHUNK = 20
COUNT = 600
# A build that pauses in the middle, so that it is not over before it is stopped however busy the machine is.
# It hears SIGINT, which processes in the background of a shell are started deaf to.
CODE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ipu_chem.data import corpora
from ipu_chem.data.corpora import build, load_corpus
from ipu_chem.data.files import table as lines
def paused(*arguments):
    for index, chunk in enumerate(lines.read_chunks(*arguments)):
        if index == 12:
            time.sleep(float(sys.argv[5]))
        yield chunk
build.read_chunks = paused
lines.CHUNK = int(sys.argv[3])
load_corpus("file", sys.argv[1], sys.argv[2], workers=int(sys.argv[4]), progress=False)
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(lines, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def smiles(tmp_path_factory):
    """600 lines with duplicates far apart, failures and damage."""
    from rdkit import RDConfig

    texts = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_bytes().splitlines(keepends=True)[:COUNT]
    texts[7], texts[300], texts[599] = b"C1CC\n", b"\xff\n", texts[3]
    path = tmp_path_factory.mktemp("smiles") / "a.smi"
    path.write_bytes(b"".join(texts))
    return path


@pytest.fixture(scope="module")
def expected(smiles, tmp_path_factory):
    """The store of an uninterrupted run in one process, as files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK", CHUNK)
        store = load_corpus("file", smiles, tmp_path_factory.mktemp("whole"), workers=1, progress=False)
    assert store.info["duplicates"] >= 1 and store.info["failures"]["count"] >= 2
    return store.fingerprint(), store.info


def started(smiles, cache, workers=2, pause=60.0):
    """A build in a process group of its own that has made a few parts."""
    command = [sys.executable, "-c", CODE, *map(str, (smiles, cache, CHUNK, workers, pause))]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(parts(cache)) < 4:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    return process


def parts(cache):
    return sorted(Path(cache).glob("corpus-file-parts-*/[0-9]*.npz"))


def goes_on(smiles, cache, expected, capsys, workers=2):
    """Build the rest: what was there is taken, and the store is that of an uninterrupted run."""
    before = {part: part.stat().st_mtime_ns for part in parts(cache)}
    assert 4 <= len(before) < COUNT // CHUNK
    capsys.readouterr()
    store = load_corpus("file", smiles, cache, workers=workers, progress=False)
    assert f"{len(before)} of {COUNT // CHUNK} chunks were encoded before" in capsys.readouterr().out
    assert (store.fingerprint(), store.info) == expected
    assert [entry.name.startswith("corpus-file-") for entry in Path(cache).iterdir()] == [True]  # no parts are left


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed(smiles, tmp_path, expected, capsys, workers):
    process = started(smiles, tmp_path, workers)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    goes_on(smiles, tmp_path, expected, capsys, 3 - workers)


def test_workers_end_with_their_parent(smiles, tmp_path, expected, capsys):
    process = started(smiles, tmp_path)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, 0)  # there are some of its group
            assert time.monotonic() < deadline, "workers of a killed process live on"
            time.sleep(0.02)
    goes_on(smiles, tmp_path, expected, capsys)


def test_interrupted_from_the_keyboard(smiles, tmp_path, expected, capsys):
    process = started(smiles, tmp_path, pause=5.0)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode != 0 and "the same call goes on there" in error
    assert error.count("KeyboardInterrupt") == 1 and "Process-" not in error  # workers have nothing to say
    goes_on(smiles, tmp_path, expected, capsys)


def test_two_at_once_make_one_store(smiles, tmp_path, expected, capsys):
    process = started(smiles, tmp_path, pause=1.0)
    store = load_corpus("file", smiles, tmp_path, workers=1, progress=False)
    assert process.wait() == 0
    assert "waiting for another process" in capsys.readouterr().err
    assert (store.fingerprint(), store.info) == expected and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_a_cut_file_goes_on_when_it_is_whole(smiles, tmp_path, expected, capsys, workers):
    path = tmp_path / "a.smi.gz"
    whole = gzip.compress(smiles.read_bytes())
    path.write_bytes(whole[: 2 * len(whole) // 3])
    load = partial(load_corpus, "file", path, tmp_path / "cache", workers=workers, progress=False)
    with pytest.raises(ValueError, match=r"a.smi.gz is cut short or damaged \(EOFError.*its first \d+ chunks"):
        load()
    before = len(parts(tmp_path / "cache"))
    assert before > 4
    path.write_bytes(whole)
    capsys.readouterr()
    store = load()
    assert f"{before} of 30 chunks were encoded before" in capsys.readouterr().out
    assert store.fingerprint() == expected[0]


def test_a_damaged_part_is_made_again(smiles, tmp_path, expected):
    process = started(smiles, tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    part = parts(tmp_path)[1]
    part.write_bytes(part.read_bytes()[:-100])
    load = partial(load_corpus, "file", smiles, tmp_path, workers=2, progress=False)
    with pytest.raises(ValueError, match=f"{part.name} is damaged .* only its lines are encoded anew"):
        load()
    assert (lambda store: (store.fingerprint(), store.info))(load()) == expected


def test_parts_of_other_lines_are_not_taken(smiles, tmp_path, capsys):
    path = tmp_path / "a.smi"
    path.write_bytes(smiles.read_bytes())
    cache = tmp_path / "cache"
    process = started(path, cache)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(parts(cache))
    path.write_bytes(b"CCCCCCCCCCCO\n" + b"".join(smiles.read_bytes().splitlines(keepends=True)[1:]))
    store = load_corpus("file", path, cache, workers=2, progress=False)
    assert decode_text(store, "smiles", 0) == "CCCCCCCCCCCO" and len(parts(cache)) == 0
    assert f"{before - 1} of {COUNT // CHUNK} chunks were encoded before" in capsys.readouterr().out


def dies(*_, **__):
    os._exit(9)


def test_a_worker_that_dies_is_an_error(smiles, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_make_part", dies)
    with pytest.raises(ValueError, match="a process has died.*call again with fewer workers. What is encoded is kept"):
        load_corpus("file", smiles, tmp_path, workers=2, progress=False)


def test_a_full_disk_is_no_damaged_file(smiles, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "save_chunk", full)
    with pytest.raises(OSError, match="No space left"):
        load_corpus("file", smiles, tmp_path, workers=1, progress=False)


def test_parts_of_a_saved_corpus_go_also_where_their_process_was_killed(tmp_path, monkeypatch):
    path, cache = tmp_path / "few.smi", tmp_path / "cache"
    path.write_text("CCO\nCCN\nCCC\n")

    def killed_before(place):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(corpora, "remove_folder", killed_before)
        load_corpus("file", path, cache, limit=2, workers=1, progress=False)
    assert len(list(cache.iterdir())) == 2  # store and parts
    (cache / ".corpus-file-parts.999999999@host.abc.tmp").mkdir()
    (cache / f".corpus-file-parts.999999999@{files.host_name()}.abc.tmp").mkdir()  # killed while it removed
    monkeypatch.setattr(files, "_cleaned", set())
    assert len(load_corpus("file", path, cache, limit=2, workers=1, progress=False)) == 2
    left = sorted(entry.name for entry in cache.iterdir())
    assert len(left) == 2 and left[0].endswith("@host.abc.tmp") and "parts" not in left[1]  # another host's stays


def test_parts_of_another_corpus_are_kept(tmp_path, monkeypatch):
    path, cache = tmp_path / "few.smi", tmp_path / "cache"
    path.write_text("CCO\nCCN\nCCC\n")
    load_corpus("file", path, cache, limit=2, workers=1, progress=False)

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(corpora, "_save", stopped)
        load_corpus("file", path, cache, workers=1, progress=False)
    load_corpus("file", path, cache, limit=2, workers=1, progress=False)
    assert len([entry for entry in cache.iterdir() if "parts" in entry.name]) == 1
    assert len(load_corpus("file", path, cache, workers=1, progress=False)) == 3
    assert not [entry for entry in cache.iterdir() if "parts" in entry.name]
