"""The record of a run: metrics.csv and metrics.jsonl always, TensorBoard and Weights & Biases on request."""

import csv
import io
import json
import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

from ipu_chem.training.callbacks import Callback
from packing.files import PathLike, atomic_file, disk_full_named

METRICS = "metrics.jsonl"
LOGGERS = ("tensorboard", "wandb")


class MetricsLog(Callback):
    """Appends rows to metrics.csv and metrics.jsonl; every row has a "step" and a "kind"."""

    def __init__(
        self, folder: PathLike, columns: Sequence[str], resume_step: int = 0, extra: Sequence[str] = ()
    ) -> None:
        """Open the record.

        Args:
            folder: of the run.
            columns: of the CSV besides kind, step and epoch; rows may leave some empty.
            resume_step: rows after this optimizer step belong to a run that was cut off later than its
                last checkpoint: they are dropped, because they will be written again. 0 starts afresh.
            extra: "tensorboard" and/or "wandb".

        Raises:
            ValueError: an extra logger is unknown or not installed; says how to get it.
        """
        self.folder = Path(folder)
        self.columns = ["kind", "step", "epoch", *columns]
        kept = [row for row in read_rows(self.folder) if 0 < row["step"] <= resume_step]
        with atomic_file(self.folder / METRICS, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
        with atomic_file(self.folder / "metrics.csv", "w") as file:
            file.write(self._csv_lines([dict(zip(self.columns, self.columns)), *kept]))
        self._writers = [_open_writer(name, self.folder) for name in extra]

    def on_metrics(self, kind: str, step: int, epoch: int, values: Dict[str, float]) -> None:
        """Append one row, on disk when this returns."""
        row: Dict[str, Any] = {"kind": kind, "step": step, "epoch": epoch}
        row.update({name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()})
        for name, line in ((METRICS, json.dumps(row) + "\n"), ("metrics.csv", self._csv_lines([row]))):
            path = self.folder / name
            with disk_full_named(path), open(path, "a", encoding="utf-8") as file:
                file.write(line)
        for writer in self._writers:
            writer(kind, step, values)

    def _csv_lines(self, rows: Sequence[Dict[str, Any]]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self.columns, extrasaction="ignore", lineterminator="\n").writerows(rows)
        return buffer.getvalue()


def read_rows(folder: PathLike) -> List[Dict[str, Any]]:
    """Rows of a run's metrics.jsonl; lines that are cut off or damaged are left out."""
    path = Path(folder) / METRICS
    rows: List[Dict[str, Any]] = []
    damaged: List[int] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("kind"), str):
            rows.append(row)
        else:
            damaged.append(number)
    if damaged and damaged != [len(lines)]:
        print(f"warning: {path}, line {damaged[0]}: {len(damaged)} damaged line(s) left out", file=sys.stderr)
    return rows


def check_loggers(names: Sequence[str]) -> None:
    """Refuse unknown or missing loggers before any work is done.

    Raises:
        ValueError: names the logger and the command that installs it.
    """
    import importlib.util

    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"unknown logger {name!r}; choose from {', '.join(LOGGERS)}.")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"the logger {name} is not installed: pip install 'ipu-chem[log]'.")


def _open_writer(name: str, folder: Path) -> Any:
    """A function (kind, step, values) that passes a row on."""
    check_loggers([name])
    if name == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard"))

        def to_board(kind: str, step: int, values: Dict[str, float]) -> None:
            for key, value in values.items():
                board.add_scalar(f"{kind}/{key}", value, step)
            board.flush()

        return to_board
    import wandb

    run = wandb.init(project="ipu-chem", dir=str(folder), name=folder.name, resume="allow")

    def to_wandb(kind: str, step: int, values: Dict[str, float]) -> None:
        run.log({f"{kind}/{key}": value for key, value in values.items()}, step=step)

    return to_wandb
