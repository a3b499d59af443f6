"""The story of a run: a task is learned by a trainer on a backend.

Read in this order, from `ipu-chem train` on QM9 to the loss of SchNet:

    ipu_chem/commands/train.py            words of the command line -> RunConfig
    ipu_chem/train.py                     RunConfig -> task, backend, trainer, record
    ipu_chem/tasks/graphs.py              data, targets, model and loss of graphs in one place
    ipu_chem/data/datasets/qm9.py         raw files -> molecules
    packing/store.py                      molecules -> flat arrays on disk, memory-mapped
    ipu_chem/data/edges.py                pairs of atoms within the cutoff
    ipu_chem/tasks/labels.py              labels -> standardized targets, and metrics in their units
    packing/make_plan.py                  which molecules share a pack
    packing/epoch.py                      a fresh assignment of the same efficiency for every epoch
    packing/collate.py                    molecules -> arrays of fixed shape
    ipu_chem/batches/loader.py            packs of one call of the device program, weights that sum to 1 over a step
    ipu_chem/training/trainer.py          the loop: steps, evaluations, checkpoints
    ipu_chem/backends/pytorch/backend.py  one call: forward, backward, sum of gradients, update
    ipu_chem/models/schnet.py             batch -> predictions
    ipu_chem/losses.py                    predictions, targets, weights -> loss
"""

import time
from contextlib import ExitStack, closing
from pathlib import Path
from shlex import quote
from typing import Any, Dict, Mapping, Optional, Sequence

from torch import nn

import ipu_chem
from ipu_chem.backends import get_backend
from ipu_chem.backends.base import Backend
from ipu_chem.checkpoint import LAST, load_checkpoint
from ipu_chem.config import FIXED, RunConfig, from_dict, to_dict
from ipu_chem.locks import locked
from ipu_chem.optim import Schedule
from ipu_chem.options import differences
from ipu_chem.tasks.base import Task
from ipu_chem.tasks.early import check_run
from ipu_chem.tasks.graphs import GraphTask
from ipu_chem.tasks.latents import keep_domain
from ipu_chem.tasks.registry import task_of
from ipu_chem.tasks.seen import seen
from ipu_chem.trained_run import TrainedRun
from ipu_chem.training.callbacks import Callback
from ipu_chem.training.filter_guard import FilterGuard
from ipu_chem.training.logging import check_loggers
from ipu_chem.training.record import RunRecord
from ipu_chem.training.shared_plans import load_together
from ipu_chem.training.trainer import Trainer

_FEW = 2000  # molecules of a split, without kernels, at the end of a run


