"""The record of a run in its folder: config.yaml, run.json and plans, written when it starts and when it ends."""

import platform
import sys
import time
from pathlib import Path
from typing import Any, Dict, Mapping

import numpy as np
import torch
from torch import nn

import ipu_chem
from ipu_chem.backends.base import Backend
from ipu_chem.config import RunConfig, to_dict
from ipu_chem.data.splits import describe
from ipu_chem.json_file import read_json, write_json
from ipu_chem.models.registry import parameters_without_embeddings
from ipu_chem.tasks.base import Task
from ipu_chem.tasks.splits import as_split
from ipu_chem.training.callbacks import Callback
from packing.files import atomic_file, remove_leftovers


class RunRecord(Callback):
    """Writes down what a run is and what came of it; of several processes the first one does.

    Attributes:
        values: of run.json.
    """

    def __init__(
        self, config: RunConfig, task: Task, backend: Backend, model: nn.Module, more: Mapping[str, Any], started: float
    ) -> None:
        """Describe a run.

        Args:
            config: of the run.
            task: of the run, loaded.
            backend: runs it.
            model: that the backend runs.
            more: other entries of run.json.
            started: `time.monotonic` of the start.
        """
        self.folder = Path(config.out)
        self.values = {**describe_run(config, task, backend, model), **more}
        self._config = config
        self._task = task
        self._started = started
        self._writes = backend.world.rank == 0
        self._resumes = False
        self._before: Dict[str, float] = {}  # seconds of earlier starts

    def start(self, resume: bool) -> None:
        """Write the run's folder, unless it is there to be resumed, and print the facts worth reading at the start."""
        self._resumes = resume
        if not self._writes:
            return
        if resume:
            remove_leftovers(self.folder)
            self._before = _seconds_of(self.folder / "run.json")
            self.values.update({"seconds": self._before} if self._before else {})
        else:
            import yaml

            with atomic_file(self.folder / "config.yaml", "w") as file:
                yaml.safe_dump(to_dict(self._config), file, sort_keys=False)
            for name, plan in self._task.plans.items():
                plan.save(self.folder / "plans" / f"{name}.npz")
            self._write()
        values = self.values
        print(f"data: {values['data']['split']}")
        print(f"packs: {self._task.plans['train'].summary()}")
        for line in self._task.describe()["announced"]:
            print(line)
        if "filters" in values:
            print(f"filters: {values['filters']}")
        model = f"{values['title']}, {values['parameters']:,} parameters"
        print(f"model: {model}, on {values['environment']['accelerator']}", flush=True)

    def on_first_call(self, seconds: float) -> None:
        whole = time.monotonic() - self._started
        now = {"to first step": whole, "first call": seconds}
        self.values["seconds"] = {name: value + self._before.get(name, 0.0) for name, value in now.items()}
        if self._writes:
            compiles = " and compilation" if self._config.torch.compile else ""
            print(f"first step after {whole:.1f} s, {seconds:.1f} s of them its call{compiles}", flush=True)
            if not self._resumes:  # until it ends, a resumed run keeps what it said at its start
                self._write()

    def finish(self, values: Mapping[str, Any]) -> None:
        """Add what came of the run."""
        self.values.update(values)
        if self._writes:
            self._write()

    def _write(self) -> None:
        write_json(self.folder / "run.json", self.values)


def _seconds_of(path: Path) -> Dict[str, float]:
    """Seconds that a run has noted so far, to which those of this start are added."""
    try:
        return dict(read_json(path, "it is written again, without the seconds before this start").get("seconds", {}))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        print(f"warning: {error}", file=sys.stderr)
        return {}


def describe_run(config: RunConfig, task: Task, backend: Backend, model: nn.Module) -> Dict[str, Any]:
    """Entries of run.json before any result: data, split, packs, model size, versions."""
    info = task.store.info
    described = task.describe()
    return {
        "title": f"{config.model.name} on {info.get('name', config.data.name)}",
        **{name: value for name, value in described.items() if name not in ("positions", "announced")},
        "splits": {name: len(items) for name, items in task.items.items() if len(items)},
        "data": {
            "name": info.get("name", config.data.name),
            "level": info.get("level", ""),
            "source": info.get("source", ""),
            "licence": info.get("licence", ""),
            "citation": "; ".join(info.get("citation", [])),
            "molecules": len(task.store),
            "left out": info.get("failures", {}).get("count", 0),
            "split": describe(as_split(task.items), task.split_fingerprint),
            "fingerprint": task.fingerprint(),
        },
        "packs": {
            "budget": task.budget.as_dict(),
            "plans": {name: plan.fingerprint for name, plan in task.plans.items()},
            "efficiency": task.plans["train"].efficiency,
            **{name: described[name] for name in ("positions",) if name in described},
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parameters without embeddings": parameters_without_embeddings(model),
        "environment": {
            "ipu-chem": ipu_chem.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "accelerator": backend.name,
            "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} torch threads",
            "processes": backend.world.size,
            "dtype": config.precision.weights,
        },
    }
