"""Train and evaluate: what the commands of the same names do, callable from Python.

On data's way: RunConfig -> run folder with config.yaml, run.json, plans/, checkpoints/, metrics, report.
"""

import json
import platform
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import numpy as np
import torch

import ipu_chem
from ipu_chem.backends.base import Backend
from ipu_chem.backends.options import World, world_of_torchrun
from ipu_chem.checkpoint import load_checkpoint
from ipu_chem.config import RunConfig, check_resumable, from_dict, to_dict
from ipu_chem.data import splits
from ipu_chem.models.registry import parameters_without_embeddings, reads_text
from ipu_chem.optim import Schedule
from ipu_chem.tasks.base import RunData
from ipu_chem.tasks.registry import load_data, make_backend
from ipu_chem.training.filter_guard import FilterGuard, with_filters_of
from ipu_chem.training.logging import check_loggers
from ipu_chem.training.shared_plans import plans_are_complete, wait_for_plans, write_plans
from ipu_chem.training.trainer import Trainer, Watch
from packing.files import atomic_file, remove_leftovers


def train(config: RunConfig, resume: bool = False, watch: Optional[Watch] = None) -> Dict[str, Any]:
    """Train a model, evaluate the best checkpoint and write a report.

    Args:
        config: of the run; everything is written to ``config.out``.
        resume: continue the run in that folder from its last checkpoint.
        watch: sees every call's losses and may stop the run, which a resumed one continues as if it had not stopped.

    Returns:
        `Trainer.fit`'s result with "results", the metrics of the evaluated splits.

    Raises:
        ValueError: the config or the data cannot work; nothing has been trained then.
    """
    folder = Path(config.out)
    last = folder / "checkpoints" / "last.safetensors"
    if last.is_file() and not resume:
        raise ValueError(
            f"{folder} holds a run already; continue it with `ipu-chem train --resume {folder}` "
            f"or choose another --out."
        )
    check_loggers(config.training.loggers)
    if config.torch.fsdp and not reads_text(config.model.name):
        raise ValueError(
            f"torch.fsdp=true is for language models that do not fit one device; {config.model.name} does, leave it "
            "out."
        )
    config.batching.for_one_of(world_of_torchrun())  # refused before the processes wait for each other
    started = time.monotonic()
    with closing(make_backend(config)) as backend:
        return _train(config, resume, backend, started, watch)


def _train(config: RunConfig, resume: bool, backend: Backend, started: float, watch: Optional[Watch]) -> Dict[str, Any]:
    """`train` on a backend that the caller closes; ``started`` is the time of the start."""
    folder = Path(config.out)
    last = folder / "checkpoints" / "last.safetensors"
    state: Dict[str, Any] = {}
    if resume:
        _, state = load_checkpoint(last)
        # Options that are newer than the run had their default then.
        check_resumable(to_dict(from_dict(state["config"])), to_dict(config))
    data = load_together(config, backend.world, resume, state)
    if resume:
        data.check_same(state)
    loss = data.loss(config)
    train_loader = data.loader("train", config)
    train_loader.check_steps()
    example = train_loader.example(training=True)

    def compile_for(model: torch.nn.Module) -> None:
        backend.compile(model, loss, config.optimizer, config.batching, example)

    guard = FilterGuard(_without_start(config) if resume else config, state, data.model)
    model = guard.model()
    compile_for(model)
    if backend.compiles_only:
        print("compiled; start the run without the option that only compiles, the programs are found again.")
        return {"finished": False, "stopped_by": 0, "step": 0, "epoch": 0, "metrics": {}}

    run = describe_run(config, data, backend, model)
    run.update(guard.description())
    if backend.world.rank == 0:
        if resume:
            remove_leftovers(folder)
        else:
            _start_folder(folder, config, data, run)
        _announce(config, data, run)
    total_steps = config.training.epochs * train_loader.steps_per_epoch
    schedule = Schedule(config.schedule, config.optimizer.learning_rate, total_steps)
    run_state = {
        "config": to_dict(config),
        **data.state(),
        "budget": data.budget.as_dict(),
        "fingerprint": data.store.fingerprint(),
        "version": ipu_chem.__version__,
        **guard.state(),
    }
    validation = data.evaluator("validation", config)

    def first_call(seconds: float) -> None:
        run["seconds"] = {"to first step": time.monotonic() - started, "first call": seconds}
        if backend.world.rank == 0:
            print(
                f"first step after {run['seconds']['to first step']:.1f} s, "
                f"{seconds:.1f} s of them its call{' and compilation' if config.torch.compile else ''}",
                flush=True,
            )
            if not resume:  # until it ends, a resumed run keeps what it said at its start
                _write_json(folder / "run.json", run)

    def after_epoch() -> None:
        guard.after_epoch(backend, compile_for)
        run_state.update(guard.state())

    trainer = Trainer(
        config.training, backend, train_loader, validation, schedule, folder, run_state, first_call, after_epoch
    )
    if watch is not None:
        trainer.watch = watch
    if resume:
        trainer.resume()
    result = trainer.fit()
    if result["finished"]:
        run.update(guard.description())
        backend.load_state_dict({"model": trainer.best_weights()})
        run.update(data.results(config, backend, folder))
        if backend.world.rank == 0:
            _write_json(folder / "run.json", run)
        result["results"] = run["results"]
        result["report"] = _report(config, folder) if backend.world.rank == 0 else ""
    return result


