"""A run that torchrun starts in two processes is the run in one: the same curve, stopped, resumed and killed as one."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from torchrun_helpers import SECOND_OF_TWO, finished, start

from ipu_chem.backends import get_backend
from ipu_chem.backends.options import TorchOptions
from ipu_chem.backends.pytorch.backend import TorchBackend
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.cli import main
from ipu_chem.train import train
from ipu_chem.training.logging import read_rows
from ipu_chem.training.signals import StopSignals


@pytest.fixture
def options(options):
    """Two replicas, in one process or in two."""
    options["batching"] = {"micro_batch_size": 1, "gradient_accumulation": 2, "replication_factor": 2}
    options["optimizer"] = {"name": "sgd", "learning_rate": 0.001, "max_grad_norm": 1.0}  # clipped after the sum
    options["training"]["checkpoint_every"] = 1
    return options


@pytest.fixture
def as_second_of_two(monkeypatch):
    """What torchrun tells the second of two processes."""
    for name, value in SECOND_OF_TWO.items():
        monkeypatch.setenv(name, value)


def curve(folder):
    """Losses and validation errors of all rows, in order."""
    rows = read_rows(folder)
    names = ("step", "loss", "mae_mmff94_energy_kcal_per_mol")
    return np.array([[row.get(name, 0.0) for name in names] for row in rows])


def step_reached(folder):
    path = Path(folder) / "checkpoints" / "last.safetensors"
    return load_checkpoint(path)[1]["progress"]["step"] if path.is_file() else 0


def wait_for_step(folder, step, process):
    deadline = time.monotonic() + 120
    while step_reached(folder) < step:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.01)


def workers(process):
    """Process ids of the processes that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def test_two_processes_train_as_one_stopped_and_resumed_by_one_and_by_two(options, make_config, tmp_path):
    options["schedule"] = {"name": "constant"}  # no matter how many epochs are still to come
    options["pack"] = {**options.get("pack", {}), "algorithm": "best_fit"}  # nor here
    options["training"]["epochs"] = 100000
    process = start(options, tmp_path)
    wait_for_step(options["out"], 8, process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    stopped = step_reached(options["out"])
    assert output.count(f"stopped after step {stopped}; continue with") == 1, output
    assert "gets no answer" not in output  # they stopped at the same step
    assert output.count("first step after") == 1  # one process speaks

    two = Path(options["out"])
    options["training"]["epochs"] = int(read_rows(two)[-1]["epoch"]) + 2
    train(make_config(options), resume=True)
    options["training"]["epochs"] += 2
    output = finished(start(options, tmp_path, "--resume", options["out"]))
    assert output.count("validation: mae") == 1
    one = tmp_path / "one"
    options["out"] = str(one)
    train(make_config(options))
    assert curve(one)[-1, 0] > stopped
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-6, atol=1e-6)
    tables = [
        np.genfromtxt(run / "predictions_test.csv", delimiter=",", skip_header=1, usecols=(2, 3)) for run in (one, two)
    ]
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-6, atol=1e-5)
    assert json.loads((two / "run.json").read_text())["environment"]["processes"] == 2


def test_the_end_of_one_process_ends_the_other_with_a_sentence(options, tmp_path):
    options["training"]["epochs"] = 100000
    process = start(options, tmp_path)
    wait_for_step(options["out"], 5, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode
    assert "ipu-chem: process 0 of 2 gets no answer from the others: one of them has ended" in output, output
    assert "ipu-chem: process 1" not in output


def test_a_launcher_that_ends_a_failed_process_does_not_cut_its_sentence():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(ConnectionError), StopSignals(echo=1.0) as stop:
            raise ConnectionError
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        with pytest.raises(ConnectionError), StopSignals():
            raise ConnectionError
        assert signal.getsignal(signal.SIGTERM) == stop._note  # alone, what was before comes back
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_killed_torchrun_ends_its_processes_with_a_checkpoint(options, tmp_path):
    options["training"].update(epochs=2000, checkpoint_every=0)
    process = start(options, tmp_path)
    rows, deadline = Path(options["out"]) / "metrics.jsonl", time.monotonic() + 120
    while not (rows.is_file() and rows.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    started = workers(process)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{one}").exists() for one in started):
        assert time.monotonic() < deadline + 60, "processes of a killed torchrun live on"
        time.sleep(0.05)
    assert step_reached(options["out"]) > 0


def test_replicas_that_cannot_be_shared_out_are_refused(options, make_config, as_second_of_two):
    options["batching"]["replication_factor"] = 3
    with pytest.raises(ValueError, match="batching.replication_factor=3 counts the replicas of all 2 processes; use a"):
        train(make_config(options))


def test_a_process_does_not_wait_forever(as_second_of_two, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))  # nobody listens there
    with pytest.raises(ConnectionError, match=r"process 1 of 2 gets no answer .* within 1 s \(torch.timeout\)"):
        TorchBackend("cpu", TorchOptions(timeout=1.0))


def test_what_torchrun_cannot_start_is_said(tmp_path, as_second_of_two, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # as if PopTorch were there
    with pytest.raises(ValueError, match="start this run with poprun"):
        get_backend("ipu")
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "run evaluate without it" in capsys.readouterr().err
