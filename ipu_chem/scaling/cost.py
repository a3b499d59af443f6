"""Cost of a study before it trains: runs, sizes and FLOPs, and an estimate of the time from steps that are measured.

Packs have one shape in all runs of a study, so that a step costs the same whatever is in them: steps are measured on
random molecules, in seconds, and no data are read.
"""

import json
import math
import os
import time
from contextlib import closing
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional

from ipu_chem.config import RunConfig, from_dict
from ipu_chem.scaling.candidates import Candidate, read_progress
from ipu_chem.scaling.study import Amount, Plan

_FEWEST = 2  # calls that are measured
_MOST = 200


class SizeCost(NamedTuple):
    """Cost of all runs of one size.

    Attributes:
        name: options of the model that the grid varies.
        parameters: without embeddings.
        runs: that are left; a run that has begun counts as one.
        flops: of what is left, 6 N a symbol or atom.
        steps: optimizer steps of what is left.
        step: seconds of one; None where nothing was measured.
        seconds: of what is left, evaluations included, one run after the other.
        longest: of them, seconds of a run.
    """

    name: str
    parameters: int
    runs: int
    flops: float
    steps: int
    step: Optional[float]
    seconds: Optional[float]
    longest: float


class _Seconds(NamedTuple):
    """Seconds of a call that trains, and of one that evaluates."""

    train: float
    evaluate: float


def costs_of(plan: Plan, jobs: int, seconds: float) -> List[SizeCost]:
    """Cost of what a study has not trained yet, smallest model first.

    Args:
        plan: of the study.
        jobs: runs side by side, which divide the CPU cores.
        seconds: that steps of each size are measured for; 0 measures nothing.

    Raises:
        ValueError: the seconds make no sense, a model does not fit this machine, or a folder holds another run.
    """
    if not 0 <= seconds <= 600:
        raise ValueError(f"plan_seconds={seconds:g}: give seconds from 0, which measures nothing, to 600.")
    threads = 0 if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    sizes: Dict[str, List[Candidate]] = {}
    for one in plan.candidates:
        sizes.setdefault(json.dumps(one.config["model"], sort_keys=True), []).append(one)
    varied = _varied([group[0].config["model"] for group in sizes.values()])
    amounts = {one.train: one for one in plan.amounts}
    found = []
    for group in sizes.values():
        values = group[0].config
        config = from_dict({**values, "torch": {**values["torch"], "threads": values["torch"]["threads"] or threads}})
        parameters = count_weights(config)
        left = [(amounts[one.config["data"]["train"]], _left(one)) for one in group]
        left = [(amount, fraction) for amount, fraction in left if fraction > 0]
        measured = _measure(config, seconds) if seconds and left else None
        times = [fraction * _seconds_of(config, amount, plan.held_out, measured) for amount, fraction in left]
        found.append(
            SizeCost(
                name=", ".join(f"{name}={values['model'][name]}" for name in varied) or values["model"]["name"],
                parameters=parameters,
                runs=len(left),
                flops=sum(fraction * 6.0 * parameters * amount.tokens * amount.epochs for amount, fraction in left),
                steps=math.ceil(sum(fraction * amount.steps for amount, fraction in left)),
                step=measured.train / config.batching.device_iterations if measured else None,
                seconds=sum(times) if measured else None,
                longest=max(times, default=0.0),
            )
        )
    return sorted(found, key=lambda one: one.parameters)


def cost_lines(costs: List[SizeCost], jobs: int) -> List[str]:
    """Table to print."""
    width = max([4, *(len(one.name) for one in costs)])
    lines = [f"{'size':{width}} {'N':>15} {'runs':>5} {'steps':>10} {'FLOPs':>9} {'ms a step':>10} {'time':>9}"]
    for one in costs:
        step = "" if one.step is None else f"{1e3 * one.step:,.1f}"
        spent = "" if one.seconds is None else duration(one.seconds)
        lines.append(
            f"{one.name:{width}} {one.parameters:>15,} {one.runs:>5,} {one.steps:>10,} {one.flops:>9.2g} {step:>10} "
            f"{spent:>9}"
        )
    runs = sum(one.runs for one in costs)
    total = f"to train: {runs:,} runs, {sum(one.flops for one in costs):.3g} FLOPs (6 N a symbol or atom seen)"
    if runs and all(one.seconds is not None for one in costs if one.runs):
        wall = max(sum(one.seconds or 0.0 for one in costs) / jobs, *(one.longest for one in costs), 0.0)
        side = f"{jobs} runs side by side" if jobs > 1 else "one run after the other"
        total += f", about {duration(wall)}, {side}"
        lines.append(total)
        lines.append(
            "estimated from the fastest steps and evaluations on random molecules; data that are read, the ends of "
            "runs and other work on this machine come on top"
        )
    else:
        lines.append(total)
    return lines


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def count_weights(config: RunConfig) -> int:
    """N of a run."""
    from ipu_chem.tasks import early  # loads torch

    return early.count_weights(config, embeddings=False)


def _left(candidate: Candidate) -> float:
    """Fraction of a run that is to train."""
    reached = read_progress(candidate)
    if reached is None:
        return 1.0
    return 0.0 if reached.reaches(1.0) else 1.0 - reached.step / max(reached.total, 1)


def _varied(models: List[Mapping[str, Any]]) -> List[str]:
    """Options of the model that differ."""
    return [name for name in models[0] if len({json.dumps(one.get(name)) for one in models}) > 1]


def _seconds_of(config: RunConfig, amount: Amount, held_out: int, measured: Optional[_Seconds]) -> float:
    """Seconds of a run on an amount of data; 0 where nothing was measured."""
    if measured is None:
        return 0.0
    batching = config.batching
    calls = math.ceil(amount.steps_per_epoch / batching.device_iterations) * amount.epochs
    if amount.evaluate_calls:
        evaluations = math.ceil(calls / amount.evaluate_calls)
    else:
        evaluations = math.ceil(amount.epochs / amount.evaluate_every)
    packs = held_out * amount.steps_per_epoch * batching.packs_per_step / amount.molecules
    each = math.ceil(packs / batching.packs_per_evaluation)
    return calls * measured.train + evaluations * each * measured.evaluate


def _measure(config: RunConfig, seconds: float) -> _Seconds:
    """Seconds of the fastest call after the first, as if nothing else ran on the machine."""
    from ipu_chem.backends import get_backend
    from ipu_chem.tasks.registry import task_of

    task = task_of(config).planned(config)
    with closing(get_backend(config.accelerator, config.torch, config.ipu, config.precision)) as backend:
        batch = task.example(training=True)
        backend.compile(task.model(), task.loss(), config.optimizer, config.batching, batch)
        averaged = config.training.ema_decay > 0
        waits = backend.name != "cpu"  # of other devices the host's CPU seconds say nothing

        def train() -> None:
            backend.train_step(batch, config.optimizer.learning_rate)
            if averaged:
                backend.state_dict(weights_only=True)

        train()
        spent: List[float] = []
        begun = time.perf_counter()
        while len(spent) < _FEWEST or time.perf_counter() - begun < seconds and len(spent) < _MOST:
            spent.append(_timed(train, waits))
        held = task.example(training=False)
        backend.evaluate(held)
        evaluated = _timed(lambda: backend.evaluate(held), waits)
    return _Seconds(min(spent), evaluated)


def _timed(call: Callable[[], Any], waits: bool) -> float:
    """Seconds of a call; on a CPU those of the process where they are fewer, as when other work takes turns with it."""
    started, busy = time.perf_counter(), time.process_time()
    call()
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return seconds if waits else min(seconds, busy)
