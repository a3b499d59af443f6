"""Processes that torchrun starts, for tests of what they do together."""

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Dict

import yaml

ROOT = Path(__file__).parents[1]
SECOND_OF_TWO = {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}  # what torchrun tells


def torchrun(*command: str, processes: int = 2) -> Any:
    """A script, or a module after "-m", in processes of their own."""
    # Not --standalone, which is always port 29400 in older torch: two tests at once would meet there.
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", uuid.uuid4().hex]
    launcher = [sys.executable, "-m", "torch.distributed.run", *meeting, "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([*launcher, *command], stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment)


def start(options: Dict[str, Any], tmp_path: Path, *flags: str, processes: int = 2) -> Any:
    """`torchrun -m ipu_chem train`."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(options))
    return torchrun("-m", "ipu_chem", "train", "--config", str(config), *flags, processes=processes)


def finished(process: Any) -> str:
    """What processes that must succeed have printed."""
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output