def train(config: RunConfig, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Dict[str, Any]:
    """Train a model, evaluate the best checkpoint and write a report.

    Args:
        config: of the run; everything is written to ``config.out``.
        resume: continue the run in that folder from its last checkpoint.
        callbacks: follow the run and may stop it; a resumed run goes on as if it had not stopped.

    Returns:
        `Trainer.fit`'s result with "results", the metrics of the evaluated splits.

    Raises:
        ValueError: the config or the data cannot work; nothing has been trained then.
    """
    started = time.monotonic()
    _check(config, resume)
    with ExitStack() as stack:
        backend = stack.enter_context(
            closing(get_backend(config.accelerator, config.torch, config.ipu, config.precision))
        )
        if backend.world.rank == 0:  # of several processes, the one that writes
            stack.enter_context(locked(config.out))
        _check_folder(config, resume)
        state = _resumed_state(config) if resume else {}
        task = load_together(config, backend.world, state)
        if resume:
            task.check_same(state)
        loss, loader, validation = task.loss(), task.loader("train"), task.evaluator("validation")
        loader.check_steps()
        example = loader.example(training=True)

        def compile_model(model: nn.Module) -> None:
            backend.compile(model, loss, config.optimizer, config.batching, example)

        guard = FilterGuard(task, backend, compile_model) if task.has_filters else Callback()
        model = task.model()
        compile_model(model)
        if backend.compiles_only:
            print("compiled; start the run without the option that only compiles, the programs are found again.")
            return {"finished": False, "stopped_by": 0, "step": 0, "epoch": 0, "metrics": {}}

        record = RunRecord(config, task, backend, model, guard.describe(), started)
        record.start(resume)
        steps = config.training.epochs * loader.steps_per_epoch
        schedule = Schedule(config.schedule, config.optimizer.learning_rate, steps)
        followers = [record, guard, *callbacks]
        how = (validation, schedule, record.folder, _kept(config, task), followers)
        trainer = Trainer(config.training, backend, loader, *how)
        if resume:
            trainer.resume()
        result = trainer.fit()
        if result["finished"]:
            backend.load_state_dict({"model": trainer.best_weights()})
            results = task.results(backend, record.folder)
            record.finish({**guard.describe(), **results, **_samples(config, task, backend)})
            _keep_domain(task, backend, record.folder)
            result["results"] = results["results"]
            result["report"] = _report(config, record.folder) if backend.world.rank == 0 else ""
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
    return TrainedRun.load(folder, accelerator).evaluate(split)


def _last(config: RunConfig) -> Path:
    return Path(config.out) / LAST


def _check(config: RunConfig, resumed: bool) -> None:
    """Refuse what cannot work before molecules are read and processes wait for each other."""
    check_loggers(config.training.loggers)
    check_run(config, resumed)
    if config.torch.fsdp and not task_of(config).may_be_sharded:
        raise ValueError(
            f"torch.fsdp=true is for language models that do not fit one device; {config.model.name} does, leave it "
            "out."
        )


def _check_folder(config: RunConfig, resume: bool) -> None:
    """Refuse to begin where a run is, and to go on where none is."""
    if _last(config).is_file() and not resume:
        raise ValueError(
            f"{config.out} holds a run already; continue it with `ipu-chem train --resume {quote(config.out)}` or "
            "choose another --out."
        )
    if resume and not _last(config).is_file():
        raise ValueError(
            f"{config.out} holds no checkpoint, as its run was stopped before the first one: start it again with "
            f"`ipu-chem train --config {quote(f'{config.out}/config.yaml')}`."
        )


def _resumed_state(config: RunConfig) -> Dict[str, Any]:
    """State of the last checkpoint, if a run with this config can go on from there."""
    _, state = load_checkpoint(_last(config))
    # Options that are newer than the run had their default then.
    before, now = to_dict(from_dict(state["config"])), to_dict(config)
    _check_resumable(before, now)
    for key, was, value in differences(before, now):
        if key != "out":
            print(f"goes on with {key}={value!r}, before it was {was!r}")
    return state


def _kept(config: RunConfig, task: Task) -> Dict[str, Any]:
    """State of every checkpoint besides the trainer's own: what it takes to make the model again."""
    return {
        "config": to_dict(config),
        **task.state(),
        "budget": task.budget.as_dict(),
        "fingerprint": task.fingerprint(),
        "split": task.split_fingerprint,
        **({"seen": seen(task.store, task.items["train"])} if "y" in task.store else {}),
        "version": ipu_chem.__version__,
    }


def _keep_domain(task: Task, backend: Backend, folder: Path) -> None:
    """Keep how far molecules are from those trained on, measured on so few that it takes seconds."""
    if isinstance(task, GraphTask) and "validation" in task.plans and backend.world.rank == 0:
        keep_domain(task, folder, most=_FEW)


def _samples(config: RunConfig, task: Task, backend: Backend) -> Dict[str, Any]:
    """Entries of run.json about molecules that a trained language model writes."""
    if not task.writes_molecules:
        return {}
    from ipu_chem.generation.samples import write_samples

    count, workers = config.training.samples, config.data.workers or None
    return write_samples(task, backend, Path(config.out), count, workers, published=config.data.name == "moses")


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


def _check_resumable(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume a run with another model, other data or another optimizer.

    Raises:
        ValueError: names the first option that differs and both values.
    """
    changed = [change for change in differences(saved, now) if change[0].split(".")[0] in FIXED]
    changed = [change for change in changed if change[0] not in ("data.cache", "data.workers", "pack.time_limit")]
    if changed:
        key, before, after = changed[0]
        raise ValueError(
            f"the checkpoint was made with {key}={before!r}, this run asks for {after!r}; resume with the saved "
            f"value or start a new run with another --out."
        )
