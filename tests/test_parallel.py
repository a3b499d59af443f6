"""One pool of processes: order, progress, errors with their item, and workers that end with their parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ipu_chem.parallel import FailedItem, WorkerDied, in_parallel

ROOT = Path(__file__).resolve().parents[1]
# Writes the process of every item to a folder; the item 5 takes a minute.
CODE = """
import os, signal, sys, time
from pathlib import Path
from ipu_chem.parallel import in_parallel

def note(item):
    Path(sys.argv[1], str(os.getpid())).touch()
    time.sleep(60 if item == 5 and sys.argv[2] == "hang" else 0.02)
    return item

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for item in in_parallel(note, iter(range(500)), workers=3, chunk=1, title="noting"):
            pass
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C")
"""
# A script as people write it: nothing guards it, and a worker that imported it would start all over.
UNGUARDED = """
from ipu_chem.generation.molecules import canonical_smiles

print(len(canonical_smiles(["OCC"] * 300, workers=2)))
"""


def slow_to_begin(item):
    time.sleep(0.2 if item == 0 else 0)
    return item, os.getpid()


def parent_of_worker(_):
    return os.getppid()


def fails_at_seven(item):
    if item == 7:
        raise KeyError("seven")
    return item


def dies_at_seven(item):
    if item == 7:
        os._exit(9)
    return item


@pytest.mark.parametrize("chunk, count", [(1, 300), (7, 300), (64, 300), (64, 256)])
def test_results_are_in_the_order_of_the_items(chunk, count):
    found = list(in_parallel(slow_to_begin, range(count), workers=3, chunk=chunk))
    assert [item for item, _ in found] == list(range(count))
    assert os.getpid() not in {process for _, process in found}


def test_few_items_and_one_worker_stay_in_this_process():
    for options in ({"workers": 3}, {"workers": 1, "few": 0}):
        assert {process for _, process in in_parallel(slow_to_begin, range(10), **options)} == {os.getpid()}
    assert {process for _, process in in_parallel(slow_to_begin, range(10), workers=2, few=10)} != {os.getpid()}


def test_items_are_read_no_further_than_the_processes_need():
    read = []
    results = in_parallel(slow_to_begin, (read.append(i) or i for i in range(1000)), workers=2, chunk=2)
    assert next(results)[0] == 0 and len(read) <= 2 * 4 * 2 + 2
    results.close()
    results = in_parallel(slow_to_begin, (read.append(i) or i for i in range(1000)), workers=2, chunk=2, ahead=100)
    del read[:]
    assert next(results)[0] == 0 and 100 <= len(read) <= 102


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunk", [1, 5])
def test_an_error_is_raised_with_its_item_behind_the_results_before_it(workers, chunk):
    seen = []
    with pytest.raises(KeyError, match="seven") as raised:
        for item in in_parallel(fails_at_seven, range(20), workers, chunk=chunk, few=0):
            seen.append(item)
    assert isinstance(raised.value.__cause__, FailedItem)
    assert "item 7: 7" in str(raised.value.__cause__) and "fails_at_seven" in str(raised.value.__cause__)
    assert seen == list(range(7))
    assert not multiprocessing.active_children()  # although the traceback is still there


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(WorkerDied, match="a process has died, perhaps for want of memory; call again with fewer"):
        list(in_parallel(dies_at_seven, range(20), workers=2, chunk=1, few=0))


def test_a_script_that_nothing_guards_runs_once(tmp_path):
    (tmp_path / "mine.py").write_text(UNGUARDED)
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "300\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are started anew")
def test_workers_are_no_forks_of_a_process_with_threads():
    assert os.getpid() not in set(in_parallel(parent_of_worker, range(20), workers=2, few=0))


def test_progress(capsys):
    assert len(list(in_parallel(fails_at_seven, range(7), workers=1, title="counting"))) == 7
    assert "counting: 100%" in (shown := capsys.readouterr().err) and "7/7" in shown and "molecule/s" in shown
    list(in_parallel(fails_at_seven, range(7), workers=1))
    assert capsys.readouterr().err == ""


def started(folder, manner):
    """A process with three workers that have all begun, and their ids."""
    script = folder.parent / f"{folder.name}.py"
    script.write_text(CODE)
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    process = subprocess.Popen([sys.executable, script, str(folder), manner], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    return process, [int(path.name) for path in folder.iterdir()]


def gone(process_id):
    """No such process, or one that nobody has waited for."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="states of processes are read from /proc")
@pytest.mark.parametrize("manner", ["hang", "work"])
def test_workers_end_with_a_parent_that_is_killed(tmp_path, manner):
    process, workers = started(tmp_path, manner)
    assert not any(map(gone, workers))
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while not all(map(gone, workers)):
        assert time.monotonic() < deadline, "workers of a killed process live on"
        time.sleep(0.05)
    process.stderr.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="states of processes are read from /proc")
def test_ctrl_c_ends_everything_and_says_it_once(tmp_path):
    process, workers = started(tmp_path, "work")
    os.kill(process.pid, signal.SIGINT)
    for worker in workers:  # a terminal sends it to all
        os.kill(worker, signal.SIGINT)
    error = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 1 and error.count("stopped by Ctrl-C") == 1 and "Traceback" not in error
    assert all(map(gone, workers))
