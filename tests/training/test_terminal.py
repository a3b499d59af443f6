"""Training on a terminal: a bar, errors on the validation molecules while it runs, and no line printed over the bar."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pty, fcntl, termios = (pytest.importorskip(name, reason="no such terminals") for name in ("pty", "fcntl", "termios"))

# Prints and warns where a bar is shown, as callbacks, backends and libraries may.
PROGRAM = """
import sys, warnings, yaml
from pathlib import Path
from ipu_chem.config import from_dict
from ipu_chem.train import train
from ipu_chem.training.callbacks import Callback

class Talks(Callback):
    def on_step(self, step, total, losses):
        print("said at step", step)
        warnings.warn(f"warned at step {step}")
        return False

    def on_metrics(self, kind, step, epoch, values):
        sys.stderr.write(f"{kind} seen at step {step}\\n")

warnings.simplefilter("always")
train(from_dict(yaml.safe_load(Path(sys.argv[1]).read_text())), callbacks=[Talks()])
"""


def on_screen(text: str) -> "list[str]":
    """Lines as a terminal shows them in the end: a carriage return goes back to the first column."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            part = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", part)
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def run_on_terminal(*command: str) -> str:
    """What a program writes to a terminal of its own."""
    root = str(Path(__file__).parents[2])
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows, columns
    process = subprocess.Popen(
        command, stdout=slave, stderr=slave, stdin=slave, cwd=root, env={**os.environ, "PYTHONPATH": root}
    )
    os.close(slave)
    written = b""
    while True:
        try:
            some = os.read(master, 65536)
        except OSError:  # on Linux, the end
            break
        if not some:
            break
        written += some
    os.close(master)
    assert process.wait() == 0, written.decode()
    return written.decode()


def test_nothing_is_printed_over_the_bar_and_evaluations_are_seen(options, tmp_path):
    options["training"]["progress"] = True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    written = run_on_terminal(sys.executable, "-c", PROGRAM, str(tmp_path / "config.yaml"))
    assert re.search(r"\d+%\|.*call/s", written), "there is a bar"
    lines = on_screen(written)
    evaluated = [line for line in lines if line.startswith("epoch ")]
    assert len(evaluated) == 3
    for line in evaluated:
        assert re.fullmatch(r"epoch \d: step \d+, loss \S+, mae_\S+ \S+, rmse_\S+ \S+", line), line
    steps = int(re.search(r"step (\d+)", evaluated[-1]).group(1))
    for step in range(1, steps + 1):
        assert f"said at step {step}" in lines and f"train seen at step {step}" in lines
        assert sum(f"warned at step {step}" == line.split(": ")[-1] for line in lines) == 1
    assert any(re.fullmatch(r"first step after \S+ s, \S+ s of them its call", line) for line in lines)
    with_bar = [line for line in lines if "call/s" in line or "%|" in line]
    assert len(with_bar) == 1 and re.fullmatch(r"100%\|.*\]", with_bar[0]), with_bar
