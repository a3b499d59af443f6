"""What the replicas of several processes do together: the sum of their gradients.

IPUs do it by themselves over their links. Here processes meet in the folder named by POPTORCH_DOUBLE_MEETING,
which only the double knows: in every round each leaves a file and reads those of the others.
"""

import os
import time
from pathlib import Path
from typing import Any, Dict, List

import torch
from torch import Tensor

MEETING = "POPTORCH_DOUBLE_MEETING"
TIMEOUT = 120.0  # seconds
_rounds: Dict[str, int] = {}


def gather(replicas: List[Dict[str, Tensor]], options: Any) -> List[Dict[str, Tensor]]:
    """The gradients of every replica of all processes, in the order of replicas.

    Args:
        replicas: those of this process; the same names and shapes everywhere.
        options: say which process of how many this is.

    Raises:
        NotImplementedError: there is no folder to meet in.
        RuntimeError: another process did not come.
    """
    rank, size = options.Distributed.processId, options.Distributed.numProcesses
    if size == 1:
        return replicas
    place = os.environ.get(MEETING)
    if not place:
        raise NotImplementedError(f"process {rank} of {size} meets no other: set {MEETING} to an empty folder")
    number = _rounds[place] = _rounds.get(place, 0) + 1
    _leave(Path(place), number, rank, replicas)
    return [replica for other in range(size) for replica in _read(_file(Path(place), number, other))]


def _file(place: Path, number: int, rank: int) -> Path:
    return place / f"{number}-{rank}.pt"


def _leave(place: Path, number: int, rank: int, replicas: List[Dict[str, Tensor]]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    old = _file(place, number - 2, rank)  # whoever came to the round after it has read it
    if old.exists():
        old.unlink()
    unfinished = place / f"{rank}.tmp"
    torch.save(replicas, unfinished)
    os.replace(unfinished, _file(place, number, rank))


def _read(file: Path) -> List[Dict[str, Tensor]]:
    end = time.monotonic() + TIMEOUT
    while not file.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"{file.name} did not come: another process has stopped or runs another program")
        time.sleep(0.001)
    return torch.load(file)
