"""The training loop: the same for every device, resumable to the bit, stopped by a signal without loss."""

import math
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ipu_chem.backends.base import Backend
from ipu_chem.batches.loader import Loader
from ipu_chem.batches.prefetch import prefetched
from ipu_chem.checkpoint import BEST, LAST, load_checkpoint, random_state, restore_random_state, save_checkpoint
from ipu_chem.config import TrainingConfig
from ipu_chem.optim import Schedule
from ipu_chem.tasks.evaluation import Evaluator
from ipu_chem.training.callbacks import Callback
from ipu_chem.training.logging import MetricsLog
from ipu_chem.training.signals import StopSignals

_ENOUGH = 1  # what a callback that stops says to the other processes; less than any signal that is noted


@dataclass
class Progress:
    """Progress of a run; everything but the weights that a resumed run needs.

    Attributes:
        epoch, call: where the next call of the device program belongs.
        step: optimizer steps done.
        molecules: molecules seen.
        losses: sum of the losses of this epoch's steps.
        best: lowest selection metric so far.
        waited: evaluations since then.
    """

    epoch: int = 0
    call: int = 0
    step: int = 0
    molecules: int = 0
    losses: float = 0.0
    best: float = math.inf
    waited: int = 0
    best_metrics: Dict[str, float] = field(default_factory=dict)


