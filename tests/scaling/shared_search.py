"""A search of small runs for tests: options of its command, processes of their own, and its results."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
# As `ipu-chem`, in which SIGINT is heard, which shells start processes in the background deaf to.
COMMAND_LINE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ipu_chem.cli import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
GRID = {"batching.micro_batch_size": [1, 2], "optimizer.learning_rate": [0.001, 1e30, 0.003]}  # a third diverges
SAME = ("rows", "evaluations", "kept", "steps", "chosen", "curves", "metric", "calibration")


def command_of(tmp_path, options, *more, grid=None):
    """Words of a search; its config, grid and script are written to a folder."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(options))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid or GRID))
    (tmp_path / "line.py").write_text(COMMAND_LINE)
    command = ["search", "--config", f"{tmp_path}/base.yaml", "--grid", f"{tmp_path}/grid.yaml", "--keep", "2"]
    return [*command, "--budget", "0.4", *more, "--out"]


def start(tmp_path, command, **more):
    """Start a command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, str(tmp_path / "line.py"), *command]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def until(condition, process=None, seconds=240):
    """Wait until something is so; the process must live until then."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise AssertionError(f"it did not happen: {process.stdout.read() if process else ''}")
        time.sleep(0.02)


def report(out):
    """What a search has found, without seconds."""
    found = json.loads((out / "search.json").read_text())
    return {name: found[name] for name in SAME}


def trained(out):
    """Optimizer steps in the record of every run, in order: each once where nothing was trained twice at a time."""
    found = {}
    for path in sorted(out.glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [row["step"] for row in rows if row["kind"] == "train"]
    return found