def evaluate(folder: Path, split: str = "test", accelerator: Optional[str] = None) -> Dict[str, float]:
    """Measure the best checkpoint of a run on one of its splits.

    Args:
        folder: of the run.
        split: train, validation or test.
        accelerator: another device than the run was trained on.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the split is unknown or empty.
    """
    tensors, state = load_checkpoint(Path(folder) / "checkpoints" / "best.safetensors")
    values = dict(state["config"])
    if accelerator is not None:
        values["accelerator"] = accelerator
    config = with_filters_of(state, from_dict(values))
    with closing(make_backend(config)) as backend:
        data = load_data(config, Path(folder) / "plans", state)
        data.check_same(state)
        data.world = backend.world
        evaluator = data.evaluator(split, config) if split in data.items else None
        if evaluator is None:
            raise ValueError(f"the run has no molecules in a split {split!r}; it has {', '.join(data.plans)}.")
        model = data.model(_without_start(config))
        backend.compile(model, data.loss(config), None, config.batching, evaluator.loader.example(training=False))
        backend.load_state_dict({"model": tensors["model"]})
        metrics, _ = evaluator.metrics(backend)
    return metrics


def _without_start(config: RunConfig) -> RunConfig:
    """For models whose weights come from a checkpoint: what they once started from need not be there any more."""
    return replace(config, training=replace(config.training, start_from=""))


def describe_run(config: RunConfig, data: RunData, backend: Backend, model: torch.nn.Module) -> Dict[str, Any]:
    """What run.json says before any result: data, split, packs, model size, versions."""
    info = data.store.info
    described = data.describe(config)
    split = splits.Split(*(data.items[name] for name in ("train", "validation", "test")))
    return {
        "title": f"{config.model.name} on {info.get('name', config.data.name)}",
        **{name: value for name, value in described.items() if name not in ("positions", "announced")},
        "splits": {name: len(items) for name, items in data.items.items() if len(items)},
        "data": {
            "name": info.get("name", config.data.name),
            "level": info.get("level", ""),
            "source": info.get("source", ""),
            "licence": info.get("licence", ""),
            "citation": "; ".join(info.get("citation", [])),
            "molecules": len(data.store),
            "left out": info.get("failures", {}).get("count", 0),
            "split": splits.describe(split),
            "fingerprint": data.store.fingerprint(),
        },
        "packs": {
            "budget": data.budget.as_dict(),
            "plans": {name: plan.fingerprint for name, plan in data.plans.items()},
            "efficiency": data.plans["train"].efficiency,
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


def load_together(config: RunConfig, world: World, resume: bool, state: Mapping[str, Any]) -> RunData:
    """`load_data` with the same plans in every process of a run."""
    folder = Path(config.out) / "plans"
    if world.size == 1 or resume:
        data = load_data(config, folder if resume else None, state)
    elif world.rank > 0:
        data = load_data(config, wait_for_plans(folder, config), state)
    else:
        data = load_data(config, folder if plans_are_complete(folder, config) else None, state)
        write_plans(folder, data.plans, config)
    data.world = world
    return data


def _start_folder(folder: Path, config: RunConfig, data: RunData, run: Mapping[str, Any]) -> None:
    """Write down what the run is before it begins."""
    import yaml

    with atomic_file(folder / "config.yaml", "w") as file:
        yaml.safe_dump(to_dict(config), file, sort_keys=False)
    for name, plan in data.plans.items():
        plan.save(folder / "plans" / f"{name}.npz")
    _write_json(folder / "run.json", run)


def _announce(config: RunConfig, data: RunData, run: Mapping[str, Any]) -> None:
    """The facts worth reading before the wait."""
    print(f"data: {run['data']['split']}")
    print(f"packs: {data.plans['train'].summary()}")
    for line in data.describe(config)["announced"]:
        print(line)
    if "filters" in run:
        print(f"filters: {run['filters']}")
    print(
        f"model: {run['title']}, {run['parameters']:,} parameters, on {run['environment']['accelerator']}", flush=True
    )


def _report(config: RunConfig, folder: Path) -> str:
    """Path of the report, or an empty string and a hint when it cannot be drawn."""
    if not config.training.report:
        return ""
    from ipu_chem.reports.report import write_report

    try:
        path = write_report(folder)
    except ValueError as error:
        print(error)
        return ""
    print(f"report: {path}")
    return str(path)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    with atomic_file(path, "w") as file:
        json.dump(values, file, indent=1)