class Trainer:
    """Runs a compiled backend over a training loader."""

    def __init__(
        self,
        config: TrainingConfig,
        backend: Backend,
        train: Loader,
        validation: Optional[Evaluator],
        schedule: Schedule,
        folder: Path,
        run_state: Dict[str, Any],
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Get ready to `fit`.

        Args:
            config: epochs, cadences, seed.
            backend: compiled with the loader's batching.
            train: training batches.
            validation: None to train without evaluations.
            schedule: of the learning rate.
            folder: of the run; checkpoints/ and the metrics files are written there.
            run_state: stored in every checkpoint so that the model can be rebuilt: config, standardizer...
            callbacks: follow the run, in this order.
        """
        self.config = config
        self.backend = backend
        self.train = train
        self.validation = validation
        self.schedule = schedule
        self.folder = folder
        self.run_state = run_state
        self.callbacks = list(callbacks)
        self._called = False
        self.progress = Progress()
        self.averages: Optional[Dict[str, Tensor]] = None
        if config.ema_decay > 0:
            self.averages = backend.state_dict(weights_only=True)["model"]
        self._resumed = False
        self._stopped_by = 0  # the signal, or _ENOUGH, that all processes have agreed on
        self._writes = backend.world.rank == 0  # of several processes, one writes the files
        self._best_weights: Optional[Dict[str, Tensor]] = None  # what the others remember instead

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """Weights with the lowest validation error; the last ones when there is no validation."""
        return self.folder / BEST

    def resume(self) -> None:
        """Continue from the last checkpoint of the run's folder.

        Raises:
            FileNotFoundError, ValueError: see `load_checkpoint`.
        """
        tensors, state = load_checkpoint(self.last)
        self.backend.load_state_dict({name: tensors[name] for name in ("model", "optimizer") if name in tensors})
        self.progress = Progress(**state["progress"])
        self.schedule.load_state_dict(state["schedule"])
        if self.averages is not None:
            self.averages = dict(tensors["ema"])
        restore_random_state(tensors["random"])
        self._resumed = True

    def best_weights(self) -> Dict[str, Tensor]:
        """Weights of the best evaluation, in every process."""
        if self._best_weights is not None:
            return self._best_weights
        return load_checkpoint(self.best)[0]["model"]

    def fit(self) -> Dict[str, Any]:
        """Train to the end, to early stopping, to a signal or to where a callback stops.

        Returns:
            {"finished": bool, "stopped_by": signal number or 0, "step", "epoch", "metrics": best ones}.

        Raises:
            FloatingPointError: the loss became infinite or NaN; names the step and the remedy.
            OSError: a checkpoint could not be written.
        """
        columns = ["loss", "learning_rate", "molecules_per_s", "seconds"]
        if self.validation is not None:
            columns += self.validation.metric_names
        first = self.progress.step if self._resumed else 0
        if self._writes:
            self.callbacks.append(MetricsLog(self.folder, columns, first, self.config.loggers))
        state = self.progress
        finished = True
        total = self.config.epochs * self.train.calls_per_epoch
        done = state.epoch * self.train.calls_per_epoch + state.call
        launched = self.backend.world.size > 1
        if self._resumed:
            steps = self.config.epochs * self.train.steps_per_epoch
            enough = any([callback.on_resume(state.step, steps) for callback in self.callbacks])
            self._stopped_by = self.backend.agreed(_ENOUGH if enough and not self._patience_lost() else 0)
            finished = not self._stopped_by
        hidden = None if self.config.progress and self._writes else True  # None leaves it to tqdm: a bar on terminals
        with StopSignals(echo=1.0 if launched else 0.0) as stop, tqdm(
            total=total, initial=done, unit="call", disable=hidden, smoothing=0.05
        ) as bar, printed_above(bar):
            while finished and state.epoch < self.config.epochs and not self._patience_lost():
                self._train_epoch(bar, stop)
                if state.call < self.train.calls_per_epoch:  # left early
                    finished = not self._stopped_by
                    self.save()
                    break
                mean_loss = state.losses / self.train.steps_per_epoch
                state.epoch, state.call, state.losses = state.epoch + 1, 0, 0.0
                for callback in self.callbacks:
                    callback.before_evaluation()
                if self._epoch_is_evaluated():
                    self._evaluate(mean_loss)
                self.save()
                if self._stopped_by and state.epoch < self.config.epochs:  # a run that is over has finished
                    finished = False
                    break
        if finished and self._best_weights is None and not (self.best.is_file() and (self._writes or self._resumed)):
            self._save_best()
        return {
            "finished": finished,
            "stopped_by": stop.received if self._stopped_by in (0, _ENOUGH) else self._stopped_by,
            "step": state.step,
            "epoch": state.epoch,
            "metrics": dict(state.best_metrics),
        }

    def _train_epoch(self, bar: Any, stop: StopSignals) -> None:
        """The calls of one epoch that are still to do; leaves early when it is to stop or patience is lost."""
        state = self.progress
        iterations = self.train.batching.device_iterations
        window = _Window()
        calls = self.train.epoch(self.config.seed, state.epoch, state.call)
        for batch, molecules in prefetched(calls, self.config.prefetch):
            rate = self.schedule.learning_rate(state.step)
            started = time.monotonic()
            losses = self.backend.train_step(batch, rate).tolist()
            if not self._called:
                self._called, seconds = True, time.monotonic() - started
                for callback in self.callbacks:
                    callback.on_first_call(seconds)
            state.call += 1
            state.step += iterations
            state.molecules += molecules
            state.losses += sum(losses)
            total = self.config.epochs * self.train.steps_per_epoch
            enough = any([callback.on_step(state.step, total, losses) for callback in self.callbacks])
            if not all(math.isfinite(loss) for loss in losses):
                raise FloatingPointError(
                    f"the loss became {losses[-1]} at step {state.step}; lower optimizer.learning_rate, set "
                    f"optimizer.max_grad_norm, or look for broken labels. The last checkpoint is kept."
                )
            self._average()
            window.add(losses, molecules)
            bar.update(1)
            if state.call % self.config.log_every == 0 or state.call == self.train.calls_per_epoch:
                values = {"loss": window.loss, "learning_rate": rate, "molecules_per_s": window.rate}
                self._report("train", values)
                shown = {"epoch": state.epoch, "loss": f"{window.loss:.3g}", "mol/s": f"{window.rate:.0f}"}
                bar.set_postfix(shown, filled=f"{next(iter(self.train.plan.efficiency.values())):.1%}")
                window = _Window()
            # Before a stop, since the resumed run begins after this call.
            if self._call_is_evaluated():
                for callback in self.callbacks:
                    callback.before_evaluation()
                self._evaluate(state.losses / (state.call * iterations))
                if self._patience_lost():
                    return
            # A signal reaches processes at different steps; together they stop at the same one.
            self._stopped_by = self.backend.agreed(stop.received or (_ENOUGH if enough else 0))
            if self._stopped_by:
                return
            every = self.config.checkpoint_every
            if every and state.call % every == 0 and state.call < self.train.calls_per_epoch:
                self.save()

    def _evaluate(self, mean_loss: float) -> None:
        """Validate with the averaged weights if there are any; keep them when they are the best so far."""
        assert self.validation is not None
        started = time.monotonic()
        raw = None
        if self.averages is not None:
            raw = self.backend.state_dict(weights_only=True)
            self.backend.load_state_dict({"model": self.averages})
        metrics, selection = self.validation.metrics(self.backend)
        state = self.progress
        state.waited += 1
        if selection < state.best:
            state.best, state.waited, state.best_metrics = selection, 0, metrics
            self._save_best()
        if raw is not None:
            self.backend.load_state_dict(raw)
        self.schedule.evaluated(selection)
        values = {"loss": mean_loss, "seconds": time.monotonic() - started, **metrics}
        self._report("validation", values)
        if self._writes and self.config.progress:  # a line for each evaluation, above the bar of a terminal
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"epoch {state.epoch}: step {state.step}, loss {mean_loss:.4g}, {shown}", flush=True)

    def _report(self, kind: str, values: Dict[str, float]) -> None:
        for callback in self.callbacks:
            callback.on_metrics(kind, self.progress.step, self.progress.epoch, values)

    def save(self) -> None:
        """Write the checkpoint to resume from; every process fetches its weights, which keeps them in step."""
        tensors: Dict[str, Dict[str, Any]] = {**self.backend.state_dict(), "random": random_state()}
        if self.averages is not None:
            tensors["ema"] = self.averages
        if self._writes:
            save_checkpoint(self.last, tensors, self._state())

    def _save_best(self) -> None:
        weights = self.backend.state_dict(weights_only=True)
        if self._writes:
            save_checkpoint(self.best, weights, self._state())
        else:
            self._best_weights = weights["model"]

    def _state(self) -> Dict[str, Any]:
        progress = dict(vars(self.progress))
        kept = {name: value for callback in self.callbacks for name, value in callback.state().items()}
        return {**self.run_state, **kept, "progress": progress, "schedule": self.schedule.state_dict()}

    def _average(self) -> None:
        """Move the averaged weights towards the current ones, once per call of the device program."""
        if self.averages is None:
            return
        # Young averages follow faster, so that the random start is forgotten (as TensorFlow's num_updates).
        decay = min(self.config.ema_decay, (1 + self.progress.step) / (10 + self.progress.step))
        decay **= self.train.batching.device_iterations
        for name, value in self.backend.state_dict(weights_only=True)["model"].items():
            if value.is_floating_point():
                self.averages[name] = torch.lerp(value, self.averages[name], decay)
            else:
                self.averages[name] = value

    def _epoch_is_evaluated(self) -> bool:
        """At its end, where the run's last calls are whatever the cadence."""
        epoch, config = self.progress.epoch, self.config
        if self.validation is None or epoch == config.epochs:
            return self.validation is not None
        if config.evaluate_calls:
            return epoch * self.train.calls_per_epoch % config.evaluate_calls == 0
        return epoch % config.evaluate_every == 0

    def _call_is_evaluated(self) -> bool:
        """Inside an epoch."""
        state, every = self.progress, self.config.evaluate_calls
        if self.validation is None or not every or state.call == self.train.calls_per_epoch:
            return False
        return (state.epoch * self.train.calls_per_epoch + state.call) % every == 0

    def _patience_lost(self) -> bool:
        patience = self.config.early_stopping
        return patience > 0 and self.progress.waited >= patience


class _Above:
    """A stream whose lines appear above a progress bar; other bars go through as they are."""

    def __init__(self, stream: Any, bar: Any) -> None:
        self._stream = stream
        self._bar = bar
        self._rest = ""

    def write(self, text: str) -> None:
        if text.startswith("\r"):
            self._stream.write(text)
            return
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            with self._bar.external_write_mode(file=self._bar.fp):
                self._stream.write(lines + newline)
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def printed_above(bar: Any) -> Iterator[None]:
    """Let whatever is printed, and warned of, appear above a progress bar where one is shown."""
    if bar.disable:
        yield
        return
    with redirect_stdout(_Above(sys.stdout, bar)), redirect_stderr(_Above(sys.stderr, bar)):
        yield


class _Window:
    """Mean loss and speed since the last line of the log."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.losses: List[float] = []
        self.molecules = 0

    def add(self, losses: Sequence[float], molecules: int) -> None:
        self.losses += losses
        self.molecules += molecules

    @property
    def loss(self) -> float:
        return sum(self.losses) / max(len(self.losses), 1)

    @property
    def rate(self) -> float:
        return self.molecules / max(time.monotonic() - self.started, 1e-9)
